"""The two random estimators, repeated over seeds at many numbers of draws: their empirical laws.

Labels are always drawn from the model.  At a fixed input, N categorical draws enter only through
their counts n ~ Multinomial(N, σ), so a repetition costs C products a coordinate whatever N is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diagfim.derivatives.factored import AffineFactors, Derivatives, split_each
from diagfim.errors import UserError
from diagfim.families import Categorical, Outcomes
from diagfim.moments import Running

ESTIMATORS = ("score", "hessian")
"""Score-based Î1 (mean squared gradient) and Hessian-based Î2 (mean diagonal Hessian), Eq. 3."""


def label_counts(
    probabilities: np.ndarray, draws: int, repetitions: int, rng: np.random.Generator
) -> np.ndarray:
    """Counts of each label among N draws from the model at one input.

    Parameters
    ----------
    probabilities : array, (C,)
        p(y = c | x).
    draws : int
        N.
    repetitions : int
        Number of independent repetitions, S.
    rng : numpy.random.Generator

    Returns
    -------
    array of int, (S, C)
    """
    return np.asarray(rng.multinomial(draws, probabilities, size=repetitions))


@dataclass(frozen=True)
class JointDraws:
    """N draws of (x, u): an input by its position, and the uniform that its label comes from.

    The label is the inverse of the cumulative softmax at u, so the draws themselves depend on
    nothing but the generator: not on the network, the batches or the order of evaluation.

    Attributes
    ----------
    positions : array of int, (N,)
        Positions of the inputs in the pool, drawn uniformly with replacement.
    uniforms : array, (N,)
        Independent uniforms on [0, 1).
    """

    positions: np.ndarray
    uniforms: np.ndarray

    @classmethod
    def sample(cls, pool: int, draws: int, rng: np.random.Generator) -> "JointDraws":
        """Draw N pairs for a pool of inputs."""
        return cls(rng.integers(pool, size=draws), rng.random(draws))

    def labels(self, probabilities: np.ndarray) -> np.ndarray:
        """Labels drawn from the model: (N,), for probabilities (pool, C)."""
        cumulative = np.cumsum(probabilities, axis=1)[self.positions]
        # Rounding may leave the last sum a little under one: the last label takes what is above.
        labels = np.sum(self.uniforms[:, None] >= cumulative, axis=1)
        return np.asarray(np.minimum(labels, probabilities.shape[1] - 1))


@dataclass(frozen=True)
class Repetitions:
    """Moments over S repetitions of both estimators at one N.

    Attributes
    ----------
    parameters : dict of str to dict of str to array
        By parameter name, then ``mean`` and ``variance`` (divided by S − 1), each (2, *shape of the
        parameter), in the order of `ESTIMATORS`.
    layers : dict of str to dict of str to array
        By weight name, arrays (2,): ``layer_mean`` and ``layer_variance`` of the estimate averaged
        over the parameters of the layer, and ``parameter_variance``, the layer average of the
        parameters' variances.
    """

    parameters: dict[str, dict[str, np.ndarray]]
    layers: dict[str, dict[str, np.ndarray]]


def summarise(
    by_draws: Mapping[int, Repetitions], recorded: int
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, dict[str, np.ndarray]]]:
    """Parameters at the recorded N, and layers at every N: (2, number of N) arrays."""
    layers = {
        layer: {
            quantity: np.stack([one.layers[layer][quantity] for one in by_draws.values()], axis=-1)
            for quantity in quantities
        }
        for layer, quantities in by_draws[recorded].layers.items()
    }
    return by_draws[recorded].parameters, layers


def at_fixed_input(
    layers_of_input: Sequence[AffineFactors], outcomes: Sequence[Outcomes], counts: np.ndarray
) -> Repetitions:
    """Moments over S repetitions of Î1 and Î2 at one input, from label counts.

    Parameters
    ----------
    layers_of_input : sequence of AffineFactors
        Of a single input (n = 1).
    outcomes : sequence of Outcomes
        Of the same layers.
    counts : array of int, (S, C)
        Label counts, all rows of the same sum N.

    Returns
    -------
    Repetitions
        With arrays in the shapes of the parameters.  An estimate is `left_i · a_j²` and so are its
        deviations, which is why S × parameters numbers are never formed.
    """
    frequencies = counts / counts.sum(axis=1, keepdims=True)
    parameters: dict[str, dict[str, np.ndarray]] = {}
    layers: dict[str, dict[str, np.ndarray]] = {}
    for layer, outcome in zip(layers_of_input, outcomes, strict=True):
        # Deviations from I rather than estimates, so that a small variance keeps its digits.
        by_label = np.stack([outcome.score[0] - outcome.fisher[0], outcome.hessian[0]])
        deviation = frequencies @ by_label
        mean = outcome.fisher[0] + deviation.mean(axis=1)
        variance = deviation.var(axis=1, ddof=1)
        for quantity, left, power in (("mean", mean, 2), ("variance", variance, 4)):
            for name, value in layer.expand(left, power).items():
                parameters.setdefault(name, {})[quantity] = value
        average = layer.average(deviation[:, :, None, :], 2)[:, :, 0]
        layers[layer.weight] = {
            "layer_mean": layer.average(mean[:, None, :], 2)[:, 0],
            "layer_variance": average.var(axis=1, ddof=1),
            "parameter_variance": layer.average(variance[:, None, :], 4)[:, 0],
        }
    return Repetitions(parameters, layers)


class JointEstimator:
    """Î1 and Î2 from joint draws of (x, y) over a pool of inputs.

    Parameters
    ----------
    batches : iterable of Derivatives
        Of the pool, batch after batch, as NumPy arrays.
    pool : int
        Number of inputs in all.
    family : Categorical
        Output distribution.

    Raises
    ------
    UserError
        If the batches do not add up to the pool, or would take more than `LARGEST` bytes.

    Notes
    -----
    Memory is pool × C × units, twice.  A repetition costs one matrix product with as many rows as
    there are distinct pairs among its draws: at most N, and at most pool × C.
    """

    def __init__(self, batches: Iterable[Derivatives], pool: int, family: Categorical) -> None:
        self._layers: dict[str, _PoolFactors] = {}
        start = 0
        for batch in batches:
            n, classes = batch.outputs.shape
            rows = slice(start, start + n)
            start += n
            if start > pool:
                break
            if not self._layers:
                _check_size(batch, pool)
                self.probabilities = np.empty((pool, classes))
                self._layers = {
                    layer.weight: _PoolFactors.empty(layer, pool) for layer in batch.layers
                }
            self.probabilities[rows] = family.probabilities(batch.outputs)
            directions = family.directions(batch.outputs)
            for layer in batch.pull(directions, directions):
                outcomes = family.outcomes(batch.outputs, layer.first, layer.second)
                factors = self._layers[layer.weight]
                for stored, draw in zip(factors.draws, outcomes.draws, strict=True):
                    stored[rows] = draw
                factors.squares[rows] = layer.powers(2)
        if start != pool:
            raise UserError(f"inputs: the batches hold {start} or more, but the pool is {pool}")

    def estimate(self, draws: JointDraws) -> dict[str, np.ndarray]:
        """One repetition of both estimators.

        Returns
        -------
        dict of str to array
            By weight name, (2, units, columns) in the order of `ESTIMATORS`, the bias as the last
            column; `factored.split_each` cuts it.
        """
        classes = self.probabilities.shape[1]
        pairs, multiplicity = np.unique(
            draws.positions * classes + draws.labels(self.probabilities), return_counts=True
        )
        rows, labels = np.divmod(pairs, classes)
        weights = (multiplicity / draws.positions.size)[:, None]
        found: dict[str, np.ndarray] = {}
        for weight, pool in self._layers.items():
            left = np.concatenate([draw[rows, labels] for draw in pool.draws], axis=1) * weights
            both = left.T @ pool.squares[rows]
            found[weight] = both.reshape(2, -1, both.shape[1])
        return found

    def repetitions(self, samples: Iterable[JointDraws]) -> Repetitions:
        """Moments over several repetitions, one set of draws each."""
        full: dict[str, Running] = {weight: Running() for weight in self._layers}
        average: dict[str, Running] = {weight: Running() for weight in self._layers}
        for draws in samples:
            for weight, estimate in self.estimate(draws).items():
                full[weight].update(estimate)
                average[weight].update(estimate.mean(axis=(1, 2)))
        parameters: dict[str, dict[str, np.ndarray]] = {}
        layers: dict[str, dict[str, np.ndarray]] = {}
        for weight, pool in self._layers.items():
            moments = {"mean": full[weight].mean, "variance": full[weight].variance}
            parameters |= split_each(pool.layer.layout, moments)
            layers[weight] = {
                "layer_mean": average[weight].mean,
                "layer_variance": average[weight].variance,
                "parameter_variance": moments["variance"].mean(axis=(1, 2)),
            }
        return Repetitions(parameters, layers)


LARGEST = 2**33
"""Bytes that what is kept of a pool may take."""


def _check_size(batch: Derivatives, pool: int) -> None:
    units = sum(layer.first.shape[2] for layer in batch.layers)
    size = 2 * 8 * pool * batch.outputs.shape[1] * units
    if size > LARGEST:
        raise UserError(
            f"inputs: {pool} inputs × {batch.outputs.shape[1]} outputs × {units} units take "
            f"{size / 1e9:.1f} GB, expected {LARGEST / 1e9:.1f} at most; take a smaller pool, or "
            "leave joint draws out"
        )


@dataclass(frozen=True)
class _PoolFactors:
    """What one layer contributes to an estimate: values by (input, label, unit), squared inputs."""

    layer: AffineFactors
    draws: tuple[np.ndarray, np.ndarray]
    squares: np.ndarray

    @classmethod
    def empty(cls, layer: AffineFactors, pool: int) -> "_PoolFactors":
        shape = (pool, *layer.first.shape[1:])
        draws = (np.empty(shape), np.empty(shape))
        return cls(layer, draws, np.empty((pool, layer.inputs.shape[1])))
