"""Networks, weights and data from files: what is read, and what is refused in which words."""

import pickle
import sys
import textwrap

import netCDF4
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import diagfim
from diagfim.errors import UserError
from diagfim.loading import build_model, load_weights, open_data


def refused(message, call, *arguments, **options):
    """The line of a refusal, which has to have this in it."""
    with pytest.raises(UserError, match=message) as refusal:
        call(*arguments, **options)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


# ------------------------------------------------------------------------------------- factories

GOOD = """
from torch import nn

def build():
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2))
"""


def written(tmp_path, text, name="my_model.py"):
    path = tmp_path / name
    path.write_text(textwrap.dedent(text))
    return path


def test_a_file_and_a_module_give_the_same_network_in_eval_mode(tmp_path, monkeypatch):
    path = written(tmp_path, GOOD, "network_of_this_test.py")
    monkeypatch.chdir(tmp_path)
    for factory in (f"{path}:build", "network_of_this_test.py:build", "network_of_this_test:build"):
        model = build_model(factory)
        assert [type(one).__name__ for one in model] == ["Linear", "Dropout", "Linear"]
        assert not any(one.training for one in model.modules())
    del sys.modules["network_of_this_test"]


def test_a_file_imports_its_neighbours_while_it_is_read_and_called_and_no_longer(tmp_path):
    written(tmp_path, "WIDTH = 5", "neighbour_at_import.py")
    written(tmp_path, "HEIGHT = 7", "neighbour_at_call.py")
    path = written(
        tmp_path,
        """
        from torch import nn
        from neighbour_at_import import WIDTH

        def build():
            from neighbour_at_call import HEIGHT
            return nn.Linear(HEIGHT, WIDTH)
        """,
    )
    before = list(sys.path)
    assert build_model(f"{path}:build").weight.shape == (5, 7)
    assert sys.path == before
    for name in ("neighbour_at_import", "neighbour_at_call"):
        del sys.modules[name]


def test_files_of_one_name_are_told_apart_and_hide_no_module(tmp_path):
    for width in (2, 3):
        (tmp_path / str(width)).mkdir()
        text = f"from torch import nn\ndef build():\n    return nn.Linear(1, {width})\n"
        (tmp_path / str(width) / "json.py").write_text(text)
    import json

    widths = [build_model(f"{tmp_path}/{width}/json.py:build").out_features for width in (2, 3, 2)]
    assert widths == [2, 3, 2]
    assert sys.modules["json"] is json


def test_dataclasses_of_a_file_work(tmp_path):
    # They look their module up in sys.modules while they are made.
    path = written(
        tmp_path,
        """
        from __future__ import annotations
        from dataclasses import dataclass, field
        from torch import nn

        @dataclass
        class Settings:
            width: int = field(default=6)

        def build():
            return nn.Linear(2, Settings().width)
        """,
    )
    assert build_model(f"{path}:build").out_features == 6


BAD_FACTORIES = {
    "SyntaxError": (
        "def build(:\n",
        r"cannot be imported: SyntaxError: .* \(my_model.py, line 1\)",
    ),
    "missing import": (
        "import torch\nimport there_is_no_such_module\n",
        r"ModuleNotFoundError: No module named 'there_is_no_such_module' \(my_model.py, line 2\)",
    ),
    "raises at import": ("raise RuntimeError('two\\nlines')\n", r"two lines \(my_model.py, line 1"),
    "leaves at import": ("import sys\nsys.exit(3)\n", r"SystemExit: 3 \(my_model.py, line 2\)"),
    "misspelt": ("def build_net(): ...\n", "no 'build' in .*my_model.py; did you mean 'build_net'"),
    "others": ("def network(): ...\ndef other(): ...\n", "no 'build' in .*; it has network, other"),
    "none at all": ("from os import path\n", "it defines no function at all"),
    "arguments": (
        "def build(width, *, depth, act='tanh'): ...\n",
        "needs the arguments width, depth",
    ),
    "a module": (
        "from torch import nn\nbuild = nn.Linear(1, 1)\n",
        r"build is a Linear, not a function; .* def build\(\): return build",
    ),
    "a number": ("build = 3\n", "build is a int, not a function"),
    "returns None": ("def build(): ...\n", "it returned a NoneType; expected a torch.nn.Module"),
    "returns a class": (
        "from torch import nn\ndef build(): return nn.Linear\n",
        "it returned a type; expected",
    ),
    "raises": (
        "def inner():\n    return 1 / 0\n\ndef build():\n    return inner()\n",
        r"it failed: ZeroDivisionError: division by zero \(my_model.py, line 2\)",
    ),
    "torch raises": (
        "from torch import nn\ndef build():\n    return nn.Linear(2, 'x')\n",
        r"it failed: TypeError: .* \(my_model.py, line 3\)",
    ),
}


