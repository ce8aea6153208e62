"""`diagfim.plan`: at the numbers planned, the error asked for is met as often as asked for."""

import numpy as np
import pytest
import torch
import xarray as xr
from reference import chain, inputs, single_draws
from scipy import stats
from torch import nn

import diagfim
from diagfim.arrays import ALL, layer_of
from diagfim.errors import UserError

MODEL = chain(nn.Sigmoid, 3)
SAMPLES = inputs(6)
POOL = inputs(40, seed=9)
NAMES = [name for name, _ in MODEL.named_parameters()]
LAYERS = ("0", "2", "4")
RULES = ("chebyshev", "clt")
TIMES = 1000


def flat(tree, quantity):
    return np.concatenate([tree[name][quantity].values.ravel() for name in NAMES])


LAYER = np.concatenate(
    [np.full(p.numel(), LAYERS.index(layer_of(name))) for name, p in MODEL.named_parameters()]
)
"""Of every parameter in the flat order, the number of its layer."""


def outcomes(estimator, samples):
    """Values of one draw at every label, from autograd: p (n, C) and (n, C, P)."""
    sigma, score, hessian = single_draws(MODEL, samples)
    fisher = np.broadcast_to((sigma[:, :, None] * score).sum(1, keepdims=True), score.shape)
    weight = flat(diagfim.estimate(MODEL, samples, "mixed"), "score_weight")
    values = {
        "score": score,
        "hessian": hessian,
        "mixed": weight * score + (1 - weight) * hessian,
        "exact": fisher,
    }[estimator]
    return sigma, values, fisher[:, 0].mean(0)


def success(found, fisher, epsilon, layer):
    """How often ‖Î − I‖ ≤ ε ‖I‖ over a layer, or over every one by itself, the rarest."""
    rates = []
    for number in range(len(LAYERS)):
        own = number == LAYER
        error = np.linalg.norm((found - fisher)[:, own], axis=1)
        rates.append(np.mean(error <= epsilon * np.linalg.norm(fisher[own])))
    return min(rates) if layer == ALL else rates[LAYERS.index(layer)]


def at_inputs(estimator, draws, rng):
    """Repeated estimates at fixed inputs: N labels at each enter through their counts alone."""
    sigma, values, fisher = outcomes(estimator, SAMPLES)
    counts = np.stack([rng.multinomial(draws, p, size=TIMES) for p in sigma], axis=1)
    return np.einsum("rnc,ncp->rp", counts / (draws * len(sigma)), values), fisher


def over_inputs(estimator, draws, number, rng):
    """Repeated estimates at inputs drawn anew from the pool, N labels at each of them."""
    sigma, values, fisher = outcomes(estimator, POOL)
    times = rng.multinomial(number, np.full(len(POOL), 1 / len(POOL)), size=TIMES)
    counts = rng.multinomial(draws * times, sigma[None])
    return np.einsum("rnc,ncp->rp", counts / (draws * number), values), fisher


# ------------------------------------------------------------------ the error asked for is met


