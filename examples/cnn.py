"""A convolutional network: which estimator each layer wants, and what may be pruned.

Trains a small network on images of MNIST, takes its exact Fisher diagonal with the variances of
both estimators at other images, does what the table says, and prunes by Fisher and by size.
"""

from typing import NamedTuple

import digits
import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import diagfim


class Found(NamedTuple):
    """What the example computes."""

    model: nn.Module
    inputs: Tensor
    exact: xr.DataTree
    table: pd.DataFrame
    errors: pd.DataFrame
    """Relative error in norm of both estimators after as many draws as planned, by layer."""
    pruned: pd.DataFrame
    """Accuracy on the test set, by share of the parameters set to zero and by what chose them."""


def network() -> nn.Module:
    """A network with a smooth activation, so that either estimator has noise of its own."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2),
        nn.SiLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(16 * 6 * 6, 32),
        nn.SiLU(),
        nn.Linear(32, 10),
    )


def train(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """One epoch of Adam."""
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for rows in torch.randperm(len(images)).split(16):
        optimiser.zero_grad()
        cross_entropy(model(images[rows]), labels[rows]).backward()
        optimiser.step()


@torch.no_grad()
def pruned_accuracy(
    model: nn.Module, saliency: Tensor, share: float, images: Tensor, labels: Tensor
) -> float:
    """Accuracy without the parameters of least saliency (P,); the model is left as it was."""
    kept = parameters_to_vector(model.parameters())
    least = saliency.argsort()[: round(share * len(saliency))]
    vector_to_parameters(kept.index_fill(0, least, 0.0), model.parameters())
    accuracy = (model(images).argmax(1) == labels).double().mean().item()
    vector_to_parameters(kept, model.parameters())
    return accuracy


def main(
    train_images: int = 6000,
    fisher_images: int = 100,
    test_images: int = 2000,
    shares: tuple[float, ...] = (0.0, 0.5, 0.7, 0.8, 0.9),
) -> Found:
    """Train, analyse, estimate, prune."""
    torch.manual_seed(0)
    images, labels = digits.load("train", train_images)
    test, test_labels = digits.load("t10k", test_images)
    model = network()
    train(model, images, labels)
    model.eval()

    inputs = images[:fisher_images]
    exact = diagfim.analyze(model, inputs)
    table = diagfim.summarize(exact, relative_error=0.1)
    planned = int(table["draws"].iloc[-1])
    errors = pd.DataFrame(
        {
            estimator: relative_errors(
                diagfim.estimate(model, inputs, estimator, planned, seed=1, errors=False), exact
            )
            for estimator in ("score", "hessian")
        }
    )

    # The loss that the second-order expansion expects to rise by: θ² I / 2 (Optimal Brain Damage).
    fisher = diagfim.to_state_dict(diagfim.estimate(model, images, "exact", errors=False), model)
    theta = parameters_to_vector(model.parameters()).detach()
    information = parameters_to_vector(fisher[name] for name, _ in model.named_parameters())
    saliencies = {"fisher": theta**2 * information / 2, "size": theta.abs()}
    pruned = pd.DataFrame(
        {
            chosen_by: [
                pruned_accuracy(model, saliency, share, test, test_labels) for share in shares
            ]
            for chosen_by, saliency in saliencies.items()
        },
        index=pd.Index(shares, name="share"),
    )
    return Found(model, inputs, exact, table, errors, pruned)


def relative_errors(estimated: xr.DataTree, exact: xr.DataTree) -> pd.Series:
    """‖Î − I‖ / ‖I‖ by parameter tensor."""
    return pd.Series(
        {
            name: float(
                ((estimated[name]["fisher"] - node["fisher"]) ** 2).sum() ** 0.5
                / (node["fisher"] ** 2).sum() ** 0.5
            )
            for name, node in exact.children.items()
        }
    )


if __name__ == "__main__":
    found = main()
    print(found.table, "\n")
    print(f"relative error after {found.table['draws'].iloc[-1]} draws at each input")
    print(found.errors.round(3), "\n")
    print("accuracy after pruning\n", found.pruned.round(3), sep="")
