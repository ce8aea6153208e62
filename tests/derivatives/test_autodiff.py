"""Derivatives of any module by automatic differentiation, against one full Hessian per output."""

import pytest
import torch
from reference import EPS, assert_close, chain, inputs
from torch import nn
from torch.nn import functional as F

from diagfim import reference
from diagfim.derivatives import autodiff
from diagfim.derivatives.autodiff import Autodiff
from diagfim.derivatives.dense import derivatives
from diagfim.derivatives.factored import split
from diagfim.errors import UserError

# Of the largest entry of a parameter tensor: both sides are sums over the paths of the network, of
# a few hundred roundings of 1.1e-16 each, in another order.
TOLERANCE = 1e-12


def of_outputs(at, directions=None):
    """∂h and ∂²h of every parameter, (n, K, entries), put together from the blocks."""
    if directions is None:
        n, size = at.outputs.shape
        directions = torch.eye(size, dtype=at.outputs.dtype).expand(n, size, size)
    first, second = {}, {}
    for block in at.pull(directions, directions):
        for found, left, right in (
            (first, block.first, block.inputs),
            (second, block.second, block.inputs**2),
        ):
            full = torch.einsum("nki,nj->nkij", left, right)
            for name, part in split(block.parameters, full).items():
                flat = part.flatten(2)
                found[name] = torch.cat([found[name], flat], dim=2) if name in found else flat
    return first, second


def assert_agrees(model, samples, memory=2**25, tolerance=TOLERANCE):
    network = Autodiff(model, samples[:2], memory)
    at = network.at(samples)
    outputs, *expected = reference.derivatives(model, samples)
    assert_close(at.outputs.detach(), outputs.detach(), tolerance)
    for found, wanted in zip(of_outputs(at), expected, strict=True):
        assert found.keys() == wanted.keys()
        largest = max(float(value.abs().max()) for value in wanted.values())
        for name, value in wanted.items():
            # Sums that vanish, such as those by the bias of the keys, leave roundings of the rest.
            scale = max(float(value.abs().max()), 100 * EPS * largest / tolerance)
            assert_close(found[name], value.flatten(2), tolerance, scale)
    return network


def random(model, seed=0):
    """In float64 and eval mode, at parameters and buffers that nothing is special about."""
    torch.manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.7 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return model


class Attention(nn.Module):
    """Self-attention as one writes it by hand."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(3, 2) for _ in range(3))
        self.read = nn.Linear(2, 3)

    def forward(self, x):
        scores = self.query(x) @ self.key(x).transpose(1, 2) / 2**0.5
        return self.read((scores.softmax(-1) @ self.value(x)).mean(1))


class Encoder(nn.Module):
    def __init__(self, activation="gelu"):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(
            4, 2, 5, dropout=0.1, activation=activation, batch_first=True
        )
        self.read = nn.Linear(4, 3)

    def forward(self, x):
        return self.read(self.encoder(x).mean(1))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x):
        return self.inner(torch.tanh(self.inner(x)))


class Aside(nn.Module):
    """The weight of a layer that is called once is used a second time, behind its back."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.outer = nn.Linear(3, 3)

    def forward(self, x):
        return self.outer(torch.tanh(self.inner(x))) @ self.inner.weight


class TiedEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 2)
        self.read = nn.Linear(2, 5)
        self.read.weight = self.embedding.weight

    def forward(self, x):
        return self.read(torch.tanh(self.embedding(x)).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrent = nn.GRU(2, 2, batch_first=True)
        self.read = nn.Linear(2, 2)

    def forward(self, x):
        return self.read(self.recurrent(x)[0][:, -1])


class Sum(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) + x


def images(*modules):
    return nn.Sequential(nn.Conv2d(1, 4, 2), *modules, nn.Flatten(), nn.Linear(4, 3)), (1, 3, 3)


def vectors(*modules):
    return nn.Sequential(nn.Linear(3, 4), *modules, nn.Linear(4, 3)), (3,)


# Name: the network and the shape of an input, and the layers that are differentiated by offsets.
NETWORKS = {
    "convolution": (*images(nn.Tanh(), nn.AvgPool2d(2)), ["4."]),
    "strides and groups": (
        nn.Sequential(
            nn.Conv2d(2, 4, 2, stride=2, padding=1, groups=2), nn.Softplus(), nn.Flatten()
        ),
        (2, 2, 2),
        [],
    ),
    "max-pooling": (*images(nn.SiLU(), nn.MaxPool2d(2)), ["4."]),
    "batch-norm": (*images(nn.BatchNorm2d(4), nn.Tanh(), nn.MaxPool2d(2)), ["5."]),
    "group-norm": (*images(nn.GroupNorm(2, 4), nn.GELU(), nn.AvgPool2d(2)), ["5."]),
    "layer-norm": (*vectors(nn.LayerNorm(4), nn.GELU()), ["0.", "3."]),
    "layer-norm, bare": (
        *vectors(nn.LayerNorm(4, elementwise_affine=False), nn.SiLU()),
        ["0.", "3."],
    ),
    "residual": (
        nn.Sequential(Sum(nn.Sequential(nn.Linear(3, 3), nn.Mish()))),
        (3,),
        ["0.inner.0."],
    ),
    "gated": (nn.Sequential(nn.Linear(3, 8), nn.GLU(), nn.Linear(4, 3)), (3,), ["0.", "2."]),
    "softmax": (*vectors(nn.Softmax(-1)), ["0.", "2."]),
    "no bias": (nn.Sequential(nn.Linear(3, 2, bias=False), nn.Tanh()), (3,), ["0."]),
    "attention": (Attention(), (2, 3), ["read."]),
    "transformer": (Encoder(), (2, 4), ["read."]),
    "used twice": (Twice(), (3,), []),
    "used aside": (Aside(), (3,), ["outer."]),
    "tied embedding": (TiedEmbedding(), None, []),
    "bilinear": (nn.Sequential(Sum(nn.Tanh()), nn.Linear(3, 2)), (3,), ["1."]),
    "recurrent": (Recurrent(), (2, 2), ["read."]),
}


def network(name):
    model, shape, offsets = NETWORKS[name]
    samples = inputs(3, *shape) if shape else torch.tensor([[0, 1], [2, 4], [3, 3]])
    return random(model), samples, offsets


# ------------------------------------------------------------------------------------ values


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_of_every_sample(name):
    model, samples, offsets = network(name)
    found = assert_agrees(model, samples)
    assert [offset.prefix for offset in found.offsets] == offsets
    assert found.plain == (name == "recurrent")


def test_dense_chains_as_by_the_recursion():
    model, samples = chain(nn.Sigmoid, 4), inputs(5)
    network = Autodiff(model, samples[:2])
    expected = derivatives(model, samples)
    every = torch.eye(3, dtype=torch.float64).expand(5, 3, 3)
    blocks = list(network.at(samples).pull(every, every))
    assert [block.parameters for block in blocks] == [one.parameters for one in expected.layers]
    for block, layer in zip(blocks, expected.layers, strict=True):
        for field in ("inputs", "first", "second"):
            assert_close(getattr(block, field).detach(), getattr(layer, field).detach(), TOLERANCE)


def test_other_directions_for_first_and_second():
    model, samples, _ = network("layer-norm")
    at = Autodiff(model, samples).at(samples)
    along, bent = inputs(3, 2, 3, seed=4), inputs(3, 1, 3, seed=5)
    _, first, second = reference.derivatives(model, samples)
    blocks = {block.weight: block for block in at.pull(along, bent)}
    for name in ("1.weight", "1.bias"):
        expected = torch.einsum("nkt,nt...->nk...", along, first[name])
        assert_close(blocks[name].first.detach(), expected, TOLERANCE)
        expected = torch.einsum("nkt,nt...->nk...", bent, second[name])
        assert_close(blocks[name].second.detach(), expected, TOLERANCE)
    assert all(block.second is None for block in at.pull(along, None))


def test_float32():
    """A few hundred roundings of 6e-8, where ∂²h is ten times as large as the outputs."""
    model, samples, _ = network("layer-norm")
    _, *expected = reference.derivatives(model, samples)
    found = of_outputs(Autodiff(model.float(), samples.float()).at(samples.float()))
    for ours, theirs in zip(found, expected, strict=True):
        for name, value in theirs.items():
            assert ours[name].dtype == torch.float32
            assert_close(ours[name], value.flatten(2), 1e-4)


@pytest.mark.parametrize("name", ["convolution", "transformer", "layer-norm"])
def test_memory_decides_how_much_at_a_time_and_nothing_else(name):
    model, samples, _ = network(name)
    small = assert_agrees(model, samples, memory=2000)
    large = assert_agrees(model, samples)
    assert small.batch_size < large.batch_size
    assert small.part < large.part
    assert small.chunk(3, 4) < large.chunk(3, 4)
    blocks = [
        {block.weight: block.first.shape[2] for block in one.at(samples).pull(along, None)}
        for one in (small, large)
        for along in [torch.ones(3, 1, 3, dtype=torch.float64)]
    ]
    assert max(blocks[0].values()) <= max(blocks[1].values())


def test_parts_of_a_parameter_are_the_same_for_every_batch():
    model, samples, _ = network("convolution")
    small = Autodiff(model, samples[:2], memory=2000)
    starts = [
        [(block.weight, block.start) for block in small.at(some).pull(along, None)]
        for some in (samples[:1], samples)
        for along in [torch.ones(len(some), 1, 3, dtype=torch.float64)]
    ]
    assert starts[0] == starts[1]
    assert len({start for _, start in starts[0]}) > 1


def test_frozen_parameters_have_no_block():
    model, samples, _ = network("layer-norm")
    model[1].weight.requires_grad_(False)
    model[0].bias.requires_grad_(False)
    found = assert_agrees(model, samples)
    assert found.wanted == ["0.weight", "1.bias", "3.weight", "3.bias"]
    assert [offset.prefix for offset in found.offsets] == ["3."]


# ------------------------------------------------- what must not be believed without a look


def test_a_wrong_forward_derivative_is_found_out(monkeypatch):
    """PyTorch's own second forward derivative of layer-norm is wrong; reverse mode is not."""
    model, samples, _ = network("layer-norm")
    formulas = dict(autodiff._SpelledOut.FORMULAS)
    del formulas[F.layer_norm]
    monkeypatch.setattr(autodiff._SpelledOut, "FORMULAS", formulas)
    assert assert_agrees(model, samples).plain


def test_a_missing_forward_derivative_is_done_without(monkeypatch):
    model, samples, _ = network("residual")
    monkeypatch.setattr(autodiff._SpelledOut, "FORMULAS", {})
    assert assert_agrees(model, samples).plain


@pytest.mark.parametrize("function", [F.silu, F.mish, F.hardsigmoid])
def test_spelled_out_activations_are_what_they_replace(function):
    x = torch.linspace(-30, 30, 601, dtype=torch.float64)
    assert_close(autodiff._SpelledOut.FORMULAS[function](x), function(x), 1e-15)


def test_spelled_out_functions_of_several_values_are_what_they_replace():
    x, weight, bias = inputs(5, 2, 4), inputs(2, 4, seed=2), inputs(2, 4, seed=3)
    formulas = autodiff._SpelledOut.FORMULAS
    for arguments in (((2, 4), weight, bias, 1e-3), ((2, 4),), ((4,), weight[0])):
        assert_close(formulas[F.layer_norm](x, *arguments), F.layer_norm(x, *arguments), 1e-15)
    for dim in (-1, 1):
        assert_close(formulas[F.glu](x, dim), F.glu(x, dim), 1e-15)


def test_nothing_is_left_behind():
    model, samples, _ = network("transformer")
    fast = torch.backends.mha.get_fastpath_enabled()
    at = Autodiff(model, samples).at(samples)
    of_outputs(at)
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


# ---------------------------------------------------------------------------------- forecast


def test_forecast_grows_with_the_number_of_passes():
    """A hundred times the units: at least five times as long, however noisy the machine."""
    samples = inputs(4)
    few, many = (
        Autodiff(random(nn.Sequential(nn.Linear(3, units), nn.LayerNorm(units))), samples, 20_000)
        for units in (4, 400)
    )
    assert few.seconds(samples) > 0
    assert many.seconds(samples) > 5 * few.seconds(samples)
    assert many.seconds(samples) > 2 * many.seconds(samples, curved=False)


# ------------------------------------------------------------------------------------ errors


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x):
        return self.inner(x + torch.rand_like(x))


class Mixing(Noisy):
    def forward(self, x):
        return self.inner(x - x.mean(0))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).train(), "1: Dropout in training mode"),
        (nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).train(), "0: BatchNorm1d in training"),
        (Noisy(), "model: two passes over the same inputs differ"),
        (Mixing(), "model: the outputs of an input depend on the other inputs of its batch"),
    ],
)
def test_networks_without_a_fisher_information_per_input(model, message):
    with pytest.raises(UserError, match=message):
        Autodiff(model.double(), inputs(4))
