# Figures, one job each, from what was gathered of a network.

FIGURE = f"{RESULTS}/figures/{{network}}/{{figure}}"
FIGURES = ["training", "figure-2", "single-runs", "variance-against-draws"]
# Of more networks than these the first alone has a section and figures of its own, and all a row.
SECTIONS = 10
SHOWN = list(NETWORKS) if len(NETWORKS) <= SECTIONS else [MEASURED]
NETWORK_FIGURES = [
    f"{RESULTS}/figures/{network}/{figure}"
    for network in SHOWN
    for figure in figures_of(network)
]


rule figure:
    input:
        SUMMARY,
    output:
        drawn(FIGURE, "figure", "Networks", "{network}"),
    log:
        f"{RESULTS}/logs/figure/{{network}}-{{figure}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figure/{{network}}-{{figure}}.tsv"
    wildcard_constraints:
        figure="|".join(FIGURES),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory("figure"),
        runtime=minutes("figure"),
    params:
        draws=config["fixed"]["recorded_draws"],
        code=code("figure.py"),
    script:
        "../scripts/figure.py"


rule figures:
    input:
        expand(
            "{figure}.{format}",
            figure=NETWORK_FIGURES,
            format=config["figures"]["formats"],
        ),
        [
            path
            for format in config["figures"]["formats"]
            for path in experiment_figures(format)
        ],
