"""Configurations by the hundred, and files that would run code if they were opened the wrong way.

What is refused is refused in one line that names the key or the file, and leaves nothing behind.
"""

import ast
import gzip
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import generated
import numpy as np
import pytest
import yaml
from generated import FILES, HOSTILE, SCHEMA_PATH, bad, good
from hypothesis import given, settings
from safetensors.torch import save_file
from torch import nn
from toy import ROOT, copy_project

from diagfim import cli, data

sys.path.insert(0, str(ROOT / "workflow" / "lib"))

from misreadings import misreadings
from settings import in_order, problems

NETWORK = """
from torch import nn


def build():
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
"""


def put_files(folder: Path) -> None:
    """What the generated networks of a user's own consist of."""
    (folder / "net.py").write_text(NETWORK)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    save_file(model.state_dict(), folder / FILES["weights"])
    np.savez(folder / FILES["data"], inputs=np.ones((6, 4), np.float32), labels=np.zeros(6, int))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project, alone in its folder, with a network of a user's own."""
    found = copy_project(tmp_path_factory.mktemp("hostile") / "project")
    put_files(found.root)
    return found


def is_plain(line: str) -> bool:
    """Whether a terminal shows it as it is, in a few rows."""
    return line.isascii() and line.isprintable() and len(line) < 700


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file there, but for what Snakemake and Python keep for themselves."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
        if not {".snakemake", "__pycache__", ".cache"} & set(path.parts) and not path.is_dir()
    }


# ------------------------------------------------------------------------- made from the schema


def examples(strategy, number):
    """So many examples of a strategy, the same on every machine."""
    found = []

    @settings(max_examples=number)
    @given(strategy)
    def gather(example):
        found.append(example)

    gather()
    return found


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the files that configurations name."""
    (tmp_path / "resources").symlink_to(ROOT / "resources")
    put_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_nothing_is_said_of_good_configurations(here):
    for config in examples(good(), 25):
        assert problems(config, SCHEMA_PATH) == []
        assert in_order(config, SCHEMA_PATH, ROOT / "config" / "config.yaml") == config


@pytest.mark.refused("generated configuration with one mistake")
def test_every_generated_mistake_is_one_line(here, tally):
    before = everything(here)
    cases = [one for several in examples(bad(), 40) for one in several]
    for one in cases:
        (line,) = problems(one.config, SCHEMA_PATH)
        assert line.startswith("config: "), one.how
        assert one.key in line, one.how
        assert is_plain(line), one.how
    assert len(cases) == 40 * len(generated.WAYS) >= 300
    assert everything(here) == before
    tally(len(cases))


def jobs_of(config):
    """The jobs of a study, counted by what the rules are about."""
    networks = [one for one in config["networks"].values() if one]
    own = [one for one in networks if "factory" in one]
    trained = [one for one in networks if "factory" not in one]
    on_test_set = sum(one["test_set"] for one in networks)
    enabled = {name: one for name, one in config["experiments"].items() if one["enabled"]}
    timed = config["benchmark"]["enabled"]
    used = {one["dataset"] for one in trained}
    used |= {name for one in enabled.values() for name in one.get("datasets", ())}
    by_replicate = {
        "train": len(trained),
        "evaluate": len(own),
        **dict.fromkeys(("derivatives", "bounds", "comparison"), len(networks)),
        **dict.fromkeys(("conditional_moments", "fixed_estimates"), len(networks)),
        **dict.fromkeys(("joint_moments", "joint_estimates", "spectra"), on_test_set),
        "experiment": len(enabled),
    }
    return {
        **{rule: number * config["replicates"] for rule, number in by_replicate.items()},
        "dataset": len(used),
        "gather": len(enabled),
        "summary": len(networks),
        "benchmark": int(timed),
        "theory": int(config["theory"]["enabled"]),
        **dict.fromkeys(("explorer", "headlines", "tables", "report", "tex", "all"), 1),
    }


def check_plans(project, number):
    """Let Snakemake plan generated configurations, and count the jobs of each."""
    configurations = examples(good(replicates=3, epochs=6), number)
    (project.root / "configurations.json").write_text(json.dumps(configurations))
    before = everything(project.root)
    subprocess.run(
        [sys.executable, ROOT / "tests/workflow/planner.py", "configurations.json", "plans.json"],
        cwd=project.root,
        check=True,
        capture_output=True,
    )
    plans = json.loads((project.root / "plans.json").read_text())
    (project.root / "plans.json").unlink()
    assert everything(project.root) == before
    for config, plan in zip(configurations, plans, strict=True):
        expected = {rule: jobs for rule, jobs in jobs_of(config).items() if jobs}
        assert {rule: plan.get(rule, 0) for rule in expected} == expected
        assert not plan.keys() - expected.keys() - {"figure", "experiment_figure"}
    return len(plans)


def test_a_dozen_generated_configurations_plan(project):
    assert check_plans(project, 12) == 12


@pytest.mark.faults
def test_hundreds_of_generated_configurations_plan(project):
    assert check_plans(project, 300) >= 300


# --------------------------------------------------------------------------- by the command line

MLP = {"dataset": "mnist", "hidden": [8], "activation": "tanh", "dropout": 0, "test_set": False}
PLACES = [
    lambda text: {"results": text},
    lambda text: {"networks": {text or "''": MLP}},
    lambda text: {"networks": {"mine": FILES | {"factory": f"{text}.py:build", "test_set": True}}},
    lambda text: {"datasets": {"mnist": {"root": text}}},
    lambda text: {"networks": {"mine": FILES | {"weights": [text], "test_set": True}}},
    lambda text: {"networks": {"mine": MLP | {"activation": text}}},
    lambda text: {"datasets": {text: {"kind": "MNIST", "root": None}}},
    lambda text: {"networks": {"mine": FILES | {"data": text, "test_set": True}}},
    lambda text: {"experiments": {"descent": {"datasets": [text]}}},
    lambda text: {"figures": {"formats": ["pdf", text]}},
    lambda text: {text: text},
]


def refusals(run) -> list[str]:
    """The lines of a refused run: Snakemake's own are not about the configuration."""
    assert run.returncode != 0
    assert "Traceback" not in run.stdout + run.stderr
    own = ("Using workflow specific profile", "Config file config/config.yaml is extended")
    lines = [line for line in run.stderr.splitlines() if line and not line.startswith(own)]
    assert lines
    assert all(line.startswith("config: ") for line in lines), run.stderr
    return lines


