"""The exact moments over the whole test set through training, and the bounds input by input."""

import torch
import xarray as xr
from _job import job

from diagfim import arrays, networks, training
from diagfim.experiments import population

with job(snakemake) as this:
    torch.set_num_threads(snakemake.threads)
    settings = snakemake.params.settings
    network = settings["network"]
    with arrays.read(snakemake.input.inputs) as tree:
        images = torch.from_numpy(tree["test/images"].values[: settings["inputs"]])
    inputs = training.images_to_inputs(images, torch.float32)
    model = networks.mlp(inputs.shape[1], network["hidden"], 10, network["activation"], 0)

    checkpoints = snakemake.input.checkpoints
    found = [
        population.over_inputs(networks.load(model, path), inputs)
        for path in this.progress(checkpoints, "epoch", len(checkpoints))
    ]
    groups = {
        "moments": xr.concat(found, dim="epoch").assign_coords(epoch=settings["epochs"]),
        # The last of the epochs; each input at once, in 64 bits.
        "tightness": population.tightness(
            model.double(), inputs[: settings["tightness_inputs"]].double()
        ),
    }
    arrays.write(
        snakemake.output[0],
        groups,
        "Exact moments over the test set through training, and Theorem 4.1 at each input",
        settings,
        this.about,
    )
