"""Claims of the paper, each decided by a statistic of the gathered comparisons.

A claim holds only where it holds in every replicate; where it holds in some it is "in part", where
in none "not reproduced".  The unit of evidence is the replicate: another initialisation, order of
the data, and test input.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from diagfim.comparison import FAMILY_LEVEL, Agreement, family_limit, family_probability

Datasets = dict[str, xr.Dataset]


@dataclass(frozen=True)
class Claim:
    """One claim of the paper and what this run says of it.

    Attributes
    ----------
    statement : str
        The claim, in our words.
    statistic : str
        What decides it, with its value.
    verdict : str
        "reproduced", "in part" or "not reproduced".
    """

    statement: str
    statistic: str
    verdict: str


def decide(datasets: Datasets, draws: int) -> list[Claim]:
    """Decide every claim that the gathered comparisons of one network bear on.

    Parameters
    ----------
    datasets : dict of str to Dataset
        "fixed" and "joint", with a dimension ``replicate``.
    draws : int
        N at which standard deviations are quoted.
    """
    return [claim(datasets, draws) for claim in CLAIMS]


def unbiased(datasets: Datasets, draws: int) -> Claim:
    """Both estimators are unbiased."""
    found = {kind: family(datasets[kind]) for kind in ("fixed", "joint")}
    statistic = "; ".join(
        f"{where}: {one.normal_beyond:,} of {one.normal_tests:,} nearly normal means have |z| > 5, "
        f"the largest {one.normal_largest:.1f} (limit {one.normal_limit:.1f})"
        for where, one in zip(("one input", "test set"), found.values(), strict=True)
    )
    fine = all(one.accepted for one in found.values())
    verdict = "reproduced" if fine else "not reproduced"
    return Claim("Both estimators are unbiased.", statistic, verdict)


def inverse_in_draws(datasets: Datasets, draws: int) -> Claim:
    """The variances are O(1/N)."""
    fixed = datasets["fixed"]["empirical_variance"]
    largest = fixed.sortby("draws").isel(draws=slice(-3, None))
    logs = xr.apply_ufunc(np.log, largest.where(largest > 0))
    centred = np.log(logs["draws"]) - np.log(logs["draws"]).mean()
    slopes = (logs * centred).sum("draws", skipna=False) / (centred**2).sum()
    typical = slopes.median([dim for dim in slopes.dims if dim != "replicate"])
    # Three variances, each known to 5 % over a decade or more, fix one slope to about 0.03.
    return by_replicate(
        "Both variances fall as 1/N.",
        f"slope of ln variance on ln N over the {logs.sizes['draws']} largest N, median over "
        f"layers, epochs and estimators: {median_and_range(typical, 3)}",
        np.abs(typical + 1) < 0.05,
    )


def bounds_hold(datasets: Datasets, draws: int) -> Claim:
    """Theorem 4.1 with Theorem 5.2 holds everywhere."""
    fixed = datasets["fixed"]
    broken, checked = int(fixed["bounds_broken"].sum()), int(fixed["bounds_checked"].sum())
    return Claim(
        "The bounds of Theorem 4.1 are valid.",
        f"{broken:,} of {checked:,} bounds broken",
        "not reproduced" if broken else "reproduced",
    )


def score_wins_below(datasets: Datasets, draws: int) -> Claim:
    """V1 < V2 in all layers but the last, at every trained epoch."""
    fixed = datasets["fixed"]
    trained = fixed["exact_variance"].sel(epoch=slice(1, None)).isel(layer=slice(None, -1))
    smaller = trained.sel(estimator="score") < trained.sel(estimator="hessian")
    by_layer = smaller.mean([dim for dim in smaller.dims if dim != "layer"])
    shares = ", ".join(
        f"{str(layer.item()).removeprefix('dense')}: {100 * float(share):.0f} %"
        for layer, share in zip(by_layer["layer"], by_layer, strict=True)
    )
    return by_replicate(
        "In the trained network V1 < V2 in every layer but the last.",
        f"share of epochs and replicates with V1 < V2, by layer: {shares}",
        smaller,
    )


def last_layer(datasets: Datasets, draws: int) -> Claim:
    """V2 = 0 in the last layer, where V1 is the largest of all layers."""
    exact = datasets["fixed"]["exact_variance"].sel(epoch=slice(1, None))
    zero = bool((exact.sel(estimator="hessian").isel(layer=-1) == 0).all())
    score = exact.sel(estimator="score")
    largest = score.argmax("layer") == score.sizes["layer"] - 1
    statistic = (
        f"V2 is {'exactly 0' if zero else 'not 0'} there; V1 is the largest in "
        f"{100 * float(largest.mean()):.0f} % of epochs and replicates"
    )
    return by_replicate(
        "In the last layer V2 = 0 and V1 is the largest.", statistic, largest & zero
    )


def first_layer_tightness(datasets: Datasets, draws: int) -> Claim:
    """In the first layer the bound is about 50 times V1 and 10 times V2."""
    first = datasets["fixed"].isel(layer=0).sel(bound="theorem 5.2", epoch=slice(1, None))
    ratio = (first["bound_variance"] / first["exact_variance"]).median(["epoch", "input"])
    paper = xr.DataArray([50.0, 10.0], coords={"estimator": ["score", "hessian"]})
    near = (ratio / paper < 10**0.5) & (ratio / paper > 10**-0.5)
    return by_replicate(
        "In the first layer the bound is about 50 times V1 and 10 times V2 (to half a decade).",
        of_both(ratio, "bound / V"),
        near,
    )


def early_dynamics(datasets: Datasets, draws: int) -> Claim:
    """The variances move more in the first epochs than in the rest of the training, per epoch."""
    steps = _steps(datasets)
    few = _first_quarter(steps)
    early = steps.isel(epoch=slice(None, few)).mean("epoch")
    ratio = early / steps.isel(epoch=slice(few, None)).mean("epoch")
    return by_replicate(
        "The variances move more in the first epochs than in the rest of the training, per epoch.",
        f"mean step of ln V per epoch, first {few} epochs over the rest: "
        f"{median_and_range(ratio)}",
        ratio > 1,
    )


def early_change(datasets: Datasets, draws: int) -> Claim:
    """Most of the change of the variances happens in the first epochs."""
    steps = _steps(datasets)
    few = _first_quarter(steps)
    share = steps.isel(epoch=slice(None, few)).sum("epoch") / steps.sum("epoch")
    return by_replicate(
        "Most of the change of the variances happens in the first epochs.",
        f"share of the total variation of ln V in the first {few} of {steps.sizes['epoch']} "
        f"epochs: {median_and_range(share)}",
        share > 0.5,
    )


def _steps(datasets: Datasets) -> xr.DataArray:
    """Mean absolute change of ln V from epoch to epoch, over layers, estimators and inputs."""
    exact = datasets["fixed"]["exact_variance"]
    logs = xr.apply_ufunc(np.log, exact.where(exact > 0))
    steps: xr.DataArray = np.abs(logs.diff("epoch"))
    return steps.mean(["layer", "estimator", "input"])


def _first_quarter(steps: xr.DataArray) -> int:
    return max(1, steps.sizes["epoch"] // 4)


def first_layer_scale(datasets: Datasets, draws: int) -> Claim:
    """In the first layer both standard deviations are near e^-10."""
    first = datasets["fixed"].isel(layer=0).sel(epoch=slice(1, None))
    logs = xr.apply_ufunc(np.log, (first["exact_variance"] / draws) ** 0.5)
    typical = logs.median(["epoch", "input"])
    return by_replicate(
        "In the first layer both standard deviations are near exp(-10) (to a decade).",
        of_both(typical, "ln s.t.d. of Î", 1),
        np.abs(typical + 10) < np.log(10),
    )


def not_negligible(datasets: Datasets, draws: int) -> Claim:
    """The standard deviations are not negligible beside the information."""
    last = datasets["fixed"].isel(epoch=-1)
    ratio = (last["exact_variance"] / draws) ** 0.5 / last["fisher"]
    largest = ratio.max([dim for dim in ratio.dims if dim != "replicate"])
    return by_replicate(
        "The standard deviations are not negligible beside the information (above 10 % of it in "
        "some layer).",
        f"largest layer ratio at {draws:,} draws, last epoch: {median_and_range(largest)}",
        largest > 0.1,
    )


CLAIMS: tuple[Callable[[Datasets, int], Claim], ...] = (
    unbiased,
    inverse_in_draws,
    bounds_hold,
    score_wins_below,
    last_layer,
    first_layer_tightness,
    first_layer_scale,
    early_dynamics,
    early_change,
    not_negligible,
)
"""In the order of the report."""


class Family(Agreement):
    """All tests of one kind, pooled over layers, epochs, inputs, replicates and both estimators."""

    @property
    def probability(self) -> float:
        """Bernstein's bound on the probability of the largest deviation; NaN where unknown."""
        return family_probability(self.tests, self.exponent)

    @property
    def normal_limit(self) -> float:
        """Largest |z| that the nearly normal tests may show."""
        return family_limit(self.normal_tests)

    @property
    def accepted(self) -> bool:
        """Whether the family passes both rules, and every constant is right."""
        return (
            self.normal_largest <= self.normal_limit
            and self.probability >= FAMILY_LEVEL
            and self.wrong_constants == 0
        )


