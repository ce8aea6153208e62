"""The tables of the report as data frames, and each as a page of its own.

A table has a row for each record and plain numbers; columns say their units, and shares are
fractions.  No number is computed here: all are what the sections of the report print.
"""

import json
import math
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from diagfim.claims import Claim
from diagfim.report import sweep
from diagfim.report.study import Study

Rows = Sequence[Mapping[str, Any]]
Columns = Mapping[str, str]
"""Where the values of each column are in a row: keys and places, with dots between."""


def _spread(column: str, path: str) -> dict[str, str]:
    """Columns of a median and its extremes over the replicates."""
    extremes = {f"{column}_{name}": f"{path}.{name}" for name in ("least", "greatest")}
    return {column: f"{path}.median", **extremes}


def _both(column: str, path: str) -> dict[str, str]:
    """A column for each of the two estimators; ``*`` stands for its name."""
    return {column.replace("*", one): path.replace("*", one) for one in ("score", "hessian")}


CLAIMS = {name: name for name in ("decided_by", "source", "statement", "statistic", "verdict")}
VERDICTS = {name: name for name in ("source", "statement", "reproduced", "networks")}
NETWORKS = {
    "network": "name",
    "hidden": "hidden",
    "activation": "activation",
    "dropout": "dropout",
    "parameters": "parameters",
    "replicates": "replicates",
    "accuracy": "accuracy.mean",
    "accuracy_least": "accuracy.least",
    "accuracy_greatest": "accuracy.greatest",
    **_both("relative_error_*", "*.noise"),
    **_both("bound_over_variance_*", "*.loose"),
    "share_score_better": "score_better",
    "bounds_broken": "broken",
}
OF_NETWORKS: dict[str, tuple[str, Columns]] = {
    "layers": (
        "layers",
        {
            "layer": "layer",
            "fisher": "fisher",
            **_both("std_*_exact", "*.std"),
            **_both("std_*_empirical", "*.empirical"),
            **_both("bound_over_variance_*_theorem_5.2", "*.theorem"),
            **_both("bound_over_variance_*_true_eigenvalue", "*.true"),
            "share_score_better": "score_better",
        },
    ),
    "bounds": (
        "bounds",
        {
            "quantity": "key",
            "eigenvalues": "bound",
            "checked": "checked",
            "broken": "broken",
            "largest_over_bound": "tightest",
        },
    ),
    "agreement": (
        "agreement",
        {
            "draws": "where",
            "statistic": "what",
            "tests": "tests",
            "share_within_2_errors": "within_two",
            "beyond_5_errors": "beyond",
            "family_probability": "probability",
            "nearly_normal_tests": "normal_tests",
            "nearly_normal_largest_z": "normal_largest",
            "nearly_normal_limit_z": "normal_limit",
            "constants": "constants",
            "wrong_constants": "wrong_constants",
        },
    ),
    "joint-draws": (
        "joint",
        {
            "layer": "layer",
            "fisher": "fisher",
            **_both("std_*_exact", "*.std"),
            **_both("std_*_empirical", "*.empirical"),
            **_both("share_of_x_*", "*.share"),
        },
    ),
    "eigenvalues": (
        "spectra",
        {
            "eigenvalue": "key",
            "median": "median",
            "bound_over_eigenvalue_median": "slack.median",
            "bound_over_eigenvalue_largest": "slack.largest",
            "proven_gap_largest": "gap.largest",
            "inputs_with_gap_above_0.01": "gap.wide",
        },
    ),
}
"""Tables of every network that has a section: what it is called there, and columns."""

