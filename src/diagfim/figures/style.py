"""How every figure looks: colours, marks, sizes, and how it is written to a file.

Curves are medians over the replicates, bands run from the least to the greatest.  Colours are those
of Okabe and Ito; line styles and markers tell the curves apart without them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diagfim import looks
from diagfim.arrays import short_layer
from diagfim.whole import whole

Draw = Callable[[dict[str, xr.Dataset]], Figure]
"""A figure of an experiment: from the groups of its gathered file, by name."""

BOTH = ("score", "hessian")
INFORMATION = looks.COLOURS["exact"]
COLOURS = {name: looks.COLOURS[name] for name in BOTH}
MARKERS = {name: looks.MARKERS[name] for name in BOTH}
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


def paper_style() -> Any:
    """The settings of `STYLE`, while a figure is drawn or written."""
    settings: dict[Any, Any] = {**sns.axes_style("ticks"), **STYLE}
    return mpl.rc_context(settings)


def save(figure: Figure, paths: Sequence[str], about: Mapping[str, str]) -> None:
    """Write a figure as every path's suffix says, whole or not at all; equal ones give equal files.

    Parameters
    ----------
    figure : Figure
        The figure.
    paths : sequence of str
        Ending in ``.pdf``, ``.png`` or ``.svg``.
    about : mapping of str to str
        Where it comes from, as `origin.origin` says it; stored among the metadata.

    Raises
    ------
    UserError
        If a file cannot be written.
    """
    text = "; ".join(f"{key}: {value}" for key, value in about.items())
    for path in paths:
        with whole(path) as partial, paper_style():
            figure.savefig(partial, dpi=200, metadata=_metadata(partial.suffix, text))


def _metadata(suffix: str, text: str) -> dict[str, Any]:
    """By format, without the date."""
    by_format: dict[str, dict[str, Any]] = {
        ".pdf": {"Subject": text, "CreationDate": None},
        ".png": {"Description": text},
        ".svg": {"Description": text, "Date": None},
    }
    return by_format[suffix]


def layer_name(layer: str) -> str:
    """What a figure calls a layer: those of the study's networks have numbers."""
    short = short_layer(layer, most=18)
    return f"layer {short}" if short.isdigit() else short


def legend_below(figure: Figure, axis: Axes, columns: int) -> None:
    """The legend of one panel, for all of them, under the figure."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def over_replicates(values: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Median, least and greatest over replicates and, where there are several, inputs."""
    dims = [dim for dim in ("replicate", "input") if dim in values.dims]
    return values.median(dims), values.min(dims), values.max(dims)


def band(
    axis: Axes,
    values: xr.DataArray,
    colour: str,
    style: str,
    label: str | None,
    width: float = 1.2,
) -> None:
    """Draw the median of values by epoch, and a band from the least to the greatest."""
    middle, low, high = over_replicates(values)
    x = middle["epoch"].values
    axis.plot(x, middle, style, color=colour, label=label, linewidth=width)
    axis.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
