"""Image data sets in the MNIST format: verified, unpacked and read."""

import gzip
import hashlib
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from diagfim.errors import UserError

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""The four files of the MNIST format."""

LARGEST = 100_000_000
"""Bytes that a file may unpack to; the training images are 47,040,016."""


def read_images(
    kind: str, archives: Sequence[Path], sha256: dict[str, str]
) -> dict[str, xr.Dataset]:
    """Read a data set from its four gzipped files, or let torchvision download them.

    Parameters
    ----------
    kind : str
        Class of `torchvision.datasets` with the MNIST format: "MNIST", "FashionMNIST", "KMNIST".
    archives : sequence of Path
        The files of `FILES`, each with ``.gz`` appended.  Empty: torchvision downloads them and
        checks them against its own checksums.
    sha256 : dict of str to str
        SHA-256 of the unpacked files, by name; files that are not named are not checked.

    Returns
    -------
    dict of str to Dataset
        "train" and "test", each with ``images`` (sample, row, column) and ``labels`` (sample).

    Raises
    ------
    UserError
        If a file is missing, is not gzip, differs from its checksum, or cannot be downloaded.
    """
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / kind / "raw"
        raw.mkdir(parents=True)
        for archive in archives:
            name = archive.name.removesuffix(".gz")
            (raw / name).write_bytes(unpacked(archive, sha256.get(name)))
        import torchvision  # 6 s to import: only where images are read, and once they are whole

        dataset = getattr(torchvision.datasets, kind)
        try:
            halves = {
                half: dataset(folder, train=half == "train", download=not archives)
                for half in ("train", "test")
            }
        except (OSError, RuntimeError, ValueError, TypeError, LookupError, AssertionError) as error:
            raise UserError(
                f"{kind}: torchvision cannot read or download the files ({error}); set 'root' of "
                "the data set to a folder that holds the four .gz files"
            ) from None
    for half, found in halves.items():
        if len(found.data) != len(found.targets):
            raise UserError(
                f"{kind}: the {half} set has {len(found.data)} images, but {len(found.targets)} "
                "labels; take both files from one source"
            )
    return {
        half: xr.Dataset(
            {
                "images": (("sample", "row", "column"), found.data.numpy()),
                "labels": ("sample", found.targets.numpy().astype("uint8")),
            }
        )
        for half, found in halves.items()
    }


def unpacked(archive: Path, sha256: str | None = None) -> bytes:
    """What a gzipped file holds.

    Parameters
    ----------
    archive : Path
        The file.
    sha256 : str, optional
        Of what it holds; not checked when left out.

    Raises
    ------
    UserError
        If it cannot be read, is not gzip, holds more than `LARGEST` bytes or something else than
        was expected.
    """
    try:
        with gzip.open(archive) as file:
            content = file.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{archive}: cannot be unpacked ({error}); restore it with 'git checkout -- {archive}' "
            "or download it again"
        ) from None
    if len(content) > LARGEST:
        raise UserError(
            f"{archive}: unpacks to more than {LARGEST // 10**6} MB, expected a file of the MNIST "
            "format; download it again"
        )
    found = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, found):
        raise UserError(
            f"{archive}: unpacked SHA-256 is {found}, expected {sha256}; restore it with "
            f"'git checkout -- {archive}' or download it again"
        )
    return content
