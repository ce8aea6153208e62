"""What the page shows, from results to plain values: one function for each panel.

What is drawn keeps `DIGITS` significant digits, what the planner reckons with all of them.  A value
that is not a finite number is ``None``.
"""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from diagfim.experiments.reading import DRAWN, WHOLE, select
from diagfim.figures.style import BOTH, layer_name, over_replicates
from diagfim.precision import relative, rule_factors

DIGITS = 5
"""Significant digits of what is drawn: no screen tells more apart."""

ROOM = 3_800_000
"""Bytes that all of it may take; Vega and what else there is make a page of five million."""

ERRORS = tuple(
    round(one * decade, 4)
    for decade in (0.001, 0.01, 0.1)
    for one in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    if 0.005 <= one * decade <= 0.5
)
"""The relative errors that the planner's slider has."""

CONFIDENCES = (0.9, 0.95, 0.99)
"""The confidences that it has."""

_STEPS = [one * 10**power for power in range(6) for one in (1, 2, 5)] + [10**6]

Groups = Mapping[str, xr.Dataset]


@dataclass(frozen=True)
class Detail:
    """How much a page holds of each network.

    Attributes
    ----------
    runs : bool
        Every replicate and input by itself, beside what they have in common.
    epochs : int or None
        At most so many, evenly spaced from the first to the last.
    note : str
        What the page says of it.
    """

    runs: bool
    epochs: int | None
    note: str


DETAILS = (
    Detail(True, None, ""),
    Detail(False, None, "To keep this file small it has medians over the replicates only."),
    Detail(
        False,
        5,
        "To keep this file small it has medians over the replicates only, at five epochs at most.",
    ),
)
"""From all there is to what hundreds of networks leave room for."""


