"""What ``diagfim verify`` says of a folder of results."""

import argparse
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from diagfim.cli.output import Report
from diagfim.verification import verify


def run(arguments: argparse.Namespace) -> Report:
    """Verify the folder of a command line.

    Raises
    ------
    UserError
        If it is not one of results.
    """
    found = verify(arguments.results, _progress)
    lines = [str(finding) for finding in found.findings]
    if found.strangers:
        names = ", ".join(str(path) for path in found.strangers[:3])
        more = len(found.strangers) - 3
        lines.append(f"without a receipt: {names}" + (f" and {more} more" if more > 0 else ""))
    if found.findings:
        # Asked for by name: Snakemake does not miss a file whose readers are all done.
        paths = dict.fromkeys(shlex.quote(str(finding.path)) for finding in found.findings)
        lines.append(f"to make them again: snakemake --cores all --forcerun {' '.join(paths)}")
    kinds = Counter(finding.kind for finding in found.findings)
    verdict = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
    lines.append(
        f"{arguments.results}: {found.files:,} files, {found.size / 1e6:,.1f} MB: "
        + (verdict or "all as they were made")
    )
    content = {
        "files": found.files,
        "bytes": found.size,
        "findings": [
            {"path": str(one.path), "kind": one.kind, "detail": one.detail}
            for one in found.findings
        ],
        "without_receipt": [str(path) for path in found.strangers],
    }
    return Report("\n".join(lines), content, passed=not found.findings)


def _progress(paths: Sequence[Path]) -> Iterator[Path]:
    return iter(tqdm(paths, desc="verify", unit="file", leave=False, disable=None))
