"""The page "Which Fisher am I getting?": its formulas, its tables of numbers, its versions."""

import re
from importlib.metadata import PackageNotFoundError, version
from itertools import product

import pytest
import torch
import which_fisher
from calls import needed
from comparing import (
    assert_near,
    assert_same,
    empirical,
    exact,
    gradients,
    hessian_diagonal,
    scaled,
    values,
)
from networks import BACKPACK, CURVLINOPS, Setting, make
from torch import nn

import diagfim
from diagfim.families import Gaussian

PAGE = which_fisher.ROOT / "docs" / "which-fisher.md"
MODULES = {
    "BackPACK": ["backpack"],
    "curvlinops": ["curvlinops"],
    "NNGeometry": ["nngeometry"],
    "Laplace": ["laplace", "curvlinops", "backpack"],
    "ASDL": ["asdl"],
    "Opacus": ["opacus"],
}
PACKAGES = {
    "BackPACK": "backpack-for-pytorch",
    "curvlinops": "curvlinops-for-pytorch",
    "NNGeometry": "nngeometry",
    "Laplace": "laplace-torch",
    "ASDL": "asdfghjkl",
    "Opacus": "opacus",
}


IMAGES = pytest.mark.skipif(
    not which_fisher.MNIST.is_dir(), reason="only a checkout has the images"
)


def table(first: str) -> list[dict[str, str]]:
    """Rows of the page's table whose header starts with a cell, by column."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines()]
    start = next(k for k, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    header, _, *body = rows
    assert len(set(header)) == len(header)
    return [dict(zip(header, row, strict=True)) for row in body]


def library_of(text: str) -> None:
    """Skip where the library that is named first is not installed."""
    for library, modules in MODULES.items():
        if text.startswith(library):
            needed(*modules)


# ----------------------------------------------------------------------------- the formulas


def labelled(setting: Setting, label: int) -> torch.Tensor:
    return torch.full((len(setting.inputs),), label)


def probabilities(setting: Setting) -> torch.Tensor:
    with torch.no_grad():
        return setting.model(setting.inputs).softmax(1)


def expectation(setting: Setting, of: dict[int, dict], power: int = 1) -> dict:
    """Mean over the inputs of Σ_y p(y|x)^power times what is given for every label and input."""
    p = probabilities(setting) ** power / len(setting.inputs)
    return {
        name: sum(torch.tensordot(p[:, y], of[y][name], 1) for y in of)
        for name in setting.parameters
    }


def test_exact_is_the_expectation_over_the_models_labels_of_the_squared_gradient():
    setting = BACKPACK["tanh"]()
    squares = {
        y: {k: v.square() for k, v in gradients(setting, labelled(setting, y)).items()}
        for y in range(setting.outputs)
    }
    assert_same(expectation(setting, squares), exact(setting))


def test_a_sampled_label_weighted_by_its_probability_has_it_twice():
    """Which leaves Σ p² g², at most as much as Σ p g²."""
    setting = BACKPACK["tanh"]()
    squares = {
        y: {k: v.square() for k, v in gradients(setting, labelled(setting, y)).items()}
        for y in range(setting.outputs)
    }
    weighted = {
        y: {
            name: probabilities(setting)[:, y].reshape(-1, *[1] * (value.ndim - 1)) * value
            for name, value in of.items()
        }
        for y, of in squares.items()
    }
    found = expectation(setting, weighted)
    assert_same(expectation(setting, squares, power=2), found)
    truth = exact(setting)
    assert all((found[name] < truth[name]).all() for name in truth)


def test_the_squared_mean_of_a_batch_is_smaller_by_the_size_of_the_batch():
    """E over all labels of three inputs, drawn independently: F/3."""
    setting = make(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)),
        (3, 4),
        nn.CrossEntropyLoss,
    )
    p = probabilities(setting)
    found = {name: torch.zeros_like(value) for name, value in exact(setting).items()}
    for labels in product(range(3), repeat=3):
        chance = torch.stack([p[k, y] for k, y in enumerate(labels)]).prod()
        for name, value in gradients(setting, torch.tensor(labels)).items():
            found[name] += chance * value.mean(0).square()
    assert_same(found, scaled(exact(setting), 1 / 3))


def test_the_expected_hessian_is_the_fisher():
    """Of each label, weighted by the model, though no label's own is."""
    setting = BACKPACK["tanh"]()
    single = [
        Setting(setting.model, setting.inputs[k : k + 1], setting.labels[k : k + 1], setting.loss)
        for k in range(len(setting.inputs))
    ]
    of = {
        y: {
            name: torch.stack([hessian_diagonal(one, labelled(one, y))[name] for one in single])
            for name in setting.parameters
        }
        for y in range(setting.outputs)
    }
    truth = exact(setting)
    assert_near(expectation(setting, of), truth)
    first = next(iter(truth))
    assert all((of[y][first].mean(0) / truth[first] - 1).abs().max() > 0.1 for y in of)


