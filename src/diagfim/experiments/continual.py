"""Elastic weight consolidation on Split MNIST, with every way to compute the Fisher diagonal.

The ten digits are learnt two at a time; after each task the Fisher diagonal F of the shared trunk
on its data joins a sum that holds the trunk in place while the next one is learnt:

    loss(θ) + λ/2 Σ_i (Σ_k F_k)_i (θ_i − θ*_i)²,

θ* being where the last task ended: the online form of Huszár, which van de Ven (2025) uses.  Every
task has a head of its own, two outputs of which the network is told the task (task-incremental); it
has no past when it is learnt, so that the penalty is one on the trunk.  F is a mean over inputs.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from diagfim.analysis import estimate
from diagfim.seeding import integer, stream
from diagfim.training import images_to_inputs

TASKS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
"""The digits of each task, in the order in which they are learnt."""

METHODS = ("exact", "subset", "score", "empirical", "batched")
"""Ways to compute F.

"exact", "score" (Î1 from one draw) and "empirical" are those of `diagfim.estimate`; "subset" is
"exact" on fewer inputs, "batched" the mean over mini-batches of the squared gradient of their mean
loss, which is smaller by about the batch size and keeps signs that should not cancel.
"""

COMPARED = ("hessian", "mixed", *METHODS[1:])
"""What is set against "exact" at the first optimum.

With ReLU, Î2 and its mixes with Î1 have no noise from the draws and are "exact" up to rounding, so
that networks trained with them would be the same ones.
"""

REFERENCE = {
    "exact": (0.9912, 0.0016),
    "subset": (0.9893, 0.0015),
    "score": (0.9912, 0.0012),
    "empirical": (0.9912, 0.0012),
    "batched": (0.9911, 0.0016),
    "none": (0.8541, 0.0088),
}
"""Published mean accuracy and its standard error over 30 runs of 2,000 iterations a task.

