"""The slow reference against what is slower still: finite differences and sums over the labels."""

import numpy as np
import pytest
import torch
from reference import (
    EPS,
    assert_close,
    by_autograd,
    by_name,
    chain,
    inputs,
    moments_of_draws,
    single_draws,
)
from torch import nn

from diagfim import reference

MODEL, SAMPLES = chain(nn.Tanh, 3), inputs(3)


def test_derivatives_of_the_flat_parameter_vector():
    outputs, first, second = reference.derivatives(MODEL, SAMPLES)
    assert_close(outputs.detach(), MODEL(SAMPLES).detach(), 10 * EPS)
    for found, flat in zip((first, second), by_autograd(MODEL, SAMPLES), strict=True):
        for name, value in by_name(MODEL, flat).items():
            assert_close(found[name].detach(), value, 100 * EPS)


def test_derivatives_by_finite_differences():
    """Central differences of step 1e-4: errors of 1e-8 of the third and fourth derivatives."""
    _, first, second = reference.derivatives(MODEL, SAMPLES)
    step = 1e-4
    for name, parameter in MODEL.named_parameters():
        flat = parameter.data.view(-1)
        for index in range(0, flat.numel(), 3):
            values = []
            for shift in (-step, 0.0, step):
                old = flat[index].item()
                flat[index] = old + shift
                values.append(MODEL(SAMPLES).detach())
                flat[index] = old
            low, here, high = values
            slope, bend = (high - low) / (2 * step), (high - 2 * here + low) / step**2
            assert_close(first[name].flatten(2)[:, :, index].detach(), slope, 1e-6, 1.0)
            assert_close(second[name].flatten(2)[:, :, index].detach(), bend, 1e-5, 1.0)


def test_moments_by_enumeration_of_the_labels():
    found = reference.analyze(MODEL, SAMPLES)
    expected = moments_of_draws(*single_draws(MODEL, SAMPLES))
    expected["input_variance"] = expected["fisher"] - expected["fisher"].mean(0)
    expected["input_variance"] = expected["input_variance"] ** 2
    for quantity in ("fisher", "variance_1", "variance_2", "covariance_12", "input_variance"):
        scale = np.max(np.abs(expected[quantity]))
        for name, value in by_name(MODEL, expected[quantity].mean(0)).items():
            assert_close(found[name][quantity].detach(), value, 1e-13, scale)


def test_gaussian_moments_by_simulation():
    """A million targets at one input: means and variances of both estimators within |z| < 5."""
    found = reference.analyze(MODEL, SAMPLES[:1], "gaussian")["4.bias"]
    _, first, second = reference.derivatives(MODEL, SAMPLES[:1])
    first, second = (one["4.bias"][0].detach().numpy() for one in (first, second))
    noise = np.random.default_rng(0).standard_normal((10**6, 3))
    score = (noise @ first) ** 2
    hessian = (first**2).sum(0) - noise @ second
    for draws, j in ((score, 1), (hessian, 2)):
        variance = found[f"variance_{j}"].detach().numpy()
        z = (draws.mean(0) - found["fisher"].detach().numpy()) / np.sqrt(variance / 1e6 + 1e-30)
        assert np.abs(z).max() < 5
        spread = np.sqrt(draws.var(0) ** 2 * 20 / 1e6)  # the kurtosis of a squared normal is 15
        assert np.all(np.abs(draws.var(0) - variance) <= 5 * spread + 1e-15)


def test_a_family_it_does_not_know():
    with pytest.raises(KeyError):
        reference.analyze(MODEL, SAMPLES, "poisson")


def test_frozen_parameters_are_left_out():
    model = chain(nn.Tanh, 2)
    model[0].weight.requires_grad_(False)
    assert "0.weight" not in reference.analyze(model, SAMPLES)
    assert torch.is_tensor(reference.analyze(model, SAMPLES)["0.bias"]["fisher"])
