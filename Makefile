# make demo   train a small translator, print its score, samples and where its report is
# make test   the default tests; PYTEST_ARGS="-m unit" only those that start no process (a minute), PYTEST_ARGS=--slow all,
#             PYTEST_ARGS="-x tests/cli" those of a folder or a file
#             two at a time; PYTEST_ARGS="-n 0 -s" one at a time with what it prints
# make lint   ruff, codespell and mypy
# make versions   the unit tests on the lowest versions that pyproject.toml allows, and on the newest ones
# Each makes .venv with the pinned versions of constraints.txt first, once. PYTHON=python3.12 chooses the Python.

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
BIN := .venv/bin
RUNTIME := .venv/.installed-$(VERSION)
DEV := .venv/.installed-dev-$(VERSION)
# --no-compile: Python compiles what is imported when it is; all of torch and SciPy at once would double the wait
INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check --progress-bar off --no-compile -c constraints.txt

.PHONY: demo test lint versions

demo: $(RUNTIME)
	$(BIN)/hftrain run translate --output_dir out/demo --resume_from_checkpoint auto

test: $(DEV)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

versions: $(DEV)
	$(BIN)/python scripts/versions.py

$(RUNTIME): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "hftrain needs Python 3.10 or newer, and $(PYTHON) is $(VERSION): make PYTHON=python3.12 (if you have that one)")'
	@$(BIN)/python$(VERSION) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "installing the pinned versions into .venv (once)"
	$(INSTALL) -e .
	@touch $@

$(DEV): pyproject.toml constraints.txt $(RUNTIME)
	@echo "installing the tools for tests into .venv (once)"
	$(INSTALL) -e '.[dev]'
	@touch $@