@pytest.mark.refused("function that returns no network")
@pytest.mark.parametrize(("text", "message"), BAD_FACTORIES.values(), ids=BAD_FACTORIES.keys())
def test_bad_factories_are_refused_in_one_line(tmp_path, text, message):
    path = written(tmp_path, text)
    modules, paths = set(sys.modules), list(sys.path)
    said = refused(message, build_model, f"{path}:build")
    assert said.startswith(str(path))
    assert sys.path == paths
    if "cannot be imported" in said:
        assert set(sys.modules) == modules


@pytest.mark.refused("network without a file or a function")
@pytest.mark.parametrize("factory", ["my_model.py", "my_model.py:", ":build", ""])
def test_a_factory_needs_a_file_and_a_function(factory):
    refused("names no function; .* such as my_model.py:build", build_model, factory)


def test_a_missing_file_and_a_missing_module(tmp_path):
    refused("there is no such file", build_model, f"{tmp_path}/none.py:build")
    refused("install it, or name a file", build_model, "there_is_no_such_package.models:build")
    refused("No module named 'torch.no_such'", build_model, "torch.no_such:build")


# --------------------------------------------------------------------------------------- weights


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))


def saved(tmp_path, change=lambda state: state, name="w.safetensors"):
    """Weights of another network of the same shape, changed."""
    torch.manual_seed(1)
    state = {name: value.clone() for name, value in small().state_dict().items()}
    for name_of, value in state.items():
        if value.is_floating_point():
            state[name_of] = torch.rand_like(value)
    save_file(change(state), tmp_path / name)
    return tmp_path / name


def same(model, state):
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_parameters_and_buffers_are_loaded_in_eval_mode(tmp_path):
    kept = {}
    path = saved(tmp_path, lambda state: kept.update(state) or state)
    model = load_weights(small().train(), path)
    assert same(model, kept)
    assert not model.training


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("wanted", [torch.float32, torch.float64])
def test_shorter_floats_are_taken_over_exactly(tmp_path, stored, wanted):
    kept = {}

    def change(state):
        for name, value in state.items():
            kept[name] = value.to(stored) if value.is_floating_point() else value
        return kept

    model = load_weights(small().to(wanted), saved(tmp_path, change))
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            assert value.dtype == wanted
            assert torch.equal(value.to(stored), kept[name])  # stored floats are some of wanted
            assert torch.equal(value, kept[name].to(wanted))


def test_float64_is_rounded_unless_it_does_not_fit(tmp_path):
    third = torch.full((2,), 1 / 3, dtype=torch.float64)
    model = load_weights(small(), saved(tmp_path, lambda state: state | {"3.bias": third}))
    assert torch.equal(model[3].bias, third.float())
    path = saved(tmp_path, lambda state: state | {"3.bias": third * 1e300})
    refused(
        "3.bias holds values beyond float32; let the network be float64", load_weights, model, path
    )
    assert torch.equal(load_weights(small().double(), path)[3].bias, third * 1e300)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(3, 3), nn.Linear(3, 3)
        self.out.weight = self.into.weight

    def forward(self, x):
        return self.out(self.into(x))


@pytest.mark.parametrize("kept", ["into.weight", "out.weight"])
def test_one_name_of_a_tied_tensor_is_enough(tmp_path, kept):
    values = {kept: torch.rand(3, 3), "into.bias": torch.rand(3), "out.bias": torch.rand(3)}
    save_file(values, tmp_path / "w.safetensors")
    model = load_weights(Tied(), tmp_path / "w.safetensors")
    assert torch.equal(model.into.weight, values[kept])
    assert model.into.weight is model.out.weight
    del values[kept]
    save_file(values, tmp_path / "w.safetensors")
    said = refused("is missing", load_weights, Tied(), tmp_path / "w.safetensors")
    assert "into.weight" in said
    assert "out.weight" in said


