"""`diagfim.variance` against what `diagfim.estimate` does over seeds and inputs drawn anew."""

import numpy as np
import pytest
import torch
from reference import assert_close, chain, inputs, single_draws
from scipy import stats
from torch import nn

import diagfim
from diagfim.errors import UserError

MODEL = chain(nn.Sigmoid, 3, bias=False)  # half as many tensors to label, some 10,000 times
SAMPLES = inputs(6)
NAMES = [name for name, _ in MODEL.named_parameters()]

VARIANTS = {
    "score": {"estimator": "score"},
    "hessian": {"estimator": "hessian"},
    "mixed": {"estimator": "mixed"},
    "mixed by layer": {"estimator": "mixed", "level": "layer"},
    "mixed by pilot": {"estimator": "mixed", "weights": "pilot"},
    "mixed by layer by pilot": {"estimator": "mixed", "level": "layer", "weights": "pilot"},
    "exact": {"estimator": "exact"},
    "signs": {"estimator": "hutchinson"},
    "normal probes": {"estimator": "hutchinson", "probes": "gaussian"},
}
"""Every unbiased estimator with the options that change what it is."""

# A deviation beyond this many standard errors has probability 6e-7 if the law is normal: of the
# ten thousand comparisons of this file, one would be in fewer than one in a hundred sets of seeds.
LIMIT = 5.0


def values(tree, quantity="fisher"):
    """One vector of all parameters."""
    return np.concatenate([tree[name][quantity].values.ravel() for name in NAMES])


def told(tree, variant, draws, found, inputs=None):
    """The variance of a variant; with weights from a pilot, given those."""
    options = dict(variant)
    if options.pop("weights", "exact") == "pilot":
        options["weights"] = found
    return diagfim.variance(tree, draws=draws, inputs=inputs, **options)


def excess(sample, variance):
    """By how many standard errors the variance of a sample over its rows is beyond this one."""
    kurtosis = np.maximum(stats.kurtosis(sample, axis=0), 0.0)
    relative = np.sqrt((2 + kurtosis) / len(sample))
    return (sample.var(0, ddof=1) / variance - 1) / relative


# ------------------------------------------------------------------------------- fixed inputs


SEEDS = 200


@pytest.mark.parametrize(
    ("family", "n"), [("categorical", 1), ("categorical", 5), ("categorical", 20), ("poisson", 3)]
)
@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "exact"])
def test_mean_variance_and_standard_error_over_seeds(name, family, n):
    """At fixed inputs: the mean is I whatever N is, the variance is what `variance` tells, and the
    squared standard error is right on average, each within its own standard error."""
    variant = VARIANTS[name]
    tree = diagfim.analyze(MODEL, SAMPLES, family, probes=True)
    fisher, count = values(tree), len(SAMPLES)
    errors, variances, claims = [], [], []
    for seed in range(SEEDS):
        one = diagfim.estimate(MODEL, SAMPLES, draws=n, seed=seed, family=family, **variant)
        if seed == 0 or variant.get("weights") == "pilot":
            variance = values(told(tree, variant, n, one), "draw_part")
        errors.append(values(one) - fisher)
        variances.append(variance)
        claims.append(values(one, "standard_error") ** 2)
    errors, variances, claims = map(np.array, (errors, variances, claims))
    scale = fisher.max()
    noisy = variances.max(0) > (1e-9 * scale) ** 2
    assert noisy.sum() > len(noisy) // 2
    assert np.abs(errors[:, ~noisy]).max(initial=0.0) <= 1e-9 * scale
    # Weights from a pilot give every seed a variance of its own, 0 where the pilot saw no noise.
    some = np.sqrt(np.mean(variances[:, noisy], axis=0))
    z = errors[:, noisy].mean(0) / (some / np.sqrt(SEEDS))
    assert np.abs(z).max() < LIMIT
    if np.ptp(variances, axis=0).max() == 0:
        assert np.abs(excess(errors[:, noisy], variances[0, noisy])).max() < LIMIT
    # Σ (z_i − z̄)² / (n (n − 1)) has the mean Var_x I / (n − 1) + E_x V / (n N).
    beyond = claims - values(tree, "input_variance") / (count - 1) - variances
    spread = np.maximum(beyond.std(0, ddof=1) / np.sqrt(SEEDS), 1e-12 * claims.max())
    assert (np.abs(beyond.mean(0)) / spread).max() < LIMIT


@pytest.mark.parametrize("family", ["categorical", "poisson"])
def test_pilot_weights_give_the_variance_that_is_told_given_them(family):
    """Errors over seeds, each by the variance at its own weights, have the mean square 1."""
    tree = diagfim.analyze(MODEL, SAMPLES, family)
    squares = []
    for seed in range(SEEDS):
        one = diagfim.estimate(
            MODEL, SAMPLES, "mixed", 4, seed, family, weights="pilot", level="layer", errors=False
        )
        variance = diagfim.variance(tree, "mixed", 4, weights=one)
        squares.append(
            [
                (((one[layer]["fisher"] - tree[layer]["fisher"]) ** 2).sum()).item()
                / variance[layer]["draw_part"].sum().item()
                for layer in ("0.weight", "2.weight")
            ]
        )
    squares = np.array(squares)
    z = (squares.mean(0) - 1) / (squares.std(0, ddof=1) / np.sqrt(len(squares)))
    assert np.abs(z).max() < LIMIT


# -------------------------------------------------------------------------- inputs drawn anew


