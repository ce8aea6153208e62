"""The toy data of Figure 1: exact variances, the descent, and what the report says of it."""

from itertools import product

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from diagfim import arrays, bounds, matrices
from diagfim.errors import UserError
from diagfim.experiments import toy
from diagfim.figures import toy as figures
from diagfim.report import toy as section

SETTINGS = {
    "seed": 7,
    "theta_true": [1, 1],
    "training_points": 64,
    "test_points": 300,
    "batch": 4,
    "training_epochs": 12,
    "learning_rate": 0.01,
    "damping": 0.01,
    "dampings": [0.001, 0.01, 1.0],
    "starts": [[-1, 0], [4, -2]],
}


def stacked(parts):
    return {name: xr.concat([part[name] for part in parts], dim="replicate") for name in parts[0]}


@pytest.fixture(scope="module")
def groups():
    return stacked([toy.run(SETTINGS, replicate) for replicate in range(3)])


@pytest.fixture(params=toy.MODELS)
def model(request):
    return toy.MODELS[request.param]


# ------------------------------------------------------------------------------------ variances


def test_variances_of_the_gaussian_are_those_of_wick():
    # E δ⁴ E|x|⁴ − ‖Id‖² = 3·8 − 2, and 8 − 2.
    theta = np.array([[0.0, 0.0], [1.0, 1.0], [30.0, -40.0]])
    found = toy.variances_over_plane(toy.MODELS["regression"].family, theta)
    np.testing.assert_allclose(found, [[22.0] * 3, [6.0] * 3], rtol=1e-12)


def test_variances_of_fair_coins_are_equal():
    # δ² = 1/4 whatever y is, so that both estimates are x xᵀ/4.
    found = toy.variances_over_plane(toy.MODELS["classification"].family, np.zeros((1, 2)))
    np.testing.assert_allclose(found, 6 / 16, rtol=1e-12)


@pytest.mark.parametrize("radius", [0.3, 1.4, 8.0])
def test_variances_over_plane_agree_with_two_dimensional_quadrature(radius):
    """A plain sum over a fine grid in both coordinates of x, not rotated to θ."""
    family = toy.MODELS["classification"].family
    theta = radius * np.array([0.6, 0.8])
    along = np.linspace(-9, 9, 1801)
    across = np.linspace(-9, 9, 201)
    weights = np.outer(
        np.exp(-(along**2) / 2) * (along[1] - along[0]),
        np.exp(-(across**2) / 2) * (across[1] - across[0]),
    ) / (2 * np.pi)
    p = 1 / (1 + np.exp(-radius * along))[:, None]
    x = along[:, None] * 0.6 - across * 0.8, along[:, None] * 0.8 + across * 0.6
    moments = {}
    for name, of_y in (
        ("score", [(p, (1 - p) ** 2), (1 - p, p**2)]),
        ("hessian", [(1.0, p * (1 - p))]),
    ):
        moments[name] = sum(
            sum((weights * q * (value * x[i] * x[j]) ** 2).sum() for q, value in of_y)
            - sum((weights * q * value * x[i] * x[j]).sum() for q, value in of_y) ** 2
            for i, j in product(range(2), repeat=2)
        )
    found = toy.variances_over_plane(family, theta[None])[:, 0]
    np.testing.assert_allclose(found, [moments["score"], moments["hessian"]], rtol=1e-7)


@pytest.mark.parametrize("radius", [1e3, 1e6])
def test_variances_far_out_are_those_of_a_peak(radius):
    """There the curvature is a peak at h = 0: ∫ v² dh = 1/6, ∫ E[δ⁴ | h] dh = 1/2, ∫ v dh = 1.

    What is neglected is of the relative order |θ|⁻².
    """
    height = 1 / (radius * (2 * np.pi) ** 0.5)
    found = toy.variances_over_plane(
        toy.MODELS["classification"].family, np.array([[-radius, 0.0]])
    )[:, 0]
    expected = [3 * height / 2 - height**2, 3 * height / 6 - height**2]
    np.testing.assert_allclose(found, expected, rtol=30 / radius**2 + 1e-9)


