"""The networks on which BackPACK, NNGeometry and curvlinops test themselves, built anew.

Sizes, activations and what the outputs mean are those of the file that each group names; the
weights and data are drawn here, in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

FAMILIES = {
    nn.CrossEntropyLoss: "categorical",
    nn.MSELoss: "gaussian",
    nn.BCEWithLogitsLoss: "bernoulli",
}


@dataclass(frozen=True)
class Setting:
    """A network with its data.

    Attributes
    ----------
    model : torch.nn.Module
        In eval mode, float64.
    inputs : tensor, (n, ...)
    labels : tensor, (n,) or (n, T)
        Drawn without regard to the model.
    loss : type
        Class of the loss; the number of outputs is that of the model.
    """

    model: nn.Module
    inputs: Tensor
    labels: Tensor
    loss: type[nn.Module]

    @property
    def family(self) -> str:
        """How diagfim calls what the outputs mean."""
        return FAMILIES[self.loss]

    @property
    def outputs(self) -> int:
        """T, the number of outputs."""
        with torch.no_grad():
            return self.model(self.inputs[:1]).shape[1]

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """By name, in the order of the model."""
        return dict(self.model.named_parameters())


Builder = Callable[[], nn.Module]


def make(
    build: Builder,
    inputs: tuple[int, ...] | Callable[[], Tensor],
    loss: type[nn.Module],
    seed: int = 0,
) -> Setting:
    """Draw the weights and then the data, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build().double().eval()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                # Those of a fresh layer are 0 and 1, which would hide a mistake.
                module.running_mean.uniform_(-1, 1)
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
        drawn = inputs() if callable(inputs) else torch.rand(inputs, dtype=torch.float64)
        with torch.no_grad():
            count, outputs = model(drawn).shape
        labels = {
            nn.CrossEntropyLoss: lambda: torch.randint(outputs, (count,)),
            nn.MSELoss: lambda: torch.rand(count, outputs, dtype=torch.float64),
            nn.BCEWithLogitsLoss: lambda: torch.randint(2, (count, outputs)).double(),
        }[loss]()
    return Setting(model, drawn, labels, loss)


def _named(builders: dict[str, tuple]) -> dict[str, Callable[[], Setting]]:
    return {name: (lambda given=given: make(*given)) for name, given in builders.items()}


# ------------------------------------------------------------------------------- BackPACK


def _dense(activation: nn.Module | None = None) -> nn.Module:
    between = [] if activation is None else [activation]
    return nn.Sequential(nn.Linear(10, 7), *between, nn.Linear(7, 5))


def _convolution(layer: nn.Module, features: int) -> nn.Module:
    return nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.Linear(features, 5))


def _pooled(layer: nn.Module, pool: nn.Module, features: int) -> nn.Module:
    return nn.Sequential(layer, nn.ReLU(), pool, nn.Flatten(), nn.Linear(features, 4))


class Branch(nn.Module):
    """A dense layer, another one around which its output goes, and a last one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.around, self.last = nn.Linear(10, 5), nn.Linear(5, 5), nn.Linear(5, 4)
        self.relu, self.sigmoid = nn.ReLU(), nn.Sigmoid()

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.relu(self.first(inputs))
        return self.last(self.sigmoid(hidden + self.around(hidden)))


class ConvolutionalBranch(nn.Module):
    """A convolution, two more around which its output goes, and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu = nn.Conv2d(2, 3, 3, padding=1), nn.ReLU()
        self.around = nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 3, 3, padding=1)
        )
        self.last = nn.Sequential(nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(12, 5))

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.relu(self.first(images))
        return self.last(hidden + self.around(hidden))


