# Training: one job per replicate of a network, a checkpoint per epoch.


rule train:
    input:
        images=dataset_file,
    output:
        checkpoints=checkpoints(EPOCHS),
        accumulators=(
            [ACCUMULATOR.replace("{epoch}", str(epoch)) for epoch in EPOCHS if epoch]
            if config["training"]["optimiser"] == "adam"
            else []
        ),
        history=f"{REPLICATE}/history.nc",
    log:
        f"{RESULTS}/logs/train/{{network}}-{{replicate}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{network}}-{{replicate}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=of_network(training=config["training"]),
        code=code("train.py"),
    script:
        "../scripts/train.py"
