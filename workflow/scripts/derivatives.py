"""First and second derivatives of the outputs at the fixed inputs, at every epoch."""

import numpy as np
import torch
import xarray as xr
from _job import job
from _network import open_network

from diagfim import arrays
from diagfim.derivatives import storage
from diagfim.seeding import stream

with job(snakemake) as this:
    torch.set_num_threads(snakemake.threads)
    settings = snakemake.params.settings
    network = open_network(snakemake)
    number = len(network.first("fixed.inputs", settings["inputs"]))
    rng = stream(settings["seed"], "fixed inputs", *snakemake.wildcards)
    chosen = np.sort(rng.choice(network.size, number, replace=False))
    inputs, labels = network.take(chosen), network.labels(chosen)

    checkpoints = snakemake.input.checkpoints
    found = []
    for path in this.progress(checkpoints, "epoch", len(checkpoints)):
        network.load(path)
        found.append(network.derivatives(inputs))
    groups = storage.to_groups(found)
    groups["/"] = groups["/"].assign_coords(
        epoch=np.arange(len(checkpoints)),
        input=xr.Variable("input", chosen, {"long_name": "position among the inputs"}),
    )
    if labels is not None:
        groups["/"] = groups["/"].assign_coords(
            label=xr.Variable("input", labels.numpy(), {"long_name": "class of the input"})
        )
    arrays.write(
        snakemake.output[0],
        groups,
        "First and second derivatives of the outputs, as factors of each layer",
        settings,
        this.about,
    )
