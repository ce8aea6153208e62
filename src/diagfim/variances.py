"""The exact variance of every unbiased estimator at any number of inputs and draws (Theorem 4.7).

Nothing is computed anew: what `diagfim.analyze` found tells the variance of one draw of each.
"""

import numpy as np
import xarray as xr

from diagfim import __version__, arrays
from diagfim.errors import UserError
from diagfim.estimators import ESTIMATORS, PROBES, whole
from diagfim.mixing import LEVELS, Noise, best_weights, mix_variance
from diagfim.moments import PROBE

UNBIASED = tuple(name for name, kind in ESTIMATORS.items() if kind.labels != "data")
"""The estimators of the Fisher information that have a variance and nothing else."""


def variance(
    tree: xr.DataTree,
    estimator: str = "score",
    draws: int = 1,
    inputs: int | None = None,
    *,
    level: str = "parameter",
    weights: xr.DataTree | None = None,
    probes: str = "rademacher",
) -> xr.DataTree:
    """Exact variance of an estimator of the Fisher diagonal, and where it stems from.

    The variance of the estimate from N_x inputs and N draws at each is Var_x I / N_x from the
    inputs and E_x V / (N_x N) from the draws (Theorem 4.7), the analysed inputs being what is drawn
    from; held fixed, they leave the second part alone.  V is that of one draw:

    - V1 and V2 for "score" and "hessian";
    - w² V1 + (1 − w)² V2 + 2 w (1 − w) C12 for "mixed", at those given or at the best weights for
      the analysed inputs, than which the best for a sample of them give no more on average;
    - 0 for "exact";
    - for "hutchinson" 2 I² with Gaussian probes, and 2 (I² − Σ_k (d_kᵀ ∂h)⁴) with random signs, d
      being the root of I(h|x) (Sun 2025).

    Parameters
    ----------
    tree : xarray.DataTree
        What `analyze` returned.
    estimator : {"score", "hessian", "mixed", "exact", "hutchinson"}
        As for `estimate`.  "empirical" has no draws, and its error is a bias first of all.
    draws : int
        N, draws at each input.
    inputs : int, optional
        N_x, inputs drawn anew, with replacement; by default the analysed ones, all of them and held
        fixed.
    level : {"parameter", "layer"}
        What has a weight of its own in "mixed".
    weights : xarray.DataTree, optional
        What `estimate` returned for "mixed": the variance given its ``score_weight``.  With weights
        from pilot draws at the same inputs that is exact as well, since they do not depend on the
        draws that are mixed.
    probes : {"rademacher", "gaussian"}
        Of "hutchinson"; random signs need a tree that was analysed with ``probes=True``.

    Returns
    -------
    xarray.DataTree
        A node per parameter tensor, in its shape, with the float64 variables ``total_variance``,
        ``input_part`` and ``draw_part``, the first being the sum of the others.

    Raises
    ------
    UserError
        If the estimator is biased or unknown, or the tree does not tell its variance.

    Examples
    --------
    >>> import diagfim, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> tree = diagfim.analyze(model, torch.rand(100, 3))
    >>> one, many = (diagfim.variance(tree, "score", draws=n)["0.bias"] for n in (1, 10))
    >>> bool((abs(one["draw_part"] / many["draw_part"] - 10) < 1e-9).all())
    True
    """
    number = whole("draws", draws, 1)
    count = inputs_of(tree) if inputs is None else whole("inputs", inputs, 1)
    spreads = values_of(tree, "input_variance")
    nodes = {}
    for name, of_draw in draw_variances(tree, estimator, level, weights, probes).items():
        spread = spreads[name]
        draw_part = of_draw / (count * number)
        input_part = np.zeros_like(spread) if inputs is None else spread / count
        found = {
            "total_variance": input_part + draw_part,
            "input_part": input_part,
            "draw_part": draw_part,
        }
        dims = tree.children[name].dataset["fisher"].dims
        nodes[name] = xr.Dataset(
            {key: (dims, value, arrays.description(key)) for key, value in found.items()}
        )
    root = xr.Dataset(
        attrs={
            "title": f"Exact variance of the {estimator} estimator of the Fisher diagonal",
            "source": f"diagfim {__version__}",
            "estimator": estimator,
            "draws": number,
            "inputs": count,
            "inputs_are": "fixed" if inputs is None else "drawn",
        }
    )
    return xr.DataTree.from_dict({"/": root, **nodes})


