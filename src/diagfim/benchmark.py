"""What the exact moments cost beside a forward and backward pass, and beside other libraries.

Print what a run has measured by ``python -m diagfim.benchmark results/benchmark.nc``.
"""

import copy
import os
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from diagfim import arrays, timings, training
from diagfim.analysis import analyze, estimate
from diagfim.derivatives.dense import Chain
from diagfim.errors import UserError
from diagfim.estimators import Score
from diagfim.families import Categorical
from diagfim.moments import Population
from diagfim.origin import processor
from diagfim.streams import Batch

Work = Callable[[], object]

YARDSTICK = "forward + backward"
FIVE = "five quantities"
FIRST, BOTH = "first derivatives", "first and second derivatives"

QUARTILES = (0.25, 0.5, 0.75)
_BRIEF = 0.05
"""Seconds up to which a task runs once untimed before it is timed."""


@dataclass(frozen=True)
class Task:
    """Something to be timed.

    Attributes
    ----------
    name : str
    library : str
        Whose it is.
    work : callable
    """

    name: str
    library: str
    work: Work


# ------------------------------------------------------------------------------- measuring


def peak_memory(work: Work) -> int:
    """Bytes that torch holds at the peak of one call, beyond what it held before it.

    Results that the call returns or leaves behind are included; what it frees of an earlier call is
    not subtracted.

    Examples
    --------
    >>> import torch
    >>> from diagfim.benchmark import peak_memory
    >>> peak_memory(lambda: torch.ones(1000) + torch.ones(1000)) // 4000
    3
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it reports the absence of GPUs as an error
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        kept = work()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    waiting = list(profiler.profiler.kineto_results.experimental_event_tree())
    events = []
    while waiting:
        event = waiting.pop()
        waiting.extend(event.children)
        if event.name == "[memory]":
            fields = event.extra_fields
            events.append((event.start_time_ns, fields.alloc_size, fields.ptr))
    # By address: what an earlier call allocated may be freed in this one.
    held: dict[int, int] = {}
    now = peak = 0
    for _, size, address in sorted(events, key=lambda event: event[0]):
        now += size if size > 0 else -held.pop(address, 0)
        if size > 0:
            held[address] = size
        peak = max(peak, now)
    del kept
    return peak


def interleaved(works: Mapping[str, Work], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of every piece of work in every round, after a warm-up.

    A round runs all of them in an order of its own, so that whatever else the machine does falls on
    all alike.  What is brief runs once untimed right before, so that no one pays for the caches
    that another left.

    Returns
    -------
    dict of str to array, (rounds,)
    """
    brief = {name: min(_seconds(work) for _ in range(2)) < _BRIEF for name, work in works.items()}
    order = random.Random(0)
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name in order.sample(list(works), len(works)):
            if brief[name]:
                works[name]()
            found[name].append(_seconds(works[name]))
    return {name: np.array(seconds) for name, seconds in found.items()}


def _seconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# ----------------------------------------------------------------------- what is compared


def tasks(model: nn.Module, inputs: Tensor, labels: Tensor) -> list[Task]:
    """What is timed on a batch: the yardstick, diagfim's, and the peers' that are installed.

    Parameters
    ----------
    model : torch.nn.Module
        A dense chain in eval mode.
    inputs, labels : tensor, (n, features) and (n,)
    """
    loss = nn.CrossEntropyLoss()

    def forward_backward() -> None:
        model.zero_grad()
        loss(model(inputs), labels).backward()

    def five() -> object:
        population = Population(Categorical())
        population.update(Chain(model).at(inputs))
        return population.result()

    def score(errors: bool) -> object:
        stream = Score(Categorical(), 1, 0, errors)
        stream.update(Chain(model).at(inputs), Batch(inputs, None, 0))
        return stream.result()

    def derivatives(both: bool) -> None:
        at = Chain(model).at(inputs)
        directions = Categorical().directions(at.outputs)
        for _ in at.pull(directions, directions if both else None):
            pass

    own: dict[str, Work] = {
        FIRST: partial(derivatives, False),
        BOTH: partial(derivatives, True),
        FIVE: five,
        "analyze": partial(analyze, model, inputs),
        "score at N = 1, no error": partial(score, False),
        "score at N = 1": partial(score, True),
        **{
            f"estimate, {name} at N = {draws:,}": partial(estimate, model, inputs, name, draws)
            for name in ("score", "hessian")
            for draws in (1, 10, 10**6)
        },
    }
    return [
        Task(YARDSTICK, "PyTorch", forward_backward),
        *(Task(name, "diagfim", work) for name, work in own.items()),
        *(Task(peer.name, peer.library, peer.work) for peer in peers(model, inputs, labels)),
    ]


