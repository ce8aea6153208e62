"""Verdicts: that true comparisons pass, and that every planted fault is found."""

from itertools import product
from math import exp, isnan

import numpy as np
import pytest
from reference import EPS, assert_close, inputs
from scipy import stats

from diagfim import arrays, bounds, comparison, networks, repetitions, spectra
from diagfim.comparison import (
    BOUND_SLACK,
    BOUNDS,
    FAMILY_LEVEL,
    NORMAL_KURTOSIS,
    QUANTITIES,
    agreement,
    broken,
    compare_fixed,
    compare_joint,
    family_limit,
    family_probability,
    mean_error,
    relative_range,
    tightest,
    variance_error,
)
from diagfim.derivatives import dense, storage
from diagfim.families import Categorical
from diagfim.mixing import Noise
from diagfim.moments import Population, conditional
from diagfim.seeding import stream

FAMILY = Categorical()

# --------------------------------------------------------------------------------- agreement


def test_agreement_counts_deviations():
    error = np.array([1.0, 1.0, 2.0, 1.0, 0.0, 0.0])
    exact = np.array([0.0, 0.0, 0.0, 0.0, 1.0, 1.0])
    empirical = exact + np.array([1.0, -6.0, 9.0, 2.5, 0.0, 1e-9])
    found = agreement(empirical, exact, error)
    assert (found.tests, found.constants, found.wrong_constants) == (4, 2, 1)
    assert (found.largest, found.beyond, found.within_two) == (6.0, 1, 0.25)
    assert isnan(found.exponent)


def test_agreement_sets_the_nearly_normal_tests_apart():
    """An excess kurtosis within NORMAL_KURTOSIS of 0; constants never count."""
    error = np.array([1.0, 1.0, 1.0, 1.0, 0.0])
    kurtosis = np.array([0.9, -0.9, 1.1, -1.1, 0.0]) * NORMAL_KURTOSIS
    found = agreement(np.array([6.0, 1.0, 7.0, 8.0, 0.0]), np.zeros(5), error, None, kurtosis)
    assert (found.normal_tests, found.normal_beyond, found.normal_largest) == (2, 1, 6.0)
    assert (found.tests, found.beyond, found.largest) == (4, 3, 8.0)
    without = agreement(np.array([6.0]), np.zeros(1), np.ones(1))
    assert (without.normal_tests, without.normal_beyond, without.normal_largest) == (0, 0, 0)


def test_five_standard_errors_and_two_are_inside():
    found = agreement(np.array([5.0, 2.0]), np.zeros(2), np.ones(2))
    assert (found.beyond, found.within_two) == (0, 0.5)


def test_constants_may_differ_by_rounding_only():
    exact = np.array([1e-3, 10.0])
    for error, wrong in ((0.9e-11, 0), (1.1e-11, 1)):  # 1e-12 of 10
        assert agreement(exact + np.array([error, 0]), exact, np.zeros(2)).wrong_constants == wrong


def test_constants_alone():
    found = agreement(np.ones(3), np.ones(3), np.zeros(3), np.zeros(3))
    assert (found.tests, found.largest, found.beyond, found.exponent) == (0, 0, 0, 0)
    assert isnan(found.within_two)


@pytest.mark.parametrize("error", [0.0, 1.0])
def test_a_value_that_is_not_a_number_does_not_agree(error):
    found = agreement(np.array([np.nan, 1.0]), np.ones(2), np.full(2, error), np.ones(2))
    assert found.beyond + found.wrong_constants == 1


@pytest.mark.parametrize("p", [0.5, 0.01, 1e-4])
@pytest.mark.parametrize("n", [50, 1000])
def test_bernstein_exponent_bounds_the_tails_of_a_bernoulli_sum(p, n):
    """Exact binomial tails, at every value that the sum can take: P ≤ 2 e^−h."""
    variance, skew = p * (1 - p), relative_range(max(p, 1 - p), p * (1 - p), n, 1)
    outcomes = np.arange(n + 1)
    probability = stats.binom.pmf(outcomes, n, p)
    deviation = np.abs(outcomes / n - p)
    for k in outcomes:
        # Less the rounding of a sum of n terms.
        tail = probability[deviation >= deviation[k] * (1 - 1e-12)].sum() * (1 - n * EPS)
        exponent = agreement(
            np.array([k / n]), np.array([p]), mean_error(np.array([variance]), n, 1), skew[None]
        ).exponent
        assert tail <= 2 * exp(-exponent)
        assert tail <= family_probability(1, exponent)


