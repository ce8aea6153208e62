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
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.func import jvp, vmap
from torch.fx import Node

from diagfim.derivatives import dense
from diagfim.derivatives.factored import AffineFactors, split
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
        self._held = 2**22
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

    def seconds(self, inputs: Tensor) -> float:
        """Forecast of the time that all derivatives take at these inputs, from a few of them.

        Parameters
        ----------
        inputs : tensor, (n, ...)
        """
        few, elapsed = 1, 0.0
        while True:
            start = time.perf_counter()
            at = self.at(inputs[:few])
            count, outputs = at.outputs.shape
            every = torch.eye(outputs, dtype=at.outputs.dtype, device=at.outputs.device)
            every = every.expand(count, outputs, outputs)
            for _ in at.pull(every, every):
                pass
            elapsed = time.perf_counter() - start
            if elapsed > 0.2 or count == len(inputs) or few >= self.batch_size:
                return elapsed / count * len(inputs)
            few = min(4 * few, self.batch_size)


# ------------------------------------------------------------------- what tangents do at a node


@dataclass(frozen=True)
class _Tangents:
    """P directions in which a node moves, zero outside a range of its first axis of features.

    Attributes
    ----------
    values : tensor, (n, P, range, ...), or (1, P, range, ...) where all samples share them
    start : int
        Where the range begins.
    """

    values: Tensor
    start: int = 0

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
    """How a node follows the nodes that it takes."""

    def factor(self, point: _Point, node: Node, source: Node) -> Tensor | None:
        """Derivative by a source whose coordinates stay apart, None where they do not.

        It broadcasts to the shape of the node, which is that of the source.
        """
        return None

    def push(self, point: _Point, node: Node, moved: dict[Node, _Tangents]) -> _Tangents:
        """Tangents of the node, from those of the nodes that it takes."""
        [(source, tangents)] = moved.items()
        factor = self.factor(point, node, source)
        assert factor is not None
        factor = factor.expand(point.values[node].shape)[:, None, tangents.range]
        return _Tangents(tangents.values * factor, tangents.start)


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
    """Derivative by the operand at a position, given the other one."""

    def __init__(self, name: str) -> None:
        self.name = name

    def factor(self, point: _Point, node: Node, source: Node) -> Tensor | None:
        same = point.values[source].shape == point.values[node].shape
        return self._derivative(point, node, source) if same else None

    def push(self, point: _Point, node: Node, moved: dict[Node, _Tangents]) -> _Tangents:
        result = point.values[node]
        tangents = list(moved.values())
        apart = all(point.values[source].shape == result.shape for source in moved) and all(
            one.range == tangents[0].range for one in tangents
        )
        if not apart:
            tangents = [
                _Tangents(one.full(point.values[source]).expand(-1, -1, *result.shape[1:]))
                for source, one in moved.items()
            ]
        total: Tensor | None = None
        for source, one in zip(moved, tangents, strict=True):
            factor = self._derivative(point, node, source)
            if factor.ndim:
                factor = factor.expand(result.shape)[:, None, one.range]
            term = one.values * factor
            total = term if total is None else total + term
        assert total is not None
        return _Tangents(total, tangents[0].start)

    def _derivative(self, point: _Point, node: Node, source: Node) -> Tensor:
        operands = [point.values[one] if isinstance(one, Node) else one for one in node.args]
        total = torch.zeros_like(point.values[node][:0].sum())
        for position, one in enumerate(node.args):
            if one is source:
                total = total + self.factors[self.name](position, operands[not position])
        return total