@pytest.mark.parametrize("confidence", [0.7, 0.95])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("estimator", ["score", "hessian", "mixed"])
def test_planned_draws_meet_the_error_at_given_inputs(estimator, rule, confidence):
    epsilon = 0.1
    tree = diagfim.analyze(MODEL, SAMPLES)
    plan = diagfim.plan(tree, epsilon, confidence).sel(estimator=estimator, rule=rule)
    rng = np.random.default_rng(1)
    for layer in (*LAYERS, ALL):
        draws = int(plan["draws_per_input"].sel(layer=layer))
        found, fisher = at_inputs(estimator, draws, rng)
        assert success(found, fisher, epsilon, layer) >= confidence
        if rule == "clt" and draws > 100:
            # A fourth of the draws leaves a mean squared error beyond the square asked for.
            found, fisher = at_inputs(estimator, draws // 4, rng)
            assert success(found, fisher, epsilon, layer) < confidence


@pytest.mark.parametrize("draws", [1, 4, None])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("estimator", ["score", "hessian", "mixed", "exact"])
def test_planned_inputs_meet_the_error_over_the_distribution(estimator, rule, draws):
    epsilon, confidence = 0.1, 0.95
    tree = diagfim.analyze(MODEL, POOL)
    seconds = None if draws else {estimator: diagfim.Cost(1.0, 0.1)}
    plan = diagfim.plan(
        tree, epsilon, confidence, over="distribution", draws=draws, seconds=seconds
    ).sel(estimator=estimator, rule=rule)
    rng = np.random.default_rng(2)
    for layer in (*LAYERS, ALL):
        n, number = (
            int(plan[key].sel(layer=layer)) for key in ("draws_per_input", "number_of_inputs")
        )
        found, fisher = over_inputs(estimator, n, number, rng)
        assert success(found, fisher, epsilon, layer) >= confidence
        if rule == "clt" and number > 100:
            found, fisher = over_inputs(estimator, n, number // 4, rng)
            assert success(found, fisher, epsilon, layer) < confidence


@pytest.mark.parametrize("rule", RULES)
def test_planned_probes_meet_the_error_with_estimate_itself(rule):
    epsilon, confidence = 0.3, 0.9
    tree = diagfim.analyze(MODEL, SAMPLES, probes=True)
    plan = diagfim.plan(tree, epsilon, confidence).sel(estimator="hutchinson", rule=rule)
    draws = int(plan["draws_per_input"].sel(layer=ALL))
    found = [
        flat(diagfim.estimate(MODEL, SAMPLES, "hutchinson", draws, seed, errors=False), "fisher")
        for seed in range(TIMES)
    ]
    assert success(np.array(found), flat(tree, "fisher"), epsilon, ALL) >= confidence


def test_the_normal_rule_is_tight_for_a_single_parameter():
    """One parameter and a normal error: 95% at N, and at N/4 P(|z| < 1.96/2) = 67%.

    20,000 repetitions, to 5 standard errors of a frequency and a share for what is not normal: at
    some 10⁵ draws the skewness of the mean is below 0.01, which moves two-sided levels by its
    square.
    """
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(1.0)
    samples = torch.linspace(0.5, 2, 20, dtype=torch.float64)[:, None]
    epsilon, times = 0.01, 20_000
    tree = diagfim.analyze(model, samples, "bernoulli")
    plan = diagfim.plan(tree, epsilon, 0.95, estimators=["score"])
    planned = int(plan["draws_per_input"].sel(estimator="score", rule="clt", layer=ALL))
    x = samples[:, 0].numpy()
    p = 1 / (1 + np.exp(-x))
    rng = np.random.default_rng(3)
    for draws in (planned, planned // 4):
        ones = rng.binomial(draws, p, size=(times, len(x))) / draws
        found = (x**2 * (ones * (1 - p) ** 2 + (1 - ones) * p**2)).mean(1)
        fisher = (x**2 * p * (1 - p)).mean()
        rate = np.mean(np.abs(found - fisher) <= epsilon * fisher)
        expected = 2 * stats.norm.cdf(stats.norm.ppf(0.975) * np.sqrt(draws / planned)) - 1
        assert abs(rate - expected) < 5 * np.sqrt(expected * (1 - expected) / times) + 1e-3


# ----------------------------------------------------------------------- the least that is enough


@pytest.mark.parametrize("options", [{}, {"probes": "gaussian", "level": "layer"}])
@pytest.mark.parametrize("family", ["categorical", "poisson"])
def test_numbers_are_the_least_that_the_rules_allow(family, options):
    """By the variances that `diagfim.variance` tells: enough, and not enough with one fewer."""
    epsilon, confidence = 0.05, 0.9
    tree = diagfim.analyze(MODEL, POOL, family, probes=True)
    fisher = flat(tree, "fisher")
    z = stats.norm.ppf(1 - (1 - confidence) / 2)
    allowed = {"chebyshev": (1 - confidence) * epsilon**2, "clt": epsilon**2 / z**2}
    given = diagfim.plan(tree, epsilon, confidence, **options)
    drawn = diagfim.plan(tree, epsilon, confidence, over="distribution", draws=3, **options)
    for estimator in given["estimator"].values.tolist():
        level = options.get("level", "parameter")
        kind = {"mixed": {"level": level}, "hutchinson": {"probes": options.get("probes")}}
        extra = {k: v for k, v in kind.get(estimator, {}).items() if v is not None}

        def error(layer, draws, number, estimator=estimator, extra=extra):
            variance = diagfim.variance(tree, estimator, draws, number, **extra)
            own = LAYERS.index(layer) == LAYER
            return flat(variance, "total_variance")[own].sum() / (fisher[own] ** 2).sum()

        for rule, limit in allowed.items():
            at, of = (plan.sel(estimator=estimator, rule=rule) for plan in (given, drawn))
            for layer in LAYERS:
                n = int(at["draws_per_input"].sel(layer=layer))
                assert int(at["number_of_inputs"].sel(layer=layer)) == len(POOL)
                assert error(layer, n, None) <= limit * (1 + 1e-12)
                assert n == 1 or error(layer, n - 1, None) > limit
                number = int(of["number_of_inputs"].sel(layer=layer))
                assert int(of["draws_per_input"].sel(layer=layer)) == 3
                assert error(layer, 3, number) <= limit * (1 + 1e-12)
                assert number == 1 or error(layer, 3, number - 1) > limit
            for plan, key in ((at, "draws_per_input"), (of, "number_of_inputs")):
                every = plan[key].values
                assert every[-1] == every[:-1].max()


def test_numbers_for_every_parameter_are_those_of_a_layer_of_one():
    """A model of one parameter, and the parameters of another by the definition."""
    tree = diagfim.analyze(MODEL, POOL)
    epsilon, confidence = 0.2, 0.9
    fisher = flat(tree, "fisher") ** 2 * (1 - confidence) * epsilon**2
    drawn = diagfim.plan_parameters(tree, epsilon, confidence, over="distribution", draws=2)
    fixed = diagfim.plan_parameters(tree, epsilon, confidence)
    for estimator, of_draw in (("score", "variance_1"), ("hessian", "variance_2")):
        a, b = flat(tree, "input_variance"), flat(tree, of_draw)
        where = {"estimator": estimator, "rule": "chebyshev"}
        for tree_, key, least in (
            (drawn, "number_of_inputs", (a + b / 2) / fisher),
            (fixed, "draws_per_input", b / len(POOL) / fisher),
        ):
            found = np.concatenate([tree_[name][key].sel(where).values.ravel() for name in NAMES])
            # Enough, but for rounding, and the least: less than one more, if any is needed at all.
            assert np.all(found >= least * (1 - 1e-12))
            assert np.all(found - 1 < np.maximum(least, 1) * (1 + 1e-12))
    assert drawn["0.weight"]["draws_per_input"].values.max() == 2
    one = diagfim.analyze(nn.Linear(1, 1, bias=False), inputs(8, 1).float(), "bernoulli")
    of_layer = diagfim.plan(one)["draws_per_input"].sel(layer=ALL)
    assert np.array_equal(
        diagfim.plan_parameters(one)["weight"]["draws_per_input"].values.ravel(),
        of_layer.values.ravel(),
    )


def test_low_confidence_is_not_below_what_one_normal_error_needs():
    tree = diagfim.analyze(MODEL, SAMPLES)
    low, lower = (diagfim.plan(tree, 0.01, p).sel(rule="clt") for p in (0.75, 0.05))
    assert low["draws_per_input"].equals(lower["draws_per_input"])


# ------------------------------------------------------------------------------------------ cost


@pytest.mark.parametrize(
    "cost",
    [
        diagfim.Cost(1.0, 0.2),
        diagfim.Cost(3.0, 0.01),
        diagfim.Cost(1.0, 0.3, 1.9),
        diagfim.Cost(1.0, 0.0),
        diagfim.Cost(0.0, 1.0),
    ],
    ids=str,
)
def test_number_of_draws_of_least_cost(cost):
    """Against all numbers up to 100,000: within a per cent, and 0.1% as not every one is tried."""
    epsilon, confidence = 0.02, 0.95
    tree = diagfim.analyze(MODEL, POOL)
    plan = diagfim.plan(
        tree, epsilon, confidence, over="distribution", seconds={"score": cost, "exact": 0.5}
    ).sel(rule="chebyshev")
    factor = 1 / ((1 - confidence) * epsilon**2)
    numbers = np.arange(1, 100_001)
    counts = []
    for k in range(len(LAYERS)):
        own = k == LAYER
        size = (flat(tree, "fisher")[own] ** 2).sum()
        a, b = (factor * flat(tree, q)[own].sum() / size for q in ("input_variance", "variance_1"))
        counts.append(np.maximum(np.ceil(a + b / numbers), 1))
    counts.append(np.max(counts, axis=0))
    seconds = np.array(counts) * [cost.at(n) for n in numbers]
    found = plan.sel(estimator="score")
    assert np.all(found["total_seconds"].values <= 1.011 * seconds.min(axis=1))
    chosen = found["draws_per_input"].values.astype(int)
    at = np.array(counts)[range(len(counts)), chosen - 1]
    assert np.array_equal(found["number_of_inputs"], at)
    assert np.array_equal(
        plan["total_seconds"].sel(estimator="exact"),
        0.5 * plan["number_of_inputs"].sel(estimator="exact"),
    )
    best = np.where(
        plan["total_seconds"].sel(estimator="exact") < found["total_seconds"], "exact", "score"
    )
    assert np.array_equal(plan["cheapest"], best)
    assert np.isnan(plan["total_seconds"].sel(estimator="hessian")).all()


def test_draws_of_no_cost_are_no_more_than_spare_a_hundredth_of_the_inputs():
    """A / N_x + B / (N_x N) ≤ 1 with B / N ≈ 0.01 A: N of B / (0.01 A), to a step of 4%."""
    tree = diagfim.analyze(MODEL, POOL)
    plan = diagfim.plan(
        tree, 0.001, over="distribution", seconds={"score": 1.0}, estimators=["score"]
    ).sel(rule="clt", estimator="score")
    for k, layer in enumerate(LAYERS):
        a, b = (flat(tree, q)[k == LAYER].sum() for q in ("input_variance", "variance_1"))
        assert float(plan["draws_per_input"].sel(layer=layer)) <= 1.04 * b / (0.01 * a) + 1


def test_measured_seconds_grow_with_the_draws_and_make_a_plan():
    model = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 10))
    samples = torch.rand(300, 20, generator=torch.Generator().manual_seed(0))
    seconds = diagfim.measure_seconds(model, samples, repeats=1)
    assert list(seconds) == ["score", "hessian", "mixed", "exact", "hutchinson"]
    for cost in seconds.values():
        assert 0 < cost.at(1) <= cost.at(100) < 0.1
    tree = diagfim.analyze(model, samples, probes=True)
    plan = diagfim.plan(tree, seconds=seconds)
    assert set(plan["cheapest"].values.ravel()) <= set(seconds)
    assert np.isfinite(plan["total_seconds"]).all()


# ---------------------------------------------------------------------------------------- limits


def tree_of(**quantities):
    """A tree as of `analyze`, of one parameter at two inputs."""
    node = xr.Dataset({key: ("unit", [value]) for key, value in quantities.items()})
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs={"inputs": 2}), "a.bias": node})


