"""Whether a folder of results is what was made, and made of what is there."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diagfim.errors import UserError
from diagfim.receipts import FOLDER, read, receipt_of, sha256
from diagfim.whole import is_partial

_UNRECORDED = {FOLDER, "benchmarks", "logs", "report.html"}


@dataclass(frozen=True)
class Finding:
    """What is wrong with a file.

    Attributes
    ----------
    path : Path
        The file.
    kind : "altered", "missing", "outdated" or "unreadable"
        Its bytes differ from those that were written; it is gone; it was made from another version
        of a file than there is now; its receipt cannot be read.
    detail : str
        More about it.
    """

    path: Path
    kind: Literal["altered", "missing", "outdated", "unreadable"]
    detail: str

    def __str__(self) -> str:
        """The finding in a line."""
        return f"{self.kind}: {self.path}: {self.detail}"


@dataclass(frozen=True)
class Verified:
    """What `verify` found.

    Attributes
    ----------
    files, size : int
        Number of receipts, and the bytes that their files should have.
    findings : list of Finding
        Empty when all is as it was made.
    strangers : list of Path
        Files without a receipt, other than logs, timings, what TeX leaves, and Snakemake's report.
    """

    files: int
    size: int
    findings: list[Finding]
    strangers: list[Path]


def verify(results: Path, progress: Callable[[Sequence[Path]], Iterable[Path]] = iter) -> Verified:
    """Compare every file of a folder of results with its receipt.

    Parameters
    ----------
    results : Path
        The folder.
    progress : callable, optional
        Wraps the sequence of receipts, to show how far the work is.

    Returns
    -------
    Verified

    Raises
    ------
    UserError
        If the folder holds no receipts.
    """
    receipts = sorted((results / FOLDER).rglob("*.json"))
    if not receipts:
        raise UserError(
            f"{results}: there are no receipts in {results / FOLDER}; name the folder that "
            "'results' of the configuration says, after a run"
        )
    findings = []
    contents = {}
    for receipt in progress(receipts):
        below = receipt.relative_to(results / FOLDER).with_suffix("")
        try:
            contents[below.as_posix()] = content = read(receipt)
        except UserError as error:
            findings.append(Finding(results / below, "unreadable", str(error)))
        else:
            findings += _compared(results / below, content)
    digests = {below: content["sha256"] for below, content in contents.items()}
    sources = {name for content in contents.values() for name in content["sources"]}
    now_outside = {name: sha256(name) for name in sources if Path(name).is_file()}
    for name, content in contents.items():
        findings += _outdated(results / name, content["inputs"], digests)
        findings += _outdated(results / name, content["sources"], now_outside)
    size = sum(content["bytes"] for content in contents.values())
    return Verified(len(receipts), size, findings, sorted(_strangers(results)))


def _compared(path: Path, content: Mapping[str, Any]) -> Iterator[Finding]:
    if not path.is_file():
        yield Finding(path, "missing", "there is no such file")
    elif path.stat().st_size != content["bytes"]:
        yield Finding(
            path,
            "altered",
            f"has {path.stat().st_size:,} bytes, not {content['bytes']:,}",
        )
    elif sha256(path) != content["sha256"]:
        yield Finding(path, "altered", "has another SHA-256")


def _outdated(path: Path, then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[Finding]:
    for name, digest in then.items():
        if now.get(name, digest) != digest:
            yield Finding(path, "outdated", f"was made from another {name}")


def _strangers(results: Path) -> Iterator[Path]:
    for path in results.rglob("*"):
        below = path.relative_to(results)
        if below.parts[0] in _UNRECORDED or is_partial(path) or not path.is_file():
            continue
        # What programs leave beside a file has its name up to the suffix: report.aux.
        if not any(receipt_of(results, below).parent.glob(f"{path.stem}.*.json")):
            yield path
