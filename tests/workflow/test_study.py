"""The real DAG at toy size: it ends, it is whole, it reruns what it must and nothing else."""

import shutil
import sys

import numpy as np
import pypdf
import pytest
import xarray as xr
import yaml
from browser import chromium, visit
from safetensors.numpy import load_file
from toy import copy_project, shuffled

from diagfim import figures, receipts
from diagfim.verification import verify

pytestmark = pytest.mark.workflow

EXPECTED = {
    "networks/sigmoid/{}/" + name
    for name in (
        "history.nc",
        "derivatives.nc",
        "conditional-moments.nc",
        "joint-moments.nc",
        "fixed-estimates.nc",
        "joint-estimates.nc",
        "bounds.nc",
        "comparison.nc",
        "spectra.nc",
    )
}


OVER_THE_TEST_SET = {
    f"networks/sigmoid/{{}}/{name}.nc" for name in ("joint-moments", "joint-estimates", "spectra")
}
NETWORKS = ("sigmoid", "logsigmoid")


def netcdf_files(project):
    return sorted(project.results.rglob("*.nc"))


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_it_ends_with_every_file(finished):
    names = {str(path.relative_to(finished.results)) for path in netcdf_files(finished)}
    expected = {name.format(replicate) for name in EXPECTED for replicate in (0, 1)}
    expected |= {
        name.format(replicate).replace("sigmoid", "logsigmoid")
        for name in EXPECTED - OVER_THE_TEST_SET
        for replicate in (0, 1)
    }
    for name in figures.OF_EXPERIMENTS:
        expected |= {f"experiments/{name}{end}.nc" for end in ("", "/0", "/1")}
    expected |= {f"summaries/{name}.nc" for name in NETWORKS}
    assert names == expected | {"data/mnist.nc", "theory.nc", "benchmark.nc"}
    drawn = [f"{network}/{name}" for network in NETWORKS for name in figures.OF_NETWORKS]
    drawn += [
        f"experiments/{experiment}/{name}"
        for experiment, some in figures.OF_EXPERIMENTS.items()
        for name in some
    ]
    for name in drawn:
        for suffix in ("pdf", "png"):
            path = finished.results / "figures" / f"{name}.{suffix}"
            assert path.stat().st_size > 5000, path
    assert len(list((finished.results / "figures").rglob("*.pdf"))) == len(drawn)


def test_nothing_is_to_be_done_twice(finished):
    assert finished.planned() == {}


def test_every_file_has_a_receipt_and_is_what_it_was(finished):
    found = verify(finished.results)
    assert found.findings == found.strangers == []
    assert found.files > len(netcdf_files(finished)) + 40  # and weights, figures, the report
    config = yaml.safe_load((finished.root / "config" / "config.yaml").read_text())
    for path in sorted((finished.results / "receipts").rglob("*.json")):
        receipt = receipts.read(path)
        assert receipt["seed"] == str(config["seed"])
        for key in ("rule", "config_sha256", "code", "source", "packages", "host"):
            assert receipt[key], (path, key)


def test_files_explain_themselves(finished):
    about = ("source", "seed", "packages", "host")
    for path in netcdf_files(finished):
        with xr.open_datatree(path) as tree:
            for key in ("title", "config", "config_sha256", "Conventions", *about):
                assert tree.attrs[key], (path, key)
            for node in tree.subtree:
                for name, variable in node.data_vars.items():
                    assert variable.attrs["long_name"], (path, node.path, name)
                    assert variable.attrs["units"], (path, node.path, name)


def test_the_images_are_mnist(finished):
    with xr.open_datatree(finished.results / "data" / "mnist.nc") as tree:
        assert tree["train/images"].shape == (60000, 28, 28)
        assert tree["test/labels"].shape == (10000,)
        assert np.bincount(tree["train/labels"].values)[:2].tolist() == [5923, 6742]


def test_arrays_have_the_shapes_of_the_parameters(finished):
    replicate = finished.results / "networks" / "sigmoid" / "0"
    weights = load_file(replicate / "checkpoints" / "epoch-2.safetensors")
    leading = {
        "conditional-moments.nc": (3, 2),
        "bounds.nc": (3, 2),
        "joint-moments.nc": (2,),
        "fixed-estimates.nc": (3, 2, 2),
        "joint-estimates.nc": (2, 2),
    }
    for file, shape in leading.items():
        with xr.open_datatree(replicate / file) as tree:
            assert set(tree["parameters"].children) == set(weights)
            for name, weight in weights.items():
                for variable in tree[f"parameters/{name}"].data_vars.values():
                    assert variable.shape == (*shape, *weight.shape)
                    assert variable.dtype == np.float64
                    assert np.isfinite(variable).all()


