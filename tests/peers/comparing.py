"""When two libraries count as giving the same numbers, and what lies between their conventions."""

import numpy as np
import torch
import xarray as xr
from networks import Setting
from torch import Tensor, nn

import diagfim
from diagfim.families import family_of
from diagfim.seeding import InputStreams

Named = dict[str, Tensor]

ROUNDINGS = 4096 * torch.finfo(torch.float64).eps / 2
"""Relative to the sizes of its terms, the rounding of the longest sum in these networks.

The longest has 26·26·5 = 3,380 terms: a convolution of 28 x 28 images summed to one output.
"""

REPEATS = 200
"""Independent estimates that tell a variance to a tenth."""

NLL = {nn.CrossEntropyLoss: 1.0, nn.BCEWithLogitsLoss: 1.0, nn.MSELoss: 2.0}
"""The loss of one input, summed, in units of −log p: (h − y)² is twice that of variance 1."""


def terms(setting: Setting, reduction: str) -> int:
    """By how many terms PyTorch's loss divides their sum."""
    if reduction == "sum":
        return 1
    # A mean over everything: the outputs too, unless the loss is one number for all of them.
    per_input = 1 if setting.loss is nn.CrossEntropyLoss else setting.outputs
    return len(setting.inputs) * per_input


def values(tree: xr.DataTree, quantity: str = "fisher") -> Named:
    """A quantity of diagfim's trees by parameter."""
    return {name: torch.from_numpy(node[quantity].values) for name, node in tree.children.items()}


def exact(setting: Setting) -> Named:
    """Fisher diagonal, mean over the inputs."""
    return values(
        diagfim.estimate(
            setting.model, setting.inputs, "exact", family=setting.family, errors=False
        )
    )


def empirical(setting: Setting) -> Named:
    """Mean squared gradient of log p at the labels of the data."""
    return values(
        diagfim.estimate(
            setting.model,
            setting.inputs,
            "empirical",
            family=setting.family,
            labels=setting.labels,
            errors=False,
        )
    )


def drawn(setting: Setting, estimator: str, seed: int) -> Named:
    """An estimate from one draw of the model at each input."""
    given = {"draws": 1, "seed": seed, "family": setting.family, "errors": False}
    return values(diagfim.estimate(setting.model, setting.inputs, estimator, **given))


def scaled(named: Named, factor: float) -> Named:
    """All entries times a number."""
    return {name: factor * value for name, value in named.items()}


def assert_same(theirs: Named, ours: Named, rounding: float = ROUNDINGS) -> None:
    """The same names and shapes, and entry by entry the same up to rounding, for sums of squares.

    An entry is Σ d², each d with an error of at most `rounding` times the largest one in its
    tensor.  By Cauchy and Schwarz Σ d² is then off by at most 2 r √(entry · largest entry) + r² ·
    largest entry, on either side.
    """
    assert list(theirs) == list(ours)
    for name, value in ours.items():
        assert theirs[name].shape == value.shape, name
        found = theirs[name].detach().to(value.dtype)
        largest = value.max()
        assert largest > 0, f"{name}: nothing to compare"
        limit = 4 * rounding * (value * largest).sqrt() + 2 * rounding**2 * largest
        excess = ((found - value).abs() - limit).max()
        assert excess <= 0, (name, float(((found - value).abs() / largest).max()))


def assert_near(theirs: Named, ours: Named, rounding: float = ROUNDINGS) -> None:
    """As `assert_same`, for sums of either sign: relative to the largest entry of the tensor."""
    assert list(theirs) == list(ours)
    for name, value in ours.items():
        assert theirs[name].shape == value.shape, name
        limit = 8 * rounding * value.abs().max()
        assert (theirs[name].detach() - value).abs().max() <= limit, name


def drawn_labels(setting: Setting, seed: int) -> Tensor:
    """The labels that `diagfim.estimate` draws for the inputs, one for each."""
    family = family_of(setting.family)
    with torch.no_grad():
        outputs = setting.model(setting.inputs)
    residuals = family.sample(outputs, 1, InputStreams(seed, 0, len(outputs)))[:, 0]
    found = residuals + family.mean(outputs)
    if setting.loss is nn.CrossEntropyLoss:
        return found.argmax(dim=1)
    # A sum and a difference have rounded what was 0 or 1.
    return found.round() if setting.loss is nn.BCEWithLogitsLoss else found


def gradients(setting: Setting, labels: Tensor | None = None) -> Named:
    """Gradient of −log p at every input and its label, by PyTorch alone: (n, ...) each."""
    labels = setting.labels if labels is None else labels
    loss = setting.loss(reduction="sum")

    def of_one(parameters: Named, x: Tensor, y: Tensor) -> Tensor:
        outputs = torch.func.functional_call(setting.model, parameters, (x[None],))
        return loss(outputs, y[None]) / NLL[setting.loss]

    held = {name: value.detach() for name, value in setting.parameters.items()}
    return torch.func.vmap(torch.func.grad(of_one), (None, 0, 0))(held, setting.inputs, labels)


def hessian_diagonal(setting: Setting, labels: Tensor | None = None) -> Named:
    """Diagonal of the Hessian of the mean −log p at the labels, by PyTorch alone."""
    labels = setting.labels if labels is None else labels
    loss = setting.loss(reduction="sum")
    held = {name: value.detach() for name, value in setting.parameters.items()}
    found = {}
    for name, value in held.items():

        def of(vector: Tensor, name: str = name, value: Tensor = value) -> Tensor:
            given = held | {name: vector.reshape(value.shape)}
            outputs = torch.func.functional_call(setting.model, given, (setting.inputs,))
            return loss(outputs, labels) / (NLL[setting.loss] * len(setting.inputs))

        found[name] = torch.func.hessian(of)(value.flatten()).diagonal().reshape(value.shape)
    return found


def assert_noise(repeats: list[Named], setting: Setting, draws: int) -> None:
    """Independent estimates scatter around the exact diagonal as `diagfim.variance` says.

    Their mean is within 6 standard deviations of it in every entry (for a normal distribution one
    in 10⁶ sets of 500 entries would not be), and their sample variance, summed over the network,
    within 30% of the predicted one: its own relative deviation is √(2/200) = 0.1 where all entries
    are one normal variable, and less where they vary apart.
    """
    tree = diagfim.analyze(setting.model, setting.inputs, setting.family)
    noise = diagfim.variance(tree, "score", draws=draws)
    assert len(repeats) == REPEATS
    found = total = 0.0
    for name, node in tree.children.items():
        many = np.stack([one[name].detach().numpy() for one in repeats])
        predicted = noise[name]["total_variance"].values
        limit = 6 * np.sqrt(predicted / len(repeats)) + 1e-12 * float(node["fisher"].max())
        assert (np.abs(many.mean(0) - node["fisher"].values) <= limit).all(), name
        found += many.var(0, ddof=1).sum()
        total += predicted.sum()
    assert 0.7 < found / total < 1.3
