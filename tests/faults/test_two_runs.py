"""Two runs at once, in one folder or beside each other, and a project that is moved."""

import shutil
import subprocess

import pytest
import yaml
from study import jobs_of, said, start, wait_for_jobs
from toy import Project

pytestmark = pytest.mark.faults

RULES = ["conditional_moments", "bounds", "fixed_estimates", "toy"]


def some(project: Project) -> list[str]:
    """Delete the results of some rules, and return what to ask for to have them again."""
    jobs = [job for job in jobs_of(project) if job.kind in RULES]
    for job in jobs:
        job.delete()
    return [target for job in jobs for target in job.targets(project)]


def other_config(project: Project, **changes) -> tuple[str, str]:
    """Arguments for a run with another configuration."""
    config = yaml.safe_load((project.root / "tiny.yaml").read_text()) | changes
    (project.root / "other.yaml").write_text(yaml.safe_dump(config))
    return "--configfile", "other.yaml"


@pytest.mark.survived("second run in the same folder, with the same or another configuration")
@pytest.mark.parametrize("seed", [None, 7])
def test_a_second_run_is_refused(seed, undisturbed, finished):
    targets = some(finished)
    run = start(finished, "--cores", "2", *targets)
    wait_for_jobs(run, 0)
    arguments = other_config(finished, seed=seed) if seed else ()
    second = finished.snakemake("--cores", "1", *targets, *arguments)
    assert second.returncode != 0
    assert "LockException" in second.stderr
    assert run.wait() == 0, said(finished)
    undisturbed.assert_complete(finished)


@pytest.mark.survived("second run in the same folder although it is locked (--nolock)")
def test_two_runs_without_a_lock(undisturbed, finished):
    """Each may fail, for a run deletes what it is about to make; neither harms a file."""
    targets = some(finished)
    first = start(finished, "--cores", "2", "--nolock", *targets)
    wait_for_jobs(first, 0)
    second = finished.snakemake("--cores", "2", "--nolock", *targets)
    first.wait()
    undisturbed.assert_whole(finished)
    if second.returncode or first.returncode:
        again = finished.snakemake("--cores", "2", *targets)
        assert again.returncode == 0, again.stderr[-4000:]
    undisturbed.assert_complete(finished)


@pytest.mark.survived("two runs side by side, into different folders of results")
def test_two_folders_of_results(undisturbed, finished):
    targets = some(finished)
    shutil.copytree(finished.results, finished.root / "results" / "other")
    others = [target.replace("results/tiny", "results/other") for target in targets]
    run = start(finished, "--cores", "1", *targets)
    wait_for_jobs(run, 0)
    arguments = other_config(finished, results="results/other")
    second = finished.snakemake("--cores", "1", *others, *arguments)
    assert second.returncode == 0, second.stderr[-4000:]
    assert run.wait() == 0, said(finished)
    undisturbed.assert_complete(finished)
    shutil.rmtree(finished.results)
    (finished.root / "results" / "other").rename(finished.results)
    undisturbed.assert_complete(finished)


@pytest.mark.survived("finished project that is moved, or copied without its times")
@pytest.mark.parametrize("copy", [("mv",), ("cp", "-r")])
def test_moved(copy, undisturbed, finished, tmp_path_factory):
    target = tmp_path_factory.mktemp("moved") / "to"
    subprocess.run([*copy, str(finished.root), str(target)], check=True)
    moved = Project(target)
    if copy == ("mv",):
        assert moved.planned() == {}
    else:
        assert moved.snakemake("--touch", "--cores", "1").returncode == 0
        assert moved.planned() == {}
    undisturbed.assert_complete(moved)
