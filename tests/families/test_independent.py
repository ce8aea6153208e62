"""Independent targets: moments, contractions and draws of every family, by summing over targets."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from reference import EPS, assert_close, moments_of_draws
from scipy import special, stats

from diagfim.errors import UserError
from diagfim.families import (
    FAMILIES,
    Bernoulli,
    Categorical,
    Central,
    Gaussian,
    Independent,
    Poisson,
    family_of,
)
from diagfim.seeding import InputStreams

FOUR = 4.0
"""A bound on |z| of a few hundred tests: the normal law exceeds it once in 16,000."""


class Binomial(Independent):
    """Successes in three trials: what a user writes."""

    name = "binomial"

    def central(self, outputs):
        p = special.expit(outputs)
        v = 3 * p * (1 - p)
        return Central(3 * p, v, v * (1 - 2 * p), v * (1 - 6 * p * (1 - p)) + 2 * v * v)

    def quantile(self, outputs, levels):
        return stats.binom.ppf(levels, 3, special.expit(outputs)).clip(0)


def support(family, output):
    """Values of one component of t(y), and their probabilities, at a scalar output."""
    if family.name == "gaussian":  # exact for polynomials below degree 40
        nodes, weights = np.polynomial.hermite_e.hermegauss(20)
        deviation = float(np.sqrt(family.variance))
        return (output + deviation * nodes) / deviation**2, weights / weights.sum()
    law = {
        "bernoulli": stats.binom(1, special.expit(output)),
        "binomial": stats.binom(3, special.expit(output)),
        "poisson": stats.poisson(np.exp(output)),
    }[family.name]
    values = np.arange(200 if family.name == "poisson" else 4)
    return values, law.pmf(values)


def enumerated(family, outputs):
    """Residuals (n, Y, 2) of every pair of targets, and their probabilities (n, Y)."""
    residuals, weights = [], []
    for pair in outputs:
        (x, p), (y, q) = (support(family, one) for one in pair)
        values = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
        weight = np.outer(p, q).ravel()
        residuals.append(values - weight @ values)
        weights.append(weight)
    return np.stack(residuals), np.stack(weights)


EVERY = [Gaussian(), Gaussian(0.3), Bernoulli(), Poisson(), Binomial()]
identified = pytest.mark.parametrize("family", EVERY, ids=["g", "g0.3", "b", "p", "binomial"])


@pytest.fixture
def case():
    """Two outputs, up to 3 in size, at 5 inputs; two derivatives by each of 4 parameters."""
    rng = np.random.default_rng(3)
    return rng.uniform(-3, 3, (5, 2)), *rng.normal(size=(2, 5, 2, 4))


# Sums of 200² terms at most, whose moments of degree 4 reach 100² for rates up to e³.
ENUMERATION = 1e-12


@identified
def test_lemma_3_1_by_enumeration_of_the_targets(family, case):
    outputs, first, second = case
    residuals, weights = enumerated(family, outputs)
    fisher = np.einsum("ny,nyp->np", weights, (residuals @ first) ** 2)
    expected = moments_of_draws(
        weights, (residuals @ first) ** 2, fisher[:, None] - residuals @ second
    )
    found = family.moments(*case)
    size = 1 + np.max(fisher)
    for name in ("fisher", "variance_1", "variance_2", "covariance_12"):
        assert_close(getattr(found, name), expected[name], ENUMERATION, size**2 * 10)
    assert_close(family.mean(outputs), outputs_mean(family, outputs), ENUMERATION, size)
    # I = Σ_k (d_kᵀ ∂h)² along the root.
    root = np.sum((family.root(outputs) @ first) ** 2, axis=1)
    assert_close(root, expected["fisher"], ENUMERATION, size)


def outputs_mean(family, outputs):
    return np.array([[w @ v for v, w in (support(family, h) for h in row)] for row in outputs])


@pytest.mark.parametrize("family", [*EVERY, Categorical()])
def test_contractions_with_four_vectors_by_enumeration(family, case):
    outputs = case[0]
    if family.name == "categorical":
        weights = family.probabilities(outputs)
        residuals = np.eye(2) - weights[:, None]
    else:
        residuals, weights = enumerated(family, outputs)
    vectors = np.random.default_rng(4).normal(size=(4, 5, 2, 3))
    a, b, c, d = (residuals @ v for v in vectors)

    def mean(values):
        return np.einsum("ny,nyp->np", weights, values)

    pairs = mean(a * b * c * d) - mean(a * b) * mean(c * d)
    size = 1 + np.max(np.abs(mean(a * b)))
    for found, expected in (
        (family.second_moment(outputs, *vectors[:2]), mean(a * b)),
        (family.third_moment(outputs, *vectors[:3]), mean(a * b * c)),
        (family.product_covariance(outputs, *vectors), pairs),
        (family.covariance(outputs), np.einsum("ny,nya,nyb->nab", weights, residuals, residuals)),
    ):
        assert_close(found, expected, ENUMERATION, 100 * size**2)


@pytest.mark.parametrize("family", EVERY[:-1])
def test_moments_of_torch_tensors_are_those_of_arrays(family, case):
    found = family.moments(*map(torch.tensor, case))
    for name, value in vars(family.moments(*case)).items():
        assert_close(getattr(found, name), value, 100 * EPS)


def exact_bernoulli(output):
    """Variance, third moment and Var((t − p)²) in rational arithmetic."""
    small = Fraction(float(np.exp(-abs(output))))
    p = (small if output < 0 else Fraction(1)) / (1 + small)
    v = p * (1 - p)
    return v, v * (1 - 2 * p), v * (1 - 4 * v)


@pytest.mark.parametrize("output", [-700.0, -40.0, -1.0, -1e-9, 1e-5, 3.0, 40.0, 700.0])
def test_nearly_certain_targets_keep_their_digits(output):
    """And nearly even ones, where Var((t − p)²) is the square of a small number."""
    found = Bernoulli().central(np.array([[output]]))
    expected = exact_bernoulli(output)
    # p is known to eps, hence 1 − 2p to eps of p: near evens the exact value is no better known.
    for name, value in zip(("variance", "third", "square_variance"), expected, strict=True):
        known = 1e-14 if abs(output) > 1e-3 or name == "variance" else 1e-6
        assert_close(getattr(found, name)[0, 0], float(value), known, abs(float(value)))


# --------------------------------------------------------------------------------------- draws


@identified
@pytest.mark.parametrize("draws", [1, 2, 3, 50])
def test_draws_have_the_moments_of_both_estimators(family, case, draws):
    """Î1 and Î2 at thousands of inputs alike: means I, variances V/N and the covariance.

    N = 2 is where single draws end and their scatter begins, there being two outputs.
    """
    n = 20_000 if draws <= 2 else 5_000
    outputs, first, second = (np.repeat(one[:1], n, axis=0) for one in case)
    drawn = family.draw(outputs, draws, InputStreams(5, 0, len(outputs)))
    score = np.einsum("nk,nkp->np", drawn.weights, (drawn.directions @ first) ** 2)
    exact = family.moments(outputs, first, second)
    hessian = exact.fisher - np.einsum("nt,ntp->np", drawn.mean, second)
    centred = score - exact.fisher, hessian - exact.fisher
    products = (
        (*centred[:1], 0 * exact.fisher),
        (*centred[1:], 0 * exact.fisher),
        (centred[0] ** 2, exact.variance_1 / draws),
        (centred[1] ** 2, exact.variance_2 / draws),
        (centred[0] * centred[1], exact.covariance_12 / draws),
    )
    for values, expected in products:
        error = values.std(axis=0) / len(values) ** 0.5
        z = (values.mean(axis=0) - expected[0]) / error
        assert np.all(np.abs(z) < FOUR), z


@identified
def test_draws_of_an_input_do_not_depend_on_the_batch(family, case):
    outputs = case[0]
    for draws in (2, 7):
        whole = family.draw(outputs, draws, InputStreams(1, 0, 5))
        rest = family.draw(outputs[3:], draws, InputStreams(1, 3, 2))
        for name, value in vars(rest).items():
            assert np.array_equal(vars(whole)[name][3:], value), name


@identified
def test_samples_follow_the_distribution(family):
    """The largest deviation of the empirical distribution function, against Kolmogorov's."""
    n, output = 50_000, 0.7
    drawn = family.sample(np.full((n, 1), output), 1, InputStreams(2, 0, n))[:, 0, 0]
    values = drawn + family.mean(np.array([[output]]))[0, 0]
    if family.name == "gaussian":
        variance = float(family.variance)
        law = stats.norm(output / variance, variance**-0.5)
        assert stats.kstest(values, law.cdf).pvalue > 1e-4
        return
    points, weights = support(family, output)
    below = (np.round(values, 9)[:, None] <= points).mean(axis=0)
    # Discreteness makes Kolmogorov's law conservative.
    assert np.abs(below - np.cumsum(weights)).max() < stats.kstwobign.isf(1e-4) / n**0.5