class Recurrent(nn.Module):
    """Every state of a recurrent layer as outputs."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer, self.flatten = layer, nn.Flatten()

    def forward(self, sequences: Tensor) -> Tensor:
        states, _ = self.layer(sequences)
        return self.flatten(states)


CE, MSE, BCE = nn.CrossEntropyLoss, nn.MSELoss, nn.BCEWithLogitsLoss

# f-dangel/backpack: test/extensions/secondorder/secondorder_settings.py and, from the pools on,
# test/extensions/automated_settings.py and
# test/extensions/secondorder/diag_ggn/diag_ggn_settings.py
BACKPACK = _named(
    {
        "one layer": (lambda: nn.Sequential(nn.Linear(10, 5)), (3, 10), CE),
        "linear": (_dense, (3, 10), CE),
        "relu": (lambda: _dense(nn.ReLU()), (3, 10), CE),
        "sigmoid regression": (lambda: _dense(nn.Sigmoid()), (3, 10), MSE),
        "sigmoid binary": (lambda: _dense(nn.Sigmoid()), (3, 10), BCE),
        "log-sigmoid": (lambda: _dense(nn.LogSigmoid()), (3, 10), CE),
        "tanh": (lambda: _dense(nn.Tanh()), (3, 10), CE),
        "conv1d": (lambda: _convolution(nn.Conv1d(3, 2, 2), 12), (3, 3, 7), CE),
        "conv1d, no bias": (
            lambda: _convolution(nn.Conv1d(3, 2, 2, bias=False), 12),
            (3, 3, 7),
            CE,
        ),
        "conv1d, dilated": (
            lambda: _convolution(nn.Conv1d(3, 6, 2, stride=4, padding=2, dilation=3), 18),
            (3, 3, 8),
            CE,
        ),
        "conv2d": (lambda: _convolution(nn.Conv2d(3, 2, 2), 72), (3, 3, 7, 7), CE),
        "conv2d, dilated": (
            lambda: _convolution(nn.Conv2d(3, 6, 2, stride=4, padding=2, dilation=3), 54),
            (3, 3, 8, 8),
            CE,
        ),
        "conv2d, strided": (
            lambda: _convolution(nn.Conv2d(3, 2, 2, stride=2), 18),
            (3, 3, 7, 7),
            CE,
        ),
        "conv3d": (lambda: _convolution(nn.Conv3d(3, 2, 2), 72), (3, 3, 2, 7, 7), CE),
        "conv3d, dilated": (
            lambda: _convolution(nn.Conv3d(3, 6, 2, padding=2, stride=4, dilation=3), 108),
            (3, 3, 4, 8, 8),
            CE,
        ),
        "transposed conv1d": (
            lambda: _convolution(nn.ConvTranspose1d(3, 2, 2, padding=2, stride=2), 20),
            (3, 3, 7),
            CE,
            1,  # with 0 no unit is active
        ),
        "transposed conv2d": (
            lambda: _convolution(nn.ConvTranspose2d(3, 2, 2), 128),
            (3, 3, 7, 7),
            CE,
        ),
        "transposed conv3d": (
            lambda: _convolution(nn.ConvTranspose3d(3, 2, 2), 384),
            (2, 3, 2, 7, 7),
            CE,
        ),
        "max pool": (
            lambda: _pooled(nn.Conv2d(2, 3, 2), nn.MaxPool2d(2), 27),
            (3, 2, 7, 7),
            CE,
        ),
        "average pool": (
            lambda: _pooled(nn.Conv2d(2, 3, 2), nn.AvgPool2d(2), 27),
            (3, 2, 7, 7),
            CE,
        ),
        "adaptive pool regression": (
            lambda: nn.Sequential(nn.Linear(8, 8), nn.AdaptiveAvgPool2d((3, 4)), nn.Flatten()),
            (2, 2, 6, 8),
            MSE,
        ),
        "branch": (Branch, (3, 10), CE),
        "convolutional branch": (ConvolutionalBranch, (4, 2, 6, 6), CE),
        "lstm": (lambda: Recurrent(nn.LSTM(5, 4, batch_first=True)), (4, 3, 5), CE),
        "rnn regression": (lambda: Recurrent(nn.RNN(6, 3, batch_first=True)), (8, 5, 6), MSE),
        "batch-norm regression": (
            lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Flatten()),
            (2, 3, 4),
            MSE,
        ),
        "embedding": (
            lambda: nn.Sequential(nn.Embedding(3, 2), nn.Flatten()),
            lambda: torch.randint(3, (3, 2, 2)),
            CE,
        ),
    }
)

# ----------------------------------------------------------------------------- NNGeometry


class Cropped(nn.Module):
    """Three dense layers on the middle 18 x 18 of an image, normalised in one of several ways."""

    def __init__(self, normalisation: str | None = None, outputs: int = 3) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for number, (fan_in, width) in enumerate(pairwise((18 * 18, 10, 10, outputs))):
            modules += _normalised(normalisation, fan_in, width, shift=number % 2 == 0)
            modules.append(nn.ReLU())
        self.net = nn.Sequential(*modules[:-1])

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images[:, :, 5:-5, 5:-5].flatten(1))


def _normalised(kind: str | None, fan_in: int, width: int, shift: bool) -> list[nn.Module]:
    if kind is None:
        return [nn.Linear(fan_in, width)]
    if kind == "batch-norm":
        return [nn.Linear(fan_in, width, bias=False), nn.BatchNorm1d(width)]
    from nngeometry import layers

    if kind == "affine":
        return [nn.Linear(fan_in, width, bias=False), layers.Affine1d(width, bias=shift)]
    return [{"weight-norm": layers.WeightNorm1d, "cosine": layers.Cosine1d}[kind](fan_in, width)]


class Images(nn.Module):
    """Three convolutions and two dense layers, with or without normalisation."""

    def __init__(self, normalisation: str | None = None) -> None:
        super().__init__()
        first, hidden = {
            None: (nn.Identity(), nn.Identity()),
            "batch-norm": (nn.BatchNorm2d(6), nn.BatchNorm1d(4)),
            "group-norm": (nn.GroupNorm(2, 6), nn.Identity()),
        }[normalisation]
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 3, 2, bias=normalisation is None),
            first,
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 5, 4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(5, 7, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Linear(7, 4), hidden, nn.ReLU(), nn.Linear(4, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).flatten(1))


class Skip(nn.Module):
    """Four convolutions, the first added to the third, summed over the image."""

    def __init__(self) -> None:
        super().__init__()
        channels = (1, 2, 2, 2, 3)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, 1, 1) for a, b in pairwise(channels))

    def forward(self, images: Tensor) -> Tensor:
        first, second, third, fourth = self.convolutions
        early = first(images).relu()
        late = third(second(early).relu()).relu()
        return fourth(early + late).relu().sum(dim=(2, 3))


class Sums(nn.Module):
    """Two linear layers side by side, each summed to one output."""

    def __init__(self, one: nn.Module, two: nn.Module, flat: bool) -> None:
        super().__init__()
        self.one, self.two, self.flat = one, two, flat

    def forward(self, images: Tensor) -> Tensor:
        given = images.flatten(1) if self.flat else images
        return torch.stack(
            [self.one(given).flatten(1).sum(1), self.two(given).flatten(1).sum(1)], 1
        )


_IMAGES = (12, 1, 28, 28)

# tfjgeorge/nngeometry: tests/tasks.py (there on MNIST)
NNGEOMETRY = _named(
    {
        "dense": (Cropped, _IMAGES, CE),
        "dense regression": (Cropped, _IMAGES, MSE),
        "dense binary": (lambda: Cropped(outputs=1), _IMAGES, BCE),
        "dense, batch-norm": (lambda: Cropped("batch-norm"), _IMAGES, CE),
        "dense, affine": (lambda: Cropped("affine"), _IMAGES, CE),
        "dense, weight-norm": (lambda: Cropped("weight-norm"), _IMAGES, CE),
        "dense, cosine": (lambda: Cropped("cosine"), _IMAGES, CE),
        "convolutions": (Images, _IMAGES, CE),
        "convolutions regression": (Images, _IMAGES, MSE),
        "convolutions, batch-norm": (lambda: Images("batch-norm"), _IMAGES, CE),
        "convolutions, group-norm": (lambda: Images("group-norm"), _IMAGES, CE),
        # Other seeds make it all but certain, see the test.
        "skip connection": (Skip, _IMAGES, CE, 2),
        "linear regression": (
            lambda: Sums(nn.Linear(784, 3), nn.Linear(784, 7, bias=False), flat=True),
            _IMAGES,
            MSE,
        ),
        "linear convolutions regression": (
            lambda: Sums(nn.Conv2d(1, 5, 3), nn.Conv2d(1, 3, 2, bias=False), flat=False),
            _IMAGES,
            MSE,
        ),
    }
)

# ----------------------------------------------------------------------------- curvlinops


def _small(features: int, outputs: int) -> Builder:
    return lambda: nn.Sequential(nn.Linear(features, 5), nn.ReLU(), nn.Linear(5, outputs))


# f-dangel/curvlinops: test/cases.py
CURVLINOPS = _named(
    {
        "classes": (_small(10, 3), (7, 10), CE),
        "one binary": (_small(10, 1), (7, 10), BCE),
        "two binary": (_small(10, 2), (7, 10), BCE),
        "regression": (_small(8, 3), (8, 8), MSE),
    }
)
