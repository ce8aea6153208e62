"""Diagonal natural-gradient descent on images with every estimator of the Fisher diagonal.

A step divides the gradient of the batch's loss, at the labels of the data, by the diagonal F̂ that
an estimator finds at the same inputs from N draws each:

    F̄ ← β F̄ + (1 − β) F̂,        θ_i ← θ_i − ε g_i / (max(F̄_i / (1 − βᵗ), 0) + δ)

The average is taken of F̂ as it is, so that it stays unbiased; only what divides is kept from being
negative, and how often that is needed is counted.  The empirical Fisher takes the labels of the
data, and gradient descent no F̂ at all, but learning rates of its own.  All runs of a replicate
share the initialisation, the order of the data and, where the networks are the same, the labels
drawn.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from diagfim import networks
from diagfim.arrays import layer_of
from diagfim.derivatives.dense import Chain
from diagfim.derivatives.factored import Linearised
from diagfim.errors import UserError
from diagfim.estimators import ESTIMATORS, Estimator
from diagfim.experiments.reading import METHODS, WHOLE
from diagfim.families import Categorical
from diagfim.seeding import integer
from diagfim.streams import Batch
from diagfim.training import images_to_inputs

Values = dict[str, Tensor]
"""A tensor by parameter name, in the shape of the parameter."""


class Sets(NamedTuple):
    """Inputs (n, features) and labels (n,): to train on, to choose settings by, to report."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Settings:
    """What one run may choose.

    Attributes
    ----------
    learning_rate : float
        ε.
    damping : float
        δ, in nat² as the diagonal.
    memory : float
        β, of the running average of the diagonal; 0 takes that of the batch alone.
    """

    learning_rate: float
    damping: float
    memory: float


class Run(NamedTuple):
    """One of the runs of a replicate: an estimator, or None for gradient descent, and settings."""

    method: str | None
    settings: Settings


class Average:
    """A running average of diagonals, bias corrected as in Adam."""

    def __init__(self, memory: float) -> None:
        self._memory = memory
        self._held = 1.0
        self._sums: Values = {}

    def update(self, diagonal: Values) -> Values:
        """Take one diagonal in, and return the average."""
        self._held *= self._memory
        for name, value in diagonal.items():
            before = self._sums.get(name, torch.zeros_like(value))
            self._sums[name] = self._memory * before + (1 - self._memory) * value
        return {name: value / (1 - self._held) for name, value in self._sums.items()}


class Epoch(NamedTuple):
    """What is recorded of an epoch; NaN where there is nothing, as after a run that diverged.

    Attributes
    ----------
    train_loss : float
        Mean over the epoch's batches, each before its step.
    test_loss, accuracy : float
        On the test set after the epoch.
    negative_share : float
        Share of the entries of F̄ below zero, over parameters and steps.
    """

    train_loss: float = float("nan")
    test_loss: float = float("nan")
    accuracy: float = float("nan")
    negative_share: float = float("nan")


def create(method: str, draws: int, seed: int) -> Estimator:
    """The package's own estimator, without standard errors."""
    return ESTIMATORS[method](Categorical(), draws, seed, errors=False)


def diagonal(estimator: Estimator, at: Linearised, batch: Batch) -> Values:
    """F̂ of one batch by parameter: an estimator of its own for every batch."""
    estimator.update(at, batch)
    return {name: value["fisher"] for name, value in estimator.result().items()}


def gradient(at: Linearised, batch: Batch) -> Values:
    """Gradient of the mean cross-entropy of a batch at the labels of the data.

    ∂_i (−log p(y | x)) = −∂_i h_a (t_a(y) − η_a), from the derivatives that F̂ is made of.
    """
    residuals = Categorical().residuals(at.outputs, batch.labels)
    along = (-residuals / len(residuals))[:, None, :]
    found: Values = {}
    for block in at.pull(along, None):
        found |= block.layout.split(block.first[:, 0].mT @ block.inputs)
    return found


def relative_errors(estimate: Values, exact: Values) -> dict[str, float]:
    """‖F̂ − F‖ / ‖F‖ (Euclidean), layer by layer and for the whole network.

    Examples
    --------
    >>> import torch
    >>> from diagfim.experiments.descent import relative_errors
    >>> one, two = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
    >>> relative_errors({"dense1.bias": two}, {"dense1.bias": one})
    {'dense1': 0.1, 'network': 0.1}
    """
    squares: dict[str, list[float]] = {}
    for name, reference in exact.items():
        off = [float((one**2).sum()) for one in (estimate[name] - reference, reference)]
        for group in (layer_of(name), WHOLE):
            squares[group] = [a + b for a, b in zip(squares.get(group, [0, 0]), off, strict=True)]
    order = [*(group for group in squares if group != WHOLE), WHOLE]
    return {group: (squares[group][0] / squares[group][1]) ** 0.5 for group in order}


