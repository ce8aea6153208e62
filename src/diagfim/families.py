"""Output distributions p(y|x;θ) = π(y) exp(t(y)ᵀ h − F(h)), by what the estimators need of them.

With η = E[t] = ∇F(h), a family names the directions in the space of the outputs along which the
derivatives ∂_i h and ∂²_i h are needed, and turns those derivatives into the exact moments of both
estimators (Lemma 3.1).
"""

from dataclasses import dataclass
from typing import Protocol

from array_api_compat import array_namespace

from diagfim.derivatives.factored import Array


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


class Family(Protocol):
    """An output distribution, as the exact moments need it."""

    name: str

    def directions(self, outputs: Array) -> Array:
        """Directions (n, K, T) along which `moments` wants ∂h and ∂²h, for outputs (n, T)."""
        ...

    def moments(self, outputs: Array, first: Array, second: Array | None) -> Moments:
        """Exact conditional moments from derivatives (n, K, units) along the directions."""
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
        weighted = xp.matrix_transpose(sigma) * score
        variance_1 = xp.sum(weighted * score, axis=1)
        if second is None:
            variance_2 = covariance_12 = xp.zeros_like(variance_1)
        else:
            variance_2 = xp.matmul(sigma, second * second)[:, 0]
            covariance_12 = -xp.sum(weighted * second, axis=1)
        return Moments(fisher[:, 0], variance_1, variance_2, covariance_12)

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


def _kurtosis(sigma: Array, centred: Array) -> Array:
    xp = array_namespace(centred)
    squares = centred * centred
    variance = xp.sum(sigma * squares, axis=1)
    positive = variance > 0
    # Scaling by the variance first keeps the fourth power clear of underflow.
    scaled = squares / xp.where(positive, variance, xp.ones_like(variance))[:, None, :]
    kurtosis = xp.sum(sigma * scaled * scaled, axis=1) - 3
    return xp.where(positive, kurtosis, xp.zeros_like(kurtosis))
