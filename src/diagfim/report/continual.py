"""What the report prints of the experiment "continual"."""

from typing import Any

import numpy as np
import xarray as xr

from diagfim.claims import Claim, Datasets

NAMES = {
    "none": "none",
    "exact": "exact",
    "subset": "exact, fewer inputs",
    "score": "score-based, one draw",
    "empirical": "empirical",
    "batched": "batched",
    "hessian": "Hessian-based, one draw",
    "mixed": "mixed, one draw",
}
"""How tables and figures call a method."""

CLOSE = 0.1
"""Share of the gap to no penalty within which methods count as equally good."""


def contents(groups: Datasets) -> dict[str, Any]:
    """What the section prints: a block per data set."""
    return {
        "results": [
            _result({key: value.isel(dataset=k) for key, value in groups.items()})
            for k in range(groups["plain"].sizes["dataset"])
        ],
        "replicates": groups["plain"].sizes["replicate"],
        "close": CLOSE,
    }


def claims(groups: Datasets) -> list[Claim]:
    """Claims of the paper that the experiment decides: none."""
    return []


def chosen(penalised: xr.DataArray) -> xr.DataArray:
    """The strength of every method and replicate that is best on average over the others.

    Parameters
    ----------
    penalised : DataArray
        Accuracies (replicate, estimator, strength, learnt, task).  A single replicate, which has no
        others, chooses by itself.

    Returns
    -------
    DataArray
        Strengths (replicate, estimator).
    """
    last = final(penalised)
    number = last.sizes["replicate"]
    others = (last.sum("replicate") - last) / (number - 1) if number > 1 else last
    return others.idxmax("strength")


def final(accuracy: xr.DataArray) -> xr.DataArray:
    """Mean over the tasks once the last one is learnt."""
    return accuracy.isel(learnt=-1, drop=True).mean("task", skipna=False)


def at_chosen(groups: Datasets) -> xr.DataArray:
    """Accuracies (replicate, estimator, learnt, task) at the chosen strengths, and without any."""
    penalised = groups["penalised"]["accuracy"]
    best = penalised.sel(strength=chosen(penalised)).drop_vars("strength")
    plain = groups["plain"]["accuracy"].expand_dims(estimator=["none"])
    return xr.concat([plain, best], dim="estimator")


def mean_and_error(values: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean over the replicates and its standard error, NaN for a single one."""
    number = values.sizes["replicate"]
    error = values.std("replicate", ddof=1) if number > 1 else values.mean("replicate") * np.nan
    return values.mean("replicate"), error / number**0.5


def _result(groups: Datasets) -> dict[str, Any]:
    """Tables of one data set, and what follows from them."""
    accuracy = final(at_chosen(groups))
    methods = [str(name) for name in accuracy["estimator"].values]
    strengths = chosen(groups["penalised"]["accuracy"])
    differences = accuracy - accuracy.sel(estimator="exact", drop=True)
    published = groups["published"].isel(replicate=0)
    rows = []
    for method in methods:
        row: dict[str, Any] = {"name": NAMES[method]}
        for key, values in (("accuracy", accuracy), ("difference", differences)):
            mean, error = mean_and_error(values.sel(estimator=method))
            row[key] = {"mean": float(mean), "error": float(error)}
        one = published.sel(estimator=method)
        row["published"] = {"mean": float(one["accuracy"]), "error": float(one["accuracy_error"])}
        row["exact"] = method == "exact"
        row["strengths"] = (
            [] if method == "none" else sorted(set(strengths.sel(estimator=method).values.tolist()))
        )
        row["beyond"] = abs(row["difference"]["mean"]) > 2 * row["difference"]["error"]
        rows.append(row)
    return {
        "name": str(accuracy["dataset"].item()),
        "rows": rows,
        "fishers": _fishers(groups["fisher"]),
        "rounding": float(
            groups["fisher"]["relative_error"].sel(estimator=["hessian", "mixed"]).max()
        ),
        "beyond": [row["name"] for row in rows if row["beyond"] and row["name"] != NAMES["none"]],
        **_order(accuracy),
    }


def _order(accuracy: xr.DataArray) -> dict[str, Any]:
    """Whether all methods are alike and far above no penalty, as published."""
    mean = accuracy.mean("replicate")
    penalised = mean.drop_sel(estimator="none")
    gap, spread = penalised.min() - mean.sel(estimator="none"), penalised.max() - penalised.min()
    lead, error = mean_and_error(accuracy - accuracy.sel(estimator="none", drop=True))
    above = bool((lead > 2 * error).drop_sel(estimator="none").all())
    return {
        "gap": float(gap),
        "spread": float(spread),
        "above": above,
        "reproduced": above and bool(spread < CLOSE * gap),
    }


def _fishers(fisher: xr.Dataset) -> list[dict[str, Any]]:
    """Rows by estimator: medians and extremes over the replicates."""
    return [
        {
            "key": str(name),
            "name": NAMES[str(name)],
            **{
                str(key): {
                    "median": float(one.median()),
                    "least": float(one.min()),
                    "greatest": float(one.max()),
                }
                for key, one in fisher.sel(estimator=name).data_vars.items()
            },
        }
        for name in fisher["estimator"].values
    ]
