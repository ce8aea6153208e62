"""Exact per-sample derivatives of networks whose curvature lies in elementwise activations alone.

Let every parameter θ_i enter one affine map, once, and let every other operation be an activation
a^m = φ_m(z^m), coordinate by coordinate, or locally linear.  Then θ_i bends the outputs h only
where it moves z^m through φ_m:

    ∂²h_t/∂θ_i² = Σ_m Σ_k D^m_{t,k} (∂z^m_k/∂θ_i)²,        D^m_t = φ_m''(z^m) ⊙ ∂h_t/∂a^m

One reverse sweep along all outputs gives ∂h_t/∂a^m, and ∂h_t/∂z at the result z of every map.

The tangents ∂z^m/∂θ_i carry no index t.  They are pushed forward, because there they are sparse.
An affine map is z_cp = Σ_u θ_cu f_up, with features f (the patches of a convolution), so that entry
(c, u) moves channel c alone, by f_u.  While coordinates stay apart, ∂z^m_cp/∂z_cp = s_cp, its share
is Σ_p (D_cp s_cp²) f_up², a product of two matrices.  From there on the tangents of a channel pass
through the layers above like so many more samples.
"""

import math
import operator
import time
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx import Node

from diagfim.derivatives import dense
from diagfim.derivatives.elementwise import bend
from diagfim.derivatives.factored import AffineFactors
from diagfim.errors import UserError

REMEDY = 'method="autodiff" takes any network'


