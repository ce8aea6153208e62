"""Figures of the experiment "toy": counterparts of Figures 1 and I to IV."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from diagfim.figures.style import (
    COLOURS,
    MARKERS,
    NAMES,
    TEXT_WIDTH,
    Draw,
    band,
    legend_below,
    over_replicates,
    paper_style,
)

ALL_COLOURS = {**COLOURS, "exact": "#009E73"}
ALL_NAMES = {**NAMES, "exact": "exact Fisher"}
LINES = {"score": "-", "hessian": "--", "exact": ":"}
ALL_MARKERS = {**MARKERS, "exact": "^"}
BINS = 16
"""Markers along a path, each a mean over equally many epochs."""


def figure_1(groups: dict[str, xr.Dataset]) -> Figure:
    """Figures 1 and I: test loss, path and summed variance of the first replicate, by model."""
    one = {name: group.isel(replicate=0) for name, group in groups.items()}
    models = one["descent"]["model"].values
    with paper_style():
        figure = Figure((TEXT_WIDTH, 4.4))
        axes = figure.subplots(len(models), 3)
        for row, model in zip(axes, models, strict=True):
            chosen = {name: group.sel(model=model) for name, group in one.items()}
            _loss(row[0], chosen)
            _path(row[1], chosen)
            _variance(row[2], chosen)
            row[0].set_title(str(model), loc="left")
        for axis in axes[-1, [0, 2]]:
            axis.set_xlabel("epoch")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        more = [axes[0, k].get_legend_handles_labels() for k in (1, 2)]
        figure.legend(
            [*handles, *more[0][0], *more[1][0]],
            [*labels, *more[0][1], *more[1][1]],
            loc="outside lower center",
            ncols=4,
            frameon=False,
        )
        return figure


def figures_2_4(groups: dict[str, xr.Dataset]) -> Figure:
    """Figures II to IV: the same for the next three replicates, or as many as there are."""
    replicates = range(1, min(4, groups["descent"].sizes["replicate"])) or range(1)
    with paper_style():
        figure = Figure((TEXT_WIDTH, 0.7 + 1.35 * len(replicates)))
        axes = figure.subplots(len(replicates), 5, squeeze=False)
        for row, replicate in zip(axes, replicates, strict=True):
            one = {name: group.isel(replicate=replicate) for name, group in groups.items()}
            for k, model in enumerate(one["descent"]["model"].values):
                chosen = {name: group.sel(model=model) for name, group in one.items()}
                _loss(row[2 * k], chosen)
                _path(row[2 * k + 1], chosen)
                axes[0, 2 * k].set_title(str(model), loc="left")
            _variance(row[4], chosen)
            row[0].set_ylabel(f"replicate {replicate}\n" + row[0].get_ylabel())
        for axis in axes[-1, [0, 2, 4]]:
            axis.set_xlabel("epoch")
        for axis in axes.flat:
            axis.tick_params(labelsize=6)
            axis.xaxis.label.set_size(7)
            axis.yaxis.label.set_size(7)
        legend_below(figure, axes[0, 0], 3)
        return figure


def readings(groups: dict[str, xr.Dataset]) -> Figure:
    """Excess test loss over all replicates, by what an epoch means."""
    excess = _excess(groups)
    titles = {"pass": "an epoch is a pass", "step": "an epoch is a step"}
    with paper_style():
        figure = Figure((TEXT_WIDTH, 3.6))
        axes = figure.subplots(excess.sizes["model"], len(titles), sharey="row", squeeze=False)
        for row, model in zip(axes, excess["model"].values, strict=True):
            for axis, reading in zip(row, titles, strict=True):
                for estimator in LINES:
                    one = excess.sel(model=model, reading=reading, estimator=estimator)
                    colour, name = ALL_COLOURS[estimator], ALL_NAMES[estimator]
                    band(axis, one, colour, LINES[estimator], name)
                axis.set_title(f"{model}, {titles[reading]}", loc="left")
                axis.set_yscale("log")
            row[0].set_ylabel("excess test loss [nat]")
        for axis in axes[-1]:
            axis.set_xlabel("epoch")
        legend_below(figure, axes[0, 0], 3)
        return figure


def sensitivity(groups: dict[str, xr.Dataset]) -> Figure:
    """Excess loss and its fluctuation against the damping, and the ratio of both estimators'."""
    grid = groups["grid"]
    mean = grid["mean_loss"] - groups["reference"]["point_loss"].sel(point="least")
    ratio = mean.sel(estimator="score") / mean.sel(estimator="hessian")
    with paper_style():
        figure = Figure((TEXT_WIDTH, 4.4))
        axes = figure.subplots(grid.sizes["model"], 3, sharex=True, squeeze=False)
        for row, model in zip(axes, grid["model"].values, strict=True):
            for axis, values in zip(row, (mean, grid["loss_deviation"]), strict=False):
                one = values.sel(model=model, reading="pass").isel(start=0)
                for estimator in LINES:
                    _against_damping(
                        axis,
                        one.sel(estimator=estimator),
                        ALL_COLOURS[estimator],
                        LINES[estimator],
                        ALL_NAMES[estimator],
                        ALL_MARKERS[estimator],
                    )
            one = ratio.sel(model=model)
            _against_damping(
                row[2], one.sel(reading="pass").isel(start=0), "black", "-", "pass", "o"
            )
            for k, start in enumerate(grid["start"].values):
                step = one.sel(reading="step", start=start)
                colour, marker = _START_MARKS[k % len(_START_MARKS)]
                _against_damping(row[2], step, colour, "--", f"step, from {start}", marker)
            row[2].axhline(1, color="black", linewidth=0.6)
            row[0].set_title(str(model), loc="left")
            row[0].set_ylabel("mean excess loss [nat]")
            row[1].set_ylabel("s.t.d. of the loss [nat]")
            row[2].set_ylabel(r"excess under $\hat{I}_1$ / under $\hat{I}_2$")
        for axis in axes[-1]:
            axis.set_xlabel(r"damping $\lambda$")
        pairs = [axes[0, k].get_legend_handles_labels() for k in (0, 2)]
        for k, (handles, labels) in enumerate(pairs):
            figure.legend(
                handles,
                labels,
                loc="outside lower left" if k == 0 else "outside lower right",
                ncols=3 if k == 0 else 2,
                frameon=False,
            )
        return figure