class _Linear(_Rule):
    """Linear operations without parameters, among them all that only rearrange."""

    def factor(self, point: _Point, node: Node, source: Node) -> Tensor | None:
        value, before = point.values[node], point.values[source]
        same = node in point.plan.rearranges and value.shape == before.shape
        return value.new_ones(()) if same else None

    def push(self, point: _Point, node: Node, moved: dict[Node, _Tangents]) -> _Tangents:
        plan = point.plan
        if node in plan.rearranges:
            [(source, tangents)] = moved.items()
            return _rearranged(tangents, point.values[source], point.values[node])
        apart = node in plan.by_feature
        n = max(len(one.values) for one in moved.values())
        operands = dict(point.values)
        for source in node.all_input_nodes:
            if source in moved:
                one = moved[source]
                values = one.values if apart else one.full(point.values[source])
                operands[source] = values.expand(n, *values.shape[1:]).flatten(0, 1)
        lead = (n, next(iter(moved.values())).values.shape[1])
        for source in node.all_input_nodes:
            if source in plan.data and source not in moved:
                shape = point.values[source].shape[1:]
                operands[source] = point.values[source].new_zeros(math.prod(lead), *shape)
        start = next(iter(moved.values())).start if apart else 0
        return _Tangents(plan.apply(node, operands).unflatten(0, lead), start)


class _Selection(_Rule):
    """Operations that are linear as long as what they select stays the same."""

    def push(self, point: _Point, node: Node, moved: dict[Node, _Tangents]) -> _Tangents:
        [(source, tangents)] = moved.items()
        value = point.values[source].detach()
        start = 0
        if node in point.plan.by_feature:
            value, values, start = value[:, tangents.range], tangents.values, tangents.start
        else:
            values = tangents.full(value)

        def along(direction: Tensor) -> Tensor:
            def function(one: Tensor) -> Any:
                return point.plan.apply(node, {**point.values, source: one})

            return jvp(function, (value,), (direction,))[1]  # type: ignore[no-any-return]

        values = values.expand(len(value), *values.shape[1:])
        return _Tangents(vmap(along, in_dims=1, out_dims=1)(values), start)


def _rearranged(tangents: _Tangents, source: Tensor, node: Tensor) -> _Tangents:
    """Tangents of a node that has the coordinates of the source, in the same order."""
    values, shape = tangents.values, node.shape[1:]
    if values.shape[2:] != source.shape[1:]:
        if shape[:1] == source.shape[1:2]:
            return _Tangents(values.reshape(*values.shape[:3], *shape[1:]), tangents.start)
        if len(shape) == 1:
            each = math.prod(source.shape[2:])
            return _Tangents(values.flatten(2), tangents.start * each)
    return _Tangents(tangents.full(source).reshape(*values.shape[:2], *shape))


class _Affine(_Rule):
    """z_cp = Σ_u θ_cu f_up, with weights and a bias for θ."""

    def features(self, module: Any, inputs: Tensor) -> Tensor:
        """What the weights multiply: (n, groups of channels, weights per channel, positions)."""
        raise NotImplementedError

    def channels_first(self, values: Tensor, axis: int) -> Tensor:
        """Result of the map, (..., channels, positions), the channels being at an axis."""
        return values.reshape(*values.shape[: axis + 1], -1)

    def channel(self, values: Tensor, channel: int, shape: torch.Size) -> _Tangents:
        """Tangents (n, P, positions) of one channel of a result (n, *shape)."""
        return _Tangents(values.reshape(*values.shape[:2], 1, *shape[1:]), channel)


class _Dense(_Affine):
    def features(self, module: nn.Linear, inputs: Tensor) -> Tensor:
        return self.channels_first(inputs, 1)[:, None]

    def channels_first(self, values: Tensor, axis: int) -> Tensor:
        return super().channels_first(values.movedim(-1, axis), axis)

    def channel(self, values: Tensor, channel: int, shape: torch.Size) -> _Tangents:
        full = values.new_zeros(*values.shape[:2], *shape)
        full[..., channel] = values.unflatten(2, shape[:-1])
        return _Tangents(full)

    def push(self, point: _Point, node: Node, moved: dict[Node, _Tangents]) -> _Tangents:
        [(source, tangents)] = moved.items()
        weight = point.plan.module(node).weight
        if point.values[source].ndim > 2:  # the first axis of features is one of positions
            return _Tangents(F.linear(tangents.values, weight), tangents.start)
        return _Tangents(F.linear(tangents.values, weight[:, tangents.range]))