def test_no_information_is_right_at_once_or_never():
    nothing = dict.fromkeys(("variance_1", "variance_2", "covariance_12", "input_variance"), 0.0)
    plan = diagfim.plan(tree_of(fisher=0.0, **nothing))
    assert (plan["draws_per_input"] == 1).all()
    tree = tree_of(fisher=0.0, **{**nothing, "variance_2": 1.0})
    seconds = {"score": 1.0, "hessian": diagfim.Cost(0.1, 0.1, 0.2)}
    for over in ("inputs", "distribution"):
        plan = diagfim.plan(tree, seconds=seconds, over=over).sel(rule="clt", layer="a")
        key = "draws_per_input" if over == "inputs" else "number_of_inputs"
        assert plan[key].sel(estimator="hessian") == np.inf
        assert plan["total_seconds"].sel(estimator="hessian") == np.inf
        assert plan["cheapest"] == "score"
        only = diagfim.plan(tree, seconds=seconds, over=over, estimators=["hessian"])
        assert (only["cheapest"] == "").all()


def test_attributes_and_names():
    plan = diagfim.plan(diagfim.analyze(MODEL, SAMPLES), 0.3, 0.8, seconds={"score": 1.0})
    assert plan.attrs["relative_error"] == 0.3
    assert plan.attrs["confidence"] == 0.8
    assert plan.attrs["over"] == "inputs"
    assert plan["estimator"].values.tolist() == ["score", "hessian", "mixed", "exact"]
    assert plan["total_seconds"].units == "s"
    assert all(variable.long_name for variable in plan.data_vars.values())
    assert plan["draws_per_input"].sel(rule="clt").to_pandas().shape == (4, 4)


