"""What the report prints of time and memory: of every rule, and of the benchmark."""

import csv
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from diagfim import arrays, timings


@dataclass(frozen=True)
class Run:
    """One measured job.

    Attributes
    ----------
    rule : str
        What it was a job of; of an experiment, its name.
    job : str
        Which of them, as its file is called.
    seconds : float
        By the clock.
    memory : float or None
        Peak of the resident memory in MB; None where the job ended before it was looked at.
    """

    rule: str
    job: str
    seconds: float
    memory: float | None


def runs(benchmarks: Iterable[Path]) -> Iterator[Run]:
    """Jobs by Snakemake's benchmark files.

    Parameters
    ----------
    benchmarks : iterable of Path
        Files named ``…/<rule>/<job>.tsv``.
    """
    for path in sorted(benchmarks):
        with path.open(encoding="utf-8") as lines:
            for row in csv.DictReader(lines, delimiter="\t"):
                memory = None if row["max_rss"] == "NA" else float(row["max_rss"])
                yield Run(path.parent.name, path.stem, float(row["s"]), memory)


def of_run(
    measured: Iterable[Run],
    networks: Collection[str],
    replicates: int,
    experiments: Collection[str],
) -> Iterator[Run]:
    """The jobs of these networks, replicates and experiments: a folder keeps those of others, too.

    Those that only show what was found are left out: which of them have ended by now is chance.

    They are called ``<network>-<replicate>``, ``<network>-<figure>``, ``<experiment>-<figure>``, of
    an experiment ``<replicate>``, and otherwise as their rule or what they gather.
    """
    numbers = [str(number) for number in range(replicates)]
    of_networks = {f"{network}-{number}" for network in networks for number in numbers}
    drawn = {
        "figure": tuple(f"{network}-" for network in networks),
        "experiment_figure": tuple(f"{name}-" for name in experiments),
    }
    for run in measured:
        if run.rule not in _SHOWING and (
            run.job in of_networks
            or (run.rule in experiments and run.job in numbers)
            or (run.rule == "gather" and run.job in experiments)
            or (run.rule == "summary" and run.job in networks)
            or run.job.startswith(drawn.get(run.rule, ()))
            or run.rule in ("dataset", run.job)
        ):
            yield run


_SHOWING = {"report", "tables", "headlines", "explorer"}


def cost_table(measured: Iterable[Run]) -> list[dict[str, Any]]:
    """Jobs, seconds and peak memory of every rule."""
    jobs: dict[str, list[Run]] = defaultdict(list)
    for run in measured:
        jobs[run.rule].append(run)
    rows = [
        {
            "rule": rule.replace("_", " "),
            "jobs": len(some),
            "seconds": sum(run.seconds for run in some),
            "longest": max(run.seconds for run in some),
            "memory": max(run.memory or 0 for run in some),
        }
        for rule, some in jobs.items()
    ]
    return sorted(rows, key=lambda row: -row["seconds"])


def read_benchmark(files: Iterable[str]) -> dict[str, Any] | None:
    """What is printed of the benchmark; None where it was left out.

    Parameters
    ----------
    files : iterable of str
        The file that rule "benchmark" writes, or none.
    """
    for path in files:
        with arrays.read(path) as tree:
            return benchmark_table(tree)
    return None


def benchmark_table(tree: xr.DataTree) -> dict[str, Any]:
    """What the template prints of the benchmark, in milliseconds, seconds and MB.

    Parameters
    ----------
    tree : DataTree
        The file that rule "benchmark" writes.
    """
    timed, whole = tree["tasks"].to_dataset(), tree["whole"].to_dataset()
    products, images = tree["products"].to_dataset(), tree["convolutional"].to_dataset()
    deviations: list[dict[str, Any]] = []
    if "agreement" in tree.children:
        largest = tree["agreement"].to_dataset()["deviation"].max("network")
        deviations = [
            {"peer": str(name), "deviation": float(largest.sel(task=name))}
            for name in largest["task"].values
        ]
    return {
        **{name: tree.attrs[name] for name in ("batch", "threads", "processor")},
        "networks": [str(name).replace("-", "--") for name in timed["network"].values],
        "rows": timings.rows(timed),
        "deviations": deviations,
        "gigaflops": float(products["rate"]) / 1e9,
        "floor": 1e3 * float(products["floor"]),
        "share": float(products["share"]),
        "second_share": float(products["second_share"]),
        "inputs": int(whole["inputs"][-1]),
        "seconds": {
            str(kind): float(whole["seconds"].sel(dtype=kind)) for kind in whole["dtype"].values
        },
        "epochs": timings.EPOCHS,
        "epochs_seconds": timings.EPOCHS * float(whole["epoch_seconds"]),
        "samples": int(whole["samples"]),
        "memory": [
            {"inputs": int(one["inputs"]), "megabytes": float(one) / 1e6} for one in whole["memory"]
        ],
        "images": int(images.attrs["inputs"]),
        "convolutional": [
            {
                "name": str(name),
                "parameters": int(one["parameters"]),
                "accuracy": float(one["accuracy"]),
                "seconds": float(one["seconds"]),
                "method": str(one["method"].item()),
            }
            for name in images["network"].values
            for one in [images.sel(network=name)]
        ],
    }
