"""Elastic weight consolidation: its penalty, its Fisher diagonals, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from torch.nn.functional import cross_entropy, log_softmax

from diagfim import arrays, latex
from diagfim.experiments import continual as module
from diagfim.experiments.continual import (
    COMPARED,
    METHODS,
    REFERENCE,
    TASKS,
    Images,
    MultiHead,
    Penalty,
    accuracies,
    batches,
    continual,
    deviations,
    diagonal,
    fit,
    images_of,
)
from diagfim.figures.continual import FIGURES
from diagfim.report.continual import at_chosen, chosen, claims, contents, final, mean_and_error

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "hidden": [6, 5],
    "iterations": 4,
    "batch_size": 8,
    "learning_rate": 0.01,
    "inputs": 30,
    "subset": 10,
    "strengths": [10, 1000],
    "test_inputs": 20,
}


@pytest.fixture(scope="module")
def digits():
    """Ten separable classes of 4 by 4 images, 50 and 30 of each."""
    rng = np.random.default_rng(5)
    centres = rng.random((10, 4, 4))

    def draw(number):
        labels = rng.permutation(np.repeat(np.arange(10), number))
        noisy = centres[labels] + 0.2 * rng.standard_normal((len(labels), 4, 4))
        return images_of((255 * noisy.clip(0, 1)).astype(np.uint8), labels)

    return draw(50), draw(30)


@pytest.fixture(scope="module")
def small():
    """A trunk of two layers with two heads in float64, and labelled inputs."""
    torch.manual_seed(3)
    model = MultiHead(4, [6, 5], 2).double()
    return model, Images(torch.rand(24, 4, dtype=torch.float64), torch.arange(24) % 2)


def trunk_gradients(view, loss):
    """Gradients by the trunk's parameters, in one vector."""
    gradients = torch.autograd.grad(loss, list(view[:-1].parameters()))
    return torch.cat([one.flatten() for one in gradients])


def flat(values):
    return torch.cat([value.flatten() for value in values.values()])


# ------------------------------------------------------------------------------------ penalty


def test_the_penalty_adds_its_gradient(small):
    model, images = small
    generator = torch.Generator().manual_seed(1)

    def like(value):
        return torch.rand(value.shape, generator=generator, dtype=value.dtype)

    fisher = {name: like(value) for name, value in model.trunk.named_parameters()}
    anchor = {name: like(value) for name, value in model.trunk.named_parameters()}
    strength = 7.0
    view = model.task(0)
    loss = cross_entropy(view(images.inputs), images.labels)
    quadratic = sum(
        (fisher[name] * (value - anchor[name]) ** 2).sum()
        for name, value in model.trunk.named_parameters()
    )
    expected = trunk_gradients(view, loss + strength / 2 * quadratic)
    model.zero_grad()
    cross_entropy(view(images.inputs), images.labels).backward()
    Penalty({name: strength * one for name, one in fisher.items()}, anchor).add_gradient(
        model.trunk
    )
    found = torch.cat([value.grad.flatten() for value in model.trunk.parameters()])
    # Both are sums of some twenty terms of order 10 in float64.
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_online_form(digits, monkeypatch):
    """The stiffness is λ times the sum of all diagonals so far, the anchor the last optimum."""
    seen, ends = [], []

    def record(model, k, images, rows, learning_rate, penalty):
        if k == 0 or penalty:
            seen.append(penalty)
            before = {name: one.detach().clone() for name, one in model.trunk.named_parameters()}
            fit(model, k, images, rows, learning_rate, penalty)
            ends.append((before, model))

    def constant(view, images, method, settings, seed):
        names = dict(view[:-1].named_parameters())
        at = len([one for one in ends if one])
        return {name: torch.full_like(one, 1.0 * at).double() for name, one in names.items()}

    monkeypatch.setattr(module, "fit", record)
    monkeypatch.setattr(module, "diagonal", constant)
    monkeypatch.setattr(module, "METHODS", ("exact",))
    continual(*digits, {**SETTINGS, "strengths": [10]}, seed=0)
    assert seen[0] is None
    assert len(seen) == len(TASKS)
    for k, (penalty, (before, _)) in enumerate(zip(seen[1:], ends[1:], strict=True), start=1):
        total = sum(range(1, k + 1))
        for name, anchor in penalty.anchor.items():
            assert torch.equal(anchor, before[name])
            assert torch.equal(penalty.stiffness[name], torch.full_like(anchor, 10.0 * total))