OF_EXPERIMENTS: dict[str, dict[str, tuple[str, Columns]]] = {
    "toy": {
        "models": (
            "models",
            {
                "model": "name",
                **_spread("variance_score", "variance.score"),
                **_spread("variance_hessian", "variance.hessian"),
                **_spread("variance_score_over_hessian", "variance_ratio"),
                "share_of_epochs_hessian_better": "lower",
                **_spread("excess_loss_score_nat", "excess.score"),
                **_spread("excess_loss_hessian_nat", "excess.hessian"),
                **_spread("excess_loss_exact_nat", "excess.exact"),
                **_spread("excess_loss_likeliest_nat", "fitted_excess"),
            },
        ),
        "readings": (
            "readings",
            {
                "model": "model",
                "an_epoch_is_a": "reading",
                **_spread("excess_loss_score_over_hessian", "excess"),
                **_spread("loss_change_score_over_hessian", "change"),
            },
        ),
        "grid": (
            "grid",
            {
                "damping": "damping",
                "model": "name",
                **{
                    f"{reading}_{of}_{column}": f"{reading}_{of}{path}"
                    for reading in ("pass", "step")
                    for of in ("excess", "change")
                    for column, path in (("ratio", ""), ("share_above_1", "_holds"))
                },
            },
        ),
    },
    "regression": {
        "layers": (
            "rows",
            {
                "layer": "layer",
                "fisher": "fisher",
                "variance_1": "variance_1",
                "variance_2": "variance_2",
                "variance_2_over_1": "ratio",
                "noise_of_equal_variances": "crossing",
                "variance_over_bound_of_lemma_4.8": "lemma_ratio",
                **{
                    f"share_hessian_better_{level}_noise_{column}": f"{level}.{path}"
                    for level in ("unit", "fitted")
                    for column, path in (
                        ("untrained", "initial"),
                        ("single_image", "single"),
                        ("averaged", "averaged"),
                    )
                },
                **_both("share_of_x_*_unit_noise", "unit.*"),
                **_both("share_of_x_*_fitted_noise", "fitted.*"),
            },
        ),
        "agreement": (
            "agreement",
            {
                "estimator": "estimator",
                "statistic": "statistic",
                "tests": "tests",
                "share_within_2_errors": "within_two",
                "largest_z": "largest",
            },
        ),
    },
    "population": {
        "layers": (
            "rows",
            {
                "layer": "layer",
                "fisher": "fisher",
                "variance_1": "variance_1",
                "variance_2": "variance_2",
                "replicates_score_better": "score_wins",
                "share_of_x_score_first_epoch": "shares.0",
                "share_of_x_score_last_epoch": "shares.1",
                "share_of_x_hessian_first_epoch": "shares.2",
                "share_of_x_hessian_last_epoch": "shares.3",
                **_both("bound_over_variance_*_median", "tightness.*.1"),
                **_both("bound_over_variance_*_5th_percentile", "tightness.*.0"),
                **_both("bound_over_variance_*_95th_percentile", "tightness.*.2"),
            },
        ),
    },
    "landscape": {
        "networks": (
            "rows",
            {
                "dataset": "dataset",
                "network": "network",
                "activation": "activation",
                "accuracy": "accuracy",
                **{
                    f"relative_noise_{name}": f"noise.{name}.median"
                    for name in ("score", "hessian", "layer_choice", "layer_mix", "parameter_mix")
                },
                "share_of_x_score": "input_share",
                "hidden_layers_score_better": "score_wins",
                "hidden_layers": "hidden",
            },
        ),
        "softened-relu": (
            "kinks_rows",
            {
                "sharpness": "beta",
                **_spread("variance_2_over_1", "ratio"),
                **_spread("deviation_of_hessian_draw", "deviation"),
            },
        ),
    },
    "frontier": {
        "predictions": (
            "agreement",
            {
                "estimator": "key",
                "squared_error_measured_over_predicted": "ratio",
                "standard_error": "error",
                "relative_error_measured": "measured",
                "relative_error_predicted": "predicted",
            },
        ),
        "plans": (
            "plans",
            {
                "layer": "layer",
                "estimator": "key",
                **{
                    f"{quantity}_{column}": f"{quantity}.{path}"
                    for quantity in ("draws_per_input", "number_of_inputs")
                    for column, path in {
                        "chebyshev": "chebyshev.median",
                        **_spread("clt", "clt"),
                    }.items()
                },
            },
        ),
        "cheapest": (
            "cheapest",
            {
                "layer": "layer",
                "cheapest": "key",
                "replicates_cheapest": "wins",
                "seconds": "seconds",
                "seconds_score": "score",
                "seconds_hessian": "hessian",
            },
        ),
    },
    "empirical": {
        "epochs": (
            "rows",
            {
                "images": "images",
                "in_place_of_the_information": "name",
                "epoch": "epoch",
                **_spread("relative_distance", "relative"),
                "trace_ratio": "trace",
                "rank_correlation": "correlation",
                **_both("draws_of_equal_error_*", "*"),
            },
        ),
        "layers": (
            "layers",
            {
                "layer": "layer",
                **{
                    f"draws_of_equal_error_{images}_{reference}_{estimator}": f"cells.{place}"
                    for place, (images, reference, estimator) in enumerate(
                        (images, reference, estimator)
                        for images in ("training", "test")
                        for reference in ("empirical", "adam")
                        for estimator in ("score", "hessian")
                    )
                },
            },
        ),
    },
    "descent": {
        "losses": (
            "rows",
            {
                "memory": "memory",
                "diagonal": "key",
                "learning_rates": "rates",
                "test_loss_nat": "loss.mean",
                "test_loss_error_nat": "loss.error",
                "accuracy": "accuracy.mean",
                "accuracy_error": "accuracy.error",
                "difference_to_exact_nat": "difference.mean",
                "difference_error_nat": "difference.error",
                "difference_low_nat": "difference.low",
                "difference_high_nat": "difference.high",
                "interval_excludes_0": "difference.apart",
                "share_negative": "negative",
            },
        ),
    },
    "continual": {
        "accuracies": (
            "rows",
            {
                "dataset": "dataset",
                "diagonal": "name",
                "strengths": "strengths",
                **{
                    f"{column}{suffix}": f"{path}.{part}"
                    for column, path in (
                        ("accuracy", "accuracy"),
                        ("difference_to_exact", "difference"),
                        ("published_accuracy", "published"),
                    )
                    for suffix, part in (("", "mean"), ("_error", "error"))
                },
            },
        ),
        "diagonals": (
            "fishers",
            {
                "dataset": "dataset",
                "diagonal": "name",
                "sum_over_exact": "trace_ratio.median",
                **_spread("relative_error", "relative_error"),
                "relative_error_rescaled": "shape_error.median",
            },
        ),
    },
}
"""Tables of every experiment: what it is called in its section, and columns."""

