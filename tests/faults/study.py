"""The study at its smallest: every rule once, in a copy of the project that a test may harm."""

import hashlib
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import psutil
import xarray as xr
import yaml
from tally import PAGE
from toy import TINY, Project, copy_project

from diagfim import receipts
from diagfim.arrays import UNITS
from diagfim.verification import verify
from diagfim.whole import is_partial

ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}

# A network that a user brings: the rule that looks at it beside the one that trains.
FACTORY = """
from torch import nn

def build():
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
"""
PREPARE = """
import numpy, safetensors.torch, torch
from brought import build

torch.manual_seed(0)
safetensors.torch.save_file(build().state_dict(), "brought.safetensors")
inputs = torch.rand(300, 6).numpy()
numpy.savez("brought.npz", inputs=inputs, labels=numpy.arange(300) % 3)
"""
EXPERIMENTS = TINY["experiments"]
SMALL = TINY | {
    "replicates": 1,
    "networks": {
        "sigmoid": {"hidden": [8, 6]},
        "logsigmoid": None,
        "brought": {
            "factory": "brought.py:build",
            "weights": "brought.safetensors",
            "data": "brought.npz",
            "test_set": True,
        },
    },
    "training": {"samples": 1000, "epochs": 1, "batch_size": 50, "learning_rate": 0.01},
    "fixed": {"inputs": 1, "draws": [20], "recorded_draws": 20, "repetitions": 10},
    "joint": TINY["joint"]
    | {"pool": 100, "epochs": [0, 1], "draws": [20], "recorded_draws": 20, "repetitions": 10},
    "spectra": {"inputs": 30},
    "theory": {"cases": 20},
    "figures": {"formats": ["pdf"]},
    "experiments": EXPERIMENTS
    | {
        "regression": EXPERIMENTS["regression"] | {"repetitions": 10, "noise": [0.1, 1]},
        "toy": EXPERIMENTS["toy"] | {"starts": [[4, -2]]},
        "descent": EXPERIMENTS["descent"] | {"samples": 120, "training_epochs": 1},
        "landscape": EXPERIMENTS["landscape"]
        | {
            "activations": ["sigmoid", "tanh"],
            "depths": [1, 2],
            "widths": [8],
            "samples": 100,
            "inputs": 5,
            "kinks": {"betas": [1, 16], "inputs": 1, "coordinates": 4},
        },
        "population": {"epochs": [0, 1], "inputs": 50, "tightness_inputs": 10},
        "frontier": {"pool": 50, "inputs": [5, 20], "draws": [1, 3], "repetitions": 2},
        "empirical": {"epochs": [0, 1], "inputs": 50},
        "continual": EXPERIMENTS["continual"] | {"inputs": 40, "subset": 20, "test_inputs": 20},
    },
    "benchmark": TINY["benchmark"] | {"whole_set": 300, "training_images": 50},
}

# Every line of the page that a job may end with, where … stands for what differs.
MESSAGES = [
    re.compile(".+".join(map(re.escape, line.split("…"))))
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("error: ")
]


def prepare(folder: Path) -> Project:
    """A copy of the project with the small configuration, and the network that a user brings."""
    project = copy_project(folder)
    (folder / "brought.py").write_text(FACTORY)
    subprocess.run([sys.executable, "-c", PREPARE], cwd=folder, check=True)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(SMALL, sort_keys=False))
    return project


def clone(project: Project, folder: Path) -> Project:
    """A copy to be harmed: times are kept, so that nothing in it is out of date."""
    subprocess.run(["cp", "-a", "--reflink=auto", f"{project.root}/.", folder], check=True)
    return Project(folder)


def seconds_of(project: Project, kind: str) -> float:
    """How long the shortest job of a kind took, by Snakemake's clock."""
    folder = project.results / "benchmarks"
    files = [*folder.glob(f"{kind}/*.tsv"), *folder.glob(f"{kind}.tsv")]
    return min(float(file.read_text().splitlines()[1].split()[0]) for file in files)


