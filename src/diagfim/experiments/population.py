"""The Fisher information and both variances over the whole test set, through training.

`over_inputs` splits the variance of an estimate into what stems from x and what from y (Theorem
4.7); `tightness` follows the bounds of Theorem 4.1 from one input to the next.
"""

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from diagfim.analysis import analyze
from diagfim.arrays import layer_of
from diagfim.bounds import theorem_5_2
from diagfim.derivatives import dense, storage
from diagfim.families import Categorical
from diagfim.spectra import fisher_eigenvalues

QUANTITIES = ("fisher", "variance_1", "variance_2", "covariance_12", "input_variance")

ESTIMATORS = ("score", "hessian")


def over_inputs(model: nn.Module, inputs: Tensor) -> xr.Dataset:
    """Layer averages of the exact moments over the inputs, and how certain the network is.

    Parameters
    ----------
    model : torch.nn.Module
        A classifier in eval mode.
    inputs : tensor, (n, ...)

    Returns
    -------
    Dataset
        By layer: the `QUANTITIES` of `diagfim.analyze`, averaged over the parameters of the layer,
        per draw of y; and ``certainty``, the mean probability of the likeliest label.
    """
    tree = analyze(model, inputs)
    names: dict[str, list[str]] = {}
    for name in tree.children:
        names.setdefault(layer_of(name), []).append(name)
    averages = {
        quantity: (
            "layer",
            [
                np.concatenate(
                    [tree[name].dataset[quantity].values.ravel() for name in members]
                ).mean()
                for members in names.values()
            ],
        )
        for quantity in QUANTITIES
    }
    with torch.no_grad():
        likeliest = torch.softmax(model(inputs).double(), dim=1).amax(dim=1)
    return xr.Dataset(averages, {"layer": list(names)}).assign(certainty=float(likeliest.mean()))


def tightness(model: nn.Module, inputs: Tensor) -> xr.Dataset:
    """Both sides of Theorem 4.1 beside the exact variances, input by input.

    Parameters
    ----------
    model : torch.nn.Sequential
        A dense classifier in eval mode, in float64.
    inputs : tensor, (n, features)

    Returns
    -------
    Dataset
        By layer, input and estimator: ``exact_variance`` and ``bound_variance`` (Theorem 4.1 with
        Theorem 5.2), averages over the parameters of the layer, per draw of y.  By input:
        ``probability``, that of the likeliest label, and ``fisher_lambda_min``, the least
        eigenvalue of I(h|x), 0 but for rounding: with it the lower bounds vanish.
    """
    family = Categorical()
    derivatives = storage.to_numpy(dense.derivatives(model, inputs))
    probabilities = family.probabilities(derivatives.outputs)
    fisher, tensor = theorem_5_2(probabilities)
    directions = family.directions(derivatives.outputs)
    exact, bound, names = [], [], []
    for layer, along in zip(
        derivatives.layers, derivatives.pull(directions, directions), strict=True
    ):
        moments = family.moments(derivatives.outputs, along.first, along.second)
        exact.append([layer.average(one, 4) for one in (moments.variance_1, moments.variance_2)])
        first, second = (np.sum(one**2, axis=1) for one in (layer.first, layer.second))
        bound.append([layer.average(first**2, 4) * tensor, layer.average(second, 4) * fisher])
        names.append(layer_of(layer.weight))
    dims = ("layer", "estimator", "input")
    return xr.Dataset(
        {
            "exact_variance": (dims, np.array(exact)),
            "bound_variance": (dims, np.array(bound)),
            "probability": ("input", probabilities.max(axis=1)),
            "fisher_lambda_min": (
                "input",
                fisher_eigenvalues(family.covariance(derivatives.outputs))[0],
            ),
        },
        {"layer": names, "estimator": list(ESTIMATORS)},
    )
