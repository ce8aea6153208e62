"""A finished study for all tests here, and copies of it that each may harm."""

import pytest
from study import Undisturbed, clone, prepare


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The study, run on two cores with nothing in its way."""
    project = prepare(tmp_path_factory.mktemp("undisturbed"))
    run = project.snakemake("--cores", "2")
    assert run.returncode == 0, run.stderr[-4000:]
    return Undisturbed(project)


@pytest.fixture
def finished(undisturbed, tmp_path):
    """A copy of the finished study."""
    return clone(undisturbed.project, tmp_path)
