"""Independent targets, each from an exponential family of one natural parameter.

With the components of t(y) independent, I(h|x) is diagonal, and of the third and fourth moments
only those of one component are needed: a new family states four moments and its quantiles.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from array_api_compat import array_namespace, to_device
from scipy import special

from diagfim import spectra
from diagfim.derivatives.factored import Array
from diagfim.errors import UserError
from diagfim.families.base import Draws, Moments
from diagfim.seeding import InputStreams


@dataclass(frozen=True)
class Central:
    """Moments of one component t of the sufficient statistic, each (n, T).

    Attributes
    ----------
    mean : array
        η = F'(h).
    variance : array
        F''(h).
    third : array
        Third central moment F'''(h).
    square_variance : array
        Var((t − η)²) = F''''(h) + 2 F''(h)², the entry M_tttt, in a form that keeps its digits
        where it is small.
    """

    mean: Array
    variance: Array
    third: Array
    square_variance: Array


class Independent(ABC):
    """T independent targets; a subclass gives their moments and quantiles.

    Examples
    --------
    Counts of successes in ten trials, the outputs being the log-odds:

    >>> from scipy import special, stats
    >>> from diagfim.families import Central, Independent
    >>> class Binomial(Independent):
    ...     name = "binomial"
    ...     def central(self, h):
    ...         p, q = 1 / (1 + (-h).exp()), 1 / (1 + h.exp())
    ...         v = 10 * p * q
    ...         return Central(10 * p, v, v * (q - p), v * (1 - 6 * p * q) + 2 * v * v)
    ...     def quantile(self, h, levels):
    ...         return stats.binom.ppf(levels, 10, special.expit(h))
    >>> import diagfim, torch
    >>> tree = diagfim.analyze(torch.nn.Linear(3, 2), torch.rand(5, 3), family=Binomial())
    >>> tree["weight"]["variance_1"].shape
    (2, 3)
    """

    name: str
    targets = "numbers"
    """What the targets are, for messages."""
    outputs = "natural parameters"
    links: tuple[str, ...] = ()

    def misfit(self, outputs: Array) -> str | None:
        """Nothing by itself: any numbers may be natural parameters."""
        return None

    @abstractmethod
    def central(self, outputs: Array) -> Central:
        """Moments of the components of t(y) at outputs (n, T), NumPy or torch."""

    @abstractmethod
    def quantile(self, outputs: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """t(y) at levels in [0, 1) of its distribution: (n, 1, T) and (n, N, T) to (n, N, T)."""

    def statistic(self, targets: Array) -> Array:
        """t(y) of the data's targets (n, T); NaN for a y that cannot be."""
        return targets

    # ------------------------------------------------------------------------------- moments

    def mean(self, outputs: Array) -> Array:
        """η = E[t(y)]: (n, T)."""
        return self.central(outputs).mean

    def covariance(self, outputs: Array) -> Array:
        """I(h|x), diagonal: (n, T, T)."""
        return self.directions(outputs) * self.central(outputs).variance[:, None, :]

    def directions(self, outputs: Array) -> Array:
        """Every output by itself: (n, T) to (n, T, T)."""
        xp = array_namespace(outputs)
        n, size = outputs.shape
        eye = xp.eye(size, dtype=outputs.dtype, device=outputs.device)
        return xp.broadcast_to(eye, (n, size, size))

    def root(self, outputs: Array) -> Array:
        """Every output, in units of the inverse root of its variance: (n, T) to (n, T, T)."""
        xp = array_namespace(outputs)
        return self.directions(outputs) * xp.sqrt(self.central(outputs).variance)[:, None, :]

    def moments(self, outputs: Array, first: Array, second: Array | None) -> Moments:
        """Exact conditional moments (Lemma 3.1), as sums of terms of one sign.

        With a = ∂h, s = ∂²h and the moments v, k, m of one component (variance, third, variance of
        the square): I = Σ_t v a², V1 = Σ_t m a⁴ + 4 Σ_{s<t} (v a²)_s (v a²)_t, V2 = Σ_t v s² and
        C12 = −Σ_t k a² s.
        """
        xp = array_namespace(first)
        one = self.central(outputs)
        square = first * first
        share = one.variance[:, :, None] * square
        variance_1 = _total(one.square_variance, square * square)
        if share.shape[1] > 1:
            before = xp.cumulative_sum(share, axis=1)[:, :-1]
            variance_1 = variance_1 + 4 * xp.sum(share[:, 1:] * before, axis=1)
        if second is None:
            variance_2 = covariance_12 = xp.zeros_like(variance_1)
        else:
            variance_2 = _total(one.variance, second * second)
            covariance_12 = -_total(one.third, square * second)
        return Moments(xp.sum(share, axis=1), variance_1, variance_2, covariance_12)

    def second_moment(self, outputs: Array, a: Array, b: Array) -> Array:
        """E[(aᵀr)(bᵀr)]; see `Family.second_moment`."""
        return _total(self.central(outputs).variance, a * b)

    def third_moment(self, outputs: Array, a: Array, b: Array, c: Array) -> Array:
        """E[(aᵀr)(bᵀr)(cᵀr)]; see `Family.third_moment`."""
        return _total(self.central(outputs).third, a * b * c)

    def product_covariance(self, outputs: Array, a: Array, b: Array, c: Array, d: Array) -> Array:
        """Cov((aᵀr)(bᵀr), (cᵀr)(dᵀr)): a fourth cumulant and Isserlis' two pairings."""
        one = self.central(outputs)
        v = one.variance
        fourth = _total(one.square_variance - 2 * v * v, a * b * c * d)
        return fourth + _total(v, a * c) * _total(v, b * d) + _total(v, a * d) * _total(v, b * c)

    def tensor_eigenvalues(
        self, outputs: Array, tensor: str = "M"
    ) -> tuple[spectra.Certified, spectra.Certified]:
        """λ̃min and λ̃max of M or K; see `spectra.independent_tensor_eigenvalues`."""
        one = self.central(outputs)
        v, m = (_as_numpy(x) for x in (one.variance, one.square_variance))
        return spectra.independent_tensor_eigenvalues(v, m, tensor)

    # ------------------------------------------------------------------------------- targets

    def residuals(self, outputs: Array, targets: Array) -> Array:
        """t(y) − η of given targets (n, T)."""
        xp = array_namespace(outputs)
        values = xp.asarray(targets, dtype=outputs.dtype, device=outputs.device)
        if values.shape != outputs.shape:
            remedy = "; pass labels[:, None]" if outputs.shape == (*values.shape, 1) else ""
            raise UserError(
                f"labels: shape {tuple(values.shape)}; the {self.name} family expects the shape of "
                f"the outputs, {tuple(outputs.shape)}{remedy}"
            )
        found = self.statistic(values)
        known = xp.isfinite(found)
        if not bool(xp.all(known)):
            raise UserError(
                f"labels: the {self.name} family expects {self.targets} only; found "
                f"{float(values[~known][0])}"
            )
        return found - self.mean(outputs)

    def sample(self, outputs: Array, draws: int, streams: InputStreams) -> Array:
        """Residuals of N draws at each input, by inversion: (n, N, T)."""
        n, size = outputs.shape
        levels = streams.uniforms(draws * size).reshape(n, draws, size)
        drawn = self.quantile(_as_numpy(outputs)[:, None, :], levels)
        return self._residuals_of(outputs, drawn)

    def draw(self, outputs: Array, draws: int, streams: InputStreams) -> Draws:
        """Draw targets; from T draws on, only the T directions of their scatter are kept."""
        xp = array_namespace(outputs)
        size = outputs.shape[1]
        if draws <= size:
            drawn = self.sample(outputs, draws, streams)
            weights = xp.full(
                drawn.shape[:2], 1 / draws, dtype=outputs.dtype, device=outputs.device
            )
            return Draws(drawn, weights, xp.mean(drawn, axis=1))
        scatters, means = [], []
        h, eta = _as_numpy(outputs), _as_numpy(self.mean(outputs))
        for k, rng in enumerate(streams.generators()):
            drawn = self.quantile(h[k, None], rng.random((draws, size))) - eta[k]
            means.append(drawn.mean(axis=0))
            scatters.append(np.linalg.qr(drawn / draws**0.5, mode="r"))
        return _scatter(outputs, np.stack(scatters), np.stack(means))

    def _residuals_of(self, outputs: Array, drawn: np.ndarray) -> Array:
        xp = array_namespace(outputs)
        values = xp.asarray(drawn, dtype=outputs.dtype, device=outputs.device)
        return values - self.mean(outputs)[:, None, :]


