"""What figures and report share in reading gathered experiments; it needs no PyTorch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

WHOLE = "network"
"""The entry of the dimension ``layer`` that stands for all parameters together."""

METHODS = ("exact", "score", "hessian", "mixed", "empirical")
"""Estimators that descend, the reference first; names of `diagfim.estimate`."""

DRAWN = ("score", "hessian", "mixed", "hutchinson")
"""The estimators for which the number of draws matters."""

REFERENCES = ("empirical", "batch", "adam", "control")
"""The empirical Fisher E g²; B times E g_B² at the same weights; B times Adam's accumulator; and
the empirical Fisher of labels that the network drew itself, one for each input, which is Î1."""

CONTINUAL_NAMES = {
    "none": "none",
    "exact": "exact",
    "subset": "exact, fewer inputs",
    "score": "score-based, one draw",
    "empirical": "empirical",
    "batched": "batched",
    "hessian": "Hessian-based, one draw",
    "mixed": "mixed, one draw",
}
"""How tables and figures call the Fisher diagonals of "continual"."""


def over_better(variance: xr.DataArray, name: str) -> xr.DataArray:
    """Variance of the better of Î1 and Î2 in units of that of another estimator: its gain."""
    better = variance.sel(estimator=["score", "hessian"]).min("estimator")
    gain: xr.DataArray = better / variance.sel(estimator=name)
    return gain


def select(found: xr.Dataset, **labels: Any) -> xr.Dataset:
    """The cells, or configurations, of a result of `flatten` that have these coordinates."""
    dim = "cell" if "cell" in found.dims else "configuration"
    keep = [found[key].values == value for key, value in labels.items()]
    return found.isel({dim: np.logical_and.reduce(keep)})


def leave_one_out(gathered: xr.Dataset, over: Sequence[str]) -> xr.Dataset:
    """Every replicate at the settings that are best on the other replicates' validation sets.

    What is then reported of a replicate had no part in the choice of its settings.  A single
    replicate has to choose by its own validation set.

    Parameters
    ----------
    gathered : Dataset
        "natural" or "gradient", with a dimension ``replicate``.
    over : sequence of str
        The dimensions that are chosen along; what was chosen is then a coordinate.
    """
    stacked = gathered.stack(setting=over).reset_index("setting")
    # A run that diverged is never chosen while another one is left.
    loss = stacked["validation_loss"].fillna(np.inf)
    best = []
    for number in range(gathered.sizes["replicate"]):
        others = loss.drop_isel(replicate=number) if loss.sizes["replicate"] > 1 else loss
        best.append(others.mean("replicate").argmin("setting"))
    return stacked.isel(setting=xr.concat(best, dim="replicate"))


def along_chosen(groups: Mapping[str, xr.Dataset]) -> xr.DataArray:
    """The relative errors of F̂ along the chosen runs with the exact diagonal of least memory."""
    least = groups["natural"]["memory"].min()
    exact = groups["natural"].sel(estimator=METHODS[0], memory=least, drop=True)
    chosen = leave_one_out(exact, ("learning_rate", "damping"))
    where = {key: chosen[key] for key in ("learning_rate", "damping")}
    return groups["noise"]["relative_error"].sel(memory=least).sel(where)


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


def at_chosen(groups: Mapping[str, xr.Dataset]) -> xr.DataArray:
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
