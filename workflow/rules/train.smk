# Training: one job per replicate of a network, a checkpoint per epoch.
# A network that a user brings is trained already: it is looked at as it is.

HISTORY = f"{REPLICATE}/history.nc"
# No network has this name: a rule without networks makes nothing.
NONE = "a^"
# By what it is not, for those trained here may be a thousand, and this is matched for every file.
NOT_OWN = f"(?!(?:{'|'.join(OWN) or NONE})/)[A-Za-z0-9-]+"


rule train:
    input:
        images=inputs_of,
    output:
        checkpoints=[CHECKPOINT.replace("{epoch}", str(epoch)) for epoch in EPOCHS],
        accumulators=(
            [ACCUMULATOR.replace("{epoch}", str(epoch)) for epoch in EPOCHS if epoch]
            if config["experiments"]["empirical"]["enabled"]
            else []
        ),
        history=HISTORY,
    log:
        f"{RESULTS}/logs/train/{{network}}-{{replicate}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{network}}-{{replicate}}.tsv"
    wildcard_constraints:
        network=NOT_OWN if TRAINED else NONE,
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory("train"),
        runtime=minutes("train"),
        gpu=1 if config["training"]["device"] == "cuda" else 0,
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
        mem_mb=memory("evaluate"),
        runtime=minutes("evaluate"),
    params:
        settings=of_network(),
        code=code("evaluate.py"),
    script:
        "../scripts/evaluate.py"
