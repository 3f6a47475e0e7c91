# Sets up what each target needs, in .venv; running one again is cheap.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: demo test lint format bench services evaluate alert-quality train picture lock clean help

demo: $(INSTALLED) ## play an invented news day through the real model and engine; ARGS=--exit for scripts
	@$(BIN)/sentiment-monitor demo $(ARGS)

test: $(INSTALLED) services ## run every test; ARGS="-k watermark" for some
	@$(BIN)/python -m pytest $(ARGS)

lint: $(INSTALLED) ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(INSTALLED) ## let ruff lay out the code and mend what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(INSTALLED) ## items a second of every way, their ratios, and which bars are met
	@$(BIN)/python -m pipelines.benchmark $(ARGS)

services: ## install what the tests with real servers need, where it can be had
	@bash tests/integration/services/install.sh

evaluate: $(INSTALLED) ## measure the shipped model and write a report; ARGS="--output DIR"
	@$(BIN)/python -m pipelines.evaluate $(ARGS)

alert-quality: $(INSTALLED) ## false alarms, recall and cost of alerts; ARGS="--output DIR --nab DIR"
	@$(BIN)/python -m pipelines.alert_quality $(ARGS)

train: $(INSTALLED) ## train a model; ARGS="--output DIR"
	@$(BIN)/python -m pipelines.train $(ARGS)

picture: $(INSTALLED) ## draw the README's picture of the demo anew
	@$(BIN)/sentiment-monitor demo --exit --picture docs/demo.svg

lock: $(INSTALLED) ## write constraints.txt anew, with the newest versions that fit
	@$(BIN)/uv pip compile --quiet --universal --all-extras --upgrade --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --no-emit-package sentiment-monitor \
		--output-file constraints.txt pyproject.toml

clean: ## remove .venv and caches
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 22

# uv installs in seconds what takes pip minutes; where it cannot reach the index (a pip.conf that it does not read),
# pip does it.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1); use make PYTHON=python3.12" >&2; \
		exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
		echo "$(PYTHON) cannot make a virtual environment; install its venv package (Debian: apt-get install python3-venv)" >&2; \
		rm -rf $(VENV); exit 1; }
	@echo "installing into $(VENV): about a minute, 6 GB (most of it is PyTorch)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]' \
		|| $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(INSTALLED)
