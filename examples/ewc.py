"""Elastic weight consolidation in 30 lines, with an exact Fisher diagonal and with a sampled one.

A network learns to tell the digits 0 to 4 apart, then, with the same five outputs, 5 to 9.  The
penalty λ/2 Σ_i I_i (θ_i − θ*_i)² holds those parameters in place that the first task rests on.  How
wrong is the diagonal from one drawn label per image, and does it matter?  `learn` and `hold` are
the 30 lines.  The diagonal is a mean over images: with λ = n the penalty would be that of a normal
posterior, and a smaller λ leaves more room for the second task.
"""

import copy
from typing import NamedTuple

import digits
import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import diagfim

Held = list[tuple[dict[str, Tensor], dict[str, Tensor]]]
"""Of every task so far the Fisher diagonal and where the parameters were."""


def learn(
    model: nn.Module, images: Tensor, labels: Tensor, held: Held, strength: float, epochs: int = 2
) -> None:
    """Descend on the cross-entropy and the penalty of every earlier task."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(32):
            loss = cross_entropy(model(images[rows]), labels[rows])
            for fisher, anchor in held:
                for name, value in model.named_parameters():
                    pull = fisher[name] * (value - anchor[name]) ** 2
                    loss = loss + strength / 2 * pull.sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def hold(model: nn.Module, tree: xr.DataTree, held: Held) -> None:
    """From now on hold the parameters where they are, as firmly as their Fisher diagonal says."""
    anchor = {name: value.detach().clone() for name, value in model.named_parameters()}
    held.append((diagfim.to_state_dict(tree, model), anchor))


class Found(NamedTuple):
    """What the example computes."""

    accuracies: pd.DataFrame
    """On the test sets of both tasks after the second one, by what held the first one."""
    importance: dict[str, xr.DataTree]
    """Fisher diagonals after the first task, by estimator."""
    error: float
    """Relative standard error, in norm, of the diagonal from one label per image."""
    first: nn.Module
    """The network after the first task."""
    inputs: Tensor
    """(n, 784), the images that the diagonals rest on."""


def tasks(part: str, count: int) -> list[tuple[Tensor, Tensor]]:
    """The digits 0 to 4 and 5 to 9, each with labels 0 to 4."""
    images, labels = digits.load(part, count)
    first = labels < 5
    images = images.flatten(1)
    return [(images[first], labels[first]), (images[~first], labels[~first] - 5)]


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the images that the network gets right."""
    return (model(images).argmax(1) == labels).double().mean().item()


def main(train_images: int = 6000, test_images: int = 2000, strength: float = 500.0) -> Found:
    """Learn the first task, then the second one in three ways."""
    torch.manual_seed(0)
    (first, second), tests = tasks("train", train_images), tasks("t10k", test_images)
    model = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 5))
    learn(model, *first, [], strength)

    inputs = first[0]
    importance = {
        "exact": diagfim.estimate(model, inputs, "exact"),
        "score": diagfim.estimate(model, inputs, "score", draws=1),
    }
    every = diagfim.summarize(importance["score"]).iloc[-1]
    accuracies = {"after the first task": [accuracy(model, *test) for test in tests]}
    for name, tree in {"no penalty": None, **importance}.items():
        held: Held = []
        if tree is not None:
            hold(model, tree, held)
        torch.manual_seed(1)
        later = copy.deepcopy(model)
        learn(later, *second, held, strength)
        accuracies[name] = [accuracy(later, *test) for test in tests]
    table = pd.DataFrame.from_dict(accuracies, orient="index", columns=["0 to 4", "5 to 9"])
    error = float(every["standard_error"] / every["fisher"])
    return Found(table.assign(mean=table.mean(axis=1)), importance, error, model, inputs)


if __name__ == "__main__":
    found = main()
    print("accuracy\n", found.accuracies.round(3), sep="")
    print(f"relative error of the diagonal from one label per image: {found.error:.2f}")
