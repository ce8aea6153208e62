"""The study on a real Slurm: the same numbers as on one machine, whatever happens to its jobs."""

import contextlib
import random
import re
import time

import psutil
import pytest
import torch
import yaml
from study import SMALL, Undisturbed, clone, prepare
from test_resources import ON_SLURM, planned, submissions
from toy import ROOT, TINY, copy_project

pytestmark = pytest.mark.cluster

SUMMARIES = [
    f"{SMALL['results']}/summaries/{name}.nc" for name, one in SMALL["networks"].items() if one
]
# A replicate is a job, so that there are two at a time.
ALONE = "--group-components=replicate=1"


def smoke(folder):
    """A copy of the project whose tiny.yaml is the smoke configuration, other folder apart."""
    project = copy_project(folder)
    settings = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text())
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings | {"results": TINY["results"]}))
    return project


def test_the_smoke_study_is_that_of_two_cores(slurm, tmp_path):
    here, there = smoke(tmp_path / "here"), smoke(tmp_path / "there")
    few = ("--group-components", "replicate=2", "figures=4")
    expected = submissions(planned(there, *ON_SLURM, *few))
    slurm.run(there, *few)
    ended = slurm.ended(there)
    assert {job["JobState"] for job in ended} == {"COMPLETED"}
    assert {job["ProcCnt"] for job in ended} == {"1"}  # groups, too, fit the smallest node
    assert len(ended) == sum(expected.values())
    run = here.snakemake("--cores", "2")
    assert run.returncode == 0, run.stderr[-4000:]
    Undisturbed(here).assert_equal(there)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Two networks up to their summaries, with nothing in the way."""
    project = prepare(tmp_path_factory.mktemp("undisturbed"))
    run = project.snakemake(*SUMMARIES, "--cores", "2")
    assert run.returncode == 0, run.stderr[-4000:]
    return Undisturbed(project)


def assert_equal(undisturbed, project):
    undisturbed.assert_complete(project)
    assert project.planned("--cores=1", *SUMMARIES) == {}


@pytest.mark.survived(
    "on Slurm: a job killed -9, cancelled, requeued, its node down; Snakemake killed -9"
)
def test_whatever_happens_to_jobs(slurm, undisturbed, tmp_path, tally):
    project = prepare(tmp_path)
    drawn = random.Random(0)
    run = slurm.start(project, *SUMMARIES, ALONE, "--retries=5")
    for harm in (kill, cancel, requeue, node_down):
        slurm.wait_for_job(run)
        time.sleep(drawn.uniform(2, 8))
        harm(slurm, slurm.wait_for_job(run))
        tally(1)
    slurm.wait_for_job(run)
    time.sleep(drawn.uniform(2, 8))
    run.kill()  # its jobs go on beside those of the next one
    run.wait()
    tally(1)
    unlock = project.snakemake("--unlock")
    assert unlock.returncode == 0, unlock.stderr
    slurm.run(project, *SUMMARIES, ALONE)
    slurm.wait_for_all()
    undisturbed.assert_complete(project)
    # What the two wrote after one another has the same bytes and may have the wrong order.
    slurm.run(project, *SUMMARIES, ALONE)
    states = {job["JobState"] for job in slurm.ended(project)}
    assert {"FAILED", "CANCELLED", "NODE_FAIL", "COMPLETED"} <= states
    assert_equal(undisturbed, project)


def kill(slurm, job):
    for process in slurm.processes(job):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    slurm.wait_for_end(job)


def cancel(slurm, job):
    slurm.command("scancel", job)
    slurm.wait_for_end(job)


def requeue(slurm, job):
    slurm.command("scontrol", "requeue", job)


def node_down(slurm, job):
    slurm.command("scontrol", "update", "nodename=test", "state=down", "reason=test")
    slurm.wait_for_end(job)
    slurm.command("scontrol", "update", "nodename=test", "state=resume")


# A minute is the least that Slurm knows; a job that is slow once needs it all, and is killed.
SLOW_ONCE = """
from pathlib import Path
import time

if not Path("slow").exists():
    Path("slow").touch()
    time.sleep(600)

"""


@pytest.mark.survived("jobs killed by Slurm for want of time, then of memory")
def test_what_was_too_little_is_asked_for_with_more(slurm, undisturbed, tmp_path):
    project = prepare(tmp_path)
    edit(project, "rules/resources.smk", r"500 \+ 3 \* PEAKS\[.*\]\[0\] // 2", "300")
    edit(project, "rules/resources.smk", r"2 \+ 4 \* PEAKS\[.*\]\[1\] // 60", "1")
    edit(project, "scripts/dataset.py", "(?=with job)", SLOW_ONCE)
    slurm.run(project, f"{TINY['results']}/data/mnist.nc")
    first, second, third = slurm.ended(project)
    assert (first["JobState"], first["TimeLimit"]) == ("TIMEOUT", "1")
    assert (second["JobState"], second["TimeLimit"]) == ("FAILED", "2")
    assert (third["JobState"], third["TimeLimit"]) == ("COMPLETED", "4")
    undisturbed.assert_whole(project)


def edit(project, name, pattern, replacement):
    path = project.root / "workflow" / name
    text, count = re.subn(pattern, replacement, path.read_text())
    assert count == 1, name
    path.write_text(text)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU of the tests is one in name")
def test_training_on_a_gpu_asks_slurm_for_one(slurm, undisturbed, tmp_path):
    project = clone(undisturbed.project, tmp_path)
    target = f"{TINY['results']}/networks/sigmoid/0/history.nc"
    options = ("--config", "training={device: cuda}", "--retries", "0")
    assert slurm.start(project, target, *options).wait(600) == 1
    (job,) = slurm.ended(project)
    assert "TresPerJob=gres:gpu:1" in slurm.command("scontrol", "show", "job", job["JobId"])
    assert "config: training.device is cuda, but" in (project.root / "said.txt").read_text()


def test_another_batch_system_by_the_page(slurm, undisturbed, tmp_path):
    page = (ROOT / "docs" / "how-to" / "cluster.md").read_text()
    files = re.findall(r":caption: (workflow/profiles/\S+)\n\n(.*?)```", page, re.DOTALL)
    (command,) = re.findall(r"^snakemake (.*profiles/batch.*)$", page, re.MULTILINE)
    project = prepare(tmp_path)
    for name, text in files:
        (project.root / name).parent.mkdir(exist_ok=True)
        (project.root / name).write_text(text)
    slurm.finish(project, slurm.snakemake(project, *command.split(), *SUMMARIES, ALONE))
    assert {job["JobState"] for job in slurm.ended(project)} == {"COMPLETED"}
    assert_equal(undisturbed, project)