@dataclass(frozen=True)
class Peer(Task):
    """What another library computes, and how to read it.

    Attributes
    ----------
    values : callable
        From what `work` returns, the mean over the inputs by parameter.
    ours : callable
        The same by diagfim.
    """

    values: Callable[[Any], dict[str, Tensor]]
    ours: Callable[[], dict[str, Tensor]]


def peers(model: nn.Module, inputs: Tensor, labels: Tensor) -> list[Peer]:
    """What the other libraries that are installed offer without random probes.

    curvlinops is not among them: its diagonals (Hutchinson, XDiag) are estimates by random vectors,
    and its operators have no exact one but by as many products as there are parameters.
    """
    return [*_backpack(model, inputs, labels), *_nngeometry(model, inputs)]


def _backpack(model: nn.Module, inputs: Tensor, labels: Tensor) -> Iterator[Peer]:
    try:
        from backpack import backpack, extend, extensions
    except ImportError:
        return
    n = len(inputs)
    loss = extend(nn.CrossEntropyLoss(reduction="sum"))

    def fisher() -> dict[str, Tensor]:
        return _flatten(analyze(model, inputs))

    def empirical() -> dict[str, Tensor]:
        return _flatten(estimate(model, inputs, "empirical", labels=labels, errors=False))

    def hessian() -> dict[str, Tensor]:
        return hessian_diagonal(model, inputs, labels)

    for name, meaning, field, ours in (
        ("SumGradSquared", ", one label", "sum_grad_squared", empirical),
        ("DiagGGNExact", "", "diag_ggn_exact", fisher),
        ("DiagHessian", ", one label", "diag_h", hessian),
        ("BatchDiagHessian", ", one label", "diag_h_batch", hessian),
    ):
        own = extend(copy.deepcopy(model))  # of its own, for what it leaves on the parameters

        def work(own: nn.Module = own, name: str = name) -> nn.Module:
            own.zero_grad()
            with warnings.catch_warnings(), backpack(getattr(extensions, name)()):
                warnings.filterwarnings("ignore", message="Full backward hook is firing")
                loss(own(inputs), labels).backward()
            return own

        def values(own: nn.Module, field: str = field) -> dict[str, Tensor]:
            found = {name: getattr(value, field) / n for name, value in own.named_parameters()}
            return {k: v.sum(0) if field.endswith("batch") else v for k, v in found.items()}

        yield Peer(name + meaning, "BackPACK", work, values, ours)


def _nngeometry(model: nn.Module, inputs: Tensor) -> Iterator[Peer]:
    try:
        from nngeometry.metrics import FIM
        from nngeometry.object import PMatDiag
    except ImportError:
        return
    loader = DataLoader(TensorDataset(inputs), batch_size=len(inputs))

    def work() -> Any:
        return FIM(model, loader, PMatDiag, variant="classif_logits")

    def values(matrix: Any) -> dict[str, Tensor]:
        named = dict(model.named_parameters())
        pieces = matrix.get_diag().split([value.numel() for value in named.values()])
        return {k: p.reshape(v.shape) for (k, v), p in zip(named.items(), pieces, strict=True)}

    yield Peer(
        "PMatDiag of the FIM", "NNGeometry", work, values, lambda: _flatten(analyze(model, inputs))
    )


