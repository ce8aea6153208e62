"""What every file of a folder of results was made from, and whether it is still what was made.

The receipt of ``<results>/a/b.nc`` is ``<results>/receipts/a/b.nc.json``.  It has the file's size
and SHA-256, what made it, the settings it rests on, where it comes from (see `origin`) and the
SHA-256 of every file it was made from: ``inputs`` by their path in the folder of results,
``sources`` from elsewhere.  A job checks what it reads against the receipts; `verification` checks
everything.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diagfim.errors import UserError
from diagfim.whole import whole

FOLDER = "receipts"
"""Of the receipts, in the folder of results."""

_REMEDY = "delete it and the file it is of, and run again"


def receipt_of(results: Path, below: Path) -> Path:
    """Where the receipt of a file is, by the file's path in the folder of results."""
    return results / FOLDER / below.with_name(below.name + ".json")


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, or of the names and digests of all files in a folder.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(one for one in path.rglob("*") if one.is_file())
        lines = [f"{sha256(one)} {one.relative_to(path).as_posix()}\n" for one in files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def check(results: Path, inputs: Iterable[str]) -> dict[str, dict[str, str]]:
    """Check files that are about to be read: each must be what it was when it was made.

    Parameters
    ----------
    results : Path
        The folder of results.
    inputs : iterable of str
        Files; those outside the folder, and those without a receipt, are only hashed.

    Returns
    -------
    dict of str to dict of str to str
        "inputs" and "sources": SHA-256 by path.

    Raises
    ------
    UserError
        If a file differs from its receipt, or either cannot be read.
    """
    found: dict[str, dict[str, str]] = {"inputs": {}, "sources": {}}
    for name in inputs:
        path, digest = Path(name), sha256(name)
        if not path.is_relative_to(results):
            found["sources"][name] = digest
            continue
        below = path.relative_to(results)
        receipt = receipt_of(results, below)
        if receipt.is_file() and read(receipt)["sha256"] != digest:
            raise UserError(
                f"{path}: is not what it was when it was made, by its SHA-256 in {receipt}; "
                "delete it and run again"
            )
        found["inputs"][below.as_posix()] = digest
    return found


def write(
    results: Path,
    outputs: Iterable[str],
    made: Mapping[str, Any],
    checked: Mapping[str, Mapping[str, str]],
    about: Mapping[str, str],
) -> None:
    """Write a receipt for every file that a job has made.

    Parameters
    ----------
    results : Path
        The folder of results.
    outputs : iterable of str
        The files, in that folder.
    made : mapping of str to object
        What made them and by which settings; its entry "config" is hashed.
    checked : mapping of str to mapping
        What they were made from, as `check` gives it.
    about : mapping of str to str
        Where they come from, as `origin.origin` says it.

    Raises
    ------
    UserError
        If a file cannot be read or a receipt cannot be written.
    """
    config = json.dumps(made["config"], sort_keys=True, default=str)
    digest = hashlib.sha256(config.encode()).hexdigest()
    common = {**made, "config_sha256": digest, **about, **checked}
    for name in outputs:
        content = {"bytes": os.path.getsize(name), "sha256": sha256(name), **common}
        with whole(receipt_of(results, Path(name).relative_to(results))) as file:
            file.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def read(receipt: Path) -> dict[str, Any]:
    """What a receipt says.

    Raises
    ------
    UserError
        If it is none.
    """
    try:
        content: dict[str, Any] = json.loads(receipt.read_bytes())
        missing = {"bytes", "sha256", "inputs", "sources"} - set(content)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{receipt}: is not a receipt ({error}); {_REMEDY}") from None
    if missing:
        raise UserError(f"{receipt}: is not a receipt (it has no {min(missing)}); {_REMEDY}")
    return content