class Graph:
    """A network of affine maps and elementwise activations, in whatever arrangement.

    Parameters
    ----------
    model : torch.nn.Module
        In eval mode.  torch.fx must be able to trace it down to the modules and functions of
        `RULES`: convolutions, batch normalisation, `Linear`, pooling, activations, and sums,
        concatenations and reshapings of what they give.  Parameters that require no gradient are
        constants.
    example : tensor, (n, ...)
        A few inputs of the dtype and device of the model, to try it on.
    memory : int
        Bytes that a batch of `batch_size` inputs may take.

    Attributes
    ----------
    batch_size : int
        Number of inputs at a time that keeps within the memory.

    Raises
    ------
    UserError
        If the model cannot be traced, has a module or a function of another kind, uses a parameter
        twice, mixes samples, or does not give what its graph says; the message names the culprit.

    Notes
    -----
    With K directions, first derivatives cost about K passes back through the network.  Second ones
    cost, for every entry of every map, a pass from there to the last activation with a curvature;
    nothing if there is none, as in networks of ReLU.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from diagfim.derivatives.graph import Graph
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2))
    >>> inputs = torch.ones(5, 1, 4, 4)
    >>> directions = torch.eye(2).expand(5, 2, 2)
    >>> at = Graph(model, inputs).at(inputs)
    >>> [(block.weight, tuple(block.first.shape)) for block in at.pull(directions, directions)]
    [('0.weight', (5, 2, 18)), ('0.bias', (5, 2, 2)), ('3.weight', (5, 2, 2))]
    """

    name = "graph"

    def __init__(self, model: nn.Module, example: Tensor, memory: int = 2**25) -> None:
        self._plan = _Plan(model, example[:4])
        # As many tangents at a time as fit into a processor's cache.
        self._held = min(memory // 8, 2**21) if example.device.type == "cpu" else memory // 8
        at = self.at(example[:4])
        self.batch_size = min(512, max(1, memory // at.bytes_per_sample()))
        _verify(model, example[:4], at)

    def at(self, inputs: Tensor) -> "_GraphAt":
        """Outputs at a batch, and derivatives on demand: a `Linearised`.

        Parameters
        ----------
        inputs : tensor, (n, ...)
            Of the dtype and device of the model.
        """
        return _GraphAt(self._plan, inputs, self._held)

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
        count, elapsed = 1, self._elapsed(inputs[:1], curved, directions)
        whole = min(self.batch_size, len(inputs))
        if elapsed * whole < 1:
            count, elapsed = whole, self._elapsed(inputs[:whole], curved, directions)
        return elapsed / count * len(inputs)

    def _elapsed(self, inputs: Tensor, curved: bool, directions: int | None) -> float:
        start = time.perf_counter()
        at = self.at(inputs)
        n, outputs = at.outputs.shape
        every = torch.eye(outputs, dtype=at.outputs.dtype, device=at.outputs.device)
        every = every.expand(n, outputs, outputs)
        for _ in at.pull(every[:, :directions], every if curved else None):
            pass
        if inputs.is_cuda:
            torch.cuda.synchronize(inputs.device)
        return time.perf_counter() - start


# ------------------------------------------------------------------- what tangents do at a node


@dataclass(frozen=True)
class _Tangents:
    """P directions in which a node moves, zero outside a range of its first axis of features.

    Attributes
    ----------
    values : tensor, (n, P, range, ...), or (1, P, range, ...) where all samples share them
    start : int
        Where the range begins.
    spare : bool
        Whether nobody else looks at the values, so that they may be overwritten.
    """

    values: Tensor
    start: int = 0
    spare: bool = False

    @property
    def range(self) -> slice:
        """The range, to index the axis with."""
        return slice(self.start, self.start + self.values.shape[2])

    def full(self, node: Tensor) -> Tensor:
        """Values on the whole axis of a node (n, ...): (n, P, ...)."""
        if self.values.shape[2:] == node.shape[1:]:
            return self.values
        full = self.values.new_zeros(*self.values.shape[:2], *node.shape[1:])
        full[:, :, self.range] = self.values
        return full

    def times(self, factor: Tensor) -> "_Tangents":
        """The product with a factor per sample and coordinate, (n, ...)."""
        factor = factor[:, None, self.range]
        if self.spare and len(self.values) == len(factor):
            return replace(self, values=self.values.mul_(factor))
        return replace(self, values=self.values * factor, spare=True)


@dataclass(frozen=True)
class _Point:
    """The network at some samples.

    Attributes
    ----------
    values : dict of Node to Any
        Value of every node.
    slopes : dict of Node to tensor, (n, ...)
        φ'(z), by activation.
    bent : dict of Node to tensor, (n, K, ...)
        D along K directions, by activation that has a curvature.
    """

    plan: "_Plan"
    values: Mapping[Node, Any]
    slopes: Mapping[Node, Tensor]
    bent: Mapping[Node, Tensor]

    def rows(self, rows: slice) -> "_Point":
        """The same at some of the samples."""
        data = self.plan.data
        return _Point(
            self.plan,
            {node: one[rows] if node in data else one for node, one in self.values.items()},
            {node: one[rows] for node, one in self.slopes.items()},
            {node: one[rows] for node, one in self.bent.items()},
        )


class _Rule:
    """How a node follows the nodes it takes: as it stands, coordinate by coordinate."""

    def factor(self, point: _Point, node: Node, source: Node) -> Tensor | None:
        """Derivative by a source of the same shape, (n or 1, ...); None if coordinates mix."""
        return None

    def push(self, point: _Point, node: Node, moved: dict[Node, _Tangents]) -> _Tangents:
        """Tangents of the node, from those of the nodes it takes that have moved."""
        [(source, tangents)] = moved.items()
        return tangents.times(self._factor(point, node, source))

    def pull(self, point: _Point, node: Node, along: Tensor) -> dict[Node, Tensor]:
        """Derivatives by the nodes it takes, from those by the node, (n, K, ...)."""
        [source] = point.plan.sources(node)
        return {source: along * self._factor(point, node, source)[:, None]}

    def _factor(self, point: _Point, node: Node, source: Node) -> Tensor:
        factor = self.factor(point, node, source)
        assert factor is not None
        return factor.expand(point.values[node].shape)


class _Activation(_Rule):
    """φ, coordinate by coordinate."""

    def factor(self, point: _Point, node: Node, source: Node) -> Tensor:
        return point.slopes[node]


class _Arithmetic(_Rule):
    """Sums, and products with what does not depend on the parameters."""

    factors: Mapping[str, Callable[[int, Any], Any]] = {
        "add": lambda position, other: 1.0,
        "sub": lambda position, other: -1.0 if position else 1.0,
        "mul": lambda position, other: other,
        "div": lambda position, other: 1.0 / other,
        "neg": lambda position, other: -1.0,
    }
    """Derivative by the operand at a position, given the other one, or itself if alone."""

    def __init__(self, name: str) -> None:
        self.name = name

    def factor(self, point: _Point, node: Node, source: Node) -> Tensor | None:
        value = point.values[node]
        if point.values[source].shape != value.shape:
            return None
        return torch.as_tensor(self._derivative(point, node, source)).to(value)

    def push(self, point: _Point, node: Node, moved: dict[Node, _Tangents]) -> _Tangents:
        shape = point.values[node].shape
        tangents = list(moved.values())
        if any(point.values[one].shape != shape for one in moved) or any(
            one.range != tangents[0].range for one in tangents
        ):
            tangents = [
                _Tangents(one.full(point.values[source]).expand(-1, -1, *shape[1:]))
                for source, one in moved.items()
            ]
        terms = []
        for source, one in zip(moved, tangents, strict=True):
            factor = self._derivative(point, node, source)
            if isinstance(factor, Tensor):
                terms.append(one.times(factor.expand(shape)))
            else:
                terms.append(one if factor == 1 else replace(one, values=one.values * factor))
        if len(terms) == 1:
            return terms[0]
        return _Tangents(terms[0].values + terms[1].values, terms[0].start, spare=True)

    def pull(self, point: _Point, node: Node, along: Tensor) -> dict[Node, Tensor]:
        found = {}
        for source in point.plan.active.intersection(node.all_input_nodes):
            factor = self._derivative(point, node, source)
            if isinstance(factor, Tensor):
                factor = factor.expand(point.values[node].shape)[:, None]
            by_source = along if isinstance(factor, float) and factor == 1 else along * factor
            shape = point.values[source].shape[1:]
            found[source] = by_source.sum_to_size(*along.shape[:2], *shape)
        return found

    def _derivative(self, point: _Point, node: Node, source: Node) -> Tensor | float:
        operands = [point.values[one] if isinstance(one, Node) else one for one in node.args]
        total: Tensor | float = 0.0
        for position, one in enumerate(node.args):
            if one is source:
                total = total + self.factors[self.name](position, operands[position - 1])
        return total


class _Linear(_Rule):
    """Linear operations, among them all that only rearrange."""

    def factor(self, point: _Point, node: Node, source: Node) -> Tensor | None:
        value = point.values[node]
        same = value.shape == point.values[source].shape
        return value.new_ones(()) if same and node in point.plan.rearranges else None

    def push(self, point: _Point, node: Node, moved: dict[Node, _Tangents]) -> _Tangents:
        plan = point.plan
        first = next(iter(moved.values()))
        if node in plan.rearranges:
            return _rearranged(first, point.values[next(iter(moved))], point.values[node])
        by_feature = node in plan.by_feature
        n, p = max(len(one.values) for one in moved.values()), first.values.shape[1]
        folded = {}
        for source in plan.sources(node):
            value = point.values[source]
            if source not in moved:
                folded[source] = value.new_zeros(n * p, *value.shape[1:])
            else:
                one = moved[source]
                values = one.values if by_feature else one.full(value)
                folded[source] = values.expand(n, *values.shape[1:]).flatten(0, 1)
        result = plan.apply(node, {**point.values, **folded})
        spare = all(one.spare for one in moved.values())  # the result may be a view
        return _Tangents(result.unflatten(0, (n, p)), first.start * by_feature, spare)

    def pull(self, point: _Point, node: Node, along: Tensor) -> dict[Node, Tensor]:
        plan, lead = point.plan, along.shape[:2]
        if node in plan.rearranges:
            [source] = plan.sources(node)
            return {source: along.reshape(*lead, *point.values[source].shape[1:])}
        folded = {}
        for source in plan.sources(node):
            value = point.values[source]
            value = value[:, None].expand(*lead, *value.shape[1:]).flatten(0, 1)
            folded[source] = value.requires_grad_(source in plan.active)
        with torch.enable_grad():
            result = plan.apply(node, {**point.values, **folded})
            # Of a number: given a direction, autograd would first import sympy, for seconds.
            total = (result * along.flatten(0, 1)).sum()
        wanted = {source: one for source, one in folded.items() if one.requires_grad}
        found = torch.autograd.grad(total, list(wanted.values()))
        return {source: one.unflatten(0, lead) for source, one in zip(wanted, found, strict=True)}


class _Selection(_Rule):
    """Maxima over windows, which are linear for as long as the same entries are the largest.

    Parameters
    ----------
    axes : int
        Number of axes of a window, the last ones.
    """

    def __init__(self, axes: int) -> None:
        self.axes = axes

    def push(self, point: _Point, node: Node, moved: dict[Node, _Tangents]) -> _Tangents:
        [(source, tangents)] = moved.items()
        selected = self._selected(point, node, source)[:, tangents.range]
        values = tangents.values.flatten(3)
        values = values.expand(len(selected), *values.shape[1:])
        selected = selected[:, None].expand(*values.shape[:3], -1)
        chosen = values.gather(3, selected).reshape(*values.shape[:3], *self._shape(point, node))
        return _Tangents(chosen, tangents.start, spare=True)

    def pull(self, point: _Point, node: Node, along: Tensor) -> dict[Node, Tensor]:
        [source] = point.plan.sources(node)
        selected = self._selected(point, node, source)[:, None]
        shape = along.shape[:3]
        places = along.new_zeros(*shape, self._shape(point, source).numel())
        places.scatter_add_(3, selected.expand(*shape, -1), along.flatten(3))
        return {source: places.reshape(*shape, *self._shape(point, source))}

    def _shape(self, point: _Point, node: Node) -> torch.Size:
        shape: torch.Size = point.values[node].shape[2:]
        return shape

    def _selected(self, point: _Point, node: Node, source: Node) -> Tensor:
        """Where in a channel the maxima are: (n, channels, maxima)."""
        if node.op == "call_module":
            module = copy(point.plan.modules[node])
            module.return_indices = True
            _, indices = module(point.values[source])
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), point.values.__getitem__)
            _, indices = _function(node)(*args, **{**kwargs, "return_indices": True})
        places: Tensor = indices.flatten(2)
        return places


def _rearranged(tangents: _Tangents, source: Tensor, node: Tensor) -> _Tangents:
    """Tangents of a node that has the coordinates of its source, in the same order."""
    values, shape = tangents.values, node.shape[1:]
    if values.shape[2:] != source.shape[1:]:
        if shape[0] == source.shape[1]:
            return replace(tangents, values=values.reshape(*values.shape[:3], *shape[1:]))
        if len(shape) == 1:
            start = tangents.start * math.prod(source.shape[2:])
            return replace(tangents, values=values.flatten(2), start=start)
    values = tangents.full(source).reshape(*values.shape[:2], *shape)
    return _Tangents(values, spare=tangents.spare)


class _Affine(_Rule):
    """z_cp = Σ_u θ_cu f_up, with the weights and the bias for θ."""

    def features(self, module: Any, inputs: Tensor) -> Tensor:
        """What the weights multiply: (n, groups of channels, weights per channel, positions)."""
        raise NotImplementedError

    def channels_first(self, values: Tensor, axis: int) -> Tensor:
        """Result of the map, (..., channels, positions), the channels being at an axis."""
        return values.reshape(*values.shape[: axis + 1], -1)

    def channel(self, values: Tensor, channel: int, shape: torch.Size) -> _Tangents:
        """Tangents (n, P, positions) of one channel of a result (n, *shape)."""
        values = values.reshape(*values.shape[:2], 1, *shape[1:])
        return _Tangents(values, channel, spare=True)


class _Dense(_Affine):
    """`Linear`, on the last axis."""

    def features(self, module: nn.Linear, inputs: Tensor) -> Tensor:
        return self.channels_first(inputs, 1)[:, None]

    def channels_first(self, values: Tensor, axis: int) -> Tensor:
        return super().channels_first(values.movedim(-1, axis), axis)

    def channel(self, values: Tensor, channel: int, shape: torch.Size) -> _Tangents:
        full = values.new_zeros(*values.shape[:2], *shape)
        full[..., channel] = values.unflatten(2, shape[:-1])
        return _Tangents(full, spare=True)

    def push(self, point: _Point, node: Node, moved: dict[Node, _Tangents]) -> _Tangents:
        [(source, tangents)] = moved.items()
        weight = point.plan.modules[node].weight
        if point.values[source].ndim > 2:  # the first axis of features is one of positions
            return _Tangents(F.linear(tangents.values, weight), tangents.start, spare=True)
        return _Tangents(F.linear(tangents.values, weight[:, tangents.range]), spare=True)

    def pull(self, point: _Point, node: Node, along: Tensor) -> dict[Node, Tensor]:
        [source] = point.plan.sources(node)
        return {source: along @ point.plan.modules[node].weight}


class _Convolution(_Affine):
    """Convolutions, padded with zeros.

    Parameters
    ----------
    forward, backward : function
        The convolution and its transpose.
    """

    def __init__(self, forward: Callable[..., Tensor], backward: Callable[..., Tensor]) -> None:
        self.forward, self.backward = forward, backward

    def features(self, module: Any, inputs: Tensor) -> Tensor:
        padding, extra = _padding(module)
        images = F.pad(inputs, [end for one in reversed(extra) for end in (0, one)])
        kernel, dilation, stride = module.kernel_size, module.dilation, module.stride
        if images.ndim == 3:
            images, padding = images[:, :, None], (0, *padding)
            kernel, dilation, stride = (1, *kernel), (1, *dilation), (1, *stride)
        patches = F.unfold(images, kernel, dilation, padding, stride)
        grouped: Tensor = patches.unflatten(1, (module.groups, -1))
        return grouped

    def push(self, point: _Point, node: Node, moved: dict[Node, _Tangents]) -> _Tangents:
        [(source, tangents)] = moved.items()
        module = point.plan.modules[node]
        values, weight, groups, start = tangents.values, module.weight, module.groups, 0
        group, begin = divmod(tangents.start, weight.shape[1])
        end = begin + values.shape[2]
        if end <= weight.shape[1]:  # within one group, and so is the result
            weight = weight.unflatten(0, (groups, -1))[group, :, begin:end]
            start, groups = group * len(weight), 1
        else:
            values = tangents.full(point.values[source])
        options = module.stride, module.padding, module.dilation, groups
        result = self.forward(values.flatten(0, 1), weight, None, *options)
        return _Tangents(result.unflatten(0, values.shape[:2]), start, spare=True)

    def pull(self, point: _Point, node: Node, along: Tensor) -> dict[Node, Tensor]:
        [source] = point.plan.sources(node)
        module = point.plan.modules[node]
        padding, extra = _padding(module)
        sizes = point.values[source].shape[2:]
        # How far the input reaches beyond the last place of the kernel.
        beyond = [
            (size + more + 2 * pad - dilation * (kernel - 1) - 1) % stride
            for size, more, pad, dilation, kernel, stride in zip(
                sizes,
                extra,
                padding,
                module.dilation,
                module.kernel_size,
                module.stride,
                strict=True,
            )
        ]
        options = module.stride, padding, beyond, module.groups, module.dilation
        found = self.backward(along.flatten(0, 1), module.weight, None, *options)
        for axis, size in enumerate(sizes, start=2):
            found = found.narrow(axis, 0, size)
        return {source: found.unflatten(0, along.shape[:2])}


def _padding(module: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Padding on both sides, and what is added to it at the end, by axis."""
    if module.padding == "valid":
        return (0,) * len(module.kernel_size), (0,) * len(module.kernel_size)
    if module.padding == "same":
        sizes = zip(module.dilation, module.kernel_size, strict=True)
        both = [dilation * (kernel - 1) for dilation, kernel in sizes]
        return tuple(one // 2 for one in both), tuple(one % 2 for one in both)
    return module.padding, (0,) * len(module.padding)


class _Normalisation(_Affine):
    """Batch normalisation by its running statistics."""

    def features(self, module: Any, inputs: Tensor) -> Tensor:
        shape = (-1, *[1] * (inputs.ndim - 2))
        scale = (module.running_var + module.eps).rsqrt().reshape(shape)
        centred = (inputs - module.running_mean.reshape(shape)) * scale
        return self.channels_first(centred, 1)[:, :, None]

    def factor(self, point: _Point, node: Node, source: Node) -> Tensor:
        module = point.plan.modules[node]
        scale: Tensor = (module.running_var + module.eps).rsqrt()
        if module.weight is not None:
            scale = scale * module.weight
        return scale.reshape(-1, *[1] * (point.values[node].ndim - 2))


# ------------------------------------------------------------------------------ what is known

_ACTIVATION, _LINEAR = _Activation(), _Linear()

ELEMENTWISE = (
    *(kind for kind in dense.ELEMENTWISE if kind is not nn.Identity),
    *(nn.ReLU6, nn.Hardtanh, nn.SELU, nn.CELU, nn.Mish),
)
"""Activations applied coordinate by coordinate."""

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)

RULES: dict[type[nn.Module], _Rule] = {
    nn.Linear: _Dense(),
    nn.Conv1d: _Convolution(F.conv1d, F.conv_transpose1d),
    nn.Conv2d: _Convolution(F.conv2d, F.conv_transpose2d),
    nn.BatchNorm1d: _Normalisation(),
    nn.BatchNorm2d: _Normalisation(),
    **dict.fromkeys(ELEMENTWISE, _ACTIVATION),
    **dict.fromkeys((nn.Identity, nn.Flatten, nn.Unflatten), _LINEAR),
    **dict.fromkeys(DROPOUT, _LINEAR),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d), _LINEAR),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), _LINEAR),
    **dict.fromkeys((nn.ZeroPad1d, nn.ZeroPad2d), _LINEAR),
    **dict.fromkeys((nn.MaxPool1d, nn.AdaptiveMaxPool1d), _Selection(1)),
    **dict.fromkeys((nn.MaxPool2d, nn.AdaptiveMaxPool2d), _Selection(2)),
}
"""Modules, by their exact type: a subclass may compute something else."""


def _functions(rule: _Rule, *names: str) -> dict[Any, _Rule]:
    """The rule of every function and every method of tensors of these names."""
    spaces = (torch, F, operator, Tensor)
    return {getattr(one, name): rule for name in names for one in spaces if hasattr(one, name)}


FUNCTIONS: dict[Any, _Rule] = {
    **_functions(_ACTIVATION, "relu", "relu6", "hardtanh", "leaky_relu", "elu", "selu", "celu"),
    **_functions(_ACTIVATION, "gelu", "silu", "mish", "sigmoid", "logsigmoid", "tanh", "softplus"),
    **_functions(_LINEAR, "flatten", "unflatten", "reshape", "view", "squeeze", "unsqueeze"),
    **_functions(_LINEAR, "contiguous", "clone", "getitem", "permute", "transpose", "movedim"),
    **_functions(_LINEAR, "mean", "sum", "cat", "concat", "stack", "pad"),
    **_functions(_LINEAR, "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d"),
    **_functions(_LINEAR, "adaptive_avg_pool2d", "dropout", "dropout1d", "dropout2d"),
    **dict.fromkeys((F.max_pool1d, F.adaptive_max_pool1d), _Selection(1)),
    **dict.fromkeys((F.max_pool2d, F.adaptive_max_pool2d), _Selection(2)),
    **_functions(_Arithmetic("add"), "add"),
    **_functions(_Arithmetic("sub"), "sub"),
    **_functions(_Arithmetic("mul"), "mul"),
    **_functions(_Arithmetic("div"), "div", "truediv"),
    **_functions(_Arithmetic("neg"), "neg"),
}
"""Functions and methods."""

_OF_SHAPES = {getattr, len, Tensor.size, Tensor.dim, Tensor.ndimension, Tensor.numel}


# ----------------------------------------------------------------------------------- the graph


@dataclass(frozen=True)
class _Part:
    """One affine map, and the names of its parameters that require a gradient."""

    node: Node
    weight: str | None
    bias: str | None


class _Plan:
    """The graph of a model, with what is known of every node.

    Attributes
    ----------
    nodes : list of Node
        In order of execution.
    modules : dict of Node to Module
        What the nodes call that call a module.
    rules : dict of Node to _Rule
        What is known of the nodes that call anything.
    data : set of Node
        Those that hold a tensor with an axis of samples.
    active : set of Node
        Those of them that depend on parameters which require a gradient.
    rearranges, by_feature : set of Node
        Linear operations that keep all coordinates in order; operations that take every index of
        the first axis of features by itself.
    parts : list of _Part
        In the order of the parameters.
    unused : dict of str to int
        Numbers of entries of the parameters that enter nowhere.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, example: Tensor) -> None:
        # In a Sequential, so that a model that is one known module is a node of the graph.
        self._root = nn.Sequential(model)
        self.nodes = _trace(self._root)
        self.modules: dict[Node, Any] = {
            node: self._root.get_submodule(str(node.target))
            for node in self.nodes
            if node.op == "call_module"
        }
        self.rules: dict[Node, _Rule] = {
            node: rule for node in self.nodes if (rule := self._known(node)) is not None
        }
        for node in self.modules:
            self._check_module(node)
        self.parts, self.unused = self._find_parts(model)
        self.data: set[Node] = set()
        self.active: set[Node] = set()
        self.rearranges: set[Node] = set()
        self.by_feature: set[Node] = set()
        _, outputs = self.run(example, self._classify)
        if not isinstance(outputs, Tensor) or outputs.ndim != 2:
            found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise UserError(f"outputs: {found}; expected a tensor (n, T), one row per input")
        [self.output] = self.nodes[-1].all_input_nodes
        # With another number of samples, no other axis has the length of theirs.
        other = example[:1] if len(example) > 1 else torch.cat([example, example])
        self.run(other, self._check_samples)

    @property
    def activations(self) -> list[Node]:
        """The active nodes that are activations."""
        return [one for one in self.nodes if one in self.active and self.rules[one] is _ACTIVATION]

    def sources(self, node: Node) -> list[Node]:
        """The nodes with an axis of samples that a node takes."""
        return [one for one in node.all_input_nodes if one in self.data]

    def apply(self, node: Node, values: Mapping[Node, Any]) -> Any:
        """Value of a node, given those of the nodes it takes."""
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        call = self.modules[node] if node.op == "call_module" else _function(node)
        return call(*args, **kwargs)

    def run(
        self, inputs: Tensor, check: Callable[[Node, dict[Node, Any], int], None] | None = None
    ) -> tuple[dict[Node, Any], Any]:
        """Values of all nodes, each checked with those before it and with n, and the outputs."""
        values: dict[Node, Any] = {}
        for node in self.nodes[:-1]:
            try:
                values[node] = self._value(node, values, inputs)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                shape = tuple(inputs.shape)
                raise self._refusal(
                    node, f"does not take inputs of shape {shape} ({error})"
                ) from error
            if check is not None:
                check(node, values, len(inputs))
        return values, fx.map_arg(self.nodes[-1].args[0], values.__getitem__)

    def _value(self, node: Node, values: dict[Node, Any], inputs: Tensor) -> Any:
        if node.op == "placeholder":
            return inputs
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self._root)
        if self.rules.get(node) is _ACTIVATION:
            # Those that work in place would overwrite what the slope is taken at.
            return self.apply(node, {one: values[one].clone() for one in node.all_input_nodes})
        return self.apply(node, values)

    # ---------------------------------------------------------------------------------- checks

    def _known(self, node: Node) -> _Rule | None:
        if node.op == "call_module":
            return RULES.get(type(self.modules[node]))
        return FUNCTIONS.get(_function(node)) if node.op.startswith("call") else None

    def _check_module(self, node: Node) -> None:
        module: Any = self.modules[node]
        rule = self.rules.get(node)
        if rule is None:
            known = ", ".join(kind.__name__ for kind in RULES)
            raise self._refusal(node, f"is not known here; known are {known}; {REMEDY}")
        if isinstance(module, DROPOUT) and module.training and module.p:
            raise self._refusal(node, "in training mode is random; call model.eval() first")
        if isinstance(rule, _Normalisation) and module.training:
            raise self._refusal(node, "in training mode mixes samples; call model.eval() first")
        if isinstance(rule, _Normalisation) and module.running_mean is None:
            raise self._refusal(node, f"without running statistics mixes samples; {REMEDY}")
        if isinstance(rule, _Convolution) and module.padding_mode != "zeros":
            raise self._refusal(
                node, f"has padding_mode {module.padding_mode!r}, expected 'zeros'; {REMEDY}"
            )

    def _find_parts(self, model: nn.Module) -> tuple[list[_Part], dict[str, int]]:
        """The affine maps with something to differentiate by, and the parameters in none."""
        trainable = {one: name for name, one in model.named_parameters() if one.requires_grad}
        parts: list[_Part] = []
        used: set[nn.Parameter] = set()
        for node in self.nodes:
            if node.op == "get_attr":
                value = operator.attrgetter(str(node.target))(self._root)
                if isinstance(value, nn.Parameter) and value in trainable:
                    raise UserError(
                        f"{trainable[value]}: used outside of Linear, convolutions and batch "
                        f"normalisation; set requires_grad to False, or {REMEDY}"
                    )
            elif node.op == "call_module":
                found = {
                    which: value
                    for which, value in self.modules[node].named_parameters()
                    if value in trainable
                }
                for which, value in found.items():
                    if value in used:
                        raise UserError(
                            f"{trainable[value]}: used twice in the network, expected once; "
                            f"{REMEDY}"
                        )
                    if which not in ("weight", "bias"):
                        raise self._refusal(node, f"is parametrised by {which}; {REMEDY}")
                    used.add(value)
                if found:
                    names = {which: trainable[value] for which, value in found.items()}
                    parts.append(_Part(node, names.get("weight"), names.get("bias")))
        order = list(trainable.values())
        parts.sort(key=lambda part: order.index(part.weight or part.bias or ""))
        unused = {name: one.numel() for one, name in trainable.items() if one not in used}
        return parts, unused

    def _classify(self, node: Node, values: dict[Node, Any], n: int) -> None:
        """See what depends on the samples and on the parameters; refuse what is not known."""
        if node.op == "placeholder":
            self.data.add(node)
        sources, rule = self.sources(node), self.rules.get(node)
        is_map = any(part.node is node for part in self.parts)
        if is_map and not sources:
            raise self._refusal(node, f"acts on a constant; {REMEDY}")
        if not sources or (not isinstance(values[node], Tensor) and _function(node) in _OF_SHAPES):
            return
        if rule is None or not isinstance(values[node], Tensor):
            raise self._refusal(node, f"is not known here; {REMEDY}")
        self.data.add(node)
        self._check_samples(node, values, n)
        if not is_map and self.active.isdisjoint(sources):
            return
        self.active.add(node)
        if isinstance(rule, _Arithmetic):
            active = [position for position, one in enumerate(node.args) if one in self.active]
            if node.kwargs:
                raise self._refusal(node, f"has options {dict(node.kwargs)}; {REMEDY}")
            if (rule.name == "mul" and len(active) > 1) or (rule.name == "div" and 1 in active):
                raise self._refusal(node, f"of values that both depend on parameters; {REMEDY}")
        elif isinstance(rule, _Selection) and values[node].ndim != rule.axes + 2:
            raise self._refusal(node, f"takes {values[node].ndim} axes as one sample; {REMEDY}")
        elif rule is _LINEAR:
            self._probe(node, sources, values)

    def _probe(self, node: Node, sources: list[Node], values: Mapping[Node, Any]) -> None:
        """See on random numbers how an operation treats the coordinates."""
        shape = values[sources[0]].shape
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(shape, generator=generator).to(values[sources[0]])

        def result(x: Tensor) -> Tensor:
            found: Tensor = self.apply(node, {**values, sources[0]: x})
            return found

        zeros = {one: torch.zeros_like(values[one]) for one in sources}
        if self.apply(node, {**values, **zeros}).any():
            raise self._refusal(node, f"adds a constant; {REMEDY}")
        if len(sources) > 1:
            return
        y = result(x)
        if not torch.equal(y, result(x)):
            raise self._refusal(node, "in training mode is random; call model.eval() first")
        if y.numel() == x.numel() and torch.equal(y.flatten(), x.flatten()):
            self.rearranges.add(node)
        elif x.ndim > 1 and y.ndim > 1 and x.shape[1] > 1:
            try:
                apart = torch.cat([result(x[:, :1]), result(x[:, 1:])], 1)
            except (RuntimeError, IndexError):
                return
            if apart.shape == y.shape and torch.allclose(apart, y):
                self.by_feature.add(node)

    def _check_samples(self, node: Node, values: dict[Node, Any], n: int) -> None:
        if (
            node in self.data
            and node.all_input_nodes
            and (values[node].ndim < 2 or len(values[node]) != n)
        ):
            raise self._refusal(
                node,
                f"gives shape {tuple(values[node].shape)} for {n} inputs, expected ({n}, ...) "
                f"with an axis of features; {REMEDY}",
            )

    def _refusal(self, node: Node, what: str) -> UserError:
        """An error that names a module, or the function and the module that calls it."""
        if node.op == "call_module":
            path, kind = str(node.target), type(self.modules[node]).__name__
        else:
            path = next(reversed(node.meta.get("nn_module_stack", ["0"])))
            kind = getattr(_function(node), "__name__", str(node.target))
        return UserError(f"{path.partition('.')[2] or 'model'}: {kind} {what}")


