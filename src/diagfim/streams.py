"""Inputs as they come from users, in batches of one size."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diagfim.errors import UserError


@dataclass(frozen=True)
class Batch:
    """Some inputs of a stream.

    Attributes
    ----------
    inputs : tensor, (n, ...)
    labels : tensor, (n, ...), or None
        Targets of the data, where the stream has them.
    start : int
        Position of the first input in the stream.
    """

    inputs: Tensor
    labels: Tensor | None
    start: int


def pieces(
    inputs: object, labels: Tensor | np.ndarray | None = None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The inputs and labels that a user gave, in whatever pieces they came.

    Parameters
    ----------
    inputs : tensor or array, (n, ...), or iterable of them, alone or as (inputs, labels)
    labels : tensor or array, (n, ...), optional
        Only beside a single tensor of inputs.

    Yields
    ------
    inputs : tensor, (n, ...)
        Of one shape, dtype and device but for n, and outside of any graph; n may be 0.
    labels : tensor, (n, ...), or None

    Raises
    ------
    UserError
        If the inputs are neither, a batch has no axis of samples, is unlike those before it or is
        no dense tensor, or labels are missing in some batches or of another length.
    """
    one = isinstance(inputs, Tensor | np.ndarray)
    if one:
        whole: Iterable[object] = [(inputs, labels)]
    elif not isinstance(inputs, Iterable):
        raise UserError(
            f"inputs: a {type(inputs).__name__} is neither a tensor nor an iterable of batches"
            + ("; pass it to a DataLoader" if hasattr(inputs, "__getitem__") else "")
        )
    elif labels is not None:
        raise UserError(
            "labels: they go with a tensor of inputs; let an iterable yield (inputs, labels)"
        )
    else:
        whole = inputs
    model: tuple[int, Tensor, Tensor | None] | None = None
    for number, piece in enumerate(whole):
        what = "they are" if one else f"batch {number} is"
        first, second = _piece(piece, what)
        if second is not None and (second.ndim == 0 or len(second) != len(first)):
            raise UserError(
                f"labels: shape {tuple(second.shape)} beside {len(first)} inputs; expected one "
                "for each"
            )
        if len(first):
            model = model or (number, first, second)
            _compare(number, first, second, *model)
        yield first, second


def _piece(piece: object, what: str) -> tuple[Tensor, Tensor | None]:
    """Inputs and labels of a batch, as tensors."""
    first, second = piece, None
    if isinstance(piece, tuple | list) and len(piece) in (1, 2):
        first, second = piece if len(piece) == 2 else (piece[0], None)
    return _inputs(first, what), None if second is None else _labels(second)


def _inputs(given: object, what: str) -> Tensor:
    """The inputs of a batch as a tensor that has an axis of samples."""
    expected = "expected a tensor (n, ...) or a pair of inputs and labels"
    if isinstance(given, Mapping):
        keys = ", ".join(map(str, given))
        raise UserError(
            f"inputs: {what} a {type(given).__name__} with {keys}; {expected}: take them out of it "
            "in a generator, and let the model, wrapped, take one tensor"
        )
    if isinstance(given, np.ndarray):
        try:
            given = torch.as_tensor(given)
        except TypeError:
            raise UserError(
                f"inputs: {what} an array of {given.dtype}; convert it to numbers, such as float32"
            ) from None
    if not isinstance(given, Tensor):
        kind = type(given).__name__
        if isinstance(given, tuple | list):
            kind += f" of {len(given)}"
        raise UserError(f"inputs: {what} a {kind}; {expected}")
    if given.layout != torch.strided or given.is_quantized:
        raise UserError(
            f"inputs: {what} of layout {given.layout} and dtype {given.dtype}; make it dense, such "
            "as with to_dense()"
        )
    if given.is_meta:
        raise UserError(f"inputs: {what} on the meta device, without values; {expected}")
    if given.ndim == 0:
        raise UserError(f"inputs: {what} a scalar tensor; {expected}")
    # Tensors of inference mode cannot be differentiated with.
    if given.is_inference():
        return given.clone()
    return given.detach() if given.requires_grad else given


def _labels(given: object) -> Tensor:
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(
            f"labels: a {type(given).__name__} that is no tensor of numbers; number the classes "
            "from 0"
        ) from None


def _compare(
    number: int, inputs: Tensor, labels: Tensor | None, k: int, first: Tensor, second: Tensor | None
) -> None:
    """Refuse a batch unlike the first, number k: they are cut and joined into others."""
    for what, one, other in (("inputs", inputs, first), ("labels", labels, second)):
        if one is None or other is None:
            if one is not other:
                has, lacks = (number, k) if other is None else (k, number)
                raise UserError(
                    f"labels: batch {lacks} has none, batch {has} does; let every batch have them, "
                    "or none"
                )
        elif (one.shape[1:], one.dtype, one.device) != (other.shape[1:], other.dtype, other.device):
            mine, theirs = (f"(n, {', '.join(map(str, x.shape[1:]))})" for x in (one, other))
            raise UserError(
                f"{what}: batch {number} is {mine} of {one.dtype} on {one.device}, but batch {k} "
                f"{theirs} of {other.dtype} on {other.device}; pad or convert them to be alike, or "
                "pass the kinds apart"
            )


def rebatch(stream: Iterable[tuple[Tensor, Tensor | None]], size: int) -> Iterator[Batch]:
    """Cut and join the pieces of a stream into batches of one size, the last one smaller.

    However the pieces came, the batches are the same, and so is all that is computed from them.
    """
    held: list[tuple[Tensor, Tensor | None]] = []
    waiting = start = 0
    for inputs, labels in stream:
        held.append((inputs, labels))
        waiting += len(inputs)
        while waiting >= size:
            (head, head_labels), held = _cut(held, size)
            yield Batch(head, head_labels, start)
            start += size
            waiting -= size
    if waiting:
        (head, head_labels), _ = _cut(held, waiting)
        yield Batch(head, head_labels, start)


def _cut(
    held: list[tuple[Tensor, Tensor | None]], size: int
) -> tuple[tuple[Tensor, Tensor | None], list[tuple[Tensor, Tensor | None]]]:
    """The first `size` inputs as one piece, and what is left."""
    inputs = held[0][0] if len(held) == 1 else torch.cat([one for one, _ in held])
    every = [labels for _, labels in held if labels is not None]
    labels = None if len(every) < len(held) else every[0] if len(every) == 1 else torch.cat(every)
    rest = (inputs[size:], None if labels is None else labels[size:])
    head = (inputs[:size], None if labels is None else labels[:size])
    return head, [rest] if len(rest[0]) else []
