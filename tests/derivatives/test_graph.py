"""First and second derivatives of networks of any arrangement, against plain autograd."""

import re

import pytest
import torch
import torch.nn.functional as F
from reference import assert_close, by_autograd, by_name, chain, inputs
from torch import nn

from diagfim.derivatives.dense import Chain
from diagfim.derivatives.graph import ELEMENTWISE, Graph
from diagfim.errors import UserError

# Of the largest entry of a parameter tensor. A derivative is a sum over the paths of the network,
# each of fewer than 50 roundings: an error of at most 50 · 1.1e-16 = 6e-15 of the sum of their
# absolute values, which may be 150 times the largest entry.
TOLERANCE = 1e-12


def every_output(n, outputs, dtype=torch.float64):
    return torch.eye(outputs, dtype=dtype).expand(n, outputs, outputs)


def expanded(blocks):
    """By parameter name ∂h and ∂²h as arrays (n, K, entries), from the factors."""
    first, second = {}, {}
    for block in blocks:
        zero = torch.zeros_like(block.first)
        for found, left, power in (
            (first, block.first, block.inputs),
            (second, zero if block.second is None else block.second, block.inputs**2),
        ):
            product = torch.einsum("nki,nj->nkij", left, power)
            parts = block.layout.split(product)
            found |= {name: part.flatten(2) for name, part in parts.items()}
    return first, second


def derivatives(model, samples, **options):
    at = Graph(model, samples, **options).at(samples)
    directions = every_output(*at.outputs.shape, dtype=at.outputs.dtype)
    return expanded(at.pull(directions, directions))


def assert_agrees_with_autograd(model, samples, frozen=(), **options):
    """Values of every parameter of every sample; the parameters in order."""
    expected = [by_name(model, flat) for flat in by_autograd(model, samples)]
    for ours, theirs in zip(derivatives(model, samples, **options), expected, strict=True):
        assert list(ours) == [name for name in theirs if name not in frozen]
        for name, value in ours.items():
            assert_close(value, theirs[name].reshape(value.shape), TOLERANCE)


def bends(model, samples):
    return any(value.any() for value in derivatives(model, samples)[1].values())


def prepared(model, seed=0):
    """In float64 and eval mode, with weights that bend and statistics that are not trivial."""
    torch.manual_seed(seed)
    model = model.double().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.copy_(1.5 * torch.randn_like(parameter) / fan_in**0.5)
    return model


# ----------------------------------------------------------------------------------- networks


class Shaped(nn.Module):
    """A network given by its modules and a function of them and of the inputs."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.function(self, x)


class BasicBlock(nn.Module):
    """As torchvision's: the activation is applied twice, in place if it can be."""

    def __init__(self, channels, out, stride, activation):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.act = activation
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = None
        if stride > 1 or channels != out:
            shortcut = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out))

    def forward(self, x):
        identity = x
        out = self.act(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.act(out)


def residual(activation):
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, 1, 1, bias=False),
        nn.BatchNorm2d(2),
        activation,
        BasicBlock(2, 2, 1, activation),
        BasicBlock(2, 3, 2, activation),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 2),
    )


def lenet(activation, pool=nn.AvgPool2d):
    return nn.Sequential(
        *(nn.Conv2d(1, 2, 3), activation(), pool(2), nn.Conv2d(2, 3, 3), activation(), pool(2)),
        *(nn.Flatten(), nn.Linear(3, 4), activation(), nn.Linear(4, 3), activation()),
        nn.Linear(3, 2),
    )


def after(*modules, features):
    """Modules between two convolutions that bend, and a `Linear` on what comes out."""
    return nn.Sequential(
        *(nn.Conv2d(1, 2, 2), nn.Tanh(), *modules, nn.Tanh(), nn.Flatten()),
        *(nn.Linear(features, 3), nn.Softplus(), nn.Linear(3, 2)),
    )


def of_function(function, channels=2, features=None):
    """A function between a convolution and a `Linear`, with curvature on both sides."""
    return Shaped(
        lambda self, x: self.b(torch.tanh(function(torch.tanh(self.a(x))).flatten(1))),
        a=nn.Conv2d(1, channels, 2),
        b=nn.Linear(features or channels * 9, 2),
    )


