# People and CI call the same targets. `make help` lists them.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.DEFAULT_GOAL := help
.PHONY: help setup env run test lint types format docs bench gpu-check cluster-up cluster-down clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(INSTALLED) ## build .venv with the versions of constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$($(PYTHON) --version 2>&1) is too old: give Python 3.11 or newer, make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "error: this Python cannot build virtual environments: apt install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[workflow,wandb,dev]'
	@touch $@

env: ## build the environment of a cluster on its scratch: make env PROFILE=profiles/ptolemy
	@workflow/envs/setup.sh "$(PROFILE)"

run: setup ## train a small chat model here, from raw text to its report card (minutes)
	@$(BIN)/snakemake --profile profiles/local

test: setup ## lint, types and all tests
	@$(MAKE) --no-print-directory lint types
	$(BIN)/python -m pytest

lint: setup ## ruff, snakefmt, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

types: setup ## mypy, strict, on src
	$(BIN)/mypy

format: setup ## put every file into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

docs: setup ## write the generated pages again: config schema and reference
	$(BIN)/nanochat config schema > workflow/schemas/config.schema.json
	$(BIN)/nanochat config reference > docs/reference/config.md
	$(BIN)/nanochat config reference --site > docs/reference/site.md

bench: setup ## measure: training, ranks, saving, crashes, decoding, data, downloads (JSON in benchmarks/results)
	$(BIN)/python benchmarks/training.py --output benchmarks/results/training.json
	$(BIN)/python benchmarks/ranks.py --output benchmarks/results/ranks.json
	$(BIN)/python benchmarks/save_stall.py --output benchmarks/results/save_stall.json
	$(BIN)/python benchmarks/crash_sweep.py --output benchmarks/results/crash_sweep.json
	$(BIN)/python benchmarks/decode.py --output benchmarks/results/decode.json
	$(BIN)/python benchmarks/data.py --output benchmarks/results/data.json
	$(BIN)/python benchmarks/downloads.py --folder /dev/shm --output benchmarks/results/downloads.json

gpu-check: ## on a CUDA GPU: bf16, compile, a minute of depth 12, resume (needs torch, not Snakemake)
	PYTHONPATH=src $(PYTHON) benchmarks/gpu_check.py

cluster-up: ## a real SLURM on this machine, for the tests (root on Debian; NETWORK=none: only loopback)
	@$(PYTHON) tests/cluster/cluster.py up $(if $(NETWORK),--network $(NETWORK))

cluster-down: ## take the test SLURM away again; its packages stay installed
	@$(PYTHON) tests/cluster/cluster.py down

clean: ## delete the virtual environment and caches; never data or models
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
