"""Image files: read as they are, and refused in one line when they are not whole."""

import gzip
import hashlib
import struct

import numpy as np
import pytest

from diagfim.data import FILES, read_images
from diagfim.errors import UserError

IMAGES = np.arange(4 * 28 * 28, dtype=np.uint32).reshape(4, 28, 28).astype(np.uint8)
LABELS = np.array([7, 0, 9, 3], dtype=np.uint8)


def idx(array):
    """The IDX format: magic 0, 0, 8 (unsigned byte), rank; the sizes; the bytes."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


CONTENT = dict(zip(FILES, map(idx, (IMAGES, LABELS, IMAGES[:2], LABELS[:2])), strict=True))
SHA256 = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}


@pytest.fixture
def archives(tmp_path):
    paths = [tmp_path / f"{name}.gz" for name in FILES]
    for path, content in zip(paths, CONTENT.values(), strict=True):
        path.write_bytes(gzip.compress(content))
    return paths


def test_read_what_was_written(archives):
    found = read_images("MNIST", archives, SHA256)
    assert list(found) == ["train", "test"]
    for half, n in (("train", 4), ("test", 2)):
        assert found[half]["images"].dims == ("sample", "row", "column")
        assert np.array_equal(found[half]["images"], IMAGES[:n])
        assert np.array_equal(found[half]["labels"], LABELS[:n])
        assert found[half]["images"].dtype == found[half]["labels"].dtype == np.uint8


def test_files_without_a_checksum_are_not_checked(archives):
    archives[1].write_bytes(gzip.compress(idx(LABELS[::-1].copy())))
    with pytest.raises(UserError, match="SHA-256"):
        read_images("MNIST", archives, SHA256)
    found = read_images("MNIST", archives, {FILES[0]: SHA256[FILES[0]]})
    assert found["train"]["labels"].values.tolist() == LABELS[::-1].tolist()


FAULTS = {
    "missing": (lambda path: path.unlink(), "cannot be unpacked"),
    "empty": (lambda path: path.write_bytes(b""), "expected"),
    "not gzip": (lambda path: path.write_bytes(CONTENT[FILES[2]]), "cannot be unpacked"),
    "truncated": (
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        "cannot be unpacked",
    ),
    "corrupt": (
        lambda path: path.write_bytes(path.read_bytes()[:10] + b"\xff" * 50),
        "cannot be unpacked",
    ),
    "bomb": (
        lambda path: path.write_bytes(gzip.compress(bytes(100_000_001), 1)),
        "unpacks to more than 100 MB",
    ),
    "checksum": (
        lambda path: path.write_bytes(gzip.compress(CONTENT[FILES[2]] + b"\0")),
        rf"SHA-256 is [0-9a-f]{{64}}, expected {SHA256[FILES[2]]}",
    ),
}


@pytest.mark.refused("spoilt archive of images or labels")
@pytest.mark.parametrize(("spoil", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_a_spoilt_file_is_refused_in_one_line_that_names_it(archives, spoil, message):
    spoil(archives[2])
    with pytest.raises(UserError, match=message) as refusal:
        read_images("MNIST", archives, SHA256)
    assert str(refusal.value).startswith(f"{archives[2]}: ")
    assert "\n" not in str(refusal.value)


OTHER_FORMATS = {
    "nothing": b"",
    "text": b"no images at all",
    "short of pixels": CONTENT[FILES[2]][:-100],
    "unknown type": b"\0\0\x0a\x03" + CONTENT[FILES[2]][4:],
    "floats": struct.pack(">HBB3I", 0, 13, 3, 2, 28, 28) + IMAGES[:2].astype(">f4").tobytes(),
    "one image less than labels": idx(IMAGES[:1]),
}


@pytest.mark.refused("archive of another format")
@pytest.mark.parametrize("content", OTHER_FORMATS.values(), ids=OTHER_FORMATS.keys())
def test_a_file_in_another_format_is_refused_in_one_line(archives, content):
    archives[2].write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match=r"^MNIST: ") as refusal:
        read_images("MNIST", archives, {})
    assert "\n" not in str(refusal.value)


@pytest.fixture
def downloads(monkeypatch):
    """Calls of torchvision's download, which fails as without a network."""
    import torchvision

    calls = []

    def fail(dataset):
        calls.append(dataset)
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", fail)
    return calls


def test_an_incomplete_set_of_files_is_refused_without_a_download(archives, downloads):
    with pytest.raises(UserError, match=r"^MNIST: torchvision cannot read"):
        read_images("MNIST", archives[:3], SHA256)
    assert not downloads


def test_a_failed_download_is_reported_in_one_line(downloads):
    with pytest.raises(UserError, match=r"^MNIST: .*\(no network\)") as refusal:
        read_images("MNIST", [], {})
    assert "\n" not in str(refusal.value)
    assert downloads
