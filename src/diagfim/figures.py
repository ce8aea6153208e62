"""Figures of the study: functions from gathered comparisons to Matplotlib figures.

Each takes the Dataset of one network, as `summary.nc` holds it, and returns a figure.  Curves are
medians over the replicates, bands run from the least to the greatest.  Colours are those of Okabe
and Ito; line styles and markers tell the curves apart without them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INFORMATION = "#009E73"
COLOURS = {"score": "#0072B2", "hessian": "#D55E00"}
MARKERS = {"score": "o", "hessian": "s"}
NAMES = {"score": r"$\hat{I}_1$", "hessian": r"$\hat{I}_2$"}
BOUND_STYLES = {"theorem 5.2": "--", "true eigenvalue": ":"}
BOUND_NAMES = {"theorem 5.2": "Thm 5.2", "true eigenvalue": r"true $\tilde\lambda$"}
TEXT_WIDTH = 6.5
"""Inches; the width of the report's text."""

STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.color": "#D9D9D9",
    "pdf.fonttype": 42,
    "svg.hashsalt": "diagfim",
    "figure.constrained_layout.use": True,
}


def training(datasets: dict[str, xr.Dataset], draws: int) -> Figure:
    """Loss and accuracy by epoch."""
    history = datasets["history"]
    with _style():
        figure = Figure((TEXT_WIDTH, 2.1))
        left, right = figure.subplots(1, 2)
        for subset, style, colour in (("train", "--", "#E69F00"), ("test", "-", "#0072B2")):
            label = "training (dropout on)" if subset == "train" else "test"
            _band(left, history["loss"].sel(set=subset), colour, style, label)
        _band(right, 100 * (1 - history["accuracy"]), "#0072B2", "-", "test")
        for axis in (left, right):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        left.set(xlabel="epoch", ylabel="cross-entropy [nat]", yscale="log")
        right.set(xlabel="epoch", ylabel="test error [%]", yscale="log")
        right.yaxis.set_major_formatter("{x:g}")
        left.legend(frameon=False)
        return figure


def figure_2(datasets: dict[str, xr.Dataset], draws: int) -> Figure:
    """The paper's Figure 2: information, standard deviations and bounds; log-ratios of the bounds.

    Parameters
    ----------
    datasets : dict of str to Dataset
        "fixed" as made by `diagfim.comparison.compare_fixed`, with a dimension ``replicate``.
    draws : int
        N of the standard deviations.
    """
    fixed = datasets["fixed"]
    layers = fixed["layer"].values
    with _style():
        figure = Figure((TEXT_WIDTH, 3.9))
        axes = figure.subplots(2, len(layers), sharex=True, sharey="row", squeeze=False)
        for (top, bottom), layer in zip(axes.T, layers, strict=True):
            one = fixed.sel(layer=layer)
            information = one["empirical_fisher"].sel(estimator="score", draws=draws)
            _band(top, information, INFORMATION, "-", r"information ($\hat{I}_1$)", width=2)
            for estimator in COLOURS:
                _deviations(top, one.sel(estimator=estimator), estimator, draws)
                _tightness(bottom, one.sel(estimator=estimator), estimator)
            top.set(title=_layer_name(layer), yscale="log")
            bottom.set(xlabel="epoch")
            bottom.axhline(0, color="black", linewidth=0.6)
        axes[0, 0].set_ylabel("information, s.t.d. [nat$^2$]")
        axes[1, 0].set_ylabel("ln (bound / variance)")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        return figure


def variance_against_draws(datasets: dict[str, xr.Dataset], draws: int) -> Figure:
    """Variance of both estimators against N, fixed input and joint draws, at the last epoch."""
    kinds = (("fixed", "one test input"), ("joint", "over the test set"))
    layers = datasets["fixed"]["layer"].values
    with _style():
        figure = Figure((TEXT_WIDTH, 3.7))
        axes = figure.subplots(2, len(layers), sharex=True, sharey="row", squeeze=False)
        for row, (kind, where) in zip(axes, kinds, strict=True):
            last = datasets[kind].isel(epoch=-1)
            for axis, layer in zip(row, layers, strict=True):
                one = last.sel(layer=layer)
                for estimator in COLOURS:
                    _scaling(axis, one.sel(estimator=estimator), estimator)
                axis.set(xscale="log", yscale="log")
            # Where no label but the likeliest was drawn, the empirical variance is nearly nothing.
            least = last["exact_variance"].where(last["exact_variance"] > 0).min()
            row[0].set_ylim(bottom=float(least / last["draws"].max()) / 10)
            row[0].set_ylabel(f"variance [nat$^4$],\n{where}")
        for top, bottom, layer in zip(*axes, layers, strict=True):
            top.set_title(_layer_name(layer))
            bottom.set_xlabel("draws $N$")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        return figure


