"""Figures of the experiment "empirical"."""

import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from diagfim.experiments.reading import WHOLE
from diagfim.figures.style import COLOURS, NAMES, TEXT_WIDTH, Draw, band, layer_name, paper_style

REFERENCES = {
    "empirical": ("empirical Fisher", "-", "#0072B2"),
    "batch": ("squared batch gradient", ":", "#009E73"),
    "adam": ("Adam's accumulator", "--", "#CC79A7"),
    "control": ("labels of the model (control)", "-.", "#999999"),
}
"""Name, line style and colour of each biased reference, and of the unbiased control."""


def equal_error(groups: dict[str, xr.Dataset]) -> Figure:
    """Relative distance from the information, and draws with the same error, by epoch and layer."""
    comparison = groups["comparison"]
    distance = comparison["distance"] / comparison["fisher_norm"]
    layers = comparison["layer"].values
    with paper_style():
        figure = Figure((TEXT_WIDTH, 5.0))
        axes = figure.subplots(3, len(layers), sharex=True, sharey="row", squeeze=False)
        for (top, centre, bottom), layer in zip(axes.T, layers, strict=True):
            for axis, half in ((top, "train"), (centre, "test")):
                for reference, (name, style, colour) in REFERENCES.items():
                    one = distance.sel(set=half, layer=layer, reference=reference)
                    band(axis, one.dropna("epoch"), colour, style, name)
                axis.set(yscale="log")
            for estimator, colour in COLOURS.items():
                for half, style in (("train", "-"), ("test", "--")):
                    draws = comparison["equal_draws"].sel(
                        set=half, layer=layer, estimator=estimator, reference="empirical"
                    )
                    if (draws > 0).all():
                        name = f"{NAMES[estimator]}, {'training' if half == 'train' else half}"
                        band(bottom, draws, colour, style, name)
            bottom.axhline(1, color="black", linewidth=0.6)
            bottom.set(xlabel="epoch", yscale="log")
            bottom.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
            top.set_title("whole network" if layer == WHOLE else layer_name(layer))
        axes[0, 0].set_ylabel("relative distance,\ntraining images")
        axes[1, 0].set_ylabel("relative distance,\ntest images")
        axes[2, 0].set_ylabel("draws per input $N$\nof equal error")
        handles, labels = (
            [*first, *second]
            for first, second in zip(
                axes[0, 0].get_legend_handles_labels(),
                axes[2, 0].get_legend_handles_labels(),
                strict=True,
            )
        )
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        return figure


FIGURES: dict[str, Draw] = {"equal-error": equal_error}
"""By the names of their files."""
