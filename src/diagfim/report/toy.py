"""What the report prints of the experiment "toy"."""

from dataclasses import replace
from typing import Any

import xarray as xr

from diagfim.claims import Claim, Datasets, by_replicate, median_and_range
from diagfim.comparison import family_limit
from diagfim.latex import Tex
from diagfim.report.summaries import spread

MISPRINTS = [
    {
        "name": "Appendix A.I, law of the regression targets",
        "printed": Tex(r"\(y\sim\mathcal N(\mu=1,\sigma=1)\)"),
        "meant": Tex(r"\(y\sim\mathcal N(\mu=a,\sigma=1)\)"),
        "why": "As printed y does not depend on x, and no linear model without a bias matches it, "
        "while Appendix A.II has the model match the data exactly.",
    },
    {
        "name": "Appendix A.I, logistic function",
        "printed": Tex(r"\(\sigma(z)=(1+\exp(-z))\)"),
        "meant": Tex(r"\(\sigma(z)=(1+\exp(-z))^{-1}\)"),
        "why": "As printed it exceeds 1, and is no probability.",
    },
]
"""Two slips of Appendix A that have to be mended before it can be run."""

GENERAL = 0.9
"""Share of the epochs that counts as generally."""


def contents(groups: Datasets) -> dict[str, Any]:
    """What the section prints."""
    mean, change = _excess(groups), groups["grid"]["loss_change"]
    scores = abs(groups["draws"]["distance_z"])
    along_pass = mean.sel(reading="pass")
    starts = along_pass.max("start") / along_pass.min("start") - 1
    return {
        "replicates": mean.sizes["replicate"],
        "models": [_of_model(groups, str(model)) for model in mean["model"].values],
        "readings": [
            {
                "model": str(model),
                "reading": str(reading),
                **{
                    name: spread(_ratio(_main(groups, of)).sel(model=model, reading=reading))
                    for name, of in (("excess", mean), ("change", change))
                },
            }
            for model in mean["model"].values
            for reading in mean["reading"].values
        ],
        "grid": [
            {
                "damping": float(damping),
                "models": [
                    _of_cell(mean.sel(damping=damping), change.sel(damping=damping), str(model))
                    for model in mean["model"].values
                ],
            }
            for damping in mean["damping"].values
        ],
        "grid_cells": mean.sizes["start"] * mean.sizes["replicate"],
        "start_spread": float(starts.sel(damping=_damping(groups)).max()),
        "check": {
            "tests": scores.size,
            "largest": float(scores.max(skipna=False)),
            "limit": family_limit(scores.size),
        },
        "misprints": MISPRINTS,
    }


def claims(groups: Datasets) -> list[Claim]:
    """Claims of the paper that the experiment decides, at its damping and start."""
    found = [_lower_variance(groups), _preferable(groups), _for_regression(groups)]
    return [replace(claim, source="Sec. 1, Fig. 1") for claim in (*found, _unstable(groups))]


def _lower_variance(groups: Datasets) -> Claim:
    """Theorem 4.7 proves it here: Î2 is the mean of Î1 given x."""
    lower, ratio = _variances(groups)
    return by_replicate(
        "Toy data: the variance of Î2 is generally lower than that of Î1 (in more than "
        f"{100 * GENERAL:.0f} % of the epochs).",
        "; ".join(
            f"{model}: lower in {100 * float(lower.sel(model=model).mean()):.0f} % of the epochs, "
            f"median V1 / V2 {median_and_range(ratio.sel(model=model))}"
            for model in ratio["model"].values
        ),
        lower > GENERAL,
    )


def _preferable(groups: Datasets) -> Claim:
    """Excess test loss in the last half of the epochs."""
    every = _ratio(_main(groups, _excess(groups)))
    ratio = every.sel(reading="pass")
    return by_replicate(
        "Toy data: natural-gradient descent by Î2 is preferable.",
        "mean excess test loss in the last half of the epochs, under Î1 over under Î2: "
        + _by_model(ratio)
        + "; if an epoch is one step: "
        + _by_model(every.sel(reading="step")),
        ratio > 1,
    )


