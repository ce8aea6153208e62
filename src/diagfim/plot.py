"""Plots of what the library returns: by layer, by parameter, and against the number of draws.

Every function takes trees of `diagfim.analyze` or `diagfim.estimate`, or a dataset of
`diagfim.plan`, whether just computed or reopened from netCDF, draws on the axes ``ax``, by default
those of a new figure, and returns the axes: title, limits and file are the caller's.  No function
changes the settings of Matplotlib, which is an extra: ``pip install 'diagfim[plot]'``.

- `layers`: how large is the information of each layer, and how certain?
- `distribution`: how does it spread over the parameters of each layer?
- `which_estimator`, `estimator_map`: which estimator varies less, for how many and which ones?
- `relative_errors`, `convergence`: how wrong is a layer, at some draws and at any number of them?
- `plan`: how many draws or inputs does each layer need?
- `estimates`: does an estimate deviate from the exact information as it should?

What a logarithmic axis has no place for stands at its edge: "0" at the left, "∞" at the right.

Examples
--------
>>> import diagfim, torch
>>> from diagfim import plot
>>> from matplotlib.figure import Figure
>>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
>>> tree = diagfim.analyze(model, torch.rand(100, 3))
>>> figure = Figure(figsize=(8, 2), layout="constrained")
>>> left, right = figure.subplots(1, 2)
>>> axes = plot.layers(tree, ax=left), plot.relative_errors(tree, draws=10, ax=right)
>>> [label.get_text() for label in left.get_yticklabels()]
['0', '2']
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from diagfim.arrays import ALL, LONG_NAMES, layer_of, layer_sums, short_layer
from diagfim.errors import UserError
from diagfim.looks import COLOURS, LINES, MARKERS

if TYPE_CHECKING:
    import matplotlib.axes

# Matplotlib, and whatever needs PyTorch, are imported where they are used: to import this module
# takes neither.

__all__ = [
    "convergence",
    "distribution",
    "estimates",
    "estimator_map",
    "layers",
    "plan",
    "relative_errors",
    "which_estimator",
]

BOTH = ("score", "hessian")
"""The two standard estimators."""

SIDES = ("#003352", COLOURS["score"], "#9A9A9A", "#F2B07E", "#FFE6D5")
"""Colours from where score varies less to where hessian does, ever lighter: legible in grey."""

POINTS = 1000
"""Parameters that `estimates` draws at most; its shares are of all of them."""


def layers(
    trees: xr.DataTree | Mapping[str, xr.DataTree], *, ax: "matplotlib.axes.Axes | None" = None
) -> "matplotlib.axes.Axes":
    """Fisher information of each layer, with error bars.

    Points are root mean squares of the information over the parameters of a layer, bars to either
    side those of their standard errors, both as in `diagfim.summarize`: the share of the bar in the
    value is the relative error of the layer.  The bars of an exact diagonal are from the inputs
    alone.

    Parameters
    ----------
    trees : xarray.DataTree, or mapping of str to xarray.DataTree
        What `analyze` or `estimate` returned; several of the same model by the names that the
        legend is to give them.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UserError
        If Matplotlib is missing, a tree is none, or trees are of different layers.

    Examples
    --------
    >>> import diagfim, torch
    >>> from diagfim import plot
    >>> from matplotlib.figure import Figure
    >>> model, inputs = torch.nn.Linear(3, 2), torch.rand(50, 3)
    >>> trees = {name: diagfim.estimate(model, inputs, name) for name in ("score", "exact")}
    >>> axes = plot.layers(trees, ax=Figure().subplots())
    >>> axes.get_xscale()
    'log'
    """
    from diagfim.summary import summarize

    named = {"": trees} if isinstance(trees, xr.DataTree) else trees
    if not isinstance(named, Mapping) or not named:
        raise UserError(
            f"trees: a {type(trees).__name__} is neither what diagfim.analyze "
            "returned nor a dict of one such tree or more by name"
        )
    tables = {name: summarize(tree).drop(index=ALL) for name, tree in named.items()}
    first = [str(layer) for layer in next(iter(tables.values())).index]
    for name, table in tables.items():
        if list(table.index) != first:
            raise UserError(f"trees: {name} has other layers than the first; pass one model's")
    ax = _rows(ax, first)
    bars = False
    estimators = [tree.attrs.get("estimator", "exact") for tree in named.values()]
    if len(set(estimators)) < len(estimators):  # their looks would be the same
        estimators = [list(COLOURS)[k % len(COLOURS)] for k in range(len(named))]
    shifts = _shifts(len(tables))
    for shift, estimator, (name, table) in zip(shifts, estimators, tables.items(), strict=True):
        errors = table["standard_error"].to_numpy() if "standard_error" in table else None
        if errors is not None and np.isnan(errors).all():
            errors = None
        bars |= errors is not None
        _points(ax, shift, table["fisher"].to_numpy(), estimator, label=name, errors=errors)
    bar = " ± standard error" if bars else ""
    ax.set_xlabel(f"Fisher information{bar} [nat$^2$]\nroot mean square over the parameters")
    if len(tables) > 1:
        _legend(ax)
    return ax


def distribution(
    tree: xr.DataTree, quantity: str = "fisher", *, ax: "matplotlib.axes.Axes | None" = None
) -> "matplotlib.axes.Axes":
    """How a quantity is distributed over the parameters of each layer.

    Strokes are medians, thick bars reach from the first quartile to the third, thin ones from the
    5th percentile to the 95th.  Beside them stand the shares of parameters that are zero, negative,
    as estimates by the Hessian-based estimator may be, or NaN.  Bars from below zero start at the
    edge.

    Parameters
    ----------
    tree : xarray.DataTree
        What `analyze`, `estimate` or `variance` returned.
    quantity : str
        Which of the variables of its nodes.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UserError
        If Matplotlib is missing, or the tree has no such quantity.

    Examples
    --------
    >>> import diagfim, torch
    >>> from diagfim import plot
    >>> from matplotlib.figure import Figure
    >>> tree = diagfim.analyze(torch.nn.Linear(3, 2), torch.rand(50, 3))
    >>> plot.distribution(tree, "variance_1", ax=Figure().subplots()).get_xlabel()
    'exact variance of the score-based estimator, one draw [nat$^4$]'
    """
    values: dict[str, list[np.ndarray]] = {}
    for name, one in _values(tree, quantity).items():
        values.setdefault(layer_of(name), []).append(one.ravel())
    ax = _rows(ax, list(values))
    colour = COLOURS[tree.attrs.get("estimator", "exact")]
    for row, parts in enumerate(values.values()):
        every = np.concatenate(parts)
        low, first, middle, third, high = np.quantile(every, (0.05, 0.25, 0.5, 0.75, 0.95))
        # The scale clips what is not positive: such a bar starts where the axis does.
        for ends, width in (((low, high), 1.0), ((first, third), 4.0)):
            if ends[1] > 0:
                ax.plot(ends, (row, row), color=colour, linewidth=width, solid_capstyle="butt")
        if middle > 0:
            ax.plot(middle, row, "|", color="black", markersize=8, zorder=3)
        kinds = {"zero": every == 0, "negative": every < 0, "NaN": np.isnan(every)}
        shares = {key: float(is_one.mean()) for key, is_one in kinds.items()}
        said = ", ".join(f"{_percent(share)} {key}" for key, share in shares.items() if share)
        ax.text(1.01, row, said, va="center", fontsize="small", transform=ax.get_yaxis_transform())
    name = LONG_NAMES.get(quantity, quantity)
    if quantity == "fisher" and "estimator" in tree.attrs:
        name = f"Fisher information, {tree.attrs['estimator']} estimate"
    ax.set_xlabel(f"{name} [{_unit(quantity)}]")
    return ax


def which_estimator(
    tree: xr.DataTree, *, ax: "matplotlib.axes.Axes | None" = None
) -> "matplotlib.axes.Axes":
    """For what share of the parameters of each layer either standard estimator varies less.

    Parameters
    ----------
    tree : xarray.DataTree
        What `analyze` returned.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UserError
        If Matplotlib is missing, or the tree has no variances.

    Examples
    --------
    >>> import diagfim, torch
    >>> from diagfim import plot
    >>> from matplotlib.figure import Figure
    >>> tree = diagfim.analyze(torch.nn.Linear(3, 2), torch.rand(50, 3))
    >>> plot.which_estimator(tree, ax=Figure().subplots()).get_xlabel()
    'share of the parameters [%]'
    """
    v1, v2 = (_values(tree, key) for key in ("variance_1", "variance_2"))
    sizes = layer_sums({name: np.ones(one.shape) for name, one in v1.items()})
    fewer = {
        "score varies less": {name: one < v2[name] for name, one in v1.items()},
        "equal": {name: one == v2[name] for name, one in v1.items()},
        "hessian varies less": {name: one > v2[name] for name, one in v1.items()},
    }
    looks = ((COLOURS["score"], ""), ("#D9D9D9", ""), (COLOURS["hessian"], "////"))
    ax = _rows(ax, list(sizes), scale="linear")
    ends = np.zeros(len(sizes))
    for (label, counts), (colour, hatch) in zip(fewer.items(), looks, strict=True):
        share = 100 * np.array([n / sizes[layer] for layer, n in layer_sums(counts).items()])
        rows = np.arange(len(sizes))
        ax.barh(
            rows, share, 0.8, ends, color=colour, hatch=hatch, edgecolor="white", linewidth=0,
            label=label,
        )  # fmt: skip
        ends += share
    ax.set(xlim=(0, 100), xlabel="share of the parameters [%]")
    _legend(ax)
    return ax


def estimator_map(
    tree: xr.DataTree, parameter: str, *, ax: "matplotlib.axes.Axes | None" = None
) -> "matplotlib.axes.Axes":
    """Which of a tensor's parameters either standard estimator varies less for: a map of V1 / V2.

    Rows are the units of the layer, such as the output channels of a convolution, columns all that
    leads to one.  Where neither estimator varies the map is hatched.

    Parameters
    ----------
    tree : xarray.DataTree
        What `analyze` returned.
    parameter : str
        Name of the tensor.
    ax : matplotlib.axes.Axes, optional
        Gives room to a colour bar.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UserError
        If Matplotlib is missing, or the tree has no such parameter or no variances.

    Examples
    --------
    >>> import diagfim, torch
    >>> from diagfim import plot
    >>> from matplotlib.figure import Figure
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> tree = diagfim.analyze(model, torch.rand(50, 3))
    >>> axes = plot.estimator_map(tree, "0.weight", ax=Figure().subplots())
    >>> axes.images[0].get_array().shape
    (4, 3)
    """
    v1, v2 = (_values(tree, key) for key in ("variance_1", "variance_2"))
    if parameter not in v1:
        near = difflib.get_close_matches(parameter, v1, n=3, cutoff=0.0)
        raise UserError(f"parameter: the tree has no {parameter!r}; there is {', '.join(near)}")
    units = v1[parameter].shape[0] if v1[parameter].ndim else 1
    above, below = (one[parameter].reshape(units, -1) for one in (v1, v2))
    with np.errstate(divide="ignore"):
        ratio = np.log10(above, where=above != below, out=np.zeros_like(above))
        ratio -= np.log10(below, where=above != below, out=np.zeros_like(above))
    limit = np.quantile(np.abs(ratio[np.isfinite(ratio)]), 0.95) if np.isfinite(ratio).any() else 0
    limit = max(float(limit), 0.5)
    ax = _axes(ax, (6.0, 3.6))
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import MaxNLocator

    ax.patch.set(facecolor="white", hatch="////", edgecolor="#BBBBBB")
    image = ax.imshow(
        # No ratio of two numbers has a thousand decades: the image would hide what is infinite.
        np.ma.masked_array(np.clip(ratio, -1e3, 1e3), (above == 0) & (below == 0)),
        LinearSegmentedColormap.from_list("estimators", SIDES),
        aspect="auto",
        interpolation="nearest",
        vmin=-limit,
        vmax=limit,
    )
    bar = ax.figure.colorbar(image, ax=ax, extend="both")
    bar.ax.set_title("hessian", fontsize="small")
    bar.ax.set_xlabel("score", fontsize="small", labelpad=8)
    bar.set_label(r"varies less: $\log_{10}(V_1 / V_2)$ [1]")
    across = " × ".join(map(str, tree.children[parameter].dataset["variance_1"].dims[1:]))
    ax.set(title=parameter, ylabel="unit", xlabel=across)
    if not across:
        ax.set_xticks([])
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def relative_errors(
    tree: xr.DataTree,
    draws: int = 1,
    inputs: int | None = None,
    *,
    estimators: Sequence[str] | None = None,
    ax: "matplotlib.axes.Axes | None" = None,
) -> "matplotlib.axes.Axes":
    """Relative error of each layer by each estimator, at a number of draws.

    That is √(E‖Î − I‖²) / ‖I‖ over the parameters of the layer, exactly, by Theorem 4.7.

    Parameters
    ----------
    tree : xarray.DataTree
        What `analyze` returned.
    draws : int
        N, draws at each input.
    inputs : int, optional
        N_x, inputs drawn anew; by default the analysed ones, all of them and held fixed.
    estimators : sequence of str, optional
        As for `variance`; by default "score", "hessian" and "mixed", and where inputs are drawn,
        "exact", which shows what is due to them.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UserError
        If Matplotlib is missing, an option cannot be used, or the tree does not tell a variance.

    Examples
    --------
    >>> import diagfim, torch
    >>> from diagfim import plot
    >>> from matplotlib.figure import Figure
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> tree = diagfim.analyze(model, torch.rand(50, 3))
    >>> axes = plot.relative_errors(tree, draws=10, ax=Figure().subplots())
    >>> [text.get_text() for text in axes.get_legend().get_texts()]
    ['score', 'hessian', 'mixed']
    """
    from diagfim.estimators import whole

    number = np.array([whole("draws", draws, 1)])
    found = _relative(tree, number, inputs, estimators)
    ax = _rows(ax, list(layer_sums(_values(tree, "fisher"))))
    for shift, (estimator, error) in zip(_shifts(len(found)), found.items(), strict=True):
        _points(ax, shift, error[:, 0], estimator)
    each = "1 draw" if draws == 1 else f"{draws:,} draws"
    ax.set_xlabel(f"relative error of the layer [1]\n{each} at each of {_whose(tree, inputs)}")
    _legend(ax)
    return ax


def convergence(
    tree: xr.DataTree,
    layer: str | None = None,
    inputs: int | None = None,
    *,
    draws: int = 1000,
    relative_error: float = 0.1,
    confidence: float = 0.95,
    estimators: Sequence[str] | None = None,
    ax: "matplotlib.axes.Axes | None" = None,
) -> "matplotlib.axes.Axes":
    """Relative error against the number of draws, by each estimator, exactly (Theorem 4.7).

    The error is that of `relative_errors`.  Below the horizontal line it is small enough for the
    rule "clt" of `diagfim.plan`: where a curve falls below it are the draws that `plan` names.

    Parameters
    ----------
    tree : xarray.DataTree
        What `analyze` returned.
    layer : str, optional
        By default the curves are those of the layer which is estimated worst, by each estimator.
    inputs, estimators
        As for `relative_errors`.
    draws : int
        The largest number of draws shown.
    relative_error, confidence : float
        What the horizontal line stands for.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UserError
        As `relative_errors`, and if there is no such layer.

    Examples
    --------
    >>> import diagfim, torch
    >>> from diagfim import plot
    >>> from matplotlib.figure import Figure
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> tree = diagfim.analyze(model, torch.rand(50, 3))
    >>> axes = plot.convergence(tree, "2", estimators=["score"], ax=Figure().subplots())
    >>> axes.get_xlabel()
    'draws at each of the 50 inputs [1]'
    """
    from diagfim.estimators import whole
    from diagfim.precision import rule_factors

    number = np.unique(np.rint(np.geomspace(1, whole("draws", draws, 2), 49)))
    enough = rule_factors(relative_error, confidence)["clt"] ** -0.5
    found = _relative(tree, number, inputs, estimators)
    names = list(layer_sums(_values(tree, "fisher")))
    if layer is not None and layer not in names:
        near = difflib.get_close_matches(layer, names, n=3, cutoff=0.0)
        raise UserError(f"layer: the tree has no {layer!r}; there is {', '.join(near)}")
    shown = slice(None) if layer is None else slice(names.index(layer), names.index(layer) + 1)
    ax = _axes(ax, (6.0, 3.6))
    ax.set(xscale="log", yscale="log")
    for estimator, errors in found.items():
        worst = errors[shown].max(axis=0)
        # A logarithmic axis has a place for neither; the legend says so.
        never = {0.0: "0", np.inf: "∞"}.get(float(worst[0]))
        ax.plot(
            number if never is None else [],
            worst if never is None else [],
            label=estimator if never is None else f"{estimator} ({never})",
            color=COLOURS[estimator],
            linestyle=LINES[estimator],
        )
    ax.axhline(enough, color="black", linewidth=0.8)
    ax.annotate(
        f"within {relative_error:.3g} with probability {confidence:.3g}",
        (0, enough),
        (4, 3),  # where the curves, which fall to the right, are seldom
        xycoords=ax.get_yaxis_transform(),
        textcoords="offset points",
        fontsize="small",
    )
    whose = "worst layer" if layer is None else f"layer {layer}"
    ax.set(
        xlabel=f"draws at each of {_whose(tree, inputs)} [1]",
        ylabel=f"relative error, {whose} [1]",
        xlim=(number[0], number[-1]),
    )
    _legend(ax)
    return ax


def plan(
    dataset: xr.Dataset, quantity: str | None = None, *, ax: "matplotlib.axes.Axes | None" = None
) -> "matplotlib.axes.Axes":
    """Draws or inputs that each layer needs, by each estimator.

    Full markers are by the rule "clt", hollow ones by "chebyshev", which always holds; a line joins
    both.  "∞" at the right edge means that no number is enough.

    Parameters
    ----------
    dataset : xarray.Dataset
        What `diagfim.plan` returned, all of it or selected.
    quantity : {"draws_per_input", "number_of_inputs", "total_seconds"}, optional
        By default what was planned: over the inputs the draws, for which "exact" is left out, since
        it has none, and over the distribution the inputs.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UserError
        If Matplotlib is missing, or the dataset has no such quantity.

    Examples
    --------
    >>> import diagfim, torch
    >>> from diagfim import plot
    >>> from matplotlib.figure import Figure
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> planned = diagfim.plan(diagfim.analyze(model, torch.rand(50, 3)), relative_error=0.05)
    >>> axes = plot.plan(planned, ax=Figure().subplots())
    >>> print(axes.get_xlabel())
    draws at each input [1]
    for a relative error of 0.05 with probability 0.95
    """
    if not isinstance(dataset, xr.Dataset):
        raise UserError(f"dataset: a {type(dataset).__name__} is not what diagfim.plan returned")
    if quantity is None:
        drawn = dataset.attrs.get("over", "inputs") == "inputs"
        quantity = "draws_per_input" if drawn else "number_of_inputs"
    if quantity not in _PLANNED or quantity not in dataset:
        known = [name for name in _PLANNED if name in dataset]
        raise UserError(
            f"quantity: {quantity!r} is not one of {', '.join(known) or 'those of the dataset'}; "
            "pass what diagfim.plan returned, with seconds= for total_seconds"
        )
    numbers = dataset[quantity]
    for dimension in ("estimator", "rule", "layer"):
        if dimension not in numbers.dims:  # the user selected one
            numbers = numbers.expand_dims(dimension)
    names = [
        str(name)
        for name in numbers["estimator"].values
        if not (name == "exact" and quantity == "draws_per_input")
    ]
    rows = [str(name) for name in numbers["layer"].values]
    ax = _rows(ax, rows)
    for shift, estimator in zip(_shifts(len(names)), names, strict=True):
        by_rule = {
            str(rule): numbers.sel(estimator=estimator, rule=rule).values
            for rule in numbers["rule"].values
        }
        if len(by_rule) == 2:
            both = np.stack(list(by_rule.values()))
            ends = np.where(np.isfinite(both).all(axis=0), both, np.nan)
            y = np.arange(len(rows)) + shift
            ax.hlines(y, *ends, color=COLOURS[estimator], linewidth=0.8)
        for rule, values in by_rule.items():
            full = rule == "clt"
            label = estimator if full or len(by_rule) == 1 else ""
            _points(ax, shift, values, estimator, full=full, label=label)
    if rows[-1:] == [ALL] and len(rows) > 1:
        ax.axhline(len(rows) - 1.5, color="black", linewidth=0.6)
    aim = "for a relative error of {relative_error:.3g} with probability {confidence:.3g}"
    ax.set_xlabel(f"{_PLANNED[quantity]}\n{aim.format(**dataset.attrs)}")
    _legend(ax)
    return ax


def estimates(
    estimated: xr.DataTree,
    exact: xr.DataTree,
    *,
    over: str = "inputs",
    ax: "matplotlib.axes.Axes | None" = None,
) -> "matplotlib.axes.Axes":
    """Estimates against the exact information, parameter by parameter, and their calibration.

    The title says for what share of the parameters the deviation is within one and within two
    standard errors: 68% and 95% on average if the errors are normal.  The parameters share their
    draws, so that the shares of one estimate scatter about these.  Parameters without an error, as
    in the last layer with the Hessian-based estimator, are not counted.  Of more than 1,000
    parameters, a thousand or fewer are drawn, evenly spaced; all are counted.

    Parameters
    ----------
    estimated : xarray.DataTree
        What `estimate` returned.
    exact : xarray.DataTree
        What `analyze` returned for the same model.
    over : {"inputs", "distribution"}
        Which inputs `exact` rests on.  "inputs": those of the estimate; the standard errors are the
        exact ones of the draws, by the variances of `exact` (Lemma 3.1).  "distribution": others
        from the same distribution; the standard errors are what the estimate says of itself,
        together with what the exact information has from its inputs.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UserError
        If Matplotlib is missing, the trees do not belong together, or do not tell the errors.

    Examples
    --------
    >>> import diagfim, torch
    >>> from diagfim import plot
    >>> from matplotlib.figure import Figure
    >>> model, inputs = torch.nn.Linear(3, 2), torch.rand(50, 3)
    >>> drawn = diagfim.estimate(model, inputs, "score", draws=10)
    >>> axes = plot.estimates(drawn, diagfim.analyze(model, inputs), ax=Figure().subplots())
    >>> axes.get_xlabel()
    'exact Fisher information [nat$^2$]'
    """
    values, truths = _values(estimated, "fisher"), _values(exact, "fisher")
    for name in {**values, **truths}:
        shapes = [one[name].shape if name in one else None for one in (values, truths)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"estimated: {name} has the shape {shapes[0]}, and {shapes[1]} in exact; pass "
                "trees of the same model"
            )
    errors = _deviations(estimated, exact, over)
    x, y, error = (
        np.concatenate([one[name].ravel() for name in truths]) for one in (truths, values, errors)
    )
    counted = error > 0  # false for NaN too
    ratio = np.abs(y - x)[counted] / error[counted]
    ax = _axes(ax, (4.8, 4.4))
    shown = slice(None, None, -(-x.size // POINTS))
    x, y, error = (one[shown] for one in (x, y, error))
    estimator = estimated.attrs.get("estimator", "exact")
    ax.set_xscale("log")
    if (y < 0).any() and (x > 0).any():
        # Linear below what is small for the information, so that both signs have a place.
        ax.set_yscale("symlog", linthresh=float(np.quantile(x[x > 0], 0.05)))
    else:
        ax.set_yscale("log")
    ax.errorbar(
        np.where(x > 0, x, np.nan),
        y,
        np.nan_to_num(error),
        fmt=MARKERS[estimator],
        color=COLOURS[estimator],
        ecolor=f"{COLOURS[estimator]}30",
        elinewidth=0.6,
        markersize=2.5,
        markeredgewidth=0,
        label=f"{estimator} ± standard error",
        rasterized=True,
    )
    if (x > 0).any():
        ends = x[x > 0].min(), x.max()
        line = np.geomspace(*ends)  # bent where the scale of one axis is partly linear
        ax.plot(line, line, color="black", linewidth=0.8, zorder=3, label="equal")
    said = "no estimate has a standard error"
    if ratio.size:
        one, two = (f"{(ratio <= k).mean():.1%}" for k in (1, 2))
        said = f"{one} within 1 standard error, {two} within 2\n({ratio.size:,} parameters)"
    ax.set_title(said, fontsize="medium")
    ax.set_xlabel("exact Fisher information [nat$^2$]")
    ax.set_ylabel("estimated Fisher information [nat$^2$]")
    ax.legend(frameon=False, loc="upper left", fontsize="small")
    return ax


def _deviations(estimated: xr.DataTree, exact: xr.DataTree, over: str) -> dict[str, np.ndarray]:
    """Standard errors of the difference between estimated and exact information."""
    from diagfim.summary import squared_errors
    from diagfim.variances import draw_variances, inputs_of, tells

    if over == "distribution":
        own, others = (squared_errors(tree) for tree in (estimated, exact))
        if own is None or others is None:
            raise UserError(
                f"{'estimated' if own is None else 'exact'}: the tree has no standard_error; pass "
                "what diagfim.estimate returned with errors=True"
            )
        return {name: (one + others[name]) ** 0.5 for name, one in own.items()}
    if over != "inputs":
        raise UserError(f"over: {over!r} is not one of inputs, distribution")
    if not tells(exact, "variance_1"):
        raise UserError(
            "exact: the tree has no variance_1, which tells the errors of the draws; pass what "
            "diagfim.analyze returned, or over='distribution'"
        )
    count = inputs_of(estimated)
    if count != inputs_of(exact):
        raise UserError(
            f"over: {count} inputs of the estimate are not the {inputs_of(exact)} of the exact "
            "information; pass over='distribution'"
        )
    settings = estimated.attrs
    if "estimator" not in settings:
        raise UserError("estimated: the tree names no estimator; pass what estimate returned")
    mixed = estimated if settings["estimator"] == "mixed" else None
    probes = settings.get("probes", "rademacher")
    of_draw = draw_variances(exact, settings["estimator"], weights=mixed, probes=probes)
    return {name: (one / (count * settings["draws"])) ** 0.5 for name, one in of_draw.items()}


def _relative(
    tree: xr.DataTree,
    draws: np.ndarray,
    inputs: int | None,
    estimators: Sequence[str] | None,
) -> dict[str, np.ndarray]:
    """Relative errors by estimator, each (layers, numbers of draws)."""
    from diagfim.estimators import whole
    from diagfim.precision import relative
    from diagfim.variances import draw_variances, inputs_of

    analysed = inputs_of(tree)
    count = analysed if inputs is None else whole("inputs", inputs, 1)
    if inputs is not None and analysed == 1:
        raise UserError(
            "inputs: the tree rests on one input, which tells nothing of others; analyze more, or "
            "leave it out"
        )
    if estimators is None:
        estimators = (*BOTH, "mixed") if inputs is None else (*BOTH, "mixed", "exact")
    if isinstance(estimators, str) or not estimators:
        raise UserError(f"estimators: {estimators!r} is not a list of names; pass ['score'], say")
    fisher = _values(tree, "fisher")
    size = _sums({name: one**2 for name, one in fisher.items()})
    of_inputs = np.zeros_like(size) if inputs is None else _sums(_values(tree, "input_variance"))
    found = {}
    for estimator in estimators:
        of_draw = _sums(draw_variances(tree, estimator))
        total = (of_inputs + of_draw / draws) / count
        found[estimator] = relative(total, size) ** 0.5
    return found


def _sums(values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Sums over the parameters of each layer, (layers, 1)."""
    return np.array(list(layer_sums(values).values()))[:, None]


