"""Repeat both estimators with joint draws of (x, y), x from the test set, y from the network."""

import torch
import xarray as xr
from _job import job
from _network import open_network

from diagfim import arrays, repetitions
from diagfim.families import Categorical
from diagfim.seeding import stream

with job(snakemake) as this:
    torch.set_num_threads(snakemake.threads)
    settings = snakemake.params.settings
    network = open_network(snakemake)
    pool = network.first("joint.pool", settings["pool"])
    recorded = settings["recorded_draws"]

    results = []
    checkpoints = dict(zip(settings["epochs"], snakemake.input.checkpoints, strict=True))
    for epoch, checkpoint in this.progress(checkpoints.items(), "epoch", len(checkpoints)):
        network.load(checkpoint)
        batches = network.derivatives_of(pool, settings["batch_size"])
        estimator = repetitions.JointEstimator(batches, len(pool), Categorical())
        by_draws = {}
        for draws in settings["draws"]:
            key = ("joint draws", *snakemake.wildcards, epoch, draws)
            samples = (
                repetitions.JointDraws.sample(
                    len(pool), draws, stream(settings["seed"], *key, repetition)
                )
                for repetition in range(settings["repetitions"])
            )
            by_draws[draws] = estimator.repetitions(samples)
        results.append(repetitions.summarise(by_draws, recorded))
        del estimator  # gigabytes, before the next epoch's are built

    parameters, layers = (arrays.stack(one) for one in zip(*results, strict=True))
    groups = arrays.parameter_groups(parameters, ("epoch", "estimator"))
    groups["layers"] = arrays.layer_group(layers, ("epoch", "estimator", "draws"))
    groups["/"] = xr.Dataset(
        coords={
            "epoch": settings["epochs"],
            "estimator": list(repetitions.ESTIMATORS),
            "draws": settings["draws"],
        }
    )
    arrays.write(
        snakemake.output[0],
        groups,
        "Mean and variance over repetitions of both estimators over the test set; per parameter at "
        f"{recorded} draws",
        settings,
        this.about,
    )
