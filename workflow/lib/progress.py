"""One line a stage while the study runs: what is done, what runs, and the time left.

A stage is a rule, or an experiment.  On a terminal the stages that run have a line each that is
redrawn, and leave one that stays; elsewhere, as in the log of a batch system, a stage has a line
when it begins, one when it ends, and a few between.  It follows the events of Snakemake's logger
and takes the place of its lines on the terminal only: ``.snakemake/log`` has them all.  Snakemake's
own lines stay with ``--dry-run``, ``--verbose``, ``--printshellcmds``, ``--quiet`` and
``--logger``, and come back when events are not what is expected here, as they may be in another
release.
"""

import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from forecast import Forecast, Job
from rich.console import Console, RenderableType
from rich.constrain import Constrain
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

Peaks = Mapping[str, tuple[int, float]]

_INTERVAL = 30.0
"""Seconds between lines of stages that run, where lines stay; more in runs of hours."""

_SURPRISES = (AttributeError, KeyError, TypeError, ValueError)
"""How events that are not as expected show themselves."""


def span(seconds: float) -> str:
    """A duration, as people say it.

    Examples
    --------
    >>> [span(one) for one in (0.4, 63, 660, 7500, 200000)]
    ['0 s', '1 min 3 s', '11 min', '2 h 5 min', '2 d 7 h']
    """
    whole = round(seconds)
    for size, name, part, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // part} {small}"
    if whole >= 600:
        return f"{whole // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def about(seconds: float) -> str:
    """A duration that is an estimate: from a minute on, to ten seconds.

    Examples
    --------
    >>> about(54.3), about(58)
    ('54 s', '1 min')
    """
    rounded = span(seconds if seconds < 55 else round(seconds, -1))
    return rounded.removesuffix(" 0 s")


class _Whole(Progress):
    """Bars of which the first, that of the whole, is the lowest."""

    def get_renderables(self) -> Iterator[RenderableType]:
        if self.tasks:
            table = self.make_tasks_table([*self.tasks[1:], self.tasks[0]])
            # With room for the echo of Ctrl-C: in a line of its own it would leave one behind.
            yield Constrain(table, self.console.width - 2)


