# `make` lists the targets. Each works from anywhere (make -C path/to/here tune), and again without a network.
SPACE ?= quickstart.yaml
PYTHON ?= python3.11
# Threads that wait leave the core to others: with more processes than cores, tests of two threads are 10x faster so.
export OMP_WAIT_POLICY ?= passive

.PHONY: help setup tune test test-fast test-slow check bench

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1#/p' Makefile | tr '#' '\t' | expand -t 18

# The stamp is written last and holds the place and the requirements: an interrupted, moved or outdated environment is
# completed, and a finished one costs nothing. Whether torch is a CPU or a CUDA build is up to pip's configuration.
setup:  ## install into .venv (once); PYTHON=python3.12 chooses the interpreter
	@if { pwd; cat pyproject.toml; } | cmp -s - .venv/installed; then exit 0; fi; set -e; \
	for python in "$(PYTHON)" python3 python3.13 python3.12; do \
	    if "$$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; python=; \
	done; \
	if [ -z "$$python" ]; then echo "Python 3.11 or newer is needed: make setup PYTHON=/path/to/python3.11" >&2; exit 2; fi; \
	echo "Creating .venv with $$($$python --version)"; \
	"$$python" -m venv .venv; \
	pip="nice .venv/bin/python -m pip -qq --disable-pip-version-check install"; \
	echo "Installing PyTorch (a CPU build is 190 MB to download, 800 MB on disk; a CUDA build several GB)"; \
	$$pip "$$(sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)"; \
	echo "Installing Ray, Optuna, MuJoCo and the rest (400 MB to download, 1.6 GB on disk, a minute or two)"; \
	$$pip -e ".[dev]"; \
	{ pwd; cat pyproject.toml; } > .venv/installed

tune: setup  ## set up, then tune: SPACE=quickstart.yaml ARGS=...
	@.venv/bin/ensemble tune --space "$(SPACE)" $(ARGS)

test: setup  ## the tests, a real Ray and real kills among them
	.venv/bin/python -m pytest -m "not slow" $(ARGS)

test-fast: setup  ## the tests that take seconds: no Ray, nothing slow
	.venv/bin/python -m pytest -m "not slow and not ray and not gpu and not benchmark" $(ARGS)

test-slow: setup  ## the others: searches killed at many more moments
	.venv/bin/python -m pytest -m slow $(ARGS)

check: setup  ## ruff, ruff format, mypy
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy

bench: setup  ## ratios against what one would use instead: ARGS=--quick sees that they run, ARGS=windows is one
	.venv/bin/python -m benchmarks $(ARGS)
