"""Exact per-sample derivatives of dense chains, without any Hessian.

With a^m = φ_m(z^m), z^m = W^m a^{m-1} + b^m, B^m_t = ∂h_t/∂a^m and D^m_t = φ_m''(z^m) ⊙ B^m_t,

    ∂h_t/∂z^l_i   = φ_l'(z^l_i) B^l_{t,i}
    ∂²h_t/∂z^l_i² = Σ_{m ≥ l} Σ_k D^m_{t,k} (∂z^m_k/∂z^l_i)²

because every affine map is linear: curvature enters at the activations alone, each contributing
through the square of one Jacobian that carries no class index.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diagfim.derivatives.factored import AffineFactors, Derivatives
from diagfim.errors import UserError

ELEMENTWISE = (
    nn.Identity,
    nn.Sigmoid,
    nn.LogSigmoid,
    nn.Tanh,
    nn.Softplus,
    nn.ReLU,
    nn.LeakyReLU,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
)
"""Activations applied coordinate by coordinate, which is all that the recursion asks of them."""


@dataclass(frozen=True)
class _Dense:
    """One affine map of the chain and what is applied to its result."""

    name: str
    linear: nn.Linear
    activations: tuple[nn.Module, ...]


def derivatives(model: nn.Module, inputs: Tensor) -> Derivatives:
    """Return the outputs of a dense chain and their factored first and second derivatives.

    Parameters
    ----------
    model : torch.nn.Module
        A `torch.nn.Sequential`, nested or not, of `Linear`, the activations in `ELEMENTWISE`,
        `Dropout` in eval mode and `Flatten`, or a single `Linear`.
    inputs : tensor, (n, ...)
        A batch, of the dtype and device of the model.  Whatever follows the first axis is
        flattened.

    Returns
    -------
    Derivatives
        Outputs (n, T) and one `AffineFactors` per `Linear`, as tensors of the inputs' dtype.

    Raises
    ------
    UserError
        If a module is of another kind, is in training mode with dropout, or appears twice; the
        message names it.

    Notes
    -----
    The work per sample is one product of the widths of three successive layers for each pair of
    layers that are two or more apart; memory is (n × width × width).  At the kink of a piecewise
    linear activation the derivative is PyTorch's choice.

    Examples
    --------
    >>> import torch
    >>> from diagfim.derivatives.dense import derivatives
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> found = derivatives(model, torch.ones(5, 3))
    >>> [tuple(layer.first.shape) for layer in found.layers]
    [(5, 2, 4), (5, 2, 2)]
    """
    chain = _chain(model)
    with torch.no_grad():
        fan_ins, slopes, curvatures, outputs = _forward(chain, inputs)
        firsts, seconds = _backward(chain, slopes, curvatures)
        layers = tuple(
            AffineFactors(
                weight=f"{step.name}weight",
                bias=None if step.linear.bias is None else f"{step.name}bias",
                inputs=a if step.linear.bias is None else _with_ones(a),
                first=first,
                second=second,
            )
            for step, a, first, second in zip(chain, fan_ins, firsts, seconds, strict=True)
        )
    return Derivatives(outputs, layers)


def _forward(
    chain: list[_Dense], inputs: Tensor
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """Inputs a of every affine map, φ' and φ'' at its result, and the outputs."""
    if inputs.ndim < 2:
        raise UserError(
            f"inputs: shape {tuple(inputs.shape)} has no axis of samples; reshape to (n, features)"
        )
    a = inputs.flatten(1)
    if a.shape[1] != chain[0].linear.in_features:
        raise UserError(
            f"inputs: {a.shape[1]} values a sample, but {chain[0].name}weight expects "
            f"{chain[0].linear.in_features}; reshape the inputs to (n, features)"
        )
    fan_ins, slopes, curvatures = [], [], []
    for step in chain:
        fan_ins.append(a)
        a, slope, curvature = _activate(step.activations, step.linear(a))
        slopes.append(slope)
        curvatures.append(curvature)
    return fan_ins, slopes, curvatures, a


