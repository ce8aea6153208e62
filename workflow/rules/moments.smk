# Exact moments: given a fixed input, and over the test set.

JOINT = {key: config["joint"][key] for key in ("pool", "batch_size")}


rule conditional_moments:
    input:
        rules.derivatives.output,
    output:
        f"{REPLICATE}/conditional-moments.nc",
    log:
        f"{RESULTS}/logs/conditional_moments/{{network}}-{{replicate}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/conditional_moments/{{network}}-{{replicate}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory("conditional_moments"),
        runtime=minutes("conditional_moments"),
    params:
        settings=of_network(),
        code=code("conditional_moments.py"),
    script:
        "../scripts/conditional_moments.py"


rule joint_moments:
    input:
        inputs=inputs_of,
        factory=factory_of,
        checkpoints=weights(joint_stages),
    output:
        f"{REPLICATE}/joint-moments.nc",
    log:
        f"{RESULTS}/logs/joint_moments/{{network}}-{{replicate}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/joint_moments/{{network}}-{{replicate}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory("joint_moments"),
        runtime=minutes("joint_moments"),
    params:
        settings=of_network(joint=True),
        code=code("joint_moments.py"),
    script:
        "../scripts/joint_moments.py"
