"""Every command that the README prints is run, in a clone whose study is the one of toy size.

Those that would take hours are planned instead; so are those that need a cluster, which
tests/cluster submits to.
"""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from snakemake.utils import update_config
from toy import ROOT, TINY

pytestmark = pytest.mark.workflow

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.partition(" #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
PLANNED = ("config/smoke.yaml", "workflow/profiles/slurm")
"""What marks a command that is only planned."""


@pytest.fixture(scope="module")
def clone(finished):
    """A clone after the study, as a reader has it, but of toy size."""
    root = finished.root
    settings = root / "config" / "config.yaml"
    study = yaml.safe_load(settings.read_text())
    update_config(study, TINY | {"results": "results"})
    settings.write_text(yaml.safe_dump(study, sort_keys=False))
    for path in finished.results.iterdir():
        path.rename(root / "results" / path.name)
    # The environment that `make` would set up, as it is: this one.
    (root / ".venv").mkdir()
    for part in ("bin", "lib", "pyvenv.cfg"):
        (root / ".venv" / part).symlink_to(Path(sys.prefix) / part)
    (root / ".venv" / ".ready").touch()
    write_network(root)
    return root


def write_network(folder):
    """The files that the README's command line names: a network of one's own."""
    (folder / "my_model.py").write_text(
        "import torch\n\n\ndef build():\n    return torch.nn.Linear(4, 3)\n"
    )
    save_file(torch.nn.Linear(4, 3).state_dict(), folder / "weights.safetensors")
    inputs = np.random.default_rng(0).random((20, 4), dtype=np.float32)
    np.savez(folder / "test.npz", inputs=inputs)


def run(command, folder):
    bin_dir = Path(sys.executable).parent
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        env={
            **os.environ,
            "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
            # of `make test`, which would run this test again, one test
            "PYTEST_ARGS": "-k test_one_version tests/test_house.py",
        },
    )


def test_there_are_commands():
    assert len(COMMANDS) == len(set(COMMANDS)) >= 8
    programs = {command.split()[0] for command in COMMANDS}
    assert programs == {"make", "snakemake", "diagfim"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command(command, clone):
    named = [word for word in command.split() if word.startswith("results/")]
    for path in named:
        (clone / path).unlink(missing_ok=True)
    planned = any(mark in command for mark in PLANNED)
    done = run(f"{command} -n --forceall" if planned else command, clone)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    if planned:
        assert "Job stats:" in done.stdout
    for path in named:
        assert (clone / path).stat().st_size > 1000, path


def test_what_it_says_to_open_is_there(clone):
    assert run("make report", clone).returncode == 0
    for path in re.findall(r"`(results/[\w./-]+\.(?:pdf|html))`", README):
        assert (clone / path).stat().st_size > 1000, path


def test_other_commands_work(clone, tmp_path):
    """Those within a sentence."""
    inline = set(re.findall(r"`((?:make|pip|snakemake|diagfim) [^`]+)`", README))
    assert inline == {"pip install .", "make report"}
    install = "uv pip install --quiet --no-deps --no-build-isolation --target"
    done = run(f"{install} {tmp_path} .", clone)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "diagfim" / "__init__.py").is_file()


def test_its_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_its_table_is_as_it_is_written():
    sys.path.insert(0, str(ROOT / "workflow" / "lib"))
    readme = importlib.import_module("readme")
    block = README.partition(readme.MARKS[0])[2].partition(readme.MARKS[1])[0]
    rows = re.findall(r"^\| (.+?) \| \*\*(.+?)\*\* \| (.+) \|$", block, re.MULTILINE)
    assert len(rows) == 5
    headlines = [dict(zip(("title", "value", "meaning"), row, strict=True)) for row in rows]
    assert readme.table(headlines) == block
    assert readme.with_table(README, block) == README
    with pytest.raises(ValueError, match="lacks"):
        readme.with_table("", block)