def test_bernstein_exponent_by_hand():
    """h = (z²/2)/(1 + z r/(3√(nV))): z = 6 and r/√(nV) = 1/2 give 18/2; the largest one counts."""
    found = agreement(np.array([6.0, 1.0]), np.zeros(2), np.ones(2), np.array([0.5, 0.0]))
    assert found.exponent == 9.0


def test_rare_labels_are_refused_by_the_normal_law_but_not_by_bernstein():
    """One success of probability 1e-4 among 50: z = 14, in one experiment out of 200."""
    p, n = 1e-4, 50
    error, skew = (
        mean_error(np.array([p * (1 - p)]), n, 1),
        relative_range(1 - p, p * (1 - p), n, 1),
    )
    found = agreement(np.array([1 / n]), np.array([p]), error, skew[None])
    assert found.largest > 14
    assert found.beyond == 1
    assert family_probability(1, found.exponent) > 1 / 200


def test_family_probability():
    assert family_probability(1, 0.0) == 1.0
    assert family_probability(50, 20.0) == pytest.approx(100 * exp(-20), rel=1e-14)
    assert pytest.approx(5.733e-7, rel=1e-3) == FAMILY_LEVEL  # of one normal test at 5, two-sided


@pytest.mark.parametrize("tests", [1, 1000, 10**6])
def test_family_limit(tests):
    """m normal tests exceed it together as rarely as one exceeds 5 (Bonferroni)."""
    limit = family_limit(tests)
    assert tests * 2 * stats.norm.sf(limit) == pytest.approx(FAMILY_LEVEL, rel=1e-9)
    assert family_limit(0) == family_limit(1) == pytest.approx(5.0, rel=1e-12)


@pytest.mark.parametrize("tests", [1, 1000, 10**6])
def test_family_limit_holds_for_the_least_normal_law_that_counts_as_normal(tests):
    """A rare label: its count is Poisson, of excess kurtosis 1/λ and skewness 1/√λ.

    Twice the level leaves room for the steps of the law.
    """
    rate = 1 / NORMAL_KURTOSIS
    reach = family_limit(tests) * rate**0.5
    above = stats.poisson.sf(np.ceil(rate + reach) - 1, rate)
    below = stats.poisson.cdf(np.floor(rate - reach), rate)
    assert tests * (above + below) <= 2 * FAMILY_LEVEL


# --------------------------------------------------------------------------- standard errors


def test_error_of_a_mean():
    """Variance 8 of a draw, 2 draws an estimate, 4 estimates: 1."""
    assert mean_error(np.array([8.0, 0.0]), 2, 4).tolist() == [1.0, 0.0]


def test_range_relative_to_the_error_of_a_sum():
    found = relative_range(np.array([3.0, 3.0]), np.array([0.5, 0.0]), 2, 4)
    assert found.tolist() == [1.5, 0.0]


@pytest.mark.parametrize("repetitions", [2, 3, 5])
@pytest.mark.parametrize(
    ("values", "weights"),
    [([0.0, 1.0], [0.9, 0.1]), ([0.0, 1.0, 10.0], [0.6, 0.3, 0.1]), ([-1.0, 1.0], [0.5, 0.5])],
)
def test_error_of_a_variance_by_enumeration(values, weights, repetitions):
    """The exact standard deviation of the sample variance of a skewed variable, over all samples.

    For equal signs and S = 2 the sample variance is 0 or 2 with equal chance.
    """
    samples = np.array(list(product(values, repeat=repetitions)))
    probability = np.prod(list(product(weights, repeat=repetitions)), axis=1)
    of_sample = samples.var(axis=1, ddof=1)
    mean = probability @ of_sample
    deviation = np.array(values) - np.dot(values, weights)
    variance, fourth = np.dot(deviation**2, weights), np.dot(deviation**4, weights)
    found = variance_error(variance, fourth / variance**2 - 3, repetitions)
    assert_close(mean, variance, 1e-13)
    assert_close(found**2, probability @ (of_sample - mean) ** 2, 1e-12, variance**2)


