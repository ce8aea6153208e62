"""Train and analyse every configuration of the landscape, for one replicate."""

from pathlib import Path

import torch
from _job import job

from diagfim import arrays
from diagfim.experiments import landscape
from diagfim.training import images_to_inputs


def images(path):
    with arrays.read(path) as tree:
        halves = (
            (
                images_to_inputs(torch.from_numpy(half["images"].values), torch.float32),
                torch.from_numpy(half["labels"].values).long(),
            )
            for half in (tree["train"], tree["test"])
        )
        return landscape.Images(*halves)


with job(snakemake) as this:
    torch.set_num_threads(snakemake.threads)
    settings = snakemake.params.settings
    replicate = int(snakemake.wildcards.replicate)
    data = {Path(path).stem: images(path) for path in snakemake.input.images}
    found = landscape.landscape(settings, data, replicate)
    number = len(landscape.configurations(settings))
    groups = landscape.flatten(this.progress(found, "configuration", number), settings["base"])
    groups["kinks"] = landscape.kinks(settings, data[settings["datasets"][0]], replicate)
    arrays.write(
        snakemake.output[0],
        groups,
        "Variances of the estimators by layer: activations, depths, widths and stages of training",
        settings,
        this.about,
    )
