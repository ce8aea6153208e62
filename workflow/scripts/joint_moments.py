"""Exact means over the test set of I, V1, V2 and C12, and the variance of I over it."""

import torch
import xarray as xr
from _job import job
from _network import open_network

from diagfim import arrays
from diagfim.families import Categorical
from diagfim.moments import Population

with job(snakemake) as this:
    torch.set_num_threads(snakemake.threads)
    settings = snakemake.params.settings
    network = open_network(snakemake)
    pool = network.first("joint.pool", settings["pool"])
    checkpoints = snakemake.input.checkpoints
    results = []
    for checkpoint in this.progress(checkpoints, "epoch", len(checkpoints)):
        population = Population(Categorical(), tails=True)
        network.load(checkpoint)
        for batch in network.derivatives_of(pool, settings["batch_size"]):
            population.update(batch)
        results.append(population.result())

    parameters, layers = (arrays.stack(one) for one in zip(*results, strict=True))
    groups = arrays.parameter_groups(parameters, ("epoch",))
    groups["layers"] = arrays.layer_group(layers, ("epoch",))
    groups["/"] = xr.Dataset(coords={"epoch": settings["epochs"]})
    arrays.write(
        snakemake.output[0],
        groups,
        "Exact Fisher information and variances over the test set, per draw of y",
        settings,
        this.about,
    )
