"""What the report prints of the regression network: its layers, and what decides the claims."""

from dataclasses import replace
from typing import Any

import xarray as xr

from diagfim.arrays import short_layer
from diagfim.claims import Claim, Datasets, by_replicate, median_and_range
from diagfim.comparison import BOUND_SLACK, family_limit
from diagfim.report.summaries import spread


def contents(groups: Datasets) -> dict[str, Any]:
    """The trained networks, rows by layer, and the simulated estimates; medians over replicates."""
    training = groups["training"]
    first, last = training.isel(epoch=0), training.isel(epoch=-1)
    equality, rows = groups["equality"], layer_table(groups)
    return {
        "replicates": training.sizes["replicate"],
        "error": {"first": spread(first["angle_error"]), "last": spread(last["angle_error"])},
        "fitted": spread(last["noise_deviation"]),
        "rows": rows,
        "hidden_rows": rows[:-1],
        "agreement": agreement_table(groups["draws"]),
        "limit": family_limit(int(groups["draws"]["tests"].sum())),
        "deviation": float(equality["equality_deviation"].max()),
        "eigenvalue_deviation": float(equality["eigenvalue_deviation"].max()),
        "largest_covariance": float(equality["largest_covariance"].max()),
        "checked": int(equality["checked"].sum()),
    }


def layer_table(groups: Datasets) -> list[dict[str, Any]]:
    """Rows by layer at the last epoch: at single inputs, and averaged over them."""
    first, last = (groups["training"].isel(epoch=k) for k in (0, -1))
    rows = []
    for layer in groups["averages"]["layer"].values:
        mean, noise, start, one = (
            found.sel(layer=layer) for found in (groups["averages"], groups["noise"], first, last)
        )
        rows.append(
            {
                "layer": short_layer(str(layer)),
                **{
                    key: float(mean[key].median()) for key in ("fisher", "variance_1", "variance_2")
                },
                "ratio": float(one["variance_ratio"].median()),
                "crossing": float(noise["crossing"].median()),
                "lemma_ratio": float(mean["lemma_ratio"].median()),
                **{
                    level: {
                        "initial": float(start["hessian_better"].sel(level=level).median()),
                        "single": float(one["hessian_better"].sel(level=level).median()),
                        "averaged": float(mean["hessian_better"].sel(level=level).median()),
                        "score": _share(mean, level, "score"),
                        "hessian": _share(mean, level, "hessian"),
                    }
                    for level in ("unit", "fitted")
                },
            }
        )
    return rows


def agreement_table(draws: xr.Dataset) -> list[dict[str, Any]]:
    """Rows by estimator and statistic, pooled over layers and replicates."""
    rows = []
    for estimator, name in (("score", "Î1"), ("hessian", "Î2")):
        for statistic in ("mean", "variance"):
            one = draws.sel(estimator=estimator, statistic=statistic)
            tests = int(one["tests"].sum())
            rows.append(
                {
                    "estimator": name,
                    "statistic": statistic,
                    "tests": tests,
                    "within_two": float((one["within_two"].fillna(0) * one["tests"]).sum()) / tests,
                    "largest": float(one["largest"].max()),
                }
            )
    return rows


def claims(groups: Datasets) -> list[Claim]:
    """Claims about Gaussian outputs."""
    found = (
        (bounds_are_equalities, "Prop. 5.1"),
        (estimates_agree, "Prop. 5.1"),
        (inputs_are_bounded, "Lem. 4.8"),
        (no_estimator_for_all_layers, "Sec. 5"),
    )
    return [replace(claim(groups), source=source) for claim, source in found]


def bounds_are_equalities(groups: Datasets) -> Claim:
    """Proposition 5.1: for regression the bounds of Theorem 4.1 are equalities."""
    equality = groups["equality"]
    deviation = equality["equality_deviation"].max(["layer", "quantity"])
    return by_replicate(
        "For regression the bounds of Theorem 4.1 are equalities (Proposition 5.1).",
        f"largest relative deviation of I, V1 and V2 from them: {float(deviation.max()):.1e}, at "
        f"{int(equality['checked'].sum()):,} pairs of a parameter and an input",
        deviation <= BOUND_SLACK,
    )


def estimates_agree(groups: Datasets) -> Claim:
    """Simulated estimates have the mean and the variances of Proposition 5.1."""
    draws = groups["draws"]
    largest = draws["largest"].max(["layer", "estimator", "statistic"])
    tests = int(draws["tests"].sum())
    limit = family_limit(tests)
    return by_replicate(
        "With Gaussian outputs both estimators have the variances that Proposition 5.1 gives.",
        f"simulated means and variances deviate from the exact ones by at most "
        f"{float(largest.max()):.1f} standard errors in {tests:,} tests (limit {limit:.1f})",
        largest <= limit,
    )


def inputs_are_bounded(groups: Datasets) -> Claim:
    """Lemma 4.8 with Proposition 5.1."""
    averages = groups["averages"]
    ratio = averages["lemma_largest"].max("layer")
    return by_replicate(
        "With Gaussian outputs the variance over joint samples is bounded by the mean fourth power "
        "of the norm of the first derivatives (Lemma 4.8).",
        f"largest ratio to the bound {float(ratio.max()):.4f}, over "
        f"{int(averages['parameters'].sum()):,} parameters",
        ratio <= 1 + BOUND_SLACK,
    )


def no_estimator_for_all_layers(groups: Datasets) -> Claim:
    """Using one estimator for all layers is suboptimal, at the noise that fits the data."""
    share = groups["averages"]["hessian_better"].sel(level="fitted")
    by_layer = "; ".join(
        f"{short_layer(layer.item())}: {median_and_range(one, 2)}"
        for layer, one in zip(share["layer"], share.transpose("layer", ...), strict=True)
    )
    return by_replicate(
        "No estimator is the better one in all layers, in regression either.",
        f"share of the parameters with V2 < V1 at the fitted noise, by layer: {by_layer}",
        (share.min("layer") < 0.5) & (share.max("layer") > 0.5),
    )


def _share(mean: xr.Dataset, level: str, estimator: str) -> float:
    return float(mean["input_share"].sel(level=level, estimator=estimator).median())