def test_the_count_of_batches_may_be_missing_but_no_other_buffer(tmp_path):
    def without(*names):
        return saved(
            tmp_path, lambda state: {n: v for n, v in state.items() if n.split(".")[1] not in names}
        )

    load_weights(small(), without("num_batches_tracked"))
    path = without("num_batches_tracked", "running_var")
    refused(
        r"tensor 1.running_var is missing, the network expects shape \(4,\); use weights",
        load_weights,
        small(),
        path,
    )


def renamed(prefix):
    return lambda state: {prefix + name: value for name, value in state.items()}


def one_value(name, value):
    def change(state):
        state[name].view(-1)[0] = value
        return state

    return change


BAD_WEIGHTS = {
    "every fault by name": (
        lambda state: (
            {"3.bias": torch.zeros(5), "extra": torch.zeros(1, 2)}
            | {n: v for n, v in state.items() if n not in ("3.bias", "0.weight")}
        ),
        r"tensor 0.weight is missing, the network expects shape \(4, 3\); "
        r"tensor 3.bias has shape \(5,\), the network expects \(2,\); "
        r"tensor extra \(1, 2\) is not in the network; use weights of this network",
    ),
    "module.": (renamed("module."), r"every name of the file begins with 'module\.'"),
    "model.net.": (renamed("model.net."), r"removeprefix\('model\.net\.'\)"),
    "many": (renamed("x"), r"and \d+ more; use weights"),
    "NaN": (one_value("3.weight", torch.nan), "tensor 3.weight holds NaN or infinity"),
    "infinity": (one_value("1.running_var", torch.inf), "tensor 1.running_var holds NaN or inf"),
    "quantised": (
        lambda state: state | {"0.bias": torch.zeros(4, dtype=torch.int8)},
        "tensor 0.bias is int8, the network expects float32",
    ),
    "no numbers": (lambda state: {"0.bias": torch.zeros(4)}, "tensor 0.weight is missing"),
}


