"""Configurations made from the schema: good ones, and good ones of which one thing is broken.

Nothing here calls what it is to test: a good configuration agrees with itself by the way in which
it is made, and a broken one is known by what was done to it.
"""

import copy
import datetime
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from hypothesis import strategies as st
from toy import ROOT

SCHEMA_PATH = ROOT / "workflow" / "schemas" / "config.schema.yaml"
SCHEMA = yaml.safe_load(SCHEMA_PATH.read_text())

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9-]{0,11}", fullmatch=True)
ACTIVATIONS = ["sigmoid", "logsigmoid", "tanh", "softplus", "gelu", "relu"]
ROOT_OF_MNIST = "resources/MNIST/raw"
FILES = {"factory": "net.py:build", "weights": "net.safetensors", "data": "net.npz"}
"""Names in the project that the generated networks of a user's own are about."""


# --------------------------------------------------------------------------------- by the schema


def values(schema: dict[str, Any]) -> st.SearchStrategy:
    """What a schema allows, its bounds oftener than by chance; names are filled in later."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema["type"]
    if kind == "boolean":
        return st.booleans()
    if kind == "integer":
        low, high = schema["minimum"], schema["maximum"]
        return st.sampled_from([low, high]) | st.integers(low, high)
    if kind == "number":
        return _numbers(schema)
    if kind == "array":
        low = schema.get("minItems", 0)
        high = min(schema["maxItems"], low + 2)
        unique = _hashable if schema.get("uniqueItems") else None
        return st.lists(values(schema["items"]), min_size=low, max_size=high, unique_by=unique)
    if kind == "object":
        return st.fixed_dictionaries({k: values(v) for k, v in schema["properties"].items()})
    return st.just("")


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _numbers(schema: dict[str, Any]) -> st.SearchStrategy:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    floats = st.floats(
        low,
        high,
        exclude_min="exclusiveMinimum" in schema,
        exclude_max="exclusiveMaximum" in schema,
        allow_subnormal=False,
    )
    ends = [schema[key] for key in ("minimum", "maximum") if key in schema]
    return st.sampled_from(ends) | floats if ends else floats


def at(schema: dict[str, Any], *keys: str) -> dict[str, Any]:
    for key in keys:
        schema = schema["properties"][key]
    return schema


# ---------------------------------------------------------------------------------- good ones


MADE_BY_HAND = ("results", "replicates", "datasets", "networks")
SECTIONS = st.fixed_dictionaries(
    {key: values(one) for key, one in SCHEMA["properties"].items() if key not in MADE_BY_HAND}
)
TRAINED = st.fixed_dictionaries(
    {
        key: values(one)
        for key, one in at(SCHEMA, "networks")["additionalProperties"]["else"]["properties"].items()
    }
)


@st.composite
def good(draw, *, replicates: int = 1000, epochs: int = 10_000) -> dict[str, Any]:
    """A configuration in which all keys agree.

    Parameters
    ----------
    replicates, epochs : int
        At most so many, for a plan has a job or a file for each.
    """
    config = draw(SECTIONS)
    config["results"] = "results/" + draw(NAMES)
    kinds = at(SCHEMA, "datasets")["additionalProperties"]["properties"]["kind"]["enum"]
    config["datasets"] = {
        name: {
            "kind": draw(st.sampled_from(kinds)),
            "root": draw(st.sampled_from([None, ROOT_OF_MNIST])),
        }
        for name in draw(_names(3))
    }
    known = list(config["datasets"])
    config["training"]["epochs"] = last = draw(st.integers(1, epochs))
    config["replicates"] = draw(st.integers(1, min(replicates, 80_000 // (last + 1))))
    config["networks"] = {name: draw(_network(known)) for name in draw(_names(3))}
    _reconcile_study(draw, config)
    _reconcile_experiments(draw, config, known)
    return config


def _names(most: int) -> st.SearchStrategy[list[str]]:
    return st.lists(NAMES, min_size=1, max_size=most, unique_by=str.casefold)


@st.composite
def _network(draw, datasets: list[str]) -> dict[str, Any] | None:
    kind = draw(st.sampled_from(["trained"] * 6 + ["own", "none"]))
    if kind == "none":
        return None
    if kind == "own":
        images = draw(st.sampled_from([{}, {"images": {"mean": 0.5, "std": [0.1, 0.2]}}]))
        weights = draw(st.sampled_from([FILES["weights"], [FILES["weights"]] * 3]))
        return FILES | {"weights": weights, "test_set": draw(st.booleans())} | images
    return draw(TRAINED) | {"dataset": draw(st.sampled_from(datasets))}


def _reconcile_study(draw, config: dict[str, Any]) -> None:
    trained = [one for one in config["networks"].values() if one and "factory" not in one]
    if not any(config["networks"].values()):
        config["networks"]["one-more"] = dict(FILES, test_set=True)
    experiments = config["experiments"]
    if not trained:
        for section in (experiments["population"], experiments["empirical"], config["benchmark"]):
            section["enabled"] = False
    if experiments["empirical"]["enabled"]:
        config["training"]["optimiser"] = "adam"
    for section in (config["fixed"], config["joint"]):
        section["draws"].sort()
        section["recorded_draws"] = draw(st.sampled_from(section["draws"]))
    for section in (config["joint"], experiments["population"], experiments["empirical"]):
        last = config["training"]["epochs"]
        section["epochs"] = sorted(draw(st.sets(st.integers(0, last), min_size=1, max_size=4)))
    # 8 GiB of pool × classes × units numbers of 8 bytes, twice
    units = max([sum(one["hidden"]) + 10 for one in trained if one["test_set"]], default=1)
    config["joint"]["pool"] = min(config["joint"]["pool"], 2**33 // (16 * 10 * units))
    for one in trained:  # no pool of two is small enough for the widest networks
        one["test_set"] &= config["joint"]["pool"] >= 2
    config["joint"]["pool"] = max(config["joint"]["pool"], 2)
    if "pdf" not in config["figures"]["formats"]:
        config["figures"]["formats"][0] = "pdf"
    config["training"]["batch_size"] = draw(st.integers(1, config["training"]["samples"]))


def _reconcile_experiments(draw, config: dict[str, Any], known: list[str]) -> None:
    one = config["experiments"]
    for name in ("regression", "descent"):
        one[name]["datasets"] = [draw(st.sampled_from(known))]
    for name in ("landscape", "continual"):
        one[name]["datasets"] = draw(st.permutations(known))[: draw(st.integers(1, len(known)))]
    toy = one["toy"]
    toy["dampings"].sort()
    toy["damping"] = draw(st.sampled_from(toy["dampings"]))
    toy["batch"] = draw(st.integers(1, 64))
    toy["training_points"] = toy["batch"] * draw(st.integers(32, 64))
    toy["training_epochs"] = draw(st.integers(8, 500))
    regression = one["regression"]
    regression["inputs"] = draw(st.integers(1, min(regression["pool"], 20)))
    regression["repetitions"] = draw(st.integers(4, 10_000))
    regression["draws"] = draw(st.integers(1, 1000))
    regression["noise"].sort()
    for name in ("regression", "descent"):
        one[name]["samples"] = draw(st.integers(2, 50_000))
        one[name]["batch_size"] = draw(st.integers(2, one[name]["samples"]))
    one["descent"]["validation"] = draw(st.integers(1, 60_000 - one["descent"]["samples"]))
    landscape = one["landscape"]
    landscape["base"] = {
        "depth": draw(st.sampled_from(landscape["depths"])),
        "width": draw(st.sampled_from(landscape["widths"])),
    }
    landscape["activations"] = ["tanh", *landscape["activations"], "gelu"]
    landscape["activations"] = list(dict.fromkeys(landscape["activations"]))
    landscape["stages"] = list(dict.fromkeys([*landscape["stages"], 1]))
    landscape["batch_size"] = draw(st.integers(1, landscape["samples"]))
    landscape["kinks"]["betas"].sort()
    for part in ("lenet", "kinks"):
        landscape[part]["inputs"] = draw(st.integers(1, landscape["inputs"]))
    for section, part in (("population", "tightness_inputs"), ("continual", "subset")):
        most = min(one[section]["inputs"], 10_000)
        one[section][part] = draw(st.integers(1, most))


# ------------------------------------------------------------------------- with one thing broken


@dataclass(frozen=True)
class Broken:
    """A configuration with one mistake.

    Attributes
    ----------
    config : dict
    key : str
        What the line has to name.
    how : str
        What was done to it.
    """

    config: Any
    key: str
    how: str


HOSTILE = [
    "",
    " ",
    "a b",
    "a'b",
    'a"b',
    "a;touch canary",
    "$(touch canary)",
    "`touch canary`",
    "a|b",
    "a&b",
    "a>canary",
    "a\nb",
    "sigmoid\n",
    "a\x00b",
    "a\u2028b",
    "a\u200bb",
    "{wildcard}",
    "{{}}",
    "a*",
    "a?b",
    "%s%n",
    "-rf",
    "--config",
    "..",
    "../outside",
    "a/../../outside",
    "/etc/passwd",
    "/tmp/outside",
    "~/outside",
    "$HOME",
    "\\input{/etc/passwd}",
    "C:\\outside",
    "//server/share",
    "file:///etc/passwd",
    "http://example.org/x",
    "s\u0456gmo\u0456d",
    "\u202esigmoid",
    "\U0001f600",
    "a" * 1000,
    "__import__('os').system('touch canary')",
    "!!python/object/apply:os.system",
]
"""Texts that no key takes: for a shell, Snakemake, Python, TeX, a file system or the eye."""

ODD = [
    None,
    True,
    "text",
    "1e-3",
    "5",
    5,
    -1,
    1.5,
    2.0,
    math.nan,
    math.inf,
    -math.inf,
    10**12,
    10**30,
    [],
    [[]],
    [1, [2, [3]]],
    {},
    {"a": 1},
    datetime.date(2024, 1, 1),
    b"bytes",
    (1, 2),
    {1, 2},
]
"""Values of every kind that YAML makes."""


@dataclass(frozen=True)
class Place:
    """A key of a configuration, what the schema says of it, and whether its section needs it."""

    path: tuple[str | int, ...]
    schema: dict[str, Any]
    required: bool = False

    def __str__(self) -> str:
        text = ""
        for step in self.path:
            text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
        return text

    def value(self, config: Any) -> Any:
        for step in self.path:
            config = config[step]
        return config

    def put(self, config: dict[str, Any], value: Any) -> dict[str, Any]:
        config = copy.deepcopy(config)
        Place(self.path[:-1], {}).value(config)[self.path[-1]] = value
        return config


def places(
    value: Any, schema: dict[str, Any], path: tuple[str | int, ...] = (), required: bool = False
) -> Iterator[Place]:
    """Every key and every entry of a list, with its schema, from the top down."""
    if "if" in schema:
        schema = schema | schema["then" if value and "factory" in value else "else"]
    if path:
        yield Place(path, schema, required)
    if isinstance(value, dict):
        for key, child in value.items():
            of_child = schema.get("properties", {}).get(key) or schema["additionalProperties"]
            yield from places(child, of_child, (*path, key), key in schema.get("required", ()))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from places(child, schema["items"], (*path, index))


def fits(value: Any, kind: str) -> bool:
    """Whether a value is of a kind of JSON, by Python's own types."""
    return {
        "null": value is None,
        "boolean": isinstance(value, bool),
        "integer": type(value) is int,
        "number": type(value) is int or (type(value) is float and math.isfinite(value)),
        "string": type(value) is str,
        "array": type(value) is list,
        "object": type(value) is dict,
    }[kind]