@pytest.mark.faults
@pytest.mark.refused("hostile text in a configuration, by the command line of Snakemake")
@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_no_text_reaches_a_shell_or_leaves_the_project(project, number):
    """Run, not only planned: each text in one of the places where the configuration takes one."""
    text = HOSTILE[number]
    before = everything(project.root.parent)
    if number % 4:
        change = PLACES[number % len(PLACES)](text)
        path = project.root / "hostile.yaml"
        path.write_text(yaml.safe_dump(change))
        try:
            arguments = ("--configfile", "hostile.yaml")
            run = project.snakemake("--cores", "1", *arguments, "--", "tex")
        finally:
            path.unlink()
    else:
        arguments = ("--configfile", "tiny.yaml", "--config", f"results={json.dumps(text)}")
        run = project.snakemake("--cores", "1", *arguments, "--", "tex")
    (line,) = refusals(run)
    assert is_plain(line)
    assert everything(project.root.parent) == before
    assert not list(project.root.parent.rglob("canary*"))


UNREADABLE = {
    "nothing": b"",
    "a list": b"- seed: 1\n",
    "a text": b"seed\n",
    "unbalanced brackets": b"seed: [1\nreplicates: }\n",
    "a tab": b"training:\n\tepochs: 1\n",
    "bytes": bytes(range(256)),
    "UTF-16": "seed: 1\n".encode("utf-16"),
    "NUL": b"seed: 1\n\0",
    "a lost alias": b"seed: *lost\n",
    "an object of Python": b"seed: !!python/object/apply:os.mkdir [canary]\n",
    "a program": b"__use_yte__: true\nseed: ?__import__('os').mkdir('canary')\n",
    "a setting of Snakemake": b"pathvars: 5\n",
    "deep nesting": b"seed: " + b"[" * 1000 + b"]" * 1000,
    "equal keys": b"seed: 1\nreplicates: 1\nseed: 2\n",
    "equal keys within": b"training: {epochs: 1, epochs: 2}\n",
    "eights": b"replicates: 010\n",
    "sixties": b"seed: 1:30\n",
    "JSON with equal keys": b'{"seed": 1, "seed": 2}',
}