def _activate(activations: Iterable[nn.Module], z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value, first and second derivative of a coordinate-wise function, coordinate by coordinate.

    The derivatives of the sum over coordinates are the coordinate-wise ones, so two reverse passes
    through the activation alone give both for any elementwise module.
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = z
        for activation in activations:
            value = activation(value)
        (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)
        curvature = None
        if slope.requires_grad:
            (curvature,) = torch.autograd.grad(slope.sum(), z, allow_unused=True)
    if curvature is None:
        curvature = torch.zeros_like(z)
    return value.detach(), slope.detach(), curvature


def _backward(
    chain: list[_Dense], slopes: list[Tensor], curvatures: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """∂h_t/∂z_i and ∂²h_t/∂z_i² of every affine map, in the order of the chain."""
    n, outputs = slopes[-1].shape
    eye = torch.eye(outputs, dtype=slopes[-1].dtype, device=slopes[-1].device)
    by_activation = eye.expand(n, outputs, outputs)  # B^m of the layer at hand
    bent: dict[int, Tensor] = {}  # D^m for every m whose activation is curved
    jacobians: dict[int, Tensor] = {}  # ∂z^m/∂a^l for m > l; shared by all samples when m = l + 1
    firsts: list[Tensor] = []
    seconds: list[Tensor] = []
    for index in reversed(range(len(chain))):
        if firsts:
            above = chain[index + 1].linear.weight
            by_activation = firsts[-1] @ above
            jacobians = {
                m: (jacobian * slopes[index + 1][:, None, :]) @ above
                for m, jacobian in jacobians.items()
            }
            if index + 1 in bent:
                jacobians[index + 1] = above
        through = torch.zeros_like(by_activation)
        for m, jacobian in jacobians.items():
            through = through + bent[m] @ jacobian.square()
        slope = slopes[index][:, None, :]
        own = curvatures[index][:, None, :] * by_activation
        if curvatures[index].any():
            bent[index] = own
        firsts.append(slope * by_activation)
        seconds.append(own + slope.square() * through)
    return firsts[::-1], seconds[::-1]


def _with_ones(a: Tensor) -> Tensor:
    return torch.cat([a, a.new_ones(a.shape[0], 1)], dim=1)


def _chain(model: nn.Module) -> list[_Dense]:
    """Read the affine maps and their activations off a module, in order."""
    chain: list[_Dense] = []
    seen: set[int] = set()
    for name, module in _leaves(model, ""):
        where = name.rstrip(".") or "model"
        # Exact types: a subclass, or a parametrised layer, may compute something else.
        kind = type(module)
        if kind is nn.Linear:
            assert isinstance(module, nn.Linear)
            _refuse_shared(name, module, seen)
            chain.append(_Dense(name, module, ()))
        elif kind is nn.Dropout:
            if module.training and module.p:
                raise UserError(
                    f"{where}: dropout in training mode makes the outputs random; "
                    "call model.eval() first"
                )
        elif kind in ELEMENTWISE and chain:
            last = chain[-1]
            chain[-1] = _Dense(last.name, last.linear, (*last.activations, module))
        elif kind not in (nn.Flatten, nn.Identity) or chain:
            raise UserError(
                f"{where}: {kind.__name__} is not supported here by the dense recursion, which "
                "knows chains of Linear, Dropout, a leading Flatten and "
                + ", ".join(known.__name__ for known in ELEMENTWISE)
            )
    if not chain:
        raise UserError("model: no Linear module found; the dense recursion needs at least one")
    return chain


def _refuse_shared(name: str, linear: nn.Linear, seen: set[int]) -> None:
    for which, parameter in linear.named_parameters(recurse=False):
        if id(parameter) in seen:
            raise UserError(
                f"{name}{which}: used twice in the network; the dense recursion needs every "
                "parameter to enter one affine map only"
            )
        seen.add(id(parameter))


def _leaves(module: nn.Module, prefix: str) -> Iterable[tuple[str, nn.Module]]:
    """Modules of nested Sequentials in order of execution, with the prefix of their parameters."""
    if type(module).forward is nn.Sequential.forward:
        # named_children() would pass over a module that stands in the chain twice.
        for name, child in module.named_modules(remove_duplicate=False):
            if name and "." not in name:
                yield from _leaves(child, f"{prefix}{name}.")
    else:
        yield prefix, module
