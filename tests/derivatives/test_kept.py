"""Kept derivatives of every engine against plain autograd, and through a file."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian, jacrev

from diagfim import arrays
from diagfim.derivatives.engines import choose
from diagfim.derivatives.kept import keep
from diagfim.derivatives.storage import from_tree, to_groups, to_numpy
from diagfim.errors import UserError


class Unused(nn.Module):
    """A convolution, a parameter that nothing uses, and one shared by two layers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 2, 3)
        self.spare = nn.Parameter(torch.ones(2, 2))
        self.dense = nn.Linear(6, 3)

    def forward(self, x):
        return self.dense(torch.tanh(self.conv(x)).flatten(1))


def networks():
    torch.manual_seed(2)
    return {
        "dense": nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)),
        "graph": nn.Sequential(
            nn.Conv1d(1, 2, 3), nn.Tanh(), nn.BatchNorm1d(2), nn.Flatten(), nn.Linear(6, 3)
        ),
        "autodiff": nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 3)),
        "unused": Unused(),
    }


def prepared(name):
    model = networks()[name].double().eval()
    generator = torch.Generator().manual_seed(5)
    shape = (3, 5) if name in ("dense", "autodiff") else (3, 1, 5)
    inputs = torch.rand(shape, generator=generator, dtype=torch.float64)
    # blocks of a part of a parameter too, where the engine cuts
    memory = 2**9 if name == "autodiff" else 2**25
    method = "auto" if name == "unused" else name
    engine = choose(model, inputs, memory, method)
    shapes = {key: tuple(value.shape) for key, value in model.named_parameters()}
    return model, inputs, keep(engine.at(inputs), shapes)


def by_autograd(model, x):
    """∂h and the diagonal of ∂²h by every parameter at one input: (T, *shape)."""
    values = {name: value.detach() for name, value in model.named_parameters()}

    def outputs(parameters):
        return functional_call(model, parameters, (x[None],))[0]

    first, second = jacrev(outputs)(values), hessian(outputs)(values)
    return {
        name: (
            first[name],
            torch.stack(
                [row.reshape(value.numel(), -1).diag() for row in second[name][name]]
            ).reshape(first[name].shape),
        )
        for name, value in values.items()
    }


def entrywise(layer, k):
    """The same from the factors of a layer, at input k."""
    first = layer.layout.split(layer.first[k][:, :, None] * layer.inputs[k])
    second = layer.layout.split(layer.second[k][:, :, None] * layer.inputs[k] ** 2)
    return {name: (first[name], second[name]) for name in first}


@pytest.mark.parametrize("name", networks())
def test_every_entry(name):
    model, inputs, kept = prepared(name)
    assert torch.allclose(kept.outputs, model(inputs), rtol=1e-14, atol=0)
    for k, x in enumerate(inputs):
        found = {key: both for layer in kept.layers for key, both in entrywise(layer, k).items()}
        expected = by_autograd(model, x)
        assert list(found) == list(expected)
        for key, pair in expected.items():
            for ours, theirs in zip(found[key], pair, strict=True):
                assert ours.shape == theirs.shape
                # the promise of the engines: 1e-12 of the largest entry
                assert (ours - theirs).abs().max() <= 1e-12 * max(theirs.abs().max(), 1e-300)


def test_layers_are_modules_in_the_order_of_the_model():
    _, _, kept = prepared("unused")
    layers = {layer.weight: layer.parameters for layer in kept.layers}
    assert layers == {
        "(model)": ("spare",),
        "conv": ("conv.weight", "conv.bias"),
        "dense.weight": ("dense.weight", "dense.bias"),
    }


@pytest.mark.parametrize("name", networks())
def test_round_trip_through_a_file(name, tmp_path):
    _, _, kept = prepared(name)
    arrays.write(tmp_path / "d.nc", to_groups([to_numpy(kept)] * 2), "derivatives", {})
    with arrays.read(tmp_path / "d.nc") as tree:
        found = from_tree(tree)[1]
    assert [one.layout for one in found.layers] == [one.layout for one in kept.layers]
    for ours, theirs in zip(found.layers, kept.layers, strict=True):
        for field in ("inputs", "first", "second"):
            assert np.array_equal(getattr(ours, field), getattr(theirs, field))


def test_too_much_is_refused_before_it_is_computed():
    model = nn.Linear(5, 3).double()
    inputs = torch.rand(4, 5, dtype=torch.float64)
    shapes = {"weight": (3, 5), "bias": (3,)}
    at = choose(model, inputs, 2**20).at(inputs)
    # 2 orders × 4 inputs × 3 outputs × 18 parameters × 8 bytes
    assert keep(at, shapes, memory=3456)
    with pytest.raises(UserError, match=r"4 inputs × 3 outputs × 18 parameters take 0\.0 GB"):
        keep(at, shapes, memory=3455)
