"""`diagfim.to_state_dict`: the names, shapes, dtypes and values of the parameters."""

import copy

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import diagfim
from diagfim.errors import UserError

INPUTS = torch.rand(20, 4, generator=torch.Generator().manual_seed(0))


def network(dtype=torch.float32):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.BatchNorm1d(4)).to(dtype)


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_parameter_under_its_name(dtype):
    model = network(dtype).eval()
    tree = diagfim.analyze(model, INPUTS)
    tensors = diagfim.to_state_dict(tree, model)
    assert list(tensors) == [name for name, _ in model.named_parameters()]
    for name, value in tensors.items():
        expected = model.state_dict()[name]
        assert (value.shape, value.dtype, value.device) == (expected.shape, dtype, expected.device)
        assert np.array_equal(value.double(), torch.tensor(tree[name]["fisher"].values).to(dtype))
    for name, value in diagfim.to_state_dict(tree).items():
        assert torch.equal(value, tensors[name])


def test_a_tied_parameter_stands_under_all_its_names():
    model = Tied()
    tensors = diagfim.to_state_dict(diagfim.analyze(model, INPUTS), model)
    assert tensors.keys() == model.state_dict().keys()
    assert torch.equal(tensors["first.weight"], tensors["second.weight"])
    assert tensors["first.weight"].sum() > 0


def test_frozen_parameters_and_buffers_are_left_out():
    model = network().eval()
    model[0].requires_grad_(False)
    tensors = diagfim.to_state_dict(diagfim.analyze(model, INPUTS), model)
    assert list(tensors) == ["2.weight", "2.bias", "3.weight", "3.bias"]


def test_the_result_is_loaded_where_it_fits():
    model = network().eval()
    tensors = diagfim.to_state_dict(diagfim.analyze(model, INPUTS), model)
    twin = copy.deepcopy(model)
    assert not twin.load_state_dict(tensors, strict=False).unexpected_keys
    assert torch.equal(twin[0].weight.detach(), tensors["0.weight"])


def test_other_quantities_and_files(tmp_path):
    model = network().eval()
    diagfim.estimate(model, INPUTS, "score").to_netcdf(tmp_path / "estimate.nc")
    with xr.open_datatree(tmp_path / "estimate.nc") as tree:
        tensors = diagfim.to_state_dict(tree, model, "standard_error")
        expected = tree["0.weight"]["standard_error"].values
    tensors["0.weight"].mul_(2)  # writable: nothing of the file is shared
    assert np.allclose(tensors["0.weight"], 2 * expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Linear(4, 4), r"model: 0\.weight has the shape \(4, 4\) in the tree, but is no param"),
        (
            nn.Sequential(nn.Linear(4, 5)),
            r"model: 0\.weight has the shape \(4, 4\) in the tree, but \(5, 4\) in the model",
        ),
    ],
)
def test_another_model_is_refused(other, message):
    tree = diagfim.analyze(network().eval(), INPUTS)
    with pytest.raises(UserError, match=message):
        diagfim.to_state_dict(tree, other)


def test_a_quantity_that_is_not_there_is_named():
    tree = diagfim.analyze(network().eval(), INPUTS)
    with pytest.raises(UserError, match=r"0\.weight has no 'standard_error'; it has fisher, "):
        diagfim.to_state_dict(tree, quantity="standard_error")