class Descent:
    """A network on its way down, step by step.

    Parameters
    ----------
    model : torch.nn.Module
        A dense chain; updated in place.
    method : str or None
        A key of `ESTIMATORS`; None stands for gradient descent, which divides by 1.
    settings : Settings
    draws : int
        N for each input.
    seed : int
        Of the draws.
    """

    def __init__(
        self, model: nn.Module, method: str | None, settings: Settings, draws: int, seed: int
    ) -> None:
        self._parameters = dict(model.named_parameters())
        self._chain = Chain(model)
        self._method, self._settings = method, settings
        self._draws, self._seed = draws, seed
        self._average = Average(settings.memory)

    @torch.no_grad()
    def step(self, batch: Batch) -> tuple[float, float]:
        """Take one step; none if the loss is not finite.

        Returns
        -------
        loss : float
            Of the batch before the step.
        negative_share : float
            Of the entries of F̄.
        """
        assert batch.labels is not None
        at, negative = self._chain.at(batch.inputs), float("nan")
        loss = float(nn.functional.cross_entropy(at.outputs, batch.labels))
        if not np.isfinite(loss):
            return loss, negative
        update = gradient(at, batch)
        if self._method is not None:
            estimator = create(self._method, self._draws, self._seed)
            mean = self._average.update(diagonal(estimator, at, batch))
            negative = share_negative(mean)
            update = {
                name: value / (mean[name].clamp(min=0) + self._settings.damping)
                for name, value in update.items()
            }
        for name, parameter in self._parameters.items():
            parameter.sub_(self._settings.learning_rate * update[name])
        return loss, negative


def descend(
    model: nn.Module, descent: Descent, sets: Sets, epochs: int, batch_size: int, seed: int
) -> Iterator[Epoch]:
    """Train, one epoch per iteration.

    Parameters
    ----------
    model : torch.nn.Module
    descent : Descent
        Of the model.
    sets : Sets
        Of the dtype of the model.
    epochs, batch_size : int
    seed : int
        Of the order of the data.

    Yields
    ------
    Epoch
        Before the first epoch and after each; all NaN from the one on in which the loss overflows.
    """
    inputs, labels = sets.train
    shuffle = torch.Generator().manual_seed(seed)
    yield Epoch(float("nan"), *evaluate(model, sets.test))
    for number in range(epochs):
        order = torch.randperm(len(labels), generator=shuffle)
        losses, shares = [], []
        for position, rows in enumerate(order.split(batch_size)):
            start = number * len(order) + position * batch_size
            loss, share = descent.step(Batch(inputs[rows], labels[rows], start))
            losses.append(loss * len(rows))
            shares.append(share)
        if not np.isfinite(losses).all():
            yield from [Epoch()] * (epochs - number)
            return
        train_loss = float(np.sum(losses)) / len(order)
        yield Epoch(train_loss, *evaluate(model, sets.test), float(np.mean(shares)))


def share_negative(values: Values) -> float:
    """Share of the entries below zero, over all parameters."""
    number = sum(value.numel() for value in values.values())
    return sum(int((value < 0).sum()) for value in values.values()) / number