def functional(self, x):
    x = F.max_pool2d(F.softplus(self.a(x)), 2)
    x = F.avg_pool2d(torch.tanh(self.b(x)), 2).view(x.size(0), -1)
    x = F.dropout(F.gelu(self.c(x)), training=self.training)
    return self.d(F.silu(x).sigmoid())


def shortcut(self, x):
    a = F.silu(self.a(x))
    return self.d(torch.tanh(self.c(F.silu(self.b(a)) + a)).mean((2, 3)))


def dense_block(self, x):
    first = torch.sigmoid(self.a(x))
    second = torch.sigmoid(self.b(first))
    third = torch.tanh(self.c(torch.cat([first, second], 1)))
    return self.d(torch.cat((first, third, second), dim=1).flatten(1))


def arithmetic(self, x):
    a = self.a((x - 0.1) / 0.5)
    b = torch.tanh(1 - 2.0 * a)
    c = torch.tanh(-self.b(b / 3) - b * self.scale + self.shift)
    return self.d((c - b).sum((2, 3)) + 1) * 0.5


def with_buffers(model):
    model.register_buffer("scale", torch.randn(2, 1, 1))
    model.register_buffer("shift", torch.randn(1, 2, 1, 1))
    return model


def broadcast(self, x):
    a = torch.tanh(self.a(x))
    return self.d(torch.tanh(self.b(a) + a.mean((2, 3), keepdim=True)).flatten(1))


def of_points(self, x):
    """The same layers at every point of a set, then a sum over the points."""
    return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))).sum(1))


def mixer(self, x):
    """Layers over points and over features in turn."""
    x = x + self.a(torch.tanh(self.b(x)))
    return self.d(torch.tanh(self.c(x.transpose(1, 2))).mean(2))


def decoder(self, x):
    return self.c(torch.tanh(self.b(torch.tanh(self.a(x)).unflatten(1, (2, 2, 3)))).flatten(1))


def forked(self, x):
    """One map under two activations, and an activation under none."""
    z = self.a(x)
    return self.b((torch.tanh(z) + 2 * torch.sigmoid(z)).flatten(1)) + torch.tanh(
        self.c(x)[:, :, 0, 0]
    )


def sliced(self, x):
    x = torch.tanh(self.a(x))[:, :, 1:, ::2]
    return self.b(torch.tanh(x[:, 1:].permute(0, 2, 3, 1)).reshape(x.shape[0], -1))


def views(self, x):
    """Several views of one node, all used again."""
    x = torch.tanh(self.a(x))
    parts = [x[:, :, 1:], x.transpose(2, 3)[:, :, 1:], torch.tanh(x[:, :, 1:]), x[:, :, :-1] * 2]
    return self.b(torch.cat([torch.tanh(part * 0.5) + part for part in parts], 1).flatten(1))