def test_variances_over_plane_agree_with_draws(model):
    """Fresh x and y: the mean squared distance from its own mean, within five standard errors."""
    rng = np.random.default_rng(5)
    theta, draws = np.array([0.9, -0.7]), 400_000
    inputs = rng.standard_normal((draws, 2))
    outputs = inputs @ theta
    residual = model.family.quantile(outputs, rng.random(draws)) - model.mean(outputs)
    exact = toy.variances_over_plane(model.family, theta[None])[:, 0]
    products = inputs[:, :, None] * inputs[:, None, :]
    for weight, variance in zip((residual**2, model.curvature(outputs)), exact, strict=True):
        estimates = weight[:, None, None] * products
        distance = ((estimates - estimates.mean(axis=0)) ** 2).sum(axis=(1, 2))
        z = (distance.mean() - variance) / (distance.std() / draws**0.5)
        assert abs(z) < 5


def test_moments_over_points_are_those_of_the_package(model):
    """The mean over inputs of the variances given x, and the variance of the information."""
    rng = np.random.default_rng(2)
    inputs, theta = rng.standard_normal((40, 2)), np.array([1.2, -0.4])
    linear = torch.nn.Linear(2, 1, bias=False).double()
    linear.weight.data[:] = torch.from_numpy(theta)
    tree = matrices.analyze(linear, torch.from_numpy(inputs), model.family, blocks="full")
    full = tree["full"]
    fisher, variances = toy.moments_over_points(model.family, theta[None], inputs)
    np.testing.assert_allclose(fisher[0], full["fisher"], rtol=1e-12)
    assert (full["variance_2"] == 0).all()  # ∂²h = 0: no noise of y
    of_inputs = float(full["input_variance"].sum())
    np.testing.assert_allclose(
        variances[:, 0], [of_inputs + float(full["variance_1"].sum()), of_inputs], rtol=1e-12
    )


def test_theorem_c_1_holds_with_equality_at_one_output(model):
    inputs = np.random.default_rng(3).standard_normal((6, 2))
    theta = np.array([0.5, 2.0])
    central = model.family.central((inputs @ theta)[:, None])
    bound, other = bounds.theorem_c_1(
        inputs**2, np.zeros((6, 2, 2)), central.square_variance[:, 0], central.variance[:, 0]
    )
    for k in range(6):
        at_x = toy.moments_over_points(model.family, theta[None], inputs[k : k + 1])[1]
        assert bound[k].sum() == pytest.approx(at_x[0, 0], rel=1e-10)
    assert not other.any()


@given(st.floats(0, 50), st.floats(-np.pi, np.pi))
def test_score_never_varies_less(radius, angle):
    theta = radius * np.array([[np.cos(angle), np.sin(angle)]])
    for one in toy.MODELS.values():
        score, hessian = toy.variances_over_plane(one.family, theta)[:, 0]
        assert score >= hessian > 0
        turned = toy.variances_over_plane(one.family, np.array([[radius, 0.0]]))[:, 0]
        np.testing.assert_allclose([score, hessian], turned, rtol=1e-9)


@hypothesis_settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_inverse_of_score_is_on_average_the_greater(seed):
    """E[(Î1 + λ)⁻¹ | x] ⪰ (Î2 + λ)⁻¹, the inverse being convex: all labels of four points."""
    rng = np.random.default_rng(seed)
    inputs, theta, damping = rng.standard_normal((4, 2)), 2 * rng.standard_normal(2), 0.01
    p = 1 / (1 + np.exp(-inputs @ theta))

    def inverse(weights):
        return np.linalg.inv((inputs.T * weights) @ inputs / 4 + damping * np.eye(2))

    mean = sum(
        np.prod(np.where(y, p, 1 - p)) * inverse((y - p) ** 2)
        for y in map(np.array, product((0, 1), repeat=4))
    )
    least = np.linalg.eigvalsh(mean - inverse(p * (1 - p)))[0]
    assert least >= -1e-9 * np.abs(mean).max()


