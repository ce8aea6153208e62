"""The figures show the data that they are given, with axes that say what they show."""

import numpy as np
import pytest
from gathered import DRAWS, EPOCHS, LAYERS, gathered

from diagfim.figures import networks, style


def lines(axis, label):
    return [line for line in axis.get_lines() if line.get_label() == label]


@pytest.mark.parametrize("name", networks.FIGURES)
def test_axes_are_labelled_with_units(name):
    figure = networks.FIGURES[name](gathered(), 5000)
    for axis in figure.axes:
        assert bool(axis.get_xlabel()) == axis.get_subplotspec().is_last_row() or name == "training"
    left = [axis for axis in figure.axes if axis.get_subplotspec().colspan.start == 0]
    assert all("[" in axis.get_ylabel() or "ln" in axis.get_ylabel() for axis in left)


def test_figure_2_has_the_panels_and_curves_of_the_paper():
    datasets = gathered()
    figure = networks.figure_2(datasets, 5000)
    axes = np.array(figure.axes).reshape(2, len(LAYERS))
    exact = datasets["fixed"]["exact_variance"].median("replicate").isel(input=0)
    for column, layer in enumerate(LAYERS):
        top = axes[0, column]
        assert top.get_yscale() == "log"
        (curve,) = lines(top, r"s.t.d. $\hat{I}_1$, exact")
        expected = np.sqrt(exact.sel(layer=layer, estimator="score") / 5000)
        np.testing.assert_allclose(curve.get_ydata(), expected, rtol=1e-12)
        np.testing.assert_array_equal(curve.get_xdata(), EPOCHS)
    # V2 vanishes in the last layer: its curves are left out there, above and below.
    assert lines(axes[0, 2], r"s.t.d. $\hat{I}_2$, exact")
    assert not lines(axes[0, 3], r"s.t.d. $\hat{I}_2$, exact")
    ratio = axes[1, 0].get_lines()[0].get_ydata()
    np.testing.assert_allclose(ratio, np.log(50), rtol=1e-12)


def test_single_runs_show_every_replicate_by_itself():
    datasets = gathered(replicates=2)
    axes = np.array(networks.single_runs(datasets, 5000).axes).reshape(4, len(LAYERS))
    exact = datasets["fixed"]["exact_variance"].isel(input=0).sel(estimator="score")
    for run in range(2):
        (curve,) = lines(axes[2 * run, 1], r"s.t.d. $\hat{I}_1$, exact")
        expected = np.sqrt(exact.isel(replicate=run).sel(layer=LAYERS[1]) / 5000)
        np.testing.assert_allclose(curve.get_ydata(), expected, rtol=1e-12)
        assert axes[2 * run, 0].get_ylabel().startswith(f"run {run + 1}")


def test_variances_against_draws_without_joint_draws():
    datasets = gathered()
    del datasets["joint"]
    figure = networks.variance_against_draws(datasets, 5000)
    assert len(figure.axes) == len(LAYERS)
    assert "one test input" in figure.axes[0].get_ylabel()


def test_variances_lie_on_the_line_of_one_over_n():
    datasets = gathered()
    figure = networks.variance_against_draws(datasets, 5000)
    axis = figure.axes[0]
    (line,) = lines(axis, r"$\hat{I}_1$: exact, $V/N$")
    (points,) = lines(axis, r"$\hat{I}_1$: empirical")
    assert axis.get_xscale() == axis.get_yscale() == "log"
    np.testing.assert_allclose(line.get_ydata() * DRAWS, line.get_ydata()[0] * DRAWS[0])
    np.testing.assert_allclose(points.get_ydata(), line.get_ydata(), rtol=1e-12)


def test_curves_are_told_apart_without_colour():
    figure = networks.figure_2(gathered(), 5000)
    (legend,) = figure.legends
    looks = [
        (handle.get_linestyle(), handle.get_marker(), handle.get_linewidth(), handle.get_color())
        for handle in legend.legend_handles
    ]
    assert len(set(looks)) == len(looks)
    by_estimator = {look[3] for look in looks}
    assert by_estimator == {style.INFORMATION, *style.COLOURS.values()}


def test_equal_data_give_equal_files(tmp_path):
    for name in ("one", "two"):
        figure = networks.training(gathered(), 5000)
        paths = [str(tmp_path / f"{name}.{suffix}") for suffix in ("pdf", "png", "svg")]
        style.save(figure, paths, {"source": "diagfim, commit abc", "seed": "7"})
    for suffix in ("pdf", "png", "svg"):
        one, two = (tmp_path / f"{name}.{suffix}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
        assert b"source: diagfim, commit abc; seed: 7" in one.read_bytes()
    assert b"/Type3" not in (tmp_path / "one.pdf").read_bytes()
