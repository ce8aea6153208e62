"""A Laplace posterior from the exact diagonal, and what a sampled one does to its uncertainties.

The posterior of the parameters is taken to be normal about the trained ones, with the precision
n I_ii + δ.  δ, the precision of the prior, is where the marginal likelihood is largest.  Logits at
new images, linearised in the parameters, are then normal with the variance J diag(1/(n I + δ)) Jᵀ.
In "score" one drawn label per image has taken the place of the sum over labels in I.

It is the posterior of `laplace.DiagLaplace` in laplace-torch, for the Gauss-Newton diagonal of a
softmax is its Fisher diagonal.  Without correlations it is too wide, and the loss says so; one
label per image costs little beside that, but moves the marginal likelihood by many nats.
"""

from typing import NamedTuple

import digits
import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.functional import avg_pool2d, cross_entropy

import diagfim

Named = dict[str, Tensor]


class Posterior(NamedTuple):
    """A normal posterior about the parameters of a network."""

    precision: Named
    """n I + δ."""
    prior: float
    """δ."""
    log_marginal_likelihood: float


class Found(NamedTuple):
    """What the example computes."""

    model: nn.Module
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    posteriors: dict[str, Posterior]
    covariances: dict[str, Tensor]
    """Of the logits at the test images, (n, 10, 10)."""
    table: pd.DataFrame
    spread: pd.Series
    """Quantiles over test images and classes: the "score" standard deviation of a logit over the
    exact one."""
    evidences: pd.Series
    """Log marginal likelihood with "score", by the seed of the labels."""


def images(part: str, count: int) -> tuple[Tensor, Tensor]:
    """Digits of 14 x 14 pixels, (count, 196), and their labels."""
    found, labels = digits.load(part, count)
    return avg_pool2d(found, 2).flatten(1), labels


def train(model: nn.Module, inputs: Tensor, labels: Tensor, epochs: int) -> None:
    """Adam on the cross-entropy and a prior of precision 1."""
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1 / len(inputs))
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(32):
            optimiser.zero_grad()
            cross_entropy(model(inputs[rows]), labels[rows]).backward()
            optimiser.step()


@torch.no_grad()
def posterior(model: nn.Module, inputs: Tensor, labels: Tensor, fisher: Named) -> Posterior:
    """The posterior of the largest marginal likelihood, given the Fisher diagonal per input.

    log p(D) ≈ log p(D|θ) − (δ ‖θ‖² + Σ_i log(n I_ii + δ) − P log δ) / 2
    """
    theta = torch.cat([value.flatten() for _, value in model.named_parameters()]).double()
    curvature = torch.cat([fisher[name].flatten() for name, _ in model.named_parameters()])
    curvature = len(inputs) * curvature.double()
    likelihood = -cross_entropy(model(inputs), labels, reduction="sum").double()

    def evidence(log_prior: float) -> float:
        prior = np.exp(log_prior)
        occam = (curvature + prior).log().sum() - len(theta) * log_prior
        return float(likelihood - (prior * theta.square().sum() + occam) / 2)

    best = minimize_scalar(lambda log_prior: -evidence(log_prior), bounds=(-10, 10))
    prior = float(np.exp(best.x))
    precision = {name: len(inputs) * value + prior for name, value in fisher.items()}
    return Posterior(precision, prior, -best.fun)


def logit_covariances(model: nn.Module, inputs: Tensor, precision: Named) -> Tensor:
    """J diag(1/precision) Jᵀ at every input, (n, outputs, outputs)."""
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def logits(values: Named, one: Tensor) -> Tensor:
        return functional_call(model, values, (one[None],))[0]

    covariances = []
    for some in inputs.split(50):  # no more Jacobians at a time
        jacobians = vmap(jacrev(logits), (None, 0))(parameters, some)
        scaled = [(value / precision[name].sqrt()).flatten(2) for name, value in jacobians.items()]
        root = torch.cat(scaled, dim=2)
        covariances.append(root @ root.mT)
    return torch.cat(covariances)


def predictive_loss(logits: Tensor, covariances: Tensor, labels: Tensor, samples: int) -> float:
    """Mean −log p(label), averaged over logits drawn from the posterior."""
    roots = torch.linalg.cholesky(covariances + 1e-6 * torch.eye(logits.shape[1]))
    noise = torch.randn(samples, *logits.shape, 1)
    drawn = logits + (roots @ noise)[..., 0]
    probabilities = drawn.softmax(-1).mean(0)
    return -probabilities[torch.arange(len(labels)), labels].log().mean().item()


def main(
    train_images: int = 1000, test_images: int = 500, epochs: int = 30, seeds: int = 10
) -> Found:
    """Train, take both posteriors, predict."""
    torch.manual_seed(0)
    inputs, labels = images("train", train_images)
    test, test_labels = images("t10k", test_images)
    model = nn.Sequential(nn.Linear(196, 32), nn.Tanh(), nn.Linear(32, 10))
    train(model, inputs, labels, epochs)
    model.eval()
    with torch.no_grad():
        logits = model(test)

    posteriors, covariances = {}, {}
    rows = {"no posterior": {"loss": cross_entropy(logits, test_labels).item()}}
    for estimator in ("exact", "score"):
        tree = diagfim.estimate(model, inputs, estimator, errors=False)
        fisher = diagfim.to_state_dict(tree, model)
        found = posterior(model, inputs, labels, fisher)
        spread = logit_covariances(model, test, found.precision)
        torch.manual_seed(1)
        rows[estimator] = {
            "prior precision": found.prior,
            "log marginal likelihood": found.log_marginal_likelihood,
            "deviation of a logit": spread.diagonal(dim1=1, dim2=2).mean().sqrt().item(),
            "loss": predictive_loss(logits, spread, test_labels, samples=1000),
        }
        posteriors[estimator], covariances[estimator] = found, spread
    evidences = {}
    for seed in range(seeds):
        tree = diagfim.estimate(model, inputs, "score", seed=seed, errors=False)
        drawn = posterior(model, inputs, labels, diagfim.to_state_dict(tree, model))
        evidences[seed] = drawn.log_marginal_likelihood
    variances = {name: one.diagonal(dim1=1, dim2=2) for name, one in covariances.items()}
    ratio = (variances["score"] / variances["exact"]).sqrt().flatten()
    return Found(
        model,
        (inputs, labels),
        (test, test_labels),
        posteriors,
        covariances,
        pd.DataFrame.from_dict(rows, orient="index"),
        pd.Series(ratio.numpy()).quantile([0.05, 0.5, 0.95]),
        pd.Series(evidences),
    )


if __name__ == "__main__":
    found = main()
    print(found.table.round(3).to_string(), "\n")
    print("deviation of a logit, one label per image over exact, quantiles over images and classes")
    print(found.spread.round(3).to_string(), "\n")
    mean, deviation = found.evidences.mean(), found.evidences.std()
    print(f"log marginal likelihood, one label per image: {mean:.1f} ± {deviation:.1f} over seeds")