class Gaussian(Independent):
    """Independent targets y_t ~ N(h_t, s_t²) of known variances, the outputs being the means.

    Proposition 5.1 at s = 1, where Theorem 4.1 holds with equality.  The sufficient statistic that
    goes with the means as natural parameters is t(y) = y/s².

    Parameters
    ----------
    variance : float or array of shape (T,)
        s², in squared units of the targets: one for all outputs, or one for each.
    """

    name = "gaussian"
    targets = "real numbers"
    outputs = "means"

    def __init__(self, variance: float | np.ndarray = 1.0) -> None:
        try:
            values = np.asarray(variance, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.array(np.nan)
        if values.ndim > 1 or not np.all((values > 0) & (values < np.inf)):
            raise UserError(
                f"variance: {variance} is not positive and finite; give that of the noise, once or "
                "for every output"
            )
        self.variance = values

    def central(self, outputs: Array) -> Central:
        """Means h/s² and variances 1/s², the third moment 0, the fourth 3/s⁴."""
        xp = array_namespace(outputs)
        precision = self._precision(outputs)
        return Central(
            outputs * precision, precision, xp.zeros_like(outputs), 2 * precision * precision
        )

    def quantile(self, outputs: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """(h + s z)/s² at the quantile z of the standard normal distribution."""
        # The level 0 has probability 2^-53: half of the next one keeps it finite.
        noise = special.ndtri(np.maximum(levels, 2.0**-54))
        return np.asarray((outputs + np.sqrt(self.variance) * noise) / self.variance)

    def statistic(self, targets: Array) -> Array:
        """y/s²."""
        return targets * self._precision(targets)

    def draw(self, outputs: Array, draws: int, streams: InputStreams) -> Draws:
        """Draw targets; from T draws on, their mean and Wishart scatter (Bartlett 1933) instead."""
        size = outputs.shape[1]
        if draws <= size:
            return super().draw(outputs, draws, streams)
        scatters, means = [], []
        for rng in streams.generators():
            mean = rng.standard_normal(size) / draws**0.5
            root = np.tril(rng.standard_normal((size, size)), k=-1)
            root += np.diag(np.sqrt(rng.chisquare(draws - 1 - np.arange(size))))
            scatters.append(np.concatenate([mean[None], root.T / draws**0.5]))
            means.append(mean)
        scale = np.sqrt(self.variance)
        return _scatter(outputs, np.stack(scatters) / scale, np.stack(means) / scale)

    def _precision(self, outputs: Array) -> Array:
        xp = array_namespace(outputs)
        size = outputs.shape[1]
        if self.variance.ndim and self.variance.shape != (size,):
            raise UserError(
                f"variance: {self.variance.shape[0]} values for {size} outputs; give one for each"
            )
        precision = xp.asarray(1 / self.variance, dtype=outputs.dtype, device=outputs.device)
        return xp.broadcast_to(precision, outputs.shape)


class Bernoulli(Independent):
    """Independent labels y_t in {0, 1}, the outputs being their log-odds: multi-label networks."""

    name = "bernoulli"
    targets = "0 and 1"
    outputs = "log-odds"
    links: tuple[str, ...] = ("Sigmoid", "Hardsigmoid")

    def central(self, outputs: Array) -> Central:
        """With p the logistic function of h: p, p q, p q (q − p) and p q (q − p)²."""
        xp = array_namespace(outputs)
        small = xp.exp(-xp.abs(outputs))  # no overflow, and no digits lost near certainty
        variance = small / (1 + small) ** 2
        mean = xp.where(outputs < 0, small, xp.ones_like(small)) / (1 + small)
        skew = -xp.tanh(outputs / 2)
        return Central(mean, variance, variance * skew, variance * skew * skew)

    def quantile(self, outputs: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """1 below the probability of 1."""
        return np.asarray(levels < special.expit(outputs), dtype=np.float64)

    def statistic(self, targets: Array) -> Array:
        """The target itself."""
        xp = array_namespace(targets)
        return xp.where((targets == 0) | (targets == 1), targets, xp.nan)


class Poisson(Independent):
    """Independent counts, the outputs being the logarithms of their means."""

    name = "poisson"
    targets = "counts 0, 1, 2, ..."
    outputs = "logarithms of means"

    def central(self, outputs: Array) -> Central:
        """Every cumulant is λ = exp(h)."""
        xp = array_namespace(outputs)
        rate = xp.exp(outputs)
        square_variance = rate + 2 * rate * rate
        if not bool(xp.all(xp.isfinite(square_variance))):
            raise UserError(
                f"family: poisson: outputs up to {float(xp.max(outputs)):.6g}, as logarithms of "
                f"means, overflow {outputs.dtype}; if they are the means themselves, return their "
                "logarithms"
            )
        return Central(rate, rate, rate, square_variance)

    def quantile(self, outputs: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """The least count whose cumulative probability exceeds the level."""
        rate = np.broadcast_to(np.exp(outputs), levels.shape)
        guess = np.ceil(special.pdtrik(levels, rate))
        # pdtrik inverts a continuous extension; rounding may leave it one off.
        guess = np.maximum(np.where(np.isfinite(guess), guess, 0.0), 0.0)
        guess = np.where(special.pdtr(guess, rate) <= levels, guess + 1, guess)
        below = special.pdtr(np.maximum(guess - 1, 0.0), rate)
        return np.where((guess > 0) & (below > levels), guess - 1, guess)

    def statistic(self, targets: Array) -> Array:
        """The target itself."""
        xp = array_namespace(targets)
        return xp.where((targets >= 0) & (targets == xp.floor(targets)), targets, xp.nan)


def _total(weights: Array, values: Array) -> Array:
    """Σ_t weights_t values_t: (n, T) and (n, T, units) to (n, units)."""
    xp = array_namespace(values)
    return xp.matmul(weights[:, None, :], values)[:, 0]


def _as_numpy(values: Array) -> np.ndarray:
    return np.asarray(to_device(values, "cpu"), dtype=np.float64)


def _scatter(outputs: Array, directions: np.ndarray, means: np.ndarray) -> Draws:
    xp = array_namespace(outputs)
    of_draws = {"dtype": outputs.dtype, "device": outputs.device}
    return Draws(
        xp.asarray(directions, **of_draws),
        xp.ones(directions.shape[:2], **of_draws),
        xp.asarray(means, **of_draws),
    )
