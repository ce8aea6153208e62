"""What the report says of many networks, against arithmetic on jobs made by hand."""

import math

import pytest
from gathered import gathered

from diagfim.report import networks, scaling, sweep
from diagfim.report.costs import cost_table, of_run, runs


@pytest.fixture
def benchmarks(tmp_path):
    """Two networks with two replicates, and what other configurations have left in the folder."""

    def add(rule, job, seconds, memory):
        path = tmp_path / rule / f"{job}.tsv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"s\th:m:s\tmax_rss\tcpu_time\n{seconds}\t0:00:01\t{memory}\tNA\n")

    for network, seconds in (("a", (10, 20)), ("a-b", (30, 60))):
        for replicate, second in enumerate(seconds):
            add("train", f"{network}-{replicate}", second, 500 + second)
            add("comparison", f"{network}-{replicate}", 2, "NA")
    add("spectra", "a-0", 8, 900)
    add("spectra", "a-1", 12, "NA")
    add("summary", "a", 3, 100)
    add("figure", "a-b-training", 4, 250)
    add("toy", "1", 5, 300)
    add("gather", "toy", 1, 100)
    add("experiment_figure", "toy-figure-1", 6, 200)
    add("dataset", "mnist", 7, 800)
    # a network that is gone, a replicate too many, an experiment that is switched off
    add("train", "gone-0", 1000, 9000)
    add("train", "a-2", 1000, 9000)
    add("figure", "gone-training", 1000, 9000)
    add("toy", "2", 1000, 9000)
    add("frontier", "0", 1000, 9000)
    add("gather", "frontier", 1000, 9000)
    add("summary", "gone", 1000, 9000)
    add("experiment_figure", "frontier-frontier", 1000, 9000)
    # what may have ended or not when this is shown
    for rule in ("report", "tables", "headlines", "explorer"):
        add(rule, rule, 1000, 9000)
    return tmp_path.glob("*/*.tsv")


def of_this_run(benchmarks):
    return list(of_run(runs(benchmarks), ["a", "a-b"], 2, ["toy"]))


def test_only_the_jobs_of_this_run_count(benchmarks):
    table = {row["rule"]: row for row in cost_table(of_this_run(benchmarks))}
    assert {rule: (row["jobs"], row["seconds"]) for rule, row in table.items()} == {
        "train": (4, 120),
        "comparison": (4, 8),
        "spectra": (2, 20),
        "summary": (1, 3),
        "figure": (1, 4),
        "toy": (1, 5),
        "gather": (1, 1),
        "experiment figure": (1, 6),
        "dataset": (1, 7),
    }
    assert table["train"]["memory"] == 560
    assert table["comparison"]["memory"] == 0  # too short to be looked at


def test_gathering_is_by_network(benchmarks):
    jobs = of_this_run(benchmarks)
    assert scaling.gathering(jobs) == 3
    assert scaling.gathering([job for job in jobs if job.rule != "summary"]) == 0


def test_a_thousand_networks_by_hand(benchmarks):
    found = scaling.by_replicate(of_this_run(benchmarks), ["a", "a-b"], 2)
    assert sorted(found) == [("a", 0), ("a", 1), ("a-b", 0), ("a-b", 1)]
    held = [(1_000_000, 10), (3_000_000, 20), (2_000_000, 10), (2_000_000, 20)]
    told = scaling.forecast(found, 3.0, held, per_network=2, together=5)
    # replicates take 10 + 2 + 8, 20 + 2 + 12, 30 + 2 and 60 + 2 seconds
    assert told["seconds"]["mean"] == pytest.approx(37)
    assert told["seconds"]["spread"] == pytest.approx(math.sqrt((17**2 + 3**2 + 5**2 + 25**2) / 3))
    assert told["longest"] == 62
    assert told["memory"] == 900
    assert [row["rule"] for row in told["rows"]] == ["train", "spectra", "comparison"]
    assert told["rows"][1]["seconds"] == {"mean": 10, "spread": pytest.approx(math.sqrt(8))}
    assert told["rows"][1]["memory"] == 900
    assert told["rows"][2]["memory"] is None
    # ten jobs for four replicates, two and a half each
    each = 37 + 2.5 * scaling.START
    assert told["jobs"] == 5000
    assert told["core_hours"] == pytest.approx(2000 * each / 3600)
    assert told["submissions"] == 400
    assert told["bytes"] == 4e9
    assert told["files"] == 30_000
    assert told["gathering"] == 3
    few, many = told["clocks"]
    assert (few["cores"], many["cores"]) == (100, 1000)
    # four rounds of a hundred submissions; then all four hundred at once
    assert few["hours"] * 3600 == pytest.approx(4 * (scaling.LATENCY + 5 * each))
    assert many["hours"] * 3600 == pytest.approx(scaling.LATENCY + 5 * each)
    assert few["used"] == pytest.approx(2000 * each / (100 * few["hours"] * 3600))


