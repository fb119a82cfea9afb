# steelnb: everything starts here. The first command makes .venv; `make` alone lists the commands.

PYTHON ?= python3
STEELNB_PROFILE ?= smoke
DATA =
ONLY =
ARGS =
export STEELNB_PROFILE DATA ONLY

BIN := .venv/bin
READY := .venv/.installed
COLAB := .venv-colab
BOOKS := $(BIN)/python tools/notebooks.py
# In a terminal pip tells what it downloads; elsewhere it speaks only of errors.
QUIET := test -t 1 || export PIP_QUIET=2; export PIP_DISABLE_PIP_VERSION_CHECK=1;
# Tests see nothing of the reader's settings. One thread a process, one process a core.
TEST_ENV := env -u STEELNB_DATA -u STEELNB_HOME STEELNB_PROFILE=smoke \
  OMP_NUM_THREADS=1 TQDM_DISABLE=1 PYDEVD_DISABLE_FILE_VALIDATION=1
# Library, rules of the notebooks, and each notebook cell by cell, in one run with one closing line.
PYTEST := -m pytest tests notebooks -q --nbval-lax --nbval-current-env --nbval-cell-timeout 600 \
  -n logical --maxprocesses 8 --dist loadfile
# Colab's matplotlib beside a pyparsing of today.
OLD := $(foreach part,_fontconfig_pattern _mathtext,-W ignore::DeprecationWarning:matplotlib.$(part))

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test lab notebooks check picture address book bench study test-colab test-colab-here colab colab-here \
  test-browser constraints clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(READY)  ## the whole series → build/index.html (DATA=folder: your images; ONLY=02; STEELNB_PROFILE=full)
	@set -- run --only "$$ONLY"; test -z "$$DATA" || set -- "$$@" --data "$$DATA"; $(BOOKS) "$$@"

test: $(READY)  ## lint, library tests, rules of the notebooks, every notebook under nbval (ARGS="-k rle": some)
	@$(BIN)/ruff check --output-format concise . && lint=0 || lint=1; \
	$(TEST_ENV) $(BIN)/python $(PYTEST) $(ARGS) || exit; \
	test $$lint = 0 || { echo "ruff's findings stand above the tests"; exit 1; }

lab: $(READY)  ## JupyterLab in notebooks/
	$(BIN)/jupyter lab notebooks

notebooks: $(READY)  ## regenerate the committed .ipynb from their .py (ONLY=02: one)
	@$(BOOKS) write --only "$$ONLY"

check: $(READY)  ## the rules for committed notebooks, without running them
	@$(BOOKS) check --only "$$ONLY"

picture: $(READY)  ## draw README's picture again: assets/steel_to_mask.png
	$(BIN)/python tools/picture.py

address: $(READY)  ## stamp address and version into badges and setup cells (REPO=owner/name: the repository moved)
	@$(BIN)/python tools/address.py $${REPO:+"$$REPO"}

book: .venv/.book  ## the committed notebooks and the library's docstrings as a site → build/book/index.html
	@$(BIN)/python docs/build.py build/book

bench: .venv/.peers  ## every benchmark, beside its peers (ONLY=rle: those whose names begin so)
	@failed=0; for file in benchmarks/"$$ONLY"*.py; do \
	  echo "== $$file"; $(BIN)/python "$$file" || failed=1; \
	done; exit $$failed

study: $(READY)  ## what the studies have recorded; ONLY=losses: runs that one, or goes on with it, on all cores
	@$(BIN)/python -m studies $(ONLY) $(ARGS)

test-colab:  ## the tests again under the Python that Colab has, with its versions (.ci/colab-root says how)
# What they need, and no more: `make colab`.
colab test-colab:
	@set -- $@-here ARGS='$(ARGS)' COLAB=.venv-colab-3.13; \
	for python in python3.13 "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.13.*/bin/python3.13; do \
	  if "$$python" -c 'import venv' 2>/dev/null; then $(MAKE) "$$@" PYTHON="$$python"; exit; fi; \
	done; \
	bash .ci/colab-root make "$$@" PYTHON=python3.13; code=$$?; test $$code = 75 || exit $$code; \
	echo "==== NOT UNDER COLAB'S PYTHON: its versions are tested under $$($(PYTHON) --version) instead ===="; \
	$(MAKE) "$$@" COLAB=.venv-colab

colab-here: $(COLAB)/.installed

test-colab-here: colab-here
	@$(COLAB)/bin/python -c 'import platform, torch; print("Python", platform.python_version(), "torch", torch.__version__)'
	@$(TEST_ENV) $(COLAB)/bin/python $(PYTEST) $(OLD) $(ARGS)

test-browser: .venv/.browser book  ## the site, and the widgets in JupyterLab, in headless Chromium; pictures in build/browser/
	@$(TEST_ENV) $(BIN)/python -m pytest tests/browser tests/test_site.py -q $(ARGS)

constraints:  ## refresh constraints.txt: the newest versions together, in a clean venv (TORCH=2.13.0: this one)
	rm -rf .venv-constraints && $(PYTHON) -m venv .venv-constraints
	@$(QUIET) torch=$(if $(TORCH),torch==$(TORCH),$$(grep '^torch==' constraints.txt)); \
	.venv-constraints/bin/pip install "$$torch" -e '.[dev,peers,book,browser]'
	@{ grep '^#' constraints.txt; .venv-constraints/bin/pip freeze --exclude-editable | sed 's/+.*//'; } > constraints.new
	@mv constraints.new constraints.txt && rm -rf .venv-constraints && wc -l constraints.txt

clean:  ## remove build/ and what tools cached; the venvs stay
	rm -rf build steelnb.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

# ---- environments: made again when what they are made from changes

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=…")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv: some minutes the first time"
	@$(QUIET) $(BIN)/pip install -c constraints.txt -e '.[dev]'
	@touch $@

.venv/.peers: $(READY)
	@$(QUIET) $(BIN)/pip install -c constraints.txt -e '.[dev,peers]'
	@touch $@

.venv/.book: $(READY)
	@$(QUIET) $(BIN)/pip install -c constraints.txt -e '.[dev,book]'
	@touch $@

.venv/.browser: $(READY)
	@$(QUIET) $(BIN)/pip install -c constraints.txt -e '.[dev,browser]'
	@touch $@

$(COLAB)/.installed: pyproject.toml constraints.txt constraints-colab.txt
	@test -x $(COLAB)/bin/python || $(PYTHON) -m venv $(COLAB)
	@echo "Installing into $(COLAB)"
	@$(QUIET) minor=$$($(COLAB)/bin/python -c 'import sys; print(sys.version_info.minor)'); \
	test $$minor = 13 && versions=constraints-colab.txt || versions=constraints.txt; \
	$(COLAB)/bin/pip install "$$(grep -o '\btorch==[0-9.]*' $$versions)"
	@$(QUIET) $(COLAB)/bin/pip install -c constraints-colab.txt -e '.[test]'
	@touch $@