def hessian_diagonal(model: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Mean over the inputs of −∂² log p(y|x) at given labels, by parameter of a dense chain."""
    family = Categorical()
    at = Chain(model).at(inputs)
    found = {}
    for block in at.pull(family.root(at.outputs), family.residuals(at.outputs, labels)[:, None]):
        left = (block.first**2).sum(dim=1)
        if block.second is not None:
            left = left - block.second[:, 0]
        total = block.total(left, 2) / len(inputs)
        if block.bias is None:
            found[block.weight] = total
        else:
            found[block.weight], found[block.bias] = total[:, :-1], total[:, -1]
    return found


def _flatten(tree: xr.DataTree) -> dict[str, Tensor]:
    return {name: torch.from_numpy(node["fisher"].values) for name, node in tree.children.items()}


def agreement(model: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, float]:
    """Largest deviation of every peer from diagfim, in units of the tensor's largest entry."""
    found = {}
    for peer in peers(model, inputs, labels):
        theirs, ours = peer.values(peer.work()), peer.ours()
        found[f"{peer.library} {peer.name}"] = max(
            float((theirs[name] - ours[name]).abs().max() / ours[name].abs().max()) for name in ours
        )
    return found


# ----------------------------------------------------------------------------- the groups


def label(model: nn.Module) -> str:
    """Widths of a dense chain: its name in the tables."""
    linear = [one for one in model.modules() if isinstance(one, nn.Linear)]
    return "-".join(map(str, (linear[0].in_features, *(one.out_features for one in linear))))


def compare(
    models: Sequence[nn.Module], inputs: Tensor, labels: Tensor, rounds: int
) -> dict[str, xr.Dataset]:
    """Seconds and peak memory of all `tasks` on one batch, and the agreement with the peers."""
    found, checks = [], []
    for model in models:
        chosen = tasks(model, inputs, labels)
        seconds = interleaved({task.name: task.work for task in chosen}, rounds)
        quartiles = np.quantile([seconds[task.name] for task in chosen], QUARTILES, axis=1).T
        found.append(
            xr.Dataset(
                {
                    "seconds": (("task", "quantile"), quartiles),
                    "ratio": ("task", quartiles[:, 1] / quartiles[0, 1]),
                    "memory": ("task", [peak_memory(task.work) for task in chosen]),
                },
                coords={
                    "quantile": list(QUARTILES),
                    "task": [task.name for task in chosen],
                    "library": ("task", [task.library for task in chosen]),
                },
            )
        )
        checks.append(agreement(model, inputs, labels))
    names = {"network": [label(model) for model in models]}
    groups = {"tasks": xr.concat(found, "network").assign_coords(names)}
    if checks[0]:
        groups["agreement"] = xr.Dataset(
            {"deviation": (("network", "task"), [list(one.values()) for one in checks])},
            coords=names | {"task": list(checks[0])},
        )
    return groups


def jacobian_flops(model: nn.Module) -> int:
    """Floating-point operations per input in the products that make the per-sample Jacobians.

    They are needed between layers that are two or more apart; see `diagfim.derivatives.dense`.
    """
    widths = [len(one.weight) for one in model.modules() if isinstance(one, nn.Linear)]
    return sum(
        2 * widths[m] * widths[low + 1] * widths[low]
        for m in range(2, len(widths) - 1)
        for low in range(m - 1)
    )


def matrix_rate(repetitions: int = 5) -> float:
    """Floating-point operations per second of the best of several large float32 products."""
    best = 0.0
    for size in (1024, 1536, 2048):
        a, b = torch.rand(size, size), torch.rand(size, size)
        out = torch.empty(size, size)
        for _ in range(repetitions):
            start = time.perf_counter()
            torch.mm(a, b, out=out)
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def products(model: nn.Module, timed: xr.Dataset, inputs: int, rate: float) -> xr.Dataset:
    """The time of the Jacobian products alone at full speed, beside the time that was measured.

    Parameters
    ----------
    model : torch.nn.Module
    timed : Dataset
        "tasks" of `compare`.
    inputs : int
        Number of inputs that were timed.
    rate : float
        `matrix_rate` with as many threads.
    """
    median = timed["seconds"].sel(network=label(model), quantile=0.5)
    least = jacobian_flops(model) * inputs / rate
    second = float(median.sel(task=BOTH) - median.sel(task=FIRST))
    return xr.Dataset(
        {
            "rate": rate,
            "floor": least,
            "share": least / float(median.sel(task=FIVE)),
            "second_seconds": second,
            "second_share": least / second,
        }
    )


def trainer(
    model: nn.Module, train_set: tuple[Tensor, Tensor], *, seed: int, **options: Any
) -> Work:
    """Return what trains a network for one more epoch at each call, without a test set.

    Parameters
    ----------
    model : torch.nn.Module
        Updated in place; in eval mode after each call.
    train_set : tuple of tensors
        Inputs (n, ...) and labels (n,).
    seed : int
    options
        ``batch_size``, ``optimiser`` and ``learning_rate`` of `training.train`.
    """
    first = train_set[0][:1], train_set[1][:1]
    run = training.train(model, train_set, first, epochs=timings.EPOCHS, seed=seed, **options)
    next(run)
    return lambda: next(run)


def whole_set(model: nn.Module, inputs: Tensor, epoch: Work) -> xr.Dataset:
    """Seconds of `analyze` on all inputs, once in each precision, and its memory by their number.

    Memory is that beside the inputs, which exist already.

    Parameters
    ----------
    model : torch.nn.Module
        A dense chain in eval mode.
    inputs : tensor, (n, features)
    epoch : callable
        An epoch of training, timed once before each precision.
    """
    analyze(model, inputs[:1000])
    epochs, seconds = [], []
    kinds = {"float32": torch.float32, "float64": torch.float64}
    for dtype in kinds.values():
        epochs.append(_seconds(epoch))
        seconds.append(_seconds(partial(analyze, model, inputs, dtype=dtype)))
    sizes = [min(1000, len(inputs)), len(inputs)]
    memory = [peak_memory(partial(analyze, model, inputs[:size])) for size in sizes]
    return xr.Dataset(
        {
            "epoch_seconds": np.mean(epochs),
            "seconds": ("dtype", seconds),
            "memory": ("inputs", memory),
        },
        coords={"dtype": list(kinds), "inputs": sizes},
    )


def convolutional(
    models: Mapping[str, nn.Module],
    train_set: tuple[Tensor, Tensor],
    test_set: tuple[Tensor, Tensor],
    *,
    seed: int,
    **options: Any,
) -> xr.Dataset:
    """Train each network for an epoch; seconds and memory of `analyze` on the test images.

    Parameters
    ----------
    models : mapping of str to torch.nn.Module
    train_set, test_set : tuple of tensors
        Images (n, 1, rows, columns) and labels (n,).
    seed : int
    options
        As for `training.train`.
    """
    found: dict[str, list[Any]] = {"seconds": [], "accuracy": [], "parameters": [], "method": []}
    threads = torch.get_num_threads()
    for model in models.values():
        torch.set_num_threads(1)  # the same network on any number of cores
        (_, last) = training.train(model, train_set, test_set, epochs=1, seed=seed, **options)
        torch.set_num_threads(threads)
        start = time.perf_counter()
        tree = analyze(model, test_set[0])
        found["seconds"].append(time.perf_counter() - start)
        found["accuracy"].append(last.test_accuracy)
        found["parameters"].append(sum(value.numel() for value in model.parameters()))
        found["method"].append(tree.attrs["method"])
    return xr.Dataset(
        {name: ("network", found[name]) for name in ("seconds", "accuracy", "parameters")},
        coords={"network": list(models), "method": ("network", found["method"])},
        attrs={"inputs": len(test_set[0])},
    )


def machine() -> dict[str, str | int]:
    """Attributes: threads, processor, and versions of what is compared."""
    found: dict[str, str | int] = {"threads": torch.get_num_threads(), "processor": processor()}
    for package in ("torch", "backpack-for-pytorch", "nngeometry"):
        try:
            found[package.replace("-", "_")] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main(arguments: Sequence[str]) -> int:
    """Print benchmark files."""
    try:
        for path in arguments:
            with arrays.read(path) as tree:
                print(timings.text(tree))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
