"""The five numbers to know of a study, each in a line that can stand alone."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import xarray as xr

from diagfim.claims import median_and_range
from diagfim.report.frontier import EVERY
from diagfim.report.study import Study

NUMBER = 5


@dataclass(frozen=True)
class Headline:
    """One of them.

    Attributes
    ----------
    title : str
        What it is about, in a few words.
    value : str
        The number, with what it counts.
    meaning : str
        A sentence on how it was found.
    numbers : dict of str to int or float
        What the value is made of, unrounded.
    """

    title: str
    value: str
    meaning: str
    numbers: dict[str, int | float]


def headlines(study: Study) -> list[Headline]:
    """The five of a study; others take the place of those of a part that is switched off."""
    found = (headline for make in _IN_ORDER for headline in make(study))
    return list(islice(found, NUMBER))


def as_json(some: Iterable[Headline]) -> str:
    """Headlines as a JSON document; numbers that are not finite are null."""
    content = [
        {
            **asdict(one),
            "numbers": {
                name: value if np.isfinite(value) else None for name, value in one.numbers.items()
            },
        }
        for one in some
    ]
    text = json.dumps({"headlines": content}, indent=1, ensure_ascii=False, allow_nan=False)
    return text + "\n"


def claims(study: Study) -> Iterator[Headline]:
    """What became of the claims of the paper."""
    counts = study.counts
    yield Headline(
        "claims of the paper",
        f"{counts['reproduced']} of {counts.total()} reproduced, {counts['not reproduced']} not, "
        f"{counts['corrected']} corrected",
        f"Reproduced is what holds in {_every(study)}; corrected is what the paper misstates.",
        {name: counts[name] for name in ("reproduced", "not reproduced", "corrected")},
    )


def bounds(study: Study) -> Iterator[Headline]:
    """Whether the bounds hold."""
    rows = [row for network in study.every for row in network["bounds"]]
    checked, broken = (sum(row[key] for row in rows) for key in ("checked", "broken"))
    yield Headline(
        "bounds on variances",
        f"{broken:,} of {checked:,} broken",
        "Theorems 4.1 and 5.2 at every parameter, stage, fixed input and replicate of "
        f"{_networks(study)}.",
        {"checked": checked, "broken": broken},
    )


def layers(study: Study) -> Iterator[Headline]:
    """Which estimator is the noisier one, in the first layer and in the last."""
    main = _main(study)
    last = study.datasets[main["name"]]["fixed"].isel(epoch=-1)
    deviation = last["exact_variance"].median("input") ** 0.5
    score, hessian = (deviation.sel(estimator=name) for name in ("score", "hessian"))
    first, end = ((hessian / score).isel(layer=layer) for layer in (0, -1))
    error = (score / last["fisher"].median("input")).isel(layer=-1)
    texts = [f"{name} layer {_times(one)}" for name, one in (("first", first), ("last", end))]
    yield Headline(
        "noise of Î₂ over Î₁",
        ", ".join(texts if deviation.sizes["layer"] > 1 else texts[1:]),
        f"Standard deviations by layer at a fixed input, {main['name']} at its last stage, median "
        f"and range of {_replicates(main)}; one draw of Î₁ in the last layer errs by "
        f"{_number(float(error.median()))} times the information.",
        {
            "first layer": float(first.median()),
            "last layer": float(end.median()),
            "relative error of one draw": float(error.median()),
        },
    )


def draws(study: Study) -> Iterator[Headline]:
    """How many draws a precision takes."""
    if "frontier" not in study.experiments:
        return
    this = study.experiments["frontier"]
    rows = {row["key"]: row["draws_per_input"] for row in this["plans"] if row["layer"] == EVERY}
    needed = {name: rows[name]["clt"]["median"] for name in _NAMES}
    yield Headline(
        f"draws for a {100 * this['relative_error']:g} % error",
        ", ".join(f"{_NAMES[name]} {_number(number)}" for name, number in needed.items()),
        "Draws of y at each input that keep the error of every layer of "
        f"{_main(study)['name']} below that with {100 * this['confidence']:g} % confidence, "
        f"by the central limit theorem; median of {this['replicates']} replicates.",
        needed,
    )


def theorems(study: Study) -> Iterator[Headline]:
    """Whether the results of the paper hold, as corrected."""
    if study.theory is None:
        return
    true = [row for row in study.theory["rows"] if row["kind"] != "misprint"]
    violations = sum(row["violations"] for row in true)
    yield Headline(
        "theorems on random cases",
        f"{violations:,} of {study.theory['cases']:,} violated",
        f"The {len(true)} numbered results of the paper, misprints corrected, beyond rounding.",
        {"cases": study.theory["cases"], "violations": violations},
    )


def agreement(study: Study) -> Iterator[Headline]:
    """Whether the estimators agree with their exact moments."""
    pooled = [one for network in study.every for one in network["agreement"]]
    means = [one for one in pooled if one["what"] == "mean"]
    tests, beyond = (sum(one[key] for one in means) for key in ("normal_tests", "normal_beyond"))
    yield Headline(
        "means off the exact ones",
        f"{beyond:,} of {tests:,}",
        f"Nearly normal means of both estimators more than five standard errors off, in "
        f"{_networks(study)}.",
        {"tests": tests, "beyond": beyond},
    )


def accuracy(study: Study) -> Iterator[Headline]:
    """How well the main network has learnt."""
    main = _main(study)
    if main["labelled"]:
        one = {key: 100 * value for key, value in main["accuracy"].items()}
        yield Headline(
            "test accuracy",
            f"{one['mean']:.2f} %"
            + (f" ({one['least']:.2f} to {one['greatest']:.2f})" if main["replicates"] > 1 else ""),
            f"Of {main['name']} at its last stage, mean and range of {_replicates(main)}.",
            one,
        )


def size(study: Study) -> Iterator[Headline]:
    """How much was looked at."""
    parameters = sum(one["parameters"] for one in study.every)
    yield Headline(
        "parameters looked at",
        f"{parameters:,}",
        f"Of {_networks(study)}, each at up to {max(one['stages'] for one in study.every)} stages.",
        {"parameters": parameters},
    )


_NAMES = {"score": "Î₁", "hessian": "Î₂", "mixed": "best mix"}

_IN_ORDER: tuple[Callable[[Study], Iterator[Headline]], ...] = (
    claims,
    bounds,
    layers,
    draws,
    theorems,
    agreement,
    accuracy,
    size,
)


def _main(study: Study) -> dict[str, Any]:
    """The network that experiments look at: the first that is trained here, if any is."""
    return next((one for one in study.networks if not one["own"]), study.networks[0])


def _networks(study: Study) -> str:
    return f"{len(study.every)} networks" if len(study.every) > 1 else study.every[0]["name"]


def _replicates(network: dict[str, Any]) -> str:
    number = network["replicates"]
    return f"{number} replicates" if number > 1 else "one replicate"


def _every(study: Study) -> str:
    number = study.networks[0]["replicates"]
    return f"each of {number} replicates" if number > 1 else "the one replicate"


def _times(ratio: xr.DataArray) -> str:
    return "0" if bool((ratio == 0).all()) else median_and_range(ratio)


def _number(value: float) -> str:
    if not np.isfinite(value):
        return "none"
    return f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.2g}"
