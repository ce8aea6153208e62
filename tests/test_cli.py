"""The command line: its numbers are the library's, and its errors are lines."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import save_file
from torch import nn

import diagfim
from diagfim import cli, loading
from diagfim.arrays import ALL, layer_of
from diagfim.cli import commands
from diagfim.cli.arguments import parser
from diagfim.derivatives.engines import ENGINES
from diagfim.estimators import ESTIMATORS, PROBES
from diagfim.families import FAMILIES, Gaussian
from diagfim.mixing import LEVELS
from diagfim.variances import UNBIASED
from diagfim.whole import is_partial

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "command-line.md"

FACTORY = """
from torch import nn

print("said at import")


class Loud(nn.Sequential):
    def forward(self, x):
        print("said in forward")
        return super().forward(x)


def build():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def loud():
    return Loud(*build())


def lying():
    # Its last parameter bears no information, and no estimate of it has a variance.
    model = build()
    model.unused = nn.Linear(1, 1)
    model.forward = lambda x: nn.Sequential(*list(model)[:3])(x)
    return model
"""


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a network, weights and data, which is the current one."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(FACTORY)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(40, 4)).astype(np.float32)
    np.savez("test.npz", inputs=inputs, labels=rng.integers(0, 3, 40))
    np.savez("plain.npz", inputs=inputs)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    save_file({name: 2 * value for name, value in model.state_dict().items()}, "w.safetensors")
    return tmp_path


NETWORK = ["net.py:build", "--weights", "w.safetensors", "--data", "test.npz"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    found = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).eval()
    with torch.no_grad():
        for value in found.parameters():
            value *= 2
    return found


@pytest.fixture
def data():
    with np.load("test.npz") as file:
        return torch.from_numpy(file["inputs"]), torch.from_numpy(file["labels"])


@pytest.fixture
def ask(capsys):
    """Run a command that must succeed, and return what it prints; JSON is read strictly."""

    def run(*arguments):
        assert cli.main([str(one) for one in arguments]) == 0, capsys.readouterr().err
        printed = capsys.readouterr().out
        if "--json" not in arguments:
            return printed

        def forbidden(constant):
            raise AssertionError(f"{constant} is no JSON")

        return json.loads(printed, parse_constant=forbidden)

    return run


@pytest.fixture
def refused(capsys):
    """Run a command that must fail, and return its line."""

    def run(*arguments):
        assert cli.main([str(one) for one in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = [one for one in captured.err.splitlines() if not one.startswith("said")]
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        return lines[0]

    return run


COSTS = {
    name: diagfim.Cost(per_input, per_draw, at_most)
    for name, per_input, per_draw, at_most in (
        ("score", 1.0, 0.1, 2.0),
        ("hessian", 2.0, 0.3, 4.0),
        ("mixed", 5.0, 0.3, 6.0),
        ("exact", 1.8, 0.0, np.inf),
        ("hutchinson", 1.0, 0.2, 9.0),
    )
}


@pytest.fixture
def costs(monkeypatch):
    """Seconds that no clock decides, in place of those measured."""
    asked = []

    def measured(model, inputs, estimators, family, **options):
        asked.append((len(inputs), *estimators))
        return {name: COSTS[name] for name in estimators}

    monkeypatch.setattr(diagfim, "measure_seconds", measured, raising=False)
    return asked


# ---------------------------------------------------------------------------------- the parser


def shell(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, **options
    )


def test_help_and_version_import_nothing_slow():
    code = (
        "import sys; from diagfim.cli import main\n"
        "for words in (['--help'], ['--version'], *([c, '--help'] for c in sys.argv[1:])):\n"
        "    assert main(words) == 0\n"
        "slow = {'torch', 'xarray', 'pandas', 'numpy', 'scipy', 'netCDF4'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    result = shell("-c", code, *commands._COMMANDS)
    assert result.returncode == 0, result.stderr
    assert f"diagfim {diagfim.__version__}" in result.stdout
    for command in commands._COMMANDS:
        assert re.search(rf"example: diagfim {command}\s", result.stdout)


def helped(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    actions = parser()._subparsers._group_actions[0]
    assert set(actions.choices) == {*commands._COMMANDS, "verify"}  # which has no network
    return " ".join(actions.choices[command].format_help().split())


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("analyze", [*FAMILIES, *ENGINES]),
        ("estimate", [*ESTIMATORS, *LEVELS, *PROBES]),
        ("plan", [*UNBIASED, "clt", "chebyshev", "inputs", "distribution"]),
        ("compare", [*UNBIASED, "inputs", "distribution"]),
    ],
)
def test_help_names_all_that_the_library_knows(command, names, monkeypatch):
    text = helped(command, monkeypatch)
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_python_m_is_the_command():
    result = shell("-m", "diagfim", "analyze")  # the page below runs it on a network
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: the following arguments are required: FILE.py:FUNC")


# --------------------------------------------------------------------------------- the numbers


def records(frame):
    """A table as JSON has it."""
    found = frame.reset_index().to_dict("records")
    return [
        {key: None if isinstance(v, float) and not np.isfinite(v) else v for key, v in one.items()}
        for one in found
    ]


OPTIONS = {
    "defaults": ([], {}),
    "first inputs": (["--inputs", 7], {"inputs": 7}),
    "a single input": (["--inputs", 1], {"inputs": 1}),
    "family": (["--family", "poisson"], {"family": "poisson"}),
    "noise": (
        ["--family", "gaussian", "--noise-variance", 0.25],
        {"family": Gaussian(0.25)},
    ),
    "noises": (
        ["--family", "gaussian", "--noise-variance", "0.25,1,4"],
        {"family": Gaussian(np.array([0.25, 1, 4]))},
    ),
    "dtype": (["--dtype", "float64"], {"dtype": torch.float64}),
    "method": (["--method", "autodiff"], {"method": "autodiff"}),
    "precision": (["--relative-error", 0.01, "--confidence", 0.5], {"precision": (0.01, 0.5)}),
}


@pytest.mark.parametrize(("words", "options"), OPTIONS.values(), ids=OPTIONS.keys())
def test_analyze_gives_the_numbers_of_the_library(ask, model, data, words, options):
    x = data[0][: options.get("inputs", 40)]
    keywords = {key: options[key] for key in ("family", "dtype", "method") if key in options}
    tree = diagfim.analyze(model, x, **keywords)
    expected = diagfim.summarize(tree, *options.get("precision", ()))
    found = ask("analyze", *NETWORK, *words, "--json")
    assert found["layers"] == records(expected)
    assert found["inputs"] == len(x)
    assert (found["method"], found["dtype"]) == (tree.attrs["method"], tree.attrs["dtype"])
    assert (found["diagfim"], found["command"]) == (diagfim.__version__, "analyze")
    assert found["settings"]["data"] == "test.npz"


def test_a_single_input_has_no_standard_error_and_json_says_null(ask):
    layers = ask("analyze", *NETWORK, "--inputs", 1, "--json")["layers"]
    assert [one["standard_error"] for one in layers] == [None] * 3


def test_the_table_shows_what_json_has(ask):
    layers = ask("analyze", *NETWORK, "--json")["layers"]
    lines = ask("analyze", *NETWORK).splitlines()
    assert lines[0] == "net.py:build: 43 parameters, 40 inputs, method dense, float32"
    assert lines[2].split() == list(layers[0])
    for line, one in zip(lines[3:], layers, strict=True):
        words = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in one.values()]
        assert line.split() == " ".join(words).split()


def test_without_weights_the_network_is_as_the_function_returns_it(ask, data):
    Path("seeded.py").write_text(
        "import torch\ndef build():\n    torch.manual_seed(3)\n    return torch.nn.Linear(4, 3)\n"
    )
    torch.manual_seed(3)
    expected = diagfim.summarize(diagfim.analyze(nn.Linear(4, 3), data[0]))
    found = ask("analyze", "seeded.py:build", "--data", "test.npz", "--json")
    assert found["layers"] == records(expected)


def same_trees(found, expected):
    assert list(found.children) == list(expected.children)
    for name, node in expected.children.items():
        assert list(found[name].data_vars) == list(node.data_vars)
        for quantity in node.data_vars:
            np.testing.assert_array_equal(found[name][quantity], node[quantity])
            assert found[name][quantity].dims == node[quantity].dims


def test_the_file_is_what_the_library_returns_with_the_settings(ask, model, data):
    ask("analyze", *NETWORK, "--probes", "--output", "fisher.nc")
    expected = diagfim.analyze(model, data[0], probes=True)
    with xr.open_datatree("fisher.nc") as found:
        same_trees(found, expected)
        settings = json.loads(found.attrs["settings"])
        assert {key: found.attrs[key] for key in expected.attrs} == expected.attrs
    assert settings["weights"] == "w.safetensors"
    assert settings["probes"] is True
    assert not list(Path().glob("*.partial"))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimate_gives_the_numbers_of_the_library(ask, model, data, estimator):
    words = ["--draws", 3, "--seed", 7, "--level", "layer", "--mixing-weights", "pilot"]
    words += ["--pilot", 4, "--probes", "gaussian", "--output", "estimate.nc", "--json"]
    found = ask("estimate", *NETWORK, "--estimator", estimator, *words)
    expected = diagfim.estimate(
        model,
        data[0],
        estimator,
        3,
        7,
        labels=data[1] if estimator == "empirical" else None,
        level="layer",
        weights="pilot",
        pilot=4,
        probes="gaussian",
    )
    assert found["layers"] == records(diagfim.summarize(expected))
    with xr.open_datatree("estimate.nc") as tree:
        same_trees(tree, expected)


def planned(dataset, rule):
    """A plan in the form of the JSON."""
    of_rule = dataset.sel(rule=rule)
    layers = []
    for layer in of_rule["layer"].values:
        one = of_rule.sel(layer=layer)
        estimators = {
            str(name): {
                key: float(one[key].sel(estimator=name))
                for key in ("draws_per_input", "number_of_inputs", "total_seconds")
                if key in one
            }
            for name in one["estimator"].values
        }
        layers.append({"layer": str(layer), "estimators": estimators})
        if "cheapest" in one:
            layers[-1]["cheapest"] = str(one["cheapest"].values)
    return layers


@pytest.mark.parametrize("rule", ["clt", "chebyshev"])
@pytest.mark.parametrize("over", ["inputs", "distribution"])
def test_plan_gives_the_numbers_of_the_library(ask, model, data, rule, over):
    precision = ["--relative-error", 0.03, "--confidence", 0.9]
    words = [*precision, "--rule", rule, "--over", over, "--json"]
    expected = diagfim.plan(diagfim.analyze(model, data[0]), 0.03, 0.9, over=over)
    assert ask("plan", *NETWORK, *words)["layers"] == planned(expected, rule)
    ask("analyze", *NETWORK, "--output", "fisher.nc")
    assert ask("plan", "--analysis", "fisher.nc", *words)["layers"] == planned(expected, rule)


def test_a_measured_plan_names_the_cheapest(ask, model, data, costs):
    names = ["score", "hutchinson", "exact"]
    tree = diagfim.analyze(model, data[0], probes=True)
    seconds = {name: COSTS[name] for name in names}
    expected = diagfim.plan(tree, over="distribution", estimators=names, seconds=seconds)
    words = ["--over", "distribution", "--estimators", ",".join(names), "--measure"]
    words += ["--timing-inputs", 30]
    assert ask("plan", *NETWORK, *words, "--json")["layers"] == planned(expected, "clt")
    assert costs == [(30, name) for name in names]
    ask("analyze", *NETWORK, "--probes", "--output", "fisher.nc")
    found = ask("plan", *NETWORK, "--analysis", "fisher.nc", *words, "--json")
    assert found["layers"] == planned(expected, "clt")
    last = ask("plan", *NETWORK, *words).splitlines()[-1].split()
    assert last[:2] == ["(every", "layer)"]
    assert last[-1] == str(expected["cheapest"].sel(rule="clt", layer=ALL).values)


def test_where_no_number_of_draws_is_enough_json_says_null(ask, model, data):
    tree = diagfim.analyze(model, data[0])
    tree["0.bias"]["fisher"][:] = 0
    tree["0.weight"]["fisher"][:] = 0
    tree.to_netcdf("fisher.nc")
    layer = ask("plan", "--analysis", "fisher.nc", "--json")["layers"][0]
    assert layer["estimators"]["score"]["draws_per_input"] is None
    assert layer["estimators"]["exact"]["draws_per_input"] == 1
    assert "inf" in ask("plan", "--analysis", "fisher.nc")


@pytest.mark.parametrize("over", ["inputs", "distribution"])
def test_compare_by_hand(ask, model, data, costs, over):
    """Every number from the values of single parameters, without the code of the command."""
    found = ask("compare", *NETWORK, "--draws", 4, "--over", over, "--json")
    tree = diagfim.analyze(model, data[0], probes=True)
    biased = diagfim.estimate(model, data[0], "empirical", labels=data[1])

    def flat(values, quantity, layer):
        names = [name for name in values.children if layer in (ALL, layer_of(name))]
        return np.concatenate([values[name][quantity].values.ravel() for name in names])

    assert [one["layer"] for one in found["layers"]] == ["0", "2", ALL]
    for one in found["layers"]:
        fisher = flat(tree, "fisher", one["layer"])
        v1, v2, c12, probe, spread = (
            flat(tree, key, one["layer"])
            for key in ("variance_1", "variance_2", "covariance_12", "variance_probe",
                        "input_variance")
        )  # fmt: skip
        weight = np.divide(v2 - c12, v1 + v2 - 2 * c12)
        mixed = weight**2 * v1 + (1 - weight) ** 2 * v2 + 2 * weight * (1 - weight) * c12
        variances = {"score": v1, "hessian": v2, "mixed": mixed, "exact": 0 * v1,
                     "hutchinson": probe}  # fmt: skip
        errors = {}
        for name, of_draw in variances.items():
            total = of_draw / (40 * 4) + (spread / 40 if over == "distribution" else 0)
            errors[name] = np.sqrt(total.sum() / (fisher**2).sum())
        assert one["relative_standard_error"] == pytest.approx(errors, rel=1e-9, abs=1e-12)
        rivals = [name for name in errors if over == "distribution" or name != "exact"]
        # Where several are without error, the first of them is named.
        found_errors = one["relative_standard_error"]
        assert one["equal_draws"] == min(rivals, key=lambda name: found_errors[name])
        efforts = {name: found_errors[name] ** 2 * COSTS[name].at(4) for name in rivals}
        assert one["equal_time"] == min(rivals, key=lambda name: efforts[name])
        if over == "distribution" and one["layer"] == ALL:  # or the square would not show
            assert one["equal_time"] != min(
                rivals, key=lambda name: found_errors[name] * COSTS[name].at(4)
            )
        off = flat(biased, "fisher", one["layer"]) - fisher
        distance = np.linalg.norm(off) / np.linalg.norm(fisher)
        assert one["empirical_distance"] == pytest.approx(distance, rel=1e-12)
    assert found["seconds_per_input"] == {name: COSTS[name].at(4) for name in UNBIASED}
    assert costs == [(40, name) for name in UNBIASED]


def test_compare_some_estimators_without_labels(ask, costs):
    words = ["net.py:build", "--data", "plain.npz", "--estimators", "exact,score"]
    found = ask("compare", *words, "--json")
    assert [one["empirical_distance"] for one in found["layers"]] == [None] * 3
    assert list(found["layers"][0]["relative_standard_error"]) == ["exact", "score"]
    assert found["layers"][0]["equal_time"] == "score"
    text = ask("compare", *words)
    assert "empirical" not in text
    assert "measured on this machine" in text


def test_a_layer_without_information_is_right_at_any_draws(ask, costs):
    words = ["net.py:lying", "--data", "test.npz", "--json"]
    unused = ask("compare", *words)["layers"][2]
    assert unused["layer"] == "unused"
    assert set(unused["relative_standard_error"].values()) == {0.0}
    assert unused["empirical_distance"] == 0.0


def test_compare_measures_with_the_clock_of_the_machine(ask):
    words = ["compare", *NETWORK, "--estimators", "score,exact", "--json"]
    seconds = ask(*words)["seconds_per_input"]
    assert list(seconds) == ["score", "exact"]
    assert all(0 < one < 1 for one in seconds.values())


# ----------------------------------------------------------------------------------- the streams


def test_the_standard_output_is_for_the_result_alone(capsys):
    words = ["net.py:loud", "--data", "test.npz", "--method", "autodiff", "--inputs", "2"]
    assert cli.main(["analyze", *words, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["command"] == "analyze"
    assert "said at import" in captured.err
    assert "said in forward" in captured.err


def test_the_progress_bar_knows_the_end(monkeypatch, capsys):
    from diagfim import intake

    original = intake.tqdm
    monkeypatch.setattr(
        intake, "tqdm", lambda **options: original(**(options | {"delay": 0, "disable": False}))
    )
    assert cli.main(["analyze", *NETWORK, "--inputs", "30"]) == 0
    captured = capsys.readouterr()
    assert "30/30" in captured.err
    assert "30/30" not in captured.out


def test_a_reader_that_leaves_is_no_error(monkeypatch, capsys):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        assert cli.main(["analyze", *NETWORK]) == 141
    errors = capsys.readouterr().err.splitlines()
    assert [one for one in errors if not one.startswith("said")] == []


def test_nor_is_it_when_python_ends():
    # Python flushes the standard output once more, and would say that it cannot.
    read, write = os.pipe()
    os.close(read)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    result = subprocess.run(
        [sys.executable, "-m", "diagfim", "--help"],
        env=environment,
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=120,
    )
    os.close(write)
    assert (result.returncode, result.stderr) == (141, b"")


def test_ctrl_c_is_a_line():
    Path("slow.py").write_text(
        "import pathlib, time\ndef build():\n    pathlib.Path('here').touch()\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "diagfim", "analyze", "slow.py:build", "--data", "test.npz"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(1200):
        if Path("here").exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "error: interrupted\n")


def test_a_defect_of_the_program_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(commands, "run", lambda arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["analyze", *NETWORK])


# ------------------------------------------------------------------------------------ the errors

ERRORS = {
    "no command": ([], "required: COMMAND; see diagfim --help"),
    "no such command": (["fisher"], "invalid choice: 'fisher'"),
    "no factory": (["analyze", "--data", "test.npz"], "required: FILE.py:FUNCTION"),
    "no data": (["analyze", "net.py:build"], "required: --data; see diagfim analyze --help"),
    "no such option": (["analyze", *NETWORK, "--draw", "3"], "unrecognized arguments: --draw 3"),
    "no number": (["analyze", *NETWORK, "--inputs", "x"], "--inputs: 'x' is not an integer of at"),
    "no seed": (["estimate", *NETWORK, "--seed", "x"], "--seed: invalid int value: 'x'"),
    "negative seed": (["estimate", *NETWORK, "--seed", "-1"], "seed: -1 is not an integer of at"),
    "no numbers": (["analyze", *NETWORK, "--mean", "1,x"], "'1,x' is not a number, nor some"),
    "no size": (["analyze", *NETWORK, "--size", "1x2x3"], "'1x2x3' is no size; give 64, or"),
    "no function": (["analyze", "net.py:biuld", "--data", "test.npz"], "did you mean 'build'"),
    "no file": (["analyze", "no.py:build", "--data", "test.npz"], "no.py: there is no such file"),
    "no such data": (["analyze", "net.py:build", "--data", "no.npz"], "no.npz: there is no such"),
    "no such weights": (
        ["analyze", "net.py:build", "--data", "test.npz", "--weights", "no.safetensors"],
        "no.safetensors: not a readable safetensors file (there is no such file)",
    ),
    "a pickle": (
        ["analyze", "net.py:build", "--data", "test.npz", "--weights", "w.pt"],
        "w.pt: a pickle, which is never opened",
    ),
    "too many inputs": (
        ["analyze", *NETWORK, "--inputs", "41"],
        "--inputs: 41 is not between 1 and 40, the number of those in test.npz",
    ),
    "no inputs": (["analyze", *NETWORK, "--inputs", "0"], "--inputs: '0' is not an integer of at"),
    "family": (["analyze", *NETWORK, "--family", "normal"], "family: 'normal' is not one of cat"),
    "noise": (
        ["analyze", *NETWORK, "--noise-variance", "2"],
        "--noise-variance: categorical targets have none of their own",
    ),
    "negative noise": (
        ["analyze", *NETWORK, "--family", "gaussian", "--noise-variance", "-2"],
        "variance: -2.0 is not positive",
    ),
    "method": (["analyze", *NETWORK, "--method", "magic"], "method: 'magic' is not auto, dense"),
    "dtype": (["analyze", *NETWORK, "--dtype", "float16"], "--dtype: invalid choice: 'float16'"),
    "device": (["analyze", *NETWORK, "--device", "abacus"], "--device: 'abacus' cannot be used"),
    "size of arrays": (["analyze", *NETWORK, "--size", "3"], "size: test.npz is no folder"),
    "relative error": (
        ["analyze", *NETWORK, "--relative-error", "-1"],
        "--relative-error: '-1' is not positive; 0.1 is ten per cent",
    ),
    "error of nan": (["plan", *NETWORK, "--relative-error", "nan"], "'nan' is not positive"),
    "error of text": (["plan", *NETWORK, "--relative-error", "x"], "'x' is not a number"),
    "confidence": (
        ["analyze", *NETWORK, "--confidence", "95"],
        "--confidence: '95' is not between 0 and 1; pass 0.95, say",
    ),
    "no folder": (
        ["analyze", *NETWORK, "--output", "no/fisher.nc"],
        "--output: no/fisher.nc: there is no folder no; make it first",
    ),
    "a folder": (["analyze", *NETWORK, "--output", "."], "--output: . is a folder"),
    "the data": (
        ["analyze", *NETWORK, "--output", "./test.npz"],
        "--output: test.npz is what is read",
    ),
    "estimator": (
        ["estimate", *NETWORK, "--estimator", "sgd"],
        "estimator: 'sgd' is not one of score, hessian",
    ),
    "draws": (
        ["estimate", *NETWORK, "--draws", "0"],
        "--draws: '0' is not an integer of at least 1",
    ),
    "labels": (
        ["estimate", "net.py:build", "--data", "plain.npz", "--estimator", "empirical"],
        "labels: the empirical estimator needs those of the data",
    ),
    "plan of nothing": (
        ["plan"],
        "the network and --data not given; name them, or pass --analysis",
    ),
    "plan without data": (["plan", "net.py:build"], "plan: --data not given; name them, or pass"),
    "both": (
        ["plan", *NETWORK, "--analysis", "fisher.nc"],
        "plan: --analysis beside a network or --data; give one or the other",
    ),
    "measure nothing": (
        ["plan", "--analysis", "fisher.nc", "--measure"],
        "the network and --data not given; name them, --measure needs them",
    ),
    "no analysis": (["plan", "--analysis", "no.nc"], "--analysis: no.nc: there is no such file"),
    "no netCDF": (["plan", "--analysis", "test.npz"], "test.npz: not a readable netCDF file"),
    "an estimate": (
        ["plan", "--analysis", "estimate.nc"],
        "--analysis: estimate.nc: tree: 0.weight has no variance_1; pass what diagfim.analyze",
    ),
    "another network": (
        ["plan", "net.py:lying", "--data", "test.npz", "--analysis", "fisher.nc", "--measure"],
        "--analysis: fisher.nc is of another network than net.py:lying",
    ),
    "over": (["plan", *NETWORK, "--over", "all"], "--over: invalid choice: 'all'"),
    "planned": (
        ["plan", *NETWORK, "--estimators", "sgd"],
        "--estimators: 'sgd' is not one of score, hessian, mixed, exact, hutchinson",
    ),
    "estimators": (
        ["compare", *NETWORK, "--estimators", "score,empirical"],
        "--estimators: 'empirical' is not one of score, hessian",
    ),
    "timing": (
        ["compare", *NETWORK, "--estimators", "score", "--timing-inputs", "1"],
        "inputs: estimates are timed at a tensor of at least two",
    ),
}


@pytest.mark.refused("command line with a mistake")
@pytest.mark.parametrize(("words", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_errors_are_a_line_that_names_the_culprit(refused, model, data, words, message):
    if "fisher.nc" in words and "--output" not in words:
        diagfim.analyze(model, data[0]).to_netcdf("fisher.nc")
    if "estimate.nc" in words:
        diagfim.estimate(model, data[0]).to_netcdf("estimate.nc")
    assert message in refused(*words)


def test_a_failure_leaves_an_older_file_as_it_was(refused, monkeypatch):
    Path("fisher.nc").write_bytes(b"of yesterday")
    with np.load("test.npz") as file:
        values = file["inputs"]
    values[39, 2] = np.nan
    np.savez("nan.npz", inputs=values)
    # Read one by one, so that the fault is met when much is done already.
    monkeypatch.setattr(commands, "MEMORY", 1)
    words = ["net.py:build", "--data", "nan.npz", "--output", "fisher.nc"]
    assert "nan.npz: inputs[39] holds NaN or infinity" in refused("analyze", *words)
    assert "nan.npz: inputs[39]" in refused("estimate", *words)

    def full(self, path, **options):
        Path(path).write_bytes(b"half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr(xr.DataTree, "to_netcdf", full)
    said = refused("analyze", *NETWORK, "--output", "fisher.nc")
    assert "fisher.nc: cannot be written: no space left on device" in said
    assert Path("fisher.nc").read_bytes() == b"of yesterday"
    assert not [path for path in Path().iterdir() if is_partial(path)]


def test_labels_that_do_not_fit_are_told_before_the_work(refused, monkeypatch):
    with np.load("test.npz") as file:
        np.savez("wrong.npz", inputs=file["inputs"], labels=file["labels"] + 1)
    monkeypatch.setattr(diagfim, "analyze", lambda *a, **k: pytest.fail("too late"), raising=False)
    assert "labels" in refused("compare", "net.py:build", "--data", "wrong.npz")


# -------------------------------------------------------------------------------------- the page

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def agree(shown, printed, measured):
    """Whether the words are the same, and numbers to 5%: the training rounds as it pleases.

    Where seconds are measured, which estimator is the best and how long it takes may differ.
    """
    pairs = list(zip(shown.split(), printed.split(), strict=False))
    if len(shown.split()) != len(printed.split()):
        return False
    clock = False
    for one, other in pairs:
        clock = clock or one == "measured"
        try:
            a, b = float(one.replace(",", "")), float(other.replace(",", ""))
        except ValueError:
            if one != other and not (measured and {one, other} <= set(UNBIASED)):
                return False
        else:
            if not clock and abs(a - b) > max(0.05 * abs(a), 1.0 if a == int(a) > 1 else 0.0):
                return False
    return True


@pytest.fixture
def execute(folder, capfd):
    """Run a line of the shell, in this process if it is nothing but the command."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "diagfim").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m diagfim "$@"\n')
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}

    def run(line):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        if words[0] == "diagfim" and not set("".join(words)) & set("|&;<>$"):
            code = cli.main(words[1:])  # PyTorch is there already, and takes seconds to import
        else:
            code = subprocess.run(["bash", "-c", line], env=environment, timeout=120).returncode
        captured = capfd.readouterr()
        assert code == 0, f"{line}:\n{captured.err}"
        return captured.err + captured.out

    return run