RESULTS = {
    "result": "name",
    "function": "function",
    "kind": "kind",
    "cases": "cases",
    "violations": "violations",
    "largest_excess": "largest",
    "tightest_ratio": "tightest",
}
MISPRINTS = {
    "statement": "name",
    "setting": "setting",
    "value": "value",
    "bound_as_printed": "printed_bound",
    "bound_as_corrected": "corrected_bound",
}
COSTS = {
    "rule": "rule",
    "jobs": "jobs",
    "total_s": "seconds",
    "longest_s": "longest",
    "memory_MB": "memory",
}
BENCHMARK = {
    "task": "task",
    "library": "library",
    "network": "network",
    "median_ms": "milliseconds",
    "lower_quartile_ms": "low",
    "upper_quartile_ms": "high",
    "multiple_of_a_backward_pass": "ratio",
    "peak_MB": "megabytes",
}
PAIRS = {"key": "key", "value": "value"}


def of_study(found: Study, draws: int) -> dict[str, pd.DataFrame]:
    """Every table of the results, by its name.

    Parameters
    ----------
    found : Study
        The results.
    draws : int
        N at which errors at fixed inputs are quoted.

    Returns
    -------
    dict of str to DataFrame
        "claims", "networks", "networks/<network>/<table>" of those that have a section,
        "experiments/<experiment>/<table>", "theory/results" and "theory/misprints"; where not every
        network has a section, "claims-by-network".
    """
    together = sweep.contents(found.every, found.datasets, draws)
    tables = {
        "claims": frame(_claims(found.verdicts), CLAIMS),
        "networks": frame([_network(one) for one in together["rows"]], NETWORKS),
    }
    if len(found.every) > len(found.networks):
        tables["claims-by-network"] = frame(together["claims"], VERDICTS)
    for one in found.networks:
        section = {**one, "agreement": [_agreement(row) for row in one["agreement"]]}
        for name, (place, columns) in OF_NETWORKS.items():
            if section[place]:
                tables[f"networks/{one['name']}/{name}"] = frame(section[place], columns)
    for experiment, contents in found.experiments.items():
        section = _unfolded(experiment, contents)
        for name, (place, columns) in OF_EXPERIMENTS[experiment].items():
            tables[f"experiments/{experiment}/{name}"] = frame(section[place], columns)
    if found.theory:
        tables["theory/results"] = frame(found.theory["rows"], RESULTS)
        tables["theory/misprints"] = frame(found.theory["misprints"], MISPRINTS)
    return tables


