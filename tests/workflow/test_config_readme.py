"""config/README.md says of every key what the schema says, and nothing else."""

import doctest
import importlib
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "workflow" / "lib"))
config_readme = importlib.import_module("config_readme")

PAGE = (ROOT / "config" / "README.md").read_text(encoding="utf-8")
SCHEMA = yaml.safe_load((ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text())


def keys(schema, path=()):
    """Paths of all keys that hold a value, alternatives included."""
    below = dict(schema.get("properties", {}))
    if isinstance(schema.get("additionalProperties"), dict):
        below["<name>"] = schema["additionalProperties"]
    for alternative in {"then", "else"} & set(schema):
        yield from keys(schema[alternative], path)
    for key, one in below.items():
        nested = list(keys(one, (*path, key)))
        yield from nested or [(*path, key)]


def test_it_is_written_from_the_schema():
    study = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    assert config_readme.page(SCHEMA, study) == PAGE, "run `make pages`"


def test_it_has_every_key():
    tables = re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]
    found = set()
    for table in tables:
        title = re.match(r"`([\w.]+)`", table)
        prefix = f"{title[1]}." if title else ""
        found |= {prefix + key for key in re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)}
    wanted = {".".join(path) for path in keys(SCHEMA)}
    assert len(wanted) > 100
    assert found == wanted


def test_a_change_of_the_schema_shows():
    study = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    changed = {**SCHEMA, "properties": {**SCHEMA["properties"]}}
    changed["properties"]["seed"] = {**SCHEMA["properties"]["seed"], "minimum": 7}
    assert "whole number from 7 to" in config_readme.page(changed, study)


def test_its_links_and_files_exist():
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert (ROOT / "config" / target).exists(), target
    listed = set(re.findall(r"^\| `(\w+\.yaml)` \|", PAGE, re.MULTILINE))
    assert listed == {path.name for path in (ROOT / "config").glob("*.yaml")}


def test_examples():
    assert doctest.testmod(config_readme).failed == 0
