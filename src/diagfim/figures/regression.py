"""Figures of the regression network: the noise at which Î2 starts to win, and the training."""

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from diagfim.figures.style import (
    COLOURS,
    MARKERS,
    NAMES,
    TEXT_WIDTH,
    Draw,
    band,
    layer_name,
    legend_below,
    over_replicates,
    paper_style,
)

DEVIATIONS = {"score": "relative_deviation_1", "hessian": "relative_deviation_2"}
STYLES = {"score": "-", "hessian": "--"}
LAYERS = (
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "--"),
    ("#009E73", "^", "-."),
    ("#E69F00", "D", ":"),
    ("#CC79A7", "v", "-"),
)
"""Colour, marker and line of the layers, from the first on and over again."""


def noise(groups: dict[str, xr.Dataset]) -> Figure:
    """Relative deviation of one draw of both estimators, and how often Î2's is less, by noise."""
    found, fitted = groups["noise"], groups["training"]["noise_deviation"].isel(epoch=-1)
    layers = found["layer"].values
    with paper_style():
        figure = Figure((TEXT_WIDTH, 3.6))
        axes = figure.subplots(2, len(layers), sharex=True, sharey="row", squeeze=False)
        for (top, bottom), layer in zip(axes.T, layers, strict=True):
            one = found.sel(layer=layer)
            for estimator, quantity in DEVIATIONS.items():
                if bool((one[quantity] > 0).any()):
                    _along_noise(top, one[quantity], estimator, NAMES[estimator])
            _along_noise(bottom, 100 * one["hessian_better"], "hessian", None)
            for axis in (top, bottom):
                _mark(axis, fitted)
            top.set(title=layer_name(layer), xscale="log", yscale="log")
            bottom.set(xlabel="noise $s$ [units of $y$]", ylim=(-4, 104))
        axes[0, 0].set_ylabel(r"$\sqrt{V}\,/\,I$ of one draw [1]")
        axes[1, 0].set_ylabel("share with $V_2<V_1$ [%]")
        legend_below(figure, axes[0, 0], 4)
        return figure


def training(groups: dict[str, xr.Dataset]) -> Figure:
    """Error of the angle, and share with V2 < V1 at unit and at fitted noise, by epoch."""
    found = groups["training"]
    titles = {"unit": "$s=1$", "fitted": "$s$ fitted after the epoch"}
    with paper_style():
        figure = Figure((TEXT_WIDTH, 2.2))
        left, *right = figure.subplots(1, 3)
        band(left, found["angle_error"], "black", "-", None)
        left.set(
            title="test images",
            xlabel="epoch",
            ylabel="r.m.s. error of the angle [°]",
            yscale="log",
        )
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.yaxis.set_major_formatter("{x:g}")
        left.yaxis.set_minor_locator(NullLocator())
        for axis, (level, title) in zip(right, titles.items(), strict=True):
            for k, layer in enumerate(found["layer"].values):
                colour, marker, style = LAYERS[k % len(LAYERS)]
                share = 100 * found["hessian_better"].sel(level=level, layer=layer)
                band(axis, share, colour, style, None)
                middle, *_ = over_replicates(share)
                axis.plot(
                    middle["epoch"], middle, marker + style, color=colour, label=layer_name(layer)
                )
            axis.set(title=title, xlabel="epoch", ylim=(-4, 104))
        right[0].set_ylabel("share with $V_2<V_1$ [%]")
        for axis in (left, *right):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        legend_below(figure, right[0], 5)
        return figure


FIGURES: dict[str, Draw] = {"noise": noise, "training": training}
"""By the names of their files."""


def _along_noise(axis: Axes, values: xr.DataArray, estimator: str, label: str | None) -> None:
    """Median and band of values by noise."""
    middle, low, high = over_replicates(values)
    x, colour = middle["noise"].values, COLOURS[estimator]
    axis.plot(x, middle, MARKERS[estimator] + STYLES[estimator], color=colour, label=label)
    axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)


def _mark(axis: Axes, fitted: xr.DataArray) -> None:
    """The noise that fits the residuals: the median, and a band from the least to the greatest."""
    middle, low, high = (float(value) for value in over_replicates(fitted))
    axis.axvspan(low, high, color="black", alpha=0.15, linewidth=0)
    axis.axvline(middle, color="black", linestyle=":", label="fitted $s$")