def kinds(schema: dict[str, Any]) -> list[str]:
    """The kinds of JSON that a schema takes."""
    kind = schema.get("type", "string")  # an enum
    return kind if isinstance(kind, list) else [kind]


@st.composite
def bad(draw) -> list[Broken]:
    """A good configuration, broken in every way, each time in one place."""
    config = draw(good(replicates=10, epochs=50))
    everywhere = list(places(config, SCHEMA))
    return [way(draw, config, everywhere) for way in WAYS]


def another_kind(draw, config: dict[str, Any], everywhere: list[Place]) -> Broken:
    place = draw(st.sampled_from(everywhere))
    odd = [value for value in ODD if not any(fits(value, kind) for kind in kinds(place.schema))]
    return Broken(place.put(config, draw(st.sampled_from(odd))), str(place), "another kind")


def beyond_a_bound(draw, config: dict[str, Any], everywhere: list[Place]) -> Broken:
    place = draw(st.sampled_from([p for p in everywhere if type(p.value(config)) in (int, float)]))
    schema = place.schema
    beyond = [math.nan, math.inf, -math.inf, 10**300]
    if "minimum" in schema:
        beyond += [schema["minimum"] - 1, -(10**30)]
    else:
        beyond += [schema["exclusiveMinimum"], -1e-9]
    beyond.append(schema["maximum"] + 1 if "maximum" in schema else schema["exclusiveMaximum"])
    return Broken(place.put(config, draw(st.sampled_from(beyond))), str(place), "beyond a bound")


