# The two estimators, repeated over seeds: at the fixed inputs, and over the test set.

DRAWN = ("draws", "recorded_draws", "repetitions")


rule fixed_estimates:
    input:
        rules.derivatives.output,
    output:
        f"{REPLICATE}/fixed-estimates.nc",
    log:
        f"{RESULTS}/logs/fixed_estimates/{{network}}-{{replicate}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/fixed_estimates/{{network}}-{{replicate}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory("fixed_estimates"),
        runtime=minutes("fixed_estimates"),
    params:
        settings=of_network(**{key: config["fixed"][key] for key in DRAWN}),
        code=code("fixed_estimates.py"),
    script:
        "../scripts/fixed_estimates.py"


rule joint_estimates:
    input:
        inputs=inputs_of,
        factory=factory_of,
        checkpoints=weights(joint_stages),
    output:
        f"{REPLICATE}/joint-estimates.nc",
    log:
        f"{RESULTS}/logs/joint_estimates/{{network}}-{{replicate}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/joint_estimates/{{network}}-{{replicate}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory("joint_estimates"),
        runtime=minutes("joint_estimates"),
    params:
        settings=of_network(joint=True, **{key: config["joint"][key] for key in DRAWN}),
        code=code("joint_estimates.py"),
    script:
        "../scripts/joint_estimates.py"
