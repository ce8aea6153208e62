"""Theorems 4.1 and 5.2, and the norms that they are about."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import EPS, assert_close, by_autograd, by_name, chain, inputs, label_tensors
from torch import nn

from diagfim import spectra
from diagfim.bounds import squared_norms, theorem_4_1, theorem_5_2
from diagfim.comparison import BOUND_SLACK
from diagfim.derivatives.dense import derivatives
from diagfim.derivatives.storage import to_numpy

CLASSES = (2, 3, 5, 10)


def distributions(classes, n, seed=0):
    """From nearly one-hot to nearly uniform: Dirichlet of four concentrations, n of each."""
    rng = np.random.default_rng([seed, classes])
    return np.concatenate([rng.dirichlet(np.full(classes, a), n) for a in (0.05, 0.3, 1, 10)])


def variance_of_square(sigma, u):
    """Var_y((uᵀ(t − η))²) for unit rows u, summed over the labels."""
    squares = (u - (u @ sigma)[..., None]) ** 2
    return (squares - (squares @ sigma)[..., None]) ** 2 @ sigma


def eigenvalues(sigmas):
    """λmax(I), and λ̃max(M) as far as a vector attains it."""
    covariance = np.stack([label_tensors(sigma)[0] for sigma in sigmas])
    _, largest = spectra.categorical_tensor_eigenvalues(sigmas)
    return spectra.fisher_eigenvalues(covariance)[1], largest.lower


# ------------------------------------------------------------------------------------- norms


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_squared_norms_of_every_parameter(bias):
    """Against autograd; squares and fourth powers of derivatives known to 1e-12 of the largest."""
    model, samples = chain(nn.Sigmoid, 3, bias), inputs(4)
    parameters, layers = squared_norms(to_numpy(derivatives(model, samples)))
    first, second = ((one**2).sum(1) for one in by_autograd(model, samples))
    named = by_name(model, first), by_name(model, second)
    assert list(parameters) == list(named[0])
    for name in parameters:
        assert_close(parameters[name]["first_squared"], named[0][name], 2e-12, np.max(first))
        assert_close(parameters[name]["second_squared"], named[1][name], 2e-12, np.max(second))
    assert list(layers) == ["0.weight", "2.weight", "4.weight"]
    for weight, found in layers.items():
        squares, bends = (
            np.hstack([one[name].reshape(4, -1) for name in one if name[0] == weight[0]])
            for one in named
        )
        assert_close(found["first_squared"], squares.mean(1), 2e-12, np.max(first))
        assert_close(found["first_fourth"], (squares**2).mean(1), 4e-12, np.max(first) ** 2)
        assert_close(found["second_squared"], bends.mean(1), 2e-12, np.max(second))


# --------------------------------------------------------------------------------- theorem 4.1


def exact_moments(sigma, first, second):
    """I, V1, V2 of coordinates (k, C) by enumeration of the labels."""
    fisher = ((first - (first @ sigma)[:, None]) ** 2) @ sigma
    bend = ((second - (second @ sigma)[:, None]) ** 2) @ sigma
    return fisher, variance_of_square(sigma, first), bend


def test_theorem_4_1_is_the_product_of_norm_and_eigenvalue():
    found = theorem_4_1(*(np.array([value]) for value in (3.0, 5.0, 0.5, 0.25)))
    assert [float(value[0]) for value in found] == [1.5, 9 * 0.25, 2.5]


@pytest.mark.parametrize("classes", CLASSES)
def test_theorem_4_1_is_never_broken(classes):
    """1,000 cases for each C: 100 distributions, 10 derivatives each, both eigenvalue kinds."""
    sigmas = distributions(classes, 25)
    rng = np.random.default_rng(classes)
    loose, true = theorem_5_2(sigmas), eigenvalues(sigmas)
    for k, sigma in enumerate(sigmas):
        first, second = rng.normal(size=(2, 10, classes))
        # One derivative along the leading eigenvector of I, where its bound is attained.
        first[0] = second[0] = np.linalg.eigh(label_tensors(sigma)[0])[1][:, -1]
        values = exact_moments(sigma, first, second)
        norms = (first**2).sum(1), (second**2).sum(1)
        for fisher, tensor in (loose, true):
            for value, bound in zip(values, theorem_4_1(*norms, fisher[k], tensor[k]), strict=True):
                assert np.all(value <= bound * (1 + BOUND_SLACK))
        tight = theorem_4_1(*norms, true[0][k], true[1][k])
        # Rounding of the eigenvector moves I by its square, that of I itself is eps.
        assert_close(values[0][0], tight[0][0], 1e-12)


@pytest.mark.parametrize("classes", CLASSES)
def test_lower_bound_is_zero_and_attained(classes):
    u = np.full((1, classes), classes**-0.5)
    for sigma in distributions(classes, 2):
        assert np.all(np.array(exact_moments(sigma, u, u)) <= (10 * EPS) ** 2)
    assert all(np.all(value == 0) for value in theorem_4_1(u, u, 0 * u, 0 * u))


# --------------------------------------------------------------------------------- theorem 5.2


@pytest.mark.parametrize("classes", CLASSES)
def test_theorem_5_2_is_the_smaller_of_two(classes):
    """m = min(max σ, 1 − ‖σ‖²): each takes its turn among these distributions."""
    sigmas = distributions(classes, 20)
    largest, gini = sigmas.max(1), 1 - (sigmas**2).sum(1)
    fisher, tensor = theorem_5_2(sigmas)
    assert_close(fisher, np.minimum(largest, gini), 10 * EPS, 1.0)
    assert np.array_equal(tensor, 2 * fisher)
    assert np.any(gini < largest)
    assert classes == 2 or np.any(gini > largest)


@pytest.mark.parametrize("epsilon", [1e-8, 1e-12, 1e-30])
def test_theorem_5_2_keeps_its_digits_near_a_certain_label(epsilon):
    sigma = np.array([1 - epsilon, epsilon / 4, 3 * epsilon / 4])
    small = [Fraction(float(p)) for p in sigma[1:]]
    exact = 1 - (1 - sum(small)) ** 2 - sum(p**2 for p in small)
    assert_close(theorem_5_2(sigma[None])[0][0], float(exact), 10 * EPS)


@given(
    logits=hnp.arrays(float, st.tuples(st.just(2), st.integers(2, 6)), elements=st.floats(-30, 30))
)
def test_theorem_5_2_bounds_both_eigenvalues(logits):
    sigmas = np.exp(logits - logits.max(1, keepdims=True))
    sigmas /= sigmas.sum(1, keepdims=True)
    fisher, tensor = theorem_5_2(sigmas)
    # The eigenvalue of an explicit I is known to a few eps of its entries, at most 1/4.
    of_fisher, of_tensor = eigenvalues(sigmas)
    assert np.all(of_fisher <= fisher * (1 + 1e-12) + 10 * EPS)
    assert np.all(of_tensor <= tensor * (1 + 1e-12))