def of_run(
    cost: Rows,
    benchmark: Mapping[str, Any] | None,
    about: Mapping[str, str],
    config: Mapping[str, Any],
) -> dict[str, pd.DataFrame]:
    """What the results rest on and cost, by its name.

    Parameters
    ----------
    cost : sequence of mapping
        Of every rule, as `costs.cost_table` has it.
    benchmark : mapping or None
        As `costs.benchmark_table` has it; None where there was none.
    about : mapping of str to str
        Where the results come from, as `origin.origin` says it.
    config : mapping
        The configuration, of which each value has a row.

    Returns
    -------
    dict of str to DataFrame
        "run/cost", "run/provenance", "run/configuration" and, of a benchmark, "run/benchmark".
    """
    tables = {
        "run/cost": frame(cost, COSTS),
        "run/provenance": frame([{"key": k, "value": v} for k, v in about.items()], PAIRS),
        "run/configuration": frame(
            [{"key": k, "value": _plain(v)} for k, v in leaves(config, lists=False)], PAIRS
        ),
    }
    if benchmark:
        tables["run/benchmark"] = frame(_timings(benchmark), BENCHMARK)
    return tables


def frame(rows: Rows, columns: Columns) -> pd.DataFrame:
    """The values of some columns, one row for each; what a row lacks is missing.

    Examples
    --------
    >>> from diagfim.report.tables import frame
    >>> frame([{"name": "a", "span": {"low": 1}}], {"name": "name", "low": "span.low"})
      name  low
    0    a    1
    """
    found = [dict(leaves(row)) for row in rows]
    return pd.DataFrame(
        {column: pd.array([row.get(path) for row in found]) for column, path in columns.items()}
    )


def leaves(tree: Any, lists: bool = True, path: str = "") -> Iterator[tuple[str, Any]]:
    """Values in nested mappings and, unless they count as values, lists: each after its path."""
    if isinstance(tree, Mapping) and tree:
        branches: Iterable[tuple[Any, Any]] = tree.items()
    elif lists and isinstance(tree, list):
        branches = enumerate(tree)
    else:
        yield path, tree
        return
    for key, branch in branches:
        yield from leaves(branch, lists, f"{path}.{key}" if path else str(key))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _claims(verdicts: Iterable[tuple[str, Iterable[Claim]]]) -> Rows:
    return [{"decided_by": group, **vars(claim)} for group, some in verdicts for claim in some]


def _network(row: Mapping[str, Any]) -> dict[str, Any]:
    """Its hidden layers as a word; a user's own network has none that are known."""
    hidden = row.get("hidden")
    return {**row, "hidden": "-".join(map(str, hidden)) if hidden else None}


