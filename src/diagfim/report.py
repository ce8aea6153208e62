"""What the report prints of the results: tables, pooled tests, claims and costs."""

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from diagfim import claims, timings
from diagfim.latex import Tex


def layer_table(fixed: xr.Dataset, draws: int) -> list[dict[str, Any]]:
    """Rows of the table by layer at the last epoch: medians over replicates and inputs."""
    last = fixed.isel(epoch=-1)
    middle = last.median([dim for dim in ("replicate", "input") if dim in last.dims])
    rows = []
    for layer in fixed["layer"].values:
        one = middle.sel(layer=layer)
        row: dict[str, Any] = {
            "layer": str(layer).removeprefix("dense"),
            "fisher": float(one["fisher"]),
            "score_better": float(one["score_better"]),
        }
        for name in ("score", "hessian"):
            of = one.sel(estimator=name)
            exact = float(of["exact_variance"])
            row[name] = {
                "std": np.sqrt(exact / draws),
                "empirical": np.sqrt(float(of["empirical_variance"].sel(draws=draws))),
                **{
                    kind: float(of["bound_variance"].sel(bound=bound)) / exact
                    if exact
                    else float("nan")
                    for kind, bound in (("theorem", "theorem 5.2"), ("true", "true eigenvalue"))
                },
            }
        rows.append(row)
    return rows


def joint_table(joint: xr.Dataset, draws: int) -> list[dict[str, Any]]:
    """Rows of the table by layer over the test set, at the last epoch."""
    middle = joint.isel(epoch=-1).median("replicate")
    rows = []
    for layer in joint["layer"].values:
        one = middle.sel(layer=layer)
        row: dict[str, Any] = {
            "layer": str(layer).removeprefix("dense"),
            "fisher": float(one["fisher"]),
        }
        for name in ("score", "hessian"):
            of = one.sel(estimator=name)
            row[name] = {
                "std": np.sqrt(float(of["exact_variance"]) / draws),
                "empirical": np.sqrt(float(of["empirical_variance"].sel(draws=draws))),
                "share": float(of["input_share"]),
            }
        rows.append(row)
    return rows


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


def contents(
    datasets: Mapping[str, Mapping[str, xr.Dataset]], draws: Mapping[str, int]
) -> list[dict[str, Any]]:
    """What the template prints of each network.

    Parameters
    ----------
    datasets : mapping of str to mapping of str to Dataset
        By network, then "history", "fixed", "joint" and "spectra".
    draws : mapping of str to int
        Recorded N of "fixed" and "joint".
    """
    found = []
    for network, one in datasets.items():
        accuracy = one["history"]["accuracy"].isel(epoch=-1)
        fixed = one["fixed"]
        found.append(
            {
                "name": network,
                "accuracy": {
                    "mean": float(accuracy.mean()),
                    "least": float(accuracy.min()),
                    "greatest": float(accuracy.max()),
                },
                "replicates": accuracy.size,
                "positions": sorted(int(p) for p in fixed["position"].values.ravel()),
                "layers": layer_table(fixed, draws["fixed"]),
                "joint": joint_table(one["joint"], draws["joint"]),
                "claims": claims.decide(dict(one), draws["fixed"]),
                "bounds": bound_table(fixed),
                "spectra": spectra_table(one["spectra"]),
                "pool": one["spectra"].sizes["input"],
                "agreement": [
                    {
                        "where": where,
                        "what": statistic,
                        "normal_limit": pooled.normal_limit,
                        "probability": pooled.probability,
                        **vars(pooled),
                    }
                    for kind, where in (("fixed", "one input"), ("joint", "test set"))
                    for statistic in ("mean", "variance")
                    for pooled in [claims.family(one[kind], statistic)]
                ],
            }
        )
    return found


def bound_table(fixed: xr.Dataset) -> list[dict[str, Any]]:
    """Bounds checked and broken, and the tightest, by quantity and kind of bound."""
    names = {"fisher": r"\(I\)", "variance_1": r"\(V_1\)", "variance_2": r"\(V_2\)"}
    over = [dim for dim in fixed["tightest"].dims if dim not in ("quantity", "bound")]
    return [
        {
            "quantity": Tex(names[quantity]),
            "bound": "Theorem 5.2" if bound == "theorem 5.2" else "largest eigenvalue",
            "checked": int(fixed["bounds_checked"].sel(quantity=quantity, bound=bound).sum()),
            "broken": int(fixed["bounds_broken"].sel(quantity=quantity, bound=bound).sum()),
            "tightest": float(fixed["tightest"].max(over).sel(quantity=quantity, bound=bound)),
        }
        for quantity in names
        for bound in fixed["bound"].values
    ]


def spectra_table(spectra: xr.Dataset) -> list[dict[str, Any]]:
    """Rows by eigenvalue: its median, how loose Theorem 5.2 is, and how well it is proven."""
    names = {
        "fisher": r"\(\lambda_{\max}(I)\)",
        "moment": r"\(\tilde\lambda_{\max}(K)\)",
        "tensor": r"\(\tilde\lambda_{\max}(M)\)",
    }
    rows = []
    for prefix, name in names.items():
        value = spectra[f"{prefix}_lambda_max"]
        row: dict[str, Any] = {
            "name": Tex(name),
            "median": float(value.median()),
            "slack": None,
            "gap": None,
        }
        if f"{prefix}_lambda_bound" in spectra:
            slack = spectra[f"{prefix}_lambda_bound"] / value
            row["slack"] = {"median": float(slack.median()), "largest": float(slack.max())}
        if f"{prefix}_lambda_upper" in spectra:
            gap = spectra[f"{prefix}_lambda_upper"] / value - 1
            row["gap"] = {"largest": float(gap.max()), "wide": int((gap > 0.01).sum())}
        rows.append(row)
    return rows


def theory_table(tree: xr.DataTree) -> dict[str, Any]:
    """How every result of the paper fared on random cases, and the counterexamples to misprints.

    Parameters
    ----------
    tree : DataTree
        The file that rule "theory" writes.
    """
    results, misprints = tree["results"].to_dataset(), tree["misprints"].to_dataset()
    rows = []
    for name in results["result"].values:
        one = results.sel(result=name)
        kind = str(one["kind"].item())
        rows.append(
            {
                "name": str(name),
                "function": str(one["function"].item()),
                "kind": kind,
                "cases": int(one["cases"]),
                "violations": int(one["violations"]),
                "largest": float(one["largest_violation"]),
                "tightest": float(one["tightest"]) if kind in ("bound", "misprint") else None,
            }
        )
    true = [row for row in rows if row["kind"] != "misprint"]
    return {
        "rows": rows,
        "true": len(true),
        "cases": sum(row["cases"] for row in true),
        "broken": [row["name"] for row in true if row["violations"]],
        "allowed": {
            kind: float(results["allowed"].where(results["kind"] == kind).max())
            for kind in ("bound", "simulation")
        },
        "misprints": [
            {
                "name": str(name),
                "setting": str(one["setting"].item()),
                **{key: float(one[key]) for key in ("value", "printed_bound", "corrected_bound")},
            }
            for k, name in enumerate(misprints["misprint"].values)
            for one in [misprints.isel(misprint=k)]
        ],
    }


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
