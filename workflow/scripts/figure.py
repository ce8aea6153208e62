"""Draw one figure of one network, in every configured format."""

from _job import job

from diagfim import arrays, figures

with job(snakemake):
    with arrays.read(snakemake.input[0]) as tree:
        network = tree[snakemake.wildcards.network]
        datasets = {name: node.to_dataset().load() for name, node in network.children.items()}
    draw = figures.FIGURES[snakemake.wildcards.figure]
    figures.save(draw(datasets, snakemake.params.draws), snakemake.output)
