"""Files that are written whole or not at all."""

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diagfim.errors import UserError

_FULL = 2**20
"""Bytes: with less than that left, a disk counts as full."""


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file to write in the place of another, whose name it takes when all went well.

    Its name is that of no other process, on this machine or another one, so two that write the same
    file disturb neither each other nor a reader.  It is on the disk before it takes its name: what
    stands under that name is whole, even after a power failure.  What a killed process has left of
    it is removed.

    Parameters
    ----------
    path : path
        Target; its folder is made when missing.

    Yields
    ------
    Path
        The file to write, in the same folder and with the same suffix.

    Raises
    ------
    UserError
        If the folder cannot be made or written to, or the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from diagfim.whole import whole
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = Path(folder, "new", "notes.txt")
    ...     with whole(target) as file:
    ...         _ = file.write_text("all of it")
    ...     target.read_text()
    'all of it'
    """
    path = Path(path)
    partial = _partial(path, os.getpid())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except Exception as error:
        reason = _reason(path, error)
        if reason:
            raise UserError(f"{path}: cannot be written: {reason}") from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def is_partial(path: Path) -> bool:
    """Whether a file is one that is being written, or was when its process was killed."""
    return path.name.startswith(".") and ".partial-" in path.name


def _partial(path: Path, process: int | str) -> Path:
    return path.with_name(f".{path.stem}.partial-{platform.node()}-{process}{path.suffix}")


def _remove_abandoned(path: Path) -> None:
    for found in path.parent.glob(_partial(path, "*").name):
        process = found.name.removesuffix(path.suffix).rpartition("-")[2]
        if process.isdecimal() and not _is_running(int(process)):
            found.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def _reason(path: Path, error: Exception) -> str:
    """Why a file could not be written, if that is for the user to mend; libraries say it badly."""
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return f"{folder} is read-only or not yours; make it writable and run again"
    if shutil.disk_usage(folder).free < _FULL:
        return f"the disk that holds {folder} is full; make room there and run again"
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        return f"{error.strerror or error}; mend that and run again"
    return ""
