"""What the report prints of errors and seconds, and of the draws that a precision takes."""

from typing import Any

import numpy as np
import xarray as xr

from diagfim.arrays import ALL, short_layer
from diagfim.claims import Claim, Datasets, by_replicate, median_and_range
from diagfim.experiments.reading import WHOLE
from diagfim.latex import Tex
from diagfim.report.summaries import spread

NAMES = {
    "score": Tex(r"\(\Ione\)"),
    "hessian": Tex(r"\(\Itwo\)"),
    "mixed": "mixed",
    "exact": Tex(r"exact in \(y\)"),
    "hutchinson": "Hutchinson",
    "empirical": "empirical",
}
"""What the report calls each estimator."""

EVERY = "every"
"""What tables call all layers, each by itself."""

RULES = ("chebyshev", "clt")
"""Of `diagfim.plan`, as tables have them."""


def contents(groups: Datasets) -> dict[str, Any]:
    """Agreement with Theorem 4.7, the floors of the empirical Fisher, and the plans."""
    errors = groups["errors"]
    ratio = agreement(errors)
    bias = errors["squared_bias"] ** 0.5
    layers = [layer for layer in errors["layer"].values if layer != WHOLE]
    over_time = equal_time(groups)
    most = errors.isel(inputs=-1, draws=0).mean(["repetition", "replicate"])
    return {
        "replicates": errors.sizes["replicate"],
        "most_inputs": int(errors["inputs"].max()),
        "agreement": [
            {
                "key": estimator,
                "name": name,
                "ratio": float(one.mean()),
                "error": float(one.std(ddof=1) / np.sqrt(one.size)),
                "measured": float(at["squared_error"].sel(layer=WHOLE) ** 0.5),
                "predicted": float(at["predicted_squared_error"].sel(layer=WHOLE) ** 0.5),
            }
            for estimator, name in NAMES.items()
            for one, at in [(ratio.sel(estimator=estimator), most.sel(estimator=estimator))]
        ],
        "floors": [
            {"layer": _layer(layer), "value": spread(bias.sel(layer=layer))}
            for layer in errors["layer"].values
        ],
        "plans": plan_table(groups),
        "cheapest": [cheapest(groups, layer) for layer in [*layers, ALL]],
        "equal_time": [
            {"layer": _layer(layer), "value": spread(over_time.sel(layer=layer))}
            for layer in layers
        ],
        "microseconds": [
            {"name": NAMES[estimator], "value": float(1e6 * each.sel(estimator=estimator))}
            for each in [seconds_per_input(groups).isel(draws=0).median("replicate")]
            for estimator in groups["plan"]["estimator"].values
        ],
    }


def claims(groups: Datasets) -> list[Claim]:
    """What the cost of second derivatives has to say about Î2."""
    ratio = equal_time(groups)
    by_layer = "; ".join(
        f"{short_layer(str(layer))}: {median_and_range(ratio.sel(layer=layer))}"
        for layer in ratio["layer"].values
    )
    return [
        by_replicate(
            "The cost of second derivatives is no reason to refrain from Î2: in the same time its "
            "error is below that of Î1 in some layer.",
            f"error of Î2 over that of Î1 in the same time, by layer: {by_layer}",
            (ratio < 1).any("layer"),
            "Sec. 3",
        )
    ]


def agreement(errors: xr.Dataset) -> xr.DataArray:
    """Mean squared error measured over predicted, averaged over the grid and the layers.

    Returns
    -------
    DataArray, (estimator, replicate)
    """
    ratio = errors["squared_error"] / errors["predicted_squared_error"]
    return ratio.mean(["draws", "inputs", "repetition", "layer"])


def seconds_per_input(groups: Datasets) -> xr.DataArray:
    """Seconds per input at the largest number of inputs: (replicate, estimator, draws).

    NaN but for the fewest draws where these do not matter.
    """
    seconds = groups["seconds"]["seconds"].median("repetition").isel(inputs=-1)
    return (seconds / seconds["inputs"]).drop_vars("inputs")


def total_seconds(groups: Datasets) -> xr.DataArray:
    """Seconds that the planned precision takes, at the best of the draws that were timed.

    Returns
    -------
    DataArray, (replicate, estimator, rule, layer)
    """
    number = groups["plan"]["number_of_inputs"]
    return (number * seconds_per_input(groups)).min("draws")


def equal_time(groups: Datasets) -> xr.DataArray:
    """Error of Î2 over that of Î1 in the same time, by layer: (replicate, layer).

    Variances fall as one over the time: it is the root of the ratio of times for the same error.
    """
    seconds = total_seconds(groups).sel(rule="clt").drop_sel(layer=ALL)
    return (seconds.sel(estimator="hessian") / seconds.sel(estimator="score")) ** 0.5


def cheapest(groups: Datasets, layer: str) -> dict[str, Any]:
    """The estimator of least median seconds for a layer, and in how many replicates it is that."""
    seconds = total_seconds(groups).sel(rule="clt", layer=layer)
    best = str(seconds["estimator"].values[int(seconds.median("replicate").argmin("estimator"))])
    wins = seconds["estimator"].values[seconds.argmin("estimator").values] == best
    return {
        "layer": _layer(layer),
        "key": best,
        "name": NAMES[best],
        "wins": int(wins.sum()),
        "seconds": float(seconds.sel(estimator=best).median()),
        "score": float(seconds.sel(estimator="score").median()),
        "hessian": float(seconds.sel(estimator="hessian").median()),
    }


def plan_table(groups: Datasets) -> list[dict[str, Any]]:
    """Rows by layer and estimator: draws at the pool and inputs for one draw, by both rules."""
    plan = groups["plan"].isel(draws=0)
    return [
        {
            "layer": _layer(layer),
            "key": str(estimator),
            "name": NAMES[estimator],
            "first": k == 0,
            **{
                quantity: {rule: spread(one[quantity].sel(rule=rule)) for rule in RULES}
                for quantity in ("draws_per_input", "number_of_inputs")
            },
        }
        for layer in plan["layer"].values
        for k, estimator in enumerate(plan["estimator"].values)
        for one in [plan.sel(layer=layer, estimator=estimator)]
    ]


def _layer(layer: str) -> str:
    return {WHOLE: "network", ALL: EVERY}.get(layer, short_layer(str(layer)))
