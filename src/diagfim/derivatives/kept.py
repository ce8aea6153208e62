"""What any engine finds at a batch, kept whole: derivatives along every output, layer by layer."""

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from diagfim.arrays import layer_of
from diagfim.derivatives.factored import AffineFactors, Derivatives, Entries, Linearised
from diagfim.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]


def keep(at: Linearised, shapes: Shapes, memory: int = 2**32) -> Derivatives:
    """First and second derivatives of all outputs by all parameters, one factor for each layer.

    A layer is what the parameters of a module make up.  An affine map keeps its factors; everything
    else takes outputs × parameters numbers for each input, so that this is for few inputs.

    Parameters
    ----------
    at : Linearised
        The network at n inputs, by whichever engine.
    shapes : mapping of str to tuple of int
        Shapes of the parameters that are wanted, in the order of the model.

    memory : int
        Bytes that all of it may take.

    Returns
    -------
    Derivatives
        Of tensors like the outputs, with the layers in the order of the parameters.

    Raises
    ------
    UserError
        If it would take more memory, all parameters counted.

    Examples
    --------
    >>> import torch
    >>> from diagfim.derivatives.engines import choose
    >>> from diagfim.derivatives.kept import keep
    >>> model = torch.nn.Sequential(torch.nn.Conv1d(1, 2, 3), torch.nn.Flatten()).double()
    >>> inputs = torch.rand(4, 1, 5, dtype=torch.float64)
    >>> shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    >>> kept = keep(choose(model, inputs, 2**20).at(inputs), shapes)
    >>> [(layer.weight, tuple(layer.first.shape)) for layer in kept.layers]
    [('0', (4, 6, 8))]
    """
    n, size = at.outputs.shape
    number = sum(map(prod, shapes.values()))
    needed = 2 * n * size * number * at.outputs.itemsize
    if needed > memory:
        raise UserError(
            f"inputs: two derivatives of {n} inputs × {size} outputs × {number:,} parameters take "
            f"{needed / 1e9:.1f} GB, expected {memory / 1e9:.1f} at most; keep fewer inputs at a "
            "time, or call diagfim.analyze, which keeps none"
        )
    every = torch.eye(size, dtype=at.outputs.dtype, device=at.outputs.device).expand(n, size, size)
    blocks: dict[str, list[AffineFactors]] = {}
    for block in at.pull(every, every):
        blocks.setdefault(layer_of(block.weight), []).append(block)
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        layers.setdefault(layer_of(name), {})[name] = shape
    return Derivatives(
        at.outputs,
        tuple(_layer(name, blocks.get(name, []), some, every) for name, some in layers.items()),
    )


def _layer(
    name: str, blocks: Sequence[AffineFactors], shapes: Shapes, every: Tensor
) -> AffineFactors:
    if len(blocks) == 1 and _is_affine(blocks[0], shapes):
        [block] = blocks
        second = torch.zeros_like(block.first) if block.second is None else block.second
        return AffineFactors(block.weight, block.bias, block.inputs, block.first, second)
    return AffineFactors(
        weight=name,
        bias=None,
        inputs=every.new_ones(len(every), 1),
        first=_by_entries(blocks, shapes, every, "first"),
        second=_by_entries(blocks, shapes, every, "second"),
        entries=Entries(tuple(shapes.items())),
    )


def _is_affine(block: AffineFactors, shapes: Shapes) -> bool:
    units = block.first.shape[-1]
    expected: dict[str, tuple[int, ...]] = {block.weight: (units, block.fan_in)}
    if block.bias is not None:
        expected[block.bias] = (units,)
    return expected == dict(shapes)


def _by_entries(
    blocks: Sequence[AffineFactors], shapes: Shapes, every: Tensor, order: str
) -> Tensor:
    """Derivatives by every entry: (n, outputs, entries); zero for what no block has met."""
    found: dict[str, list[Tensor]] = {name: [] for name in shapes}
    for block in sorted(blocks, key=lambda one: one.start):
        left = getattr(block, order)
        if left is None:
            left = torch.zeros_like(block.first)
        right = block.inputs if order == "first" else block.inputs**2
        for name, part in block.layout.split(left[..., None] * right[:, None, None, :]).items():
            found[name].append(part.flatten(2))
    zeros = every.new_zeros
    return torch.cat(
        [
            torch.cat(found[name], 2) if found[name] else zeros(*every.shape[:2], prod(shape))
            for name, shape in shapes.items()
        ],
        dim=2,
    )
