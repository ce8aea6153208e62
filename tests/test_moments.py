"""Exact moments per parameter: at given inputs, and over many inputs as a stream."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import (
    EPS,
    assert_close,
    by_name,
    chain,
    inputs,
    label_tensors,
    moments_of_draws,
    of_flat_parameters,
    single_draws,
)
from torch import nn
from torch.func import grad, vmap

from diagfim.derivatives.dense import derivatives
from diagfim.derivatives.factored import AffineFactors, Derivatives
from diagfim.derivatives.storage import to_numpy
from diagfim.errors import UserError
from diagfim.families import Categorical
from diagfim.moments import AVERAGED, POWERS, Population, Running, conditional

# The derivatives agree with autograd to 1e-12 of the largest one; a draw is of degree 2 in them,
# and a moment of degree p in the draws is wrong by 2p times as much, of the largest draw to the p.
TOLERANCE = 1e-12
DEGREES = {"fisher": 1, "range_1": 1, "range_2": 1}  # the others are of degree 2

NETWORKS = {
    "sigmoid": chain(nn.Sigmoid, 3),
    "softplus": chain(nn.Softplus, 4, classes=2),
    "tanh, no bias": chain(nn.Tanh, 3, bias=False, classes=4),
    "relu": chain(nn.ReLU, 3),
    "linear": chain(nn.Identity, 1),
}


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS.keys(), scope="module")
def network(request):
    """A network, its draws (n, C, P) by autograd and their probabilities (n, C)."""
    model = request.param
    samples = inputs(6)
    return model, samples, single_draws(model, samples)


def layers_of(model):
    """Names of the parameters of each layer, by the name of its weight."""
    names = [name for name, _ in model.named_parameters()]
    return {
        weight: [name for name in names if name.split(".")[0] == weight.split(".")[0]]
        for weight in names
        if weight.endswith("weight")
    }


def of_layer(named, names, leading):
    """Values of all parameters of a layer: (*leading axes, parameters)."""
    parts = [named[name] for name in names]
    return np.concatenate([part.reshape(*part.shape[:leading], -1) for part in parts], axis=-1)


# ------------------------------------------------------------------------------- conditional


def test_conditional_moments_of_every_parameter(network):
    model, samples, (sigma, *draws) = network
    parameters, _ = conditional(derivatives(model, samples), Categorical())
    expected = moments_of_draws(sigma, *draws)
    largest = max(np.max(np.abs(one)) for one in draws)
    assert list(parameters) == [name for name, _ in model.named_parameters()]
    for quantity, flat in expected.items():
        for name, value in by_name(model, flat).items():
            found = np.asarray(parameters[name][quantity])
            if quantity.startswith("excess_kurtosis"):
                variance = by_name(model, expected[f"variance_{quantity[-1]}"])[name]
                # Where the variance is rounding, so is its kurtosis.
                real = variance > (1e-6 * largest) ** 2
                scale = largest**4 / variance[real] ** 2
                assert_close(found[real], value[real], 8 * TOLERANCE, scale)
            else:
                degree = DEGREES.get(quantity, 2)
                assert_close(found, value, 2 * degree * TOLERANCE, largest**degree)


def test_conditional_moments_averaged_over_a_layer(network):
    """The means of four moments; and the variances of the layer-averaged estimates, by label."""
    model, samples, (sigma, *draws) = network
    _, layers = conditional(derivatives(model, samples), Categorical())
    moments = moments_of_draws(sigma, *draws)
    largest = max(np.max(np.abs(one)) for one in draws)
    assert list(layers) == list(layers_of(model))
    for weight, names in layers_of(model).items():
        for quantity in AVERAGED:
            expected = of_layer(by_name(model, moments[quantity]), names, 1).mean(axis=1)
            degree = DEGREES.get(quantity, 2)
            found = layers[weight][quantity]
            assert_close(found, expected, 2 * degree * TOLERANCE, largest**degree)
        averages = [of_layer(by_name(model, one), names, 2).mean(-1)[..., None] for one in draws]
        of_average = moments_of_draws(sigma, *averages)
        for j in (1, 2):
            expected = of_average[f"variance_{j}"][:, 0]
            found = layers[weight][f"average_variance_{j}"]
            assert_close(found, expected, 4 * TOLERANCE, largest**2)


def test_second_derivatives_vanish_in_the_last_layer_and_for_relu(network):
    model, samples, _ = network
    parameters, _ = conditional(derivatives(model, samples), Categorical())
    *inner, last = layers_of(model).values()
    flat = [name for names in inner for name in names] if "ReLU" in str(model) else []
    for name in [*last, *flat]:
        assert torch.all(parameters[name]["variance_2"] == 0)
        assert torch.all(parameters[name]["range_2"] == 0)
    assert any(torch.any(parameters[name]["variance_1"] > 0) for name in last)


def test_an_input_that_is_zero_leaves_nothing():
    model, samples = NETWORKS["sigmoid"], inputs(6)
    samples[:, 1] = 0
    parameters, _ = conditional(derivatives(model, samples), Categorical())
    over_inputs = streamed(model, samples, [6])[0]
    for quantity in (q for q in POWERS if "kurtosis" not in q):
        assert torch.all(parameters["0.weight"][quantity][:, :, 1] == 0), quantity
        assert torch.any(parameters["0.weight"][quantity][:, :, 0] != 0), quantity
    for quantity in (*AVERAGED, "input_variance", "range_1", "range_2"):
        assert np.all(over_inputs["0.weight"][quantity][:, 1] == 0), quantity


def test_fisher_is_the_curvature_of_the_kl_divergence():
    """|KL(p_θ ‖ p_θ+d) − ½ I d²| ≤ |d|³/6 max |KL'''|, one coordinate of θ after another.

    The third derivative along the step comes from autograd, its maximum from nine points of [0, d]
    with a tenth to spare. KL is a sum of three numbers below 10: known to 20 eps.
    """
    model, samples, step = NETWORKS["sigmoid"], inputs(3), 1e-3
    flat, log_p = of_flat_parameters(model, lambda outputs: outputs.log_softmax(0))

    def divergence(size, direction, sample):
        here, there = log_p(flat, sample), log_p(flat + size * direction, sample)
        return (here.exp() * (here - there)).sum()

    def everywhere(function, size):  # (samples, coordinates)
        over = vmap(vmap(function, (None, 0, None)), (None, None, 0))
        return over(size, torch.eye(len(flat)).double(), samples)

    parameters, _ = conditional(derivatives(model, samples), Categorical())
    fisher = torch.cat([parameters[name]["fisher"].reshape(3, -1) for name in parameters], dim=1)
    third = grad(grad(grad(divergence)))
    for sign in (-1, 1):
        steps = sign * torch.linspace(0, step, 9).double()
        largest = torch.stack([everywhere(third, size).abs() for size in steps]).amax(0)
        limit = 1.1 * step**3 / 6 * largest + 20 * EPS
        remainder = everywhere(divergence, steps[-1]) - fisher * step**2 / 2
        assert (remainder.abs() <= limit).all()
        # It is small beside what is tested.
        assert (limit < 0.01 * fisher * step**2 / 2).double().mean() > 0.9


# -------------------------------------------------------------------------------- population


def streamed(model, samples, sizes, order=None, as_numpy=True):
    """Parameters and layers of a `Population` fed with batches of the given sizes."""
    population = Population(Categorical(), tails=True)
    samples = samples if order is None else samples[order]
    for batch in samples.split(sizes):
        found = derivatives(model, batch)
        population.update(to_numpy(found) if as_numpy else found)
    return population.result()


def test_population_against_two_passes_over_all_inputs(network):
    """Means of the conditional moments, variance of I, and one draw of (x, c) by enumeration."""
    model, samples, (sigma, *draws) = network
    parameters, layers = streamed(model, samples, [4, 2])
    moments = moments_of_draws(sigma, *draws)
    expected = {quantity: moments[quantity].mean(0) for quantity in AVERAGED}
    expected["input_variance"] = moments["fisher"].var(0)
    largest = max(np.max(np.abs(one)) for one in draws)
    for quantity, flat in expected.items():
        degree = DEGREES.get(quantity, 2)
        for name, value in by_name(model, flat).items():
            found = parameters[name][quantity]
            assert_close(found, value, 2 * degree * TOLERANCE, largest**degree)
        for weight, names in layers_of(model).items():
            value = of_layer(by_name(model, flat), names, 0).mean()
            found = layers[weight][quantity]
            assert_close(found, value, 2 * degree * TOLERANCE, largest**degree)


def test_joint_draws_by_enumeration(network):
    """One pair (x, c) has probability σ_c(x)/n: Theorem 4.7's variance, the kurtosis, the range."""
    model, samples, (sigma, *draws) = network
    parameters, _ = streamed(model, samples, [3, 3])
    pairs = sigma.reshape(1, -1) / len(sigma)
    joint = moments_of_draws(pairs, *(one.reshape(1, pairs.size, -1) for one in draws))
    largest = max(np.max(np.abs(one)) for one in draws)
    for j in (1, 2):
        variance, kurtosis, reach = (
            by_name(model, joint[f"{q}_{j}"][0]) for q in ("variance", "excess_kurtosis", "range")
        )
        for name, found in parameters.items():
            total = found["input_variance"] + found[f"variance_{j}"]
            assert_close(total, variance[name], 4 * TOLERANCE, largest**2)
            assert np.all(reach[name] <= found[f"range_{j}"] * (1 + TOLERANCE))
            real = variance[name] > (1e-3 * largest) ** 2
            scale = largest**4 / variance[name][real] ** 2
            close = found[f"excess_kurtosis_{j}"][real], kurtosis[name][real]
            assert_close(*close, 8 * TOLERANCE, scale)


def test_bound_on_the_range_is_not_idle():
    """One input: the bound is the largest draw itself plus its mean, for every parameter."""
    model, samples = NETWORKS["sigmoid"], inputs(1)
    sigma, *draws = single_draws(model, samples)
    parameters, _ = streamed(model, samples, [1])
    for j, one in enumerate(draws, start=1):
        largest, mean = np.abs(one[0]).max(0), sigma[0] @ one[0]
        for name, value in by_name(model, largest + mean).items():
            assert_close(parameters[name][f"range_{j}"], value, 4 * TOLERANCE, np.max(largest))


@settings(max_examples=20)
@given(order=st.permutations(range(8)), sizes=st.lists(st.integers(1, 4), min_size=8, max_size=8))
def test_neither_the_batches_nor_the_order_matter(order, sizes):
    """Sums of 8 terms in another order: 100 roundings of the largest value that is added up."""
    model, samples = NETWORKS["softplus"], inputs(8)
    ends = np.minimum(np.cumsum(sizes), 8)
    sizes = [int(n) for n in np.diff(ends, prepend=0) if n]
    expected, of_layers = streamed(model, samples, [8])
    found, of_found_layers = streamed(model, samples, sizes, torch.tensor(order))
    per_input, _ = conditional(to_numpy(derivatives(model, samples)), Categorical())
    for name, quantities in expected.items():
        for quantity, value in quantities.items():
            if quantity in AVERAGED:
                scale = np.max(np.abs(per_input[name][quantity]))
            elif quantity == "input_variance":
                scale = np.max(per_input[name]["fisher"]) ** 2
            elif quantity.startswith("range"):
                scale = np.max(value)
            else:
                total = quantities["input_variance"] + quantities[f"variance_{quantity[-1]}"]
                scale = 1 + quantities[f"range_{quantity[-1]}"] ** 4 / total**2
            assert_close(found[name][quantity], value, 100 * EPS, scale)
    for weight, names in layers_of(model).items():
        for quantity in (*AVERAGED, "input_variance"):
            for layers, parameters in ((of_layers, expected), (of_found_layers, found)):
                everything = of_layer({n: parameters[n][quantity] for n in names}, names, 0)
                scale = np.max(np.abs(everything))
                assert_close(layers[weight][quantity], everything.mean(), 30 * EPS, scale)


def test_torch_and_numpy_streams_agree():
    model, samples = NETWORKS["sigmoid"], inputs(5)
    ours, theirs = (streamed(model, samples, [3, 2], as_numpy=kind)[0] for kind in (True, False))
    for name, quantities in ours.items():
        for quantity, value in quantities.items():
            assert isinstance(theirs[name][quantity], torch.Tensor)
            scale = max(np.max(np.abs(value)), np.max(quantities["range_1"]) ** 2)
            if quantity.startswith("excess_kurtosis"):
                total = quantities["input_variance"] + quantities[f"variance_{quantity[-1]}"]
                scale = 1 + quantities[f"range_{quantity[-1]}"] ** 4 / total**2
            assert_close(theirs[name][quantity], value, 100 * EPS, scale)


def test_an_empty_batch_adds_nothing():
    model, samples = NETWORKS["sigmoid"], inputs(4)
    found, expected = (streamed(model, samples, sizes)[0] for sizes in ([0, 2, 0, 2], [2, 2]))
    for name, quantities in expected.items():
        for quantity, value in quantities.items():
            assert np.array_equal(found[name][quantity], value)


def test_kurtosis_of_a_constant_is_zero_and_none_is_below_its_bound():
    """One input: Î2 of the last layer has no noise. Nearly constant draws: rounding, above −2."""
    parameters, _ = streamed(NETWORKS["sigmoid"], inputs(1), [1])
    assert np.all(parameters["4.weight"]["excess_kurtosis_2"] == 0)
    assert np.all(parameters["4.weight"]["excess_kurtosis_1"] != 0)
    for seed in range(20):
        s, a = 2**20 + np.random.default_rng(seed).integers(0, 8, size=(2, 40))
        population = Population(Categorical(), tails=True)
        population.update(two_label_factors(s, a))
        assert population.result()[0]["w"]["excess_kurtosis_1"][0, 0] >= -2


def test_no_inputs():
    with pytest.raises(UserError, match=r"^inputs: none"):
        Population(Categorical(), tails=True).result()


# Two labels, h = 0 and ∂h = (s, −s): I = s² a² for an input a. With s and a integers below 2²⁶ the
# factors s² and a² are exact, and so is the expected variance in rational arithmetic.


def two_label_factors(s, a):
    s, a = np.asarray(s, dtype=float), np.asarray(a, dtype=float)
    first = np.stack([s, -s], axis=1)[:, :, None]
    layer = AffineFactors("w", None, a[:, None], first, np.zeros_like(first))
    return Derivatives(np.zeros((len(s), 2)), (layer,))


def exact_variance(s, a):
    values = [Fraction(int(x) ** 2 * int(y) ** 2) for x, y in zip(s, a, strict=True)]
    mean = sum(values) / len(values)
    return mean, sum((value - mean) ** 2 for value in values) / len(values)


@pytest.mark.parametrize("which", ["left", "right", "both"])
def test_input_variance_of_an_almost_constant_information(which):
    """I varies by 1e-6 of itself: E[I²] − E[I]² would keep 4 digits of its variance, not 13."""
    rng = np.random.default_rng(5)
    s, a = 2**20 + rng.integers(0, 8, size=(2, 40))
    s = s if which != "right" else np.full(40, 2**20)
    a = a if which != "left" else np.full(40, 2**20)
    population = Population(Categorical(), tails=True)
    population.update(two_label_factors(s, a))
    _, expected = exact_variance(s, a)
    # Sums of 40 products of deviations, which are exact but for the rounding of their mean.
    assert_close(population.result()[0]["w"]["input_variance"][0, 0], float(expected), 100 * EPS)


def test_input_variance_of_an_almost_constant_information_in_batches():
    """Between batches, means known to a few eps I are subtracted: 8 eps I / sd, relatively."""
    rng = np.random.default_rng(6)
    s, a = 2**20 + rng.integers(0, 8, size=(2, 40))
    population = Population(Categorical(), tails=True)
    for k in range(0, 40, 4):
        population.update(two_label_factors(s[k : k + 4], a[k : k + 4]))
    mean, expected = exact_variance(s, a)
    relative = 8 * EPS * float(mean) / float(expected) ** 0.5
    assert relative < 1e-9
    found = population.result()[0]["w"]["input_variance"][0, 0]
    assert_close(found, float(expected), relative)


def test_input_variance_of_a_constant_information_is_zero():
    population = Population(Categorical(), tails=True)
    for _ in range(3):
        population.update(two_label_factors(np.full(7, 3.0), np.full(7, 5.0)))
    found = population.result()[0]["w"]
    assert (found["input_variance"], found["fisher"]) == (0.0, 225.0)


def test_input_variance_of_opposite_factors_is_rounding_and_never_negative():
    """I = s² a² is constant while its factors are not: what remains is eps of their variance."""
    a = np.random.default_rng(7).uniform(0.5, 2, size=200)
    population = Population(Categorical(), tails=True)
    population.update(two_label_factors(1 / a, a))
    found = population.result()[0]["w"]["input_variance"][0, 0]
    limit = 200 * EPS * np.mean(a**-2.0) ** 2 * np.var(a**2)
    assert 0 <= found <= limit


# ----------------------------------------------------------------------------------- running


def test_running_mean_and_variance():
    values = 1e6 + np.random.default_rng(8).normal(size=(50, 3, 2))
    running = Running()
    for value in values:
        running.update(value)
    # Welford's update is known to a few roundings of the offset at every step.
    assert_close(running.mean, values.mean(0), 50 * EPS)
    assert_close(running.variance, values.var(0, ddof=1), 50 * EPS * 1e6)
    assert running.count == 50


def test_running_variance_divides_by_one_less():
    running = Running()
    for value in (1.0, 2.0):
        running.update(np.array(value))
    assert running.variance == 0.5


def test_information_of_a_linear_map_by_hand():
    """h = W x: ∂h_c/∂W_cj = x_j, so that I(W_cj) = σ_c (1 − σ_c) x_j²."""
    model, samples = NETWORKS["linear"], inputs(6)
    parameters, _ = conditional(derivatives(model, samples), Categorical())
    with torch.no_grad():
        sigma = model(samples).softmax(1).numpy()
    for n in range(6):
        diagonal = np.diag(label_tensors(sigma[n])[0])
        expected = np.outer(diagonal, samples[n].numpy() ** 2)
        assert_close(parameters["0.weight"]["fisher"][n], expected, 20 * EPS)
        assert_close(parameters["0.bias"]["fisher"][n], diagonal, 20 * EPS)


def test_tiny_entries_keep_their_digits():
    """A rare input of tiny information beside common large ones: no cancellation against them.

    Entry (unit 0, column 1) is lit at one input, whose information is 1e-20 of that unit's usual.
    """
    s = np.array([1.0, 1.0, 1e-10, 2.0])
    a = np.array([[1.0, 0.0], [2.0, 0.0], [1.0, 3.0], [1.0, 0.0]])
    first = np.stack([s, -s], axis=1)[:, :, None]
    layer = AffineFactors("w", None, a, first, np.zeros_like(first))
    population = Population(Categorical())
    population.update(Derivatives(np.zeros((4, 2)), (layer,)))
    found = population.result()[0]["w"]
    values = np.array([0.0, 0.0, 9e-20, 0.0])
    assert_close(found["fisher"][0, 1], values.mean(), 10 * EPS)
    assert_close(found["input_variance"][0, 1], values.var(), 10 * EPS)
