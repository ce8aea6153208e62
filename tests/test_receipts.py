"""Receipts: what a file was made from, refused when altered, found by `verify`."""

import hashlib
import json
import shutil

import pytest

from diagfim import receipts
from diagfim.cli import main
from diagfim.errors import UserError
from diagfim.verification import verify

ABOUT = {"source": "diagfim, commit abc", "seed": "7", "packages": "numpy 2", "host": "Linux"}


def make(folder, name, content, inputs=()):
    """What a job does: check what it reads, write a file, write its receipt."""
    checked = receipts.check(folder, [str(one) for one in inputs])
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    made = {"rule": "r", "wildcards": {}, "config": {"b": 1, "a": [2]}, "code": "digest"}
    receipts.write(folder, [str(path)], made, checked, ABOUT)
    return path


@pytest.fixture
def results(tmp_path):
    """``c`` from ``b`` from ``a`` from a file outside, beside logs and what TeX leaves."""
    source = tmp_path / "images.gz"
    source.write_bytes(b"images")
    folder = tmp_path / "results"
    a = make(folder, "data/a.nc", b"A" * 1000, [source])
    b = make(folder, "networks/b.nc", b"B" * 1000, [a])
    make(folder, "paper/c.pdf", b"C" * 1000, [b])
    for name in ("logs/a.log", "benchmarks/a.tsv", "paper/c.aux", "networks/.b.partial-x-1.nc"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("left alone")
    return folder


def said(results):
    return [(one.kind, one.path.name) for one in verify(results).findings]


def test_a_receipt_says_it_all(results):
    content = json.loads((results / "receipts/networks/b.nc.json").read_text())
    config = hashlib.sha256(b'{"a": [2], "b": 1}').hexdigest()
    assert content == {
        "bytes": 1000,
        "sha256": hashlib.sha256(b"B" * 1000).hexdigest(),
        "rule": "r",
        "wildcards": {},
        "config": {"b": 1, "a": [2]},
        "code": "digest",
        "config_sha256": config,
        **ABOUT,
        "inputs": {"data/a.nc": hashlib.sha256(b"A" * 1000).hexdigest()},
        "sources": {},
    }
    images = str(results.parent / "images.gz")
    first = json.loads((results / "receipts/data/a.nc.json").read_text())
    assert first["sources"] == {images: hashlib.sha256(b"images").hexdigest()}


def test_all_is_as_it_was_made(results):
    found = verify(results)
    assert (found.files, found.size, found.findings, found.strangers) == (3, 3000, [], [])


def test_results_may_be_moved(results):
    moved = results.rename(results.with_name("elsewhere"))
    assert said(moved) == []


@pytest.mark.parametrize("position", [0, 500, 999])
@pytest.mark.parametrize("bit", range(8))
def test_one_bit_is_found_and_refused(results, position, bit):
    path = results / "networks" / "b.nc"
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)
    assert said(results) == [("altered", "b.nc")]
    with pytest.raises(UserError) as refusal:
        receipts.check(results, [str(path)])
    assert str(refusal.value).startswith(f"{path}: is not what it was when it was made")
    assert str(refusal.value).endswith("delete it and run again")


@pytest.mark.parametrize("size", [0, 1, 999])
def test_a_truncated_file_is_found_and_refused(results, size):
    path = results / "data" / "a.nc"
    path.write_bytes(path.read_bytes()[:size])
    assert said(results) == [("altered", "a.nc")]
    assert f"has {size:,} bytes, not 1,000" in str(verify(results).findings[0])
    with pytest.raises(UserError, match="is not what it was"):
        receipts.check(results, [str(path)])


def test_a_missing_file_is_found(results):
    (results / "paper" / "c.pdf").unlink()
    assert said(results) == [("missing", "c.pdf")]


def test_what_was_made_from_another_version_is_found(results):
    make(results, "networks/b.nc", b"another B", [results / "data" / "a.nc"])
    assert said(results) == [("outdated", "c.pdf")]
    assert "was made from another networks/b.nc" in str(verify(results).findings[0])


def test_what_was_made_from_another_source_is_found(results):
    (results.parent / "images.gz").write_bytes(b"other images")
    assert said(results) == [("outdated", "a.nc")]
    (results.parent / "images.gz").unlink()  # gone: nothing can be said
    assert said(results) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "Expecting property name"),
        (b"\xff\xfe", "Expecting value"),
        (b"[]", "it has no bytes"),
        (b"7", "not iterable"),
        (b'{"bytes": 3, "sha256": "", "sources": {}}', "it has no inputs"),
    ],
)
def test_a_broken_receipt_is_found_and_refused(results, content, reason):
    (results / "receipts" / "data" / "a.nc.json").write_bytes(content)
    assert ("unreadable", "a.nc") in said(results)
    with pytest.raises(UserError, match=reason):
        receipts.check(results, [str(results / "data" / "a.nc")])


def test_strangers_are_named_but_are_no_fault(results):
    (results / "networks" / "mine.ipynb").write_text("{}")
    found = verify(results)
    assert found.findings == []
    assert [path.name for path in found.strangers] == ["mine.ipynb"]


def test_a_folder_counts_by_its_names_and_contents(tmp_path):
    images = tmp_path / "images"
    (images / "cats").mkdir(parents=True)
    (images / "cats" / "1.png").write_bytes(b"cat")
    first = receipts.sha256(images)
    shutil.copytree(images, tmp_path / "copy")
    assert receipts.sha256(tmp_path / "copy") == first
    (images / "cats" / "1.png").rename(images / "cats" / "2.png")
    assert receipts.sha256(images) != first


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"lost\.nc: cannot be read: No such file"):
        receipts.check(tmp_path, [str(tmp_path / "lost.nc")])


# ------------------------------------------------------------------------------ command line


def test_the_command_is_content(results, capsys):
    assert main(["verify", str(results)]) == 0
    assert capsys.readouterr().out == f"{results}: 3 files, 0.0 MB: all as they were made\n"


def test_the_command_names_what_it_found(results, capsys):
    (results / "data" / "a.nc").write_bytes(b"altered")
    (results / "paper" / "c.pdf").unlink()
    (results / "networks" / "mine.ipynb").write_text("{}")
    assert main(["verify", str(results)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"altered: {results}/data/a.nc: has 7 bytes, not 1,000",
        f"missing: {results}/paper/c.pdf: there is no such file",
        f"without a receipt: {results}/networks/mine.ipynb",
        "to make them again: snakemake --cores all --forcerun "
        f"{results}/data/a.nc {results}/paper/c.pdf",
        f"{results}: 3 files, 0.0 MB: 1 altered, 1 missing",
    ]


def test_the_command_speaks_json(results, capsys):
    (results / "data" / "a.nc").unlink()
    assert main(["verify", str(results), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "files": 3,
        "bytes": 3000,
        "findings": [
            {
                "path": str(results / "data/a.nc"),
                "kind": "missing",
                "detail": "there is no such file",
            }
        ],
        "without_receipt": [],
    }


def test_a_folder_without_receipts_is_a_mistake(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    assert f"error: {tmp_path}: there are no receipts in" in capsys.readouterr().err
