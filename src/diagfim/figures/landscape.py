"""Figures of the experiment "landscape": medians over replicates, on the first data set."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator

from diagfim.experiments.reading import over_better, select
from diagfim.figures.style import (
    COLOURS,
    MARKERS,
    NAMES,
    TEXT_WIDTH,
    Draw,
    legend_below,
    over_replicates,
    paper_style,
)

LIMIT = 3.0
"""Decades at which the colours of the map end."""

WINNERS = LinearSegmentedColormap.from_list(
    "winners", [COLOURS["score"], "#FFFFFF", COLOURS["hessian"]]
)
STYLES: dict[str, dict[str, Any]] = {
    name: {"linestyle": line, "color": colour, "marker": marker, "label": label}
    for name, line, colour, marker, label in (
        ("score", "-", COLOURS["score"], MARKERS["score"], NAMES["score"]),
        ("hessian", "--", COLOURS["hessian"], MARKERS["hessian"], NAMES["hessian"]),
        ("layer choice", "-.", "#009E73", "^", "better one by layer"),
        ("layer mix", (0, (5, 1)), "#E69F00", "v", "mix by layer"),
        ("parameter mix", ":", "#CC79A7", "D", "mix by parameter"),
    )
}


def winners(groups: dict[str, xr.Dataset]) -> Figure:
    """Map of log10(ΣV1 / ΣV2) by activation and layer, a panel for each stage of training."""
    layers = select(groups["layers"], dataset=groups["layers"]["dataset"].values[0])
    widths = np.unique(select(layers, base=True)["width"].values)
    layers = layers.isel(cell=np.isin(layers["width"].values, [*widths, 0]))
    activations = list(dict.fromkeys(layers["activation"].values))
    blocks = _blocks(layers)
    with paper_style():
        figure = Figure((TEXT_WIDTH, 0.55 + 0.2 * (len(activations) + 2) * layers.sizes["epoch"]))
        axes = figure.subplots(layers.sizes["epoch"], 1, sharex=True, squeeze=False)[:, 0]
        for axis, epoch in zip(axes, layers["epoch"].values, strict=True):
            _panel(axis, layers.sel(epoch=epoch), activations, blocks)
            axis.set_title("initialisation" if epoch == 0 else f"epoch {epoch}")
        ends = [0, *np.cumsum([size for *_, size in blocks])]
        names = [layer for _, _, size in blocks for layer in range(1, size + 1)]
        axes[-1].set_xticks(np.arange(ends[-1]) + 0.5, names)
        axes[-1].tick_params(length=0)
        for start, end, (network, depth, _) in zip(ends[:-1], ends[1:], blocks, strict=True):
            kind = "LeNet" if network == "lenet" else f"{depth} hidden"
            axes[-1].annotate(
                kind,
                ((start + end) / 2, 0),
                (0, -14),
                xycoords=axes[-1].get_xaxis_transform(),
                textcoords="offset points",
                ha="center",
                va="top",
                fontsize=7,
            )
        axes[-1].set_xlabel("layer", labelpad=12)
        colours = ScalarMappable(Normalize(-LIMIT, LIMIT), WINNERS)
        label = r"$\log_{10}\,(\Sigma V_1 / \Sigma V_2)$"
        figure.colorbar(colours, ax=axes, label=label, extend="both", aspect=40, pad=0.01)
        return figure


def gain(groups: dict[str, xr.Dataset]) -> Figure:
    """What choices and mixes gain over the better estimator: whole networks, and hidden layers."""
    whole, layers = (
        select(found, dataset=found["dataset"].values[0], base=True).isel(epoch=-1)
        for found in (groups["networks"], groups["layers"])
    )
    whole = whole.isel(configuration=whole["activation"].values != "relu")
    layers = layers.isel(cell=layers["activation"].values != "relu")
    activations = list(whole["activation"].values)
    with paper_style():
        figure = Figure((TEXT_WIDTH, 2.7))
        left, right = figure.subplots(1, 2)
        names = ("layer choice", "layer mix", "parameter mix")
        for shift, name in zip((-0.2, 0.0, 0.2), names, strict=True):
            ratio = over_better(whole["summed_draw_variance"], name)
            _spread(left, np.arange(len(activations)) + shift, ratio, STYLES[name])
        hidden = layers.isel(cell=~layers["last"].values)
        depth = int(hidden["position"].max())
        for number in range(1, depth + 1):
            one = select(hidden, position=number)
            style = {
                "color": ("#0072B2", "#E69F00", "#009E73", "#56B4E9", "#D55E00")[number % 5 - 1],
                "marker": "osD^v"[number % 5 - 1],
                "label": f"layer {number}",
            }
            x = np.arange(len(activations)) + 0.5 * ((number - 0.5) / depth - 0.5)
            _spread(right, x, over_better(one["summed_draw_variance"], "parameter mix"), style)
        for axis in (left, right):
            axis.set(yscale="log")
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_locator(LogLocator(subs=(1.5, 2, 3, 5)))
            axis.yaxis.set_minor_formatter("{x:g}")
            axis.set_xticks(range(len(activations)), activations, rotation=20)
            axis.axhline(1, color="black", linewidth=0.6)
            axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
        left.set_ylabel("gain, whole network")
        right.set_ylabel("gain of the mix by parameter, layer")
        return figure


def depth_and_width(groups: dict[str, xr.Dataset]) -> Figure:
    """Relative noise of one draw against depth and width, by activation."""
    networks = groups["networks"].isel(epoch=-1)
    networks = select(networks, dataset=networks["dataset"].values[0], network="mlp")
    base = select(networks, base=True)
    activations = list(base["activation"].values)
    noise = (networks["summed_draw_variance"] / networks["summed_fisher_squared"]) ** 0.5
    with paper_style():
        figure = Figure((TEXT_WIDTH, 3.4))
        axes = figure.subplots(2, len(activations), sharex="row", sharey=True, squeeze=False)
        for row, (along, fixed) in zip(axes, (("depth", "width"), ("width", "depth")), strict=True):
            for axis, activation in zip(row, activations, strict=True):
                one = noise.isel(
                    configuration=(networks["activation"].values == activation)
                    & (networks[fixed].values == base[fixed].values[0])
                ).sortby(along)
                for name in ("score", "hessian", "layer choice", "parameter mix"):
                    _curve(axis, one[along].values, one.sel(estimator=name), STYLES[name])
                axis.set_xscale("log", base=2)
                axis.set_xticks(one[along].values, one[along].values)
                axis.minorticks_off()
                axis.set_yscale("log")
                axis.set_xlabel("hidden layers" if along == "depth" else "width [units]")
            row[0].set_ylabel(r"$(\Sigma V)^{1/2}\, /\, \|I\|$")
        for axis, activation in zip(axes[0], activations, strict=True):
            axis.set_title(activation)
        legend_below(figure, axes[0, 0], 4)
        return figure


FIGURES: dict[str, Draw] = {"map": winners, "gain": gain, "depth-and-width": depth_and_width}
"""By the names of their files."""


def _blocks(layers: xr.Dataset) -> list[tuple[str, int, int]]:
    """Network, hidden layers and number of layers of what stands side by side in the map."""
    last = layers.isel(cell=layers["last"].values)
    found = {
        (str(network), int(depth), int(position))
        for network, depth, position in zip(
            last["network"].values, last["depth"].values, last["position"].values, strict=True
        )
    }
    return sorted(found, key=lambda block: (block[0] == "lenet", block[1]))


def _panel(
    axis: Axes, layers: xr.Dataset, activations: list[str], blocks: list[tuple[str, int, int]]
) -> None:
    """One stage of the map: a number in every cell, hatches where V2 = 0."""
    variance = layers["summed_draw_variance"].median("replicate")
    with np.errstate(divide="ignore"):
        ratio = xr.apply_ufunc(
            np.log10, variance.sel(estimator="score") / variance.sel(estimator="hessian")
        )
    start = 0
    for network, depth, size in blocks:
        one = ratio.isel(
            cell=(layers["network"].values == network) & (layers["depth"].values == depth)
        )
        for value, activation, position in zip(
            one.values, one["activation"].values, one["position"].values, strict=True
        ):
            corner = (start + int(position) - 1, activations.index(activation))
            _cell(axis, corner, float(value))
        start += size
        axis.axvline(start, color="black", linewidth=1)
    axis.set(xlim=(0, start), ylim=(len(activations), 0))
    axis.set_yticks(np.arange(len(activations)) + 0.5, activations)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", length=0)
    axis.set_facecolor("#F0F0F0")
    axis.grid(visible=False)


def _cell(axis: Axes, corner: tuple[int, int], value: float) -> None:
    exact = np.isposinf(value)
    colour = WINNERS(Normalize(-LIMIT, LIMIT)(value)) if not exact else "#FFFFFF"
    edge, hatch = (COLOURS["hessian"], "//////") if exact else ("white", None)
    axis.add_patch(
        Rectangle(corner, 1, 1, facecolor=colour, linewidth=0.3, edgecolor=edge, hatch=hatch)
    )
    if not exact:
        dark = abs(value) > 0.8 * LIMIT
        axis.text(
            corner[0] + 0.5,
            corner[1] + 0.53,
            f"{value:.1f}".replace("-", "\N{MINUS SIGN}"),
            ha="center",
            va="center",
            fontsize=6,
            color="white" if dark else "black",
        )


def _spread(axis: Axes, x: np.ndarray, values: xr.DataArray, style: dict[str, Any]) -> None:
    """Markers at the medians over replicates, bars from the least to the greatest."""
    middle, low, high = over_replicates(values)
    bars = (middle - low, high - middle)
    axis.errorbar(x, middle, bars, **{**style, "linestyle": "none"}, elinewidth=0.8)


def _curve(axis: Axes, x: np.ndarray, values: xr.DataArray, style: dict[str, Any]) -> None:
    """A curve through the medians over replicates, a band from the least to the greatest.

    A curve that is zero throughout has no place on a logarithmic axis.
    """
    positive = values.where(values > 0)
    axis.plot(x, positive.median("replicate", skipna=False), **style)
    low, high = positive.min("replicate"), positive.max("replicate")
    axis.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
