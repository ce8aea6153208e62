"""What the report prints of the experiment "continual"."""

from typing import Any

import xarray as xr

from diagfim.claims import Claim, Datasets
from diagfim.experiments.reading import (
    CONTINUAL_NAMES,
    at_chosen,
    chosen,
    final,
    mean_and_error,
)
from diagfim.report.summaries import spread

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


def _result(groups: Datasets) -> dict[str, Any]:
    """Tables of one data set, and what follows from them."""
    accuracy = final(at_chosen(groups))
    methods = [str(name) for name in accuracy["estimator"].values]
    strengths = chosen(groups["penalised"]["accuracy"])
    differences = accuracy - accuracy.sel(estimator="exact", drop=True)
    published = groups["published"].isel(replicate=0)
    rows = []
    for method in methods:
        row: dict[str, Any] = {"name": CONTINUAL_NAMES[method]}
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
        "beyond": [
            row["name"] for row in rows if row["beyond"] and row["name"] != CONTINUAL_NAMES["none"]
        ],
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
            "name": CONTINUAL_NAMES[str(name)],
            **{str(key): spread(one) for key, one in fisher.sel(estimator=name).data_vars.items()},
        }
        for name in fisher["estimator"].values
    ]
