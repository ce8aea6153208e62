"""Jobs and Snakemake itself are killed at random moments; what is run again ends as if not."""

import os
import random
import signal
import time

import psutil
import pytest
from study import (
    jobs_below,
    jobs_of,
    kill,
    kinds_of,
    prepare,
    said,
    seconds_of,
    start,
    wait_for_jobs,
)

pytestmark = pytest.mark.faults

TIMES = 2
ROUNDS = 40


class Hunter:
    """Kills jobs of every kind, each at a moment drawn from a part of its duration of its own."""

    def __init__(self, seconds: dict[str, float]) -> None:
        drawn = random.Random(1)
        self._moments = {
            kind: [drawn.uniform(k, k + 1) / TIMES * total for k in range(TIMES)]
            for kind, total in seconds.items()
        }
        self._tried: set[psutil.Process] = set()
        self.killed: list[str] = []

    @property
    def missing(self) -> list[str]:
        """Kinds that are still to be killed."""
        return [kind for kind, moments in self._moments.items() if moments]

    def watch(self, run) -> None:
        """Kill jobs of a run until it ends."""
        while run.poll() is None:
            for job, kind in jobs_below(run.pid).items():
                if self._moments[kind] and job not in self._tried:
                    self._aim(job, kind)
            time.sleep(0.1)

    def _aim(self, job: psutil.Process, kind: str) -> None:
        if time.time() - job.create_time() > self._moments[kind][0]:
            self._tried.add(job)
            if kill(job):
                self.killed.append(kind)
                del self._moments[kind][0]

    def hurry(self) -> None:
        """Aim earlier: those that are missing had ended before their moment."""
        self._moments = {
            kind: [moment / 2 for moment in moments] for kind, moments in self._moments.items()
        }


@pytest.mark.survived("kill -9 of a job, at random moments of every rule and experiment")
def test_jobs_killed(undisturbed, tmp_path, tally):
    project = prepare(tmp_path)
    kinds = kinds_of(undisturbed.project)
    hunter = Hunter({kind: seconds_of(undisturbed.project, kind) for kind in kinds})
    targets: list[str] = []
    for _ in range(ROUNDS):
        before = len(hunter.killed)
        # What is killed once, Snakemake starts again; then it fails, and is started again.
        run = start(project, "--cores", "2", "--keep-going", "--retries", "1", *targets)
        hunter.watch(run)
        assert run.returncode == 0 or len(hunter.killed) > before, said(project)
        undisturbed.assert_whole(project)
        if run.returncode == 0:
            if not hunter.missing:
                break
            hunter.hurry()
            again = [made for made in jobs_of(project) if made.kind in hunter.missing]
            for made in again:
                made.delete()
            targets = [target for made in again for target in made.targets(project)]
    assert sorted(hunter.killed) == sorted(kinds * TIMES)
    run = project.snakemake("--cores", "2")
    assert run.returncode == 0, run.stderr[-4000:]
    undisturbed.assert_equal(project)
    tally(len(hunter.killed))


@pytest.mark.survived("kill -9 of Snakemake, whose jobs are left behind")
def test_snakemake_killed(undisturbed, tmp_path, tally):
    """On one core, for what two give beside it."""
    project = prepare(tmp_path)
    drawn = random.Random(2)
    times = 6
    total = sum(seconds_of(undisturbed.project, kind) for kind in kinds_of(undisturbed.project))
    for _ in range(times):
        run = start(project, "--cores", "1")
        left_behind = wait_for_jobs(run, drawn.uniform(0, total / times / 2))
        run.kill()
        run.wait()
        _, alive = psutil.wait_procs(left_behind, timeout=20)
        assert not alive, "jobs go on without Snakemake"
        undisturbed.assert_whole(project)
        refused = project.snakemake("--cores", "1")
        assert refused.returncode != 0
        assert "LockException" in refused.stderr
        assert project.snakemake("--unlock").returncode == 0
    run = project.snakemake("--cores", "1")
    assert run.returncode == 0, run.stderr[-4000:]
    undisturbed.assert_equal(project)
    tally(times)


def interrupt(run) -> None:
    """Ctrl-C: the terminal sends it to everything in the foreground."""
    os.killpg(run.pid, signal.SIGINT)


def terminate(run) -> None:
    """What a batch system and `kill` send."""
    run.terminate()


def power_off(run) -> None:
    """Everything at once."""
    for process in [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]:
        kill(process)


PART = "networks/sigmoid"


@pytest.mark.survived("Ctrl-C, SIGTERM, and kill -9 of Snakemake with all its jobs")
@pytest.mark.parametrize(
    ("stop", "locked"), [(interrupt, False), (terminate, False), (power_off, True)]
)
def test_stopped(stop, locked, undisturbed, finished, tally):
    for path in sorted((finished.results / PART).rglob("*.nc")):
        path.unlink()
    folder = finished.results.relative_to(finished.root) / PART / "0"
    targets = [str(folder / name) for name in ("comparison.nc", "spectra.nc")]
    drawn = random.Random(3)
    times = 3
    for _ in range(times):
        run = start(finished, "--cores", "2", *targets)
        jobs = wait_for_jobs(run, drawn.uniform(0, 2))
        stop(run)
        assert run.wait(timeout=60) != 0
        _, alive = psutil.wait_procs(jobs, timeout=20)
        assert not alive
        undisturbed.assert_whole(finished)
        if locked:
            assert finished.snakemake("--unlock").returncode == 0
    run = finished.snakemake("--cores", "2", *targets)
    assert run.returncode == 0, run.stderr[-4000:]
    undisturbed.assert_complete(finished)
    tally(times)
