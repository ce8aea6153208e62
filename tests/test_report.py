"""The report's tables hold what the results hold."""

import numpy as np
import pytest
import xarray as xr
from gathered import gathered

from diagfim import theory
from diagfim.report import costs, networks
from diagfim.report.theory import claims as theory_claims
from diagfim.report.theory import theory_table


def test_layer_table_is_the_median_of_the_last_epoch():
    fixed = gathered()["fixed"]
    rows = networks.layer_table(fixed, 5000)
    assert [row["layer"] for row in rows] == ["1", "2", "3", "4"]
    exact = fixed["exact_variance"].isel(epoch=-1, input=0).median("replicate")
    for row, layer in zip(rows, fixed["layer"].values, strict=True):
        value = float(exact.sel(layer=layer, estimator="score"))
        assert row["score"]["std"] == pytest.approx(np.sqrt(value / 5000))
        assert row["score"]["empirical"] == pytest.approx(row["score"]["std"])
        assert row["score"]["theorem"] == pytest.approx(50)
        assert row["score"]["true"] == pytest.approx(25)
    assert rows[-1]["hessian"]["std"] == 0
    assert np.isnan(rows[-1]["hessian"]["theorem"])


def test_bound_table_counts_everything():
    rows = networks.bound_table(gathered()["fixed"])
    assert len(rows) == 6
    assert sum(row["checked"] for row in rows) == 6 * 10 * 3 * 4 * 9
    assert all(row["broken"] == 0 and row["tightest"] == pytest.approx(0.9) for row in rows)


def test_spectra_table_counts_what_is_not_proven():
    fisher, moment, tensor = networks.spectra_table(gathered(replicates=3)["spectra"])
    assert fisher["median"] == pytest.approx(0.25)
    assert fisher["slack"] == {"median": pytest.approx(2), "largest": pytest.approx(2)}
    assert fisher["gap"] is None
    assert moment["slack"] is None
    assert moment["gap"] == {"largest": 0, "wide": 0}
    assert tensor["slack"] == {"median": pytest.approx(5), "largest": pytest.approx(20)}
    assert tensor["gap"] == {"largest": pytest.approx(0.03), "wide": 3}


def test_theory_table_holds_every_result_and_what_is_broken():
    names = ["Lemma C.2", "Lemma I.1, as printed", "Lemma I.1, corrected"]
    results, misprints = theory.verify(0, 20, names=names), theory.counterexamples()
    table = theory_table(xr.DataTree.from_dict({"results": results, "misprints": misprints}))
    assert [row["name"] for row in table["rows"]] == names
    assert [row["function"] for row in table["rows"]] == [
        "bounds.lemma_c_2",
        "bounds.lemma_i_1_as_printed",
        "bounds.lemma_i_1",
    ]
    assert table["true"] == 2
    assert table["cases"] == int(results["cases"].sum()) - table["rows"][1]["cases"]
    assert table["broken"] == []
    assert table["rows"][1]["violations"] > 0
    assert table["misprints"][0]["value"] == 4
    verdicts = [claim.verdict for claim in theory_claims(table)]
    assert verdicts == ["reproduced"] * 2 + ["corrected"] * 6
    results["violations"][0] = 3
    table = theory_table(xr.DataTree.from_dict({"results": results, "misprints": misprints}))
    assert table["broken"] == ["Lemma C.2"]
    assert theory_claims(table)[0].verdict == "not reproduced"


def test_contents_of_a_network():
    (one,) = networks.contents(
        {"sigmoid": gathered()}, {"fixed": 5000, "joint": 5000}, {"sigmoid": "sigmoid"}
    )
    assert one["accuracy"]["mean"] == pytest.approx(0.975)
    assert one["positions"] == [7, 8, 9]
    assert len(one["agreement"]) == 4
    assert {claim.verdict for claim in one["claims"]} == {"reproduced"}
    assert [row["score"]["share"] for row in one["joint"]] == pytest.approx([0.25] * 4)


def test_contents_of_a_network_at_its_inputs_alone():
    datasets = gathered()
    del datasets["joint"], datasets["spectra"]
    (one,) = networks.contents(
        {"deep": datasets}, {"fixed": 5000, "joint": 5000}, {"deep": "logsigmoid"}
    )
    assert one["joint"] == one["spectra"] == []
    assert [row["where"] for row in one["agreement"]] == ["one input"] * 2
    assert len(one["claims"]) == 7


def test_cost_table_adds_up_the_jobs_of_a_rule(tmp_path):
    for rule, seconds in (("train", (10.0, 30.0)), ("figure", (2.0,))):
        for number, second in enumerate(seconds):
            path = tmp_path / rule / f"{number}.tsv"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"s\tmax_rss\n{second}\t{100 + number}\n")
    (tmp_path / "figure" / "1.tsv").write_text("s\tmax_rss\n0.5\tNA\n")
    rows = costs.cost_table(costs.runs(tmp_path.glob("*/*.tsv")))
    assert [row["rule"] for row in rows] == ["train", "figure"]
    assert rows[0] == {"rule": "train", "jobs": 2, "seconds": 40, "longest": 30, "memory": 101}
    assert rows[1]["seconds"] == 2.5