def test_error_of_a_variance_of_a_mean_of_draws():
    """An estimate of N draws has V/N and κ/N: S repetitions by simulation, within 5 errors."""
    draws, repetitions, rng = 5, 20, np.random.default_rng(2)
    estimates = rng.exponential(size=(50_000, repetitions, draws)).mean(axis=2)
    of_sample = estimates.var(axis=1, ddof=1)  # κ of the exponential law is 6, its variance 1
    expected = variance_error(1 / draws, 6 / draws, repetitions)
    square = (of_sample - 1 / draws) ** 2
    error = square.std() / np.sqrt(len(square))
    assert abs(square.mean() - expected**2) <= 5 * error
    assert error < 0.05 * expected**2


def test_error_of_a_variance_is_never_nan():
    """κ = −2 is the least there is; rounding below it gives 0."""
    assert variance_error(np.array(1.0), np.array(-2.5), 1000) == 0


# ------------------------------------------------------------------------------------ bounds


def test_broken_beyond_the_slack_only():
    bound = np.array([1.0, 1.0, 1e-20, 0.0, 0.0])
    value = np.array([1 + BOUND_SLACK / 2, 1 + 2 * BOUND_SLACK, 1.1e-20, 0.0, 1e-300])
    assert broken(value, bound) == 3


def test_a_value_that_is_not_a_number_breaks_its_bound():
    assert broken(np.array([np.nan, 1.0]), np.array([1.0, np.nan])) == 2


def test_tightest_over_the_positive_bounds():
    assert tightest(np.array([1.0, 3.0, 5.0]), np.array([2.0, 4.0, 0.0])) == 0.75
    assert tightest(np.zeros(2), np.zeros(2)) == 0


# -------------------------------------------------------------------- a study in small, whole

