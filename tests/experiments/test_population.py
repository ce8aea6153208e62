"""Over the test set: averages as analyze gives them, bounds input by input, and a proven floor."""

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import diagfim
from diagfim import bounds, networks
from diagfim.experiments import population
from diagfim.figures import population as figures
from diagfim.report import population as section

LAYERS = ["dense1", "dense2", "dense3"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    one = networks.mlp(6, [5, 4], 3, "tanh", 0.0).double().eval()
    with torch.no_grad():
        one.dense3.weight.mul_(4)
    return one


@pytest.fixture(scope="module")
def inputs():
    return torch.randn(30, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_layer_averages_are_those_of_the_parameters(model, inputs):
    found = population.over_inputs(model, inputs)
    tree = diagfim.analyze(model, inputs)
    for layer in LAYERS:
        for quantity in population.QUANTITIES:
            both = [tree[f"{layer}.{part}"][quantity].values.ravel() for part in ("weight", "bias")]
            expected = np.concatenate(both).mean()
            assert float(found[quantity].sel(layer=layer)) == pytest.approx(expected, rel=1e-14)
    likeliest = torch.softmax(model(inputs), 1).max(1).values.mean()
    assert float(found["certainty"]) == pytest.approx(float(likeliest), rel=1e-14)


def test_tightness_at_one_input_is_that_of_analyze_and_of_plain_derivatives(model, inputs):
    found = population.tightness(model, inputs[:4])
    for k in range(4):
        tree = diagfim.analyze(model, inputs[k : k + 1])
        sigma = torch.softmax(model(inputs[k]), 0)
        m = min(sigma.max(), 1 - (sigma**2).sum())
        state = dict(model.named_parameters())

        def outputs(values, k=k):
            return torch.func.functional_call(model, values, (inputs[k],))

        jacobian = torch.func.jacrev(outputs)(state)
        for layer in LAYERS:
            names = [f"{layer}.weight", f"{layer}.bias"]
            one = found.sel(layer=layer).isel(input=k)
            for j, estimator in ((1, "score"), (2, "hessian")):
                values = [tree[name][f"variance_{j}"].values.ravel() for name in names]
                expected = np.concatenate(values).mean()
                exact = float(one["exact_variance"].sel(estimator=estimator))
                assert exact == pytest.approx(expected, rel=1e-11, abs=1e-300)
                assert exact <= float(one["bound_variance"].sel(estimator=estimator)) * (1 + 1e-12)
            norms = torch.cat([jacobian[name].flatten(1).square().sum(0) for name in names])
            expected = float((norms**2).mean() * 2 * m)
            bound = float(one["bound_variance"].sel(estimator="score"))
            assert bound == pytest.approx(expected, rel=1e-11)
    # I(h|x) has the kernel (1, ..., 1)
    assert float(np.abs(found["fisher_lambda_min"]).max()) < 1e-15


@given(st.lists(st.floats(-12, 12), min_size=2, max_size=6), st.integers(0, 2**32 - 1))
def test_the_noise_of_the_score_has_its_floor(logits, seed):
    """V1 / I² ≥ (1 − ε)² / ε − 1 for random derivatives; V1 by enumeration over the labels."""
    sigma = np.exp(np.array(logits) - max(logits))
    sigma /= sigma.sum()
    first = np.random.default_rng(seed).standard_normal(sigma.size)
    g = first - sigma @ first
    fisher = sigma @ g**2
    variance = sigma @ (g**2 - fisher) ** 2
    floor = float(bounds.score_noise_floor(sigma))
    assert floor >= 0
    # 1e-9: g of a certain label loses its digits to sigma @ first, as 1 - sigma does
    assert variance >= floor * fisher**2 * (1 - 1e-6) - 1e-9


def test_the_floor_is_attained_in_the_limit():
    """Two labels: V1 / I² = 1 / (ε (1 − ε)) − 4, and the floor differs from it by O(ε)."""
    for eps in (1e-2, 1e-3, 1e-4):
        exact = 1 / (eps * (1 - eps)) - 4
        floor = float(bounds.score_noise_floor(np.array([1 - eps, eps])))
        assert 0 <= exact - floor <= 3 * eps


def test_the_floor_at_a_certain_label_is_infinite():
    assert np.isinf(bounds.score_noise_floor(np.array([1.0, 0.0])))


@pytest.fixture(scope="module")
def groups(model, inputs):
    """Two replicates of two epochs."""
    moments, tightness = [], []
    for replicate in range(2):
        half = inputs[15 * replicate : 15 * replicate + 15]
        torch.manual_seed(replicate)
        fresh = networks.mlp(6, [5, 4], 3, "tanh", 0.0).double().eval()
        epochs = [population.over_inputs(one, half) for one in (fresh, model)]
        moments.append(xr.concat(epochs, dim="epoch").assign_coords(epoch=[0, 3]))
        tightness.append(population.tightness(model, half))
    return {
        "moments": xr.concat(moments, dim="replicate"),
        "tightness": xr.concat(tightness, dim="replicate"),
    }


def test_contents_follow_the_groups(groups):
    found = section.contents(groups)
    assert [row["layer"] for row in found["rows"]] == ["1", "2", "3"]
    last = groups["moments"].isel(epoch=-1)
    for row, layer in zip(found["rows"], LAYERS, strict=True):
        one = last.sel(layer=layer)
        assert row["variance_1"] == pytest.approx(float(one["variance_1"].median()))
        share = one["input_variance"] / (one["input_variance"] + one["variance_1"])
        assert row["shares"][1] == pytest.approx(float(share.median()))
    assert found["rows"][-1]["shares"][3] == 1  # no variance from y
    assert np.isnan(found["rows"][-1]["tightness"]["hessian"][1])
    assert found["epochs"] == [0, 3]


def test_claims_turn_with_the_evidence(groups):
    found = {claim.statement.split(",")[0]: claim for claim in section.claims(groups)}
    assert found["As p(y|x) turns deterministic"].verdict == "corrected"
    moments = groups["moments"]
    bent = {**groups, "moments": moments.assign(input_variance=100 * moments["variance_1"])}
    assert section.inputs_dominate(bent).verdict == "reproduced"
    larger = moments.assign(variance_2=2 * moments["variance_1"])
    assert section.score_wins_over_the_test_set({**groups, "moments": larger}).verdict == (
        "reproduced"
    )
    smaller = moments.assign(variance_2=moments["variance_1"] / 2)
    assert section.score_wins_over_the_test_set({**groups, "moments": smaller}).verdict == (
        "not reproduced"
    )
    tightness = groups["tightness"]
    assert section.upper_bounds_are_tighter(groups).verdict == "reproduced"
    lifted = tightness.assign(fisher_lambda_min=tightness["fisher_lambda_min"] + 0.1)
    assert section.upper_bounds_are_tighter({**groups, "tightness": lifted}).verdict == (
        "not reproduced"
    )
    flat = tightness.assign(bound_variance=3 * tightness["exact_variance"])
    assert section.tightness_depends_on_the_input({**groups, "tightness": flat}).verdict == (
        "not reproduced"
    )


def test_figures_show_the_shares(groups):
    figure = figures.shares(groups)
    axes = np.array(figure.axes).reshape(2, 3)
    moments = groups["moments"].sel(layer="dense1")
    share = moments["input_variance"] / (moments["input_variance"] + moments["variance_1"])
    line = axes[1, 0].get_lines()[0]
    np.testing.assert_allclose(line.get_ydata(), 100 * share.median("replicate"), rtol=1e-12)
    assert figures.tightness(groups).axes[0].get_ylabel() == "ln (bound / variance)"
    # the last layer has no curve of the Hessian-based estimator
    assert len(figures.tightness(groups).axes[2].get_lines()) == 2
