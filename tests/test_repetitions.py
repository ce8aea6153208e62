"""The two random estimators: against naive loops, and their moments by Monte Carlo."""

import numpy as np
import pytest
from reference import (
    EPS,
    assert_close,
    by_name,
    chain,
    inputs,
    moments_of_draws,
    single_draws,
)
from scipy import stats
from torch import nn

from diagfim.derivatives.dense import derivatives
from diagfim.derivatives.storage import to_numpy
from diagfim.errors import UserError
from diagfim.families import Categorical
from diagfim.repetitions import (
    ESTIMATORS,
    JointDraws,
    JointEstimator,
    Repetitions,
    at_fixed_input,
    label_counts,
    summarise,
)

FAMILY = Categorical()
MODEL, POOL = chain(nn.Sigmoid, 3), inputs(5)
LAYERS = {f"{k}.weight": [f"{k}.weight", f"{k}.bias"] for k in (0, 2, 4)}

# Estimates are sums of draws, which agree with autograd to 1e-12 (test_categorical, test_dense).
TOLERANCE = 4e-12


@pytest.fixture(scope="module")
def draws():
    """p(c | x) (n, C), and both estimators' draws (2, n, C, P), by autograd through log p."""
    sigma, *both = single_draws(MODEL, POOL)
    return sigma, np.stack(both)


@pytest.fixture(scope="module")
def factors():
    return to_numpy(derivatives(MODEL, POOL))


def flat(repetitions, quantity):
    """(2, parameters), in the order of `reference.by_autograd`."""
    names = [name for layer in LAYERS.values() for name in layer]
    return np.concatenate(
        [repetitions.parameters[name][quantity].reshape(2, -1) for name in names], axis=1
    )


def layer_columns():
    """Columns of the flat parameter vector that belong to each layer."""
    size = sum(value.numel() for value in MODEL.parameters())
    columns = by_name(MODEL, np.arange(size))
    return {
        weight: np.concatenate([columns[name].ravel() for name in names])
        for weight, names in LAYERS.items()
    }


# ------------------------------------------------------------------------------------ labels


def test_label_counts_are_multinomial():
    """Mean Nσ and covariance N(Diag σ − σσᵀ), every entry within 5 standard errors."""
    sigma, draws, repetitions = np.array([0.5, 0.3, 0.15, 0.05]), 20, 20_000
    counts = label_counts(sigma, draws, repetitions, np.random.default_rng(1))
    assert counts.shape == (repetitions, 4)
    assert np.all(counts.sum(1) == draws)
    covariance = draws * (np.diag(sigma) - np.outer(sigma, sigma))
    error = np.sqrt(np.diag(covariance) / repetitions)
    assert np.all(np.abs(counts.mean(0) - draws * sigma) <= 5 * error)
    deviation = counts - draws * sigma
    products = deviation[:, :, None] * deviation[:, None, :]
    error = products.std(0) / np.sqrt(repetitions)
    assert np.all(np.abs(products.mean(0) - covariance) <= 5 * error)


def test_labels_are_the_inverse_of_the_cumulative_softmax():
    rng = np.random.default_rng(2)
    probabilities = rng.dirichlet(np.ones(4), size=3)
    draws = JointDraws.sample(3, 500, rng)
    for k, u, label in zip(
        draws.positions, draws.uniforms, draws.labels(probabilities), strict=True
    ):
        below = probabilities[k, :label].sum()
        assert below - 2 * EPS <= u < below + probabilities[k, label] + 2 * EPS


@pytest.mark.parametrize(
    ("sigma", "u", "label"),
    [
        ([0.25, 0.75, 0.0], 0.25, 1),  # [0.25, 1) is the second label's
        ([0.25, 0.75, 0.0], np.nextafter(0.25, 0), 0),
        ([0.25, 0.75, 0.0], np.nextafter(1, 0), 1),
        ([0.0, 0.5, 0.5], 0.0, 1),  # a label of probability 0 is never drawn
        ([0.5, 0.0, 0.5], 0.5, 2),
        ([0.4, 0.6 - 4 * EPS], np.nextafter(1, 0), 1),  # the sum is a little under one
    ],
)
def test_labels_at_the_edges(sigma, u, label):
    drawn = JointDraws(np.array([0]), np.array([u])).labels(np.array([sigma]))
    assert drawn.tolist() == [label]


def test_joint_draws_are_uniform_over_inputs_and_sigma_over_labels():
    """χ² of 60,000 pairs over 3 inputs and 4 labels, at the level of 1e-4."""
    probabilities = np.random.default_rng(3).dirichlet(np.ones(4), size=3)
    drawn = JointDraws.sample(3, 60_000, np.random.default_rng(4))
    pairs = drawn.positions * 4 + drawn.labels(probabilities)
    observed = np.bincount(pairs, minlength=12)
    assert stats.chisquare(observed, 60_000 * probabilities.ravel() / 3).pvalue > 1e-4


