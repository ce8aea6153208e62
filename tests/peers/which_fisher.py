"""The numbers on the page "Which Fisher am I getting?", each by the definition that it gives.

Run as a program, this prints the page's tables of numbers.
"""

import copy
import gzip
import re
from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path

import calls
import numpy as np
import torch
from comparing import Named, drawn, empirical, exact, gradients, hessian_diagonal, scaled
from networks import Setting, make
from torch import Tensor, nn

import diagfim
from diagfim.benchmark import peak_memory

Call = Callable[[Setting], Named]

ROOT = Path(__file__).resolve().parents[2]
MNIST = ROOT / "resources" / "MNIST" / "raw"
IMAGES, BATCH, DRAWS = 1000, 50, 100


def _images(first: int) -> tuple[Tensor, Tensor]:
    """Images of 14 x 14 and their labels, from the MNIST test set."""

    def read(name: str, header: int) -> np.ndarray:
        return np.frombuffer(gzip.decompress((MNIST / name).read_bytes()), np.uint8, offset=header)

    pixels = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 14, 2, 14, 2)
    chosen = slice(first, first + IMAGES)
    inputs = pixels[chosen].mean(axis=(2, 4)).reshape(IMAGES, -1) / 255
    labels = read("t10k-labels-idx1-ubyte.gz", 8)[chosen]
    return torch.from_numpy(inputs), torch.from_numpy(labels.astype(np.int64))


@cache
def trained(seen: bool = True) -> Setting:
    """A small classifier after training, with the images that it has seen or with as many others.

    The whole set in every step and float64: the same weights on every machine but for rounding.
    """
    inputs, labels = _images(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(196, 16), nn.Tanh(), nn.Linear(16, 10)).double()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimiser.step()
    model.requires_grad_().eval().zero_grad()
    data = (inputs, labels) if seen else _images(IMAGES)
    return Setting(model, *data, nn.CrossEntropyLoss)


def standing(seen: bool) -> tuple[float, float]:
    """Share of the images that are labelled right, and mean probability of the likeliest label."""
    setting = trained(seen)
    with torch.no_grad():
        likeliest = setting.model(setting.inputs).softmax(1).max(1)
    right = likeliest.indices == setting.labels
    return float(right.double().mean()), float(likeliest.values.mean())


def squares(setting: Setting, labels: Tensor, weights: Tensor | None = None) -> Named:
    """Mean over the inputs of the squared gradients at some labels, weighted or not."""
    found = gradients(setting, labels)
    if weights is None:
        return {name: value.square().mean(0) for name, value in found.items()}
    return {
        name: torch.tensordot(weights / len(weights), value.square(), 1)
        for name, value in found.items()
    }


def of_batches(setting: Setting, labels: Tensor, size: int) -> Named:
    """Mean over the batches of the square of the batch's mean gradient."""
    return {
        name: value.unflatten(0, (-1, size)).mean(1).square().mean(0)
        for name, value in gradients(setting, labels).items()
    }


def sampled(setting: Setting, draws: int) -> Named:
    """Î1 as everybody draws it."""
    tree = diagfim.estimate(setting.model, setting.inputs, "score", draws, seed=0, errors=False)
    return {name: torch.from_numpy(node["fisher"].values) for name, node in tree.children.items()}


def predicted_error(draws: int) -> float:
    """Root mean square of ‖Î1 − F‖ / ‖F‖ over the draws, before any is made."""
    tree = diagfim.analyze(trained().model, trained().inputs)
    noise = diagfim.variance(tree, "score", draws)
    variance = sum(float(node["total_variance"].sum()) for node in noise.children.values())
    return (
        variance / sum(float(value.square().sum()) for value in exact(trained()).values())
    ) ** 0.5