def test_a_penalty_of_nothing_changes_nothing_and_a_stiff_one_holds(small):
    _, images = small
    images = Images(images.inputs.float(), images.labels)
    rows = torch.arange(24).reshape(3, 8)
    moved = {}
    for strength in (None, 0.0, 1e6):
        torch.manual_seed(0)
        model = MultiHead(4, [6, 5], 2)
        start = {name: one.detach().clone() for name, one in model.named_parameters()}
        penalty = None
        if strength is not None:
            trunk = {name: start[f"trunk.{name}"] for name, _ in model.trunk.named_parameters()}
            stiffness = {name: torch.full_like(one, strength) for name, one in trunk.items()}
            penalty = Penalty(stiffness, trunk)
        fit(model, 1, images, rows, 0.01, penalty)
        moved[strength] = {
            name: (one.detach() - start[name]).abs().max().item()
            for name, one in model.named_parameters()
        }
        assert moved[strength]["heads.0.weight"] == moved[strength]["heads.0.bias"] == 0
        assert moved[strength]["heads.1.weight"] > 0
    assert moved[None] == moved[0.0]
    # Adam's first step is the rate whatever the penalty, which then pulls back.
    assert moved[1e6]["trunk.0.weight"] < 0.5 * moved[None]["trunk.0.weight"]


# -------------------------------------------------------------------------- Fisher diagonals


def per_sample(view, images, label):
    """Squared gradients of log p at a label of each input: (n, parameters of the trunk)."""
    rows = []
    for k in range(len(images.labels)):
        outputs = log_softmax(view(images.inputs[k : k + 1]), dim=1)[0]
        rows.append(trunk_gradients(view, outputs[label(k)]) ** 2)
    return torch.stack(rows)


@pytest.mark.parametrize("method", ["exact", "subset", "hessian", "mixed"])
def test_exact_methods_are_the_sum_over_labels(small, method):
    model, images = small
    view = model.task(1)
    with torch.no_grad():
        probabilities = torch.softmax(view(images.inputs), dim=1)
    expected = sum(
        probabilities[:, c : c + 1] * per_sample(view, images, lambda k, c=c: c) for c in (0, 1)
    )
    used = 10 if method == "subset" else 24
    found = flat(diagonal(view, images, method, SETTINGS, seed=4))
    torch.testing.assert_close(found, expected[:used].mean(0), rtol=1e-11, atol=1e-15)


def test_empirical_is_at_the_labels_of_the_data(small):
    model, images = small
    expected = per_sample(model.task(0), images, lambda k: images.labels[k]).mean(0)
    found = flat(diagonal(model.task(0), images, "empirical", SETTINGS, seed=4))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-15)


def test_score_is_unbiased_with_one_draw_an_input(small):
    """The mean over seeds, parameter by parameter, within five of its own standard errors."""
    model, images = small
    view = model.task(0)
    exact = flat(diagonal(view, images, "exact", SETTINGS, seed=0))
    draws = torch.stack(
        [flat(diagonal(view, images, "score", SETTINGS, seed=seed)) for seed in range(300)]
    )
    error = draws.std(0) / len(draws) ** 0.5
    assert (error > 0).any()
    # Rounding where a parameter has no noise; 65 parameters at 5 standard errors: 4e-5 in all.
    assert ((draws.mean(0) - exact).abs() <= 5 * error + 1e-12).all()
    # With one draw an input every estimate is a mean of 24 squares at one of two labels each.
    parts = torch.stack([per_sample(view, images, lambda k, c=c: c) for c in (0, 1)])
    low, high = parts.min(0).values.mean(0), parts.max(0).values.mean(0)
    assert ((draws >= low - 1e-12) & (draws <= high + 1e-12)).all()


def test_batched_squares_the_mean_gradient(small):
    model, images = small
    view = model.task(0)
    squares = []
    for start in (0, 8, 16):
        rows = slice(start, start + 8)
        loss = cross_entropy(view(images.inputs[rows]), images.labels[rows])
        squares.append(trunk_gradients(view, loss) ** 2)
    found = flat(diagonal(view, images, "batched", SETTINGS, seed=0))
    torch.testing.assert_close(found, torch.stack(squares).mean(0), rtol=1e-12, atol=1e-15)
    # By the triangle inequality, never above the mean of the squares: the known defect.
    empirical = flat(diagonal(view, images, "empirical", SETTINGS, seed=0))
    assert (found <= empirical * (1 + 1e-12)).all()
    assert found.sum() < empirical.sum()


def test_deviations_by_hand():
    exact = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    twice = {name: 2 * value for name, value in exact.items()}
    other = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[0.0]])}
    found = deviations({"twice": twice, "other": other}, exact)
    np.testing.assert_allclose(found["trace_ratio"], [2, 3 / 7])
    np.testing.assert_allclose(found["relative_error"], [1, 4 / 5])
    np.testing.assert_allclose(found["shape_error"], [0, 4 / 5], atol=1e-7)


