"""Outer-product factors: one sample at a time, summed, averaged and cut into weight and bias."""

import numpy as np
import pytest
import torch
from reference import EPS, assert_close

from diagfim.derivatives.factored import AffineFactors, Columns, Derivatives, Entries

N, CLASSES, UNITS, FAN_IN = 5, 3, 4, 2


def factors(bias, library=np.asarray):
    rng = np.random.default_rng(3)
    a = rng.normal(size=(N, FAN_IN))
    columns = np.hstack([a, np.ones((N, 1))]) if bias else a
    first, second = rng.normal(size=(2, N, CLASSES, UNITS))
    arrays = (library(array) for array in (columns, first, second))
    return AffineFactors("w", "b" if bias else None, *arrays), a, rng.normal(size=(N, UNITS))


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def bias(request):
    return request.param


@pytest.fixture(params=[np.asarray, torch.tensor], ids=["numpy", "torch"])
def library(request):
    return request.param


def naive(a, left, power, bias):
    """left_i a_j^p parameter by parameter; 1 stands in for a_j at the bias."""
    found = {"w": np.empty((len(left), UNITS, FAN_IN))}
    for n, i, j in np.ndindex(*found["w"].shape):
        found["w"][n, i, j] = left[n, i] * a[n, j] ** power
    return found | ({"b": left.copy()} if bias else {})


# A power takes at most 8 roundings, the product one more; the sums add one for each term.


@pytest.mark.parametrize("power", [0, 2, 4, 6, 8])
def test_expand(bias, library, power):
    layer, a, left = factors(bias, library)
    found = layer.expand(library(left), power)
    expected = naive(a, left, power, bias)
    assert list(found) == list(layer.parameters) == list(expected)
    for name, value in expected.items():
        assert_close(found[name], value, 10 * EPS, np.abs(value))


@pytest.mark.parametrize("power", [0, 2, 4, 6, 8])
def test_total_is_the_sum_of_expand(bias, library, power):
    layer, a, left = factors(bias, library)
    found = layer.layout.split(layer.total(library(left), power))
    for name, value in naive(a, left, power, bias).items():
        assert_close(found[name], value.sum(0), (10 + N) * EPS, np.abs(value).sum(0))


@pytest.mark.parametrize("power", [0, 2, 4])
def test_average_weighs_every_parameter_alike(bias, library, power):
    layer, a, left = factors(bias, library)
    stacked = np.stack([left, left**2])  # with a leading axis
    found = np.asarray(layer.average(library(stacked), power))
    for k, one in enumerate(stacked):
        values = [value.reshape(N, -1) for value in naive(a, one, power, bias).values()]
        everything = np.concatenate(values, axis=1)
        terms = 10 + UNITS + FAN_IN + 1
        assert_close(found[k], everything.mean(1), terms * EPS, np.abs(everything).mean(1))


def test_expand_of_many_rows_at_one_input():
    layer, a, left = factors(bias=True)
    one = AffineFactors("w", "b", layer.inputs[:1], layer.first[:1], layer.second[:1])
    expected = naive(np.repeat(a[:1], N, axis=0), left, 2, True)
    for name, value in one.expand(left, 2).items():
        assert_close(value, expected[name], 10 * EPS)


def test_fan_in_does_not_count_the_ones(bias):
    layer, _, _ = factors(bias)
    assert layer.fan_in == FAN_IN


def test_columns_name_the_weight_and_the_bias(bias):
    layer, _, _ = factors(bias)
    assert layer.layout == Columns("w", "b" if bias else None)


def test_entries_become_tensors_again(library):
    shapes = {"kernel": (2, 1, 3), "scale": (), "bias": (2,)}
    values = np.random.default_rng(1).normal(size=(N, 9))
    layer = AffineFactors(
        "conv",
        None,
        library(np.ones((N, 1))),
        *(library(values[:, None]) for _ in range(2)),
        entries=Entries(tuple(shapes.items())),
    )
    assert layer.parameters == tuple(shapes)
    found = layer.expand(library(values), 4)
    assert {name: tuple(value.shape[1:]) for name, value in found.items()} == shapes
    flat = np.concatenate([np.asarray(value).reshape(N, -1) for value in found.values()], axis=1)
    assert np.array_equal(flat, values)
    [first, *_] = Derivatives(library(np.zeros((N, 1))), (layer,)).split()
    assert first.layers[0].parameters == tuple(shapes)


def test_derivatives_split_by_input(bias, library):
    layer, _, _ = factors(bias, library)
    outputs = library(np.arange(N * CLASSES, dtype=float).reshape(N, CLASSES))
    parts = list(Derivatives(outputs, (layer, layer)).split())
    assert len(parts) == N
    for k, part in enumerate(parts):
        assert part.outputs.tolist() == [outputs[k].tolist()]
        assert len(part.layers) == 2
        for one in part.layers:
            assert one.parameters == layer.parameters
            for field in ("inputs", "first", "second"):
                assert getattr(one, field).tolist() == [getattr(layer, field)[k].tolist()]
