# Four verbs: serve, test, demo, clean. Each sets up .venv first; nothing is installed outside it.
# images: the container images, by docker where it runs, else by buildah as root; `make images TARGET=cuda` for NVIDIA GPUs.
# test-device: the suite for CUDA and MPS, on what BRIE_DEVICE names or on the accelerator that is here.
PYTHON ?= python3
TARGET ?= cpu
VENV := .venv
BIN := $(VENV)/bin

# What the API's own tests ask of rows, asked of PostgreSQL again; the store's and the worker's ask both in one run.
ON_POSTGRESQL := $(addprefix tests/,server/test_fine_tuning.py server/test_adapters_api.py server/test_exports_api.py \
  server/test_bad_input.py server/test_job_events.py server/test_own_document.py compat/test_openai_responses_kept.py)

.PHONY: serve test test-device check demo images fmt clean
.DELETE_ON_ERROR:

serve: $(VENV)/.ready
	$(BIN)/brie serve

# a file's tests stay in one process, so that they share what it started
test: check
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --postgresql $(ON_POSTGRESQL)

test-device: $(VENV)/.ready
	$(BIN)/python tests/gpu/device.py
	$(BIN)/python -m pytest tests/gpu

check: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

demo: $(VENV)/.ready
	$(BIN)/python clients/examples/demo.py

images:
	tests/images/build.sh $(TARGET)

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