def test_quantiles_of_counts_are_those_of_scipy():
    rng = np.random.default_rng(6)
    outputs, levels = rng.uniform(-6, 7, 20_000), rng.random(20_000)
    found = Poisson().quantile(outputs, levels)
    # The least k with F(k) > u; F(k) ≥ u in SciPy, the same but at the values of F.
    assert np.array_equal(found, stats.poisson(np.exp(outputs)).ppf(levels).clip(0))


# ------------------------------------------------------------------------------------- targets


def test_residuals_of_given_targets():
    outputs = np.array([[0.5, -1.0]])
    targets = np.array([[1.0, 0.0]])
    mean = np.array([0.5, -1.0])
    expected = {
        "gaussian": targets - mean,
        "bernoulli": targets - special.expit(mean),
        "poisson": targets - np.exp(mean),
    }
    for name, value in expected.items():
        assert_close(family_of(name).residuals(outputs, targets), value, 10 * EPS)
    noisy = Gaussian(np.array([4.0, 0.25])).residuals(outputs, targets)
    assert_close(noisy, (targets - mean) / np.array([4.0, 0.25]), 10 * EPS)


@pytest.mark.parametrize(
    ("family", "targets", "message"),
    [
        (Bernoulli(), [[0.0, 0.5]], "labels: the bernoulli family expects 0 and 1 only"),
        (Poisson(), [[-1.0, 2.0]], "labels: the poisson family expects counts 0, 1, 2, ... only"),
        (Poisson(), [[1.5, 2.0]], "labels: the poisson family expects counts"),
        (Gaussian(), [[np.inf, 0.0]], "labels: the gaussian family expects real numbers only"),
        (Gaussian(), [[1.0]], r"labels: shape \(1, 1\); .* the shape of the outputs, \(1, 2\)"),
    ],
)
def test_targets_that_cannot_be(family, targets, message):
    with pytest.raises(UserError, match=message):
        family.residuals(np.zeros((1, 2)), np.array(targets))


@pytest.mark.parametrize("variance", [0.0, -1.0, float("nan"), np.array([1.0, 0.0]), np.eye(2)])
def test_a_variance_is_positive(variance):
    with pytest.raises(UserError, match=r"variance: .* is not positive"):
        Gaussian(variance)


def test_as_many_variances_as_outputs():
    with pytest.raises(UserError, match="variance: 3 values for 2 outputs"):
        Gaussian(np.ones(3)).central(np.zeros((1, 2)))


def test_families_by_name():
    assert set(FAMILIES) == {"categorical", "gaussian", "bernoulli", "poisson"}
    with pytest.raises(UserError, match="cauchy"):
        family_of("cauchy")