def test_the_results_are_right(finished):
    with xr.open_datatree(finished.results / "summaries/sigmoid.nc") as tree:
        fixed = tree["fixed"].to_dataset()
        joint = tree["joint"].to_dataset()
        assert int(fixed["bounds_checked"].sum()) > 100_000
        assert int(fixed["bounds_broken"].sum()) == 0
        assert int(fixed["wrong_constants"].sum() + joint["wrong_constants"].sum()) == 0
        # 4 layers, 3 epochs, 2 inputs, 2 replicates, 2 estimators: 96 layer means, |z| <= 5
        assert float(np.abs(fixed["layer_z"]).max()) < 5
        assert float(fixed["normal_largest"].max()) < 6
        assert float(tree["history"]["accuracy"].isel(epoch=-1).min()) > 0.3
        spectra = tree["spectra"].to_dataset()
        assert spectra.sizes == {"replicate": 2, "input": 300}
        assert_proven(spectra)
        share = joint["input_share"]
        assert bool(((share >= 0) & (share <= 1)).all())


def test_no_result_of_the_paper_is_broken(finished):
    with xr.open_datatree(finished.results / "theory.nc") as tree:
        results = tree["results"].to_dataset().load()
        misprints = tree["misprints"].to_dataset()
        assert misprints.sizes["misprint"] == 6
    true = results["kind"] != "misprint"
    assert int(results["violations"].where(true).sum()) == 0
    assert bool((results["violations"].where(~true, 1) > 0).all())


def assert_proven(spectra):
    for tensor in ("tensor", "moment"):
        attained, upper = (spectra[f"{tensor}_lambda_{name}"] for name in ("max", "upper"))
        assert bool(((attained <= upper) & (upper <= attained * 1.01)).all())


def test_the_report_holds_numbers_of_the_results(finished):
    reader = pypdf.PdfReader(finished.results / "paper" / "report.pdf")
    text = " ".join(page.extract_text() for page in reader.pages)
    with xr.open_datatree(finished.results / "summaries/sigmoid.nc") as tree:
        accuracy = tree["history"]["accuracy"].isel(epoch=-1)
        assert f"{100 * float(accuracy.mean()):.2f}" in text
    with xr.open_datatree(finished.results / "benchmark.nc") as tree:
        five = tree["tasks/seconds"].sel(task="five quantities", quantile=0.5)
        for seconds in five.values:
            assert f"{1e3 * seconds:.2f}" in text
        # extraction drops the thin space before a unit
        assert f"{float(tree['whole/memory'][-1]) / 1e6:.1f}MB" in text.replace(" ", "")
    assert "784–12–10–8–10" in text
    assert "??" not in text
    log = (finished.results / "paper" / "report.log").read_text(errors="replace")
    assert "Overfull" not in log
    assert "undefined" not in log


def test_logs_and_benchmarks_exist_for_every_job(finished):
    for rule in ("dataset", "train", "derivatives", "joint_estimates", "comparison", "figure"):
        assert list((finished.results / "logs" / rule).glob("*.log")), rule
        assert list((finished.results / "benchmarks" / rule).glob("*.tsv")), rule


def test_editing_a_formula_reruns_exactly_what_rests_on_it(finished):
    bounds = finished.root / "src" / "diagfim" / "bounds.py"
    original = bounds.read_text()
    edit(bounds, "return m, 2 * m", "return m, 3 * m")
    planned = finished.planned()
    bounds.write_text(original)
    assert planned == {
        "bounds": 4,
        "spectra": 2,
        "theory": 1,
        "comparison": 4,
        "summary": 2,
        "figure": 8,
        "experiment": 4,
        "gather": 2,
        "experiment_figure": 4,
        "explorer": 1,
        "headlines": 1,
        "report": 1,
        "tables": 1,
    }
    assert finished.planned() == {}


def test_editing_a_comment_reruns_nothing(finished):
    bounds = finished.root / "src" / "diagfim" / "bounds.py"
    bounds.write_text("# a comment\n" + bounds.read_text())
    assert finished.planned() == {}


def test_another_order_of_the_keys_reruns_nothing(finished):
    path = finished.root / "tiny.yaml"
    text = path.read_text()
    path.write_text(yaml.safe_dump(shuffled(yaml.safe_load(text), 0), sort_keys=False))
    assert path.read_text() != text
    planned = finished.planned()
    path.write_text(text)
    assert planned == {}


