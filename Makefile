# What a developer does here. `make setup` first; every other target uses .venv where there is one.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)
.DEFAULT_GOAL := help
.PHONY: help setup check format test test-all test-oldest bench docs

help:  ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | awk -F ':.*## *' '{printf "  make %-11s %s\n", $$1, $$2}'

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

test:  ## the fast suite, on every core; a few minutes
	$(PYTHON) -m pytest -n auto --dist worksteal

test-all:  ## with the slow tests; SARTOR_DATA names the data folder (bench/README.md)
	$(PYTHON) -m pytest -n auto --dist worksteal -m "slow or not slow"

test-oldest:  ## the fast suite with the lowest versions that pyproject.toml allows, in an environment of its own
	.ci/oldest

bench:  ## the table of the README, measured anew; SARTOR_DATA names the data folder
	$(PYTHON) -m sartor bench measured --write README.md

docs:  ## the pages under site/; a broken link is an error
	$(PYTHON) -m zensical build --clean --strict
