# Theorem 4.1 with Theorem 5.2's eigenvalue bounds and with the eigenvalues themselves.


rule bounds:
    input:
        rules.derivatives.output,
    output:
        f"{REPLICATE}/bounds.nc",
    log:
        f"{RESULTS}/logs/bounds/{{network}}-{{replicate}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/bounds/{{network}}-{{replicate}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory("bounds"),
        runtime=minutes("bounds"),
    params:
        settings=of_network(),
        code=code("bounds.py"),
    script:
        "../scripts/bounds.py"


# The eigenvalues over the test set, after the last epoch: each proven, not only searched for.


rule spectra:
    input:
        inputs=inputs_of,
        factory=factory_of,
        checkpoint=weights(last_stage),
    output:
        f"{REPLICATE}/spectra.nc",
    log:
        f"{RESULTS}/logs/spectra/{{network}}-{{replicate}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/spectra/{{network}}-{{replicate}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory("spectra"),
        runtime=minutes("spectra"),
    params:
        settings=of_network(inputs=config["spectra"]["inputs"]),
        code=code("spectra.py"),
    script:
        "../scripts/spectra.py"
