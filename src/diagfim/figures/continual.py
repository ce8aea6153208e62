"""Figures of the experiment "continual"."""

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diagfim.experiments.reading import CONTINUAL_NAMES, at_chosen, final, mean_and_error
from diagfim.figures.style import TEXT_WIDTH, Draw, legend_below, paper_style

LOOKS = {
    "exact": ("#009E73", "o", "-"),
    "subset": ("#56B4E9", "v", "--"),
    "score": ("#0072B2", "s", "-."),
    "empirical": ("#E69F00", "^", ":"),
    "batched": ("#CC79A7", "D", (0, (5, 1, 1, 1, 1, 1))),
    "none": ("#000000", "x", (0, (1, 1))),
}
"""Colour, marker and line style by method."""

SIDEWAYS = 0.04
"""Shift of a method's marks from the next one's, so that bars do not hide each other: in decades of
the strength, and in tasks."""


def continual(groups: dict[str, xr.Dataset]) -> Figure:
    """Accuracy against the strength of the penalty, and against the number of tasks learnt."""
    names = [str(name) for name in groups["plain"]["dataset"].values]
    with paper_style():
        figure = Figure((TEXT_WIDTH, 0.4 + 2.3 * len(names)))
        rows = figure.subplots(len(names), 2, squeeze=False)
        for (left, right), name in zip(rows, names, strict=True):
            one = {key: value.sel(dataset=name) for key, value in groups.items()}
            _by_strength(left, one)
            _by_learnt(right, one)
            title = f"{name}: " if len(names) > 1 else ""
            left.set_title(f"{title}all tasks learnt")
            right.set_title(f"{title}at the chosen strength")
        legend_below(figure, rows[0, 1], 6)
        return figure


FIGURES: dict[str, Draw] = {"continual": continual}
"""By the names of their files."""


def _by_strength(axis: Axes, groups: dict[str, xr.Dataset]) -> None:
    """Mean accuracy over the tasks after the last one, by method and λ."""
    accuracy = final(groups["penalised"]["accuracy"])
    for k, method in enumerate(accuracy["estimator"].values):
        x = accuracy["strength"] * 10 ** (SIDEWAYS * (k - 2))
        _draw(axis, x, accuracy.sel(estimator=method), str(method))
    mean, error = mean_and_error(final(groups["plain"]["accuracy"]))
    colour, _, style = LOOKS["none"]
    axis.axhline(100 * float(mean), color=colour, linestyle=style)
    axis.axhspan(
        100 * float(mean - error), 100 * float(mean + error), color=colour, alpha=0.12, linewidth=0
    )
    axis.set(xscale="log", xlabel=r"strength $\lambda$", ylabel="accuracy over five tasks [%]")


def _by_learnt(axis: Axes, groups: dict[str, xr.Dataset]) -> None:
    """Mean accuracy over the tasks learnt so far, by method."""
    accuracy = at_chosen(groups).mean("task")
    for k, method in enumerate(LOOKS):
        x = accuracy["learnt"] + SIDEWAYS * (k - 2)
        _draw(axis, x, accuracy.sel(estimator=method), method)
    axis.set(xlabel="tasks learnt", ylabel="accuracy over tasks learnt [%]")
    axis.set_xticks(accuracy["learnt"].values)


def _draw(axis: Axes, x: xr.DataArray, accuracy: xr.DataArray, method: str) -> None:
    mean, error = mean_and_error(100 * accuracy)
    colour, marker, style = LOOKS[method]
    axis.errorbar(
        x.values,
        mean.values,
        error.values,
        color=colour,
        marker=marker,
        linestyle=style,
        capsize=1.5,
        elinewidth=0.8,
        label=CONTINUAL_NAMES[method],
    )
