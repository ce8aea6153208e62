"""Every numbered result of Soen and Sun (2024) on random cases, and what refutes its misprints."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import xarray as xr

from diagfim import arrays
from diagfim.seeding import stream
from diagfim.theory.cases import SETTINGS, Cases
from diagfim.theory.checks import REPETITIONS, Comparison
from diagfim.theory.results import RESULTS, Result

__all__ = [
    "COUNTEREXAMPLES",
    "NORMAL",
    "RESULTS",
    "ROUNDING",
    "Counterexample",
    "Result",
    "counterexamples",
    "verify",
]

ROUNDING = 1e-11
"""Allowed beyond a bound or between two sides, in units of the scale of the comparison.

A sum over 1,600 values of y of products of ten factors is right to 16,000 eps, 4e-12, of the sum of
the absolute values of its terms, which the scales are not below."""

NORMAL = 5.0
"""Standard errors that a simulation may be off: a normal law exceeds it once in a million."""


def verify(
    seed: int,
    cases: int,
    progress: Callable[[Iterable[Result], str, int], Iterable[Result]] | None = None,
    names: Sequence[str] = tuple(RESULTS),
) -> xr.Dataset:
    """Try every result on random cases.

    Parameters
    ----------
    seed : int
        Of all random streams; what one result is tried on depends on no other.
    cases : int
        Least number of cases for each; there are more where one is tried on several families.
    progress : callable, optional
        From the results, a word for them and their number, an iterator that reports on them.
    names : sequence of str
        Keys of `RESULTS`, all by default.

    Returns
    -------
    xarray.Dataset
        Along ``result``: the ``function`` that implements it, its ``statement`` and ``kind``
        ("bound", "identity", "simulation", "misprint"); the number of ``cases``; the
        ``violations``, those beyond what is ``allowed``; the ``largest_violation``, of a bound the
        largest excess and of an identity the largest deviation, in units of the scale of its terms,
        of a simulation the largest deviation in standard errors; and of a bound the ``tightest``
        ratio of a value to its bound, above 1 if it is broken.

    Examples
    --------
    >>> from diagfim.theory import verify
    >>> found = verify(seed=0, cases=20)
    >>> int(found["violations"].where(found["kind"] == "bound").sum())
    0
    """
    number = -(-cases // 4)  # the fewest families that a result is tried on
    made: dict[str, Cases] = {}
    rows = []
    results = [RESULTS[name] for name in names]
    for result in results if progress is None else progress(results, "result", len(results)):
        comparisons: list[Comparison] = []
        if result.trial is not None:
            comparisons += result.trial(stream(seed, result.name), cases)
        if result.check is not None:
            for name in result.settings:
                if name not in made:
                    made[name] = SETTINGS[name](stream(seed, name), number)
                comparisons += result.check(made[name])
        rows.append({"function": result.function, "statement": result.statement})
        rows[-1] |= {"kind": result.kind, **_outcome(result.kind, comparisons)}
        if result.kind == "simulation":
            rows[-1]["cases"] *= REPETITIONS * cases
    return xr.Dataset(
        {
            key: ("result", np.array([row[key] for row in rows]), arrays.description(key))
            for key in rows[0]
        },
        coords={"result": list(names)},
    )


def _outcome(kind: str, comparisons: Iterable[Comparison]) -> dict[str, Any]:
    allowed = NORMAL if kind == "simulation" else ROUNDING
    count = violations = 0
    largest, tightest = 0.0, float("nan")
    for one in comparisons:
        smaller, larger, scale = np.broadcast_arrays(one.smaller, one.larger, one.scale)
        excess = smaller - larger
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.where(excess == 0, 0.0, excess / scale)
            if kind in ("identity", "simulation"):
                relative = np.abs(relative)
            # Not a number is a violation as well.
            violations += int(np.sum(~(relative <= allowed)))
            ratio = np.where(larger > 1e-6 * scale, smaller / larger, 0.0)
        count += relative.size
        largest = max(largest, float(relative.max()))
        if kind in ("bound", "misprint"):
            tightest = float(np.nanmax([tightest, ratio.max()]))
    return {
        "cases": count,
        "violations": violations,
        "largest_violation": largest,
        "tightest": tightest,
        "allowed": allowed,
    }


# ---------------------------------------------------------------------------------- counterexamples


@dataclass(frozen=True)
class Counterexample:
    """A case that a printed bound does not hold for, in exact numbers.

    Attributes
    ----------
    result : str
        Key of `RESULTS`.
    setting : str
        What it consists of.
    value, printed, corrected : Fraction
        The value, the bound on it as printed, and as corrected.
    """

    result: str
    setting: str
    value: Fraction
    printed: Fraction
    corrected: Fraction


COUNTEREXAMPLES = (
    Counterexample(
        "Corollary 4.6, Eq. 13, as printed",
        "one Gaussian target of variance 1, one parameter, first derivative 2",
        Fraction(4),
        Fraction(2),
        Fraction(4),
    ),
    Counterexample(
        "Corollary 4.6, Eq. 14, as printed",
        "one Gaussian target of variance 1, one parameter, first derivative 2",
        Fraction(32),
        Fraction(8),
        Fraction(32),
    ),
    Counterexample(
        "Corollary 4.6, Eq. 15, as printed",
        "one Gaussian target of variance 1, one parameter, second derivative 2",
        Fraction(4),
        Fraction(2),
        Fraction(4),
    ),
    Counterexample(
        "Theorem D.1, Eq. 23, lower, as printed",
        "two Gaussian targets of variances 1/2 and 1, one parameter, derivatives (0, 1)",
        Fraction(2),
        Fraction(4),
        Fraction(0),
    ),
    Counterexample(
        "Theorem D.1, Eq. 23, upper, as printed",
        "two Gaussian targets of variance 1, four parameters, derivatives (1, 0), "
        "(0, 1), (1, 1), (1, -1)",
        Fraction(20),
        Fraction(18),
        Fraction(20),
    ),
    Counterexample(
        "Lemma I.1, as printed",
        "the matrix with rows (0, 1) and (0, 0), the vector (1, 1)",
        Fraction(1),
        Fraction(0),
        Fraction(1),
    ),
)
"""One for each side of each misprint, as small as they come."""


def counterexamples() -> xr.Dataset:
    """`COUNTEREXAMPLES` as arrays along ``misprint``.

    Examples
    --------
    >>> from diagfim.theory import counterexamples
    >>> counterexamples()["value"].values.tolist()
    [4.0, 32.0, 4.0, 2.0, 20.0, 1.0]
    """
    return xr.Dataset(
        {
            key: ("misprint", np.array(values), arrays.description(key))
            for key, values in (
                ("setting", [one.setting for one in COUNTEREXAMPLES]),
                ("value", [float(one.value) for one in COUNTEREXAMPLES]),
                ("printed_bound", [float(one.printed) for one in COUNTEREXAMPLES]),
                ("corrected_bound", [float(one.corrected) for one in COUNTEREXAMPLES]),
            )
        },
        coords={"misprint": [one.result for one in COUNTEREXAMPLES]},
    )
