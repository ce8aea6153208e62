"""Exact I, V1, V2 and their covariance for every parameter, at the fixed inputs."""

from _job import job

from diagfim import arrays
from diagfim.derivatives import storage
from diagfim.families import Categorical
from diagfim.moments import conditional

with job(snakemake) as this:
    with arrays.read(snakemake.input[0]) as tree:
        epochs = storage.from_tree(tree)
        coords = tree.to_dataset().coords.to_dataset().load()

    results = [
        conditional(one, Categorical()) for one in this.progress(epochs, "epoch", len(epochs))
    ]
    parameters, layers = (arrays.stack(one) for one in zip(*results, strict=True))
    leading = ("epoch", "input")
    groups = arrays.parameter_groups(parameters, leading)
    groups["layers"] = arrays.layer_group(layers, leading)
    groups["/"] = coords
    arrays.write(
        snakemake.output[0],
        groups,
        "Exact Fisher information and estimator variances given an input, per draw of y",
        snakemake.params.settings,
        this.about,
    )
