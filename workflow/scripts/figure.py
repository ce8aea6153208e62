"""Draw one figure of one network, in every configured format."""

from _job import job

from diagfim import arrays, figures
from diagfim.figures import style

with job(snakemake) as this:
    datasets = arrays.groups_of(snakemake.input[0])
    draw = figures.OF_NETWORKS[snakemake.wildcards.figure]
    style.save(draw(datasets, snakemake.params.draws), snakemake.output, this.about)
