"""Exact Fisher information and estimator variances per parameter: at given inputs, and over many.

`conditional` keeps the samples apart; `Population` averages over a stream of batches and adds the
variance over the inputs, which Theorem 4.7 needs; `PopulationTails` follows how far single draws
reach.  All start from factored derivatives.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from array_api_compat import array_namespace

from diagfim.derivatives.factored import AffineFactors, Array, Derivatives, Linearised, split_each
from diagfim.errors import UserError
from diagfim.families import Categorical, Family, Outcomes

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

QUANTITIES = ("fisher", "input_variance", "variance_1", "variance_2", "covariance_12")
"""What `Population` finds of every parameter; the last three are per draw of y."""

PROBE = "variance_probe"
"""What `Population` adds where probes are asked for: the variance along random signs."""

State = TypeVar("State")
Parts = dict[str, dict[int, State]]
"""What is kept by parameter, then by the start of each of its blocks."""

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
        For each parameter tensor, every key of `POWERS` as an array ``(n, *shape)`` of it, per
        draw of y.
    layers : dict of str to dict of str to array
        For each weight name, (n,) arrays: the arithmetic means of the four moments over the
        parameters of its layer (weight and bias), and ``average_variance_1`` and
        ``average_variance_2``, the variances of the estimators averaged over those parameters.
    """
    parameters: Labelled = {}
    layers: Labelled = {}
    directions = family.directions(derivatives.outputs)
    for layer in derivatives.pull(directions, directions):
        along = derivatives.outputs, layer.first, layer.second
        outcomes = family.outcomes(*along)
        lefts = vars(family.moments(*along)) | vars(outcomes.tails())
        xp = array_namespace(outcomes.fisher)
        means = layers[layer.weight] = {}
        for quantity, power in POWERS.items():
            left = lefts[quantity]
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

    Everything is a sum of float64 arrays in the size of the parameters, centred at the first batch,
    so that neither the batches nor their order matter beyond rounding and memory does not grow.

    Parameters
    ----------
    family : Family
        Output distribution.
    tails : bool
        Whether to follow the tails of single draws as well; categorical families only, and about as
        costly again.
    probes : bool
        Whether to find the variance of a Rademacher probe of Hutchinson's estimator as well, which
        takes as many directions of first derivatives again.

    Examples
    --------
    >>> import torch
    >>> from diagfim.derivatives.dense import Chain
    >>> from diagfim.families import Categorical
    >>> from diagfim.moments import Population
    >>> model = torch.nn.Linear(3, 2).double()
    >>> population = Population(Categorical())
    >>> for batch in torch.rand(4, 3, dtype=torch.float64).split(2):
    ...     population.update(Chain(model).at(batch))
    >>> parameters, layers = population.result()
    >>> parameters["weight"]["fisher"].shape, parameters["bias"]["input_variance"].shape
    (torch.Size([2, 3]), torch.Size([2]))
    """

    def __init__(self, family: Family, tails: bool = False, probes: bool = False) -> None:
        self.family = family
        self.quantities = (*QUANTITIES, PROBE) if probes else QUANTITIES
        self.count = 0
        self._sums: Parts[BlockSums] = {}
        self._tails: Parts[BlockTails] = {}
        self._wants_tails = tails

    def update(self, at: Linearised) -> None:
        """Add the inputs of one batch; an empty one adds nothing."""
        n = at.outputs.shape[0]
        if n == 0:
            return
        directions = first = self.family.directions(at.outputs)
        size = directions.shape[1]
        probes = PROBE in self.quantities
        if probes:
            xp = array_namespace(at.outputs)
            first = xp.concat([directions, self.family.root(at.outputs)], axis=1)
        for block in at.pull(first, directions):
            along = at.outputs, block.first[:, :size], block.second
            moments = self.family.moments(*along)
            further = [moments.variance_1, moments.variance_2, moments.covariance_12]
            if probes:
                further.append(_probe_variance(block.first[:, size:]))
            sums = part(self._sums, block, BlockSums)
            sums.update(block, [moments.fisher], further)
            if self._wants_tails:
                assert isinstance(self.family, Categorical)
                part(self._tails, block, BlockTails).update(block, self.family.outcomes(*along))
        self.count += n

    def result(self) -> tuple[Labelled, Labelled]:
        """Moments over the inputs seen, each weighing the same.

        Returns
        -------
        parameters : dict of str to dict of str to array
            By parameter: ``fisher``, ``variance_1``, ``variance_2``, ``covariance_12`` (means over
            inputs, per draw of y) and ``input_variance`` (divided by the number of inputs); weights
            as (units, fan_in), biases as (units,), other parameters flat as (entries, 1).  With
            tails, ``excess_kurtosis_1``, ``excess_kurtosis_2``, ``range_1`` and ``range_2`` of the
            estimates from one draw of (x, y), the ranges as upper bounds.  With probes,
            ``variance_probe``.
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
        for weight, parts in self._sums.items():
            found = {}
            for start, sums in parts.items():
                [of_fisher], further = sums.result()
                found[start] = dict(zip(self.quantities, (*of_fisher, *further), strict=True))
            for start, tails in self._tails.get(weight, {}).items():
                found[start] |= tails.result(found[start])
            full = join(found)
            layers[weight] = {quantity: full[quantity].mean() for quantity in QUANTITIES}
            parameters |= split_each(parts[0].layout, full)
        return parameters, layers


