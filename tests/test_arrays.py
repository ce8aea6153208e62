"""Files: what is written is read back, labelled, and never left half written."""

import hashlib
import json
import platform

import netCDF4
import numpy as np
import pytest
import xarray as xr

import diagfim
from diagfim import arrays
from diagfim.errors import UserError
from diagfim.origin import origin

CONFIG = {"seed": 3, "network": {"hidden": [4, 3], "activation": "sigmoid"}}
VALUES = {
    "dense1.weight": {"fisher": np.arange(24.0).reshape(2, 4, 3), "variance_1": np.ones((2, 4, 3))},
    "dense1.bias": {"fisher": np.arange(8.0).reshape(2, 4), "variance_1": np.ones((2, 4))},
}


def groups():
    layers = {
        "dense1.weight": {"fisher": np.array([1.0, 2.0])},
        "dense2.weight": {"fisher": np.array([3.0, 4.0])},
    }
    return {
        **arrays.parameter_groups(VALUES, ["epoch"]),
        "layers": arrays.layer_group(layers, ["epoch"]),
        "/": xr.Dataset({"loss": ("epoch", [0.5, 0.25])}, coords={"epoch": [0, 5]}),
    }


def images():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    return {
        "train": xr.Dataset(
            {"images": (("sample", "row", "column"), pixels), "labels": ("sample", [1, 2, 3])}
        )
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results" / "file.nc"


def write(path, content=None, **changes):
    options = {"title": "A test", "config": CONFIG, "about": origin("abc-dirty", 3), **changes}
    arrays.write(path, content or groups(), **options)


# ------------------------------------------------------------------------------- round trip


def test_values_and_coordinates_are_read_back(path):
    write(path)
    with arrays.read(path) as tree:
        for name, quantities in VALUES.items():
            found = tree[f"parameters/{name}"]
            assert set(found.data_vars) == set(quantities)
            for quantity, value in quantities.items():
                assert np.array_equal(found[quantity], value)
                assert found[quantity].dtype == value.dtype
        assert tree["parameters/dense1.weight"]["fisher"].dims == ("epoch", "unit", "fan_in")
        assert tree["parameters/dense1.bias"]["fisher"].dims == ("epoch", "unit")
        assert tree["layers/layer"].values.tolist() == ["dense1", "dense2"]
        assert tree["layers"]["fisher"].dims == ("layer", "epoch")
        assert tree["layers"]["fisher"].sel(layer="dense2", epoch=5) == 4.0
        assert tree["epoch"].values.tolist() == [0, 5]
    assert [one.name for one in path.parent.iterdir()] == ["file.nc"]


def test_integers_are_read_back_as_they_were(path):
    write(path, images())
    with arrays.read(path) as tree:
        assert tree["train/images"].dtype == np.uint8
        assert np.array_equal(tree["train/images"], images()["train"]["images"])


def test_not_a_number_is_read_back(path):
    write(path, {"/": xr.Dataset({"loss": ("epoch", [np.nan, 1.0])})})
    with arrays.read(path) as tree:
        assert np.array_equal(tree["loss"], [np.nan, 1.0], equal_nan=True)


def test_writing_leaves_the_groups_as_they_were(path):
    content = groups()
    write(path, content)
    for name, one in groups().items():
        xr.testing.assert_identical(content[name], one)


def test_same_content_twice_gives_the_same_values(path):
    write(path)
    write(path, {"/": xr.Dataset({"loss": ("epoch", [1.0])})})
    with arrays.read(path) as tree:
        assert tree["loss"].values.tolist() == [1.0]
        assert not tree.children


# ------------------------------------------------------------------------------- attributes


def test_provenance(path):
    write(path)
    with arrays.read(path) as tree:
        attributes = tree.attrs
    assert json.loads(attributes["config"]) == CONFIG
    digest = hashlib.sha256(attributes["config"].encode()).hexdigest()
    assert attributes["config_sha256"] == digest
    assert attributes["title"] == "A test"
    assert attributes["source"] == f"diagfim {diagfim.__version__}, commit abc-dirty"
    assert attributes["seed"] == "3"
    assert f"numpy {np.__version__}" in attributes["packages"].split(", ")
    assert platform.machine() in attributes["host"]
    assert platform.node() not in attributes["host"]
    assert attributes["Conventions"].startswith("CF-1.")


def test_hash_of_the_configuration_ignores_the_order_of_its_keys(path):
    digests = set()
    for config in ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}):
        write(path, config=config)
        with arrays.read(path) as tree:
            digests.add(tree.attrs["config_sha256"])
    assert len(digests) == 1


def test_every_variable_has_a_name_and_a_unit(path):
    write(path, {**groups(), **images()})
    with netCDF4.Dataset(path) as file:
        seen = {}
        pending = [file]
        while pending:
            group = pending.pop()
            pending += group.groups.values()
            for name, variable in group.variables.items():
                if name not in group.dimensions:  # coordinates name themselves
                    seen[name] = variable.units
                    assert variable.long_name == arrays.LONG_NAMES[name]
    assert seen == {
        "fisher": "1",
        "variance_1": "1",
        "loss": "nat",
        "images": "grey level",
        "labels": "class",
    }


def test_every_unit_belongs_to_a_known_variable():
    assert set(arrays.UNITS) <= set(arrays.LONG_NAMES)


def test_variable_without_a_long_name(path):
    with pytest.raises(KeyError, match="novel"):
        write(path, {"/": xr.Dataset({"novel": ("epoch", [1.0])})})
    assert not path.exists()


# ---------------------------------------------------------------------------- whole or nothing


class Unwritable:
    """What netCDF cannot hold: the failure comes after the file was opened."""


@pytest.mark.parametrize("existing", [True, False])
def test_failure_while_writing_leaves_no_target_and_no_change(path, existing):
    if existing:
        write(path)
    before = path.read_bytes() if existing else None
    bad = xr.Dataset({"loss": ("epoch", np.array([Unwritable(), Unwritable()]))})
    with pytest.raises((TypeError, ValueError)):
        write(path, {**groups(), "zz": bad})
    assert path.exists() == existing
    assert not existing or path.read_bytes() == before


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, -1])
def test_truncated_file_is_refused_in_one_line(path, kept):
    write(path, images())
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept >= 0 else kept])
    with pytest.raises(UserError) as refusal:
        arrays.read(path)
    assert str(refusal.value).startswith(f"{path}: not a readable netCDF file")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [None, b"text, not netCDF"], ids=["missing", "text"])
def test_other_files_are_refused_in_one_line(path, content):
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as refusal:
        arrays.read(path)
    assert str(refusal.value).startswith(f"{path}: not a readable netCDF file")
    assert "\n" not in str(refusal.value)


# ----------------------------------------------------------------------------------- labels


def test_stack_puts_the_new_axis_first():
    one = {"w": {"fisher": np.zeros((2, 3))}, "b": {"fisher": np.zeros(2)}}
    two = {name: {key: value + 1 for key, value in group.items()} for name, group in one.items()}
    found = arrays.stack([one, two, two])
    assert found["w"]["fisher"].shape == (3, 2, 3)
    assert found["b"]["fisher"].tolist() == [[0, 0], [1, 1], [1, 1]]


@pytest.mark.parametrize("number", range(7))
def test_dimensions_of_a_parameter(number):
    names = arrays.parameter_dimensions(number)
    assert len(names) == len(set(names)) == number


def test_a_dense_weight_is_units_by_fan_in_and_its_bias_by_units():
    assert arrays.parameter_dimensions(2) == ("unit", "fan_in")
    assert arrays.parameter_dimensions(1) == ("unit",)
