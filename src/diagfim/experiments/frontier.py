"""Error against measured seconds of every estimator, and the draws that a precision takes.

Inputs are drawn with replacement from a pool at which the Fisher information is known exactly, so
that an estimate errs by its inputs and by its draws (Theorem 4.7).  Errors are relative and over
the parameters of a layer, or of the whole network: Σ (Î − I)² / Σ I².
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from diagfim import arrays
from diagfim.analysis import analyze, estimate
from diagfim.estimators import ESTIMATORS
from diagfim.experiments.reading import DRAWN, WHOLE
from diagfim.planning import plan
from diagfim.seeding import integer, stream
from diagfim.variances import UNBIASED, values_of, variance


def experiment(
    model: nn.Module, inputs: Tensor, labels: Tensor, settings: Mapping[str, Any], seed: int
) -> dict[str, xr.Dataset]:
    """One replicate: errors measured and predicted, seconds, and plans.

    Parameters
    ----------
    model : torch.nn.Module
        A classifier in eval mode, of the dtype of the inputs.
    inputs : tensor, (n, features)
        The pool.
    labels : tensor, (n,)
        Labels of the data, for the empirical Fisher alone.
    settings : mapping
        ``inputs`` and ``draws`` of the grid, ``repetitions`` of it, and of the plans
        ``relative_error`` and ``confidence``.
    seed : int

    Returns
    -------
    dict of str to Dataset
        "errors" and "plan", which the seed determines, and "seconds", which the machine does.
    """
    tree = analyze(model, inputs, probes=True)
    bias, spread = empirical_error(model, inputs, labels, tree)
    counts, draws = sorted(settings["inputs"]), sorted(settings["draws"])
    measured, seconds = measure(
        model, inputs, labels, tree, counts, draws, settings["repetitions"], seed
    )
    errors = xr.Dataset(
        {
            "squared_error": measured,
            "predicted_squared_error": predict(tree, bias, spread, counts, draws),
            "squared_bias": bias,
        }
    )
    return {
        "errors": errors,
        "seconds": xr.Dataset({"seconds": seconds}),
        "plan": needed(tree, draws, settings["relative_error"], settings["confidence"]),
    }


def layer_sums(values: Mapping[str, np.ndarray]) -> xr.DataArray:
    """Sums over the parameters of each layer and, last, of the whole network.

    Parameters
    ----------
    values : mapping of str to array
        By parameter name.

    Returns
    -------
    DataArray, (layer,)
    """
    totals = arrays.layer_sums(values)
    totals[WHOLE] = sum(totals.values())
    return xr.DataArray(list(totals.values()), {"layer": list(totals)}, ["layer"])


def relative_squares(
    values: Mapping[str, np.ndarray], fisher: Mapping[str, np.ndarray]
) -> xr.DataArray:
    """Σ (F − I)² / Σ I² over the parameters of each layer and of the network: (layer,)."""
    above = layer_sums({name: (values[name] - one) ** 2 for name, one in fisher.items()})
    return above / layer_sums({name: one**2 for name, one in fisher.items()})


def empirical_error(
    model: nn.Module, inputs: Tensor, labels: Tensor, tree: xr.DataTree
) -> tuple[xr.DataArray, xr.DataArray]:
    """Squared bias of the empirical Fisher over the pool, and its variance from one input.

    Both are sums over the parameters of a layer, in units of Σ I².

    Returns
    -------
    bias, spread : DataArray, (layer,)
    """
    found = estimate(model, inputs, "empirical", labels=labels)
    fisher = values_of(tree, "fisher")
    bias = relative_squares(values_of(found, "fisher"), fisher)
    # A standard error s over n inputs is that of a variance (n − 1) s² over them.
    squares = {k: v**2 * (len(inputs) - 1) for k, v in values_of(found, "standard_error").items()}
    return bias, layer_sums(squares) / layer_sums({k: v**2 for k, v in fisher.items()})


def predict(
    tree: xr.DataTree,
    bias: xr.DataArray,
    spread: xr.DataArray,
    counts: list[int],
    draws: list[int],
) -> xr.DataArray:
    """Mean squared error: Theorem 4.7, and bias² + variance for the empirical Fisher.

    Parameters
    ----------
    tree : DataTree
        What `diagfim.analyze` found at the pool.
    bias, spread : DataArray, (layer,)
        What `empirical_error` found.
    counts, draws : list of int
        N_x and N.

    Returns
    -------
    DataArray, (estimator, draws, inputs, layer)
    """
    size = layer_sums({name: one**2 for name, one in values_of(tree, "fisher").items()})

    def of(estimator: str, number: int, count: int) -> xr.DataArray:
        if estimator == "empirical":
            return bias + spread / count
        found = variance(tree, estimator, number, count)
        total = {k: v.dataset["total_variance"].values for k, v in found.children.items()}
        return layer_sums(total) / size

    cells = [[[of(e, n, k) for k in counts] for n in draws] for e in ESTIMATORS]
    return _grid(np.array([[[c.values for c in b] for b in a] for a in cells]), counts, draws, size)


def measure(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    tree: xr.DataTree,
    counts: list[int],
    draws: list[int],
    repetitions: int,
    seed: int,
) -> tuple[xr.DataArray, xr.DataArray]:
    """Squared errors of estimates at inputs drawn from the pool, and their seconds.

    Every repetition goes through the whole grid, so that what slows the machine down for a while
    touches all estimators alike; all of them see the same inputs.  What draws do not matter to is
    made once, at the first number of draws; elsewhere it is NaN.

    Returns
    -------
    squared_error : DataArray, (estimator, draws, inputs, repetition, layer)
    seconds : DataArray, (estimator, draws, inputs, repetition)
    """
    fisher = values_of(tree, "fisher")
    names = layer_sums(fisher)
    shape = len(ESTIMATORS), len(draws), len(counts), repetitions
    errors, seconds = np.full((*shape, names.size), np.nan), np.full(shape, np.nan)
    for estimator in ESTIMATORS:  # what is set up at a first call is not timed
        _estimate(model, inputs[:2], labels[:2], estimator, draws[0], 0)
    for repetition in range(repetitions):
        for k, count in enumerate(counts):
            rng = stream(seed, "positions", repetition, count)
            chosen = torch.from_numpy(rng.integers(len(inputs), size=count))
            some, theirs = inputs[chosen], labels[chosen]
            one_seed = integer(seed, "draws", repetition, count)
            for e, estimator in enumerate(ESTIMATORS):
                for n, number in enumerate(draws if estimator in DRAWN else draws[:1]):
                    start = time.perf_counter()
                    found = _estimate(model, some, theirs, estimator, number, one_seed)
                    seconds[e, n, k, repetition] = time.perf_counter() - start
                    squares = relative_squares(values_of(found, "fisher"), fisher)
                    errors[e, n, k, repetition] = squares.values
    return (
        _grid(errors, counts, draws, names, "repetition"),
        _grid(seconds, counts, draws, None, "repetition"),
    )


def _estimate(
    model: nn.Module, inputs: Tensor, labels: Tensor, estimator: str, draws: int, seed: int
) -> xr.DataTree:
    given = labels if estimator == "empirical" else None
    return estimate(model, inputs, estimator, draws, seed, labels=given, errors=False)


def _grid(
    values: np.ndarray,
    counts: list[int],
    draws: list[int],
    layers: xr.DataArray | None,
    *between: str,
) -> xr.DataArray:
    """Label an array over the grid of estimators, draws and inputs, then `between`, then layers."""
    coords: dict[str, Any] = {"estimator": list(ESTIMATORS), "draws": draws, "inputs": counts}
    dims = [*coords, *between]
    if layers is not None:
        coords["layer"] = layers["layer"].values
        dims.append("layer")
    return xr.DataArray(values, coords, dims)


def needed(
    tree: xr.DataTree, draws: list[int], relative_error: float, confidence: float
) -> xr.Dataset:
    """Draws at each input of the pool, and inputs from its distribution, that a precision takes.

    Returns
    -------
    Dataset
        By estimator, rule and layer, the last standing for every layer at once:
        ``draws_per_input`` at the pool; ``number_of_inputs`` drawn from it, by the draws at each.
    """
    given = plan(tree, relative_error, confidence, estimators=UNBIASED)
    drawn = [
        plan(tree, relative_error, confidence, over="distribution", draws=n, estimators=UNBIASED)
        for n in draws
    ]
    number = xr.concat([one["number_of_inputs"] for one in drawn], dim="draws")
    return xr.Dataset(
        {
            "draws_per_input": given["draws_per_input"],
            "number_of_inputs": number.assign_coords(draws=draws),
        }
    )
