"""Write every table of the results, as comma-separated values and as a page."""

from pathlib import Path

import jinja2
from _job import job
from docutils.core import publish_parts

from diagfim.report import study, tables
from diagfim.report.costs import cost_table, of_run, read_benchmark, runs
from diagfim.whole import whole


def described(path):
    """A caption as HTML: what the HTML report makes of it, too."""
    text = Path(path).read_text(encoding="utf-8")
    template = jinja2.Template(text, trim_blocks=True, lstrip_blocks=True)
    return publish_parts(
        template.render(snakemake=snakemake),
        writer_name="html",
        settings_overrides={"halt_level": 2},  # a warning is a mistake in the caption
    )["body"]


with job(snakemake) as this:
    settings = snakemake.params.settings
    found = study.read(
        snakemake.input.summaries, snakemake.input.theory, snakemake.input.experiments, settings
    )
    measured = read_benchmark(snakemake.input.benchmark)
    results = Path(snakemake.params.results)
    jobs = of_run(
        runs(results.glob("benchmarks/*/*.tsv")),
        settings["networks"],
        settings["replicates"],
        found.experiments,
    )
    every = {
        **tables.of_study(found, settings["fixed"]["recorded_draws"]),
        **tables.of_run(cost_table(jobs), measured, this.about, snakemake.params.config),
    }
    for name, caption in snakemake.params.captions.items():
        forms = {
            "csv": tables.csv(every[name]),
            "html": tables.page(name, every[name], described(caption)),
        }
        for suffix, text in forms.items():
            with whole(results / "tables" / f"{name}.{suffix}") as partial:
                partial.write_text(text, encoding="utf-8")
