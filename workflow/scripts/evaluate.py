"""Loss and accuracy of a user's own network at every stage that there are weights of."""

import numpy as np
import torch
import xarray as xr
from _job import job
from _network import open_network

from diagfim import arrays, training

AT_ONCE = 500
"""Inputs evaluated together."""

with job(snakemake) as this:
    torch.set_num_threads(snakemake.threads)
    network = open_network(snakemake)
    every = range(network.size)
    labels = network.labels(every)
    found = []
    stages = snakemake.input.checkpoints
    for path in this.progress(stages, "stage", len(stages)):
        network.load(path)
        outputs = torch.cat(list(network.outputs_of(every, AT_ONCE)))
        found.append((np.nan, np.nan) if labels is None else training.evaluate(outputs, labels))
    loss, accuracy = zip(*found, strict=True)
    history = xr.Dataset(
        {"loss": (("set", "epoch"), [loss]), "accuracy": ("epoch", list(accuracy))},
        coords={"set": ["test"], "epoch": np.arange(len(found))},
    )
    arrays.write(
        snakemake.output[0],
        {"/": history},
        "Loss and accuracy by stage of training, NaN where there are no labels",
        snakemake.params.settings,
        this.about,
    )