@pytest.mark.refused("weights that are another network's, or no numbers")
@pytest.mark.parametrize(("change", "message"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS.keys())
def test_bad_weights_are_refused_and_change_nothing(tmp_path, change, message):
    path, model = saved(tmp_path, change), small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert refused(message, load_weights, model, path).startswith(f"{path}: ")
    assert same(model, before)


def test_a_prefix_of_the_network_alone_is_told(tmp_path):
    wrapped = nn.Sequential(small())
    said = refused(
        "every name of the network begins with '0.'", load_weights, wrapped, saved(tmp_path)
    )
    assert "{'0.' + name: value" in said


@pytest.mark.refused("pickled weights")
@pytest.mark.parametrize("ending", [".pt", ".pth", ".bin", ".ckpt", ".PT"])
def test_pickles_are_refused_by_name_and_never_opened(tmp_path, ending):
    class Mark:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    path = tmp_path / f"weights{ending}"
    path.write_bytes(pickle.dumps(Mark()))
    refused(
        "a pickle, which is never opened .* safetensors.torch.save_file",
        load_weights,
        small(),
        path,
    )
    path = path.rename(tmp_path / "weights.safetensors")
    refused("not a readable safetensors file", load_weights, small(), path)
    assert not (tmp_path / "executed").exists()


def test_the_conversion_that_the_refusal_of_a_pickle_names_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import safetensors.torch

    torch.save(small().state_dict(), "w.pt")
    said = refused("convert it once", load_weights, nn.Sequential(), "w.pt")
    code = said.partition("convert it once: ")[2].replace("w.pt", "'w.pt'")
    path = "'w.pt'"
    exec(code.replace("path", path), {"safetensors": safetensors, "torch": torch})
    assert same(load_weights(nn.Sequential(*small()), "w.safetensors"), small().state_dict())


def test_missing_weights(tmp_path):
    refused(r"\(there is no such file\)", load_weights, small(), tmp_path / "w.safetensors")


# ------------------------------------------------------------------------------------------ data

RNG = np.random.default_rng(0)
X = RNG.normal(size=(7, 3)).astype(np.float32)
Y = RNG.integers(0, 4, 7)


def npz(path, **named):
    np.savez(path, **named)
    return path


def netcdf(path, **named):
    with netCDF4.Dataset(path, "w") as file:
        for name, values in named.items():
            values = np.asarray(values)
            dims = [f"{name}_{k}" for k in range(values.ndim)]
            for dim, length in zip(dims, values.shape, strict=True):
                file.createDimension(dim, length)
            endian = {">": "big"}.get(values.dtype.byteorder, "native")
            file.createVariable(name, values.dtype, dims, endian=endian)[...] = values
    return path


WRITERS = {"npz": npz, "nc": netcdf}


@pytest.fixture(params=WRITERS)
def write(request, tmp_path):
    return lambda **named: WRITERS[request.param](tmp_path / f"d.{request.param}", **named)


def test_arrays_in_pieces(write):
    samples = open_data(write(inputs=X, labels=Y))
    assert len(samples) == 7
    assert samples.labelled
    found = list(samples.batches(3, 1))
    assert [len(x) for x, _ in found] == [3, 3]
    assert torch.equal(torch.cat([x for x, _ in found]), torch.from_numpy(X[1:]))
    assert torch.equal(torch.cat([y for _, y in found]), torch.from_numpy(Y[1:]))
    assert samples.batches(3, 1, 5).total == 4
    batches = samples.batches(5)
    assert [len(x) for x, _ in batches] == [len(x) for x, _ in batches] == [5, 2]  # read anew


@pytest.mark.parametrize(
    "positions", [[5], [0, 1, 2], [6, 2, 2, 3, 0], range(1, 6), range(6, 0, -2)]
)
def test_samples_at_any_positions(write, positions):
    samples = open_data(write(inputs=X, labels=Y))
    assert torch.equal(samples.take(positions), torch.from_numpy(X[list(positions)]))
    assert torch.equal(samples.labels(positions), torch.from_numpy(Y[list(positions)]))
    assert torch.equal(samples.labels(), torch.from_numpy(Y))


DTYPES = {
    "float32": torch.float32,
    ">f4": torch.float32,
    "float64": torch.float64,
    "uint8": torch.int64,
    "int16": torch.int64,
    "uint16": torch.int64,
    ">i4": torch.int64,
    "uint64": torch.int64,
}
NUMPY_ALONE = {"float16": torch.float16, "longdouble": torch.float64}


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*((k, d) for k in WRITERS for d in DTYPES), *(("npz", d) for d in NUMPY_ALONE)],
)
def test_floats_stay_and_integers_become_int64(tmp_path, kind, dtype):
    values = np.arange(12).reshape(4, 3)
    path = WRITERS[kind](tmp_path / f"d.{kind}", inputs=values.astype(dtype))
    found = open_data(path).take(range(4))
    assert found.dtype == (DTYPES | NUMPY_ALONE)[dtype]
    assert found.tolist() == values.tolist()


def test_a_single_array_needs_no_name(write):
    samples = open_data(write(pictures=X))
    assert torch.equal(samples.take(range(7)), torch.from_numpy(X))
    assert not samples.labelled
    assert samples.labels() is None
    assert [y for _, y in samples.batches(4)] == [None, None]


def test_targets_may_be_real_and_several(write):
    targets = RNG.normal(size=(7, 2))
    assert torch.equal(
        open_data(write(inputs=X, labels=targets)).labels(), torch.from_numpy(targets)
    )


def test_what_is_read_is_the_callers_own(write):
    samples = open_data(write(inputs=X))
    samples.take(range(7)).zero_()
    assert torch.equal(samples.take(range(7)), torch.from_numpy(X))


