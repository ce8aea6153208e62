"""What jobs ask a cluster for: more than they take, twice that in the next attempt, few jobs."""

import csv
import re
import shutil

import pytest
import torch
from toy import copy_project

pytestmark = pytest.mark.workflow

ON_SLURM = ("--workflow-profile", "workflow/profiles/slurm")
# They stay with Snakemake, which typesets beside itself; the tests on a real Slurm see that, too.
LOCAL = ("all", "headlines", "report", "tables", "tex")


@pytest.fixture(scope="module")
def plan(finished):
    """What Snakemake would do on Slurm, job by job, for the whole study from its beginning."""
    return planned(finished, *ON_SLURM)


def planned(project, *arguments):
    run = project.snakemake("--dry-run", "--forceall", *arguments)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    return run.stdout


def requests(plan):
    """Rule, benchmark file and resources of every job of a plan but those that only gather."""
    for block in re.split(r"\n *(?:local)?rule ", plan)[1:]:
        benchmark = re.search(r"\n *benchmark: (\S+)", block)
        if benchmark:
            listed = re.search(r"\n *resources: (.*)", block)[1]
            resources = dict(item.split("=", 1) for item in listed.split(", "))
            yield block.partition(":")[0], benchmark[1], resources


def submissions(plan):
    """Jobs of the cluster, by group or else by rule, of a plan."""
    found = re.findall(r"^(?:\[.*\] Group job (\w+) |rule (\w+):)", plan, re.MULTILINE)
    names = [group or rule for group, rule in found]
    return {name: names.count(name) for name in sorted(set(names) - set(LOCAL))}


def measured(path):
    """Seconds and peak memory of a job; the memory of one too short to be looked at is 0."""
    with open(path, newline="") as file:
        (row,) = csv.DictReader(file, delimiter="\t")
    memory = row["max_rss"]
    return float(row["s"]), 0.0 if memory in ("-", "NA") else float(memory)


def test_every_job_asks_for_more_than_it_took(finished, plan):
    asked = list(requests(plan))
    assert len({rule for rule, _, _ in asked}) > 15
    for rule, benchmark, resources in asked:
        seconds, memory = measured(finished.root / benchmark)
        assert memory < int(resources["mem_mb"]), (rule, benchmark)
        assert seconds < 60 * int(resources["runtime"]), (rule, benchmark)


def test_each_attempt_asks_for_twice_as_much(finished, plan):
    third = {
        path: resources for _, path, resources in requests(planned(finished, "--attempt", "3"))
    }
    for rule, path, first in requests(plan):
        for name in ("mem_mb", "runtime"):
            assert int(third[path][name]) == 4 * int(first[name]), (rule, name)


def test_no_job_asks_for_a_gpu_unless_the_networks_train_on_one(finished, plan):
    assert all(resources.get("gpu", "0") == "0" for _, _, resources in requests(plan))
    some = planned(finished, "--config", "training={device: cuda}")
    asking = {rule for rule, _, resources in requests(some) if resources.get("gpu") == "1"}
    assert asking == {"train"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.refused("training on a GPU where there is none")
def test_a_missing_gpu_is_one_line_and_leaves_nothing(finished, tmp_path):
    project = copy_project(tmp_path)
    for folder in ("data", "receipts/data"):
        shutil.copytree(finished.results / folder, project.results / folder)
    target = "results/tiny/networks/sigmoid/0/history.nc"
    run = project.snakemake(target, "--cores", "1", "--config", "training={device: cuda}")
    assert run.returncode != 0
    lines = {line for line in run.stderr.splitlines() if line.startswith("error: ")}
    assert len(lines) == 1, run.stderr[-4000:]
    assert "training.device is cuda, but PyTorch" in lines.pop()
    assert "Traceback" not in run.stderr
    left = (project.results / "networks").rglob("*")
    assert not [path for path in left if path.is_file()]


def test_replicates_and_figures_go_together(plan):
    assert submissions(plan) == {
        "benchmark": 1,
        "dataset": 1,
        "drawn": 8,
        "experiment": 16,
        "explorer": 1,
        "figures": 1,
        "replicate": 1,
        "theory": 1,
    }