IMAGE = (1, 4, 4)
NETWORKS = {
    "lenet tanh": (lenet(nn.Tanh), (1, 10, 10)),
    "lenet sigmoid": (lenet(nn.Sigmoid), (1, 10, 10)),
    "lenet softplus, max pooling": (lenet(nn.Softplus, nn.MaxPool2d), (1, 10, 10)),
    "stride": (after(nn.Conv2d(2, 2, 2, stride=2), features=8), (1, 6, 6)),
    "stride that leaves a rest": (after(nn.Conv2d(2, 2, 2, stride=3), features=8), (1, 8, 7)),
    "dilation": (after(nn.Conv2d(2, 2, 2, dilation=2), features=8), (1, 5, 5)),
    "padding": (after(nn.Conv2d(2, 2, 3, padding=(1, 2)), features=30), IMAGE),
    "padding same": (after(nn.Conv2d(2, 2, (2, 3), padding="same"), features=18), IMAGE),
    "padding valid": (after(nn.Conv2d(2, 2, 2, padding="valid"), features=8), IMAGE),
    "same and dilation": (
        after(nn.Conv2d(2, 2, 2, padding="same", dilation=(3, 2)), features=18),
        IMAGE,
    ),
    "groups": (
        nn.Sequential(
            *(nn.Conv2d(2, 4, 2, groups=2), nn.Tanh(), nn.Conv2d(4, 6, 2, groups=2), nn.Tanh()),
            *(nn.Conv2d(6, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(2, 2)),
        ),
        (2, 4, 4),
    ),
    "depthwise separable": (
        after(nn.Conv2d(2, 4, 2, groups=2), nn.Tanh(), nn.Conv2d(4, 2, 1), features=8),
        IMAGE,
    ),
    "groups of a mixture": (
        nn.Sequential(
            *(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Conv2d(2, 4, 2), nn.Tanh()),
            *(nn.Conv2d(4, 2, 2, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(2, 2)),
        ),
        IMAGE,
    ),
    "rectangles": (after(nn.Conv2d(2, 2, (1, 3), (2, 1), (0, 1)), features=16), (1, 5, 5)),
    "no biases": (
        nn.Sequential(
            *(nn.Conv2d(1, 2, 2, bias=False), nn.Tanh(), nn.Flatten()),
            *(nn.Linear(18, 2, bias=False), nn.Sigmoid()),
        ),
        IMAGE,
    ),
    "Conv1d": (
        nn.Sequential(
            *(nn.Conv1d(2, 3, 3, 2, padding=1), nn.BatchNorm1d(3), nn.Tanh(), nn.AvgPool1d(2)),
            *(nn.Conv1d(3, 2, 2, padding="same"), nn.GELU(), nn.MaxPool1d(2)),
            *(nn.Flatten(), nn.Linear(2, 2)),
        ),
        (2, 8),
    ),
    "batch norm before the activation": (
        nn.Sequential(
            *(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Tanh(), nn.Conv2d(2, 2, 2)),
            *(nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)),
        ),
        IMAGE,
    ),
    "batch norm after the activation": (
        nn.Sequential(
            *(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 2), nn.Tanh()),
            *(nn.BatchNorm2d(2, affine=False), nn.Flatten(), nn.Linear(8, 2), nn.Sigmoid()),
        ),
        IMAGE,
    ),
    "batch norm of features": (
        nn.Sequential(
            *(nn.BatchNorm1d(3), nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh()),
            *(nn.BatchNorm1d(4), nn.Linear(4, 3), nn.SiLU(), nn.Linear(3, 2)),
        ),
        (3,),
    ),
    "residual SiLU": (residual(nn.SiLU()), (1, 5, 5)),
    "residual SiLU in place": (residual(nn.SiLU(inplace=True)), (1, 5, 5)),
    "residual ReLU in place": (residual(nn.ReLU(inplace=True)), (1, 5, 5)),
    "identity shortcut": (
        Shaped(
            shortcut,
            a=nn.Conv2d(1, 2, 2),
            b=nn.Conv2d(2, 2, 3, padding=1),
            c=nn.Conv2d(2, 3, 2),
            d=nn.Linear(3, 2),
        ),
        IMAGE,
    ),
    "concatenation": (
        Shaped(
            dense_block,
            a=nn.Conv2d(1, 2, 3, padding=1),
            b=nn.Conv2d(2, 1, 3, padding=1),
            c=nn.Conv2d(3, 2, 3, padding=1),
            d=nn.Linear(5 * 9, 2),
        ),
        (1, 3, 3),
    ),
    "functional": (
        Shaped(
            functional,
            a=nn.Conv2d(1, 2, 3),
            b=nn.Conv2d(2, 2, 2),
            c=nn.Linear(2, 3),
            d=nn.Linear(3, 2),
        ),
        (1, 8, 8),
    ),
    "arithmetic": (
        with_buffers(
            Shaped(arithmetic, a=nn.Conv2d(1, 2, 2), b=nn.Conv2d(2, 2, 1), d=nn.Linear(2, 2))
        ),
        (1, 3, 3),
    ),
    "broadcasting": (
        Shaped(broadcast, a=nn.Conv2d(1, 2, 2), b=nn.Conv2d(2, 2, 1), d=nn.Linear(8, 2)),
        (1, 3, 3),
    ),
    "set of points": (
        Shaped(of_points, a=nn.Linear(2, 3), b=nn.Linear(3, 2), c=nn.Linear(2, 2)),
        (4, 2),
    ),
    "mixer": (
        Shaped(mixer, a=nn.Linear(4, 3), b=nn.Linear(3, 4), c=nn.Linear(2, 3), d=nn.Linear(3, 2)),
        (2, 3),
    ),
    "linear before a convolution": (
        Shaped(decoder, a=nn.Linear(3, 12), b=nn.Conv2d(2, 2, 2), c=nn.Linear(4, 2)),
        (3,),
    ),
    "fork": (
        Shaped(forked, a=nn.Conv2d(1, 2, 2), b=nn.Linear(8, 2), c=nn.Conv2d(1, 2, 3)),
        (1, 3, 3),
    ),
    "slices": (Shaped(sliced, a=nn.Conv2d(1, 3, 2), b=nn.Linear(8, 2)), (1, 4, 4)),
    "views": (Shaped(views, a=nn.Conv2d(1, 2, 2), b=nn.Linear(48, 2)), (1, 4, 4)),
    "two activations in a row": (
        nn.Sequential(
            *(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Softplus(), nn.Conv2d(2, 2, 2), nn.Sigmoid()),
            *(nn.Tanh(), nn.Flatten(), nn.Linear(8, 2), nn.Tanh(), nn.SiLU()),
        ),
        IMAGE,
    ),
    "two maps in a row": (
        nn.Sequential(
            *(nn.Conv2d(1, 2, 2), nn.Conv2d(2, 2, 2), nn.Tanh(), nn.Flatten()),
            *(nn.Linear(8, 3), nn.Linear(3, 2), nn.Tanh()),
        ),
        IMAGE,
    ),
    "a single known module": (nn.Conv1d(2, 3, 1), None),
    "identity and dropout": (
        after(nn.Identity(), nn.Dropout2d(), nn.Conv2d(2, 2, 2), nn.Dropout(), features=8),
        IMAGE,
    ),
    "max pooling that overlaps": (after(nn.MaxPool2d(3, 1, 1), features=18), IMAGE),
    "average pooling with padding": (after(nn.AvgPool2d(3, 2, 1), features=8), IMAGE),
    "adaptive pooling": (after(nn.AdaptiveAvgPool2d((2, 1)), features=4), IMAGE),
    "adaptive max pooling": (after(nn.AdaptiveMaxPool2d(2), features=8), IMAGE),
    "zero padding": (after(nn.ZeroPad2d(1), nn.Conv2d(2, 2, 3), features=18), IMAGE),
    "pad": (of_function(lambda x: F.pad(x, (1, 0, 2, 0)), features=40), IMAGE),
    "mean": (of_function(lambda x: x.mean((2, 3)), features=2), IMAGE),
    "mean over channels": (of_function(lambda x: x.mean(1), features=9), IMAGE),
    "sum": (of_function(lambda x: torch.sum(x, dim=3, keepdim=True), features=6), IMAGE),
    "transpose": (of_function(lambda x: x.transpose(2, 3).contiguous()), IMAGE),
    "permute": (of_function(lambda x: torch.permute(x, (0, 3, 1, 2)).contiguous()), IMAGE),
    "reshape": (of_function(lambda x: x.reshape(x.shape[0], 2, -1).unsqueeze(1)), IMAGE),
    "squeeze": (of_function(lambda x: x[:, 1:].squeeze(1), features=9), IMAGE),
    "stack": (of_function(lambda x: torch.stack([x, 2 * x], dim=2), features=36), IMAGE),
    "functional max pooling": (of_function(lambda x: F.max_pool2d(x, 2), features=2), IMAGE),
    "adaptive": (of_function(lambda x: F.adaptive_avg_pool2d(x, 1), features=2), IMAGE),
}