@pytest.mark.refused("configuration file that is not read, or not as it was meant")
@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_a_misread_file_is_one_line_with_its_place(content, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    (line,) = misreadings([path])
    assert line.startswith(f"config: {path}: ")
    assert is_plain(line)


def test_good_files_are_read_as_they_were_meant(tmp_path):
    assert misreadings(sorted((ROOT / "config").glob("*.yaml"))) == []
    path = tmp_path / "config.yaml"
    path.write_text("a: &a [1, 0, -5, 0x10, '010']\nb: {c: *a, d: *a}\ne: {c: 1.0e-3}\n")
    assert misreadings([path]) == []


@pytest.mark.faults
@pytest.mark.refused("configuration file that is not read, by the command line of Snakemake")
@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_the_main_file_is_looked_at_before_snakemake_reads_it(project, content):
    """Whatever it holds, none of it runs."""
    path = project.root / "config" / "config.yaml"
    kept = path.read_bytes()
    path.write_bytes(content)
    before = everything(project.root.parent)
    try:
        run = project.snakemake("--cores", "1", "--configfile", "tiny.yaml", "--", "tex")
        (line,) = refusals(run)
        assert line.startswith("config: config/config.yaml: ")
        assert everything(project.root.parent) == before
        assert not list(project.root.parent.rglob("canary"))
    finally:
        path.write_bytes(kept)


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["no file", "a folder", "unbalanced brackets", "bytes"])
def test_a_further_file_that_snakemake_cannot_read(project, kind):
    """It is read before any line of the project: the words are Snakemake's, and nothing is done."""
    path = project.root / "further.yaml"
    if kind == "a folder":
        path.mkdir()
    elif kind in UNREADABLE:
        path.write_bytes(UNREADABLE[kind])
    before = everything(project.root.parent)
    try:
        run = project.snakemake("--cores", "1", "--configfile", "further.yaml", "--", "tex")
        assert run.returncode != 0
        assert everything(project.root.parent) == before
    finally:
        if kind == "a folder":
            path.rmdir()
        else:
            path.unlink(missing_ok=True)


# --------------------------------------------------------------------------------- hostile files


class Payload:
    """A pickle of it makes a file where it is opened."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


@pytest.fixture
def canary(tmp_path):
    """A file that no test may find."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


@pytest.fixture
def pickled(canary):
    return pickle.dumps(Payload(canary))


def test_the_payload_would_tell(tmp_path):
    """The control: opened the wrong way, such a file leaves its mark."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


def as_is(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def as_legacy_checkpoint(content: bytes, path: Path) -> None:
    """As PyTorch saved before it had archives: a magic number, and pickles."""
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C) + pickle.dumps(1001) + content)


def as_archive(content: bytes, path: Path) -> None:
    """As PyTorch saves now."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", "3\n")


def as_object_array(content: bytes, path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|O", "fortran_order": False, "shape": (6,)}
    )
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("inputs.npy", header.getvalue() + content)


def as_gzip(content: bytes, path: Path) -> None:
    path.write_bytes(gzip.compress(content))


HOSTILE_FILES = [
    *(
        (kind, "weights", how)
        for kind in (".safetensors", ".pt", ".pth", ".bin", ".npz")
        for how in (as_is, as_legacy_checkpoint, as_archive)
    ),
    *(
        (kind, "data", how)
        for kind in (".npz", ".nc", ".nc4")
        for how in (as_is, as_archive, as_gzip)
    ),
    (".npz", "data", as_object_array),
    (".npy", "data", as_is),
    (".pkl", "data", as_is),
    (".png", "image", as_is),
    (".png", "image", as_gzip),
]


@pytest.mark.refused("pickle in the place of weights, arrays or images, by the command line")
@pytest.mark.parametrize(("ending", "place", "how"), HOSTILE_FILES)
def test_no_file_is_unpickled_by_the_command_line(here, pickled, capsys, ending, place, how):
    paths = {"weights": here / FILES["weights"], "data": here / FILES["data"]}
    target = here / f"hostile{ending}"
    if place == "image":
        paths["data"] = here / "images"
        paths["data"].mkdir()
        target = paths["data"] / "0.png"
    else:
        paths[place] = target
    how(pickled, target)
    options = ["--weights", str(paths["weights"]), "--data", str(paths["data"])]
    assert cli.main(["analyze", FILES["factory"], *options]) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert str(target) in line
    assert "Traceback" not in line


