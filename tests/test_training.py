"""Training is reproducible from one seed and leaves nothing behind."""

import math

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from diagfim import networks, training


def problem(n=64):
    """Two separable classes in the plane."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(n, 2, generator=generator)
    return points, (points[:, 0] > points[:, 1]).long()


def run(seed=1, model_seed=2, **changes):
    torch.manual_seed(model_seed)
    model = networks.mlp(2, [8], 2, "tanh", 0.3)
    options = {"epochs": 3, "batch_size": 10, "optimiser": "adam", "learning_rate": 0.02}
    epochs = list(
        training.train(model, problem(), problem(30), seed=seed, **{**options, **changes})
    )
    return model, epochs


@pytest.fixture(scope="module")
def trained():
    return run()


def weights(model):
    return torch.cat([value.detach().reshape(-1) for value in model.parameters()])


def test_two_runs_are_equal_bit_by_bit(trained):
    (one, epochs), (other, same) = trained, run()
    assert torch.equal(weights(one), weights(other))
    assert epochs[1:] == same[1:]
    assert (epochs[0].test_loss, epochs[0].test_accuracy) == (
        same[0].test_loss,
        same[0].test_accuracy,
    )


def test_the_optimisers_differ(trained):
    assert set(training.OPTIMISERS) == {"adam", "sgd"}
    assert not torch.equal(weights(trained[0]), weights(run(optimiser="sgd")[0]))


def test_another_seed_gives_another_run(trained):
    assert not torch.equal(weights(trained[0]), weights(run(seed=5)[0]))


def test_seed_of_the_dropout_masks(monkeypatch):
    """With the order of the samples held fixed, the seed still moves the masks."""
    monkeypatch.setattr(training, "integer", lambda seed, key: 0 if key == "order" else seed)
    assert not torch.equal(weights(run()[0]), weights(run(seed=5)[0]))


def test_seed_of_the_order(monkeypatch):
    monkeypatch.setattr(training, "integer", lambda seed, key: 0 if key == "dropout" else seed)
    assert not torch.equal(weights(run()[0]), weights(run(seed=5)[0]))


def test_masks_differ_between_epochs():
    """Equal samples in one batch and no learning: only the masks can move the loss."""
    model = networks.mlp(2, [8], 2, "tanh", 0.3)
    data = (torch.ones(5, 2), torch.zeros(5, dtype=torch.long))
    options = {"epochs": 3, "batch_size": 5, "optimiser": "sgd", "learning_rate": 0.0}
    _, *epochs = training.train(model, data, data, seed=1, **options)
    assert len({epoch.train_loss for epoch in epochs}) == 3
    assert len({epoch.test_loss for epoch in epochs}) == 1


def test_global_generator_is_neither_used_nor_moved():
    torch.manual_seed(7)
    model = networks.mlp(2, [8], 2, "tanh", 0.3)
    reference, _ = run(model_seed=7)
    torch.manual_seed(8)
    state = torch.get_rng_state()
    options = {"epochs": 3, "batch_size": 10, "optimiser": "adam", "learning_rate": 0.02}
    for _ in training.train(model, problem(), problem(30), seed=1, **options):
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(3)  # what the caller draws between two epochs does not matter either
        state = torch.get_rng_state()
    assert torch.equal(weights(model), weights(reference))


def test_epoch_0_is_the_initialisation():
    torch.manual_seed(2)
    model = networks.mlp(2, [8], 2, "tanh", 0.3)
    initial = weights(model)
    options = {"epochs": 2, "batch_size": 10, "optimiser": "sgd", "learning_rate": 0.1}
    states = []
    for epoch in training.train(model, problem(), problem(30), seed=1, **options):
        assert not model.training
        states.append((epoch, weights(model)))
    assert [epoch.number for epoch, _ in states] == [0, 1, 2]
    assert math.isnan(states[0][0].train_loss)
    assert torch.equal(states[0][1], initial)
    assert not torch.equal(states[1][1], initial)


def test_losses_and_accuracy_of_the_test_set(trained):
    """Dropout off: those of the weights as they stand, written out."""
    model, epochs = trained
    points, labels = problem(30)
    probabilities = model(points).softmax(1).detach().double()
    loss = -probabilities[torch.arange(30), labels].log().mean()
    # Single precision, a handful of roundings.
    assert epochs[-1].test_loss == pytest.approx(loss.item(), rel=1e-5)
    correct = (probabilities[:, 1] > probabilities[:, 0]).long() == labels
    assert epochs[-1].test_accuracy == correct.double().mean().item()


def test_one_step_of_gradient_descent():
    """One batch, no dropout: θ − lr ∇L, and the training loss is that before the step."""
    model = networks.mlp(2, [3], 2, "tanh", 0.0).double()
    points, labels = (problem()[0].double(), problem()[1])
    loss = nn.functional.cross_entropy(model(points), labels)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, model.parameters())])
    before = weights(model)
    data = (points, labels)
    options = {"epochs": 1, "batch_size": 64, "optimiser": "sgd", "learning_rate": 0.5}
    *_, last = training.train(model, data, data, seed=1, **options)
    assert torch.allclose(weights(model), before - 0.5 * gradient, rtol=1e-12, atol=1e-14)
    assert last.train_loss == pytest.approx(loss.item(), rel=1e-12)


def test_training_loss_weighs_every_sample_alike():
    """Batches of 48 and 16: with a learning rate of 0 the mean over samples, not over batches."""
    model = networks.mlp(2, [3], 2, "tanh", 0.0).double()
    data = (problem()[0].double(), problem()[1])
    loss = nn.functional.cross_entropy(model(data[0]), data[1]).item()
    options = {"epochs": 1, "batch_size": 48, "optimiser": "sgd", "learning_rate": 0.0}
    *_, last = training.train(model, data, data, seed=1, **options)
    assert last.train_loss == pytest.approx(loss, rel=1e-12)


def test_loss_decreases():
    _, epochs = run(epochs=8, learning_rate=0.05)
    assert epochs[-1].test_loss < 0.5 * epochs[0].test_loss
    assert epochs[-1].train_loss < epochs[1].train_loss
    assert epochs[-1].test_accuracy > 0.9


def test_images_to_inputs():
    images = torch.tensor([[[0, 51], [102, 255]], [[255, 0], [0, 0]]], dtype=torch.uint8)
    found = training.images_to_inputs(images, torch.float64)
    assert found.dtype == torch.float64
    assert torch.equal(found, torch.tensor([[0, 0.2, 0.4, 1], [1, 0, 0, 0]], dtype=torch.float64))


def test_the_accumulator_is_the_mean_of_the_squared_batch_gradients():
    """Adam's v̂ after t steps: Σ_s β^(t−s) g_s² / Σ_s β^s, its gradients by plain autograd."""
    inputs, labels = problem()
    beta, squares = 0.999, []
    torch.manual_seed(2)
    model = networks.mlp(2, [8], 2, "tanh", 0.0)

    def keep(step, *_):
        squares.append(
            [p.grad.double() ** 2 for group in step.param_groups for p in group["params"]]
        )

    handle = register_optimizer_step_pre_hook(keep)
    *_, last = training.train(
        model,
        (inputs, labels),
        problem(30),
        epochs=2,
        batch_size=30,
        optimiser="adam",
        learning_rate=0.02,
        seed=1,
    )
    handle.remove()
    assert len(squares) == 6
    powers = beta ** torch.arange(len(squares) - 1, -1, -1, dtype=torch.float64)
    for k, (name, found) in enumerate(last.accumulator.items()):
        expected = sum(p * one[k] for p, one in zip(powers, squares, strict=True)) / powers.sum()
        # six float32 updates, each rounded at 2^-24, and 1 - β^t in float64
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-12)
        assert name in dict(model.named_parameters())


def test_only_adam_accumulates():
    assert run()[1][0].accumulator == {}
    assert set(run()[1][-1].accumulator) == set(dict(run()[0].named_parameters()))
    assert run(optimiser="sgd")[1][-1].accumulator == {}
