"""What many networks would need of a cluster, extrapolated from the measured jobs of a few."""

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diagfim.report.costs import Run

NETWORKS = 1000
CORES = (100, 1000)
START = 5.0
"""Assumed: seconds that a job takes before it is measured, while Snakemake reads the rules."""
LATENCY = 60.0
"""Assumed: seconds that the cluster takes to start a submission and to notice its end."""


def by_replicate(
    measured: Iterable[Run], networks: Iterable[str], replicates: int
) -> dict[tuple[str, int], list[Run]]:
    """The jobs ``<network>-<replicate>``, of these networks and so many replicates alone."""
    names = {f"{network}-{i}": (network, i) for network in networks for i in range(replicates)}
    found: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run in measured:
        if run.rule != "figure" and run.job in names:  # a figure's name may end in a number
            found[names[run.job]].append(run)
    return dict(found)


def gathering(measured: Iterable[Run]) -> float:
    """Mean seconds of the jobs that gather the replicates of a network; 0 where there are none."""
    seconds = [run.seconds for run in measured if run.rule == "summary"]
    return statistics.mean(seconds) if seconds else 0.0


def sizes(folders: Iterable[Path]) -> list[tuple[int, int]]:
    """Bytes and files under each folder."""
    held = [[path.stat().st_size for path in one.rglob("*") if path.is_file()] for one in folders]
    return [(sum(one), len(one)) for one in held]


def forecast(
    replicates: Mapping[tuple[str, int], Sequence[Run]],
    gathered_in: float,
    held: Sequence[tuple[int, int]],
    per_network: int,
    together: int,
) -> dict[str, Any] | None:
    """What `NETWORKS` networks like the measured ones would need; None where none is measured.

    A submission to the cluster runs the jobs of some replicates one after another on one core, as
    the groups of the Slurm profile do.  What gathers the replicates of a network is left out.

    Parameters
    ----------
    replicates : mapping of (str, int) to sequence of Run
        By network and replicate, as `by_replicate` finds them.
    gathered_in : float
        Seconds that gathering those of a network took, for the record.
    held : sequence of (int, int)
        Bytes and files of the results of each.
    per_network : int
        Replicates of each network.
    together : int
        Replicates in a submission.
    """
    if not replicates:
        return None
    all_runs = [run for some in replicates.values() for run in some]
    of_rule: dict[str, list[Run]] = defaultdict(list)
    for run in all_runs:
        of_rule[run.rule].append(run)
    seconds = [sum(run.seconds for run in some) for some in replicates.values()]
    started = len(all_runs) / len(replicates)
    one = statistics.mean(seconds) + started * START
    number = NETWORKS * per_network
    submissions = math.ceil(number / together)
    return {
        "networks": NETWORKS,
        "each": per_network,
        "measured": len(replicates),
        "rows": sorted(map(_row, of_rule.values()), key=lambda row: -row["seconds"]["mean"]),
        "seconds": _mean(seconds),
        "longest": max(seconds),
        "memory": _peak(all_runs),
        "start": START,
        "latency": LATENCY,
        "together": together,
        "jobs_each": round(started, 1),
        "jobs": round(number * started),
        "submissions": submissions,
        "core_hours": number * one / 3600,
        "gathering": gathered_in,
        "clocks": [_clock(cores, submissions, together * one) for cores in CORES],
        "bytes": number * statistics.mean(size for size, _ in held),
        "files": round(number * statistics.mean(files for _, files in held)),
    }


def _clock(cores: int, submissions: int, each: float) -> dict[str, Any]:
    """Hours on so many cores, and what share of the cores' time is work."""
    seconds = math.ceil(submissions / cores) * (LATENCY + each)
    return {
        "cores": cores,
        "hours": seconds / 3600,
        "used": submissions * each / (cores * seconds),
    }


def _row(some: Sequence[Run]) -> dict[str, Any]:
    return {
        "rule": some[0].rule.replace("_", " "),
        "jobs": len(some),
        "seconds": _mean([run.seconds for run in some]),
        "memory": _peak(some),
    }


def _mean(values: Collection[float]) -> dict[str, float | None]:
    """Mean and standard deviation, which one value has none of."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "spread": spread}


def _peak(some: Iterable[Run]) -> float | None:
    return max((run.memory for run in some if run.memory is not None), default=None)
