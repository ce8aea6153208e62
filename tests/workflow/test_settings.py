"""Mistakes in the configuration: a line each, naming the key and the remedy."""

import copy
import importlib
import math
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config
from toy import shuffled

from diagfim import data, repetitions

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "workflow" / "lib"))
settings = importlib.import_module("settings")
problems, in_order = settings.problems, settings.in_order
archives, contradictions = map(importlib.import_module, ("archives", "contradictions"))

SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"
MAIN = ROOT / "config" / "config.yaml"
GOOD = yaml.safe_load(MAIN.read_text())


def merged(base, change):
    """A copy of a configuration with what a file of the command line changes."""
    config = copy.deepcopy(base)
    update_config(config, change)
    return config


def lines_for(change):
    return problems(merged(GOOD, change), SCHEMA)


@pytest.mark.parametrize("turn", range(5))
def test_the_order_of_keys_says_nothing(turn):
    """But that of networks which the main file has not."""
    mine = {"test_set": False, "data": "b.npz", "weights": ["a"], "factory": "c.py:d"}
    config = merged(GOOD, {"networks": {"sigmoid": None}})
    other = shuffled(config, turn)
    other["networks"] = {"z": mine, **other["networks"], "a": GOOD["networks"]["logsigmoid"]}
    config["networks"] |= {"z": mine, "a": GOOD["networks"]["logsigmoid"]}
    found = in_order(other, SCHEMA, MAIN)
    assert found == config
    assert repr(found) == repr(in_order(config, SCHEMA, MAIN))
    assert list(found["networks"]) == ["sigmoid", "logsigmoid", "z", "a"]
    assert list(found["networks"]["z"]) == ["factory", "weights", "data", "test_set"]
    assert next(iter(in_order(other, SCHEMA, ROOT / "none.yaml")["networks"])) == "z"


def test_the_configurations_of_the_project_are_valid():
    assert problems(GOOD, SCHEMA) == []
    others = set((ROOT / "config").glob("*.yaml")) - {ROOT / "config" / "config.yaml"}
    assert len(others) > 1
    for path in others:
        assert lines_for(yaml.safe_load(path.read_text())) == [], path


