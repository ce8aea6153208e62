"""NNGeometry on its own test networks: the same Fisher diagonal, up to its arithmetic."""

import calls
import pytest
import torch
from comparing import (
    NLL,
    REPEATS,
    ROUNDINGS,
    assert_near,
    assert_noise,
    assert_same,
    drawn,
    drawn_labels,
    exact,
    hessian_diagonal,
    scaled,
    terms,
)
from networks import BACKPACK, CURVLINOPS, NNGEOMETRY, Setting, make
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from which_fisher import confident

import diagfim
from diagfim.errors import UserError

PEERS = ("nngeometry",)

VARIANTS = {
    "categorical": "classif_logits",
    "gaussian": "regression",
    "bernoulli": "classif_binary_logits",
}


def least_probability(setting: Setting) -> float:
    with torch.no_grad():
        return float(setting.model(setting.inputs).softmax(1).min())


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", NNGEOMETRY)
def test_fisher_diagonal(name):
    """Its root of the softmax covariance needs q = 1 − Σ p, which loses digits where q is small.

    q is off by C ε, relative to itself by C ε / min p.
    """
    setting = NNGEOMETRY[name]()
    rounding = ROUNDINGS
    if setting.family == "categorical":
        rounding += setting.outputs * torch.finfo(torch.float64).eps / least_probability(setting)
    assert rounding < 1e-10
    theirs = calls.nngeometry(setting, VARIANTS[setting.family])
    assert_same(theirs, exact(setting), rounding)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", NNGEOMETRY)
def test_jacobian(name):
    """With the derivatives of every output apart: Σ (∂h)² is the Fisher of Gaussian outputs."""
    setting = NNGEOMETRY[name]()
    jacobian = calls.nngeometry_jacobian(setting)
    assert jacobian.shape[:2] == (setting.outputs, len(setting.inputs))
    theirs = calls.split(setting, jacobian.square().sum(0).mean(0))
    ours = Setting(setting.model, setting.inputs, setting.labels, nn.MSELoss)
    assert_same(theirs, exact(ours))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("trials", [1, 3])
def test_monte_carlo_scatters_as_the_score_based_estimator(trials):
    setting = make(
        lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)),
        (6, 4),
        nn.CrossEntropyLoss,
    )
    repeats = []
    for seed in range(REPEATS):
        torch.manual_seed(seed)
        repeats.append(calls.nngeometry(setting, "classif_logits", trials))
    assert_noise(repeats, setting, trials)


@pytest.mark.usefixtures("double")
def test_logits_and_their_log_softmax_are_the_same_model():
    setting = NNGEOMETRY["dense"]()
    normed = make(
        lambda: nn.Sequential(setting.model, nn.LogSoftmax(1)),
        lambda: setting.inputs,
        nn.CrossEntropyLoss,
    )
    torch.manual_seed(5)
    one = calls.nngeometry(setting, "classif_logits", 2)
    torch.manual_seed(5)
    two = calls.nngeometry(normed, "classif_logsoftmax", 2)
    assert_same({f"0.{name}": value for name, value in one.items()}, two)
    assert_same({f"0.{name}": value for name, value in exact(setting).items()}, exact(normed))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["tanh", "sigmoid regression"])
def test_hessian_of_one_batch(name):
    setting = BACKPACK[name]()
    n = len(setting.inputs)
    scale = NLL[setting.loss] * n / terms(setting, "mean")
    assert_near(calls.nngeometry_hessian(setting, n), scaled(hessian_diagonal(setting), scale))
    at_drawn = Setting(setting.model, setting.inputs, drawn_labels(setting, 4), setting.loss)
    ours = drawn(setting, "hessian", seed=4)
    assert_near(calls.nngeometry_hessian(at_drawn, n), scaled(ours, scale))


# -------------------------------------------------------------------------- where they differ


def test_float64_needs_the_default_dtype():
    """With float32 by default, the matrix that it multiplies by is float32."""
    with pytest.raises(RuntimeError, match="dtype"):
        calls.nngeometry(NNGEOMETRY["dense"](), "classif_logits")