# -------------------------------------------------------------------------------------- descent


def test_model_has_the_moments_of_its_family(model):
    outputs = np.linspace(-30, 30, 61)[:, None]
    central = model.family.central(outputs)
    np.testing.assert_allclose(model.mean(outputs), central.mean, rtol=1e-12)
    # 1 − p loses its digits near certainty: an absolute error of a rounding unit.
    np.testing.assert_allclose(model.curvature(outputs), central.variance, rtol=1e-9, atol=3e-16)
    h = torch.linspace(-9, 9, 19, dtype=torch.float64, requires_grad=True)
    potential = torch.nn.functional.softplus(h) if model.base(np.ones(1)) == 0 else h**2 / 2
    np.testing.assert_allclose(model.potential(h.detach().numpy()), potential.detach(), rtol=1e-8)
    (slope,) = torch.autograd.grad(potential.sum(), h)
    np.testing.assert_allclose(model.mean(h.detach().numpy()), slope, rtol=1e-8)


@pytest.mark.parametrize("name", toy.MODELS)
def test_loss_is_that_of_pytorch(name):
    rng = np.random.default_rng(4)
    inputs, theta = rng.standard_normal((50, 2)), rng.standard_normal((3, 4, 2))
    outputs = torch.from_numpy(theta @ inputs.T)
    targets = rng.standard_normal(50) if name == "regression" else rng.integers(2, size=50) * 1.0
    law = (
        torch.distributions.Normal(outputs, 1.0)
        if name == "regression"
        else torch.distributions.Bernoulli(logits=outputs)
    )
    expected = -law.log_prob(torch.from_numpy(targets)).mean(-1)
    found = toy.MODELS[name].loss(theta, inputs, targets)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_descent_is_plain_natural_gradient(model):
    """A few steps anew, by automatic differentiation, for every damping and start."""
    data = toy.draw_data(SETTINGS, 1)
    targets, _ = data.targets(model, np.ones(2))
    path, estimates = toy.descend(model, data, targets, SETTINGS)
    main = SETTINGS["dampings"].index(SETTINGS["damping"])
    for (k, estimator), (d, damping), (s, start) in product(
        enumerate(toy.ESTIMATORS), enumerate(SETTINGS["dampings"]), enumerate(SETTINGS["starts"])
    ):
        theta = torch.tensor(start, dtype=torch.float64)
        for step in range(5):
            x = torch.from_numpy(data.train[data.chosen[step]])
            y = torch.from_numpy(targets[data.chosen[step]])
            loss, fisher = _by_autograd(model, theta, x, y, data.levels[step], estimator)
            if estimator == "exact":
                fisher = _by_autograd(
                    model, theta, torch.from_numpy(data.train), None, None, "exact"
                )[1]
            elif d == main and s == 0:
                np.testing.assert_allclose(estimates[step, k], fisher, rtol=1e-9, atol=1e-14)
            inverse = torch.linalg.inv(fisher + damping * torch.eye(2, dtype=torch.float64))
            theta = theta - SETTINGS["learning_rate"] * inverse @ loss
            np.testing.assert_allclose(path[step + 1, k, d, s], theta, rtol=1e-7)


def _by_autograd(model, theta, x, y, levels, estimator):
    """Gradient at the data's labels, and the estimate at the model's."""

    def law(theta, x):
        if isinstance(model.family, type(toy.MODELS["regression"].family)):
            return torch.distributions.Normal(x @ theta, 1.0)
        return torch.distributions.Bernoulli(logits=x @ theta)

    def log_p(theta, x, y):
        return law(theta, x).log_prob(y).mean()

    gradient = None if y is None else -torch.func.grad(log_p)(theta, x, y)
    if estimator == "score":
        outputs = (x @ theta).numpy()
        drawn = torch.from_numpy(model.family.quantile(outputs, levels))
        scores = torch.stack([torch.func.grad(log_p)(theta, x[k], drawn[k]) for k in range(len(x))])
        return gradient, scores.T @ scores / len(x)
    # ∂²h = 0, so that the label is of no account.
    return gradient, -torch.func.hessian(log_p)(theta, x, torch.zeros(len(x), dtype=x.dtype))


