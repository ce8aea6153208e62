"""The experiment "frontier": errors as Theorem 4.7 predicts them, plans, figures, claims."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure

from diagfim import analyze, latex
from diagfim.claims import Claim
from diagfim.experiments import frontier, reading
from diagfim.figures import frontier as figures
from diagfim.networks import mlp
from diagfim.report import frontier as report

SECTIONS = Path(__file__).parents[2] / "paper" / "sections"
SETTINGS = {
    "inputs": [4, 12],
    "draws": [1, 3],
    "repetitions": 2,
    "relative_error": 0.1,
    "confidence": 0.95,
}


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = mlp(5, [4, 3], 3, "tanh", 0).double().eval()
        return model, torch.rand(30, 5, dtype=torch.float64), torch.randint(3, (30,))


@pytest.fixture(scope="module")
def groups():
    each = [frontier.experiment(*network(r), SETTINGS, seed=r) for r in range(3)]
    return {k: xr.concat([one[k] for one in each], dim="replicate") for k in each[0]}


def squared_gradients(model, inputs, labels):
    """By parameter, the squared gradient of the loss of every sample: plain autograd."""
    found = []
    for x, y in zip(inputs, labels, strict=True):
        loss = torch.nn.functional.cross_entropy(model(x[None]), y[None])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        found.append([one.numpy() ** 2 for one in gradients])
    names = [name for name, _ in model.named_parameters()]
    return {k: np.stack(some) for k, some in zip(names, zip(*found, strict=True), strict=True)}


def test_layer_sums_add_weights_and_biases_and_then_all():
    values = {"a.weight": np.ones((2, 3)), "a.bias": np.full(2, 10.0), "b.weight": np.full(4, 0.5)}
    found = frontier.layer_sums(values)
    assert found["layer"].values.tolist() == ["a", "b", reading.WHOLE]
    assert found.values.tolist() == [26.0, 2.0, 28.0]


def test_relative_squares_are_of_the_whole_and_not_means_of_ratios():
    fisher = {"a.weight": np.array([3.0, 4.0]), "b.weight": np.array([1.0])}
    found = {"a.weight": np.array([3.0, 9.0]), "b.weight": np.array([2.0])}
    expected = [25 / 25, 1 / 1, 26 / 26]
    assert frontier.relative_squares(found, fisher).values.tolist() == expected


def test_empirical_error_against_autograd():
    model, inputs, labels = network()
    tree = analyze(model, inputs)
    bias, spread = frontier.empirical_error(model, inputs, labels, tree)
    squares = squared_gradients(model, inputs, labels)
    fisher = {name: tree[name]["fisher"].values for name in squares}
    size = sum((one**2).sum() for one in fisher.values())
    away = sum(((one.mean(0) - fisher[name]) ** 2).sum() for name, one in squares.items())
    scatter = sum(one.var(0).sum() for one in squares.values())
    # Sums of some tens of terms in float64.
    np.testing.assert_allclose(bias.sel(layer="network"), away / size, rtol=1e-10)
    np.testing.assert_allclose(spread.sel(layer="network"), scatter / size, rtol=1e-10)


def test_measured_errors_are_those_predicted():
    """|z| < 5 by the standard error over the repetitions; of a mix, no more than predicted."""
    model, inputs, labels = network()
    tree = analyze(model, inputs, probes=True)
    counts, draws = [8], [1, 3]
    error, _ = frontier.measure(model, inputs, labels, tree, counts, draws, 120, seed=5)
    bias, spread = frontier.empirical_error(model, inputs, labels, tree)
    predicted = frontier.predict(tree, bias, spread, counts, draws)
    z = (error.mean("repetition") - predicted) / (error.std("repetition", ddof=1) / 120**0.5)
    assert float(z.max()) < 5
    # The mix has the best weights for the inputs drawn, which may only help.
    others = z.drop_sel(estimator="mixed")
    assert float(others.min()) > -5
    # And the test can tell: half of what is predicted would be refused.
    half = (error.mean("repetition") - predicted / 2) / (error.std("repetition") / 120**0.5)
    assert float(half.max()) > 5


def test_predictions_are_variances_over_inputs_and_draws():
    model, inputs, labels = network()
    tree = analyze(model, inputs, probes=True)
    bias, spread = frontier.empirical_error(model, inputs, labels, tree)
    predicted = frontier.predict(tree, bias, spread, [4, 8], [1, 3]).sel(layer="network")
    exact = predicted.sel(estimator="exact")
    assert (exact.sel(draws=1) == exact.sel(draws=3)).all()
    np.testing.assert_allclose(exact.sel(inputs=4), 2 * exact.sel(inputs=8), rtol=1e-12)
    noise = predicted.sel(estimator="score") - exact
    np.testing.assert_allclose(noise.sel(draws=1), 3 * noise.sel(draws=3), rtol=1e-9)


def test_groups_rest_on_the_seed_alone(groups):
    again = frontier.experiment(*network(1), SETTINGS, seed=1)
    other = frontier.experiment(*network(1), SETTINGS, seed=2)
    for name in ("errors", "plan"):
        assert again[name].identical(groups[name].isel(replicate=1)), name
    assert not again["errors"]["squared_error"].equals(other["errors"]["squared_error"])


def test_what_draws_do_not_matter_to_is_made_once(groups):
    error = groups["errors"]["squared_error"]
    for estimator in ("exact", "empirical"):
        one = error.sel(estimator=estimator)
        assert one.sel(draws=1).notnull().all()
        assert one.sel(draws=3).isnull().all()
    assert error.sel(estimator=list(reading.DRAWN)).notnull().all()
    seconds = groups["seconds"]["seconds"]
    assert (seconds.notnull() == error.notnull().all("layer")).all()
    assert (seconds.where(seconds.notnull(), 1) > 0).all()


def test_more_draws_at_an_input_never_need_more_inputs(groups):
    number = groups["plan"]["number_of_inputs"]
    assert (number.sel(draws=3) <= number.sel(draws=1)).all()
    assert (number.sel(rule="clt") <= number.sel(rule="chebyshev")).all()
    assert (groups["plan"]["draws_per_input"].sel(estimator="exact") == 1).all()


@pytest.mark.parametrize("name", figures.FIGURES)
def test_figures_show_every_estimator(groups, name):
    figure = figures.FIGURES[name](groups)
    assert isinstance(figure, Figure)
    (legend,) = figure.legends
    shown = " ".join(text.get_text() for text in legend.get_texts())
    for label, *_ in figures.LOOKS.values():
        assert label in shown


def test_equal_time_is_the_root_of_the_ratio_of_times(groups):
    """By hand: at N draws, n inputs at c seconds each; the better N counts."""
    plan = groups["plan"]["number_of_inputs"].sel(rule="clt", layer="dense1")
    seconds = groups["seconds"]["seconds"].median("repetition").sel(inputs=12) / 12
    total = {
        name: np.minimum(*((plan * seconds).sel(estimator=name, draws=n).values for n in (1, 3)))
        for name in ("score", "hessian")
    }
    found = report.equal_time(groups).sel(layer="dense1")
    np.testing.assert_allclose(found, (total["hessian"] / total["score"]) ** 0.5, rtol=1e-12)
    assert "(every layer)" not in report.equal_time(groups)["layer"]


@pytest.mark.parametrize(("slower", "verdict"), [(1e-6, "reproduced"), (1e6, "not reproduced")])
def test_the_claim_follows_the_clock(groups, slower, verdict):
    seconds = groups["seconds"]["seconds"]
    bent = seconds.where(seconds["estimator"] != "hessian", seconds * slower)
    (claim,) = report.claims({**groups, "seconds": xr.Dataset({"seconds": bent})})
    assert isinstance(claim, Claim)
    assert claim.verdict == verdict


def test_the_cheapest_is_the_fastest(groups):
    seconds = groups["seconds"]["seconds"]
    bent = seconds.where(seconds["estimator"] != "hutchinson", seconds * 1e-9)
    for row in report.contents({**groups, "seconds": xr.Dataset({"seconds": bent})})["cheapest"]:
        assert row["name"] == "Hutchinson"
        assert row["wins"] == 3


@pytest.mark.parametrize("own", [False, True])
def test_the_section_names_nothing_that_is_missing(groups, tmp_path, own):
    shutil.copy(SECTIONS / "frontier.tex.j2", tmp_path)
    template = tmp_path / "all.tex.j2"
    template.write_text('<% include "frontier.tex.j2" %>')
    this = {"pool": 30, **SETTINGS, **report.contents(groups), "claims": report.claims(groups)}
    latex.render(template, tmp_path / "all.tex", this=this, main={"own": own})
    text = (tmp_path / "all.tex").read_text()
    assert ("first network" in text) != own
    assert "nan" not in text
    assert "textbackslash" not in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 3