def _probe_variance(first: Array) -> Array:
    """Variance of (Σ_k ξ_k f_k)² over signs ξ, 4 Σ_{j<k} f_j² f_k²: (n, K, units) to (n, units).

    It is 2 ((Σ_k f_k²)² − Σ_k f_k⁴) (Sun 2025), without the difference, which cancels where one
    direction holds nearly all of the information.
    """
    xp = array_namespace(first)
    squares = first * first
    before = xp.cumulative_sum(squares, axis=1)[:, :-1]
    return 4 * xp.sum(squares[:, 1:] * before, axis=1)


class BlockSums:
    """Sums over inputs for one block: of left_i b_j, of its square, and of further lefts by b_j².

    Here b = a², the squared inputs of the affine map.  Two ways lead to the variance of l b, each
    where the other one cancels.  Where l b varies by much of itself, as on pixels that are lit in a
    few images, E[(l b)²] − E[l b]² keeps every digit, however small the entry.  Where it hardly
    varies, it is centred: with λ = l − l₀ and β = b − b₀ about the means of the first batch,
    l b − l₀ b₀ = λ b + l₀ β, whose square needs products of λ² with b² and of λ with b β only.
    """

    def __init__(self) -> None:
        self.count = 0

    def update(
        self, block: AffineFactors, lefts: Sequence[Array], further: Sequence[Array] = ()
    ) -> None:
        """Add the inputs of one batch.

        Parameters
        ----------
        block : AffineFactors
        lefts : sequence of array, (n, units)
            Left factors that go with b, whose means and variances over the inputs are wanted.
        further : sequence of array, (n, units)
            Left factors that go with b², whose means are wanted.
        """
        xp = array_namespace(*lefts)
        left = lefts[0] if len(lefts) == 1 else xp.concat(list(lefts), axis=1)
        b = block.powers(2)
        if self.count == 0:
            self.layout = block.layout
            self._of = len(lefts), len(further)
            self._left, self._b = xp.mean(left, axis=0), xp.mean(b, axis=0)
        lam, beta = left - self._left, b - self._b
        sums = [
            _product([left * left, lam * lam, *further], b * b),
            _product([left], b),
            _product([lam], b * beta),
            xp.sum(beta * beta, axis=0),
        ]
        if self.count == 0:
            self._sums = sums
        else:
            if self._sums[0].dtype != xp.float64:
                self._sums = [xp.astype(one, xp.float64) for one in self._sums]
            for total, one in zip(self._sums, sums, strict=True):
                total += one
        self.count += left.shape[0]

    def result(self) -> tuple[list[tuple[Array, Array]], list[Array]]:
        """Means and variances over inputs of lefts by b, and means of the further ones by b²."""
        xp = array_namespace(self._left)
        lefts, further = self._of
        l_ = xp.astype(self._left, xp.float64)[:, None]
        b_ = xp.astype(self._b, xp.float64)
        # In place: these arrays are as large as the parameters, and there are many steps.
        by_square, mean, centred, of_beta = (
            xp.astype(one, xp.float64, copy=True) for one in self._sums
        )
        for one in (by_square, mean, centred, of_beta):
            one /= self.count
        height = len(l_)
        centred *= 2 * l_
        centred += by_square[height : 2 * height]
        centred += l_ * l_ * of_beta
        shift = mean - l_ * b_
        shift *= shift
        centred -= shift
        square = mean * mean
        variance = by_square[:height] - square
        variance = xp.where(variance > _WIDE * square, variance, xp.clip(centred, 0.0))
        return (
            list(zip(_cut(mean, lefts), _cut(variance, lefts), strict=True)),
            _cut(by_square[2 * height :], further),
        )


_WIDE = 0.1
"""Squared coefficient of variation from which on nothing is lost by not centring."""


