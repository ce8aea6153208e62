"""The study at toy size, in a copy of the project."""

import os
import shutil
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]

TINY = {
    "results": "results/tiny",
    "replicates": 2,
    "networks": {
        "sigmoid": {"hidden": [12, 10, 8]},
        "logsigmoid": {"hidden": [8, 8, 8, 8]},
    },
    "training": {"samples": 3000, "epochs": 2, "batch_size": 50, "learning_rate": 0.01},
    "fixed": {"inputs": 2, "draws": [20, 200], "recorded_draws": 200, "repetitions": 100},
    "joint": {
        "pool": 300,
        "epochs": [0, 2],
        "draws": [20, 100],
        "recorded_draws": 100,
        "repetitions": 30,
        "batch_size": 128,
    },
    "spectra": {"inputs": 300},
    "theory": {"cases": 20},
    "experiments": {
        "regression": {
            "samples": 500,
            "hidden": [8, 8],
            "training_epochs": 1,
            "batch_size": 50,
            "learning_rate": 0.01,
            "pool": 100,
            "noise": [0.01, 0.1, 1],
            "inputs": 2,
            "draws": 20,
            "repetitions": 100,
        },
        "toy": {
            "training_points": 64,
            "test_points": 100,
            "training_epochs": 8,
            "dampings": [0.01, 0.1],
            "starts": [[-1, 0], [4, -2]],
        },
        "descent": {
            "samples": 300,
            "validation": 100,
            "test": 100,
            "hidden": [8, 6],
            "training_epochs": 2,
            "batch_size": 60,
            "learning_rates": [0.01],
            "gradient_rates": [1],
        },
        "landscape": {
            "activations": ["sigmoid", "tanh", "relu"],
            "base": {"depth": 2, "width": 8},
            "depths": [1, 2],
            "widths": [4, 8],
            "lenet": {"activations": ["tanh"], "inputs": 5},
            "samples": 500,
            "stages": [0, 1],
            "inputs": 20,
            "kinks": {"betas": [1, 16], "inputs": 2, "coordinates": 8},
        },
        "population": {"epochs": [0, 2], "inputs": 200, "tightness_inputs": 30},
        "frontier": {"pool": 300, "inputs": [5, 20], "draws": [1, 3], "repetitions": 2},
        "empirical": {"epochs": [0, 2], "inputs": 100},
        "continual": {
            "hidden": [12, 12],
            "iterations": 5,
            "batch_size": 32,
            "inputs": 100,
            "subset": 40,
            "strengths": [1000, 100000],
            "test_inputs": 50,
        },
    },
    "benchmark": {
        "rounds": 1,
        "batch": 16,
        "whole_set": 1500,
        "training_images": 200,
        "test_images": 20,
    },
}


def shuffled(value: Any, turn: int) -> Any:
    """The same with the keys of every section in another order."""
    if not isinstance(value, dict):
        return value
    keys = sorted(value, key=lambda key: (zlib.crc32(f"{turn}{key}".encode()), key))
    return {key: shuffled(value[key], turn) for key in keys}


@dataclass(frozen=True)
class Project:
    """A copy of the tracked files, to be run and edited."""

    root: Path

    @property
    def results(self) -> Path:
        return self.root / TINY["results"]

    def snakemake(self, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess:
        """Run Snakemake with the tiny configuration; nothing is asserted of the result."""
        scripts = str(Path(sys.executable).parent)
        chosen = () if "--configfile" in arguments else ("--configfile", "tiny.yaml")
        return subprocess.run(
            ["snakemake", *arguments, *chosen],
            cwd=self.root,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": path or scripts + os.pathsep + os.environ["PATH"]},
            check=False,
        )

    def planned(self, *arguments: str) -> dict[str, int]:
        """Jobs that a run would do now, by rule; empty when nothing is to be done."""
        run = self.snakemake("--dry-run", "--quiet", "host", "reason", *arguments)
        assert run.returncode == 0, run.stdout + run.stderr
        _, _, table = run.stdout.partition("Job stats:")
        rows = [line.split() for line in table.partition("\n\n")[0].splitlines()]
        counts = {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}
        return {rule: count for rule, count in counts.items() if rule not in ("total", "all")}


def copy_project(target: Path) -> Project:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    (target / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return Project(target)
