"""Descent divides by what the estimators find, and the report chooses and compares fairly."""

import copy

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import diagfim
from diagfim import arrays, networks
from diagfim.derivatives.dense import Chain
from diagfim.errors import UserError
from diagfim.experiments import descent, reading
from diagfim.families import Categorical
from diagfim.figures import descent as figures
from diagfim.moments import Population
from diagfim.report import descent as report
from diagfim.streams import Batch

SETTINGS = {
    "hidden": [6, 5],
    "activation": "sigmoid",
    "training_epochs": 2,
    "batch_size": 20,
    "draws": 1,
    "memories": [0, 0.9],
    "learning_rates": [0.01, 0.03],
    "dampings": [0.001],
    "gradient_rates": [0.5, 1.0],
}


def labelled(number, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(number, 12, generator=generator, dtype=dtype)
    return inputs, torch.randint(0, 10, (number,), generator=generator)


def sets(dtype=torch.float32):
    return descent.Sets(*(labelled(n, n, dtype) for n in (45, 30, 25)))


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return networks.mlp(12, [6, 5], 10, "sigmoid", 0.0).double().eval()


def batch():
    return Batch(*labelled(40, 3, torch.float64), 0)


def replicated():
    parts = [descent.run(sets(), SETTINGS, seed) for seed in (0, 1, 2)]
    return {name: xr.concat([one[name] for one in parts], "replicate") for name in parts[0]}


@pytest.fixture(scope="module")
def gathered():
    return replicated()


def test_gradient_is_that_of_autograd():
    model, one = network(), batch()
    nn.functional.cross_entropy(model(one.inputs), one.labels).backward()
    found = descent.gradient(Chain(model).at(one.inputs), one)
    # Sums of 40 terms of order 1 in float64: rounding stays below 1e-14.
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", reading.METHODS)
def test_diagonal_is_the_estimate_of_the_package(method):
    model, one = network(), batch()
    found = descent.diagonal(descent.create(method, 1, 5), Chain(model).at(one.inputs), one)
    labels = one.labels if method == "empirical" else None
    tree = diagfim.estimate(model, one.inputs, method, seed=5, labels=labels, errors=False)
    for name, value in found.items():
        np.testing.assert_allclose(value, tree[name]["fisher"], rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("method", ["exact", "hessian", None])
def test_two_steps_are_the_update_rule(method):
    """Against plain autograd and `diagfim.estimate`, with the average written out."""
    settings, one = descent.Settings(0.01, 0.002, 0.9), batch()
    model, expected = network(), network()
    descending = descent.Descent(model, method, settings, 1, 5)
    average = {}
    for step in (1, 2):
        negative = descending.step(one)[1]
        nn.functional.cross_entropy(expected(one.inputs), one.labels).backward()
        tree = None
        if method is not None:
            tree = diagfim.estimate(expected, one.inputs, method, seed=5, errors=False)
        below = 0
        for name, parameter in expected.named_parameters():
            divisor = 1.0
            if tree is not None:
                diagonal = torch.from_numpy(tree[name]["fisher"].values)
                average[name] = 0.9 * average.get(name, 0) + 0.1 * diagonal
                corrected = average[name] / (1 - 0.9**step)
                below += int((corrected < 0).sum())
                divisor = corrected.clamp(min=0) + 0.002
            parameter.data -= 0.01 * parameter.grad / divisor
            parameter.grad = None
        if method is None:
            assert np.isnan(negative)
        else:
            number = sum(value.numel() for value in expected.parameters())
            assert negative == pytest.approx(below / number)
            assert (below > 0) == (method == "hessian")
    # Errors of 1e-16 are divided by at least δ = 0.002, over two steps.
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(
            dict(model.named_parameters())[name], parameter, rtol=1e-11, atol=1e-12
        )


def test_constant_diagonal_is_its_own_average():
    average, value = descent.Average(0.9), {"a": torch.tensor([2.0, -3.0])}
    for _ in range(5):
        found = average.update(value)
    torch.testing.assert_close(found["a"], value["a"])


def test_noise_is_what_the_exact_variances_foretell():
    """E ‖F̂ − F‖² = Σ_i V_i / n, by Lemma 3.1; the mean of 200 squares within 4 standard errors."""
    model, one = network(), batch()
    population = Population(Categorical())
    population.update(Chain(model).at(one.inputs))
    values = population.result()[0].values()
    fisher = sum(float((value["fisher"] ** 2).sum()) for value in values)
    found = np.array([descent.noise(model, one, 1, seed) for seed in range(200)])
    for row, key in enumerate(("variance_1", "variance_2")):
        squares = found[:, row, -1] ** 2
        expected = sum(float(value[key].sum()) for value in values) / len(one.inputs) / fisher
        assert abs(squares.mean() - expected) < 4 * squares.std(ddof=1) / len(squares) ** 0.5
    # Linear in its parameters, the last layer has no second derivatives: Î2 has no noise there.
    assert np.all(found[:, 1, 2] < 1e-12)
    assert np.all(found[:, 0, 2] > 1e-3)


def test_run_depends_on_its_seed_alone():
    torch.manual_seed(1)
    one = descent.run(sets(), SETTINGS, 7)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    two = descent.run(sets(), SETTINGS, 7)
    assert torch.equal(state, torch.get_rng_state())
    for name, dataset in one.items():
        xr.testing.assert_identical(dataset, two[name])
    other = descent.run(sets(), SETTINGS, 8)
    assert not other["natural"].equals(one["natural"])


def test_all_runs_start_at_one_point(gathered):
    first = gathered["natural"]["test_loss"].isel(epoch=0)
    plain = gathered["gradient"]["test_loss"].isel(epoch=0)
    for replicate in range(3):
        assert np.unique(first.isel(replicate=replicate)).size == 1
        assert float(first[replicate].max()) == float(plain[replicate].max())
    # Only Î2 and the mix, which holds it, can be negative.
    negative = gathered["natural"]["negative_share"].isel(epoch=-1)
    assert (negative.sel(estimator=["exact", "score", "empirical"]) == 0).all()
    assert (negative.sel(estimator="hessian", memory=0) > 0).all()


def test_diverged_run_is_recorded_as_nan():
    model = network()
    with torch.no_grad():
        model.dense1.bias[0] = float("inf")
        model.dense3.weight[0, 0] = float("nan")
    descending = descent.Descent(model, "score", descent.Settings(0.1, 0.1, 0), 1, 0)
    epochs = list(descent.descend(model, descending, sets(torch.float64), 3, 20, 0))
    assert len(epochs) == 4
    assert np.isnan([epoch.test_loss for epoch in epochs]).all()


def test_settings_are_chosen_by_the_other_replicates():
    dims = ("replicate", "learning_rate")
    validation = [[0.0, 9.0, 5.0], [8.0, 1.0, 5.0], [8.0, 1.0, np.nan]]
    dataset = xr.Dataset(
        {"validation_loss": (dims, validation), "test_loss": (dims, np.arange(9.0).reshape(3, 3))},
        coords={"learning_rate": [0.1, 0.2, 0.3]},
    )
    # Replicate 0 is left out of its own choice; the NaN bars 0.3 from the others'.
    found = reading.leave_one_out(dataset, ["learning_rate"])
    assert found["learning_rate"].values.tolist() == [0.2, 0.1, 0.1]
    assert found["test_loss"].values.tolist() == [1.0, 3.0, 6.0]
    alone = reading.leave_one_out(dataset.isel(replicate=[0]), ["learning_rate"])
    assert alone["learning_rate"].values.tolist() == [0.1]


def test_too_few_images_are_refused():
    images = xr.Dataset(
        {
            "images": (("sample", "row", "column"), np.zeros((9, 2, 2), np.uint8)),
            "labels": ("sample", np.arange(9)),
        }
    )
    tree = xr.DataTree.from_dict({"train": images, "test": images})
    found = descent.split_sets(tree, 4, 5, 9)
    assert [labels.tolist() for _, labels in found] == [[0, 1, 2, 3], [4, 5, 6, 7, 8], [*range(9)]]
    with pytest.raises(UserError, match="10 images of the train set are asked for"):
        descent.split_sets(tree, 4, 6, 9)


def test_figures_show_what_was_chosen(gathered):
    figure = figures.FIGURES["descent"](gathered)
    assert all(axis.get_xlabel() for axis in figure.axes)
    assert all("[nat]" in axis.get_ylabel() for axis in figure.axes[::2])
    (exact,) = [line for line in figure.axes[0].get_lines() if line.get_label() == "exact"]
    chosen = reading.leave_one_out(gathered["natural"], ("learning_rate", "damping"))
    expected = chosen["test_loss"].sel(estimator="exact", memory=0).median("replicate")
    np.testing.assert_allclose(exact.get_ydata(), expected)
    noise = figures.FIGURES["descent-noise"](gathered)
    assert len(noise.axes) == 4
    looks = [look[:2] for look in figures.LOOKS.values()]
    assert len({style for _, style in looks}) == len({colour for colour, _ in looks}) == len(looks)


def test_contents_compare_with_the_exact_diagonal(gathered, tmp_path):
    found = report.contents(gathered)
    assert len(found["rows"]) == 2 * len(reading.METHODS) + 1
    assert found["comparisons"] == 2 * (len(reading.METHODS) - 1)
    assert found["runs"] == 3 * (2 * 2 * len(reading.METHODS) + 2)
    chosen = reading.leave_one_out(gathered["natural"], ("learning_rate", "damping"))
    last = chosen["test_loss"].isel(epoch=-1).sel(memory=0)
    differences = (last.sel(estimator="score") - last.sel(estimator="exact")).values
    row = found["rows"][1]["difference"]
    assert row["mean"] == pytest.approx(differences.mean())
    assert row["error"] == pytest.approx(differences.std(ddof=1) / 3**0.5)
    assert report.claims(gathered) == []
    arrays.write(tmp_path / "x.nc", gathered, "title", SETTINGS)


def test_clear_differences_are_found_and_others_are_not(gathered):
    shifted = copy.deepcopy(gathered)
    losses = shifted["natural"]["test_loss"]
    exact = losses.sel(estimator="exact", drop=True)
    losses.loc[{"estimator": "score"}] = exact + xr.DataArray([0.9, 1.0, 1.1], dims="replicate")
    losses.loc[{"estimator": "hessian"}] = exact + xr.DataArray([-1.0, 0.0, 1.1], dims="replicate")
    validation = shifted["natural"]["validation_loss"]
    validation[:] = validation.sel(estimator="exact")
    clear = report.contents(shifted)["apart"]
    names = [row["name"] for row in clear]
    assert names.count(report.NAMES["score"]) == 2
    assert report.NAMES["hessian"] not in names


def test_interval_covers_as_often_as_it_says():
    """Of 2,000 normal samples of five, 95 % within 4 binomial standard errors (0.02)."""
    samples = np.random.default_rng(0).normal(size=(2000, 5))
    covered = np.mean([not report.interval(sample)["apart"] for sample in samples])
    assert abs(covered - 0.95) < 0.02
