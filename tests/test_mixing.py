"""The best mix of both estimators is never worse than the better of them."""

import itertools

import numpy as np
import pytest
import torch
from reference import EPS, assert_close, inputs
from torch import nn

import diagfim
from diagfim.arrays import layer_of
from diagfim.mixing import Noise, best_weights, mix_variance

NETWORKS = {
    "sigmoid": lambda: nn.Sequential(
        nn.Linear(5, 12), nn.Sigmoid(), nn.Linear(12, 8), nn.Sigmoid(), nn.Linear(8, 3)
    ),
    "softplus": lambda: nn.Sequential(
        nn.Linear(5, 12), nn.Softplus(), nn.Linear(12, 8), nn.Softplus(), nn.Linear(8, 3)
    ),
    "relu": lambda: nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3)),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)
    ),
}
FAMILIES = ("categorical", "gaussian", "bernoulli", "poisson")


def network(name, seed):
    torch.manual_seed(seed)
    model = NETWORKS[name]().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model, inputs(5, 5, seed=seed)


def variances(tree, estimator, **options):
    found = diagfim.variance(tree, estimator, **options)
    return {name: node["draw_part"].values for name, node in found.children.items()}


def by_layer(values):
    totals = {}
    for name, value in values.items():
        totals[layer_of(name)] = totals.get(layer_of(name), 0.0) + value.sum()
    return np.array(list(totals.values()))


def flat(values):
    return np.concatenate([value.ravel() for value in values.values()])


def test_never_worse_than_the_better_of_the_two():
    """Of thousands of parameters, and of the layers for the sum; beyond either by rounding only.

    The three terms of the variance are of either sign and each is rounded a few times, relatively:
    what is left is at most 8 roundings of (|w| √V1 + |1 − w| √V2)².
    """
    number = 0
    for name, family, seed in itertools.product(NETWORKS, FAMILIES, (1, 2)):
        tree = diagfim.analyze(*network(name, seed), family)
        first, second = variances(tree, "score"), variances(tree, "hessian")
        of = {
            key: Noise(node["variance_1"].values, node["variance_2"].values, node["covariance_12"])
            for key, node in tree.children.items()
        }
        for level, total in (("parameter", flat), ("layer", by_layer)):
            mixed = total(variances(tree, "mixed", level=level))
            better = np.minimum(total(first), total(second))
            weights = best_weights({key: Noise(*map(np.asarray, of[key])) for key in of}, level)
            size = {
                key: (abs(w) * first[key] ** 0.5 + abs(1 - w) * second[key] ** 0.5) ** 2
                for key, w in weights.items()
            }
            assert np.all(mixed <= better + 8 * EPS * total(size))
            number += len(mixed)
    assert number >= 1000


@pytest.mark.parametrize("family", FAMILIES)
def test_least_variance(family):
    """(V1 V2 − C12²)/(V1 + V2 − 2 C12), and more at weights on either side."""
    tree = diagfim.analyze(*network("sigmoid", 3), family)
    v1, v2, c12 = (
        flat({name: node[key].values for name, node in tree.children.items()})
        for key in ("variance_1", "variance_2", "covariance_12")
    )
    noise = Noise(v1, v2, c12)
    [weight] = best_weights({"w": noise}).values()
    least = mix_variance(weight, noise)
    assert_close(least, (v1 * v2 - c12**2) / (v1 + v2 - 2 * c12), 1e-12)
    for step in (-0.1, 0.1):
        # A parabola: V(w* + s) = V(w*) + s² Var(Î1 − Î2).
        beside = least + step**2 * (v1 + v2 - 2 * c12)
        assert_close(mix_variance(weight + step, noise), beside, 1e-12)


def test_weights_of_a_layer_minimise_the_sum():
    tree = diagfim.analyze(*network("sigmoid", 3))
    noises = {
        name: Noise(*(node[key].values for key in ("variance_1", "variance_2", "covariance_12")))
        for name, node in tree.children.items()
    }
    weights = best_weights(noises, "layer")

    def total(step):
        return by_layer({k: mix_variance(weights[k] + step, noise) for k, noise in noises.items()})

    for layer in ("0", "2", "4"):
        both = {np.unique(weights[f"{layer}.{kind}"]).item() for kind in ("weight", "bias")}
        assert len(both) == 1
    assert np.all(total(0) < total(0.01))
    assert np.all(total(0) < total(-0.01))


def test_two_that_are_the_same_are_mixed_half_and_half():
    noise = Noise(*(np.array([[value]]) for value in (2.0, 2.0, 2.0)))
    assert best_weights({"w": noise})["w"].tolist() == [[0.5]]
    assert mix_variance(np.array([[0.5]]), noise).tolist() == [[2.0]]