def family(dataset: xr.Dataset, statistic: str = "mean") -> Family:
    """Pool the agreements of a gathered comparison."""
    one = dataset.sel(statistic=statistic)
    tests = int(one["tests"].sum())
    # skipna=False: a value that is not a number must show, here as everywhere.
    largest, exponent, normal_largest = (
        float(one[name].max(skipna=False)) for name in ("largest", "exponent", "normal_largest")
    )
    return Family(
        tests=tests,
        constants=int(one["constants"].sum()),
        wrong_constants=int(one["wrong_constants"].sum()),
        largest=largest,
        beyond=int(one["beyond"].sum()),
        within_two=float((one["within_two"].fillna(0) * one["tests"]).sum()) / max(tests, 1),
        exponent=exponent,
        normal_tests=int(one["normal_tests"].sum()),
        normal_beyond=int(one["normal_beyond"].sum()),
        normal_largest=normal_largest,
    )


def by_replicate(statement: str, statistic: str, holds: xr.DataArray) -> Claim:
    every = holds.all([dim for dim in holds.dims if dim != "replicate"])
    verdict = "reproduced" if every.all() else "in part" if holds.any() else "not reproduced"
    count = f"holds in {int(every.sum())} of {every.size} replicates"
    return Claim(statement, f"{statistic}; {count}", verdict)


def of_both(values: xr.DataArray, name: str, decimals: int | None = None) -> str:
    """Median and extremes for each estimator, named 1 and 2."""
    return "; ".join(
        f"{name}{j}: {median_and_range(values.sel(estimator=estimator), decimals)}"
        for j, estimator in ((1, "score"), (2, "hessian"))
    )


def median_and_range(values: xr.DataArray, decimals: int | None = None) -> str:
    """Median and extremes, to two digits or so many decimals."""
    numbers = (float(one) for one in (values.median(), values.min(), values.max()))
    middle, low, high = (_plain(number, decimals) for number in numbers)
    return f"{middle} ({low} to {high})"


def _plain(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:.{decimals}f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"
