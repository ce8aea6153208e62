"""Estimators of the Fisher diagonal from N draws at each input, with their standard errors.

Each names the directions along which it needs derivatives and makes of them its value at every
input; the mean over the inputs is the estimate, and their spread its error.  By Theorem 4.7 that
spread holds both what the inputs and what the draws contribute.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace

from diagfim.derivatives.factored import AffineFactors, Array, Linearised, split_each
from diagfim.errors import UserError
from diagfim.families import Family
from diagfim.moments import BlockMeans, BlockSums, Labelled, Parts, join, part
from diagfim.seeding import InputStreams
from diagfim.streams import Batch


@dataclass(frozen=True)
class Plan:
    """What an estimator needs of a batch.

    Attributes
    ----------
    first : array, (n, K, T)
        Directions of the first derivatives.
    second : array, (n, K', T), or None
        Directions of the second derivatives.
    values : callable
        From the derivatives of a block, the left factors (n, units) whose means and variances over
        the inputs are wanted, and those that go with the fourth power of the inputs, as for
        `BlockSums.update`.
    """

    first: Array
    second: Array | None
    values: Callable[[AffineFactors], tuple[list[Array], list[Array]]]


class Estimator(ABC):
    """A mean over the inputs of one value each, streamed.

    Parameters
    ----------
    family : Family
        Output distribution.
    draws : int
        N, draws at each input.
    seed : int
    errors : bool
        Whether standard errors are wanted; without them, less than half of the sums are needed.
    """

    curved = False
    """Whether second derivatives are needed."""

    def __init__(self, family: Family, draws: int, seed: int, errors: bool = True) -> None:
        self.family = family
        self.draws = draws
        self.seed = seed
        self.count = 0
        self._kind: type[BlockSums] | type[BlockMeans] = BlockSums if errors else BlockMeans
        self._sums: Parts[BlockSums | BlockMeans] = {}

    @abstractmethod
    def plan(self, outputs: Array, batch: Batch) -> Plan:
        """What to differentiate, and what to make of it."""

    def streams(self, batch: Batch) -> InputStreams:
        """The random streams of the inputs of a batch."""
        return InputStreams(self.seed, batch.start, len(batch.inputs))

    def update(self, at: Linearised, batch: Batch) -> None:
        """Add the inputs of one batch."""
        plan = self.plan(at.outputs, batch)
        for block in at.pull(plan.first, plan.second):
            part(self._sums, block, self._kind).update(block, *plan.values(block))
        self.count += len(batch.inputs)

    def result(self) -> Labelled:
        """By parameter: ``fisher`` and, if wanted, its ``standard_error``.

        Returns
        -------
        dict of str to dict of str to array
            Shaped as by `Population.result`.

        Raises
        ------
        UserError
            If no input was seen.
        """
        if self.count == 0:
            raise UserError("inputs: none were given; pass at least one input")
        found: Labelled = {}
        for parts in self._sums.values():
            full = join({start: self.of_block(sums) for start, sums in parts.items()})
            found |= split_each(parts[0].parameters, full)
        return found

    def of_block(self, sums: BlockSums | BlockMeans) -> dict[str, Array]:
        """The estimate and its standard error: the mean over the inputs, and from their spread."""
        [(fisher, variance)], _ = sums.result()
        if variance is None:
            return {"fisher": fisher}
        return {"fisher": fisher, "standard_error": self._error(variance)}

    def _error(self, variance: Array) -> Array:
        """Standard error from the variance over the inputs; one input does not tell."""
        xp = array_namespace(variance)
        if self.count == 1:
            return xp.full_like(variance, float("nan"))
        return xp.sqrt(variance / (self.count - 1))


class Score(Estimator):
    """Î1: the mean squared gradient of log p at y drawn from the model (Eq. 3)."""

    def plan(self, outputs: Array, batch: Batch) -> Plan:
        """One direction per draw, and no more than the scatter of the draws needs."""
        drawn = self.family.draw(outputs, self.draws, self.streams(batch))
        return Plan(
            drawn.directions, None, lambda block: ([_squares(block.first, drawn.weights)], [])
        )


class Hessian(Estimator):
    """Î2: the mean diagonal of −∂² log p at y drawn from the model (Eq. 3); it may be negative."""

    curved = True

    def plan(self, outputs: Array, batch: Batch) -> Plan:
        """I and, the Hessian being linear in the draws, one direction for their mean."""
        drawn = self.family.draw(outputs, self.draws, self.streams(batch))

        def values(block: AffineFactors) -> tuple[list[Array], list[Array]]:
            fisher = _squares(block.first)
            return [fisher if block.second is None else fisher - block.second[:, 0]], []

        return Plan(self.family.root(outputs), drawn.mean[:, None, :], values)


class Exact(Estimator):
    """The conditional information itself, averaged over y in closed form (Rao and Blackwell)."""

    def plan(self, outputs: Array, batch: Batch) -> Plan:
        """As many directions as I(h|x) has rank."""
        return Plan(self.family.root(outputs), None, lambda block: ([_squares(block.first)], []))


class Empirical(Estimator):
    """The mean squared gradient of log p at the labels of the data (Section 6)."""

    def plan(self, outputs: Array, batch: Batch) -> Plan:
        """One direction per input."""
        if batch.labels is None:
            raise UserError(
                "labels: the empirical estimator needs those of the data; pass labels=, or batches "
                "of (inputs, labels)"
            )
        residuals = self.family.residuals(outputs, batch.labels)
        return Plan(residuals[:, None, :], None, lambda block: ([_squares(block.first)], []))


class Hutchinson(Estimator):
    """The squared gradient along random signs: (Σ_k ξ_k d_kᵀ ∂h)², d the root of I (Sun 2025)."""

    def plan(self, outputs: Array, batch: Batch) -> Plan:
        """One direction per draw of signs."""
        xp = array_namespace(outputs)
        root = self.family.root(outputs)
        uniforms = self.streams(batch).uniforms(self.draws * root.shape[1])
        signs = np.where(uniforms < 0.5, -1.0, 1.0) / self.draws**0.5
        noise = xp.asarray(
            signs.reshape(len(signs), self.draws, -1), dtype=outputs.dtype, device=outputs.device
        )
        return Plan(xp.matmul(noise, root), None, lambda block: ([_squares(block.first)], []))


class Mixed(Estimator):
    """w Î1 + (1 − w) Î2 from the same draws, with the weight of least variance per parameter.

    w = (V2 − C12)/(V1 + V2 − 2 C12), from the exact moments averaged over these inputs: it does not
    depend on the draws, so that the mean stays unbiased given the inputs.
    """

    curved = True

    def plan(self, outputs: Array, batch: Batch) -> Plan:
        """Directions of the moments and of the draws, one after the other."""
        xp = array_namespace(outputs)
        drawn = self.family.draw(outputs, self.draws, self.streams(batch))
        every = self.family.directions(outputs)
        size = every.shape[1]

        def values(block: AffineFactors) -> tuple[list[Array], list[Array]]:
            bent = block.second
            moments = self.family.moments(
                outputs, block.first[:, :size], None if bent is None else bent[:, :size]
            )
            score = _squares(block.first[:, size:], drawn.weights)
            hessian = moments.fisher if bent is None else moments.fisher - bent[:, size]
            further = [moments.variance_1, moments.variance_2, moments.covariance_12]
            return [score, hessian, moments.fisher], further

        return Plan(
            xp.concat([every, drawn.directions], axis=1),
            xp.concat([every, drawn.mean[:, None, :]], axis=1),
            values,
        )

    def of_block(self, sums: BlockSums | BlockMeans) -> dict[str, Array]:
        """Theorem 4.7 with the exact variance of the mix."""
        [(score, _), (hessian, _), (_, input_variance)], (v1, v2, c12) = sums.result()
        xp = array_namespace(score)
        spread = v1 + v2 - 2 * c12  # of Î1 − Î2: zero where the two are the same, so is any mix
        weight = xp.where(spread > 0, (v2 - c12) / xp.where(spread > 0, spread, 1.0), 0.5)
        fisher = weight * score + (1 - weight) * hessian
        if input_variance is None:
            return {"fisher": fisher}
        variance = weight**2 * v1 + (1 - weight) ** 2 * v2 + 2 * weight * (1 - weight) * c12
        of_draws = variance / (self.draws * self.count)
        return {
            "fisher": fisher,
            "standard_error": xp.sqrt(self._error(input_variance) ** 2 + of_draws),
        }


def _squares(first: Array, weights: Array | None = None) -> Array:
    """Sum over the directions of the squared derivatives, weighted or not: (n, units)."""
    xp = array_namespace(first)
    squares = first * first
    if weights is None:
        return xp.sum(squares, axis=1)
    return xp.matmul(weights[:, None, :], squares)[:, 0]


ESTIMATORS: dict[str, type[Estimator]] = {
    "score": Score,
    "hessian": Hessian,
    "mixed": Mixed,
    "exact": Exact,
    "empirical": Empirical,
    "hutchinson": Hutchinson,
}
"""By the name that `diagfim.estimate` knows them by."""
