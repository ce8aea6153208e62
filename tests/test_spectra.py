"""Eigenvalues of the moments of t(y): what is attained, and that the bounds are bounds."""

import numpy as np
import pytest
import torch
from reference import EPS, assert_close, label_tensors
from scipy.optimize import minimize

from diagfim import spectra
from diagfim.errors import UserError
from diagfim.families import Bernoulli, Categorical, Gaussian, Independent, Poisson
from diagfim.spectra import (
    categorical_tensor_eigenvalues,
    fisher_eigenvalues,
    gamma_max,
    independent_tensor_eigenvalues,
)

CLASSES = (2, 3, 5, 10)
RTOL = 1e-2


def distributions(classes, n, seed=0):
    """From nearly one-hot to nearly uniform: Dirichlet of four concentrations, n of each."""
    rng = np.random.default_rng([seed, classes])
    return np.concatenate([rng.dirichlet(np.full(classes, a), n) for a in (0.05, 0.3, 1, 10)])


def unit(u):
    return u / np.linalg.norm(u, axis=-1, keepdims=True)


def form(sigma, u, tensor):
    """E_y d_y⁴, less (E_y d_y²)² for M, as a sum over the labels: unit rows u (k, C) to (k,)."""
    squares = (u - (u @ sigma)[..., None]) ** 2
    if tensor == "M":
        squares = squares - (squares @ sigma)[..., None]
    return squares**2 @ sigma


def largest(sigma, tensor="M"):
    return categorical_tensor_eigenvalues(np.atleast_2d(sigma), tensor)[1]


# ------------------------------------------------------------------------------------ matrices


@pytest.mark.parametrize("classes", CLASSES)
def test_fisher_eigenvalues_are_those_of_the_explicit_matrix(classes):
    sigmas = distributions(classes, 10)
    with np.errstate(divide="ignore"):
        low, high = fisher_eigenvalues(Categorical().covariance(np.log(sigmas + 1e-300)))
    explicit = [np.linalg.eigvalsh(label_tensors(sigma)[0]) for sigma in sigmas]
    # eigvalsh is backward stable: a few C eps of the norm, which is below 1/2.
    assert_close(high, [one[-1] for one in explicit], 10 * classes * EPS, 0.5)
    assert_close(low, np.zeros(len(low)), 10 * classes * EPS, 0.5)


def test_fisher_eigenvalue_of_two_labels_near_a_certain_one():
    """λmax = 2 p (1 − p), all digits."""
    for p in (0.5, 0.1, 1e-8, 1e-20):
        logits = np.log([[p, 1 - p]])
        _, found = fisher_eigenvalues(Categorical().covariance(logits))
        # The softmax returns p to a few eps of log p; λmax follows it.
        assert_close(found, [2 * p * (1 - p)], 100 * EPS)


# -------------------------------------------------------------------------- categorical: values


def test_two_labels():
    """λ̃max(M) = 4 p q (q − p)² and λ̃max(K) = 4 p q (p³ + q³), q = 1 − p, at u = (1, −1)/√2.

    d_1 = qΔ and d_2 = −pΔ with Δ = u_1 − u_2, so Var(d²) = p q (q² − p²)² Δ⁴, q² − p² = q − p,
    E d⁴ = p q (q³ + p³) Δ⁴, and Δ² is at most 2 on the unit circle.
    """
    p = np.array([0.5, 0.4, 0.3, 0.25, 0.1, 1e-3, 1e-8])
    q = 1 - p
    for tensor, expected in (("M", 4 * p * q * (q - p) ** 2), ("K", 4 * p * q * (p**3 + q**3))):
        found = largest(np.stack([p, q], axis=1), tensor)
        assert_close(found.lower, expected, 100 * EPS, expected + EPS**2)
        # Below 1e-10 of p q nothing is proven; only p = q is there.
        assert np.all(found.upper <= expected * (1 + RTOL) + 1e-11 * p * q)
        assert np.all(found.upper >= expected)