def test_one_replicate_has_no_spread_and_none_no_forecast(benchmarks):
    jobs = of_this_run(benchmarks)
    told = scaling.forecast(scaling.by_replicate(jobs, ["a"], 1), 3.0, [(1, 1)], 1, 1)
    assert told["seconds"] == {"mean": 20, "spread": None}
    assert scaling.forecast({}, 3.0, [], 1, 1) is None


def test_sizes_are_those_of_all_files_below(tmp_path):
    (tmp_path / "0" / "checkpoints").mkdir(parents=True)
    (tmp_path / "0" / "history.nc").write_bytes(b"12345")
    (tmp_path / "0" / "checkpoints" / "epoch-0.safetensors").write_bytes(b"123")
    assert scaling.sizes([tmp_path / "0", tmp_path / "1"]) == [(8, 2), (0, 0)]


def test_noise_of_a_network_weighs_its_layers_by_their_parameters():
    fixed = gathered()["fixed"].copy()
    fixed["bounds_checked"] = fixed["bounds_checked"].copy()
    fixed["bounds_checked"].loc[{"layer": "dense1"}] *= 7
    told = sweep.noise(fixed, 5000)
    last = fixed.isel(epoch=-1, input=0).transpose("estimator", "layer", "replicate", ...)
    sizes = [7, 1, 1, 1]
    for number, name in enumerate(("score", "hessian")):
        errors, loose = [], []
        for replicate in range(3):
            one = last.isel(replicate=replicate)
            variances = one["exact_variance"].isel(estimator=number).values
            bounds = one["bound_variance"].sel(bound="theorem 5.2").isel(estimator=number).values
            total = sum(n * v for n, v in zip(sizes, variances, strict=True)) / 10
            fisher = sum(n * v for n, v in zip(sizes, one["fisher"].values, strict=True)) / 10
            errors.append(math.sqrt(total / 5000) / fisher)
            loose.append(sum(n * b for n, b in zip(sizes, bounds, strict=True)) / 10 / total)
        assert told[name]["noise"] == pytest.approx(sorted(errors)[1])
        assert told[name]["loose"] == pytest.approx(sorted(loose)[1])
    assert told["score_better"] == pytest.approx(0.9)
    assert told["broken"] == 0


def test_claims_are_counted_over_the_networks_that_they_are_about():
    datasets = {"one": gathered(), "two": gathered(), "own": gathered()}
    fixed = datasets["two"]["fixed"] = datasets["two"]["fixed"].copy()
    fixed["bounds_broken"] = fixed["bounds_broken"] + 1
    told = networks.contents(
        datasets, {"fixed": 5000, "joint": 5000}, {"one": "sigmoid", "two": "sigmoid", "own": None}
    )
    table = sweep.contents(told, datasets, 5000)
    assert [row["name"] for row in table["rows"]] == list(datasets)
    counts = {(row["reproduced"], row["networks"]) for row in table["claims"]}
    assert (3, 3) in counts  # of every network
    assert (2, 2) in counts  # of those that were trained here
    assert (2, 3) in counts  # broken in one
    assert sum(row["networks"] for row in table["claims"]) == sum(
        len(one["claims"]) for one in told
    )
