# Two commands do everything a newcomer needs: `make demo` and `make test`. Each creates .venv when it is missing.
# On the way: PYTHON=python3.12 chooses the interpreter, TORCH_INDEX=URL the build of torch, DEMO_DIR=folder the output.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ALIGNED := $(VENV)/.aligned
TORCH_INDEX ?=
TORCH := $(shell grep '^torch==' constraints.txt)
DEMO_DIR ?= demo

export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test test-slow test-align check results results-fast docs clean

demo: $(STAMP)
	$(BIN)/everlearn demo --out $(DEMO_DIR)

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m "not slow" -q

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow -q

# the training libraries of Hugging Face, which `make test` passes over where they are missing
test-align: $(ALIGNED)
	$(BIN)/python -m pytest -m "not slow" -q tests/models/hf tests/train/test_log.py

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/test_imports.py tests/test_docs.py

# benchmarks keep every row that they finish, so an interrupted run goes on where it stopped
results: $(STAMP)
	$(BIN)/python benchmarks/results.py

results-fast: $(STAMP)
	$(BIN)/python benchmarks/results.py --fast

# the parts of the documentation that the code writes itself
docs: $(STAMP)
	$(BIN)/python -m everlearn.cli.docs

clean:
	rm -rf $(VENV) build dist

define CHECK_PYTHON
import sys
if sys.version_info < (3, 11):
    sys.exit("everlearn needs Python 3.11 or newer, and '$(PYTHON)' is %s; name another: make PYTHON=python3.12 ..." % sys.version.split()[0])
try:
    import ensurepip, venv
except ImportError:
    sys.exit("'$(PYTHON)' cannot make virtual environments; on Debian and Ubuntu: sudo apt install python%d.%d-venv" % sys.version_info[:2])
endef
export CHECK_PYTHON

# the stamp comes last: an interrupted installation leaves none, and the next make goes on
$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) > /dev/null || { echo "There is no '$(PYTHON)'; name a Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c "$$CHECK_PYTHON"
	@echo "Creating $(VENV). This downloads about 0.3 GB with a CPU build of torch and needs 1.4 GB of disk;"
	@echo "a CUDA build, which is the default on Linux, is several GB. TORCH_INDEX=URL chooses the build."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX) )$(TORCH)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

$(ALIGNED): $(STAMP)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,align]'
	@touch $@
