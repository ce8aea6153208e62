"""The experiment "empirical": the references against enumeration, distances, figures, claims."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure
from scipy import stats

from diagfim import analyze, latex
from diagfim.experiments import empirical
from diagfim.experiments.reading import WHOLE
from diagfim.figures import empirical as figures
from diagfim.networks import mlp
from diagfim.report import empirical as report

SECTIONS = Path(__file__).parents[2] / "paper" / "sections"
BATCH = 3


def network(seed=0, count=40):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = mlp(5, [4, 3], 3, "tanh", 0).double().eval()
        return model, torch.rand(count, 5, dtype=torch.float64), torch.randint(3, (count,))


def accumulator(model):
    return {name: 0.1 * one.detach() ** 2 for name, one in model.named_parameters()}


def loss_gradients(model, inputs, labels):
    loss = torch.nn.functional.cross_entropy(model(inputs), labels)
    return [one.numpy() for one in torch.autograd.grad(loss, list(model.parameters()))]


@pytest.fixture(scope="module")
def groups():
    replicates = []
    for replicate in range(3):
        model, inputs, labels = network(replicate)
        each = []
        for epoch in (0, 4):
            kept = accumulator(model) if epoch else {}
            one = [
                empirical.compare(model, inputs, labels.roll(k), kept, BATCH, 10 * epoch + k)
                for k in range(2)
            ]
            each.append(xr.concat(one, "set").assign_coords(set=["train", "test"]))
        replicates.append(xr.concat(each, "epoch").assign_coords(epoch=[0, 4]))
    return {"comparison": xr.concat(replicates, "replicate")}


def test_squared_batch_gradients_by_enumeration():
    """B E g_B² over all ordered batches of B independent samples, by plain autograd."""
    model, inputs, labels = network(count=4)
    found = empirical.references(model, inputs, labels, {}, BATCH, 0)
    batches = [list(some) for some in itertools.product(range(4), repeat=BATCH)]
    squares = [[g**2 for g in loss_gradients(model, inputs[b], labels[b])] for b in batches]
    singles = [[g**2 for g in loss_gradients(model, inputs[[k]], labels[[k]])] for k in range(4)]
    for k, (name, _) in enumerate(model.named_parameters()):
        expected = BATCH * np.mean([one[k] for one in squares], axis=0)
        # 64 terms in float64.
        np.testing.assert_allclose(found["batch"][name], expected, rtol=1e-11, atol=1e-16)
        empirical_fisher = np.mean([one[k] for one in singles], axis=0)
        np.testing.assert_allclose(
            found["empirical"][name], empirical_fisher, rtol=1e-11, atol=1e-16
        )
    assert "adam" not in found


def test_the_accumulator_counts_batch_size_times():
    model, inputs, labels = network()
    kept = accumulator(model)
    found = empirical.references(model, inputs, labels, kept, BATCH, 0)["adam"]
    assert all((found[name] == BATCH * one.numpy()).all() for name, one in kept.items())


def test_ranks_give_spearmans_correlation():
    rng = np.random.default_rng(3)
    fisher = {"a.weight": rng.random((4, 3)), "a.bias": np.zeros(4), "b.weight": rng.random(5)}
    values = {k: one + 0.3 * rng.random(one.shape) for k, one in fisher.items()}
    found = empirical.beside_fisher(values, fisher, empirical.ranks(fisher))
    for layer, names in (("a", ["a.weight", "a.bias"]), ("b", ["b.weight"]), (WHOLE, fisher)):
        one, two = (np.concatenate([side[k].ravel() for k in names]) for side in (values, fisher))
        expected = stats.spearmanr(one, two).statistic
        assert float(found["rank_correlation"].sel(layer=layer)) == pytest.approx(expected, 1e-12)
        assert float(found["distance"].sel(layer=layer)) == pytest.approx(
            np.linalg.norm(one - two), 1e-12
        )
        assert float(found["trace_ratio"].sel(layer=layer)) == pytest.approx(
            one.sum() / two.sum(), 1e-12
        )


def test_equal_draws_equate_the_mean_squared_errors():
    model, inputs, labels = network()
    found = empirical.compare(model, inputs, labels, accumulator(model), BATCH, 0)
    tree = analyze(model, inputs)
    for estimator, quantity in empirical.ESTIMATORS.items():
        total = sum(float(node[quantity].sum()) for node in tree.children.values())
        one = found.sel(layer=WHOLE).sel(estimator=estimator)
        error = total / (len(inputs) * one["equal_draws"])
        # Another order of sums over some tens of parameters.
        np.testing.assert_allclose(error, one["distance"] ** 2, rtol=1e-11)


def test_the_control_has_the_error_of_one_draw():
    """Mean over seeds of distance² over Σ V1 / N_x, which is 1 / N, is 1 within |z| < 5."""
    model, inputs, labels = network()
    tree = analyze(model, inputs)
    expected = sum(float(node["variance_1"].sum()) for node in tree.children.values()) / len(inputs)
    inverse = []
    for seed in range(100):
        control = empirical.references(model, inputs, labels, {}, BATCH, seed)["control"]
        fisher = {name: node["fisher"].values for name, node in tree.children.items()}
        away = sum(((control[name] - one) ** 2).sum() for name, one in fisher.items())
        inverse.append(away / expected)
    error = np.std(inverse, ddof=1) / len(inverse) ** 0.5
    assert abs(np.mean(inverse) - 1) < 5 * error
    assert np.mean(inverse) - 0.5 > 5 * error


def test_before_training_adam_has_nothing(groups):
    comparison = groups["comparison"]
    adam = comparison.sel(reference="adam")[["distance", "trace_ratio", "equal_draws"]]
    assert adam.sel(epoch=0).isnull().all().to_array().all()
    assert adam.sel(epoch=4).notnull().all().to_array().all()
    assert comparison.drop_sel(reference="adam").notnull().all().to_array().all()


def test_the_last_layer_needs_no_draw_of_the_hessian(groups):
    draws = groups["comparison"]["equal_draws"].sel(estimator="hessian", layer="dense3", epoch=4)
    assert (draws == 0).all()


@pytest.mark.parametrize("name", figures.FIGURES)
def test_figures_show_every_reference(groups, name):
    figure = figures.FIGURES[name](groups)
    assert isinstance(figure, Figure)
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert {label for label, *_ in figures.REFERENCES.values()} <= set(shown)


def bent(groups, **factors):
    """The groups with some variables of the empirical Fisher at the last epoch multiplied."""
    comparison = groups["comparison"].copy(deep=True)
    for name, factor in factors.items():
        at = {"epoch": 4} if name == "fisher_norm" else {"epoch": 4, "reference": "empirical"}
        comparison[name].loc[at] = comparison[name].loc[at] * factor
    return {"comparison": comparison}


@pytest.mark.parametrize(("factor", "verdict"), [(1e-9, "reproduced"), (1e9, "not reproduced")])
def test_bias_is_what_exceeds_sampling(groups, factor, verdict):
    comparison = groups["comparison"].copy(deep=True)
    ours = {"reference": "empirical"}
    comparison["equal_draws"].loc[ours] = comparison["equal_draws"].loc[ours] * factor
    claim = report.biased({"comparison": comparison})
    assert claim.verdict == verdict


def test_distances_decide_apart(groups):
    """A distance that shrinks by less than the information grows in relation to it."""
    nearer = bent(groups, distance=0.1, fisher_norm=0.01)
    assert report.closer(nearer).verdict == "reproduced"
    assert report.relatively_closer(nearer).verdict == "not reproduced"
    farther = bent(groups, distance=10.0, fisher_norm=100.0)
    assert report.closer(farther).verdict == "not reproduced"
    assert report.relatively_closer(farther).verdict == "reproduced"


def test_the_section_names_nothing_that_is_missing(groups, tmp_path):
    shutil.copy(SECTIONS / "empirical.tex.j2", tmp_path)
    template = tmp_path / "all.tex.j2"
    template.write_text('<% include "empirical.tex.j2" %>')
    this = {"inputs": 40, "epochs": [0, 4], **report.contents(groups)}
    this["claims"] = report.claims(groups)
    latex.render(template, tmp_path / "all.tex", this=this, training={"batch_size": BATCH})
    text = (tmp_path / "all.tex").read_text()
    assert "nan" not in text
    assert text.count("& Adam's accumulator &") == 2
