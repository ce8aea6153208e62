"""Opacus: gradients of every input, whose squares make the empirical Fisher, or Î1."""

import calls
import pytest
from comparing import (
    NLL,
    assert_near,
    assert_same,
    drawn,
    drawn_labels,
    empirical,
    gradients,
    scaled,
)
from networks import BACKPACK, CURVLINOPS, NNGEOMETRY, Setting
from torch import nn

PEERS = ("opacus",)

SETTINGS = {
    "classes": CURVLINOPS["classes"],
    "two binary": CURVLINOPS["two binary"],
    "regression": CURVLINOPS["regression"],
    "conv1d": BACKPACK["conv1d"],
    "conv2d": BACKPACK["conv2d"],
    "group-norm": NNGEOMETRY["convolutions, group-norm"],
}


def per_input(setting: Setting, reduction: str) -> float:
    """By how much Opacus leaves the gradient of an input's loss above that of −log p.

    It takes out the mean over the batch, but not that over the outputs.
    """
    averaged = reduction == "mean" and setting.loss is not nn.CrossEntropyLoss
    return NLL[setting.loss] / (setting.outputs if averaged else 1)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("name", SETTINGS)
def test_gradients_of_every_input(name, reduction):
    setting = SETTINGS[name]()
    theirs = calls.opacus(setting, reduction)
    scale = per_input(setting, reduction)
    assert_near(theirs, scaled(gradients(setting), scale))
    squares = {key: value.square().mean(0) for key, value in theirs.items()}
    assert_same(squares, scaled(empirical(setting), scale**2))


@pytest.mark.parametrize("name", ["classes", "two binary", "regression"])
def test_at_drawn_labels_it_is_the_score_based_estimator(name):
    setting = SETTINGS[name]()
    labels = drawn_labels(setting, seed=7)
    theirs = calls.opacus(Setting(setting.model, setting.inputs, labels, setting.loss), "sum")
    squares = {
        key: value.square().mean(0) / NLL[setting.loss] ** 2 for key, value in theirs.items()
    }
    assert_same(squares, drawn(setting, "score", seed=7))


def test_eval_mode_records_nothing():
    from opacus import GradSampleModule

    setting = SETTINGS["classes"]()
    model = GradSampleModule(setting.model.eval())
    model.eval()
    with pytest.raises(ValueError, match="No activations detected"):
        nn.CrossEntropyLoss()(model(setting.inputs), setting.labels).backward()


def test_batch_norm_is_refused():
    from opacus import GradSampleModule

    with pytest.raises(NotImplementedError, match="BatchNorm"):
        GradSampleModule(NNGEOMETRY["convolutions, batch-norm"]().model.train())