def test_images_in_arrays_are_scaled_if_asked(write):
    images = RNG.integers(0, 256, (5, 3, 4, 6), dtype=np.uint8)
    path = write(inputs=images)
    assert torch.equal(open_data(path).take(range(5)), torch.from_numpy(images.astype(np.int64)))
    plain = open_data(path, std=1).take(range(5))
    assert torch.equal(plain, torch.from_numpy(images.astype(np.float32)) / 255)
    mean, std = [0.1, 0.2, 0.3], [0.5, 1, 2]
    scaled = open_data(path, mean=mean, std=std).take(range(5))
    for c in range(3):
        assert torch.allclose(scaled[:, c], (plain[:, c] - mean[c]) / std[c], rtol=1e-6)


def test_netcdf_is_read_a_piece_at_a_time(tmp_path, monkeypatch):
    path = netcdf(tmp_path / "d.nc", inputs=X, labels=Y)
    samples = open_data(path)
    sizes = []
    original = type(samples)._slice
    monkeypatch.setattr(
        type(samples),
        "_slice",
        lambda self, kind, variable, at: (
            sizes.append(len(at)) or original(self, kind, variable, at)
        ),
    )
    assert sum(len(x) for x, _ in samples.batches(2)) == 7
    assert max(sizes) == 2


def test_packed_netcdf_is_unpacked(tmp_path):
    with netCDF4.Dataset(tmp_path / "d.nc", "w") as file:
        file.createDimension("n", 3)
        packed = file.createVariable("inputs", "i2", ("n",))
        packed.scale_factor, packed.add_offset = np.float32(0.5), np.float32(1)
        packed.set_auto_scale(False)
        packed[:] = [0, 2, 4]
    assert open_data(tmp_path / "d.nc").take(range(3)).tolist() == [1, 2, 3]


def test_missing_values_of_netcdf_are_not_taken_for_numbers(tmp_path):
    with netCDF4.Dataset(tmp_path / "d.nc", "w") as file:
        file.createDimension("n", 5)
        file.createVariable("inputs", "f4", ("n",))[:3] = [1, 2, 3]  # the others stay unwritten
    samples = open_data(tmp_path / "d.nc")
    assert samples.take([0, 2]).tolist() == [1, 3]
    refused(r"inputs\[3\] has missing values", samples.take, range(1, 5))


def at(values, position, value):
    changed = values.astype(float)
    changed[position] = value
    return changed


BAD_ARRAYS = {
    "no inputs": ({"x": X, "labels": Y}, "no array named 'inputs'; it has 'x', 'labels'"),
    "labels alone": ({"labels": Y}, "no array named 'inputs'; it has 'labels'"),
    "fewer labels": ({"inputs": X, "labels": Y[:4]}, "4 labels beside 7 inputs"),
    "no input": ({"inputs": X[:0]}, "no input in it"),
    "a number": ({"inputs": np.float32(3)}, "inputs are a single number"),
    "NaN": ({"inputs": at(X, (5, 1), np.nan)}, r"inputs\[5\] holds NaN or infinity"),
    "infinity": ({"inputs": at(X, (2, 0), -np.inf)}, r"inputs\[2\] holds NaN or infinity"),
    "NaN label": ({"inputs": X, "labels": at(Y, 3, np.nan)}, r"labels\[3\] holds NaN or infinity"),
    "beyond int64": ({"inputs": np.full((3, 2), 2**63, np.uint64)}, "beyond 64 bits with sign"),
}


@pytest.mark.refused("arrays that are no data")
@pytest.mark.parametrize(("arrays", "message"), BAD_ARRAYS.values(), ids=BAD_ARRAYS.keys())
def test_bad_arrays_are_refused_by_name(write, arrays, message):
    path = write(**arrays)

    def read():
        for _ in open_data(path).batches(2):
            pass

    assert refused(message, read).startswith(f"{path}: ")


def test_text_is_refused(tmp_path):
    with netCDF4.Dataset(tmp_path / "d.nc", "w") as file:
        file.createDimension("n", 2)
        file.createVariable("inputs", str, ("n",))
    npz(tmp_path / "d.npz", inputs=np.array([["a"], ["b"]]))
    for name in ("d.nc", "d.npz"):
        refused("inputs are of dtype .*; expected floating", open_data, tmp_path / name)


