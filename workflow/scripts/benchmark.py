"""Time the package, the peers that are installed and the training, in one job."""

import torch
import xarray as xr
from _job import job

from diagfim import arrays, benchmark, networks, training
from diagfim.seeding import integer

with job(snakemake) as this:
    torch.set_num_threads(snakemake.threads)
    settings = snakemake.params.settings
    network, options = settings["network"], dict(settings["training"])
    samples = options.pop("samples")
    del options["epochs"], options["device"]
    options["seed"] = integer(settings["seed"], "benchmark")

    with arrays.read(snakemake.input.images) as tree:
        images, labels = {}, {}
        for half in ("train", "test"):
            images[half] = torch.from_numpy(tree[half]["images"].values)
            labels[half] = torch.from_numpy(tree[half]["labels"].values).long()
    inputs = training.images_to_inputs(images["train"], torch.float32)
    train_set = inputs[:samples], labels["train"][:samples]

    def mlp(hidden):
        return networks.mlp(inputs.shape[1], hidden, 10, network["activation"], network["dropout"])

    torch.manual_seed(options["seed"])
    model = networks.load(mlp(network["hidden"]), snakemake.input.checkpoint[0])
    models = [model]
    if len(network["hidden"]) > 1:  # without per-sample Jacobians, or with fewer
        models.insert(0, mlp(network["hidden"][:-1]))
        benchmark.trainer(models[0], train_set, **options)()

    this.say("a batch")
    batch = slice(settings["batch"])
    groups = benchmark.compare(models, inputs[batch], labels["train"][batch], settings["rounds"])
    groups["products"] = benchmark.products(
        model, groups["tasks"], len(inputs[batch]), benchmark.matrix_rate()
    )
    this.say("the whole set")
    groups["whole"] = benchmark.whole_set(
        model,
        inputs[: settings["whole_set"]],
        benchmark.trainer(mlp(network["hidden"]), train_set, **options),
    ).assign(samples=len(train_set[0]))
    this.say("convolutional networks")
    sizes = {"train": settings["training_images"], "test": settings["test_images"]}
    halves = [
        (
            training.images_to_inputs(images[half][:size], torch.float32).reshape(
                -1, 1, *images[half].shape[1:]
            ),
            labels[half][:size],
        )
        for half, size in sizes.items()
    ]
    torch.manual_seed(options["seed"])  # anew: how often it was drawn from hangs on the clock
    groups["convolutional"] = benchmark.convolutional(
        {"LeNet": networks.lenet("tanh"), "ResNet": networks.small_resnet()}, *halves, **options
    )
    groups["/"] = xr.Dataset(attrs={"batch": len(inputs[batch]), **benchmark.machine()})
    arrays.write(
        snakemake.output[0],
        groups,
        "Durations and memory of exact moments, estimates, other libraries and training",
        settings,
        this.about,
    )
