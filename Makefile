# Two commands are all a newcomer needs: `make demo PROMPT="red apple"` and `make test`.
# Both make .venv first, once; after that they work offline.

PYTHON ?= python3
VENV ?= .venv
PROMPT ?= red apple
# Options of `difs generate`, such as DEMO_FLAGS="--latency 0.5 --seed 7"
DEMO_FLAGS ?=
# Options of pip for torch alone, such as an index with smaller, CPU-only builds
TORCH_FLAGS ?=
# Options of pytest, such as TEST_FLAGS="tests/unit -k wire -n 0"
TEST_FLAGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint chaos soak bench bench-engine bench-gpu bench-faults clean

demo: $(STAMP)
	$(BIN)/difs generate "$(PROMPT)" $(DEMO_FLAGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(TEST_FLAGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Real processes hurt at random; say SEED=7 to see the same again
SEED ?= $(shell date +%j)

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos --seconds 600 --seed $(SEED)

soak: $(STAMP)
	$(BIN)/python -m tests.chaos --seconds 28800 --seed $(SEED)

bench: $(STAMP)
	$(BIN)/python -m bench.transport
	$(BIN)/python -m bench.overhead
	$(BIN)/python -m bench.previews
	$(BIN)/python -m bench.house
	$(BIN)/python -m bench.scale
	$(BIN)/python -m bench.http

# Beside LitServe and Ray Serve, which the first line installs
bench-engine: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[bench]"
	$(BIN)/python -m bench.engine

bench-faults: $(STAMP)
	$(BIN)/python -m bench.faults

bench-gpu: $(STAMP)
	$(BIN)/python -m bench.gpu_engine

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "DIFS needs Python 3.11 or later; try make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH_FLAGS) "$$(grep '^torch==' requirements.lock)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf $(VENV) out .mypy_cache .ruff_cache .pytest_cache .hypothesis