def _agreement(row: Mapping[str, Any]) -> dict[str, Any]:
    """The normal law decides on means alone."""
    if row["what"] == "mean":
        return dict(row)
    normal = {"probability", "normal_tests", "normal_largest", "normal_limit"}
    return {key: value for key, value in row.items() if key not in normal}


def _unfolded(experiment: str, contents: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of a section, with one record for each row of its tables."""
    if experiment == "toy":
        cells = [{**row, **one} for row in contents["grid"] for one in row["models"]]
        return {**contents, "grid": cells}
    if experiment == "continual":
        parts = {
            name: [{"dataset": of["name"], **row} for of in contents["results"] for row in of[name]]
            for name in ("rows", "fishers")
        }
        for row in parts["rows"]:
            row["strengths"] = ", ".join(f"{strength:g}" for strength in row["strengths"])
        return {**contents, **parts}
    return dict(contents)


def _timings(benchmark: Mapping[str, Any]) -> Rows:
    return [
        {**row, "network": network.replace("--", "-"), **one}
        for row in benchmark["rows"]
        for network, one in zip(benchmark["networks"], row["networks"], strict=True)
    ]


def csv(table: pd.DataFrame) -> str:
    """A table as comma-separated values; numbers with all of their digits."""
    return table.to_csv(index=False, lineterminator="\n")


def page(name: str, table: pd.DataFrame, caption: str) -> str:
    """A table as a page that needs no other file, and has the same as comma-separated values.

    Parameters
    ----------
    name : str
        Of the table; with slashes.
    table : DataFrame
        The table.
    caption : str
        HTML that stands above it.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("diagfim", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    kinds = [_kind(values) for _, values in table.items()]
    return environment.get_template("table.html.j2").render(
        title=title(name),
        file=f"{name.replace('/', '-')}.csv",
        csv=b64encode(csv(table).encode()).decode("ascii"),
        caption=caption,
        columns=list(zip([head.replace("_", " ") for head in table.columns], kinds, strict=True)),
        rows=[
            list(zip(map(cell, row), kinds, strict=True))
            for row in table.itertuples(index=False, name=None)
        ],
    )


def _kind(values: "pd.Series[Any]") -> str:
    """How a column is set: numbers to the right, long texts in lines that can be read."""
    if pd.api.types.is_numeric_dtype(values.dtype):
        return "number"
    return "long" if values.astype(str).str.len().max() > 40 else "short"


def title(name: str) -> str:
    """What a table is called in print.

    Examples
    --------
    >>> from diagfim.report.tables import title
    >>> title("networks/sigmoid/joint-draws"), title("claims")
    ('Network sigmoid: joint draws', 'Claims')
    """
    *folders, last = name.split("/")
    words = last.replace("-", " ")
    match folders:
        case [kind, of]:
            return f"{kind.removesuffix('s').capitalize()} {of}: {words}"
        case [kind]:
            return f"{kind.capitalize()}: {words}"
        case _:
            return words.capitalize()


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def cell(value: Any, digits: int = 4) -> str:
    """A value as a page shows it: whole numbers in groups, others with so many digits.

    Examples
    --------
    >>> from diagfim.report.tables import cell
    >>> cell(None), cell(True), cell(0.97514), cell(1.23456e-7)
    ('–', 'yes', '0.9751', '1.235 × 10⁻⁷')
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value != value:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e9):
        return f"{int(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if 1e-3 <= abs(value) < 1e5:
        # no exponent, for one that is rounded up to a power of ten
        short = f"{float(f'{value:.{digits}g}'):.10f}".rstrip("0").rstrip(".")
        return short.replace("-", "−")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = str(int(exponent)).translate(_SUPERSCRIPTS)
    return f"{mantissa} × 10{power}".replace("-", "−")
