# Experiments beside the networks of the paper: a job per replicate, then gathered, then drawn.

EXPERIMENT_FIGURES = {
    "toy": ["figure-1", "figures-2-4", "readings", "sensitivity"],
    "regression": ["noise", "training"],
    "population": ["shares", "tightness"],
    "landscape": ["map", "gain", "depth-and-width"],
    "frontier": ["frontier", "prediction"],
    "empirical": ["equal-error"],
    "descent": ["descent", "descent-noise"],
    "continual": ["continual"],
}
EXPERIMENTS = [
    name for name in EXPERIMENT_FIGURES if config["experiments"][name]["enabled"]
]
EXPERIMENT_FIGURE = f"{RESULTS}/figures/experiments/{{experiment}}/{{figure}}"
# Some look at the first network that is trained here, or that a user brings where none is; of the
# others all but the toy train on images themselves.
OF_THE_STUDY = ("population", "frontier", "empirical")
MEASURED = next(iter([*TRAINED, *OWN]))
STUDIED = {"network": NETWORKS[MEASURED], "training": config["training"]}
# A clock runs in these: no other job beside them on a small machine.
TIMED = ("frontier",)


rule experiment:
    input:
        unpack(experiment_files),
    output:
        f"{RESULTS}/experiments/{{experiment}}/{{replicate}}.nc",
    log:
        f"{RESULTS}/logs/experiment/{{experiment}}-{{replicate}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{experiment}}/{{replicate}}.tsv"
    conda:
        "../../environment.yml"
    threads: lambda wildcards: 2 if wildcards.experiment in TIMED else 1
    resources:
        mem_mb=memory("{wildcards.experiment}"),
        runtime=minutes("{wildcards.experiment}"),
    params:
        settings=lambda wildcards: {
            "seed": config["seed"],
            **config["experiments"][wildcards.experiment],
            **(STUDIED if wildcards.experiment in OF_THE_STUDY else {}),
        },
        code=lambda wildcards: code(f"{wildcards.experiment}.py")(wildcards),
    script:
        "../scripts/{wildcards.experiment}.py"


rule gather:
    input:
        expand(
            f"{RESULTS}/experiments/{{experiment}}/{{replicate}}.nc",
            replicate=REPLICATES,
            allow_missing=True,
        ),
    output:
        f"{RESULTS}/experiments/{{experiment}}.nc",
    log:
        f"{RESULTS}/logs/gather/{{experiment}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/gather/{{experiment}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory("gather"),
        runtime=minutes("gather"),
    params:
        code=code("gather.py"),
    script:
        "../scripts/gather.py"


rule experiment_figure:
    input:
        rules.gather.output,
    output:
        drawn(EXPERIMENT_FIGURE, "experiment_figure", "Experiments", "{experiment}"),
    log:
        f"{RESULTS}/logs/experiment_figure/{{experiment}}-{{figure}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/experiment_figure/{{experiment}}-{{figure}}.tsv"
    wildcard_constraints:
        figure="|".join(sum(EXPERIMENT_FIGURES.values(), [])),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory("experiment_figure"),
        runtime=minutes("experiment_figure"),
    params:
        code=code("experiment_figure.py"),
    script:
        "../scripts/experiment_figure.py"
