# Everything starts from Python 3.11 or newer with venv, and make: `make demo`, `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/installed
DOCS_INSTALLED := .venv/docs-installed
LABEL_STUDIO := 1.23.2
LABEL_STUDIO_INSTALLED := .venv-label-studio/installed-$(LABEL_STUDIO)

.PHONY: help demo test test-slow test-browser test-label-studio lint docs benchmark experiments \
  experiments-quick photographs builtin clean
.DEFAULT_GOAL := help

help:
	@echo "make demo               segment a few drawn scenes; pictures land in demo/"
	@echo "make test               run the tests"
	@echo "make test-slow          run the tests that take minutes too"
	@echo "make test-browser       the tests of the web page in Chromium"
	@echo "make test-label-studio  the backend and its how-to with a real Label Studio, installed for this"
	@echo "make lint               ruff, mypy --strict and the layers of the imports"
	@echo "make docs               build the documentation site into site/; a broken link is an error"
	@echo "make benchmark          measure quality on drawn scenes, then speed"
	@echo "make experiments        train and compare all decoders on drawn scenes (4 hours; resumes)"
	@echo "make experiments-quick  the same path in minutes; its figures say little"
	@echo "make photographs        the same on VOC's photographs in DATA=data/pascal (3 hours; resumes)"
	@echo "make builtin            train the built-in model (hours on a CPU; resumes)"
	@echo "make clean              remove what make made, but not runs/"

# The stamp is made anew when the pinned packages or the package's own settings change.
$(INSTALLED): requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

demo: $(INSTALLED)
	$(BIN)/piclip demo demo

test: $(INSTALLED)
	$(BIN)/python -m pytest

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m "slow or not slow" --hypothesis-profile search

test-browser: $(INSTALLED)
	$(BIN)/python -m pytest tests/e2e -m slow -n 0

# It has an environment of its own, beside ours: neither has to take the other's versions.
$(LABEL_STUDIO_INSTALLED): | $(INSTALLED)
	test -x .venv-label-studio/bin/python || "$(PYTHON)" -m venv .venv-label-studio
	.venv-label-studio/bin/python -m pip install --quiet --disable-pip-version-check label-studio==$(LABEL_STUDIO)
	@touch $@

test-label-studio: $(INSTALLED) $(LABEL_STUDIO_INSTALLED)
	$(BIN)/python -m pytest tests/label_studio -m slow -n 0

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What the site needs comes into the same environment, which has the pinned versions of all else.
$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[docs]'
	@touch $@

docs: $(DOCS_INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

benchmark: $(INSTALLED)
	$(BIN)/piclip benchmark scenes
	$(BIN)/piclip benchmark speed

# Result files, tables and figures; a run that was stopped goes on where it was.
experiments: RESULTS := benchmarks/scenes5i
experiments: RUNS := runs/experiments
experiments-quick: RESULTS := runs/experiments-quick
experiments-quick: RUNS := runs/experiments-quick
experiments-quick: QUICK := --quick

experiments experiments-quick: $(INSTALLED)
	$(BIN)/python -m world.experiments $(QUICK)
	$(BIN)/piclip figure fig1 --baseline $(RUNS)/fold0/pfenet-imagenet --output $(RESULTS)/fig1.jpg
	$(BIN)/piclip figure fig3 --baseline $(RUNS)/fold0/hdmnet-imagenet \
	  --ours $(RUNS)/fold0/hdmnet-piclip --output $(RESULTS)/fig3.jpg
	$(BIN)/piclip figure fig4 --dataset scenes --output $(RESULTS)/fig4.jpg

photographs: DATA := data/pascal
photographs: $(INSTALLED)
	$(BIN)/python -m world.photographs --data $(DATA)

# glibc gives memory back and asks for it anew in every step unless it is told to keep it.
builtin: export MALLOC_MMAP_THRESHOLD_ = 4294967296
builtin: export MALLOC_TRIM_THRESHOLD_ = 4294967296
builtin: export MALLOC_TOP_PAD_ = 1073741824
builtin: export OMP_WAIT_POLICY = PASSIVE
builtin: $(INSTALLED)
	$(BIN)/python -m world.builtin runs/builtin

clean:
	rm -rf .venv .venv-label-studio demo site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
