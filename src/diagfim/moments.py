"""Exact Fisher information and estimator variances per parameter: at given inputs, and over many.

`conditional` keeps the samples apart; `Population` averages over a stream of batches and adds the
variance over the inputs, which Theorem 4.7 needs.  Both start from factored derivatives.
"""

import numpy as np
from array_api_compat import array_namespace

from diagfim.derivatives.factored import AffineFactors, Array, Derivatives
from diagfim.errors import UserError
from diagfim.families import Categorical, ConditionalMoments, Outcomes

POWERS = {
    "fisher": 2,
    "variance_1": 4,
    "variance_2": 4,
    "covariance_12": 4,
    "excess_kurtosis_1": 0,
    "excess_kurtosis_2": 0,
    "range_1": 2,
    "range_2": 2,
}
"""Power of the layer's inputs that each conditional moment carries beside its factor per unit."""

AVERAGED = ("fisher", "variance_1", "variance_2", "covariance_12")
"""The conditional moments whose average over parameters or inputs means something."""

Labelled = dict[str, dict[str, Array]]
"""Values by parameter name, then by quantity."""


def conditional(derivatives: Derivatives, family: Categorical) -> tuple[Labelled, Labelled]:
    """Exact conditional moments of every parameter at every input (Lemma 3.1).

    Parameters
    ----------
    derivatives : Derivatives
        Of n inputs.
    family : Categorical
        Output distribution.

    Returns
    -------
    parameters : dict of str to dict of str to array
        For each parameter tensor, every key of `POWERS` as an array (n, *shape of the tensor), per
        draw of y.
    layers : dict of str to dict of str to array
        For each weight name, (n,) arrays: the arithmetic means of the four moments over the
        parameters of its layer (weight and bias), and ``average_variance_1`` and
        ``average_variance_2``, the variances of the estimators averaged over those parameters.
    """
    parameters: Labelled = {}
    layers: Labelled = {}
    for layer in derivatives.layers:
        outcomes = family.outcomes(derivatives.outputs, layer.first, layer.second)
        moments = family.moments(outcomes)
        xp = array_namespace(moments.fisher)
        means = layers[layer.weight] = {}
        for quantity, power in POWERS.items():
            left = getattr(moments, quantity)
            for name, value in layer.expand(left, power).items():
                parameters.setdefault(name, {})[quantity] = value
            if quantity in AVERAGED:
                means[quantity] = layer.average(left, power)
        score = outcomes.score - outcomes.fisher[:, None, :]
        for quantity, centred in (
            ("average_variance_1", score),
            ("average_variance_2", outcomes.hessian),
        ):
            average = layer.average(xp.moveaxis(centred, 1, 0), 2)
            sigma = xp.matrix_transpose(outcomes.probabilities)
            means[quantity] = xp.sum(sigma * average**2, axis=0)
    return parameters, layers


class Population:
    """Streamed moments over inputs: means of I, V1, V2 and C12, and the variance of I.

    Batches are merged by their means and centred second moments (Chan et al. 1983), so the result
    does not depend on the batch size beyond rounding; memory is a few arrays of the size of the
    parameters.

    Parameters
    ----------
    family : Categorical
        Output distribution.

    Examples
    --------
    >>> import torch
    >>> from diagfim.derivatives.dense import derivatives
    >>> from diagfim.families import Categorical
    >>> from diagfim.moments import Population
    >>> model = torch.nn.Linear(3, 2).double()
    >>> population = Population(Categorical())
    >>> for batch in torch.ones(4, 3, dtype=torch.float64).split(2):
    ...     population.update(derivatives(model, batch))
    >>> parameters, layers = population.result()
    >>> parameters["weight"]["fisher"].shape, parameters["bias"]["input_variance"].shape
    (torch.Size([2, 3]), torch.Size([2]))
    """

    def __init__(self, family: Categorical) -> None:
        self.family = family
        self.count = 0
        self._layers: dict[str, _PopulationLayer] = {}

    def update(self, derivatives: Derivatives) -> None:
        """Add the inputs of one batch; an empty one adds nothing."""
        n = derivatives.outputs.shape[0]
        if n == 0:
            return
        for layer in derivatives.layers:
            outcomes = self.family.outcomes(derivatives.outputs, layer.first, layer.second)
            state = self._layers.setdefault(layer.weight, _PopulationLayer())
            state.update(layer, outcomes, self.family.moments(outcomes), self.count)
        self.count += n

    def result(self) -> tuple[Labelled, Labelled]:
        """Moments over the inputs seen, each weighing the same.

        Returns
        -------
        parameters : dict of str to dict of str to array
            By parameter, in its shape: ``fisher``, ``variance_1``, ``variance_2``,
            ``covariance_12`` (means over inputs, per draw of y) and ``input_variance`` (divided by
            the number of inputs); ``excess_kurtosis_1``, ``excess_kurtosis_2``, ``range_1`` and
            ``range_2`` of the estimates from one draw of (x, y), the ranges as upper bounds.
        layers : dict of str to dict of str to array
            By weight name: averages of the first five over the parameters of the layer, ().

        Raises
        ------
        UserError
            If no input was seen.
        """
        if self.count == 0:
            raise UserError("inputs: none were given; pass at least one input")
        parameters: Labelled = {}
        layers: Labelled = {}
        for weight, state in self._layers.items():
            full = state.result(self.count)
            for quantity, value in full.items():
                for name, part in state.layer.split(value).items():
                    parameters.setdefault(name, {})[quantity] = part
            layers[weight] = {
                quantity: full[quantity].mean() for quantity in (*AVERAGED, "input_variance")
            }
        return parameters, layers


