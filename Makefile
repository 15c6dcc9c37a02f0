# `make demo` and `make test` are all a fresh machine needs; either makes the virtual environment on first use.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test lint types unit clean FORCE

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 8

demo: $(READY) ## show forgetting, and what a memory changes, on simulated speech
	$(VENV)/bin/ser-demo

test: lint types unit ## lint, type-check and test

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports --no-logo

types: $(READY)
	$(VENV)/bin/mypy

unit: $(READY)
	$(VENV)/bin/python -m pytest --numprocesses logical

clean: ## remove the virtual environment and what the tools left
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info

# The package is linked file by file, so that a new, moved or removed file needs new links. This list keeps its
# time while it stays the same.
$(VENV)/.files: FORCE
	@mkdir -p $(VENV)
	@find common data_manifests extract train -name '*.py' -o -name '*.toml' -o -name py.typed | sort > $@.now
	@cmp -s $@.now $@ && rm $@.now || mv $@.now $@
FORCE:

# The marker comes last: an installation that was cut off is done again.
$(READY): pyproject.toml constraints.txt $(VENV)/.files
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "ser-memory needs Python 3.11 or later; name one with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(VENV)/bin/python -m pip install --constraint constraints.txt --editable '.[dev]'
	touch $(READY)
