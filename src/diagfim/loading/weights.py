"""The weights of a network, from safetensors."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diagfim.errors import UserError


def load_weights(
    model: nn.Module, path: str | os.PathLike[str], remedy: str = "use weights of this network"
) -> nn.Module:
    """Fill a network from a safetensors file, all of it or, upon any fault, nothing.

    Parameters
    ----------
    model : torch.nn.Module
        Its parameters and buffers are overwritten.  They keep their dtype and device: float16 and
        bfloat16 become float32 without loss, float64 is rounded.
    path : path
        The file holds every name of ``model.state_dict()`` in its shape, and no other.  One name
        of a tied tensor is enough, and ``num_batches_tracked`` of batch-norm, which nothing reads
        in eval mode, may be missing.
    remedy : str
        What to do about a faulty file, for the message.

    Returns
    -------
    torch.nn.Module
        The same, in eval mode.

    Raises
    ------
    UserError
        If the file is not safetensors, names other tensors or shapes than the model's, or holds a
        value that is not finite, or is not in the dtype of the model.

    Examples
    --------
    >>> import tempfile, torch
    >>> from diagfim.loading import load_weights
    >>> from safetensors.torch import save_file
    >>> model, path = torch.nn.Linear(2, 1), tempfile.mkdtemp() + "/weights.safetensors"
    >>> save_file({"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, path)
    >>> load_weights(model, path)(torch.ones(1, 2)).item()
    2.0
    """
    path = Path(path)
    state = _tensors(path, remedy)
    expected = model.state_dict()
    if faults := [*_misfits(state, expected)]:
        said = "; ".join(faults[:_NAMED])
        more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise UserError(f"{path}: {said}{more}; {_prefix_remedy(state, expected) or remedy}")
    for name, value in state.items():
        _check_values(path, name, value, expected[name], remedy)
    model.load_state_dict(state, strict=False)  # names were checked, tied ones with more leniency
    return model.eval()


_NAMED = 6
"""How many faults a message lists."""

_PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"}


def _tensors(path: Path, remedy: str) -> dict[str, Tensor]:
    if path.suffix.lower() in _PICKLES:
        raise UserError(
            f"{path}: a pickle, which is never opened because it may run any code; if you trust "
            "it, convert it once: safetensors.torch.save_file(torch.load(path, weights_only=True), "
            f'"{path.with_suffix(".safetensors").name}")'
        )
    try:
        return load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else error
        raise UserError(f"{path}: not a readable safetensors file ({reason}); {remedy}") from None


def _misfits(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Iterator[str]:
    """What is wrong with the names and shapes, a phrase each, in the order of the names."""
    given = {_storage(value) for name, value in expected.items() if name in state}
    for name in sorted(expected.keys() | state.keys()):
        if name not in expected:
            yield f"tensor {name} {tuple(state[name].shape)} is not in the network"
        elif name not in state:
            tied = expected[name].numel() and _storage(expected[name]) in given
            if not tied and not name.endswith("num_batches_tracked"):
                shape = tuple(expected[name].shape)
                yield f"tensor {name} is missing, the network expects shape {shape}"
        elif state[name].shape != expected[name].shape:
            yield (
                f"tensor {name} has shape {tuple(state[name].shape)}, the network expects "
                f"{tuple(expected[name].shape)}"
            )


def _storage(value: Tensor) -> tuple[object, ...]:
    """What two names of one tensor have in common."""
    return value.device, value.data_ptr(), tuple(value.shape), value.stride()


def _prefix_remedy(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """What to do if one set of names is the other with something in front of every name."""
    if prefix := _prefix(state, expected):
        return (
            f"every name of the file begins with {prefix!r}, as of a wrapped network: save it "
            f"again as {{name.removeprefix({prefix!r}): value for name, value in ...}}"
        )
    if prefix := _prefix(expected, state):
        return (
            f"every name of the network begins with {prefix!r}: save the file again as "
            f"{{{prefix!r} + name: value for name, value in ...}}"
        )
    return None


def _prefix(long: Mapping[str, Tensor], short: Mapping[str, Tensor]) -> str | None:
    """The prefix of all of the long names which leaves a short one each."""
    parts = next(iter(long), "").split(".")
    for k in range(1, len(parts)):
        prefix = ".".join(parts[:k]) + "."
        if all(name.startswith(prefix) and name.removeprefix(prefix) in short for name in long):
            return prefix
    return None


def _check_values(path: Path, name: str, value: Tensor, target: Tensor, remedy: str) -> None:
    if value.is_floating_point() != target.is_floating_point():
        raise UserError(
            f"{path}: tensor {name} is {_name(value.dtype)}, the network expects "
            f"{_name(target.dtype)}; {remedy}, neither quantised nor rounded"
        )
    if not torch.isfinite(value).all():
        raise UserError(f"{path}: tensor {name} holds NaN or infinity; {remedy}")
    if not torch.isfinite(value.to(target.dtype)).all():
        raise UserError(
            f"{path}: tensor {name} holds values beyond {_name(target.dtype)}; let the network be "
            f"{_name(value.dtype)}"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