def draw_variances(
    tree: xr.DataTree,
    estimator: str,
    level: str = "parameter",
    weights: xr.DataTree | None = None,
    probes: str = "rademacher",
) -> dict[str, np.ndarray]:
    """E_x V, the variance of one draw averaged over the analysed inputs.

    Parameters
    ----------
    tree, estimator, level, weights, probes
        As for `variance`.

    Returns
    -------
    dict of str to array
        By parameter name, in its shape.

    Raises
    ------
    UserError
        As `variance`.
    """
    if estimator == "empirical":
        raise UserError(
            "estimator: 'empirical' is biased, and its labels are not drawn: no number of draws "
            f"makes it right; its variance is not defined here, but that of {', '.join(UNBIASED)}"
        )
    if estimator not in UNBIASED:
        raise UserError(f"estimator: {estimator!r} is not one of {', '.join(UNBIASED)}")
    if estimator == "exact":
        return {name: np.zeros_like(value) for name, value in values_of(tree, "fisher").items()}
    if estimator == "hutchinson":
        return _of_probes(tree, probes)
    if estimator == "mixed":
        return _of_mix(tree, level, weights)
    return values_of(tree, "variance_1" if estimator == "score" else "variance_2")


def inputs_of(tree: xr.DataTree) -> int:
    """The number of inputs that a tree of `diagfim.analyze` rests on."""
    if not isinstance(tree, xr.DataTree):
        raise UserError(f"tree: a {type(tree).__name__} is no DataTree; {_REMEDY}")
    if "inputs" not in tree.attrs:
        raise UserError(f"tree: it does not say how many inputs it rests on; {_REMEDY}")
    return int(tree.attrs["inputs"])


def values_of(tree: xr.DataTree, quantity: str) -> dict[str, np.ndarray]:
    """A quantity that `diagfim.analyze` found, by parameter name."""
    inputs_of(tree)
    for name, node in tree.children.items():
        if quantity not in node:
            raise UserError(f"tree: {name} has no {quantity}; {_REMEDY}")
    return {name: node.dataset[quantity].values for name, node in tree.children.items()}


_REMEDY = "pass what diagfim.analyze returned"


def _of_probes(tree: xr.DataTree, probes: str) -> dict[str, np.ndarray]:
    if probes not in PROBES:
        raise UserError(f"probes: {probes!r} is not one of {', '.join(PROBES)}")
    fisher = values_of(tree, "fisher")
    if probes == "gaussian":
        # E_x[2 I(x)²] = 2 (Var_x I + (E_x I)²)
        spread = values_of(tree, "input_variance")
        return {name: 2 * (spread[name] + value**2) for name, value in fisher.items()}
    if not tells(tree, PROBE):
        raise UserError(
            f"probes: the tree has no {PROBE}, which random signs need; analyze with probes=True, "
            "or pass probes='gaussian'"
        )
    return values_of(tree, PROBE)


def tells(tree: xr.DataTree, quantity: str) -> bool:
    """Whether a tree has a quantity for every parameter."""
    return all(quantity in node for node in tree.children.values())


def _of_mix(tree: xr.DataTree, level: str, given: xr.DataTree | None) -> dict[str, np.ndarray]:
    if level not in LEVELS:
        raise UserError(f"level: {level!r} is not one of {', '.join(LEVELS)}")
    v1, v2, c12 = (values_of(tree, key) for key in ("variance_1", "variance_2", "covariance_12"))
    noises = {name: Noise(v1[name], v2[name], c12[name]) for name in v1}
    if given is None:
        weights = best_weights(noises, level)
    else:
        weights = {name: _given_weight(given, name, noise) for name, noise in noises.items()}
    return {name: mix_variance(weights[name], noise) for name, noise in noises.items()}


def _given_weight(given: xr.DataTree, name: str, noise: Noise) -> np.ndarray:
    node = given.children.get(name)
    if node is None or "score_weight" not in node:
        raise UserError(
            f"weights: {name} has no score_weight; pass what diagfim.estimate returned for 'mixed'"
        )
    found = np.asarray(node.dataset["score_weight"].values)
    if found.shape != noise.variance_1.shape:
        raise UserError(
            f"weights: {name} has the shape {found.shape}, but {noise.variance_1.shape} in the "
            "tree; pass an estimate for the same model"
        )
    return found
