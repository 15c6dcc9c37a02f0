# `make demo` and `make test` are all a fresh machine needs; either makes the virtual environment on first use.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
READY := $(VENV)/.ready
BENCHES := bench-training bench-extraction
ENVIRONMENTS := $(VENV) $(BENCHES:%=$(VENV)-%)

.DEFAULT_GOAL := help
.PHONY: help demo test lint types unit integration bench $(BENCHES) clean FORCE
# The environments share the links under build/, and a benchmark wants the machine to itself.
.NOTPARALLEL:

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

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

integration: $(VENV)/.integration ## the tests that need Debian's Chromium and LaTeX, which it installs
	$(VENV)/bin/python -m pytest --numprocesses logical --dist loadfile tests/integration

# Beside the extra `dev`, in the same environment.
$(VENV)/.integration: $(READY) tests/integration/packages.sh
	tests/integration/packages.sh
	$(VENV)/bin/python -m pip install --constraint constraints.txt --editable '.[integration]'
	touch $@

bench: $(BENCHES) ## run both benchmarks with their default sizes; this takes long
bench-training: ## the trainer beside Avalanche and others; options in ARGS="--rows 4000,1000,1000"
bench-extraction: ## extraction beside Hugging Face; options in ARGS="--utterances 4 --rounds 1"

# Each has an environment of its own: Avalanche brings torchvision, and one that does not fit PyTorch's build makes
# transformers, so extraction, unimportable.
$(BENCHES): bench-%: $(VENV)-bench-%/.ready
	$(VENV)-$@/bin/python -m tests.benchmarks.$* $(ARGS)

clean: ## remove the virtual environments and what the tools left
	rm -rf $(ENVIRONMENTS) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info

# The package is linked file by file, so that a new, moved or removed file needs new links. This list keeps its
# time while it stays the same.
$(ENVIRONMENTS:%=%/.files): FORCE
	@mkdir -p $(@D)
	@find common data_manifests extract train -name '*.py' -o -name '*.toml' -o -name '*.html' -o -name py.typed | sort > $@.now
	@cmp -s $@.now $@ && rm $@.now || mv $@.now $@
FORCE:

# The marker comes last: an installation that was cut off is done again. An environment's name ends in that of the
# extra it has.
$(READY): EXTRA := dev
$(BENCHES:%=$(VENV)-%/.ready): EXTRA = $(*:$(VENV)-%=%)
$(ENVIRONMENTS:%=%/.ready): %/.ready: pyproject.toml constraints.txt %/.files
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "ser-memory needs Python 3.11 or later; name one with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv $*
	$*/bin/python -m pip install --constraint constraints.txt --editable '.[$(EXTRA)]'
	touch $@
