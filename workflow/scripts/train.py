"""Train one replicate of a network: a checkpoint per epoch, and losses and accuracies."""

import torch
import xarray as xr
from _job import job

from diagfim import arrays, networks, training
from diagfim.errors import UserError
from diagfim.seeding import integer

with job(snakemake) as this:
    torch.set_num_threads(snakemake.threads)
    settings = snakemake.params.settings
    network, options = settings["network"], dict(settings["training"])
    seed = integer(settings["seed"], "train", *snakemake.wildcards)
    device = options.pop("device")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"config: training.device is cuda, but PyTorch {torch.__version__} finds no CUDA "
            "device on this machine; set it to cpu, or run where there is one"
        )

    with arrays.read(snakemake.input.images) as tree:
        halves = []
        for half, samples in (("train", options.pop("samples")), ("test", None)):
            images = torch.from_numpy(tree[half]["images"].values[:samples])
            labels = torch.from_numpy(tree[half]["labels"].values[:samples]).long()
            inputs = training.images_to_inputs(images, torch.float32)
            halves.append((inputs.to(device), labels.to(device)))

    torch.manual_seed(seed)
    model = networks.mlp(
        features=halves[0][0].shape[1],
        hidden=network["hidden"],
        classes=10,
        activation=network["activation"],
        dropout=network["dropout"],
    ).to(device)
    epochs = []
    run = training.train(model, *halves, seed=seed, **options)
    for path, epoch in this.progress(
        zip(snakemake.output.checkpoints, run, strict=True),
        "epoch",
        len(snakemake.output.checkpoints),
    ):
        networks.save(model, path, this.about)
        if epoch.accumulator and snakemake.output.accumulators:
            target = snakemake.output.accumulators[epoch.number - 1]
            networks.save_tensors(epoch.accumulator, target, this.about)
        epochs.append(epoch)
    this.say(f"test accuracy {epochs[-1].test_accuracy:.2%}")

    history = xr.Dataset(
        {
            "loss": (
                ("set", "epoch"),
                [[e.train_loss for e in epochs], [e.test_loss for e in epochs]],
            ),
            "accuracy": ("epoch", [e.test_accuracy for e in epochs]),
        },
        coords={"set": ["train", "test"], "epoch": [e.number for e in epochs]},
    )
    arrays.write(
        snakemake.output.history, {"/": history}, "Loss and accuracy by epoch", settings, this.about
    )
