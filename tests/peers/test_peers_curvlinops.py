"""curvlinops on its own test networks, its operators applied to the unit vectors."""

import calls
import pytest
import torch
from comparing import (
    NLL,
    REPEATS,
    ROUNDINGS,
    assert_near,
    assert_noise,
    assert_same,
    empirical,
    exact,
    gradients,
    hessian_diagonal,
    scaled,
    terms,
)
from networks import CURVLINOPS, make
from torch import nn

import diagfim
from diagfim import matrices
from diagfim.errors import UserError

PEERS = ("curvlinops",)

REDUCTIONS = pytest.mark.parametrize("reduction", ["sum", "mean"])
NAMES = pytest.mark.parametrize("name", CURVLINOPS)


@REDUCTIONS
@NAMES
def test_ggn_is_the_fisher_in_units_of_the_loss(name, reduction):
    """However uneven the batches are: here five inputs and then the rest."""
    setting = CURVLINOPS[name]()
    assert len(setting.inputs) % 5 != 0
    theirs = calls.curvlinops(setting, "GGNLinearOperator", reduction)
    scale = NLL[setting.loss] * len(setting.inputs) / terms(setting, reduction)
    assert_same(theirs, scaled(exact(setting), scale))


@REDUCTIONS
@NAMES
def test_ef_is_the_empirical_fisher_with_the_scale_of_the_loss_outside(name, reduction):
    """The mean's 1/n stays outside of the squares, and so does the 1/T of MSELoss and BCE.

    It is Σ (∂ of the summed loss)² / terms, which for T > 1 is not the mean squared gradient of
    PyTorch's mean loss: that has 1/T².
    """
    setting = CURVLINOPS[name]()
    theirs = calls.curvlinops(setting, "EFLinearOperator", reduction)
    scale = NLL[setting.loss] ** 2 * len(setting.inputs) / terms(setting, reduction)
    assert_same(theirs, scaled(empirical(setting), scale))

    per_input = terms(setting, reduction) / len(setting.inputs) if reduction == "mean" else 1
    mean_loss = {
        key: (NLL[setting.loss] / per_input * value).square().sum(0)
        for key, value in gradients(setting).items()
    }
    count = len(setting.inputs) if reduction == "mean" else 1
    assert_same(theirs, scaled(mean_loss, per_input / count))


@REDUCTIONS
@NAMES
def test_hessian_is_that_of_the_data(name, reduction):
    setting = CURVLINOPS[name]()
    theirs = calls.curvlinops(setting, "HessianLinearOperator", reduction)
    scale = NLL[setting.loss] * len(setting.inputs) / terms(setting, reduction)
    assert_near(theirs, scaled(hessian_diagonal(setting), scale))
    # Piecewise linear between single parameters and outputs: the diagonals are the same.
    assert_near(theirs, scaled(exact(setting), scale))


def test_with_a_curved_activation_hessian_and_ggn_differ():
    setting = make(
        lambda: nn.Sequential(nn.Linear(10, 5), nn.Tanh(), nn.Linear(5, 3)),
        (7, 10),
        nn.CrossEntropyLoss,
    )
    hessian = calls.curvlinops(setting, "HessianLinearOperator")
    assert_near(hessian, hessian_diagonal(setting))
    ggn = calls.curvlinops(setting, "GGNLinearOperator")
    assert_same(ggn, exact(setting))
    assert (hessian["0.weight"] / ggn["0.weight"] - 1).abs().max() > 0.1
    # The last layer is linear in its parameters.
    torch.testing.assert_close(hessian["2.weight"], ggn["2.weight"], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("name", "draws"), [("classes", 1), ("two binary", 2), ("regression", 1)])
def test_monte_carlo_fisher_scatters_as_the_score_based_estimator(name, draws):
    setting = CURVLINOPS[name]()
    scale = NLL[setting.loss] * len(setting.inputs) / terms(setting, "mean")
    repeats = []
    for seed in range(REPEATS):
        one = calls.curvlinops(
            setting,
            "FisherMCLinearOperator",
            batch=10,
            seed=seed,
            mc_samples=draws,
            check_deterministic=False,
        )
        repeats.append(scaled(one, 1 / scale))
    assert_noise(repeats, setting, draws)


def test_the_default_seed_never_changes():
    """Averaging several operators gains nothing unless each has a seed of its own."""
    setting = CURVLINOPS["classes"]()
    one, two = (calls.curvlinops(setting, "FisherMCLinearOperator") for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_convolutional_network():
    """Sixty of its 5,142 parameters; the operator has no other way to a diagonal entry."""
    import curvlinops

    setting = make(
        lambda: nn.Sequential(
            nn.Conv2d(1, 6, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(256, 10),
        ),
        (10, 1, 28, 28),
        nn.CrossEntropyLoss,
    )
    operator = curvlinops.GGNLinearOperator(
        setting.model,
        nn.CrossEntropyLoss(),
        list(setting.parameters.values()),
        list(zip(setting.inputs.split(5), setting.labels.split(5), strict=True)),
        check_deterministic=False,
    )
    chosen = torch.randperm(operator.shape[0])[:60]
    columns = torch.zeros(operator.shape[0], 60, dtype=torch.float64)
    columns[chosen, torch.arange(60)] = 1.0
    theirs = (operator @ columns)[chosen, torch.arange(60)]
    ours = torch.cat([value.flatten() for value in exact(setting).values()])
    limit = 4 * ROUNDINGS * (ours[chosen] * ours.max()).sqrt() + 2 * ROUNDINGS**2 * ours.max()
    assert ((theirs - ours[chosen]).abs() <= limit).all()


def test_hutchinsons_diagonal_is_noisier_the_fuller_the_matrix_is():
    """`hutchinson_diag` takes random signs of the parameters: Var = Σ_{j≠i} F_ij² / probes.

    diagfim's "hutchinson" takes them of the outputs, and no other parameter is in its variance.
    """
    import curvlinops

    setting = CURVLINOPS["classes"]()
    node = matrices.analyze(setting.model, setting.inputs, blocks="full")["full"]
    matrix = torch.from_numpy(node["fisher"].values)
    names = [str(name).split("[")[0] for name in node["row"].values]
    assert names == [
        name for name, value in setting.parameters.items() for _ in range(value.numel())
    ]
    predicted = matrix.square().sum(1) - matrix.diagonal().square()
    repeats = torch.stack([curvlinops.hutchinson_diag(matrix, 1) for _ in range(2000)])
    limit = 6 * (predicted / len(repeats)).sqrt() + 1e-15
    assert ((repeats.mean(0) - matrix.diagonal()).abs() <= limit).all()
    assert 0.9 < float(repeats.var(0).sum() / predicted.sum()) < 1.1
    tree = diagfim.analyze(setting.model, setting.inputs, probes=True)
    ours = diagfim.variance(tree, "hutchinson")
    total = sum(float(one["total_variance"].sum()) for one in ours.children.values())
    assert total < 0.1 * float(predicted.sum())


def test_dropout_is_refused_by_both():
    """Its test case of a model that is not deterministic."""
    setting = make(
        lambda: nn.Sequential(nn.Linear(10, 5), nn.Dropout(), nn.ReLU(), nn.Linear(5, 2)),
        (12, 10),
        nn.CrossEntropyLoss,
    )
    setting.model.train()
    with pytest.raises(RuntimeError, match=r"[Dd]eterministic"):
        calls.curvlinops(setting, "GGNLinearOperator")
    with pytest.raises(UserError, match="train"):
        diagfim.analyze(setting.model, setting.inputs)
