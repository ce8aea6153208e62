"""Every worked example runs as a script, and what it computes is checked against other means."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import io
import runpy
import sys
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.func import functional_call

import diagfim

FOLDER = Path(__file__).resolve().parents[1] / "examples"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "digits")
NEEDS = {"diabetes": "sklearn", "resnet18": "torchvision"}


@functools.cache
def example(name):
    """Names of an example after it ran as a script, once for all tests, and what it printed.

    With ``cpu_seconds``, which other programs on the machine do not lengthen.
    """
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    path = str(FOLDER / f"{name}.py")
    printed = io.StringIO()
    with (
        patch.object(sys, "argv", [path]),
        patch.object(sys, "path", [str(FOLDER), *sys.path]),
        torch.random.fork_rng(devices=[]),
        contextlib.redirect_stdout(printed),
    ):
        start = time.process_time()
        names = runpy.run_path(path, run_name="__main__")
        names["cpu_seconds"] = time.process_time() - start
    return names, printed.getvalue()


def found(name):
    return example(name)[0]["found"]


# --------------------------------------------------------------------- means to check them with


def bent(model, inputs, name, index, step=1e-4):
    """Outputs (n, T) and their derivatives by one entry of a parameter, by central differences.

    In float64 the truncation is of the order step², 1e-8, and the rounding of the second derivative
    of 1e-16 |h| / step², 1e-7.
    """
    model = copy.deepcopy(model).double()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    values = {key: value.detach() for key, value in model.named_parameters()}

    def at(offset):
        moved = values[name].clone()
        moved[index] += offset
        with torch.no_grad():
            return functional_call(model, {**values, name: moved}, (inputs,))

    low, middle, high = at(-step), at(0.0), at(step)
    return middle, (high - low) / (2 * step), (high - 2 * middle + low) / step**2


def categorical(outputs, first, second):
    """I, V1, V2 and Var_x I of a softmax, by enumeration of the labels."""
    p = outputs.softmax(1)

    def mean(values):
        return (p * values).sum(1, keepdim=True)

    score = (first - mean(first)) ** 2
    fisher = mean(score)
    return {
        "fisher": fisher.mean(),
        "variance_1": mean((score - fisher) ** 2).mean(),
        "variance_2": mean((second - mean(second)) ** 2).mean(),
        "input_variance": fisher.var(correction=0),
    }


def assert_entries(tree, model, inputs, tolerance=1e-3):
    """The largest and the middle entry of every parameter tensor.

    float32 has seven digits; sums over outputs and samples and the cancellation in ∂²h take up to
    three.  What is smaller than a thousandth of the quantity's largest value has fewer still, and
    V2 is no better than the square of the roundings in `bent`.
    """
    for name, node in tree.children.items():
        fisher = node["fisher"].values
        for flat in (fisher.argmax(), np.argsort(fisher.ravel())[fisher.size // 2]):
            index = np.unravel_index(flat, fisher.shape)
            for quantity, expected in categorical(*bent(model, inputs, name, index)).items():
                values = node[quantity].values
                scale = max(float(expected), 1e-3 * values.max())
                error = abs(values[index] - float(expected))
                assert error <= tolerance * scale + 1e-13, (name, index, quantity)


def norm(values):
    return float(np.sqrt(np.sum(np.square(values))))


# -------------------------------------------------------------------------------- what they are


@pytest.mark.parametrize("name", NAMES)
def test_prints_a_table(name):
    names, printed = example(name)
    assert names["__doc__"]
    assert len(printed.splitlines()) >= 5
    assert max(map(len, printed.splitlines())) <= 100


@pytest.mark.parametrize("name", NAMES)
def test_listed_in_the_readme(name):
    assert f"[{name}.py]({name}.py)" in (FOLDER / "README.md").read_text()


def test_digits_are_those_of_the_files():
    with patch.object(sys, "path", [str(FOLDER), *sys.path]):
        import digits
    images, labels = digits.load("t10k", 5)
    assert images.shape == (5, 1, 28, 28)
    assert labels.tolist() == [7, 2, 1, 0, 4]  # as on the page of the data set
    assert images.dtype == torch.float32
    assert images.min() == 0
    assert 0.9 < images.max() <= 1


# ------------------------------------------------------------------------------------------ cnn


def test_cnn_against_differences():
    cnn = found("cnn")
    assert cnn.exact.attrs["method"] == "graph"
    assert_entries(cnn.exact, cnn.model, cnn.inputs)


def test_cnn_names_the_better_estimator():
    cnn = found("cnn")
    for layer in ("0", "2", "5", "7"):
        score, hessian = (
            sum(float(cnn.exact[f"{layer}.{name}"][v].sum()) for name in ("weight", "bias"))
            for v in ("variance_1", "variance_2")
        )
        assert cnn.table.loc[layer, "better"] == ("score" if score < hessian else "hessian")
    assert set(cnn.table["better"]) == {"score", "hessian"}  # no single one is best


def test_cnn_errors_are_as_planned():
    """√(E‖Î − I‖²) is known; a sum of squares of normal errors in one dimension is the widest."""
    cnn = found("cnn")
    draws, n = cnn.table["draws"].iloc[-1], len(cnn.inputs)
    for estimator, variance in (("score", "variance_1"), ("hessian", "variance_2")):
        ratios = []
        for name, node in cnn.exact.children.items():
            expected = float(node[variance].sum() / (draws * n)) ** 0.5 / norm(node["fisher"])
            # 4 standard deviations, and roundings of float32
            assert cnn.errors.loc[name, estimator] <= 4 * expected + 1e-5
            if expected > 0:
                ratios.append(cnn.errors.loc[name, estimator] / expected)
        assert 0.5 < np.mean(ratios) < 2
    assert (cnn.errors.min(axis=1) <= 0.1).all()


def test_cnn_prunes_better_by_fisher():
    pruned = found("cnn").pruned
    assert pruned.loc[0.0, "fisher"] == pruned.loc[0.0, "size"] > 0.85
    assert pruned.loc[0.8, "fisher"] > pruned.loc[0.8, "size"]


# ------------------------------------------------------------------------------------- resnet18


def test_resnet18_in_two_minutes_of_two_cores():
    assert example("resnet18")[0]["cpu_seconds"] < 2 * 120


def test_resnet18_weights_from_a_file(tmp_path):
    names, _ = example("resnet18")
    torch.manual_seed(0)
    model = names["resnet18"](num_classes=7).eval()
    save_file(model.state_dict(), tmp_path / "resnet18.safetensors")
    inputs = torch.rand(1, 3, 64, 64)
    read = names["network"](tmp_path / "resnet18.safetensors", inputs)
    with torch.no_grad():
        torch.testing.assert_close(read(inputs), model(inputs), rtol=0, atol=0)


def test_resnet18_score():
    resnet = found("resnet18")
    assert resnet.score.attrs["inputs"] == 100
    assert resnet.score["fc.weight"]["fisher"].shape == (1000, 512)
    for node in resnet.score.children.values():
        assert (node["fisher"] >= 0).all()
        assert np.isfinite(node["standard_error"]).all()
    # Σ_t (1[y = t] − σ_t)² = 1 − 2 σ_y + ‖σ‖² by the bias of the head; no σ_t is above a hundredth.
    head = resnet.score["fc.bias"]
    assert abs(float(head["fisher"].sum()) - 1) < 2e-2
    assert 0 < float((head["standard_error"] ** 2).sum()) <= 1.03 / 99  # Var ≤ E‖Î1‖² = 1 / n


def test_resnet18_hessian_is_exact_without_noise():
    """The whole diagonal, Σ_c σ_c (∂ log σ_c)² by plain autograd, one input and class at a time."""
    resnet = found("resnet18")
    parameters = dict(resnet.model.named_parameters())
    expected = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for one in resnet.inputs:
        logs = resnet.model(one[None]).log_softmax(1)[0]
        for log in logs:
            gradients = torch.autograd.grad(log, list(parameters.values()), retain_graph=True)
            for value, gradient in zip(expected.values(), gradients, strict=True):
                value += log.exp().detach() / len(resnet.inputs) * gradient**2
    assert list(expected) == list(resnet.exact.children) == list(resnet.hessian.children)
    for name, value in expected.items():
        expected_values = value.double().numpy()
        for tree in (resnet.exact, resnet.hessian):
            # twenty layers of float32, each of 1e-7
            error = norm(tree[name]["fisher"].values - expected_values)
            assert error <= 1e-4 * norm(expected_values), name
        assert not resnet.exact[name]["variance_2"].any(), name


def test_resnet18_estimators_agree_within_the_exact_errors():
    """‖Î1 − I‖² / E‖Î1 − I‖² has the mean 1; by Markov it is above 16 with probability ≤ 1/16."""
    agreement = found("resnet18").agreement
    ratio = agreement["distance"] / agreement["expected"]
    assert ratio.max() <= 4
    assert 0.5 < ratio.mean() < 2


# ---------------------------------------------------------------------------------- transformer


def test_transformer_against_differences():
    transformer = found("transformer")
    assert transformer.exact.attrs["method"] == "autodiff"
    assert transformer.accuracy > 0.95
    tokens = transformer.tokens[: transformer.exact.attrs["inputs"]]
    assert not tokens.is_floating_point()
    assert_entries(transformer.exact, transformer.model, tokens)


def test_transformer_score_within_its_errors():
    """Against Σ_c σ_c (∂ log σ_c)² at the same inputs, which differs by the labels alone."""
    transformer = found("transformer")
    tokens = transformer.tokens[: transformer.score.attrs["inputs"]]
    exact = diagfim.estimate(transformer.model, tokens, "exact", errors=False)
    for name, node in transformer.score.children.items():
        distance = norm(node["fisher"] - exact[name]["fisher"])
        assert distance <= 4 * norm(node["standard_error"]), name


# ------------------------------------------------------------------------------------- diabetes


def test_diabetes_linear_model_in_closed_form():
    diabetes = found("diabetes")
    x, y = diabetes.inputs.numpy(), diabetes.targets.numpy()[:, 0]
    design = np.column_stack([x, np.ones(len(x))])
    solution, residual, *_ = np.linalg.lstsq(design, y)
    variance = residual[0] / (len(x) - 11)
    assert diabetes.linear_variance == pytest.approx(variance, rel=1e-10)
    table = diabetes.coefficients
    np.testing.assert_allclose(table["coefficient"], solution, atol=1e-10)
    # condition number 2e2 of XᵀX: no more than 1e-13 is lost
    full = np.sqrt(variance * np.linalg.inv(design.T @ design).diagonal())
    np.testing.assert_allclose(table["matrix"], full, rtol=1e-10)
    squares = (design**2).sum(0)
    np.testing.assert_allclose(table["diagonal"], np.sqrt(variance / squares), rtol=1e-12)
    assert (table["diagonal"] <= table["matrix"] * (1 + 1e-12)).all()
    # Î1 / I = Σ x² z² / Σ x² with standard normal z
    deviation = np.sqrt(2 * (design**4).sum(0)) / squares
    ratio = (table["diagonal"] / table["score, one draw"]) ** 2
    assert (abs(ratio - 1) <= 4 * deviation).all()
    assert (ratio != 1).all()


def test_diabetes_noise_decides_between_the_estimators():
    """From ‖∂h‖² and ‖∂²h‖² of every parameter, by differences: V1 = 2 I(x)², V2 = ‖∂²h‖² / s²."""
    diabetes = found("diabetes")
    sums = {}
    for name, value in diabetes.network.named_parameters():
        for index in np.ndindex(*value.shape):
            _, first, second = bent(diabetes.network, diabetes.inputs, name, index)
            one = [first.pow(2).mean() ** 2, first.pow(4).mean(), second.pow(2).mean()]
            layer = name.split(".")[0]
            sums[layer] = sums.get(layer, 0) + np.array([float(v) for v in one])
    variances = diabetes.noise.index.get_level_values("variance").unique()
    assert diabetes.network_variance in variances
    for variance in variances:
        for layer, (squared, fourth, curved) in sums.items():
            row = diabetes.noise.loc[(variance, layer)]
            expected = np.sqrt(squared / row["parameters"]) / variance
            assert row["fisher"] == pytest.approx(expected, rel=1e-6)
            score, hessian = 2 * fourth / variance**2, curved / variance
            assert row["better"] == ("score" if score < hessian else "hessian"), (variance, layer)
    first = diabetes.noise.xs("0", level="layer")
    assert first["better"].iloc[0] == "hessian"
    assert first["better"].iloc[-1] == "score"
    assert first["draws"].is_monotonic_increasing


# ------------------------------------------------------------------------------------------ ewc


def test_ewc_in_thirty_lines():
    names, _ = example("ewc")
    lines = [inspect.getsource(names[name]).splitlines() for name in ("learn", "hold")]
    assert sum(map(len, lines)) <= 30


def test_ewc_last_layer_in_closed_form():
    """∂ log σ_c / ∂w_tj = (1[c = t] − σ_t) a_j, whose square has the mean σ_t (1 − σ_t) a_j²."""
    ewc = found("ewc")
    with torch.no_grad():
        p = ewc.first(ewc.inputs).softmax(1).double()
        a = ewc.first[:2](ewc.inputs).double()
    noise = p * (1 - p)
    exact = ewc.importance["exact"]
    # float32 loses 1 − σ_t to four digits where the network is sure, but such inputs weigh nothing
    np.testing.assert_allclose(exact["2.bias"]["fisher"], noise.mean(0), rtol=1e-4)
    expected = (noise.T @ a**2 / len(a)).numpy()
    np.testing.assert_allclose(exact["2.weight"]["fisher"], expected, rtol=1e-3, atol=1e-9)


def test_ewc_error_of_one_label():
    ewc = found("ewc")
    difference, scale = (
        np.sqrt(
            sum(
                norm(values(ewc.importance["score"][name], node)) ** 2
                for name, node in ewc.importance["exact"].children.items()
            )
        )
        for values in (
            lambda score, exact: score["fisher"] - exact["fisher"],
            lambda score, exact: exact["fisher"],
        )
    )
    assert ewc.error / 4 <= difference / scale <= 4 * ewc.error


def test_ewc_penalty_helps():
    accuracies = found("ewc").accuracies
    first, plain = accuracies.loc["after the first task"], accuracies.loc["no penalty"]
    assert first["0 to 4"] > 0.9
    assert plain["0 to 4"] < first["0 to 4"] - 0.2  # it forgets
    for name in ("exact", "score"):
        assert accuracies.loc[name, "0 to 4"] > plain["0 to 4"] + 0.1
        assert accuracies.loc[name, "mean"] > plain["mean"] + 0.03


def test_ewc_strong_penalty_pulls_back():
    names, _ = example("ewc")
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    held = []
    names["hold"](model, diagfim.analyze(model, torch.rand(5, 2)), held)
    [(fisher, anchor)] = held
    with torch.no_grad():
        model.weight.add_(1.0)
    moved = model.weight.detach() - anchor["weight"]
    names["learn"](model, torch.zeros(32, 2), torch.zeros(32).long(), held, 1e6, epochs=50)
    left = model.weight.detach() - anchor["weight"]
    # 50 steps of Adam of at most 1e-3 each, all of them back
    assert (moved - left > 0.04).all()
    assert all((one > 0).all() for one in fisher.values())


# ------------------------------------------------------------------------------------ laplace


def test_laplace_against_laplace_torch():
    laplace = pytest.importorskip("laplace")
    ours = found("laplace_posterior")
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*ours.train), 100)
    theirs = laplace.DiagLaplace(copy.deepcopy(ours.model), "classification")
    theirs.fit(loader)
    exact = ours.posteriors["exact"]

    def evidence(prior):
        return float(theirs.log_marginal_likelihood(torch.tensor(prior)))

    best = evidence(exact.prior)
    # float32, and sums over 1,000 inputs
    assert exact.log_marginal_likelihood == pytest.approx(best, rel=1e-5)
    assert evidence(exact.prior * 1.1) < best
    assert evidence(exact.prior / 1.1) < best
    theirs.prior_precision = exact.prior
    precision = torch.cat([value.flatten() for value in exact.precision.values()])
    torch.testing.assert_close(precision, theirs.posterior_precision, rtol=1e-4, atol=1e-5)
    _, covariances = theirs._glm_predictive_distribution(ours.test[0])
    torch.testing.assert_close(ours.covariances["exact"], covariances, rtol=1e-3, atol=1e-4)


def test_laplace_with_one_label_per_image():
    ours = found("laplace_posterior")
    exact, score = ours.posteriors["exact"], ours.posteriors["score"]
    assert ours.evidences[0] == score.log_marginal_likelihood
    assert ours.evidences.std() > 1
    away = abs(ours.evidences.mean() - exact.log_marginal_likelihood)
    assert away < 4 * ours.evidences.std()
    assert 0.9 < ours.spread[0.5] < 1.1
    assert ours.spread[0.95] - ours.spread[0.05] > 0.01


def test_laplace_diagonal_is_too_wide():
    losses = found("laplace_posterior").table["loss"]
    assert losses["exact"] > losses["no posterior"]