@pytest.mark.refused("mistake in the configuration")
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
            "experiments.landscape.datasets[0] is 'cifar'",
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
        ({"networks": {"a b": GOOD["networks"]["sigmoid"]}}, "the name 'a b'", "rename it"),
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


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Files of the configuration are seen from the project."""
    monkeypatch.chdir(ROOT)


@pytest.mark.refused("keys that are valid each, but not together or not with the files there are")
@pytest.mark.parametrize(
    ("change", "key", "remedy"),
    [
        *(
            ({"results": name}, f"results is '{name}'", "belongs to the project itself")
            for name in ("src", "tests/x", "Docs", "config", "workflow/x")
        ),
        ({"results": "README.md"}, "README.md is no folder", "mend the link"),
        ({"results": "LICENSE/x"}, "LICENSE is no folder", "name another one"),
        ({"datasets": {"MNIST": GOOD["datasets"]["mnist"]}}, "mnist, MNIST", "lower case"),
        ({"datasets": {"mnist": {"root": "resources"}}}, "datasets.mnist.root", "write null"),
        ({"networks": {"Sigmoid": GOOD["networks"]["sigmoid"]}}, "sigmoid, Sigmoid", "lower case"),
        (
            {"networks": {"sigmoid": {"hidden": [9000]}}, "joint": {"pool": 10000}},
            "joint.pool is",
            "smaller pool",
        ),
        (
            {"training": {"epochs": 10000}, "replicates": 1000},
            "training.epochs is 10000",
            "fewer epochs",
        ),
        ({"training": {"samples": 100}}, "training.batch_size is 128", "at most training.samples"),
        ({"fixed": {"draws": [5000, 10]}}, "fixed.draws is [5000, 10]", "write [10, 5000]"),
        ({"joint": {"draws": [2000, 20]}}, "joint.draws is [2000, 20]", "ascending"),
        ({"joint": {"epochs": [20, 0]}}, "joint.epochs is [20, 0]", "ascending"),
        *(
            ({"experiments": {name: change}}, f"experiments.{name}.{key}", remedy)
            for name, change, key, remedy in (
                ("toy", {"batch": 5}, "training_points is 256", "a multiple of"),
                ("toy", {"damping": 0.5}, "damping is 0.5", "one of experiments.toy.dampings"),
                ("toy", {"starts": [[1, 0], [1.0000001, 0]]}, "starts is [[1, 0], ", "drop one"),
                ("toy", {"dampings": [1, 0.01]}, "dampings is [1, 0.01]", "write [0.01, 1]"),
                (
                    "toy",
                    {"training_points": 10**6, "training_epochs": 10**4},
                    "training_epochs",
                    "lower",
                ),
                ("regression", {"inputs": 2001}, "inputs is 2001", "pool = 2000"),
                ("regression", {"noise": [1, 0.1]}, "noise is [1, 0.1]", "ascending"),
                ("regression", {"batch_size": 20000}, "batch_size is 20000", "samples = 10000"),
                ("regression", {"repetitions": 10**6}, "repetitions", "lower one of them"),
                (
                    "population",
                    {"tightness_inputs": 500, "inputs": 400},
                    "tightness_inputs",
                    "= 400",
                ),
                ("population", {"epochs": [5, 0]}, "epochs is [5, 0]", "ascending"),
                ("landscape", {"base": {"depth": 4}}, "base.depth is 4", "one of"),
                ("landscape", {"base": {"width": 5}}, "base.width is 5", "16, 64, 128"),
                ("landscape", {"activations": ["tanh", "relu"]}, "activations is", "add one"),
                ("landscape", {"stages": [0]}, "stages is [0]", "an epoch after"),
                ("landscape", {"lenet": {"inputs": 501}}, "lenet.inputs is 501", "= 500"),
                ("landscape", {"kinks": {"inputs": 501}}, "kinks.inputs is 501", "= 500"),
                ("landscape", {"kinks": {"betas": [4, 1]}}, "kinks.betas is [4, 1]", "ascending"),
                ("landscape", {"batch_size": 5000}, "batch_size is 5000", "samples = 4000"),
                ("descent", {"samples": 59000}, "validation is 2000", "60,000 training images"),
                ("descent", {"batch_size": 5000}, "batch_size is 5000", "samples = 2048"),
                ("continual", {"subset": 2001}, "subset is 2001", "inputs = 2000"),
                ("empirical", {"epochs": [0, 30]}, "epochs holds 30", "train longer"),
            )
        ),
    ],
)
def test_a_contradiction_is_one_line(change, key, remedy):
    (line,) = lines_for(change)
    assert line.startswith("config: ")
    assert "\n" not in line
    assert key in line
    assert remedy in line


def test_what_is_switched_off_contradicts_nothing():
    off = {"population": {"enabled": False, "epochs": [30]}, "toy": {"enabled": False, "batch": 5}}
    assert lines_for({"experiments": off}) == []


def test_results_may_lie_on_another_disk(tmp_path, monkeypatch):
    """By a link that the user made; not by one that leads back into the project."""
    (tmp_path / "resources").symlink_to(ROOT / "resources")
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").symlink_to(tmp_path.parent)
    assert lines_for({"results": "results"}) == []
    for target in (tmp_path, tmp_path / "lost", tmp_path / "results", tmp_path / "src"):
        (tmp_path / "results").unlink()
        (tmp_path / "results").symlink_to(target)
        (line,) = lines_for({"results": "results"})
        assert line.startswith("config: results is 'results', ")


def test_every_folder_of_the_project_is_refused_for_results():
    """The list knows of a folder that somebody adds."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    folders = {name.partition("/")[0] for name in listed.stdout.split("\0") if "/" in name}
    assert {"src", "tests", "workflow"} <= folders <= contradictions.OWN


def test_limits_are_those_of_the_package():
    assert contradictions.MOST_BYTES == repetitions.LARGEST
    assert tuple(archives.MNIST_SHA256) == data.FILES