@pytest.mark.parametrize("classes", [3, 5, 10])
def test_equal_labels(classes):
    """λ̃max(M) = (C − 2)²/(C² (C − 1)), at u = e_a less its mean: 16/225 = 0.0711 for ten classes.

    d is then (C − 1)/r once and −1/r elsewhere, with r² = C (C − 1): d² takes two values that
    differ by (C − 2)/(C − 1), and its variance is (C − 1)/C² of the squared difference.
    """
    expected = (classes - 2) ** 2 / (classes**2 * (classes - 1))
    found = largest(np.full(classes, 1 / classes))
    assert_close(found.lower, [expected], 100 * EPS)
    assert found.upper[0] <= expected * (1 + RTOL)
    assert classes != 10 or expected == pytest.approx(16 / 225)


@pytest.mark.parametrize("tensor", ["M", "K"])
def test_a_certain_label_leaves_nothing(tensor):
    found = largest(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), tensor)
    assert found.lower.tolist() == [0, 0]
    assert np.all(found.upper < EPS**2)


@pytest.mark.parametrize("tensor", ["M", "K"])
@pytest.mark.parametrize("rest", [1e-20, 1e-38, 1e-45, 1e-100, 1e-300])
def test_the_bound_is_above_what_is_attained_near_a_certain_label(rest, tensor):
    """Nothing is proven relative to such values, but 4 Σ σ over the other labels is a bound."""
    found = largest(np.array([[1.0, rest, rest / 2], [1.0, rest, 0.0]]), tensor)
    assert np.all(found.lower > 0)
    assert np.all(found.lower <= found.upper)
    assert np.all(found.upper <= 4 * np.array([1.5, 1.0]) * rest * (1 + 1e-9))


@pytest.mark.parametrize("tensor", ["M", "K"])
@pytest.mark.parametrize("classes", CLASSES)
def test_the_direction_attains_the_value(classes, tensor):
    """As the explicit tensor contracted with it, which is a sum of C⁴ products."""
    sigmas = distributions(classes, 3)
    least, found = categorical_tensor_eigenvalues(sigmas, tensor)
    for k, sigma in enumerate(sigmas):
        covariance, _, fourth = label_tensors(sigma)
        explicit = fourth
        if tensor == "M":
            explicit = fourth - np.einsum("ab,cd->abcd", covariance, covariance)
        for one, tolerance in ((found, 100 * EPS * classes**2), (least, 100 * EPS)):
            u = one.direction[k]
            assert_close(np.linalg.norm(u), 1.0, 10 * EPS)
            value = np.einsum("a,b,c,d,abcd->", u, u, u, u, explicit)
            assert_close(one.lower[k], value, tolerance, 0.25)
    assert np.all(least.lower == 0)
    assert np.all(least.upper == 0)


@pytest.mark.parametrize("tensor", ["M", "K"])
@pytest.mark.parametrize("classes", [3, 5, 10])
def test_no_ascent_does_better(classes, tensor):
    """BFGS from 20 random starts, gradients by autograd, in units of the value to be confirmed.

    It stops at a gradient of 1e-8, which leaves the value to about the square of that, unless the
    curvature is below 1e-7: 1e-9 is safe.
    """
    sigmas = distributions(classes, 1, seed=1)
    for sigma, found in zip(sigmas, largest(sigmas, tensor).lower, strict=True):
        weight = torch.tensor(sigma)

        def objective(values, weight=weight, found=found):
            u = torch.tensor(values, requires_grad=True)
            d = u / u.norm() - (u / u.norm()) @ weight
            squares = d**2 - (weight @ d**2 if tensor == "M" else 0)
            value = -(weight @ squares**2) / found
            value.backward()
            return value.item(), u.grad.numpy()

        rng = np.random.default_rng(0)
        best = max(
            -minimize(objective, rng.normal(size=classes), jac=True, options={"gtol": 1e-8}).fun
            for _ in range(20)
        )
        assert_close(best, 1.0, 1e-9)


