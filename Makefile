# What a developer does here. `make setup` first; every other target uses .venv where there is one.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)
.DEFAULT_GOAL := help
.PHONY: help setup check format test test-all bench docs

help:  ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | awk -F ':.*## *' '{printf "  make %-10s %s\n", $$1, $$2}'

setup:  ## .venv with the package, its tests and its docs
	python3 -m venv .venv
	.venv/bin/python -m pip install -e '.[test,docs]'

check:  ## lint, format, types; changes nothing
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

format:  ## put the sources into form
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

test:  ## the fast suite, minutes
	$(PYTHON) -m pytest

test-all:  ## with the slow tests; SARTOR_DATA names the data folder (bench/README.md)
	$(PYTHON) -m pytest -m "slow or not slow"

bench:  ## the table of the README, measured anew; SARTOR_DATA names the data folder
	$(PYTHON) bench/measured.py --write README.md

docs:  ## the pages under site/
	$(PYTHON) -m zensical build
