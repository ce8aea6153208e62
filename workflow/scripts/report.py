"""Fill the report's template with the results, and typeset it."""

import platform
from importlib.metadata import version
from pathlib import Path

import yaml
from _job import commit, job

from diagfim import __version__, comparison, latex
from diagfim.report import scaling, study, sweep
from diagfim.report.costs import cost_table, of_run, read_benchmark, runs

with job(snakemake):
    settings = snakemake.params.settings
    found = study.read(
        snakemake.input.summaries, snakemake.input.theory, snakemake.input.experiments, settings
    )
    measured = read_benchmark(snakemake.input.benchmark)
    together = None
    if len(found.every) > len(found.networks):
        draws = settings["fixed"]["recorded_draws"]
        together = sweep.contents(found.every, found.datasets, draws)
    results, size = Path(snakemake.params.results), (settings["networks"], settings["replicates"])
    jobs = list(of_run(runs(results.glob("benchmarks/*/*.tsv")), *size, found.experiments))
    of_replicates = scaling.by_replicate(jobs, *size)
    scale = scaling.forecast(
        of_replicates,
        gathered_in=scaling.gathering(jobs),
        held=scaling.sizes(results / "networks" / name / str(i) for name, i in of_replicates),
        per_network=settings["replicates"],
        together=snakemake.params.together,
    )
    source = Path(snakemake.output.tex)
    versions = [f"Python {platform.python_version()}"] + [
        f"{name} {version(name)}" for name in ("torch", "numpy", "xarray", "snakemake")
    ]
    latex.render(
        Path(snakemake.input.template),
        source,
        version=f"diagfim {__version__}, revision {commit()}",
        networks=found.networks,
        sweep=together,
        verdicts=found.verdicts,
        counts=found.counts,
        experiments=found.experiments,
        theory=found.theory,
        benchmark=measured,
        cost=cost_table(jobs),
        scale=scale,
        family_level=comparison.FAMILY_LEVEL,
        normal_kurtosis=comparison.NORMAL_KURTOSIS,
        slack=comparison.BOUND_SLACK,
        configuration=latex.Tex(
            yaml.safe_dump(
                {
                    **snakemake.params.config,
                    "networks": {
                        name: one
                        for name, one in snakemake.params.config["networks"].items()
                        if one is None or name in settings["shown"]
                    },
                },
                sort_keys=False,
                default_flow_style=None,
                width=120,
            )
        ),
        versions=[*versions, Path(snakemake.input.tex).read_text(encoding="utf-8").strip()],
        **{key: settings[key] for key in ("seed", "training", "fixed", "joint")},
    )
    latex.typeset(source, Path(snakemake.output.pdf), [Path(snakemake.params.figures)])