G. M. van de Ven, On the computation of the Fisher Information in continual learning, 2025,
arXiv:2502.11756, table of Split MNIST; its best strength of a wide grid for each method.
"""

Diagonal = dict[str, Tensor]
"""Values by the name of a parameter of the trunk, in its shape."""


@dataclass(frozen=True)
class Images:
    """Inputs (n, features) of some digits, and which of them each shows (n,)."""

    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Penalty:
    """λ/2 Σ_i F_i (θ_i − θ*_i)² over the trunk.

    Attributes
    ----------
    stiffness : dict of str to tensor
        λ F.
    anchor : dict of str to tensor
        θ*.
    """

    stiffness: Diagonal
    anchor: Diagonal

    @torch.no_grad()
    def add_gradient(self, trunk: nn.Module) -> None:
        """Add λ F (θ − θ*) to the gradients that the parameters hold."""
        for name, value in trunk.named_parameters():
            assert value.grad is not None
            value.grad.addcmul_(self.stiffness[name], value - self.anchor[name])


class MultiHead(nn.Module):
    """A ReLU network with one trunk and a linear head of two outputs for each task.

    Parameters
    ----------
    features : int
        Values per input.
    hidden : sequence of int
        Widths of the hidden layers.
    heads : int
        Number of tasks.
    """

    def __init__(self, features: int, hidden: Sequence[int], heads: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential()
        for fan_in, width in zip([features, *hidden], hidden, strict=False):
            self.trunk.extend([nn.Linear(fan_in, width), nn.ReLU()])
        self.heads = nn.ModuleList(nn.Linear(hidden[-1], 2) for _ in range(heads))

    def task(self, number: int) -> nn.Sequential:
        """The network of one task: the trunk, whose parameters keep their names, and its head."""
        return nn.Sequential(*self.trunk, self.heads[number])


def continual(
    train: Images,
    test: Images,
    settings: Mapping[str, Any],
    seed: int,
    progress: Callable[[list[tuple[str, float]]], Iterable[tuple[str, float]]] = iter,
) -> dict[str, xr.Dataset]:
    """Learn the tasks one after the other with every method and strength.

    Parameters
    ----------
    train, test : Images
        Of all ten digits.
    settings : mapping
        ``hidden``, ``iterations`` (a task), ``batch_size``, ``learning_rate``, ``inputs`` (a task,
        for F), ``subset``, ``strengths`` and ``test_inputs`` (a task).
    seed : int
        Of the initialisation, the order of the batches, the inputs of F and the draws.  All
        methods share the first three.
    progress : callable
        From the runs, by method and strength, to the same ones in their order.

    Returns
    -------
    dict of str to Dataset
        "plain": ``accuracy`` (learnt, task), without a penalty; "penalised": the same by estimator
        and strength; NaN for tasks to come.  "fisher": how far each estimate at the first optimum
        is from the exact F; see `deviations`.  "published": `REFERENCE`.
    """
    tasks = [_of(train, digits) for digits in TASKS]
    tests = [_of(test, digits, settings["test_inputs"]) for digits in TASKS]
    chosen = [
        _pick(images, torch.from_numpy(order[: settings["inputs"]]))
        for k, images in enumerate(tasks)
        for order in [stream(seed, "fisher", k).permutation(len(images.labels))]
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(integer(seed, "initialisation"))
        start = MultiHead(train.inputs.shape[1], settings["hidden"], len(TASKS))

    def learn(model: MultiHead, k: int, penalty: Penalty | None) -> None:
        rows = batches(
            len(tasks[k].labels),
            settings["batch_size"],
            settings["iterations"],
            stream(seed, "order", k),
        )
        fit(model, k, tasks[k], rows, settings["learning_rate"], penalty)

    def importance(model: MultiHead, k: int, method: str) -> Diagonal:
        return diagonal(model.task(k), chosen[k], method, settings, integer(seed, "draws", k))

    def rest(method: str | None, strength: float, total: Diagonal) -> np.ndarray:
        """Learn all but the first task; accuracies (learnt, task)."""
        model, rows = copy.deepcopy(start), [accuracies(start, tests[:1])]
        for k in range(1, len(TASKS)):
            learn(model, k, _penalty(model, total, strength) if method else None)
            rows.append(accuracies(model, tests[: k + 1]))
            if method and k + 1 < len(TASKS):
                here = importance(model, k, method)
                total = {name: value + here[name] for name, value in total.items()}
        return np.stack(rows)

    learn(start, 0, None)
    first = {name: importance(start, 0, name) for name in dict.fromkeys((*METHODS, *COMPARED))}
    runs = [(method, float(strength)) for method in METHODS for strength in settings["strengths"]]
    penalised = [rest(method, strength, first[method]) for method, strength in progress(runs)]
    shape = (len(METHODS), -1, len(TASKS), len(TASKS))
    places = {"learnt": np.arange(1, len(TASKS) + 1), "task": np.arange(1, len(TASKS) + 1)}
    return {
        "plain": xr.Dataset({"accuracy": (("learnt", "task"), rest(None, 0.0, {}))}, places),
        "penalised": xr.Dataset(
            {
                "accuracy": (
                    ("estimator", "strength", "learnt", "task"),
                    np.reshape(penalised, shape),
                )
            },
            {
                "estimator": list(METHODS),
                "strength": np.array(settings["strengths"], float),
                **places,
            },
        ),
        "fisher": deviations({name: first[name] for name in COMPARED}, first["exact"]),
        "published": xr.Dataset(
            {
                "accuracy": ("estimator", [mean for mean, _ in REFERENCE.values()]),
                "accuracy_error": ("estimator", [error for _, error in REFERENCE.values()]),
            },
            {"estimator": list(REFERENCE)},
        ),
    }


def batches(samples: int, size: int, iterations: int, rng: np.random.Generator) -> Tensor:
    """Positions of the samples of every batch: passes in random order, rests left out."""
    size = min(size, samples)
    whole = samples // size
    passes = -(-iterations // whole)
    rows = [rng.permutation(samples)[: whole * size].reshape(whole, size) for _ in range(passes)]
    return torch.from_numpy(np.concatenate(rows)[:iterations])


def fit(
    model: MultiHead,
    k: int,
    images: Images,
    rows: Tensor,
    learning_rate: float,
    penalty: Penalty | None,
) -> None:
    """Learn task k in place by Adam, from new moments; no other head is touched."""
    view = model.task(k)
    adam = torch.optim.Adam(view.parameters(), lr=learning_rate, fused=True)
    for row in rows:
        batch = _pick(images, row)
        loss = cross_entropy(view(batch.inputs), batch.labels)
        adam.zero_grad()
        loss.backward()
        if penalty:
            penalty.add_gradient(model.trunk)
        adam.step()


def diagonal(
    view: nn.Sequential, images: Images, method: str, settings: Mapping[str, Any], seed: int
) -> Diagonal:
    """The Fisher diagonal of the trunk for one task, by one of `METHODS` or an estimator's name.

    Parameters
    ----------
    view : torch.nn.Sequential
        The network of the task, two logits.
    images : Images
        All are used, the first ``settings["subset"]`` of them for "subset".
    """
    trunk = [name for name, _ in view[:-1].named_parameters()]
    if method == "batched":
        return batched(view, images, settings["batch_size"], trunk)
    few = method == "subset"
    tree = estimate(
        view,
        images.inputs[: settings["subset"]] if few else images.inputs,
        "exact" if few else method,
        seed=seed,
        labels=images.labels if method == "empirical" else None,
        errors=False,
    )
    return {name: torch.from_numpy(tree[name]["fisher"].values) for name in trunk}


def batched(view: nn.Module, images: Images, size: int, names: Sequence[str]) -> Diagonal:
    """Mean over the mini-batches of the squared gradient of their mean loss: not a Fisher."""
    parameters = dict(view.named_parameters())
    wanted = [parameters[name] for name in names]
    total = [torch.zeros_like(value, dtype=torch.float64) for value in wanted]
    pieces = list(
        zip(torch.split(images.inputs, size), torch.split(images.labels, size), strict=True)
    )
    for inputs, labels in pieces:
        gradients = torch.autograd.grad(cross_entropy(view(inputs), labels), wanted)
        for value, gradient in zip(total, gradients, strict=True):
            value += gradient.double() ** 2
    return {name: value / len(pieces) for name, value in zip(names, total, strict=True)}


def deviations(estimates: Mapping[str, Diagonal], exact: Diagonal) -> xr.Dataset:
    """How far estimates F̂ of the Fisher diagonal are from the exact F, over all parameters.

    Returns
    -------
    Dataset
        By ``estimator``: ``trace_ratio`` Σ F̂ / Σ F; ``relative_error`` ‖F̂ − F‖ / ‖F‖; and
        ``shape_error`` min_c ‖c F̂ − F‖ / ‖F‖, what is left when λ makes up for a factor.
    """
    truth = _flat(exact)
    norm = truth.norm()
    values = []
    for one in map(_flat, estimates.values()):
        best = (one @ truth) / (one @ one)
        errors = [((factor * one - truth).norm() / norm).item() for factor in (1.0, best)]
        values.append([(one.sum() / truth.sum()).item(), *errors])
    names = ("trace_ratio", "relative_error", "shape_error")
    columns = dict(zip(names, np.array(values).T, strict=True))
    return xr.Dataset(
        {name: ("estimator", column) for name, column in columns.items()},
        {"estimator": list(estimates)},
    )


@torch.no_grad()
def accuracies(model: MultiHead, tests: Sequence[Images]) -> np.ndarray:
    """Share of each task's images told right by its own head; NaN for the tasks to come."""
    found = np.full(len(TASKS), np.nan)
    for k, images in enumerate(tests):
        told = model.task(k)(images.inputs).argmax(dim=1)
        found[k] = (told == images.labels).double().mean().item()
    return found


