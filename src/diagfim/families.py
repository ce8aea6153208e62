"""Output distributions p(y|x;θ) = π(y) exp(t(y)ᵀ h − F(h)), by what the estimators need of them.

With η = E[t] = ∇F(h), a family turns the derivatives ∂_i h and ∂²_i h of one sample into the values
that the two estimators take at each possible y, and into their exact moments (Lemma 3.1).
"""

from dataclasses import dataclass

from array_api_compat import array_namespace

from diagfim.derivatives.factored import Array


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


@dataclass(frozen=True)
class ConditionalMoments:
    """Exact moments of the two estimators given x, for one draw of y; every field is (n, units).

    Attributes
    ----------
    fisher : array
        I(θ_i | x).
    variance_1, variance_2 : array
        V1 and V2, the variances of Î1 and Î2 (Lemma 3.1); divide by N for N draws.
    covariance_12 : array
        Cov(Î1, Î2 | x); divide by N likewise.
    excess_kurtosis_1, excess_kurtosis_2 : array
        Fourth standardised cumulants of Î1 and Î2, 0 where the variance is 0; divide by N.
    range_1, range_2 : array
        Largest deviations of a single draw of Î1 and Î2 from I.
    """

    fisher: Array
    variance_1: Array
    variance_2: Array
    covariance_12: Array
    excess_kurtosis_1: Array
    excess_kurtosis_2: Array
    range_1: Array
    range_2: Array


class Categorical:
    """One label among C, with p(y = c | x) = softmax(h)_c and t(y) one-hot (Theorem 5.2)."""

    name = "categorical"

    def probabilities(self, outputs: Array) -> Array:
        """Softmax σ of the logits: (n, C) to (n, C)."""
        xp = array_namespace(outputs)
        weights = xp.exp(outputs - xp.max(outputs, axis=1, keepdims=True))
        return weights / xp.sum(weights, axis=1, keepdims=True)

    def outcomes(self, outputs: Array, first: Array, second: Array) -> Outcomes:
        """Values of both single-draw estimators at every label.

        Parameters
        ----------
        outputs : array, (n, C)
            Logits h.
        first, second : array, (n, C, units)
            ∂_i h_c and ∂²_i h_c.

        Returns
        -------
        Outcomes
        """
        xp = array_namespace(outputs)
        sigma = self.probabilities(outputs)
        residual = first - _mean(sigma, first)
        score = residual * residual
        hessian = _mean(sigma, second) - second
        return Outcomes(sigma, score, hessian, xp.sum(sigma[:, :, None] * score, axis=1))

    def moments(self, outcomes: Outcomes) -> ConditionalMoments:
        """Exact conditional moments, in centred form, summed over the labels (Lemma 3.1).

        The form E[z²] − E[z]² is never used: it gives negative variances in the last layer.
        """
        xp = array_namespace(outcomes.score)
        sigma = outcomes.probabilities[:, :, None]
        score = outcomes.score - outcomes.fisher[:, None, :]
        variance_1, kurtosis_1 = _variance_and_kurtosis(sigma, score)
        variance_2, kurtosis_2 = _variance_and_kurtosis(sigma, outcomes.hessian)
        covariance_12 = xp.sum(sigma * score * outcomes.hessian, axis=1)
        return ConditionalMoments(
            fisher=outcomes.fisher,
            variance_1=variance_1,
            variance_2=variance_2,
            covariance_12=covariance_12,
            excess_kurtosis_1=kurtosis_1,
            excess_kurtosis_2=kurtosis_2,
            range_1=xp.max(xp.abs(score), axis=1),
            range_2=xp.max(xp.abs(outcomes.hessian), axis=1),
        )


def _mean(sigma: Array, values: Array) -> Array:
    """Mean over the labels, kept as an axis of length one: (n, C, units) to (n, 1, units)."""
    xp = array_namespace(values)
    return xp.matmul(sigma[:, None, :], values)


def _variance_and_kurtosis(sigma: Array, centred: Array) -> tuple[Array, Array]:
    xp = array_namespace(centred)
    squares = centred * centred
    variance = xp.sum(sigma * squares, axis=1)
    positive = variance > 0
    # Scaling by the variance first keeps the fourth power clear of underflow.
    scaled = squares / xp.where(positive, variance, xp.ones_like(variance))[:, None, :]
    kurtosis = xp.sum(sigma * scaled * scaled, axis=1) - 3
    return variance, xp.where(positive, kurtosis, xp.zeros_like(kurtosis))
