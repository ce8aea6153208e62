"""Try to break every result of the paper, and store the counterexamples to its misprints."""

from _job import job

from diagfim import arrays, theory
from diagfim.seeding import integer

with job(snakemake) as this:
    settings = snakemake.params.settings
    seed = integer(settings["seed"], "theory")
    groups = {
        "results": theory.verify(seed, settings["cases"], this.progress),
        "misprints": theory.counterexamples(),
    }
    arrays.write(
        snakemake.output[0],
        groups,
        "Results of the paper on random cases, and counterexamples to its misprints",
        settings,
        this.about,
    )
