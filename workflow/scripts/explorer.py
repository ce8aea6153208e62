"""Write the page on which the results are looked at."""

import json
from pathlib import Path

import yaml
from _job import job

from diagfim import arrays
from diagfim.explorer.contents import contents
from diagfim.explorer.page import page
from diagfim.whole import whole

with job(snakemake) as this:
    settings = snakemake.params.settings
    datasets = arrays.groups_by_file(snakemake.input.summaries)
    experiments = arrays.groups_by_file(snakemake.input.experiments)
    headlines = json.loads(Path(snakemake.input.headlines).read_text(encoding="utf-8"))
    text = page(
        contents(datasets, experiments, settings),
        headlines["headlines"],
        this.about,
        yaml.safe_dump(settings, sort_keys=False, width=100),
    )
    with whole(snakemake.output[0]) as partial:
        partial.write_text(text, encoding="utf-8")