def test_one_core_gives_the_same_numbers(finished, tmp_path):
    again = copy_project(tmp_path)
    replicate = "results/tiny/networks/sigmoid/1"
    targets = [f"{replicate}/{name}.nc" for name in ("comparison", "spectra")]
    run = again.snakemake(*targets, "--cores", "1")
    assert run.returncode == 0, run.stderr[-4000:]
    made = sorted((again.root / replicate).rglob("*.*"))
    assert len(made) == len(EXPECTED) + 3 + 2  # three checkpoints, two accumulators
    for path in made:
        other = finished.root / path.relative_to(again.root)
        if path.suffix == ".nc":
            with xr.open_datatree(path) as one, xr.open_datatree(other) as two:
                assert one.identical(two), path
        else:
            assert path.read_bytes() == other.read_bytes()


def test_a_corrupt_image_file_is_one_line_and_leaves_nothing(tmp_path):
    project = copy_project(tmp_path)
    name = "resources/MNIST/raw/t10k-labels-idx1-ubyte.gz"
    data = (project.root / name).read_bytes()
    (project.root / name).write_bytes(data[:3000])
    run = project.snakemake("results/tiny/data/mnist.nc", "--cores", "1")
    assert run.returncode != 0
    lines = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(set(lines)) == 1
    assert name in lines[0]
    assert "git checkout" in lines[0]
    assert "Traceback" not in run.stderr
    assert not list(project.results.glob("data/*"))


def test_missing_tex_is_one_line_before_any_long_work(tmp_path):
    project = copy_project(tmp_path)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "sh", "git", "env", "which"):  # the plugin for Slurm asks which
        (programs / name).symlink_to(shutil.which(name))
    path = f"{sys.prefix}/bin:{programs}"
    run = project.snakemake("results/tiny/paper/tex-version.txt", "--cores", "1", path=path)
    assert run.returncode != 0
    lines = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(set(lines)) == 1
    assert "apt-get install latexmk" in lines[0]
    assert "Traceback" not in run.stderr
    assert not list(project.results.glob("paper/*"))


def test_a_bad_configuration_is_one_line_and_leaves_nothing(tmp_path):
    project = copy_project(tmp_path)
    edit(project.root / "tiny.yaml", "\n  epochs: 2\n", "\n  epochs: -2\n")
    run = project.snakemake("--cores", "1")
    assert run.returncode != 0
    lines = [line for line in run.stderr.splitlines() if "config:" in line]
    assert len(lines) == 1
    assert "training.epochs is -2" in lines[0]
    assert not project.results.exists()


@pytest.mark.parametrize("name", ["config", "extended"])
def test_the_full_study_plans(finished, name):
    run = finished.snakemake("--dry-run", "--configfile", f"config/{name}.yaml")
    assert run.returncode == 0, run.stderr
    assert "joint_estimates" in run.stdout


def test_the_benchmark_can_be_left_out(finished):
    settings = finished.root / "tiny.yaml"
    original = settings.read_text()
    edit(settings, "benchmark:", "benchmark:\n  enabled: false")
    planned = finished.planned()
    settings.write_text(original)
    assert planned == {"report": 1, "tables": 1}


@pytest.mark.parametrize("name", ["toy", "population", "frontier"])
def test_an_experiment_can_be_left_out(finished, name):
    settings = finished.root / "tiny.yaml"
    original = settings.read_text()
    config = yaml.safe_load(original)
    config["experiments"].setdefault(name, {})["enabled"] = False
    settings.write_text(yaml.safe_dump(config))
    planned = finished.planned()
    settings.write_text(original)
    assert planned == {"report": 1, "headlines": 1, "explorer": 1, "tables": 1}


def test_one_figure_alone_is_one_job(finished):
    path = "results/tiny/figures/experiments/toy/figure-1.pdf"
    target = finished.root / path
    content = target.read_bytes()
    target.unlink()
    run = finished.snakemake(path, "--cores", "1")
    assert run.returncode == 0, run.stderr[-4000:]
    assert "done: 1 job in" in run.stderr
    assert target.read_bytes() == content


def test_one_figure_makes_its_own_network_alone(finished):
    path = "results/tiny/figures/logsigmoid/figure-2.pdf"
    planned = finished.planned("--forceall", "--configfile", "tiny.yaml", "--", path)
    assert planned["train"] == planned["comparison"] == 2
    assert planned["summary"] == planned["figure"] == 1
    assert "spectra" not in planned  # the other network alone is looked at over the test set