class BlockMeans:
    """What is left of `BlockSums` when only the means are wanted, at a third of the work."""

    def __init__(self) -> None:
        self.count = 0

    def update(
        self, block: AffineFactors, lefts: Sequence[Array], further: Sequence[Array] = ()
    ) -> None:
        """Add the inputs of one batch; see `BlockSums.update`."""
        b = block.powers(2)
        sums = [_product([left], b) for left in lefts]
        sums += [_product([left], b * b) for left in further]
        xp = array_namespace(b)
        if self.count == 0:
            self.layout = block.layout
            self._number = len(lefts)
            self._sums = [xp.astype(one, xp.float64, copy=False) for one in sums]
        else:
            for total, one in zip(self._sums, sums, strict=True):
                total += one
        self.count += lefts[0].shape[0]

    def result(self) -> tuple[list[tuple[Array, None]], list[Array]]:
        """Means over inputs of the lefts by b, without variances, and of the further ones by b²."""
        means = [one / self.count for one in self._sums]
        return [(mean, None) for mean in means[: self._number]], means[self._number :]


def _product(lefts: Sequence[Array], columns: Array) -> Array:
    """Σ_n left_ni column_nj for several left factors, stacked: one matrix product."""
    xp = array_namespace(columns)
    stacked = lefts[0] if len(lefts) == 1 else xp.concat(list(lefts), axis=1)
    return xp.matmul(xp.matrix_transpose(stacked), columns)


def _cut(stacked: Array, into: int) -> list[Array]:
    """Equal slices of the rows."""
    height = stacked.shape[0] // max(into, 1)
    return [stacked[k * height : (k + 1) * height] for k in range(into)]


class BlockTails:
    """Raw third and fourth moments and largest draws over inputs and labels, for one block.

    The kurtosis that raw moments give is right where the law is far from normal, which is where a
    standard error needs it; where sd / mean < 1e-3 it loses its digits.
    """

    def __init__(self) -> None:
        self.count = 0
        self._powers: dict[int, Array] = {3: 0.0, 4: 0.0}
        self._largest_input: Array = 0.0
        self._largest_draw: list[Array] = [0.0, 0.0]

    def update(self, block: AffineFactors, outcomes: Outcomes) -> None:
        """Add the inputs of one batch."""
        xp = array_namespace(outcomes.fisher)
        sigma = outcomes.probabilities[:, :, None]
        cubes = [draw * draw * draw for draw in outcomes.draws]
        for power, values in (
            (3, cubes),
            (4, [cube * draw for cube, draw in zip(cubes, outcomes.draws, strict=True)]),
        ):
            lefts = xp.stack([xp.sum(sigma * value, axis=1) for value in values])
            self._powers[power] = self._powers[power] + block.total(lefts, 2 * power)
        first = self.count == 0
        for j, draw in enumerate(outcomes.draws):
            largest = xp.max(xp.max(xp.abs(draw), axis=1), axis=0)
            self._largest_draw[j] = largest if first else xp.maximum(self._largest_draw[j], largest)
        squares = xp.max(block.powers(2), axis=0)
        self._largest_input = squares if first else xp.maximum(self._largest_input, squares)
        self.count += outcomes.fisher.shape[0]

    def result(self, moments: dict[str, Array]) -> dict[str, Array]:
        """Kurtoses and bounds on the ranges, given the result of `BlockSums` by `QUANTITIES`."""
        found = {}
        mean = moments["fisher"]
        xp = array_namespace(mean)
        for j in (0, 1):
            variance = moments["input_variance"] + moments[f"variance_{j + 1}"]
            third, fourth = (self._powers[power][j] / self.count for power in (3, 4))
            central = fourth - 4 * third * mean + 6 * (variance + mean**2) * mean**2 - 3 * mean**4
            positive = variance > 0
            safe = xp.where(positive, variance, xp.ones_like(variance))
            # An excess kurtosis is never below −2, but rounding may take it there.
            kurtosis = xp.clip(central / safe / safe - 3, -2.0)
            found[f"excess_kurtosis_{j + 1}"] = xp.where(positive, kurtosis, xp.zeros_like(safe))
            found[f"range_{j + 1}"] = (
                self._largest_draw[j][:, None] * self._largest_input[None, :] + mean
            )
        return found


def part(parts: Parts[State], block: AffineFactors, create: Callable[[], State]) -> State:
    """The state kept for a block of a parameter, created when the block first comes."""
    of_parameter = parts.setdefault(block.weight, {})
    if block.start not in of_parameter:
        of_parameter[block.start] = create()
    return of_parameter[block.start]


def join(parts: Mapping[int, Mapping[str, Array]]) -> dict[str, Array]:
    """Put the parts of a parameter together, by quantity: (units, columns)."""
    ordered = [values for _, values in sorted(parts.items())]
    if len(ordered) == 1:
        return dict(ordered[0])
    return {
        quantity: array_namespace(values).concat([one[quantity] for one in ordered])
        for quantity, values in ordered[0].items()
    }


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
