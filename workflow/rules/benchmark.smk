# What it all costs, on this machine: timed on the first network, printed by the report alone.


rule benchmark:
    input:
        images=f"{RESULTS}/data/{NETWORKS[MEASURED]['dataset']}.nc",
        checkpoint=expand(CHECKPOINT, network=MEASURED, replicate=0, epoch=max(EPOCHS)),
    output:
        f"{RESULTS}/benchmark.nc",
    log:
        f"{RESULTS}/logs/benchmark.log",
    benchmark:
        f"{RESULTS}/benchmarks/benchmark/benchmark.tsv"
    conda:
        "../../environment.yml"
    # All cores of a small machine, so that nothing beside it disturbs the clock.
    threads: 2
    resources:
        mem_mb=memory("benchmark"),
        runtime=minutes("benchmark"),
    params:
        settings={
            "seed": config["seed"],
            "network": NETWORKS[MEASURED],
            "training": config["training"],
            **config["benchmark"],
        },
        code=code("benchmark.py"),
    script:
        "../scripts/benchmark.py"


rule bench:
    input:
        rules.benchmark.output,
