"""What the report prints of the empirical Fisher and of Adam's accumulator."""

from typing import Any

import xarray as xr

from diagfim.arrays import short_layer
from diagfim.claims import Claim, Datasets, by_replicate, median_and_range
from diagfim.experiments.reading import REFERENCES, WHOLE
from diagfim.report.summaries import spread

NAMES = {
    "empirical": "empirical Fisher",
    "batch": "squared batch gradient",
    "adam": "Adam's accumulator",
    "control": "labels of the model",
}
"""What the report calls each reference."""


def contents(groups: Datasets) -> dict[str, Any]:
    """Rows by images, reference and epoch, of the whole network."""
    comparison = groups["comparison"]
    number = {half: comparison.sel(set=half) for half in comparison["set"].values}
    return {
        "replicates": comparison.sizes["replicate"],
        "last_epoch": int(comparison["epoch"][-1]),
        "first_epoch": int(comparison["epoch"][0]),
        "rows": [
            _row(one.sel(reference=reference), half, reference, epoch)
            for half, one in number.items()
            for reference in REFERENCES
            for epoch in range(one.sizes["epoch"])
            if not one["distance"].sel(reference=reference).isel(epoch=epoch).isnull().all()
        ],
        "layers": [
            _by_layer(comparison.isel(epoch=-1).sel(layer=layer), str(layer))
            for layer in comparison["layer"].values
        ],
    }


def claims(groups: Datasets) -> list[Claim]:
    """Claims of Section 6."""
    return [biased(groups), closer(groups), relatively_closer(groups)]


def biased(groups: Datasets) -> Claim:
    """The empirical Fisher is biased.

    Labels of the model have no bias: what lies beyond every distance of theirs, in any replicate
    and at any epoch, is more than sampling explains.
    """
    beyond = beyond_sampling(groups)
    ours, control = beyond.sel(reference="empirical"), beyond.sel(reference="control")
    first, last = (
        "; ".join(
            f"{_IMAGES[half]} {median_and_range(ours.sel(set=half).isel(epoch=k))}"
            for half in ours["set"].values
        )
        for k in (0, -1)
    )
    return by_replicate(
        "The empirical Fisher is biased.",
        "its distance from the information over the standard error of Î1 from as many labels, "
        f"first epoch: {first}; last: {last}; labels of the model: {float(control.max()):.2g} at "
        "most, which is passed at some epoch",
        ours.max(["set", "epoch"]) > float(control.max()),
        "Sec. 6",
    )


def closer(groups: Datasets) -> Claim:
    """The distance shrinks as the network learns."""
    distance = groups["comparison"]["distance"].sel(reference="empirical", layer=WHOLE)
    return _shrinks(
        "As the network learns, the empirical Fisher comes closer to the information.",
        distance,
    )


def relatively_closer(groups: Datasets) -> Claim:
    """The distance shrinks in units of the information."""
    comparison = groups["comparison"].sel(layer=WHOLE)
    distance = comparison["distance"].sel(reference="empirical") / comparison["fisher_norm"]
    return _shrinks("The same, relative to the information.", distance)


def beyond_sampling(groups: Datasets) -> xr.DataArray:
    """Distances over the standard error of Î1 from one draw at each input, whole network.

    Returns
    -------
    DataArray, (replicate, set, epoch, reference)
    """
    draws = groups["comparison"]["equal_draws"].sel(estimator="score", layer=WHOLE)
    return draws**-0.5


def _shrinks(statement: str, distance: xr.DataArray) -> Claim:
    """Decided on the training images, which the network learns; test images beside them."""
    ratio = distance.isel(epoch=-1) / distance.isel(epoch=0)
    steps = "; ".join(
        f"{_IMAGES[half]} from {median_and_range(distance.sel(set=half).isel(epoch=0))} to "
        f"{median_and_range(distance.sel(set=half).isel(epoch=-1))}"
        for half in ratio["set"].values
    )
    return by_replicate(
        statement,
        f"distance, first to last epoch, decided on training images: {steps}",
        ratio.sel(set="train", drop=True) < 1,
        "Sec. 6",
    )


_IMAGES = {"train": "training images", "test": "test images"}


def _row(one: xr.Dataset, half: str, reference: str, epoch: int) -> dict[str, Any]:
    here = one.isel(epoch=epoch).sel(layer=WHOLE)
    score, hessian = (here["equal_draws"].sel(estimator=e) for e in ("score", "hessian"))
    return {
        "images": _IMAGES[half].removesuffix(" images"),
        "name": NAMES[reference],
        "first": epoch == int(reference == "adam"),
        "epoch": int(here["epoch"]),
        "relative": spread(here["distance"] / here["fisher_norm"]),
        "trace": float(here["trace_ratio"].median()),
        "correlation": float(here["rank_correlation"].median()),
        "score": float(score.median()),
        "hessian": float(hessian.median()),
    }


def _by_layer(last: xr.Dataset, layer: str) -> dict[str, Any]:
    """Draws of equal error after the last epoch: rows by layer, columns by images and reference."""
    return {
        "layer": "network" if layer == WHOLE else short_layer(layer),
        "cells": [
            float(
                last["equal_draws"].sel(set=half, reference=reference, estimator=estimator).median()
            )
            for half in ("train", "test")
            for reference in ("empirical", "adam")
            for estimator in ("score", "hessian")
        ],
    }