def _values(tree: xr.DataTree, quantity: str) -> dict[str, np.ndarray]:
    """A quantity by parameter name; in a message, where to get it."""
    if not isinstance(tree, xr.DataTree):
        raise UserError(
            f"tree: a {type(tree).__name__} is no DataTree; pass what diagfim.analyze returned"
        )
    if not tree.children:
        raise UserError("tree: it has no parameters; pass what diagfim.analyze returned")
    for name, node in tree.children.items():
        if quantity not in node:
            known = ", ".join(map(str, node.data_vars))
            raise UserError(
                f"tree: {name} has no {quantity}, but {known}; {_SOURCES.get(quantity, _ANALYZE)}"
            )
    return {name: node.dataset[quantity].values for name, node in tree.children.items()}


_ANALYZE = "pass what diagfim.analyze returned"
_SOURCES = {
    "standard_error": "pass what diagfim.estimate returned with errors=True",
    "score_weight": "pass what diagfim.estimate returned for 'mixed'",
    "variance_probe": "pass what diagfim.analyze returned with probes=True",
    **dict.fromkeys(
        ("total_variance", "input_part", "draw_part"), "pass what diagfim.variance returned"
    ),
}
"""Which function gives a quantity, where it is not `analyze`."""

_PLANNED = {
    "draws_per_input": "draws at each input [1]",
    "number_of_inputs": "number of inputs [1]",
    "total_seconds": "time of the estimate [s]",
}
"""What `plan` shows, and its units."""