def too_many_or_too_few(draw, config: dict[str, Any], everywhere: list[Place]) -> Broken:
    lists = [
        place
        for place in everywhere
        if place.value(config) and isinstance(place.value(config), list)
    ]
    place = draw(st.sampled_from(lists))
    value, schema = place.value(config), place.schema
    wrong = [(value * (schema["maxItems"] + 1))[: schema["maxItems"] + 1]]
    if schema.get("minItems"):
        wrong.append(value[: schema["minItems"] - 1])
    if schema.get("uniqueItems"):
        wrong.append([*value[:1], *value])
    config = place.put(config, draw(st.sampled_from(wrong)))
    return Broken(config, str(place), "number of entries")


def unknown_key(draw, config: dict[str, Any], everywhere: list[Place]) -> Broken:
    """A slip of the keyboard beside the right key."""
    closed = [
        place
        for place in everywhere
        if place.schema.get("additionalProperties") is False and place.value(config)
    ]
    section = draw(st.sampled_from([Place((), SCHEMA), *closed]))
    name = draw(st.sampled_from(sorted(section.schema["properties"])))
    cut = draw(st.integers(1, len(name)))
    slip = draw(st.sampled_from([name[: cut - 1] + name[cut:], name + "s", name.upper(), "x-y"]))
    if slip in section.schema["properties"]:
        slip = "no-such-key"
    place = Place((*section.path, slip), {})
    return Broken(place.put(config, name), str(place), "unknown key")


