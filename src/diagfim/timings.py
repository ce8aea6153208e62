"""What a benchmark file says: rows of its table, and a page of text."""

from typing import Any

import xarray as xr

EPOCHS = 8
"""Epochs of training that the run over the whole set is compared with."""


def rows(timed: xr.Dataset) -> list[dict[str, Any]]:
    """Rows of the table of "tasks": milliseconds, multiples of the yardstick and MB by network."""
    return [
        {
            "task": str(task),
            "library": str(timed["library"].sel(task=task).item()),
            "networks": [
                {
                    "milliseconds": 1e3 * float(of["seconds"].sel(quantile=0.5)),
                    "low": 1e3 * float(of["seconds"].sel(quantile=0.25)),
                    "high": 1e3 * float(of["seconds"].sel(quantile=0.75)),
                    "ratio": float(of["ratio"]),
                    "megabytes": float(of["memory"]) / 1e6,
                }
                for network in timed["network"].values
                for of in [timed.sel(task=task, network=network)]
            ],
        }
        for task in timed["task"].values
    ]


def text(tree: xr.DataTree) -> str:
    """Everything that a benchmark file holds, as a page of plain text."""
    timed, whole = tree["tasks"].to_dataset(), tree["whole"].to_dataset()
    about = tree.attrs
    lines = [f"{about['batch']} inputs, {about['threads']} threads of {about['processor']}"]
    for number, network in enumerate(timed["network"].values):
        head = f"{'task':36} {'library':11} {'ms':>8} {'quartiles':>17} {'ratio':>6} {'peak MB':>8}"
        lines += ["", str(network), head]
        for row in rows(timed):
            one = row["networks"][number]
            lines.append(
                f"{row['task']:36} {row['library']:11} {one['milliseconds']:8.2f} "
                f"{one['low']:8.2f} {one['high']:8.2f} {one['ratio']:6.1f} {one['megabytes']:8.1f}"
            )
    if "agreement" in tree.children:
        lines += ["", "largest deviation from diagfim, relative to the largest entry of a tensor"]
        deviation = tree["agreement"].to_dataset()["deviation"].max("network")
        lines += [f"{one['task'].item():44} {float(one):.1e}" for one in deviation]
    products = tree["products"].to_dataset()
    lines += [
        "",
        f"best matrix product {float(products['rate']) / 1e9:.0f} GFlop/s; per-sample Jacobians at "
        f"that rate {1e3 * float(products['floor']):.1f} ms: {float(products['share']):.0%} of the "
        f"five quantities, {float(products['second_share']):.0%} of the second derivatives",
    ]
    seconds = whole["seconds"]
    epochs = EPOCHS * float(whole["epoch_seconds"])
    lines.append(
        f"{int(whole['inputs'][-1]):,} inputs: {float(seconds.sel(dtype='float32')):.1f} s in "
        f"float32, {float(seconds.sel(dtype='float64')):.1f} s in float64; {EPOCHS} epochs of "
        f"training {epochs:.1f} s; memory "
        + ", ".join(f"{float(m) / 1e6:.1f} MB at {int(m['inputs']):,}" for m in whole["memory"])
    )
    images = tree["convolutional"].to_dataset()
    for name in images["network"].values:
        one = images.sel(network=name)
        lines.append(
            f"{name} ({int(one['parameters']):,} parameters, method {one['method'].item()}), "
            f"{images.attrs['inputs']:,} inputs: {float(one['seconds']):.1f} s"
        )
    return "\n".join(lines)
