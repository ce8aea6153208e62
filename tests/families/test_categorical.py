"""The two single-draw estimators at every label and their exact moments (Lemma 3.1)."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import (
    EPS,
    assert_close,
    by_autograd,
    chain,
    inputs,
    label_tensors,
    moments_of_draws,
    single_draws,
)
from torch import nn

from diagfim.families import Categorical

FAMILY = Categorical()

# Sums over fewer than 8 labels of products of fewer than 8 factors, each of a few roundings: below
# 100 eps of the sum of the terms' absolute values.
ROUNDING = 100 * EPS

# Every conditional moment, with its degree in the single-draw estimates.
DEGREES = {
    "fisher": 1,
    "variance_1": 2,
    "variance_2": 2,
    "covariance_12": 2,
    "excess_kurtosis_1": 0,
    "excess_kurtosis_2": 0,
    "range_1": 1,
    "range_2": 1,
}


def random_case(classes, units=6, scale=2.0, seed=0):
    """Logits (n, C), and ∂h and ∂²h (n, C, units) of no particular network."""
    rng = np.random.default_rng([seed, classes])
    return scale * rng.normal(size=(4, classes)), *rng.normal(size=(2, 4, classes, units))


def along(outputs, first, second):
    """The same case along the family's directions: Σ_t c_t ∂h_t in the place of ∂h."""
    directions = FAMILY.directions(outputs)
    return outputs, directions @ first, directions @ second


def outcomes_of(*case):
    return FAMILY.outcomes(*along(*case))


def of_labels(outcomes, found):
    """Moments and tails together, as attributes."""
    return SimpleNamespace(**vars(found), **vars(outcomes.tails()))


def moments(*case):
    return of_labels(outcomes_of(*case), FAMILY.moments(*along(*case)))


@pytest.fixture(params=[2, 3, 7])
def case(request):
    return random_case(request.param)


# ---------------------------------------------------------------------------------- outcomes


def test_probabilities_are_the_softmax(case):
    outputs, _, _ = case
    expected = torch.tensor(outputs).softmax(1)
    assert_close(FAMILY.probabilities(outputs), expected, 10 * EPS, expected)
    shifts = 1e3 * np.arange(4)[:, None]  # one for each sample; it costs eps of itself
    assert_close(FAMILY.probabilities(outputs + shifts), expected, 1e4 * EPS, expected)


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Tanh, nn.ReLU])
def test_draws_are_the_derivatives_of_log_p(activation):
    """Î1 = (∂ log p)² and Î2 = −∂² log p, by autograd through the log-softmax, at every label.

    Both agree with autograd to a few roundings of the derivatives of the outputs that they are made
    of, hence of the largest square.
    """
    model, samples = chain(activation, 3), inputs(4)
    with torch.no_grad():
        outputs = model(samples).numpy()
    first, second = by_autograd(model, samples)
    outcomes = outcomes_of(outputs, first, second)
    sigma, *definitions = single_draws(model, samples)
    assert_close(outcomes.probabilities, sigma, 10 * EPS)
    scale = np.max(first**2) + np.max(np.abs(second))
    for draws, definition in zip(outcomes.draws, definitions, strict=True):
        assert_close(draws, definition, ROUNDING, scale)


def test_both_estimators_are_unbiased(case):
    """Σ_c σ_c Î_j(c) = I, with I = ∂h_a ∂h_b I_ab from the explicit covariance of t."""
    outputs, first, second = case
    outcomes = outcomes_of(outputs, first, second)
    for n, sigma in enumerate(outcomes.probabilities):
        covariance, _, _ = label_tensors(sigma)
        fisher = np.einsum("ai,bi,ab->i", first[n], first[n], covariance)
        scale = np.max(first[n] ** 2) + np.max(np.abs(second[n]))
        assert_close(outcomes.fisher[n], fisher, ROUNDING, scale)
        for draws in outcomes.draws:
            assert_close(sigma @ draws[n], fisher, ROUNDING, scale)


def test_score_draws_are_never_negative_and_hessian_draws_may_be(case):
    score, hessian = outcomes_of(*case).draws
    assert np.all(score >= 0)
    assert np.any(hessian < 0)


# ----------------------------------------------------------------------------------- moments


def test_lemma_3_1_with_explicit_tensors(case):
    """V1 = ∂h⁴ : (K − I⊗I), V2 = ∂²h² : I and C12 = −∂h ∂h ∂²h : κ."""
    outputs, first, second = case
    found = moments(*case)
    for n, sigma in enumerate(FAMILY.probabilities(outputs)):
        covariance, third, fourth = label_tensors(sigma)
        excess = fourth - np.einsum("ab,cd->abcd", covariance, covariance)
        g, s = first[n], second[n]
        size_g, size_s = np.max(np.abs(g)), np.max(np.abs(s))
        expected = {
            "fisher": np.einsum("ai,bi,ab->i", g, g, covariance),
            "variance_1": np.einsum("ai,bi,ci,di,abcd->i", g, g, g, g, excess),
            "variance_2": np.einsum("ai,bi,ab->i", s, s, covariance),
            "covariance_12": -np.einsum("ai,bi,ci,abc->i", g, g, s, third),
        }
        scales = (size_g**2, size_g**4, size_s**2, size_g**2 * size_s)
        for (name, value), scale in zip(expected.items(), scales, strict=True):
            # A tensor of order p has C^p terms, so C^p/2 of them may cancel.
            assert_close(getattr(found, name)[n], value, ROUNDING, len(sigma) ** 4 * scale)


