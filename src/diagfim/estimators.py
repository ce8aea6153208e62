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
from scipy import special

from diagfim.derivatives.factored import AffineFactors, Array, Linearised, split_each
from diagfim.errors import UserError
from diagfim.families import Family
from diagfim.mixing import LEVELS, Noise, best_weights, mix_variance
from diagfim.moments import BlockMeans, BlockSums, Labelled, Parts, join, part
from diagfim.seeding import InputStreams, integer
from diagfim.streams import Batch


def whole(name: str, value: object, least: int) -> int:
    """The whole number that a user gave for a key.

    Raises
    ------
    UserError
        If it is none, or is below the least one allowed.

    Examples
    --------
    >>> from diagfim.estimators import whole
    >>> whole("draws", 0, 1)
    Traceback (most recent call last):
    diagfim.errors.UserError: draws: 0 is not an integer of at least 1
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise UserError(f"{name}: {value!r} is not an integer of at least {least}")
    return int(value)


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

    labels = "model"
    """Where the labels come from: drawn from the "model", given with the "data", or "none"."""

    quantities: tuple[str, ...] = ("fisher",)
    """What `result` holds beside the standard error."""

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
            found |= split_each(parts[0].layout, full)
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

    labels = "none"

    def plan(self, outputs: Array, batch: Batch) -> Plan:
        """As many directions as I(h|x) has rank."""
        return Plan(self.family.root(outputs), None, lambda block: ([_squares(block.first)], []))


class Empirical(Estimator):
    """The mean squared gradient of log p at the labels of the data (Section 6)."""

    labels = "data"

    def plan(self, outputs: Array, batch: Batch) -> Plan:
        """One direction per input."""
        if batch.labels is None:
            raise UserError(
                "labels: the empirical estimator needs those of the data; pass labels=, or batches "
                "of (inputs, labels)"
            )
        residuals = self.family.residuals(outputs, batch.labels)
        return Plan(residuals[:, None, :], None, lambda block: ([_squares(block.first)], []))


PROBES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rademacher": lambda uniforms: np.where(uniforms < 0.5, -1.0, 1.0),
    # The level 0 has probability 2^-53: half of the next one keeps it finite.
    "gaussian": lambda uniforms: special.ndtri(np.maximum(uniforms, 2.0**-54)),
}
"""Probes of mean 0 and variance 1, from uniforms on [0, 1)."""


class Hutchinson(Estimator):
    """The squared gradient along random probes: (Σ_k ξ_k d_kᵀ ∂h)², d the root of I (Sun 2025).

    Parameters
    ----------
    family, draws, seed, errors
        As for every `Estimator`; a draw is a probe ξ.
    probes : {"rademacher", "gaussian"}
        Distribution of the ξ_k: random signs, or standard normal.
    """

    labels = "none"

    def __init__(
        self,
        family: Family,
        draws: int,
        seed: int,
        errors: bool = True,
        *,
        probes: str = "rademacher",
    ) -> None:
        super().__init__(family, draws, seed, errors)
        if probes not in PROBES:
            raise UserError(f"probes: {probes!r} is not one of {', '.join(PROBES)}")
        self._probe = PROBES[probes]

    def plan(self, outputs: Array, batch: Batch) -> Plan:
        """One direction per probe, and no more than their scatter needs."""
        xp = array_namespace(outputs)
        root = self.family.root(outputs)
        noise = self._noise(self.streams(batch), root.shape[1]) / self.draws**0.5
        along = xp.matmul(xp.asarray(noise, dtype=outputs.dtype, device=outputs.device), root)
        return Plan(along, None, lambda block: ([_squares(block.first)], []))

    def _noise(self, streams: InputStreams, size: int) -> np.ndarray:
        """Probes ξ at each input, or as few vectors of the same scatter Σ ξ ξᵀ: (n, ≤ N, K)."""
        if self.draws <= size:
            uniforms = streams.uniforms(self.draws * size)
            return self._probe(uniforms).reshape(-1, self.draws, size)
        return np.stack(
            [
                np.linalg.qr(self._probe(rng.random((self.draws, size))), mode="r")
                for rng in streams.generators()
            ]
        )


class Mixed(Estimator):
    """w Î1 + (1 − w) Î2 from the same draws, with the weights of least variance.

    The weights come from the exact moments averaged over these inputs: they do not depend on the
    draws, so that the mean stays unbiased given the inputs.

    Parameters
    ----------
    family, draws, seed, errors
        As for every `Estimator`.
    level : {"parameter", "layer"}
        What has a weight of its own; see `diagfim.mixing`.
    """

    curved = True
    quantities = ("fisher", "score_weight")

    def __init__(
        self,
        family: Family,
        draws: int,
        seed: int,
        errors: bool = True,
        *,
        level: str = "parameter",
    ) -> None:
        super().__init__(family, draws, seed, errors)
        if level not in LEVELS:
            raise UserError(f"level: {level!r} is not one of {', '.join(LEVELS)}")
        self._level = level

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

    def result(self) -> Labelled:
        """By parameter: ``fisher``, the ``score_weight`` w and, if wanted, ``standard_error``."""
        parts = super().result()
        noises = {
            name: Noise(one["variance_1"], one["variance_2"], one["covariance_12"])
            for name, one in parts.items()
        }
        found: Labelled = {}
        for name, weight in best_weights(noises, self._level).items():
            one = parts[name]
            fisher = weight * one["score"] + (1 - weight) * one["hessian"]
            found[name] = {"fisher": fisher, "score_weight": weight}
            if "spread" in one:
                found[name]["standard_error"] = self._error_of(weight, one, noises[name])
        return found

    def of_block(self, sums: BlockSums | BlockMeans) -> dict[str, Array]:
        """Both estimates, what the weights rest on, and the variances over the inputs."""
        lefts, noise = sums.result()
        (score, of_score), (hessian, of_hessian), (_, spread) = lefts
        found = {"score": score, "hessian": hessian, **dict(zip(_NOISE, noise, strict=True))}
        if spread is not None:
            found |= {"of_score": of_score, "of_hessian": of_hessian, "spread": spread}
        return found

    def _error_of(self, weight: Array, one: dict[str, Array], noise: Noise) -> Array:
        """Theorem 4.7, with the variance of I over the inputs and the exact one of the mix."""
        xp = array_namespace(weight)
        of_draws = mix_variance(weight, noise) / (self.draws * self.count)
        return xp.sqrt(self._error(one["spread"]) ** 2 + of_draws)


class PilotMixed(Mixed):
    """The mix with weights from pilot draws: no sum over all y is taken for them.

    The pilot draws of an input come from another random stream than those that are mixed; their
    variances and covariance at each input are pooled over the inputs.

    Parameters
    ----------
    family, draws, seed, errors, level
        As for `Mixed`.
    pilot : int
        Pilot draws at each input, at least 2.
    """

    def __init__(
        self,
        family: Family,
        draws: int,
        seed: int,
        errors: bool = True,
        *,
        level: str = "parameter",
        pilot: int = 2,
    ) -> None:
        super().__init__(family, draws, seed, errors, level=level)
        # Two draws at an input are the fewest that tell a variance.
        self._pilot = whole("pilot", pilot, 2)
        self._pilot_seed = integer(seed, "pilot")

    def plan(self, outputs: Array, batch: Batch) -> Plan:
        """Directions of the pilot draws, of the draws and of I, one after the other."""
        xp = array_namespace(outputs)
        drawn = self.family.draw(outputs, self.draws, self.streams(batch))
        streams = InputStreams(self._pilot_seed, batch.start, len(batch.inputs))
        pilot = self.family.sample(outputs, self._pilot, streams)
        root = self.family.root(outputs)
        kept = self._pilot + drawn.directions.shape[1]

        def values(block: AffineFactors) -> tuple[list[Array], list[Array]]:
            first, bent = block.first, block.second
            score, fisher = _squares(first[:, self._pilot : kept], drawn.weights), first[:, kept:]
            hessian = _squares(fisher)
            if bent is None:
                bent = xp.zeros_like(first[:, : self._pilot])
            else:
                hessian = hessian - bent[:, self._pilot]
            further = _within(first[:, : self._pilot] ** 2, -bent[:, : self._pilot])
            return [score, hessian, score - hessian], further

        return Plan(
            xp.concat([pilot, drawn.directions, root], axis=1),
            xp.concat([pilot, drawn.mean[:, None, :]], axis=1),
            values,
        )

    def _error_of(self, weight: Array, one: dict[str, Array], noise: Noise) -> Array:
        """From the spread of the mix over the inputs, put together from those of Î1, Î2, Î1 − Î2.

        Var(w a + (1 − w) b) = w Var a + (1 − w) Var b − w (1 − w) Var(a − b).
        """
        xp = array_namespace(weight)
        apart = weight * (1 - weight) * one["spread"]
        variance = weight * one["of_score"] + (1 - weight) * one["of_hessian"] - apart
        return self._error(xp.clip(variance, 0.0))


_NOISE = ("variance_1", "variance_2", "covariance_12")


def _within(score: Array, hessian: Array) -> list[Array]:
    """Sample variances and covariance over the draws at each input: (n, P, units) to (n, units)."""
    xp = array_namespace(score)
    score = score - xp.mean(score, axis=1, keepdims=True)
    hessian = hessian - xp.mean(hessian, axis=1, keepdims=True)
    pairs = (score, score), (hessian, hessian), (score, hessian)
    return [xp.sum(a * b, axis=1) / (score.shape[1] - 1) for a, b in pairs]


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
