"""What lies on disk: names, dimensions, units and provenance of every netCDF file, in one place.

A file is an xarray DataTree.  Per-parameter values stand under ``/parameters/<parameter name>``, in
the shape of the parameter tensor after the leading dimensions; averages over the parameters of a
layer under ``/layers``.  Weights have dimensions ``unit`` and ``fan_in``, biases ``unit``.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from diagfim.errors import UserError
from diagfim.origin import origin
from diagfim.whole import whole

LONG_NAMES = {
    "accuracy": "fraction of the test set classified correctly",
    "accuracy_error": "standard error of the mean accuracy over runs",
    "allowed": "tolerance of the comparison",
    "angle_error": "root mean square error of the angle over the pool",
    "average_variance_1": "exact variance of the layer-averaged score-based estimator, one draw",
    "average_variance_2": "exact variance of the layer-averaged Hessian-based estimator, one draw",
    "beyond": "number of tests with a deviation beyond 5 standard errors",
    "bound_fisher": "layer average of the upper bound on the Fisher information",
    "bound_variance": "layer average of the upper bound on the estimator variance, one draw",
    "bounds_broken": "number of values beyond their bound",
    "bounds_checked": "number of values compared with a bound",
    "cases": "number of random cases",
    "certainty": "mean probability of the likeliest label",
    "cheapest": "estimator of fewest seconds",
    "checked": "number of parameters compared, over inputs",
    "constants": "number of values without sampling error",
    "corrected_bound": "bound as corrected",
    "covariance_12": "exact covariance of the two estimators, one draw",
    "crossing": "median noise at which both estimators vary equally",
    "deviation": "largest deviation from diagfim, relative to the largest entry of a tensor",
    "distance": "distance from the Fisher information, root of the sum of squares over parameters",
    "distance_z": (
        "what squared_distance has more than expected_distance over all steps, in standard errors"
    ),
    "draw_part": "part of the exact variance of the estimator that stems from the draws",
    "draws_per_input": "number of draws at each input",
    "eigenvalue_deviation": "largest relative deviation from the eigenvalues of Proposition 5.1",
    "empirical_fisher": "layer average of the mean estimate over the repetitions",
    "empirical_variance": "layer average of the variance of the estimates over the repetitions",
    "epoch_seconds": "duration of an epoch of training",
    "equal_draws": "draws at each input with the mean squared error of the biased reference",
    "equality_deviation": "largest relative deviation from the bound of Theorem 4.1",
    "exact_variance": "layer average of the exact variance, one draw",
    "excess_kurtosis_1": "exact excess kurtosis of the score-based estimator, one draw",
    "excess_kurtosis_2": "exact excess kurtosis of the Hessian-based estimator, one draw",
    "expected_distance": (
        "exact variance of the estimated Fisher matrix given the training points, mean over steps"
    ),
    "exponent": "largest exponent of Bernstein's inequality",
    "final_loss": "mean negative log-likelihood on the test set after the last epoch",
    "first": "first derivatives of the outputs by the pre-activations",
    "first_fourth": "layer average of the fourth power of the norm of the first derivatives",
    "first_squared": "squared norm of the first derivatives of the outputs by a parameter",
    "fisher": "exact Fisher information",
    "fisher_lambda_bound": "Theorem 5.2 bound on the largest output Fisher eigenvalue",
    "fisher_lambda_max": "largest output Fisher eigenvalue",
    "fisher_lambda_min": "smallest output Fisher eigenvalue",
    "fisher_norm": "root of the sum of squares of the Fisher information over parameters",
    "floor": "duration of the products of per-sample Jacobians at the rate of a large product",
    "function": "name of the function",
    "hessian_better": "share for which the Hessian-based estimator varies less",
    "hessian_deviation": "largest deviation of a Hessian-based draw from the information, relative",
    "images": "grey levels, 0 to 255",
    "input_part": "part of the exact variance of the estimator that stems from the inputs",
    "input_share": "share of the exact variance that stems from the inputs",
    "input_variance": "exact variance over inputs of the Fisher information",
    "inputs": "inputs of the affine map, with a last column of ones when it has a bias",
    "kind": "what sort of result it is",
    "labels": "class",
    "largest": "largest deviation in standard errors",
    "largest_covariance": "largest absolute covariance of the two estimators, one draw",
    "largest_violation": "largest violation, relative",
    "layer_mean": "mean over repetitions of the estimate averaged over the layer",
    "layer_variance": "variance over repetitions of the estimate averaged over the layer",
    "layer_z": "deviation of the layer's mean estimate from the exact one, in standard errors",
    "lemma_largest": "largest ratio of the variance over inputs to the bound of Lemma 4.8",
    "lemma_ratio": "median ratio of the variance over inputs to the bound of Lemma 4.8",
    "loss": "mean cross-entropy",
    "loss_change": "standard deviation of the test loss's change by epoch, last half of the epochs",
    "loss_deviation": "standard deviation of the test loss, last quarter of the epochs",
    "mean": "mean of the estimates over the repetitions",
    "mean_loss": "mean over the last half of the epochs of the test loss",
    "memory": "bytes held at the peak of a call beyond those before it",
    "mixed_variance": "layer average of the exact variance of the best mix, one draw",
    "moment_lambda_max": "largest tensor eigenvalue of K",
    "moment_lambda_upper": "proven upper bound on the largest tensor eigenvalue of K",
    "negative_share": "share of the averaged estimates below zero, over steps and parameters",
    "negative_log_likelihood": "mean negative log-likelihood on the test set, with all constants",
    "noise_deviation": "root mean square residual, the fitted noise",
    "normal_beyond": "number of nearly normal tests with a deviation beyond 5 standard errors",
    "normal_largest": "largest deviation of the nearly normal tests, in standard errors",
    "normal_tests": "number of tests with a nearly normal law",
    "number_of_inputs": "number of inputs",
    "other_labels": "expected number of draws of labels but the likeliest, all repetitions",
    "outputs": "network outputs, the logits",
    "parameter_variance": "layer average of the variance of the estimates over the repetitions",
    "parameters": "number of parameters",
    "point_loss": "mean negative log-likelihood on the test set at theta_point",
    "predicted_squared_error": "expected squared error over the parameters, relative",
    "printed_bound": "bound as printed",
    "probability": "probability of the likeliest label",
    "probabilities": "probability of each label under the network",
    "range_1": "largest deviation of a draw of the score-based estimator from its mean",
    "range_2": "largest deviation of a draw of the Hessian-based estimator from its mean",
    "rank_correlation": "Spearman's correlation with the Fisher information over the parameters",
    "rate": "floating-point operations per second of the best matrix product",
    "ratio": "duration over that of a forward and backward pass",
    "relative_deviation_1": "standard deviation over mean of the score-based estimator, median",
    "relative_deviation_2": "standard deviation over mean of the Hessian-based one, median",
    "relative_error": "distance from the Fisher information relative to its norm",
    "samples": "number of training samples in an epoch",
    "score_better": "share of the parameters for which the score-based estimator varies less",
    "score_weight": "weight of the score-based estimator in the mix",
    "second": "second derivatives of the outputs by the pre-activations",
    "second_seconds": "duration of what second derivatives add to first ones",
    "second_share": "share of that duration which the floor accounts for",
    "second_squared": "squared norm of the second derivatives of the outputs by a parameter",
    "seconds": "duration of a call",
    "setting": "what the counterexample consists of",
    "shape_error": "distance of the best multiple from the Fisher information relative to its norm",
    "share": "share of the duration of the five quantities which the floor accounts for",
    "squared_bias": "squared bias of the empirical Fisher over the parameters, relative",
    "squared_distance": "squared distance of estimated and exact Fisher matrix, mean over steps",
    "squared_error": "squared error of an estimate over the parameters, relative",
    "standard_error": "standard error of the Fisher information, over inputs and draws",
    "statement": "what the result states",
    "summed_draw_variance": "exact variance of one draw of the estimator, summed over parameters",
    "summed_fisher": "exact Fisher information, summed over parameters",
    "summed_fisher_squared": "square of the exact Fisher information, summed over parameters",
    "summed_input_variance": "input variance of the Fisher information, summed over parameters",
    "summed_variance": "exact variance of the estimated matrix, summed over entries, inputs normal",
    "summed_variance_points": (
        "exact variance of the estimated matrix, summed over entries, inputs from the training set"
    ),
    "tensor_lambda_bound": "Theorem 5.2 bound on the largest tensor eigenvalue of M",
    "tensor_lambda_max": "largest tensor eigenvalue of M",
    "tensor_lambda_min": "smallest tensor eigenvalue of M",
    "tensor_lambda_upper": "proven upper bound on the largest tensor eigenvalue of M",
    "test_loss": "mean cross-entropy on the test set after the epoch",
    "tests": "number of values with a positive standard error",
    "theta": "parameters",
    "theta_point": "true, most likely, and on the test set best parameters",
    "tightest": "largest ratio of a value to its bound",
    "total_seconds": "duration of an estimate over all inputs",
    "total_variance": "exact variance of the estimator",
    "trace_ratio": "sum over the parameters beside that of the Fisher information",
    "train_loss": "mean cross-entropy over the batches of the epoch, each before its step",
    "validation_loss": "mean cross-entropy on the validation set after the last epoch",
    "value": "value of the quantity",
    "variance": "variance of the estimates over the repetitions",
    "variance_1": "exact variance of the score-based estimator, one draw",
    "variance_2": "exact variance of the Hessian-based estimator, one draw",
    "variance_probe": "exact variance of the Hutchinson estimator, one Rademacher probe",
    "variance_ratio": "median ratio of the variance of the Hessian-based estimator to the other's",
    "violations": "number of cases beyond the tolerance",
    "within_two": "fraction of the tests with a deviation within 2 standard errors",
    "wrong_constants": "values without sampling error that differ from the exact one",
}
"""CF ``long_name`` of every variable that a file may hold."""

UNITS = {
    "angle_error": "degree",
    "epoch_seconds": "s",
    "final_loss": "nat",
    "floor": "s",
    "images": "grey level",
    "labels": "class",
    "loss": "nat",
    "loss_change": "nat",
    "loss_deviation": "nat",
    "mean_loss": "nat",
    "memory": "byte",
    "negative_log_likelihood": "nat",
    "point_loss": "nat",
    "rate": "s-1",
    "second_seconds": "s",
    "seconds": "s",
    "test_loss": "nat",
    "total_seconds": "s",
    "train_loss": "nat",
    "validation_loss": "nat",
}
"""Units; everything else is dimensionless (nat² in units of the parameter, which has none)."""

Groups = Mapping[str, xr.Dataset]


def description(name: str) -> dict[str, str]:
    """CF attributes of a variable."""
    return {"long_name": LONG_NAMES[name], "units": UNITS.get(name, "1")}


def layer_of(parameter: str) -> str:
    """The layer that a parameter belongs to: the module that owns it.

    Examples
    --------
    >>> from diagfim.arrays import layer_of
    >>> layer_of("encoder.0.weight"), layer_of("weight")
    ('encoder.0', '(model)')
    """
    return parameter.rpartition(".")[0] or "(model)"


def short_layer(layer: str, most: int = 12) -> str:
    """What a table or a panel calls a layer: "dense3" is "3", and long names lose their middle.

    Examples
    --------
    >>> from diagfim.arrays import short_layer
    >>> short_layer("dense3"), short_layer("fc"), short_layer("encoder.layers.0.linear1")
    ('3', 'fc', 'encod…inear1')
    """
    number = layer.removeprefix("dense")
    if number.isdigit():
        return number
    kept = most - 1
    return layer if len(layer) <= most else f"{layer[: kept // 2]}…{layer[-(kept - kept // 2) :]}"


def layer_sums(values: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Sums over the parameters of each layer, in the order in which the layers first come.

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.arrays import layer_sums
    >>> layer_sums({"0.weight": np.ones((2, 3)), "0.bias": np.ones(2), "2.bias": np.ones(4)})
    {'0': 8.0, '2': 4.0}
    """
    totals = dict.fromkeys(map(layer_of, values), 0.0)
    for name, value in values.items():
        totals[layer_of(name)] += float(value.sum(dtype=np.float64))
    return totals