def test_inputs_and_uniforms_do_not_depend_on_the_network():
    one, other = (JointDraws.sample(7, 50, np.random.default_rng(5)) for _ in range(2))
    assert one.positions.tolist() == other.positions.tolist()
    assert one.uniforms.tolist() == other.uniforms.tolist()


def test_labels_do_not_depend_on_the_chunks():
    probabilities = np.random.default_rng(6).dirichlet(np.ones(4), size=7)
    drawn = JointDraws.sample(7, 50, np.random.default_rng(7))
    chunks = [
        JointDraws(drawn.positions[part], drawn.uniforms[part]).labels(probabilities)
        for part in (slice(0, 1), slice(1, 30), slice(30, 50))
    ]
    assert np.concatenate(chunks).tolist() == drawn.labels(probabilities).tolist()


# ------------------------------------------------------------------------------ fixed inputs


def fixed(factors, counts, k=0):
    one = list(factors.split())[k]
    directions = FAMILY.directions(one.outputs)
    outcomes = [
        FAMILY.outcomes(one.outputs, layer.first, layer.second)
        for layer in one.pull(directions, directions)
    ]
    return at_fixed_input(one.layers, outcomes, counts)


def assert_moments_of(repetitions, estimates):
    """Moments of `Repetitions` against those of the estimates themselves: (S, 2, parameters)."""
    largest = np.max(np.abs(estimates))
    assert_close(flat(repetitions, "mean"), estimates.mean(0), TOLERANCE, largest)
    variance = estimates.var(0, ddof=1)
    assert_close(flat(repetitions, "variance"), variance, 2 * TOLERANCE, largest**2)
    for weight, columns in layer_columns().items():
        found = repetitions.layers[weight]
        average = estimates[:, :, columns].mean(2)
        assert_close(found["layer_mean"], average.mean(0), TOLERANCE, largest)
        expected = average.var(0, ddof=1)
        assert_close(found["layer_variance"], expected, 2 * TOLERANCE, largest**2)
        expected = variance[:, columns].mean(1)
        assert_close(found["parameter_variance"], expected, 2 * TOLERANCE, largest**2)


@pytest.mark.parametrize("k", [0, 3])
def test_fixed_input_against_a_loop_over_the_draws(draws, factors, k):
    sigma, both = draws
    counts = label_counts(sigma[k], 6, 7, np.random.default_rng(8))
    estimates = np.zeros((7, 2, both.shape[-1]))
    for repetition, row in enumerate(counts):
        for label in np.repeat(np.arange(3), row):
            estimates[repetition] += both[:, k, label] / 6
    assert_moments_of(fixed(factors, counts, k), estimates)


def test_estimates_without_noise_have_no_variance(factors):
    """Î2 in the last layer, whatever the labels; both estimators if the labels never change."""
    changing = label_counts(np.full(3, 1 / 3), 6, 7, np.random.default_rng(9))
    assert np.all(fixed(factors, changing).parameters["4.weight"]["variance"][1] == 0)
    assert np.any(fixed(factors, changing).parameters["4.weight"]["variance"][0] > 0)
    constant = np.tile([1, 2, 3], (7, 1))
    # The mean of seven equal numbers may be off by its rounding.
    assert np.all(flat(fixed(factors, constant), "variance") <= 1e-30)


def assert_monte_carlo(repetitions, exact, draws, count):
    """Means and variances over the repetitions within 5 exact standard errors of the exact ones."""
    for j in (1, 2):
        variance = exact[f"variance_{j}"][0] / draws
        random = variance > 1e-24  # the last layer has no noise in Î2
        assert np.all(random) == (j == 1)
        kurtosis = np.where(random, exact[f"excess_kurtosis_{j}"][0], 0) / draws
        error = np.sqrt(variance / count)
        z = (flat(repetitions, "mean")[j - 1] - exact["fisher"][0])[random] / error[random]
        assert np.max(np.abs(z)) <= 5
        error = variance * np.sqrt(2 / (count - 1) + kurtosis / count)
        z = (flat(repetitions, "variance")[j - 1] - variance)[random] / error[random]
        assert np.max(np.abs(z)) <= 5
        assert_close(flat(repetitions, "mean")[j - 1][~random], exact["fisher"][0][~random], 1e-12)


@pytest.mark.parametrize("n_draws", [1, 40])
def test_fixed_input_by_monte_carlo(draws, factors, n_draws):
    """Both are unbiased with variances V1/N and V2/N, per parameter, over 20,000 repetitions."""
    sigma, (score, hessian) = draws
    exact = moments_of_draws(sigma[:1], score[:1], hessian[:1])
    counts = label_counts(sigma[0], n_draws, 20_000, np.random.default_rng(10))
    assert_monte_carlo(fixed(factors, counts), exact, n_draws, 20_000)


