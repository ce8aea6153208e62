"""The same on a GPU, where there is one."""

import time

import numpy as np
import pytest
import torch
from torch import nn

import diagfim
from diagfim import networks, training

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


def test_training_repeats_itself_and_leaves_the_global_generator():
    inputs = torch.rand(200, 784, generator=torch.Generator().manual_seed(2)).cuda()
    halves = [(inputs, (torch.arange(200) % 10).cuda())] * 2
    options = {"epochs": 2, "batch_size": 20, "optimiser": "adam", "learning_rate": 0.01, "seed": 3}
    runs = []
    for draws in (0, 5):
        model, losses = study().cuda(), []
        for epoch in training.train(model, *halves, **options):
            losses.append(epoch.train_loss)
            torch.rand(draws, device="cuda")  # a caller's own, between epochs
        runs.append((losses[1:], model.state_dict()))
    (first, weights), (second, others) = runs
    assert first == second  # dropout's masks, too
    for name, value in weights.items():
        assert torch.equal(value, others[name]), name
    torch.cuda.manual_seed(7)
    before = torch.cuda.get_rng_state()
    for _ in training.train(study().cuda(), *halves, **options):
        assert torch.equal(torch.cuda.get_rng_state(), before)
