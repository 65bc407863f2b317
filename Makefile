# Each target is a line or two that also work by hand, in the virtual environment .venv.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test check fuzz soak fmt bench bench-import bench-distant bench-layers bench-sync clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile

setup: .venv/.stamp  ## make .venv with all that is needed

.venv/.stamp: pyproject.toml
	@echo "installing what is needed into .venv, once; it takes some half a minute" >&2
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup  ## build examples/hello over two workers and show what moved
	@$(BIN)/python examples/demo.py

test: setup  ## run all tests, on all cores
	$(BIN)/pytest -n auto --dist worksteal

check: setup  ## lint, formatting, types and the layering table
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_layering.py

fuzz: setup  ## fuzz what peers send, a minute for each target
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz

soak: setup  ## build and sync while all who take part are killed again and again; as root, on tmpfs
	$(BIN)/python -m tests.soak

fmt: setup  ## format, and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-sync: setup  ## the transfer engine, also against rsync, cp and tar; as root, on tmpfs
	set -e; for one in sync shapes throughput running_pair diff growth crowd; do $(BIN)/python -m bench.$$one; done

bench-import: setup  ## 40 MB out of an image in docker-registry; as root, on tmpfs, with skopeo
	$(BIN)/python -m bench.importing

bench-layers: setup  ## a result as layers, also against a registry and tar; as root, on tmpfs, 14 GB
	$(BIN)/python -m bench.layers

bench-distant: setup  ## round trips of a build whose client is far away; as root
	$(BIN)/python -m bench.distant

bench: setup  ## measure; JSON and plots go to bench/results/
	$(BIN)/python -m bench

clean:  ## remove .venv and all caches in this folder
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