# ----------------------------------------------------------------------------------- learning


def test_batches_are_passes_in_random_order():
    rows = batches(23, 5, 6, np.random.default_rng(0))
    assert rows.shape == (6, 5)
    first, second = rows[:4].flatten().tolist(), rows[4:].flatten().tolist()
    assert len(set(first)) == 20
    assert len(set(second)) == 10
    assert max(first) < 23
    assert batches(3, 5, 2, np.random.default_rng(0)).shape == (2, 3)


def test_accuracy_is_that_of_the_task_s_own_head():
    torch.manual_seed(2)
    model = MultiHead(3, [4], len(TASKS))
    images = Images(torch.rand(40, 3), torch.arange(40) % 2)
    found = accuracies(model, [images, images])
    assert np.isnan(found[2:]).all()
    for k in (0, 1):
        outputs = model.heads[k](torch.relu(model.trunk[0](images.inputs)))
        right = [int(a) == int(b) for a, b in zip(outputs.argmax(1), images.labels, strict=True)]
        assert found[k] == np.mean(right)


@pytest.fixture(scope="module")
def found(digits):
    return continual(*digits, SETTINGS, seed=11)


def test_groups(found):
    assert found["penalised"]["accuracy"].dims == ("estimator", "strength", "learnt", "task")
    assert found["penalised"]["accuracy"].shape == (len(METHODS), 2, 5, 5)
    known = np.tril(np.ones((5, 5), bool))
    for group in ("plain", "penalised"):
        values = found[group]["accuracy"]
        np.testing.assert_array_equal(
            np.isfinite(values), np.broadcast_to(known, values.shape), err_msg=group
        )
    # The first task is learnt once for all.
    first = found["penalised"]["accuracy"].isel(learnt=0, task=0)
    assert (first == found["plain"]["accuracy"].isel(learnt=0, task=0)).all()
    assert list(found["fisher"]["estimator"].values) == list(COMPARED)
    assert set(REFERENCE) == {*METHODS, "none"}
    for dataset in found.values():
        assert set(dataset.data_vars) <= set(arrays.LONG_NAMES)


def test_relu_leaves_the_hessian_based_estimate_no_noise(found):
    errors = found["fisher"]["relative_error"]
    # float32 derivatives: a few units of 6e-8 in each of the products.
    assert (errors.sel(estimator=["hessian", "mixed"]) < 1e-6).all()
    assert (errors.drop_sel(estimator=["hessian", "mixed"]) > 1e-3).all()


def test_numbers_depend_on_no_other_run(digits, found):
    again = continual(*digits, {**SETTINGS, "strengths": [1000]}, seed=11)
    xr.testing.assert_equal(again["penalised"], found["penalised"].sel(strength=[1000.0]))
    xr.testing.assert_equal(again["plain"], found["plain"])
    other = continual(*digits, SETTINGS, seed=12)
    assert not other["fisher"].equals(found["fisher"])


def test_global_random_state_is_left_alone(digits):
    before = torch.get_rng_state()
    continual(*digits, {**SETTINGS, "strengths": [10]}, seed=1)
    assert torch.equal(before, torch.get_rng_state())


# ------------------------------------------------------------------------- report and figures


def gathered(shift=0.0, replicates=5):
    """Results in which all methods reach 99 % at one strength, and no penalty 85 %."""
    places = {"learnt": np.arange(1, 6), "task": np.arange(1, 6)}
    strengths = np.array([1e3, 1e4, 1e5])
    noise = 1e-4 * np.random.default_rng(0).standard_normal((replicates, 1, len(METHODS)))
    best = np.where(strengths == 1e4, 0.99, 0.9)[:, None, None]
    values = best * np.ones((replicates, 1, len(METHODS), 3, 5, 5))
    values = values + noise[..., None, None, None]
    values[:, :, METHODS.index("batched")] += shift
    future = np.triu(np.ones((5, 5), bool), 1)
    plain = np.full((replicates, 1, 5, 5), 0.85)
    values[..., future] = plain[..., future] = np.nan
    lead = ("replicate", "dataset")
    names = xr.Dataset(coords={"dataset": ["mnist"]})
    ones = np.ones((replicates, 1, len(COMPARED)))
    published = np.array(list(REFERENCE.values())).T
    shape = (replicates, 1, len(REFERENCE))
    return {
        "plain": names.assign(accuracy=((*lead, "learnt", "task"), plain)).assign_coords(places),
        "penalised": names.assign(
            accuracy=((*lead, "estimator", "strength", "learnt", "task"), values)
        ).assign_coords(estimator=list(METHODS), strength=strengths, **places),
        "fisher": names.assign(
            {
                name: ((*lead, "estimator"), value * ones)
                for name, value in (
                    ("trace_ratio", 2.0),
                    ("relative_error", 0.3),
                    ("shape_error", 0.2),
                )
            }
        ).assign_coords(estimator=list(COMPARED)),
        "published": names.assign(
            accuracy=((*lead, "estimator"), np.broadcast_to(published[0], shape)),
            accuracy_error=((*lead, "estimator"), np.broadcast_to(published[1], shape)),
        ).assign_coords(estimator=list(REFERENCE)),
    }


