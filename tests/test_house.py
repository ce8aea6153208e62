"""The files that say what to install agree with one another, and the sources are tidy."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import diagfim

ROOT = Path(__file__).resolve().parents[1]

# conda-forge's and bioconda's names, where they are not the Python names
CONDA_NAMES = {
    "torch": "pytorch",
    "matplotlib": "matplotlib-base",
    "seaborn": "seaborn-base",
}
CONDA_ONLY = {"python", "pip"}
PIP_ONLY = {
    "asdfghjkl",
    "backpack-for-pytorch",
    "curvlinops-for-pytorch",
    "laplace-torch",
    "nngeometry",
    "opacus",
}

# what the lock must serve: each package at exactly one version on every one of these
PLATFORMS = [
    {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
    {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64"},
    {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
]
PYTHONS = ["3.11", "3.12", "3.13"]


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements() -> dict[str, Requirement]:
    """All direct dependencies, extras and build system included, by canonical name."""
    project = pyproject()["project"]
    lines = [*project["dependencies"], *pyproject()["build-system"]["requires"]]
    for extra in project["optional-dependencies"].values():
        lines += extra
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def lock_text() -> str:
    return (ROOT / "requirements.lock").read_text()


def pins() -> list[tuple[Requirement, list[str]]]:
    """Every pin of the lock with its hashes."""
    logical = re.sub(r"\\\n", " ", lock_text())
    entries = [line for line in logical.splitlines() if line.strip() and line.lstrip()[0] != "#"]
    found = []
    for entry in entries:
        pin, *hashes = entry.split("--hash=")
        found.append((Requirement(pin.strip()), [h.strip() for h in hashes]))
    return found


def pinned_version(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    assert specifier.operator == "==", f"{pin} is not an exact pin"
    return specifier.version


# ------------------------------------------------------------------------- requirements.lock


@pytest.mark.parametrize("name", sorted(requirements()))
def test_lock_satisfies_pyproject(name):
    versions = [pinned_version(pin) for pin, _ in pins() if canonicalize_name(pin.name) == name]
    assert versions, f"requirements.lock has no {name}; run `make lock`"
    for version in versions:
        assert requirements()[name].specifier.contains(version, prereleases=True), (
            f"requirements.lock pins {name} {version}, which pyproject.toml does not allow "
            f"({requirements()[name]}); run `make lock`"
        )


def test_every_pin_is_exact_and_hashed():
    assert len(pins()) > 50
    for pin, hashes in pins():
        assert pinned_version(pin)
        assert hashes, f"{pin.name} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for h in hashes), pin.name


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda p: "-".join(list(p.values())[1:]))
def test_lock_serves_the_platform(platform, python):
    environment = {
        **platform,
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "python_version": python,
        "python_full_version": f"{python}.7",
    }
    applying = [
        canonicalize_name(pin.name)
        for pin, _ in pins()
        if pin.marker is None or pin.marker.evaluate(environment)
    ]
    assert len(applying) == len(set(applying)), "a package is pinned twice"
    assert set(requirements()) <= set(applying)


def test_lock_names_no_place():
    """No index, no address, no file of somebody's machine."""
    for number, line in enumerate(lock_text().splitlines(), 1):
        where = f"requirements.lock:{number}: {line}"
        assert not re.search(r"https?:|file:|://| @ ", line), where
        assert not re.search(r"(^|[\s=@'\"])~?/", line), where
        assert not re.match(r"\s*(-i|-f|-e|--(extra-)?index-url|--find-links)\b", line), where


# --------------------------------------------------------------------------- environment.yml


def conda_dependencies() -> dict[str, str]:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (last,) = [entry for entry in entries if not isinstance(entry, str)]
    assert list(last) == ["pip"]
    names = {canonicalize_name(Requirement(entry).name) for entry in last["pip"]}
    assert names == PIP_ONLY, "conda's own packages where there are any"
    entries = [*(entry for entry in entries if isinstance(entry, str)), *last["pip"]]
    split = [
        re.fullmatch(r"([A-Za-z0-9._-]+?)\s*([=<>!~].*)?", entry).groups() for entry in entries
    ]
    names = [name for name, _ in split]
    assert len(names) == len(set(names)), "a package is listed twice"
    return {name: specifier or "" for name, specifier in split}


def test_conda_environment_is_pyproject():
    wanted = {CONDA_NAMES.get(n, n): str(r.specifier) for n, r in requirements().items()}
    listed = {n: s for n, s in conda_dependencies().items() if n not in CONDA_ONLY}
    assert listed == wanted


def test_conda_environment_has_the_same_python():
    assert conda_dependencies()["python"] == pyproject()["project"]["requires-python"]
    assert conda_dependencies()["pip"] == ""


# ----------------------------------------------------------------------------------- version


def test_one_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    assert pyproject()["project"]["version"] == diagfim.__version__ == cited
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == diagfim.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", diagfim.__version__), "semantic versioning"


def test_release_notes_are_the_section_of_the_changelog():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    command = ["sh", ROOT / ".github" / "notes.sh"]
    run = subprocess.run([*command, diagfim.__version__], capture_output=True, text=True)
    assert run.returncode == 0
    section = changelog.partition(f"## {diagfim.__version__} ")[2].partition("\n## ")[0]
    assert run.stdout.strip() == section.partition("\n")[2].strip()
    assert len(run.stdout) > 200
    refused = subprocess.run([*command, "0.0.0"], capture_output=True, text=True)
    assert refused.returncode == 1
    assert "CHANGELOG.md says nothing of 0.0.0" in refused.stderr


# ----------------------------------------------------------------------------------- catalogue


def test_the_catalogue_finds_the_workflow():
    """What the catalogue of Snakemake workflows asks for, and what it is told."""
    readme = (ROOT / "README.md").read_text().lower()
    assert "snakemake" in readme
    assert "workflow" in readme
    assert (ROOT / "workflow" / "Snakefile").is_file()
    assert (ROOT / "config" / "README.md").is_file()
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["software-stack-deployment"]["conda"] is True
    assert usage["report"] is True


def test_continuous_integration_runs_the_sets():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    sets = jobs["test"]["strategy"]["matrix"]["set"]
    assert sets == [".ci/run", "make test-faults", "make test-cluster"]
    assert "${{ matrix.set }}" in [step.get("run") for step in jobs["test"]["steps"]]
    assert "make test" in (ROOT / ".ci" / "run").read_text()


# ---------------------------------------------------------------------------------- tidiness


@pytest.mark.parametrize(
    "command",
    [
        "ruff check .",
        "ruff format --check .",
        "mypy",
        "snakefmt --check Snakefile workflow",
        "snakemake --lint",
    ],
)
def test_tidy(command):
    program, *arguments = command.split()
    bin_dir = Path(sys.executable).parent
    result = subprocess.run(
        [bin_dir / program, *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, f"{command}:\n{result.stdout}{result.stderr}"