def _trace(root: nn.Module) -> list[Node]:
    try:
        graph = fx.Tracer().trace(root)
    except Exception as error:  # whatever the model's own code raises on symbols
        raise UserError(
            f"model: torch.fx cannot trace it ({error}); write its forward without control flow "
            f"that depends on the inputs, or {REMEDY}"
        ) from error
    needed: set[Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or not needed.isdisjoint(node.users):
            needed.add(node)
    return [node for node in graph.nodes if node in needed]


def _function(node: Node) -> Any:
    return getattr(Tensor, str(node.target)) if node.op == "call_method" else node.target


def _verify(model: nn.Module, inputs: Tensor, at: "_GraphAt") -> None:
    """Compare the outputs, and derivatives along random directions, with autograd's."""
    what = f"model: {type(model).__name__} does not do what its graph says"
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    with torch.enable_grad():
        outputs = model(inputs)
        generator = torch.Generator().manual_seed(0)
        c = torch.randn(outputs.shape, generator=generator).to(outputs)
        total = (c * outputs).sum()
    # Far above rounding, even of a GPU's short floats, and far below what a wrong formula gives.
    tolerance = 10 * torch.finfo(outputs.dtype).eps ** 0.5
    if (outputs - at.outputs).abs().max() > tolerance * outputs.abs().max():
        raise UserError(f"{what}: other outputs; {REMEDY}")
    if not named:
        return
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    by_name = dict(zip(named, gradients, strict=True))
    for block in at.pull(c[:, None], None):
        left = block.first[:, 0]
        found = block.layout.split(left.mT @ block.inputs)
        scale = block.layout.split(left.abs().mT @ block.inputs.abs())
        for name, value in found.items():
            gradient = by_name[name]
            if gradient is not None:
                value = value - gradient.reshape(value.shape)
            if value.abs().max() > tolerance * scale[name].max():
                raise UserError(f"{what}: other derivatives by {name}; {REMEDY}")


# ------------------------------------------------------------------------------ at some inputs


class _GraphAt:
    """The graph at a batch: value of every node, φ' and φ'' of every activation."""

    @torch.no_grad()
    def __init__(self, plan: _Plan, inputs: Tensor, held: int) -> None:
        self._plan, self._held = plan, held
        self._values, self.outputs = plan.run(inputs)
        self._slopes: dict[Node, Tensor] = {}
        self._curvatures: dict[Node, Tensor] = {}
        for node in plan.activations:
            [source] = plan.sources(node)

            def activation(z: Tensor, node: Node = node, source: Node = source) -> Tensor:
                value = plan.apply(node, {**self._values, source: z})
                assert isinstance(value, Tensor)
                return value

            _, slope, curvature = bend(activation, self._values[source])
            self._slopes[node] = slope
            if curvature is not None:
                self._curvatures[node] = curvature

    @torch.no_grad()
    def pull(self, first: Tensor, second: Tensor | None) -> Iterator[AffineFactors]:
        """Derivatives along directions, in the order of the parameters; see `Linearised`."""
        point = _Point(self._plan, self._values, self._slopes, {})
        along, bent = self._swept(point, first, second is first)
        if second is not None and second is not first:
            _, bent = self._swept(point, second, True)
        forward = _Forward(replace(point, bent=bent), self._held)
        for part in self._plan.parts:
            yield from self._blocks(part, along.pop(part.node), forward)
        for name, entries in self._plan.unused.items():
            zeros = first.new_zeros(*first.shape[:2], entries)
            yield AffineFactors(name, None, first.new_ones(len(first), 1), zeros, None)

    def _swept(
        self, point: _Point, directions: Tensor, bends: bool
    ) -> tuple[dict[Node, Tensor], dict[Node, Tensor]]:
        """Σ_t c_t ∂h_t by the result of every map, and D by activation, from one reverse sweep."""
        plan = self._plan
        maps = {part.node for part in plan.parts}
        along: dict[Node, Tensor] = {plan.output: directions}
        bent = {}
        for node in reversed(plan.nodes):
            if node not in plan.active:
                continue
            if node not in along:  # nothing but the shape of it is used
                shape = *directions.shape[:2], *self._values[node].shape[1:]
                along[node] = directions.new_zeros(shape)
            here = along[node] if node in maps else along.pop(node)
            if bends and node in self._curvatures:
                bent[node] = self._curvatures[node][:, None] * here
            if not plan.active.isdisjoint(plan.sources(node)):
                for source, one in plan.rules[node].pull(point, node, here).items():
                    along[source] = along[source] + one if source in along else one
        return along, bent

    def bytes_per_sample(self) -> int:
        """Rough memory of `pull` along as many directions as there are outputs."""
        plan, outputs = self._plan, self.outputs.shape[1]
        sizes = {node: self._values[node][:1].numel() for node in plan.data}
        pulled = sum(sizes[part.node] for part in plan.parts)
        pulled += sum(sizes[node] for node in plan.activations)
        largest: int = 0
        for part in plan.parts:
            if not self._is_factored(part):
                features = self._features(part)[:1]
                entries = sizes[part.node] // features.shape[3] * features.shape[2]
                largest = max(largest, 2 * features.numel() + 5 * outputs * entries)
        entries = 3 * sum(sizes.values()) + outputs * pulled + largest
        return int(self.outputs.itemsize * entries)

    def _is_factored(self, part: _Part) -> bool:
        """Whether the derivatives are outer products, as those of a `Linear` on (n, features)."""
        is_linear = isinstance(self._plan.rules[part.node], _Dense)
        return is_linear and part.weight is not None and self._values[part.node].ndim == 2

    def _features(self, part: _Part) -> Tensor:
        """What the parameters of a map multiply: (n, groups, weights and bias, positions)."""
        rule, module = self._plan.rules[part.node], self._plan.modules[part.node]
        assert isinstance(rule, _Affine)
        [source] = self._plan.sources(part.node)
        columns = []
        if part.weight is not None:
            columns.append(rule.features(module, self._values[source]))
        if part.bias is not None:
            n, _, positions = rule.channels_first(self._values[part.node], 1).shape
            groups = columns[0].shape[1] if columns else 1
            columns.append(self.outputs.new_ones(n, groups, 1, positions))
        return torch.cat(columns, dim=2)

    def _blocks(self, part: _Part, along: Tensor, forward: "_Forward") -> Iterator[AffineFactors]:
        result = self._values[part.node]
        rule = self._plan.rules[part.node]
        assert isinstance(rule, _Affine)
        ones = result.new_ones(len(result), 1)
        if self._is_factored(part):
            assert part.weight is not None
            [source] = self._plan.sources(part.node)
            inputs = self._values[source]
            yield AffineFactors(
                weight=part.weight,
                bias=part.bias,
                inputs=inputs if part.bias is None else torch.cat([inputs, ones], dim=1),
                first=along.contiguous(),
                second=forward.by_units(part.node),
            )
            return
        features = self._features(part)
        first = _correlated(rule.channels_first(along, 2), features)
        second = forward.by_entries(part.node, rule, features)
        weights = features.shape[2] - (part.bias is not None)
        for name, columns in ((part.weight, slice(weights)), (part.bias, slice(weights, None))):
            if name is not None:
                yield AffineFactors(
                    weight=name,
                    bias=None,
                    inputs=ones,
                    first=first[..., columns].flatten(2),
                    second=None if second is None else second[..., columns].flatten(2),
                )


def _correlated(left: Tensor, features: Tensor) -> Tensor:
    """Σ_p left_cp f_up: (n, K, channels, positions) to (n, K, channels, weights)."""
    grouped = left.unflatten(2, (features.shape[1], -1))
    return torch.einsum("nkgcp,ngup->nkgcu", grouped, features).flatten(2, 3)


class _Forward:
    """Second derivatives by every map, from tangents pushed forward.

    Parameters
    ----------
    point : _Point
    held : int
        Bytes that the tangents of a node may take.
    """

    def __init__(self, point: _Point, held: int) -> None:
        self._point = point
        self._held = held
        self._live: set[Node] = set()
        """Nodes through which some curvature is reached."""
        for node in reversed(point.plan.nodes):
            if node in point.plan.active and (
                node in point.bent or not self._live.isdisjoint(node.users)
            ):
                self._live.add(node)
        self._beyond: dict[Node, Tensor] = {}
        self._ways: dict[Node, list[_Step]] = {}
        self._widest = 1  # entries of a tangent met so far
        self._directions = next((one.shape[1] for one in point.bent.values()), 0)

    def by_units(self, node: Node) -> Tensor | None:
        """Σ_k D_k (∂z_k/∂z_c)² by the results of a map without positions: (n, K, units)."""
        scale, found, end = self._apart(node)
        if end is None:
            return found
        if end not in self._beyond:
            self._beyond[end] = self._from_units(end)
        through = self._beyond[end] * scale.square()[:, None]
        return through if found is None else found.add_(through)

    def by_entries(self, node: Node, rule: _Affine, features: Tensor) -> Tensor | None:
        """Σ_k D_k (∂z_k/∂θ_cu)² by the parameters of a map: (n, K, channels, weights)."""
        if self._point.values[node].ndim == 2:
            of_units = self.by_units(node)
            if of_units is None:
                return None
            return _correlated(of_units[..., None], features.square())
        scale, bent, end = self._apart(node)
        found = None
        if bent is not None:
            found = _correlated(rule.channels_first(bent, 2), features.square())
        if end is not None:
            beyond = self._from_channels(end, rule, scale, features)
            found = beyond if found is None else found.add_(beyond)
        return found

    def _apart(self, node: Node) -> tuple[Tensor, Tensor | None, Node | None]:
        """Follow the coordinates of a node for as long as they stay apart.

        Returns
        -------
        scale : tensor, (n, ...)
            Derivative of the last node by the first, coordinate by coordinate.
        bent : tensor, (n, K, ...), or None
            Σ D s² over the activations met.
        last : Node or None
            Where coordinates begin to mix; None if no more curvature is reached.
        """
        point = self._point
        scale = torch.ones_like(point.values[node])
        bent: Tensor | None = None
        while True:
            users = [user for user in node.users if user in self._live]
            if not users:
                return scale, bent, None
            rule = point.plan.rules[users[0]]
            factor = rule.factor(point, users[0], node) if len(users) == 1 else None
            if factor is None:
                return scale, bent, node
            if users[0] in point.bent:
                here = point.bent[users[0]] * scale.square()[:, None]
                bent = here if bent is None else bent.add_(here)
            node, scale = users[0], scale * factor

    def _from_units(self, node: Node) -> Tensor:
        """Σ_k D_k (∂z_k/∂a_c)² for every unit c of a node (n, units): (n, K, units)."""
        value = self._point.values[node]
        n, units = value.shape
        found: Tensor = value.new_zeros(n, self._directions, units)
        per = self._at_a_time(node, _Tangents(value.new_ones(1, 1, 1)))
        for some in _slices(units, min(per, 256)):
            moved = torch.eye(some.stop - some.start, dtype=value.dtype, device=value.device)
            tangents = _Tangents(moved[None], some.start)
            for rows in _slices(n, per // len(moved)):
                found[rows, :, some] = self._contracted(node, tangents, self._point.rows(rows))
        return found

    def _from_channels(self, node: Node, rule: _Affine, scale: Tensor, features: Tensor) -> Tensor:
        """Σ_k D_k (∂z_k/∂θ_cu)² beyond a node: (n, K, channels, weights)."""
        shape = scale.shape[1:]
        scale = rule.channels_first(scale, 1)
        n, channels, _ = scale.shape
        _, groups, weights, _ = features.shape
        found = scale.new_zeros(n, self._directions, channels, weights)
        one = features[:1, 0, :1] * scale[:1, :1]
        per = self._at_a_time(node, rule.channel(one, 0, shape))
        for rows in _slices(n, per // min(weights, per)):
            point = self._point.rows(rows)
            for c in range(channels):
                moved = features[rows, c * groups // channels] * scale[rows, c, None]
                for some in _slices(weights, per):
                    tangents = rule.channel(moved[:, some], c, shape)
                    found[rows, :, c, some] = self._contracted(node, tangents, point)
        return found

    def _contracted(self, node: Node, tangents: _Tangents, point: _Point) -> Tensor:
        """Σ_k D_k (∂z_k)² over all activations beyond a node: (n, K, P)."""
        moved = {node: tangents}
        total: Tensor | None = None
        for step in self._steps(node):
            operands = {
                one: moved[one] if one in step.done else replace(moved[one], spare=False)
                for one in step.sources
            }
            if step.node in point.bent:
                [one] = operands.values()
                squares = one.values.flatten(2).square().mT
                bent = point.bent[step.node][:, :, one.range].flatten(2)
                here = bent @ (squares[0] if len(squares) == 1 else squares)
                total = here if total is None else total.add_(here)
            if step.leads_on:
                rule = point.plan.rules[step.node]
                moved[step.node] = rule.push(point, step.node, operands)
                size = math.prod(moved[step.node].values.shape[2:])
                self._widest = max(self._widest, size)
            for source in step.done:
                del moved[source]
        assert total is not None
        return total

    def _steps(self, start: Node) -> list["_Step"]:
        """The way from a node to every activation beyond that has a curvature."""
        if start not in self._ways:
            reached = {start}
            found: list[_Step] = []
            last: dict[Node, int] = {}
            for node in self._point.plan.nodes:
                sources = [one for one in node.all_input_nodes if one in reached]
                if node in self._live and sources:
                    reached.add(node)
                    last.update(dict.fromkeys(sources, len(found)))
                    leads_on = not self._live.isdisjoint(node.users)
                    found.append(_Step(node, sources, leads_on, []))
            for source, index in last.items():
                found[index].done.append(source)
            self._ways[start] = found
        return self._ways[start]

    def _at_a_time(self, node: Node, tangents: _Tangents) -> int:
        """How many tangents of single samples to push from a node, having tried this one."""
        self._widest = 1
        self._contracted(node, tangents, self._point.rows(slice(1)))
        return max(1, self._held // (self._widest * tangents.values.itemsize))


@dataclass(frozen=True)
class _Step:
    """One node on the way of the tangents.

    Attributes
    ----------
    node : Node
    sources : list of Node
        Those it takes that have moved.
    leads_on : bool
        Whether there is more curvature beyond.
    done : list of Node
        Those that no later node takes.
    """

    node: Node
    sources: list[Node]
    leads_on: bool
    done: list[Node]


def _slices(length: int, step: int) -> Iterator[slice]:
    for start in range(0, length, max(1, step)):
        yield slice(start, min(start + max(1, step), length))
