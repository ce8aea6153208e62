"""The bias of the empirical Fisher and of Adam's accumulator, beside the noise of Î1 and Î2.

At fixed inputs the empirical Fisher has no variance: its mean squared error is its squared bias
(Section 6).  That of Î_j is Σ V_j / (N_x N) over the parameters, N draws being taken at each of N_x
inputs; where the two are equal, N = Σ V_j / (N_x Σ bias²).

Adam's accumulator is a running mean of g_B², g_B being the mean gradient over a batch of B samples.
For independent samples E g_B² = Var(g) / B + (E g)², so that

    B E g_B² = E g² + (B − 1) (E g)²:

the empirical Fisher and an excess that vanishes where the loss is stationary.  The running mean
adds that the weights moved meanwhile, and that dropout was active.
"""

from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr
from scipy import stats
from torch import Tensor, nn

from diagfim.analysis import analyze, estimate
from diagfim.arrays import layer_of
from diagfim.experiments.frontier import layer_sums
from diagfim.experiments.reading import REFERENCES, WHOLE
from diagfim.variances import values_of

ESTIMATORS = {"score": "variance_1", "hessian": "variance_2"}

Values = Mapping[str, np.ndarray]
"""By parameter name."""


def compare(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    accumulator: Mapping[str, Tensor],
    batch_size: int,
    seed: int,
) -> xr.Dataset:
    """How far the biased references are from the Fisher information at the same inputs.

    Parameters
    ----------
    model : torch.nn.Module
        A classifier in eval mode, of the dtype of the inputs.
    inputs : tensor, (n, features)
    labels : tensor, (n,)
        Labels of the data.
    accumulator : mapping of str to tensor
        Adam's bias-corrected mean of squared batch gradients, by parameter; empty before training.
    batch_size : int
        B.
    seed : int
        Of the labels of the control.

    Returns
    -------
    Dataset
        By layer and for the whole network: ``fisher_norm`` ‖I‖₂ and, by reference, the
        ``distance`` ‖F − I‖₂, the ``trace_ratio`` Σ F / Σ I, the ``rank_correlation`` of F and I
        over the parameters and, by estimator, the ``equal_draws`` N at each input with the same
        mean squared error.  NaN for "adam" before training.
    """
    tree = analyze(model, inputs)
    fisher = values_of(tree, "fisher")
    found = references(model, inputs, labels, accumulator, batch_size, seed)
    noise = [
        layer_sums(values_of(tree, name)).expand_dims(estimator=[estimator]) / len(inputs)
        for estimator, name in ESTIMATORS.items()
    ]
    size = layer_sums({name: one**2 for name, one in fisher.items()})
    missing = xr.Dataset(
        {name: size * np.nan for name in ("distance", "trace_ratio", "rank_correlation")}
    )
    orders = ranks(fisher)
    beside = [
        beside_fisher(found[name], fisher, orders) if name in found else missing
        for name in REFERENCES
    ]
    dataset = xr.concat(beside, dim="reference").assign_coords(reference=list(REFERENCES))
    return dataset.assign(
        fisher_norm=size**0.5, equal_draws=xr.concat(noise, "estimator") / dataset["distance"] ** 2
    )


def references(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    accumulator: Mapping[str, Tensor],
    batch_size: int,
    seed: int,
) -> dict[str, dict[str, np.ndarray]]:
    """The `REFERENCES` that are known, each by parameter.

    Parameters
    ----------
    model, inputs, labels, accumulator, batch_size, seed
        As for `compare`.
    """
    of_data = estimate(model, inputs, "empirical", labels=labels, errors=False)
    empirical = values_of(of_data, "fisher")
    drawn = estimate(model, inputs, "score", 1, seed, errors=False)
    mean = mean_gradient(model, inputs, labels)
    found = {
        "empirical": empirical,
        "control": values_of(drawn, "fisher"),
        "batch": {k: one + (batch_size - 1) * mean[k] ** 2 for k, one in empirical.items()},
    }
    if accumulator:
        found["adam"] = {k: batch_size * accumulator[k].double().numpy() for k in empirical}
    return found


def mean_gradient(model: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    """E g: the gradient of the mean cross-entropy, by parameter."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    loss = nn.functional.cross_entropy(model(inputs), labels)
    gradients = torch.autograd.grad(loss, parameters)
    return {name: one.double().numpy() for name, one in zip(names, gradients, strict=True)}


def beside_fisher(values: Values, fisher: Values, orders: Values) -> xr.Dataset:
    """Distance, ratio of traces and rank correlation, by layer and for the whole network.

    Parameters
    ----------
    values, fisher : dict of str to array
        F and I, by parameter.
    orders : dict of str to array
        `ranks` of I.
    """
    squares = layer_sums({name: (values[name] - one) ** 2 for name, one in fisher.items()})
    correlations = [
        np.corrcoef(order, orders[layer])[0, 1] for layer, order in ranks(values).items()
    ]
    return xr.Dataset(
        {
            "distance": squares**0.5,
            "trace_ratio": layer_sums(values) / layer_sums(fisher),
            "rank_correlation": ("layer", correlations),
        }
    )


def ranks(values: Values) -> dict[str, np.ndarray]:
    """Ranks of the values among those of their layer and, last, of the whole network."""
    members: dict[str, list[np.ndarray]] = {}
    for name, one in values.items():
        members.setdefault(layer_of(name), []).append(one.ravel())
    members[WHOLE] = [one.ravel() for one in values.values()]
    return {layer: stats.rankdata(np.concatenate(some)) for layer, some in members.items()}