def test_compare_draws_finds_a_wrong_variance(model):
    """Right draws pass within five standard errors; draws of twice the batch do not."""
    data = toy.draw_data({**SETTINGS, "training_epochs": 200}, 0)
    targets, _ = data.targets(model, np.ones(2))
    path, estimates = toy.descend(model, data, targets, SETTINGS)
    here = path[:-1, :2, 1, 0]
    found = toy.compare_draws(model.family, here, estimates, data.train, 4)
    assert (np.abs(found["z"]) < 5).all()
    wrong = toy.compare_draws(model.family, here, estimates, data.train, 8)
    assert (np.abs(wrong["z"]) > 5).all()


def test_least_has_no_gradient(model):
    data = toy.draw_data(SETTINGS, 0)
    targets, _ = data.targets(model, np.ones(2))
    best = toy.least(model, data.train, targets)
    gradient = data.train.T @ (model.mean(data.train @ best) - targets)
    np.testing.assert_allclose(gradient, 0, atol=1e-9)
    inputs = np.array([[1.0, 0.0], [-1.0, 1.0]])
    if model is toy.MODELS["classification"]:
        with pytest.raises(UserError, match="no maximum"):
            toy.least(model, inputs, np.array([1.0, 0.0]))


# ---------------------------------------------------------------------------------- a replicate


def test_groups_are_consistent(groups):
    descent, grid = groups["descent"], groups["grid"]
    last = descent["negative_log_likelihood"].isel(epoch=-1)
    np.testing.assert_array_equal(
        last, grid["final_loss"].sel(damping=0.01).isel(start=0).transpose(*last.dims)
    )
    late = descent["negative_log_likelihood"].isel(epoch=slice(6, None))
    main = grid.sel(damping=0.01).isel(start=0)
    np.testing.assert_allclose(
        late.mean("epoch"), main["mean_loss"].transpose(*last.dims), rtol=1e-12
    )
    np.testing.assert_allclose(
        late.diff("epoch").std("epoch"), main["loss_change"].transpose(*last.dims), rtol=1e-12
    )
    # A pass of 64 points at 4 a step is 16 steps: the first epoch of one is the 16th of the other.
    assert descent.sizes["epoch"] == 13
    first = descent["theta"].sel(epoch=0)
    np.testing.assert_array_equal(first.sel(reading="pass"), first.sel(reading="step"))
    assert (groups["variance"]["summed_variance"].sel(model="regression") > 0).all()
    np.testing.assert_allclose(
        groups["variance"]["summed_variance"].sel(model="regression", estimator="score"),
        22 / 4,
        rtol=1e-12,
    )


def test_replicates_differ_and_repeat(groups):
    again = toy.run(SETTINGS, 2)
    for name, one in again.items():
        xr.testing.assert_equal(one, groups[name].isel(replicate=2))
    theta = groups["descent"]["theta"].isel(epoch=-1)
    assert (theta.isel(replicate=0) != theta.isel(replicate=1)).all()


def test_every_variable_is_described(groups, tmp_path):
    arrays.write(tmp_path / "toy.nc", groups, "toy", SETTINGS)
    back = arrays.groups_of(tmp_path / "toy.nc")
    assert float(back["descent"]["damping"]) == 0.01
    for name in groups:
        xr.testing.assert_equal(back[name], groups[name])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"damping": 0.5}, "not one of the dampings"),
        ({"batch": 5}, "does not divide"),
        ({"learning_rate": 1e200}, "diverges"),
    ],
)
def test_mistakes_are_told(changed, message):
    with pytest.raises(UserError, match=message):
        toy.run({**SETTINGS, **changed}, 0)


