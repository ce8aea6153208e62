"""How long a run still takes, by what it has taken so far."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

_FIRST = 30.0
"""Seconds for which the cores given to a run are believed to be those it will keep busy."""


@dataclass
class Job:
    """A job of a run.

    Attributes
    ----------
    stage : str
        What people call its kind.
    name : str
        What sets it apart from the others of its kind; empty where it is the only one.
    cores : int
    expected : float
        Seconds that one of its kind has taken elsewhere.
    log : str
        The file that it writes what it does to.
    needs : frozenset of int
        Jobs that end before it begins.
    begun, seconds : float or None
        When it began and how long it took; None before.
    failed : bool
        Whether its last attempt has failed.
    """

    stage: str
    name: str
    cores: int
    expected: float
    log: str = ""
    needs: frozenset[int] = frozenset()
    begun: float | None = None
    seconds: float | None = None
    failed: bool = False

    @property
    def running(self) -> bool:
        """Whether it has begun and not ended."""
        return self.begun is not None and self.seconds is None and not self.failed

    def age(self, now: float) -> float:
        """Seconds since it began; 0 unless it runs."""
        return now - self.begun if self.running and self.begun is not None else 0.0


class Forecast:
    """The state of a run, and the time left.

    A job is expected to take the mean t of the jobs of its stage that have ended in this run, or
    where none has, the seconds of its kind elsewhere times

        speed = seconds of all jobs that have ended here / seconds expected of them.

    With ``a`` the age of a job that runs, and 0 of one that waits, it has

        rest = max(t - a, a / 10)

    to run, and the run

        max(work / pace, chain),

        work  = sum over the jobs that have not ended of cores * rest
        pace  = core seconds spent so far / seconds since the run began, or the cores that are
                busy now or, in the first half minute, given to the run, where these are more
        chain = the longest sum of rests along jobs of which each needs the one before,

    and a stage the same with its own work, pace and jobs, but no more than the run.  On a cluster
    the age of a job includes its time in the queue, and members of a group have the age of the
    group; work and pace then grow by the same factor.

    Parameters
    ----------
    jobs : mapping of int to Job
        Each after those that it needs.
    now : float
        Seconds on a clock that every other method is asked by.
    cores : int
        Cores given to the run; 0 where it is others that have them.
    """

    def __init__(self, jobs: Mapping[int, Job], now: float, cores: int = 0) -> None:
        self.jobs = jobs
        self.start = now
        self._cores = cores
        self._stages: dict[str, list[int]] = {}
        for number, job in jobs.items():
            self._stages.setdefault(job.stage, []).append(number)

    def begin(self, number: int, now: float) -> None:
        """Note that a job begins, perhaps again."""
        job = self.jobs[number]
        job.begun, job.failed = now, False

    def finish(self, number: int, now: float) -> None:
        """Note that a job has ended well."""
        job = self.jobs[number]
        job.seconds = job.age(now)

    def fail(self, number: int) -> None:
        """Note that a job has failed."""
        self.jobs[number].failed = True

    def of_stage(self, stage: str) -> list[Job]:
        """The jobs of a stage."""
        return [self.jobs[number] for number in self._stages[stage]]

    def left(self, now: float) -> float:
        """Seconds until the run ends."""
        given = self._cores if now - self.start < _FIRST else 0
        pace = self._pace(self.jobs.values(), self.start, now, given)
        return self._left(dict(self._open()), pace, now)

    def stage_left(self, stage: str, now: float) -> float:
        """Seconds until a stage that has begun ends."""
        some = self.of_stage(stage)
        begun = min(job.begun for job in some if job.begun is not None)
        waiting = {number: job for number, job in self._open() if job.stage == stage}
        return min(self._left(waiting, self._pace(some, begun, now), now), self.left(now))

    def _left(self, waiting: Mapping[int, Job], pace: float, now: float) -> float:
        work = 0.0
        ends: dict[int, float] = {}
        typical = self._typical()
        for number, job in waiting.items():
            age = job.age(now)
            seconds = max(typical[job.stage] - age, age / 10)
            work += job.cores * seconds
            ends[number] = seconds + max(
                (ends[one] for one in job.needs if one in ends), default=0.0
            )
        return max(work / pace, max(ends.values(), default=0.0))

    @staticmethod
    def _pace(jobs: Collection[Job], start: float, now: float, given: int = 0) -> float:
        spent = sum(job.cores * (job.seconds or job.age(now)) for job in jobs)
        busy = sum(job.cores for job in jobs if job.running)
        return max(spent / max(now - start, 1e-9), busy, given) or 1.0

    def _typical(self) -> dict[str, float]:
        """Seconds of a job, by stage."""
        ended = [job for job in self.jobs.values() if job.seconds is not None]
        foreseen = sum(job.expected for job in ended)
        speed = sum(job.seconds or 0.0 for job in ended) / foreseen if foreseen else 1.0
        taken: dict[str, list[float]] = {}
        for job in ended:
            taken.setdefault(job.stage, []).append(job.seconds or 0.0)
        measured = {stage: sum(some) / len(some) for stage, some in taken.items()}
        return {job.stage: speed * job.expected for job in self.jobs.values()} | measured

    def _open(self) -> Iterator[tuple[int, Job]]:
        """The jobs that have not ended and may still."""
        lost: set[int] = set()
        for number, job in self.jobs.items():
            if job.failed or job.needs & lost:
                lost.add(number)
            elif job.seconds is None:
                yield number, job