FIGURES: dict[str, Callable[[dict[str, xr.Dataset], int], Figure]] = {
    "training": training,
    "figure-2": figure_2,
    "variance-against-draws": variance_against_draws,
}
"""Every figure by the name of its file."""


def save(figure: Figure, paths: Sequence[str]) -> None:
    """Write a figure as every path's suffix says; equal figures give equal files."""
    for path in paths:
        metadata: dict[str, Any] = {"Date": None} if path.endswith("svg") else {}
        if path.endswith("pdf"):
            metadata = {"CreationDate": None}
        with _style():
            figure.savefig(path, dpi=200, metadata=metadata)


def _style() -> Any:
    settings: dict[Any, Any] = {**sns.axes_style("ticks"), **STYLE}
    return mpl.rc_context(settings)


def _layer_name(layer: str) -> str:
    return f"layer {layer.removeprefix('dense')}"


def _over_replicates(values: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Median, least and greatest over replicates and, where there are several, inputs."""
    dims = [dim for dim in ("replicate", "input") if dim in values.dims]
    return values.median(dims), values.min(dims), values.max(dims)


def _band(
    axis: Axes,
    values: xr.DataArray,
    colour: str,
    style: str,
    label: str | None,
    width: float = 1.2,
) -> None:
    middle, low, high = _over_replicates(values)
    x = middle["epoch"].values
    axis.plot(x, middle, style, color=colour, label=label, linewidth=width)
    axis.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)


def _deviations(axis: Axes, one: xr.Dataset, estimator: str, draws: int) -> None:
    """Exact and empirical standard deviation, and both bounds on it, at N draws."""
    if not (one["exact_variance"] > 0).any():
        return
    colour, name = COLOURS[estimator], NAMES[estimator]
    _band(axis, (one["exact_variance"] / draws) ** 0.5, colour, "-", f"s.t.d. {name}, exact")
    middle, *_ = _over_replicates(one["empirical_variance"].sel(draws=draws) ** 0.5)
    axis.plot(
        middle["epoch"],
        middle,
        MARKERS[estimator],
        color=colour,
        markerfacecolor="none",
        markeredgewidth=0.7,
        label=f"s.t.d. {name}, empirical",
    )
    for bound, style in BOUND_STYLES.items():
        middle, *_ = _over_replicates((one["bound_variance"].sel(bound=bound) / draws) ** 0.5)
        label = f"bound {name}, {BOUND_NAMES[bound]}"
        axis.plot(middle["epoch"], middle, style, color=colour, label=label)


def _tightness(axis: Axes, one: xr.Dataset, estimator: str) -> None:
    """Natural logarithm of bound over variance, for both bounds."""
    variance = one["exact_variance"].where(one["exact_variance"] > 0)
    if variance.isnull().all():
        return
    for bound, style in BOUND_STYLES.items():
        ratio = xr.apply_ufunc(np.log, one["bound_variance"].sel(bound=bound) / variance)
        _band(axis, ratio, COLOURS[estimator], style, None)


def _scaling(axis: Axes, one: xr.Dataset, estimator: str) -> None:
    """Empirical variance against N on the exact V / N, and the bound where there is one."""
    exact, *_ = _over_replicates(one["exact_variance"])
    if not float(exact) > 0:
        return
    colour, name = COLOURS[estimator], NAMES[estimator]
    n = one["draws"].values
    each = one["empirical_variance"].transpose("draws", ...).values.reshape(n.size, -1)
    middle, *_ = _over_replicates(one["empirical_variance"])
    axis.plot(n, each, MARKERS[estimator], color=colour, alpha=0.25, markersize=1.5)
    axis.plot(n, float(exact) / n, "-", color=colour, label=f"{name}: exact, $V/N$")
    axis.plot(
        n,
        middle,
        MARKERS[estimator],
        color=colour,
        markerfacecolor="white",
        markeredgewidth=0.8,
        label=f"{name}: empirical",
    )
    if "bound_variance" in one:
        for bound, style in BOUND_STYLES.items():
            limit, *_ = _over_replicates(one["bound_variance"].sel(bound=bound))
            label = f"{name}: bound, {BOUND_NAMES[bound]}"
            axis.plot(n, float(limit) / n, style, color=colour, label=label)
