# Every table of the report, as numbers and as a page of its own.

# Tables of the networks that are looked at over the test set.
OF_THE_TEST_SET = ("eigenvalues", "joint-draws")
CAPTIONS = {
    name: f"workflow/report/tables/{caption}.rst" for name, caption, _, _ in tables()
}


rule tables:
    input:
        summaries=SUMMARIES,
        theory=rules.theory.output if config["theory"]["enabled"] else [],
        experiments=[f"{RESULTS}/experiments/{name}.nc" for name in EXPERIMENTS],
        benchmark=rules.benchmark.output if config["benchmark"]["enabled"] else [],
        # So that all of them have been timed.
        figures=rules.figures.input,
        captions=sorted(set(CAPTIONS.values())),
        # Of the package; an edit of it is no change of code that a digest would see.
        page="src/diagfim/report/table.html.j2",
    output:
        csv=[f"{RESULTS}/tables/{name}.csv" for name in CAPTIONS],
        html=table_pages(),
    log:
        f"{RESULTS}/logs/tables.log",
    benchmark:
        f"{RESULTS}/benchmarks/tables/tables.tsv"
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory("tables"),
        runtime=minutes("tables"),
    params:
        settings=rules.report.params.settings,
        config=config,
        captions=CAPTIONS,
        results=rules.report.params.results,
        code=code("tables.py"),
    script:
        "../scripts/tables.py"