# -------------------------------------------------------------------- categorical: certificates


@pytest.mark.parametrize("tensor", ["M", "K"])
@pytest.mark.parametrize("classes", CLASSES)
def test_the_gap_is_closed_and_no_direction_lies_above_the_bound(classes, tensor):
    """400 distributions for each C; 2,000 random directions and the best one of each."""
    sigmas = distributions(classes, 100, seed=3)
    found = largest(sigmas, tensor)
    # Where a label is all but certain nothing is proven; where two are all but tied and there is
    # no third, M is nothing beside K.
    resolved = found.lower > np.maximum(1e-8 * np.max(sigmas * (1 - sigmas), axis=1), 1e-40)
    assert resolved.mean() > 0.8
    assert np.all(found.gap[resolved] <= RTOL * (1 + 1e-9))
    u = unit(np.random.default_rng(classes).normal(size=(2_000, classes)))
    for sigma, bound in zip(sigmas, found.upper, strict=True):
        assert np.max(form(sigma, u, tensor)) <= bound


@pytest.mark.parametrize("tensor", ["M", "K"])
@pytest.mark.parametrize("classes", CLASSES)
def test_the_relaxation_bounds_whatever_the_multipliers(classes, tensor):
    """f(u) ≤ bound for every node that holds u: 4,000 random cases, none of them optimal.

    u is of norm 1 and sum 0; the node's intervals are random and contain its m and d.
    """
    rng = np.random.default_rng(classes)
    sigmas = np.repeat(distributions(classes, 10, seed=4), 100, axis=0)
    n = len(sigmas)
    u = rng.normal(size=(n, classes))
    u = unit(u - u.mean(axis=1, keepdims=True))
    m = np.sum(sigmas * u, axis=1)
    u *= np.where(m < 0, -1, 1)[:, None]
    m = np.abs(m)
    d = u - m[:, None]
    values = np.array([form(s, one[None], tensor)[0] for s, one in zip(sigmas, u, strict=True)])
    prover = spectra._Prover(sigmas, u, values, tensor == "M")
    width = rng.choice([1e-6, 0.01, 0.3, 3.0], size=(n, 1))
    below, above = rng.uniform(0, 1, size=(2, n, classes + 1)) * width
    nodes = spectra._Nodes(
        np.arange(n),
        np.stack([np.maximum(m - below[:, -1], 0), np.minimum(m + above[:, -1], prover.reach)], 1),
        np.stack([d - below[:, :-1], d + above[:, :-1]], axis=1),
        np.zeros((n, 4)),
    )
    # No interval may shut out the u that it was made around.
    intervals = prover._intervals(nodes)
    assert np.all(intervals[:, 0] <= d + 1e-11)
    assert np.all(intervals[:, 1] >= d - 1e-11)
    tightened = spectra._Nodes(nodes.of, nodes.m, intervals, nodes.multipliers)
    for scale in (0.1, 1.0, 30.0):
        multipliers = scale * rng.normal(size=(n, 4))
        if tensor == "K":
            multipliers[:, 2] = 0
        for one in (nodes, tightened):
            bound = prover._relaxed(one, multipliers)[0] * prover.scale
            assert np.all(bound >= values - 1e-10 * prover.scale)


