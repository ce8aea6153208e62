"""Independent computations that the tests compare with.

Derivatives come from autograd through the whole network, moments from a sum over the labels or from
explicit tensors of t(y): nothing here knows of factors, layers or centred forms.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from diagfim.derivatives.dense import ELEMENTWISE

EPS = float(np.finfo(np.float64).eps)

ACTIVATIONS = [kind for kind in ELEMENTWISE if kind is not nn.Identity]


def assert_close(found, expected, relative, scale=None):
    """|found − expected| ≤ relative · scale, the scale being the largest |expected| by default."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.isfinite(found).all()
    scale = np.max(np.abs(expected), initial=0.0) if scale is None else np.asarray(scale)
    excess = np.abs(found - expected) - relative * scale
    assert np.all(excess <= 0), f"beyond the tolerance by up to {np.max(excess):.3g}"


# ---------------------------------------------------------------------------------- networks

WIDTHS = (3, 4, 2, 5)


def chain(
    activation: Callable[[], nn.Module], depth: int, bias: bool = True, classes: int = 3
) -> nn.Sequential:
    """Affine maps of different widths, in float64, with weights large enough to bend."""
    torch.manual_seed(depth)
    widths = (*WIDTHS[:depth], classes)
    modules: list[nn.Module] = []
    for fan_in, units in pairwise(widths):
        modules += [nn.Linear(fan_in, units, bias=bias), activation()]
    model = nn.Sequential(*modules[:-1]).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model.eval()


def inputs(n: int, *shape: int, seed: int = 1) -> Tensor:
    return torch.randn(
        n, *(shape or (3,)), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


# -------------------------------------------------------------------- derivatives by autograd


def of_flat_parameters(model: nn.Module, function: Callable[[Tensor], Tensor]):
    """The flat parameter vector, and function(outputs of one sample) of it."""
    shapes = {name: value.shape for name, value in model.named_parameters()}
    flat = torch.cat([value.detach().reshape(-1) for value in model.parameters()])

    def of_sample(vector: Tensor, sample: Tensor) -> Tensor:
        parts = vector.split([shape.numel() for shape in shapes.values()])
        named = {n: p.reshape(s) for (n, s), p in zip(shapes.items(), parts, strict=True)}
        return function(functional_call(model, named, (sample[None],))[0])

    return flat, of_sample


def by_autograd(
    model: nn.Module,
    samples: Tensor,
    function: Callable[[Tensor], Tensor] = lambda outputs: outputs,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and Hessian diagonal of function(outputs): (n, values, parameters), twice."""
    flat, of_sample = of_flat_parameters(model, function)
    first = vmap(jacrev(of_sample), (None, 0))(flat, samples)
    second = vmap(jacrev(jacrev(of_sample)), (None, 0))(flat, samples)
    return first.numpy(), second.diagonal(dim1=-2, dim2=-1).numpy()


def single_draws(model: nn.Module, samples: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p(c | x), and by their definitions Î1 = (∂ log p)², Î2 = −∂² log p at every label."""
    first, second = by_autograd(model, samples, lambda outputs: outputs.log_softmax(0))
    with torch.no_grad():
        sigma = model(samples).softmax(1).numpy()
    return sigma, first**2, -second


def by_name(model: nn.Module, flat: np.ndarray) -> dict[str, np.ndarray]:
    """Cut (..., parameters) into the model's parameter tensors: name to (..., *shape)."""
    found, start = {}, 0
    for name, value in model.named_parameters():
        part = flat[..., start : start + value.numel()]
        found[name] = part.reshape(*flat.shape[:-1], *value.shape)
        start += value.numel()
    return found


# --------------------------------------------------------------------------- moments of draws


def moments_of_draws(sigma: np.ndarray, score: np.ndarray, hessian: np.ndarray) -> dict:
    """Every conditional moment as a sum over labels: σ (n, C), draws (n, C, P), results (n, P)."""
    weight = sigma[:, :, None]
    fisher = (weight * score).sum(1)
    found = {"fisher": fisher}
    deviations = []
    for j, draws in enumerate((score, hessian), start=1):
        deviation = draws - (weight * draws).sum(1, keepdims=True)
        variance = (weight * deviation**2).sum(1)
        found[f"variance_{j}"] = variance
        with np.errstate(invalid="ignore", divide="ignore"):
            found[f"excess_kurtosis_{j}"] = (weight * deviation**4).sum(1) / variance**2 - 3
        found[f"range_{j}"] = np.abs(draws - fisher[:, None]).max(1)
        deviations.append(deviation)
    found["covariance_12"] = (weight * deviations[0] * deviations[1]).sum(1)
    return found


def label_tensors(sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Central moments of the one-hot t(y): I = Cov(t), κ of order 3 and K of order 4."""
    centred = np.eye(len(sigma)) - sigma
    return (
        np.einsum("y,ya,yb->ab", sigma, centred, centred),
        np.einsum("y,ya,yb,yc->abc", sigma, centred, centred, centred),
        np.einsum("y,ya,yb,yc,yd->abcd", sigma, *[centred] * 4),
    )
