"""ASDL (package asdfghjkl, module asdl): exact as stated, Monte Carlo divided twice."""

import calls
import pytest
import torch
from comparing import (
    NLL,
    REPEATS,
    assert_near,
    assert_noise,
    assert_same,
    empirical,
    exact,
    hessian_diagonal,
    scaled,
)
from networks import BACKPACK, CURVLINOPS
from torch import nn

PEERS = ("asdl",)

SETTINGS = {
    "classes": CURVLINOPS["classes"],
    "regression": CURVLINOPS["regression"],
    "sigmoid regression": BACKPACK["sigmoid regression"],
    "log-sigmoid": BACKPACK["log-sigmoid"],
    "conv2d": BACKPACK["conv2d"],
}
NAMES = pytest.mark.parametrize("name", SETTINGS)


@NAMES
def test_exact_fisher(name):
    setting = SETTINGS[name]()
    assert_same(calls.asdl(setting, "EXACT"), exact(setting))


@NAMES
def test_empirical_fisher_is_that_of_the_loss(name):
    """Four times that of −log p for MSELoss: the gradient's 2, squared."""
    setting = SETTINGS[name]()
    scale = 4 if setting.loss is nn.MSELoss else 1
    assert_same(calls.asdl(setting, "EMP"), scaled(empirical(setting), scale))


@pytest.mark.parametrize(("name", "draws"), [("classes", 1), ("classes", 4), ("regression", 3)])
def test_monte_carlo_fisher_is_one_over_the_draws_of_what_it_should_be(name, draws):
    """Each gradient is divided by the number of draws before it is squared: Σ (g/k)² is I/k."""
    setting = SETTINGS[name]()
    repeats = []
    for seed in range(REPEATS):
        torch.manual_seed(seed)
        one = calls.asdl(setting, "MC", n_mc_samples=draws)
        repeats.append(scaled(one, draws))
    assert_noise(repeats, setting, draws)


def test_a_noise_variance_multiplies_where_it_should_divide():
    """Targets of variance s² are drawn, but the squares are those of (h − y)²/2: s² I, not I/s²."""
    setting = SETTINGS["regression"]()
    repeats = []
    for seed in range(REPEATS):
        torch.manual_seed(seed)
        repeats.append(scaled(calls.asdl(setting, "MC", var=4.0), 1 / 4))
    assert_noise(repeats, setting, draws=1)
    assert_same(calls.asdl(setting, "EXACT", var=4.0), exact(setting))


@NAMES
def test_hessian_of_the_summed_loss(name):
    setting = SETTINGS[name]()
    scale = NLL[setting.loss] * len(setting.inputs)
    assert_near(calls.asdl_hessian(setting), scaled(hessian_diagonal(setting), scale))
