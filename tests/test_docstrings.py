"""The examples of the docstrings give what they show."""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import diagfim

MODULES = [one.name for one in pkgutil.walk_packages(diagfim.__path__, "diagfim.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def same_words(printed, shown):
    """Whether two texts hold the same words, and numbers equal in the digits of the second."""
    ours, theirs = printed.split(), shown.split()
    for one, other in zip(ours, theirs, strict=True):
        _, point, decimals = other.partition(".")
        if point and decimals.isdigit():
            assert float(one) == pytest.approx(float(other), abs=1.5 * 10.0 ** -len(decimals))
        else:
            assert one == other


def test_the_code_of_the_readme_runs_and_prints_what_it_shows(capsys, tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```(?:\n\n```\n(.*?)```)?", text, re.DOTALL)
    first, table = blocks[0]
    assert len([line for line in first.splitlines() if line]) == 5
    for block, shown in blocks:
        exec(block, namespace)
        printed = capsys.readouterr().out
        if block is first:
            same_words(printed, table)
        assert bool(shown) <= bool(printed)


def installed_for(requirements):
    """Canonical names of what requirements bring with them, themselves included."""
    found: set[str] = set()
    waiting = [Requirement(one) for one in requirements]
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if name in found or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        with suppress(PackageNotFoundError):
            waiting += map(Requirement, distribution(name).requires or ())
    return found


def test_the_library_needs_nothing_of_the_pipeline(tmp_path):
    """The README's first example and the command line where only the core is installed."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    core = installed_for(project["dependencies"])
    extras = [one for some in project["optional-dependencies"].values() for one in some]
    absent = installed_for(extras) - core
    modules = sorted(
        module
        for module, names in packages_distributions().items()
        if {canonicalize_name(name) for name in names} <= absent
    )
    assert {"snakemake", "torchvision", "matplotlib", "seaborn", "sklearn"} <= set(modules)
    script = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
{code}
from diagfim.cli import main
assert main(["--version"]) == 0
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    assert "(every layer)" in run.stdout


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    modules = [importlib.import_module(name) for name in MODULES]
    assert sum(len(test.examples) > 0 for one in modules for test in finder.find(one)) >= 10
