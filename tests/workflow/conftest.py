import pytest
from toy import copy_project


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A project in which the whole tiny study has run, on two cores."""
    project = copy_project(tmp_path_factory.mktemp("finished"))
    run = project.snakemake("--cores", "2")
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    return project
