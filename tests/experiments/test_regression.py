"""The regression experiment against autograd, other libraries, and bent data."""

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import ndimage, stats

from diagfim import analyze, arrays, bounds, latex, networks, reference
from diagfim.derivatives import dense
from diagfim.errors import UserError
from diagfim.experiments import regression
from diagfim.families import Gaussian
from diagfim.figures import regression as figures
from diagfim.report import regression as report

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "seed": 3,
    "samples": 60,
    "largest_angle": 45,
    "hidden": [5, 4],
    "activation": "tanh",
    "training_epochs": 2,
    "batch_size": 20,
    "learning_rate": 0.01,
    "pool": 30,
    "noise": [0.01, 0.1, 1],
    "inputs": 3,
    "draws": 50,
    "repetitions": 100,
}
# The largest relative error of a few dozen positive float64 terms, with room.
ROUNDING = 1e-13
# Autograd's second derivatives lose some digits where terms of the chain rule cancel.
AUTOGRAD = 1e-9


def images(count, seed=0):
    """Blots, brighter in the middle, as digits are; the border is dark."""
    rng = np.random.default_rng(seed)
    found = np.zeros((count, 28, 28), dtype=np.uint8)
    found[:, 6:22, 6:22] = rng.integers(0, 256, (count, 16, 16))
    return found


