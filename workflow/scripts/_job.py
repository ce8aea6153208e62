"""What every script shares: log, progress, receipts, and one line for a user's mistake."""

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

# Jobs find the package in any environment, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from diagfim import receipts
from diagfim.errors import UserError
from diagfim.origin import origin


class _Log:
    """The job's log, which takes all that it and its libraries say.

    The terminal is of the run, which shows the last line and a user's mistake.
    """

    def __init__(self, path):
        self._terminal = os.dup(2)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        for stream in (1, 2):
            os.dup2(log, stream)

    def line(self, text):
        """Write a line; False on a disk that is full."""
        try:
            print(text, file=sys.stderr, flush=True)
        except OSError:
            return False
        return True

    def mistake(self, text):
        """Write a line that must be seen."""
        if not self.line(text):
            with suppress(OSError):
                os.write(self._terminal, f"{text}\n".encode())


class Job:
    """Progress of one job; ``about`` is where its numbers come from."""

    def __init__(self, name, log, about):
        self.name = name
        self.about = about
        self._log = log

    def say(self, text):
        self._log.line(f"{self.name}: {text}")

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
    """Run the body of a script.

    What it reads is checked, what it writes gets receipts, and a user's mistake is one line.
    """
    _end_with(int(os.environ["DIAGFIM_SNAKEMAKE"]))
    # So that it clears up: a batch system asks first, and kills later.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    label = " ".join([snakemake.rule, *(str(value) for value in snakemake.wildcards)])
    results = Path(snakemake.config["results"])
    try:
        log = _Log(snakemake.log[0])
    except OSError as error:
        sys.exit(f"error: {label}: {snakemake.log[0]}: cannot be written: {error.strerror}")
    try:
        checked = receipts.check(results, snakemake.input)
        this = Job(label, log, origin(commit(), snakemake.config["seed"]))
        yield this
        receipts.write(results, snakemake.output, _made(snakemake), checked, this.about)
    except UserError as error:
        log.mistake(f"error: {label}: {error}")
        sys.exit(1)
    except OSError as error:
        log.line(traceback.format_exc())
        name = error.filename or "a file"
        log.mistake(f"error: {label}: {name}: {error.strerror or error}; mend that and run again")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _end_with(number):
    """End this process soon after another one: a job must not outlive what started it.

    Snakemake cannot end its jobs when it is killed, and what runs in their place may by then rest
    on other settings.
    """

    def watch():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(number)
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _made(snakemake):
    """What a receipt says of the job."""
    params = {key: value for key, value in snakemake.params.items() if key != "code"}
    return {
        "rule": snakemake.rule,
        "wildcards": dict(snakemake.wildcards.items()),
        "config": params.get("settings", params),
        "code": snakemake.params.code,
    }


def commit():
    """The revision of the code, "unknown" outside a git checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            cwd=os.path.dirname(__file__),
            check=False,
        )
    except OSError:  # no git here
        return "unknown"
    return described.stdout.strip() or "unknown"
