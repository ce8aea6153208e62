"""`diagfim.estimate`: what each estimator is, that it is unbiased, and what its error is worth."""

import numpy as np
import pytest
import torch
from reference import assert_close, by_autograd, by_name, chain, inputs, single_draws
from scipy import stats
from torch import nn

import diagfim
from diagfim import reference
from diagfim.errors import UserError
from diagfim.estimators import ESTIMATORS, PROBES
from diagfim.families import Categorical, Gaussian
from diagfim.seeding import InputStreams, integer

# As in test_analysis: of the largest entry of a parameter tensor.
TOLERANCE = 1e-12

MODEL = chain(nn.Sigmoid, 3)
SAMPLES = inputs(6)
NAMES = [name for name, _ in MODEL.named_parameters()]

# A deviation beyond this many standard errors has probability 6e-7 if the law is normal: the number
# of comparisons in this file, some hundreds, makes one in a thousand runs of another seed fail.
LIMIT = 5.0


def values(tree, quantity="fisher"):
    """One vector of all parameters."""
    return np.concatenate([tree[name][quantity].values.ravel() for name in NAMES])


@pytest.fixture(scope="module")
def exact():
    return diagfim.analyze(MODEL, SAMPLES)


@pytest.fixture(scope="module")
def draws():
    """p(c | x) and both single-draw estimators at every label, by autograd: (n, C), (n, C, P)."""
    return single_draws(MODEL, SAMPLES)


def counts_of(n, seed, samples=SAMPLES, model=MODEL):
    """Labels that `estimate` draws, as counts (n, C): read off the family with the same streams."""
    with torch.no_grad():
        outputs = model(samples)
    drawn = Categorical().draw(outputs, n, InputStreams(seed, 0, len(samples)))
    residuals = Categorical().directions(outputs)
    found = np.zeros(outputs.shape)
    for k, (directions, weights) in enumerate(zip(drawn.directions, drawn.weights, strict=True)):
        for direction, weight in zip(directions, weights, strict=True):
            [label] = [c for c in range(3) if torch.equal(residuals[k, c], direction)]
            found[k, label] += float(weight) * n
    return np.rint(found)


# --------------------------------------------------------------------- values of one realisation


@pytest.mark.parametrize("n", [1, 2, 3, 40])
@pytest.mark.parametrize(("estimator", "which"), [("score", 1), ("hessian", 2)])
def test_both_estimators_by_their_definition_at_the_labels_drawn(estimator, which, n, draws):
    """The mean over inputs and labels drawn of (∂ log p)² and of −∂² log p."""
    counts = counts_of(n, seed=5)
    assert np.all(counts.sum(1) == n)
    tree = diagfim.estimate(MODEL, SAMPLES, estimator, draws=n, seed=5)
    at_input = np.einsum("nc,ncp->np", counts / n, draws[which])
    scale = np.max(np.abs(draws[which]))
    assert_close(values(tree), at_input.mean(0), TOLERANCE, scale)
    error = at_input.std(0, ddof=1) / np.sqrt(len(SAMPLES))
    assert_close(values(tree, "standard_error"), error, TOLERANCE, scale)


def test_exact_is_the_information(exact):
    tree = diagfim.estimate(MODEL, SAMPLES, "exact")
    n = len(SAMPLES)
    assert_close(values(tree), values(exact), TOLERANCE)
    error = np.sqrt(values(exact, "input_variance") / (n - 1))
    assert_close(values(tree, "standard_error"), error, TOLERANCE)


def test_empirical_is_the_mean_squared_gradient_at_the_labels():
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    first, _ = by_autograd(MODEL, SAMPLES, lambda outputs: outputs.log_softmax(0))
    squares = first[np.arange(6), labels] ** 2
    tree = diagfim.estimate(MODEL, SAMPLES, "empirical", labels=labels)
    assert_close(values(tree), squares.mean(0), TOLERANCE)
    assert_close(values(tree, "standard_error"), squares.std(0, ddof=1) / np.sqrt(6), TOLERANCE)
    loader = [(SAMPLES[:4], labels[:4]), (SAMPLES[4:], labels[4:])]
    assert_close(values(diagfim.estimate(MODEL, loader, "empirical")), values(tree), 0.0)


