# Each command sets up .venv first, where that is missing or older than pyproject.toml.
#   make demo       meta-trains on scikit-learn's digits, then compares with Adam
#   make examples   the three examples of docs/examples.md: prints their tables, draws their pictures
#   make test       the fast checks: lint, types, tests; XLA optimises less, as most programs run a few times
#   make test-slow  the tests that take minutes, or join what the fast ones cover one by one
#   make test-contract  the whole matrix of what Keras asks of an optimizer, for RNNprop, DMOptimizer and Adam
#   make test-backends  the contract on JAX and PyTorch, and that all three backends agree
#   make test-keras     Keras's own tests with RNNprop in place of SGD and Adam
#   make lint       lint and types alone; a hook of pre-commit runs it too
#   make docs       renders the documents into site/; a dead link fails
#   make clean      removes .venv, site and all caches
# Another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

EXAMPLES := image_cnn text_embedding series_lstm

.PHONY: demo examples test test-slow test-contract test-backends test-keras lint docs clean

demo: $(STAMP)
	$(BIN)/python -m trainer.demo

examples: $(STAMP)
	set -e; for name in $(EXAMPLES); do $(BIN)/python -m examples.$$name; done

test: lint
	XLA_FLAGS="$$XLA_FLAGS --xla_backend_optimization_level=1" $(BIN)/python -m pytest -q -n 2 --dist worksteal

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m slow

test-contract: $(STAMP)
	$(BIN)/python -m pytest -q -m "slow or not slow" tests/contract

# Each backend writes what the others compare themselves with, then all tests run.
test-backends: $(STAMP) .venv-jax/.installed .venv-torch/.installed
	rm -rf build/backends
	KERAS_BACKEND=tensorflow $(BIN)/python -m tests.backends.made build/backends
	KERAS_BACKEND=jax .venv-jax/bin/python -m tests.backends.made build/backends
	KERAS_BACKEND=torch .venv-torch/bin/python -m tests.backends.made build/backends
	KERAS_BACKEND=tensorflow RNNPROP_BACKENDS=build/backends $(BIN)/python -m pytest -q tests/backends
	XLA_FLAGS="$$XLA_FLAGS --xla_backend_optimization_level=1" KERAS_BACKEND=jax RNNPROP_BACKENDS=build/backends \
	  .venv-jax/bin/python -m pytest -q -m "slow or not slow" tests/backends tests/contract
	KERAS_BACKEND=torch RNNPROP_BACKENDS=build/backends \
	  .venv-torch/bin/python -m pytest -q -m "slow or not slow" tests/backends tests/contract

# TensorFlow is not there: the package runs from the checkout, and only what it needs is installed.
.venv-%/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --group $*
	touch $@

test-keras: $(STAMP)
	$(BIN)/python -m tests.keras_suite

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/mkdocs build --strict

# pip 25.1 is the first to know dependency groups; the one that venv brings may be older.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "Expected Python 3.11, 3.12 or 3.13, which TensorFlow 2.21 needs. Received $(PYTHON):" \
	    "$$($(PYTHON) --version 2>&1). Name another one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(INSTALL) --upgrade 'pip>=25.1'
	$(INSTALL) --editable '.[hub]' --group dev
	touch $@

clean:
	rm -rf .venv .venv-jax .venv-torch site .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
	find rnnprop_tf trainer tests examples benchmarks studies -name __pycache__ -prune -exec rm -rf {} +
