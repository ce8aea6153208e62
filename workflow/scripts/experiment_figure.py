"""Draw one figure of one experiment, in every configured format."""

from _job import job

from diagfim import arrays, figures
from diagfim.figures import style

with job(snakemake) as this:
    with arrays.read(snakemake.input[0]) as tree:
        groups = arrays.groups_of(tree)
    draw = figures.OF_EXPERIMENTS[snakemake.wildcards.experiment][snakemake.wildcards.figure]
    style.save(draw(groups), snakemake.output, this.about)