EPOCHS, FIXED_DRAWS, FIXED_REPETITIONS = (0, 1), (10, 100), 400
JOINT_DRAWS, JOINT_REPETITIONS = (10, 50), 200
PARAMETERS = {"dense1": 16, "dense2": 15, "dense3": 12}
CELL = {"epoch": 1, "input": 0}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The files of the five rules for a small network, written and read as the pipeline does."""
    folder = tmp_path_factory.mktemp("study")
    samples, chosen = inputs(6), [4, 2]
    models = []
    for _ in EPOCHS:
        model = networks.mlp(3, [4, 3], 3, "sigmoid", 0).double().eval()
        generator = np.random.default_rng(len(models))
        for value in model.parameters():
            value.data.copy_(value.data.new_tensor(generator.normal(size=value.shape)))
        models.append(model)

    def stacked(results):
        return [arrays.stack(one) for one in zip(*results, strict=True)]

    def tree(name, parameters, layers, leading, of_layers=(), **root):
        groups = arrays.parameter_groups(parameters, leading)
        groups["layers"] = arrays.layer_group(layers, (*leading, *of_layers))
        coords = {"epoch": list(EPOCHS), **root.pop("coords", {})}
        groups["/"] = arrays.xr.Dataset(root, coords=coords)
        arrays.write(folder / name, groups, name, {})
        with arrays.read(folder / name) as written:
            return written.load()

    where = ("epoch", "input")
    fixed = [storage.to_numpy(dense.derivatives(model, samples[chosen])) for model in models]
    at = {"input": chosen}
    both = {"estimator": list(repetitions.ESTIMATORS)}

    estimates = []
    for epoch, all_inputs in enumerate(fixed):
        of_inputs = []
        for k, one in enumerate(all_inputs.split()):
            directions = FAMILY.directions(one.outputs)
            outcomes = [
                FAMILY.outcomes(one.outputs, layer.first, layer.second)
                for layer in one.pull(directions, directions)
            ]
            by_draws = {}
            for n in FIXED_DRAWS:
                counts = repetitions.label_counts(
                    outcomes[0].probabilities[0], n, FIXED_REPETITIONS, stream(1, epoch, k, n)
                )
                by_draws[n] = repetitions.at_fixed_input(one.layers, outcomes, counts)
            of_inputs.append(repetitions.summarise(by_draws, FIXED_DRAWS[-1]))
        estimates.append(stacked(of_inputs))

    sigmas = np.stack([FAMILY.probabilities(one.outputs) for one in fixed])
    loose = [np.stack(one) for one in zip(*map(bounds.theorem_5_2, sigmas), strict=True)]
    eigenvalues = {
        "fisher_lambda_bound": loose[0],
        "tensor_lambda_bound": loose[1],
        "fisher_lambda_max": np.stack(
            [spectra.fisher_eigenvalues(FAMILY.covariance(one.outputs))[1] for one in fixed]
        ),
        "tensor_lambda_max": np.stack(
            [FAMILY.tensor_eigenvalues(one.outputs)[1].lower for one in fixed]
        ),
    }

    joint, joint_estimates = [], []
    for epoch, model in enumerate(models):
        pool = storage.to_numpy(dense.derivatives(model, samples))
        population = Population(FAMILY, tails=True)
        population.update(pool)
        joint.append(population.result())
        estimator = repetitions.JointEstimator([pool], len(samples), FAMILY)
        by_draws = {
            n: estimator.repetitions(
                repetitions.JointDraws.sample(len(samples), n, stream(2, epoch, n, s))
                for s in range(JOINT_REPETITIONS)
            )
            for n in JOINT_DRAWS
        }
        joint_estimates.append(repetitions.summarise(by_draws, JOINT_DRAWS[-1]))

    return {
        "moments": tree(
            "moments.nc", *stacked([conditional(one, FAMILY) for one in fixed]), where, coords=at
        ),
        "estimates": tree(
            "estimates.nc",
            *stacked(estimates),
            (*where, "estimator"),
            ("draws",),
            coords={**at, **both, "draws": list(FIXED_DRAWS)},
        ),
        "bounds": tree(
            "bounds.nc",
            *stacked([bounds.squared_norms(one) for one in fixed]),
            where,
            coords=at,
            **{name: (where, value) for name, value in eigenvalues.items()},
            probabilities=((*where, "label_value"), sigmas),
        ),
        "joint moments": tree("joint-moments.nc", *stacked(joint), ("epoch",)),
        "joint estimates": tree(
            "joint-estimates.nc",
            *stacked(joint_estimates),
            ("epoch", "estimator"),
            ("draws",),
            coords={**both, "draws": list(JOINT_DRAWS)},
        ),
    }


@pytest.fixture
def lenient(monkeypatch):
    """Laws of so few draws count as normal, for the rule to have something to judge."""
    monkeypatch.setattr(comparison, "NORMAL_KURTOSIS", 0.01)


def fixed_comparison(study):
    trees = (study[name] for name in ("moments", "estimates", "bounds"))
    return compare_fixed(*trees, FIXED_DRAWS[-1], FIXED_REPETITIONS)


def joint_comparison(study):
    trees = (study[name] for name in ("joint moments", "joint estimates"))
    return compare_joint(*trees, JOINT_DRAWS[-1], JOINT_REPETITIONS)


def planted(study, name):
    """A copy of the study in which one tree may be changed, and that tree."""
    copy = {**study, name: study[name].copy(deep=True)}
    return copy, copy[name]


def refused(compared):
    """Families of means that Bernstein's inequality refuses, and that the normal law refuses."""
    means = compared.sel(statistic="mean")
    probability = np.vectorize(family_probability)(means["tests"], means["exponent"])
    bernstein = means["tests"].copy(data=probability < FAMILY_LEVEL) & (means["tests"] > 0)
    limit = np.vectorize(family_limit)(means["normal_tests"])
    return bernstein, means["normal_largest"] > limit


def of_layer(tree, layer, quantity):
    """All values of a layer: (*leading, parameters)."""
    weight, bias = (
        tree[f"parameters/{layer}.{kind}"][quantity].values for kind in ("weight", "bias")
    )
    return np.concatenate([weight.reshape(*bias.shape[:-1], -1), bias], axis=-1)


def least_variance(tree, layer):
    """Var Î2 less what its regression on Î1 − Î2 explains: that of the best mix."""
    v1, v2, c12 = (of_layer(tree, layer, one) for one in Noise._fields)
    spread = v1 + v2 - 2 * c12
    return v2 - np.divide((c12 - v2) ** 2, spread, out=np.zeros_like(v2), where=spread > 0)


@pytest.mark.parametrize("compare", [fixed_comparison, joint_comparison], ids=["fixed", "joint"])
def test_nothing_is_wrong_with_a_true_study(study, compare, lenient):
    found = compare(study)
    assert found["layer"].values.tolist() == list(PARAMETERS)
    for layer, count in PARAMETERS.items():
        counts = (found["tests"] + found["constants"]).sel(layer=layer)
        assert np.all(counts == count)
    assert not found["wrong_constants"].any()
    assert not found["beyond"].any()
    assert not any(one.any() for one in refused(found))
    assert np.all(
        found["normal_tests"].sel(statistic="mean") <= found["tests"].sel(statistic="mean")
    )
    assert found["normal_tests"].sel(statistic="mean").sum() > 100
    assert np.all(np.abs(found["layer_z"]) <= 5)
    assert found["layer_z"].sizes["draws"] == 2


