"""What every script shares: its log, its progress lines, and one line for a user's mistake."""

import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Jobs find the package in any environment, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from diagfim.errors import UserError


class _Tee:
    """Write lines to the log and to the terminal."""

    def __init__(self, log):
        self.log = log

    def line(self, text):
        for stream in (self.log, sys.stderr):
            print(text, file=stream, flush=True)


class Job:
    """Progress of one job."""

    def __init__(self, name, tee):
        self.name = name
        self._tee = tee

    def say(self, text):
        self._tee.line(f"{self.name}: {text}")

    def progress(self, items: Iterable, what: str, total: int, every=10.0) -> Iterator:
        """Iterate with a line about every ten seconds: how far, and how long still."""
        start = last = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            if now - last >= every or done == total:
                left = (now - start) / done * (total - done)
                self.say(f"{what} {done} of {total}, {left:.0f} s left")
                last = now


@contextmanager
def job(snakemake):
    """Run the body of a script: log to its file, and report a UserError as one line."""
    label = " ".join([snakemake.rule, *(str(value) for value in snakemake.wildcards)])
    with open(snakemake.log[0], "w", encoding="utf-8") as log:
        tee = _Tee(log)
        try:
            yield Job(label, tee)
        except UserError as error:
            tee.line(f"error: {label}: {error}")
            sys.exit(1)
        except Exception:
            log.write(traceback.format_exc())
            raise


def commit():
    """The revision of the code, "unknown" outside a git checkout."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        cwd=os.path.dirname(__file__),
        check=False,
    )
    return described.stdout.strip() or "unknown"