class _Convolution(_Affine):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function

    def features(self, module: Any, inputs: Tensor) -> Tensor:
        pads: list[int] = []
        for kernel, dilation, padding in zip(
            reversed(module.kernel_size),
            reversed(module.dilation),
            reversed(module.padding)
            if isinstance(module.padding, tuple)
            else [module.padding] * len(module.kernel_size),
            strict=True,
        ):
            if padding == "same":
                both = dilation * (kernel - 1)
                pads += [both // 2, both - both // 2]
            else:
                pads += [0, 0] if padding == "valid" else [padding, padding]
        images = F.pad(inputs, pads)
        sizes = module.kernel_size, module.dilation, module.stride
        if images.ndim == 3:
            images = images[:, :, None]
            sizes = tuple((1, *size) for size in sizes)
        kernel, dilation, stride = sizes
        patches = F.unfold(images, kernel, dilation, 0, stride)
        return patches.unflatten(1, (module.groups, -1))

    def push(self, point: _Point, node: Node, moved: dict[Node, _Tangents]) -> _Tangents:
        [(source, tangents)] = moved.items()
        module = point.plan.module(node)
        values, weight, groups, start = tangents.values, module.weight, module.groups, 0
        per_group = weight.shape[1]
        group = tangents.start // per_group
        if tangents.range.stop <= (group + 1) * per_group:
            begin = tangents.start - group * per_group
            weight = weight.unflatten(0, (groups, -1))[group, :, begin : begin + values.shape[2]]
            start, groups = group * len(weight), 1
        else:
            values = tangents.full(point.values[source])
        moved_ = self.function(
            values.flatten(0, 1),
            weight,
            None,
            module.stride,
            module.padding,
            module.dilation,
            groups,
        )
        return _Tangents(moved_.unflatten(0, values.shape[:2]), start)


class _Normalisation(_Affine):
    """Batch normalisation by its running statistics."""

    def features(self, module: Any, inputs: Tensor) -> Tensor:
        shape = (-1, *[1] * (inputs.ndim - 2))
        scale = (module.running_var + module.eps).rsqrt().reshape(shape)
        centred = (inputs - module.running_mean.reshape(shape)) * scale
        return self.channels_first(centred, 1)[:, :, None]

    def factor(self, point: _Point, node: Node, source: Node) -> Tensor:
        module = point.plan.module(node)
        scale = (module.running_var + module.eps).rsqrt()
        if module.weight is not None:
            scale = scale * module.weight
        return scale.reshape(-1, *[1] * (point.values[node].ndim - 2))


# ------------------------------------------------------------------------------ what is known

_ACTIVATION, _LINEAR, _SELECTION = _Activation(), _Linear(), _Selection()

ELEMENTWISE = (
    *(kind for kind in dense.ELEMENTWISE if kind is not nn.Identity),
    *(nn.ReLU6, nn.Hardtanh, nn.SELU, nn.CELU, nn.Mish),
)
"""Activations applied coordinate by coordinate."""

RULES: dict[type[nn.Module], _Rule] = {
    nn.Linear: _Dense(),
    nn.Conv1d: _Convolution(F.conv1d),
    nn.Conv2d: _Convolution(F.conv2d),
    nn.BatchNorm1d: _Normalisation(),
    nn.BatchNorm2d: _Normalisation(),
    **dict.fromkeys(ELEMENTWISE, _ACTIVATION),
    **dict.fromkeys((nn.Identity, nn.Flatten, nn.Unflatten), _LINEAR),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d), _LINEAR),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d), _LINEAR),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), _LINEAR),
    **dict.fromkeys((nn.ZeroPad1d, nn.ZeroPad2d), _LINEAR),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d), _SELECTION),
    **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d), _SELECTION),
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
    **_functions(_SELECTION, "max_pool1d", "max_pool2d", "adaptive_max_pool1d"),
    **_functions(_SELECTION, "adaptive_max_pool2d"),
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
    data : set of Node
        Those that hold a tensor with an axis of samples.
    active : set of Node
        Those of them that depend on parameters which require a gradient.
    rearranges, by_feature : set of Node
        Linear operations that keep all coordinates in order; operations that take every index of
        the first axis of features by itself.
    activations : list of Node
        Those among the active.
    parts : list of _Part
        In the order of the parameters.
    unused : dict of str to int
        Numbers of entries of the parameters that enter nowhere.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        # In a Sequential, so that a model that is one known module is a node of the graph.
        self._root = nn.Sequential(model)
        self.nodes = _trace(self._root)
        self.data: set[Node] = set()
        self.active: set[Node] = set()
        self.rearranges: set[Node] = set()
        self.by_feature: set[Node] = set()
        for node in self.nodes:
            if node.op == "call_module":
                self._check_module(node)
        self.parts, self.unused = self._find_parts(model)
        try:
            values, outputs = self.run(example)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise UserError(
                f"inputs: the model does not take shape {tuple(example.shape)} ({error})"
            ) from error
        for node in self.nodes:
            self._classify(node, values)
        self.activations = [
            node for node in self.nodes if node in self.active and self.rule(node) is _ACTIVATION
        ]
        if not isinstance(outputs, Tensor) or outputs.ndim != 2:
            found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise UserError(f"outputs: {found}; expected a tensor (n, T), one row per input")
        # With another number of samples, no other axis has the length of theirs.
        other = example[:1] if len(example) > 1 else torch.cat([example, example])
        self._check_samples(values, example)
        self._check_samples(self.run(other)[0], other)

    def module(self, node: Node) -> Any:
        """The module that a node calls."""
        return self._root.get_submodule(str(node.target))

    def rule(self, node: Node) -> _Rule | None:
        """What is known of a node, if anything."""
        if node.op == "call_module":
            return RULES.get(type(self.module(node)))
        return FUNCTIONS.get(_function(node)) if node.op.startswith("call") else None

    def sources(self, node: Node) -> list[Node]:
        """The nodes with an axis of samples that a node takes."""
        return [one for one in node.all_input_nodes if one in self.data]

    def apply(self, node: Node, values: Mapping[Node, Any]) -> Any:
        """Value of a node, given those of the nodes it takes."""
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        call = self.module(node) if node.op == "call_module" else _function(node)
        return call(*args, **kwargs)

    def run(self, inputs: Tensor) -> tuple[dict[Node, Any], Any]:
        """Values of all nodes, and the outputs."""
        values: dict[Node, Any] = {}
        for node in self.nodes:
            if node.op == "placeholder":
                values[node] = inputs
            elif node.op == "get_attr":
                values[node] = operator.attrgetter(str(node.target))(self._root)
            elif node.op == "output":
                break
            elif self.rule(node) is _ACTIVATION:
                # Those that work in place would overwrite what the slope is taken at.
                copies = {one: values[one].clone() for one in node.all_input_nodes}
                values[node] = self.apply(node, copies)
            else:
                values[node] = self.apply(node, values)
        return values, fx.map_arg(node.args[0], values.__getitem__)

    # ---------------------------------------------------------------------------------- checks

    def _check_module(self, node: Node) -> None:
        module = self.module(node)
        if isinstance(self.rule(node), _Normalisation):
            if module.training or module.running_mean is None:
                remedy = "call model.eval() first" if module.training else REMEDY
                raise self._refusal(node, f"takes the statistics of the batch; {remedy}")
        elif isinstance(module, _DROPOUT) and module.training and module.p:
            raise self._refusal(node, "is in training mode, and random; call model.eval() first")
        elif isinstance(self.rule(node), _Convolution) and module.padding_mode != "zeros":
            raise self._refusal(
                node, f"has padding_mode {module.padding_mode!r}, expected 'zeros'; {REMEDY}"
            )
        elif self.rule(node) is None:
            known = ", ".join(kind.__name__ for kind in RULES)
            raise self._refusal(node, f"is not one of the modules known here, {known}; {REMEDY}")

    def _find_parts(self, model: nn.Module) -> tuple[list[_Part], dict[str, int]]:
        """The affine maps with something to differentiate by, and the parameters that have none."""
        trainable = {
            id(value): name for name, value in model.named_parameters() if value.requires_grad
        }
        parts: list[_Part] = []
        used: set[str] = set()
        for node in self.nodes:
            if node.op == "get_attr":
                value = operator.attrgetter(str(node.target))(self._root)
                if id(value) in trainable:
                    raise UserError(
                        f"{trainable[id(value)]}: used outside of the modules known here; "
                        f"set requires_grad to False, or {REMEDY}"
                    )
            elif node.op == "call_module":
                found = {
                    which: trainable[id(value)]
                    for which, value in self.module(node).named_parameters()
                    if id(value) in trainable
                }
                for name in found.values():
                    if name in used:
                        raise UserError(
                            f"{name}: used twice; every parameter may enter one map once; {REMEDY}"
                        )
                    used.add(name)
                if found:
                    parts.append(_Part(node, found.get("weight"), found.get("bias")))
        order = list(trainable.values())
        parts.sort(key=lambda part: order.index(part.weight or part.bias or ""))
        unused = {
            name: value.numel()
            for name, value in model.named_parameters()
            if value.requires_grad and name not in used
        }
        return parts, unused

    def _classify(self, node: Node, values: Mapping[Node, Any]) -> None:
        """See what depends on the samples and on the parameters; refuse what is not known."""
        if node.op == "placeholder":
            self.data.add(node)
        sources, rule = self.sources(node), self.rule(node)
        maps = any(part.node is node for part in self.parts)
        if maps and not sources:
            raise self._refusal(node, f"acts on a constant; {REMEDY}")
        if not sources or node.op == "output":
            return
        if not isinstance(values[node], Tensor) and _function(node) in _OF_SHAPES:
            return
        if rule is None or not isinstance(values[node], Tensor):
            raise self._refusal(node, f"is not a function known here; {REMEDY}")
        self.data.add(node)
        if not maps and self.active.isdisjoint(sources):
            return
        self.active.add(node)
        if isinstance(rule, _Arithmetic):
            moved = [position for position, one in enumerate(node.args) if one in self.active]
            if node.kwargs:
                raise self._refusal(node, f"has options {dict(node.kwargs)}; {REMEDY}")
            if (rule.name == "mul" and len(moved) > 1) or (rule.name == "div" and 1 in moved):
                raise self._refusal(
                    node, f"combines values that all depend on parameters; {REMEDY}"
                )
        elif rule in (_LINEAR, _SELECTION):
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
        if self.rule(node) is _LINEAR and self.apply(node, {**values, **zeros}).any():
            raise self._refusal(node, f"adds a constant or is random; {REMEDY}")
        if len(sources) > 1:
            return
        y = result(x)
        if y.numel() == x.numel() and torch.equal(y.flatten(), x.flatten()):
            self.rearranges.add(node)
        elif x.ndim > 1 and y.ndim > 1 and x.shape[1] > 1:
            try:
                apart = torch.cat([result(x[:, :1]), result(x[:, 1:])], 1)
            except (RuntimeError, IndexError):
                return
            if apart.shape == y.shape and torch.allclose(apart, y):
                self.by_feature.add(node)

    def _check_samples(self, values: Mapping[Node, Any], inputs: Tensor) -> None:
        for node in self.nodes:
            if node in self.data and (
                values[node].shape[:1] != inputs.shape[:1] or values[node].ndim < 2
            ):
                raise self._refusal(
                    node,
                    f"gives shape {tuple(values[node].shape)} for {len(inputs)} inputs; expected "
                    f"an axis of samples and one of features; {REMEDY}",
                )

    def _refusal(self, node: Node, what: str) -> UserError:
        if node.op == "call_module":
            where, kind = str(node.target), type(self.module(node)).__name__
        else:
            where = next(reversed(node.meta.get("nn_module_stack", {"0": None})))
            kind = getattr(_function(node), "__name__", str(node.target))
        return UserError(f"{where.partition('.')[2] or 'model'}: {kind} {what}")