def images_of(images: np.ndarray, labels: np.ndarray) -> Images:
    """Grey levels (n, rows, columns) and labels (n,) as the networks take them."""
    inputs = images_to_inputs(torch.from_numpy(images), torch.float32)
    return Images(inputs, torch.from_numpy(labels).long())


def _of(images: Images, digits: tuple[int, int], at_most: int | None = None) -> Images:
    """The images of two digits, or the first ones, labelled 0 and 1."""
    here = torch.isin(images.labels, torch.tensor(digits)).nonzero()[:at_most, 0]
    found = _pick(images, here)
    return Images(found.inputs, (found.labels == digits[1]).long())


def _pick(images: Images, rows: Tensor) -> Images:
    # Half the time of indexing by brackets, which tells where every batch is copied.
    return Images(images.inputs.index_select(0, rows), images.labels.index_select(0, rows))


def _penalty(model: MultiHead, total: Diagonal, strength: float) -> Penalty:
    """The penalty that holds the trunk where it is now."""
    here = {name: value.detach().clone() for name, value in model.trunk.named_parameters()}
    return Penalty(
        {name: (strength * total[name]).to(value.dtype) for name, value in here.items()}, here
    )


def _flat(values: Diagonal) -> Tensor:
    return torch.cat([value.flatten() for value in values.values()])