def off(setting: Setting, found: torch.Tensor) -> float:
    """Relative error of the row of the likely label, to which all else is in proportion."""
    truth = exact(setting)["0.weight"][0]
    return float((found[0].double() / truth - 1).abs().max())


@pytest.mark.parametrize("rest", [1e-3, 1e-5, 1e-6, 1e-8])
def test_digits_in_float32_where_the_network_is_confident(rest):
    """NNGeometry adds ε = 1.2e-7 to q: relative to the rest of the probability, it is that off.

    Below ε, q = 1 − Σ p is 0 or less, and the result 0 or NaN.
    """
    setting = confident(rest)
    expected = rest * (1 - rest) * setting.inputs[0] ** 2
    torch.testing.assert_close(exact(setting)["0.weight"][0], expected, rtol=1e-9, atol=0.0)
    single = Setting(setting.model.float(), setting.inputs.float(), setting.labels, setting.loss)
    # A logit of up to 19 is rounded to 1e-6, a relative error of the probability, and its inputs.
    assert off(setting, exact(single)["0.weight"]) < 1e-5
    theirs = off(setting, calls.nngeometry(single, "classif_logits")["0.weight"])
    epsilon = torch.finfo(torch.float32).eps
    if rest > epsilon:
        assert 0.1 * epsilon / rest < theirs < max(10 * epsilon / rest, 1e-5)
    else:
        assert not theirs < 0.9


@pytest.mark.usefixtures("double")
def test_train_mode_is_refused_for_batch_norm_but_not_for_dropout():
    setting = NNGEOMETRY["dense, batch-norm"]()
    setting.model.train()
    with pytest.raises(NotImplementedError, match="evaluation mode"):
        calls.nngeometry(setting, "classif_logits")
    with pytest.raises(UserError, match="train"):
        diagfim.analyze(setting.model, setting.inputs)

    dropping = make(
        lambda: nn.Sequential(nn.Linear(4, 50), nn.Dropout(), nn.Linear(50, 3)),
        (6, 4),
        nn.CrossEntropyLoss,
    )
    dropping.model.train()
    one, two = (calls.nngeometry(dropping, "classif_logits")["0.weight"] for _ in range(2))
    assert (one - two).norm() > 0.1 * one.norm()
    with pytest.raises(UserError, match="train"):
        diagfim.analyze(dropping.model, dropping.inputs)


@pytest.mark.usefixtures("double")
def test_the_hessian_adds_the_means_of_the_batches():
    """Two batches, about twice the mean: give it the summed loss."""
    setting = CURVLINOPS["classes"]()
    parts = [
        Setting(setting.model, x, y, setting.loss)
        for x, y in zip(setting.inputs.split(5), setting.labels.split(5), strict=True)
    ]
    one, two = (hessian_diagonal(part) for part in parts)
    theirs = calls.nngeometry_hessian(setting, batch=5)
    assert_near(theirs, {name: one[name] + two[name] for name in one})
    whole = calls.nngeometry_hessian(setting, batch=7)
    assert theirs["2.bias"].sum() > 1.5 * whole["2.bias"].sum()


@pytest.mark.usefixtures("double")
def test_the_hessian_has_the_whole_matrix_and_no_diagonal():
    from nngeometry.hessian import Hessian
    from nngeometry.object import PMatDiag

    setting = CURVLINOPS["classes"]()
    loader = DataLoader(TensorDataset(setting.inputs, setting.labels), batch_size=7)
    with pytest.raises((NotImplementedError, AttributeError)):
        Hessian(setting.model, loader, PMatDiag, function=nn.CrossEntropyLoss())


def test_an_unknown_layer_is_refused():
    setting = make(
        lambda: nn.Sequential(nn.Conv3d(1, 2, 2), nn.Flatten(), nn.Linear(16, 3)),
        (4, 1, 3, 3, 3),
        nn.CrossEntropyLoss,
    )
    with pytest.raises(Exception, match="do not know what to do with layer"):
        calls.nngeometry(setting, "classif_logits")
    assert all((value > 0).any() for value in exact(setting).values())