class _PopulationLayer:
    """The running moments of one layer; every array is (units, columns of the inputs)."""

    layer: AffineFactors

    def __init__(self) -> None:
        self.mean: dict[str, Array] = {}
        self.spread: Array = 0.0
        self.powers: dict[int, Array] = {}
        self.largest_input: Array = 0.0
        self.largest_draw: list[Array] = [0.0, 0.0]

    def update(
        self, layer: AffineFactors, outcomes: Outcomes, moments: ConditionalMoments, before: int
    ) -> None:
        xp = array_namespace(moments.fisher)
        n = moments.fisher.shape[0]
        total = before + n
        self.layer = layer
        sums = {"fisher": layer.total(moments.fisher, 2)}
        fourth = ("variance_1", "variance_2", "covariance_12")
        lefts = xp.stack([getattr(moments, quantity) for quantity in fourth])
        sums |= dict(zip(fourth, layer.total(lefts, 4), strict=True))
        for quantity, value in sums.items():
            shift = value / n - self.mean.get(quantity, 0.0)
            if quantity == "fisher":
                within = _centred_squares(layer, moments.fisher)
                self.spread = self.spread + within + shift * shift * (before * n / total)
            self.mean[quantity] = self.mean.get(quantity, 0.0) + shift * (n / total)
        # Raw moments: the kurtosis that they give is right where the law is far from normal, which
        # is where a standard error needs it; where sd / mean < 1e-3 it loses its digits.
        sigma = outcomes.probabilities[:, :, None]
        cubes = [draw * draw * draw for draw in outcomes.draws]
        for power, values in (
            (3, cubes),
            (4, [cube * draw for cube, draw in zip(cubes, outcomes.draws, strict=True)]),
        ):
            lefts = xp.stack([xp.sum(sigma * value, axis=1) for value in values])
            self.powers[power] = self.powers.get(power, 0.0) + layer.total(lefts, 2 * power)
        for j, draw in enumerate(outcomes.draws):
            largest = xp.max(xp.max(xp.abs(draw), axis=1), axis=0)
            self.largest_draw[j] = (
                largest if before == 0 else xp.maximum(self.largest_draw[j], largest)
            )
        squares = xp.max(layer.powers(2), axis=0)
        self.largest_input = squares if before == 0 else xp.maximum(self.largest_input, squares)

    def result(self, count: int) -> dict[str, Array]:
        input_variance = self.spread / count
        found = {**self.mean, "input_variance": input_variance}
        mean = self.mean["fisher"]
        xp = array_namespace(mean)
        for j in (0, 1):
            variance = input_variance + self.mean[f"variance_{j + 1}"]
            third, fourth = (self.powers[power][j] / count for power in (3, 4))
            central = fourth - 4 * third * mean + 6 * (variance + mean**2) * mean**2 - 3 * mean**4
            positive = variance > 0
            safe = xp.where(positive, variance, xp.ones_like(variance))
            # An excess kurtosis is never below −2, but rounding may take it there.
            kurtosis = xp.clip(central / safe / safe - 3, -2.0)
            found[f"excess_kurtosis_{j + 1}"] = xp.where(positive, kurtosis, xp.zeros_like(safe))
            found[f"range_{j + 1}"] = (
                self.largest_draw[j][:, None] * self.largest_input[None, :] + mean
            )
        return found


def _centred_squares(layer: AffineFactors, left: Array) -> Array:
    """Σ_n (l_ni b_nj − mean)² for l the left factor and b the squared inputs, without cancellation.

    With l = l̄ + λ and b = b̄ + β, l b − l̄ b̄ = l̄ β + λ b̄ + λ β, whose square has six terms: sums of
    products of λ, λ², β, β², all small when l b hardly varies.  One product of the stacked factors
    gives the four mixed ones.
    """
    xp = array_namespace(left)
    n, units = left.shape
    b = layer.powers(2)
    l_mean, b_mean = xp.mean(left, axis=0), xp.mean(b, axis=0)
    lam, beta = left - l_mean, b - b_mean
    mixed = xp.matmul(
        xp.matrix_transpose(xp.concat([lam, lam**2], axis=1)), xp.concat([beta, beta**2], axis=1)
    )
    fan_in = b.shape[1]
    lb, lbb = mixed[:units, :fan_in], mixed[:units, fan_in:]
    llb, llbb = mixed[units:, :fan_in], mixed[units:, fan_in:]
    l_, b_ = l_mean[:, None], b_mean[None, :]
    about_product = (
        l_**2 * xp.sum(beta**2, axis=0)[None, :]
        + b_**2 * xp.sum(lam**2, axis=0)[:, None]
        + llbb
        + 2 * (l_ * b_ * lb + l_ * lbb + b_ * llb)
    )
    # The terms above are centred at l̄ b̄; the mean of l b is lb / n away from it.
    spread = about_product - lb**2 / n
    return xp.where(spread > 0, spread, xp.zeros_like(spread))


class Running:
    """Mean and variance of a stream of equal-shaped arrays, in float64, centred (Welford 1962).

    One value at a time, so that a thousand repetitions of a network's estimates never lie in memory
    together.

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.moments import Running
    >>> running = Running()
    >>> for value in (1.0, 2.0, 6.0):
    ...     running.update(np.array([value]))
    >>> float(running.mean[0]), float(running.variance[0])
    (3.0, 7.0)
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: np.ndarray = np.zeros(())
        self._squares: np.ndarray = np.zeros(())

    def update(self, value: np.ndarray) -> None:
        """Add one array."""
        self.count += 1
        shift = value - self.mean
        self.mean = self.mean + shift / self.count
        self._squares = self._squares + shift * (value - self.mean)

    @property
    def variance(self) -> np.ndarray:
        """Unbiased sample variance (divided by count − 1)."""
        return self._squares / (self.count - 1)
