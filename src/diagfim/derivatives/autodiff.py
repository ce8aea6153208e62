"""Exact per-sample derivatives of any module, by automatic differentiation alone.

What a network does need not be known: first derivatives are reverse-mode products, and the second
derivative along one coordinate is forward mode within forward mode, ∂²h(θ + ε e_i)/∂ε², for as many
coordinates at a time as memory allows.  That is one pass per coordinate, so a `Linear` which the
network applies once to vectors is differentiated by its sums z = W a + b instead: an offset on z_i
stands for a whole row of the weight, as in `factored`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from diagfim.derivatives.factored import AffineFactors
from diagfim.errors import UserError

Named = dict[str, Tensor]


@dataclass(frozen=True)
class _Offset:
    """A `Linear` that is differentiated by an offset on its result."""

    prefix: str
    module: nn.Linear

    @property
    def parameters(self) -> tuple[str, ...]:
        names = (f"{self.prefix}weight", f"{self.prefix}bias")
        return names[:1] if self.module.bias is None else names


class Autodiff:
    """Any network, ready to be differentiated at any batch of inputs.

    Parameters
    ----------
    model : torch.nn.Module
        Deterministic, in eval mode, with outputs (n, T) of which each row depends on one input.
    example : tensor, (n, ...)
        A few inputs, to try it.
    memory : int
        Bytes that a batch of `batch_size` inputs may take; one input at a time is always tried.

    Attributes
    ----------
    batch_size : int
        Number of inputs at a time that keeps within the memory.
    plain : bool
        Whether forward mode, or batching, fails for the model, so that it is differentiated by
        reverse mode twice, entry by entry and input by input, which is slower by far.

    Raises
    ------
    UserError
        If the model draws random numbers, or its inputs act on each other's outputs.

    Notes
    -----
    The second derivatives take one pass, of some four times the cost of a forward one, for each
    unit of the layers that are differentiated by offsets and for each entry of every other
    parameter.  At the kink of a piecewise linear activation the derivative is PyTorch's choice.

    Examples
    --------
    >>> import torch
    >>> from diagfim.derivatives.autodiff import Autodiff
    >>> model = torch.nn.Sequential(torch.nn.LayerNorm(3), torch.nn.Linear(3, 2))
    >>> at = Autodiff(model, torch.rand(2, 3)).at(torch.rand(5, 3))
    >>> directions = torch.eye(2).expand(5, 2, 2)
    >>> [(block.weight, tuple(block.first.shape)) for block in at.pull(directions, directions)]
    [('0.weight', (5, 2, 3)), ('0.bias', (5, 2, 3)), ('1.weight', (5, 2, 2))]
    """

    name = "autodiff"

    def __init__(self, model: nn.Module, example: Tensor, memory: int = 2**25) -> None:
        self.model = model
        _refuse_training(model)
        self.values = {name: p.detach() for name, p in model.named_parameters()}
        self.wanted = [name for name, p in model.named_parameters() if p.requires_grad]
        with torch.no_grad(), _differentiable():
            outputs, activations = _probe(model, example)
        self.plain = False
        self._memory = memory
        self._item = outputs.element_size()
        self.offsets = _true_offsets(self, example, _candidates(model, example))
        entries = [self.values[name].numel() for name in self.single_names()]
        units = sum(offset.module.out_features for offset in self.offsets)
        # First derivatives of the largest parameter, or of all offsets, with a working copy.
        held = 2 * outputs.shape[1] * max([*entries, units, 1]) + activations
        self.batch_size = min(128, max(1, memory // (held * self._item)))
        self._per_direction = 6 * activations * self._item
        self.part = max(1, memory // (8 * self.batch_size * outputs.shape[1] * self._item))
        self.plain = not _forward_mode_is_right(self, example)

    def single_names(self) -> list[str]:
        """Parameters that are differentiated entry by entry."""
        covered = {name for offset in self.offsets for name in offset.parameters}
        return [name for name in self.wanted if name not in covered]

    def chunk(self, n: int, entries: int) -> int:
        """Coordinates that second derivatives are taken along at a time, for n inputs."""
        return max(1, self._memory // (n * self._per_direction + 4 * entries * self._item))

    def at(self, inputs: Tensor) -> "_AutodiffAt":
        """Outputs at a batch, and derivatives on demand: a `Linearised`."""
        return _AutodiffAt(self, inputs)

    def seconds(self, inputs: Tensor, curved: bool = True) -> float:
        """Forecast for the derivatives along every output, from one chunk of second ones.

        Parameters
        ----------
        inputs : tensor, (n, ...)
        curved : bool
            Whether second derivatives are wanted at all.
        """
        at = self.at(inputs)
        every = at.outputs.new_ones(*at.outputs.shape, at.outputs.shape[1])
        start = time.perf_counter()
        for _ in at.pull(every, None):
            pass
        total = time.perf_counter() - start
        if curved:
            sizes = {name: self.values[name].numel() for name in self.single_names()}
            sizes |= {offset.prefix: offset.module.out_features for offset in self.offsets}
            largest = max(sizes, key=lambda name: sizes[name])
            some = min(sizes[largest], self.chunk(len(inputs), sizes[largest]))
            start = time.perf_counter()
            at.curvature(largest, torch.arange(some, device=inputs.device), every)
            total += (time.perf_counter() - start) / some * sum(sizes.values())
        return total

    def call(self, values: Named, offsets: Named, inputs: Tensor) -> Tensor:
        """Outputs at other values of some parameters, with offsets on the results of layers."""
        with ExitStack() as stack:
            stack.enter_context(_differentiable())
            for layer in self.offsets:
                if layer.prefix in offsets:
                    handle = layer.module.register_forward_hook(_adding(offsets[layer.prefix]))
                    stack.callback(handle.remove)
            outputs = functional_call(self.model, {**self.values, **values}, (inputs,))
        assert isinstance(outputs, Tensor)
        return outputs


class _AutodiffAt:
    """The network at a batch."""

    def __init__(self, network: Autodiff, inputs: Tensor) -> None:
        self._network = network
        self._inputs = inputs
        self.fan_ins: Named = {}
        with torch.no_grad(), ExitStack() as stack:
            stack.enter_context(_differentiable())
            for layer in network.offsets:
                handle = layer.module.register_forward_pre_hook(self._keep(layer.prefix))
                stack.callback(handle.remove)
            self.outputs: Tensor = network.model(inputs)

    def _keep(self, prefix: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            self.fan_ins[prefix] = arguments[0]

        return hook

    @torch.no_grad()
    def pull(self, first: Tensor, second: Tensor | None) -> Iterator[AffineFactors]:
        """Derivatives along directions, in the order of the parameters; see `Linearised`."""
        network = self._network
        by_weight = {layer.parameters[0]: layer for layer in network.offsets}
        covered = {name for layer in network.offsets for name in layer.parameters}
        of_offsets = self.first_of_offsets(first)
        one = self.outputs.new_ones(len(self.outputs), 1)
        for name in network.wanted:
            if name in by_weight:
                layer = by_weight[name]
                a = self.fan_ins[layer.prefix]
                with_bias = layer.module.bias is not None
                yield AffineFactors(
                    weight=name,
                    bias=layer.parameters[1] if with_bias else None,
                    inputs=torch.cat([a, one], dim=1) if with_bias else a,
                    first=of_offsets[layer.prefix],
                    second=self._second(layer.prefix, 0, layer.module.out_features, second),
                )
            elif name not in covered:
                whole = self._first_of_parameter(name, first)
                entries = whole.shape[2]
                for start in range(0, entries, network.part):
                    stop = min(entries, start + network.part)
                    bent = self._second(name, start, stop, second)
                    part = whole[:, :, start:stop]
                    yield AffineFactors(name, None, one, part, bent, start)

    def first_of_offsets(self, directions: Tensor) -> Named:
        """∂h along directions by every offset, one per sample: (n, K, units)."""
        zeros = {
            layer.prefix: self.outputs.new_zeros(len(self.outputs), layer.module.out_features)
            for layer in self._network.offsets
        }
        if self._network.plain:
            return {prefix: self._plainly(prefix, directions, None) for prefix in zeros}
        if not zeros:
            return {}
        pull = _pullback(lambda e: self._network.call({}, e, self._inputs), zeros)
        (found,) = vmap(pull, in_dims=1, out_dims=1)(directions)
        return dict(found)

    def _first_of_parameter(self, name: str, directions: Tensor) -> Tensor:
        """∂h along directions by the entries of one parameter: (n, K, entries)."""
        if self._network.plain:
            return self._plainly(name, directions, None)
        value = self._network.values[name]

        def of_sample(one: Tensor, along: Tensor) -> Tensor:
            pull = _pullback(lambda p: self._network.call({name: p}, {}, one[None])[0], value)
            (found,) = vmap(pull)(along)
            assert isinstance(found, Tensor)
            return found

        found = vmap(of_sample)(self._inputs, directions)
        assert isinstance(found, Tensor)
        return found.flatten(2)

    def _second(self, name: str, start: int, stop: int, directions: Tensor | None) -> Tensor | None:
        """∂²h along directions by some units of an offset, or entries of a parameter."""
        if directions is None:
            return None
        chunk = self._network.chunk(len(self.outputs), self._entries(name))
        parts = []
        for low in range(start, stop, chunk):
            indices = torch.arange(low, min(stop, low + chunk), device=self.outputs.device)
            parts.append(self.curvature(name, indices, directions))
        return torch.cat(parts, dim=2)

    def _entries(self, name: str) -> int:
        for layer in self._network.offsets:
            if layer.prefix == name:
                return layer.module.out_features
        return self._network.values[name].numel()

    @torch.no_grad()
    def curvature(self, name: str, indices: Tensor, directions: Tensor) -> Tensor:
        """∂²h along directions by the units or entries at some indices: (n, K, indices)."""
        network = self._network
        if network.plain:
            return self._plainly(name, directions, indices)
        value = network.values.get(name)
        entries = self._entries(name)
        places = torch.arange(entries, device=self.outputs.device)
        zero = self.outputs.new_zeros(())

        def along(index: Tensor) -> Tensor:
            direction = (places == index).to(self.outputs.dtype)

            def moved(size: Tensor) -> Tensor:
                if value is None:
                    return network.call({}, {name: size * direction}, self._inputs)
                there = value + size * direction.reshape(value.shape)
                return network.call({name: there}, {}, self._inputs)

            return _bend(moved, zero)

        bent = vmap(along)(indices)  # (indices, n, T)
        assert isinstance(bent, Tensor)
        return directions @ bent.permute(1, 2, 0)

    def _plainly(self, name: str, directions: Tensor, indices: Tensor | None) -> Tensor:
        """By reverse mode: ∂h along directions, or with indices ∂²h; input by input."""
        network = self._network
        rows = []
        for one, along in zip(self._inputs, directions, strict=True):
            with torch.enable_grad():
                value = network.values.get(name)
                if value is None:
                    moving = self.outputs.new_zeros(self._entries(name)).requires_grad_()
                    outputs = network.call({}, {name: moving}, one[None])[0]
                else:
                    moving = value.clone().requires_grad_()
                    outputs = network.call({name: moving}, {}, one[None])[0]
                row = []
                for direction in along:
                    slope = _gradient((direction * outputs).sum(), moving, indices is not None)
                    if indices is None:
                        row.append(slope)
                        continue
                    row.append(
                        torch.stack(
                            [_gradient(slope[i], moving, False)[i] for i in indices.tolist()]
                        )
                    )
            rows.append(torch.stack(row).detach())
        return torch.stack(rows)


# ------------------------------------------------------------------------- examining a network


def _refuse_training(model: nn.Module) -> None:
    for name, module in model.named_modules():
        random = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        mixing = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if module.training and (random or mixing):
            raise UserError(
                f"{name or 'model'}: {type(module).__name__} in training mode makes an output "
                "depend on chance or on the other inputs; call model.eval() first"
            )


def _probe(model: nn.Module, example: Tensor) -> tuple[Tensor, int]:
    """Outputs at the example, and numbers that a forward pass makes for each input."""
    sizes: list[int] = []

    def count(module: nn.Module, arguments: Any, result: Any) -> None:
        if isinstance(result, Tensor) and not any(True for _ in module.children()):
            sizes.append(result.numel())

    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_hook(count).remove)
        outputs = model(example)
    if not torch.equal(outputs, model(example)):
        raise UserError(
            "model: two passes over the same inputs differ; make its forward deterministic"
        )
    alone = model(example[:1])
    rounding = 1e3 * torch.finfo(outputs.dtype).eps * outputs.abs().max()
    if (outputs[:1] - alone).abs().max() > rounding:
        raise UserError(
            "model: the outputs of an input depend on the other inputs of its batch; only networks "
            "that treat inputs one by one have a Fisher information per input"
        )
    return outputs, max(1, (sum(sizes) + outputs.numel()) // len(example))


def _candidates(model: nn.Module, example: Tensor) -> list[_Offset]:
    """`Linear` modules called once, on vectors, with trainable parameters of their own."""
    calls: dict[nn.Module, list[int]] = {}

    def note(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        calls.setdefault(module, []).append(arguments[0].ndim)

    uses: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    linear = {name: one for name, one in model.named_modules() if type(one) is nn.Linear}
    with torch.no_grad(), ExitStack() as stack:
        for one in linear.values():
            stack.callback(one.register_forward_pre_hook(note).remove)
        model(example)
    return [
        _Offset(f"{name}." if name else "", one)
        for name, one in linear.items()
        if calls.get(one) == [2]
        and all(p.requires_grad and uses[id(p)] == 1 for p in one.parameters())
    ]


def _true_offsets(network: Autodiff, example: Tensor, found: list[_Offset]) -> list[_Offset]:
    """Those whose factors are the gradient: a weight may also be used where no module shows it."""
    network.offsets = found
    if not found:
        return []
    at = network.at(example)
    generator = torch.Generator().manual_seed(0)
    along = torch.randn(at.outputs.shape, generator=generator, dtype=torch.float64)
    along = along.to(at.outputs)
    by_offset = at.first_of_offsets(along[:, None])
    values = {name: network.values[name] for one in found for name in one.parameters}
    pull = _pullback(lambda some: network.call(some, {}, example), values)
    (gradients,) = pull(along)
    true = []
    for one in found:
        left = by_offset[one.prefix][:, 0]
        parts = {one.parameters[0]: left.T @ at.fan_ins[one.prefix]}
        sizes = {one.parameters[0]: left.abs().T @ at.fan_ins[one.prefix].abs()}
        if one.module.bias is not None:
            parts[one.parameters[1]] = left.sum(0)
            sizes[one.parameters[1]] = left.abs().sum(0)
        rounding = 1e3 * torch.finfo(at.outputs.dtype).eps
        if all(
            (gradients[name] - parts[name]).abs().max() <= rounding * sizes[name].max()
            for name in one.parameters
        ):
            true.append(one)
    return true


def _forward_mode_is_right(network: Autodiff, example: Tensor) -> bool:
    """Whether all that is used of forward mode and of batching works, and agrees with reverse mode.

    PyTorch's forward formulas are exact, but not all of them can be differentiated once more: some
    operations refuse, and some return a wrong number.
    """
    at = network.at(example)
    outputs = at.outputs
    generator = torch.Generator().manual_seed(1)

    def random(like: Tensor) -> Tensor:
        values = torch.randn(like.shape, generator=generator, dtype=torch.float64)
        return values.to(like)

    step = {name: random(network.values[name]) for name in network.wanted}
    along = random(outputs)
    zero = outputs.new_zeros(())

    def moved(size: Tensor) -> Tensor:
        there = {name: network.values[name] + size * step[name] for name in step}
        return network.call(there, {}, example)

    try:
        bent = _bend(moved, zero)
        for _ in at.pull(along[:, None], None):
            pass
        for name in [layer.prefix for layer in network.offsets] + network.single_names():
            at.curvature(name, torch.arange(1, device=outputs.device), along[:, None])
    except (RuntimeError, NotImplementedError):
        return False
    with torch.enable_grad():
        size = zero.clone().requires_grad_()
        slope = _gradient((along * moved(size)).sum(), size, True)[0]
        expected = _gradient(slope, size, False)[0]
    found = (along * bent).sum()
    scale = (along * bent).abs().sum() + slope.abs()
    tolerance = torch.finfo(outputs.dtype).eps ** 0.5
    return bool((found - expected.detach()).abs() <= tolerance * scale)


def _bend(moved: Callable[[Tensor], Tensor], zero: Tensor) -> Tensor:
    """Second derivative of a function of a scalar at zero, by forward mode in forward mode."""
    one = torch.ones_like(zero)

    def slope(size: Tensor) -> Tensor:
        return cast(Tensor, jvp(moved, (size,), (one,))[1])

    return cast(Tensor, jvp(slope, (zero,), (one,))[1])


def _pullback(function: Callable[..., Tensor], at: Any) -> Callable[[Tensor], tuple[Any]]:
    """The map from directions in the space of the results to gradients by the argument."""
    return cast(Callable[[Tensor], tuple[Any]], vjp(function, at)[1])


def _gradient(value: Tensor, by: Tensor, again: bool) -> Tensor:
    """Gradient, flat; zero where the value does not depend on `by`."""
    if not value.requires_grad:
        return torch.zeros_like(by).flatten()
    (found,) = torch.autograd.grad(
        value, by, create_graph=again, retain_graph=True, materialize_grads=True
    )
    return found.flatten()


# ------------------------------------------------------------------- what autograd needs to know


def _adding(offset: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def hook(module: nn.Module, arguments: Any, result: Tensor) -> Tensor:
        return result + offset

    return hook


def _normalised(x: Tensor, dimensions: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(dimensions, keepdim=True)
    return centred / (centred.square().mean(dimensions, keepdim=True) + eps).sqrt()


def _layer_norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    found = _normalised(x, tuple(range(-len(shape), 0)), eps)
    found = found if weight is None else found * weight
    return found if bias is None else found + bias


class _SpelledOut(TorchFunctionMode):
    """Functions whose second forward derivative PyTorch lacks, or has wrong, by their formulas."""

    FORMULAS: Mapping[Any, Callable[..., Tensor]] = {
        F.layer_norm: _layer_norm,
        F.silu: lambda x, inplace=False: x * torch.sigmoid(x),
        F.mish: lambda x, inplace=False: x * torch.tanh(F.softplus(x)),
        F.hardsigmoid: lambda x, inplace=False: F.relu6(x + 3) / 6,
        F.glu: lambda x, dim=-1: x.chunk(2, dim)[0] * torch.sigmoid(x.chunk(2, dim)[1]),
    }

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return self.FORMULAS.get(func, func)(*args, **(kwargs or {}))


@contextmanager
def _differentiable() -> Iterator[None]:
    """Attention by its formula, not by fused kernels, which know no forward derivatives."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), _SpelledOut():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