ALL = "(every layer)"
"""The label of what is enough for every layer at once."""

DIMENSIONS = {
    0: (),
    1: ("unit",),
    2: ("unit", "fan_in"),
    3: ("unit", "channel", "tap"),
    4: ("unit", "channel", "row", "column"),
}
"""Dimension names of a parameter tensor by their number: dense weights 2, images' kernels 4."""


def parameter_dimensions(number: int) -> tuple[str, ...]:
    """Names of so many dimensions of a parameter tensor."""
    return DIMENSIONS.get(number) or tuple(f"axis_{k}" for k in range(number))


def parameter_groups(
    values: Mapping[str, Mapping[str, np.ndarray]], leading: Sequence[str]
) -> dict[str, xr.Dataset]:
    """Label values by parameter and quantity: ``{"parameters/<name>": Dataset}``.

    Parameters
    ----------
    values : mapping of str to mapping of str to array
        By parameter name, then by quantity; each array is ``(*leading, *shape)`` of it.
    leading : sequence of str
        Names of the leading dimensions.
    """
    return {
        f"parameters/{name}": xr.Dataset(
            {
                quantity: (
                    (*leading, *parameter_dimensions(array.ndim - len(leading))),
                    array,
                )
                for quantity, array in quantities.items()
            }
        )
        for name, quantities in values.items()
    }


