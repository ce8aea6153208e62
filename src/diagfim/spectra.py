"""Extreme eigenvalues of the moments of t(y), with certificates: a direction that attains and a bound."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Certified:
    """An extremum over unit vectors that lies between two numbers, for each of n inputs.

    Attributes
    ----------
    lower, upper : array, (n,)
        Of a maximum, a value that is attained and a proven bound; of a minimum, the other way
        round.
    direction : array, (n, T)
        The unit vector that attains.
    """

    lower: np.ndarray
    upper: np.ndarray
    direction: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """upper / lower − 1, and 0 where both are 0: (n,)."""
        return np.divide(
            self.upper - self.lower,
            self.lower,
            out=np.zeros_like(self.lower),
            where=self.upper > self.lower,
        )


def categorical_tensor_eigenvalues(
    probabilities: np.ndarray, tensor: str = "M", rtol: float = 1e-2
) -> tuple[Certified, Certified]:
    """λ̃min and λ̃max of M or K of a categorical distribution."""
    raise NotImplementedError


def independent_tensor_eigenvalues(
    variance: np.ndarray, square_variance: np.ndarray, tensor: str = "M", rtol: float = 1e-2
) -> tuple[Certified, Certified]:
    """λ̃min and λ̃max of M or K of independent components."""
    raise NotImplementedError
