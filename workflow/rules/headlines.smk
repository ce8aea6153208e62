# The five numbers to know of a study, which the terminal shows when it is done.


rule headlines:
    input:
        summaries=SUMMARIES,
        theory=rules.theory.output if config["theory"]["enabled"] else [],
        experiments=[f"{RESULTS}/experiments/{name}.nc" for name in EXPERIMENTS],
    output:
        f"{RESULTS}/headlines.json",
    log:
        f"{RESULTS}/logs/headlines.log",
    benchmark:
        f"{RESULTS}/benchmarks/headlines/headlines.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory("headlines"),
        runtime=minutes("headlines"),
    params:
        settings={
            "networks": NETWORKS,
            "shown": SHOWN,
            **{key: config[key] for key in ("fixed", "joint", "experiments")},
        },
        code=code("headlines.py"),
    script:
        "../scripts/headlines.py"
