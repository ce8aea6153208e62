"""The Fisher diagonal of anyone's network: exact with its variances, or estimated with its error.

Two functions in front of all the rest.  Both take a model and its inputs, choose the fastest exact
way to differentiate it, stream over the inputs and return a tree of labelled arrays, one node per
parameter tensor in its own shape.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import xarray as xr
from torch import nn

from diagfim.derivatives.engines import Slow
from diagfim.derivatives.fitness import undisturbed
from diagfim.errors import UserError
from diagfim.estimators import ESTIMATORS, Estimator, PilotMixed, whole
from diagfim.families import Family
from diagfim.intake import Array, Data, Inputs, Network
from diagfim.moments import Population
from diagfim.streams import Batch

log = logging.getLogger("diagfim")

MEMORY = 2**25
"""Default for the bytes that a batch may take beside the model and the results."""


def analyze(
    model: nn.Module,
    inputs: Inputs,
    family: str | Family = "categorical",
    *,
    probes: bool = False,
    method: str = "auto",
    dtype: torch.dtype | None = None,
    memory: int = MEMORY,
) -> xr.DataTree:
    """Exact Fisher diagonal of a network, and how much either estimator of it varies.

    Nothing is sampled.  For every parameter θ_i that requires a gradient, averaged over the inputs:
    the Fisher information, the variances of the score-based estimator Î1 and of the Hessian-based
    estimator Î2 from one draw of y (Lemma 3.1), their covariance, and the variance over the inputs
    of the information (Theorem 4.7).  With N_x inputs and N draws for each, Î_j has the variance
    ``input_variance / N_x + variance_j / (N_x N)``; see `variance` and `plan`.

    Parameters
    ----------
    model : torch.nn.Module
        In eval mode, on any device; outputs of shape (n, T).
    inputs : tensor, (n, ...), or iterable of tensors or of (tensor, labels)
        Batches stream: memory does not grow with their number, and their size changes nothing.
        They are moved to the model's device, and to its dtype if they are floating point.
    family : {"categorical", "gaussian", "bernoulli", "poisson"} or Family
        What the outputs mean: logits of a label; means of targets of variance 1; log-odds of
        independent labels 0 and 1; logarithms of the means of counts.
    probes : bool
        Whether to add ``variance_probe``, the variance of Hutchinson's estimator from one vector of
        random signs, which takes as many first derivatives again.
    method : {"auto", "dense", "graph", "autodiff"}
        How to differentiate; by default the first of these that is exact for the model.
    dtype : torch.dtype, optional
        float32 or float64 to compute in; by default the model's.  Sums are always float64.
    memory : int
        Bytes that a batch may take beside the model and the results.

    Returns
    -------
    xarray.DataTree
        A node per parameter tensor, under its name and in its shape, with the float64 variables
        ``fisher``, ``variance_1``, ``variance_2``, ``covariance_12`` and ``input_variance``, and
        ``variance_probe`` if asked for.

    Raises
    ------
    UserError
        If the model, its weights, the inputs or an option cannot be used; the message says which
        and what to do.

    Examples
    --------
    >>> import diagfim, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> tree = diagfim.analyze(model, torch.rand(100, 3))
    >>> tree["0.weight"]["fisher"].shape
    (4, 3)
    >>> bool((tree["2.bias"]["variance_2"] == 0).all())
    True
    """
    with undisturbed(model):
        data = Data(inputs)
        network = Network(model, data.example, family, method, dtype, memory)
        population = Population(network.family, probes=probes)
        for batch in _batches(data, network):
            population.update(network.at(batch))
    values, _ = population.result()
    title = "Exact Fisher diagonal and estimator variances, per draw of y"
    return network.tree(values, population.quantities, title, inputs=population.count)


def estimate(
    model: nn.Module,
    inputs: Inputs,
    estimator: str = "score",
    draws: int = 1,
    seed: int = 0,
    family: str | Family = "categorical",
    *,
    labels: Array | None = None,
    errors: bool = True,
    level: str = "parameter",
    weights: str = "exact",
    pilot: int = 2,
    probes: str = "rademacher",
    method: str = "auto",
    dtype: torch.dtype | None = None,
    memory: int = MEMORY,
) -> xr.DataTree:
    """Estimate the Fisher diagonal by one of the usual estimators, with its standard error.

    Parameters
    ----------
    model, inputs, family, method, dtype, memory
        As for `analyze`.
    estimator : {"score", "hessian", "mixed", "exact", "empirical", "hutchinson"}
        "score": Î1, the mean squared gradient of log p at labels drawn from the model.
        "hessian": Î2, the mean diagonal of minus its Hessian at such labels; it may be negative.
        "mixed": w Î1 + (1 − w) Î2 from the same draws, w = (V2 − C12)/(V1 + V2 − 2 C12); see
        `level` and `weights`.
        "exact": no labels are drawn; the sum over them is taken (Rao and Blackwell).
        "empirical": the mean squared gradient at the labels of the data; a different quantity,
        biased as an estimate of the Fisher information (Lemma 6.1).
        "hutchinson": the squared gradient along random probes, (Σ_y √σ_y g_y ξ_y)² (Sun 2025).
    draws : int
        N, the number of draws for each input; of no effect for "exact" and "empirical".
    seed : int
        What is drawn for an input depends on the seed and on its position alone.
    labels : tensor or array, (n,) or (n, T), optional
        Labels of the data for "empirical", when `inputs` is one.  No other estimator looks at
        labels of the data, not even at those that a DataLoader yields.
    errors : bool
        Whether to compute standard errors; without them a cheap estimate takes half the time.
    level : {"parameter", "layer"}
        What has a weight of its own in "mixed": every parameter, or the parameters of a module
        together, whose summed variance is then the least.
    weights : {"exact", "pilot"}
        What the weights of "mixed" rest on: the exact moments at these inputs, or the sample
        moments of pilot draws.  Both leave the mix unbiased.
    pilot : int
        Pilot draws at each input, at least 2, from another random stream than the `draws`.
    probes : {"rademacher", "gaussian"}
        Distribution of the probes of "hutchinson".

    Returns
    -------
    xarray.DataTree
        A node per parameter tensor, in its shape, with ``fisher`` and ``standard_error``: that of
        ``fisher`` as an estimate of the information over the distribution which the inputs were
        drawn from, from the spread over the inputs (Theorem 4.7: inputs and draws both).  It is NaN
        for a single input.  For "mixed" also the ``score_weight`` w that was used.  The attribute
        ``labels`` says where the labels came from: "model" if they were drawn from the network's
        own distribution, as the Fisher information wants it ("score", "hessian", "mixed"), "data"
        ("empirical") or "none" ("exact", "hutchinson").

    Raises
    ------
    UserError
        As `analyze`; and if labels are missing, not wanted, or do not fit the inputs or the family.

    Examples
    --------
    >>> import diagfim, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> tree = diagfim.estimate(model, torch.rand(100, 3), "score", draws=5, seed=1)
    >>> sorted(tree["0.weight"].data_vars)
    ['fisher', 'standard_error']
    """
    if estimator not in tuple(ESTIMATORS):  # a list, say, is in no dict
        raise UserError(f"estimator: {estimator!r} is not one of {', '.join(ESTIMATORS)}")
    draws, seed = whole("draws", draws, 1), whole("seed", seed, 0)
    kind, options = _kind(estimator, level, weights, pilot, probes)
    if labels is not None and kind.labels != "data":
        raise UserError(
            f"labels: the {estimator} estimator does not look at those of the data; leave them "
            "out, or pass estimator='empirical'"
        )
    with undisturbed(model):
        data = Data(inputs, labels)
        network = Network(model, data.example, family, method, dtype, memory)
        stream = kind(network.family, draws, seed, errors, **options)
        for batch in _batches(data, network, stream):
            stream.update(network.at(batch), batch)
    title = f"Fisher diagonal by the {estimator} estimator"
    settings: dict[str, object] = {"estimator": estimator, "draws": draws, "seed": seed}
    settings |= {"labels": kind.labels, **options}
    if estimator == "mixed":
        settings["weights"] = weights
    quantities = (*stream.quantities, "standard_error") if errors else stream.quantities
    return network.tree(stream.result(), quantities, title, inputs=stream.count, **settings)


def _kind(
    estimator: str, level: str, weights: str, pilot: int, probes: str
) -> tuple[type[Estimator], dict[str, Any]]:
    """The class of an estimator, and those of the options that it takes."""
    if estimator == "hutchinson":
        return ESTIMATORS[estimator], {"probes": probes}
    if estimator != "mixed":
        return ESTIMATORS[estimator], {}
    if weights not in ("exact", "pilot"):
        raise UserError(f"weights: {weights!r} is not one of exact, pilot")
    if weights == "pilot":
        return PilotMixed, {"level": level, "pilot": pilot}
    return ESTIMATORS[estimator], {"level": level}


def _batches(data: Data, network: Network, stream: Estimator | None = None) -> Iterator[Batch]:
    """Batches of the engine's size, after a forecast where they will take long.

    Parameters
    ----------
    data : Data
    network : Network
    stream : Estimator, optional
        What the derivatives are for; without one, all of them are wanted.
    """
    for batch in data.batches(network, network.engine.batch_size):
        if batch.start == 0 and isinstance(network.engine, Slow):
            curved, directions = (True, None) if stream is None else _wanted(stream, network, batch)
            each = network.engine.seconds(batch.inputs, curved, directions) / len(batch.inputs)
            number = 1000 if data.total is None else data.total
            if each * number > _LONG:
                per = " per 1,000 inputs" if data.total is None else ""
                log.warning("diagfim: about %s%s (%s)", _duration(each * number), per, network)
        yield batch


def _wanted(stream: Estimator, network: Network, batch: Batch) -> tuple[bool, int]:
    """Whether an estimator wants second derivatives, and first ones along how many directions."""
    labels = None if batch.labels is None else batch.labels[:1]
    one = replace(batch, inputs=batch.inputs[:1], labels=labels)
    return stream.curved, stream.plan(network.at(one).outputs, one).first.shape[1]


_LONG = 60.0
"""Seconds from which on a forecast is given before the work starts."""


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