@torch.no_grad()
def evaluate(model: nn.Module, labelled: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Mean cross-entropy in nat, and the share classified correctly; NaN where the loss is."""
    outputs = model(labelled[0]).double()
    loss = float(nn.functional.cross_entropy(outputs, labelled[1]))
    accuracy = float((outputs.argmax(dim=1) == labelled[1]).double().mean())
    return (loss, accuracy) if np.isfinite(loss) else (float("nan"), float("nan"))


def noise(model: nn.Module, batch: Batch, draws: int, seed: int) -> list[list[float]]:
    """Relative errors of every method but the first, which is exact: (methods − 1, layers + 1)."""
    at = Chain(model).at(batch.inputs)
    exact, *others = (diagonal(create(one, draws, seed), at, batch) for one in METHODS)
    return [list(relative_errors(other, exact).values()) for other in others]


def split_sets(tree: xr.DataTree, samples: int, validation: int, test: int) -> Sets:
    """The first training images, those right after them, and the first test images.

    Parameters
    ----------
    tree : DataTree
        A data set as rule "dataset" writes it.
    samples, validation, test : int
        How many.

    Raises
    ------
    UserError
        If there are not so many.
    """
    found = []
    for half, start, number in (
        ("train", 0, samples),
        ("train", samples, validation),
        ("test", 0, test),
    ):
        one = tree[half].to_dataset().isel(sample=slice(start, start + number))
        if one.sizes["sample"] < number:
            raise UserError(
                f"experiments.descent: {start + number} images of the {half} set are asked for, "
                f"but there are {tree[half].sizes['sample']}; lower samples, validation or test"
            )
        images = torch.from_numpy(one["images"].values)
        labels = torch.from_numpy(one["labels"].values).long()
        found.append((images_to_inputs(images, torch.float32), labels))
    return Sets(*found)


def run(
    sets: Sets,
    settings: Mapping[str, Any],
    seed: int,
    watch: Callable[[Sequence[Run]], Iterable[Run]] = iter,
) -> dict[str, xr.Dataset]:
    """One replicate: every method at every setting, from one initialisation.

    Parameters
    ----------
    sets : Sets
    settings : mapping
        The block ``experiments.descent`` of the configuration.
    seed : int
        Of the replicate.
    watch : callable, optional
        Iterates over the runs and tells the user how far it is.

    Returns
    -------
    dict of str to Dataset
        "natural": losses, ``accuracy`` and ``negative_share`` by (estimator, memory, learning_rate,
        damping, epoch), and ``validation_loss`` after the last one.  "gradient": the same by
        (learning_rate, epoch).  "noise": ``relative_error`` of F̂ on the first batch of the training
        set, by (memory, learning_rate, damping, epoch, estimator, layer), along the runs with the
        exact diagonal.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(integer(seed, "initialisation"))
        start = networks.mlp(
            sets.train[0].shape[1], settings["hidden"], 10, settings["activation"], dropout=0.0
        ).eval()
    grid = [settings[key] for key in ("memories", "learning_rates", "dampings")]
    natural = [
        Run(method, Settings(rate, damping, memory))
        for method, memory, rate, damping in product(METHODS, *grid)
    ]
    plain = [Run(None, Settings(rate, 0, 0)) for rate in settings["gradient_rates"]]
    epochs, batch_size = settings["training_epochs"], settings["batch_size"]
    probe = Batch(sets.train[0][:batch_size], sets.train[1][:batch_size], 0)
    histories: list[list[Epoch]] = []
    validation: list[float] = []
    errors: list[list[list[list[float]]]] = []
    for one in watch([*natural, *plain]):
        model = copy.deepcopy(start)
        descent = Descent(
            model, one.method, one.settings, settings["draws"], integer(seed, "labels")
        )
        steps = descend(model, descent, sets, epochs, batch_size, integer(seed, "order"))
        history, along = [], []
        for number, epoch in enumerate(steps):
            history.append(epoch)
            if one.method == METHODS[0]:
                along.append(noise(model, probe, settings["draws"], integer(seed, "noise", number)))
        histories.append(history)
        validation.append(evaluate(model, sets.validation)[0])
        if along:
            errors.append(along)
    coords = {
        "memory": grid[0],
        "learning_rate": grid[1],
        "damping": grid[2],
        "epoch": range(epochs + 1),
    }
    dims = ("memory", "learning_rate", "damping")
    layers = [f"dense{k}" for k in range(1, len(settings["hidden"]) + 2)]
    sizes = [len(values) for values in grid]
    return {
        "natural": _dataset(
            histories[: len(natural)],
            validation[: len(natural)],
            {"estimator": list(METHODS), **coords},
        ),
        "gradient": _dataset(
            histories[len(natural) :],
            validation[len(natural) :],
            {"learning_rate": settings["gradient_rates"], "epoch": coords["epoch"]},
        ).drop_vars("negative_share"),
        "noise": xr.Dataset(
            {
                "relative_error": (
                    (*dims, "epoch", "estimator", "layer"),
                    np.array(errors).reshape(*sizes, epochs + 1, len(METHODS) - 1, -1),
                )
            },
            coords={**coords, "estimator": list(METHODS[1:]), "layer": [*layers, WHOLE]},
        ),
    }


def _dataset(
    histories: list[list[Epoch]], validation: list[float], coords: dict[str, Any]
) -> xr.Dataset:
    """Label the records of the runs of a grid; the last dimension is the epoch."""
    dims = tuple(coords)
    shape = [len(values) for values in coords.values()]
    records = np.array(histories).reshape(*shape, len(Epoch._fields))
    found = {name: (dims, records[..., k]) for k, name in enumerate(Epoch._fields)}
    found["validation_loss"] = (dims[:-1], np.reshape(validation, shape[:-1]))
    return xr.Dataset(found, coords={name: list(values) for name, values in coords.items()})
