# The interactive page: one file that needs no server and no network.

# What it has a panel for, of the experiments that are switched on.
EXPLORED = [name for name in ("frontier", "landscape") if name in EXPERIMENTS]


rule explorer:
    input:
        summaries=SUMMARIES,
        headlines=rules.headlines.output[0],
        experiments=[f"{RESULTS}/experiments/{name}.nc" for name in EXPLORED],
        # Of the package; an edit of one is no change of code that a digest would see.
        page=[
            f"src/diagfim/explorer/{name}"
            for name in ("page.html.j2", "key.html.j2", "page.css", "page.js")
        ],
    output:
        listed(f"{RESULTS}/explorer.html", "explorer", "At a glance", result="Explorer"),
    log:
        f"{RESULTS}/logs/explorer.log",
    benchmark:
        f"{RESULTS}/benchmarks/explorer/explorer.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory("explorer"),
        runtime=minutes("explorer"),
    params:
        settings={
            "measured": MEASURED,
            "networks": NETWORKS,
            "experiments": {name: config["experiments"][name] for name in EXPLORED},
            **{
                key: config[key]
                for key in ("seed", "replicates", "training", "fixed", "joint")
            },
        },
        code=code("explorer.py"),
    script:
        "../scripts/explorer.py"