class Board:
    """What is shown of a run.

    Parameters
    ----------
    forecast : Forecast
    console : rich.console.Console
    live : bool
        Whether lines can be redrawn.
    clock : callable
        Seconds that only grow.
    """

    def __init__(
        self,
        forecast: Forecast,
        console: Console,
        live: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.forecast = forecast
        self.console = console
        self._clock = clock
        self._said: dict[str, float] = {}
        self._last = forecast.start
        self._width = max(len(_ALL), *(len(job.stage) for job in forecast.jobs.values()))
        self._tasks: dict[str, TaskID] = {}
        name, count = (Column(width=width, no_wrap=True) for width in (self._width, _COUNT))
        self._progress = _Whole(
            TextColumn("{task.description}", table_column=name),
            TextColumn("{task.fields[done]}", table_column=count),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True)),
            TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True)),
            console=console,
            expand=True,
            auto_refresh=False,
            transient=True,
            disable=not live,
        )
        self._whole = self._task(_ALL, len(forecast.jobs))
        self._redraw(forecast.start)
        self._progress.start()
        if not live:
            stages = len({job.stage for job in forecast.jobs.values()})
            kinds = "1 stage" if stages == 1 else f"{stages} stages"
            left = f"about {about(forecast.left(forecast.start))}"
            self._line(_ALL, self.count(forecast.jobs.values()), f"{kinds}, {left}")

    def begin(self, number: int) -> None:
        """A job begins, perhaps again."""
        job, now = self.forecast.jobs[number], self._clock()
        self.forecast.begin(number, now)
        if job.stage not in self._said:
            self._said[job.stage] = now
            some = self.forecast.of_stage(job.stage)
            self._tasks[job.stage] = self._task(job.stage, len(some))
            if self._progress.disable:
                left = about(self.forecast.stage_left(job.stage, now))
                self._line(job.stage, self.count(some), f"begins, {left} left")

    def finish(self, number: int) -> None:
        """A job has ended well."""
        job = self.forecast.jobs[number]
        self.forecast.finish(number, self._clock())
        some = self.forecast.of_stage(job.stage)
        seconds = [one.seconds for one in some if one.seconds is not None]
        if len(seconds) == len(some):
            if job.stage in self._tasks:
                self._progress.remove_task(self._tasks.pop(job.stage))
            took = span(sum(seconds) / len(seconds))
            text = f"done in {took}" if len(some) == 1 else f"done, {took} each"
            left = self._all_left() if self._progress.disable else ""
            self._line(job.stage, self.count(some), text + left)

    def fail(self, number: int, lines: list[str]) -> None:
        """A job has failed, for a reason that some lines say."""
        self.forecast.fail(number)
        for line in lines:
            self.say(line)

    def say(self, text: str) -> None:
        """Print a line above those that are redrawn."""
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)

    def tick(self) -> None:
        """Redraw, or print a line when it is time for one."""
        now = self._clock()
        if not self._progress.disable:
            self._redraw(now)
            self._progress.refresh()
        elif now - self._last >= max(_INTERVAL, (now - self.forecast.start) / 50):
            running = {job.stage for job in self.forecast.jobs.values() if job.running}
            if running:
                stage = min(running, key=lambda one: (self._said[one], one))
                left = about(self.forecast.stage_left(stage, now))
                note = self._note(stage, now)
                text = f"{note + '; ' if note else ''}{left} left{self._all_left()}"
                self._line(stage, self.count(self.forecast.of_stage(stage)), text)
                self._said[stage] = now

    def close(self) -> None:
        """Leave the terminal as it was, but for the lines that stay."""
        self._progress.stop()

    def _task(self, name: str, total: int) -> TaskID:
        return self._progress.add_task(name, total=total, visible=False)

    def _redraw(self, now: float) -> None:
        for stage, task in self._tasks.items():
            some = self.forecast.of_stage(stage)
            if any(job.running for job in some):
                left = f"{about(self.forecast.stage_left(stage, now))} left"
                self._update(task, some, self._note(stage, now), left)
            else:
                self._update(task, some, "waits", "")
        so_far = f"{span(now - self.forecast.start)} so far"
        left = f"{about(self.forecast.left(now))} left"
        self._update(self._whole, self.forecast.jobs.values(), so_far, left)

    def _update(self, task: TaskID, jobs: Collection[Job], note: str, left: str) -> None:
        done = sum(job.seconds is not None for job in jobs)
        fields: dict[str, Any] = {"done": self.count(jobs), "note": note, "left": left}
        self._progress.update(task, completed=done, visible=True, **fields)

    def _line(self, stage: str, done: str, text: str) -> None:
        self._last = now = self._clock()
        clock = f"{_clock(now - self.forecast.start)} " if self._progress.disable else ""
        self.say(f"{clock}{stage:{self._width}} {done:{_COUNT}} {text}")

    def _all_left(self) -> str:
        ended = all(job.seconds is not None for job in self.forecast.jobs.values())
        return "" if ended else f"; {about(self.forecast.left(self._clock()))} left in all"

    def _note(self, stage: str, now: float) -> str:
        """The last that the job which runs longest has said."""
        running = [job for job in self.forecast.of_stage(stage) if job.running]
        job = max(running, key=lambda one: one.age(now))
        lines = logged(job.log, job.age(now))
        said = re.sub(r", \d+ s left$", "", lines[-1].partition(": ")[2]) if lines else ""
        return ": ".join(filter(None, (job.name, said)))

    @staticmethod
    def count(jobs: Collection[Job]) -> str:
        """How many jobs have ended well."""
        return f"{sum(job.seconds is not None for job in jobs)} of {len(jobs)}"


_SKEW = 5.0
"""Seconds by which the clock of a file system may be behind."""

_ALL = "in all"
"""What the whole is called."""

_COUNT = 11
"""Characters for how many jobs of how many are done."""


def _name(job: Job) -> str:
    return f"{job.stage} {job.name}".rstrip()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def logged(path: str, age: float) -> list[str]:
    """The whole lines of a job's log; none of a log that is older than the job."""
    try:
        if Path(path).stat().st_mtime < time.time() - age - _SKEW:
            return []
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line for line in text.rpartition("\n")[0].splitlines() if line]