def network(features=3, hidden=(4, 3), activation="tanh", seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return networks.mlp(features, list(hidden), 2, activation, 0).double().eval()


def some_inputs(n, features=3):
    return torch.randn(n, features, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def norms(model, inputs):
    """‖∂_i h‖² and ‖∂²_i h‖² by autograd: (n, *shape) by parameter."""
    _, first, second = reference.derivatives(model, inputs)
    return tuple(
        {name: value.square().sum(dim=1).numpy() for name, value in one.items()}
        for one in (first, second)
    )


@pytest.fixture(scope="module")
def replicates():
    halves = {"train": images(60), "test": images(30, seed=1)}
    return [regression.replicate(SETTINGS, halves, number) for number in range(2)]


@pytest.fixture
def groups(replicates):
    return {
        name: xr.concat([one[name] for one in replicates], dim="replicate")
        for name in replicates[0]
    }


# ------------------------------------------------------------------------------ data, training


def test_rotation_is_scipys():
    before = images(4)
    degrees = np.array([0.0, 17.0, -45.0, 90.0])
    found = regression.rotate(torch.from_numpy(before), torch.from_numpy(np.deg2rad(degrees)))
    for one, image, angle in zip(found.numpy(), before, degrees, strict=True):
        expected = ndimage.rotate(
            image.astype(float), angle, reshape=False, order=1, mode="grid-constant"
        )
        # Coordinates of up to 28 in float32 are off by 1e-5 pixels at most, a slope is below 512.
        np.testing.assert_allclose(one, expected, atol=512e-5)
    np.testing.assert_allclose(found[3], np.rot90(before[3]), atol=512e-5)


def test_angles_are_uniform_and_stay_with_their_image():
    inputs, angles = regression.rotated_set(images(2500), 30, 7, "train")
    degrees = np.rad2deg(angles.numpy())
    assert inputs.shape == (2500, 784)
    assert stats.kstest(degrees, stats.uniform(-30, 60).cdf).pvalue > 1e-3
    one = regression.rotate(torch.from_numpy(images(2500)[2400:2401]), angles[2400:2401])
    np.testing.assert_array_equal(inputs[2400], one.flatten() / 255)
    assert not torch.equal(angles, regression.rotated_set(images(2500), 30, 7, "test")[1])


def test_first_step_descends_the_negative_log_likelihood():
    model, inputs = network().float(), some_inputs(8).float()
    angles = torch.linspace(-0.5, 0.5, 8, dtype=torch.float64)
    law = torch.distributions.Normal(model(inputs), 1.0)
    likelihood = law.log_prob(regression.targets(angles).float()).sum(dim=1).mean()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    gradients = torch.autograd.grad(-likelihood, list(model.parameters()))
    options = {"epochs": 1, "batch_size": 8, "learning_rate": 0.01, "seed": 1}
    assert list(regression.train(model, inputs, angles, **options)) == [0, 1]
    for start, gradient, end in zip(before, gradients, model.parameters(), strict=True):
        # Adam's first step has the length of the learning rate, but for its ε = 1e-8.
        expected = start - 0.01 * gradient / (gradient.abs() + 1e-8)
        np.testing.assert_allclose(end.detach(), expected, atol=1e-5)


def test_residuals():
    angles = np.deg2rad([-30.0, 0.0, 40.0])
    turned = angles + np.deg2rad([3.0, -4.0, 5.0])
    outputs = 2 * np.stack([np.cos(turned), np.sin(turned)], axis=1)
    found = regression.residuals(outputs, angles)
    assert float(found["angle_error"]) == pytest.approx(np.sqrt(50 / 3))
    expected = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    fitted = float(found["noise_deviation"])
    by_noise = [
        stats.norm.logpdf(outputs, expected, scale * fitted).sum() for scale in (0.99, 1, 1.01)
    ]
    assert by_noise[1] > max(by_noise[0], by_noise[2])


def test_an_angle_across_the_cut_is_a_small_error():
    found = regression.residuals(np.array([[-1.0, -0.01]]), np.array([np.pi - 0.01]))
    assert float(found["angle_error"]) == pytest.approx(np.rad2deg(0.02), rel=1e-3)


# ------------------------------------------------------------------------------ which is better


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus"])
def test_comparison_is_that_of_autograd(activation):
    model, inputs = network(activation=activation), some_inputs(12)
    first, second = norms(model, inputs)
    fitted = 0.3
    found = regression.comparison(dense.derivatives(model, inputs), fitted)
    by_noise = regression.against_noise(dense.derivatives(model, inputs), [fitted, 2.0])
    for layer in ("dense1", "dense2", "dense3"):
        one, two = first[f"{layer}.bias"], second[f"{layer}.bias"]
        ratio = two / (2 * one**2)
        assert float(found["variance_ratio"].sel(layer=layer)) == pytest.approx(
            np.median(ratio), rel=AUTOGRAD
        )
        for level, s in (("unit", 1.0), ("fitted", fitted)):
            share = found["hessian_better"].sel(layer=layer, level=level)
            assert float(share) == np.mean(s**2 * ratio < 1)
        for s in (fitted, 2.0):
            row = by_noise.sel(layer=layer, noise=s)
            assert float(row["relative_deviation_1"]) == pytest.approx(np.sqrt(2), rel=ROUNDING)
            assert float(row["relative_deviation_2"]) == pytest.approx(
                np.median(s * np.sqrt(two) / one), rel=AUTOGRAD
            )
            assert float(row["hessian_better"]) == np.mean(s**2 * ratio < 1)
        with np.errstate(divide="ignore"):
            crossing = np.median(np.sqrt(2) * one / np.sqrt(two))
        assert float(by_noise["crossing"].sel(layer=layer)) == pytest.approx(crossing, rel=AUTOGRAD)
        if layer != "dense3":
            assert 0 < float(by_noise["crossing"].sel(layer=layer)) < np.inf
    assert (found["hessian_better"].sel(layer="dense3") == 1).all()


def test_weights_into_a_unit_share_their_ratio():
    first, second = norms(network(), some_inputs(5))
    ratio = second["dense1.weight"] / first["dense1.weight"] ** 2
    of_unit = second["dense1.bias"] / first["dense1.bias"] ** 2
    np.testing.assert_allclose(ratio, of_unit[:, :, None] * np.ones(3), rtol=AUTOGRAD)


def test_averages_are_those_of_autograd():
    model, inputs = network(), some_inputs(9)
    inputs[:, 1] = 0
    first, second = norms(model, inputs)
    fitted = 0.2
    found = regression.averages(model, inputs, dense.derivatives(model, inputs), fitted)
    for layer, parameters in (("dense1", 12), ("dense2", 15), ("dense3", 8)):
        row = found.sel(layer=layer)
        one, two = (
            np.concatenate(
                [one[f"{layer}.{kind}"].reshape(9, -1) for kind in ("weight", "bias")], 1
            )
            for one in (first, second)
        )
        lit = one.mean(axis=0) > 0
        one, two = one[:, lit], two[:, lit]
        assert int(row["parameters"]) == parameters == lit.sum()
        variances = {"score": 2 * np.mean(one**2, axis=0), "hessian": np.mean(two, axis=0)}
        close = {"rel": AUTOGRAD}
        assert float(row["fisher"]) == pytest.approx(np.median(one.mean(axis=0)), **close)
        assert float(row["variance_1"]) == pytest.approx(np.median(variances["score"]), **close)
        assert float(row["variance_2"]) == pytest.approx(np.median(variances["hessian"]), **close)
        ratio = one.var(axis=0) / bounds.lemma_4_8(one, np.ones(1))
        assert float(row["lemma_ratio"]) == pytest.approx(np.median(ratio), **close)
        assert float(row["lemma_largest"]) == pytest.approx(ratio.max(), **close)
        for level, s in (("unit", 1.0), ("fitted", fitted)):
            cell = row.sel(level=level)
            spread, v1, v2 = (
                value / s**power
                for value, power in (
                    (one.var(axis=0), 4),
                    (variances["score"], 4),
                    (variances["hessian"], 2),
                )
            )
            assert float(cell["hessian_better"]) == np.mean(v2 < v1)
            for estimator, variance in (("score", v1), ("hessian", v2)):
                total = spread + variance
                share = np.median(spread[total > 0] / total[total > 0])
                assert float(cell["input_share"].sel(estimator=estimator)) == pytest.approx(
                    share, **close
                )
                assert estimator == "hessian" or share <= 1 / 3


def test_analyze_is_autograd_for_gaussian_outputs():
    model, inputs = network(), some_inputs(7)
    first, second = norms(model, inputs)
    tree = analyze(model, inputs, "gaussian")
    for name, one in first.items():
        expected = {
            "fisher": one.mean(axis=0),
            "variance_1": 2 * np.mean(one**2, axis=0),
            "variance_2": second[name].mean(axis=0),
            "covariance_12": np.zeros(one.shape[1:]),
            "input_variance": one.var(axis=0),
        }
        for quantity, value in expected.items():
            scale = max(np.abs(value).max(), 1e-300)
            np.testing.assert_allclose(tree[name][quantity] / scale, value / scale, atol=AUTOGRAD)


# ----------------------------------------------------------------------------- equality, draws


def test_bounds_are_equalities():
    found = regression.equality(dense.derivatives(network(), some_inputs(4)))
    assert float(found["equality_deviation"].max()) < ROUNDING
    assert float(found["largest_covariance"].max()) == 0
    assert float(found["eigenvalue_deviation"]) < 1e-8  # the margin of the proof is 1e-9
    assert found["checked"].values.tolist() == [4 * 16, 4 * 15, 4 * 8]


def test_a_wrong_moment_is_no_equality(monkeypatch):
    class Off(Gaussian):
        def __init__(self):
            super().__init__(1.001)

    monkeypatch.setattr(regression, "Gaussian", Off)
    found = regression.equality(dense.derivatives(network(), some_inputs(4)))
    by_quantity = found["equality_deviation"].isel(layer=0)
    expected = [1 - 1 / 1.001, 1 - 1 / 1.001**2, 1 - 1 / 1.001]
    np.testing.assert_allclose(by_quantity, expected, rtol=1e-9)


def test_deviation_of_zeros():
    zero, one = np.zeros(1), np.ones(1)
    assert regression._deviation(zero, zero) == 0
    assert regression._deviation(one, zero) == np.inf
    assert regression._deviation(zero, one) == 1
    assert regression._deviation(np.array([1.0, 2.5]), np.array([1.0, 2.0])) == 0.25


def test_simulated_estimates_agree_and_wrong_noise_shows(monkeypatch):
    derivatives = dense.derivatives(network(), some_inputs(6))
    found = regression.agreement(derivatives, draws=50, repetitions=400, seed=5)
    assert found["tests"].sel(layer="dense1").values.tolist() == [[24, 24], [24, 24]]
    assert found["tests"].sel(layer="dense3", estimator="hessian").values.tolist() == [0, 0]
    # Some 150 tests: each beyond 5 standard errors has a probability below 1e-6.
    assert 0 < float(found["largest"].max()) < 5
    sample = Gaussian.sample
    monkeypatch.setattr(Gaussian, "sample", lambda *args: 1.2 * sample(*args))
    wrong = regression.agreement(derivatives, draws=50, repetitions=400, seed=5)
    hidden = wrong["largest"].isel(layer=slice(None, -1))
    assert (hidden.sel(statistic="variance") > 5).all()
    assert (hidden.sel(statistic="mean", estimator="score") > 5).all()


def test_standard_errors_are_calibrated():
    rng = np.random.default_rng(2)
    units, repetitions, draws = 4000, 300, 40
    estimates = rng.chisquare(draws, (1, repetitions, units)) / draws
    one = np.ones((1, units))
    kurtosis = regression.CHI_SQUARED_KURTOSIS / draws
    for z in regression._standard_errors(estimates, one, 2 * one / draws, kurtosis):
        # Five standard errors of a mean, and of a standard deviation, of nearly normal numbers.
        assert abs(z.mean()) < 5 / np.sqrt(units)
        assert abs(z.std() - 1) < 5 / np.sqrt(2 * units) * 1.2


# ------------------------------------------------------------------------------- the experiment


def test_replicate_depends_on_its_settings_alone(replicates):
    halves = {"train": images(60), "test": images(30, seed=1)}
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = regression.replicate(SETTINGS, halves, 1)
    assert torch.equal(torch.get_rng_state(), state)
    for name, group in replicates[1].items():
        xr.testing.assert_identical(group, again[name])
    assert not replicates[0]["training"].equals(replicates[1]["training"])
    assert float(again["equality"]["equality_deviation"].max()) < ROUNDING


def test_groups_can_be_written(replicates, tmp_path):
    arrays.write(tmp_path / "0.nc", replicates[0], "regression", SETTINGS)
    assert set(arrays.groups_of(tmp_path / "0.nc")) == set(replicates[0])


def test_more_inputs_than_the_pool_has():
    with pytest.raises(UserError, match=r"inputs: 40 of a pool of 30"):
        regression.replicate({**SETTINGS, "inputs": 40}, {}, 0)


# ---------------------------------------------------------------------------- figures and report


def lines(axis, label):
    return [line for line in axis.get_lines() if line.get_label() == label]


def test_noise_figure_shows_the_deviations(groups):
    figure = figures.noise(groups)
    axes = np.array(figure.axes).reshape(2, 3)
    for column, layer in enumerate(groups["noise"]["layer"].values):
        one = groups["noise"].sel(layer=layer).median("replicate")
        top, bottom = axes[:, column]
        (score,) = lines(top, r"$\hat{I}_1$")
        np.testing.assert_allclose(score.get_ydata(), np.sqrt(2), rtol=ROUNDING)
        hessian = lines(top, r"$\hat{I}_2$")
        assert len(hessian) == (layer != "dense3")
        if hessian:
            np.testing.assert_allclose(hessian[0].get_ydata(), one["relative_deviation_2"])
        np.testing.assert_allclose(bottom.get_lines()[0].get_ydata(), 100 * one["hessian_better"])
        (fitted,) = lines(top, "fitted $s$")
        expected = groups["training"]["noise_deviation"].isel(epoch=-1).median()
        assert fitted.get_xdata()[0] == pytest.approx(float(expected))
        assert "[" in bottom.get_xlabel()
    assert all("[" in axis.get_ylabel() for axis in axes[:, 0])


def test_training_figure_shows_every_layer(groups):
    figure = figures.training(groups)
    left, unit, fitted = figure.axes
    error = groups["training"]["angle_error"].median("replicate")
    np.testing.assert_allclose(left.get_lines()[0].get_ydata(), error)
    for axis, level in ((unit, "unit"), (fitted, "fitted")):
        for layer in ("dense1", "dense2", "dense3"):
            (line,) = lines(axis, f"layer {layer[-1]}")
            share = groups["training"]["hessian_better"].sel(level=level, layer=layer)
            np.testing.assert_allclose(line.get_ydata(), 100 * share.median("replicate"))
    looks = [(h.get_marker(), h.get_linestyle()) for h in figure.legends[0].legend_handles]
    assert len(set(looks)) == 3


def test_contents_are_medians(groups):
    found = report.contents(groups)
    assert found["replicates"] == 2
    assert [row["layer"] for row in found["rows"]] == ["1", "2", "3"]
    assert len(found["hidden_rows"]) == 2
    fisher = groups["averages"]["fisher"].sel(layer="dense2")
    assert found["rows"][1]["fisher"] == pytest.approx(float(fisher.median()))
    assert found["rows"][2]["crossing"] == np.inf
    assert found["checked"] == int(groups["equality"]["checked"].sum())
    rows = found["agreement"]
    assert sum(row["tests"] for row in rows) == int(groups["draws"]["tests"].sum())
    assert all(0.5 < row["within_two"] <= 1 for row in rows)


def test_claims_hold_and_can_fail(groups):
    names = ["equalities", "variances", "joint samples", "all layers"]
    found = report.claims(groups)
    assert all(name in claim.statement for name, claim in zip(names, found, strict=True))
    assert [claim.verdict for claim in found[:3]] == ["reproduced"] * 3
    assert all(claim.source for claim in found)
    for index, group, variable, value in (
        (0, "equality", "equality_deviation", 1e-9),
        (1, "draws", "largest", 20.0),
        (2, "averages", "lemma_largest", 1.01),
        (3, "averages", "hessian_better", 1.0),
    ):
        bent = groups[group].copy(deep=True)
        bent[variable][{"replicate": 1}] = value
        claims = report.claims({**groups, group: bent})
        assert claims[index].verdict == "not reproduced"
    split = groups["averages"].copy(deep=True)
    split["hessian_better"].loc[{"layer": "dense1"}] = 0.1
    assert report.claims({**groups, "averages": split})[3].verdict == "reproduced"


def test_section_prints_what_there_is(groups, tmp_path):
    this = {**SETTINGS, **report.contents(groups), "claims": report.claims(groups)}
    template = ROOT / "paper" / "sections" / "regression.tex.j2"
    latex.render(template, tmp_path / "section.tex", this=this)
    text = (tmp_path / "section.tex").read_text()
    assert r"\label{regression-section}" in text
    for name in figures.FIGURES:
        assert f"experiments/regression/{name}.pdf" in text
