"""Derivatives of any module by automatic differentiation, against one full Hessian per output."""

import re

import pytest
import torch
import torch.nn.utils.prune
from reference import EPS, assert_close, chain, inputs
from torch import nn
from torch.nn import functional as F

from diagfim import reference
from diagfim.derivatives import autodiff
from diagfim.derivatives.autodiff import Autodiff
from diagfim.derivatives.dense import derivatives
from diagfim.errors import UserError

# Of the largest entry of a parameter tensor: both sides are sums over the paths of the network, of
# a few hundred roundings of 1.1e-16 each, in another order.
TOLERANCE = 1e-12


def of_outputs(at, along=None, bent=None):
    """∂h and ∂²h of every parameter, (n, K, entries), put together from the blocks."""
    n, size = at.outputs.shape
    every = torch.eye(size, dtype=at.outputs.dtype).expand(n, size, size)
    first, second = {}, {}
    for block in at.pull(every if along is None else along, every if bent is None else bent):
        for found, left, right in (
            (first, block.first, block.inputs),
            (second, block.second, block.inputs**2),
        ):
            full = torch.einsum("nki,nj->nkij", left, right)
            for name, part in block.layout.split(full).items():
                flat = part.flatten(2)
                if block.start:
                    assert found[name].shape[2] == block.start
                    flat = torch.cat([found[name], flat], dim=2)
                found[name] = flat
    return first, second


def flat(values):
    """(n, K, *shape) to (n, K, entries), for parameters of any number of axes, none included."""
    return {name: value.detach().reshape(*value.shape[:2], -1) for name, value in values.items()}


def assert_agrees(model, samples, memory=2**25, tolerance=TOLERANCE):
    network = Autodiff(model, samples[:2], memory)
    at = network.at(samples)
    outputs, *expected = reference.derivatives(model, samples)
    assert_close(at.outputs.detach(), outputs.detach(), tolerance)
    for found, wanted in zip(of_outputs(at), map(flat, expected), strict=True):
        assert list(found) == list(wanted)
        largest = max(float(value.abs().max()) for value in wanted.values())
        for name, value in wanted.items():
            # Sums that vanish, such as those by the bias of the keys, leave roundings of the rest.
            scale = max(float(value.abs().max()), 100 * EPS * largest / tolerance)
            assert_close(found[name], value, tolerance, scale)
    return network


def assert_agrees_with_differences(model, samples):
    """Central differences of step 1e-3, for what PyTorch itself does not differentiate rightly.

    Of relative errors below 1e-5: 1e-6 / 12 times the fourth derivative, and roundings by 1e6.
    """
    network = Autodiff(model, samples[:2])
    first, second = of_outputs(network.at(samples))
    step = 1e-3
    for name, parameter in model.named_parameters():
        values, slopes, bends = parameter.data.view(-1), [], []
        for index, old in enumerate(values.tolist()):
            ways = []
            for shift in (-step, 0.0, step):
                values[index] = old + shift
                ways.append(model(samples).detach())
            values[index] = old
            low, here, high = ways
            slopes.append((high - low) / (2 * step))
            bends.append((high - 2 * here + low) / step**2)
        assert_close(first[name], torch.stack(slopes, 2), 1e-5)
        assert_close(second[name], torch.stack(bends, 2), 1e-5, max(1.0, bends[0].abs().max()))
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


class AsideAtLargeInputs(Aside):
    """No small input shows it."""

    def forward(self, x):
        return self.outer(torch.tanh(self.inner(x))) + torch.relu(x - 9).sin() @ self.inner.weight


class TiedEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 2)
        self.read = nn.Linear(2, 5)
        self.read.weight = self.embedding.weight

    def forward(self, x):
        return self.read(torch.tanh(self.embedding(x)).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.recurrent = kind(2, 2, batch_first=True)
        self.read = nn.Linear(2, 2)

    def forward(self, x):
        return self.read(self.recurrent(x)[0][:, -1])


class MultiHead(nn.Module):
    """Causal attention of several heads by PyTorch's own module."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.read = nn.Linear(4, 3)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]).to(x)
        return self.read(self.attention(x, x, x, attn_mask=mask, need_weights=False)[0].mean(1))


class Tokens(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.embedding = nn.Embedding(5, 3, **options)
        self.read = nn.Linear(3, 2)

    def forward(self, x):
        return self.read(torch.tanh(self.embedding(x)).prod(1))


class Bag(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.bag = nn.EmbeddingBag(5, 3, mode=mode, sparse=True)
        self.read = nn.Linear(3, 2)

    def forward(self, x):
        return self.read(torch.tanh(self.bag(x)))


class Tempered(nn.Module):
    """A number for a parameter, a layer that is never called and one that is called by name."""

    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))
        self.idle = nn.Linear(3, 2)
        self.inner = nn.Linear(3, 2)

    def forward(self, x):
        return torch.tanh(self.inner(input=x) * self.temperature)


class TiedToIdle(nn.Module):
    """A layer that owns its weight but for a module that is never called."""

    def __init__(self):
        super().__init__()
        self.idle, self.inner = nn.Linear(3, 3), nn.Linear(3, 3)
        self.inner.weight = self.idle.weight

    def forward(self, x):
        return torch.tanh(self.inner(x))


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 4), nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        hidden = torch.zeros(len(x), 4, dtype=x.dtype)
        hidden[:] = torch.tanh(self.inner(x))
        hidden *= self.scale
        return self.outer(torch.tanh(hidden))


class Branching(InPlace):
    """Decides by the values, without which batching does not do."""

    def forward(self, x):
        hidden = self.inner(x)
        return self.outer(torch.tanh(hidden * self.scale) if hidden.abs().max() < 99 else hidden)


class Hooked(nn.Module):
    """A hook changes what a layer gives after the layer has given it."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 4), nn.Linear(4, 2)
        self.inner.register_forward_hook(lambda module, arguments, result: 2 * result)

    def forward(self, x):
        return self.outer(torch.tanh(self.inner(x)))


class Sine(torch.autograd.Function):
    """As one wrote functions before `torch.func`: neither batching nor forward mode know it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0].cos()


class OnceOnly(Sine):
    backward = staticmethod(torch.autograd.function.once_differentiable(Sine.backward))


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Distances(nn.Module):
    """Differences from some points, by an operation of which PyTorch batches reverse mode wrong."""

    def __init__(self):
        super().__init__()
        self.inner, self.points = nn.Linear(3, 2), nn.Parameter(torch.ones(3, 2))

    def forward(self, x):
        return torch.cdist(torch.tanh(self.inner(x))[:, None], self.points[None])[:, 0]


class Sum(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) + x


def pruned():
    layer = nn.Linear(3, 4)
    torch.nn.utils.prune.l1_unstructured(layer, "weight", 0.3)
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 2))


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
    "instance-norm": (
        *images(nn.InstanceNorm2d(4, affine=True), nn.Tanh(), nn.AvgPool2d(2)),
        ["5."],
    ),
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
    "recurrent": (Recurrent(nn.LSTM), (2, 2), ["read."]),
    "gated recurrent": (Recurrent(nn.GRU), (2, 2), ["read."]),
    "heads": (MultiHead(), (2, 4), ["read."]),
    "prelu": (*vectors(nn.PReLU(4), nn.Tanh()), ["0.", "3."]),
    "tokens": (Tokens(), None, ["read."]),
    "padding in the example": (Tokens(padding_idx=1), None, ["read."]),
    "padding later": (Tokens(padding_idx=-2), None, ["read."]),
    "temperature": (Tempered(), (3,), []),
    "tied to an idle layer": (TiedToIdle(), (3,), []),
    "pruned": (pruned(), (3,), ["2."]),
    "spectral norm": (
        nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2)), nn.Tanh()),
        (3,),
        [],
    ),
    "in place": (InPlace(), (3,), ["inner.", "outer."]),
    "branching": (Branching(), (3,), ["inner.", "outer."]),
    "hooked": (Hooked(), (3,), ["outer."]),
}

# Those that no batching rule is for, so that inputs or coordinates are taken one by one.
LOOPED = {"recurrent", "gated recurrent", "in place", "branching"}


def network(name):
    model, shape, offsets = NETWORKS[name]
    samples = inputs(3, *shape) if shape else torch.tensor([[0, 1], [2, 4], [3, 3]])
    return random(model.requires_grad_()), samples, offsets


# ------------------------------------------------------------------------------------ values


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_of_every_sample(name):
    model, samples, offsets = network(name)
    found = assert_agrees(model, samples)
    assert [offset.prefix for offset in found.offsets] == offsets
    assert not found.plain
    assert bool(found.looped_first | found.looped_second) == (name in LOOPED)


def test_second_use_that_the_example_does_not_show():
    model, samples = random(AsideAtLargeInputs()), inputs(3, 3)
    samples[2] += 10
    assert [one.prefix for one in assert_agrees(model, samples).offsets] == ["outer."]


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bags_of_embeddings(mode):
    samples = network("tokens")[1]
    assert not assert_agrees_with_differences(random(Bag(mode)), samples).looped_first


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm(dim):
    """PyTorch's second reverse derivative of its own operation is wrong, so no reference here."""
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2), dim=dim)
    found = assert_agrees_with_differences(random(nn.Sequential(layer, nn.Tanh())), inputs(3, 3))
    assert not found.plain


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


