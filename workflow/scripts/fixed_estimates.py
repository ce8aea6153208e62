"""Repeat both estimators at the fixed inputs for every N, labels drawn from the network."""

import xarray as xr
from _job import job

from diagfim import arrays, repetitions
from diagfim.derivatives import storage
from diagfim.families import Categorical
from diagfim.seeding import stream

with job(snakemake) as this:
    settings = snakemake.params.settings
    with arrays.read(snakemake.input[0]) as tree:
        epochs = storage.from_tree(tree)
        root = tree.to_dataset().coords.to_dataset().load()

    family = Categorical()
    by_epoch = []
    for epoch, all_inputs in this.progress(enumerate(epochs), "epoch", len(epochs)):
        by_input = []
        for position, one in zip(root["input"].values, all_inputs.split(), strict=True):
            directions = family.directions(one.outputs)
            outcomes = [
                family.outcomes(one.outputs, layer.first, layer.second)
                for layer in one.pull(directions, directions)
            ]
            probabilities = outcomes[0].probabilities[0]
            by_draws = {}
            for draws in settings["draws"]:
                key = ("fixed draws", *snakemake.wildcards, epoch, int(position), draws)
                counts = repetitions.label_counts(
                    probabilities, draws, settings["repetitions"], stream(settings["seed"], *key)
                )
                by_draws[draws] = repetitions.at_fixed_input(one.layers, outcomes, counts)
            by_input.append(repetitions.summarise(by_draws, settings["recorded_draws"]))
        by_epoch.append([arrays.stack(one) for one in zip(*by_input, strict=True)])
    parameters, layers = (arrays.stack(one) for one in zip(*by_epoch, strict=True))

    leading = ("epoch", "input", "estimator")
    groups = arrays.parameter_groups(parameters, leading)
    groups["layers"] = arrays.layer_group(layers, (*leading, "draws"))
    groups["/"] = root.assign_coords(
        estimator=list(repetitions.ESTIMATORS), draws=xr.Variable("draws", settings["draws"])
    )
    arrays.write(
        snakemake.output[0],
        groups,
        "Mean and variance over repetitions of both estimators at fixed inputs; per parameter at "
        f"{settings['recorded_draws']} draws",
        settings,
        this.about,
    )