# ------------------------------------------------------------------------------------- values


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small tensors: more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("model", "shape"), NETWORKS.values(), ids=NETWORKS.keys())
def test_every_parameter_of_every_sample(model, shape):
    if shape is None:
        model, shape = nn.Sequential(model, nn.Flatten()), (2, 1)
    assert_agrees_with_autograd(prepared(model), inputs(3, *shape))


@pytest.mark.parametrize("activation", ELEMENTWISE)
def test_activations(activation):
    assert_agrees_with_autograd(prepared(lenet(activation)), inputs(3, 1, 10, 10))


FUNCTIONS = {
    **{name: getattr(F, name) for name in ("relu", "relu6", "hardtanh", "leaky_relu", "elu")},
    **{name: getattr(F, name) for name in ("selu", "celu", "gelu", "silu", "mish", "logsigmoid")},
    **{name: getattr(F, name) for name in ("softplus", "sigmoid", "tanh")},
    "torch.relu": torch.relu,
    "torch.sigmoid": torch.sigmoid,
    "torch.tanh": torch.tanh,
    "method relu": lambda x: x.relu(),
    "method sigmoid": lambda x: x.sigmoid(),
    "method tanh": lambda x: x.tanh(),
    "in place": lambda x: F.relu(x, True),
    "in place by name": lambda x: F.silu(x, inplace=True),
    "softplus with an option": lambda x: F.softplus(x, beta=2.0),
    "gelu with an option": lambda x: F.gelu(x, approximate="tanh"),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_functions_as_activations(function):
    model = Shaped(
        lambda self, x: self.c(function(self.b(function(self.a(x)))).flatten(1)),
        a=nn.Conv2d(1, 2, 2),
        b=nn.Conv2d(2, 2, 2),
        c=nn.Linear(8, 2),
    )
    assert_agrees_with_autograd(prepared(model), inputs(3, *IMAGE))


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.SiLU, nn.ReLU])
def test_dense_chain(activation, depth):
    model, samples = chain(activation, depth), inputs(4)
    directions = every_output(4, 3)
    found = list(Graph(model, samples).at(samples).pull(directions, directions))
    expected = list(Chain(model).at(samples).pull(directions, directions))
    assert [block.parameters for block in found] == [block.parameters for block in expected]
    for one, other in zip(found, expected, strict=True):
        assert_close(one.inputs, other.inputs, TOLERANCE)
        assert_close(one.first, other.first, TOLERANCE)
        assert (one.second is None) == (other.second is None)
        if one.second is not None:
            assert_close(one.second, other.second, TOLERANCE)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.2)])
