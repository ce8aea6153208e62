"""The categorical distribution: one label among C."""

from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace, to_device

from diagfim import spectra
from diagfim.derivatives.factored import Array
from diagfim.errors import UserError
from diagfim.families.base import Draws, Moments
from diagfim.seeding import InputStreams


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
    outputs = "logits"
    links: tuple[str, ...] = ("Softmax", "Softmax2d")

    def misfit(self, outputs: Array) -> str | None:
        """One logit, or rows that are probabilities; logarithms of these are as good as logits.

        To add the same number to all logits changes nothing, so that of no row of logits the values
        are positive and of sum 1 but by chance.
        """
        xp = array_namespace(outputs)
        if outputs.shape[1] == 1:
            return (
                "one output is no choice among labels and has no information; pass "
                'family="bernoulli" for log-odds, or "gaussian" for a mean'
            )
        rounding = 1e3 * float(xp.finfo(outputs.dtype).eps)
        sums = xp.sum(outputs, axis=1)
        if bool(xp.all(outputs >= 0)) and bool(xp.all(xp.abs(sums - 1) <= rounding)):
            return (
                "the outputs are positive and of sum 1, as probabilities are; leave the softmax "
                "out, or take its logarithm"
            )
        return None

    def probabilities(self, outputs: Array) -> Array:
        """Softmax σ of the logits: (n, C) to (n, C)."""
        xp = array_namespace(outputs)
        weights = xp.exp(outputs - xp.max(outputs, axis=1, keepdims=True))
        return weights / xp.sum(weights, axis=1, keepdims=True)

    def mean(self, outputs: Array) -> Array:
        """η = σ: (n, C)."""
        return self.probabilities(outputs)

    def covariance(self, outputs: Array) -> Array:
        """I(h|x) = Diag(σ) − σσᵀ: (n, C, C)."""
        return self.probabilities(outputs)[:, :, None] * self.directions(outputs)

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
            remedy = "labels.argmax(1) of one-hot ones" if labels.ndim == 2 else "labels.long()"
            raise UserError(
                f"labels: {found}; the categorical family expects ({n},) integers, such as {remedy}"
            )
        low, high = (int(xp.min(labels)), int(xp.max(labels))) if n else (0, 0)
        if low < 0 or high >= classes:
            raise UserError(
                f"labels: values from {low} to {high}, but the "
                f"network has {classes} outputs; number the classes from 0"
            )
        return self.directions(outputs)[xp.arange(n, device=outputs.device), labels]

    def sample(self, outputs: Array, draws: int, streams: InputStreams) -> Array:
        """Residuals of N labels at each input: (n, N, C)."""
        cumulative = np.cumsum(self._exact_probabilities(outputs), axis=1)[:, None, :-1]
        # The label is where the cumulative probability passes a uniform.
        labels = (streams.uniforms(draws)[:, :, None] >= cumulative).sum(axis=2)
        return self.directions(outputs)[np.arange(len(labels))[:, None], labels]

    def draw(self, outputs: Array, draws: int, streams: InputStreams) -> Draws:
        """Draw labels; N of them enter through their counts n ~ Multinomial(N, σ) alone."""
        xp = array_namespace(outputs)
        n, classes = outputs.shape
        of_draws = {"dtype": outputs.dtype, "device": outputs.device}
        if draws < classes:
            drawn = self.sample(outputs, draws, streams)
            return Draws(drawn, xp.full((n, draws), 1 / draws, **of_draws), xp.mean(drawn, axis=1))
        sigma = self._exact_probabilities(outputs)
        counts = np.stack(
            [rng.multinomial(draws, p) for rng, p in zip(streams.generators(), sigma, strict=True)]
        )
        weights = xp.asarray(counts / draws, **of_draws)
        every = self.directions(outputs)
        return Draws(every, weights, xp.matmul(weights[:, None, :], every)[:, 0])

    def _exact_probabilities(self, outputs: Array) -> np.ndarray:
        """σ in float64, of sum 1: the rounding of float32 is too much for NumPy's generators."""
        sigma = np.asarray(to_device(self.probabilities(outputs), "cpu"), dtype=np.float64)
        return np.asarray(sigma / sigma.sum(axis=1, keepdims=True))

    def second_moment(self, outputs: Array, a: Array, b: Array) -> Array:
        """E[(aᵀr)(bᵀr)]; see `Family.second_moment`."""
        a, b = self._at_labels(outputs, a, b)
        return self._expectation(outputs, a * b)

    def third_moment(self, outputs: Array, a: Array, b: Array, c: Array) -> Array:
        """E[(aᵀr)(bᵀr)(cᵀr)]; see `Family.third_moment`."""
        a, b, c = self._at_labels(outputs, a, b, c)
        return self._expectation(outputs, a * b * c)

    def product_covariance(self, outputs: Array, a: Array, b: Array, c: Array, d: Array) -> Array:
        """Cov((aᵀr)(bᵀr), (cᵀr)(dᵀr)), centred; see `Family.product_covariance`."""
        a, b, c, d = self._at_labels(outputs, a, b, c, d)
        left, right = a * b, c * d
        left = left - self._expectation(outputs, left)[:, None, :]
        right = right - self._expectation(outputs, right)[:, None, :]
        return self._expectation(outputs, left * right)

    def _at_labels(self, outputs: Array, *vectors: Array) -> list[Array]:
        """Products with the residual of every label: (n, C, units) each."""
        xp = array_namespace(outputs)
        directions = self.directions(outputs)
        return [xp.matmul(directions, vector) for vector in vectors]

    def _expectation(self, outputs: Array, values: Array) -> Array:
        """Mean over the labels: (n, C, units) to (n, units)."""
        xp = array_namespace(outputs)
        return xp.matmul(self.probabilities(outputs)[:, None, :], values)[:, 0]

    def tensor_eigenvalues(
        self, outputs: Array, tensor: str = "M"
    ) -> tuple[spectra.Certified, spectra.Certified]:
        """λ̃min, which is 0, and λ̃max of M or K; see `spectra.categorical_tensor_eigenvalues`."""
        return spectra.categorical_tensor_eigenvalues(self._exact_probabilities(outputs), tensor)

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
