# First and second derivatives of the outputs, at the fixed inputs of a replicate.


rule derivatives:
    input:
        inputs=inputs_of,
        factory=factory_of,
        checkpoints=weights(stages),
    output:
        f"{REPLICATE}/derivatives.nc",
    log:
        f"{RESULTS}/logs/derivatives/{{network}}-{{replicate}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/derivatives/{{network}}-{{replicate}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory("derivatives"),
        runtime=minutes("derivatives"),
    params:
        settings=of_network(inputs=config["fixed"]["inputs"]),
        code=code("derivatives.py"),
    script:
        "../scripts/derivatives.py"
