"""How many draws and inputs a wanted precision takes, and by which estimator at least cost.

A layer is estimated well enough when ‖Î − I‖₂ ≤ ε ‖I‖₂ with probability 1 − δ, which two rules of
`diagfim.precision` turn into numbers.  The sum Σ V of the variances over the parameters of a layer,
the mean of ‖Î − I‖₂², is A / N_x + B / (N_x N) with what the inputs and what one draw contribute
(Theorem 4.7).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor, nn

from diagfim import __version__, arrays
from diagfim.analysis import estimate
from diagfim.arrays import ALL, layer_of, layer_sums
from diagfim.errors import UserError
from diagfim.estimators import whole
from diagfim.families import Family
from diagfim.moments import PROBE
from diagfim.precision import is_number, relative, rule_factors
from diagfim.variances import UNBIASED, draw_variances, inputs_of, tells, values_of

# Steps of 3.5%: the cost is flat about its least value, within 0.1% of it a step aside.
_CANDIDATES = np.unique(np.rint(np.geomspace(1, 1e6, 401)))
"""The numbers of draws among which the cheapest is looked for."""


@dataclass(frozen=True)
class Cost:
    """Seconds that an estimate takes per input: min(per_input + N per_draw, at_most) for N draws.

    Attributes
    ----------
    per_input : float
        What no number of draws changes.
    per_draw : float
        What every draw adds.
    at_most : float
        What no number of draws exceeds: N labels among C are C counts at most.

    Raises
    ------
    UserError
        If one of them is negative, or a draw takes no time at all.

    Examples
    --------
    >>> from diagfim import Cost
    >>> cost = Cost(2.0, 1.0, 5.0)
    >>> cost.at(1), cost.at(100)
    (3.0, 5.0)
    """

    per_input: float
    per_draw: float = 0.0
    at_most: float = float("inf")

    def __post_init__(self) -> None:
        """Refuse what is no duration."""
        if not (self.per_input >= 0 and self.per_draw >= 0 and 0 < self.at(1) < float("inf")):
            raise UserError(f"seconds: {self} is no duration; give positive seconds per input")

    def at(self, draws: float) -> float:
        """Seconds per input at N draws."""
        return float(min(self.per_input + draws * self.per_draw, self.at_most))


def plan(
    tree: xr.DataTree,
    relative_error: float = 0.1,
    confidence: float = 0.95,
    *,
    over: str = "inputs",
    draws: int | None = None,
    estimators: Sequence[str] | None = None,
    seconds: Mapping[str, float | Cost] | None = None,
    level: str = "parameter",
    probes: str = "rademacher",
) -> xr.Dataset:
    """Draws and inputs for a relative error of each layer, and the cheapest estimator.

    A layer, which is what the parameters of a module make up, is well estimated when
    ‖Î − I‖₂ ≤ ε ‖I‖₂ over them, with probability 1 − δ for every layer by itself.

    Parameters
    ----------
    tree : xarray.DataTree
        What `analyze` returned.
    relative_error : float
        ε.
    confidence : float
        1 − δ.
    over : {"inputs", "distribution"}
        What I is to be the information of.  "inputs": the analysed inputs, which the estimate is
        made at; only draws are random, and how many each input needs is planned.  "distribution":
        what the analysed inputs stand for; new inputs are drawn from it, with draws at each, and
        the numbers of both are planned by Theorem 4.7.
    draws : int, optional
        N at each input, over the distribution; by default, where `seconds` are given, the fewest
        that cost within a per cent of the least, else 1.
    estimators : sequence of str, optional
        Of "score", "hessian", "mixed", "exact" and "hutchinson"; by default all that the tree tells
        the variance of.
    seconds : mapping of str to float or Cost, optional
        By estimator: seconds per input, whatever the number of draws, or a `Cost`.
        `measure_seconds` finds them.
    level, probes
        Of "mixed" and "hutchinson", as for `variance`.

    Returns
    -------
    xarray.Dataset
        With the dimensions ``estimator``, ``rule`` ("chebyshev", which always holds, and "clt",
        which holds once the errors are nearly normal) and ``layer``, the last layer being "(every
        layer)", for which the numbers are enough for each of them:

        - ``draws_per_input`` N and ``number_of_inputs`` N_x, whole numbers, rounded up; where the
          variance is 0, one is enough, and where the information is 0 but not the variance, none
          is: inf.  "exact" shows the N_x that no number of draws spares.
        - With `seconds`, ``total_seconds``, N_x times those per input, and ``cheapest``, the
          estimator of fewest; of estimators whose seconds are not given it is NaN.

        ``dataset["draws_per_input"].sel(rule="clt").to_pandas()`` is a table.

    Raises
    ------
    UserError
        If an option cannot be used, or the tree does not tell a variance.

    Examples
    --------
    >>> import diagfim, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> tree = diagfim.analyze(model, torch.rand(100, 3))
    >>> plan = diagfim.plan(tree, relative_error=0.05, seconds={"score": 1e-5, "hessian": 3e-5})
    >>> plan["layer"].values.tolist()
    ['0', '2', '(every layer)']
    >>> int(plan["draws_per_input"].sel(estimator="hessian", rule="clt", layer="2"))
    1
    """
    factors = rule_factors(relative_error, confidence)
    given = _given_inputs(tree, over, draws)
    names = _chosen(tree, estimators, probes)
    costs = _costs(seconds or {})
    size = _by_layer({name: value**2 for name, value in values_of(tree, "fisher").items()})
    of_inputs = relative(_by_layer(values_of(tree, "input_variance")), size)
    # The last element stands for all layers together.
    groups = [*(slice(k, k + 1) for k in range(len(size))), slice(None)]
    shape = len(names), len(factors), len(groups)
    number, count, total = (np.full(shape, np.nan) for _ in range(3))
    for e, name in enumerate(names):
        of_draw = relative(_by_layer(draw_variances(tree, name, level, None, probes)), size)
        cost = costs.get(name)
        for r, factor in enumerate(factors.values()):
            for g, group in enumerate(groups):
                a, b = factor * of_inputs[group], factor * of_draw[group]
                if given is not None:
                    n, n_x = float(_draws_at(given, b).max()), float(given)
                else:
                    n, n_x = _draws_and_inputs(a, b, draws, cost)
                number[e, r, g], count[e, r, g] = n, n_x
                if cost is not None:
                    total[e, r, g] = n_x * cost.at(n) if np.isfinite(n * n_x) else np.inf
    variables = {"draws_per_input": number, "number_of_inputs": count}
    if seconds is not None:
        variables["total_seconds"] = total
    result = xr.Dataset(
        {
            key: (("estimator", "rule", "layer"), value, arrays.description(key))
            for key, value in variables.items()
        },
        coords={
            "estimator": list(names),
            "rule": list(factors),
            "layer": [*dict.fromkeys(map(layer_of, tree.children)), ALL],
        },
        attrs=_attributes(relative_error, confidence, over),
    )
    if seconds is None:
        return result
    total = np.where(np.isnan(total), np.inf, total)
    best = np.array(names)[total.argmin(axis=0)]
    cheapest = np.where(np.isfinite(total.min(axis=0)), best, "")
    return result.assign(cheapest=(("rule", "layer"), cheapest, arrays.description("cheapest")))


def plan_parameters(
    tree: xr.DataTree,
    relative_error: float = 0.1,
    confidence: float = 0.95,
    *,
    over: str = "inputs",
    draws: int | None = None,
    estimators: Sequence[str] | None = None,
    level: str = "parameter",
    probes: str = "rademacher",
) -> xr.DataTree:
    """`plan` for every parameter by itself: ``|Î_i − I_i| ≤ ε I_i`` with probability 1 − δ.

    Parameters
    ----------
    tree, relative_error, confidence, over, estimators, level, probes
        As for `plan`.
    draws : int, optional
        N at each input, over the distribution; by default 1.

    Returns
    -------
    xarray.DataTree
        A node per parameter tensor, with ``draws_per_input`` and ``number_of_inputs`` as of `plan`,
        of which one is the same for all parameters; their dimensions are ``estimator``, ``rule``
        and those of the tensor.

    Raises
    ------
    UserError
        As `plan`.

    Examples
    --------
    >>> import diagfim, torch
    >>> tree = diagfim.analyze(torch.nn.Linear(3, 2), torch.rand(100, 3))
    >>> diagfim.plan_parameters(tree)["weight"]["draws_per_input"].dims
    ('estimator', 'rule', 'unit', 'fan_in')
    """
    factors = rule_factors(relative_error, confidence)
    given = _given_inputs(tree, over, draws)
    names = _chosen(tree, estimators, probes)
    fisher, spread = values_of(tree, "fisher"), values_of(tree, "input_variance")
    noises = [draw_variances(tree, name, level, None, probes) for name in names]
    rules = np.array(list(factors.values()))
    nodes = {}
    for name, value in fisher.items():
        factor = rules.reshape(-1, *(1 for _ in value.shape))
        a = factor * relative(spread[name], value**2)
        b = np.stack([factor * relative(of_draw[name], value**2) for of_draw in noises])
        if given is not None:
            number, count = _draws_at(given, b), np.full(b.shape, float(given))
        else:
            number = np.full(b.shape, float(draws or 1))
            count = _inputs_at(number, a, b)
        dims = ("estimator", "rule", *tree.children[name].dataset["fisher"].dims)
        nodes[name] = xr.Dataset(
            {
                key: (dims, values, arrays.description(key))
                for key, values in (("draws_per_input", number), ("number_of_inputs", count))
            },
            coords={"estimator": list(names), "rule": list(factors)},
        )
    root = xr.Dataset(attrs=_attributes(relative_error, confidence, over))
    return xr.DataTree.from_dict({"/": root, **nodes})


def measure_seconds(
    model: nn.Module,
    inputs: Tensor,
    estimators: Sequence[str] = UNBIASED,
    family: str | Family = "categorical",
    *,
    repeats: int = 5,
    **options: Any,
) -> dict[str, Cost]:
    """Seconds per input that `estimate` takes by each estimator, without standard errors.

    What a call takes whatever its inputs is subtracted: the time of one input alone.

    Parameters
    ----------
    model, family
        As for `analyze`.
    inputs : tensor, (n, ...)
        Some hundreds of the inputs; two at least.
    estimators : sequence of str
    repeats : int
        How often each is timed; the fastest counts.
    **options
        Of `estimate`, such as ``method``, ``level`` or ``probes``.

    Returns
    -------
    dict of str to Cost
        For `plan`.  What a draw adds is from 1 and 4 draws, ``at_most`` from 1,000: from the number
        of outputs on, draws add no derivatives.  Probes, and draws of a family that samples them
        one by one, still add their sampling: more than 1,000 then take longer than ``at_most``.

    Raises
    ------
    UserError
        As `estimate`.

    Examples
    --------
    >>> import diagfim, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> inputs = torch.rand(500, 3)
    >>> seconds = diagfim.measure_seconds(model, inputs, ["score", "exact"])
    >>> plan = diagfim.plan(diagfim.analyze(model, inputs), seconds=seconds)
    >>> str(plan["cheapest"].sel(rule="clt", layer="0").values) in ("score", "exact")
    True
    """
    if not isinstance(inputs, Tensor) or inputs.ndim == 0 or len(inputs) < 2:
        raise UserError("inputs: estimates are timed at a tensor of at least two; pass more")
    repeats = whole("repeats", repeats, 1)

    def fastest(some: Tensor, estimator: str, draws: int) -> float:
        found = []
        for _ in range(repeats):
            start = time.perf_counter()
            estimate(model, some, estimator, draws, 0, family, errors=False, **options)
            found.append(time.perf_counter() - start)
        return min(found)

    def each(estimator: str, draws: int) -> float:
        every = fastest(inputs, estimator, draws)
        slope = (every - fastest(inputs[:1], estimator, draws)) / (len(inputs) - 1)
        # Where a call costs so little that noise hides it, the average stands for the increase.
        return slope if slope > 0 else every / len(inputs)

    found = {}
    for estimator in _known("estimators", estimators):
        first = each(estimator, 1)
        if estimator == "exact":
            found[estimator] = Cost(first)
            continue
        at_most = max(first, each(estimator, 1000))
        # Noise may make 4 draws as fast as 1; a thousand of them cost what they cost.
        per_draw = max((each(estimator, 4) - first) / 3, (at_most - first) / 999)
        found[estimator] = Cost(max(first - per_draw, 0.0), per_draw, at_most)
    return found


def _attributes(relative_error: float, confidence: float, over: str) -> dict[str, object]:
    return {
        "title": "Draws and inputs for a relative error of the Fisher diagonal",
        "source": f"diagfim {__version__}",
        "relative_error": float(relative_error),
        "confidence": float(confidence),
        "over": over,
    }


def _given_inputs(tree: xr.DataTree, over: str, draws: int | None) -> int | None:
    """The number of inputs if they are given, none if they are to be planned."""
    if over not in ("inputs", "distribution"):
        raise UserError(f"over: {over!r} is not one of inputs, distribution")
    count = inputs_of(tree)
    if over == "inputs":
        if draws is not None:
            raise UserError(
                "draws: at given inputs their number is what is planned; leave it out, or pass "
                "over='distribution'"
            )
        return count
    if draws is not None:
        whole("draws", draws, 1)
    if count == 1:
        raise UserError(
            "over: the tree rests on one input, which tells nothing of the distribution; analyze "
            "more inputs, or pass over='inputs'"
        )
    return None


def _chosen(tree: xr.DataTree, estimators: Sequence[str] | None, probes: str) -> list[str]:
    if estimators is not None:
        return _known("estimators", estimators)
    known = probes != "rademacher" or tells(tree, PROBE)
    return [name for name in UNBIASED if name != "hutchinson" or known]


def _known(key: str, names: Sequence[str]) -> list[str]:
    if isinstance(names, str) or not names or not set(names) <= set(UNBIASED):
        raise UserError(f"{key}: {names!r} is not a list of some of {', '.join(UNBIASED)}")
    return list(names)


def _costs(seconds: Mapping[str, float | Cost]) -> dict[str, Cost]:
    if seconds:
        _known("seconds", list(seconds))
    for name, cost in seconds.items():
        if not isinstance(cost, Cost) and not is_number(cost):
            raise UserError(f"seconds: {cost!r} for {name} is neither a number nor a Cost")
    return {
        name: cost if isinstance(cost, Cost) else Cost(float(cost))
        for name, cost in seconds.items()
    }


def _by_layer(values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Sums over the parameters of each layer."""
    return np.array(list(layer_sums(values).values()))


def _draws_at(inputs: int, b: np.ndarray) -> np.ndarray:
    """The least whole N with B / (N_x N) ≤ 1, by element."""
    return np.asarray(np.maximum(np.ceil(b / inputs), 1.0))


def _inputs_at(number: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The least whole N_x with A / N_x + B / (N_x N) ≤ 1, by element."""
    return np.asarray(np.maximum(np.ceil(a + b / number), 1.0))


def _draws_and_inputs(
    a: np.ndarray, b: np.ndarray, draws: int | None, cost: Cost | None
) -> tuple[float, float]:
    """N and the N_x that is enough for every element, at the N given or of nearly least cost."""
    if draws is not None or cost is None:
        number = float(draws or 1)
        return number, float(_inputs_at(np.array(number), a, b).max())
    counts = _inputs_at(_CANDIDATES[:, None], a, b).max(axis=1)
    seconds = counts * [cost.at(number) for number in _CANDIDATES]
    # Where draws cost next to nothing, ever more of them would be taken to spare a last input.
    best = int(np.argmax(seconds <= 1.01 * seconds.min()))
    return float(_CANDIDATES[best]), float(counts[best])