@pytest.mark.parametrize("tensor", ["M", "K"])
def test_the_relaxation_is_convex_with_the_gradient_that_it_returns(tensor):
    """Against central differences; the kinks are avoided by their measure."""
    sigmas = distributions(5, 25, seed=5)
    n = len(sigmas)
    u = spectra._ascend(sigmas, tensor == "M")
    prover = spectra._Prover(sigmas, u, spectra._form(sigmas, u, tensor == "M"), tensor == "M")
    m = prover.reach[:, None] * np.array([0.2, 0.5])
    nodes = spectra._Nodes(
        np.arange(n), m, np.broadcast_to([[-1.0], [1.0]], (n, 2, 5)).copy(), np.zeros((n, 4))
    )
    rng = np.random.default_rng(0)
    point = rng.normal(size=(n, 4)) * (1, 1, tensor == "M", 1)
    bound, gradient, _ = prover._relaxed(nodes, point)
    # Above its tangent everywhere.
    other = point + rng.normal(size=(n, 4)) * (1, 1, tensor == "M", 1)
    above = prover._relaxed(nodes, other)[0]
    rise = np.sum(gradient * (other - point), axis=1)
    size = np.abs(above) + np.abs(bound) + np.abs(rise)
    assert np.all(above >= bound + rise - 1e-9 * size)
    step = 1e-6
    direction = unit(rng.normal(size=(n, 4)) * (1, 1, tensor == "M", 1))
    ahead, behind = (prover._relaxed(nodes, point + s * direction)[0] for s in (step, -step))
    slope = np.sum(gradient * direction, axis=1)
    error = np.abs((ahead - behind) / (2 * step) - slope) / (1 + np.abs(slope))
    assert np.mean(error < 1e-3) > 0.95


def test_a_bound_on_the_nodes_leaves_a_wider_gap_but_a_bound():
    sigma = distributions(10, 5, seed=6)[-8:]
    few, many = (categorical_tensor_eigenvalues(sigma, nodes=k)[1] for k in (12, 20_000))
    assert np.all(few.upper >= many.lower)
    assert few.gap.max() > 2 * many.gap.max()


def test_nearly_tied_labels_are_proven_too():
    """M is small beside K there: intervals of d must become narrow before the bound does."""
    sigma = np.array([0.481524, 0.517971, 2e-4, 1.5e-4, 1.4e-4, 8e-6, 4e-6, 3e-6, 3e-7, 2e-7])
    found = largest(sigma / sigma.sum())
    assert found.gap[0] <= RTOL


def test_the_tensor_has_a_name():
    with pytest.raises(UserError, match="tensor: 'L' is neither 'M' nor 'K'"):
        categorical_tensor_eigenvalues(np.full((1, 2), 0.5), "L")


# --------------------------------------------------------------------------------- independent


def quadratic(variance, square_variance, tensor, v):
    """The form at u_t² = v_t: M_tttt v_t², and twice (3 times for K) V_s V_t v_s v_t for s ≠ t."""
    beta = 2 if tensor == "M" else 3
    diagonal = square_variance + (0 if tensor == "M" else variance**2)
    pairs = np.outer(variance, variance) * (1 - np.eye(len(variance)))
    return v**2 @ diagonal + beta * np.einsum("ks,st,kt->k", v, pairs, v)


INDEPENDENT = [Gaussian(), Gaussian(np.array([0.5, 1.0, 4.0, 0.1])), Poisson(), Bernoulli()]


@pytest.mark.parametrize("tensor", ["M", "K"])
@pytest.mark.parametrize("family", INDEPENDENT)
def test_independent_eigenvalues_against_a_search(family: Independent, tensor):
    """5,000 random points of the simplex and its faces lie between the two bounds."""
    rng = np.random.default_rng(7)
    outputs = 2 * rng.normal(size=(50, 4))
    one = family.central(outputs)
    least, found = family.tensor_eigenvalues(outputs, tensor)
    v = np.concatenate([rng.dirichlet(np.full(4, a), 1000) for a in (0.1, 0.3, 1, 3, 10)])
    for k in range(50):
        values = quadratic(one.variance[k], one.square_variance[k], tensor, v)
        size = np.abs(values).max()
        # What is attained is at least as good as the search, and is attained.
        assert found.lower[k] >= values.max() - 1e-12 * size
        assert least.upper[k] <= values.min() + 1e-12 * size
        for certified, value in ((found, found.lower), (least, least.upper)):
            at = quadratic(
                one.variance[k], one.square_variance[k], tensor, certified.direction[k][None] ** 2
            )
            assert_close(value[k], at[0], 1e-12, size)
    # A flat component is bent by 1e-9 of the size of the form, which is below twice its maximum.
    for certified in (least, found):
        assert np.all(certified.lower <= certified.upper)
        assert np.all(certified.upper - certified.lower <= 2e-8 * found.upper)