@pytest.mark.parametrize("name", ["layer-norm", "branching", "used aside"])
def test_other_directions_for_first_and_second(name):
    model, samples, _ = network(name)
    at = Autodiff(model, samples[:2]).at(samples)
    size = at.outputs.shape[1]
    along, bent = inputs(3, 4, size, seed=4), inputs(3, 1, size, seed=5)
    _, *expected = reference.derivatives(model, samples)
    for found, wanted, directions in zip(
        of_outputs(at, along, bent), map(flat, expected), (along, bent), strict=True
    ):
        for name, value in wanted.items():
            assert_close(found[name], directions @ value, TOLERANCE)
    assert all(block.second is None for block in at.pull(along, None))


def test_inputs_one_by_one_or_together():
    model, samples, _ = network("transformer")
    engine = Autodiff(model, samples[:2])
    together = of_outputs(engine.at(samples))
    for k in range(3):
        for alone, every in zip(of_outputs(engine.at(samples[k : k + 1])), together, strict=True):
            for name, value in every.items():
                scale = max(float(one.abs().max()) for one in every.values())
                assert_close(alone[name][0], value[k], TOLERANCE, scale)


def test_float32():
    """A few hundred roundings of 6e-8, where ∂²h is ten times as large as the outputs."""
    model, samples, _ = network("layer-norm")
    _, *expected = reference.derivatives(model, samples)
    found = of_outputs(Autodiff(model.float(), samples.float()).at(samples.float()))
    for ours, theirs in zip(found, expected, strict=True):
        for name, value in theirs.items():
            assert ours[name].dtype == torch.float32
            assert_close(ours[name], value.flatten(2), 1e-4)


@pytest.mark.parametrize("name", ["convolution", "attention"])
def test_keeps_within_the_memory(name):
    """All that is held at one time, as followed by the allocations of every operation."""
    model, samples, _ = network(name)
    memory = 200_000
    engine = Autodiff(model, samples[:2], memory)
    many = samples[:1].expand(engine.batch_size, *samples.shape[1:])
    at = engine.at(many)
    every = torch.eye(3, dtype=torch.float64).expand(len(many), 3, 3)
    with autodiff._Watch() as watch:
        for block in at.pull(every, every):
            del block
    assert 0.1 * memory < watch.peak * 8 < 1.2 * memory


@pytest.mark.parametrize("name", ["convolution", "attention", "layer-norm", "gated recurrent"])
def test_memory_decides_how_much_at_a_time_and_nothing_else(name):
    model, samples, _ = network(name)
    small = assert_agrees(model, samples, memory=1000)
    large = assert_agrees(model, samples)
    assert small.batch_size < large.batch_size
    assert small.part < large.part
    assert small.chunk(3, 4) == 1 < large.chunk(3, 4)
    assert small.group(3, 16) == 1 < large.group(3, 16)


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
    model, samples, _ = network("gated")
    monkeypatch.setattr(autodiff._SpelledOut, "FORMULAS", {})
    assert assert_agrees(model, samples).plain


def test_functions_with_a_backward_only():
    model = random(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2), Applied(Sine.apply)))
    found = assert_agrees_with_differences(model, inputs(3, 3))
    assert found.plain
    assert found.looped_first == {"0.weight", "0.bias", "1."}


def test_a_wrong_batching_rule_is_found_out():
    """PyTorch mixes up the directions of `cdist` when several go back together."""
    assert (
        "points" in assert_agrees_with_differences(random(Distances()), inputs(3, 3)).looped_first
    )


