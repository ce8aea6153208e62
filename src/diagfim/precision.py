"""What a wanted precision asks of a variance; it needs no PyTorch.

A layer is estimated well enough when ‖Î − I‖₂ ≤ ε ‖I‖₂ with probability 1 − δ.  The mean of
‖Î − I‖₂² is the sum Σ V of the variances over its parameters, which two rules turn into numbers:

- "chebyshev": Σ V ≤ δ ε² ‖I‖₂².  Markov's inequality for ‖Î − I‖₂²; it always holds.
- "clt": q Σ V ≤ ε² ‖I‖₂², with q the quantile of χ²₁ at 1 − δ, and never below 1.5365.  Once the
  errors are normal, ‖Î − I‖₂² is a quadratic form of normal variables, and beyond that multiple of
  the mean no such form reaches as far as the square of a single one (Székely and Bakirov 2003).  So
  the rule is conservative but for the errors' not being normal yet.
"""

import numpy as np
from scipy import stats

from diagfim.errors import UserError

_SINGLE = 1.5365
"""Multiple of the mean from which on a single χ²₁ reaches farthest (Székely and Bakirov 2003)."""


def rule_factors(relative_error: float, confidence: float) -> dict[str, float]:
    """By rule, the f for which f · (variance over squared norm) ≤ 1 is enough.

    Parameters
    ----------
    relative_error, confidence : float
        As for `diagfim.plan`.

    Raises
    ------
    UserError
        If they are not what they should be.

    Examples
    --------
    >>> from diagfim.precision import rule_factors
    >>> round(rule_factors(0.1, 0.95)["chebyshev"])
    2000
    """
    if not is_number(relative_error) or not 0 < relative_error < float("inf"):
        raise UserError(f"relative_error: {relative_error!r} is not positive; 0.1 is ten per cent")
    if not is_number(confidence) or not 0 < confidence < 1:
        raise UserError(f"confidence: {confidence!r} is not between 0 and 1; pass 0.95, say")
    quantile = max(float(stats.chi2.ppf(confidence, 1)), _SINGLE)
    return {
        "chebyshev": 1 / ((1 - confidence) * relative_error**2),
        "clt": quantile / relative_error**2,
    }


def relative(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Quotients of arrays; nothing over nothing is an estimate exactly right, and so 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(above == 0, 0.0, above / below)


def is_number(value: object) -> bool:
    """Whether a value is one number, not a text or an array."""
    return isinstance(value, int | float | np.integer | np.floating)
