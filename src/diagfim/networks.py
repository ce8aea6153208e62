"""The networks of the study, by configuration, and their weights on disk."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from diagfim.errors import UserError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "logsigmoid": nn.LogSigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
}


def mlp(
    features: int, hidden: Sequence[int], classes: int, activation: str, dropout: float
) -> nn.Sequential:
    """Return a multilayer perceptron with one dropout layer, before the last dense layer.

    Parameters
    ----------
    features : int
        Values per input.
    hidden : sequence of int
        Widths of the hidden layers; ``len(hidden) + 1`` dense layers in all.
    classes : int
        Number of outputs, the logits.
    activation : str
        A key of `ACTIVATIONS`, applied after every hidden layer.
    dropout : float
        Probability that dropout zeroes a coordinate of the last hidden layer in training.

    Returns
    -------
    torch.nn.Sequential
        Modules named ``dense1``, ``activation1``, …, ``dropout``, ``dense<depth>``, with PyTorch's
        default initialisation.

    Examples
    --------
    >>> from diagfim.networks import mlp
    >>> [name for name, _ in mlp(784, [8], 10, "sigmoid", 0.2).named_parameters()]
    ['dense1.weight', 'dense1.bias', 'dense2.weight', 'dense2.bias']
    """
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    fan_in = features
    for depth, width in enumerate(hidden, start=1):
        modules[f"dense{depth}"] = nn.Linear(fan_in, width)
        modules[f"activation{depth}"] = ACTIVATIONS[activation]()
        fan_in = width
    modules["dropout"] = nn.Dropout(dropout)
    modules[f"dense{len(hidden) + 1}"] = nn.Linear(fan_in, classes)
    return nn.Sequential(modules)


def save(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write the parameters and buffers of a model as safetensors, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file(model.state_dict(), partial)
    partial.replace(path)


def load(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Read parameters and buffers written by `save` into a model, in eval mode.

    Raises
    ------
    UserError
        If the file is not safetensors, names other tensors or shapes than the model's, or holds a
        value that is not finite.
    """
    try:
        state = load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); train again") from None
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"{path}: tensor {name} has shape {found.get(name)}, the network expects "
                f"{expected.get(name)}; use weights of the configured network"
            )
        if not torch.isfinite(state[name]).all():
            raise UserError(f"{path}: tensor {name} holds NaN or infinity; train again")
    model.load_state_dict(state)
    return model.eval()