class Follower(logging.Handler):
    """Follows a run from inside Snakemake's process, by the records of its logger.

    Parameters
    ----------
    workflow : snakemake.workflow.Workflow
    peaks : mapping of str to (int, float)
        Memory and seconds of a job, by experiment or rule.
    closing : callable
        Lines to print where there is nothing to do.
    own : logging.StreamHandler
        Snakemake's, which writes to the terminal.
    """

    def __init__(
        self,
        workflow: Any,
        peaks: Peaks,
        closing: Callable[[], Iterable[str]],
        own: logging.StreamHandler[Any],
    ) -> None:
        super().__init__()
        self._closing = closing
        self._workflow = workflow
        self._peaks = peaks
        self._own = own
        self._board: Board | None = None
        self._over = threading.Event()
        self._hushed = False
        self._cores = 0
        self._interrupted = False
        self._stream: Any = None
        own.addFilter(self._passes)

    @property
    def active(self) -> bool:
        """Whether it says what Snakemake does not."""
        return self._hushed

    def emit(self, record: logging.LogRecord) -> None:
        """Take note of a record."""
        if self._over.is_set():
            return
        try:
            self._heed(str(getattr(record, "event", "")), record)
        except _SURPRISES as surprise:
            self.close()
            print(f"progress is Snakemake's own from here on: {surprise!r}", file=sys.stderr)

    def end(self) -> None:
        """The run has ended: what is drawn is taken away."""
        self.acquire()
        try:
            self._over.set()
            if self._board:
                self._board.close()
            if self._stream:
                self._own.setStream(self._stream)
                self._stream = None
        finally:
            self.release()

    def done(self) -> str:
        """What was done, in a line for a good end."""
        if self._board is None:
            return "all is there"
        number = len(self._board.forecast.jobs)
        jobs = "1 job" if number == 1 else f"{number} jobs"
        return f"done: {jobs} in {span(time.monotonic() - self._board.forecast.start)}"

    def stopped(self) -> str:
        """How far the run has come, in a line for another end."""
        if self._board is None:
            return "stopped before any job"
        jobs = self._board.forecast.jobs.values()
        failed = any(job.failed for job in jobs) and not self._interrupted
        mend = "mend what is said above, and " if failed else ""
        return (
            f"stopped after {span(time.monotonic() - self._board.forecast.start)}: "
            f"{Board.count(jobs)} jobs are done and kept; {mend}run the same again"
        )

    def close(self) -> None:
        """End, and let Snakemake speak for itself."""
        self.end()
        self._own.removeFilter(self._passes)
        self._hushed = False
        super().close()

    def _passes(self, record: logging.LogRecord) -> bool:
        """Whether Snakemake says it itself: what a run says in other words here, it does not."""
        event = str(getattr(record, "event", ""))
        text = record.getMessage()
        if event == "workflow_started" or text.startswith(_FIRST_WORDS):
            self._hushed = True
        if not self._hushed:
            return True
        if record.levelno < logging.WARNING:
            return text.startswith(_OWN_WORDS)
        told = event in ("job_error", "group_error") or "CalledProcessError in file" in text
        return not told and not text.startswith(_SAID_BETTER)

    def _heed(self, event: str, record: Any) -> None:
        text = record.getMessage()
        if text.startswith(_IDLE):
            for line in self._closing():
                print(line, file=sys.stderr)
        elif text.startswith(_INTERRUPTED):
            self._interrupted = True
        elif event == "resources_info":
            self._cores = getattr(record, "cores", self._cores)
        elif event == "run_info":
            self._start()
        elif self._board is None:
            return
        elif event == "job_info":
            if record.jobid in self._board.forecast.jobs:
                job = self._board.forecast.jobs[record.jobid]
                if job.failed and not record.indent:
                    self._board.say(f"again: {_name(job)}")
                self._board.begin(record.jobid)
        elif event == "job_finished":
            if record.job_id in self._board.forecast.jobs:
                self._board.finish(record.job_id)
        elif event == "group_error" and not self._interrupted:
            number, logs = len(record.job_error_info), ", ".join(record.aux_logs)
            self._board.say(f"failed: a group of {number} jobs; see {logs or 'their logs'}")
        elif event == "job_error" and record.jobid in self._board.forecast.jobs:
            reason = _reason(self._board.forecast.jobs[record.jobid], record)
            self._board.fail(record.jobid, [] if self._interrupted else reason)

    def _start(self) -> None:
        jobs = jobs_of(self._workflow.dag, self._peaks)
        if not jobs:
            return
        live = sys.stderr.isatty()
        console = Console(stderr=True, no_color=self._workflow.output_settings.nocolor or None)
        live = live and not console.is_dumb_terminal
        self._board = Board(Forecast(jobs, time.monotonic(), self._cores), console, live)
        # What replaces it while lines are redrawn writes above them.
        self._stream = self._own.setStream(sys.stderr)
        threading.Thread(target=self._tick, daemon=True).start()

    def _tick(self) -> None:
        while not self._over.wait(0.5):
            self.acquire()
            try:
                if self._board and not self._over.is_set():
                    self._board.tick()
            except (OSError, *_SURPRISES):  # the terminal is gone, or all is other than expected
                self.close()
            finally:
                self.release()


