"""Disks that are full or read-only: a line that says so, nothing half-written, then all as ever."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from study import errors_of, jobs_of

pytestmark = pytest.mark.faults

PAGE = 4096
AMPLE = 2**30


class Disk:
    """A small file system in memory, in the place of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        done = self._mount("-t", "tmpfs", "-o", f"size={AMPLE},mode=1777", "tmpfs")
        if done.returncode != 0:
            pytest.skip(f"a file system can only be mounted as root here: {done.stderr.strip()}")

    def _mount(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        ask = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
        command = [*ask, "mount", *arguments, str(self.folder)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def set(self, option: str) -> None:
        """Mount it again in another way."""
        done = self._mount("-o", f"remount,{option}")
        assert done.returncode == 0, done.stderr

    def leave(self, room: int) -> None:
        """Let so many bytes be free, of whole pages."""
        used = shutil.disk_usage(self.folder).used
        self.set(f"size={used + room // PAGE * PAGE}")

    def unmount(self) -> None:
        ask = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
        subprocess.run([*ask, "umount", "--lazy", str(self.folder)], check=True)


@pytest.fixture
def disk(finished):
    """The results of a finished study, on a disk of their own."""
    aside = finished.results.rename(finished.root / "aside")
    finished.results.mkdir()
    small = Disk(finished.results)
    subprocess.run(["cp", "-a", f"{aside}/.", finished.results], check=True)
    shutil.rmtree(aside)
    yield small
    small.unmount()


# Each writes in a way of its own (netCDF, safetensors, Matplotlib, TeX), with room for such a part.
CASES = [
    ("dataset", 0.6),
    ("train", 0),
    ("train", 0.5),
    ("derivatives", 0.9),
    ("gather", 0),
    ("experiment_figure", 0.6),
    ("report", 0.3),
]


@pytest.mark.survived("disk that is full before or while a job writes")
@pytest.mark.parametrize(("kind", "part"), CASES)
def test_full_disk(kind, part, undisturbed, finished, disk):
    job = next(one for one in jobs_of(finished) if one.kind == kind)
    size = sum(path.stat().st_size for path in job.outputs)
    job.delete()
    disk.leave(int(part * size))
    targets = job.targets(finished)
    run = finished.snakemake(*targets, "--cores", "2")
    assert run.returncode != 0
    (line,) = errors_of(run)
    assert "full" in line
    assert "make room" in line
    assert str(finished.results.relative_to(finished.root)) in line
    assert not any(path.exists() for path in job.outputs)
    undisturbed.assert_whole(finished)
    disk.set(f"size={AMPLE}")
    run = finished.snakemake(*targets, "--cores", "2")
    assert run.returncode == 0, run.stderr[-4000:]
    undisturbed.assert_complete(finished)


@pytest.mark.survived("results on a disk that has become read-only")
@pytest.mark.parametrize("kind", ["derivatives", "experiment_figure"])
def test_read_only(kind, undisturbed, finished, disk):
    job = next(one for one in jobs_of(finished) if one.kind == kind)
    job.delete()
    disk.set("ro")
    run = finished.snakemake(*job.targets(finished), "--cores", "2")
    assert run.returncode != 0
    (line,) = errors_of(run)
    assert "read-only" in line.lower()
    disk.set("rw")
    run = finished.snakemake(*job.targets(finished), "--cores", "2")
    assert run.returncode == 0, run.stderr[-4000:]
    undisturbed.assert_complete(finished)
