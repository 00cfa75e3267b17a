# Four verbs: serve, test, demo, clean. Each sets up .venv first; nothing is installed outside it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: serve test check demo fmt clean
.DELETE_ON_ERROR:

serve: $(VENV)/.ready
	$(BIN)/brie serve

test: check
	$(BIN)/python -m pytest

check: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

demo: $(VENV)/.ready
	$(BIN)/python clients/examples/demo.py

fmt: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch first and alone: asked for by another package, pip would take the newest build with gigabytes of CUDA.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
