"""Exact per-sample derivatives of any module, by automatic differentiation alone.

What a network does need not be known: first derivatives are reverse-mode products, and the second
derivative along one coordinate is forward mode within forward mode, ∂²h(θ + ε e_i)/∂ε², for as many
coordinates at a time as memory allows.  That is one pass per coordinate, so a `Linear` which the
network applies once to vectors is differentiated by its sums z = W a + b instead: an offset on z_i
stands for a whole row of the weight, as in `factored`.

PyTorch's rules for batching and for forward mode are incomplete, and here and there wrong.  What is
used of them is compared with plain reverse mode at the construction, parameter by parameter, and
done without where it fails.
"""

import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp, vmap
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diagfim.derivatives.factored import AffineFactors
from diagfim.derivatives.fitness import attention_by_formula, line, look_at_modes, try_out
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
        A few inputs, to try it on; no more than four are used.
    memory : int
        Bytes that a batch of `batch_size` inputs may take beside the model.  One input, direction
        and coordinate at a time are tried in any case: about what a step of training takes.

    Attributes
    ----------
    batch_size : int
        Number of inputs at a time that keeps within the memory.
    plain : bool
        Whether forward mode fails for the model, so that its second derivatives are taken by
        reverse mode twice, entry by entry and input by input, which is slower by far.

    Raises
    ------
    UserError
        If the outputs are not (n, T), the model draws random numbers, its inputs act on each
        other's outputs, or PyTorch does not differentiate it.

    Notes
    -----
    The second derivatives take one pass, of a few times the cost of a forward one, for each unit
    of the layers that are differentiated by offsets and for each entry of every other parameter.
    Where the network writes into its own tensors or decides by their values, as recurrent layers
    do, passes cannot be batched and each costs some milliseconds more.

    What PyTorch leaves out of a gradient is constant here as well: its choice at the kink of a
    piecewise linear activation, and the row of an embedding at `padding_idx`.

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
        example = example[:4]
        look_at_modes(model)
        self.values = {name: p.detach() for name, p in model.named_parameters()}
        self.wanted = [name for name, p in model.named_parameters() if p.requires_grad]
        outputs = try_out(model, example)
        watch = _watched(model, example)
        self.looped_first: set[str] = set()
        """Names that first derivatives are taken by one input after the other."""
        self.looped_second: set[str] = set()
        """Names that second derivatives are taken by one coordinate after the other."""
        self.plain = False
        self.refusal: str | None = None
        """What PyTorch says if there are no second derivatives."""
        self.offsets = _candidates(self, example, watch.uses)
        try:
            self.offsets = _true_offsets(self, example)
            self._set_sizes(outputs, watch, memory)
            _try_first(self, example)
        except RuntimeError as error:
            raise UserError(
                f"model: PyTorch does not differentiate it ({line(error)}); replace that operation"
            ) from None
        _try_second(self, example)

    def _set_sizes(self, outputs: Tensor, watch: "_Watch", memory: int) -> None:
        """How much to do at a time, from what one forward pass at the example makes."""
        self._memory = memory
        self._item = outputs.element_size()
        count, size = outputs.shape
        peak, total = watch.peak // count + 1, watch.total // count
        largest = max([self.entries(name) for name in self.single_names()], default=1)
        units = sum(offset.module.out_features for offset in self.offsets)
        # First derivatives of the largest parameter, or of all offsets, with a working copy; what
        # is on the way back, along every output; and all that a forward pass keeps for it.
        held = size * (2 * max(largest, units) + 2 * peak) + total
        # Three kinds of tangents, none of which is kept, and what they are made from: 5 to 7 times
        # the peak was measured, for convolutions, attention and layer-norm.
        self._per_direction = 8 * peak * self._item
        per_input = max(held * self._item, self._per_direction)
        self.batch_size = min(128, max(1, memory // per_input))
        # No fewer entries than outputs, lest first derivatives take more passes than second ones.
        self.part = max(size, memory // (8 * self.batch_size * size * self._item))

    def single_names(self) -> list[str]:
        """Parameters that are differentiated entry by entry."""
        covered = {name for offset in self.offsets for name in offset.parameters}
        return [name for name in self.wanted if name not in covered]

    def entries(self, name: str) -> int:
        """Coordinates of a parameter, or of the offset of a layer given by its prefix."""
        for offset in self.offsets:
            if offset.prefix == name:
                return offset.module.out_features
        return self.values[name].numel()

    def chunk(self, n: int, entries: int) -> int:
        """Coordinates that second derivatives are taken along at a time, for n inputs."""
        return max(1, self._memory // (n * self._per_direction + 4 * entries * self._item))

    def group(self, n: int, entries: int) -> int:
        """Directions that first derivatives are taken along at a time, for n inputs."""
        return max(1, self._memory // (2 * n * entries * self._item))

    def at(self, inputs: Tensor) -> "_AutodiffAt":
        """Outputs at a batch, and derivatives on demand: a `Linearised`.

        Parameters
        ----------
        inputs : tensor, (n, ...)
            Of the device of the model, and of its dtype if they are floating point.

        Raises
        ------
        UserError
            If the network does not do at these inputs what it did at the example.
        """
        return _AutodiffAt(self, inputs)

    def seconds(self, inputs: Tensor, curved: bool = True, directions: int | None = None) -> float:
        """Forecast of the time that the derivatives take at these inputs, from a few of them.

        Parameters
        ----------
        inputs : tensor, (n, ...)
        curved : bool
            Whether second derivatives are wanted at all.
        directions : int, optional
            K, along how many directions the first ones are; by default as many as outputs.
        """
        rows = inputs[:1] if self.looped_first else inputs
        at = self.at(rows)
        every = at.outputs.new_ones(*at.outputs.shape, at.outputs.shape[1])
        start = time.perf_counter()
        for _ in at.pull(every[:, :directions], None):
            pass
        total = (time.perf_counter() - start) * len(inputs) / len(rows)
        sizes = {name: self.entries(name) for name in self.single_names()}
        sizes |= {offset.prefix: offset.module.out_features for offset in self.offsets}
        if curved and self.refusal is None and sizes:
            rows = inputs[:1] if self.plain else inputs
            at = self.at(rows)
            largest = max(sizes, key=lambda name: sizes[name])
            some = min(sizes[largest], self.chunk(len(rows), sizes[largest]))
            if self.plain or largest in self.looped_second:
                some = 1
            start = time.perf_counter()
            at.curvature(largest, torch.arange(some, device=inputs.device), every[: len(rows)])
            each = (time.perf_counter() - start) / (some * len(rows))
            total += each * len(inputs) * sum(sizes.values())
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
        calls: dict[str, list[Tensor]] = {layer.prefix: [] for layer in network.offsets}
        with torch.no_grad(), ExitStack() as stack:
            stack.enter_context(_differentiable())
            for layer in network.offsets:
                handle = layer.module.register_forward_pre_hook(_keeping(calls[layer.prefix]))
                stack.callback(handle.remove)
            self.outputs: Tensor = network.model(inputs)
        for prefix, arguments in calls.items():
            if [one.ndim for one in arguments] != [2]:
                shapes = ", ".join(str(tuple(one.shape)) for one in arguments) or "nothing"
                raise UserError(
                    f"{prefix.rstrip('.') or 'model'}: called on {shapes} for a batch, and on one "
                    "matrix for the example; what the network does must not depend on the inputs"
                )
        self.fan_ins: Named = {prefix: one for prefix, [one] in calls.items()}

    @torch.no_grad()
    def pull(self, first: Tensor, second: Tensor | None) -> Iterator[AffineFactors]:
        """Derivatives along directions, in the order of the parameters; see `Linearised`."""
        network = self._network
        by_weight = {layer.parameters[0]: layer for layer in network.offsets}
        single = set(network.single_names())
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
            elif name in single:
                for start, stop, part in self._parts(name, first):
                    bent = self._second(name, start, stop, second)
                    yield AffineFactors(name, None, one, part, bent, start)

    def _parts(self, name: str, directions: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """∂h along directions by the entries of one parameter, as many as make a block."""
        entries = self._network.entries(name)
        group = self._network.group(len(directions), entries)
        groups = directions.split(group, dim=1)
        whole = self.first_of_parameter(name, directions) if len(groups) == 1 else None
        for start in range(0, entries, self._network.part):
            stop = min(entries, start + self._network.part)
            if whole is None:
                # Once more for every part: what is kept of all directions must be small.
                some = [self.first_of_parameter(name, one)[:, :, start:stop] for one in groups]
                yield start, stop, torch.cat(some, dim=1)
            else:
                yield start, stop, whole[:, :, start:stop]

    def first_of_offsets(self, directions: Tensor) -> Named:
        """∂h along directions by every offset, one per sample: (n, K, units)."""
        network = self._network
        zeros = {
            layer.prefix: self.outputs.new_zeros(len(self.outputs), layer.module.out_features)
            for layer in network.offsets
        }
        if not zeros:
            return {}
        if network.looped_first.isdisjoint(zeros):
            pull = _pullback(lambda e: network.call({}, e, self._inputs), zeros)
            (found,) = vmap(pull, in_dims=1, out_dims=1)(directions)
            return dict(found)
        with torch.enable_grad():
            by = [zero.requires_grad_() for zero in zeros.values()]
            outputs = network.call({}, zeros, self._inputs)
        rows = [_gradient(outputs, by, along) for along in directions.unbind(1)]
        return {prefix: torch.stack([row[k] for row in rows], 1) for k, prefix in enumerate(zeros)}

    def first_of_parameter(self, name: str, directions: Tensor) -> Tensor:
        """∂h along directions by the entries of one parameter: (n, K, entries)."""
        network = self._network
        value = network.values[name]

        def of_sample(one: Tensor, several: Tensor) -> Tensor:
            pull = _pullback(lambda p: network.call({name: p}, {}, one[None])[0], value)
            (found,) = vmap(pull)(several)
            return cast(Tensor, found)

        if name not in network.looped_first:
            found = vmap(of_sample)(self._inputs, directions)
        else:
            rows = []
            for one, several in zip(self._inputs, directions, strict=True):
                with torch.enable_grad():
                    moving = value.clone().requires_grad_()
                    outputs = network.call({name: moving}, {}, one[None])
                rows += [_gradient(outputs, [moving], along[None])[0] for along in several]
            found = torch.stack(rows)
        return found.reshape(*directions.shape[:2], -1)

    def _second(self, name: str, start: int, stop: int, directions: Tensor | None) -> Tensor | None:
        """∂²h along directions by some units of an offset, or entries of a parameter."""
        if directions is None:
            return None
        chunk = self._network.chunk(len(self.outputs), self._network.entries(name))
        parts = []
        for low in range(start, stop, chunk):
            indices = torch.arange(low, min(stop, low + chunk), device=self.outputs.device)
            parts.append(self.curvature(name, indices, directions))
        return torch.cat(parts, dim=2)

    @torch.no_grad()
    def curvature(self, name: str, indices: Tensor, directions: Tensor) -> Tensor:
        """∂²h along directions by the units or entries at some indices: (n, K, indices)."""
        network = self._network
        if network.refusal is not None:
            raise UserError(
                f"model: PyTorch has no second derivatives of it ({network.refusal}); replace that "
                "operation, or choose an estimator that needs first derivatives only"
            )
        if network.plain:
            return self._plainly(name, indices, directions)
        value = network.values.get(name)
        places = torch.arange(network.entries(name), device=self.outputs.device)
        zero = self.outputs.new_zeros(())

        def along(index: Tensor) -> Tensor:
            direction = (places == index).to(self.outputs.dtype)

            def moved(size: Tensor) -> Tensor:
                if value is None:
                    return network.call({}, {name: size * direction}, self._inputs)
                there = value + size * direction.reshape(value.shape)
                return network.call({name: there}, {}, self._inputs)

            return _bend(moved, zero)

        if name in network.looped_second:
            bent = torch.stack([along(index) for index in indices])
        else:
            bent = vmap(along)(indices)  # (indices, n, T)
        return directions @ bent.permute(1, 2, 0)

    def _plainly(self, name: str, indices: Tensor, directions: Tensor) -> Tensor:
        """The same by reverse mode twice, input by input."""
        network = self._network
        value = network.values.get(name)
        found = directions.new_zeros(*directions.shape[:2], len(indices))
        for n, one in enumerate(self._inputs):
            with torch.enable_grad():
                if value is None:
                    moving = self.outputs.new_zeros(network.entries(name)).requires_grad_()
                    outputs = network.call({}, {name: moving}, one[None])
                else:
                    moving = value.clone().requires_grad_()
                    outputs = network.call({name: moving}, {}, one[None])
                for k, along in enumerate(directions[n]):
                    [slope] = _gradient(outputs, [moving], along[None], again=True)
                    for place, index in enumerate(indices.tolist()):
                        [bent] = _gradient(slope.flatten()[index], [moving])
                        found[n, k, place] = bent.flatten()[index]
        return found


# ------------------------------------------------------------------------- examining a network


class _Watch(TorchDispatchMode):
    """Follows what a pass makes, and how often it takes each parameter.

    Attributes
    ----------
    peak, total : int
        Numbers in the results of operations: at most at one time, and altogether.
    uses : Counter of int
        By `id` of a tensor, the operations that take it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._live = self.peak = self.total = 0
        self.uses: Counter[int] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        self.uses.update(id(one) for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor))
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            if isinstance(one, Tensor) and not func.is_view:
                self.total += one.numel()
                self._live += one.numel()
                self.peak = max(self.peak, self._live)
                weakref.finalize(one, self._release, one.numel())
        return result

    def _release(self, size: int) -> None:
        self._live -= size


@torch.no_grad()
def _watched(model: nn.Module, example: Tensor) -> _Watch:
    """What a pass over the example takes and makes."""
    watch = _Watch()
    with _differentiable(), watch:
        model(example)
    return watch


def _candidates(network: Autodiff, example: Tensor, uses: Counter[int]) -> list[_Offset]:
    """`Linear` modules called once, on vectors, with trainable parameters used nowhere else."""
    calls: dict[nn.Module, list[int]] = {}

    def note(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        calls.setdefault(module, []).append(arguments[0].ndim if arguments else 0)

    # Exact types: a subclass, or a parametrised layer, may compute something else.
    linear = {name: one for name, one in network.model.named_modules() if type(one) is nn.Linear}
    with torch.no_grad(), ExitStack() as stack:
        stack.enter_context(_differentiable())
        for one in linear.values():
            stack.callback(one.register_forward_pre_hook(note).remove)
        network.model(example)
    found = [_Offset(f"{name}." if name else "", one) for name, one in linear.items()]
    return [
        one
        for one in found
        if calls.get(one.module) == [2]
        and set(one.parameters) <= set(network.wanted)
        and all(uses[id(parameter)] == 1 for parameter in one.module.parameters())
    ]


def _by_autograd(network: Autodiff, inputs: Tensor, along: Tensor) -> Named:
    """Gradients of Σ along · h by parameter, and (n, units) by the prefix of each offset."""
    with torch.enable_grad():
        values = {name: network.values[name].clone().requires_grad_() for name in network.wanted}
        zeros = {
            one.prefix: along.new_zeros(len(along), one.module.out_features).requires_grad_()
            for one in network.offsets
        }
        outputs = network.call(values, zeros, inputs)
    by = values | zeros
    return dict(zip(by, _gradient(outputs, list(by.values()), along), strict=True))


def _true_offsets(network: Autodiff, example: Tensor) -> list[_Offset]:
    """Those whose factors are the gradient: hooks may change what a layer takes or gives."""
    at = network.at(example)
    along = _random(at.outputs, seed=0)
    gradients = _by_autograd(network, example, along)
    rounding = 1e3 * torch.finfo(along.dtype).eps
    true = []
    for one in network.offsets:
        left, right = gradients[one.prefix], at.fan_ins[one.prefix]
        if one.module.bias is not None:
            right = torch.cat([right, right.new_ones(len(right), 1)], dim=1)
        expected = torch.cat(
            [gradients[name].view(left.shape[1], -1) for name in one.parameters], 1
        )
        error = (expected - left.T @ right).abs().max()
        if error <= rounding * (left.abs().T @ right.abs()).max():
            true.append(one)
    return true


def _try_first(network: Autodiff, example: Tensor) -> None:
    """See which first derivatives are right when all inputs and directions go together.

    More directions than inputs, for batching rules that confuse the two.
    """
    at = network.at(example)
    n, size = at.outputs.shape
    along = _random(at.outputs.new_empty(n, n + 1, size), seed=1)
    gradients = _by_autograd(network, example, along.sum(1))
    eps = torch.finfo(along.dtype).eps
    # What vanishes, such as the gradient by the bias of the keys, is left with roundings.
    noise = 1e3 * eps * max((float(one.abs().max()) for one in gradients.values()), default=0.0)

    found: Named = {}
    # Whatever a batched pass raises says no more than that it cannot be batched.
    with suppress(Exception):
        of_offsets = at.first_of_offsets(along)
        found |= {prefix: one.sum(1) for prefix, one in of_offsets.items()}
    for name in network.single_names():
        with suppress(Exception):
            found[name] = at.first_of_parameter(name, along).sum((0, 1))
    for name in [*(one.prefix for one in network.offsets), *network.single_names()]:
        expected = gradients[name]
        limit = eps**0.5 * expected.abs().max() + noise
        if name in found and (found[name].view_as(expected) - expected).abs().max() <= limit:
            continue
        network.looped_first.add(name)
    if network.looped_first:
        for _ in at.pull(along[:, :1], None):
            pass


def _try_second(network: Autodiff, example: Tensor) -> None:
    """See whether forward mode is right, and what of it can be batched.

    PyTorch's forward formulas are exact, but not all of them can be differentiated once more: some
    operations refuse, and some return a wrong number.
    """
    at = network.at(example)
    along = _random(at.outputs, seed=2)
    steps = {
        name: _random(network.values[name], seed) for seed, name in enumerate(network.wanted, 3)
    }
    zero = along.new_zeros(())

    def moved(size: Tensor) -> Tensor:
        there = {name: network.values[name] + size * step for name, step in steps.items()}
        return network.call(there, {}, example)

    try:
        with torch.enable_grad():
            size = zero.clone().requires_grad_()
            [slope] = _gradient(moved(size), [size], along.clone().requires_grad_(), again=True)
            if slope.requires_grad:
                # All the way back: `once_differentiable` objects nowhere but at its own place.
                slope.backward()
            expected = zero if size.grad is None else size.grad
    except RuntimeError as error:
        network.refusal = line(error)
        return
    tolerance = torch.finfo(along.dtype).eps ** 0.5
    try:
        with torch.no_grad():
            bent = _bend(moved, zero)
        scale = (along * bent).abs().sum() + slope.detach().abs()
        network.plain = not ((along * bent).sum() - expected).abs() <= tolerance * scale
    except Exception:
        network.plain = True
    if network.plain:
        return
    names = [*(layer.prefix for layer in network.offsets), *network.single_names()]
    one = network.at(example[:1])
    first_entry = torch.arange(1, device=along.device)
    for name in names:
        try:
            one.curvature(name, first_entry, along[:1, None])
        except Exception:
            network.looped_second.add(name)
            try:
                one.curvature(name, first_entry, along[:1, None])
            except Exception:
                network.plain = True
                return
    with suppress(Exception), torch.no_grad():
        factors = torch.tensor([1.0, 2.0]).to(along)
        both = vmap(lambda factor: _bend(lambda size: moved(factor * size), zero))(factors)
        expected = factors.square()[:, None, None] * bent
        if not (both - expected).abs().max() <= tolerance * expected.abs().max():
            network.looped_second.update(names)


def _bend(moved: Callable[[Tensor], Tensor], zero: Tensor) -> Tensor:
    """Second derivative of a function of a scalar at zero, by forward mode in forward mode."""
    one = torch.ones_like(zero)

    def slope(size: Tensor) -> Tensor:
        return cast(Tensor, jvp(moved, (size,), (one,))[1])

    return cast(Tensor, jvp(slope, (zero,), (one,))[1])


def _pullback(function: Callable[..., Tensor], at: Any) -> Callable[[Tensor], tuple[Any]]:
    """The map from directions in the space of the results to gradients by the argument."""
    return cast(Callable[[Tensor], tuple[Any]], vjp(function, at)[1])


def _gradient(
    value: Tensor, by: list[Tensor], along: Tensor | None = None, again: bool = False
) -> Sequence[Tensor]:
    """Gradients of a scalar, or along a direction; zero by what the value does not depend on."""
    if not by or not value.requires_grad:
        return [torch.zeros_like(one) for one in by]
    return torch.autograd.grad(
        value, by, along, create_graph=again, retain_graph=True, materialize_grads=True
    )


def _random(like: Tensor, seed: int) -> Tensor:
    """Standard normal numbers, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


# ------------------------------------------------------------------- what autograd needs to know


def _adding(offset: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def hook(module: nn.Module, arguments: Any, result: Tensor) -> Tensor:
        return result + offset

    return hook


def _keeping(kept: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        kept.extend(arguments)

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


def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    channels = (-1, *[1] * (x.ndim - 2)) if x.ndim > 1 else (-1,)
    return torch.where(x > 0, x, weight.reshape(channels) * x)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    others = [one for one in range(v.ndim) if one != dim]
    return cast(Tensor, v * (g / torch.linalg.vector_norm(v, dim=others, keepdim=True)))


def _instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if running_mean is not None or not use_input_stats:
        return F.instance_norm(
            x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
        )
    found = _normalised(x, tuple(range(2, x.ndim)), eps)
    channels = (-1, *[1] * (x.ndim - 2))
    found = found if weight is None else found * weight.view(channels)
    return found if bias is None else found + bias.view(channels)


def _embedding(
    indices: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Forward mode would move the row at `padding_idx`, which reverse mode takes for constant."""
    found = F.embedding(indices, weight)
    if padding_idx is None:
        return found
    return torch.where((indices == padding_idx % len(weight))[..., None], found.detach(), found)


def _embedding_bag(
    indices: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    if indices.ndim != 2 or padding_idx is not None or mode == "max":
        return F.embedding_bag(
            indices,
            weight,
            offsets,
            mode=mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=include_last_offset,
            padding_idx=padding_idx,
        )
    found = F.embedding(indices, weight)
    if per_sample_weights is not None:
        found = found * per_sample_weights[..., None]
    return found.sum(1) if mode == "sum" else found.mean(1)


class _SpelledOut(TorchFunctionMode):
    """Functions whose derivatives PyTorch lacks, or has wrong, by their formulas.

    That is in forward mode, when differentiated twice; or when batched.
    """

    FORMULAS: Mapping[Any, Callable[..., Tensor]] = {
        F.layer_norm: _layer_norm,
        F.instance_norm: _instance_norm,
        F.embedding: _embedding,
        F.embedding_bag: _embedding_bag,
        F.prelu: _prelu,
        torch._weight_norm: _weight_norm,
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
    """Attention and the functions of `_SpelledOut` by their formulas."""
    with attention_by_formula(), _SpelledOut():
        yield
