"""The study: from the image files to the report.  Run it with ``snakemake --cores all``."""

import os
import sys
import time
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")

MAIN_CONFIG = "config/config.yaml"


report: "workflow/report/workflow.rst"


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
include: "workflow/rules/headlines.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/explorer.smk"


rule all:
    default_target: True
    input:
        f"{RESULTS}/paper/report.pdf",
        f"{RESULTS}/headlines.json",
        f"{RESULTS}/explorer.html",
        rules.tables.output,
        rules.figures.input,


# One line a stage on the terminal, in the place of Snakemake's own.
follower = progress.follow(workflow, PEAKS, succeeded)


onstart:
    assert_writable()


onsuccess:
    say(succeeded)


onerror:
    say(failed)
