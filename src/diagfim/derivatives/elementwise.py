"""First and second derivatives of activations, coordinate by coordinate."""

from collections.abc import Callable

import torch
from torch import Tensor


def bend(function: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Value, φ' and φ'' of a coordinate-wise function; None for a curvature that is zero.

    The derivatives of the sum over coordinates are the coordinate-wise ones, so two reverse passes
    through the activation alone give both for any elementwise module.
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = function(z.clone())  # it may work in place
        (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)
        curvature = None
        if slope.requires_grad:
            (curvature,) = torch.autograd.grad(slope.sum(), z, allow_unused=True)
    if curvature is not None and not curvature.any():
        curvature = None
    return value.detach(), slope.detach(), curvature
