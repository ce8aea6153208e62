"""Inputs as they come from users, in batches of one size."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeGuard

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


def pieces(inputs: object, labels: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The inputs and labels that a user gave, in whatever pieces they came.

    Parameters
    ----------
    inputs : tensor, (n, ...), or iterable of tensors or of (tensor, labels)
    labels : tensor, (n, ...), optional
        Only beside a single tensor of inputs.

    Raises
    ------
    UserError
        If the inputs are neither, a batch has no axis of samples, or labels are of another length.
    """
    if isinstance(inputs, Tensor):
        whole: Iterable[object] = [inputs if labels is None else (inputs, labels)]
    elif not isinstance(inputs, Iterable):
        raise UserError(
            f"inputs: a {type(inputs).__name__} is neither a tensor nor an iterable of batches"
        )
    elif labels is not None:
        raise UserError(
            "labels: they go with a tensor of inputs; let an iterable yield (inputs, labels)"
        )
    else:
        whole = inputs
    for number, piece in enumerate(whole):
        first, second = piece if _is_pair(piece) else (piece, None)
        if not isinstance(first, Tensor) or first.ndim == 0:
            kind = "scalar tensor" if isinstance(first, Tensor) else type(first).__name__
            raise UserError(
                f"inputs: batch {number} is a {kind}; expected a tensor (n, ...) or a pair of "
                "inputs and labels"
            )
        if second is not None:
            second = torch.as_tensor(second)
            if second.ndim == 0 or len(second) != len(first):
                raise UserError(
                    f"labels: shape {tuple(second.shape)} beside {len(first)} inputs; expected one "
                    "for each"
                )
        yield first, second


def _is_pair(piece: object) -> TypeGuard[tuple[object, object]]:
    return isinstance(piece, tuple | list) and len(piece) == 2


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
