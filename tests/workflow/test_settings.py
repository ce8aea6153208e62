"""Mistakes in the configuration: a line each, naming the key and the remedy."""

import copy
import importlib
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "workflow" / "lib"))
problems = importlib.import_module("settings").problems

SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"
GOOD = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())


def merge(base, change):
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = value
    return base


def lines_for(change):
    return problems(merge(copy.deepcopy(GOOD), change), SCHEMA)


def test_the_configurations_of_the_project_are_valid():
    assert problems(GOOD, SCHEMA) == []
    for name in ("smoke", "extended"):
        assert lines_for(yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())) == []


@pytest.mark.parametrize(
    ("change", "key", "remedy"),
    [
        ({"fixed": {"draws": [-5]}}, "fixed.draws[0] is -5", "at least 1"),
        ({"fixed": {"draws": [0.5]}}, "fixed.draws[0] is 0.5", "integer"),
        ({"fixed": {"draws": [10, 10]}}, "fixed.draws is [10, 10]", "without repeats"),
        ({"fixed": {"recorded_draws": 7}}, "fixed.recorded_draws is 7", "one of fixed.draws"),
        ({"fixed": {"repetitions": 1}}, "fixed.repetitions is 1", "at least 4"),
        ({"trainnig": {}}, "unknown key 'trainnig'", "did you mean 'training'?"),
        ({"training": {"epoch": 3}}, "unknown key 'training.epoch'", "did you mean 'epochs'?"),
        ({"training": {"zzz": 3}}, "unknown key 'training.zzz'", "known keys: samples"),
        ({"training": {"learning_rate": 0}}, "training.learning_rate is 0", "above 0"),
        ({"training": {"optimiser": "lion"}}, "training.optimiser is 'lion'", "adam, sgd"),
        ({"training": {"epochs": True}}, "training.epochs is True", "integer"),
        ({"joint": {"epochs": [0, 21]}}, "joint.epochs holds 21", "training.epochs = 20"),
        (
            {"experiments": {"population": {"epochs": [30]}}},
            "experiments.population.epochs holds 30",
            "training.epochs = 20",
        ),
        (
            {"experiments": {"landscape": {"datasets": ["cifar"]}}},
            "experiments.landscape.datasets holds 'cifar'",
            "mnist",
        ),
        ({"training": {"optimiser": "sgd"}}, "training.optimiser is 'sgd'", "train with adam"),
        ({"experiments": {"toys": {}}}, "unknown key 'experiments.toys'", "did you mean 'toy'?"),
        ({"experiments": {"toy": {"enabled": 1}}}, "experiments.toy.enabled is 1", "boolean"),
        ({"replicates": "two"}, "replicates is 'two'", "integer"),
        ({"seed": -1}, "seed is -1", "at least 0"),
        ({"results": "../elsewhere"}, "results is '../elsewhere'", "matching"),
        ({"results": "/tmp/x"}, "results is '/tmp/x'", "matching"),
        ({"results": "a; rm -rf b"}, "results is 'a; rm -rf b'", "matching"),
        ({"networks": {"a b": GOOD["networks"]["sigmoid"]}}, "networks", "change it"),
        ({"networks": {"sigmoid": {"hidden": []}}}, "networks.sigmoid.hidden is []", "1 or more"),
        ({"networks": {"sigmoid": {"dropout": 1}}}, "networks.sigmoid.dropout is 1", "below 1"),
        ({"networks": {"sigmoid": {"dataset": "cifar"}}}, "networks.sigmoid.dataset", "mnist"),
        ({"datasets": {"mnist": {"kind": "CIFAR"}}}, "datasets.mnist.kind is 'CIFAR'", "KMNIST"),
        ({"figures": {"formats": ["png"]}}, "figures.formats is ['png']", "containing pdf"),
        ({"figures": {"formats": ["pdf", "gif"]}}, "figures.formats[1] is 'gif'", "svg"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key_and_the_remedy(change, key, remedy):
    (line,) = lines_for(change)
    assert line.startswith("config: ")
    assert "\n" not in line
    assert key in line
    assert remedy in line


OWN = {
    "factory": "pyproject.toml.py:build",
    "weights": ["README.md", "lost.safetensors"],
    "data": "lost.npz",
    "test_set": False,
}
ALL_OFF = {
    "networks": {"sigmoid": None, "logsigmoid": None},
    "benchmark": {"enabled": False},
    "experiments": {name: {"enabled": False} for name in ("population", "empirical")},
}


def own(**change):
    here = {"factory": "lost.py:build", "weights": "README.md", "data": "README.md"}
    return {"networks": {"mine": OWN | here | change}}


@pytest.mark.parametrize(
    ("change", "key", "remedy"),
    [
        (own(factory="my_model.py"), "networks.mine.factory is 'my_model.py'", "my_model.py:build"),
        (own(factory="a;b.py:build"), "networks.mine.factory is 'a;b.py:build'", "matching"),
        (own(weights=[]), "networks.mine.weights is []", "with 1 or more entries"),
        (own(weights=["$(x)"]), "networks.mine.weights[0] is '$(x)'", "matching"),
        (own(data="a b.npz"), "networks.mine.data is 'a b.npz'", "matching"),
        (own(hidden=[3]), "unknown key 'networks.mine.hidden'", "known keys: factory"),
        (own(images={"std": 0}), "networks.mine.images.std is 0", "above 0"),
        (own(), "networks.mine.factory names lost.py", "put the file there"),
        ({"networks": {"sigmoid": None, "logsigmoid": None}}, "networks are all null", "name a"),
    ],
)
def test_mistakes_about_a_network_of_ones_own(change, key, remedy, monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = lines_for(change)
    assert key in lines[0]
    assert remedy in lines[0]
    assert all(line.startswith("config: ") and "\n" not in line for line in lines)


def test_every_missing_file_is_named(monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = lines_for({"networks": {"mine": OWN}})
    names = ("factory names pyproject.toml.py", "weights names lost.safe", "data names lost.npz")
    assert len(lines) == 3
    assert all(name in line for name, line in zip(names, lines, strict=True))


def test_experiments_on_training_need_a_network_that_is_trained(monkeypatch):
    monkeypatch.chdir(ROOT)
    # files that exist; nothing opens them before the run
    mine = {"factory": "src/diagfim/errors.py:build", "weights": "README.md", "data": "README.md"}
    change = copy.deepcopy(ALL_OFF) | {
        "networks": {**ALL_OFF["networks"], "mine": {**mine, "test_set": False}}
    }
    assert lines_for(change) == []
    for section in ("population", "empirical"):
        wanted = merge(copy.deepcopy(change), {"experiments": {section: {"enabled": True}}})
        (line,) = lines_for(wanted)
        assert f"experiments.{section}.enabled is True" in line
    (line,) = lines_for(merge(copy.deepcopy(change), {"benchmark": {"enabled": True}}))
    assert "benchmark.enabled is True" in line


def test_a_missing_key_is_named():
    config = copy.deepcopy(GOOD)
    del config["training"]["epochs"]
    assert problems(config, SCHEMA) == ["config: key 'training.epochs' is missing; add it"]


def test_every_key_is_described():
    def undescribed(schema, path):
        for name, child in schema.get("properties", {}).items():
            if "description" not in child:
                yield f"{path}.{name}"
            yield from undescribed(child, f"{path}.{name}")
        for key in ("additionalProperties", "then", "else"):
            if isinstance(schema.get(key), dict):
                yield from undescribed(schema[key], f"{path}.*")

    assert list(undescribed(yaml.safe_load(SCHEMA.read_text()), "")) == []
