"""First and second derivatives of the outputs at the fixed inputs, at every epoch."""

import numpy as np
import torch
import xarray as xr
from _job import commit, job

from diagfim import arrays, networks, training
from diagfim.derivatives import dense, storage
from diagfim.seeding import stream

with job(snakemake) as this:
    torch.set_num_threads(snakemake.threads)
    settings = snakemake.params.settings
    network = settings["network"]

    with arrays.read(snakemake.input.images) as tree:
        images = tree["test/images"]
        rng = stream(settings["seed"], "fixed inputs", *snakemake.wildcards)
        chosen = np.sort(rng.choice(images.sizes["sample"], settings["inputs"], replace=False))
        labels = tree["test/labels"].values[chosen]
        inputs = training.images_to_inputs(torch.from_numpy(images.values[chosen]), torch.float64)

    model = networks.mlp(inputs.shape[1], network["hidden"], 10, network["activation"], 0).double()
    checkpoints = snakemake.input.checkpoints
    found = [
        dense.derivatives(networks.load(model, path), inputs)
        for path in this.progress(checkpoints, "epoch", len(checkpoints))
    ]
    groups = storage.to_groups([storage.to_numpy(one) for one in found])
    groups["/"] = groups["/"].assign_coords(
        epoch=np.arange(len(checkpoints)),
        input=xr.Variable("input", chosen, {"long_name": "position in the test set"}),
        label=xr.Variable("input", labels, {"long_name": "class of the input"}),
    )
    arrays.write(
        snakemake.output[0],
        groups,
        "First and second derivatives of the outputs, as factors of each layer",
        settings,
        commit(),
    )