def test_the_last_layer_has_constants_at_fixed_inputs_only(study):
    constants = fixed_comparison(study)["constants"].sel(layer="dense3")
    assert np.all(constants.sel(estimator="hessian") == 12)
    assert np.all(constants.sel(estimator="score") == 0)
    assert np.all(joint_comparison(study)["constants"] == 0)


def test_no_bound_is_broken_in_a_true_study(study):
    found = fixed_comparison(study)
    assert not found["bounds_broken"].any()
    for layer, count in PARAMETERS.items():
        assert np.all(found["bounds_checked"].sel(layer=layer) == count)
    tight = found["tightest"]
    assert np.all(tight <= 1 + BOUND_SLACK)
    assert np.all(tight.sel(bound=BOUNDS[1]) >= tight.sel(bound=BOUNDS[0]))
    assert np.all(
        (tight == 0) == ((tight["layer"] == "dense3") & (tight["quantity"] == "variance_2"))
    )


def test_averages_over_the_layers(study):
    """Of moments, bounds and estimates, from the values of every parameter."""
    found = fixed_comparison(study)
    moments, norms, root = study["moments"], study["bounds"], study["bounds"].to_dataset()
    for layer in PARAMETERS:
        one = found.sel(layer=layer)
        assert_close(one["fisher"], of_layer(moments, layer, "fisher").mean(-1), 1e-13)
        assert_close(one["mixed_variance"], least_variance(moments, layer).mean(-1), 1e-13)
        first, second = (
            of_layer(norms, layer, f"{order}_squared") for order in ("first", "second")
        )
        for j, (estimator, power) in enumerate(zip(repetitions.ESTIMATORS, (2, 1), strict=True), 1):
            values = of_layer(moments, layer, f"variance_{j}").mean(-1)
            assert_close(one["exact_variance"].sel(estimator=estimator), values, 1e-13)
            for bound, suffix in zip(BOUNDS, ("bound", "max"), strict=True):
                fisher, tensor = (root[f"{kind}_lambda_{suffix}"] for kind in ("fisher", "tensor"))
                limit = (first**power if j == 1 else second).mean(-1)
                limit = limit * (tensor if j == 1 else fisher).values
                value = one["bound_variance"].sel(estimator=estimator, bound=bound)
                assert_close(value.transpose("epoch", "input"), limit, 1e-13)
                value = one["bound_fisher"].sel(bound=bound).transpose("epoch", "input")
                assert_close(value, first.mean(-1) * fisher.values, 1e-13)
            recorded = one.sel(estimator=estimator, draws=FIXED_DRAWS[-1])
            for ours, quantity in (
                ("empirical_fisher", "mean"),
                ("empirical_variance", "variance"),
            ):
                values = of_layer(study["estimates"], layer, quantity)[:, :, j - 1].mean(-1)
                assert_close(recorded[ours], values, 1e-13, values + 1e-30)


def test_averages_over_the_layers_of_joint_draws(study):
    found, moments = joint_comparison(study), study["joint moments"]
    for layer in PARAMETERS:
        one = found.sel(layer=layer)
        assert_close(one["fisher"], of_layer(moments, layer, "fisher").mean(-1), 1e-13)
        of_inputs = of_layer(moments, layer, "input_variance").mean(-1)
        least = of_inputs + least_variance(moments, layer).mean(-1)
        assert_close(one["mixed_variance"], least, 1e-13)
        for j, estimator in enumerate(repetitions.ESTIMATORS, start=1):
            total = of_inputs + of_layer(moments, layer, f"variance_{j}").mean(-1)
            recorded = one.sel(estimator=estimator, draws=JOINT_DRAWS[-1])
            assert_close(recorded["exact_variance"], total, 1e-13)
            assert_close(recorded["input_share"], of_inputs / total, 1e-13)
            for ours, quantity in (
                ("empirical_fisher", "mean"),
                ("empirical_variance", "variance"),
            ):
                values = of_layer(study["joint estimates"], layer, quantity)[:, j - 1].mean(-1)
                assert_close(recorded[ours], values, 1e-13, values)


