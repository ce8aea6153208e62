"""Training of the classifiers of the study, reproducible from one seed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from diagfim.errors import UserError
from diagfim.seeding import integer

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, fused=True),  # a fifth off a small network's training
    "sgd": torch.optim.SGD,
}


@dataclass(frozen=True)
class Epoch:
    """State of the training after so many epochs; 0 is the initialisation.

    Attributes
    ----------
    number : int
        Epochs done.
    train_loss : float
        Mean cross-entropy over the epoch's batches, dropout active; NaN at 0.
    test_loss : float
        Mean cross-entropy over the test set, dropout off.
    test_accuracy : float
        Fraction of the test set classified correctly.
    accumulator : dict of str to tensor
        Adam's running mean of the squared gradients of the batch losses, bias corrected, by
        parameter; empty at 0 and for other optimisers.
    """

    number: int
    train_loss: float
    test_loss: float
    test_accuracy: float
    accumulator: dict[str, Tensor] = field(default_factory=dict, compare=False)


def images_to_inputs(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Grey levels 0 to 255, (n, rows, columns), to network inputs in [0, 1], (n, features)."""
    return images.flatten(1).to(dtype) / 255


def train(
    model: nn.Module,
    train_set: tuple[Tensor, Tensor],
    test_set: tuple[Tensor, Tensor],
    *,
    epochs: int,
    batch_size: int,
    optimiser: str,
    learning_rate: float,
    seed: int,
) -> Iterator[Epoch]:
    """Train by minibatch gradient descent on the cross-entropy, one epoch per iteration.

    Parameters
    ----------
    model : torch.nn.Module
        Updated in place; left in eval mode at every yield, so that it can be saved there.
    train_set, test_set : tuple of tensors
        Inputs (n, features) and labels (n,), on the model's device.
    epochs, batch_size : int
    optimiser : str
        A key of `OPTIMISERS`.
    learning_rate : float
    seed : int
        Of the order of the samples and of the dropout masks.

    Yields
    ------
    Epoch
        Before the first epoch and after each.
    """
    inputs, labels = train_set
    shuffle = torch.Generator().manual_seed(integer(seed, "order"))
    step = OPTIMISERS[optimiser](model.parameters(), lr=learning_rate)
    loss_of = nn.CrossEntropyLoss()
    yield Epoch(0, float("nan"), *_tested(model, test_set))
    # Dropout draws from its device's global generator: the caller's is put back after every epoch.
    cuda = [inputs.device] if inputs.is_cuda else []
    get, put = (
        (torch.cuda.get_rng_state, torch.cuda.set_rng_state)
        if cuda
        else (torch.get_rng_state, torch.set_rng_state)
    )
    state = torch.Generator(inputs.device).manual_seed(integer(seed, "dropout")).get_state()
    for number in range(1, epochs + 1):
        with torch.random.fork_rng(devices=cuda):
            put(state, *cuda)
            model.train()
            total = 0.0
            order = torch.randperm(len(labels), generator=shuffle)
            for batch in torch.split(order, batch_size):
                step.zero_grad()
                loss = loss_of(model(inputs[batch]), labels[batch])
                loss.backward()
                step.step()
                total += loss.item() * len(batch)
            state = get(*cuda)
        accumulator = _accumulator(model, step) if optimiser == "adam" else {}
        yield Epoch(number, total / len(labels), *_tested(model, test_set), accumulator)


def _accumulator(model: nn.Module, adam: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's v / (1 − β₂ᵗ), by parameter name."""
    beta = adam.param_groups[0]["betas"][1]
    return {
        name: adam.state[parameter]["exp_avg_sq"]
        / (1 - beta ** float(adam.state[parameter]["step"]))
        for name, parameter in model.named_parameters()
    }


def _tested(model: nn.Module, test_set: tuple[Tensor, Tensor]) -> tuple[float, float]:
    inputs, labels = test_set
    model.eval()
    with torch.no_grad():
        return evaluate(model(inputs), labels)


def evaluate(outputs: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy in nats, and the fraction classified correctly.

    Parameters
    ----------
    outputs : tensor, (n, T)
        Logits.
    labels : tensor of int, (n,)

    Raises
    ------
    UserError
        If the labels are not whole numbers from 0 to T − 1.

    Examples
    --------
    >>> import torch
    >>> from diagfim.training import evaluate
    >>> evaluate(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1]))[1]
    0.75
    """
    classes = outputs.shape[1]
    if (
        labels.ndim != 1
        or labels.is_floating_point()
        or not (0 <= labels.min() <= labels.max() < classes)
    ):
        raise UserError(
            f"labels: of shape {tuple(labels.shape)}, {labels.dtype}, from {labels.min()} to "
            f"{labels.max()}; the network's {classes} outputs want one whole number from 0 to "
            f"{classes - 1} for each input"
        )
    loss = nn.functional.cross_entropy(outputs, labels.long()).item()
    accuracy = (outputs.argmax(dim=1) == labels).double().mean().item()
    return loss, accuracy
