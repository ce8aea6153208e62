"""Look for TeX before the long work starts, and note its version."""

from pathlib import Path

from _job import job

from diagfim import latex

with job(snakemake):
    Path(snakemake.output[0]).write_text(latex.tex_version() + "\n", encoding="utf-8")
