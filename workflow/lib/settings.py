"""Validation of the configuration: one line per mistake, naming the key and the remedy.

What a key may hold is in the schema; how keys must agree with each other and with the files that
they name is in `contradictions`, and what a reader of YAML passes over in silence in `misreadings`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from contradictions import contradictions, weights_of
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend
from lines import dotted, number, plain, shown

__all__ = ["in_order", "problems", "weights_of"]

Settings = Mapping[str, Any]


def _is_integer(_: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(_: Any, value: Any) -> bool:
    return _is_integer(_, value) or (isinstance(value, float) and math.isfinite(value))


# JSON Schema takes 2.0 for an integer, which `range` does not, and NaN lies within any bounds.
Validator = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_integer, "number": _is_number}
    ),
)


def problems(config: Any, schema_path: Path) -> list[str]:
    """Everything that is wrong with a configuration, a line each; empty when it is valid.

    What keeps a later look from making sense comes alone: texts that are none, then what the
    schema objects to, then what keys say against each other.
    """
    try:
        found = dict(_odd_texts(config))
    except _TooMuch as reason:
        return [f"config: {reason}"]
    return _sorted(found) or _sorted(_objections(config, schema_path)) or [*contradictions(config)]


def _sorted(lines: Mapping[str, str]) -> list[str]:
    return [lines[place] for place in sorted(lines)]


def _objections(config: Any, schema_path: Path) -> dict[str, str]:
    """What the schema objects to: lines by place, one for each."""
    found: dict[str, str] = {}
    for error in _validator(schema_path).iter_errors(config):
        for place, line in _explain(error):
            found.setdefault(place, line)
    # A list with a wrong entry may lack the entry that it has to contain for that alone.
    entries = {place.rpartition("[")[0] for place in found if place.endswith("]")}
    return {place: line for place, line in found.items() if place not in entries}


@cache
def _validator(schema_path: Path) -> Any:
    return Validator(yaml.load(schema_path.read_text(encoding="utf-8"), Loader=_FASTEST))


_FASTEST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def in_order(config: Settings, schema_path: Path, main: Path) -> dict[str, Any]:
    """A valid configuration, its keys in the order of the schema whatever that of its files is.

    Snakemake puts the keys of a file of the command line before those of the main file, and takes
    another order for other settings.  Names of networks and data sets are in the order of the main
    file, before those that it has not: the first network is that of the experiments.

    Parameters
    ----------
    config : mapping
        In which `problems` finds nothing.
    schema_path : Path
        The schema.
    main : Path
        The main file; where it is missing, names stay in their order.
    """
    text = main.read_text(encoding="utf-8") if main.exists() else "{}"
    schema: Settings = _validator(schema_path).schema
    return dict(_ordered(config, schema, yaml.load(text, Loader=_FASTEST)))


def _ordered(value: Any, schema: Settings, main: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    known = main if isinstance(main, Mapping) else {}
    if "if" in schema:  # of the two kinds of networks
        schema = schema["then" if set(schema["if"]["required"]) <= set(value) else "else"]
    names = dict.fromkeys([*known, *value], schema.get("additionalProperties"))
    parts: Settings = schema.get("properties", names)
    return {
        key: _ordered(value[key], part, known.get(key))
        for key, part in parts.items()
        if key in value
    }


# ------------------------------------------------------------------------ before the schema sees it


class _TooMuch(ValueError):
    """The configuration is no finite tree of a sensible size."""


_DEEPEST = 12
_MOST = 500_000
"""Keys and values that a configuration may have; aliases of YAML count as what they stand for."""


def _odd_texts(config: Any) -> Iterator[tuple[str, str]]:
    """Keys that are no text, and texts that no name consists of: places and lines."""
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), config)]
    seen = 0
    while waiting:
        path, value = waiting.pop()
        seen += 1
        if len(path) > _DEEPEST:
            raise _TooMuch(
                f"{shown(path[0])[1:-1]} is nested more than {_DEEPEST} deep; an alias (*name) may "
                "stand within what it is an alias of"
            )
        if seen > _MOST:
            raise _TooMuch(
                f"it has more than {_MOST:,} keys and values, aliases (*name) written out; make it "
                "smaller"
            )
        if isinstance(value, Mapping):
            for key, child in value.items():
                if not isinstance(key, str):
                    yield (
                        dotted([*path, f"{key}"]),
                        f"config: {dotted(path) or 'the top'} has the key {shown(key)}, which YAML "
                        f"does not read as a text; write '{key}' in quotes, if it is meant",
                    )
                    continue
                if not key.isprintable():
                    yield (
                        dotted([*path, key]),
                        f"config: {dotted(path) or 'the top'} has the key {shown(key)}, expected "
                        "one of printable characters; change it",
                    )
                waiting.append(((*path, key), child))
        elif isinstance(value, list):
            waiting.extend(((*path, index), child) for index, child in enumerate(value))
        elif isinstance(value, str) and not value.isprintable():
            yield (
                dotted(path),
                f"config: {dotted(path)} is {shown(value)}, expected a text of printable "
                "characters on one line; change it",
            )


# ------------------------------------------------------------------------- what the schema objects


def _explain(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Places and lines of what a schema objects to."""
    key = dotted(error.path)
    schema: Settings = error.schema  # type: ignore[assignment]
    instance: Any = error.instance
    if error.validator == "additionalProperties":
        known = list(schema["properties"])
        for name in instance:
            if name not in known and isinstance(name, str):
                full = dotted([*error.path, name])
                yield full, f"config: unknown key {shown(full)}; {_instead(name, known)}"
    elif error.validator == "required":
        for name in schema["required"]:
            # A misspelt key is one mistake, not an unknown and a missing one.
            strange = [str(other) for other in instance if other not in schema["properties"]]
            if name not in instance and not _close(name, strange):
                full = dotted([*error.path, name])
                yield full, f"config: key '{full}' is missing; add it"
    elif "propertyNames" in error.schema_path:
        yield (
            dotted([*error.path, str(instance)]),
            f"config: {key} has the name {shown(instance)}, expected "
            f"{_expected(instance, schema)}; rename it",
        )
    else:
        yield (
            key,
            f"config: {key or 'the file'} is {shown(instance)}, expected "
            f"{_expected(instance, schema)}; {_remedy(instance, schema)}",
        )