@pytest.mark.parametrize(
    "row", table("loss for one input"), ids=lambda row: next(iter(row.values()))
)
@pytest.mark.parametrize("name", ["regression", "sigmoid regression"])
def test_what_a_squared_error_stands_for(name, row):
    """Of each loss: the variance by the Fisher of that Gaussian, and the squared gradient."""
    setting = {**BACKPACK, **CURVLINOPS}[name]()
    loss, variance, fisher, squared = (
        cell.replace("½", "1/2").replace("²", "**2") for cell in row.values()
    )
    if not loss.startswith("Σ"):
        loss = loss.partition(": ")[2]
    factor, given = loss.partition(")**2")[2], {"T": setting.outputs}
    tree = diagfim.estimate(
        setting.model, setting.inputs, "exact", family=Gaussian(eval(variance, given)), errors=False
    )
    assert_same(values(tree), scaled(exact(setting), eval(fisher, given)))
    # Σ (h − y)² has twice the gradient of its half, which `gradients` takes.
    scale = 2 * eval(f"1 {factor}", given)
    found = {k: (scale * v).square().mean(0) for k, v in gradients(setting).items()}
    assert_same(found, scaled(empirical(setting), eval(squared, given)))


def test_for_a_gaussian_the_empirical_fisher_weighs_by_squared_residuals():
    setting = make(lambda: nn.Sequential(nn.Linear(4, 1)), (6, 4), nn.MSELoss)
    with torch.no_grad():
        residuals = (setting.labels - setting.model(setting.inputs))[:, 0]
    expected = (residuals[:, None] * setting.inputs).square().mean(0, keepdim=True)
    assert_same({"0.weight": empirical(setting)["0.weight"]}, {"0.weight": expected})


# ------------------------------------------------------------------------------- the tables


@IMAGES
def test_what_the_page_says_of_the_network():
    (accuracy, confidence), (unseen, _) = (which_fisher.standing(seen) for seen in (True, False))
    stated = re.search(
        r"to (\d+) % accuracy and a mean confidence of (\d+) %;.*?right in (\d+) %",
        PAGE.read_text(encoding="utf-8"),
        re.DOTALL,
    )
    found = [100 * accuracy, 100 * confidence, 100 * unseen]
    # An image in a thousand may go the other way on another machine.
    assert [int(number) for number in stated.groups()] == pytest.approx(found, abs=0.6)


@IMAGES
def test_one_network_twelve_diagonals():
    rows = table("definition")
    found = which_fisher.definitions()
    assert [row["definition"] for row in rows] == list(found)
    for row, numbers in zip(rows, found.values(), strict=True):
        _, *cells = row.values()
        for cell, number in zip(cells, numbers, strict=True):
            # Two digits: rounding is at most 5%; a tenth of that is left to other machines.
            assert float(cell) == pytest.approx(number, rel=0.055, abs=1e-12), row


@IMAGES
def test_the_error_of_sampling_is_known_in_advance():
    """√(Σ Var / Σ F²) beside what one seed gave, which no more than a factor of 2 may part."""
    rows = table("draws")
    truth = exact(which_fisher.trained())
    for row in rows:
        draws = int(row["draws"])
        predicted = which_fisher.predicted_error(draws)
        _, found = which_fisher.compare(which_fisher.sampled(which_fisher.trained(), draws), truth)
        assert float(row["predicted"]) == pytest.approx(predicted, rel=0.055)
        assert float(row["found"]) == pytest.approx(found, rel=0.055)
        assert 0.5 < found / predicted < 2