_START_MARKS = (
    ("#CC79A7", "v"),
    ("#E69F00", "D"),
    ("#56B4E9", "*"),
    ("#009E73", "^"),
    ("#0072B2", "s"),
    ("#D55E00", "P"),
)


def _excess(groups: dict[str, xr.Dataset]) -> xr.DataArray:
    """Test loss beyond the least that any parameters have on the test points."""
    least = groups["reference"]["point_loss"].sel(point="least", drop=True)
    return groups["descent"]["negative_log_likelihood"] - least


def _loss(axis: Axes, groups: dict[str, xr.Dataset]) -> None:
    excess = _excess(groups).sel(reading="pass")
    for estimator, line in LINES.items():
        axis.plot(
            excess["epoch"],
            excess.sel(estimator=estimator),
            line,
            color=ALL_COLOURS[estimator],
            label=ALL_NAMES[estimator],
            linewidth=1.2 if estimator == "exact" else 0.8,
            zorder=3 if estimator == "exact" else 2,
        )
    axis.set(yscale="log", ylabel="excess test loss [nat]")


def _path(axis: Axes, groups: dict[str, xr.Dataset]) -> None:
    theta = groups["descent"]["theta"].sel(reading="pass")
    for estimator in COLOURS:
        first, second = theta.sel(estimator=estimator).transpose("coordinate", ...).values
        axis.plot(
            first,
            second,
            LINES[estimator],
            color=COLOURS[estimator],
            linewidth=0.6,
            marker=MARKERS[estimator],
            markersize=1,
            alpha=0.7,
        )
    points = groups["reference"]["theta_point"]
    axis.plot(*theta.isel(estimator=0, epoch=0), "X", color="black", label="start", zorder=4)
    for point, marker, name in (
        ("true", "*", r"$\theta_{\mathrm{true}}$"),
        ("fitted", "P", "maximum likelihood"),
    ):
        axis.plot(
            *points.sel(point=point),
            marker,
            color="black" if point == "true" else "#E69F00",
            markeredgecolor="white",
            markeredgewidth=0.5,
            markersize=6,
            label=name,
            linestyle="none",
            zorder=5,
        )
    axis.set(xlabel=r"$\theta_1$", ylabel=r"$\theta_2$")
    axis.set_aspect("equal", adjustable="datalim")


def _variance(axis: Axes, groups: dict[str, xr.Dataset]) -> None:
    variance = groups["variance"].sel(reading="pass")
    draws = groups["draws"]["squared_distance"]
    width = max(1, draws.sizes["epoch"] // BINS)
    binned = draws.coarsen(epoch=width, boundary="trim").mean()
    for estimator, colour in COLOURS.items():
        one = variance.sel(estimator=estimator)
        axis.plot(
            one["epoch"],
            one["summed_variance"],
            LINES[estimator],
            color=colour,
            label=f"{NAMES[estimator]}, exact, normal $x$",
        )
        axis.plot(
            one["epoch"],
            one["summed_variance_points"],
            ":",
            color=colour,
            linewidth=0.8,
            label=f"{NAMES[estimator]}, exact, training points",
        )
        axis.plot(
            binned["epoch"],
            binned.sel(estimator=estimator),
            MARKERS[estimator],
            color=colour,
            markerfacecolor="white",
            label=f"{NAMES[estimator]}, drawn",
        )
    axis.set(yscale="log", ylabel="summed variance")
    for formatted in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        formatted("{x:g}")
    axis.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))


def _against_damping(
    axis: Axes, values: xr.DataArray, colour: str, line: str, label: str, marker: str
) -> None:
    middle, low, high = over_replicates(values.where(np.isfinite(values)))
    x = middle["damping"].values
    axis.plot(x, middle, line, color=colour, label=label, marker=marker)
    axis.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    axis.set(xscale="log", yscale="log")


FIGURES: dict[str, Draw] = {
    "figure-1": figure_1,
    "figures-2-4": figures_2_4,
    "readings": readings,
    "sensitivity": sensitivity,
}
"""By the names of their files."""
