"""Validation of the configuration: one line per mistake, naming the key and the remedy."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

Settings = Mapping[str, Any]

_OF_KEYS = ("additionalProperties", "required")


def problems(config: Settings, schema_path: Path) -> list[str]:
    """Everything that is wrong with a configuration, a line each; empty when it is valid."""
    schema = yaml.safe_load(schema_path.read_text())
    errors: dict[str, ValidationError] = {}
    for error in Draft202012Validator(schema).iter_errors(config):
        errors.setdefault(f"{_dotted(error.path)} {error.validator in _OF_KEYS}", error)
    found = [line for _, error in sorted(errors.items()) for line in _explain(error)]
    return found or list(_contradictions(config))


def weights_of(network: Settings) -> list[str]:
    """Files of the weights of a user's own network, by stage."""
    weights: str | list[str] = network["weights"]
    return [weights] if isinstance(weights, str) else weights


def _explain(error: ValidationError) -> Iterator[str]:
    key = _dotted(error.path)
    schema: Settings = error.schema  # type: ignore[assignment]
    instance: Any = error.instance
    if error.validator == "additionalProperties":
        known = list(schema["properties"])
        for name in sorted(set(instance) - set(known), key=str):
            close = get_close_matches(str(name), known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}"
            yield f"config: unknown key '{_dotted([*error.path, name])}'; {hint}"
    elif error.validator == "required":
        for name in sorted(set(schema["required"]) - set(instance)):
            yield f"config: key '{_dotted([*error.path, name])}' is missing; add it"
    else:
        meaning = schema.get("description")
        expected = _expected(schema) + (f" ({meaning})" if meaning else "")
        yield f"config: {key or 'the file'} is {instance!r}, expected {expected}; change it"


def _expected(schema: Settings) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    kind = schema.get("type", "another value")
    words = [" or ".join(kind) if isinstance(kind, list) else str(kind)]
    for keyword, text in (
        ("minimum", "at least {}"),
        ("exclusiveMinimum", "above {}"),
        ("maximum", "at most {}"),
        ("exclusiveMaximum", "below {}"),
        ("pattern", "matching {}"),
        ("minItems", "with {} or more entries"),
        ("minProperties", "with {} or more entries"),
        ("uniqueItems", "without repeats"),
        ("contains", "containing {}"),
    ):
        if keyword in schema:
            value = schema[keyword]
            words.append(text.format(value["const"] if keyword == "contains" else value))
    return " ".join(words)


def _contradictions(config: Settings) -> Iterator[str]:
    networks = {name: one for name, one in config["networks"].items() if one}
    trained = {name: one for name, one in networks.items() if "factory" not in one}
    if not networks:
        yield "config: networks are all null, expected one at least; name a network to study"
    for name, network in networks.items():
        if name not in trained:
            yield from _missing_files(name, network)
        elif network["dataset"] not in config["datasets"]:
            yield (
                f"config: networks.{name}.dataset is '{network['dataset']}', expected a name under "
                f"datasets ({', '.join(config['datasets'])}); add the data set or change the name"
            )
    for section in ("fixed", "joint"):
        recorded, draws = config[section]["recorded_draws"], config[section]["draws"]
        if recorded not in draws:
            yield (
                f"config: {section}.recorded_draws is {recorded}, expected one of {section}.draws "
                f"({', '.join(map(str, draws))}); add it there or change it"
            )
    experiments = config["experiments"]
    if not trained:
        for name in ("population", "empirical"):
            if experiments[name]["enabled"]:
                yield _untrained(f"experiments.{name}")
        if config["benchmark"]["enabled"]:
            yield _untrained("benchmark")
    last = config["training"]["epochs"]
    looked_at = {
        "joint": config["joint"],
        "experiments.population": experiments["population"],
        "experiments.empirical": experiments["empirical"],
    }
    for name, section in looked_at.items():
        for epoch in section["epochs"]:
            if epoch > last:
                yield (
                    f"config: {name}.epochs holds {epoch}, expected at most training.epochs = "
                    f"{last}; train longer or drop it"
                )
    for name, experiment in experiments.items():
        for dataset in experiment.get("datasets", ()):
            if dataset not in config["datasets"]:
                yield (
                    f"config: experiments.{name}.datasets holds '{dataset}', expected names under "
                    f"datasets ({', '.join(config['datasets'])}); add the data set or change it"
                )
    if config["experiments"]["empirical"]["enabled"] and config["training"]["optimiser"] != "adam":
        yield (
            f"config: training.optimiser is '{config['training']['optimiser']}', but "
            "experiments.empirical looks at what Adam accumulates; train with adam or switch "
            "experiments.empirical.enabled to false"
        )


def _untrained(section: str) -> str:
    return (
        f"config: {section}.enabled is True, but no network is trained here, and it looks at one "
        "that is; switch it to false or keep a network without a factory"
    )


def _missing_files(name: str, network: Settings) -> Iterator[str]:
    files = {
        "factory": [network["factory"].rpartition(":")[0]],
        "weights": weights_of(network),
        "data": [network["data"]],
    }
    for key, paths in files.items():
        for path in paths:
            if not Path(path).exists():
                yield (
                    f"config: networks.{name}.{key} names {path}, and there is no such file seen "
                    f"from {Path.cwd()}; change the name or put the file there"
                )


def _dotted(path: Any) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text