def test_every_call_has_its_row():
    rows = table("library")
    assert [(row["library"], row["call"], row["reduction"]) for row in rows] == list(
        which_fisher.RETURNED
    )


@pytest.mark.parametrize(
    "row", table("library"), ids=lambda row: " ".join(row.values()).replace("`", "")
)
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss, nn.MSELoss])
def test_what_a_call_returns(row, loss):
    """As a multiple of F, E or H: exactly, or within 30% in the mean of 50 where it is sampled.

    That the sampled ones are right entry by entry, and how they scatter, is tested by library.
    """
    library_of(row["library"])
    setting, column = which_fisher.curved(loss), f"`{loss.__name__}`"
    call = which_fisher.RETURNED[row["library"], row["call"], row["reduction"]]
    torch.set_default_dtype(torch.float64)
    try:
        if row[column] == "—":
            with pytest.raises(NotImplementedError):
                call(setting)
            return
        expected = which_fisher.returned(row[column], setting)
        if row["labels"] == "model":
            many = [call(setting) for _ in range(50)]
        else:
            found = call(setting)
    finally:
        torch.set_default_dtype(torch.float32)
    if row["labels"] == "model":
        totals = torch.tensor([float(sum(one.sum() for one in each.values())) for each in many])
        truth = float(sum(value.sum() for value in expected.values()))
        assert totals.std() > 0.01 * truth
        assert float(totals.mean()) == pytest.approx(truth, rel=0.3)
    elif "H" in row[column]:
        assert_near(found, expected)
    else:
        assert_same(found, expected)


@pytest.mark.parametrize("surprise", which_fisher.SURPRISES)
@pytest.mark.parametrize("library", which_fisher.CALLS)
def test_what_meets_a_surprise(library, surprise):
    library_of(library)
    rows = {row["where"]: row for row in table("where")}
    assert list(rows) == list(which_fisher.SURPRISES)
    assert rows[surprise][library].strip("*") == which_fisher.outcome(library, surprise)


@pytest.mark.parametrize("call", which_fisher.MEMORY)
def test_memory_of_a_batch(call):
    """Megabytes to a fifth, and how they grow: by n·T·P or n·P numbers, or less than n·P/2."""
    library_of(call)
    rows = {row["one batch of n inputs"]: row for row in table("one batch of n inputs")}
    assert list(rows) == list(which_fisher.MEMORY)
    which_fisher.megabytes(call, which_fisher.BATCHES[0])  # what is made once
    found = [which_fisher.megabytes(call, n) for n in which_fisher.BATCHES]
    row = rows[call]
    for n, number in zip(which_fisher.BATCHES, found, strict=True):
        assert float(row[f"n = {n}"].removesuffix(" MB")) == pytest.approx(number, rel=0.2), n
    one, two, three = which_fisher.WIDTHS
    parameters = (one + 1) * two + (two + 1) * three
    growth = (found[1] - found[0]) * 1e6 / 8 / (which_fisher.BATCHES[1] - which_fisher.BATCHES[0])
    holds = row["holds"]
    if holds == "n·T·P":
        assert growth > 0.9 * three * parameters
    elif holds == "n·P":
        assert 0.9 * parameters < growth < 3 * parameters
    else:
        assert holds == "less"
        assert growth < 0.5 * parameters


# ----------------------------------------------------------------------------- the versions


@pytest.mark.parametrize("library", PACKAGES)
def test_version_on_the_page_is_the_one_that_was_run(library):
    (cell,) = [row["version"] for row in table("checked") if row["checked"] == library]
    try:
        installed = version(PACKAGES[library])
    except PackageNotFoundError:
        pytest.skip(f"{library} is not installed")
    assert cell == installed


def test_layers_that_the_page_counts():
    needed("nngeometry")
    from nngeometry.layercollection import LayerCollection

    assert len(LayerCollection._known_modules) == 12


def test_every_library_of_the_page_has_its_version():
    libraries = {row["library"] for row in table("library")}
    assert libraries == {*PACKAGES, "diagfim"} == {row["checked"] for row in table("checked")}
    for row in table("checked"):
        assert f"`{PACKAGES.get(row['checked'], 'diagfim')}`" in row["package"]
