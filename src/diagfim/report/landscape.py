"""What the report prints of the experiment "landscape"."""

from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from diagfim.claims import Claim, Datasets, by_replicate, median_and_range
from diagfim.experiments.reading import over_better, select
from diagfim.report.summaries import spread

MARGIN = 1.01
"""Gain below which a choice by layer is called no gain."""


ROUNDING = 1e-6
"""Of a deviation: an information that a network leaves at 1e-10 of its scale is a difference of
probabilities, known to no more digits than this in float64."""


def contents(groups: Datasets) -> dict[str, Any]:
    """What the section prints; see the template."""
    networks, layers = groups["networks"], groups["layers"]
    smooth = _hidden(layers).isel(epoch=-1)
    return {
        "replicates": networks.sizes["replicate"],
        "number": networks.sizes["configuration"],
        "cells": layers.sizes["cell"],
        "rows": [row for dataset in _names(networks, "dataset") for row in _rows(groups, dataset)],
        "gains": {
            name.replace(" ", "_"): _spread(_gain(networks, name))
            for name in ("layer choice", "layer mix", "parameter mix")
        },
        "layer_gain": _spread(
            over_better(smooth["summed_draw_variance"], "parameter mix").median("cell")
        ),
        "score_wins": _spread(_score_wins(smooth).mean("cell")),
        "kinks_rows": _kinks_rows(groups["kinks"]),
        "deviation": float(groups["kinks"]["hessian_deviation"].sel(beta=np.inf).max()),
    }


def claims(groups: Datasets) -> list[Claim]:
    """Claims of the paper that the experiment decides."""
    found = (
        (depends_on_activation, "Sec. 5"),
        (one_for_all, "Sec. 7"),
        (last_layer, "Rem. 4.4, Sec. 5"),
        (relu, "Eqs. 2, 3, Sec. 7"),
    )
    return [replace(claim(groups), source=source) for claim, source in found]


def depends_on_activation(groups: Datasets) -> Claim:
    """Section 5: how the variances compare depends on the activation."""
    hidden = _hidden(groups["layers"]).isel(epoch=-1)
    hidden = select(hidden, base=True, dataset=_names(hidden, "dataset")[0])
    logs = _log_ratio(hidden.set_index(cell=["activation", "position"])).unstack("cell")
    between = logs.max("activation") - logs.min("activation")
    within = (logs.max("replicate") - logs.min("replicate")).max("activation")
    typical = 10 ** between.median("position")
    return by_replicate(
        "How the variances of the estimators compare depends on the activation.",
        "ratio of V2 to V1 in hidden layers of the base shape, last epoch: between activations it "
        f"differs by a factor of {median_and_range(typical)}, median over layers; between "
        f"replicates of one activation by at most {float(10 ** within.max()):.2g}",
        between > within,
    )


def one_for_all(groups: Datasets) -> Claim:
    """Conclusion: one estimator for all layers is not the best choice."""
    gains = _gain(groups["networks"], "layer choice")
    typical = gains.median(["epoch", "configuration"])
    mixed = (gains > MARGIN).mean()
    return by_replicate(
        "Using one estimator for all layers is suboptimal.",
        "trained networks with smooth activations: variance, summed over all parameters, of the "
        "better estimator for all layers over that of the better one of each layer: "
        f"{median_and_range(typical)}, median over networks and epochs; above {MARGIN:g} in "
        f"{100 * float(mixed):.0f} % of them",
        typical > MARGIN,
    )


def last_layer(groups: Datasets) -> Claim:
    """Remark 4.4 and Section 5: the Hessian-based estimator for the last layer."""
    layers = groups["layers"]
    last = layers.isel(cell=layers["last"].values)["summed_draw_variance"]
    zero = last.sel(estimator="hessian") == 0
    positive = last.sel(estimator="score") > 0
    return by_replicate(
        "In the last layer the Hessian-based estimator is preferable.",
        f"V2 = 0 in {int(zero.sum()):,} of {zero.size:,} last layers (networks, epochs and "
        f"replicates), V1 > 0 in {int(positive.sum()):,}",
        zero & positive,
    )