def _unit(quantity: str) -> str:
    """The unit of a quantity: information in nat², its variances in nat⁴."""
    if quantity == "score_weight":
        return "1"
    return "nat$^2$" if quantity in ("fisher", "standard_error") else "nat$^4$"


def _percent(share: float) -> str:
    return "<1%" if share < 0.01 else f"{share:.0%}"


def _whose(tree: xr.DataTree, inputs: int | None) -> str:
    return f"the {tree.attrs['inputs']:,} inputs" if inputs is None else f"{inputs:,} new inputs"


def _axes(ax: "matplotlib.axes.Axes | None", size: tuple[float, float]) -> "matplotlib.axes.Axes":
    """The axes given, or those of a new figure of a size in inches."""
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError:
        raise UserError(
            "matplotlib: it is not installed, and plots need it; pip install 'diagfim[plot]'"
        ) from None
    return pyplot.subplots(figsize=size, layout="constrained")[1]


def _rows(
    ax: "matplotlib.axes.Axes | None", names: Sequence[str], scale: str = "log"
) -> "matplotlib.axes.Axes":
    """A row for each layer, the first on top."""
    ax = _axes(ax, (6.0, min(1.2 + max(0.22 * len(names), 0.9), 14.0)))
    ax.set_xscale(scale)
    # Away from the edges, where the texts stand.
    ax.margins(x=0.08)
    for row in range(1, len(names), 2):
        ax.axhspan(row - 0.5, row + 0.5, color="#F2F2F2", zorder=0)
    height = 72 * ax.get_window_extent().height / ax.figure.dpi
    # Labels of 5 points at least: of very many layers every second, third ... has its name.
    step = max(1, round(6 * len(names) / height))
    size = min(8.0, max(5.0, 0.8 * height / len(names)))
    ticks = range(0, len(names), step)
    ax.set_yticks(ticks, [short_layer(names[k], most=28) for k in ticks], fontsize=size)
    ax.set(ylim=(len(names) - 0.5, -0.5), ylabel="layer")
    ax.grid(axis="x", color="#D9D9D9", linewidth=0.4)
    ax.set_axisbelow(True)
    return ax


