"""Claims of the paper, each decided by a statistic of the gathered comparisons.

A claim is reproduced only where it holds in every replicate; the statistic tells in how many it
does.  The unit of evidence is the replicate: another initialisation, order of the data, and test
input.  What this project proves to be otherwise is "corrected".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

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
        "reproduced", "not reproduced" or "corrected".
    source : str
        Where in the paper it stands.
    """

    statement: str
    statistic: str
    verdict: str
    source: str = ""


def decide(datasets: Datasets, draws: int, activation: str | None) -> list[Claim]:
    """Decide every claim that the gathered comparisons of one network bear on.

    Parameters
    ----------
    datasets : dict of str to Dataset
        "fixed" and, for the networks that have them, "joint"; with a dimension ``replicate``.
    draws : int
        N at which standard deviations are quoted.
    activation : str or None
        Of a network of the study: what the paper says of one it need not say of others.  None for
        another network, of which it says no more than of all.
    """
    some = CLAIMS
    if activation is not None:
        some += OF_THE_STUDY + OF_ACTIVATION.get(activation, ())
    return [replace(claim(datasets, draws), source=source) for claim, source in some]


def unbiased(datasets: Datasets, draws: int) -> Claim:
    """Both estimators are unbiased."""
    where_drawn = {"fixed": "one input", "joint": "test set"}
    found = {
        where: family(datasets[kind]) for kind, where in where_drawn.items() if kind in datasets
    }
    statistic = "; ".join(
        f"{where}: {one.normal_beyond:,} of {one.normal_tests:,} nearly normal means have |z| > 5, "
        f"the largest {one.normal_largest:.1f} (limit {one.normal_limit:.1f})"
        for where, one in found.items()
    )
    fine = all(one.accepted for one in found.values())
    verdict = "reproduced" if fine else "not reproduced"
    return Claim("Both estimators are unbiased.", statistic, verdict)


def inverse_in_draws(datasets: Datasets, draws: int) -> Claim:
    """The variances are O(1/N)."""
    fixed = datasets["fixed"].sortby("draws").isel(draws=slice(-3, None))
    # Fewer draws of other labels tell a variance to worse than 1 / √1000, if at all.
    known = (fixed["other_labels"] >= _TELLING).all("draws")
    largest = fixed["empirical_variance"]
    logs = xr.apply_ufunc(np.log, largest.where(known & (largest > 0)))
    centred = np.log(logs["draws"]) - np.log(logs["draws"]).mean()
    slopes = (logs * centred).sum("draws", skipna=False) / (centred**2).sum()
    typical = slopes.median([dim for dim in slopes.dims if dim != "replicate"])
    # Three variances, each known to 5 % over a decade or more, fix one slope to about 0.03.
    return by_replicate(
        "Both variances fall as 1/N.",
        f"slope of ln variance on ln N over the {logs.sizes['draws']} largest N, median over "
        f"layers, epochs and estimators: {median_and_range(typical, 3)}; at the "
        f"{100 * float(known.mean()):.0f} % of epochs and inputs where {_TELLING:,} draws of other "
        "labels than the likeliest are expected",
        np.abs(typical + 1) < 0.05,
    )


_TELLING = 1000
"""Draws of other labels than the likeliest from which on a variance is known to 3 %."""


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
        f"mean step of ln V per epoch, first {few} epochs over the rest: {median_and_range(ratio)}",
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


def tightness_by_activation(networks: Mapping[str, Datasets]) -> Claim:
    """How tight the bounds are depends on the activation."""
    ratios = {}
    for name, datasets in networks.items():
        first = datasets["fixed"].isel(layer=0).sel(bound="theorem 5.2", epoch=slice(1, None))
        ratio = first["bound_variance"] / first["exact_variance"]
        ratios[name] = ratio.median(["epoch", "input"])
    pairs = list(combinations(ratios.values(), 2))
    apart = [
        (one.min("replicate") > other.max("replicate"))
        | (other.min("replicate") > one.max("replicate"))
        for one, other in pairs
    ]
    return Claim(
        "How tight the bounds are depends on the activation (replicates of two networks apart).",
        "bound / variance in the first layer, median over trained epochs, "
        + "; ".join(f"{name}: {of_both(ratio, 'V')}" for name, ratio in ratios.items()),
        "reproduced" if any(bool(one.any()) for one in apart) else "not reproduced",
        "Sec. 5",
    )


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