def test_no_second_derivatives_where_nothing_bends(activation):
    model, samples = prepared(residual(activation)), inputs(3, 1, 5, 5)
    directions = every_output(3, 2)
    blocks = list(Graph(model, samples).at(samples).pull(directions, directions))
    assert all(block.second is None for block in blocks)


def test_reference_is_not_linear():
    """The comparisons above would pass for want of curvature if the networks did not bend."""
    for name, (model, shape) in NETWORKS.items():
        if shape is not None:
            assert bends(prepared(model), inputs(3, *shape)) == ("ReLU" not in name), name


# ------------------------------------------------------------------- directions, batches, memory


def network():
    return prepared(residual(nn.SiLU())), inputs(5, 1, 5, 5)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_directions(count):
    model, samples = network()
    first, second = torch.randn(2, 5, count, 2, dtype=torch.float64)
    found = expanded(Graph(model, samples).at(samples).pull(first, second))
    for ours, directions, every in zip(
        found, (first, second), derivatives(model, samples), strict=True
    ):
        for name, value in ours.items():
            assert_close(value, directions @ every[name], TOLERANCE)


def test_second_derivatives_along_other_directions_only_if_asked_for():
    model, samples = network()
    at = Graph(model, samples).at(samples)
    first, second = torch.randn(5, 3, 2).double(), torch.randn(5, 1, 2).double()
    blocks = list(at.pull(first, second))
    assert {block.first.shape[1] for block in blocks} == {3}
    assert {block.second.shape[1] for block in blocks if block.second is not None} == {1}
    for one, other in zip(at.pull(first, None), blocks, strict=True):
        assert one.second is None
        assert torch.equal(one.first, other.first)


@pytest.mark.parametrize("memory", [1, 2**12, 2**16, 2**30])
@pytest.mark.parametrize("name", ["residual SiLU", "lenet tanh", "concatenation", "mixer"])
def test_memory_changes_nothing(name, memory):
    model, shape = NETWORKS[name]
    assert_agrees_with_autograd(prepared(model), inputs(3, *shape), memory=memory)


