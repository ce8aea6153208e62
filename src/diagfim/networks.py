"""The networks of the study, by configuration, and their weights on disk."""

import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from safetensors.torch import save_file
from torch import Tensor, nn

from diagfim.loading import load_weights
from diagfim.whole import whole

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "logsigmoid": nn.LogSigmoid,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
}
"""By the name that a configuration knows them by."""


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


def lenet(activation: str, classes: int = 10) -> nn.Sequential:
    """Return a convolutional network of the size of LeNet-5, for images of 28 by 28 grey levels.

    Parameters
    ----------
    activation : str
        A key of `ACTIVATIONS`, applied after every layer but the last.
    classes : int
        Number of outputs, the logits.

    Examples
    --------
    >>> import torch
    >>> from diagfim.networks import lenet
    >>> lenet("tanh")(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 10])
    """
    curved = ACTIVATIONS[activation]
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 6, 5, padding=2),
            activation1=curved(),
            pool1=nn.AvgPool2d(2),
            conv2=nn.Conv2d(6, 16, 5),
            activation2=curved(),
            pool2=nn.AvgPool2d(2),
            flatten=nn.Flatten(),
            dense1=nn.Linear(16 * 5 * 5, 120),
            activation3=curved(),
            dense2=nn.Linear(120, 84),
            activation4=curved(),
            dense3=nn.Linear(84, classes),
        )
    )


class BasicBlock(nn.Module):
    """Two 3 by 3 convolutions with batch-norm, and a shortcut around them."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(shortcut(x) + residual(x))."""
        residual: Tensor = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        result: Tensor = self.relu2(residual + self.shortcut(x))
        return result


def small_resnet(
    channels: int = 1, widths: Sequence[int] = (8, 16, 32), classes: int = 10
) -> nn.Sequential:
    """Return a residual network of one `BasicBlock` per stage, for images of any size.

    Parameters
    ----------
    channels : int
        Of the images.
    widths : sequence of int
        Channels of the stages; each but the first halves the resolution.
    classes : int
        Number of outputs, the logits.

    Examples
    --------
    >>> import torch
    >>> from diagfim.networks import small_resnet
    >>> small_resnet()(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 10])
    """
    modules: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
        norm=nn.BatchNorm2d(widths[0]),
        relu=nn.ReLU(),
    )
    below = widths[0]
    for stage, width in enumerate(widths, start=1):
        modules[f"stage{stage}"] = BasicBlock(below, width, stride=1 if stage == 1 else 2)
        below = width
    modules["pool"] = nn.AdaptiveAvgPool2d(1)
    modules["flatten"] = nn.Flatten()
    modules["dense"] = nn.Linear(below, classes)
    return nn.Sequential(modules)


def save(
    model: nn.Module, path: str | os.PathLike[str], about: Mapping[str, str] | None = None
) -> None:
    """Write the parameters and buffers of a model as safetensors; see `save_tensors`."""
    save_tensors(model.state_dict(), path, about)


def save_tensors(
    tensors: dict[str, Tensor],
    path: str | os.PathLike[str],
    about: Mapping[str, str] | None = None,
) -> None:
    """Write tensors by name as safetensors, whole or not at all.

    Parameters
    ----------
    tensors : dict of str to Tensor
        By name.
    path : path
        Target; its folder is made when missing.
    about : mapping of str to str, optional
        Where they come from, as `origin.origin` says it.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    # In one entry: safetensors stores several in an order that changes from run to run.
    metadata = {"origin": json.dumps(about)} if about else None
    with whole(path) as partial:
        save_file(tensors, partial, metadata)


def load(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Read parameters and buffers written by `save` into a model, in eval mode.

    Raises
    ------
    UserError
        If the file is not safetensors, names other tensors or shapes than the model's, or holds a
        value that is not finite.
    """
    return load_weights(model, path, remedy="train again")
