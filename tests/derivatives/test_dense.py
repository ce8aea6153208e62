"""First and second derivatives of dense chains against autograd through the whole network."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import ACTIVATIONS, assert_close, by_autograd, by_name, chain, inputs
from torch import nn

from diagfim.derivatives.dense import ELEMENTWISE, derivatives
from diagfim.errors import UserError

# Of the largest entry of a parameter tensor. A derivative is a sum over the paths of the network,
# each of fewer than 30 roundings: an error of at most 30 · 1.1e-16 = 3e-15 of the sum of their
# absolute values, which may be 300 times the largest entry.
TOLERANCE = 1e-12


def expanded(model, samples):
    """Outputs, and by parameter name ∂h and ∂²h as arrays (n, T, *shape), from the factors."""
    found = derivatives(model, samples)
    first, second = {}, {}
    for layer in found.layers:
        first |= layer.layout.split(torch.einsum("nti,nj->ntij", layer.first, layer.inputs))
        squares = torch.einsum("nti,nj->ntij", layer.second, layer.inputs**2)
        second |= layer.layout.split(squares)
    return found.outputs, first, second


def assert_agrees_with_autograd(model, samples):
    outputs, *found = expanded(model, samples)
    with torch.no_grad():
        assert_close(outputs, model(samples), TOLERANCE)
    for ours, flat in zip(found, by_autograd(model, samples), strict=True):
        expected = by_name(model, flat)
        assert ours.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(ours[name], value, TOLERANCE)


# ------------------------------------------------------------------------------------ values


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("activation", ELEMENTWISE)
def test_every_parameter_of_every_sample(activation, depth, bias):
    assert_agrees_with_autograd(chain(activation, depth, bias), inputs(3))


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_of_the_outputs(activation, depth):
    assert_agrees_with_autograd(nn.Sequential(*chain(nn.Tanh, depth), activation()), inputs(3))


@pytest.mark.parametrize(
    "activation",
    [
        nn.GELU(approximate="tanh"),
        nn.Softplus(beta=3, threshold=1),
        nn.LeakyReLU(0.3),
        nn.ELU(0.5),
        nn.Sequential(nn.Tanh(), nn.Identity(), nn.Softplus()),
    ],
    ids=repr,
)
def test_options_and_compositions_of_activations(activation):
    model = chain(nn.Tanh, 3)
    assert_agrees_with_autograd(nn.Sequential(*model[:3], activation, model[4]), inputs(3))


def test_two_affine_maps_in_a_row():
    assert_agrees_with_autograd(
        nn.Sequential(*chain(nn.Tanh, 3)[:3], nn.Linear(2, 3).double()), inputs(3)
    )


def test_some_maps_with_a_bias():
    model = chain(nn.Sigmoid, 3)
    model[2].register_parameter("bias", None)
    assert_agrees_with_autograd(model, inputs(3))


def test_single_linear():
    model = chain(nn.Identity, 1)[0]
    assert_agrees_with_autograd(model, inputs(3))
    assert [layer.parameters for layer in derivatives(model, inputs(3)).layers] == [
        ("weight", "bias")
    ]


def test_nested_sequential_with_flatten_and_dropout():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(4, 3), nn.Softplus(), nn.Dropout(0.5))
    model = nn.Sequential(nn.Flatten(), nn.Identity(), block, nn.Sequential(nn.Linear(3, 2)))
    model = model.double().eval()
    assert_agrees_with_autograd(model, inputs(3, 2, 2))
    names = [
        name for layer in derivatives(model, inputs(3, 2, 2)).layers for name in layer.parameters
    ]
    assert names == [name for name, _ in model.named_parameters()]


def test_dropout_that_drops_nothing_may_be_in_training_mode():
    model = nn.Sequential(chain(nn.Tanh, 1)[0], nn.Tanh(), nn.Dropout(0.0)).train()
    assert_agrees_with_autograd(model, inputs(3))


def test_activations_that_work_in_place():
    model = chain(nn.Tanh, 3)
    assert_agrees_with_autograd(
        nn.Sequential(*model[:3], nn.Identity(), nn.LeakyReLU(0.3, inplace=True), model[4]),
        inputs(3),
    )


def test_a_weight_that_is_computed_is_refused_by_name():
    model = chain(nn.Tanh, 2)
    del model[0]._parameters["weight"]
    model[0].weight = torch.ones(4, 3, dtype=torch.float64)
    with pytest.raises(UserError, match=r"^0\.weight: is computed from other parameters"):
        derivatives(model, inputs(3))


def test_one_module_as_several_activations():
    activation = nn.Tanh()
    assert_agrees_with_autograd(chain(lambda: activation, 3), inputs(3))


@settings(max_examples=25)
@given(
    widths=st.lists(st.integers(1, 4), min_size=2, max_size=5),
    kinds=st.lists(st.sampled_from(ELEMENTWISE), min_size=4, max_size=4),
    seed=st.integers(0, 2**16),
)
def test_any_widths_and_any_mix_of_activations(widths, kinds, seed):
    torch.manual_seed(seed)
    modules = []
    for fan_in, units, kind in zip(widths[:-1], widths[1:], kinds, strict=False):
        modules += [nn.Linear(fan_in, units), kind()]
    samples = inputs(2, widths[0], seed=seed)
    assert_agrees_with_autograd(nn.Sequential(*modules).double(), samples)


def test_samples_do_not_mix():
    model, samples = chain(nn.Sigmoid, 3), inputs(4)
    together = derivatives(model, samples).layers
    for k in range(4):
        alone = derivatives(model, samples[k : k + 1]).layers
        for one, all_ in zip(alone, together, strict=True):
            assert_close(one.first[0], all_.first[k], TOLERANCE)
            assert_close(one.second[0], all_.second[k], TOLERANCE)


def test_float32_up_to_its_rounding():
    """The only inexact factor of ∂h/∂z = W φ'(z) in a net of two maps is φ' at a rounded z.

    With u = 2⁻²⁴, a sum of k terms has an error of at most k u Σ|terms|, and |φ''| ≤ 0.77 and
    |φ'''| ≤ 2 for tanh. Autograd's φ' and φ'', and the product by W, are fewer than 16 roundings of
    numbers up to 1.
    """
    model, samples = chain(nn.Tanh, 2).float(), inputs(50).float()
    single, double = derivatives(model, samples), derivatives(model.double(), samples.double())
    u = 2.0**-24
    weight, bias, above = model[0].weight, model[0].bias, model[2].weight
    error_of_z = 5 * u * (samples.double().abs() @ weight.abs().T + bias.abs())[:, None, :]
    for order, bend in (("first", 0.77), ("second", 2.0)):
        found, exact = getattr(single.layers[0], order), getattr(double.layers[0], order)
        assert found.dtype == torch.float32
        limit = above.abs() * (bend * error_of_z + 16 * u)
        assert ((found - exact).abs() <= limit).all()
        assert ((found - exact).abs() > 0).any()
    assert single.outputs.dtype == single.layers[0].inputs.dtype == torch.float32


def test_result_carries_no_graph_and_leaves_the_model_alone():
    model = chain(nn.Tanh, 2)
    found = derivatives(model, inputs(2).requires_grad_())
    tensors = [
        found.outputs,
        *(v for one in found.layers for v in (one.inputs, one.first, one.second)),
    ]
    assert not any(tensor.requires_grad for tensor in tensors)
    assert all(parameter.grad is None for parameter in model.parameters())


# ---------------------------------------------------------------------------------- refusals


class Residual(nn.Sequential):
    def forward(self, values):
        return values + super().forward(values)


class Doubled(nn.Linear):
    def forward(self, values):
        return 2 * super().forward(values)


class Cumulated(nn.Tanh):
    def forward(self, values):
        return super().forward(values).cumsum(-1)


def tied(what):
    """Two affine maps that share a parameter tensor."""
    below, above = nn.Linear(3, 3), nn.Linear(3, 3)
    setattr(above, what, getattr(below, what))
    return nn.Sequential(below, nn.Tanh(), above)


def one_linear_twice():
    linear = nn.Linear(3, 3)
    return nn.Sequential(linear, nn.Tanh(), linear)


REFUSED = {
    "convolution": (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2)), "0: Conv2d"),
    "layer norm": (
        nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2)),
        "1: LayerNorm",
    ),
    "softmax": (
        nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Tanh(), nn.Softmax(1)), nn.Linear(3, 2)),
        "1.1: Softmax",
    ),
    "dropout in training": (
        nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Dropout(0.2)), nn.Linear(3, 2)),
        "1.0: dropout",
    ),
    "own forward": (nn.Sequential(nn.Linear(3, 3), Residual(nn.Linear(3, 3))), "1: Residual"),
    "model with own forward": (Residual(nn.Linear(3, 3)), "model: Residual"),
    "linear with own forward": (nn.Sequential(Doubled(3, 2)), "0: Doubled"),
    "activation with own forward": (nn.Sequential(nn.Linear(3, 2), Cumulated()), "1: Cumulated"),
    "weight norm": (
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))),
        "0: ParametrizedLinear",
    ),
    "activation first": (nn.Sequential(nn.Tanh(), nn.Linear(3, 2)), "0: Tanh"),
    "flatten after a linear": (nn.Sequential(nn.Linear(3, 2), nn.Flatten()), "1: Flatten"),
    "no linear": (nn.Sequential(nn.Flatten()), "model: no Linear"),
    "width": (
        nn.Sequential(nn.Identity(), nn.Linear(5, 2)),
        "inputs: 3 values a sample, but 1.weight",
    ),
    "one linear twice": (one_linear_twice(), "2.weight: used twice"),
    "tied weight": (tied("weight"), "2.weight: used twice"),
    "tied bias": (tied("bias"), "2.bias: used twice"),
}


@pytest.mark.parametrize(("model", "culprit"), REFUSED.values(), ids=REFUSED.keys())
def test_refusal_names_the_module_in_one_line(model, culprit):
    with pytest.raises(UserError, match=f"^{re.escape(culprit)}") as refusal:
        derivatives(model.double().train(), inputs(2))
    assert "\n" not in str(refusal.value)


def test_inputs_without_a_sample_axis():
    with pytest.raises(UserError, match=r"^inputs: "):
        derivatives(chain(nn.Tanh, 2), inputs(1)[0])


def test_reference_is_not_linear():
    """The comparison above would pass for want of curvature if the networks did not bend."""
    for activation in ACTIVATIONS:
        _, second = by_autograd(chain(activation, 3), inputs(3))
        assert np.any(second != 0) == (activation not in (nn.ReLU, nn.LeakyReLU))