def test_complex_numbers_and_truth_values_are_refused(tmp_path):
    for values in (X.astype(complex), X > 0):
        refused(
            "expected floating-point numbers or integers",
            open_data,
            npz(tmp_path / "d.npz", inputs=values),
        )


@pytest.mark.refused("pickled objects in an npz file")
def test_pickled_objects_in_a_npz_file_are_never_opened(tmp_path):
    class Mark:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    objects = np.empty(2, dtype=object)
    objects[:] = [Mark(), Mark()]
    refused("holds pickled objects", open_data, npz(tmp_path / "d.npz", inputs=objects))
    (tmp_path / "e.npz").write_bytes(pickle.dumps(Mark()))
    refused("holds pickled objects", open_data, tmp_path / "e.npz")
    assert not (tmp_path / "executed").exists()


@pytest.mark.refused("truncated npz and netCDF files of data")
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_damaged_files_are_refused_by_name(write, kept):
    path = write(inputs=np.zeros((500, 30)), labels=np.zeros(500))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    kind = "npz" if path.suffix == ".npz" else "netCDF"
    said = refused(f"not a readable .?{kind} file", open_data, path)
    assert said.startswith(str(path))


def test_a_flipped_byte_in_a_npz_file_is_found(tmp_path):
    path = npz(tmp_path / "d.npz", inputs=np.zeros((500, 30)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused("not a readable .npz file", open_data, path)


def test_paths_and_options_that_cannot_be(tmp_path, write):
    path = write(inputs=X)
    refused("there is no such file or folder; give a .npz file", open_data, tmp_path / "no.npz")
    (tmp_path / "d.csv").write_text("1,2")
    refused("of no known kind; give a .npz file, a netCDF file", open_data, tmp_path / "d.csv")
    refused("size: .* is no folder of images", open_data, path, size=3)
    refused("std: 0 is not positive", open_data, path, std=0)
    refused("mean: nan is not finite", open_data, path, mean=float("nan"))
    refused("mean: 2 values for the 3 channels", open_data(path, mean=[0, 1]).take, [0])
    samples = open_data(path)
    refused("it has 7 inputs, and none at 7", samples.take, [0, 7])
    refused("it has 7 inputs, and none at -1", samples.take, [-1])
    refused("no position was given", samples.take, [])
    for arguments in ((2, 0, 8), (2, 3, 3), (2, -1, 3), (0,)):
        refused("were asked for; it has 7", samples.batches, *arguments)
    whole_numbers = npz(tmp_path / "whole.npz", inputs=np.arange(6).reshape(3, 2))
    refused("mean, std: .* holds int64", open_data(whole_numbers, mean=1).take, [0])


# ---------------------------------------------------------------------------------------- images


def picture(path, height=4, width=6, mode="RGB", seed=0):
    rng = np.random.default_rng(seed)
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    values = rng.integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return values


def test_a_flat_folder_in_the_order_of_names(tmp_path):
    values = [
        picture(tmp_path / name, seed=k) for k, name in enumerate(("a.png", "b.bmp", "c.PNG"))
    ]
    (tmp_path / "notes.txt").write_text("passed over")
    (tmp_path / ".hidden.png").write_bytes(b"")
    samples = open_data(tmp_path)
    assert len(samples) == 3
    assert not samples.labelled
    found = samples.take([0, 1, 2])
    assert found.shape == (3, 3, 4, 6)
    assert found.dtype == torch.float32
    expected = torch.from_numpy(np.stack(values)).permute(0, 3, 1, 2) / 255
    assert torch.equal(found, expected)


def test_a_folder_for_every_class(tmp_path):
    for k, name in enumerate(("zebra/1.png", "zebra/0.png", "ape/x.png", "cat/y.jpg")):
        picture(tmp_path / name, seed=k)
    samples = open_data(tmp_path)
    assert samples.classes == ("ape", "cat", "zebra")
    assert samples.labels().tolist() == [0, 1, 2, 2]
    assert samples.labels([3, 0]).tolist() == [2, 0]
    assert [y.tolist() for _, y in samples.batches(3)] == [[0, 1, 2], [2]]


def test_grey_images_and_palettes_become_rgb(tmp_path):
    grey = picture(tmp_path / "a.png", mode="L")
    Image.fromarray(picture(tmp_path / "tmp.png")).quantize(4).save(tmp_path / "b.png")
    (tmp_path / "tmp.png").unlink()
    found = open_data(tmp_path).take([0, 1])
    assert torch.equal(found[0], torch.from_numpy(grey).expand(3, -1, -1) / 255)
    assert found[1].shape == (3, 4, 6)


def test_sizes_are_height_and_width_and_stretch_the_image(tmp_path):
    image = np.zeros((8, 12, 3), np.uint8)
    image[:, 6:] = 255  # the right half is white
    Image.fromarray(image).save(tmp_path / "a.png")
    picture(tmp_path / "b.png", 5, 5)
    samples = open_data(tmp_path, size=(2, 4))
    found = samples.take([0, 1])
    assert found.shape == (2, 3, 2, 4)
    # A bilinear filter blurs over a pixel, so that the outer ones stay what they were.
    assert found[0, :, :, 0].max() == 0
    assert found[0, :, :, 3].min() == 1
    assert open_data(tmp_path, size=3).take([0]).shape == (1, 3, 3, 3)


def test_normalised_images(tmp_path):
    picture(tmp_path / "a.png")
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    plain = open_data(tmp_path).take([0])
    found = open_data(tmp_path, mean=mean.tolist(), std=std.tolist()).take([0])
    expected = (plain - mean[:, None, None]) / std[:, None, None]
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_images_of_several_sizes_need_a_size(tmp_path):
    picture(tmp_path / "a.png", 4, 6)
    picture(tmp_path / "b.png", 5, 6)
    said = refused(
        "an image of 5 by 6 pixels, but the first one is of 4 by 6", open_data(tmp_path).take, [1]
    )
    assert said.startswith(str(tmp_path / "b.png"))
    assert "--size" in said


def test_images_that_cannot_be_read_are_named(tmp_path):
    picture(tmp_path / "a.png", 40, 40)
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "c.png").write_bytes(b"no image")
    Image.fromarray(np.full((40, 40), 30000, np.uint16)).save(tmp_path / "d.png")
    samples = open_data(tmp_path)
    for k, name in ((1, "b.png"), (2, "c.png")):
        said = refused("not a readable image", samples.take, [k])
        assert said.startswith(str(tmp_path / name))
    refused("d.png: pixels of more than 8 bits", samples.take, [3])


def test_folders_that_are_no_data(tmp_path):
    refused("no image in it; expected .bmp, ", open_data, tmp_path)
    (tmp_path / "dog").mkdir()
    refused("dog: no image in it; remove the folder", open_data, tmp_path)
    picture(tmp_path / "dog" / "1.png")
    picture(tmp_path / "2.png")
    refused("holds images and folders both", open_data, tmp_path)
    (tmp_path / "2.png").unlink()
    refused("size: 0 is not positive", open_data, tmp_path, size=0)


def test_without_pillow(tmp_path, monkeypatch):
    picture(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    refused(r"pip install 'diagfim\[images\]'", open_data, tmp_path)


# ------------------------------------------------------------------------------------- all of it


@pytest.mark.parametrize("size", [1, 4, 100])
def test_the_library_takes_the_pieces_as_it_takes_a_tensor(write, size):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    values = X.astype(np.float64)
    samples = open_data(write(inputs=values, labels=Y))
    for estimator in ("exact", "empirical"):
        labels = torch.from_numpy(Y) if estimator == "empirical" else None
        whole = diagfim.estimate(model, torch.from_numpy(values), estimator, labels=labels)
        pieces = diagfim.estimate(model, samples.batches(size), estimator)
        for name in whole.children:
            np.testing.assert_allclose(
                pieces[name]["fisher"].values, whole[name]["fisher"].values, rtol=1e-12
            )


def test_the_progress_bar_knows_how_many_there_are(write, monkeypatch):
    from diagfim import intake

    totals = []
    original = intake.tqdm
    monkeypatch.setattr(
        intake, "tqdm", lambda **options: totals.append(options["total"]) or original(**options)
    )
    samples = open_data(write(inputs=X))
    diagfim.analyze(nn.Linear(3, 2), samples.batches(2, 1))
    assert totals == [6]