def model_labels(setting: Setting) -> Tensor:
    """A label for each input, drawn from the network's own distribution."""
    with torch.no_grad():
        probabilities = setting.model(setting.inputs).softmax(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return probabilities.multinomial(1)[:, 0]


def probability(setting: Setting, labels: Tensor) -> Tensor:
    """p(y | x) of the labels."""
    with torch.no_grad():
        return setting.model(setting.inputs).softmax(1)[torch.arange(len(labels)), labels]


DEFINITIONS: dict[str, Callable[[Setting], Named]] = {
    "exact": exact,
    "sampled, 1 draw": lambda s: sampled(s, 1),
    "sampled, 100 draws": lambda s: sampled(s, DRAWS),
    "empirical": lambda s: squares(s, s.labels),
    "argmax labels": lambda s: squares(s, s.model(s.inputs).argmax(1)),
    "one data label, weighted by p(y)": lambda s: squares(s, s.labels, probability(s, s.labels)),
    "one sampled label, weighted by p(y)": lambda s: squares(
        s, model_labels(s), probability(s, model_labels(s))
    ),
    "squared mean gradient, data labels": lambda s: of_batches(s, s.labels, IMAGES),
    "squared mean gradient, batches of 50, data labels": lambda s: of_batches(s, s.labels, BATCH),
    "squared mean gradient, batches of 50, sampled labels": lambda s: of_batches(
        s, model_labels(s), BATCH
    ),
    "divided by 100 draws before squaring": lambda s: scaled(sampled(s, DRAWS), 1 / DRAWS),
    "sum over the data": lambda s: scaled(exact(s), IMAGES),
}
"""By their names on the page."""


def compare(found: Named, truth: Named) -> tuple[float, float]:
    """Sum over the network in units of that of the exact one, and ‖F̂ − F‖ / ‖F‖."""
    one, two = (torch.cat([value.flatten() for value in each.values()]) for each in (found, truth))
    return float(one.sum() / two.sum()), float((one - two).norm() / two.norm())


def definitions() -> dict[str, tuple[float, float, float, float]]:
    """Ratio and error at the training images, then at as many others."""
    return {
        name: (
            *compare(of(trained()), exact(trained())),
            *compare(of(trained(False)), exact(trained(False))),
        )
        for name, of in DEFINITIONS.items()
    }


# -------------------------------------------------------------------- what the calls return

ASDL_DRAWS = 10


def curved(loss: type[nn.Module]) -> Setting:
    """A network whose Hessian is not its Fisher, with n, T and k all different."""
    return make(lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), (7, 6), loss)


def _batch_squares(setting: Setting, reduction: str) -> Named:
    found = calls.backpack(setting, "BatchGrad", "grad_batch", reduction)
    return {name: value.square().mean(0) for name, value in found.items()}


def _opacus_squares(setting: Setting, reduction: str) -> Named:
    found = calls.opacus(setting, reduction)
    return {name: value.square().mean(0) for name, value in found.items()}


def _nngeometry(setting: Setting) -> Named:
    kind = {"gaussian": "regression", "categorical": "classif_logits"}[setting.family]
    return calls.nngeometry(setting, kind)


def _nngeometry_sampled(setting: Setting) -> Named:
    if setting.loss is nn.MSELoss:
        raise NotImplementedError("no variant of FIM_MonteCarlo for regression")
    return calls.nngeometry(setting, "classif_logits", 1)


_seeds = count()
"""A new one for each call, for the operators that keep a seed of their own."""


def _backpack(*names: str) -> Call:
    return lambda s: calls.backpack(s, *names)


def _curvlinops(*names: str) -> Call:
    return lambda s: calls.curvlinops(s, *names, check_deterministic=False)


GGN, MC = ("DiagGGNExact", "diag_ggn_exact"), ("DiagGGNMC", "diag_ggn_mc")
SGS, HESSIAN = ("SumGradSquared", "sum_grad_squared"), ("DiagHessian", "diag_h")

