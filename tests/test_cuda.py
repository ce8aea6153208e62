"""The same on a GPU, where there is one."""

import time

import numpy as np
import pytest
import torch
from torch import nn

import diagfim
from diagfim import networks

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

# float32 sums of 60,000 products: sqrt(60,000) roundings of 6e-8, and a few of every factor.
TOLERANCE = 1e-4


def agree(tree, other):
    for name in other.children:
        for quantity in other[name].data_vars:
            found, expected = tree[name][quantity].values, other[name][quantity].values
            scale = np.max(np.abs(expected))
            assert np.max(np.abs(found - expected)) <= TOLERANCE * scale, (name, quantity)


def study(seed=0):
    torch.manual_seed(seed)
    return networks.mlp(784, [128, 128, 128], 10, "sigmoid", 0.2).eval()


def test_sixty_thousand_inputs_as_on_a_processor_in_float64():
    model, inputs = study(), torch.rand(60_000, 784, generator=torch.Generator().manual_seed(1))
    expected = diagfim.analyze(model, inputs, dtype=torch.float64)
    model, inputs = model.cuda(), inputs.cuda()
    diagfim.analyze(model, inputs[:1000])
    start = time.perf_counter()
    tree = diagfim.analyze(model, inputs, memory=2**31)
    print(f"{time.perf_counter() - start:.2f} s")  # for the reader: never asserted
    agree(tree, expected)


@pytest.mark.parametrize("method", ["dense", "graph", "autodiff"])
@pytest.mark.parametrize("estimator", ["score", "hessian", "mixed", "exact", "hutchinson"])
def test_estimates_draw_the_same(method, estimator):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    inputs = torch.rand(20, 5)
    expected = diagfim.estimate(model.double(), inputs, estimator, 2, 1)
    found = diagfim.estimate(model.float().cuda(), inputs, estimator, 2, 1, method=method)
    agree(found, expected)


def test_empirical_with_labels_on_the_processor():
    torch.manual_seed(0)
    model, inputs = nn.Linear(5, 3), torch.rand(20, 5)
    labels = torch.arange(20) % 3
    expected = diagfim.estimate(model, inputs, "empirical", labels=labels)
    agree(diagfim.estimate(model.cuda(), inputs, "empirical", labels=labels), expected)
