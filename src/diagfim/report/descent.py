"""What the report prints of the experiment "descent"."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from diagfim.arrays import short_layer
from diagfim.claims import Claim, Datasets
from diagfim.experiments.reading import METHODS, WHOLE, along_chosen, leave_one_out
from diagfim.latex import Tex

CONFIDENCE = 0.95
"""Of the t-intervals."""

NAMES = {
    "exact": "exact",
    "score": Tex(r"\(\Ione\)"),
    "hessian": Tex(r"\(\Itwo\)"),
    "mixed": "mix",
    "empirical": "empirical Fisher",
    "gradient": "gradient descent",
}


def contents(groups: Datasets) -> dict[str, Any]:
    """What the section prints.

    Returns
    -------
    dict
        ``rows`` of the table, one per memory and method, gradient descent last; ``comparisons``
        with the exact diagonal and the ``apart`` ones among them, whose interval excludes 0;
        ``noise`` by layer; ``edges`` of the grid and ``diverged`` runs counted; the ``spread`` of
        the mean losses at the largest learning rate.
    """
    natural, plain = groups["natural"], groups["gradient"]
    over = ("learning_rate", "damping")
    chosen = leave_one_out(natural, over).isel(epoch=-1)
    gradient = leave_one_out(plain, ("learning_rate",)).isel(epoch=-1)
    rows = [
        _row(method, one, None if method == METHODS[0] else one - reference)
        for memory in natural["memory"].values
        for reference in [chosen.sel(memory=memory, estimator=METHODS[0], drop=True)]
        for method in METHODS
        for one in [chosen.sel(memory=memory, estimator=method)]
    ]
    compared = [row for row in rows if row["difference"] is not None]
    finals = [one["test_loss"].isel(epoch=-1) for one in (natural, plain)]
    rates = natural["learning_rate"].values
    return {
        "confidence": CONFIDENCE,
        "replicates": natural.sizes["replicate"],
        "rows": [*rows, _row("gradient", gradient, None)],
        "comparisons": len(compared),
        "apart": [row for row in compared if row["difference"]["apart"]],
        "noise": _noise_rows(along_chosen(groups)),
        "choices": int(chosen["learning_rate"].size),
        "edges": int(chosen["learning_rate"].isin([rates.min(), rates.max()]).sum()),
        "runs": sum(one.size for one in finals),
        "diverged": sum(int(one.isnull().sum()) for one in finals),
        "fast": [_fast(natural.sel(memory=memory)) for memory in natural["memory"].values],
    }


def claims(groups: Datasets) -> list[Claim]:
    """None: the paper trains no network by natural gradients."""
    return []


def _row(method: str, one: xr.Dataset, difference: xr.Dataset | None) -> dict[str, Any]:
    return {
        "key": method,
        "name": NAMES[method],
        "memory": float(one["memory"]) if "memory" in one.coords else None,
        "rates": _listed(one["learning_rate"].values),
        "loss": mean_and_error(one["test_loss"].values),
        "accuracy": mean_and_error(one["accuracy"].values),
        "difference": None if difference is None else interval(difference["test_loss"].values),
        "negative": float(one["negative_share"].mean()) if "negative_share" in one else None,
    }


def mean_and_error(values: np.ndarray) -> dict[str, float]:
    """Mean over the replicates and its standard error, not a number for a single one."""
    error = np.std(values, ddof=1) / values.size**0.5 if values.size > 1 else np.nan
    return {"mean": float(np.mean(values)), "error": float(error)}


def interval(differences: np.ndarray) -> dict[str, Any]:
    """Mean of paired differences, its standard error and t-interval, and whether that excludes 0.

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.report.descent import interval
    >>> found = interval(np.array([1.0, 2.0, 3.0]))
    >>> f"{found['low']:.2f} to {found['high']:.2f}", found["apart"]
    ('-0.48 to 4.48', False)
    """
    found = mean_and_error(differences)
    half = found["error"] * float(stats.t.ppf((1 + CONFIDENCE) / 2, max(differences.size - 1, 1)))
    low, high = found["mean"] - half, found["mean"] + half
    return {**found, "low": low, "high": high, "apart": bool(low > 0 or high < 0)}


def _noise_rows(errors: xr.DataArray) -> list[dict[str, Any]]:
    """Medians over the replicates at the initialisation and after the last epoch, by layer."""
    middle = errors.median("replicate")
    return [
        {
            "layer": short_layer(str(layer)) if layer != WHOLE else "whole network",
            **{
                method: {"first": float(one.isel(epoch=0)), "last": float(one.isel(epoch=-1))}
                for method in METHODS[1:]
                for one in [middle.sel(layer=layer, estimator=method)]
            },
        }
        for layer in errors["layer"].values
    ]


def _fast(natural: xr.Dataset) -> dict[str, Any]:
    """Median final test loss of every method at the largest learning rate and damping chosen."""
    damped = leave_one_out(natural, ("damping",)).isel(epoch=-1)
    rate = natural["learning_rate"].max()
    middle = damped["test_loss"].sel(learning_rate=rate).median("replicate")
    return {
        "memory": float(natural["memory"]),
        "rate": float(rate),
        "losses": [
            {"name": NAMES[method], "loss": float(middle.sel(estimator=method))}
            for method in METHODS
        ],
    }


def _listed(values: Iterable[float]) -> str:
    """The distinct values, in order."""
    return ", ".join(f"{value:g}" for value in sorted(set(values)))
