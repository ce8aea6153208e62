"""What the commands of ``diagfim`` compute, each from its options to a `Report`."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import nn
from tqdm import tqdm

import diagfim
from diagfim import arrays, loading
from diagfim.analysis import MEMORY
from diagfim.cli.output import Report, check_target, table, write
from diagfim.errors import UserError
from diagfim.families import Family, Gaussian, family_of
from diagfim.precision import relative
from diagfim.summary import layer_totals
from diagfim.variances import UNBIASED, values_of

PROBED = "hutchinson"
"""The estimator whose variance is only analysed where it is asked for."""


def run(arguments: argparse.Namespace) -> Report:
    """Do what a command line says.

    Raises
    ------
    UserError
        If an option, a file or the network cannot be used.
    """
    task = Task(arguments)
    output: Path | None = getattr(arguments, "output", None)
    if output is not None:
        check_target(output, [arguments.weights, arguments.data])
    report = _COMMANDS[arguments.command](task)
    if output is not None and report.tree is not None:
        report.tree.attrs["settings"] = json.dumps(task.settings)
        write(report.tree, output)
    return report


@dataclass
class Task:
    """The network and the data of a command line, loaded once they are needed.

    Attributes
    ----------
    options : argparse.Namespace
    """

    options: argparse.Namespace

    @property
    def settings(self) -> dict[str, Any]:
        """The options, as JSON knows them."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in vars(self.options).items()
            if name not in ("command", "json")
        }

    @cached_property
    def model(self) -> nn.Module:
        """The network, with its weights, on its device."""
        model = loading.build_model(self.options.factory)
        if self.options.weights is not None:
            loading.load_weights(model, self.options.weights)
        return model.to(_device(self.options.device))

    @cached_property
    def samples(self) -> loading.Samples:
        """The data."""
        o = self.options
        return loading.open_data(o.data, size=o.size, mean=o.mean, std=o.std)

    @cached_property
    def batches(self) -> loading.Batches:
        """The inputs that were asked for, in pieces of moderate size."""
        number = self.options.inputs
        if number is not None and not 1 <= number <= len(self.samples):
            raise UserError(
                f"--inputs: {number} is not between 1 and {len(self.samples)}, the number of those "
                f"in {self.options.data}"
            )
        each = self.samples.take([0]).nbytes
        return self.samples.batches(max(1, MEMORY // max(1, each)), 0, number)

    @cached_property
    def family(self) -> Family:
        """What the outputs mean."""
        variance = self.options.noise_variance
        if variance is None:
            return family_of(self.options.family)
        if self.options.family != Gaussian.name:
            raise UserError(
                f"--noise-variance: {self.options.family} targets have none of their own; leave it "
                f"out, or pass --family {Gaussian.name}"
            )
        return Gaussian(variance[0] if len(variance) == 1 else np.array(variance))

    @property
    def estimators(self) -> list[str] | None:
        """The estimators that were named, if any were."""
        names: list[str] | None = self.options.estimators
        for name in names or []:
            if name not in UNBIASED:
                raise UserError(f"--estimators: {name!r} is not one of {', '.join(UNBIASED)}")
        return names

    @property
    def how(self) -> dict[str, Any]:
        """The keywords of how to compute."""
        dtype = self.options.dtype
        return {"method": self.options.method, "dtype": dtype and getattr(torch, dtype)}

    def analyze(self, probes: bool = False) -> xr.DataTree:
        """The exact diagonal of the network at the data."""
        # The family first: a mistake in it should not wait for the files.
        family = self.family
        return diagfim.analyze(self.model, self.batches, family, probes=probes, **self.how)

    def estimate(self, estimator: str, **options: Any) -> xr.DataTree:
        """An estimate of it."""
        family = self.family
        return diagfim.estimate(
            self.model, self.batches, estimator, family=family, **options, **self.how
        )

    def seconds(self, estimators: Sequence[str]) -> dict[str, diagfim.Cost]:
        """What every estimator takes for an input, measured one after the other."""
        number = min(self.options.timing_inputs, self.batches.total)
        inputs = self.samples.take(range(max(number, 1)))
        costs: dict[str, diagfim.Cost] = {}
        for name in tqdm(estimators, desc="timing", unit=" estimators", delay=5, disable=None):
            costs |= diagfim.measure_seconds(self.model, inputs, [name], self.family, **self.how)
        return costs

    def report(self, tree: xr.DataTree, **content: Any) -> dict[str, Any]:
        """What the JSON of every command begins with."""
        return {
            "diagfim": diagfim.__version__,
            "command": self.options.command,
            "settings": self.settings,
            "inputs": int(tree.attrs["inputs"]),
            "method": tree.attrs["method"],
            "dtype": tree.attrs["dtype"],
            **content,
        }

    def headline(self, tree: xr.DataTree) -> str:
        """The network and the data in a line."""
        number = sum(value.size for value in values_of(tree, "fisher").values())
        return (
            f"{self.options.factory or self.options.analysis}: {number:,} parameters, "
            f"{tree.attrs['inputs']:,} inputs, method {tree.attrs['method']}, "
            f"{tree.attrs['dtype']}"
        )


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise UserError(f"--device: {name!r} cannot be used here: {reason}") from None
    return device


def _analyze(task: Task) -> Report:
    tree = task.analyze(task.options.probes)
    found = diagfim.summarize(tree, task.options.relative_error, task.options.confidence)
    return _summary(task, tree, found)


def _estimate(task: Task) -> Report:
    o = task.options
    tree = task.estimate(
        o.estimator,
        draws=o.draws,
        seed=o.seed,
        level=o.level,
        weights=o.mixing_weights,
        pilot=o.pilot,
        probes=o.probes,
    )
    return _summary(task, tree, diagfim.summarize(tree))


def _summary(task: Task, tree: xr.DataTree, found: pd.DataFrame) -> Report:
    layers = found.reset_index().to_dict("records")
    text = f"{task.headline(tree)}\n\n{table(found)}"
    return Report(text, task.report(tree, layers=layers), tree)


def _plan(task: Task) -> Report:
    o = task.options
    names = task.estimators  # a mistake in them should not wait for the analysis
    tree = _analysis_of(task)
    seconds = None
    if o.measure:
        seconds = task.seconds(names or [n for n in UNBIASED if n != PROBED])
    found = diagfim.plan(
        tree, o.relative_error, o.confidence, over=o.over, estimators=names, seconds=seconds
    ).sel(rule=o.rule, drop=True)
    numbers = [str(name) for name in found.data_vars if name != "cheapest"]
    layers = []
    for layer in found["layer"].values:
        one = found.sel(layer=layer)
        of_each = {
            str(name): {key: one[key].sel(estimator=name).item() for key in numbers}
            for name in found["estimator"].values
        }
        cheapest = {"cheapest": one["cheapest"].item() or None} if o.measure else {}
        layers.append({"layer": str(layer), "estimators": of_each, **cheapest})
    parts = [
        task.headline(tree),
        f"relative error {o.relative_error:g} with probability {o.confidence:g}, over the {o.over},"
        f" by the rule {o.rule}",
    ]
    for key in numbers:
        if key == "number_of_inputs" and o.over == "inputs":
            continue  # they are those given, for every estimator
        frame = pd.DataFrame(
            found[key].transpose("layer", "estimator").values,
            index=pd.Index(found["layer"].values, name="layer"),
            columns=list(found["estimator"].values),
        )
        if key == "total_seconds":
            frame = frame.assign(cheapest=found["cheapest"].values)
        heading, digits = _HEADINGS[key]
        parts.append(f"{heading}\n{table(frame, digits)}")
    return Report("\n\n".join(parts), task.report(tree, layers=layers))


_HEADINGS = {
    "draws_per_input": ("draws at each input", ".0f"),
    "number_of_inputs": ("inputs", ".0f"),
    "total_seconds": ("seconds, from those measured on this machine for an input", ".3g"),
}


def _analysis_of(task: Task) -> xr.DataTree:
    """The analysis that a plan rests on: read, or made."""
    o = task.options
    network = {"the network": o.factory, "--data": o.data}
    missing = [key for key, value in network.items() if value is None]
    if missing and (o.measure or o.analysis is None):
        way = "--measure needs them to time" if o.analysis else "or pass --analysis"
        raise UserError(f"plan: {' and '.join(missing)} not given; name them, {way}")
    if o.analysis is None:
        return task.analyze(probes=PROBED in (task.estimators or []))
    if len(missing) < len(network) and not o.measure:
        raise UserError(
            "plan: --analysis beside a network or --data; give one or the other, or --measure to "
            "time the network as well"
        )
    return _read(task, o.analysis)


def _read(task: Task, path: Path) -> xr.DataTree:
    """What ``diagfim analyze`` wrote, of the network of the command line if it names one."""
    if not path.is_file():
        raise UserError(f"--analysis: {path}: there is no such file")
    tree = arrays.read(path).load()
    try:
        shapes = {name: value.shape for name, value in values_of(tree, "variance_1").items()}
    except UserError as error:
        raise UserError(f"--analysis: {path}: {error}") from None
    if task.options.factory is not None:
        trained = [item for item in task.model.named_parameters() if item[1].requires_grad]
        if shapes != {name: tuple(value.shape) for name, value in trained}:
            raise UserError(
                f"--analysis: {path} is of another network than {task.options.factory}; the names "
                "or shapes of the parameters differ"
            )
    return tree


def _compare(task: Task) -> Report:
    o = task.options
    names = task.estimators or list(UNBIASED)
    # What can go wrong with the labels should do so before the rest is computed.
    biased = task.estimate("empirical", errors=False) if task.samples.labelled else None
    tree = task.analyze(probes=PROBED in names)
    fisher = values_of(tree, "fisher")
    size = _norms(fisher)
    count = int(tree.attrs["inputs"]) if o.over == "distribution" else None
    errors = {}
    for name in names:
        of_layers = diagfim.variance(tree, name, o.draws, count)
        errors[name] = _share(layer_totals(values_of(of_layers, "total_variance")) ** 0.5, size)
    frame = pd.DataFrame(errors)
    costs = {name: cost.at(o.draws) for name, cost in task.seconds(names).items()}
    found = frame.assign(**_better(frame, costs, exact=count is not None))
    distance = None
    if biased is not None:
        off = {name: one - fisher[name] for name, one in values_of(biased, "fisher").items()}
        distance = _share(_norms(off), size)
        found = found.assign(empirical=distance)
    layers = [
        {
            "layer": layer,
            "relative_standard_error": frame.loc[layer].to_dict(),
            **found.loc[layer, ["equal_draws", "equal_time"]].to_dict(),
            "empirical_distance": None if distance is None else distance[layer],
        }
        for layer in found.index
    ]
    content = task.report(tree, layers=layers, seconds_per_input=costs)
    return Report(_comparison(task, tree, found.rename_axis("layer"), costs), content)


def _better(frame: pd.DataFrame, costs: dict[str, float], exact: bool) -> dict[str, pd.Series]:
    """The estimator of least error at equal draws, and in equal time, by layer."""
    # With the inputs held fixed the exact sum has no error at all: it is no rival.
    rivals = [name for name in costs if exact or name != "exact"]
    if not rivals:
        return {key: pd.Series("", frame.index) for key in ("equal_draws", "equal_time")}
    errors = frame[rivals].fillna(np.inf)
    # The variance falls like one over the time, so that their product tells.
    efforts = errors**2 * pd.Series({name: costs[name] for name in rivals})
    return {"equal_draws": errors.idxmin(axis=1), "equal_time": efforts.idxmin(axis=1)}


def _comparison(
    task: Task, tree: xr.DataTree, found: pd.DataFrame, costs: Mapping[str, float]
) -> str:
    o = task.options
    held = "these inputs held fixed" if o.over == "inputs" else "inputs drawn anew"
    notes = [
        f"exact, by Theorem 4.7: relative standard errors, {o.draws} draws at each input, {held}",
        "equal_draws, equal_time: the estimator of least error at as many draws, in as much time",
    ]
    if "empirical" in found:
        notes.append(
            "empirical: relative distance of the empirical Fisher from the exact one, a bias"
        )
    seconds = pd.DataFrame({"seconds": costs}).rename_axis("estimator")
    return (
        f"{task.headline(tree)}\n\n{table(found)}\n\n"
        + "\n".join(notes)
        + f"\n\nmeasured on this machine, for an input\n{table(seconds)}"
    )


def _norms(values: Mapping[str, np.ndarray]) -> pd.Series:
    """Euclidean norms over the parameters of each layer, and over all."""
    return layer_totals({name: value**2 for name, value in values.items()}) ** 0.5


def _share(error: pd.Series, size: pd.Series) -> pd.Series:
    """Errors in units of what is estimated, by layer."""
    return pd.Series(relative(error.to_numpy(), size.to_numpy()), size.index)


_COMMANDS: dict[str, Callable[[Task], Report]] = {
    "analyze": _analyze,
    "estimate": _estimate,
    "plan": _plan,
    "compare": _compare,
}