def test_batch_size_follows_the_memory():
    model, samples = network()
    sizes = [Graph(model, samples, memory).batch_size for memory in (1, 2**16, 2**18, 2**40)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[1] < sizes[2] < sizes[3]


def test_samples_do_not_mix():
    model, samples = network()
    together = derivatives(model, samples)
    graph = Graph(model, samples[:1])
    for rows in (slice(0, 2), slice(2, 3), slice(3, 5)):
        at = graph.at(samples[rows])
        directions = every_output(*at.outputs.shape)
        for ours, all_ in zip(expanded(at.pull(directions, directions)), together, strict=True):
            for name, value in ours.items():
                assert_close(value, all_[name][rows], TOLERANCE)


def test_images_of_another_size():
    model, samples = prepared(residual(nn.SiLU())), inputs(2, 1, 7, 6)
    at = Graph(model, inputs(2, 1, 5, 5)).at(samples)
    directions = every_output(2, 2)
    expected = derivatives(model, samples)
    for ours, theirs in zip(expanded(at.pull(directions, directions)), expected, strict=True):
        for name, value in ours.items():
            assert_close(value, theirs[name], TOLERANCE)


def test_pull_may_be_repeated():
    model, samples = network()
    at = Graph(model, samples).at(samples)
    directions = every_output(5, 2)
    for one, other in zip(
        at.pull(directions, directions), at.pull(directions, directions), strict=True
    ):
        assert torch.equal(one.first, other.first)
        assert (one.second is None) == (other.second is None)
        assert one.second is None or torch.equal(one.second, other.second)


def test_float32_up_to_its_rounding():
    """Errors in proportion to the unit roundoff: as TOLERANCE, in which it was 1.1e-16."""
    model, samples = network()
    double = derivatives(model, samples)
    single = derivatives(model.float(), samples.float())
    for ours, exact in zip(single, double, strict=True):
        for name, value in ours.items():
            assert value.dtype == torch.float32
            assert_close(value.double(), exact[name], TOLERANCE * 2.0**-24 / 2.0**-53)


def test_result_carries_no_graph_and_leaves_the_model_alone():
    model, samples = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    at = Graph(model, samples).at(samples.requires_grad_())
    directions = every_output(5, 2)
    tensors = [at.outputs]
    for block in at.pull(directions, directions):
        tensors += [block.inputs, block.first, block.second]
    assert not any(tensor.requires_grad for tensor in tensors if tensor is not None)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_forecast():
    model, samples = network()
    graph = Graph(model, samples)
    assert 0 < graph.seconds(samples) < 60
    assert graph.seconds(samples.repeat(1000, 1, 1, 1)) > graph.seconds(samples, curved=False)


def test_forecast_takes_no_more_directions_than_are_wanted():
    """A forecast along all of many outputs would itself take longer than what it forecasts."""
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(800, 500))
    graph = Graph(model, torch.rand(2, 1, 12, 12))
    samples = torch.rand(20, 1, 12, 12)
    every, one = (graph.seconds(samples, False, directions) for directions in (None, 1))
    assert every > 5 * one  # 500 times the passes back


# ---------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    "frozen",
    [
        ["0.weight"],
        ["3.conv1.weight", "3.bn1.weight", "7.weight"],
        ["1.bias", "7.bias", "4.downsample.0.weight"],
        ["0.weight", "1.weight", "1.bias", "3.conv1.weight", "3.bn1.weight", "3.bn1.bias"],
    ],
)
def test_frozen_parameters_have_no_blocks(frozen):
    model, samples = network()
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    assert_agrees_with_autograd(model, samples, frozen)


def test_frozen_parameters_may_enter_anywhere():
    model = Shaped(
        lambda self, x: self.b(torch.tanh(self.b(self.a(x)) * self.c)), a=nn.Linear(3, 2)
    )
    model.b = nn.Linear(2, 2).requires_grad_(False)
    model.c = nn.Parameter(torch.ones(2), requires_grad=False)
    assert_agrees_with_autograd(prepared(model), inputs(3), ["b.weight", "b.bias", "c"])


