# The image files, verified and read.


rule dataset:
    input:
        archives,
    output:
        f"{RESULTS}/data/{{dataset}}.nc",
    log:
        f"{RESULTS}/logs/dataset/{{dataset}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/dataset/{{dataset}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory("dataset"),
        runtime=minutes("dataset"),
    params:
        dataset=lambda wildcards: config["datasets"][wildcards.dataset],
        sha256=lambda wildcards: (
            MNIST_SHA256
            if config["datasets"][wildcards.dataset]["kind"] == "MNIST"
            else {}
        ),
        code=code("dataset.py"),
    script:
        "../scripts/dataset.py"
