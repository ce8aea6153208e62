"""`diagfim.analyze` against the slow reference, for every kind of network that it knows."""

import itertools
import logging
import re

import numpy as np
import pytest
import torch
import xarray as xr
from reference import ACTIVATIONS, EPS, assert_close, by_autograd, by_name, chain, inputs
from torch import nn
from torch.nn import functional as F

import diagfim
from diagfim import reference
from diagfim.derivatives.engines import ENGINES
from diagfim.errors import UserError
from diagfim.families import FAMILIES, Gaussian, family_of

# Of the largest entry of a parameter tensor: derivatives are known to 1e-14 of their largest one
# (a hundred roundings); a moment multiplies at most four of them, and its centred sums over labels
# and inputs add a few roundings of terms that may be ten times its largest entry.
TOLERANCE = 1e-12

QUANTITIES = ("fisher", "variance_1", "variance_2", "covariance_12", "input_variance")


# -------------------------------------------------------------------------------- networks


class Residual(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 3), activation, nn.Linear(3, 3))
        self.outer = nn.Linear(3, 3)
        self.activation = activation

    def forward(self, x):
        return self.outer(self.activation(x + self.inner(x)))


class Tied(nn.Module):
    """One weight matrix, forth and back."""

    def __init__(self):
        super().__init__()
        self.code = nn.Linear(3, 4)
        self.read = nn.Linear(3, 3)

    def forward(self, x):
        return self.read(torch.tanh(F.linear(torch.tanh(self.code(x)), self.code.weight.T)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.read = nn.Linear(4, 3)

    def forward(self, x):
        mixed, _ = self.attention(x, x, x, need_weights=False)
        return self.read(mixed.mean(1))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.read = nn.Linear(3, 3)

    def forward(self, x):
        return self.read(torch.tanh(self.embedding(x)).mean(1))


class Padded(nn.Module):
    """An encoder of which PyTorch packs the tokens that are no padding, in eval mode."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 4, padding_idx=0)
        layer = nn.TransformerEncoderLayer(4, 2, 4, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.encoder(self.table(x), src_key_padding_mask=x == 0).mean(1))


def convolution(activation):
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        activation,
        nn.AvgPool2d(2),
        nn.Conv2d(2, 3, 2),
        activation,
        nn.Flatten(),
        nn.Linear(3, 3),
    )


def batch_norm():
    model = nn.Sequential(
        nn.Conv1d(1, 2, 2), nn.BatchNorm1d(2), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3)
    )
    model[1].running_mean.copy_(torch.tensor([0.3, -0.2]))
    model[1].running_var.copy_(torch.tensor([0.5, 2.0]))
    return model


def prepared(build, seed=0):
    torch.manual_seed(seed)
    model = build().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


# Name: network, shape of an input, engine that should take it.
NETWORKS = {
    "dense": (lambda: chain(nn.Sigmoid, 3), (3,), "dense"),
    "linear": (lambda: nn.Linear(3, 3), (3,), "dense"),
    "residual, tanh": (lambda: Residual(nn.Tanh()), (3,), None),
    "residual, relu": (lambda: Residual(nn.ReLU()), (3,), "graph"),
    "convolution, softplus": (lambda: convolution(nn.Softplus()), (1, 4, 4), None),
    "convolution, relu": (lambda: convolution(nn.ReLU()), (1, 4, 4), "graph"),
    "batch-norm": (batch_norm, (1, 3), None),
    "layer-norm": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 3)),
        (3,),
        "autodiff",
    ),
    "attention": (Attention, (3, 4), "autodiff"),
    "tied weights": (Tied, (3,), "autodiff"),
    "tokens": (Tokens, None, "autodiff"),
    "padded tokens": (Padded, None, "autodiff"),
}


def network(name, n=4):
    build, shape, engine = NETWORKS[name]
    samples = inputs(n, *shape) if shape else torch.arange(2 * n).reshape(n, 2) % 5
    return prepared(build), samples, engine


def assert_agrees(tree, expected, tolerance=TOLERANCE):
    assert list(tree.children) == list(expected)
    largest = max(float(quantities["fisher"].max()) for quantities in expected.values())
    for name, quantities in expected.items():
        for quantity in QUANTITIES:
            found = tree[name][quantity]
            assert found.dtype == np.float64
            # Where a variance is zero, the reference may have the square of a rounding instead.
            zero = 10 * (EPS * largest) ** 2
            scale = max(float(quantities[quantity].abs().max()), zero / tolerance)
            assert_close(found.values, quantities[quantity], tolerance, scale)


# ----------------------------------------------------------------------------------- values


@pytest.mark.parametrize("family", ["categorical", "gaussian"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_quantity_of_every_parameter(name, family):
    model, samples, engine = network(name)
    tree = diagfim.analyze(model, samples, family)
    assert engine in (None, tree.attrs["method"])
    assert_agrees(tree, reference.analyze(model, samples, family))


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation, depth):
    model = chain(activation, depth)
    tree = diagfim.analyze(model, inputs(3))
    assert tree.attrs["method"] == "dense"
    assert_agrees(tree, reference.analyze(model, inputs(3)))


@pytest.mark.parametrize("name", ["dense", "residual, tanh", "convolution, softplus", "batch-norm"])
def test_every_engine_that_knows_a_network_agrees(name):
    model, samples, _ = network(name)
    expected = reference.analyze(model, samples)
    methods = ["graph", "autodiff"] + (["dense"] if name == "dense" else [])
    for method in methods:
        tree = diagfim.analyze(model, samples, method=method)
        assert tree.attrs["method"] == method
        assert_agrees(tree, expected)


@pytest.mark.parametrize("name", ["dense", "convolution, softplus", "attention"])
def test_float32_loses_the_digits_of_float32(name):
    """A few hundred roundings of float32 (6e-8) where float64 has as many of its own."""
    model, samples, _ = network(name)
    tree = diagfim.analyze(model, samples, dtype=torch.float32)
    assert tree.attrs["dtype"] == "float32"
    assert next(model.parameters()).dtype == torch.float64
    assert_agrees(tree, reference.analyze(model, samples), 1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["dense", "residual, tanh", "layer-norm"])
def test_variance_of_a_probe_is_that_over_all_signs(name, family):
    """(Σ_k ξ_k d_kᵀ ∂h)² at every ξ of signs, with ∂h by autograd; and no other quantity moves."""
    model, samples, _ = network(name)
    tree = diagfim.analyze(model, samples, family, probes=True)
    first, _ = by_autograd(model, samples)
    with torch.no_grad():
        root = family_of(family).root(model(samples)).numpy()
    along = np.einsum("nkt,ntp->nkp", root, first)
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=root.shape[1])))
    values = np.einsum("sk,nkp->snp", signs, along) ** 2
    expected = by_name(model, values.var(0).mean(0))
    plain = diagfim.analyze(model, samples, family)
    for parameter, value in expected.items():
        scale = max(np.max(value), 1e-12 * max(np.max(one) for one in expected.values()))
        assert_close(tree[parameter]["variance_probe"], value, 10 * TOLERANCE, scale)
        for quantity in QUANTITIES:
            assert_close(tree[parameter][quantity], plain[parameter][quantity], TOLERANCE)
        assert "variance_probe" not in plain[parameter]


def test_gaussian_noise_of_another_variance():
    """I/s², V1/s⁴ and V2/s², Var_x I/s⁴."""
    model, samples, _ = network("dense")
    tree = diagfim.analyze(model, samples, Gaussian(variance=4.0))
    unit = reference.analyze(model, samples, "gaussian")
    scales = dict(zip(QUANTITIES, (4, 16, 4, 1, 16), strict=True))
    expected = {
        name: {quantity: value / scales[quantity] for quantity, value in values.items()}
        for name, values in unit.items()
    }
    assert_agrees(tree, expected)


def test_kl_divergence_is_half_the_information():
    """The mean over all signs s of KL(p_θ ‖ p_θ+s·d) is ½ Σ F_ii d_i² + O(d⁴).

    The signs remove what is off the diagonal and all odd orders, so that halving d divides the
    error by 16: by 15 to 17 when the sixth order is a hundredth of the fourth.
    """
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 2, bias=False)).double()
    samples = inputs(3, 1)
    tree = diagfim.analyze(model, samples)
    information = np.concatenate([tree[name]["fisher"].values.ravel() for name in tree.children])
    theta = nn.utils.parameters_to_vector(model.parameters()).detach()
    step = 0.05 * torch.linspace(0.5, 1.5, len(theta), dtype=torch.float64)

    def divergence(d):
        nn.utils.vector_to_parameters(theta, model.parameters())
        here = model(samples).log_softmax(1)
        nn.utils.vector_to_parameters(theta + d, model.parameters())
        there = model(samples).log_softmax(1)
        return (here.exp() * (here - there)).sum(1).mean().item()

    def error(d):
        signs = itertools.product((-1.0, 1.0), repeat=len(d))
        mean = np.mean([divergence(torch.tensor(s, dtype=torch.float64) * d) for s in signs])
        return mean - 0.5 * information @ d.numpy() ** 2

    with torch.no_grad():
        coarse, fine = error(step), error(step / 2)
    assert 15 < coarse / fine < 17
    assert abs(fine) < 1e-2 * 0.5 * information @ (step.numpy() / 2) ** 2


# ------------------------------------------------------------------------------- invariance


def same(tree, other, tolerance):
    for name in other.children:
        for quantity in other[name].data_vars:
            found, expected = tree[name][quantity].values, other[name][quantity].values
            assert_close(found, expected, tolerance)


@pytest.mark.parametrize("name", ["dense", "convolution, softplus", "layer-norm"])
def test_how_inputs_are_batched_changes_nothing_at_all(name):
    model, samples, _ = network(name, n=7)
    expected = diagfim.analyze(model, samples)
    for sizes in ([7], [1] * 7, [3, 0, 4]):
        tree = diagfim.analyze(model, iter(samples.split(sizes)))
        same(tree, expected, 0.0)


@pytest.mark.parametrize("name", ["dense", "convolution, softplus", "layer-norm", "attention"])
def test_neither_memory_nor_order_matter_beyond_rounding(name):
    model, samples, _ = network(name, n=7)
    expected = diagfim.analyze(model, samples)
    same(diagfim.analyze(model, samples.flip(0)), expected, TOLERANCE)
    for memory in (20_000, 100_000):
        same(diagfim.analyze(model, samples, memory=memory), expected, TOLERANCE)


def test_loader_with_labels_and_labels_left_unused():
    model, samples, _ = network("dense", n=5)
    data = torch.utils.data.TensorDataset(samples, torch.zeros(5).long())
    loader = torch.utils.data.DataLoader(data, batch_size=2)
    same(diagfim.analyze(model, loader), diagfim.analyze(model, samples), 0.0)


def test_the_model_is_left_as_it_was():
    model, samples, _ = network("convolution, softplus")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    for method in ("graph", "autodiff"):
        diagfim.analyze(model, samples, method=method)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_frozen_parameters_are_left_out():
    model, samples, _ = network("dense")
    full = diagfim.analyze(model, samples)
    model[2].weight.requires_grad_(False)
    tree = diagfim.analyze(model, samples)
    assert "2.weight" in full.children
    assert list(tree.children) == [name for name in full.children if name != "2.weight"]
    same(full, tree, 0.0)


def test_unused_parameters_carry_no_information():
    model, samples, _ = network("dense")
    model.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    tree = diagfim.analyze(model, samples)
    assert all((tree["unused"][quantity] == 0).all() for quantity in QUANTITIES)
    assert (tree["0.weight"]["fisher"] > 0).any()


# ------------------------------------------------------------------------------------- tree


def test_tree_is_labelled_and_survives_a_file(tmp_path):
    model, samples, _ = network("convolution, softplus")
    tree = diagfim.analyze(model, samples)
    assert tree["0.weight"]["fisher"].dims == ("unit", "channel", "row", "column")
    assert tree["6.weight"]["fisher"].dims == ("unit", "fan_in")
    assert tree["6.bias"]["fisher"].dims == ("unit",)
    for quantity in QUANTITIES:
        assert tree["0.weight"][quantity].attrs["long_name"]
        assert tree["0.weight"][quantity].attrs["units"] == "1"
    assert tree.attrs["inputs"] == 4
    tree.to_netcdf(tmp_path / "tree.nc")
    with xr.open_datatree(tmp_path / "tree.nc") as read:
        same(read, tree, 0.0)
        assert read.attrs["method"] == tree.attrs["method"]


def test_nothing_is_imported_before_it_is_asked_for():
    assert "analyze" in diagfim.__all__
    assert diagfim.analyze.__module__ == "diagfim.analysis"
    with pytest.raises(AttributeError, match="nonsense"):
        _ = diagfim.nonsense


# --------------------------------------------------------------------------------- forecast


def test_a_long_analysis_says_so_before_it_starts(monkeypatch, caplog):
    model, samples, _ = network("layer-norm")

    def slow(self, first, curved, directions):
        return 50.0 * len(first) if curved else 1.0

    monkeypatch.setattr(ENGINES["autodiff"], "seconds", slow)
    with caplog.at_level(logging.WARNING, logger="diagfim"):
        diagfim.analyze(model, samples)
    [record] = caplog.records
    assert re.search(r"about 3 minutes .*parameters, method autodiff", record.getMessage())
    caplog.clear()
    diagfim.analyze(model, iter([samples]))
    assert "13.9 hours per 1,000 inputs" in caplog.text
    caplog.clear()
    diagfim.estimate(model, samples, "score")  # no second derivatives
    assert not caplog.records
    diagfim.estimate(model, samples, "hessian")
    assert "about 3 minutes" in caplog.text


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"estimator": "score"}, (False, 1)),
        ({"estimator": "score", "draws": 2}, (False, 2)),
        ({"estimator": "hutchinson"}, (False, 1)),
        ({"estimator": "exact"}, (False, 3)),
        ({"estimator": "hessian"}, (True, 3)),
    ],
)
def test_a_forecast_is_of_what_the_estimator_wants(monkeypatch, options, wanted):
    model, samples, _ = network("layer-norm")
    asked = []
    monkeypatch.setattr(
        ENGINES["autodiff"], "seconds", lambda _, first, *wants: asked.append(wants) or 0.0
    )
    diagfim.estimate(model, samples, errors=False, **options)
    assert asked == [wanted]


# ------------------------------------------------------------------------------------ errors


def dense():
    return chain(nn.Sigmoid, 2)


def with_weight(value=None, dtype=None):
    model = dense()
    if value is not None:
        with torch.no_grad():
            model[0].weight[0, 0] = value
    return model if dtype is None else model.to(dtype)


class Scalar(nn.Linear):
    def forward(self, x):
        return super().forward(x)[:, 0]


@pytest.mark.parametrize(
    ("model", "samples", "options", "message"),
    [
        ("net", inputs(2), {}, "model: a str is not a torch.nn.Module"),
        (dense(), 3, {}, "inputs: a int is neither a tensor nor an iterable of batches"),
        (dense(), [], {}, "inputs: none were given"),
        (dense(), inputs(0), {}, "inputs: none were given"),
        (dense(), ["x"], {}, "inputs: batch 0 is a str; expected a tensor"),
        (dense(), inputs(2, 5), {}, r"inputs: the model does not take a batch of shape \(2, 5\)"),
        (with_weight(torch.nan), inputs(2), {}, "0.weight: holds NaN or infinity"),
        (with_weight(torch.inf), inputs(2), {}, "0.weight: holds NaN or infinity"),
        (with_weight(dtype=torch.float16), inputs(2), {}, "0.weight: dtype torch.float16; convert"),
        (dense().requires_grad_(False), inputs(2), {}, "model: no parameter requires a gradient"),
        (Scalar(3, 1).double(), inputs(2), {}, r"model: its outputs are \(2,\); expected a tensor"),
        (dense(), torch.inf * inputs(2), {}, "inputs: the one at position 0, .* holds NaN or inf"),
        (dense(), inputs(2), {"family": "cauchy"}, "family: 'cauchy' is not one of categorical"),
        (dense(), inputs(2), {"method": "magic"}, "method: 'magic' is not auto, dense, graph"),
        (dense(), inputs(2), {"dtype": torch.float16}, "dtype: torch.float16 is neither"),
        (Tied(), inputs(2), {"method": "dense"}, "model: Tied is not supported here by the dense"),
        (
            nn.Sequential(dense(), nn.Dropout(0.5)),
            inputs(2),
            {},
            r"1: Dropout in training mode .*; call model\.eval\(\)",
        ),
    ],
)
def test_mistakes_are_named_in_a_line(model, samples, options, message):
    if isinstance(model, nn.Module) and "method" in options and options["method"] == "dense":
        model = model.double()
    if isinstance(model, nn.Sequential) and isinstance(model[-1], nn.Dropout):
        model.train()
    with pytest.raises(UserError, match=message) as caught:
        diagfim.analyze(model, samples, **options)
    assert "\n" not in str(caught.value)
