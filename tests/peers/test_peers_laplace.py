"""laplace-torch: sums over the data, and an empirical Fisher of its own for regression."""

import copy

import calls
import pytest
import torch
from calls import needed
from comparing import (
    REPEATS,
    assert_near,
    assert_noise,
    assert_same,
    empirical,
    exact,
    hessian_diagonal,
    scaled,
    values,
)
from networks import BACKPACK, CURVLINOPS, Setting
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import diagfim
from diagfim.families import Gaussian

PEERS = ("laplace",)

GGN = {"CurvlinopsGGN": "curvlinops", "BackPackGGN": "backpack", "AsdlGGN": "asdl"}
EF = {name.replace("GGN", "EF"): module for name, module in GGN.items()}
SETTINGS = {
    "classes": CURVLINOPS["classes"],
    "regression": CURVLINOPS["regression"],
    "sigmoid regression": BACKPACK["sigmoid regression"],
    "conv2d": BACKPACK["conv2d"],
}
NAMES = pytest.mark.parametrize("name", SETTINGS)


@NAMES
@pytest.mark.parametrize("backend", GGN)
def test_ggn_is_the_sum_over_the_data(name, backend):
    """For Gaussian outputs of variance 1: the 2 of MSELoss is taken out."""
    needed(GGN[backend])
    setting = SETTINGS[name]()
    theirs = calls.laplace(setting, backend)
    assert_same(theirs, scaled(exact(setting), len(setting.inputs)))


@NAMES
@pytest.mark.parametrize("backend", EF)
def test_ef_is_the_sum_but_twice_it_in_regression(name, backend):
    """Gradients of MSELoss are twice those of −log p, their squares four times; 1/2 is taken out.

    The factor that takes the loss to −log p is 1/2, and is applied to the square of the gradient.
    """
    needed(EF[backend])
    setting = SETTINGS[name]()
    theirs = calls.laplace(setting, backend)
    twice = 2 if setting.loss is nn.MSELoss else 1
    assert_same(theirs, scaled(empirical(setting), twice * len(setting.inputs)))


@pytest.mark.parametrize(
    ("backend", "name"),
    [("CurvlinopsGGN", "classes"), ("CurvlinopsGGN", "regression"), ("BackPackGGN", "classes")],
)
def test_stochastic_ggn_scatters_as_the_score_based_estimator(backend, name):
    needed(GGN[backend])
    setting = SETTINGS[name]()
    repeats = []
    for seed in range(REPEATS):
        torch.manual_seed(seed)
        one = calls.laplace(setting, backend, stochastic=True)
        repeats.append(scaled(one, 1 / len(setting.inputs)))
    assert_noise(repeats, setting, draws=1)


def test_the_labels_do_not_enter_the_ggn():
    needed("curvlinops")
    setting = SETTINGS["classes"]()
    other = Setting(setting.model, setting.inputs, (setting.labels + 1) % 3, setting.loss)
    assert_same(calls.laplace(setting, "CurvlinopsGGN"), calls.laplace(other, "CurvlinopsGGN"))
    one, two = (calls.laplace(each, "CurvlinopsEF") for each in (setting, other))
    assert (one["2.bias"] / two["2.bias"] - 1).abs().max() > 0.1


@pytest.mark.parametrize("variance", [1.0, 0.25])
def test_posterior_precision_is_the_sum_over_the_data_and_the_prior(variance):
    """With the noise's standard deviation that Laplace is given: F of that Gaussian."""
    needed("curvlinops")
    from laplace import DiagLaplace, curvature

    setting = SETTINGS["sigmoid regression"]()
    given = {"sigma_noise": variance**0.5, "prior_precision": 3.0}
    fitted = DiagLaplace(
        copy.deepcopy(setting.model), "regression", backend=curvature.CurvlinopsGGN, **given
    )
    fitted.fit(DataLoader(TensorDataset(setting.inputs, setting.labels), batch_size=2))
    tree = diagfim.estimate(
        setting.model, setting.inputs, "exact", family=Gaussian(variance), errors=False
    )
    theirs = calls.split(setting, fitted.posterior_precision.detach() - 3.0)
    assert_near(theirs, scaled(values(tree), len(setting.inputs)))


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", ["classes", "sigmoid regression"])
def test_the_hessian_has_the_whole_matrix_and_no_diagonal(name):
    needed("curvlinops")
    from laplace.curvature import CurvlinopsHessian

    setting = SETTINGS[name]()
    with pytest.raises(NotImplementedError):
        calls.laplace(setting, "CurvlinopsHessian")
    kind = "regression" if setting.loss is nn.MSELoss else "classification"
    hessian = CurvlinopsHessian(copy.deepcopy(setting.model), kind)
    _, matrix = hessian.full(setting.inputs, setting.labels)
    theirs = calls.split(setting, matrix.diagonal().detach())
    assert_near(theirs, scaled(hessian_diagonal(setting), len(setting.inputs)))