def test_parameters_that_enter_nowhere():
    model = Shaped(lambda self, x: self.b(torch.tanh(self.a(x))), a=nn.Linear(3, 2))
    model.b, model.c = nn.Linear(2, 2), nn.Linear(4, 3)
    model.d = nn.Parameter(torch.ones(2, 2))
    model = prepared(model)
    first, second = derivatives(model, inputs(3))
    assert first.keys() == second.keys() == {name for name, _ in model.named_parameters()}
    for name, size in (("c.weight", 12), ("c.bias", 3), ("d", 4)):
        assert first[name].shape == (3, 2, size)
        assert not first[name].any()
        assert not second[name].any()


# ----------------------------------------------------------------------------------- refusals


class Doubled(nn.Linear):
    def forward(self, values):
        return 2 * super().forward(values)


class Cumulated(nn.Tanh):
    def forward(self, values):
        return super().forward(values).cumsum(-1)


def applied(function, **modules):
    """A function of the result a of a `Linear`, then a `Linear` on three features."""
    return Shaped(
        lambda self, x: self.last(function(self, self.a(x))),
        a=nn.Linear(3, 3),
        **modules,
        last=nn.Linear(3, 2),
    )


def one_linear_twice():
    linear = nn.Linear(3, 3)
    return nn.Sequential(linear, nn.Tanh(), linear)


def tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    return model


def with_parameter():
    model = applied(lambda self, a: a * self.scale)
    model.scale = nn.Parameter(torch.ones(3))
    return model


def in_training(model):
    model.keep_training = True
    return model


def overwritten(self, a):
    b = torch.tanh(a) + 1
    b.mul_(2)
    return b


def shifted(self, x):
    result = self.a(x)
    result.add_(1)
    return result


def with_gain():
    model = nn.Sequential(nn.Linear(3, 2))
    model[0].register_parameter("gain", nn.Parameter(torch.ones(2)))
    return model


LAYER_NORM = applied(lambda self, a: self.norm(a), norm=nn.LayerNorm(3))
ATTENTION = applied(
    lambda self, a: self.mix(a[:, None], a[:, None], a[:, None])[0][:, 0],
    mix=nn.MultiheadAttention(3, 1, batch_first=True),
)
FLAT = (nn.Flatten(), nn.Linear(3, 3))