def contents(
    datasets: Mapping[str, Groups], experiments: Mapping[str, Groups], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that the page shows.

    Parameters
    ----------
    datasets : mapping of str to mapping of str to Dataset
        By network, then "history", "fixed" and, for some, "joint": as rule "summary" gathers them.
    experiments : mapping of str to mapping of str to Dataset
        The groups of "landscape" and "frontier", as far as they are switched on.
    settings : mapping
        ``measured``, the network that "frontier" is about; and of the configuration "fixed", whose
        ``recorded_draws`` the page begins with, and "experiments", for those above.
    """
    found: dict[str, Any] = {
        "begin": settings["fixed"]["recorded_draws"],
        "draws": draw_steps(datasets),
        "landscape": None,
        "frontier": None,
        "plans": [],
        "errors": list(ERRORS),
        # ε enters as 1 / ε², so what a rule asks for at any ε follows from what it does at 1.
        "rules": {f"{one:g}": rule_factors(1.0, one) for one in CONFIDENCES},
    }
    if "frontier" in experiments:
        groups, name = experiments["frontier"], settings["measured"]
        found["frontier"] = frontier(groups, name)
        pool = settings["experiments"]["frontier"]["pool"]
        found["plans"].append(frontier_plan(groups, name, pool))
    if "landscape" in experiments:
        found["landscape"] = landscape(experiments["landscape"])
        found["plans"] += landscape_plans(
            experiments["landscape"], settings["experiments"]["landscape"]
        )
    found["networks"], found["note"] = networks(datasets, ROOM - len(json.dumps(found)))
    return found


def draw_steps(datasets: Mapping[str, Groups]) -> list[int]:
    """The N of the slider: 1, 2, 5, 10, ..., and those that the study has estimates of."""
    studied = {
        int(number)
        for groups in datasets.values()
        for kind in ("fixed", "joint")
        if kind in groups
        for number in groups[kind]["draws"].values
    }
    return sorted({*_STEPS, *studied})


def networks(datasets: Mapping[str, Groups], room: int) -> tuple[list[dict[str, Any]], str]:
    """The networks in as much detail as there is room for, and what is left out.

    Parameters
    ----------
    datasets : mapping
        As for `contents`.
    room : int
        Bytes that they may take.
    """
    for detail in DETAILS:
        sizes = np.cumsum([_bytes(groups, detail) for groups in datasets.values()])
        if sizes[-1] <= room:
            break
    fit = max(1, int(np.searchsorted(sizes, room, side="right")))
    note = detail.note
    if fit < len(datasets):
        note = f"{note} Of {len(datasets)} networks the first {fit} are here."
    return [network(name, datasets[name], detail) for name in list(datasets)[:fit]], note


def _bytes(groups: Groups, detail: Detail) -> int:
    """What a network takes of the page at most: its numbers, and some for names."""
    numbers = 0
    for kind in ("fixed", "joint"):
        if kind in groups:
            found = groups[kind]
            runs = found.sizes["replicate"] * found.sizes.get("input", 1)
            every = sum(found[name].size for name in _QUANTITIES if name in found)
            shown = every // runs + 3 * found["exact_variance"].size // runs
            kept = min(detail.epochs or found.sizes["epoch"], found.sizes["epoch"])
            numbers += (shown + every * detail.runs) * kept // found.sizes["epoch"]
    return 1000 + (DIGITS + len(".e-123,")) * numbers


def network(name: str, groups: Groups, detail: Detail = DETAILS[0]) -> dict[str, Any]:
    """One network: what was found at a test input and, where it was looked at, over the test set.

    Returns
    -------
    dict
        ``name``; ``unit``, what its stages are called; ``layers``; and by kind, "fixed" or "joint",
        the ``epochs``, the ``draws`` of its estimates, how many ``replicates`` and ``inputs``,
        ``median``, ``least`` and ``greatest`` over these, and the ``runs``.  Each holds lists by
        layer and epoch; see `values`.
    """
    trained_here = "train" in groups["history"]["set"].values
    return {
        "name": name,
        "unit": "epoch" if trained_here else "stage",
        "layers": layer_names(groups["fixed"]),
        "kinds": {
            kind: _kind(groups[kind], detail) for kind in ("fixed", "joint") if kind in groups
        },
    }


def _kind(found: xr.Dataset, detail: Detail) -> dict[str, Any]:
    if detail.epochs is not None:
        number = found.sizes["epoch"]
        kept = np.linspace(0, number - 1, min(number, detail.epochs)).round().astype(int)
        found = found.isel(epoch=kept)
    dims = [dim for dim in ("replicate", "input") if dim in found.dims]
    known = [name for name in _QUANTITIES if name in found]
    exact = found[["exact_variance", "mixed_variance"]]
    record = {
        "epochs": found["epoch"].values.tolist(),
        "draws": found["draws"].values.tolist(),
        "replicates": found.sizes["replicate"],
        "inputs": found.sizes.get("input", 1),
        "median": values(found[known].median(dims)),
        "least": values(exact.min(dims)),
        "greatest": values(exact.max(dims)),
        "runs": [],
    }
    if detail.runs and np.prod([found.sizes[dim] for dim in dims]) > 1:
        record["runs"] = [{"name": run, **values(one[known])} for run, one in _runs(found)]
    return record


_QUANTITIES = (
    "fisher",
    "exact_variance",
    "mixed_variance",
    "bound_variance",
    "empirical_variance",
    "score_better",
    "input_share",
)


def _runs(found: xr.Dataset) -> list[tuple[str, xr.Dataset]]:
    """Every replicate, and every input of it, with a name."""
    runs = []
    for number in range(found.sizes["replicate"]):
        one = found.isel(replicate=number)
        name = f"replicate {number + 1}"
        if "input" not in found.dims:
            runs.append((name, one))
            continue
        for index in range(found.sizes["input"]):
            at = one.isel(input=index)
            runs.append((f"{name}, test input {int(at['position'])}", at))
    return runs


def values(found: xr.Dataset) -> dict[str, Any]:
    """Lists by layer and epoch of what a Dataset holds of one run.

    Returns
    -------
    dict
        ``fisher``, the information; ``exact``, the variance of one draw, and ``share``, the part of
        it that stems from the inputs, by estimator; ``bounds``, by name and estimator;
        ``empirical``, the variance of the estimates, by estimator, with N as a third index; and
        ``better``, the share of the parameters that the score-based estimator is better for.  As
        far as the Dataset has them; of the best mix of both, ``exact`` alone.
    """
    order = ("layer", "epoch", "draws")

    def lists(one: xr.DataArray) -> Any:
        return rounded(one.transpose(*(dim for dim in order if dim in one.dims)).values)

    def both(one: xr.DataArray) -> dict[str, Any]:
        return {name: lists(one.sel(estimator=name)) for name in BOTH}

    record: dict[str, Any] = {}
    for key, name in (("fisher", "fisher"), ("better", "score_better")):
        if name in found:
            record[key] = lists(found[name])
    for key, name in (
        ("exact", "exact_variance"),
        ("share", "input_share"),
        ("empirical", "empirical_variance"),
    ):
        if name in found:
            record[key] = both(found[name])
    record["exact"]["mixed"] = lists(found["mixed_variance"])
    if "bound_variance" in found:
        bounds = found["bound_variance"]
        record["bounds"] = {
            str(name): both(bounds.sel(bound=name)) for name in bounds["bound"].values
        }
    return record


def landscape(groups: Groups) -> list[dict[str, Any]]:
    """The map of the landscape: summed variances of both estimators, medians over replicates.

    Returns
    -------
    list of dict
        A configuration each, in the order of the study: ``name``, ``activation``, ``dataset``,
        ``epochs``, and lists by epoch and layer: ``score`` and ``hessian``, Σ E_x V of one draw,
        and ``better``, as in `values`.
    """
    records = []
    for labels, layers in _configurations(groups["layers"]):
        variance = layers["summed_draw_variance"].median("replicate").transpose(..., "layer")
        records.append(
            {
                **labels,
                "epochs": layers["epoch"].values.tolist(),
                **{name: rounded(variance.sel(estimator=name).values) for name in BOTH},
                "better": rounded(
                    layers["score_better"].median("replicate").transpose("epoch", "layer").values
                ),
            }
        )
    return records


def _configurations(layers: xr.Dataset) -> list[tuple[dict[str, str], xr.Dataset]]:
    """Name, kind and activation of every configuration of the landscape, and its layers."""
    keys = ("dataset", "network", "activation", "depth", "width")
    cells = zip(*(layers[key].values.tolist() for key in keys), strict=True)
    several = len(set(layers["dataset"].values.tolist())) > 1
    found = []
    for cell in dict.fromkeys(cells):
        dataset, kind, activation, depth, width = cell
        shape = "LeNet" if kind == "lenet" else f"{depth} × {width}"
        name = f"{activation} {shape}" + (f", {dataset}" if several else "")
        of = select(layers, **dict(zip(keys, cell, strict=True))).swap_dims(cell="layer")
        found.append(({"name": name, "kind": kind, "activation": activation}, of))
    return found


def frontier(groups: Groups, network: str) -> dict[str, Any]:
    """Relative errors against seconds, as the number of inputs grows.

    Parameters
    ----------
    groups : mapping of str to Dataset
        Of the experiment.
    network : str
        The one it is about.

    Returns
    -------
    dict
        ``network``, ``layers``, ``inputs``, and ``calls``: an estimator at a number of draws each,
        None where that does not matter, with its ``seconds`` by inputs, medians over replicates and
        repetitions, and the ``median``, ``least`` and ``greatest`` error over the replicates, lists
        by layer and inputs.
    """
    error = groups["errors"]["squared_error"].mean("repetition") ** 0.5
    seconds = groups["seconds"]["seconds"].median(["repetition", "replicate"])
    calls = []
    for estimator in error["estimator"].values.tolist():
        counts = error["draws"].values.tolist()
        for number in counts if estimator in DRAWN else counts[:1]:
            at: dict[Hashable, Any] = {"estimator": estimator, "draws": number}
            parts = over_replicates(error.sel(at).transpose(..., "layer", "inputs"))
            calls.append(
                {
                    "estimator": estimator,
                    "draws": number if estimator in DRAWN else None,
                    "seconds": rounded(seconds.sel(at).values),
                    **{
                        name: rounded(one.values)
                        for name, one in zip(("median", "least", "greatest"), parts, strict=True)
                    },
                }
            )
    return {
        "network": network,
        "layers": layer_names(error),
        "inputs": error["inputs"].values.tolist(),
        "calls": calls,
    }


def frontier_plan(groups: Groups, network: str, pool: int) -> dict[str, Any]:
    """What the planner needs of the network that "frontier" is about; see `_plan`.

    The expected squared error is (A + B / N) / N_x (Theorem 4.7); "exact" has no B.
    """
    predicted = groups["errors"]["predicted_squared_error"].drop_sel(layer=WHOLE)
    predicted = predicted.isel(draws=0, inputs=0).drop_sel(estimator="empirical")
    # Nothing over nothing: of what carries no information an estimate is right.
    predicted = predicted.fillna(0.0)
    number, count = int(predicted["draws"]), int(predicted["inputs"])
    of_inputs = predicted.sel(estimator="exact", drop=True) * count
    of_draw = (predicted * count - of_inputs) * number
    return _plan(
        f"{network}, trained",
        f"the network “{network}” of the study as it was trained, from {pool:,} test inputs, by "
        "the experiment “frontier”",
        pool,
        ["the last"],
        of_inputs.expand_dims("epoch"),
        of_draw.expand_dims("epoch"),
    )


def landscape_plans(groups: Groups, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the planner needs of every configuration of the landscape; see `_plan`."""
    names = {"score": "score", "hessian": "hessian", "parameter mix": "mixed"}
    plans = []
    for labels, layers in _configurations(groups["layers"]):
        size = layers["summed_fisher_squared"]
        variance = layers["summed_draw_variance"].sel(estimator=list(names))
        of_draw = xr.apply_ufunc(relative, *xr.broadcast(variance, size))
        number = settings["inputs"]
        if labels["kind"] == "lenet":
            number = min(number, settings["lenet"]["inputs"])
        plans.append(
            _plan(
                labels["name"],
                f"{labels['name']}, trained on {settings['samples']:,} images, from {number:,} "
                "test inputs, by the experiment “landscape”",
                number,
                layers["epoch"].values.tolist(),
                xr.apply_ufunc(relative, layers["summed_input_variance"], size),
                of_draw.assign_coords(estimator=list(names.values())),
            )
        )
    return plans


def _plan(
    name: str,
    about: str,
    inputs: int,
    epochs: Sequence[Any],
    of_inputs: xr.DataArray,
    of_draw: xr.DataArray,
) -> dict[str, Any]:
    """What the rules of `diagfim.plan` are applied to, in units of ‖I‖² of the layer.

    Returns
    -------
    dict
        ``inputs``, how many the numbers rest on; ``of_inputs``, A, by epoch and layer, and
        ``of_draw``, B, by estimator before: medians over the replicates.  No digit is dropped:
        what is planned is rounded up.
    """
    a, b = (one.median("replicate") for one in (of_inputs, of_draw))
    return {
        "name": name,
        "about": about,
        "inputs": inputs,
        "epochs": list(epochs),
        "layers": layer_names(a),
        "of_inputs": rounded(a.transpose("epoch", "layer").values, None),
        "of_draw": {
            estimator: rounded(b.sel(estimator=estimator).transpose("epoch", "layer").values, None)
            for estimator in b["estimator"].values.tolist()
        },
    }


def rounded(found: np.ndarray, digits: int | None = DIGITS) -> Any:
    """Nested lists of numbers with so many significant digits; None for what is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from diagfim.explorer.contents import rounded
    >>> rounded(np.array([[1 / 3, np.inf], [2.0, 1e-300]]))
    [[0.33333, None], [2.0, 1e-300]]
    """
    if found.ndim:
        return [rounded(one, digits) for one in found]
    value = float(found)
    if not np.isfinite(value):
        return None
    return value if digits is None else float(f"{value:.{digits}g}")


def layer_names(found: xr.Dataset | xr.DataArray) -> list[str]:
    """What the page calls the layers: short, unless two would then have one name."""
    whole = found["layer"].values.tolist()
    short = ["whole network" if name == WHOLE else layer_name(name) for name in whole]
    return short if len(set(short)) == len(short) else whole