def test_deviation_of_a_layer_in_standard_errors(study):
    """At a fixed input from the exact variance of the layer's average, else from the sample one."""
    found, moments = fixed_comparison(study)["layer_z"], study["moments"]["layers"]
    for layer, (j, name), n in product(
        PARAMETERS, enumerate(repetitions.ESTIMATORS, 1), FIXED_DRAWS
    ):
        mean = study["estimates"]["layers"]["layer_mean"].sel(layer=layer, estimator=name, draws=n)
        variance = moments[f"average_variance_{j}"].sel(layer=layer) / (n * FIXED_REPETITIONS)
        expected = (mean - moments["fisher"].sel(layer=layer)) / np.sqrt(variance)
        ours = found.sel(layer=layer, estimator=name, draws=n)
        noiseless = layer == "dense3" and name == "hessian"
        assert_close(ours, 0 * expected.fillna(0) if noiseless else expected, 1e-9, 1.0)
    found = joint_comparison(study)["layer_z"]
    layers = study["joint estimates"]["layers"]
    error = np.sqrt(layers["layer_variance"] / JOINT_REPETITIONS)
    expected = (layers["layer_mean"] - study["joint moments"]["layers"]["fisher"]) / error
    assert_close(found, expected.transpose(*found.dims), 1e-9, 1.0)


@pytest.mark.parametrize("case", ["fixed", "joint"])
def test_families_of_means_from_every_parameter(study, case, lenient):
    """Largest deviation, Bernstein's exponent and the nearly normal, one parameter at a time."""
    estimates, moments, compare, _, count = FIXED_CASE if case == "fixed" else JOINT_CASE
    found = compare(study).sel(statistic="mean")
    estimates, moments = study[estimates], study[moments]
    for layer, (j, name) in product(PARAMETERS, enumerate(repetitions.ESTIMATORS, 1)):
        variance = of_layer(moments, layer, f"variance_{j}")
        if case == "joint":
            variance = variance + of_layer(moments, layer, "input_variance")
        mean = of_layer(estimates, layer, "mean").take(j - 1, axis=variance.ndim - 1)
        deviation = np.abs(mean - of_layer(moments, layer, "fisher"))
        random = variance > 0
        error = np.sqrt(np.where(random, variance, 1) / count)
        z = np.where(random, deviation / error, 0)
        reach = of_layer(moments, layer, f"range_{j}") / count / error  # r / √(n V)
        kurtosis = of_layer(moments, layer, f"excess_kurtosis_{j}") / count
        normal = random & (np.abs(kurtosis) <= 0.01)
        one = found.sel(layer=layer, estimator=name)
        assert_close(one["largest"], z.max(-1), 1e-12)
        assert_close(one["exponent"], (z**2 / 2 / (1 + z * reach / 3)).max(-1), 1e-12)
        assert_close(one["normal_largest"], np.where(normal, z, 0).max(-1), 1e-12)
        assert np.array_equal(one["normal_tests"], normal.sum(-1))
        assert np.array_equal(one["tests"], random.sum(-1))


def test_the_order_of_the_leading_dimensions_does_not_matter(study):
    turned = {
        name: tree.map_over_datasets(
            lambda one: one.transpose("unit", "fan_in", ..., missing_dims="ignore")
        )
        for name, tree in study.items()
    }
    for compare in (fixed_comparison, joint_comparison):
        found, expected = compare(turned), compare(study)
        for name, value in expected.items():
            assert np.array_equal(found[name].transpose(*value.dims), value, equal_nan=True), name


# ---- planted faults

FIXED_CASE = ("estimates", "moments", fixed_comparison, (1, 0), FIXED_DRAWS[-1] * FIXED_REPETITIONS)
JOINT_CASE = (
    "joint estimates",
    "joint moments",
    joint_comparison,
    (1,),
    JOINT_DRAWS[-1] * JOINT_REPETITIONS,
)