def _for_regression(groups: Datasets) -> Claim:
    """The same ratio, regression over classification."""
    ratio = _ratio(_main(groups, _excess(groups))).sel(reading="pass")
    more = ratio.sel(model="regression") / ratio.sel(model="classification")
    return by_replicate(
        "Toy data: Î2 is preferable especially for regression.",
        f"the same ratio, for regression over that for classification: {median_and_range(more)}",
        more > 1,
    )


def _unstable(groups: Datasets) -> Claim:
    """Change of the loss from epoch to epoch."""
    every = _ratio(_main(groups, groups["grid"]["loss_change"]))
    ratio = every.sel(reading="pass")
    return by_replicate(
        "Toy data: Î1 suffers from an unstable learning curve.",
        "s.t.d. of the change of the test loss by epoch in the last half, under Î1 over under Î2: "
        + _by_model(ratio)
        + "; if an epoch is one step: "
        + _by_model(every.sel(reading="step")),
        ratio > 1,
    )


def _of_model(groups: Datasets, model: str) -> dict[str, Any]:
    """Variances, losses and their ratios at the damping and start of the study."""
    lower, ratio = (one.sel(model=model) for one in _variances(groups))
    variance = groups["variance"]["summed_variance"].sel(model=model, reading="pass")
    excess = _main(groups, _excess(groups)).sel(model=model, reading="pass")
    points = groups["reference"]["point_loss"].sel(model=model)
    return {
        "name": model,
        "variance": {
            str(name): spread(variance.sel(estimator=name).median("epoch"))
            for name in variance["estimator"].values
        },
        "variance_ratio": spread(ratio),
        "lower": float(lower.mean()),
        "excess": {
            str(name): spread(excess.sel(estimator=name)) for name in excess["estimator"].values
        },
        "loss": {str(name): spread(points.sel(point=name)) for name in points["point"].values},
        "fitted_excess": spread(points.sel(point="fitted") - points.sel(point="least")),
    }


def _of_cell(mean: xr.DataArray, change: xr.DataArray, model: str) -> dict[str, Any]:
    """How the claims fare at one damping, over starts and replicates."""
    found: dict[str, Any] = {"name": model}
    for reading in mean["reading"].values:
        for name, of in (("excess", mean), ("change", change)):
            ratio = _ratio(of).sel(model=model, reading=reading)
            found[f"{reading}_{name}"] = spread(ratio)["median"]
            found[f"{reading}_{name}_holds"] = float((ratio > 1).mean())
    return found


def _excess(groups: Datasets) -> xr.DataArray:
    """Mean test loss of the last half, beyond the least that any parameters have there."""
    least = groups["reference"]["point_loss"].sel(point="least", drop=True)
    return groups["grid"]["mean_loss"] - least


def _ratio(values: xr.DataArray) -> xr.DataArray:
    return values.sel(estimator="score") / values.sel(estimator="hessian")


def _main(groups: Datasets, values: xr.DataArray) -> xr.DataArray:
    """At the damping and start that the other groups are of."""
    return values.sel(damping=_damping(groups)).isel(start=0)


def _damping(groups: Datasets) -> float:
    return float(groups["descent"]["damping"])


def _variances(groups: Datasets) -> tuple[xr.DataArray, xr.DataArray]:
    """Share of the epochs with V2 < V1, and the median of V1 / V2 over them."""
    variance = groups["variance"]["summed_variance"].sel(reading="pass")
    ratio = _ratio(variance)
    return (ratio > 1).mean("epoch"), ratio.median("epoch")


def _by_model(values: xr.DataArray) -> str:
    return ", ".join(
        f"{model} {median_and_range(values.sel(model=model))}" for model in values["model"].values
    )
