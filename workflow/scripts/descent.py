"""Diagonal natural-gradient descent on images with every estimator: one replicate."""

import torch
from _job import job

from diagfim import arrays
from diagfim.experiments import descent
from diagfim.seeding import integer

with job(snakemake) as this:
    torch.set_num_threads(snakemake.threads)
    settings = snakemake.params.settings
    seed = integer(settings["seed"], "descent", snakemake.wildcards.replicate)
    with arrays.read(snakemake.input.images[0]) as tree:
        sets = descent.split_sets(
            tree, *(settings[key] for key in ("samples", "validation", "test"))
        )
    groups = descent.run(sets, settings, seed, lambda runs: this.progress(runs, "run", len(runs)))
    arrays.write(
        snakemake.output[0], groups, "Natural-gradient descent by estimator", settings, this.about
    )