def test_divergence_at_another_damping_is_infinite():
    settings = {**SETTINGS, "damping": 1e9, "dampings": [1e-4, 1e9], "learning_rate": 1e7}
    grid = toy.run(settings, 0)["grid"]
    assert np.isinf(
        grid["mean_loss"].sel(damping=1e-4, estimator="score", model="regression")
    ).any()
    assert not any(bool(np.isnan(values).any()) for values in grid.values())


# --------------------------------------------------------------------------- figures and report


@pytest.mark.parametrize("name", figures.FIGURES)
@pytest.mark.parametrize("replicates", [1, 3])
def test_figures_show_the_data(groups, name, replicates):
    some = {key: group.isel(replicate=slice(replicates)) for key, group in groups.items()}
    drawn = figures.FIGURES[name](some)
    axes = drawn.axes
    assert all(axis.get_xlabel() or axis.get_ylabel() or axis.lines for axis in axes)
    if name == "figure-1":
        expected = groups["descent"]["negative_log_likelihood"] - groups["reference"][
            "point_loss"
        ].sel(point="least")
        one = expected.sel(model="regression", estimator="score", reading="pass").isel(replicate=0)
        np.testing.assert_allclose(axes[0].lines[0].get_ydata(), one)
    if name == "figures-2-4":
        assert len(axes) == 5 * max(1, replicates - 1)


def test_contents(groups):
    found = section.contents(groups)
    assert found["replicates"] == 3
    assert found["check"]["tests"] == 12
    assert found["check"]["largest"] < found["check"]["limit"]
    regression, classification = found["models"]
    assert regression["variance_ratio"]["median"] == pytest.approx(22 / 6, rel=1e-12)
    assert classification["lower"] == 1
    excess = groups["grid"]["mean_loss"] - groups["reference"]["point_loss"].sel(point="least")
    one = excess.sel(model="regression", reading="pass", damping=0.01, estimator="score")
    assert regression["excess"]["score"]["median"] == pytest.approx(
        float(np.median(one.isel(start=0))), rel=1e-12
    )
    assert {row["damping"] for row in found["grid"]} == set(SETTINGS["dampings"])
    assert found["grid_cells"] == 6
    assert len(found["misprints"]) == 2


def bent(groups, variable, group, factors):
    """The groups with one variable under the score-based estimator set in proportion to Î2's."""
    changed = {name: one.copy(deep=True) for name, one in groups.items()}
    values = changed[group][variable]
    offset = 0.0
    if variable == "mean_loss":
        offset = changed["reference"]["point_loss"].sel(point="least", drop=True)
    reference = (values - offset).sel(estimator="hessian", drop=True)
    by_model = xr.DataArray(factors, {"model": ["regression", "classification"]}, ["model"])
    bent_values = xr.where(values["estimator"] == "score", reference * by_model + offset, values)
    changed[group][variable] = bent_values.transpose(*values.dims)
    return [claim.verdict for claim in section.claims(changed)]


def test_claims_follow_the_data(groups):
    statements = [claim.statement for claim in section.claims(groups)]
    assert len(statements) == len(set(statements)) == 4
    assert bent(groups, "mean_loss", "grid", [3.0, 2.0])[1:3] == ["reproduced"] * 2
    assert bent(groups, "mean_loss", "grid", [2.0, 3.0])[1:3] == ["reproduced", "not reproduced"]
    assert bent(groups, "mean_loss", "grid", [3.0, 0.9])[1:3] == ["not reproduced", "reproduced"]
    assert bent(groups, "loss_change", "grid", [2.0, 1.1])[3] == "reproduced"
    assert bent(groups, "loss_change", "grid", [2.0, 0.9])[3] == "not reproduced"
    assert bent(groups, "summed_variance", "variance", [1.1, 1.1])[0] == "reproduced"
    assert bent(groups, "summed_variance", "variance", [1.1, 0.9])[0] == "not reproduced"
