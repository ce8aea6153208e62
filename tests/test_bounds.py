"""Theorems 4.1 and 5.2, and the eigenvalues that they bound with."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import EPS, assert_close, by_autograd, by_name, chain, inputs, label_tensors
from scipy.optimize import minimize
from torch import nn

from diagfim import bounds
from diagfim.bounds import (
    fisher_lambda_max,
    squared_norms,
    tensor_lambda_max,
    theorem_4_1,
    theorem_5_2,
)
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


def unit(u):
    return u / np.linalg.norm(u, axis=-1, keepdims=True)


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
    loose, true = theorem_5_2(sigmas), (fisher_lambda_max(sigmas), tensor_lambda_max(sigmas))
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
    assert np.all(fisher_lambda_max(sigmas) <= fisher * (1 + 1e-12))
    assert np.all(tensor_lambda_max(sigmas) <= tensor * (1 + 1e-12))


# --------------------------------------------------------------------------------- eigenvalues


@pytest.mark.parametrize("classes", CLASSES)
def test_fisher_eigenvalue_is_that_of_the_explicit_matrix(classes):
    sigmas = distributions(classes, 10)
    explicit = [np.linalg.eigvalsh(label_tensors(sigma)[0])[-1] for sigma in sigmas]
    # eigvalsh is backward stable: a few C eps of the norm, which is below 1/2.
    assert_close(fisher_lambda_max(sigmas), explicit, 10 * classes * EPS, 0.5)


def test_fisher_eigenvalue_of_two_labels_near_a_certain_one():
    """λmax = 2 p (1 − p), all digits."""
    for p in (0.5, 0.1, 1e-8, 1e-20):
        found = fisher_lambda_max(np.array([[p, 1 - p]]))
        assert_close(found, [2 * p * (1 - p)], 10 * EPS)


def test_tensor_eigenvalue_of_two_labels():
    """λ̃max = 4 p q (q − p)², q = 1 − p.

    d_1 = qΔ and d_2 = −pΔ with Δ = u_1 − u_2, so Var(d²) = p q (q² − p²)² Δ⁴, q² − p² = q − p, and
    Δ² is at most 2 on the unit circle.
    """
    p = np.array([0.5, 0.4, 0.3, 0.25, 0.1, 1e-3, 1e-8])
    q = 1 - p
    found = tensor_lambda_max(np.stack([p, q], axis=1))
    # The ascents stop at a relative increase of 1e-13.
    assert_close(found, 4 * p * q * (q - p) ** 2, 1e-12, 4 * p * q * (q - p) ** 2 + EPS**2)


@pytest.mark.parametrize("classes", [3, 5, 10, 40])
def test_tensor_eigenvalue_of_equal_labels(classes):
    """(C − 2)²/(C² (C − 1)), at u = e_a less its mean: 16/225 = 0.0711 for ten classes.

    d is then (C − 1)/r once and −1/r elsewhere, with r² = C (C − 1): d² takes two values that
    differ by (C − 2)/(C − 1), and its variance is (C − 1)/C² of the squared difference.
    """
    expected = (classes - 2) ** 2 / (classes**2 * (classes - 1))
    uniform = np.full(classes, 1 / classes)
    u = unit(np.eye(classes)[0] - 1 / classes)
    assert_close(variance_of_square(uniform, u), expected, 100 * EPS)
    # The ascents stop at a relative increase of 1e-13.
    assert_close(tensor_lambda_max(uniform[None]), [expected], 1e-12)
    assert classes != 10 or expected == pytest.approx(16 / 225)


def test_tensor_eigenvalue_of_a_certain_label_is_zero():
    assert tensor_lambda_max(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])).tolist() == [0, 0]


CASES = {
    **{f"C={c}-{k}": s for c in CLASSES for k, s in enumerate(distributions(c, 1, seed=1))},
    "nearly one-hot": np.array([1 - 1e-8, 4e-9, 3e-9, 2e-9, 1e-9]),
    "two labels and a rare one": np.array([0.5 - 1e-9, 0.5, 1e-9]),
}


@pytest.mark.parametrize("sigma", CASES.values(), ids=CASES.keys())
def test_tensor_eigenvalue_is_the_best_of_many_ascents(sigma):
    """BFGS from 20 random starts, gradients by autograd, in units of the value to be confirmed.

    It stops at a gradient of 1e-8, which leaves the value to about the square of that, unless the
    curvature is below 1e-7: 1e-9 is safe.
    """
    weight = torch.tensor(sigma)
    found = tensor_lambda_max(sigma[None])[0]

    def objective(values):
        u = torch.tensor(values, requires_grad=True)
        d = u / u.norm() - (u / u.norm()) @ weight
        value = -(weight @ (d**2 - weight @ d**2) ** 2) / found
        value.backward()
        return value.item(), u.grad.numpy()

    rng = np.random.default_rng(0)
    best = max(
        -minimize(objective, rng.normal(size=sigma.size), jac=True, options={"gtol": 1e-8}).fun
        for _ in range(20)
    )
    assert_close(best, 1.0, 1e-9)


@pytest.mark.parametrize("classes", [3, 5])
def test_tensor_eigenvalue_is_that_of_the_explicit_tensor(classes):
    """u_a u_b u_c u_d M_abcd over random unit u never exceeds it, and comes near."""
    u = unit(np.random.default_rng(classes).normal(size=(20_000, classes)))
    for sigma in distributions(classes, 1, seed=2):
        covariance, _, fourth = label_tensors(sigma)
        excess = fourth - np.einsum("ab,cd->abcd", covariance, covariance)
        form = np.einsum("na,nb,nc,nd,abcd->n", u, u, u, u, excess, optimize=True)
        found = tensor_lambda_max(sigma[None])[0]
        assert np.max(form) <= found * (1 + 1e-12) + EPS**2
        assert np.max(form) >= 0.8 * found


def test_tensor_eigenvalue_is_never_below_a_random_search():
    rng = np.random.default_rng(9)
    u = unit(rng.normal(size=(20_000, 10)))
    sigmas = distributions(10, 3, seed=3)
    for sigma, found in zip(sigmas, tensor_lambda_max(sigmas), strict=True):
        assert np.max(variance_of_square(sigma, u)) <= found * (1 + 1e-12)


@pytest.mark.parametrize("classes", CLASSES)
def test_gradient_and_hessian_of_the_quartic_form(classes):
    for sigma in distributions(classes, 1, seed=4):
        weight = torch.tensor(sigma)

        def form(u, weight=weight):
            d = u - u @ weight
            return weight @ (d**2 - weight @ d**2) ** 2

        points = np.random.default_rng(classes).normal(size=(3, classes))
        assert_close(
            bounds._quartic(sigma, points), [form(torch.tensor(u)) for u in points], 100 * EPS
        )
        gradient, hessian = bounds._quartic_derivatives(sigma, points)
        for u, one_gradient, one_hessian in zip(points, gradient, hessian, strict=True):
            u = torch.tensor(u)
            # Sums over C labels of products of a few numbers of the size of u.
            scale = float((1 + u.abs().max()) ** 4)
            assert_close(one_gradient, torch.func.grad(form)(u), 100 * EPS, scale)
            assert_close(one_hessian, torch.autograd.functional.hessian(form, u), 100 * EPS, scale)
