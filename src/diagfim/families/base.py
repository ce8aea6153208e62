"""Output distributions p(y|x;θ) = π(y) exp(t(y)ᵀ h − F(h)), by what the estimators need of them.

With η = E[t] = ∇F(h), a family names the directions in the space of the outputs along which the
derivatives ∂_i h and ∂²_i h are needed, and turns those derivatives into the exact moments of both
estimators (Lemma 3.1).  It also draws y from the model, as directions again.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from diagfim.derivatives.factored import Array
from diagfim.seeding import InputStreams
from diagfim.spectra import Certified


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


@runtime_checkable
class Family(Protocol):
    """An output distribution, with outputs h of shape (n, T) and residuals r = t(y) − η.

    The residual of y is the gradient ∂ log p(y|x) / ∂h, of mean 0.  A family of independent targets
    needs two methods only; see `diagfim.families.Independent`.
    """

    name: str
    outputs: str
    """What the outputs are, for messages."""
    links: tuple[str, ...]
    """Classes of modules that give the means in place of the outputs that are wanted."""

    def misfit(self, outputs: Array) -> str | None:
        """What speaks against outputs (n, T) being this family's, and the remedy, if anything."""
        ...

    def mean(self, outputs: Array) -> Array:
        """η = E[t(y)]: (n, T)."""
        ...

    def covariance(self, outputs: Array) -> Array:
        """I(h|x) = Cov(t(y)): (n, T, T)."""
        ...

    def directions(self, outputs: Array) -> Array:
        """Directions (n, K, T) along which `moments` wants ∂h and ∂²h, for outputs (n, T)."""
        ...

    def moments(self, outputs: Array, first: Array, second: Array | None) -> Moments:
        """Exact conditional moments from derivatives (n, K, units) along the directions."""
        ...

    def root(self, outputs: Array) -> Array:
        """Directions d (n, K, T) with I(θ_i | x) = Σ_k (d_kᵀ ∂_i h)²."""
        ...

    def second_moment(self, outputs: Array, a: Array, b: Array) -> Array:
        """I(h|x) contracted, E[(aᵀr)(bᵀr)]: vectors (n, T, units) to (n, units)."""
        ...

    def third_moment(self, outputs: Array, a: Array, b: Array, c: Array) -> Array:
        """κ contracted, E[(aᵀr)(bᵀr)(cᵀr)]; shapes as of `second_moment`."""
        ...

    def product_covariance(self, outputs: Array, a: Array, b: Array, c: Array, d: Array) -> Array:
        """M = K − I⊗I contracted, Cov((aᵀr)(bᵀr), (cᵀr)(dᵀr)); shapes as of `second_moment`."""
        ...

    def residuals(self, outputs: Array, targets: Array) -> Array:
        """∂ log p(y|x) / ∂h at given targets y: (n, T)."""
        ...

    def sample(self, outputs: Array, draws: int, streams: InputStreams) -> Array:
        """Residuals of y drawn from the model, N times at each input: (n, N, T)."""
        ...

    def draw(self, outputs: Array, draws: int, streams: InputStreams) -> Draws:
        """Draw y from the model, N times at each input, as `Draws`."""
        ...

    def tensor_eigenvalues(self, outputs: Array, tensor: str = "M") -> tuple[Certified, Certified]:
        """λ̃min and λ̃max (Eq. 10) of M or of K at every input, with certificates."""
        ...