@pytest.mark.refused("number, switch or list that YAML reads as something else")
@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"training": {"learning_rate": "1e-3"}}, "YAML reads this as a text: write 0.001"),
        ({"training": {"learning_rate": "3e-7"}}, "YAML reads this as a text: write 3.0e-07"),
        ({"training": {"epochs": "20"}}, "YAML reads this as a text: write 20"),
        ({"training": {"epochs": 20.0}}, "write 20"),
        ({"training": {"epochs": None}}, "write a value, or leave the key out"),
        ({"training": {"optimiser": "adamw"}}, "did you mean 'adam'?"),
        ({"experiments": {"toy": {"enabled": "yes"}}}, "write true or false"),
        ({"networks": {"sigmoid": {"dropout": True}}}, "change it"),
        ({"networks": {"sigmoid": {"hidden": 128}}}, "write it as a list, in brackets"),
        ({"networks": {"sigmoid": {"activation": "s\u0456gmoid"}}}, "did you mean 'sigmoid'?"),
        ({"datasets": {"mnist": {"kind": "MNST"}}}, "did you mean 'MNIST'?"),
    ],
)
def test_the_remedy_says_what_to_write(change, line):
    (found,) = lines_for(change)
    assert found.endswith("; " + line)
    assert found.isascii()


@pytest.mark.refused("configuration that is no finite tree of keys")
@pytest.mark.parametrize("config", [None, [], [GOOD], "seed: 1", 5, True, math.nan, {1: 2}])
def test_what_is_no_configuration(config):
    lines = problems(config, SCHEMA)
    assert lines
    assert all(line.startswith("config: ") and "\n" not in line for line in lines)


def test_aliases_neither_hang_nor_fill_the_memory():
    bomb = ["x"] * 10
    for _ in range(8):
        bomb = [bomb] * 10
    circle = [1]
    circle.append(circle)
    for draws, said in ((bomb, "more than 500,000 keys and values"), (circle, "more than 12 deep")):
        (line,) = lines_for({"fixed": {"draws": draws}})
        assert said in line


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


@pytest.mark.refused("mistake about a network of one's own")
@pytest.mark.parametrize(
    ("change", "key", "remedy"),
    [
        (own(factory="my_model.py"), "networks.mine.factory is 'my_model.py'", "my_model.py:build"),
        (own(factory="a;b.py:build"), "networks.mine.factory is 'a;b.py:build'", "matching"),
        (own(weights=[]), "networks.mine.weights is []", "with 1 or more entries"),
        (own(weights=["$(x)"]), "networks.mine.weights[0] is '$(x)'", "matching"),
        (own(data="a b.npz"), "networks.mine.data is 'a b.npz'", "matching"),
        (own(hidden=[3]), "unknown key 'networks.mine.hidden'", "known keys: factory"),
        (own(images={"std": 0}), "networks.mine.images.std is 0", "at least 0.000001"),
        (own(), "networks.mine.factory names lost.py", "put the file there"),
        ({"networks": {"sigmoid": None, "logsigmoid": None}}, "networks are all null", "name a"),
    ],
)
def test_mistakes_about_a_network_of_ones_own(change, key, remedy):
    lines = lines_for(change)
    assert key in lines[0]
    assert remedy in lines[0]
    assert all(line.startswith("config: ") and "\n" not in line for line in lines)


def test_every_missing_file_is_named():
    lines = lines_for({"networks": {"mine": OWN}})
    names = ("factory names pyproject.toml.py", "weights names lost.safe", "data names lost.npz")
    assert len(lines) == 3
    assert all(name in line for name, line in zip(names, lines, strict=True))


def test_experiments_on_training_need_a_network_that_is_trained():
    # files that exist; nothing opens them before the run
    mine = {"factory": "src/diagfim/errors.py:build", "weights": "README.md", "data": "README.md"}
    change = copy.deepcopy(ALL_OFF) | {
        "networks": {**ALL_OFF["networks"], "mine": {**mine, "test_set": False}}
    }
    assert lines_for(change) == []
    for section in ("population", "empirical"):
        wanted = merged(change, {"experiments": {section: {"enabled": True}}})
        (line,) = lines_for(wanted)
        assert f"experiments.{section}.enabled is True" in line
    (line,) = lines_for(merged(change, {"benchmark": {"enabled": True}}))
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
