"""Which estimator wins: activations, depths, widths and stages of training, by layer.

A configuration is a data set and a network on it.  Every one is trained anew in every replicate,
and analysed exactly at some epochs: what is compared are sums over the parameters of a layer of
E_x V, the variance of one draw of y (Lemma 3.1), for the score-based estimator Î1, for the
Hessian-based Î2, and for their unbiased mix of least variance with a weight for each layer or for
each parameter.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

import diagfim
from diagfim import arrays, networks
from diagfim.errors import UserError
from diagfim.seeding import integer, stream
from diagfim.training import train
from diagfim.variances import draw_variances, values_of

Settings = Mapping[str, Any]

ESTIMATORS = ("score", "hessian", "layer mix", "parameter mix")
"""Whose variances are compared; a mix has a weight for each layer or for each parameter."""

LENET_DEPTH = 4
"""Hidden layers of `diagfim.networks.lenet`, convolutions included."""


@dataclass(frozen=True)
class Images:
    """Images as network inputs (n, 784) in float32, and their labels (n,)."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Configuration:
    """A network on a data set.

    Attributes
    ----------
    dataset : str
    network : {"mlp", "lenet"}
    activation : str
        A key of `diagfim.networks.ACTIVATIONS`.
    depth : int
        Number of hidden layers.
    width : int
        Units in each of them; 0 for "lenet", whose layers differ.
    """

    dataset: str
    network: str
    activation: str
    depth: int
    width: int

    def build(self, seed: int, dropout: float) -> nn.Sequential:
        """The network with PyTorch's default initialisation, drawn from a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.network == "lenet":
                return networks.lenet(self.activation)
            hidden = [self.width] * self.depth
            return networks.mlp(784, hidden, 10, self.activation, dropout)

    def shape(self, inputs: Tensor) -> Tensor:
        """Inputs (n, 784) as the network takes them."""
        return inputs.reshape(-1, 1, 28, 28) if self.network == "lenet" else inputs


def configurations(settings: Settings) -> list[Configuration]:
    """Every configuration, data set by data set, in the order of the results.

    ``grid: cross`` varies the depth at the base width and the width at the base depth, ``grid:
    product`` both together.
    """
    depth, width = settings["base"]["depth"], settings["base"]["width"]
    for key, value, among in (("depth", depth, "depths"), ("width", width, "widths")):
        if value not in settings[among]:
            raise UserError(f"experiments.landscape.base.{key}: {value} is not one of {among}")
    if len(set(settings["activations"]) - {"relu"}) < 2:
        raise UserError("experiments.landscape.activations: name two others than relu to compare")
    if max(settings["stages"]) < 1:
        raise UserError("experiments.landscape.stages: add an epoch after the initialisation, 0")
    shapes = [
        (d, w)
        for d, w in product(settings["depths"], settings["widths"])
        if settings["grid"] == "product" or d == depth or w == width
    ]
    found = []
    for dataset in settings["datasets"]:
        for activation, (d, w) in product(settings["activations"], shapes):
            found.append(Configuration(dataset, "mlp", activation, d, w))
        for activation in settings["lenet"]["activations"]:
            found.append(Configuration(dataset, "lenet", activation, LENET_DEPTH, 0))
    return found


def landscape(
    settings: Settings, images: Mapping[str, Images], replicate: int
) -> Iterator[tuple[Configuration, xr.Dataset]]:
    """Train and analyse one configuration after the other.

    Parameters
    ----------
    settings : mapping
        The block ``experiments.landscape`` of the configuration, with ``seed`` and ``dropout``.
    images : mapping of str to Images
        By name of the data set.
    replicate : int

    Yields
    ------
    tuple of Configuration and Dataset
        What `train_and_analyse` finds.
    """
    for configuration in configurations(settings):
        data = images[configuration.dataset]
        yield configuration, train_and_analyse(configuration, settings, data, replicate)


def train_and_analyse(
    configuration: Configuration, settings: Settings, data: Images, replicate: int
) -> xr.Dataset:
    """Sums over the layers of one network at each of ``settings["stages"]``; see `layer_sums`.

    Returns
    -------
    Dataset
        Those of `layer_sums` with a leading dimension ``epoch``, and ``accuracy`` at the analysed
        inputs by epoch.
    """
    inputs, _ = analysed(configuration.dataset, settings, data, replicate)
    epochs = sorted(settings["stages"])
    if configuration.network == "lenet":
        inputs = inputs[: settings["lenet"]["inputs"]]
    found, accuracies = [], []
    for model, accuracy, epoch in trained(configuration, settings, data, replicate):
        if epoch in epochs:
            tree = diagfim.analyze(model, configuration.shape(inputs))
            found.append(layer_sums(tree))
            accuracies.append(accuracy)
    whole = xr.concat(found, dim=xr.DataArray(epochs, dims="epoch", name="epoch"))
    return whole.assign(accuracy=("epoch", accuracies))


def trained(
    configuration: Configuration, settings: Settings, data: Images, replicate: int
) -> Iterator[tuple[nn.Sequential, float, int]]:
    """The network, its accuracy at the analysed inputs, and the epoch: from 0 to the last wanted.

    Streams are named by the configuration: no other one of the grid moves its numbers.
    """
    seed = integer(settings["seed"], "landscape", replicate, *asdict(configuration).values())
    model = configuration.build(seed, settings["dropout"])
    halves = [
        (configuration.shape(inputs), labels)
        for inputs, labels in (
            tuple(part[: settings["samples"]] for part in data.train),
            analysed(configuration.dataset, settings, data, replicate),
        )
    ]
    options = {key: settings[key] for key in ("batch_size", "optimiser", "learning_rate")}
    for epoch in train(model, *halves, epochs=max(settings["stages"]), seed=seed, **options):
        yield model, epoch.test_accuracy, epoch.number


def analysed(
    dataset: str, settings: Settings, data: Images, replicate: int
) -> tuple[Tensor, Tensor]:
    """Test inputs drawn for a replicate, the same for every network on the data set."""
    rng = stream(settings["seed"], "landscape", replicate, dataset, "inputs")
    inputs, labels = data.test
    chosen = rng.choice(len(labels), settings["inputs"], replace=False)
    return inputs[chosen], labels[chosen]


def layer_sums(tree: xr.DataTree) -> xr.Dataset:
    """Sums over the parameters of every layer, in their order from the input to the output.

    Parameters
    ----------
    tree : DataTree
        What `diagfim.analyze` returned.

    Returns
    -------
    Dataset
        With a dimension ``layer``: ``summed_draw_variance``, Σ_i E_x V(θ_i) of one draw, by
        estimator; ``summed_input_variance``, Σ_i Var_x I(θ_i|x); ``summed_fisher``, Σ_i I(θ_i);
        ``summed_fisher_squared``, Σ_i I(θ_i)²; and ``score_better``, the share of the parameters
        that have a variance for which V1 < V2.
    """
    variances = [
        draw_variances(tree, "score"),
        draw_variances(tree, "hessian"),
        draw_variances(tree, "mixed", level="layer"),
        draw_variances(tree, "mixed", level="parameter"),
    ]
    fisher, spread = (values_of(tree, key) for key in ("fisher", "input_variance"))

    def total(values: Mapping[str, np.ndarray]) -> list[float]:
        return list(arrays.layer_sums(values).values())

    v1, v2 = variances[:2]
    better = total({name: v1[name] < v2[name] for name in fisher})
    moving = total({name: (v1[name] > 0) | (v2[name] > 0) for name in fisher})
    share = [a / b if b else np.nan for a, b in zip(better, moving, strict=True)]
    return xr.Dataset(
        {
            "summed_draw_variance": (("estimator", "layer"), [total(one) for one in variances]),
            "summed_input_variance": ("layer", total(spread)),
            "summed_fisher": ("layer", total(fisher)),
            "summed_fisher_squared": ("layer", total({k: v**2 for k, v in fisher.items()})),
            "score_better": ("layer", share),
        },
        coords={"estimator": list(ESTIMATORS), "layer": list(arrays.layer_sums(fisher))},
    )


def network_sums(one: xr.Dataset) -> xr.Dataset:
    """Sums over the layers of one network.

    Returns
    -------
    Dataset
        ``accuracy``; ``summed_fisher_squared``; and ``summed_draw_variance``, which has one more
        estimator, "layer choice": in every layer the one of Î1 and Î2 that varies less there.
    """
    variance = one["summed_draw_variance"]
    choice = variance.sel(estimator=["score", "hessian"]).min("estimator")
    every = xr.concat([variance, choice.assign_coords(estimator="layer choice")], dim="estimator")
    sums = one[["accuracy", "summed_fisher_squared"]].assign(summed_draw_variance=every)
    return sums.sum("layer")


def flatten(
    found: Iterable[tuple[Configuration, xr.Dataset]], base: Mapping[str, int]
) -> dict[str, xr.Dataset]:
    """Results of all configurations side by side, layers along one dimension.

    Parameters
    ----------
    found : iterable
        What `landscape` yields.
    base : mapping
        ``settings["base"]``.

    Returns
    -------
    dict of str to Dataset
        "layers" with a dimension ``cell``, a layer of a network, whose coordinates tell the fields
        of `Configuration`, whether it is the ``base`` shape, ``layer`` and its ``position``
        from 1, and whether it is the ``last``; "networks" with those of `network_sums` and a
        dimension ``configuration``, likewise.
    """
    cells, wholes, keys = [], [], []
    for configuration, one in found:
        number = one.sizes["layer"]
        cells.append(
            one.drop_vars("accuracy")
            .rename_dims(layer="cell")
            .reset_index("layer")
            .assign_coords(
                _labels("cell", [configuration] * number, base)
                | {
                    "position": ("cell", np.arange(1, number + 1)),
                    "last": ("cell", np.arange(1, number + 1) == number),
                }
            )
        )
        wholes.append(network_sums(one))
        keys.append(configuration)
    return {
        "layers": xr.concat(cells, dim="cell"),
        "networks": xr.concat(wholes, dim="configuration").assign_coords(
            _labels("configuration", keys, base)
        ),
    }


def kinks(settings: Settings, data: Images, replicate: int) -> xr.Dataset:
    """What becomes of Î2 when softened ReLUs, log(1 + exp(βz)) / β, tend to the ReLU.

    A ReLU network of the base shape is trained on the first data set.  Then its activations are
    replaced by softened ones, its weights kept.

    Returns
    -------
    Dataset
        With a dimension ``beta``, which ends with infinity, the ReLU itself:
        ``summed_draw_variance`` of "score" and "hessian", over all parameters;
        ``summed_fisher_squared``; and ``hessian_deviation``, see `hessian_deviation`.
    """
    chosen = settings["kinks"]
    dataset, base = settings["datasets"][0], settings["base"]
    configuration = Configuration(dataset, "mlp", "relu", base["depth"], base["width"])
    *_, (model, _, _) = trained(configuration, settings, data, replicate)
    inputs, _ = analysed(dataset, settings, data, replicate)
    seed = integer(settings["seed"], "landscape", replicate, dataset, "kinks")
    rows = []
    for beta in (*chosen["betas"], np.inf):
        soft = softened(model, beta)
        sums = layer_sums(diagfim.analyze(soft, inputs))
        rows.append(
            sums[["summed_draw_variance", "summed_fisher_squared"]]
            .sel(estimator=["score", "hessian"])
            .sum("layer")
            .assign(
                hessian_deviation=hessian_deviation(
                    soft, inputs[: chosen["inputs"]], chosen["coordinates"], seed
                )
            )
        )
    betas = xr.DataArray([*chosen["betas"], np.inf], dims="beta", name="beta")
    return xr.concat(rows, dim=betas.astype(np.float64))


def softened(model: nn.Sequential, beta: float) -> nn.Sequential:
    """A ReLU network in eval mode with softplus of sharpness β in their place, weights shared."""
    modules = [
        nn.Softplus(beta=beta) if isinstance(module, nn.ReLU) and np.isfinite(beta) else module
        for module in model
        if not isinstance(module, nn.Dropout)
    ]
    return nn.Sequential(*modules).eval()


def hessian_deviation(model: nn.Sequential, inputs: Tensor, coordinates: int, seed: int) -> float:
    """Largest |Î2 − I| over inputs and parameters, in units of the largest I of the tensor.

    Î2 is from one draw of y at each input: minus the diagonal of the Hessian of log p, by automatic
    differentiation of its gradient in float64, at so many random coordinates of every parameter
    tensor.  No formula of this package enters it.  I is the exact information at the same input.
    """
    model = copy.deepcopy(model).double()
    rng = stream(seed)
    worst = 0.0
    for row in inputs.double()[:, None]:
        information = values_of(diagfim.analyze(model, row), "fisher")
        outputs = model(row)
        label = torch.multinomial(outputs.softmax(1), 1, generator=_generator(rng))[:, 0]
        loss = nn.functional.cross_entropy(outputs, label)
        for name, parameter in model.named_parameters():
            fisher = information[name].reshape(-1)
            chosen = rng.choice(fisher.size, min(coordinates, fisher.size), replace=False)
            drawn = _second_derivatives(loss, parameter, chosen)
            # A layer of dead units has neither information nor curvature, and no unit of its own.
            scale = fisher.max() or 1.0
            worst = max(worst, float(abs(drawn - fisher[chosen]).max() / scale))
    return worst


def _second_derivatives(loss: Tensor, parameter: Tensor, chosen: np.ndarray) -> np.ndarray:
    """∂² loss / ∂θ_i² at flat positions of a parameter tensor, by products with unit vectors."""
    (slope,) = torch.autograd.grad(loss, parameter, create_graph=True)
    units = nn.functional.one_hot(torch.from_numpy(chosen), parameter.numel()).to(parameter.dtype)
    units = units.reshape(-1, *parameter.shape)
    (columns,) = torch.autograd.grad(
        slope, parameter, units, is_grads_batched=True, retain_graph=True
    )
    return np.asarray((columns * units).flatten(1).sum(dim=1))


def _generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**63)))


def _labels(
    dim: str, keys: Sequence[Configuration], base: Mapping[str, int]
) -> dict[str, tuple[str, list[str | int]]]:
    """Coordinates along a dimension: what configurations are, and which have the base shape."""
    named: dict[str, list[str | int]] = {
        field.name: [getattr(key, field.name) for key in keys] for field in fields(Configuration)
    }
    named["base"] = [
        key.network == "mlp" and key.depth == base["depth"] and key.width == base["width"]
        for key in keys
    ]
    return {name: (dim, values) for name, values in named.items()}
