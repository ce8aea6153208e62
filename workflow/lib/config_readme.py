"""The page on the configuration: every key of the schema, as a table in Markdown.

Run it to write config/README.md anew; a test compares the two.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from lines import dotted, plain

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "config" / "README.md"
SCHEMA = PROJECT / "workflow" / "schemas" / "config.schema.yaml"
STUDY = PROJECT / "config" / "config.yaml"

INTRODUCTION = """\
# Configuration

<!-- Written by workflow/lib/config_readme.py (`make pages`) from workflow/schemas. -->

Every setting of the workflow stands in a YAML file of this folder:

| file | what it is |
|---|---|
| `config.yaml` | the study of the paper, at full scale; read by every run |
| `smoke.yaml` | the same workflow at toy size, in minutes |
| `extended.yaml` | larger grids and ten replicates: days of one core, or a cluster |
| `sweep.yaml` | a hundred networks |

The last three hold only what differs from the first:

```sh
snakemake --cores all --configfile config/smoke.yaml
```

A file of your own does the same, with as few keys as you like. Keys that are not listed here,
values out of range, and settings that contradict each other stop the run before its first job, with
a line for each that names the key, the value and what was expected. Whatever is changed, exactly
those files are made again that rest on it.

The workflow computes with the package, the images and the LaTeX templates of this repository. So
clone it and run Snakemake in the clone, as the [README](../README.md) says, instead of deploying it
as a module.

`<name>` stands for a name of your choice. The last column is the value in `config.yaml`.
"""


def page(schema: Mapping[str, Any], study: Mapping[str, Any]) -> str:
    """The whole page.

    Parameters
    ----------
    schema : dict
        JSON schema of the configuration.
    study : dict
        The configuration that values are quoted from.
    """
    parts = [INTRODUCTION]
    plain_keys = {}
    for key, one in schema["properties"].items():
        if _is_nested(one):
            parts.append(_section("##", [key], one, study.get(key)))
        else:
            plain_keys[key] = one
    parts.insert(1, _table("## At the top", [], plain_keys, study))
    return "\n".join(parts)


def _section(level: str, path: list[str], schema: Mapping[str, Any], value: Any) -> str:
    """Heading, description and table of a mapping; its mappings of settings become sections."""
    title = f"{level} `{dotted(path)}`\n\n{_sentence(schema['description'])}"
    if "properties" in schema and all(map(_is_nested, schema["properties"].values())):
        below = [
            _section(f"{level}#", [*path, key], one, (value or {}).get(key))
            for key, one in schema["properties"].items()
        ]
        return "\n".join([f"{title}\n", *below])
    if "properties" in schema:
        return _table(title, [], schema["properties"], value)
    entry = schema["additionalProperties"]
    names, first = _examples(value)
    title += f" In `config.yaml`: {names}; the values below are of the first."
    if "properties" in entry:
        return _table(title, [], {"<name>": entry}, {"<name>": first})
    trained = f"{title}\n\nA network that is trained here:"
    own = "A network of one's own:"
    return "\n".join(
        [
            _table(trained, [], {"<name>": entry["else"]}, {"<name>": first}),
            _table(own, [], {"<name>": entry["then"]}, None),
        ]
    )


def _examples(value: Mapping[str, Any]) -> tuple[str, Any]:
    return ", ".join(f"`{name}`" for name in value), next(iter(value.values()))


def _table(title: str, path: list[str], properties: Mapping[str, Any], value: Any) -> str:
    head = "| key | meaning | values | `config.yaml` |\n|---|---|---|---|"
    rows = (
        f"| `{dotted(place)}` | {_sentence(one['description'])} | {allowed(one)} | {quoted} |"
        for place, one, quoted in _leaves(path, properties, value)
    )
    return "\n".join([title, "", head, *rows, ""])


def _leaves(
    path: list[str], properties: Mapping[str, Any], value: Any
) -> Iterator[tuple[list[str], Mapping[str, Any], str]]:
    """Keys that hold values, with those of the mappings among them."""
    for key, one in properties.items():
        inner = value.get(key) if isinstance(value, dict) else None
        if "properties" in one:
            yield from _leaves([*path, key], one["properties"], inner)
        else:
            known = isinstance(value, dict) and key in value
            yield [*path, key], one, f"`{_flow(inner)}`" if known else ""


def allowed(schema: Mapping[str, Any]) -> str:
    """The values that a key may have, in words.

    Examples
    --------
    >>> allowed({"type": "integer", "minimum": 1, "maximum": 10})
    'whole number from 1 to 10'
    >>> allowed({"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}})
    'list, each a number above 0'
    """
    if "enum" in schema:
        return " or ".join(f"`{_flow(one)}`" for one in schema["enum"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    words = [_WORDS[kind] for kind in kinds if kind != "array"]
    text = " or ".join(words) + _range(schema) if words else ""
    if "array" in kinds:
        article = "" if "enum" in schema["items"] else "a "
        listed = f"list{_length(schema)}, each {article}{allowed(schema['items'])}"
        text = f"{text}, or a {listed}" if text else listed
    return text


_WORDS = {
    "integer": "whole number",
    "number": "number",
    "boolean": "`true` or `false`",
    "string": "text",
    "null": "`null`",
}


def _range(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    parts = []
    if low is not None:
        parts.append(f"from {plain(low)}")
    if (above := schema.get("exclusiveMinimum")) is not None:
        parts.append(f"above {plain(above)}")
    if high is not None:
        parts.append(f"to {plain(high)}")
    if (below := schema.get("exclusiveMaximum")) is not None:
        parts.append(f"below {plain(below)}")
    return "".join(f" {part}" for part in parts)


def _length(schema: Mapping[str, Any]) -> str:
    least, most = schema.get("minItems"), schema.get("maxItems")
    return f" of {least}" if least is not None and least == most else ""


def _is_nested(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "object"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")


def main() -> None:
    """Write config/README.md."""
    read = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in (SCHEMA, STUDY))
    PAGE.write_text(page(*read), encoding="utf-8")


if __name__ == "__main__":
    main()
