# The report: TeX is looked for first, so that its absence shows before hours of work, and where it
# is typeset: beside Snakemake itself, also when a cluster does the rest.


rule tex:
    output:
        f"{RESULTS}/paper/tex-version.txt",
    log:
        f"{RESULTS}/logs/tex.log",
    benchmark:
        f"{RESULTS}/benchmarks/tex/tex.tsv"
    priority: 100
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory("tex"),
        runtime=minutes("tex"),
    params:
        code=code("tex.py"),
    script:
        "../scripts/tex.py"


rule report:
    input:
        summaries=SUMMARIES,
        theory=rules.theory.output if config["theory"]["enabled"] else [],
        figures=expand("{figure}.pdf", figure=NETWORK_FIGURES),
        experiments=[f"{RESULTS}/experiments/{name}.nc" for name in EXPERIMENTS],
        experiment_figures=experiment_figures("pdf"),
        benchmark=rules.benchmark.output if config["benchmark"]["enabled"] else [],
        template="paper/report.tex.j2",
        sections=[f"paper/sections/{name}.tex.j2" for name in EXPERIMENTS],
        tex=rules.tex.output[0],
    output:
        tex=f"{RESULTS}/paper/report.tex",
        pdf=listed(
            f"{RESULTS}/paper/report.pdf", "report", "At a glance", result="Report"
        ),
    log:
        f"{RESULTS}/logs/report.log",
    benchmark:
        f"{RESULTS}/benchmarks/report/report.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory("report"),
        runtime=minutes("report"),
    params:
        settings={
            "networks": NETWORKS,
            "shown": SHOWN,
            **{
                key: config[key]
                for key in (
                    "seed",
                    "replicates",
                    "training",
                    "fixed",
                    "joint",
                    "experiments",
                )
            },
        },
        config=config,
        results=lambda wildcards, input: Path(input.summaries[0]).parents[1],
        together=lambda wildcards: replicates_together(),
        figures=lambda wildcards, input: Path(input.figures[0]).parents[1],
        code=code("report.py"),
    script:
        "../scripts/report.py"
