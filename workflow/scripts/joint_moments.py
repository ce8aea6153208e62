"""Exact means over the test set of I, V1, V2 and C12, and the variance of I over it."""

import torch
import xarray as xr
from _job import commit, job
from _pool import Pool

from diagfim import arrays
from diagfim.families import Categorical
from diagfim.moments import Population

with job(snakemake) as this:
    torch.set_num_threads(snakemake.threads)
    settings = snakemake.params.settings
    pool = Pool(
        snakemake.input.images, settings["network"], settings["pool"], settings["batch_size"]
    )
    checkpoints = snakemake.input.checkpoints
    results = []
    for checkpoint in this.progress(checkpoints, "epoch", len(checkpoints)):
        population = Population(Categorical(), tails=True)
        for batch in pool.batches(checkpoint):
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
        commit(),
    )
