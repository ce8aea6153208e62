"""What is said at the end of a run: where its results are, and the numbers to know."""

import json
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

_WIDTH = 80


def of_the_study(results: str, configfiles: Sequence[str]) -> Iterator[str]:
    """The five numbers of a study and where it can be looked at, a line each.

    Parameters
    ----------
    results : str
        The folder of results.
    configfiles : sequence of str
        Those of the command line.
    """
    chosen = ["--configfile", *configfiles] if configfiles else []
    rows = [
        *_numbers(Path(results, "headlines.json")),
        ("the report", f"{results}/paper/report.pdf"),
        ("in a browser", f"{results}/explorer.html"),
        (
            "with all provenance",
            shlex.join(["snakemake", "--report", f"{results}/report.html", *chosen]),
        ),
    ]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        yield from _wrapped(f"  {name:{width}}  ", text)


def _numbers(path: Path) -> Iterator[tuple[str, str]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        yield from [(one["title"], one["value"]) for one in content["headlines"]] + [("", "")]
    except FileNotFoundError:  # --touch makes none
        return
    except (ValueError, KeyError, TypeError):
        yield "the numbers", f"{path} is not what it was; delete it and run again"


def _wrapped(start: str, text: str) -> Iterator[str]:
    """A text after its start, and below itself where it is too long."""
    words = text.split(" ")
    while words:
        line, words = words[0], words[1:]
        while words and len(f"{start}{line} {words[0]}") <= _WIDTH:
            line, words = f"{line} {words[0]}", words[1:]
        yield f"{start}{line}".rstrip()
        start = " " * len(start)


def of_targets(jobs: Iterable[Any], asked: Iterable[str]) -> Iterator[str]:
    """Where the files are that were asked for, a line for each target.

    Parameters
    ----------
    jobs : iterable of snakemake.jobs.Job
        Those that make them.
    asked : iterable of str
        The targets of the command line: files, or rules.
    """
    wanted = set(asked)
    for job in sorted(jobs, key=str):
        files = [file for file in job.output if file in wanted] or [*job.output] or [*job.input]
        if len(files) == 1:
            yield f"  {files[0]}"
        elif files:
            yield f"  {len(files)} files in {os.path.commonpath(files)}"
