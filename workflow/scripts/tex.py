"""Look for TeX before the long work starts, and note its version."""

from _job import job

from diagfim import latex
from diagfim.whole import whole

with job(snakemake):
    version = latex.tex_version()
    with whole(snakemake.output[0]) as file:
        file.write_text(version + "\n", encoding="utf-8")