@dataclass(frozen=True)
class Made:
    """A job that has run, by the receipts of what it made.

    Attributes
    ----------
    kind : str
        Rule, or experiment.
    outputs, inputs : tuple of Path
        Files below the folder of results.
    """

    kind: str
    outputs: tuple[Path, ...]
    inputs: tuple[Path, ...]

    def delete(self) -> None:
        """Remove what it made."""
        for path in self.outputs:
            path.unlink(missing_ok=True)

    def targets(self, project: Project) -> list[str]:
        """What to ask of Snakemake for it to run."""
        return [str(path.relative_to(project.root)) for path in self.outputs[:1]]


def jobs_of(project: Project) -> list[Made]:
    """Every job of the finished study."""
    outputs: dict[tuple[str, str], list[Path]] = defaultdict(list)
    inputs: dict[tuple[str, str], list[Path]] = {}
    folder = project.results / receipts.FOLDER
    for receipt in sorted(folder.rglob("*.json")):
        content = receipts.read(receipt)
        wildcards = content["wildcards"]
        kind = wildcards["experiment"] if content["rule"] == "experiment" else content["rule"]
        key = kind, str(wildcards)
        outputs[key].append(project.results / receipt.relative_to(folder).with_suffix(""))
        inputs[key] = [project.results / name for name in content["inputs"]]
    return [Made(key[0], tuple(outputs[key]), tuple(inputs[key])) for key in outputs]


def kinds_of(project: Project) -> list[str]:
    """Every rule, by Snakemake's own account of a finished study, and every experiment."""
    kinds = {job.kind for job in jobs_of(project)}
    assert set(project.planned("--forceall")) - {"experiment"} <= kinds
    return sorted(kinds)


# -------------------------------------------------------------------------------- one's own process


def start(project: Project, *arguments: str) -> subprocess.Popen[str]:
    """Snakemake in a session of its own, as a terminal or a batch system starts it."""
    chosen = () if "--configfile" in arguments else ("--configfile", "tiny.yaml")
    return subprocess.Popen(
        ["snakemake", *arguments, *chosen],
        cwd=project.root,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(project.root / "said.txt").open("w"),
        text=True,
        start_new_session=True,
    )


def said(project: Project) -> str:
    """What the last Snakemake that was started has said."""
    return (project.root / "said.txt").read_text(errors="replace")