_FIRST_WORDS = "Assuming unrestricted shared filesystem"
"""How the first line of a run on one machine begins."""

_IDLE = "Nothing to be done"
"""How the line begins of a run that has no jobs, for which Snakemake calls no hook."""

_INTERRUPTED = "Terminating processes on user request"
"""How the line begins after Ctrl-C, which ends the jobs that run."""

_OWN_WORDS = (_IDLE, _INTERRUPTED, "Will exit after finishing")
"""How the lines begin that Snakemake still says itself."""

_SAID_BETTER = ("Exiting because a job execution failed", "WorkflowError:\nAt least one job did")
"""How those warnings begin that say less than the lines here."""


def _reason(job: Job, record: Any) -> list[str]:
    """What a failed job has logged as a user's mistake, or where to look.

    Of a group, whose jobs are indented, all count as failed with the one that did.
    """
    lines = logged(job.log, job.age(time.monotonic()))
    mistakes = [line for line in lines if line.startswith("error: ")]
    last = record.rule_msg or (lines[-1] if lines else "it ended without a word")
    if mistakes or record.indent:
        return mistakes
    return [f"failed: {_name(job)}: {last}; see {', '.join(record.log)}"]


def jobs_of(dag: Any, peaks: Peaks) -> dict[int, Job]:
    """The jobs that a run is to do, each after those that it needs.

    Parameters
    ----------
    dag : snakemake.dag.DAG
    peaks : mapping of str to (int, float)
        Memory and seconds of a job, by experiment or rule.
    """
    wanted = {job for job in dag.needrun_jobs() if job.output}
    found = {}
    for level in dag.toposorted(wanted):
        for job in sorted(level, key=str):
            wildcards = dict(job.wildcards_dict)
            rule = job.rule.name
            kind = wildcards.pop("experiment") if rule == "experiment" else rule
            found[dag.jobid(job)] = Job(
                stage=f"{kind} experiment" if rule == "experiment" else rule.replace("_", " "),
                name=" ".join(map(str, wildcards.values())),
                cores=max(1, job.threads),
                expected=peaks[kind][1],
                log=str(next(iter(job.log), "")),
                needs=frozenset(dag.jobid(one) for one in dag.dependencies[job] if one in wanted),
            )
    return found


def follow(workflow: Any, peaks: Peaks, closing: Callable[[], Iterable[str]]) -> Follower | None:
    """Follow a run, if it is one and nothing else is asked of the terminal.

    Parameters
    ----------
    workflow : snakemake.workflow.Workflow
        While the Snakefile is read.
    peaks : mapping of str to (int, float)
        Memory in MB and seconds of a job, by experiment or rule.
    closing : callable
        Lines to print where there is nothing to do.

    Returns
    -------
    Follower or None
    """
    settings = workflow.output_settings
    quiet = {getattr(one, "name", "") for one in settings.quiet or ()}
    if (
        not workflow.is_main_process
        or settings.dryrun
        or settings.verbose
        or settings.printshellcmds
        or quiet & _SILENT
    ):
        return None
    logger = logging.getLogger("snakemake.logging")
    own = next((one for one in logger.handlers if one.name == "DefaultStreamHandler"), None)
    if not isinstance(own, logging.StreamHandler):
        return None
    follower = Follower(workflow, peaks, closing, own)
    logger.addHandler(follower)
    return follower


_SILENT = {"ALL", "PROGRESS"}
