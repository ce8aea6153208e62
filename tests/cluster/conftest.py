"""A Slurm of one node for all tests here, and Snakemake on it as the profile has it."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from toy import Project

SCRIPT = Path(__file__).with_name("slurm.sh")
# What a test machine has of its own: no accounting, and no time to wait in.
HERE = (
    "--slurm-status-command=squeue",
    "--slurm-no-account",
    "--slurm-init-seconds-before-status-checks=2",
    "--seconds-between-status-checks=2",
    "--default-resources=slurm_partition=debug",
)
PROFILE = "--workflow-profile=workflow/profiles/slurm"
PATIENCE = 1500  # seconds for a run; one that hangs does not hang the tests


@dataclass(frozen=True)
class Slurm:
    """The cluster: its folder holds configuration, logs, and a line for each job that has ended."""

    folder: Path

    def command(self, *words: str) -> str:
        """Run one of Slurm's commands; what it prints."""
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    def running(self) -> list[str]:
        """Numbers of the jobs that run now."""
        return self.command("squeue", "--noheader", "--states=R", "--format=%i").split()

    def ended(self, project: Project) -> list[dict[str, str]]:
        """What the cluster has noted of every job of a project that has ended."""
        path = self.folder / "jobs.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        jobs = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
        return [job for job in jobs if job["WorkDir"] == str(project.root)]

    def start(self, project: Project, *arguments: str) -> subprocess.Popen[str]:
        """Snakemake on the cluster, by the profile, without waiting for it."""
        return self.snakemake(project, PROFILE, *HERE, *arguments)

    def snakemake(self, project: Project, *arguments: str) -> subprocess.Popen[str]:
        """Snakemake with other arguments, in a session of its own."""
        with (project.root / "said.txt").open("w") as said:
            return subprocess.Popen(
                [Path(sys.executable).with_name("snakemake"), *arguments, "--configfile=tiny.yaml"],
                cwd=project.root,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                text=True,
                start_new_session=True,
            )

    def run(self, project: Project, *arguments: str) -> None:
        """Snakemake on the cluster, by the profile, to its end."""
        self.finish(project, self.start(project, *arguments))

    def finish(self, project: Project, run: subprocess.Popen[str]) -> None:
        """Wait for a Snakemake that was started, and assert that all went well."""
        try:
            code = run.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            run.kill()
            code = None
        if code != 0:
            self.cancel()
            said = (project.root / "said.txt").read_text(errors="replace")
            pytest.fail(f"Snakemake ended with {code}:\n{said[-6000:]}")

    def wait_for_job(self, run: subprocess.Popen[str]) -> str:
        """The number of a job that runs, as soon as one does."""
        while not self.running():
            assert run.poll() is None, "it has ended already"
            time.sleep(0.2)
        return self.running()[0]

    def wait_for_end(self, job: str) -> None:
        """Wait until a job does not run any more."""
        while job in self.running():
            time.sleep(0.2)

    def wait_for_all(self) -> None:
        """Wait until every job has ended, those of a Snakemake that is gone included."""
        while self.command("squeue", "--noheader", "--format=%i").strip():
            time.sleep(1)

    def processes(self, job: str) -> list[psutil.Process]:
        """Processes of a job of this cluster, as their environment says it."""
        found = []
        for process in psutil.process_iter():
            try:
                said = process.environ()
            except psutil.Error:  # somebody else's, or gone
                continue
            here = said.get("SLURM_CONF") == os.environ["SLURM_CONF"]
            if here and said.get("SLURM_JOB_ID") == job:
                found.append(process)
        return found

    def cancel(self) -> None:
        """End every job."""
        subprocess.run(["scancel", "--user", str(os.getuid())], check=False)


@pytest.fixture(scope="session")
def slurm():
    """A Slurm of one node, this machine, while the tests run."""
    programs = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    if not shutil.which("slurmctld", path=programs):
        pytest.skip("Slurm is not installed; `tests/cluster/slurm.sh install` does it where it may")
    # Short, for the path of a socket has 108 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    made = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        paths = (str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"])
        patch.setenv("PATH", os.pathsep.join(paths))
        cluster = Slurm(folder)
        yield cluster
        cluster.cancel()
        subprocess.run([SCRIPT, "stop", folder], check=True)
    shutil.rmtree(folder)
