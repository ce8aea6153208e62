"""Draw one figure of one experiment, in every configured format."""

from _job import job

from diagfim import arrays, figures
from diagfim.figures import style

with job(snakemake):
    with arrays.read(snakemake.input[0]) as tree:
        groups = arrays.groups_of(tree)
    name = snakemake.wildcards
    style.save(figures.OF_EXPERIMENTS[name.experiment][name.figure](groups), snakemake.output)
