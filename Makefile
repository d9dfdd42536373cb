# Two commands do everything a newcomer needs: `make demo` and `make test`. Each creates .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH_INDEX ?=
DEMO_DIR ?= demo

export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test test-slow check results results-fast docs clean

demo: $(STAMP)
	$(BIN)/everlearn demo --out $(DEMO_DIR)

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m "not slow" -q

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow -q

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/test_imports.py tests/test_docs.py

results: $(STAMP)
	$(BIN)/python benchmarks/results.py

results-fast: $(STAMP)
	$(BIN)/python benchmarks/results.py --fast

clean:
	rm -rf $(VENV) build dist

$(STAMP): pyproject.toml constraints.txt
	@echo "Creating $(VENV): downloads about 0.5 GB with a CPU build of torch (several GB with CUDA); pass TORCH_INDEX=URL to choose the build."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade-strategy only-if-needed $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX) )torch==2.13.0
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@