_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)


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
        outputs = model(inputs.detach())
    tolerance = torch.finfo(outputs.dtype).eps ** 0.5
    if (outputs - at.outputs).abs().max() > tolerance * outputs.abs().max():
        raise UserError(f"{what}: other outputs; {REMEDY}")
    if not named:
        return
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(outputs.shape, generator=generator).to(outputs)
    gradients = torch.autograd.grad(outputs, list(named.values()), c, allow_unused=True)
    by_name = dict(zip(named, gradients, strict=True))
    for block in at.pull(c[:, None], None):
        left = block.first[:, 0]
        found = split(block.parameters, left.mT @ block.inputs)
        scale = split(block.parameters, left.abs().mT @ block.inputs.abs())
        for name, value in found.items():
            gradient = by_name[name]
            if gradient is not None:
                value = value - gradient.reshape(value.shape)
            if value.abs().max() > tolerance * scale[name].max():
                raise UserError(f"{what}: other derivatives by {name}; {REMEDY}")


# ------------------------------------------------------------------------------ at some inputs


class _GraphAt:
    """The graph at a batch: the value of every node, with autograd's record of them."""

    def __init__(self, plan: _Plan, inputs: Tensor, held: int) -> None:
        self._plan, self._held = plan, held
        with torch.enable_grad():
            self._values, outputs = plan.run(inputs.detach())
        self._outputs: Tensor = outputs
        self.outputs = self._outputs.detach()
        self._bends: dict[Node, tuple[Tensor, Tensor | None]] = {}

    @torch.no_grad()
    def pull(self, first: Tensor, second: Tensor | None) -> Iterator[AffineFactors]:
        """Derivatives along directions, in the order of the parameters; see `Linearised`."""
        results = [part.node for part in self._plan.parts]
        bends = {} if second is None else self._bend()
        curved = {
            node: curvature for node, (_, curvature) in bends.items() if curvature is not None
        }
        if second is first:
            along = self._sweep(first, [*results, *curved])
            into = along
        else:
            along = self._sweep(first, results)
            into = {} if second is None else self._sweep(second, list(curved))
        point = _Point(
            self._plan,
            self._values,
            {node: slope for node, (slope, _) in bends.items()},
            {node: curved[node][:, None] * into[node] for node in curved},
        )
        del into
        forward = _Forward(point, self._held)
        for part in self._plan.parts:
            yield from self._blocks(part, along.pop(part.node), forward)
        for name, entries in self._plan.unused.items():
            zeros = first.new_zeros(*first.shape[:2], entries)
            yield AffineFactors(name, None, first.new_ones(len(first), 1), zeros, None)

    def bytes_per_sample(self) -> int:
        """Rough memory of `pull` along as many directions as there are outputs."""
        plan, outputs = self._plan, self.outputs.shape[1]
        sizes = {node: self._values[node][:1].numel() for node in plan.data}
        pulled = sum(sizes[part.node] for part in plan.parts)
        pulled += sum(sizes[node] for node in plan.activations)
        largest = 0
        for part in plan.parts:
            if not self._is_factored(part):
                features = self._features(part)[:1]
                entries = sizes[part.node] // features.shape[3] * features.shape[2]
                largest = max(largest, 2 * features.numel() + 5 * outputs * entries)
        return self.outputs.itemsize * (3 * sum(sizes.values()) + 2 * outputs * pulled + largest)

    def _sweep(self, directions: Tensor, nodes: list[Node]) -> dict[Node, Tensor]:
        """Σ_t c_t ∂h_t by the values of nodes: (n, K, ...)."""
        if not nodes:
            return {}
        found = torch.autograd.grad(
            self._outputs,
            [self._values[node] for node in nodes],
            directions.movedim(1, 0),
            retain_graph=True,
            is_grads_batched=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return {node: one.movedim(1, 0) for node, one in zip(nodes, found, strict=True)}

    def _bend(self) -> dict[Node, tuple[Tensor, Tensor | None]]:
        """φ' and φ'' of every activation; no φ'' where it is zero everywhere."""
        if not self._bends:
            for node in self._plan.activations:
                [source] = self._plan.sources(node)
                self._bends[node] = _bend(self._plan, node, source, self._values)
        return self._bends

    def _is_factored(self, part: _Part) -> bool:
        """Whether the derivatives are outer products, as those of a `Linear` on (n, features)."""
        dense = isinstance(self._plan.rule(part.node), _Dense)
        return dense and part.weight is not None and self._values[part.node].ndim == 2

    def _features(self, part: _Part) -> Tensor:
        """What the parameters of a map multiply: (n, groups, weights and bias, positions)."""
        rule, module = self._plan.rule(part.node), self._plan.module(part.node)
        assert isinstance(rule, _Affine)
        [source] = self._plan.sources(part.node)
        columns = []
        if part.weight is not None:
            columns.append(rule.features(module, self._values[source].detach()))
        if part.bias is not None:
            n, _, positions = rule.channels_first(self._values[part.node].detach(), 1).shape
            groups = columns[0].shape[1] if columns else 1
            columns.append(self.outputs.new_ones(n, groups, 1, positions))
        return torch.cat(columns, dim=2)

    def _blocks(self, part: _Part, along: Tensor, forward: "_Forward") -> Iterator[AffineFactors]:
        result = self._values[part.node]
        rule = self._plan.rule(part.node)
        assert isinstance(rule, _Affine)
        ones = result.new_ones(len(result), 1)
        if self._is_factored(part):
            assert part.weight is not None
            [source] = self._plan.sources(part.node)
            inputs = self._values[source].detach()
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


def _bend(
    plan: _Plan, node: Node, source: Node, values: Mapping[Node, Any]
) -> tuple[Tensor, Tensor | None]:
    """First and second derivative of an activation, coordinate by coordinate.

    The derivatives of the sum over coordinates are the coordinate-wise ones, so that two reverse
    passes through the activation alone give both.
    """
    with torch.enable_grad():
        z = values[source].detach().requires_grad_()
        value = plan.apply(node, {**values, source: z.clone()})
        (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)
        curvature = None
        if slope.requires_grad:
            (curvature,) = torch.autograd.grad(slope.sum(), z, allow_unused=True)
    if curvature is not None and not curvature.any():
        curvature = None
    return slope.detach(), curvature


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
        self._held = 2**22
        self._live: set[Node] = set()
        """Nodes through which some curvature is reached."""
        for node in reversed(point.plan.nodes):
            if node in point.bent or not self._live.isdisjoint(node.users):
                self._live.add(node)
        self._beyond: dict[Node, Tensor] = {}
        self._ways: dict[Node, list[_Step]] = {}
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
        scale = torch.ones_like(point.values[node]).detach()
        bent: Tensor | None = None
        while True:
            users = [user for user in node.users if user in self._live]
            if not users:
                return scale, bent, None
            rule = point.plan.rule(users[0])
            assert rule is not None
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
        found = value.new_zeros(n, self._directions, units)
        every = torch.eye(units, dtype=value.dtype, device=value.device)
        per = self._rows(node)
        for some in _slices(units, per):
            tangents = _Tangents(every[None, some, some], some.start)
            for rows in _slices(n, per // len(tangents.values[0])):
                found[rows, :, some] = self._contracted(node, tangents, self._point.rows(rows))
        return found

    def _from_channels(self, node: Node, rule: _Affine, scale: Tensor, features: Tensor) -> Tensor:
        """Σ_k D_k (∂z_k/∂θ_cu)² beyond a node: (n, K, channels, weights)."""
        shape = scale.shape[1:]
        scale = rule.channels_first(scale, 1)
        n, channels, _ = scale.shape
        _, groups, weights, _ = features.shape
        found = scale.new_zeros(n, self._directions, channels, weights)
        per = self._rows(node)
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
            operands = {one: moved[one] for one in step.sources}
            if step.node in point.bent:
                [one] = operands.values()
                squares = one.values.flatten(2).square().mT
                bent = point.bent[step.node][:, :, one.range].flatten(2)
                here = bent @ (squares[0] if len(squares) == 1 else squares)
                total = here if total is None else total.add_(here)
            if step.leads_on:
                rule = point.plan.rule(step.node)
                assert rule is not None
                moved[step.node] = rule.push(point, step.node, operands)
            for one in step.done:
                del moved[one]
        assert total is not None
        return total

    def _steps(self, start: Node) -> list["_Step"]:
        """The way from a node to every activation beyond that has a curvature."""
        if start not in self._ways:
            reached, found, last = {start}, [], {}
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

    def _rows(self, start: Node) -> int:
        """How many tangents of single samples to push from a node at a time."""
        values = self._point.values
        ways = [start, *(step.node for step in self._steps(start))]
        widest = max(values[node][:1].numel() for node in ways)
        return max(1, self._held // (widest * values[start].itemsize))


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
