"""The unbiased mix w Î1 + (1 − w) Î2 of least variance, by parameter or by layer.

Both estimators have the mean I, and so has any mix whose weights do not depend on its draws.  A
layer is what the parameters of one module make up, such as the weight and bias of an affine map.
"""

from collections.abc import Mapping
from typing import NamedTuple

from array_api_compat import array_namespace

from diagfim.arrays import layer_of
from diagfim.derivatives.factored import Array

LEVELS = ("parameter", "layer")
"""What may have a weight of its own."""


class Noise(NamedTuple):
    """Variances of both estimators and their covariance, of one parameter tensor, each its shape.

    Exact or estimated, per draw of y or not: the best weight is the same.
    """

    variance_1: Array
    variance_2: Array
    covariance_12: Array


def best_weights(noises: Mapping[str, Noise], level: str = "parameter") -> dict[str, Array]:
    """Weights w of the score-based estimator for which the mix varies least.

    Per parameter w = (V2 − C12)/(V1 + V2 − 2 C12); per layer both sides of the fraction are sums
    over its parameters, which minimises the sum of their variances.  Where the two estimators are
    the same, and so is any mix, w is ½.

    Parameters
    ----------
    noises : mapping of str to Noise
        By parameter name.
    level : {"parameter", "layer"}

    Returns
    -------
    dict of str to array
        By parameter name, in the shape of its variances.

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.mixing import Noise, best_weights
    >>> noise = Noise(np.array([1.0, 2.0]), np.array([3.0, 0.0]), np.zeros(2))
    >>> best_weights({"0.bias": noise})["0.bias"].tolist()
    [0.75, 0.0]
    >>> best_weights({"0.bias": noise}, "layer")["0.bias"].tolist()
    [0.5, 0.5]
    """
    above = {name: v2 - c12 for name, (_, v2, c12) in noises.items()}
    spread = {name: v1 + v2 - 2 * c12 for name, (v1, v2, c12) in noises.items()}
    if level == "layer":
        above, spread = _by_layer(above), _by_layer(spread)
    found = {}
    for name, under in spread.items():
        xp = array_namespace(under)
        positive = under > 0  # the variance of Î1 − Î2
        ratio = above[name] / xp.where(positive, under, xp.ones_like(under))
        found[name] = xp.where(positive, ratio, xp.full_like(under, 0.5))
    return found


def mix_variance(weight: Array, noise: Noise) -> Array:
    """Variance of the mix at given weights: w² V1 + (1 − w)² V2 + 2 w (1 − w) C12.

    Parameters
    ----------
    weight : array
        w, in the shape of the variances or broadcast against them.
    noise : Noise

    Returns
    -------
    array, in the shape of the variances
        In their units, per draw if they are; never negative.

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.mixing import Noise, mix_variance
    >>> noise = Noise(np.array([1.0]), np.array([3.0]), np.zeros(1))
    >>> mix_variance(np.array([0.75]), noise).tolist()
    [0.75]
    """
    v1, v2, c12 = noise
    other = 1 - weight
    xp = array_namespace(v1)
    # Where the mix has no noise at all, rounding may leave a little on either side of zero.
    return xp.clip(weight * weight * v1 + other * other * v2 + 2 * weight * other * c12, 0.0)


def _by_layer(values: Mapping[str, Array]) -> dict[str, Array]:
    """Every value replaced by the sum over its layer."""
    totals: dict[str, Array] = {}
    for name, value in values.items():
        xp = array_namespace(value)
        layer = layer_of(name)
        totals[layer] = totals.get(layer, 0.0) + xp.sum(value)
    return {
        name: array_namespace(value).zeros_like(value) + totals[layer_of(name)]
        for name, value in values.items()
    }