def _instead(name: str, known: Sequence[str]) -> str:
    close = _close(name, known)
    return f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}"


def _close(word: str, known: Sequence[str]) -> list[str]:
    """The known word that was probably meant, whatever the case; none or one."""
    by_folded = {one.casefold(): one for one in known}
    return [by_folded[one] for one in get_close_matches(word.casefold(), by_folded, n=1)]


# What a kind of value is called, and the keywords that bound it.
_KINDS = {
    "object": (
        "a section of keys",
        {"minProperties": "with {} or more of them", "maxProperties": "with {} of them at most"},
    ),
    "array": (
        "a list",
        {"minItems": "with {} or more entries", "maxItems": "with {} entries at most"},
    ),
    "string": (
        "a text",
        {"pattern": "matching {}", "maxLength": "of {} characters at most"},
    ),
    "number": (
        "a number",
        {
            "minimum": "at least {}",
            "exclusiveMinimum": "above {}",
            "maximum": "at most {}",
            "exclusiveMaximum": "below {}",
        },
    ),
    "boolean": ("a boolean", {}),
    "null": ("null", {}),
}
_KINDS["integer"] = ("an integer", _KINDS["number"][1])


def _expected(instance: Any, schema: Settings) -> str:
    meaning = f" ({schema['description']})" if "description" in schema else ""
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"])) + meaning
    kinds = _kinds(schema)
    # Of a value of one kind, the bounds of the others say nothing.
    kinds = [kind for kind in kinds if Validator({}).is_type(instance, kind)] or kinds
    words = " or ".join(_bounded(kind, schema) for kind in kinds)
    if schema.get("uniqueItems"):
        words += " without repeats"
    if "contains" in schema:
        words += f" containing {schema['contains']['const']}"
    return words + meaning


def _bounded(kind: str, schema: Settings) -> str:
    word, bounds = _KINDS[kind]
    limits = [text.format(plain(schema[key])) for key, text in bounds.items() if key in schema]
    return f"{word} {' and '.join(limits)}".rstrip()


def _kinds(schema: Settings) -> list[str]:
    kind: str | list[str] = schema["type"]
    return [kind] if isinstance(kind, str) else kind


def _remedy(value: Any, schema: Settings) -> str:
    """What to write instead, where that can be told."""
    if "enum" in schema:
        close = _close(str(value), schema["enum"])
        return f"did you mean '{close[0]}'?" if close else "change it"
    kinds = _kinds(schema)
    if value is None:
        return "write a value, or leave the key out"
    if kinds == ["boolean"]:
        return "write true or false"
    if "number" in kinds or "integer" in kinds:
        if isinstance(value, str) and (meant := number(value)):
            return f"YAML reads this as a text: write {meant}"
        if isinstance(value, float) and value.is_integer() and "integer" in kinds:
            return f"write {int(value)}"
    if kinds == ["array"] and isinstance(value, int | float | str):
        return "write it as a list, in brackets"
    return "change it"
