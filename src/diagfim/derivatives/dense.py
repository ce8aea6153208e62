"""Exact per-sample derivatives of dense chains, without any Hessian.

With a^m = φ_m(z^m), z^m = W^m a^{m-1} + b^m, B^m_t = ∂h_t/∂a^m and D^m_t = φ_m''(z^m) ⊙ B^m_t,

    ∂h_t/∂z^l_i   = φ_l'(z^l_i) B^l_{t,i}
    ∂²h_t/∂z^l_i² = Σ_{m ≥ l} Σ_k D^m_{t,k} (∂z^m_k/∂z^l_i)²

because every affine map is linear: curvature enters at the activations alone, each contributing
through the square of one Jacobian that carries no class index.  The term m = l has the identity for
a Jacobian and the term m = l + 1 the weights of one layer, the same for all samples; only the terms
beyond need a matrix per sample, which is a product of two weight matrices around a diagonal.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from diagfim.derivatives.elementwise import bend
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


class Chain:
    """A chain of dense layers, ready to be differentiated at any batch of inputs.

    Parameters
    ----------
    model : torch.nn.Module
        A `torch.nn.Sequential`, nested or not, of `Linear`, the activations in `ELEMENTWISE`,
        `Dropout` in eval mode and `Flatten`, or a single `Linear`.
    example : tensor, (n, ...), optional
        Any inputs, to see at once that they fit; see `at`.
    memory : int
        Bytes that a batch of `batch_size` inputs may take.

    Attributes
    ----------
    batch_size : int
        Number of inputs at a time that keeps within the memory, and a processor busy.

    Raises
    ------
    UserError
        If a module is of another kind, has hooks, is in training mode with dropout, or appears
        twice; the message names it.

    Notes
    -----
    The work per sample is one product of the widths of three successive layers for each pair of
    layers that are two or more apart, and little beside it.  At the kink of a piecewise linear
    activation the derivative is PyTorch's choice.

    Examples
    --------
    >>> import torch
    >>> from diagfim.derivatives.dense import Chain
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> at = Chain(model).at(torch.ones(5, 3))
    >>> directions = torch.eye(2).expand(5, 2, 2)
    >>> [(block.weight, tuple(block.first.shape)) for block in at.pull(directions, directions)]
    [('0.weight', (5, 2, 4)), ('2.weight', (5, 2, 2))]
    """

    name = "dense"

    def __init__(
        self, model: nn.Module, example: Tensor | None = None, memory: int = 2**25
    ) -> None:
        self._chain = _chain(model)
        if example is not None:
            _flat(self._chain[0], example)
        # Of a sample: some six arrays (outputs, units) and four powers of the inputs, per layer.
        weights = [step.linear.weight for step in self._chain]
        outputs = len(weights[-1])
        entries = sum(6 * outputs * len(weight) + 4 * weight.shape[1] for weight in weights)
        self.batch_size = min(512, max(1, memory // (entries * weights[0].itemsize)))

    def at(self, inputs: Tensor) -> "_ChainAt":
        """Outputs at a batch, and derivatives on demand: a `Linearised`.

        Parameters
        ----------
        inputs : tensor, (n, ...)
            Of the dtype and device of the model.  Whatever follows the first axis is flattened.

        Raises
        ------
        UserError
            If the shape does not fit the first layer.
        """
        return _ChainAt(self._chain, inputs)


def derivatives(model: nn.Module, inputs: Tensor) -> Derivatives:
    """Return the outputs of a dense chain and their factored first and second derivatives.

    Parameters
    ----------
    model : torch.nn.Module
        As for `Chain`.
    inputs : tensor, (n, ...)
        As for `Chain.at`.

    Returns
    -------
    Derivatives
        Outputs (n, T) and one `AffineFactors` per `Linear`, in the order of the chain, along every
        output: ∂h_t/∂z_i and ∂²h_t/∂z_i².

    Raises
    ------
    UserError
        As `Chain` and `Chain.at`.

    Examples
    --------
    >>> import torch
    >>> from diagfim.derivatives.dense import derivatives
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> found = derivatives(model, torch.ones(5, 3))
    >>> [tuple(layer.first.shape) for layer in found.layers]
    [(5, 2, 4), (5, 2, 2)]
    """
    at = Chain(model).at(inputs)
    n, outputs = at.outputs.shape
    every = torch.eye(outputs, dtype=at.outputs.dtype, device=at.outputs.device)
    every = every.expand(n, outputs, outputs)
    blocks = (
        block if block.second is not None else replace(block, second=torch.zeros_like(block.first))
        for block in at.pull(every, every)
    )
    return Derivatives(at.outputs, tuple(blocks))


class _ChainAt:
    """The chain at a batch: inputs a of every affine map, φ' and φ'' at its result."""

    @torch.no_grad()
    def __init__(self, chain: list[_Dense], inputs: Tensor) -> None:
        a = _flat(chain[0], inputs)
        self._chain = chain
        self._fan_ins: list[Tensor] = []
        self._slopes: list[Tensor | None] = []
        self._curvatures: list[Tensor | None] = []
        for step in chain:
            self._fan_ins.append(a)
            a, slope, curvature = _activate(step.activations, step.linear(a))
            self._slopes.append(slope)
            self._curvatures.append(curvature)
        self.outputs = a

    @torch.no_grad()
    def pull(self, first: Tensor, second: Tensor | None) -> Iterator[AffineFactors]:
        """Derivatives along directions, from the first layer to the last; see `Linearised`."""
        sums, results = self._sweep(first)
        bent: list[Tensor | None] = [None] * len(self._chain)
        if second is not None:
            if second is not first:
                _, results = self._sweep(second)
            bent = [
                None if curvature is None else curvature[:, None, :] * b
                for curvature, b in zip(self._curvatures, results, strict=True)
            ]
        deep = self._deep(bent)
        for index in range(len(self._chain)):
            step, a, slope = self._chain[index], self._fan_ins[index], self._slopes[index]
            through = deep[index]
            above = bent[index + 1] if index + 1 < len(self._chain) else None
            if above is not None:
                neighbour = above @ self._chain[index + 1].linear.weight.square()
                through = neighbour if through is None else through.add_(neighbour)
            if slope is not None and through is not None:
                through *= slope.square()[:, None, :]
            own = bent[index]
            yield AffineFactors(
                weight=f"{step.name}weight",
                bias=None if step.linear.bias is None else f"{step.name}bias",
                inputs=a if step.linear.bias is None else _with_ones(a),
                first=sums[index],
                second=own if through is None else through if own is None else through.add_(own),
            )

    def _sweep(self, directions: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Derivatives along directions by the sums z^m and by the results a^m of every layer."""
        sums, results = [], [directions]
        for step, slope in zip(reversed(self._chain), reversed(self._slopes), strict=True):
            sums.append(results[-1] if slope is None else slope[:, None, :] * results[-1])
            if len(sums) < len(self._chain):
                results.append(sums[-1] @ step.linear.weight)
        return sums[::-1], results[::-1]

    def _deep(self, bent: list[Tensor | None]) -> list[Tensor | None]:
        """Σ_k D^m_k (∂z^m_k/∂a^l_i)² over m ≥ l + 2, for every l.

        The Jacobians of a few samples at a time: as many as fit into a processor's cache, or into
        the memory of an accelerator.
        """
        found: list[Tensor | None] = [None] * len(self._chain)
        for m in range(2, len(self._chain)):
            curved = bent[m]
            if curved is None:
                continue
            weights = [step.linear.weight for step in self._chain[: m + 1]]
            widest = max(weight.shape[1] for weight in weights[1:])
            few = max(1, _held(curved.device) // (len(weights[m]) * widest * curved.itemsize))
            for lower in range(m - 1):
                through = found[lower]
                if through is None:
                    through = curved.new_zeros(*curved.shape[:2], len(weights[lower]))
                    found[lower] = through
            for start in range(0, len(curved), few):
                rows = slice(start, start + few)
                jacobian = weights[m]
                for lower in reversed(range(m - 1)):
                    slope = self._slopes[lower + 1]
                    if slope is not None:
                        jacobian = jacobian * slope[rows, None, :]
                    jacobian = jacobian @ weights[lower + 1]
                    through = found[lower]
                    assert through is not None
                    through[rows] += curved[rows] @ jacobian.square()
        return found


def _held(device: torch.device) -> int:
    """Bytes of per-sample Jacobians to hold at a time: a processor's cache, a share of an GPU."""
    return 2**20 if device.type == "cpu" else 2**28


def _flat(first: _Dense, inputs: Tensor) -> Tensor:
    if inputs.ndim < 2:
        raise UserError(
            f"inputs: shape {tuple(inputs.shape)} has no axis of samples; reshape to (n, features)"
        )
    a = inputs.flatten(1)
    if a.shape[1] != first.linear.in_features:
        raise UserError(
            f"inputs: {a.shape[1]} values a sample, but {first.name}weight expects "
            f"{first.linear.in_features}; reshape the inputs to (n, features)"
        )
    return a


def _activate(
    activations: tuple[nn.Module, ...], z: Tensor
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Value, first and second derivative of a coordinate-wise function, coordinate by coordinate.

    None stands for a slope of one, and for a curvature that is zero at every coordinate.
    """
    if not activations:
        return z, None, None
    if len(activations) == 1 and type(activations[0]) is nn.Sigmoid:
        # Of the study's own networks: three times as fast as autograd's bookkeeping.
        value, rest = z.sigmoid(), (-z).sigmoid()
        slope = value * rest
        return value, slope, slope * (rest - value)
    return bend(nn.Sequential(*activations), z)


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
            if not isinstance(module.weight, nn.Parameter):
                raise UserError(
                    f"{name}weight: is computed from other parameters, as by weight_norm; the "
                    "dense recursion needs it to be a parameter itself"
                )
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
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        raise UserError(
            f"{prefix.rstrip('.') or 'model'}: {type(module).__name__} has hooks or a forward of "
            "its own, and may do something else than its class does; the dense recursion goes by "
            "the class"
        )
    if type(module).forward is nn.Sequential.forward:
        # named_children() would pass over a module that stands in the chain twice.
        for name, child in module.named_modules(remove_duplicate=False):
            if name and "." not in name:
                yield from _leaves(child, f"{prefix}{name}.")
    else:
        yield prefix, module
