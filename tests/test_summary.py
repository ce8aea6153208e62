"""`diagfim.summarize`: every cell of the table against a plain computation from the tree."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import diagfim
from diagfim.arrays import ALL
from diagfim.errors import UserError

LAYERS = {"0": ("0.weight", "0.bias"), "2": ("2.weight", "2.bias"), ALL: None}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4))


@pytest.fixture(scope="module")
def inputs():
    return torch.rand(60, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def tree(model, inputs):
    return diagfim.analyze(model, inputs)


def flat(tree, layer, quantity):
    names = LAYERS[layer] or tree.children
    return np.concatenate([tree[name][quantity].values.ravel() for name in names])


@pytest.mark.parametrize("layer", LAYERS)
def test_sizes_and_their_errors(tree, layer):
    row = diagfim.summarize(tree).loc[layer]
    fisher, spread = flat(tree, layer, "fisher"), flat(tree, layer, "input_variance")
    assert row["parameters"] == fisher.size
    assert row["fisher"] == pytest.approx(np.sqrt(np.mean(fisher**2)), rel=1e-12)
    # the exact diagonal is a mean over 60 inputs
    assert row["standard_error"] == pytest.approx(np.sqrt(np.mean(spread) / 59), rel=1e-12)


@pytest.mark.parametrize("layer", LAYERS)
def test_an_estimate_shows_its_own_errors(model, inputs, layer):
    tree = diagfim.estimate(model, inputs, "score", draws=3)
    table = diagfim.summarize(tree)
    error = flat(tree, layer, "standard_error")
    assert list(table) == ["parameters", "fisher", "standard_error"]
    assert table.loc[layer, "standard_error"] == pytest.approx(
        np.sqrt(np.mean(error**2)), rel=1e-12
    )


def test_the_better_estimator_and_its_draws(tree):
    table = diagfim.summarize(tree, relative_error=0.01, confidence=0.9)
    draws = diagfim.plan(tree, 0.01, 0.9)["draws_per_input"].sel(rule="clt")
    for layer in ("0", "2"):
        sums = [flat(tree, layer, f"variance_{j}").sum() for j in (1, 2)]
        best = "score" if sums[0] < sums[1] else "hessian"
        assert table.loc[layer, "better"] == best
        assert table.loc[layer, "draws"] == draws.sel(estimator=best, layer=layer) > 0
    fewest = draws.sel(layer=ALL, estimator=["score", "hessian"])
    assert table.loc[ALL, "better"] == fewest["estimator"].values[np.argmin(fewest.values)]
    assert table.loc[ALL, "draws"] == fewest.min()
    assert {table.loc["0", "better"], table.loc["2", "better"]} == {"score", "hessian"}


def test_equal_estimators_are_told_so():
    # a linear Gaussian model has no information to lose where its input is 0
    tree = diagfim.analyze(nn.Linear(3, 2, bias=False), torch.zeros(4, 3), "gaussian")
    row = diagfim.summarize(tree).loc["(model)"]
    assert (row["better"], row["draws"], row["fisher"]) == ("either", 1, 0)


def test_one_input_has_no_standard_error(model, inputs):
    assert diagfim.summarize(diagfim.analyze(model, inputs[:1]))["standard_error"].isna().all()


def test_errors_that_were_not_computed_have_no_column(model, inputs):
    tree = diagfim.estimate(model, inputs, "score", errors=False)
    assert list(diagfim.summarize(tree)) == ["parameters", "fisher"]


def test_a_table_of_a_file_is_that_of_the_tree(tree, tmp_path):
    tree.to_netcdf(tmp_path / "fisher.nc")
    with xr.open_datatree(tmp_path / "fisher.nc") as again:
        assert diagfim.summarize(again).equals(diagfim.summarize(tree))


def test_the_printed_table_is_whole(tree):
    printed = str(diagfim.summarize(tree))
    assert "..." not in printed
    assert all(word in printed for word in ("fisher", "standard_error", "better", "draws", ALL))


@pytest.mark.parametrize("tree", [None, xr.DataTree(), {"0.weight": 1}])
def test_what_is_no_result_is_refused(tree):
    with pytest.raises(UserError, match=r"^tree: .*diagfim\.analyze"):
        diagfim.summarize(tree)
