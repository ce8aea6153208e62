"""What a script rests on, by its imports; edits of meaning count, edits of prose do not."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    path.name for path in (ROOT / "workflow/scripts").glob("*.py") if path.name[0] != "_"
)


@pytest.fixture
def project(tmp_path):
    """A copy of the code, and the digests of its scripts as a function."""
    for folder in ("src", "workflow"):
        shutil.copytree(ROOT / folder, tmp_path / folder)

    def digests():
        sys.path.insert(0, str(tmp_path / "workflow" / "lib"))
        try:
            sys.modules.pop("code_digest", None)
            module = importlib.import_module("code_digest")
            return {name: module.digest(tmp_path / "workflow/scripts" / name) for name in SCRIPTS}
        finally:
            sys.path.pop(0)
            sys.modules.pop("code_digest", None)

    return tmp_path, digests


def changed_by(project, file, old, new):
    root, digests = project
    before = digests()
    path = root / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    after = digests()
    return {name for name in SCRIPTS if before[name] != after[name]}


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        (
            "src/diagfim/bounds.py",
            "return m, 2 * m",
            "return m, 3 * m",
            {
                "bounds.py",
                "spectra.py",
                "theory.py",
                "comparison.py",
                "report.py",
                "headlines.py",
                "tables.py",
                "population.py",
                "regression.py",
            },
        ),
        (
            "src/diagfim/training.py",
            "/ 255",
            "/ 256",
            {
                "train.py",
                "landscape.py",
                "derivatives.py",
                "evaluate.py",
                "joint_moments.py",
                "joint_estimates.py",
                "spectra.py",
                "benchmark.py",
                "continual.py",
                "descent.py",
                "empirical.py",
                "frontier.py",
                "population.py",
                "regression.py",
            },
        ),
        ("src/diagfim/data.py", '"test")', '"exam")', {"dataset.py"}),
        (
            "src/diagfim/figures/style.py",
            "dpi=200",
            "dpi=300",
            {"figure.py", "experiment_figure.py", "explorer.py"},
        ),
        ("src/diagfim/experiments/toy.py", "_SPACING = 0.125", "_SPACING = 0.25", {"toy.py"}),
        (
            "src/diagfim/derivatives/dense.py",
            "through *= slope.square()",
            "through *= slope",
            {
                "derivatives.py",
                "evaluate.py",
                "joint_moments.py",
                "joint_estimates.py",
                "spectra.py",
                "benchmark.py",
                "continual.py",
                "descent.py",
                "empirical.py",
                "frontier.py",
                "population.py",
                "regression.py",
            },
        ),
        (
            "workflow/scripts/_network.py",
            "2**25",
            "2**24",
            {
                "derivatives.py",
                "evaluate.py",
                "frontier.py",
                "joint_moments.py",
                "joint_estimates.py",
                "spectra.py",
            },
        ),
        ("workflow/scripts/_job.py", "flush=True", "flush=False", set(SCRIPTS)),
        ("workflow/scripts/train.py", "classes=10", "classes=11", {"train.py"}),
    ],
)
def test_an_edit_changes_exactly_what_rests_on_it(project, file, old, new, expected):
    assert changed_by(project, file, old, new) == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""The results of the paper', '"""All results of the paper'),
        ("    m = np.minimum(", "    # a comment\n    m = np.minimum("),
        ("return m, 2 * m", "return (m, 2 * m)"),
    ],
)
def test_prose_and_layout_change_nothing(project, old, new):
    assert changed_by(project, "src/diagfim/bounds.py", old, new) == set()
