"""Figures of a network of the study, from its gathered comparisons.

Each takes the Datasets of one network, as rule "summary" gathers them, and returns a figure.
"""

from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from diagfim.figures.style import (
    BOUND_NAMES,
    BOUND_STYLES,
    COLOURS,
    INFORMATION,
    MARKERS,
    NAMES,
    TEXT_WIDTH,
    band,
    layer_name,
    legend_below,
    over_replicates,
    paper_style,
)


def training(datasets: dict[str, xr.Dataset], draws: int) -> Figure:
    """Loss and accuracy by epoch."""
    history = datasets["history"]
    with paper_style():
        figure = Figure((TEXT_WIDTH, 2.1))
        left, right = figure.subplots(1, 2)
        for subset, style, colour in (("train", "--", "#E69F00"), ("test", "-", "#0072B2")):
            label = "training (dropout on)" if subset == "train" else "test"
            band(left, history["loss"].sel(set=subset), colour, style, label)
        band(right, 100 * (1 - history["accuracy"]), "#0072B2", "-", "test")
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
    fixed = _shown(datasets["fixed"])
    with paper_style():
        figure = Figure((TEXT_WIDTH, 0.4 + 3.5 * _lines(fixed)))
        axes = _panels(figure, 2, fixed)
        _scales_and_tightness(axes, fixed, draws)
        for top, bottom in axes.T[::_SIDE_BY_SIDE]:
            top.set_ylabel("information, s.t.d. [nat$^2$]")
            bottom.set_ylabel("ln (bound / variance)")
        trained_here = "train" in datasets["history"]["set"]
        for bottom in axes[1]:
            bottom.set(xlabel="epoch" if trained_here else "stage of training")
            bottom.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        legend_below(figure, axes[0, 0], 4)
        return figure


def single_runs(datasets: dict[str, xr.Dataset], draws: int) -> Figure:
    """Figure 2 of every replicate by itself, as the paper shows its runs: V to VIII, IX to XIII."""
    fixed = datasets["fixed"]
    layers, runs = fixed["layer"].values, fixed.sizes["replicate"]
    with paper_style(), mpl.rc_context({"lines.linewidth": 0.8, "lines.markersize": 2}):
        figure = Figure((TEXT_WIDTH, 0.5 + 1.65 * runs))
        axes = figure.subplots(2 * runs, len(layers), sharex=True, squeeze=False)
        for run in range(runs):
            pair = axes[2 * run : 2 * run + 2]
            for row in pair:
                for axis in row[1:]:
                    axis.sharey(row[0])
                    axis.tick_params(labelleft=False)
            _scales_and_tightness(pair, fixed.isel(replicate=[run]), draws, titles=run == 0)
            pair[0, 0].set_ylabel(f"run {run + 1}\nI, s.t.d. [nat$^2$]")
            pair[1, 0].set_ylabel("ln (bound\n/ variance)")
        for bottom in axes[-1]:
            bottom.set(xlabel="epoch")
        figure.align_ylabels(axes[:, 0])
        legend_below(figure, axes[0, 0], 4)
        return figure


def variance_against_draws(datasets: dict[str, xr.Dataset], draws: int) -> Figure:
    """Variance of both estimators against N, fixed input and joint draws, at the last epoch."""
    names = {"fixed": "one test input", "joint": "over the test set"}
    kinds = [(kind, where) for kind, where in names.items() if kind in datasets]
    shown = {kind: _shown(datasets[kind]) for kind, _ in kinds}
    fixed = shown["fixed"]
    layers = fixed["layer"].values
    with paper_style():
        figure = Figure((TEXT_WIDTH, 0.7 + 1.5 * len(kinds) * _lines(fixed)))
        axes = _panels(figure, len(kinds), fixed)
        for row, (kind, where) in zip(axes, kinds, strict=True):
            last = shown[kind].isel(epoch=-1)
            for axis, layer in zip(row, layers, strict=True):
                one = last.sel(layer=layer)
                for estimator in COLOURS:
                    _scaling(axis, one.sel(estimator=estimator), estimator)
                axis.set(xscale="log", yscale="log")
            # Where no label but the likeliest was drawn, the empirical variance is nearly nothing.
            least = last["exact_variance"].where(last["exact_variance"] > 0).min()
            for left in row[::_SIDE_BY_SIDE]:
                left.set_ylim(bottom=float(least / last["draws"].max()) / 10)
                left.set_ylabel(f"variance [nat$^4$],\n{where}")
        for column, layer in zip(axes.T, layers, strict=True):
            column[0].set_title(layer_name(layer))
            column[-1].set_xlabel("draws $N$")
        legend_below(figure, axes[0, 0], 4)
        return figure


