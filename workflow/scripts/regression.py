"""A network with Gaussian outputs, where Theorem 4.1 holds with equality (Proposition 5.1)."""

import torch
from _job import job

from diagfim import arrays
from diagfim.experiments import regression

with job(snakemake) as this:
    torch.set_num_threads(snakemake.threads)
    settings = snakemake.params.settings
    with arrays.read(snakemake.input.images[0]) as tree:
        images = {
            half: tree[half]["images"].values[: settings[size]]
            for half, size in (("train", "samples"), ("test", "pool"))
        }
    groups = regression.replicate(settings, images, int(snakemake.wildcards.replicate))
    last = groups["training"].isel(epoch=-1)
    this.say(
        f"angle to {float(last['angle_error']):.1f} degrees, "
        f"fitted noise {float(last['noise_deviation']):.3f}"
    )
    arrays.write(
        snakemake.output[0],
        groups,
        "Both estimators in a regression network of Gaussian outputs",
        settings,
        this.about,
    )
