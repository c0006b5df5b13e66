# make demo    set up .venv (once), train a model on synthetic data, draw its learning curve
# make test    set up .venv (once), run all tests
# make check   lint, types and tests: what CI runs
#
# PYTHON=python3.12   another interpreter (3.11 or newer)
# TORCH=...           another torch requirement; README.md says what to change for CUDA
# PIP_FLAGS=...       extra options for pip install, a package index for example

PYTHON ?= python3
TORCH ?= torch==2.13.0
PIP_FLAGS ?=
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile $(PIP_FLAGS)
READY = .venv/.ready

.PHONY: demo test check lint types clean
.DELETE_ON_ERROR:

demo: $(READY)
	@rm -rf runs/demo
	.venv/bin/python examples/train.py --out runs/demo

test: $(READY)
	.venv/bin/python -m pytest -n 2 --dist worksteal

lint: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: $(READY)
	.venv/bin/mypy

check: lint types test

$(READY): pyproject.toml Makefile
	@command -v $(PYTHON) >/dev/null || { echo "funcrec needs Python 3.11 or newer: no '$(PYTHON)' here; say make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "funcrec needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Say make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module; install it (Debian: apt-get install python3-venv)"; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || { echo "funcrec compiles its training step with a C++ compiler and found none; install one (Debian: apt-get install g++), or set CXX"; exit 1; }
	@echo "setting up .venv (once)"
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(PIP) "$(TORCH)"
	$(PIP) -e ".[dev]" "setuptools<81"
	@# torchrec asks for the CUDA build of FBGEMM, which does not load on a CPU build of torch
	$(PIP) --no-deps torchrec==1.8.0
	@touch $@

clean:
	rm -rf .venv runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache
