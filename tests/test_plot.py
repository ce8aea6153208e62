"""The plots show the numbers that they are given, on the axes that they are given."""

import subprocess
import sys
import warnings
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib import pyplot
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure

import diagfim
from diagfim import plot
from diagfim.arrays import layer_of
from diagfim.errors import UserError

LAYERS = ["0", "2", "4"]
INPUTS = 40


@pytest.fixture(scope="module")
def trees():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(6, 5),
        torch.nn.Tanh(),
        torch.nn.Linear(5, 4),
        torch.nn.Tanh(),
        torch.nn.Linear(4, 3),
    ).double()
    inputs = torch.randn(INPUTS, 6, dtype=torch.float64)
    found = {"analyzed": diagfim.analyze(model, inputs, probes=True)}
    for estimator in ("score", "hessian", "mixed", "exact", "hutchinson"):
        found[estimator] = diagfim.estimate(model, inputs, estimator, draws=3, seed=5)
    return found


@pytest.fixture
def ax():
    return Figure(figsize=(6, 4)).subplots()


@pytest.fixture(autouse=True)
def no_warning_and_no_figure_left():
    """Every test: Matplotlib has nothing to complain about, and drawing works."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    pyplot.close("all")


CALLS = {
    "layers": lambda t, ax: plot.layers(t["analyzed"], ax=ax),
    "layers of two": lambda t, ax: plot.layers({"a": t["analyzed"], "b": t["score"]}, ax=ax),
    "distribution": lambda t, ax: plot.distribution(t["hessian"], ax=ax),
    "which_estimator": lambda t, ax: plot.which_estimator(t["analyzed"], ax=ax),
    "estimator_map": lambda t, ax: plot.estimator_map(t["analyzed"], "0.weight", ax=ax),
    "relative_errors": lambda t, ax: plot.relative_errors(t["analyzed"], ax=ax),
    "convergence": lambda t, ax: plot.convergence(t["analyzed"], inputs=9, ax=ax),
    "plan": lambda t, ax: plot.plan(diagfim.plan(t["analyzed"]), ax=ax),
    "estimates": lambda t, ax: plot.estimates(t["mixed"], t["analyzed"], ax=ax),
}


def tree_of(values, inputs=INPUTS, **attributes):
    """A tree by hand: {parameter: {quantity: array}}."""
    nodes = {
        name: xr.Dataset(
            {key: (("unit", "fan_in")[: one.ndim], one) for key, one in quantities.items()}
        )
        for name, quantities in values.items()
    }
    root = xr.Dataset(attrs={"inputs": inputs, **attributes})
    return xr.DataTree.from_dict({"/": root, **nodes})


def moments(fisher, variance_1, variance_2, size=4):
    """The variables of `analyze`, each constant over a bias."""
    quantities = {
        "fisher": fisher,
        "variance_1": variance_1,
        "variance_2": variance_2,
        "covariance_12": 0.0,
        "input_variance": fisher**2,
    }
    return {key: np.full(size, float(value)) for key, value in quantities.items()}


def by_layer(tree, quantity):
    """The values of a quantity over the parameters of each layer, in one vector."""
    found = {}
    for name, node in tree.children.items():
        found.setdefault(layer_of(name), []).append(node[quantity].values.ravel())
    return [np.concatenate(parts) for parts in found.values()]


def rms(tree, quantity):
    return [np.mean(one**2) ** 0.5 for one in by_layer(tree, quantity)]


def marks(ax):
    """What stands in the rows: (label, positions, values, line) of every series of points."""
    return [
        (one.get_label(), one.lines[0].get_ydata(), one.lines[0].get_xdata(), one)
        for one in ax.containers
        if isinstance(one, ErrorbarContainer)
    ]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def draw(ax):
    """As when the figure is saved; every warning is an error."""
    ax.figure.canvas.draw()
    return ax


# ------------------------------------------------------------------------------- every function


def test_every_function_is_called_here():
    called = {name.split()[0] for name in CALLS}
    assert called == set(plot.__all__)


@pytest.mark.parametrize("name", CALLS)
def test_draws_on_the_axes_given_and_changes_nothing_else(name, trees, ax):
    settings, open_figures = dict(mpl.rcParams), pyplot.get_fignums()
    assert CALLS[name](trees, ax) is ax
    assert dict(mpl.rcParams) == settings
    assert pyplot.get_fignums() == open_figures
    assert ax.has_data()
    draw(ax)


@pytest.mark.parametrize("name", CALLS)
def test_makes_one_figure_where_no_axes_are_given(name, trees):
    settings = dict(mpl.rcParams)
    axes = CALLS[name](trees, None)
    assert pyplot.get_fignums() == [axes.figure.number]
    assert dict(mpl.rcParams) == settings
    draw(axes)


@pytest.mark.parametrize("name", CALLS)
def test_axes_are_labelled_with_units(name, trees, ax):
    CALLS[name](trees, ax)
    first = ax.get_xlabel().split("\n")[0]
    if name == "estimator_map":
        (bar,) = [one for one in ax.figure.axes if one is not ax]
        first = bar.get_ylabel()
    assert first.endswith("]")
    assert ax.get_ylabel() in ("layer", "unit") or ax.get_ylabel().endswith("]")


@pytest.mark.parametrize("name", CALLS)
def test_reopened_trees_draw_the_same(name, trees, tmp_path):
    reopened = {}
    for key, tree in trees.items():
        tree.to_netcdf(tmp_path / f"{key}.nc")
        reopened[key] = xr.open_datatree(tmp_path / f"{key}.nc")
    one, other = (CALLS[name](given, Figure().subplots()) for given in (trees, reopened))
    for a, b in zip(one.get_lines(), other.get_lines(), strict=True):
        np.testing.assert_array_equal(a.get_xydata(), b.get_xydata())
    for a, b in zip(one.images, other.images, strict=True):
        np.testing.assert_array_equal(a.get_array(), b.get_array())
    assert one.get_xlabel() == other.get_xlabel()
    assert texts(one) == texts(other)


@pytest.mark.parametrize("name", CALLS)
def test_without_matplotlib_the_message_says_what_to_install(name, trees, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"^matplotlib: .*pip install 'diagfim\[plot\]'$"):
        CALLS[name](trees, None)


def test_import_takes_neither_torch_nor_matplotlib_nor_seaborn():
    code = (
        "import sys, diagfim.plot; "
        "print(sorted({'torch', 'matplotlib', 'seaborn'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_refusal_leaves_no_figure(trees):
    for call in (
        lambda: plot.which_estimator(trees["score"]),
        lambda: plot.relative_errors(trees["score"]),
        lambda: plot.convergence(trees["analyzed"], "nowhere"),
        lambda: plot.estimator_map(trees["analyzed"], "nowhere"),
        lambda: plot.distribution(trees["score"], "variance_1"),
        lambda: plot.estimates(trees["score"], trees["score"]),
        lambda: plot.plan(xr.Dataset()),
        lambda: plot.layers({}),
    ):
        with pytest.raises(UserError):
            call()
    assert not pyplot.get_fignums()


# --------------------------------------------------------------------------------------- layers


def test_layers_are_root_mean_squares_with_those_of_their_errors(trees, ax):
    plot.layers(trees["score"], ax=ax)
    [(_, rows, values, series)] = marks(ax)
    np.testing.assert_array_equal(rows, [0, 1, 2])
    np.testing.assert_allclose(values, rms(trees["score"], "fisher"), rtol=1e-12)
    (bars,) = series.lines[2]
    ends = np.array([segment[:, 0] for segment in bars.get_segments()])
    expected = rms(trees["score"], "standard_error")
    np.testing.assert_allclose((ends[:, 1] - ends[:, 0]) / 2, expected, rtol=1e-9)
    assert [label.get_text() for label in ax.get_yticklabels()] == LAYERS
    assert ax.get_xscale() == "log"
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first layer on top


def test_an_exact_diagonal_has_the_error_of_its_inputs(trees, ax):
    plot.layers({"analyzed": trees["analyzed"], "estimated": trees["exact"]}, ax=ax)
    segments = [np.array(one.lines[2][0].get_segments())[:, :, 0] for *_, one in marks(ax)]
    np.testing.assert_allclose(*segments, rtol=1e-9)


def test_trees_side_by_side_are_told_apart_without_colour(trees, ax):
    plot.layers({"before": trees["score"], "after": trees["score"]}, ax=ax)
    [one, other] = marks(ax)
    assert [one[0], other[0]] == ["before", "after"]
    assert (one[1] != other[1]).all()
    assert one[3].lines[0].get_marker() != other[3].lines[0].get_marker()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["before", "after"]


def test_one_input_has_no_bars_and_the_label_names_none(ax):
    tree = tree_of(
        {"0.bias": {"fisher": np.ones(3), "standard_error": np.full(3, np.nan)}},
        inputs=1,
        estimator="score",
    )
    plot.layers(tree, ax=ax)
    assert "±" not in ax.get_xlabel()
    assert not marks(ax)[0][3].has_xerr
    draw(ax)


def test_a_layer_without_information_is_shown_as_zero(ax):
    plot.layers(tree_of({"0.bias": moments(0, 0, 0), "2.bias": moments(2, 1, 1)}), ax=ax)
    assert texts(ax) == ["0"]
    assert ax.texts[0].get_position()[1] == 0
    np.testing.assert_array_equal(marks(ax)[0][2], [np.nan, 2])
    draw(ax)


@pytest.mark.parametrize("name", ["layers", "distribution", "which_estimator", "relative_errors"])
def test_nothing_but_zeros(name, ax):
    getattr(plot, name)(tree_of({"0.bias": moments(0, 0, 0)}), ax=ax)
    draw(ax)


def test_a_bar_beyond_zero_keeps_the_limits_of_the_axis(ax):
    values = {"fisher": np.ones(3), "standard_error": np.full(3, 5.0)}
    tree = tree_of({"0.bias": values}, estimator="score")
    draw(plot.layers(tree, ax=ax))
    left, right = ax.get_xlim()
    assert 0.1 < left < 1
    assert 6 < right < 100


def test_trees_of_different_models_are_refused(trees):
    other = tree_of({"elsewhere.bias": {"fisher": np.ones(2)}})
    with pytest.raises(UserError, match=r"^trees: b has other layers"):
        plot.layers({"a": trees["score"], "b": other})
    with pytest.raises(UserError, match=r"^trees: a list is neither"):
        plot.layers([trees["score"], trees["exact"]])


@pytest.mark.parametrize("number", [41, 200])
def test_names_of_many_layers_do_not_overlap(number):
    names = [f"encoder.layers.{k}.self_attention.projections.output" for k in range(number)]
    tree = tree_of({f"{name}.bias": moments(k + 1, 1, 1) for k, name in enumerate(names)})
    axes = draw(plot.relative_errors(tree))
    labels = axes.get_yticklabels()
    boxes = [label.get_window_extent() for label in labels]
    assert all(above.y0 >= below.y1 - 1 for above, below in pairwise(boxes))
    assert all(len(label.get_text()) <= 28 and "…" in label.get_text() for label in labels)
    assert axes.figure.get_figheight() <= 14
    assert len(marks(axes)[0][1]) == number


# --------------------------------------------------------------------------------- distribution


def test_distribution_is_that_of_the_parameters(trees, ax):
    plot.distribution(trees["analyzed"], "variance_1", ax=ax)
    every = by_layer(trees["analyzed"], "variance_1")
    lines = ax.get_lines()
    assert len(lines) == 9
    for row, one in enumerate(every):
        thin, thick, middle = (line.get_xdata() for line in lines[3 * row : 3 * row + 3])
        np.testing.assert_allclose(thin, np.quantile(one, [0.05, 0.95]))
        np.testing.assert_allclose(thick, np.quantile(one, [0.25, 0.75]))
        np.testing.assert_allclose(middle, np.median(one))
        assert set(lines[3 * row].get_ydata()) == {row}


def test_shares_of_zeros_and_negative_values_are_told(ax):
    values = {"fisher": np.array([-1.0, -2, 0, 1, 2, 3, 4, 5, 6, 7])}
    draw(plot.distribution(tree_of({"0.bias": values}, estimator="hessian"), ax=ax))
    assert texts(ax) == ["10% zero, 20% negative"]
    assert ax.get_xlabel() == "Fisher information, hessian estimate [nat$^2$]"
    assert ax.get_xlim()[0] > 1e-3  # what is negative does not stretch the axis


def test_unknown_values_are_counted(ax):
    values = {"fisher": np.ones(3), "standard_error": np.full(3, np.nan)}
    tree = tree_of({"0.bias": values}, inputs=1, estimator="score")
    draw(plot.distribution(tree, "standard_error", ax=ax))
    assert texts(ax) == ["100% NaN"]


def test_a_missing_quantity_is_named_with_what_gives_it(trees):
    expected = "tree: 0.weight has no variance_1, but fisher, standard_error; pass what"
    with pytest.raises(UserError, match=rf"^{expected} diagfim.analyze returned$"):
        plot.distribution(trees["score"], "variance_1")
    with pytest.raises(UserError, match=r"has no standard_error.*estimate returned with errors"):
        plot.distribution(trees["analyzed"], "standard_error")
    with pytest.raises(UserError, match=r"^tree: a dict is no DataTree"):
        plot.distribution({"fisher": 1})
    with pytest.raises(UserError, match=r"^tree: it has no parameters"):
        plot.distribution(xr.DataTree())


# ---------------------------------------------------------------- which_estimator, estimator_map


def test_shares_of_the_parameters(ax):
    v1 = np.array([1.0, 1, 1, 0, 5])
    v2 = np.array([2.0, 0, 1, 0, 9])
    tree = tree_of({"0.bias": {"variance_1": v1, "variance_2": v2, "fisher": v1}})
    plot.which_estimator(tree, ax=ax)
    bars = [one for one in ax.containers if isinstance(one, BarContainer)]
    found = {one.get_label(): (one[0].get_x(), one[0].get_width()) for one in bars}
    assert found == {
        "score varies less": (0, pytest.approx(40)),
        "equal": (pytest.approx(40), pytest.approx(40)),
        "hessian varies less": (pytest.approx(80), pytest.approx(20)),
    }


def test_shares_over_the_tensors_of_a_layer_add_up(trees, ax):
    plot.which_estimator(trees["analyzed"], ax=ax)
    bars = [one for one in ax.containers if isinstance(one, BarContainer)]
    widths = np.array([[bar.get_width() for bar in one] for one in bars])
    np.testing.assert_allclose(widths.sum(axis=0), 100)
    pairs = [by_layer(trees["analyzed"], key) for key in ("variance_1", "variance_2")]
    expected = [100 * np.mean(v1 < v2) for v1, v2 in zip(*pairs, strict=True)]
    np.testing.assert_allclose(widths[0], expected)
    assert widths[2, 2] == 100  # in the last layer the Hessian does not vary


def test_map_holds_the_logarithm_of_the_ratio(trees, ax):
    plot.estimator_map(trees["analyzed"], "2.weight", ax=ax)
    node = trees["analyzed"]["2.weight"]
    (image,) = ax.images
    expected = np.log10(node["variance_1"] / node["variance_2"])
    np.testing.assert_allclose(image.get_array(), expected, rtol=1e-12)
    assert image.norm.vmin == -image.norm.vmax


def test_map_where_one_or_neither_estimator_varies(ax):
    v1 = np.array([[1.0, 0, 0], [2, 5, 1]])
    v2 = np.array([[0.0, 1, 0], [2, 5, 10]])
    tree = tree_of({"weight": {"variance_1": v1, "variance_2": v2, "fisher": v1}})
    shown = draw(plot.estimator_map(tree, "weight", ax=ax)).images[0].get_array()
    np.testing.assert_array_equal(shown.mask, [[False, False, True], [False, False, False]])
    assert shown[0, 0] > 300  # beyond every colour, and not masked
    assert shown[0, 1] < -300
    np.testing.assert_allclose(shown[1], [0, 0, -1], atol=1e-15)


@pytest.mark.parametrize("shape", [(), (7,), (3, 2, 2, 2)])
def test_map_of_tensors_of_any_dimension(shape, ax):
    dims = tuple(f"axis_{k}" for k in range(len(shape)))
    rng = np.random.default_rng(0)
    node = xr.Dataset({f"variance_{k}": (dims, rng.random(shape)) for k in (1, 2)})
    tree = xr.DataTree.from_dict({"/": xr.Dataset(attrs={"inputs": 2}), "weight": node})
    axes = draw(plot.estimator_map(tree, "weight", ax=ax))
    rows = shape[0] if shape else 1
    assert axes.images[0].get_array().shape == (rows, int(np.prod(shape)) // rows)


def test_colours_of_the_map_are_told_apart_in_grey():
    luminance = [np.dot(mpl.colors.to_rgb(one), (0.2126, 0.7152, 0.0722)) for one in plot.SIDES]
    assert (np.diff(luminance) > 0.05).all()


def test_an_unknown_parameter_is_answered_with_the_nearest(trees):
    with pytest.raises(UserError, match=r"^parameter: the tree has no '0.weigth'.* 0\.weight"):
        plot.estimator_map(trees["analyzed"], "0.weigth")


# ----------------------------------------------------------------- relative_errors, convergence


def expected_errors(tree, estimator, draws, inputs=None):
    """√(Σ variance / Σ I²) by layer, by `diagfim.variance`."""
    noise = by_layer(diagfim.variance(tree, estimator, draws, inputs), "total_variance")
    fisher = by_layer(tree, "fisher")
    return [(v.sum() / (i**2).sum()) ** 0.5 for v, i in zip(noise, fisher, strict=True)]


@pytest.mark.parametrize(("draws", "inputs"), [(1, None), (7, None), (7, 25)])
def test_relative_errors_are_those_of_theorem_4_7(draws, inputs, trees, ax):
    names = ["score", "hessian", "mixed", "exact", "hutchinson"]
    plot.relative_errors(trees["analyzed"], draws, inputs, estimators=names, ax=ax)
    found = marks(ax)
    assert [label for label, *_ in found] == names
    zeros = 0
    for estimator, _, values, _ in found:
        expected = np.array(expected_errors(trees["analyzed"], estimator, draws, inputs))
        zeros += (expected == 0).sum()
        expected[expected == 0] = np.nan
        np.testing.assert_allclose(values, expected, rtol=1e-12)
    # At fixed inputs the exact estimate has no error, nor have two others in the last layer.
    assert texts(ax) == ["0"] * zeros
    assert zeros == (5 if inputs is None else 0)


def test_error_without_information_is_infinite(ax):
    plot.relative_errors(tree_of({"0.bias": moments(0, 0, 3)}), estimators=["hessian"], ax=ax)
    assert texts(ax) == ["∞"]
    draw(ax)


@pytest.mark.parametrize("layer", [None, "0", "2"])
def test_curves_fall_below_the_line_at_the_draws_of_the_plan(layer, trees, ax):
    tree, names = trees["analyzed"], ["score", "hessian", "mixed"]
    settings = {"relative_error": 0.03, "confidence": 0.9, "estimators": names}
    plot.convergence(tree, layer, draws=10**6, ax=ax, **settings)
    *curves, line = ax.get_lines()
    assert [curve.get_label() for curve in curves] == names
    (enough,) = set(line.get_ydata())
    planned = diagfim.plan(tree, **settings)["draws_per_input"].sel(rule="clt")
    for name, curve in zip(names, curves, strict=True):
        needed = int(planned.sel(estimator=name, layer=layer or "(every layer)"))
        for draws, error in curve.get_xydata():
            assert (error <= enough) == (draws >= needed)
        # Not only between the points of the curve: the error falls as 1/√N.
        first = curve.get_ydata()[0]
        assert first / needed**0.5 <= enough * (1 + 1e-12) < first / (needed - 1) ** 0.5


def test_curves_are_of_the_worst_layer(trees, ax):
    plot.convergence(trees["analyzed"], inputs=30, draws=50, ax=ax)
    curves = {line.get_label(): line.get_xydata() for line in ax.get_lines()[:-1]}
    assert list(curves) == ["score", "hessian", "mixed", "exact"]
    for estimator, points in curves.items():
        for draws, error in points[[0, 5, -1]]:
            expected = expected_errors(trees["analyzed"], estimator, int(draws), 30)
            np.testing.assert_allclose(error, max(expected), rtol=1e-12)


def test_curves_are_told_apart_without_colour(trees, ax):
    names = ["score", "hessian", "mixed", "exact", "hutchinson"]
    plot.convergence(trees["analyzed"], inputs=9, estimators=names, ax=ax)
    styles = {str(line._dash_pattern) for line in ax.get_lines()[:-1]}
    assert len(styles) == len(names)


def test_curves_without_a_place_are_named_in_the_legend(ax):
    tree = tree_of({"0.bias": moments(1, 2, 0), "2.bias": moments(0, 0, 0)})
    draw(plot.convergence(tree, ax=ax))
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["score", "hessian (0)", "mixed (0)"]
    other = Figure().subplots()
    draw(plot.convergence(tree_of({"0.bias": moments(0, 2, 1)}), ax=other))
    labels = [text.get_text() for text in other.get_legend().get_texts()]
    assert labels == ["score (∞)", "hessian (∞)", "mixed (∞)"]


def test_refusals_of_the_error_plots(trees):
    tree = trees["analyzed"]
    with pytest.raises(UserError, match=r"^layer: the tree has no '3'; there is"):
        plot.convergence(tree, "3")
    with pytest.raises(UserError, match=r"^draws: 0 is not an integer"):
        plot.relative_errors(tree, 0)
    with pytest.raises(UserError, match=r"^draws: 1 is not an integer of at least 2"):
        plot.convergence(tree, draws=1)
    with pytest.raises(UserError, match=r"^estimators: 'score' is not a list"):
        plot.relative_errors(tree, estimators="score")
    with pytest.raises(UserError, match=r"biased"):
        plot.relative_errors(tree, estimators=["empirical"])
    with pytest.raises(UserError, match=r"^relative_error: -1 is not positive"):
        plot.convergence(tree, relative_error=-1)
    with pytest.raises(UserError, match=r"^inputs: the tree rests on one input"):
        plot.relative_errors(tree_of({"0.bias": moments(1, 1, 1)}, inputs=1), inputs=5)
    with pytest.raises(UserError, match=r"has no variance_1.*diagfim.analyze"):
        plot.relative_errors(trees["exact"])


# ----------------------------------------------------------------------------------------- plan


def test_plan_shows_both_rules(trees, ax):
    planned = diagfim.plan(trees["analyzed"], 0.05)
    plot.plan(planned, ax=ax)
    numbers = planned["draws_per_input"]
    series = marks(ax)
    names = ["score", "hessian", "mixed", "hutchinson"]  # "exact" has no draws
    assert len(series) == 2 * len(names)
    for _, rows, values, one in series:
        marker = one.lines[0]
        rule = "chebyshev" if marker.get_markerfacecolor() == "white" else "clt"
        (estimator,) = [name for name in names if plot.COLOURS[name] == marker.get_color()]
        np.testing.assert_array_equal(values, numbers.sel(rule=rule, estimator=estimator))
        np.testing.assert_array_equal(np.rint(rows), range(4))
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == names
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [*LAYERS, "(every layer)"]


def test_plan_shows_what_was_planned(trees, ax):
    planned = diagfim.plan(trees["analyzed"], over="distribution", seconds={"score": 1e-5})
    plot.plan(planned.sel(rule="clt", estimator="score"), ax=ax)
    [(label, _, values, _)] = marks(ax)
    assert label == "score"
    assert ax.get_xlabel().startswith("number of inputs [1]")
    expected = planned["number_of_inputs"].sel(rule="clt", estimator="score")
    np.testing.assert_array_equal(values, expected)
    axes = plot.plan(planned, "total_seconds", ax=Figure().subplots())
    assert axes.get_xlabel().startswith("time of the estimate [s]")
    draw(axes)


def test_no_number_of_draws_is_infinity_at_the_edge(ax):
    tree = tree_of({"0.bias": moments(1, 1, 1), "2.bias": moments(0, 0, 3)})
    planned = diagfim.plan(tree, estimators=["score", "hessian"])
    plot.plan(planned, ax=ax)
    draw(ax)
    # Of the second layer and of all layers together, by either rule.
    assert texts(ax) == ["∞"] * 4
    assert all(text.get_position()[0] > 0.9 for text in ax.texts)


def test_refusals_of_plan(trees):
    with pytest.raises(UserError, match=r"^dataset: a DataTree is not what diagfim.plan returned"):
        plot.plan(trees["analyzed"])
    with pytest.raises(UserError, match=r"total_seconds.*seconds="):
        plot.plan(diagfim.plan(trees["analyzed"]), "total_seconds")


# ------------------------------------------------------------------------------------ estimates


def flat(tree, quantity):
    return np.concatenate([node[quantity].values.ravel() for node in tree.children.values()])


def shares(deviation, error):
    counted = error > 0
    ratio = abs(deviation[counted]) / error[counted]
    one, two = (f"{np.mean(ratio <= k):.1%}" for k in (1, 2))
    return f"{one} within 1 standard error, {two} within 2\n({counted.sum():,} parameters)"


@pytest.mark.parametrize("estimator", ["score", "hessian", "hutchinson"])
def test_estimates_against_exact_with_the_error_of_the_draws(estimator, trees, ax):
    estimated, exact = trees[estimator], trees["analyzed"]
    plot.estimates(estimated, exact, ax=ax)
    [(_, y, x, series)] = marks(ax)
    np.testing.assert_array_equal(x, flat(exact, "fisher"))
    np.testing.assert_array_equal(y, flat(estimated, "fisher"))
    error = flat(diagfim.variance(exact, estimator, 3), "total_variance") ** 0.5
    segments = np.array(series.lines[2][0].get_segments())
    np.testing.assert_allclose(np.ptp(segments[:, :, 1], axis=1) / 2, error, rtol=1e-7, atol=1e-12)
    assert ax.get_title() == shares(y - x, error)
    assert ax.get_yscale() == ("symlog" if (y < 0).any() else "log")


def test_weights_of_the_mix_are_those_that_were_used(trees, ax):
    plot.estimates(trees["mixed"], trees["analyzed"], ax=ax)
    noise = diagfim.variance(trees["analyzed"], "mixed", 3, weights=trees["mixed"])
    deviation = flat(trees["mixed"], "fisher") - flat(trees["analyzed"], "fisher")
    assert ax.get_title() == shares(deviation, flat(noise, "total_variance") ** 0.5)


def test_errors_over_the_distribution_are_those_of_both_sides(trees, ax):
    plot.estimates(trees["score"], trees["analyzed"], over="distribution", ax=ax)
    own = flat(trees["score"], "standard_error")
    other = flat(trees["analyzed"], "input_variance") / (INPUTS - 1)
    deviation = flat(trees["score"], "fisher") - flat(trees["analyzed"], "fisher")
    assert ax.get_title() == shares(deviation, (own**2 + other) ** 0.5)


def test_an_exact_estimate_has_no_error(trees, ax):
    plot.estimates(trees["exact"], trees["analyzed"], ax=ax)
    assert ax.get_title() == "no estimate has a standard error"


def test_points_are_few_and_shares_are_of_all_and_calibrated(ax):
    rng = np.random.default_rng(3)
    size = 10 * plot.POINTS + 1
    truth = {**moments(1, 1, 1, size), "fisher": rng.random(size) + 1}
    drawn = {"fisher": truth["fisher"] + rng.normal(size=size) / INPUTS**0.5}
    estimated = tree_of({"0.bias": drawn}, estimator="score", draws=1)
    plot.estimates(estimated, tree_of({"0.bias": truth}), ax=ax)
    [(*_, x, _)] = marks(ax)
    assert plot.POINTS / 2 < len(x) <= plot.POINTS
    assert ax.get_title() == shares(drawn["fisher"] - truth["fisher"], np.full(size, INPUTS**-0.5))
    # The deviations are independent and normal with the variance that the trees tell, V1 / N_x.
    # A share p has the standard error √(p (1 − p) / size), 0.0046 at most; 4 of these are allowed.
    found = [float(part.split("%")[0]) / 100 for part in ax.get_title().split(", ")[:2]]
    np.testing.assert_allclose(found, [0.683, 0.954], atol=4 * 0.0046)


def test_unknown_errors_are_not_counted(ax):
    truth = tree_of({"0.bias": moments(1, 1, 1)})
    drawn = {"fisher": np.full(4, 1.5), "standard_error": np.full(4, np.nan)}
    estimated = tree_of({"0.bias": drawn}, estimator="score", draws=1)
    draw(plot.estimates(estimated, truth, over="distribution", ax=ax))
    assert ax.get_title() == "no estimate has a standard error"


def test_refusals_of_estimates(trees):
    score, exact = trees["score"], trees["analyzed"]
    with pytest.raises(UserError, match=r"^exact: the tree has no variance_1.*over='distrib"):
        plot.estimates(score, trees["exact"])
    with pytest.raises(UserError, match=r"^over: 'all' is not one of"):
        plot.estimates(score, exact, over="all")
    with pytest.raises(UserError, match=r"^estimated: the tree names no estimator"):
        plot.estimates(exact, exact)
    other = tree_of({"0.bias": moments(1, 1, 1)}, inputs=7)
    one = tree_of({"0.bias": {"fisher": np.ones(4)}}, estimator="score", draws=1)
    with pytest.raises(UserError, match=rf"^over: {INPUTS} inputs of the estimate are not the 7"):
        plot.estimates(one, other)
    with pytest.raises(UserError, match=r"^estimated: the tree has no standard_error"):
        plot.estimates(one, other, over="distribution")
    with pytest.raises(UserError, match=r"^estimated: 0.weight has the shape \(5, 6\), and None"):
        plot.estimates(score, other)