def relu(groups: Datasets) -> Claim:
    """Equations 2 and 3: Î2 is an unbiased estimator for C² activations only, not for ReLU."""
    kinks = groups["kinks"]
    variance = kinks["summed_draw_variance"].sel(beta=np.inf)
    exact = variance.sel(estimator="hessian") == 0
    deviation = float(kinks["hessian_deviation"].sel(beta=np.inf).max())
    softest, sharpest = (kinks["summed_draw_variance"].isel(beta=index) for index in (0, -2))
    growth = (sharpest / softest).sel(estimator="hessian")
    holds = bool(exact.all()) and deviation < ROUNDING and bool((variance > 0).any())
    beta = float(kinks["beta"].values[-2])
    return Claim(
        "Î2 needs twice differentiable activations; networks with ReLU can only apply Î1.",
        "at a fixed x and almost all parameters, Î2 by automatic differentiation has V2 = 0 in "
        f"{int(exact.sum())} of {exact.size} replicates and deviates from the exact conditional "
        f"information by at most {deviation:.1e} of the largest of its tensor; what is lost is "
        f"smoothness in the parameters: with softplus of sharpness {beta:g} in its place, V2 is "
        "not small but "
        f"{median_and_range(growth)} times that at {float(kinks['beta'].values[0]):g}",
        "corrected" if holds else "reproduced",
    )


def _names(found: xr.Dataset, coordinate: str) -> list[str]:
    """Different values of a coordinate, in their order."""
    return list(dict.fromkeys(found[coordinate].values.tolist()))


def _hidden(layers: xr.Dataset) -> xr.Dataset:
    """Hidden layers of networks with smooth activations."""
    return layers.isel(cell=~layers["last"].values & (layers["activation"].values != "relu"))


def _log_ratio(layers: xr.Dataset) -> xr.DataArray:
    """log10 of ΣV2 / ΣV1."""
    variance = layers["summed_draw_variance"]
    ratio = variance.sel(estimator="hessian") / variance.sel(estimator="score")
    logs: xr.DataArray = xr.apply_ufunc(np.log10, ratio)
    return logs


def _score_wins(layers: xr.Dataset) -> xr.DataArray:
    variance = layers["summed_draw_variance"]
    wins: xr.DataArray = variance.sel(estimator="score") < variance.sel(estimator="hessian")
    return wins


def _gain(networks: xr.Dataset, name: str) -> xr.DataArray:
    """Of trained networks with smooth activations: better single variance over another."""
    smooth = networks.isel(configuration=networks["activation"].values != "relu")
    trained = smooth.isel(epoch=smooth["epoch"].values > 0)
    return over_better(trained["summed_draw_variance"], name)


def _spread(values: xr.DataArray) -> dict[str, float]:
    """Median over everything, and extremes over replicates of each replicate's median."""
    typical = values.median([dim for dim in values.dims if dim != "replicate"])
    return spread(typical)


def _rows(groups: Datasets, dataset: str) -> list[dict[str, Any]]:
    """Rows of the table by network, at the last epoch: medians over replicates."""
    networks = select(groups["networks"], dataset=dataset).isel(epoch=-1)
    shown = networks["base"].values | (networks["network"].values == "lenet")
    rows = []
    for index in np.flatnonzero(shown):
        one = networks.isel(configuration=index)
        labels = {key: one[key].item() for key in ("network", "activation", "depth", "width")}
        layers = select(groups["layers"], dataset=dataset, **labels).isel(epoch=-1)
        hidden = layers.isel(cell=~layers["last"].values)
        variance = one["summed_draw_variance"]
        noise = (variance / one["summed_fisher_squared"]) ** 0.5
        spread = layers["summed_input_variance"].sum("cell")
        rows.append(
            {
                "dataset": dataset,
                "network": "LeNet" if labels["network"] == "lenet" else "MLP",
                "activation": labels["activation"],
                "accuracy": float(one["accuracy"].median("replicate")),
                "noise": {
                    name.replace(" ", "_"): _spread(noise.sel(estimator=name))
                    for name in variance["estimator"].values.tolist()
                },
                "input_share": float(
                    (spread / (spread + variance.sel(estimator="score"))).median("replicate")
                ),
                "score_wins": int(_score_wins(hidden).sum()),
                "hidden": _score_wins(hidden).size,
            }
        )
    return rows


def _kinks_rows(kinks: xr.Dataset) -> list[dict[str, Any]]:
    variance = kinks["summed_draw_variance"]
    ratio = variance.sel(estimator="hessian") / variance.sel(estimator="score")
    return [
        {
            "beta": float(beta),
            "ratio": _spread(ratio.sel(beta=beta)),
            "deviation": _spread(kinks["hessian_deviation"].sel(beta=beta)),
        }
        for beta in kinks["beta"].values
    ]
