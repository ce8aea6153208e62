"""The bias of the empirical Fisher and of Adam's accumulator, beside the noise of Î1 and Î2."""

import torch
import xarray as xr
from _job import job
from safetensors.torch import load_file

from diagfim import arrays, networks, training
from diagfim.experiments import empirical
from diagfim.seeding import integer

with job(snakemake) as this:
    torch.set_num_threads(snakemake.threads)
    settings = snakemake.params.settings
    network = settings["network"]
    sets = {}
    with arrays.read(snakemake.input.inputs) as tree:
        for half in ("train", "test"):
            images = torch.from_numpy(tree[half]["images"].values[: settings["inputs"]])
            labels = torch.from_numpy(tree[half]["labels"].values[: settings["inputs"]]).long()
            sets[half] = training.images_to_inputs(images, torch.float32), labels
    features = sets["train"][0].shape[1]
    model = networks.mlp(features, network["hidden"], 10, network["activation"], 0)
    root = integer(settings["seed"], "empirical", snakemake.wildcards.replicate)
    accumulators = iter(snakemake.input.accumulators)
    epochs = settings["epochs"]
    found = []
    pairs = zip(epochs, snakemake.input.checkpoints, strict=True)
    for epoch, checkpoint in this.progress(pairs, "epoch", len(epochs)):
        networks.load(model, checkpoint)
        accumulator = load_file(next(accumulators)) if epoch else {}
        batch = settings["training"]["batch_size"]
        each = [
            empirical.compare(model, *one, accumulator, batch, integer(root, half, epoch))
            for half, one in sets.items()
        ]
        found.append(xr.concat(each, "set").assign_coords(set=list(sets)))
    groups = {"comparison": xr.concat(found, "epoch").assign_coords(epoch=epochs)}
    title = "The empirical Fisher and Adam's accumulator beside the Fisher information"
    arrays.write(snakemake.output[0], groups, title, settings, this.about)