def test_a_wrong_batching_rule_for_second_derivatives_is_found_out(monkeypatch):
    model, samples, _ = network("layer-norm")
    monkeypatch.setattr(autodiff, "vmap", lambda function, **axes: wrong(function, **axes))

    def wrong(function, **axes):
        return lambda *values: 1.1 * torch.func.vmap(function, **axes)(*values)

    found = Autodiff(model, samples)
    assert found.looped_second == found.looped_first == {"0.", "3.", "1.weight", "1.bias"}


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
    for weights in (weight[0, :1], weight[:, 0]):
        assert_close(formulas[F.prelu](x, weights), F.prelu(x, weights), 1e-15)
    assert_close(
        formulas[F.prelu](x[:, 0, 0], weight[0, :1]), F.prelu(x[:, 0, 0], weight[0, :1]), 0
    )
    for dim in (0, 1, -1):
        norm = torch.norm_except_dim(weight, 2, dim)
        expected = torch._weight_norm(weight, 2 * norm, dim)
        assert_close(formulas[torch._weight_norm](weight, 2 * norm, dim), expected, 1e-15)
    for arguments in (
        (),
        (None, None, weight[:, 0], bias[:, 0]),
        (weight[:, 0], weight[:, 1].exp()),
    ):
        options = {"use_input_stats": len(arguments) != 2, "eps": 1e-3}
        expected = F.instance_norm(x, *arguments, **options)
        assert_close(formulas[F.instance_norm](x, *arguments, **options), expected, 1e-14)
    tokens, table = torch.tensor([[0, 3], [2, 1]]), inputs(4, 3)
    assert_close(formulas[F.embedding](tokens, table, 1), F.embedding(tokens, table, 1), 0)
    for options in (
        {},
        {"mode": "sum", "per_sample_weights": inputs(2, 2)},
        {"mode": "max"},
        {"padding_idx": 3},
    ):
        expected = F.embedding_bag(tokens, table, **options)
        assert_close(formulas[F.embedding_bag](tokens, table, **options), expected, 1e-15)
    expected = F.embedding_bag(tokens[0], table, torch.tensor([0, 1]))
    assert_close(formulas[F.embedding_bag](tokens[0], table, torch.tensor([0, 1])), expected, 0)


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
        Autodiff(random(nn.Sequential(nn.Linear(3, units), nn.LayerNorm(units))), samples, 2**20)
        for units in (4, 400)
    )
    assert few.seconds(samples) > 0
    assert many.seconds(samples) > 5 * few.seconds(samples)
    assert many.seconds(samples) > 2 * many.seconds(samples, curved=False)


@pytest.mark.parametrize("function", [Sine.apply, torch.tanh])
def test_forecast_takes_a_moment(monkeypatch, function):
    """Of a network that needs a pass for each coordinate of each input, one pass."""
    model = random(nn.Sequential(nn.Linear(3, 9), Applied(function), nn.LayerNorm(9)))
    samples = inputs(4)
    engine = Autodiff(model, samples)
    asked = []
    original = autodiff._AutodiffAt.curvature
    monkeypatch.setattr(
        autodiff._AutodiffAt,
        "curvature",
        lambda at, name, indices, directions: (
            asked.append((len(at.outputs), len(indices))) or original(at, name, indices, directions)
        ),
    )
    assert engine.seconds(samples) > 0
    assert asked == [(1, 1) if engine.plain else (4, 9)]


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


class Changing(Noisy):
    """Calls a layer once more for some inputs than for others."""

    def forward(self, x):
        found = self.inner(x)
        return found + self.inner(x) if x.max() > 50 else found


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).train(), "1: Dropout in training mode"),
        (nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).train(), "0: BatchNorm1d in training"),
        (Noisy(), "model: two passes over the same inputs differ"),
        (Mixing(), "model: the outputs of an input depend on the other inputs of its batch"),
        (nn.Sequential(nn.Linear(3, 2), nn.Flatten(0)), "model: its outputs are (8,); expected"),
        (nn.Sequential(nn.Linear(3, 2), nn.Flatten(0), nn.Unflatten(0, (2, 4))), "here of 4 rows"),
        (Applied(lambda x: (x, x)), "model: its outputs are tuple; expected"),
        (Applied(lambda x: x > 0), "model: its outputs are torch.bool; expected floating"),
        (Applied(torch.squeeze), "model: a batch of one input has outputs (3,); expected (1, 3)"),
    ],
)
def test_networks_without_a_fisher_information_per_input(model, message):
    with pytest.raises(UserError, match=re.escape(message)) as refusal:
        Autodiff(model.double(), inputs(4))
    assert "\n" not in str(refusal.value)


def test_weights_that_change_in_a_pass():
    model = random(Tokens(max_norm=1.0))
    with pytest.raises(UserError, match=r"^embedding: Embedding with max_norm=1.0 changes"):
        Autodiff(model, torch.tensor([[0, 1]]))


def test_other_calls_than_at_the_example():
    engine = Autodiff(random(Changing()), inputs(2))
    with pytest.raises(UserError, match=r"^inner: called on \(2, 3\), \(2, 3\) for a batch"):
        engine.at(100 + inputs(2))


def test_without_first_derivatives():
    class Nowhere(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sin()

    model = random(nn.Sequential(nn.Linear(3, 2), Applied(Nowhere.apply)))
    with pytest.raises(UserError, match=r"^model: PyTorch does not differentiate it \("):
        Autodiff(model, inputs(2))


def test_without_second_derivatives():
    model = random(nn.Sequential(nn.Linear(3, 2), Applied(OnceOnly.apply)))
    engine, along = Autodiff(model, inputs(2)), inputs(2, 2, 2)
    [block] = engine.at(inputs(2)).pull(along, None)
    assert block.second is None
    assert engine.seconds(inputs(2)) > 0
    with pytest.raises(
        UserError, match=r"^model: PyTorch has no second derivatives of it \(.*once"
    ):
        list(engine.at(inputs(2)).pull(along, along))