TREE = diagfim.analyze(MODEL, SAMPLES)


@pytest.mark.refused("plan that asks for what cannot be")
@pytest.mark.parametrize("call", [diagfim.plan, diagfim.plan_parameters])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tree": 3}, "tree: a int is no DataTree; pass what diagfim.analyze returned"),
        ({"relative_error": 0}, "relative_error: 0 is not positive; 0.1 is ten per cent"),
        ({"relative_error": float("nan")}, "relative_error: nan is not positive"),
        ({"confidence": 1}, "confidence: 1 is not between 0 and 1; pass 0.95, say"),
        ({"over": "time"}, "over: 'time' is not one of inputs, distribution"),
        ({"draws": 3}, "draws: at given inputs .* is planned; leave it out, or pass over='distrib"),
        ({"draws": 0, "over": "distribution"}, "draws: 0 is not an integer of at least 1"),
        ({"estimators": "score"}, "estimators: 'score' is not a list of some of score, hessian"),
        ({"estimators": ["empirical"]}, r"estimators: \['empirical'\] is not a list of some of"),
        ({"estimators": ["hutchinson"]}, "probes: the tree has no variance_probe, .* analyze with"),
        ({"probes": "cauchy"}, "probes: 'cauchy' is not one of rademacher, gaussian"),
        ({"level": "unit"}, "level: 'unit' is not one of parameter, layer"),
        (
            {"tree": diagfim.analyze(MODEL, SAMPLES[:1]), "over": "distribution"},
            "over: the tree rests on one input, .*; analyze more inputs, or pass over='inputs'",
        ),
    ],
)
def test_mistakes_are_named_in_a_line(call, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        call(**{"tree": TREE, **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.refused("durations that are none")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diagfim.plan(TREE, seconds={"empirical": 1.0}), r"seconds: \['empirical'\] is no"),
        (lambda: diagfim.plan(TREE, seconds={"score": 0.0}), "seconds: Cost.* is no duration; giv"),
        (lambda: diagfim.Cost(-1.0), "seconds: Cost.* is no duration; give positive seconds per"),
        (lambda: diagfim.Cost(1.0, float("nan")), "seconds: Cost.* is no duration"),
        (lambda: diagfim.measure_seconds(MODEL, SAMPLES[:1]), "inputs: estimates are timed at a"),
        (lambda: diagfim.measure_seconds(MODEL, SAMPLES, repeats=0), "repeats: 0 is not an integ"),
        (lambda: diagfim.measure_seconds(MODEL, SAMPLES, ["magic"]), r"estimators: \['magic'\] is"),
    ],
)
def test_mistakes_about_seconds(call, message):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
