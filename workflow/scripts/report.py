"""Fill the report's template with the results, and typeset it."""

import platform
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import yaml
from _job import commit, job

from diagfim import __version__, arrays, claims, comparison, latex, report
from diagfim.report import scaling, sweep
from diagfim.report.costs import benchmark_table, cost_table, of_run, runs
from diagfim.report.networks import contents
from diagfim.report.theory import claims as theory_claims
from diagfim.report.theory import theory_table

with job(snakemake):
    settings = snakemake.params.settings
    with arrays.read(snakemake.input.summary) as tree:
        datasets = {name: arrays.groups_of(tree[name]) for name in settings["networks"]}
    tried = measured = None
    for path in snakemake.input.theory:  # one, or none when it is left out
        with arrays.read(path) as tree:
            tried = theory_table(tree)
    for path in snakemake.input.benchmark:  # one, or none when it is left out
        with arrays.read(path) as tree:
            measured = benchmark_table(tree)
    experiments = {}
    for path in map(Path, snakemake.input.experiments):
        with arrays.read(path) as tree:
            groups = arrays.groups_of(tree)
        section = report.EXPERIMENTS[path.stem]
        experiments[path.stem] = {
            **settings["experiments"][path.stem],
            **section.contents(groups),
            "claims": section.claims(groups),
        }
    activations = {name: one.get("activation") for name, one in settings["networks"].items()}
    draws = {kind: settings[kind]["recorded_draws"] for kind in ("fixed", "joint")}
    every = [
        {**one, **settings["networks"][one["name"]]}
        for one in contents(datasets, draws, activations)
    ]
    networks = [one for one in every if one["name"] in settings["shown"]]
    together = None
    if len(every) > len(networks):
        together = sweep.contents(every, datasets, draws["fixed"])
    verdicts = [(f"network {one['name']}", one["claims"]) for one in networks]
    trained = {one["name"]: datasets[one["name"]] for one in networks if not one["own"]}
    if len(trained) > 1:
        verdicts.append(("across networks", [claims.tightness_by_activation(trained)]))
    verdicts += [
        (f"experiment {name}", one["claims"]) for name, one in experiments.items() if one["claims"]
    ]
    if tried:
        verdicts.append(("theory", theory_claims(tried)))
    results, size = Path(snakemake.params.results), (settings["networks"], settings["replicates"])
    jobs = list(of_run(runs(results.glob("benchmarks/*/*.tsv")), *size, experiments))
    of_replicates = scaling.by_replicate(jobs, *size)
    scale = scaling.forecast(
        of_replicates,
        gathering=sum(job.seconds for job in jobs if job.rule == "summary"),
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
        networks=networks,
        sweep=together,
        verdicts=verdicts,
        counts=Counter(claim.verdict for _, some in verdicts for claim in some),
        experiments=experiments,
        theory=tried,
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
