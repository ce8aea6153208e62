"""Derivatives written to a file are read back bit by bit."""

import numpy as np
from reference import chain, inputs
from torch import nn

from diagfim import arrays
from diagfim.derivatives.dense import derivatives
from diagfim.derivatives.storage import from_tree, to_groups, to_numpy


def test_round_trip_through_a_file(tmp_path):
    """Two epochs, and twelve layers so that the order of the layers is not that of their names."""
    epochs = []
    for scale in (1.0, 2.0):
        layers = [module for _ in range(11) for module in (nn.Linear(2, 2), nn.Tanh())][:-1]
        model = nn.Sequential(nn.Linear(3, 2, bias=False), *layers).double()
        epochs.append(derivatives(model, scale * inputs(4)))
    arrays.write(tmp_path / "d.nc", to_groups(epochs), "derivatives", {})
    with arrays.read(tmp_path / "d.nc") as tree:
        found = from_tree(tree)
    assert len(found) == 2
    for one, written in zip(found, epochs, strict=True):
        assert np.array_equal(one.outputs, written.outputs)
        for layer, original in zip(one.layers, written.layers, strict=True):
            assert layer.parameters == original.parameters
            for field in ("inputs", "first", "second"):
                assert np.array_equal(getattr(layer, field), getattr(original, field))
    assert found[0].layers[0].bias is None


def test_to_numpy_keeps_every_value():
    torch_one = derivatives(chain(nn.Tanh, 2), inputs(3))
    numpy_one = to_numpy(torch_one)
    assert isinstance(numpy_one.outputs, np.ndarray)
    assert numpy_one.outputs.tolist() == torch_one.outputs.tolist()
    for ours, theirs in zip(numpy_one.layers, torch_one.layers, strict=True):
        assert ours.parameters == theirs.parameters
        for field in ("inputs", "first", "second"):
            assert isinstance(getattr(ours, field), np.ndarray)
            assert getattr(ours, field).tolist() == getattr(theirs, field).tolist()
