# make demo | test | lint | install. Everything sets itself up: a virtual environment with pinned versions.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install demo test image soak reliability site lint format clean

help:  ## say what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

install: $(STAMP)  ## make the virtual environment, and nothing else

# torch comes first, pinned: asked for through another package it could be another, much larger build.
# Modules are compiled when they are first imported: most of what the big packages bring never is.
unexport PYTHONDONTWRITEBYTECODE
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --no-compile $$(grep '^torch==' constraints.txt)
	$(PIP) install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)  ## train, prune and judge a diffusion model of digits (a few minutes)
	$(BIN)/fedphd run examples/digits.yaml

test: $(STAMP) lint  ## lint, types and all tests, in two processes
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup

image: $(STAMP)  ## the steps of cluster/Dockerfile in a plain folder: a wheel in an empty environment
	$(BIN)/python -m pytest -q -m image tests/cluster

soak: $(STAMP)  ## kill processes at random for about ten minutes, and fuzz with new examples
	$(BIN)/python -m pytest -q -s -m soak tests/soak tests/reliability
	HYPOTHESIS_PROFILE=searching $(BIN)/python -m pytest -q tests/fuzz tests/runtime/test_checkpoint.py

reliability: $(STAMP)  ## every fault in every phase, into the table of docs/reliability.md
	$(BIN)/python tests/reliability/table.py

site: $(STAMP)  ## the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

lint: $(STAMP)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## put the style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
