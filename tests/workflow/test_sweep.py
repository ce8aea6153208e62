"""A hundred networks: what is planned, what is left out, and that planning grows as the jobs do."""

import resource

import pytest
from toy import copy_project

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copy_project(tmp_path_factory.mktemp("sweep"))


def seconds_of(plan):
    """What a plan tells, and the seconds of a core that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    planned = plan()
    return planned, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def test_a_hundred_networks_plan_in_proportion_to_their_jobs(project):
    # neither to read the rules nor to import what they need
    _, start = seconds_of(
        lambda: project.planned("--configfile", "config/config.yaml", "--", "tex")
    )
    few, seconds = seconds_of(lambda: project.planned("--configfile", "config/config.yaml"))
    planned, more = seconds_of(lambda: project.planned("--configfile", "config/sweep.yaml"))
    replicates, over_the_test_set = 100 * 5, 20 * 5
    assert planned == {
        "dataset": 1,
        **dict.fromkeys(
            (
                "train",
                "derivatives",
                "conditional_moments",
                "fixed_estimates",
                "bounds",
                "comparison",
            ),
            replicates,
        ),
        **dict.fromkeys(("joint_moments", "joint_estimates", "spectra"), over_the_test_set),
        "summary": 100,
        "figure": 4,  # of the first network
        "tex": 1,
        "explorer": 1,
        "headlines": 1,
        "report": 1,
        "tables": 1,
    }
    # Quadratic planning would take some twenty times as long per job; one that is linear, as long.
    jobs = sum(planned.values()) / sum(few.values())
    assert more - start < 3 * jobs * (seconds - start)


def test_ten_networks_still_have_a_section_each(project):
    sweep = (project.root / "config" / "sweep.yaml").read_text()
    head, _, rest = sweep.partition("  sigmoid-3x128-dropout:")
    networks, _, tail = ("  sigmoid-3x128-dropout:" + rest).partition("\n\n")
    lines = networks.splitlines()
    for number, figures in ((10, 10 * 4), (11, 4)):
        text = head + "\n".join(lines[:number]) + "\n\n" + tail
        (project.root / "some.yaml").write_text(text + "\nreplicates: 1\n")
        assert project.planned("--configfile", "some.yaml")["figure"] == figures