def announce(shape: tuple[int, ...], path: Path) -> None:
    """An array of a few bytes, of which the header says that it has this shape."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": shape}
    )
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("inputs.npy", header.getvalue() + bytes(64))


def with_zip_fields(path: Path, flags: int, method: int) -> None:
    """A file of arrays with these flags and method of compression in both headers of the first."""
    np.savez(path, inputs=np.zeros((6, 4)))
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = content.index(signature) + offset
        content[start : start + 4] = struct.pack("<HH", flags, method)
    path.write_bytes(content)


@pytest.mark.refused("file that announces more than it has, or what nobody can read")
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("more than memory.npz", lambda path: announce((10**13, 4), path)),
        ("more than a count.npz", lambda path: announce((10**20, 4), path)),
        ("more than the file.npz", lambda path: announce((10**6, 4), path)),
        ("a negative shape.npz", lambda path: announce((-1, 4), path)),
        ("encrypted.npz", lambda path: with_zip_fields(path, 1, 0)),
        ("compressed by nothing known.npz", lambda path: with_zip_fields(path, 0, 77)),
        (
            "long header.safetensors",
            lambda path: path.write_bytes(struct.pack("<Q", 2**62) + b"{}"),
        ),
        ("no header.safetensors", lambda path: path.write_bytes(b"")),
    ],
)
def test_files_that_announce_too_much(here, capsys, name, write):
    path = here / name
    write(path)
    paths = FILES | {"weights" if path.suffix == ".safetensors" else "data": str(path)}
    options = ["--weights", paths["weights"], "--data", paths["data"]]
    assert cli.main(["analyze", FILES["factory"], *options]) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line


STUDY = {
    "results": "results/hostile",
    "replicates": 1,
    "networks": {"sigmoid": {"hidden": [4]}, "logsigmoid": None},
    "training": {"samples": 200, "epochs": 1, "batch_size": 50},
    "joint": {"epochs": [1]},
    "experiments": {
        name: {"enabled": False}
        for name in generated.SCHEMA["properties"]["experiments"]["properties"]
    },
}
NETWORKS = "results/hostile/networks"


def run_study(project, target, change):
    """Snakemake, up to a file of a small study."""
    path = project.root / "study.yaml"
    path.write_text(yaml.safe_dump({**STUDY, **change}))
    return project.snakemake("--cores", "1", "--configfile", "study.yaml", "--", target)


def check_refused(run, path):
    """A line of the job names the file, and it is the last word."""
    assert run.returncode != 0
    assert "Traceback" not in run.stdout + run.stderr
    lines = {line for line in run.stderr.splitlines() if line.startswith("error: ")}
    (line,) = lines
    assert path in line


@pytest.mark.faults
@pytest.mark.refused("pickle in the place of a user's weights, arrays or images, by the pipeline")
@pytest.mark.parametrize(
    ("place", "path", "how"),
    [
        ("weights", "hostile.safetensors", as_is),
        ("weights", "hostile.pt", as_archive),
        ("data", "hostile.npz", as_is),
        ("data", "hostile.npz", as_object_array),
        ("data", "hostile.nc", as_is),
        ("data", "hostile/0.png", as_is),
    ],
)
def test_no_file_is_unpickled_by_the_pipeline(project, pickled, place, path, how):
    target = project.root / path
    target.parent.mkdir(exist_ok=True)
    how(pickled, target)
    mine = FILES | {"test_set": False, place: path.partition("/")[0]}
    change = {"networks": {"sigmoid": None, "logsigmoid": None, "mine": mine}}
    change["benchmark"] = {"enabled": False}
    run = run_study(project, f"{NETWORKS}/mine/0/history.nc", change)
    check_refused(run, path)
    assert not (project.root / NETWORKS / "mine" / "0" / "history.nc").exists()


@pytest.mark.faults
@pytest.mark.refused("archives of a data set with pickles in them")
@pytest.mark.parametrize("kind", ["MNIST", "FashionMNIST", "KMNIST"])
def test_no_archive_is_unpickled(project, pickled, kind):
    folder = project.root / "archives"
    folder.mkdir(exist_ok=True)
    for name in data.FILES:
        as_gzip(pickled, folder / f"{name}.gz")
    change = {"datasets": {"mnist": {"kind": kind, "root": "archives"}}}
    run = run_study(project, "results/hostile/data/mnist.nc", change)
    check_refused(run, "archives/" if kind == "MNIST" else kind)
    assert not (project.root / "results/hostile/data/mnist.nc").exists()


@pytest.fixture(scope="module")
def trained(project):
    run = run_study(project, f"{NETWORKS}/sigmoid/0/derivatives.nc", {})
    assert run.returncode == 0, run.stdout + run.stderr
    return project


@pytest.mark.faults
@pytest.mark.refused("pickle in the place of a result")
@pytest.mark.parametrize("receipts", [True, False], ids=["with receipts", "without"])
@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("sigmoid/0/derivatives.nc", "sigmoid/0/bounds.nc"),
        ("sigmoid/0/checkpoints/epoch-1.safetensors", "sigmoid/0/derivatives.nc"),
    ],
)
def test_no_result_is_unpickled(trained, pickled, path, target, receipts):
    """Whoever puts it there may delete the receipt as well.  The first is made of the second."""
    folder = trained.root / NETWORKS
    hostile = folder / path
    receipt = trained.root / "results/hostile/receipts/networks" / f"{path}.json"
    kept = {one: (one.read_bytes(), one.stat()) for one in (hostile, receipt)}
    hostile.write_bytes(pickled)
    if not receipts:
        receipt.unlink()
    try:
        check_refused(run_study(trained, f"{NETWORKS}/{target}", {}), path)
    finally:
        for one, (content, stat) in kept.items():
            one.write_bytes(content)
            os.utime(one, ns=(stat.st_atime_ns, stat.st_mtime_ns))


# ---------------------------------------------------------------------------------- the sources

MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "runpy", "shelve"}
"""Never imported: they open pickles, or run files."""

CALLS = {
    *("eval", "exec", "__import__", "loader.exec_module", "torch.load", "pd.read_pickle"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load"),
}
"""Never made, but for the reasons below."""

REASONS = {
    "src/diagfim/loading/factories.py: loader.exec_module": (
        "the file of a network is a program, which its user wrote to be run"
    ),
    "workflow/lib/settings.py: yaml.load": "of the schema, by a safe loader",
}


def opened_or_run(source: str) -> set[str]:
    """What a source imports or calls that opens pickles, or runs texts or a shell."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names.append(getattr(node, "module", None) or "")
            found |= {name for name in names if name.partition(".")[0] in MODULES}
        elif isinstance(node, ast.Call):
            called = ".".join(ast.unparse(node.func).split(".")[-2:])
            found |= {called} & CALLS
            found |= {
                f"{keyword.arg}={ast.unparse(keyword.value)}"
                for keyword in node.keywords
                if keyword.arg in ("shell", "allow_pickle")
                and ast.unparse(keyword.value) != "False"
            }
    return found


def test_no_source_opens_a_pickle_or_runs_a_text():
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "workflow").rglob("*.py")]
    found = {
        f"{path.relative_to(ROOT)}: {one}"
        for path in sources
        for one in opened_or_run(path.read_text(encoding="utf-8"))
    }
    assert found == REASONS.keys()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", "pickle"),
        ("from joblib import load", "joblib"),
        ("import torch\ntorch.load('w.pt', weights_only=False)", "torch.load"),
        ("model.eval()\nx = eval('1')", "eval"),
        ("import subprocess\nsubprocess.run('ls', shell=True)", "shell=True"),
        ("np.load(path, allow_pickle=trusted)", "allow_pickle=trusted"),
    ],
)
def test_such_sources_would_be_found(source, found):
    assert opened_or_run(source) == {found}


def test_no_rule_has_a_shell_command():
    rules = [ROOT / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")]
    assert len(rules) > 10
    for path in rules:
        directives = re.findall(r"^ +(\w+):", path.read_text(), re.MULTILINE)
        assert not {"shell", "run", "notebook", "wrapper", "cwl"} & set(directives), path