RETURNED: dict[tuple[str, str, str], Call] = {
    ("BackPACK", "`DiagGGNExact`", "sum"): _backpack(*GGN, "sum"),
    ("BackPACK", "`DiagGGNExact`", "mean"): _backpack(*GGN, "mean"),
    ("BackPACK", "`DiagGGNMC`", "mean"): _backpack(*MC, "mean"),
    ("BackPACK", "`SumGradSquared`", "sum"): _backpack(*SGS, "sum"),
    ("BackPACK", "`SumGradSquared`", "mean"): _backpack(*SGS, "mean"),
    ("BackPACK", "`BatchGrad`, squared, averaged", "mean"): lambda s: _batch_squares(s, "mean"),
    ("BackPACK", "`DiagHessian`", "mean"): _backpack(*HESSIAN, "mean"),
    ("curvlinops", "`GGNLinearOperator`", "sum"): _curvlinops("GGNLinearOperator", "sum"),
    ("curvlinops", "`GGNLinearOperator`", "mean"): _curvlinops("GGNLinearOperator", "mean"),
    ("curvlinops", "`FisherMCLinearOperator`", "mean"): lambda s: calls.curvlinops(
        s, "FisherMCLinearOperator", seed=next(_seeds), check_deterministic=False
    ),
    ("curvlinops", "`EFLinearOperator`", "sum"): _curvlinops("EFLinearOperator", "sum"),
    ("curvlinops", "`EFLinearOperator`", "mean"): _curvlinops("EFLinearOperator", "mean"),
    ("curvlinops", "`HessianLinearOperator`", "mean"): _curvlinops("HessianLinearOperator", "mean"),
    ("NNGeometry", "`FIM(…, PMatDiag)`", ""): _nngeometry,
    ("NNGeometry", "`FIM_MonteCarlo(…, PMatDiag)`", ""): _nngeometry_sampled,
    ("NNGeometry", "`Hessian(…, PMatDense)`, one batch", "mean"): lambda s: (
        calls.nngeometry_hessian(s, len(s.inputs))
    ),
    ("Laplace", "`DiagLaplace`, `…GGN`", ""): lambda s: calls.laplace(s, "CurvlinopsGGN"),
    ("Laplace", "`DiagLaplace`, `…GGN`, `stochastic`", ""): lambda s: calls.laplace(
        s, "CurvlinopsGGN", stochastic=True
    ),
    ("Laplace", "`DiagLaplace`, `…EF`", ""): lambda s: calls.laplace(s, "CurvlinopsEF"),
    ("ASDL", "`FISHER_EXACT`", "sum"): lambda s: calls.asdl(s, "EXACT"),
    ("ASDL", "`FISHER_MC`, k draws", "sum"): lambda s: calls.asdl(s, "MC", n_mc_samples=ASDL_DRAWS),
    ("ASDL", "`FISHER_EMP`", "sum"): lambda s: calls.asdl(s, "EMP"),
    ("ASDL", "`HessianMaker`", "sum"): calls.asdl_hessian,
    ("Opacus", "`grad_sample`, squared, averaged", "sum"): lambda s: _opacus_squares(s, "sum"),
    ("Opacus", "`grad_sample`, squared, averaged", "mean"): lambda s: _opacus_squares(s, "mean"),
    ("diagfim", '`estimate(…, "exact")`', ""): exact,
    ("diagfim", '`estimate(…, "score")`', ""): lambda s: drawn(s, "score", next(_seeds)),
    ("diagfim", '`estimate(…, "hessian")`', ""): lambda s: drawn(s, "hessian", next(_seeds)),
    ("diagfim", '`estimate(…, "empirical")`', ""): empirical,
}
"""By library, call and reduction of the loss, as the page has them."""


def returned(cell: str, setting: Setting) -> Named:
    """What a cell such as ``4·E/(n·T²)`` stands for."""
    (base,) = set(cell) & set("FEH")
    rule = cell.replace(base, "1").replace("·", "*").replace("²", "**2")
    assert re.fullmatch(r"[0-9nTk*/()]+", rule), cell
    given = {"n": len(setting.inputs), "T": setting.outputs, "k": ASDL_DRAWS}
    quantity = {"F": exact, "E": empirical, "H": hessian_diagonal}[base]
    return scaled(quantity(setting), eval(rule, {"__builtins__": {}}, given))


# --------------------------------------------------------------------- what meets a surprise


class Tied(nn.Module):
    """One linear layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.twice(self.twice(inputs).tanh()).tanh())


class Sequence(nn.Module):
    """A linear layer at every position of a sequence, then their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.each(inputs).tanh().mean(dim=1))


def _between(layer: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(4, 6), layer(), nn.Linear(6, 3))