def assert_moments_close(found, expected, case):
    """To `ROUNDING` of the largest draw to the degree; a kurtosis divides by V² in addition."""
    _, first, second = case
    draw = np.max(first**2) + np.max(np.abs(second))
    for name, degree in DEGREES.items():
        scale = draw**degree
        if degree == 0:
            variance = np.asarray(expected[name.replace("excess_kurtosis", "variance")])
            scale = 1 + draw**4 / variance**2
        assert_close(found[name], expected[name], 2 * ROUNDING, scale)


def test_moments_by_enumeration_of_the_labels(case):
    outcomes = outcomes_of(*case)
    expected = moments_of_draws(outcomes.probabilities, *outcomes.draws)
    found = vars(moments(*case))
    assert set(DEGREES) == set(expected) == set(found)
    assert_moments_close(found, expected, case)


def test_moments_of_torch_tensors_are_those_of_arrays(case):
    found = vars(moments(*map(torch.tensor, case)))
    assert all(isinstance(value, torch.Tensor) for value in found.values())
    assert_moments_close(found, vars(moments(*case)), case)


def test_two_labels_in_closed_form():
    """C = 2, Δ = ∂h_1 − ∂h_2: I = pqΔ², V1 = pq(q − p)²Δ⁴, V2 = pqD², C12 = −pq(q − p)Δ²D."""
    outputs, first, second = random_case(2)
    p, q = (FAMILY.probabilities(outputs)[:, [c]] for c in (0, 1))
    delta, bend = first[:, 0] - first[:, 1], second[:, 0] - second[:, 1]
    found = moments(outputs, first, second)
    size = np.max(np.abs(first)) ** 4 + np.max(np.abs(second)) ** 2 + 1
    assert_close(found.fisher, p * q * delta**2, ROUNDING, size)
    assert_close(found.variance_1, p * q * (q - p) ** 2 * delta**4, ROUNDING, size)
    assert_close(found.variance_2, p * q * bend**2, ROUNDING, size)
    assert_close(found.covariance_12, -p * q * (q - p) * delta**2 * bend, ROUNDING, size)


def test_linear_coordinates_have_no_hessian_noise():
    """The last layer: ∂²h = 0, so Î2 is I at every label, without any rounding."""
    outputs, first, second = random_case(5)
    outcomes = outcomes_of(outputs, first, 0 * second)
    found = moments(outputs, first, 0 * second)
    for name in ("variance_2", "covariance_12", "excess_kurtosis_2", "range_2"):
        assert np.all(getattr(found, name) == 0), name
    assert np.all(outcomes.draws[1] == found.fisher[:, None])
    assert np.all(found.variance_1 > 0)


# ------------------------------------------------------------------------------ extreme logits


def exact_moments(outputs, first, second):
    """I, V1, V2 and C12 of one sample and one coordinate in rational arithmetic."""
    weights = [Fraction(float(w)) for w in np.exp(outputs - outputs.max())]
    sigma = [w / sum(weights) for w in weights]
    g, s = ([Fraction(float(v)) for v in values] for values in (first, second))

    def mean(values):
        return sum((w * v for w, v in zip(sigma, values, strict=True)), Fraction(0))

    score = [(v - mean(g)) ** 2 for v in g]
    bend = [mean(s) - v for v in s]
    fisher = mean(score)
    score = [v - fisher for v in score]
    pairs = ((score, score), (bend, bend), (score, bend))
    return fisher, *(mean([a * b for a, b in zip(x, y, strict=True)]) for x, y in pairs)


@pytest.mark.parametrize("seed", range(20))
def test_nearly_certain_labels_keep_their_digits(seed):
    """Logits spread over ±60: I and the variances are as small as 1e-50, and right to 12 digits.

    The label of probability 1 − ε deviates by ε, known to eps: it adds eps² to terms of order ε,
    and nothing when ε < eps, for then the mean over the labels is its own value.
    """
    outputs, first, second = random_case(3, units=1, scale=30.0, seed=seed)
    outputs = np.clip(outputs, -60, 60)
    found = moments(outputs, first, second)
    for n in range(len(outputs)):
        exact = exact_moments(outputs[n], first[n, :, 0], second[n, :, 0])
        fisher, variance_1, variance_2, covariance = map(float, exact)
        assert_close(found.fisher[n, 0], fisher, 1e-12)
        assert_close(found.variance_1[n, 0], variance_1, 1e-12)
        assert_close(found.variance_2[n, 0], variance_2, 1e-12)
        scale = np.sqrt(variance_1 * variance_2)
        assert_close(found.covariance_12[n, 0], covariance, 1e-12, scale)


values = st.integers(-60_000, 60_000).map(lambda thousandths: thousandths / 1000)


@given(
    outputs=hnp.arrays(float, (1, 4), elements=values),
    first=hnp.arrays(float, (1, 4, 2), elements=values),
    second=hnp.arrays(float, (1, 4, 2), elements=values),
)
def test_no_logits_give_nan_or_a_negative_variance(outputs, first, second):
    found = moments(outputs, first, second)
    for name in DEGREES:
        assert np.isfinite(getattr(found, name)).all(), name
    for name in ("fisher", "variance_1", "variance_2", "range_1", "range_2"):
        assert np.all(getattr(found, name) >= 0), name
    limit = np.sqrt(found.variance_1) * np.sqrt(found.variance_2)
    assert np.all(np.abs(found.covariance_12) <= limit * (1 + ROUNDING))  # Cauchy and Schwarz
    for j in (1, 2):
        assert np.all(getattr(found, f"excess_kurtosis_{j}") >= -2 - ROUNDING)
        variance, largest = (getattr(found, f"{q}_{j}") for q in ("variance", "range"))
        assert np.all(variance <= largest**2 * (1 + ROUNDING))
