"""Figures over the whole test set: where the variance stems from, and how tight the bounds are."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from diagfim.figures.style import (
    COLOURS,
    INFORMATION,
    MARKERS,
    NAMES,
    TEXT_WIDTH,
    Draw,
    band,
    layer_name,
    legend_below,
    paper_style,
)

VARIANCES = {"score": "variance_1", "hessian": "variance_2"}


def shares(groups: dict[str, xr.Dataset]) -> Figure:
    """Information, both variances of one pair (x, y) and the part from x, by epoch and layer."""
    moments = groups["moments"]
    layers = moments["layer"].values
    with paper_style():
        figure = Figure((TEXT_WIDTH, 3.7))
        axes = figure.subplots(2, len(layers), sharex=True, sharey="row", squeeze=False)
        for (top, bottom), layer in zip(axes.T, layers, strict=True):
            one = moments.sel(layer=layer)
            from_x = one["input_variance"]
            band(top, one["fisher"] ** 2, INFORMATION, "-", "square of the mean $I$", width=2)
            band(top, from_x, "black", ":", "variance from $x$ (both)")
            for estimator, style in zip(COLOURS, ("-", "--"), strict=True):
                from_y = one[VARIANCES[estimator]]
                colour, name = COLOURS[estimator], NAMES[estimator]
                if bool((from_y > 0).any()):
                    band(top, from_y, colour, style, f"variance from $y$, {name}")
                share = 100 * from_x / (from_x + from_y)
                band(bottom, share, colour, style, None)
            top.set(title=layer_name(layer), yscale="log")
            bottom.set(xlabel="epoch", ylim=(-4, 104))
        axes[0, 0].set_ylabel("layer average [nat$^4$]")
        axes[1, 0].set_ylabel("share of the variance\nfrom $x$ [%]")
        legend_below(figure, axes[0, 0], 4)
        return figure


def tightness(groups: dict[str, xr.Dataset]) -> Figure:
    """Logarithm of bound over variance against the certainty of the network at an input."""
    found = groups["tightness"]
    layers = found["layer"].values
    doubt = 1 - found["probability"]
    with paper_style():
        figure = Figure((TEXT_WIDTH, 2.1))
        axes = figure.subplots(1, len(layers), sharex=True, sharey=True, squeeze=False)[0]
        for axis, layer in zip(axes, layers, strict=True):
            for estimator in COLOURS:
                one = found.sel(layer=layer, estimator=estimator)
                exact = one["exact_variance"].where(one["exact_variance"] > 0)
                ratio = xr.apply_ufunc(np.log, one["bound_variance"] / exact)
                if ratio.notnull().any():
                    axis.plot(
                        doubt.values.ravel(),
                        ratio.transpose(*doubt.dims).values.ravel(),
                        MARKERS[estimator],
                        color=COLOURS[estimator],
                        markersize=1.6,
                        markeredgewidth=0.4,
                        markerfacecolor=COLOURS[estimator] if estimator == "score" else "none",
                        alpha=0.5,
                        label=NAMES[estimator],
                        rasterized=True,
                    )
            axis.axhline(0, color="black", linewidth=0.6)
            axis.set(title=layer_name(layer), xscale="log", xlabel=r"$1-\max_k\sigma_k$")
        axes[0].set_ylabel("ln (bound / variance)")
        axes[0].legend(frameon=False, markerscale=3)
        return figure


FIGURES: dict[str, Draw] = {"shares": shares, "tightness": tightness}
"""By the names of their files."""
