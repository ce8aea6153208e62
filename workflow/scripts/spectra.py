"""Certified eigenvalues of the moments of t(y) at every test input, after the last epoch."""

from collections import defaultdict

import numpy as np
import torch
import xarray as xr
from _job import job
from _network import open_network

from diagfim import arrays, spectra
from diagfim.bounds import theorem_5_2
from diagfim.families import Categorical

AT_ONCE = 500
"""Inputs proven together; progress comes after each part."""

with job(snakemake) as this:
    torch.set_num_threads(snakemake.threads)
    settings = snakemake.params.settings
    network = open_network(snakemake)
    network.load(snakemake.input.checkpoint[0])
    pool = network.first("spectra.inputs", settings["inputs"])
    family = Categorical()

    found = defaultdict(list)
    batches = [outputs.numpy() for outputs in network.outputs_of(pool, AT_ONCE)]
    for outputs in this.progress(batches, "part", len(batches)):
        found["fisher_lambda_max"].append(spectra.fisher_eigenvalues(family.covariance(outputs))[1])
        for prefix, tensor in (("tensor", "M"), ("moment", "K")):
            _, largest = family.tensor_eigenvalues(outputs, tensor)
            found[f"{prefix}_lambda_max"].append(largest.lower)
            found[f"{prefix}_lambda_upper"].append(largest.upper)
        bounds = theorem_5_2(family.probabilities(outputs))
        for name, bound in zip(("fisher_lambda_bound", "tensor_lambda_bound"), bounds, strict=True):
            found[name].append(bound)
    arrays.write(
        snakemake.output[0],
        {"/": xr.Dataset({name: ("input", np.concatenate(some)) for name, some in found.items()})},
        "Largest eigenvalues of the moments of t(y) over the test set, attained and proven bounds",
        settings,
        this.about,
    )