def errors_of(run: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of a user's mistakes, each once: as the page has them, without a traceback."""
    assert "Traceback" not in run.stderr, run.stderr[-6000:]
    lines = sorted({line for line in run.stderr.splitlines() if line.startswith("error: ")})
    for line in lines:
        assert any(pattern.fullmatch(line) for pattern in MESSAGES), line
    return lines


def kind_of(process: psutil.Process) -> str | None:
    """Which script a process runs for Snakemake: a job."""
    try:
        for word in process.cmdline()[1:2]:
            path = Path(word)
            if path.parent.name == "scripts" and path.parent.parent.name == ".snakemake":
                return path.name.split(".")[1]
    except psutil.Error:  # it has ended meanwhile
        pass
    return None


def jobs_below(process: int) -> dict[psutil.Process, str]:
    """Jobs that a Snakemake runs now."""
    try:
        children = psutil.Process(process).children(recursive=True)
    except psutil.NoSuchProcess:
        return {}
    return {child: kind for child in children if (kind := kind_of(child))}


def wait_for_jobs(run: subprocess.Popen[str], moment: float) -> list[psutil.Process]:
    """The jobs that run when so many seconds have gone by since the first one."""
    while not jobs_below(run.pid):
        assert run.poll() is None, "it has ended already"
        time.sleep(0.05)
    time.sleep(moment)
    return list(jobs_below(run.pid))


def kill(process: psutil.Process) -> bool:
    """Kill -9 it; whether it was still there to be killed."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


# ----------------------------------------------------------------------------------------- numbers

# What a clock or a meter of memory says, and what rests on that alone; `threads` that it ran with.
CLOCKS = {name for name, unit in UNITS.items() if unit in ("s", "s-1", "byte")}
CLOCKS |= {"cheapest", "ratio", "second_share", "share"}
# What holds them: results, figures, and Snakemake's own measurements.
TIMED = [
    "benchmark.nc",
    "benchmark.nc.json",
    "benchmarks",
    "experiments/frontier",
    "experiments/frontier.nc",
    "experiments/frontier.nc.json",
    "figures/experiments/frontier",
]


def content(path: Path) -> str:
    """Digest of a result: of a netCDF file everything but clocks, of others all bytes."""
    digest = hashlib.sha256()
    if path.suffix == ".nc":
        with xr.open_datatree(path, engine="netcdf4") as tree:
            for node in tree.subtree:
                about = sorted((key, node.attrs[key]) for key in set(node.attrs) - {"threads"})
                digest.update(f"{node.path} {about}".encode())
                for name, values in sorted(node.to_dataset(inherit=False).variables.items()):
                    digest.update(f"{name} {values.dims} {values.shape} {values.dtype}".encode())
                    if name not in CLOCKS:
                        digest.update(str(sorted(values.attrs.items())).encode())
                        entries = values.values
                        plain = entries.astype(str) if entries.dtype == object else entries
                        digest.update(plain.tobytes())
    else:
        digest.update(path.read_bytes())
    return digest.hexdigest()


# What shows clocks beside all else, and is compared once it shows the same ones.
SHOWING = ("paper/", "tables/", "explorer.html")


def results_of(project: Project) -> dict[str, Path]:
    """Files that hold results, by name below the folder of results: all but what jobs say."""
    found = {}
    for path in project.results.rglob("*"):
        name = str(path.relative_to(project.results))
        apart = name.startswith(("logs/", "benchmarks/", "receipts/", *SHOWING, TIMED[-1]))
        if path.is_file() and not apart:
            found[name] = path
    return found


class Undisturbed:
    """The results of a run that nothing has disturbed, to hold others beside."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._contents = {name: content(path) for name, path in results_of(project).items()}
        self._seen: dict[tuple[Path, int, int], str] = {}

    def assert_whole(self, project: Project) -> None:
        """Assert that what stands under its final name is finished, whatever is still missing."""
        for name, path in results_of(project).items():
            if not is_partial(path):
                assert self._same(name, path), name

    def assert_complete(self, project: Project) -> None:
        """Assert that every number is that of the undisturbed run, and nothing else is left."""
        self.assert_whole(project)
        found, wanted = set(results_of(project)), set(self._contents)
        assert found == wanted, sorted(found ^ wanted)

    def assert_equal(self, project: Project) -> None:
        """Assert the same, that nothing is left to do, and that the report says the same."""
        self.assert_complete(project)
        assert project.planned() == {}
        verified = verify(project.results)
        assert (verified.findings, verified.strangers) == ([], [])
        self._assert_same_report(project)

    def _assert_same_report(self, project: Project) -> None:
        """With the clocks of the undisturbed run all that shows them is the same to the letter."""
        for name in TIMED:
            for folder in (Path(), Path(receipts.FOLDER)):
                source, target = (one.results / folder / name for one in (self.project, project))
                if source.exists():
                    subprocess.run(["rm", "-rf", target], check=True)
                    subprocess.run(["cp", "-a", source, target], check=True)
        shown = [
            path.relative_to(self.project.results)
            for path in self.project.results.rglob("*")
            if str(path.relative_to(self.project.results)).startswith(SHOWING)
            and path.suffix in (".tex", ".csv", ".html")
        ]
        assert len(shown) > 20
        for name in shown:
            (project.results / name).unlink()
        targets = [str((project.results / name).relative_to(project.root)) for name in shown]
        rules = ("report", "tables", "explorer")
        run = project.snakemake(*targets, "--cores", "1", "--allowed-rules", *rules)
        assert run.returncode == 0, run.stderr[-4000:]
        for name in shown:
            assert (project.results / name).read_text() == (self.project.results / name).read_text()

    def _same(self, name: str, path: Path) -> bool:
        status = path.stat()
        key = path, status.st_mtime_ns, status.st_ino
        if key not in self._seen:
            self._seen[key] = content(path)
        return self._seen[key] == self._contents.get(name)