@pytest.mark.parametrize("j", [0, 1], ids=repetitions.ESTIMATORS)
@pytest.mark.parametrize("case", [FIXED_CASE, JOINT_CASE], ids=["fixed", "joint"])
def test_a_mean_ten_standard_errors_off_is_found(study, case, j, lenient):
    """One parameter at one epoch and input: its cell is refused, and no other."""
    estimates, moments, compare, where, count = case
    copy, tree = planted(study, estimates)
    exact = study[moments]["parameters/dense2.weight"]
    variance = exact[f"variance_{j + 1}"].values[where][2, 1]
    if compare is joint_comparison:
        variance += exact["input_variance"].values[where][2, 1]
    tree["parameters/dense2.weight"]["mean"].values[(*where, j, 2, 1)] += 10 * np.sqrt(
        variance / count
    )
    found = compare(copy)
    beyond = found["beyond"].sel(statistic="mean")
    assert beyond.sum() == 1
    hit = beyond.sel(layer="dense2").isel(estimator=j).values[where]
    assert hit == 1
    assert [int(one.sum()) for one in refused(found)] == [1, 1]
    # The clean deviation is added to the planted one.
    assert found["largest"].sel(statistic="mean").max() >= 5


@pytest.mark.parametrize("factor", [2.0, 0.25])
@pytest.mark.parametrize("j", [0, 1], ids=repetitions.ESTIMATORS)
@pytest.mark.parametrize("case", [FIXED_CASE, JOINT_CASE], ids=["fixed", "joint"])
def test_a_variance_off_by_a_factor_is_found(study, case, j, factor):
    estimates, _, compare, where, _ = case
    copy, tree = planted(study, estimates)
    tree["parameters/dense1.bias"]["variance"].values[(*where, j)] *= factor
    beyond = compare(copy)["beyond"]
    hit = beyond.sel(layer="dense1", statistic="variance").isel(estimator=j).values[where]
    assert beyond.sum() == hit == 4


def test_estimates_of_another_number_of_draws_are_found(study):
    trees = (study[name] for name in ("moments", "estimates", "bounds"))
    found = compare_fixed(*trees, FIXED_DRAWS[-1] // 2, FIXED_REPETITIONS)
    assert np.all(found["beyond"].sel(statistic="variance", estimator="score") > 0)


def test_expected_draws_of_other_labels(study):
    """N S (1 − max σ), which loses no more than eps / (1 − max σ) at these networks."""
    found = fixed_comparison(study)["other_labels"]
    sigma = study["bounds"].to_dataset()["probabilities"]
    for n in FIXED_DRAWS:
        expected = n * FIXED_REPETITIONS * (1 - sigma.max("label_value"))
        np.testing.assert_allclose(found.sel(draws=n), expected, rtol=1e-12)


def test_a_constant_that_is_off_is_found(study):
    """The Hessian-based estimate in the last layer has no sampling error at a fixed input."""
    copy, tree = planted(study, "estimates")
    tree["parameters/dense3.weight"]["mean"].values[1, 0, 1, 0, 0] *= 1 + 1e-6
    tree["parameters/dense3.weight"]["variance"].values[0, 1, 1, 0, 0] = 1e-9
    wrong = fixed_comparison(copy)["wrong_constants"]
    assert wrong.sum() == 2
    hit = wrong.sel(layer="dense3", estimator="hessian")
    assert hit.sel(statistic="mean").isel(CELL) == 1
    assert hit.sel(statistic="variance").isel(epoch=0, input=1) == 1


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("bound", BOUNDS)
def test_a_bound_at_nine_tenths_of_a_value_is_found(study, bound, quantity):
    """In the cell, and the layers, where the value is within nine tenths of the tightest."""
    copy, tree = planted(study, "bounds")
    tight = fixed_comparison(study)["tightest"].sel(quantity=quantity, bound=bound).isel(CELL)
    kind = "tensor" if quantity == "variance_1" else "fisher"
    suffix = "bound" if bound == "theorem 5.2" else "max"
    tree[f"{kind}_lambda_{suffix}"].values[1, 0] *= 0.9 * float(tight.max())
    found = fixed_comparison(copy)
    cell = found.sel(quantity=quantity, bound=bound).isel(CELL)
    assert np.array_equal(cell["bounds_broken"] > 0, tight >= 0.9 * tight.max())
    assert_close(cell["tightest"].max(), 1 / 0.9, 1e-12)
    others = found["bounds_broken"].sel(bound=bound).isel(epoch=0)
    assert not others.any()


def test_a_layer_mean_that_is_off_is_found(study):
    copy, tree = planted(study, "joint estimates")
    error = np.sqrt(tree["layers"]["layer_variance"].values / JOINT_REPETITIONS)
    tree["layers"]["layer_mean"].values += 10 * error
    shift = joint_comparison(copy)["layer_z"] - joint_comparison(study)["layer_z"]
    assert_close(shift, np.full(shift.shape, 10.0), 1e-9)