class Scale(nn.Module):
    """A layer of one's own, with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(6))

    def forward(self, inputs: Tensor) -> Tensor:
        return (self.factor * inputs).tanh()


SURPRISES: dict[str, Callable[[], Setting]] = {
    "a weight used twice": lambda: make(Tied, (6, 4), nn.CrossEntropyLoss),
    "a linear layer along a sequence": lambda: make(Sequence, (6, 7, 4), nn.CrossEntropyLoss),
    "a layer of your own": lambda: make(_between(Scale), (6, 4), nn.CrossEntropyLoss),
    "`GroupNorm`": lambda: make(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(36, 3)
        ),
        (6, 1, 5, 5),
        nn.CrossEntropyLoss,
    ),
    "batch-norm left in train mode": lambda: make(
        _between(lambda: nn.BatchNorm1d(6)), (6, 4), nn.CrossEntropyLoss
    ),
    "dropout left in train mode": lambda: make(_between(nn.Dropout), (6, 4), nn.CrossEntropyLoss),
    "float32, p(other labels) = 10⁻⁶": lambda: confident(1e-6),
}
"""By their names on the page."""

CALLS: dict[str, Call] = {
    "BackPACK": _backpack(*GGN, "mean"),
    "curvlinops": lambda s: calls.curvlinops(s, "GGNLinearOperator", "mean"),
    "NNGeometry": lambda s: calls.nngeometry(s, "classif_logits"),
    "Laplace": lambda s: scaled(calls.laplace(s, "CurvlinopsGGN"), 1 / len(s.inputs)),
    "ASDL": lambda s: calls.asdl(s, "EXACT"),
    "Opacus": lambda s: _opacus_squares(s, "sum"),
    "diagfim": exact,
}
"""The mean over the data of the exact Fisher, or of the empirical one for Opacus."""


def confident(rest: float) -> Setting:
    """A linear classifier, of which the labels but one have the probability `rest` together."""
    setting = make(lambda: nn.Sequential(nn.Linear(2, 3, bias=False)), (1, 2), nn.CrossEntropyLoss)
    logits = torch.tensor([2 * (1 - rest) / rest, 1, 1], dtype=torch.float64).log()
    with torch.no_grad():
        setting.model[0].weight.copy_(
            logits[:, None] * setting.inputs / setting.inputs.square().sum()
        )
    return setting


def outcome(library: str, surprise: str) -> str:
    """What a library makes of it: right, wrong, random, left out or refused.

    "right" is within 0.1% of the exact value in eval mode and float64, in every entry.
    """
    setting = SURPRISES[surprise]()
    quantity = empirical if library == "Opacus" else exact
    truth = quantity(setting)
    if "train" in surprise:
        setting.model.train()
    if "float32" in surprise:
        model = copy.deepcopy(setting.model).float()
        setting = Setting(model, setting.inputs.float(), setting.labels, setting.loss)
    torch.set_default_dtype(setting.inputs.dtype)
    try:
        one, two = (CALLS[library](setting) for _ in range(2))
    except Exception:
        return "refused"
    finally:
        torch.set_default_dtype(torch.float32)
    if set(one) != set(truth):
        return "left out"
    if not all(torch.equal(one[name], two[name]) for name in one):
        return "random"
    close = all(
        torch.allclose(one[name].double(), value, rtol=1e-3, atol=1e-6 * float(value.max()))
        for name, value in truth.items()
    )
    return "right" if close else "wrong"


# ------------------------------------------------------------------------------------ memory

WIDTHS, BATCHES = (200, 300, 10), (16, 32)


def dense(n: int) -> Setting:
    """A network of 63,310 parameters with n inputs."""
    one, two, three = WIDTHS
    return make(
        lambda: nn.Sequential(nn.Linear(one, two), nn.Tanh(), nn.Linear(two, three)),
        (n, one),
        nn.CrossEntropyLoss,
    )


MEMORY: dict[str, Call] = {
    "BackPACK `DiagGGNExact`": _backpack(*GGN, "sum"),
    "BackPACK `DiagGGNMC`": _backpack(*MC, "sum"),
    "BackPACK `SumGradSquared`": _backpack(*SGS, "sum"),
    "BackPACK `BatchGrad`": lambda s: calls.backpack(s, "BatchGrad", "grad_batch"),
    "NNGeometry `FIM`": lambda s: calls.nngeometry(s, "classif_logits", batch=len(s.inputs)),
    "Laplace `CurvlinopsGGN`": lambda s: calls.laplace(s, "CurvlinopsGGN", batch=len(s.inputs)),
    "Laplace `BackPackGGN`": lambda s: calls.laplace(s, "BackPackGGN", batch=len(s.inputs)),
    "ASDL `FISHER_EXACT`": lambda s: calls.asdl(s, "EXACT"),
    "Opacus `grad_sample`": lambda s: calls.opacus(s, "sum"),
    'diagfim `estimate(…, "exact")`': exact,
    "diagfim `analyze`": lambda s: diagfim.analyze(s.model, s.inputs),
}
"""By their names on the page."""


def megabytes(call: str, n: int) -> float:
    """Peak of one call in one batch of n inputs, beyond what was held before it."""
    setting = dense(n)
    torch.set_default_dtype(torch.float64)
    try:
        return peak_memory(lambda: MEMORY[call](setting)) / 1e6
    finally:
        torch.set_default_dtype(torch.float32)


if __name__ == "__main__":
    print("accuracy and mean confidence, seen and unseen:", standing(True), standing(False))
    for name, numbers in definitions().items():
        print(f"| {name} | " + " | ".join(f"{number:.2g}" for number in numbers) + " |")
    for draws in (1, DRAWS):
        _, error = compare(sampled(trained(), draws), exact(trained()))
        print(f"| {draws} | {predicted_error(draws):.2g} | {error:.2g} |")
    print("| |", " | ".join(CALLS), "|")
    for name in SURPRISES:
        print(f"| {name} |", " | ".join(outcome(library, name) for library in CALLS), "|")
    for name in MEMORY:
        print(f"| {name} |", " | ".join(f"{megabytes(name, n):.1f}" for n in BATCHES), "|")
