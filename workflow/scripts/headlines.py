"""Write the five numbers to know of a study, for the terminal, the page and the README."""

from _job import job

from diagfim.report import study
from diagfim.report.headlines import as_json, headlines
from diagfim.whole import whole

with job(snakemake):
    found = study.read(
        snakemake.input.summaries,
        snakemake.input.theory,
        snakemake.input.experiments,
        snakemake.params.settings,
    )
    with whole(snakemake.output[0]) as file:
        file.write_text(as_json(headlines(found)), encoding="utf-8")