def test_mixed_is_the_best_mix_of_the_same_draws(exact):
    v1, v2, c12 = (values(exact, q) for q in ("variance_1", "variance_2", "covariance_12"))
    weight = (v2 - c12) / (v1 + v2 - 2 * c12)
    score, hessian, mixed = (
        diagfim.estimate(MODEL, SAMPLES, e, draws=4, seed=2) for e in ("score", "hessian", "mixed")
    )
    expected = weight * values(score) + (1 - weight) * values(hessian)
    scale = np.max(np.abs(weight)) * np.max(np.abs(values(hessian)))
    assert_close(values(mixed), expected, TOLERANCE, scale)
    noise = (v1 * v2 - c12**2) / (v1 + v2 - 2 * c12)
    assert np.all(noise <= np.minimum(v1, v2) * (1 + 1e-9) + 1e-15 * v1.max())
    variance = values(exact, "input_variance") / (6 - 1) + noise / (4 * 6)
    assert_close(values(mixed, "standard_error"), np.sqrt(variance), 1e-9)


@pytest.mark.parametrize("weights", ["exact", "pilot"])
def test_mixed_by_layer_has_one_weight_for_a_module(weights):
    options = {"draws": 4, "seed": 2}
    score, hessian = (diagfim.estimate(MODEL, SAMPLES, e, **options) for e in ("score", "hessian"))
    mixed = diagfim.estimate(MODEL, SAMPLES, "mixed", level="layer", weights=weights, **options)
    for layer in ("0", "2", "4"):
        found = [mixed[f"{layer}.{kind}"]["score_weight"].values for kind in ("weight", "bias")]
        [weight] = np.unique(np.concatenate([one.ravel() for one in found]))
        for name in (f"{layer}.weight", f"{layer}.bias"):
            one, two = score[name]["fisher"].values, hessian[name]["fisher"].values
            expected = weight * one + (1 - weight) * two
            scale = max(abs(weight), 1) * np.max(np.abs(two))
            assert_close(mixed[name]["fisher"], expected, 10 * TOLERANCE, scale)
    assert weight == 0  # ∂²h = 0 in the last layer, where Î2 has no noise


@pytest.mark.parametrize("pilot", [2, 7])
def test_pilot_weights_are_those_of_the_sample_moments(pilot, draws):
    """Variances and covariance of the pilot draws at each input, averaged over the inputs."""
    _, score, hessian = draws
    streams = InputStreams(integer(5, "pilot"), 0, 6)
    with torch.no_grad():
        outputs = MODEL(SAMPLES)
    drawn = Categorical().sample(outputs, pilot, streams)
    every = Categorical().directions(outputs)
    labels = (drawn[:, :, None] - every[:, None]).abs().sum(3).argmin(2).numpy()
    at = np.arange(6)[:, None], labels
    first, second = (one[at] - one[at].mean(1, keepdims=True) for one in (score, hessian))
    v1, v2, c12 = (
        (a * b).sum(1).mean(0) for a, b in ((first, first), (second, second), (first, second))
    )
    tree = diagfim.estimate(MODEL, SAMPLES, "mixed", 3, 5, weights="pilot", pilot=pilot)
    found = values(tree, "score_weight") * (v1 + v2 - 2 * c12)
    assert_close(found, v2 - c12, 1e-10, np.max(v1 + v2))


@pytest.mark.parametrize("n", [2, 3, 4, 50])
@pytest.mark.parametrize("probes", PROBES)
def test_hutchinson_at_the_probes_drawn(probes, n, draws):
    """(Σ_c √σ_c ∂ log p(c) ξ_c)² averaged over the probes, more of them than labels or fewer."""
    sigma, _, _ = draws
    first, _ = by_autograd(MODEL, SAMPLES, lambda outputs: outputs.log_softmax(0))
    streams = InputStreams(7, 0, 6)
    if n <= 3:
        uniforms = streams.uniforms(n * 3).reshape(6, n, 3)
    else:
        uniforms = np.stack([rng.random((n, 3)) for rng in streams.generators()])
    if probes == "rademacher":
        noise = np.where(uniforms < 0.5, -1.0, 1.0)
    else:
        noise = stats.norm.ppf(uniforms)
    along = np.einsum("nkc,nc,ncp->nkp", noise, np.sqrt(sigma), first)
    tree = diagfim.estimate(MODEL, SAMPLES, "hutchinson", draws=n, seed=7, probes=probes)
    assert_close(values(tree), (along**2).mean((0, 1)), TOLERANCE)


def test_gaussian_probes_are_finite_at_the_lowest_uniform():
    lowest, highest = PROBES["gaussian"](np.array([0.0, 1 - 2.0**-53]))
    assert -9 < lowest < highest < 9


