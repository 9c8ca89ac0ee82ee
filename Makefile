# Every target makes what it needs: a fresh clone and `make demo` or `make test` are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help env demo test lint types contracts fmt bench faults reference clean

help: ## What can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

env: $(STAMP) ## The Python environment with every framework

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1' 
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt 'torch==2.13.0' -e '.[all]' --group dev
	touch $@

demo: $(STAMP) ## Train iris and digits, serve them, ask for a prediction (ONCE=1 stops then)
	$(BIN)/python examples/demo.py $(if $(ONCE),--once)

test: $(STAMP) ## Every test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP) ## Formatting and lint rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## The strict type checker
	$(BIN)/mypy

contracts: $(STAMP) ## Which package may import which
	$(BIN)/lint-imports

fmt: $(STAMP) ## Format the tree
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## Figures against MLServer and KServe's server, in one run
	$(BIN)/python -m benchmarks

faults: $(STAMP) ## What each fault costs, into docs/faults.md
	$(BIN)/python -m pytest tests/faults --fault-table=docs/faults.md

reference: $(STAMP) ## docs/reference/ from the code
	$(BIN)/python docs/make_reference.py

clean: ## Remove what was made
	rm -rf $(VENV) .venvs models build dist .pytest_cache .mypy_cache .ruff_cache
