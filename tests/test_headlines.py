"""The five numbers to know of a study are those of its report."""

import copy
import json

import numpy as np
import pytest
import xarray as xr
from gathered import gathered

from diagfim import theory
from diagfim.arrays import ALL
from diagfim.report import frontier
from diagfim.report.headlines import Headline, as_json, headlines
from diagfim.report.networks import contents
from diagfim.report.study import Study
from diagfim.report.theory import theory_table

ESTIMATORS = ["score", "hessian", "mixed", "exact", "hutchinson"]


def study(networks=("sigmoid",), activation="sigmoid", *, plan=True, tried=True, change=None):
    """A study of which every claim holds, by construction, and what is left out."""
    datasets = {name: copy.deepcopy(gathered()) for name in networks}
    if change:
        change(datasets[networks[0]])
    kinds = dict.fromkeys(networks, activation)
    every = contents(datasets, {"fixed": 5000, "joint": 5000}, kinds)
    this = {"relative_error": 0.1, "confidence": 0.95, "replicates": 3, "claims": []}
    this["plans"] = frontier.plan_table({"plan": plans()})
    return Study(
        datasets=datasets,
        every=every,
        networks=every,
        experiments={"frontier": this} if plan else {},
        theory=table() if tried else None,
    )


def table():
    names = ["Lemma C.2", "Lemma I.1, as printed", "Lemma I.1, corrected"]
    results, misprints = theory.verify(0, 20, names=names), theory.counterexamples()
    return theory_table(xr.DataTree.from_dict({"results": results, "misprints": misprints}))


def plans():
    """Draws that grow with the place of an estimator, a layer and a replicate."""
    coords = {
        "replicate": np.arange(3),
        "estimator": ESTIMATORS,
        "rule": ["chebyshev", "clt"],
        "layer": ["dense1", ALL],
    }
    sizes = [len(values) for values in coords.values()]
    draws = xr.DataArray(
        np.arange(1.0, 1 + np.prod(sizes)).reshape(sizes) ** 2, coords, list(coords)
    )
    inputs = draws.expand_dims(draws=[1, 10])
    return xr.Dataset({"draws_per_input": draws, "number_of_inputs": inputs})


def by_title(found):
    return {one.title: one for one in headlines(found)}


def test_there_are_five_and_each_can_stand_alone():
    found = headlines(study(("sigmoid", "logsigmoid")))
    assert [one.title for one in found] == [
        "claims of the paper",
        "bounds on variances",
        "noise of Î₂ over Î₁",
        "draws for a 10 % error",
        "theorems on random cases",
    ]
    for one in found:
        assert len(f"{one.title}  {one.value}") <= 76, "it fits a terminal"
        assert one.meaning.endswith(".")
        assert one.numbers


def test_as_json_a_number_that_is_none_is_null():
    one = Headline("title", "value", "meaning.", {"finite": 1, "not": float("inf")})
    assert json.loads(as_json([one])) == {
        "headlines": [{**vars(one), "numbers": {"finite": 1, "not": None}}]
    }


def test_claims_are_counted_as_the_report_counts_them():
    found = study()
    counts = found.counts
    assert counts.total() == sum(len(some) for _, some in found.verdicts) > 10
    one = by_title(found)["claims of the paper"]
    assert one.numbers == {
        name: counts[name] for name in ("reproduced", "not reproduced", "corrected")
    }
    assert one.value.startswith(f"{counts['reproduced']} of {counts.total()} reproduced, 0 not, ")


def test_a_broken_bound_shows():
    def breaks(datasets):
        datasets["fixed"]["bounds_broken"][
            dict.fromkeys(datasets["fixed"].bounds_broken.dims, 0)
        ] = 3

    whole, broken = study(), study(change=breaks)
    rows = [row for network in broken.every for row in network["bounds"]]
    one = by_title(broken)["bounds on variances"]
    assert one.numbers == {"checked": sum(row["checked"] for row in rows), "broken": 3}
    assert one.value == f"3 of {one.numbers['checked']:,} broken"
    claims = [by_title(some)["claims of the paper"].numbers for some in (whole, broken)]
    assert claims[1]["not reproduced"] == claims[0]["not reproduced"] + 1


def test_the_layers_are_those_of_the_table():
    found = study()
    first, *_, last = found.every[0]["layers"]
    one = by_title(found)["noise of Î₂ over Î₁"]
    assert one.numbers["first layer"] == pytest.approx(
        first["hessian"]["std"] / first["score"]["std"]
    )
    assert one.value == "first layer 2 (2 to 2), last layer 0"
    assert one.numbers["relative error of one draw"] == pytest.approx(
        5000**0.5 * last["score"]["std"] / last["fisher"]
    )


def test_draws_are_the_medians_for_every_layer():
    needed = plans()["draws_per_input"].sel(rule="clt", layer=ALL).median("replicate")
    one = by_title(study())["draws for a 10 % error"]
    assert one.numbers == {
        name: float(needed.sel(estimator=name)) for name in ("score", "hessian", "mixed")
    }
    assert one.value == "Î₁ 576, Î₂ 784, best mix 1,024"


def test_theorems_are_those_of_the_table():
    found = study()
    one = by_title(found)["theorems on random cases"]
    assert one.numbers == {"cases": found.theory["cases"], "violations": 0}
    found.theory["rows"][0]["violations"] = 2  # Lemma C.2
    found.theory["rows"][1]["violations"] = 5  # a misprint
    assert by_title(found)["theorems on random cases"].value.startswith("2 of ")


def test_others_take_the_place_of_what_is_left_out():
    some = list(by_title(study(plan=False, tried=False)).values())
    assert [one.title for one in some[3:]] == ["means off the exact ones", "test accuracy"]
    assert some[3].value.startswith("0 of ")
    assert some[4].value == "97.50 % (97.50 to 97.50)"

    def unlabelled(datasets):
        datasets["history"]["accuracy"] = datasets["history"]["accuracy"] * np.nan

    own = study(("mine",), None, plan=False, tried=False, change=unlabelled)
    assert [one.title for one in headlines(own)][3:] == [
        "means off the exact ones",
        "parameters looked at",
    ]


def test_one_replicate_has_no_range():
    def first(datasets):
        datasets.update({name: one.isel(replicate=[0]) for name, one in datasets.items()})

    found = by_title(study(plan=False, tried=False, change=first))
    assert found["noise of Î₂ over Î₁"].value == "first layer 2, last layer 0"
    assert found["test accuracy"].value == "97.50 %"