@pytest.mark.parametrize(
    ("estimator", "labels"),
    [
        ("score", "model"),
        ("hessian", "model"),
        ("mixed", "model"),
        ("exact", "none"),
        ("hutchinson", "none"),
        ("empirical", "data"),
    ],
)
def test_where_the_labels_come_from_is_said_and_no_other_are_looked_at(estimator, labels):
    targets = torch.tensor([0, 1, 2, 2, 1, 0])
    beside = diagfim.estimate(MODEL, [(SAMPLES, targets)], estimator, draws=2)
    assert beside.attrs["labels"] == labels
    others = diagfim.estimate(MODEL, [(SAMPLES, targets.flip(0).roll(1))], estimator, draws=2)
    assert np.array_equal(values(beside), values(others)) == (labels != "data")
    if labels != "data":
        assert np.array_equal(
            values(beside), values(diagfim.estimate(MODEL, SAMPLES, estimator, 2))
        )
        with pytest.raises(UserError, match=f"labels: the {estimator} estimator does not look at"):
            diagfim.estimate(MODEL, SAMPLES, estimator, labels=targets)


# --------------------------------------------------------------------------------- many draws


def test_a_million_draws_leave_a_thousandth_of_the_noise(exact):
    for estimator, quantity in (("score", "variance_1"), ("hessian", "variance_2")):
        tree = diagfim.estimate(MODEL, SAMPLES, estimator, draws=10**6, seed=3)
        limit = LIMIT * np.sqrt(values(exact, quantity) / (10**6 * len(SAMPLES)))
        scale = TOLERANCE * np.max(values(exact))
        assert np.all(np.abs(values(tree) - values(exact)) <= limit + scale)


@pytest.mark.parametrize("estimator", ["score", "hessian", "mixed", "exact", "hutchinson"])
def test_standard_error_covers_the_inputs_as_well(estimator):
    """Samples of 40 inputs from a pool of 500: the squared error is right on average.

    Its mean over 300 samples against the variance of the estimates over them, each of the two known
    to its own standard error.
    """
    pool = inputs(500, seed=9)
    truth = values(diagfim.analyze(MODEL, pool))
    rng = np.random.default_rng(4)
    found, claimed = [], []
    for seed in range(300):
        sample = pool[torch.tensor(rng.integers(500, size=40))]
        tree = diagfim.estimate(MODEL, sample, estimator, draws=2, seed=seed)
        found.append(values(tree))
        claimed.append(values(tree, "standard_error") ** 2)
    variance, mean = np.var(found, axis=0, ddof=1), np.mean(claimed, axis=0)
    relative = np.sqrt(
        (2 + np.maximum(stats.kurtosis(found, axis=0), 0.0) + np.var(claimed, axis=0) / mean**2)
        / len(found)
    )
    assert (np.abs(variance / mean - 1) / relative).max() < LIMIT
    assert (np.abs(np.mean(found, axis=0) - truth) / np.sqrt(mean / len(found))).max() < LIMIT


@pytest.mark.parametrize("estimator", [e for e in ESTIMATORS if e != "empirical"])
def test_without_errors_the_estimate_is_the_same(estimator):
    full = diagfim.estimate(MODEL, SAMPLES, estimator, 2, 1)
    bare = diagfim.estimate(MODEL, SAMPLES, estimator, 2, 1, errors=False)
    assert_close(values(bare), values(full), TOLERANCE)
    assert [name for name in full["0.weight"].data_vars if name not in bare["0.weight"]] == [
        "standard_error"
    ]


def test_one_input_tells_no_error():
    tree = diagfim.estimate(MODEL, SAMPLES[:1], "score")
    assert np.isnan(values(tree, "standard_error")).all()
    assert np.isfinite(values(tree)).all()


# --------------------------------------------------------------------------------- determinism


@pytest.mark.parametrize("n", [1, 2, 10])
@pytest.mark.parametrize("estimator", [e for e in ESTIMATORS if e != "empirical"])
def test_draws_depend_on_the_seed_and_the_position_alone(estimator, n):
    def found(data, seed=1, **more):
        return values(diagfim.estimate(MODEL, data, estimator, draws=n, seed=seed, **more))

    whole = found(SAMPLES)
    assert np.array_equal(found(iter(SAMPLES.split([1, 3, 2]))), whole)
    assert_close(found(SAMPLES, memory=3000), whole, TOLERANCE)  # other batches of the engine
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    assert np.array_equal(found(SAMPLES), whole)
    if estimator != "exact":
        assert not np.array_equal(found(SAMPLES, seed=2), whole)


# -------------------------------------------------------------------------------------- gaussian


GAUSSIAN = Gaussian(variance=0.25)
SEEDS = 400


