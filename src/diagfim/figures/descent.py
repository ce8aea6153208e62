"""Figures of the experiment "descent"."""

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from diagfim.experiments.reading import METHODS, WHOLE, along_chosen, leave_one_out
from diagfim.figures.style import COLOURS, NAMES, TEXT_WIDTH, Draw, band, legend_below, paper_style

LOOKS = {
    "exact": ("#000000", "-", "exact"),
    "score": (COLOURS["score"], "--o", NAMES["score"]),
    "hessian": (COLOURS["hessian"], "-.s", NAMES["hessian"]),
    "mixed": ("#009E73", ":^", "mix"),
    "empirical": ("#CC79A7", "-v", "empirical Fisher"),
    "gradient": ("#E69F00", "--D", "gradient descent"),
}
"""Colour, line style with marker, and name of every method."""


ROUNDING = 1e-6
"""Relative errors below are those of float32, and are not drawn."""


def losses(groups: dict[str, xr.Dataset]) -> Figure:
    """Test loss by epoch at the chosen settings, and after the last epoch by learning rate."""
    natural = groups["natural"]
    chosen = leave_one_out(natural, ("learning_rate", "damping"))["test_loss"]
    plain = leave_one_out(groups["gradient"], ("learning_rate",))["test_loss"]
    damped = leave_one_out(natural, ("damping",))["test_loss"].isel(epoch=-1, drop=True)
    by_rate = damped.rename(learning_rate="epoch")  # the axis of `band`
    memories = natural["memory"].values
    with paper_style():
        figure = Figure((TEXT_WIDTH, 4.4))
        axes = figure.subplots(2, len(memories), sharey="row", sharex="row", squeeze=False)
        for (top, bottom), memory in zip(axes.T, memories, strict=True):
            _curves(top, chosen.sel(memory=memory), METHODS)
            _curves(bottom, by_rate.sel(memory=memory), METHODS)
            band(top, plain, *LOOKS["gradient"])
            top.set(title=rf"$\beta = {memory:g}$", xlabel="epoch", yscale="log")
            top.xaxis.set_major_locator(MaxNLocator(integer=True))
            bottom.set(xlabel=r"learning rate $\epsilon$", xscale="log", yscale="log")
            rates = natural["learning_rate"].values
            bottom.set_xticks(rates, [f"{rate:g}" for rate in rates])
            bottom.xaxis.set_minor_locator(NullLocator())
        axes[0, 0].set_ylabel("test loss [nat]")
        axes[1, 0].set_ylabel("test loss, last epoch [nat]")
        for axis in axes[:, 0]:
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("{x:g}")
            axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        legend_below(figure, axes[0, 0], 6)
        return figure


def noise(groups: dict[str, xr.Dataset]) -> Figure:
    """Relative error of the diagonal of one batch by epoch, layer and estimator."""
    errors = along_chosen(groups)
    layers = [*(layer for layer in errors["layer"].values if layer != WHOLE), WHOLE]
    with paper_style():
        figure = Figure((TEXT_WIDTH, 2.4))
        axes = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
        for axis, layer in zip(axes, layers, strict=True):
            one = errors.sel(layer=layer)
            _curves(axis, one.where(one > ROUNDING), METHODS[1:])
            title = "whole network" if layer == WHOLE else f"layer {layer.removeprefix('dense')}"
            axis.set(title=title, xlabel="epoch", yscale="log")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0].set_ylabel(r"$\|\hat{F} - F\|\,/\,\|F\|$ [1]")
        legend_below(figure, axes[0], 4)
        return figure


FIGURES: dict[str, Draw] = {"descent": losses, "descent-noise": noise}
"""By the names of their files."""


def _curves(axis: Axes, values: xr.DataArray, methods: tuple[str, ...]) -> None:
    """A band for every method that has values."""
    for method in methods:
        one = values.sel(estimator=method)
        if one.notnull().any():
            band(axis, one, *LOOKS[method])