def stack(
    results: Sequence[Mapping[str, Mapping[str, np.ndarray]]],
) -> dict[str, dict[str, np.ndarray]]:
    """Stack results of equal structure along a new leading axis, such as the epoch."""
    return {
        name: {
            quantity: np.stack([result[name][quantity] for result in results])
            for quantity in quantities
        }
        for name, quantities in results[0].items()
    }


def layer_group(
    values: Mapping[str, Mapping[str, np.ndarray]], leading: Sequence[str]
) -> xr.Dataset:
    """Label values by layer and quantity, stacked along a leading dimension ``layer``."""
    layers = list(values)
    quantities = values[layers[0]]
    return xr.Dataset(
        {
            quantity: (("layer", *leading), np.stack([values[layer][quantity] for layer in layers]))
            for quantity in quantities
        },
        coords={"layer": [layer.removesuffix(".weight") for layer in layers]},
    )


def write(
    path: str | os.PathLike[str],
    groups: Groups,
    title: str,
    config: Mapping[str, Any],
    about: Mapping[str, str] | None = None,
) -> None:
    """Write a netCDF-4 file, whole or not at all.

    Parameters
    ----------
    path : path
        Target; its folder is made when missing.
    groups : mapping of str to Dataset
        By group path; ``"/"`` is the root.
    title : str
        What the file holds, in a sentence.
    config : mapping
        The part of the configuration that the numbers depend on, seed included; stored with its
        SHA-256 as attributes.
    about : mapping of str to str, optional
        Where the numbers come from, stored as attributes; by default what `origin.origin` says.

    Raises
    ------
    KeyError
        If a variable has no entry in `LONG_NAMES`.
    UserError
        If the file cannot be written.
    """
    text = json.dumps(config, sort_keys=True)
    root = groups.get("/", xr.Dataset()).assign_attrs(
        Conventions="CF-1.11",
        title=title,
        **(origin() if about is None else about),
        config=text,
        config_sha256=hashlib.sha256(text.encode()).hexdigest(),
    )
    tree = xr.DataTree.from_dict({**groups, "/": root})
    encoding: dict[str, dict[str, dict[str, Any]]] = {}
    for node in tree.subtree:
        encoding[node.path] = {}
        for name, variable in node.data_vars.items():
            variable.attrs.update(description(str(name)))
            if variable.ndim and variable.dtype.kind in "fiub":
                encoding[node.path][str(name)] = {"zlib": True, "complevel": 1, "shuffle": True}
    with whole(path) as partial:
        tree.to_netcdf(partial, engine="netcdf4", encoding=encoding)


def read(path: str | os.PathLike[str]) -> xr.DataTree:
    """Open a file written by `write`, lazily.

    Raises
    ------
    UserError
        If the file is missing or is not netCDF-4.
    """
    try:
        return xr.open_datatree(path, engine="netcdf4")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: not a readable netCDF file ({error}); delete it and run again"
        ) from None


def groups_of(path: str | os.PathLike[str]) -> dict[str, xr.Dataset]:
    """Load the groups right below the root of a file, by name.

    Raises
    ------
    UserError
        If the file is missing or is not netCDF-4.
    """
    with read(path) as tree:
        return {name: child.to_dataset().load() for name, child in tree.children.items()}


def groups_by_file(paths: Iterable[str]) -> dict[str, dict[str, xr.Dataset]]:
    """What `groups_of` loads of each file, by the name that it has without its ending.

    Raises
    ------
    UserError
        If a file is missing or is not netCDF-4.
    """
    return {Path(path).stem: groups_of(path) for path in paths}
