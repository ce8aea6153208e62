# Each target sets up first whatever it needs; a second call finds it done.
#   make test PYTHON=python3.12        another interpreter for .venv
#   make test PYTEST_ARGS="-k bounds"  more arguments for pytest
#   make reproduce SNAKEMAKE_ARGS=-n   and for Snakemake

PYTHON ?= python3
PYTEST_ARGS ?=
SNAKEMAKE_ARGS ?=

export PYTHON

# for recipes only, not for set-up: jobs find the environment's programs first
IN_VENV = PATH="$(CURDIR)/.venv/bin:$$PATH"

.NOTPARALLEL:
.PHONY: help reproduce report smoke bench test test-faults test-cluster lint docs pages readme lock clean tex browser

help:
	@echo "make reproduce     the whole study, up to results/paper/report.pdf"
	@echo "make report        that, then all of it on one page, results/report.html"
	@echo "make smoke         the same pipeline at toy size, in about three minutes"
	@echo "make bench         time it on this machine, beside other libraries; trains a network first"
	@echo "make test          all tests but those of the next two"
	@echo "make test-faults   killed jobs, full disks, corrupt files, hundreds of configurations"
	@echo "make test-cluster  the pipeline on a Slurm of this machine alone, installed where it may"
	@echo "make lint          style, types and workflow lint only"
	@echo "make docs          the documentation, as pages under docs/_build/html"
	@echo "make pages         config/README.md and the rule graph, from the schema and the rules"
	@echo "make readme        the picture and the table of README.md, from a finished study"
	@echo "make lock          resolve requirements.lock anew from pyproject.toml"
	@echo "make clean         remove results, caches and .venv"

reproduce: .venv/.ready tex
	@$(IN_VENV) snakemake --cores all $(SNAKEMAKE_ARGS)

report: reproduce
	@$(IN_VENV) snakemake --report results/report.html

smoke: .venv/.ready tex
	@$(IN_VENV) snakemake --cores all --configfile config/smoke.yaml $(SNAKEMAKE_ARGS)

bench: .venv/.ready
	@$(IN_VENV) snakemake --cores all bench $(SNAKEMAKE_ARGS)
	@.venv/bin/python -m diagfim.benchmark results/benchmark.nc

test: .venv/.ready tex browser
	@$(IN_VENV) python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# one after the other: they time jobs, to kill them; writes the tables of docs/interruptions.md
test-faults: .venv/.ready tex
	@$(IN_VENV) python -m pytest -m "faults or refused or survived" --write-counts $(PYTEST_ARGS)

# where Slurm is missing and may not be installed, the tests are skipped and say so
test-cluster: .venv/.ready tex
	-@tests/cluster/slurm.sh install
	@$(IN_VENV) python -m pytest -m cluster tests/cluster $(PYTEST_ARGS)

lint: .venv/.ready
	@$(IN_VENV) python -m pytest -q tests/test_house.py -k tidy $(PYTEST_ARGS)

docs: .venv/.ready
	@$(IN_VENV) python -m sphinx -W -n --keep-going -q -b html docs docs/_build/html

# what is written by programs and kept in the repository; the graph needs Graphviz
pages: .venv/.ready
	@$(IN_VENV) python workflow/lib/config_readme.py
	@$(IN_VENV) python workflow/lib/rulegraph.py

readme: reproduce
	@$(IN_VENV) python workflow/lib/readme.py

lock: .venv/.ready
	.venv/bin/uv pip compile pyproject.toml --quiet --upgrade --all-extras --universal \
	    --fork-strategy fewest --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --custom-compile-command "make lock" --output-file requirements.lock

clean:
	rm -rf .venv results logs benchmarks .snakemake build dist docs/_build
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

tex browser:
	@workflow/setup.sh $@

.venv/.ready: requirements.lock pyproject.toml
	@workflow/setup.sh python