def present_at_first(datasets: Datasets, draws: int) -> Claim:
    """Information and variances are present in the randomly initialised network only."""
    scales = _scales(datasets)
    largest = scales.isel(epoch=0) >= scales.max("epoch")
    counted = largest.where(scales.isel(epoch=0).notnull())
    by_quantity = counted.mean([dim for dim in counted.dims if dim != "quantity"])
    return by_replicate(
        "The information and both variances are largest in the randomly initialised network.",
        "share of layers and replicates where the first epoch is the largest: "
        + ", ".join(
            f"{name} {100 * float(share):.0f} %"
            for name, share in zip(("I", "V1", "V2"), by_quantity, strict=True)
        ),
        largest | scales.isel(epoch=0).isnull(),
    )


def quickly_gone(datasets: Datasets, draws: int) -> Claim:
    """Information and variances go to zero in the first few epochs."""
    scales = _scales(datasets)
    few = _first_quarter(scales.diff("epoch"))
    left = scales.isel(epoch=few) / scales.max("epoch")
    worst = left.max([dim for dim in left.dims if dim != "replicate"])
    end = (scales.isel(epoch=-1) / scales.max("epoch")).max(
        [dim for dim in left.dims if dim != "replicate"]
    )
    return by_replicate(
        "The information and both variances go to zero within a few epochs (to a tenth of their "
        "largest).",
        f"what is left of the largest, in the layer and quantity where most is: after {few} epochs "
        f"{median_and_range(worst)}, at the end {median_and_range(end)}",
        (left < 0.1) | left.isnull(),
    )


def _scales(datasets: Datasets) -> xr.DataArray:
    """Layer averages of I, V1 and V2 by epoch, medians over inputs; NaN where V2 is nothing."""
    fixed = datasets["fixed"]
    exact = fixed["exact_variance"]
    every = xr.concat(
        [fixed["fisher"], *(exact.sel(estimator=name, drop=True) for name in ("score", "hessian"))],
        dim="quantity",
    ).median("input")
    # The last layer has no V2, which must not count as gone.
    moving: xr.DataArray = every.where(every.max("epoch") > 0)
    return moving


Decision = Callable[[Datasets, int], Claim]

CLAIMS: tuple[tuple[Decision, str], ...] = (
    (unbiased, "Eq. 2"),
    (inverse_in_draws, "Lem. 3.1"),
    (bounds_hold, "Sec. 5"),
)
"""What the paper says of every network, and where."""

OF_THE_STUDY: tuple[tuple[Decision, str], ...] = (
    (last_layer, "Rem. 4.4"),
    (not_negligible, "Sec. 5"),
)
"""What it says of the networks of its experiments."""

OF_ACTIVATION: dict[str, tuple[tuple[Decision, str], ...]] = {
    "sigmoid": (
        (score_wins_below, "Fig. 2"),
        (first_layer_tightness, "Sec. 5"),
        (first_layer_scale, "Sec. 5"),
        (early_dynamics, "Sec. 5"),
        (early_change, "Sec. 5"),
    ),
    "logsigmoid": (
        (present_at_first, "Figs. IX--XIII"),
        (quickly_gone, "App. F.II"),
    ),
}
"""What it says of the networks of its figures."""


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


def by_replicate(statement: str, statistic: str, holds: xr.DataArray, source: str = "") -> Claim:
    """A claim that is reproduced where it holds in every replicate, and wherever else is looked."""
    every = holds.all([dim for dim in holds.dims if dim != "replicate"])
    verdict = "reproduced" if every.all() else "not reproduced"
    count = f"holds in {int(every.sum())} of {every.size} replicates"
    return Claim(statement, f"{statistic}; {count}", verdict, source)


def of_both(values: xr.DataArray, name: str, decimals: int | None = None) -> str:
    """Median and extremes for each estimator, named 1 and 2."""
    return "; ".join(
        f"{name}{j}: {median_and_range(values.sel(estimator=estimator), decimals)}"
        for j, estimator in ((1, "score"), (2, "hessian"))
    )


def median_and_range(values: xr.DataArray, decimals: int | None = None) -> str:
    """Median and, of more values than one, extremes, to two digits or so many decimals."""
    numbers = (float(one) for one in (values.median(), values.min(), values.max()))
    middle, low, high = (_plain(number, decimals) for number in numbers)
    return f"{middle} ({low} to {high})" if values.size > 1 else middle


def _plain(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:.{decimals}f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2g}"