REFUSED = {
    "layer norm": (LAYER_NORM, "norm: LayerNorm is not known"),
    "inside": (nn.Sequential(nn.Linear(3, 3), LAYER_NORM), "1.norm: LayerNorm is not known"),
    "group norm": (nn.Sequential(nn.Linear(3, 3), nn.GroupNorm(1, 3)), "1: GroupNorm"),
    "softmax": (nn.Sequential(nn.Linear(3, 3), nn.Softmax(1)), "1: Softmax"),
    "softmax function": (applied(lambda self, a: a.softmax(1)), "model: softmax"),
    "softmax in a module": (
        nn.Sequential(nn.Linear(3, 3), nn.Sequential(applied(lambda self, a: F.softmax(a, 1)))),
        "1.0: softmax",
    ),
    "attention": (ATTENTION, "mix: MultiheadAttention"),
    "PReLU": (nn.Sequential(nn.Linear(3, 3), nn.PReLU()), "1: PReLU"),
    "transposed convolution": (
        nn.Sequential(nn.Unflatten(1, (1, 3)), nn.ConvTranspose1d(1, 1, 1), *FLAT),
        "1: ConvTranspose1d",
    ),
    "padding mode": (
        nn.Sequential(
            nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular"), *FLAT
        ),
        "1: Conv1d has padding_mode 'circular'",
    ),
    "product": (applied(lambda self, a: a * torch.tanh(a)), "model: mul of values that both"),
    "square": (applied(lambda self, a: a * a), "model: mul of values that both"),
    "power": (applied(lambda self, a: a**2), "model: pow"),
    "quotient": (applied(lambda self, a: 1 / a), "model: truediv of values"),
    "matrix product": (applied(lambda self, a: a @ torch.ones(3, 3)), "model: matmul"),
    "exponential": (applied(lambda self, a: a.exp()), "model: exp"),
    "option": (applied(lambda self, a: torch.add(a, a, alpha=2)), "model: add has options"),
    "detached": (applied(lambda self, a: a.detach()), "model: detach"),
    "affine padding": (applied(lambda self, a: F.pad(a[:, :2], (0, 1), value=1)), "model: pad"),
    "dropout in training": (
        in_training(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.2))),
        "1: Dropout in training mode",
    ),
    "functional dropout": (applied(lambda self, a: F.dropout(a)), "model: dropout in training"),
    "batch norm in training": (
        in_training(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))),
        "1: BatchNorm1d in training mode",
    ),
    "batch norm without statistics": (
        nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False)),
        "1: BatchNorm1d without running statistics",
    ),
    "one linear twice": (one_linear_twice(), "0.weight: used twice"),
    "tied weight": (tied(), "0.weight: used twice"),
    "parameter of its own": (with_parameter(), "scale: used outside"),
    "functional linear": (
        applied(lambda self, a: F.linear(a, self.b.weight), b=nn.Linear(3, 3)),
        "b.weight: used outside",
    ),
    "linear with own forward": (nn.Sequential(Doubled(3, 2)), "0.weight: used outside"),
    "activation with own forward": (
        nn.Sequential(nn.Linear(3, 2), Cumulated()),
        "1: cumsum is not known",
    ),
    "parametrised": (
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))),
        "0: ParametrizedLinear",
    ),
    "on a constant": (
        applied(lambda self, a: a + self.b(torch.ones(1, 3).double()), b=nn.Linear(3, 3)),
        "b: Linear acts on a constant",
    ),
    "control flow": (
        applied(lambda self, a: a if a.sum() > 0 else -a),
        "model: torch.fx cannot trace it",
    ),
    "value": (applied(lambda self, a: a + a.sum().item()), "model: sum gives shape ()"),
    "several results": (applied(lambda self, a: a.chunk(3, 1)[0] + a), "model: chunk"),
    "mean over samples": (
        applied(lambda self, a: a - a.mean(0, keepdim=True)),
        "model: mean gives shape (1, 3) for 2 inputs",
    ),
    "transposed": (applied(lambda self, a: a.transpose(0, 1)), "model: transpose gives shape"),
    "flat": (applied(lambda self, a: a.reshape(-1)), "model: reshape gives shape"),
    "samples in a row": (applied(lambda self, a: torch.cat([a, a])), "model: cat gives shape"),
    "number of samples": (applied(lambda self, a: a.reshape(2, 3)), "model: reshape does not"),
    "image without channels": (
        nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (2, 2)), nn.MaxPool2d(1), nn.Flatten()),
        "2: MaxPool2d takes 3 axes as one sample",
    ),
    "three axes": (nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Linear(3, 2)), "outputs: (2, 1, 2)"),
    "tuple": (Shaped(lambda self, x: (self.a(x), x), a=nn.Linear(3, 2)), "outputs: tuple"),
    "width": (nn.Sequential(nn.Identity(), nn.Linear(5, 2)), "1: Linear does not take inputs"),
    "overwritten": (applied(overwritten), "model: Shaped does not do"),
    "outputs overwritten": (
        Shaped(shifted, a=nn.Linear(3, 2)),
        "model: Shaped does not do what its graph says: other outputs",
    ),
    "another parameter": (with_gain(), "0: Linear is parametrised by gain"),
}


@pytest.mark.parametrize(("model", "culprit"), REFUSED.values(), ids=REFUSED.keys())
def test_refusal_names_the_culprit_in_one_line(model, culprit):
    model = model.double()
    model.train(getattr(model, "keep_training", False))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=f"^{re.escape(culprit)}") as refusal:
        Graph(model, inputs(2))
    assert "\n" not in str(refusal.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_inputs_that_do_not_fit():
    model, samples = network()
    with pytest.raises(UserError, match=r"^0: Conv2d does not take inputs of shape \(2, 3, 5, 5\)"):
        Graph(model, samples).at(inputs(2, 3, 5, 5))


def test_a_hook_that_the_graph_does_not_show():
    model = chain(nn.Tanh, 2)
    model[0].register_forward_hook(lambda module, _, result: 2 * result)
    with pytest.raises(UserError, match=r"^model: Sequential does not do what its graph says"):
        Graph(model, inputs(2))