def test_the_strength_is_chosen_on_the_other_replicates():
    groups = gathered()
    accuracy = groups["penalised"]["accuracy"]
    assert (chosen(accuracy) == 1e4).all()
    # A replicate in which another strength is far better does not choose it for itself ...
    accuracy[{"replicate": 0, "strength": 2}] = accuracy[{"replicate": 0, "strength": 2}] + 0.2
    assert (chosen(accuracy).sel(estimator="exact").values.ravel() == [1e4] * 5).all()
    # ... but may for the others.
    accuracy[{"replicate": 0, "strength": 2}] = accuracy[{"replicate": 0, "strength": 2}] + 0.2
    strengths = chosen(accuracy).sel(estimator="exact").values.ravel()
    assert strengths[0] == 1e4
    assert (strengths[1:] == 1e5).all()
    best = final(at_chosen(groups)).sel(estimator="exact").isel(replicate=0)
    expected = final(accuracy).sel(estimator="exact", strength=1e4).isel(replicate=0)
    assert float(best.squeeze()) == float(expected.squeeze())
    alone = chosen(accuracy.isel(replicate=[0]))
    assert (alone == 1e5).all()


def test_mean_and_error():
    values = xr.DataArray([1.0, 2.0, 6.0], dims="replicate")
    mean, error = mean_and_error(values)
    assert float(mean) == 3
    assert float(error) == pytest.approx(np.sqrt(7 / 3))
    assert np.isnan(mean_and_error(values[:1])[1])


def test_contents_and_claims():
    (result,) = contents(gathered())["results"]
    assert claims(gathered()) == []
    assert result["rows"][0]["name"] == "none"
    assert result["above"]
    assert result["reproduced"]
    assert result["gap"] == pytest.approx(0.14, abs=1e-3)
    exact = next(row for row in result["rows"] if row["exact"])
    assert exact["difference"]["mean"] == 0
    assert exact["published"] == {"mean": 0.9912, "error": 0.0016}
    assert exact["strengths"] == [1e4]


@pytest.mark.parametrize(
    ("shift", "beyond", "above"), [(-0.05, True, True), (-0.2, True, False), (0.0, False, True)]
)
def test_a_method_that_falls_behind_is_named(shift, beyond, above):
    (result,) = contents(gathered(shift))["results"]
    assert ("batched" in result["beyond"]) is beyond
    assert result["above"] is above
    assert result["reproduced"] is (shift == 0)
    assert result["spread"] == pytest.approx(-shift, abs=1e-3)


@pytest.mark.parametrize("name", FIGURES)
def test_figure_shows_means_and_errors(name):
    groups = gathered()
    figure = FIGURES[name](groups)
    left, right = figure.axes
    assert left.get_xscale() == "log"
    assert all("[%]" in axis.get_ylabel() and axis.get_xlabel() for axis in (left, right))
    accuracy = 100 * final(groups["penalised"]["accuracy"]).mean("replicate").squeeze("dataset")
    for container, method in zip(left.containers, METHODS, strict=True):
        np.testing.assert_allclose(container[0].get_ydata(), accuracy.sel(estimator=method))
    assert len(right.containers) == len(METHODS) + 1
    looks = [
        (container[0].get_linestyle(), container[0].get_marker()) for container in right.containers
    ]
    assert len(set(looks)) == len(looks)


@pytest.mark.parametrize("replicates", [1, 5])
def test_section_prints_configuration_and_results(tmp_path, replicates):
    settings = yaml.safe_load((ROOT / "config/config.yaml").read_text())["experiments"]["continual"]
    target = tmp_path / "section.tex"
    this = {**settings, **contents(gathered(replicates=replicates))}
    latex.render(ROOT / "paper/sections/continual.tex.j2", target, this=this)
    text = target.read_text()
    assert "85.41" in text
    assert (r"\(99.00\pm " in text) is (replicates > 1)
    assert "nan" not in text
    assert ("single replicate" in text) is (replicates == 1)
