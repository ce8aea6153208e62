"""The study: from the image files to the report.  Run it with ``snakemake --cores all``."""

import os
import sys
import time
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")

MAIN_CONFIG = "config/config.yaml"


include: "workflow/rules/reading.smk"


configfile: MAIN_CONFIG


include: "workflow/rules/common.smk"
include: "workflow/rules/resources.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/derivatives.smk"
include: "workflow/rules/moments.smk"
include: "workflow/rules/estimates.smk"
include: "workflow/rules/bounds.smk"
include: "workflow/rules/theory.smk"
include: "workflow/rules/comparison.smk"
include: "workflow/rules/experiments.smk"
include: "workflow/rules/figures.smk"


if TRAINED:

    include: "workflow/rules/benchmark.smk"


include: "workflow/rules/paper.smk"


rule all:
    default_target: True
    input:
        f"{RESULTS}/paper/report.pdf",
        rules.figures.input,


onstart:
    assert_writable()


onerror:
    # Users' mistakes, again, below all that Snakemake says of a failed job.
    for line in failures():
        print(line, file=sys.stderr)
