# Empirical against exact against bound: per replicate, then gathered by network.


rule comparison:
    input:
        unpack(over_the_test_set),
        history=HISTORY,
        conditional=rules.conditional_moments.output[0],
        fixed=rules.fixed_estimates.output[0],
        bounds=rules.bounds.output[0],
    output:
        f"{REPLICATE}/comparison.nc",
    log:
        f"{RESULTS}/logs/comparison/{{network}}-{{replicate}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/comparison/{{network}}-{{replicate}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory("comparison"),
        runtime=minutes("comparison"),
    params:
        settings={
            kind: {
                "draws": config[kind]["recorded_draws"],
                "repetitions": config[kind]["repetitions"],
            }
            for kind in ("fixed", "joint")
        },
        code=code("comparison.py"),
    script:
        "../scripts/comparison.py"


rule summary:
    input:
        comparisons=lambda wildcards: of_replicates("comparison", wildcards.network),
        spectra=spectra_of,
    output:
        SUMMARY,
    log:
        f"{RESULTS}/logs/summary/{{network}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/summary/{{network}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory("summary"),
        runtime=minutes("summary"),
    params:
        code=code("summary.py"),
    script:
        "../scripts/summary.py"
