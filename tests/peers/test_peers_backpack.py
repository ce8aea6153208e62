"""BackPACK on its own test networks: the same numbers, once its loss's scale is taken out."""

import copy

import calls
import pytest
import torch
from comparing import (
    NLL,
    REPEATS,
    assert_near,
    assert_noise,
    assert_same,
    drawn,
    drawn_labels,
    empirical,
    exact,
    gradients,
    hessian_diagonal,
    scaled,
    terms,
)
from networks import BACKPACK, CURVLINOPS, make
from torch import nn

import diagfim
from diagfim.errors import UserError

PEERS = ("backpack",)
# Some of its layers make tensors of the default dtype.
pytestmark = pytest.mark.usefixtures("double")

BINARY = "sigmoid binary"
GGN = [name for name in BACKPACK if name != BINARY]
# What DiagHessian has no extension for.
WITHOUT = (
    "branch",
    "convolutional branch",
    "lstm",
    "rnn regression",
    "batch-norm regression",
    "embedding",
)
HESSIAN = [name for name in GGN if name not in WITHOUT]
SMOOTH = ["one layer", "linear", "sigmoid regression", "log-sigmoid", "tanh"]


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("name", GGN)
def test_diag_ggn_exact_is_the_fisher_in_units_of_the_loss(name, reduction):
    setting = BACKPACK[name]()
    theirs = calls.backpack(setting, "DiagGGNExact", "diag_ggn_exact", reduction)
    scale = NLL[setting.loss] * len(setting.inputs) / terms(setting, reduction)
    assert_same(theirs, scaled(exact(setting), scale))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("name", BACKPACK)
def test_sum_grad_squared_is_the_empirical_fisher_over_the_square_of_the_scale(name, reduction):
    """Scale of the loss enters squared: with the mean, 1/n is in every gradient, and not 1/n."""
    setting = BACKPACK[name]()
    theirs = calls.backpack(setting, "SumGradSquared", "sum_grad_squared", reduction)
    scale = (NLL[setting.loss] / terms(setting, reduction)) ** 2 * len(setting.inputs)
    assert_same(theirs, scaled(empirical(setting), scale))


@pytest.mark.parametrize("name", ["relu", "sigmoid regression", BINARY, "conv2d"])
def test_batch_grad_is_the_gradient_of_every_input(name):
    setting = BACKPACK[name]()
    theirs = calls.backpack(setting, "BatchGrad", "grad_batch", "mean")
    scale = NLL[setting.loss] / terms(setting, "mean")
    assert_near(theirs, scaled(gradients(setting), scale))


@pytest.mark.parametrize("name", HESSIAN)
def test_at_the_same_drawn_labels_both_estimators_are_backpacks(name):
    """SumGradSquared at labels of the model is Î1, DiagHessian is Î2: not on average, but exactly.

    The score-based one is a mean of squares.  The Hessian-based one is a difference that may be
    small beside its parts, hence the wider limit relative to the largest entry.
    """
    setting = BACKPACK[name]()
    labels = drawn_labels(setting, seed=3)
    n, scale = len(setting.inputs), NLL[setting.loss]

    score = calls.backpack(setting, "SumGradSquared", "sum_grad_squared", labels=labels)
    assert_same(scaled(score, 1 / (scale**2 * n)), drawn(setting, "score", seed=3))
    hessian = calls.backpack(setting, "DiagHessian", "diag_h", labels=labels)
    assert_near(scaled(hessian, 1 / (scale * n)), drawn(setting, "hessian", seed=3))
    batched = calls.backpack(setting, "BatchDiagHessian", "diag_h_batch", labels=labels)
    summed = {key: value.sum(0) for key, value in batched.items()}
    assert_near(scaled(summed, 1 / (scale * n)), drawn(setting, "hessian", seed=3))


@pytest.mark.parametrize("name", SMOOTH)
def test_the_hessian_at_the_labels_of_the_data_is_another_matrix(name):
    setting = BACKPACK[name]()
    theirs = calls.backpack(setting, "DiagHessian", "diag_h")
    n, scale = len(setting.inputs), NLL[setting.loss]
    assert_near(scaled(theirs, 1 / (scale * n)), hessian_diagonal(setting))
    bent = any(not isinstance(module, nn.Linear) for module in setting.model)
    first = next(iter(setting.parameters))
    off = (hessian_diagonal(setting)[first] / exact(setting)[first] - 1).abs().max()
    assert (off > 0.01) if bent else (off < 1e-9)


@pytest.mark.parametrize(("name", "draws"), [("relu", 1), ("sigmoid regression", 4)])
def test_diag_ggn_mc_scatters_as_the_score_based_estimator(name, draws):
    setting = BACKPACK[name]()
    scale = NLL[setting.loss] * len(setting.inputs)
    repeats = []
    for seed in range(REPEATS):
        torch.manual_seed(seed)
        one = calls.backpack(setting, "DiagGGNMC", "diag_ggn_mc", mc_samples=draws)
        repeats.append(scaled(one, 1 / scale))
    assert_noise(repeats, setting, draws)


# -------------------------------------------------------------------------- where they differ


def test_several_binary_outputs_are_refused():
    """BCEWithLogitsLoss with one output only; diagfim takes any number (see curvlinops)."""
    with pytest.raises(NotImplementedError, match="scalar"):
        calls.backpack(BACKPACK[BINARY](), "DiagGGNExact", "diag_ggn_exact")
    setting = CURVLINOPS["one binary"]()
    theirs = calls.backpack(setting, "DiagGGNExact", "diag_ggn_exact", "mean")
    assert_same(theirs, exact(setting))


@pytest.mark.parametrize("name", WITHOUT)
def test_the_hessian_knows_fewer_layers(name):
    with pytest.raises(NotImplementedError, match="diag_h does not have an extension"):
        calls.backpack(BACKPACK[name](), "DiagHessian", "diag_h")


def test_a_second_batch_replaces_the_first():
    """Nothing accumulates: the field holds what the latest backward pass found."""
    from backpack import backpack, extend, extensions

    setting = BACKPACK["relu"]()
    model = extend(copy.deepcopy(setting.model))
    loss = extend(nn.CrossEntropyLoss(reduction="sum"))
    with backpack(extensions.DiagGGNExact()):
        for number in range(3):
            loss(
                model(setting.inputs[number : number + 1]), setting.labels[number : number + 1]
            ).backward()
    last = make(lambda: setting.model, lambda: setting.inputs[2:], nn.CrossEntropyLoss)
    assert_same({k: v.diag_ggn_exact for k, v in model.named_parameters()}, exact(last))


def test_batch_norm_in_train_mode_is_refused_by_both():
    setting = BACKPACK["batch-norm regression"]()
    setting.model.train()
    with pytest.raises(NotImplementedError):
        calls.backpack(setting, "DiagGGNExact", "diag_ggn_exact")
    with pytest.raises(UserError, match="train"):
        diagfim.analyze(setting.model, setting.inputs, "gaussian")


@pytest.mark.parametrize("layer", [nn.GELU(), nn.LayerNorm(7), nn.Softplus()])
def test_a_layer_without_an_extension_is_refused(layer):
    setting = make(
        lambda: nn.Sequential(nn.Linear(10, 7), layer, nn.Linear(7, 5)),
        (3, 10),
        nn.CrossEntropyLoss,
    )
    with pytest.raises(NotImplementedError, match=type(layer).__name__):
        calls.backpack(setting, "DiagGGNExact", "diag_ggn_exact")
    assert all((value > 0).any() for value in exact(setting).values())