@pytest.mark.parametrize("beta", [2.0, -2.0, 3.0, -3.0])
def test_the_relaxation_of_many_components_against_all_faces(beta):
    """Bends of both signs: what an ascent attains ≤ the exact maximum ≤ the bound of the cells."""
    rng = np.random.default_rng(9)
    a, b = rng.normal(size=(100, 8)), rng.uniform(size=(100, 8))
    exact = spectra._simplex_maximum(a, b, beta, 64)
    relaxed, upper = spectra._relaxed_maximum(a, b, beta, 64)
    climbed = spectra._quadratic(a, b, beta, spectra._climb(a, b, beta, relaxed)[:, None])[:, 0]
    size = np.abs(a).max(1) + abs(beta) * b.max(1) ** 2
    assert np.all(climbed <= exact.lower + 1e-12 * size)
    assert np.all(upper >= exact.lower - 1e-12 * size)
    assert np.mean(climbed >= exact.lower - 1e-9 * size) > 0.9


@pytest.mark.parametrize("tensor", ["M", "K"])
@pytest.mark.parametrize("family", [Gaussian(), Poisson(), Bernoulli()])
def test_certificates_of_many_components(family, tensor):
    outputs = np.random.default_rng(10).normal(size=(20, 12))
    least, found = family.tensor_eigenvalues(outputs, tensor)
    for certified in (least, found):
        assert np.all(certified.lower <= certified.upper)
    if family.name != "bernoulli":  # the fourth cumulants have one sign
        assert found.gap.max() <= 1e-11
        assert np.max((least.upper - least.lower) / found.upper) <= 1e-3


def test_independent_eigenvalues_of_one_component():
    least, found = independent_tensor_eigenvalues(np.array([[0.3]]), np.array([[0.7]]), "K")
    assert_close(found.lower, [0.7 + 0.09], 10 * EPS)
    assert_close(least.upper, [0.7 + 0.09], 10 * EPS)


# ------------------------------------------------------------------------------------- pairs


@pytest.mark.parametrize("family", [Categorical(), Gaussian(), Bernoulli(), Poisson()])
def test_gamma_max_lies_between_what_pairs_attain_and_the_matrix(family):
    """Random unit u and v, and u = v: γ̃max(M) ≥ λ̃max(M)."""
    rng = np.random.default_rng(8)
    outputs = rng.normal(size=(20, 3))
    grid = np.stack(np.meshgrid(*[range(3)] * 4, indexing="ij")).reshape(4, -1)
    vectors = [np.broadcast_to(np.eye(3)[:, one], (20, 3, 81)) for one in grid]
    tensor = family.product_covariance(outputs, *vectors).reshape(20, 3, 3, 3, 3)
    found = gamma_max(tensor)
    u, v = unit(rng.normal(size=(2, 5_000, 3)))
    values = np.einsum("nabcd,ka,kb,kc,kd->nk", tensor, u, v, u, v, optimize=True)
    assert np.all(values.max(1) <= found.lower * (1 + 1e-12))
    assert np.all(found.lower <= found.upper)
    at = np.einsum(
        "nabcd,na,nb,nc,nd->n", tensor, *found.direction.transpose(1, 0, 2)[[0, 1, 0, 1]]
    )
    assert_close(at, found.lower, 100 * EPS)
    _, symmetric = family.tensor_eigenvalues(outputs)
    assert np.all(found.upper >= symmetric.lower * (1 - 1e-12))
