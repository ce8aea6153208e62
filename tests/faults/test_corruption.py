"""Files that are cut, emptied, overwritten or have a bit flipped: none is taken for what it was."""

import hashlib
import os
import random
import shlex
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest
from study import Made, errors_of, jobs_of, results_of
from toy import ROOT

from diagfim import data, receipts
from diagfim.cli import main
from diagfim.errors import UserError
from diagfim.verification import verify

pytestmark = pytest.mark.faults


def truncate(content: bytes, drawn: random.Random) -> bytes:
    return content[: drawn.randrange(1, len(content))]


def empty(content: bytes, drawn: random.Random) -> bytes:
    return b""


def flip(content: bytes, drawn: random.Random) -> bytes:
    """One bit is another one."""
    place = drawn.randrange(len(content))
    flipped = content[place] ^ 1 << drawn.randrange(8)
    return content[:place] + bytes([flipped]) + content[place + 1 :]


def overwrite(content: bytes, drawn: random.Random) -> bytes:
    """A page is another one's, as a file system may leave it after a crash."""
    place = drawn.randrange(len(content))
    page = drawn.randbytes(min(4096, len(content) - place))
    return content[:place] + page + content[place + len(page) :]


HARMS = [truncate, empty, flip, overwrite]


def harm(path: Path, how: Callable[[bytes, random.Random], bytes], drawn: random.Random) -> None:
    """Harm a file as a disk does: its time stays as it was."""
    before = path.stat()
    content = path.read_bytes()
    harmed = how(content, drawn)
    assert harmed != content
    path.write_bytes(harmed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def ancestors(path: Path, maker: dict[Path, Made]) -> set[Path]:
    """All that a result rests on."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        made = maker.get(waiting.pop())
        for one in made.inputs if made else ():
            if one not in found:
                found.add(one)
                waiting.append(one)
    return found


def chosen(jobs: list[Made], drawn: random.Random) -> dict[Path, Made]:
    """Files of many kinds to harm, and for each a job that reads it, whatever comes of the others.

    No such job rests on another one, and none reads what another one is to refuse.
    """
    maker = {path: one for one in jobs for path in one.outputs}
    rests_on = {one: ancestors(one.outputs[0], maker) for one in jobs}
    pairs = [(path, one) for one in jobs for path in one.inputs]

    def apart(path: Path, reader: Made, harmed: Path, other: Made) -> bool:
        return (
            maker[path].kind != maker[harmed].kind
            and path not in other.inputs
            and harmed not in reader.inputs
            and rests_on[reader].isdisjoint(other.outputs)
            and rests_on[other].isdisjoint(reader.outputs)
        )

    def some() -> dict[Path, Made]:
        taken: dict[Path, Made] = {}
        for path, reader in drawn.sample(pairs, len(pairs)):
            if all(apart(path, reader, *pair) for pair in taken.items()):
                taken[path] = reader
        return taken

    return max((some() for _ in range(50)), key=len)


@pytest.mark.survived("result that was harmed before a job read it")
def test_a_job_refuses_what_was_harmed(undisturbed, finished, tally):
    drawn = random.Random(0)
    pairs = chosen(jobs_of(finished), drawn)
    assert len(pairs) > len(HARMS)
    targets = []
    for (path, reader), how in zip(pairs.items(), cycle(HARMS), strict=False):
        harm(path, how, drawn)
        reader.delete()
        targets += reader.targets(finished)
    run = finished.snakemake(*targets, "--cores", "2", "--keep-going")
    assert run.returncode != 0
    lines = errors_of(run)
    for path, reader in pairs.items():
        name = str(path.relative_to(finished.root))
        (line,) = [line for line in lines if name in line]
        assert "delete it and run again" in line
        assert not any(made.exists() for made in reader.outputs)
        path.unlink()
    assert len(lines) == len(pairs)
    run = finished.snakemake(*targets, "--cores", "2")
    assert run.returncode == 0, run.stderr[-4000:]
    undisturbed.assert_complete(finished)
    tally(len(pairs))


@pytest.mark.refused("result with flipped bits, missing or foreign bytes, checked by a job")
@pytest.mark.parametrize("how", HARMS)
def test_every_harm_is_seen_by_a_job(how, finished, monkeypatch, tally):
    drawn = random.Random(HARMS.index(how))
    monkeypatch.chdir(finished.root)
    results = finished.results.relative_to(finished.root)
    names = [str(results / name) for name in results_of(finished)]
    receipts.check(results, names)
    for name in names:
        content = Path(name).read_bytes()
        harm(Path(name), how, drawn)
        with pytest.raises(UserError, match="is not what it was when it was made") as refusal:
            receipts.check(results, [name])
        assert name in str(refusal.value)
        assert "\n" not in str(refusal.value)
        Path(name).write_bytes(content)
    tally(len(names))


@pytest.mark.refused("altered result, found by diagfim verify")
@pytest.mark.parametrize("how", HARMS)
def test_verify_finds_every_one(how, finished, monkeypatch, tally):
    drawn = random.Random(HARMS.index(how))
    monkeypatch.chdir(finished.root)
    results = finished.results.relative_to(finished.root)
    assert verify(results).findings == []
    altered = drawn.sample(sorted(results_of(finished)), 20)
    for name in altered:
        harm(results / name, how, drawn)
    found = verify(results).findings
    assert {str(one.path.relative_to(results)) for one in found} == set(altered)
    assert {one.kind for one in found} == {"altered"}
    tally(len(altered))


@pytest.mark.survived("result that was harmed after all its readers, remade as verify says")
def test_the_command_of_verify_makes_it_again(undisturbed, finished, monkeypatch, capsys):
    monkeypatch.chdir(finished.root)
    name = str(finished.results.relative_to(finished.root))
    path = finished.results / "networks" / "sigmoid" / "0" / "derivatives.nc"
    harm(path, flip, random.Random(0))
    assert main(["verify", name]) == 1
    said = capsys.readouterr().out.splitlines()
    (command,) = [line.partition(": ")[2] for line in said if line.startswith("to make them")]
    program, *arguments = shlex.split(command)
    assert program == "snakemake"
    run = finished.snakemake(*arguments)
    assert run.returncode == 0, run.stderr[-4000:]
    undisturbed.assert_equal(finished)


@pytest.mark.refused("archive of labels, harmed")
@pytest.mark.parametrize("how", HARMS)
def test_harmed_archives(how, tmp_path, tally):
    drawn = random.Random(HARMS.index(how))
    (source,) = (ROOT / "resources" / "MNIST" / "raw").glob("t10k-labels*.gz")
    content, right = source.read_bytes(), data.unpacked(source)
    path = tmp_path / source.name
    refused = []
    for _ in range(100):
        path.write_bytes(how(content, drawn))
        try:
            # the header of a gzip file has bits that nothing depends on: a name, a time
            assert data.unpacked(path, hashlib.sha256(right).hexdigest()) == right
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 90
    assert all(str(path) in line and "\n" not in line for line in refused)
    tally(len(refused))