@pytest.mark.parametrize(
    "name",
    [
        "figures/sigmoid/figure-3.pdf",
        "figures/sigmoyd/figure-2.pdf",
        "figures/experiments/toy/figure-9.pdf",
        "experiments/toys.nc",
        "summaries/sigmoyd.nc",
    ],
)
def test_a_mistyped_target_is_refused_before_any_job(finished, name):
    run = finished.snakemake(f"results/tiny/{name}", "--cores", "1")
    assert run.returncode != 0
    assert f"No rule to produce results/tiny/{name}" in run.stderr
    assert "Traceback" not in run.stderr


def test_the_report_follows_a_result_that_is_changed(finished):
    """A number of a result is changed: the page shows the new one, and no longer the old one."""
    summary = finished.results / "summaries" / "sigmoid.nc"
    original = summary.read_bytes()
    with xr.open_datatree(summary) as tree:
        tree.load()
    accuracy = tree["history"]["accuracy"]
    old = f"{100 * float(accuracy.isel(epoch=-1).mean()):.2f}"
    accuracy[:] = 0.123456
    tree.to_netcdf(summary)
    target = "results/tiny/paper/report.pdf"
    # As it stands it is refused; without its receipt it is taken as it is.
    receipt = finished.results / "receipts" / "summaries" / "sigmoid.nc.json"
    refused = finished.snakemake(target, "--cores", "2", "--rerun-triggers", "mtime")
    assert refused.returncode == 1
    assert (
        "results/tiny/summaries/sigmoid.nc: is not what it was when it was made" in refused.stderr
    )
    receipt = receipt.rename(receipt.with_suffix(".kept"))
    run = finished.snakemake(target, "--cores", "2", "--rerun-triggers", "mtime")
    text = "".join(page.extract_text() for page in pypdf.PdfReader(finished.root / target).pages)
    summary.write_bytes(original)
    receipt.rename(receipt.with_suffix(".json"))
    again = finished.snakemake("--cores", "2", "--rerun-triggers", "mtime")
    assert run.returncode == again.returncode == 0, run.stderr[-4000:]
    assert "12.35" in text
    assert f"accuracy {old}" not in text


def test_the_interactive_page_shows_the_study_and_asks_for_nothing(finished):
    path = finished.results / "explorer.html"
    with chromium() as browser, visit(browser, path.as_uri()) as found:
        found.page.wait_for_selector("html[data-ready]", state="attached")
        assert found.page.locator("#network option").all_text_contents() == list(NETWORKS)
        assert found.page.locator(".chart svg").count() == 5
        assert "commit" in found.page.locator("footer").inner_text()
        assert found.requests == [path.as_uri()]
        assert found.problems == []


def fonts_of(resources):
    """Descriptors of every font of a page, those of the figures on it included."""
    for font in resources.get("/Font", {}).values():
        one = font.get_object()
        inner = one["/DescendantFonts"][0].get_object() if "/DescendantFonts" in one else one
        yield inner["/FontDescriptor"].get_object() if "/FontDescriptor" in inner else {}
    for form in resources.get("/XObject", {}).values():
        one = form.get_object()
        if "/Resources" in one:
            yield from fonts_of(one["/Resources"].get_object())


def test_every_font_of_the_report_is_embedded(finished):
    reader = pypdf.PdfReader(finished.results / "paper" / "report.pdf")
    found = [font for page in reader.pages for font in fonts_of(page["/Resources"].get_object())]
    assert len(found) > 100
    for font in found:
        assert {"/FontFile", "/FontFile2", "/FontFile3"} & set(font), font


def test_the_report_stands_with_every_section_left_out(finished):
    settings = finished.root / "tiny.yaml"
    original = settings.read_text()
    config = yaml.safe_load(original)
    for name in figures.OF_EXPERIMENTS:
        config["experiments"].setdefault(name, {})["enabled"] = False
    config["theory"]["enabled"] = config["benchmark"]["enabled"] = False
    settings.write_text(yaml.safe_dump(config))
    assert finished.planned() == {"report": 1, "explorer": 1, "headlines": 1, "tables": 1}
    target = "results/tiny/paper/report.pdf"
    run = finished.snakemake(target, "--cores", "2")
    text = "".join(page.extract_text() for page in pypdf.PdfReader(finished.root / target).pages)
    settings.write_text(original)
    again = finished.snakemake("--cores", "2")
    assert run.returncode == again.returncode == 0, run.stderr[-4000:]
    assert "Errata" in text
    assert "??" not in text
    assert "Does the noise matter" not in text
