"""What the report prints of time and memory: of every rule, and of the benchmark."""

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from diagfim import timings


def cost_table(benchmarks: Iterable[Path]) -> list[dict[str, Any]]:
    """Jobs, seconds and peak memory of every rule, from Snakemake's benchmark files.

    Parameters
    ----------
    benchmarks : iterable of Path
        Files named ``…/<rule>/<job>.tsv``.
    """
    jobs: Mapping[str, list[dict[str, str]]] = defaultdict(list)
    for path in benchmarks:
        with path.open(encoding="utf-8") as lines:
            jobs[path.parent.name].extend(csv.DictReader(lines, delimiter="\t"))
    rows = [
        {
            "rule": rule.replace("_", " "),
            "jobs": len(runs),
            "seconds": sum(float(run["s"]) for run in runs),
            "longest": max(float(run["s"]) for run in runs),
            "memory": max(float(run["max_rss"].replace("NA", "0")) for run in runs),
        }
        for rule, runs in jobs.items()
    ]
    return sorted(rows, key=lambda row: -row["seconds"])


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
