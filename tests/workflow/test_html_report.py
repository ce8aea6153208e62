"""``snakemake --report``: everything is in it once, with a caption, and it opens without a network.

And the picture of the rules has the nodes and edges that Snakemake tells.
"""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browser import chromium, visit
from toy import ROOT

from diagfim import figures

sys.path.insert(0, str(ROOT / "workflow" / "lib"))
rulegraph = importlib.import_module("rulegraph")

pytestmark = pytest.mark.workflow

NETWORKS = ("sigmoid", "logsigmoid")
# Nothing listens there: what is asked of another host fails at once.
NOWHERE = {
    name: "http://127.0.0.1:9"
    for scheme in ("http_proxy", "https_proxy", "all_proxy")
    for name in (scheme, scheme.upper())
}


@pytest.fixture(scope="module")
def page(finished):
    """The file, made where no other host can be reached."""
    path = finished.results / "report.html"
    run = subprocess.run(
        ["snakemake", "--report", str(path), "--configfile", "tiny.yaml"],
        cwd=finished.root,
        capture_output=True,
        text=True,
        env=os.environ
        | NOWHERE
        | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    assert "Missing metadata" not in run.stderr
    yield path
    path.unlink()


def values_of(page, name):
    """What one of the report's variables holds."""
    found = re.search(rf"^    var {name} = (.*);$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return json.loads(found[1])


def expected(project):
    """Every figure in one format, every table, and what else is looked at."""
    drawn_files = {f"figures/{one}/{name}" for one in NETWORKS for name in figures.OF_NETWORKS}
    drawn_files |= {
        f"figures/experiments/{experiment}/{name}"
        for experiment, some in figures.OF_EXPERIMENTS.items()
        for name in some
    }
    tables = {
        path.relative_to(project.results) for path in project.results.rglob("tables/**/*.html")
    }
    assert {path.with_suffix(".csv") for path in tables} == {
        path.relative_to(project.results) for path in project.results.rglob("tables/**/*.csv")
    }
    found = {f"{name}.png" for name in drawn_files} | {str(path) for path in tables}
    found |= {"paper/report.pdf", "explorer.html"}
    return {str(project.results.relative_to(project.root) / name) for name in found}


def test_everything_is_in_it_once_with_a_caption(finished, page):
    results, categories = values_of(page, "results"), values_of(page, "categories")
    assert set(results) == expected(finished)
    listed = [
        (category, subcategory, path)
        for category, some in categories.items()
        for subcategory, paths in some.items()
        for path in paths
    ]
    assert sorted(path for *_, path in listed) == sorted(results)
    assert set(categories) == {"At a glance", "Networks", "Experiments", "Theory", "Run"}
    assert set(categories["Networks"]) == set(NETWORKS)
    assert set(categories["Experiments"]) == set(figures.OF_EXPERIMENTS)
    # Equal labels in one list would hide one another.
    labels = [(*place, results[path]["labels"]["result"]) for *place, path in listed]
    assert len(set(labels)) == len(labels)
    captions = {path: one["caption"] for path, one in results.items()}
    for path, caption in captions.items():
        assert len(re.sub("<[^>]*>", "", caption).strip()) > 60, path
        assert "system-message" not in caption, path
        rule = results[path]["job_properties"]["rule"]
        assert rule in {"figure", "experiment_figure", "tables", "report", "explorer"}, path
    described_once = [caption for path, caption in captions.items() if "/experiments/" in path]
    assert len(set(described_once)) == len(described_once)


def test_the_front_says_what_was_run(finished, page):
    front = values_of(page, "workflow_desc")
    assert "system-message" not in front
    for text in ("2 replicates", *NETWORKS, "20240924", "commit", "torch", "Python"):
        assert text in front, text
    rules = values_of(page, "rules")
    assert rules["train"]["n_jobs"] == 4
    assert "with job(snakemake)" in re.sub("<[^>]*>", "", rules["figure"]["code"])
    runtimes = values_of(page, "runtimes_spec")["data"]["values"]
    assert {one["rule"] for one in runtimes} >= {"train", "figure", "tables", "report"}
    assert all(one["runtime"] > 0 for one in runtimes)


def test_in_a_browser_it_shows_them_and_asks_for_nothing(page):
    size = {"width": 1400, "height": 900}
    with chromium() as browser, visit(browser, page.as_uri(), viewport=size) as found:
        shown = found.page
        shown.locator("#rulegraph canvas").wait_for()
        title = shown.get_by_role("heading", name="Trade-offs of diagonal")
        assert title.bounding_box()["y"] >= 0  # also where the graph is taller than the window
        shown.get_by_text("every claim with its verdict").click()
        shown.get_by_text("What Soen and Sun (2024) state").wait_for()
        shown.evaluate("app.setView({navbarMode: 'menu'})")
        shown.get_by_text("Statistics", exact=True).click()
        for name in ("runtimes", "timeline"):
            shown.locator(f"#{name} canvas").wait_for()
        shown.get_by_text("Networks", exact=True).click()
        shown.get_by_text("sigmoid", exact=True).click()
        figure = shown.locator("tr", has_text="Training").locator("a")
        figure.nth(0).click()
        image = shown.locator("img[src^='data:image/png']")
        image.wait_for()
        assert image.evaluate("one => one.decode().then(() => one.naturalWidth > 1000)")
        table = shown.locator("tr", has_text="Table: layers").locator("a")
        table.nth(0).click()
        rows = shown.frame_locator("iframe").locator("tbody tr")
        rows.nth(3).wait_for()
        assert rows.count() == 4
        table.nth(1).click()
        shown.get_by_text("averages over the parameters of the layer").wait_for()
        assert {one.partition(":")[0] for one in found.requests} <= {"file", "data", "blob"}
        assert [one for one in found.requests if one.startswith("file")] == [page.as_uri()]
        # Snakemake's own page says these two; nothing else is wrong.
        own = ("cdn.tailwindcss.com should not be used", "The input spec uses Vega-Lite v3")
        assert [one for one in found.problems if not one.startswith(own)] == []


def test_the_picture_of_the_rules_is_what_snakemake_tells(finished):
    run = finished.snakemake("--rulegraph", "dot")
    assert run.returncode == 0, run.stderr[-4000:]
    rules, edges = rulegraph.told(run.stdout)
    assert {"train", "summary", "all"} <= rules
    assert ("train", "derivatives") in edges
    picture = rulegraph.drawn(rulegraph.PICTURE.read_text(encoding="utf-8"))
    assert picture == (rules, edges), "workflow/rulegraph.svg is out of date: make pages"
