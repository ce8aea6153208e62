"""The examples of the docstrings give what they show."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import diagfim

MODULES = [one.name for one in pkgutil.walk_packages(diagfim.__path__, "diagfim.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_the_code_of_the_readme_runs(capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(block, namespace)
    assert capsys.readouterr().out


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    modules = [importlib.import_module(name) for name in MODULES]
    assert sum(len(test.examples) > 0 for one in modules for test in finder.find(one)) >= 10
