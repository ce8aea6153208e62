"""Output distributions p(y|x;θ) = π(y) exp(t(y)ᵀ h − F(h)), by what the estimators need of them.

With η = E[t] = ∇F(h), a family names the directions in the space of the outputs along which the
derivatives ∂_i h and ∂²_i h are needed, and turns those derivatives into the exact moments of both
estimators (Lemma 3.1).  It also draws y from the model, as directions again.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from array_api_compat import array_namespace, to_device

from diagfim.derivatives.factored import Array
from diagfim.errors import UserError
from diagfim.seeding import InputStreams


@dataclass(frozen=True)
class Moments:
    """Exact moments of the two estimators given x, for one draw of y; every field is (n, units).

    Attributes
    ----------
    fisher : array
        I(θ_i | x), the mean of both.
    variance_1, variance_2 : array
        V1 and V2, the variances of Î1 and Î2 (Lemma 3.1); divide by N for N draws.
    covariance_12 : array
        Cov(Î1, Î2 | x); divide by N likewise.
    """

    fisher: Array
    variance_1: Array
    variance_2: Array
    covariance_12: Array


@dataclass(frozen=True)
class Tails:
    """How far the law of a single draw reaches beyond its variance; every field is (n, units).

    Attributes
    ----------
    excess_kurtosis_1, excess_kurtosis_2 : array
        Fourth standardised cumulants of Î1 and Î2, 0 where the variance is 0; divide by N.
    range_1, range_2 : array
        Largest deviations of a single draw of Î1 and Î2 from I.
    """

    excess_kurtosis_1: Array
    excess_kurtosis_2: Array
    range_1: Array
    range_2: Array


@dataclass(frozen=True)
class Draws:
    """N draws of y at each of n inputs, as what the two estimators need of them.

    However large N is, there are no more directions than the family needs for their scatter.

    Attributes
    ----------
    directions : array, (n, K, T)
        Î1 = Σ_k w_k (d_kᵀ ∂h)².
    weights : array, (n, K)
        The w_k.
    mean : array, (n, T)
        Mean over the draws of ∂ log p / ∂h, so that Î2 = I − meanᵀ ∂²h.
    """

    directions: Array
    weights: Array
    mean: Array


class Family(Protocol):
    """An output distribution: a class with these methods is all that a new one takes."""

    name: str

    def directions(self, outputs: Array) -> Array:
        """Directions (n, K, T) along which `moments` wants ∂h and ∂²h, for outputs (n, T)."""
        ...

    def moments(self, outputs: Array, first: Array, second: Array | None) -> Moments:
        """Exact conditional moments from derivatives (n, K, units) along the directions."""
        ...

    def root(self, outputs: Array) -> Array:
        """Directions d (n, K, T) with I(θ_i | x) = Σ_k (d_kᵀ ∂_i h)²."""
        ...

    def residuals(self, outputs: Array, targets: Array) -> Array:
        """∂ log p(y|x) / ∂h at given targets y: (n, T)."""
        ...

    def draw(self, outputs: Array, draws: int, streams: InputStreams) -> Draws:
        """Draw y from the model, N times at each input."""
        ...


@dataclass(frozen=True)
class Outcomes:
    """The single-draw estimators at every label, for n samples and some coordinates.

    Attributes
    ----------
    probabilities : array, (n, C)
        p(y = c | x).
    score : array, (n, C, units)
        Î1 of a single draw at label c: (∂_i F − ∂_i h_a t_a(c))².
    hessian : array, (n, C, units)
        Î2 of a single draw at label c, minus its mean I: (η − t(c))ᵀ ∂²_i h.
    fisher : array, (n, units)
        I(θ_i | x), the mean of both.
    """

    probabilities: Array
    score: Array
    hessian: Array
    fisher: Array

    @property
    def draws(self) -> tuple[Array, Array]:
        """Î1 and Î2 of a single draw at every label: two arrays (n, C, units)."""
        return self.score, self.hessian + self.fisher[:, None, :]

    def tails(self) -> Tails:
        """Kurtoses and ranges of a single draw, as sums and maxima over the labels."""
        xp = array_namespace(self.score)
        sigma = self.probabilities[:, :, None]
        score = self.score - self.fisher[:, None, :]
        return Tails(
            excess_kurtosis_1=_kurtosis(sigma, score),
            excess_kurtosis_2=_kurtosis(sigma, self.hessian),
            range_1=xp.max(xp.abs(score), axis=1),
            range_2=xp.max(xp.abs(self.hessian), axis=1),
        )


class Categorical:
    """One label among C, with p(y = c | x) = softmax(h)_c and t(y) one-hot (Theorem 5.2)."""

    name = "categorical"

    def probabilities(self, outputs: Array) -> Array:
        """Softmax σ of the logits: (n, C) to (n, C)."""
        xp = array_namespace(outputs)
        weights = xp.exp(outputs - xp.max(outputs, axis=1, keepdims=True))
        return weights / xp.sum(weights, axis=1, keepdims=True)

    def directions(self, outputs: Array) -> Array:
        """Residuals t(c) − η of every label c: (n, C) to (n, C, C)."""
        xp = array_namespace(outputs)
        sigma = self.probabilities(outputs)
        eye = xp.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
        # 1 − σ_c as the sum of the others: a label that is all but certain keeps its digits.
        return eye * (sigma @ (1 - eye))[:, :, None] - (1 - eye) * sigma[:, None, :]

    def moments(self, outputs: Array, first: Array, second: Array | None) -> Moments:
        """Exact conditional moments, in centred form, summed over the labels (Lemma 3.1).

        The form E[z²] − E[z]² is never used: it gives negative variances in the last layer.

        Parameters
        ----------
        outputs : array, (n, C)
            Logits h.
        first, second : array, (n, C, units)
            ∂_i h and ∂²_i h along `directions`; no `second` stands for zero.

        Returns
        -------
        Moments
        """
        xp = array_namespace(first)
        sigma = self.probabilities(outputs)[:, None, :]
        score = first * first
        fisher = xp.matmul(sigma, score)
        score -= fisher
        variance_1 = xp.matmul(sigma, score * score)[:, 0]
        if second is None:
            variance_2 = covariance_12 = xp.zeros_like(variance_1)
        else:
            variance_2 = xp.matmul(sigma, second * second)[:, 0]
            score *= second
            covariance_12 = -xp.matmul(sigma, score)[:, 0]
        return Moments(fisher[:, 0], variance_1, variance_2, covariance_12)

    def root(self, outputs: Array) -> Array:
        """Residuals of every label times the root of its probability: (n, C) to (n, C, C)."""
        xp = array_namespace(outputs)
        return xp.sqrt(self.probabilities(outputs))[:, :, None] * self.directions(outputs)

    def residuals(self, outputs: Array, targets: Array) -> Array:
        """t(y) − η of given labels (n,), integers from 0 to C − 1: (n, C)."""
        xp = array_namespace(outputs)
        n, classes = outputs.shape
        labels = xp.asarray(targets)
        found = f"shape {tuple(labels.shape)} of {labels.dtype}"
        if labels.shape != (n,) or not xp.isdtype(labels.dtype, "integral"):
            raise UserError(f"labels: {found}; the categorical family expects ({n},) integers")
        low, high = (int(xp.min(labels)), int(xp.max(labels))) if n else (0, 0)
        if low < 0 or high >= classes:
            raise UserError(
                f"labels: values from {low} to {high}, but the "
                f"network has {classes} outputs; number the classes from 0"
            )
        return self.directions(outputs)[xp.arange(n, device=outputs.device), labels]

    def draw(self, outputs: Array, draws: int, streams: InputStreams) -> Draws:
        """Draw labels; N of them enter through their counts n ~ Multinomial(N, σ) alone."""
        xp = array_namespace(outputs)
        n, classes = outputs.shape
        of_draws = {"dtype": outputs.dtype, "device": outputs.device}
        sigma = np.asarray(to_device(self.probabilities(outputs), "cpu"), dtype=np.float64)
        sigma /= sigma.sum(axis=1, keepdims=True)  # the rounding of float32 is too much for NumPy
        every = self.directions(outputs)
        if draws < classes:
            # The label is where the cumulative probability passes a uniform.
            passed = streams.uniforms(draws)[:, :, None] >= np.cumsum(sigma, axis=1)[:, None, :-1]
            drawn = every[np.arange(n)[:, None], passed.sum(axis=2)]
            return Draws(drawn, xp.full((n, draws), 1 / draws, **of_draws), xp.mean(drawn, axis=1))
        counts = np.stack(
            [rng.multinomial(draws, p) for rng, p in zip(streams.generators(), sigma, strict=True)]
        )
        weights = xp.asarray(counts / draws, **of_draws)
        return Draws(every, weights, xp.matmul(weights[:, None, :], every)[:, 0])

    def outcomes(self, outputs: Array, first: Array, second: Array | None) -> Outcomes:
        """Values of both single-draw estimators at every label; parameters as in `moments`."""
        xp = array_namespace(first)
        sigma = self.probabilities(outputs)
        score = first * first
        return Outcomes(
            sigma,
            score,
            xp.zeros_like(first) if second is None else -second,
            xp.matmul(sigma[:, None, :], score)[:, 0],
        )


class Gaussian:
    """Independent targets y_t ~ N(h_t, s²) of known variance, the outputs being the means.

    Proposition 5.1 at s = 1, where Theorem 4.1 holds with equality.

    Parameters
    ----------
    variance : float
        s², in squared units of the targets.
    """

    name = "gaussian"

    def __init__(self, variance: float = 1.0) -> None:
        if not variance > 0:
            raise UserError(f"variance: {variance} is not positive; give that of the noise")
        self.variance = variance

    def directions(self, outputs: Array) -> Array:
        """Every output, in units of s: (n, T) to (n, T, T)."""
        return self.root(outputs)

    def moments(self, outputs: Array, first: Array, second: Array | None) -> Moments:
        """I = ‖∂h‖²/s², V1 = 2 I², V2 = ‖∂²h‖²/s² and no covariance."""
        xp = array_namespace(first)
        fisher = xp.sum(first * first, axis=1)
        zero = xp.zeros_like(fisher)
        variance_2 = zero if second is None else xp.sum(second * second, axis=1)
        return Moments(fisher, 2 * fisher * fisher, variance_2, zero)

    def root(self, outputs: Array) -> Array:
        """Every output, in units of s: (n, T) to (n, T, T)."""
        xp = array_namespace(outputs)
        n, size = outputs.shape
        eye = xp.eye(size, dtype=outputs.dtype, device=outputs.device)
        return xp.broadcast_to(eye / self.variance**0.5, (n, size, size))

    def residuals(self, outputs: Array, targets: Array) -> Array:
        """(y − h)/s² of given targets (n, T)."""
        xp = array_namespace(outputs)
        values = xp.asarray(targets, dtype=outputs.dtype, device=outputs.device)
        if values.shape != outputs.shape:
            raise UserError(
                f"labels: shape {tuple(values.shape)}; the gaussian family expects the shape of "
                f"the outputs, {tuple(outputs.shape)}"
            )
        return (values - outputs) / self.variance

    def draw(self, outputs: Array, draws: int, streams: InputStreams) -> Draws:
        """Draw targets; from T draws on, their mean and Wishart scatter (Bartlett 1933) instead."""
        xp = array_namespace(outputs)
        size = outputs.shape[1]
        directions, means = [], []
        for rng in streams.generators():
            if draws <= size:
                noise = rng.standard_normal((draws, size))
                mean = noise.mean(axis=0)
                scatter = noise / draws**0.5
            else:
                mean = rng.standard_normal(size) / draws**0.5
                root = np.tril(rng.standard_normal((size, size)), k=-1)
                root += np.diag(np.sqrt(rng.chisquare(draws - 1 - np.arange(size))))
                scatter = np.concatenate([mean[None], root.T / draws**0.5])
            directions.append(scatter)
            means.append(mean)
        of_draws = {"dtype": outputs.dtype, "device": outputs.device}
        scale = self.variance**0.5
        drawn = xp.asarray(np.stack(directions) / scale, **of_draws)
        weights = xp.ones(drawn.shape[:2], **of_draws)
        return Draws(drawn, weights, xp.asarray(np.stack(means) / scale, **of_draws))


FAMILIES: dict[str, type[Categorical] | type[Gaussian]] = {
    family.name: family for family in (Categorical, Gaussian)
}
"""By the name that `diagfim.analyze` and `diagfim.estimate` know them by."""


def family_of(family: str | Family) -> Family:
    """The family of a name, or the family given.

    Raises
    ------
    UserError
        If no family has that name.
    """
    if not isinstance(family, str):
        return family
    if family not in FAMILIES:
        raise UserError(f"family: {family!r} is not one of {', '.join(FAMILIES)}, nor an object")
    return FAMILIES[family]()


def _kurtosis(sigma: Array, centred: Array) -> Array:
    xp = array_namespace(centred)
    squares = centred * centred
    variance = xp.sum(sigma * squares, axis=1)
    positive = variance > 0
    # Scaling by the variance first keeps the fourth power clear of underflow.
    scaled = squares / xp.where(positive, variance, xp.ones_like(variance))[:, None, :]
    kurtosis = xp.sum(sigma * scaled * scaled, axis=1) - 3
    return xp.where(positive, kurtosis, xp.zeros_like(kurtosis))
