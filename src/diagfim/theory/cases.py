"""Random inputs to every family: outputs, derivatives, and every value of y with its probability.

The moments of t(y) are sums over all values of y, as they are defined.
"""

from collections.abc import Callable
from functools import cached_property
from itertools import product

import numpy as np
from scipy import special, stats

from diagfim import spectra
from diagfim.families import Bernoulli, Categorical, Family, Gaussian, Poisson

PARAMETERS = 4
"""Derivatives at every input; the first are along directions that attain the bounds."""


class Cases:
    """Inputs to one family: outputs, derivatives, and every value of y with its probability.

    Parameters
    ----------
    family : Family
    outputs : array, (n, T)
        h.
    residuals : array, (n, Y, T)
        t(y) − η of all values y, with their probabilities `weights`, (n, Y).
    weights : array, (n, Y)
    rng : numpy.random.Generator
        What the derivatives are drawn from.
    """

    def __init__(
        self,
        family: Family,
        outputs: np.ndarray,
        residuals: np.ndarray,
        weights: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        self.family = family
        self.outputs = outputs
        self.residuals = residuals
        self.weights = weights
        shape = *outputs.shape, PARAMETERS
        self.first = rng.normal(size=shape) * rng.lognormal(size=(len(outputs), 1, PARAMETERS))
        self.second = rng.normal(size=shape)
        # Along these directions the bounds are attained.
        self.first[:, :, 0] = self.second[:, :, 0] = self.leading[:, :, -1]
        self.first[:, :, 1] = self.tensor[1].direction
        self.second[:, :, 1] = self.leading[:, :, 0]
        # Of the data: another distribution on the same values of y.
        self.data = weights * rng.lognormal(size=weights.shape)
        self.data /= self.data.sum(axis=1, keepdims=True)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over y: (n, Y, ...) to (n, ...)."""
        return np.asarray(np.einsum("ny,ny...->n...", self.weights, values))

    @cached_property
    def covariance(self) -> np.ndarray:
        """I(h|x): (n, T, T)."""
        return self.second_moment(self.weights)

    def second_moment(self, weights: np.ndarray) -> np.ndarray:
        """Second moment of the residuals at given probabilities: (n, T, T)."""
        return np.asarray(
            (weights[:, :, None] * self.residuals).transpose(0, 2, 1) @ self.residuals
        )

    def fourth_moment(self, weights: np.ndarray) -> np.ndarray:
        """Fourth moment of the residuals at given probabilities: (n, T, T, T, T)."""
        n, count, size = self.residuals.shape
        pairs = self.residuals[:, :, :, None] * self.residuals[:, :, None, :]
        pairs = pairs.reshape(n, count, size**2)
        found = (weights[:, :, None] * pairs).transpose(0, 2, 1) @ pairs
        return np.asarray(found.reshape(n, *[size] * 4))

    @cached_property
    def shift(self) -> np.ndarray:
        """η̂ − η, the mean of the residuals over the data: (n, T)."""
        return np.asarray(np.einsum("ny,nyt->nt", self.data, self.residuals))

    @cached_property
    def data_covariance(self) -> np.ndarray:
        """Covariance of t(ŷ) over the data: (n, T, T)."""
        centred = self.residuals - self.shift[:, None]
        return np.asarray((self.data[:, :, None] * centred).transpose(0, 2, 1) @ centred)

    @cached_property
    def excess(self) -> np.ndarray:
        """M = K − I⊗I: (n, T, T, T, T), from centred products."""
        n, count, size = self.residuals.shape
        pairs = self.residuals[:, :, :, None] * self.residuals[:, :, None, :]
        centred = (pairs - self.covariance[:, None]).reshape(n, count, size**2)
        found = (self.weights[:, :, None] * centred).transpose(0, 2, 1) @ centred
        return np.asarray(found.reshape(n, *[size] * 4))

    @cached_property
    def draws(self) -> tuple[np.ndarray, np.ndarray]:
        """Î1 and Î2 of every y, by their definitions: (n, Y, P) twice (Eq. 3)."""
        fisher = self.mean((self.residuals @ self.first) ** 2)
        return (self.residuals @ self.first) ** 2, fisher[:, None] - self.residuals @ self.second

    @cached_property
    def moments(self) -> dict[str, np.ndarray]:
        """Mean, variances and covariance of `draws`: (n, P)."""
        score, hessian = self.draws
        fisher = self.mean(score)
        score, hessian = score - fisher[:, None], hessian - fisher[:, None]
        return {
            "fisher": fisher,
            "variance_1": self.mean(score**2),
            "variance_2": self.mean(hessian**2),
            "covariance_12": self.mean(score * hessian),
        }

    @cached_property
    def leading(self) -> np.ndarray:
        """Eigenvectors of I, by increasing eigenvalue: (n, T, T)."""
        return np.linalg.eigh(self.covariance)[1]

    @cached_property
    def fisher(self) -> tuple[np.ndarray, np.ndarray]:
        """λmin and λmax of I."""
        return spectra.fisher_eigenvalues(self.covariance)

    @cached_property
    def tensor(self) -> tuple[spectra.Certified, spectra.Certified]:
        """λ̃min and λ̃max of M."""
        return self.family.tensor_eigenvalues(self.outputs, "M")

    @cached_property
    def moment(self) -> tuple[spectra.Certified, spectra.Certified]:
        """λ̃min and λ̃max of K."""
        return self.family.tensor_eigenvalues(self.outputs, "K")

    def attained(self, direction: np.ndarray, tensor: str) -> np.ndarray:
        """The form of M or of K at unit vectors (n, T): (n,)."""
        squares = np.sum(self.residuals * direction[:, None], axis=2) ** 2
        if tensor == "M":
            squares = squares - self.mean(squares)[:, None]
        return self.mean(squares**2)

    @cached_property
    def pairs(self) -> spectra.Certified:
        """γ̃max(M)."""
        return spectra.gamma_max(self.excess)

    @cached_property
    def radius(self) -> np.ndarray:
        """The largest ‖t(y) − η‖²: (n,)."""
        return np.asarray(np.max(np.sum(self.residuals**2, axis=2), axis=1))

    @cached_property
    def norms(self) -> tuple[np.ndarray, np.ndarray]:
        """‖∂_i h‖² and ‖∂²_i h‖²: (n, P)."""
        return np.sum(self.first**2, axis=1), np.sum(self.second**2, axis=1)

    @cached_property
    def sizes(self) -> dict[str, np.ndarray]:
        """Scales of `moments`: norms of derivatives times the trace of I, or of M + I⊗I."""
        trace = np.einsum("naa->n", self.covariance)[:, None]
        fourth = np.einsum("naabb->n", self.excess)[:, None] + trace**2
        slope, bend = self.norms
        return {
            "fisher": slope * trace,
            "variance_1": slope**2 * fourth,
            "variance_2": bend * trace,
            "covariance_12": slope * np.sqrt(bend * fourth * trace),
        }


# --------------------------------------------------------------------------------------- families


def _categorical(rng: np.random.Generator, n: int, classes: int) -> Cases:
    """From nearly one-hot to nearly uniform."""
    concentration = np.array([0.05, 0.3, 1.0, 10.0])[np.arange(n) % 4]
    weights = rng.standard_gamma(np.repeat(concentration[:, None], classes, axis=1))
    outputs = np.log(np.maximum(weights, 1e-30))
    sigma = special.softmax(outputs, axis=1)
    residuals = np.eye(classes) - sigma[:, None]
    return Cases(Categorical(), outputs, residuals, sigma, rng)


def _independent(
    family: Family,
    outputs: np.ndarray,
    values: np.ndarray,
    weights: np.ndarray,
    rng: np.random.Generator,
) -> Cases:
    """Targets of T components from the values (n, T, k) of each and their probabilities."""
    _, size, count = values.shape
    values = values - np.sum(weights * values, axis=2, keepdims=True)
    every = np.array(list(product(range(count), repeat=size)))
    rows = np.arange(size)
    residuals = values[:, rows, every]
    return Cases(family, outputs, residuals, np.prod(weights[:, rows, every], axis=2), rng)


def _bernoulli(rng: np.random.Generator, n: int) -> Cases:
    outputs = 3 * rng.normal(size=(n, 3))
    p = special.expit(outputs)
    values = np.broadcast_to(np.array([0.0, 1.0]), (n, 3, 2))
    return _independent(Bernoulli(), outputs, values, np.stack([1 - p, p], axis=2), rng)


def _poisson(rng: np.random.Generator, n: int) -> Cases:
    outputs = rng.uniform(-2, 1, (n, 2))
    values = np.broadcast_to(np.arange(40.0), (n, 2, 40))  # beyond, probabilities below 1e-25
    weights = stats.poisson.pmf(values, np.exp(outputs)[:, :, None])
    return _independent(Poisson(), outputs, values, weights, rng)


def _gaussian(rng: np.random.Generator, n: int, variance: float | np.ndarray) -> Cases:
    """By a quadrature that is exact for polynomials up to degree 15."""
    outputs = rng.normal(size=(n, 2))
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    s2 = np.broadcast_to(variance, 2)[:, None]
    values = np.broadcast_to(nodes / np.sqrt(s2), (n, 2, 8))
    weights = np.broadcast_to(weights / weights.sum(), values.shape)
    return _independent(Gaussian(variance), outputs, values, weights, rng)


SETTINGS: dict[str, Callable[[np.random.Generator, int], Cases]] = {
    "categorical 2": lambda rng, n: _categorical(rng, n, 2),
    "categorical 3": lambda rng, n: _categorical(rng, n, 3),
    "categorical 5": lambda rng, n: _categorical(rng, n, 5),
    "categorical 10": lambda rng, n: _categorical(rng, n, 10),
    "bernoulli": _bernoulli,
    "poisson": _poisson,
    "gaussian": lambda rng, n: _gaussian(rng, n, 1.0),
    "gaussian by output": lambda rng, n: _gaussian(rng, n, np.array([0.5, 3.0])),
}
"""Random cases by name."""

BOUNDED = tuple(name for name in SETTINGS if name.startswith(("categorical", "bernoulli")))
"""Where t(y) is bounded."""

LABELS = tuple(name for name in SETTINGS if name.startswith("categorical"))
"""Where y is a label."""

FEW = tuple(name for name in SETTINGS if name != "categorical 10")
"""Where matrices of all pairs of pairs of outputs are small."""
