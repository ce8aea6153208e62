import shutil

import pytest
from filelock import FileLock
from toy import Project, copy_project


@pytest.fixture(scope="session")
def study(tmp_path_factory, worker_id):
    """The folder of a project in which the tiny study has run, once for all workers of pytest."""
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "study"
    with FileLock(shared.with_suffix(".lock")):
        if not shared.exists():
            project = copy_project(shared.with_suffix(".part"))
            run = project.snakemake("--cores", "2")
            assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
            (project.root / "terminal.txt").write_text(run.stderr)
            project.root.rename(shared)
    return shared


@pytest.fixture(scope="module")
def finished(study, tmp_path_factory):
    """A project in which the whole tiny study has run, on two cores; a copy to change."""
    copy = tmp_path_factory.mktemp("finished") / "study"
    shutil.copytree(study, copy, symlinks=True)
    return Project(copy)
