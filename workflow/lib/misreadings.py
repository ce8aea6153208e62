"""What a reader of YAML passes over in silence, and what makes a configuration a program.

Snakemake keeps the last of two equal keys, takes 010 for eight, runs what a file with the key
``__use_yte__`` says, and tells of YAML that it cannot read neither the file nor the line.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml
from lines import dotted, shown

_OF_SNAKEMAKE = {
    "__use_yte__": "with which Snakemake runs the file as a program",
    "pathvars": "which is a setting of Snakemake",
}


_OF_YAML = "tag:yaml.org,2002:"
_DATA = {"map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge"}
"""What YAML has for data; other tags stand for objects of a program."""


def misreadings(paths: Iterable[str | Path]) -> list[str]:
    """Lines about files of the configuration."""
    return [f"config: {path}: {line}" for path in paths for line in _of_file(Path(path))]


def _of_file(path: Path) -> Iterator[str]:
    try:
        # In Python, since LibYAML's composer dies of deep nesting.
        top = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        if not isinstance(top, yaml.MappingNode):
            yield "has no keys at the top, expected results, seed and so on; write them there"
            return
        yield from _of_node(top, (), set())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        yield f"{place}not YAML, {error.problem}; mend it"
    except (OSError, ValueError, yaml.YAMLError) as error:
        yield f"cannot be read, {' '.join(str(error).split())}; write YAML, in UTF-8"
    except RecursionError:
        yield "nested too deep; make it plainer"


def _of_node(node: yaml.Node, path: tuple[str | int, ...], met: set[int]) -> Iterator[str]:
    if id(node) in met:  # an alias of a node that was looked at
        return
    met.add(id(node))
    if node.tag.removeprefix(_OF_YAML) not in _DATA:
        yield (
            f"line {node.start_mark.line + 1}: {dotted(path)} has the tag {shown(node.tag)}, "
            "expected plain YAML; write numbers, texts, lists and sections"
        )
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            place = dotted([*path, name])
            if name in first:
                yield (
                    f"line {line}: the key {place} is in line {first[name]} already, and only one "
                    "of them can count; delete the other"
                )
            elif not path and name in _OF_SNAKEMAKE:
                yield f"line {line}: unknown key {place}, {_OF_SNAKEMAKE[name]}; delete it"
            first.setdefault(name, line)
            yield from _of_node(value, (*path, name), met)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _of_node(value, (*path, index), met)
    elif node.tag == f"{_OF_YAML}int" and _is_no_decimal(node.value):
        yield (
            f"line {node.start_mark.line + 1}: {dotted(path)} is {shown(node.value)[1:-1]}, which "
            f"YAML reads as {yaml.safe_load(node.value)}; write that, or what is meant, as a plain "
            "decimal number"
        )


def _is_no_decimal(number: str) -> bool:
    """Whether YAML 1.1 counts in eights or, with colons, in sixties."""
    digits = number.lstrip("+-")
    return ":" in digits or (len(digits) > 1 and digits[0] == "0" and digits.isdigit())