def _shifts(number: int) -> np.ndarray:
    """Where in its row the mark of each of several estimators stands."""
    return 0.6 * (np.arange(number) - (number - 1) / 2) / max(number, 2)


def _points(
    ax: "matplotlib.axes.Axes",
    shift: float,
    values: np.ndarray,
    estimator: str,
    *,
    label: str | None = None,
    errors: np.ndarray | None = None,
    full: bool = True,
) -> None:
    """A mark in every row; zero and infinity, which have no place on the axis, at its edges."""
    colour = COLOURS[estimator]
    rows = np.arange(len(values)) + shift
    placed = (values > 0) & np.isfinite(values)
    ax.errorbar(
        np.where(placed, values, np.nan),
        rows,
        xerr=errors,
        fmt=MARKERS[estimator],
        color=colour,
        markersize=4,
        markerfacecolor=colour if full else "white",
        elinewidth=1,
        label=estimator if label is None else label,
    )
    for row, value in zip(rows[~placed], values[~placed], strict=True):
        if value == 0:
            _edge(ax, row, "0", colour)
        elif value == np.inf:
            _edge(ax, row, "∞", colour, right=True)


def _edge(
    ax: "matplotlib.axes.Axes", row: float, text: str, colour: str = "black", right: bool = False
) -> None:
    """A text at an edge of the axes."""
    ax.text(
        0.995 if right else 0.005,
        row,
        text,
        color=colour,
        fontsize=7,
        ha="right" if right else "left",
        va="center",
        transform=ax.get_yaxis_transform(),
    )


def _legend(ax: "matplotlib.axes.Axes") -> None:
    """The legend above the axes."""
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=6,
        frameon=False,
        borderaxespad=0.2,
        columnspacing=1.2,
        handletextpad=0.4,
        fontsize="small",
    )