def test_the_page_runs_as_printed(folder, execute):
    pytest.importorskip("sklearn")
    text = PAGE.read_text(encoding="utf-8")
    ran, end, printed, body = 0, 0, "", ""
    for fence in FENCE.finditer(text):
        kind, content = fence[1], fence[2]
        if kind.startswith("{code-block}"):
            (name,) = re.findall(r"^:caption: (\S+)$", content, re.MULTILINE)
            (folder / name).write_text(content.partition("\n\n")[2])
        elif kind == "sh":
            body, end = content, fence.end()
            printed = "".join(map(execute, body.splitlines()))
            ran += len(body.splitlines())
        elif kind == "text":
            assert not text[end : fence.start()].strip()
            assert agree(content, printed, "compare" in body), f"{body}:\n{printed}"
    assert ran >= 11


def test_the_page_has_every_key_of_the_json(ask, costs):
    text = PAGE.read_text(encoding="utf-8")
    for command in commands._COMMANDS:
        words = ["--measure"] if command == "plan" else []
        found = ask(command, *NETWORK, *words, "--json")
        layer = found["layers"][0]
        inner = next(iter(layer.get("estimators", {}).values()), {})
        for key in (*found, *layer, *inner):
            assert f"`{key}`" in text, f"{command}: {key}"


def test_a_folder_of_images(ask, data):
    from PIL import Image

    rng = np.random.default_rng(0)
    for k in range(4):
        Path(f"pictures/{k % 2}").mkdir(parents=True, exist_ok=True)
        shape = (5 + k, 6, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(
            f"pictures/{k % 2}/{k}.png"
        )
    Path("flat.py").write_text(
        "import torch\nfrom torch import nn\ndef build():\n    torch.manual_seed(1)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(24, 2))\n"
    )
    words = ["--data", "pictures", "--size", "2x4", "--mean", "0.5,0.4,0.3", "--std", "0.2"]
    found = ask("estimate", "flat.py:build", *words, "--estimator", "empirical", "--json")
    samples = loading.open_data("pictures", size=(2, 4), mean=[0.5, 0.4, 0.3], std=0.2)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, 2)).eval()
    inputs, labels = samples.take(range(4)), torch.tensor([0, 0, 1, 1])
    expected = diagfim.estimate(model, inputs, "empirical", labels=labels)
    assert found["layers"] == records(diagfim.summarize(expected))