# ------------------------------------------------------------------------------- joint draws


def estimator(sizes=(3, 2)):
    batches = (to_numpy(derivatives(MODEL, batch)) for batch in POOL.split(list(sizes)))
    return JointEstimator(batches, len(POOL), FAMILY)


def flat_estimate(estimate):
    """By layer (2, units, columns) to (2, parameters), the bias being the last column."""
    parts = [
        part.reshape(2, -1)
        for value in estimate.values()
        for part in (value[:, :, :-1], value[:, :, -1])
    ]
    return np.concatenate(parts, axis=1)


def naive_estimate(sigma, both, joint):
    labels = joint.labels(sigma)
    terms = [both[:, k, c] for k, c in zip(joint.positions, labels, strict=True)]
    return sum(terms) / len(terms)


@pytest.mark.parametrize("n_draws", [1, 4, 500])
def test_joint_estimate_is_the_mean_over_the_draws(draws, n_draws):
    joint = JointDraws.sample(len(POOL), n_draws, np.random.default_rng(11))
    found = flat_estimate(estimator().estimate(joint))
    expected = naive_estimate(*draws, joint)
    assert_close(found, expected, TOLERANCE, np.max(np.abs(draws[1])))


@pytest.mark.parametrize("sizes", [(5,), (1, 4), (1, 1, 1, 1, 1)])
def test_joint_estimate_does_not_depend_on_the_batches(draws, sizes):
    joint = JointDraws.sample(len(POOL), 100, np.random.default_rng(12))
    found = flat_estimate(estimator(sizes).estimate(joint))
    largest = np.max(np.abs(draws[1]))
    assert_close(found, flat_estimate(estimator().estimate(joint)), 100 * EPS, largest)


def test_joint_repetitions_against_a_loop(draws):
    samples = [JointDraws.sample(5, 8, np.random.default_rng([13, s])) for s in range(6)]
    estimates = np.stack([naive_estimate(*draws, joint) for joint in samples])
    assert_moments_of(estimator().repetitions(iter(samples)), estimates)


def test_joint_draws_by_monte_carlo(draws):
    """Unbiased, and Theorem 4.7: variance (Var_x I + E_x V_j) / N with one label for each input."""
    sigma, both = draws
    exact = moments_of_draws(sigma.reshape(1, -1) / 5, *both.reshape(2, 1, 15, -1))
    conditional = moments_of_draws(sigma, *both)
    for j in (1, 2):
        theorem = conditional["fisher"].var(0) + conditional[f"variance_{j}"].mean(0)
        assert_close(exact[f"variance_{j}"][0], theorem, 1e-13)
    # Here the inputs make Î2 random in the last layer too.
    assert np.all(exact["variance_2"] > 1e-12)
    rng = np.random.default_rng(14)
    repetitions = estimator().repetitions(JointDraws.sample(5, 10, rng) for _ in range(4000))
    for j in (1, 2):
        variance, kurtosis = exact[f"variance_{j}"][0] / 10, exact[f"excess_kurtosis_{j}"][0] / 10
        z = flat(repetitions, "mean")[j - 1] - exact["fisher"][0]
        assert np.max(np.abs(z) / np.sqrt(variance / 4000)) <= 5
        error = variance * np.sqrt(2 / 3999 + kurtosis / 4000)
        z = flat(repetitions, "variance")[j - 1] - variance
        assert np.max(np.abs(z) / error) <= 5


@pytest.mark.parametrize("pool", [4, 6])
def test_pool_that_the_batches_do_not_fill(factors, pool):
    with pytest.raises(
        UserError, match=f"^inputs: the batches hold 5 or more, but the pool is {pool}$"
    ):
        JointEstimator([factors], pool, FAMILY)


# --------------------------------------------------------------------------------- summaries


def test_summary_stacks_the_layers_over_the_numbers_of_draws():
    by_draws = {
        n: Repetitions(
            {"w": {"mean": np.full((2, 3), n)}}, {"w": {"layer_mean": np.array([n, -n])}}
        )
        for n in (10, 20, 30)
    }
    parameters, layers = summarise(by_draws, recorded=20)
    assert np.all(parameters["w"]["mean"] == 20)
    assert layers["w"]["layer_mean"].tolist() == [[10, 20, 30], [-10, -20, -30]]


def test_order_of_the_estimators():
    """Score first: its draws are squares, never negative."""
    assert ESTIMATORS == ("score", "hessian")
    one = JointDraws(np.array([0]), np.array([0.0]))
    score, hessian = flat_estimate(estimator().estimate(one))
    assert np.all(score >= 0)
    assert np.any(hessian < 0)
