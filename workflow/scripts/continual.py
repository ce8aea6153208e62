"""Elastic weight consolidation on five tasks with every estimator: one replicate."""

import torch
import xarray as xr
from _job import job

from diagfim import arrays
from diagfim.experiments.continual import continual, images_of
from diagfim.seeding import integer

with job(snakemake) as this:
    torch.set_num_threads(snakemake.threads)
    settings = snakemake.params.settings
    names = settings["datasets"]
    results = []
    for name, path in zip(names, snakemake.input.images, strict=True):
        with arrays.read(path) as tree:
            train, test = (
                images_of(tree[half]["images"].values, tree[half]["labels"].values)
                for half in ("train", "test")
            )
        seed = integer(settings["seed"], "continual", snakemake.wildcards.replicate, name)
        results.append(
            continual(
                train, test, settings, seed, lambda runs: this.progress(runs, "run", len(runs))
            )
        )
    groups = {
        group: xr.concat([one[group] for one in results], dim="dataset").assign_coords(
            dataset=names
        )
        for group in results[0]
    }
    title = "Elastic weight consolidation by method and strength of the penalty"
    arrays.write(snakemake.output[0], groups, title, settings, this.about)
