# Every result of the paper on random cases, and the counterexamples to its misprints.


rule theory:
    output:
        f"{RESULTS}/theory.nc",
    log:
        f"{RESULTS}/logs/theory.log",
    benchmark:
        f"{RESULTS}/benchmarks/theory/theory.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory("theory"),
        runtime=minutes("theory"),
    params:
        settings={"seed": config["seed"], **config["theory"]},
        code=code("theory.py"),
    script:
        "../scripts/theory.py"
