PYTHON ?= python3
BIN := .venv/bin
PARALLEL := -n auto --dist loadgroup --no-loadscope-reorder

.PHONY: help install quickstart test test-fast test-all check format schema lock bench bench-train bench-gpu clean

help:            ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: .venv/installed  ## create .venv and install the project with its pinned dependencies

# pip alone: it takes a CPU build of torch where one lies at hand, and the CUDA build elsewhere
.venv/installed: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv
	@echo "installing into .venv (1 to 5 minutes)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev]'
	@touch $@

quickstart: install  ## take a real base model to a chat model, with its before and after (about 10 minutes)
	@$(BIN)/genesis-sft run recipes/quickstart.yaml

test: install    ## run the whole test suite
	$(BIN)/python -m pytest $(PARALLEL)

test-fast: install  ## run the tests that take no more than a few seconds each
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

test-all: install  ## the suite, and the shipped recipe on the real model, killed in every stage (about 40 minutes)
	$(BIN)/python -m pytest --real-model

check: install   ## format, lint, types, import order
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## put the code into the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

schema: install  ## write the JSON Schema of recipes and docs/recipe.md from the code
	$(BIN)/python -m genesis_sft.recipe schema > recipes/recipe.schema.json
	$(BIN)/python -m genesis_sft.recipe reference > docs/recipe.md

lock: install    ## write requirements.lock from pyproject.toml
	$(BIN)/pip-compile --quiet --upgrade --extra dev --strip-extras --no-header --no-annotate \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host -o requirements.lock pyproject.toml
	sed -i 's/^\(torch==[0-9.]*\)+.*/\1/' requirements.lock

bench: install   ## repeat the measurements of docs/intake.md (about half an hour, 17 GB of disk)
	$(BIN)/python bench/rope_layout_smollm2.py
	$(BIN)/python bench/convert_1b.py

bench-train: install  ## training on the CPU against TRL (about a quarter of an hour, a few GB for TRL)
	$(BIN)/python bench/train.py --out bench/results/train_cpu.json

bench-gpu: install  ## training on a CUDA device at the shape of Genesis 1B; writes bench/results/train_gpu.json
	$(BIN)/python bench/train_gpu.py

clean:           ## remove the environment and what checks leave behind; runs/ stays
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