def missing_key(draw, config: dict[str, Any], everywhere: list[Place]) -> Broken:
    place = draw(st.sampled_from([place for place in everywhere if place.required]))
    config = copy.deepcopy(config)
    del Place(place.path[:-1], {}).value(config)[place.path[-1]]
    return Broken(config, str(place), "missing key")


def hostile_text(draw, config: dict[str, Any], everywhere: list[Place]) -> Broken:
    texts = [place for place in everywhere if isinstance(place.value(config), str)]
    place = draw(st.sampled_from(texts))
    text = draw(st.sampled_from(HOSTILE))
    return Broken(place.put(config, text), str(place), "hostile text")


def hostile_name(draw, config: dict[str, Any], everywhere: list[Place]) -> Broken:
    section = draw(st.sampled_from(["datasets", "networks"]))
    text = draw(st.sampled_from(HOSTILE))
    value = {"kind": "KMNIST", "root": None} if section == "datasets" else None
    return Broken(Place((section, text), {}).put(config, value), section, "hostile name")


def odd_key(draw, config: dict[str, Any], everywhere: list[Place]) -> Broken:
    """A key that YAML does not read as a text: 1, true, null, a date."""
    sections = [place for place in everywhere if isinstance(place.value(config), dict)]
    section = draw(st.sampled_from(sections))
    key = draw(st.sampled_from([1, True, None, 2.5, datetime.date(2024, 1, 1)]))
    return Broken(Place((*section.path, key), {}).put(config, 1), str(section), "odd key")


WAYS: list[Callable[..., Broken]] = [
    another_kind,
    beyond_a_bound,
    too_many_or_too_few,
    unknown_key,
    missing_key,
    hostile_text,
    hostile_name,
    odd_key,
]
