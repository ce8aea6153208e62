"""Draw one figure of one experiment, in every configured format."""

from _job import job

from diagfim import arrays, figures
from diagfim.figures import style

with job(snakemake) as this:
    groups = arrays.groups_of(snakemake.input[0])
    draw = figures.OF_EXPERIMENTS[snakemake.wildcards.experiment][snakemake.wildcards.figure]
    style.save(draw(groups), snakemake.output, this.about)
