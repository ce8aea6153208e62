"""Error against measured seconds of every estimator, and the draws that a precision takes."""

import torch
from _job import job
from _network import open_network

from diagfim import arrays
from diagfim.errors import UserError
from diagfim.experiments import frontier
from diagfim.seeding import integer

with job(snakemake) as this:
    # With one thread the numbers do not depend on the cores, and the clock least on the machine.
    torch.set_num_threads(1)
    settings = snakemake.params.settings
    network = open_network(snakemake, torch.float32)
    network.load(snakemake.input.checkpoints[0])
    pool = network.first("experiments.frontier.pool", settings["pool"])
    labels = network.labels(pool)
    if labels is None:
        raise UserError(
            f"config: experiments.frontier.enabled is True, and it looks at labels, but "
            f"{network.path} has none; add them or switch it to false"
        )
    seed = integer(settings["seed"], "frontier", snakemake.wildcards.replicate)
    inputs = network.take(pool)
    groups = frontier.experiment(network.model, inputs, labels.long(), settings, seed)
    title = "Errors, seconds and plans of the estimators of the Fisher diagonal"
    arrays.write(snakemake.output[0], groups, title, settings, this.about)
