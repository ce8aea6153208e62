"""Files are written whole or not at all, whoever else writes them or dies while writing."""

import os
import platform
import subprocess
import sys
from collections import namedtuple
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from diagfim import whole as module
from diagfim.errors import UserError
from diagfim.whole import is_partial, whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fail(target, error):
    """Stop in the middle of writing."""
    with whole(target) as file:
        file.write_text("half of")
        raise error


def test_it_takes_its_name_at_the_end_only(tmp_path):
    target = tmp_path / "new" / "folder" / "a.nc"
    with whole(target) as file:
        file.write_text("all of it")
        assert not target.exists()
        assert file.parent == target.parent
        assert file.suffix == ".nc"
        assert is_partial(file)
    assert target.read_text() == "all of it"
    assert names(target.parent) == ["a.nc"]
    assert not is_partial(target)


def test_a_failure_changes_nothing(tmp_path):
    target = tmp_path / "a.nc"
    target.write_text("of yesterday")
    with pytest.raises(ZeroDivisionError):
        fail(target, ZeroDivisionError())
    assert target.read_text() == "of yesterday"
    assert names(tmp_path) == ["a.nc"]


def test_a_file_that_was_never_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), whole(tmp_path / "a.nc"):
        pass


KILLED = """
import os, signal, sys
from diagfim.whole import whole

with whole(sys.argv[1]) as file:
    file.write_text("half of")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    target = tmp_path / "a.nc"
    subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False)
    (left,) = tmp_path.iterdir()
    assert is_partial(left)
    with whole(target) as file:
        file.write_text("all of it")
    assert names(tmp_path) == ["a.nc"]


@pytest.mark.parametrize("owner", [f"{platform.node()}-{os.getppid()}", "another-machine-1"])
def test_what_another_process_is_writing_is_left_alone(tmp_path, owner):
    theirs = tmp_path / f".a.partial-{owner}.nc"
    theirs.write_text("half of theirs")
    with whole(tmp_path / "a.nc") as file:
        file.write_text("ours")
    assert theirs.read_text() == "half of theirs"
    assert (tmp_path / "a.nc").read_text() == "ours"


def write_long(arguments):
    target, letter = arguments
    for _ in range(50):
        with whole(target) as file:
            file.write_text(letter * 100_000)


def test_two_writers_never_mix(tmp_path):
    target = tmp_path / "a.txt"
    with ProcessPoolExecutor(2) as pool:
        work = pool.map(write_long, [(target, "a"), (target, "b")])
        seen = set()
        while not target.exists():
            pass
        for _ in range(500):
            text = target.read_text()
            assert len(text) == 100_000
            seen.add(text[0])
            assert text == text[0] * 100_000
        list(work)
    assert seen <= {"a", "b"}
    assert names(tmp_path) == ["a.txt"]


Usage = namedtuple("Usage", "total used free")


def test_a_full_disk_is_told_whatever_the_library_said(tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage(100, 100, 0))
    target = tmp_path / "a.nc"
    with pytest.raises(UserError) as refusal:
        fail(target, RuntimeError("NetCDF: HDF error"))
    assert str(refusal.value) == (
        f"{target}: cannot be written: the disk that holds {tmp_path} is full; "
        "make room there and run again"
    )
    assert names(tmp_path) == []


def test_a_folder_that_may_not_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(module.os, "access", lambda path, mode: False)

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    target = tmp_path / "new" / "a.nc"
    with pytest.raises(UserError, match=f"{tmp_path} is read-only or not yours; make it writable"):
        fail(target, ZeroDivisionError())


def test_another_mistake_of_the_system_is_passed_on_in_a_line(tmp_path):
    with pytest.raises(UserError, match=r"a\.nc: cannot be written: Disk quota exceeded"):
        fail(tmp_path / "a.nc", OSError(122, "Disk quota exceeded"))
