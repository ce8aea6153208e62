"""Derivative norms and eigenvalues that make Theorem 4.1's bounds, at the fixed inputs."""

import numpy as np
from _job import job

from diagfim import arrays, bounds, spectra
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
    family = Categorical()
    probabilities = np.stack([family.probabilities(one.outputs) for one in epochs])
    root["probabilities"] = (*leading, "label_value"), probabilities
    fisher, attained, proven = [], [], []
    for one in this.progress(epochs, "epoch", len(epochs)):
        fisher.append(spectra.fisher_eigenvalues(family.covariance(one.outputs))[1])
        _, largest = family.tensor_eigenvalues(one.outputs)
        attained.append(largest.lower)
        proven.append(largest.upper)
    root["fisher_lambda_max"] = leading, np.stack(fisher)
    root["tensor_lambda_max"] = leading, np.stack(attained)
    root["tensor_lambda_upper"] = leading, np.stack(proven)
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
        this.about,
    )
