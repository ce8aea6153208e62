"""How many jobs of a cluster a study makes, as the page says it; needs no cluster."""

import re

import pytest
from test_resources import ON_SLURM, planned, submissions
from toy import ROOT, copy_project

pytestmark = pytest.mark.cluster

PAGE = (ROOT / "docs" / "how-to" / "cluster.md").read_text()
ROWS = re.findall(r"^\| `(config/.*?)`.* \| ([\d,]+) \| ([\d,]+) \|$", PAGE, re.MULTILINE)


def test_the_page_has_the_study_and_the_sweep():
    assert [row[0] for row in ROWS] == ["config/config.yaml", "config/sweep.yaml"]


@pytest.mark.parametrize(("config", "jobs", "submitted"), ROWS)
def test_as_the_page_says(config, jobs, submitted, tmp_path):
    plan = planned(copy_project(tmp_path), *ON_SLURM, "--configfile", config)
    total = re.search(r"^total +(\d+)$", plan, re.MULTILINE)[1]
    assert int(total) - 1 == int(jobs.replace(",", ""))  # `all` does nothing
    assert sum(submissions(plan).values()) == int(submitted.replace(",", ""))