@pytest.mark.parametrize("family", ["categorical", "poisson"])
@pytest.mark.parametrize("name", ["score", "hessian", "mixed", "exact", "signs", "normal probes"])
def test_variance_over_inputs_and_draws(name, family):
    """Samples of 20 inputs with replacement from a pool of 60, and draws at each (Theorem 4.7)."""
    variant = VARIANTS[name]
    pool = inputs(60, seed=9)
    tree = diagfim.analyze(MODEL, pool, family, probes=True)
    rng = np.random.default_rng(5)
    found = []
    for seed in range(300):
        sample = pool[torch.tensor(rng.integers(len(pool), size=20))]
        one = diagfim.estimate(
            MODEL, sample, draws=2, seed=seed, family=family, errors=False, **variant
        )
        found.append(values(one))
    variance = diagfim.variance(tree, draws=2, inputs=20, **variant)
    total = values(variance, "total_variance")
    z = (np.mean(found, axis=0) - values(tree)) / np.sqrt(total / len(found))
    assert np.abs(z).max() < LIMIT
    beyond = excess(np.array(found), total)
    # The weights that are best for a sample leave no more noise in it than those of the pool.
    assert (beyond if name == "mixed" else np.abs(beyond)).max() < LIMIT


def test_both_parts_are_those_of_theorem_4_7():
    tree = diagfim.analyze(MODEL, SAMPLES)
    variance = diagfim.variance(tree, "hessian", draws=7, inputs=11)
    for name in NAMES:
        one, of = variance[name], tree[name]
        assert one["total_variance"].dims == of["fisher"].dims
        assert_close(one["input_part"], of["input_variance"] / 11, 1e-15)
        assert_close(one["draw_part"], of["variance_2"] / 77, 1e-15)
        assert np.array_equal(one["total_variance"], one["input_part"] + one["draw_part"])
    assert variance.attrs["inputs_are"] == "drawn"
    fixed = diagfim.variance(tree, "hessian", draws=7)
    assert fixed.attrs["inputs"] == 6
    assert fixed.attrs["inputs_are"] == "fixed"
    assert not values(fixed, "input_part").any()
    assert_close(values(fixed, "draw_part"), values(tree, "variance_2") / 42, 1e-15)
    assert not values(diagfim.variance(tree, "exact"), "total_variance").any()


# ------------------------------------------------------------------------ by their definition


def test_variances_of_one_draw_from_the_values_at_every_label():
    """Sums over the labels of squared deviations; for the mix, of the mix of both values."""
    sigma, score, hessian = single_draws(MODEL, SAMPLES)
    weight = sigma[:, :, None]
    fisher = (weight * score).sum(1, keepdims=True)

    def spread(draws):
        return (weight * (draws - fisher) ** 2).sum(1).mean(0)

    tree = diagfim.analyze(MODEL, SAMPLES, probes=True)
    expected = {
        "score": spread(score),
        "hessian": spread(hessian),
        "normal probes": (2 * fisher**2).mean((0, 1)),
        # Sun (2025): 2 (I² − Σ_y σ_y² g_y⁴)
        "signs": 2 * (fisher[:, 0] ** 2 - ((weight * score) ** 2).sum(1)).mean(0),
    }
    for level in ("parameter", "layer"):
        one = diagfim.estimate(MODEL, SAMPLES, "mixed", level=level)
        w = values(one, "score_weight")
        expected["mixed" if level == "parameter" else "mixed by layer"] = spread(
            w * score + (1 - w) * hessian
        )
    for name, value in expected.items():
        found = values(diagfim.variance(tree, **VARIANTS[name]), "draw_part") * len(SAMPLES)
        assert_close(found, value, 1e-11)


# --------------------------------------------------------------------------------------- errors


TREE = diagfim.analyze(MODEL, SAMPLES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimator": "magic"}, "estimator: 'magic' is not one of score, hessian, mixed, exact"),
        ({"estimator": "empirical"}, "estimator: 'empirical' is biased, .*; .* that of score, hes"),
        ({"draws": 0}, "draws: 0 is not an integer of at least 1"),
        ({"inputs": 1.5}, "inputs: 1.5 is not an integer of at least 1"),
        ({"estimator": "mixed", "level": "unit"}, "level: 'unit' is not one of parameter, layer"),
        ({"estimator": "hutchinson"}, "probes: the tree has no variance_probe, .* with probes=Tr"),
        ({"estimator": "hutchinson", "probes": "cauchy"}, "probes: 'cauchy' is not one of radem"),
        ({"estimator": "mixed", "weights": TREE}, "weights: 0.weight has no score_weight; pass wh"),
        ({"tree": {"0.weight": 1}}, "tree: a dict is no DataTree; pass what diagfim.analyze ret"),
        (
            {"tree": diagfim.estimate(MODEL, SAMPLES)},
            "tree: 0.weight has no input_variance; pass what diagfim.analyze returned",
        ),
        (
            {
                "estimator": "mixed",
                "weights": diagfim.estimate(chain(nn.Sigmoid, 3, classes=4), SAMPLES, "mixed"),
            },
            r"weights: 4.weight has the shape \(4, 2\), but \(3, 2\) in the tree; pass",
        ),
    ],
)
def test_mistakes_are_named_in_a_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        diagfim.variance(**{"tree": TREE, **arguments})
    assert "\n" not in str(caught.value)


def test_a_tree_of_something_else():
    with pytest.raises(UserError, match="tree: it does not say how many inputs it rests on; pass"):
        diagfim.variance(diagfim.variance(TREE)["0.weight"])