@pytest.mark.parametrize("n", [1, 3, 4, 50])
@pytest.mark.parametrize(("estimator", "quantity"), [("score", 1), ("hessian", 2)])
def test_gaussian_draws_are_unbiased_with_the_exact_variance(estimator, quantity, n):
    """Below and above the T = 3 draws from which on their scatter is drawn as a Wishart matrix."""
    exact = diagfim.analyze(MODEL, SAMPLES, GAUSSIAN)
    found = np.stack(
        [
            values(diagfim.estimate(MODEL, SAMPLES, estimator, n, seed, GAUSSIAN))
            for seed in range(SEEDS)
        ]
    )
    variance = values(exact, f"variance_{quantity}") / (n * len(SAMPLES))
    noisy = variance > (1e-9 * np.max(values(exact))) ** 2
    z = (found.mean(0) - values(exact))[noisy] / np.sqrt(variance[noisy] / SEEDS)
    assert np.abs(z).max() < LIMIT
    spread = found.var(0, ddof=1)[noisy]
    kurtosis = stats.kurtosis(found[:, noisy], axis=0)
    relative = np.sqrt((2 + np.maximum(kurtosis, 0.0)) / SEEDS)
    assert (np.abs(spread / variance[noisy] - 1) / relative).max() < LIMIT


def test_gaussian_empirical_fisher():
    targets = inputs(6, 3, seed=8)
    first, _ = by_autograd(MODEL, SAMPLES)
    residual = (targets.numpy() - MODEL(SAMPLES).detach().numpy()) / 0.25
    expected = (np.einsum("nt,ntp->np", residual, first) ** 2).mean(0)
    tree = diagfim.estimate(MODEL, SAMPLES, "empirical", labels=targets, family=GAUSSIAN)
    assert_close(values(tree), expected, TOLERANCE)


# ------------------------------------------------------------------------------ other networks


@pytest.mark.parametrize("method", ["graph", "autodiff"])
def test_every_engine_gives_the_same_estimate(method):
    for estimator in ("score", "hessian", "mixed", "hutchinson"):
        ours = diagfim.estimate(MODEL, SAMPLES, estimator, 4, 1)
        theirs = diagfim.estimate(MODEL, SAMPLES, estimator, 4, 1, method=method)
        for name in NAMES:
            for quantity in ("fisher", "standard_error"):
                found, expected = (tree[name][quantity].values for tree in (theirs, ours))
                assert_close(found, expected, 10 * TOLERANCE)


def test_hessian_of_a_piecewise_linear_network_is_exact():
    """∂²h = 0 almost everywhere: no noise from the labels at all."""
    model = chain(nn.ReLU, 3)
    expected = reference.analyze(model, SAMPLES)
    tree = diagfim.estimate(model, SAMPLES, "hessian", draws=1)
    for name in NAMES:
        assert_close(tree[name]["fisher"].values, expected[name]["fisher"], TOLERANCE)


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimator": "magic"}, "estimator: 'magic' is not one of score, hessian, mixed, exact"),
        ({"draws": 0}, "draws: 0 is not an integer of at least 1"),
        ({"draws": 2.5}, "draws: 2.5 is not an integer"),
        ({"draws": True}, "draws: True is not an integer"),
        ({"probes": "cauchy", "estimator": "hutchinson"}, "probes: 'cauchy' is not one of radem"),
        ({"level": "unit", "estimator": "mixed"}, "level: 'unit' is not one of parameter, layer"),
        ({"weights": "best", "estimator": "mixed"}, "weights: 'best' is not one of exact, pilot"),
        (
            {"pilot": 1, "weights": "pilot", "estimator": "mixed"},
            "pilot: 1 is not an integer of at least 2",
        ),
        ({"seed": -1}, "seed: -1 is not an integer of at least 0"),
        ({"estimator": "empirical"}, "labels: the empirical estimator needs those of the data"),
        (
            {"estimator": "empirical", "labels": torch.zeros(5).long()},
            r"labels: shape \(5,\) beside 6 inputs",
        ),
        (
            {"estimator": "empirical", "labels": torch.zeros(6)},
            r"labels: shape \(6,\) of torch.float32; the categorical family expects \(6,\) int",
        ),
        (
            {"estimator": "empirical", "labels": torch.full((6,), 3)},
            "labels: values from 3 to 3, but the network has 3 outputs",
        ),
        (
            {"estimator": "empirical", "labels": torch.zeros(6, 2), "family": "gaussian"},
            r"labels: shape \(6, 2\); the gaussian family expects the shape of the outputs, \(6, 3",
        ),
    ],
)
def test_mistakes_are_named_in_a_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        diagfim.estimate(MODEL, SAMPLES, **arguments)
    assert "\n" not in str(caught.value)


def test_labels_beside_an_iterable_belong_into_it():
    with pytest.raises(UserError, match="let an iterable yield"):
        diagfim.estimate(MODEL, [SAMPLES], "empirical", labels=torch.zeros(6).long())


def test_noise_of_no_variance():
    with pytest.raises(UserError, match="variance: 0 is not positive"):
        Gaussian(variance=0)


def test_names_of_the_reference_models_parameters():
    assert list(by_name(MODEL, np.zeros(sum(p.numel() for p in MODEL.parameters())))) == NAMES
