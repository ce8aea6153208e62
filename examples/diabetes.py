"""A Gaussian regressor on the diabetes data: error bars, and which estimator at which noise.

442 patients, ten measurements of each, and how far the disease went in a year, all standardised.
Of the linear model everything is known: its Fisher matrix is Xᵀ X / (n s²), whose inverse over n
holds the squared standard errors of least squares.  The diagonal alone, 1 / √(n I_ii), gives those
that were right if all other coefficients were known, hence never larger ones.

A network with a hidden layer has curvature.  Of one draw Î1 has the variance 2 I(x)² at any noise
s², whereas that of Î2, ‖∂²h‖² / s², relative to I² ~ 1/s⁴ grows like s².
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn

import diagfim
from diagfim import matrices
from diagfim.families import Gaussian


class Found(NamedTuple):
    """What the example computes."""

    inputs: Tensor
    targets: Tensor
    linear: nn.Module
    linear_variance: float
    coefficients: pd.DataFrame
    """By coefficient: its value, and its standard error by the Fisher matrix and the diagonal."""
    network: nn.Module
    network_variance: float
    noise: pd.DataFrame
    """By noise variance and layer: the better estimator, and the draws for an error of 10 %."""


def data() -> tuple[Tensor, Tensor, list[str]]:
    """Standardised measurements (442, 10) and progression (442, 1); names of the former."""
    bunch = load_diabetes(scaled=False)
    table = np.column_stack([bunch.data, bunch.target])
    standard = torch.from_numpy((table - table.mean(0)) / table.std(0))
    return standard[:, :-1], standard[:, -1:], bunch.feature_names


@torch.no_grad()
def residual_variance(model: nn.Module, inputs: Tensor, targets: Tensor, fitted: int = 0) -> float:
    """s² of the targets about the predictions, less as many degrees of freedom as were fitted."""
    return float((targets - model(inputs)).square().sum()) / (len(targets) - fitted)


def least_squares(inputs: Tensor, targets: Tensor) -> nn.Linear:
    """The linear model of least squared residuals."""
    model = nn.Linear(inputs.shape[1], 1).double()
    design = torch.cat([inputs, torch.ones_like(targets)], dim=1)
    solution = torch.linalg.lstsq(design, targets).solution[:, 0]
    with torch.no_grad():
        model.weight.copy_(solution[:-1])
        model.bias.copy_(solution[-1:])
    return model


def standard_errors(
    model: nn.Linear, inputs: Tensor, variance: float, names: list[str]
) -> pd.DataFrame:
    """Of the coefficients, from the whole Fisher matrix, its diagonal, and an estimate of that."""
    n, family = len(inputs), Gaussian(variance)
    matrix = matrices.analyze(model, inputs, family, blocks="full")["full"]["fisher"].values
    trees = {
        "diagonal": diagfim.analyze(model, inputs, family),
        "score, one draw": diagfim.estimate(model, inputs, "score", 1, family=family),
    }
    columns = {
        "coefficient": torch.cat([model.weight[0], model.bias]).detach().numpy(),
        "matrix": np.linalg.inv(n * matrix).diagonal() ** 0.5,
    }
    for name, tree in trees.items():
        fisher = diagfim.to_state_dict(tree)
        columns[name] = (n * torch.cat([fisher["weight"][0], fisher["bias"]])).rsqrt().numpy()
    return pd.DataFrame(columns, index=[*names, "intercept"])


def train(inputs: Tensor, targets: Tensor, steps: int) -> nn.Module:
    """A network with one hidden layer."""
    model = nn.Sequential(nn.Linear(inputs.shape[1], 16), nn.Tanh(), nn.Linear(16, 1)).double()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        (targets - model(inputs)).square().mean().backward()
        optimiser.step()
    return model.eval()


def main(steps: int = 300, factors: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0)) -> Found:
    """Fit both models and their noise, then vary the noise of the network."""
    torch.manual_seed(0)
    inputs, targets, names = data()
    linear = least_squares(inputs, targets)
    linear_variance = residual_variance(linear, inputs, targets, fitted=inputs.shape[1] + 1)
    network = train(inputs, targets, steps)
    network_variance = residual_variance(network, inputs, targets)
    noise = {
        network_variance * factor: diagfim.summarize(
            diagfim.analyze(network, inputs, Gaussian(network_variance * factor))
        )
        for factor in factors
    }
    return Found(
        inputs,
        targets,
        linear,
        linear_variance,
        standard_errors(linear, inputs, linear_variance, names),
        network,
        network_variance,
        pd.concat(noise, names=["variance"]),
    )


if __name__ == "__main__":
    found = main()
    print(f"linear model, s² = {found.linear_variance:.3f}: standard errors of the coefficients")
    print(found.coefficients.round(4), "\n")
    print(f"network, fitted s² = {found.network_variance:.3f}")
    print(found.noise)
