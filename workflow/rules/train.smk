# Training: one job per replicate of a network, a checkpoint per epoch.
# A network that a user brings is trained already: it is looked at as it is.

HISTORY = f"{REPLICATE}/history.nc"
# No network has this name: a rule without networks makes nothing.
NONE = "a^"


rule train:
    input:
        images=inputs_of,
    output:
        checkpoints=[CHECKPOINT.replace("{epoch}", str(epoch)) for epoch in EPOCHS],
        accumulators=(
            [ACCUMULATOR.replace("{epoch}", str(epoch)) for epoch in EPOCHS if epoch]
            if config["training"]["optimiser"] == "adam"
            else []
        ),
        history=HISTORY,
    log:
        f"{RESULTS}/logs/train/{{network}}-{{replicate}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{network}}-{{replicate}}.tsv"
    wildcard_constraints:
        network="|".join(TRAINED) or NONE,
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


rule evaluate:
    input:
        inputs=inputs_of,
        factory=factory_of,
        checkpoints=weights(stages),
    output:
        HISTORY,
    log:
        f"{RESULTS}/logs/evaluate/{{network}}-{{replicate}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/evaluate/{{network}}-{{replicate}}.tsv"
    wildcard_constraints:
        network="|".join(OWN) or NONE,
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        settings=of_network(),
        code=code("evaluate.py"),
    script:
        "../scripts/evaluate.py"