FIGURES: dict[str, Callable[[dict[str, xr.Dataset], int], Figure]] = {
    "training": training,
    "figure-2": figure_2,
    "single-runs": single_runs,
    "variance-against-draws": variance_against_draws,
}
"""Every figure by the name of its file."""


_SIDE_BY_SIDE = 5
"""Panels that a line of text is wide enough for."""

_MOST = 2 * _SIDE_BY_SIDE
"""Layers that a page is large enough for."""


def _shown(dataset: xr.Dataset) -> xr.Dataset:
    """All layers or, of a deep network, ten from the first to the last."""
    number = dataset.sizes["layer"]
    if number <= _MOST:
        return dataset
    return dataset.isel(layer=np.linspace(0, number - 1, _MOST).round().astype(int))


def _lines(dataset: xr.Dataset) -> int:
    """Lines of panels that the layers take."""
    return -(-dataset.sizes["layer"] // _SIDE_BY_SIDE)


def _panels(figure: Figure, kinds: int, dataset: xr.Dataset) -> np.ndarray:
    """A panel for every kind and layer; the layers go on in another line where one is full."""
    number, lines = dataset.sizes["layer"], _lines(dataset)
    columns = min(number, _SIDE_BY_SIDE)
    grid = figure.subplots(lines * kinds, columns, sharex=True, sharey="row", squeeze=False)
    axes = grid.reshape(lines, kinds, columns).swapaxes(0, 1).reshape(kinds, lines * columns)
    for spare in axes[:, number:].flat:
        spare.remove()
    for lowest in axes[-1, :number]:
        lowest.tick_params(labelbottom=True)
    return np.asarray(axes[:, :number])


def _scales_and_tightness(
    axes: np.ndarray, fixed: xr.Dataset, draws: int, titles: bool = True
) -> None:
    """Two rows of panels, one column per layer: standard deviations above, log-ratios below.

    Estimates that saw no label but the likeliest fall below the axis.
    """
    exact = fixed["exact_variance"]
    least = float((exact.where(exact > 0).median(["replicate", "input"]).min() / draws) ** 0.5)
    for (top, bottom), layer in zip(axes.T, fixed["layer"].values, strict=True):
        one = fixed.sel(layer=layer)
        information = one["empirical_fisher"].sel(estimator="score", draws=draws)
        band(top, information, INFORMATION, "-", r"information ($\hat{I}_1$)", width=2)
        for estimator in COLOURS:
            _deviations(top, one.sel(estimator=estimator), estimator, draws)
            _tightness(bottom, one.sel(estimator=estimator), estimator)
        top.set(yscale="log")
        if titles:
            top.set(title=layer_name(layer))
        bottom.axhline(0, color="black", linewidth=0.6)
    for top in axes[0, ::_SIDE_BY_SIDE]:
        top.set_ylim(bottom=max(least / 30, top.get_ylim()[0]))


def _deviations(axis: Axes, one: xr.Dataset, estimator: str, draws: int) -> None:
    """Exact and empirical standard deviation, and both bounds on it, at N draws."""
    if not (one["exact_variance"] > 0).any():
        return
    colour, name = COLOURS[estimator], NAMES[estimator]
    band(axis, (one["exact_variance"] / draws) ** 0.5, colour, "-", f"s.t.d. {name}, exact")
    middle, *_ = over_replicates(one["empirical_variance"].sel(draws=draws) ** 0.5)
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
        middle, *_ = over_replicates((one["bound_variance"].sel(bound=bound) / draws) ** 0.5)
        label = f"bound {name}, {BOUND_NAMES[bound]}"
        axis.plot(middle["epoch"], middle, style, color=colour, label=label)


def _tightness(axis: Axes, one: xr.Dataset, estimator: str) -> None:
    """Natural logarithm of bound over variance, for both bounds."""
    variance = one["exact_variance"].where(one["exact_variance"] > 0)
    if variance.isnull().all():
        return
    for bound, style in BOUND_STYLES.items():
        ratio = xr.apply_ufunc(np.log, one["bound_variance"].sel(bound=bound) / variance)
        band(axis, ratio, COLOURS[estimator], style, None)


def _scaling(axis: Axes, one: xr.Dataset, estimator: str) -> None:
    """Empirical variance against N on the exact V / N, and the bound where there is one."""
    exact, *_ = over_replicates(one["exact_variance"])
    if not float(exact) > 0:
        return
    colour, name = COLOURS[estimator], NAMES[estimator]
    n = one["draws"].values
    each = one["empirical_variance"].transpose("draws", ...).values.reshape(n.size, -1)
    middle, *_ = over_replicates(one["empirical_variance"])
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
            limit, *_ = over_replicates(one["bound_variance"].sel(bound=bound))
            label = f"{name}: bound, {BOUND_NAMES[bound]}"
            axis.plot(n, float(limit) / n, style, color=colour, label=label)
