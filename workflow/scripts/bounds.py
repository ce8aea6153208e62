"""Derivative norms and eigenvalues that make Theorem 4.1's bounds, at the fixed inputs."""

import numpy as np
from _job import commit, job

from diagfim import arrays, bounds
from diagfim.derivatives import storage
from diagfim.families import Categorical

with job(snakemake) as this:
    with arrays.read(snakemake.input[0]) as tree:
        epochs = storage.from_tree(tree)
        root = tree.to_dataset().coords.to_dataset().load()

    parameters, layers = (
        arrays.stack(one)
        for one in zip(*(bounds.squared_norms(epoch) for epoch in epochs), strict=True)
    )
    leading = ("epoch", "input")
    probabilities = np.stack([Categorical().probabilities(one.outputs) for one in epochs])
    root["probabilities"] = (*leading, "label_value"), probabilities
    for name, function in (
        ("fisher_lambda_max", bounds.fisher_lambda_max),
        ("tensor_lambda_max", bounds.tensor_lambda_max),
    ):
        values = [function(one) for one in this.progress(probabilities, name, len(epochs))]
        root[name] = leading, np.stack(values)
    fisher_bound, tensor_bound = zip(*map(bounds.theorem_5_2, probabilities), strict=True)
    root["fisher_lambda_bound"] = leading, np.stack(fisher_bound)
    root["tensor_lambda_bound"] = leading, np.stack(tensor_bound)

    groups = arrays.parameter_groups(parameters, leading)
    groups["layers"] = arrays.layer_group(layers, leading)
    groups["/"] = root
    arrays.write(
        snakemake.output[0],
        groups,
        "Norms and eigenvalues of the bounds of Theorems 4.1 and 5.2, per draw of y",
        snakemake.params.settings,
        commit(),
    )
