"""Tables have the numbers of the sections, and as files they keep them."""

import io
from base64 import b64decode
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from gathered import gathered

from diagfim import theory
from diagfim.latex import Tex
from diagfim.report import EXPERIMENTS, networks, sweep, tables
from diagfim.report.study import Study
from diagfim.report.theory import theory_table

DRAWS = {"fixed": 5000, "joint": 5000}


def study(names=("sigmoid", "deep"), shown=("sigmoid", "deep")):
    """A study of networks that are alike; only the first was looked at over the test set."""
    datasets = {name: gathered() for name in names}
    for name in names[1:]:
        del datasets[name]["joint"], datasets[name]["spectra"]
    every = [
        {**one, "hidden": [8, 6], "activation": "sigmoid", "dropout": 0.2}
        for one in networks.contents(datasets, DRAWS, dict.fromkeys(names, "sigmoid"))
    ]
    some = ["Lemma C.2", "Lemma I.1, as printed"]
    tree = {"results": theory.verify(0, 20, names=some), "misprints": theory.counterexamples()}
    return Study(
        datasets=datasets,
        every=every,
        networks=[one for one in every if one["name"] in shown],
        experiments={},
        theory=theory_table(xr.DataTree.from_dict(tree)),
    )


@pytest.fixture(scope="module")
def found():
    return study()


@pytest.fixture(scope="module")
def made(found):
    return tables.of_study(found, 5000)


def test_every_section_has_its_tables(made):
    deep = {"layers", "bounds", "agreement"}
    assert set(made) == {
        *("claims", "networks", "theory/results", "theory/misprints"),
        *(f"networks/deep/{table}" for table in deep),
        *(f"networks/sigmoid/{table}" for table in deep | {"joint-draws", "eigenvalues"}),
    }


def test_numbers_are_those_of_the_sections(found, made):
    one, table = found.networks[0], made["networks/sigmoid/layers"]
    for row, layer in zip(table.to_dict("records"), one["layers"], strict=True):
        assert row["layer"] == layer["layer"]
        assert row["fisher"] == layer["fisher"]
        assert row["std_score_exact"] == layer["score"]["std"]
        assert row["std_hessian_empirical"] == layer["hessian"]["empirical"]
        assert row["bound_over_variance_score_theorem_5.2"] == layer["score"]["theorem"]
    assert made["networks/sigmoid/bounds"]["checked"].sum() == 6 * 10 * 3 * 4 * 9
    claims = made["claims"]
    assert len(claims) == sum(found.counts.values())
    assert claims["verdict"].value_counts().to_dict() == dict(found.counts)
    rows = sweep.contents(found.every, found.datasets, 5000)["rows"]
    of_networks = made["networks"]
    assert of_networks["relative_error_hessian"].tolist() == [r["hessian"]["noise"] for r in rows]
    assert of_networks["hidden"].tolist() == ["8-6", "8-6"]
    assert made["theory/results"]["violations"].tolist() == [
        row["violations"] for row in found.theory["rows"]
    ]


def test_every_column_is_in_the_sections(made):
    """A column whose values are looked for in the wrong place would be empty throughout."""
    for name, table in made.items():
        empty = set(table.columns[table.isna().all()])
        if name.endswith("eigenvalues"):
            assert empty == set()
        assert empty <= {"tightest_ratio"}, name


def test_what_the_normal_law_does_not_decide_is_missing(made):
    table = made["networks/sigmoid/agreement"].set_index(["draws", "statistic"])
    assert table.loc[("one input", "mean"), "nearly_normal_tests"] > 0
    assert table.loc[("one input", "variance")].isna().sum() == 4


def test_files_keep_every_digit(made):
    for name, table in made.items():
        back = pd.read_csv(io.StringIO(tables.csv(table)), dtype=dict(table.dtypes))
        pd.testing.assert_frame_equal(back, table, check_exact=True, obj=name)


def test_of_more_networks_than_have_sections_there_are_all_claims():
    names = ("sigmoid", "one", "two")
    made = tables.of_study(study(names, shown=names[:1]), 5000)
    assert made["networks"]["network"].tolist() == list(names)
    assert {name.split("/")[1] for name in made if name.startswith("networks/")} == {"sigmoid"}
    assert made["claims-by-network"]["networks"].max() == 3


def test_what_a_run_cost_and_rests_on():
    cost = [{"rule": "train", "jobs": 2, "seconds": 40.0, "longest": 30.0, "memory": 101.0}]
    config = {"seed": 7, "networks": {"a": {"hidden": [8, 6]}, "b": None}, "empty": {}}
    timing = {"milliseconds": 2.0, "low": 1.0, "high": 3.0, "ratio": 1.5, "megabytes": 4.0}
    benchmark = {
        "networks": ["784--8--10", "784--8--8--10"],
        "rows": [{"task": "draw", "library": "diagfim", "networks": [timing, timing]}],
    }
    made = tables.of_run(cost, benchmark, {"source": "diagfim", "seed": "7"}, config)
    assert made["run/cost"].iloc[0].tolist() == ["train", 2, 40.0, 30.0, 101.0]
    assert dict(made["run/configuration"].itertuples(index=False)) == {
        "seed": "7",
        "networks.a.hidden": "[8, 6]",
        "networks.b": "null",
        "empty": "{}",
    }
    assert made["run/benchmark"]["network"].tolist() == ["784-8-10", "784-8-8-10"]
    assert made["run/benchmark"]["peak_MB"].tolist() == [4.0, 4.0]
    assert set(tables.of_run(cost, None, {}, {"seed": 7})) == {
        "run/cost",
        "run/provenance",
        "run/configuration",
    }


def test_experiments_have_tables():
    assert set(tables.OF_EXPERIMENTS) == set(EXPERIMENTS)


class Cells(HTMLParser):
    """Texts of a page's cells, and what its links hold."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.links, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.inside = tag in ("td", "th")
        if self.inside:
            self.texts.append("")
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.texts[-1] += data


def test_a_page_shows_the_table_and_gives_it():
    odd = '<script>alert("&")</script>'
    table = tables.frame(
        [{"a": odd, "b": 1.23456e-7}, {"a": None, "b": 2500}], {"x_y": "a", "n": "b"}
    )
    text = tables.page("networks/sigmoid/layers", table, "<p>A caption.</p>")
    page = Cells(text)
    assert page.texts == ["x y", "n", odd, "1.235 × 10⁻⁷", "–", "2\N{NARROW NO-BREAK SPACE}500"]
    assert "<script" not in text
    assert "<h1>Network sigmoid: layers</h1>" in text
    assert "<p>A caption.</p>" in text
    (link,) = page.links
    assert b64decode(link.partition("base64,")[2]).decode() == tables.csv(table)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (np.nan, "–"),
        (pd.NA, "–"),
        (np.inf, "∞"),
        (0, "0"),
        (0.0, "0"),
        (True, "yes"),
        (np.bool_(False), "no"),
        (np.int64(1234567), "1\N{NARROW NO-BREAK SPACE}234\N{NARROW NO-BREAK SPACE}567"),
        (np.float64(0.05), "0.05"),
        (-0.012345, "−0.01235"),
        (99999.7, "100000"),
        (1234567.8, "1.235 × 10⁶"),
        ("3", "3"),
        (Tex("x"), "x"),
    ],
)
def test_values_as_a_page_shows_them(value, shown):
    assert tables.cell(value) == shown
