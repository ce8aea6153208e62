"""Figures of the experiment "frontier"."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from diagfim.experiments.reading import DRAWN, WHOLE
from diagfim.figures.style import (
    NAMES,
    TEXT_WIDTH,
    Draw,
    layer_name,
    over_replicates,
    paper_style,
)
from diagfim.looks import COLOURS, MARKERS

LOOKS = {
    estimator: (name, COLOURS[estimator], MARKERS[estimator])
    for estimator, name in {
        **NAMES,
        "mixed": "mixed",
        "exact": "exact in $y$",
        "hutchinson": "Hutchinson",
        "empirical": "empirical",
    }.items()
}
"""Name, colour and marker of each estimator."""


def frontier(groups: dict[str, xr.Dataset]) -> Figure:
    """Relative error against seconds, as the number of inputs grows, by estimator."""
    error = groups["errors"]["squared_error"].mean("repetition") ** 0.5
    seconds = groups["seconds"]["seconds"].median(["repetition", "replicate"])
    layers = error["layer"].values
    shown = [WHOLE, layers[0], layers[-2]]
    with paper_style():
        figure = Figure((TEXT_WIDTH, 2.9))
        for axis, layer in zip(figure.subplots(1, 3, sharey=True), shown, strict=True):
            for estimator in LOOKS:
                of = error.sel(layer=layer, estimator=estimator)
                _curves(axis, of, seconds.sel(estimator=estimator), estimator)
            name = "whole network" if layer == WHOLE else layer_name(layer)
            axis.set(title=name, xscale="log", yscale="log", xlabel="time of a call [s]")
            # Seldom more than a decade: powers of ten alone would leave the axis bare.
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter(NullFormatter())
        figure.axes[0].set_ylabel("relative error")
        _legend(figure)
        return figure


def _curves(axis: Axes, error: xr.DataArray, seconds: xr.DataArray, estimator: str) -> None:
    """A curve for the fewest draws and one for the most, each with its band."""
    name, colour, marker = LOOKS[estimator]
    draws = error["draws"].values
    ends = [draws[0], draws[-1]] if estimator in DRAWN and draws.size > 1 else [draws[0]]
    for number, style in zip(ends, ("-", "--"), strict=False):
        x = seconds.sel(draws=number)
        middle, low, high = over_replicates(error.sel(draws=number))
        label = f"{name}, $N={number}$" if estimator in DRAWN else name
        face = colour if style == "-" else "white"
        axis.plot(x, middle, style, marker=marker, color=colour, markerfacecolor=face, label=label)
        axis.fill_between(x, low, high, color=colour, alpha=0.08, linewidth=0)


def prediction(groups: dict[str, xr.Dataset]) -> Figure:
    """Measured error against the predicted one, and their ratio by the number of inputs."""
    errors = groups["errors"]
    measured = errors["squared_error"].mean(["repetition", "replicate"])
    predicted = errors["predicted_squared_error"].mean("replicate")
    with paper_style():
        figure = Figure((TEXT_WIDTH, 2.8))
        left, right = figure.subplots(1, 2)
        for estimator, (name, colour, marker) in LOOKS.items():
            one = predicted.sel(estimator=estimator), measured.sel(estimator=estimator)
            x, y = (np.ravel(side.transpose(*predicted.dims[1:])) ** 0.5 for side in one)
            left.plot(x, y, marker, color=colour, markerfacecolor="none", markersize=3, label=name)
            _ratio(right, errors.sel(estimator=estimator), colour, marker)
        ends = [float(predicted.min() ** 0.5), float(predicted.max() ** 0.5)]
        left.plot(ends, ends, "-", color="black", linewidth=0.6)
        left.set(xscale="log", yscale="log", xlabel="predicted error", ylabel="measured error")
        right.axhline(1, color="black", linewidth=0.6)
        right.set(xscale="log", xlabel="inputs $N_x$", ylabel="measured / predicted")
        _legend(figure)
        return figure


def _ratio(axis: Axes, errors: xr.Dataset, colour: str, marker: str) -> None:
    """Root of measured over predicted mean squares, over layers and draws, with its band."""
    ratio = errors["squared_error"].mean("repetition") / errors["predicted_squared_error"]
    middle, low, high = over_replicates(ratio.mean(["layer", "draws"]) ** 0.5)
    x = ratio["inputs"].values
    axis.plot(x, middle, "-", marker=marker, color=colour)
    axis.fill_between(x, low, high, color=colour, alpha=0.08, linewidth=0)


def _legend(figure: Figure) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)


FIGURES: dict[str, Draw] = {"frontier": frontier, "prediction": prediction}
"""By the names of their files."""
