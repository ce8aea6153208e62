"""Error against measured seconds of every estimator, and the draws that a precision takes."""

import torch
from _job import commit, job

from diagfim import arrays, networks, training
from diagfim.experiments import frontier
from diagfim.seeding import integer

with job(snakemake) as this:
    # With one thread the numbers do not depend on the cores, and the clock least on the machine.
    torch.set_num_threads(1)
    settings = snakemake.params.settings
    network = settings["network"]
    with arrays.read(snakemake.input.images[0]) as tree:
        images = torch.from_numpy(tree["test/images"].values[: settings["pool"]])
        labels = torch.from_numpy(tree["test/labels"].values[: settings["pool"]]).long()
    inputs = training.images_to_inputs(images, torch.float32)
    model = networks.mlp(inputs.shape[1], network["hidden"], 10, network["activation"], 0)
    networks.load(model, snakemake.input.checkpoints[0])
    seed = integer(settings["seed"], "frontier", snakemake.wildcards.replicate)
    groups = frontier.experiment(model, inputs, labels, settings, seed)
    title = "Errors, seconds and plans of the estimators of the Fisher diagonal"
    arrays.write(snakemake.output[0], groups, title, settings, commit())
