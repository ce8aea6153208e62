"""The study on a network that was trained elsewhere, as the page of the documentation tells it."""

import json
import os
import re
import runpy
import subprocess
import sys

import numpy as np
import pypdf
import pytest
import torch
import xarray as xr
import yaml
from safetensors.torch import load_file
from toy import ROOT, copy_project

import diagfim

pytestmark = pytest.mark.workflow

PAGE = (ROOT / "docs" / "how-to" / "pipeline-network.md").read_text()
FILES = re.findall(
    r"```\{code-block\} \w+\n:class: file\n:caption: (\S+)\n\n(.*?)```", PAGE, re.DOTALL
)
COMMANDS = re.findall(r"```sh\n(.*?)\n```", PAGE, re.DOTALL)
KERNELS = {"0.weight": (4, 1, 3, 3), "3.weight": (8, 4, 3, 3), "7.weight": (10, 32)}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A project in which the commands of the page have run."""
    project = copy_project(tmp_path_factory.mktemp("own"))
    for name, text in FILES:
        (project.root / name).write_text(text)
    prepare, study, figure = COMMANDS
    subprocess.run([sys.executable, *prepare.split()[1:]], cwd=project.root, check=True)
    for command in (study, figure):
        run = project.snakemake(*command.split()[1:])
        assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    return project


def results(project):
    return project.root / "results" / "my-network"


def network(project, stage):
    model = runpy.run_path(str(project.root / "my_network.py"))["build"]().double().eval()
    model.load_state_dict(load_file(project.root / f"digits-{stage}.safetensors"))
    with np.load(project.root / "digits.npz") as file:
        return model, torch.from_numpy(file["inputs"]).double(), torch.from_numpy(file["labels"])


def test_the_page_is_whole():
    assert [name for name, _ in FILES] == ["my_network.py", "prepare.py", "my-network.yaml"]
    assert len(COMMANDS) == 3


def test_over_the_inputs_it_is_what_analyze_finds(own):
    pool = yaml.safe_load(dict(FILES)["my-network.yaml"])["joint"]["pool"]
    for k, stage in enumerate((0, 5, 20)):
        model, inputs, _ = network(own, stage)
        tree = diagfim.analyze(model, inputs[:pool])
        with xr.open_datatree(results(own) / "networks/digits/1/joint-moments.nc") as found:
            assert list(found["parameters"].children) == list(tree.children)
            for name, node in tree.children.items():
                for quantity, expected in node.data_vars.items():
                    values = found[f"parameters/{name}"][quantity].isel(epoch=k).values
                    assert values.shape == KERNELS.get(name, values.shape) == expected.shape
                    # two engines' promise, each 1e-12 of the largest entry
                    scale = np.abs(expected.values).max()
                    assert np.abs(values - expected.values).max() <= 2e-12 * scale, (name, quantity)


def test_at_an_input_it_is_what_analyze_finds(own):
    model, inputs, labels = network(own, 20)
    with xr.open_datatree(results(own) / "networks/digits/0/conditional-moments.nc") as found:
        for k, position in enumerate(found["input"].values):
            assert found["label"].values[k] == labels[position]
            tree = diagfim.analyze(model, inputs[position : position + 1])
            for name, node in tree.children.items():
                for quantity in ("fisher", "variance_1", "variance_2", "covariance_12"):
                    values = found[f"parameters/{name}"][quantity].isel(epoch=-1, input=k).values
                    expected = node[quantity].values
                    scale = np.abs(expected).max()
                    assert np.abs(values - expected).max() <= 2e-12 * scale, (name, quantity)


def test_the_accuracy_is_that_of_the_network(own):
    model, inputs, labels = network(own, 20)
    with xr.open_datatree(results(own) / "networks/digits/0/history.nc") as tree:
        found = float(tree["accuracy"].isel(epoch=-1))
    assert found == (model(inputs).argmax(1) == labels).double().mean().item() > 0.8


def test_nothing_is_refused_and_no_bound_is_broken(own):
    with xr.open_datatree(results(own) / "summaries/digits.nc") as tree:
        fixed = tree["fixed"].to_dataset()
        assert fixed["layer"].values.tolist() == ["0", "3", "7"]
        assert int(fixed["bounds_checked"].sum()) > 10_000
        assert int(fixed["bounds_broken"].sum()) == 0
        assert int(fixed["wrong_constants"].sum()) == 0
        for kind in ("fixed", "joint"):
            assert float(tree[kind]["normal_largest"].max()) < 6.5


def test_the_report_is_about_it(own):
    paper = results(own) / "paper"
    text = "\n".join(page.extract_text() for page in pypdf.PdfReader(paper / "report.pdf").pages)
    for word in ("my_network.py:build", "666 parameters", "digits.npz", "stage of training"):
        assert word in text, word
    assert "Adam" not in text.partition("References")[0].partition("Configuration")[0]
    assert "Overfull" not in (paper / "report.log").read_text(errors="replace")
    for name in (
        "digits/figure-2",
        "digits/variance-against-draws",
        "experiments/frontier/frontier",
    ):
        assert (results(own) / f"figures/{name}.pdf").stat().st_size > 5000


def test_the_page_of_all_of_it_is_about_this_network(own):
    """``snakemake --report``: its figures and tables, and none of a training that was not here."""
    path = results(own) / "report.html"
    run = own.snakemake("--report", str(path), "--configfile", "my-network.yaml")
    assert run.returncode == 0, run.stderr[-4000:]
    text = path.read_text(encoding="utf-8")
    (found,) = re.findall(r"^    var categories = (.*);$", text, re.MULTILINE)
    listed = json.loads(found)["Networks"]["digits"]
    names = {os.path.splitext(os.path.relpath(one, "results/my-network"))[0] for one in listed}
    tables = ("agreement", "bounds", "eigenvalues", "joint-draws", "layers")
    assert names == {
        "figures/digits/figure-2",
        "figures/digits/variance-against-draws",
        *(f"tables/networks/digits/{table}" for table in tables),
    }


def test_an_edit_of_the_network_reruns_what_rests_on_it(own):
    tail = ("--configfile", "my-network.yaml")

    def planned():
        run = own.snakemake("--dry-run", "--quiet", "host", "reason", *tail)
        assert run.returncode == 0, run.stdout + run.stderr
        rows = [line.split() for line in run.stdout.partition("Job stats:")[2].splitlines()]
        return {row[0] for row in rows if len(row) == 2 and row[1].isdigit()} - {"total", "all"}

    assert planned() == set()
    path = own.root / "my_network.py"
    text, before = path.read_text(), path.stat()
    try:
        path.write_text(text.replace("Tanh", "Sigmoid"))
        assert planned() >= {"evaluate", "derivatives", "joint_moments", "spectra", "report"}
    finally:
        path.write_text(text)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_more_inputs_than_there_are_is_one_line(own):
    (own.root / "more.yaml").write_text("joint: {pool: 5000}\n")
    target = "results/my-network/networks/digits/0/joint-moments.nc"
    run = own.snakemake(
        "--cores", "1", "--configfile", "my-network.yaml", "more.yaml", "--", target
    )
    assert run.returncode == 1
    line = "config: joint.pool is 5000, but digits.npz has 797 inputs; lower it"
    assert line in run.stderr
    assert "Traceback" not in run.stderr


def test_other_networks_are_still_trained_beside_it(own):
    """A plan only: both kinds in one configuration."""
    both = yaml.safe_load(dict(FILES)["my-network.yaml"])
    del both["networks"]["sigmoid"]
    (own.root / "both.yaml").write_text(yaml.safe_dump(both, sort_keys=False))
    run = own.snakemake("--dry-run", "--quiet", "host", "reason", "--configfile", "both.yaml")
    assert run.returncode == 0, run.stdout + run.stderr
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", run.stdout, re.MULTILINE))
    assert jobs["train"] == "2"
    assert int(jobs.get("evaluate", 0)) == 0  # done before
