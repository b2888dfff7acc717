# Everything that is done with this checkout.  The steps in plain words are in README.md.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
UV_VERSION := 0.13.8
WORKERS ?= 4

INSTALLED := $(VENV)/.installed
ASSETS := .assets/.installed

# Each test run starts a hundred processes: what one has compiled, the next need not.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install demo run test test-fault coverage check bench lock clean

help:  ## print this list
	@sed -n 's|^\([a-z-]*\):.*## |  make \1: |p' $(MAKEFILE_LIST)

install: $(INSTALLED) $(ASSETS)  ## make .venv, install what is locked, fetch GraphiQL and the models

demo: install  ## show the whole service at work, and keep serving (DEMO_EXIT=1: end after the checks)
	$(BIN)/studybuddy demo $(if $(filter-out 0,$(DEMO_EXIT)),--exit)

run: install  ## the service, on servers of its own where none are set
	$(BIN)/studybuddy run

# Hundreds of tests kill, pause and starve processes on as few as two cores: a failure among them all
# is asked once more, alone (docs/testing.md, "Failures under load").
test: install  ## every test
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal || \
	    { test $$? -eq 1 && $(BIN)/python -m pytest --last-failed --last-failed-no-failures none -x; }

test-fault: install  ## the tests that kill, pause and restart
	$(BIN)/python -m pytest tests/fault tests/clients -s -m ""

coverage: install  ## every test, and which lines and branches of app none of them goes through
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n $(WORKERS) --dist worksteal
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

check: install  ## lint, types, import contracts, schema and migrations drift
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check

bench: install  ## the measurements of bench/
	$(BIN)/python -m bench

lock: $(INSTALLED)  ## pin requirements/*.txt anew from pyproject.toml (UPGRADE=1: to the newest)
	$(BIN)/python -m pip install --quiet uv==$(UV_VERSION)
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/lock $(if $(UPGRADE),--upgrade)

clean:  ## remove what the other steps made, .data excepted
	rm -rf $(VENV) .assets .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(INSTALLED): requirements/dev.txt pyproject.toml scripts/install
	PYTHON="$(PYTHON)" scripts/install $(VENV)
	@touch $@

$(ASSETS): $(INSTALLED) app/http/graphiql/assets.py app/speech/assets.py app/embedder/assets.py app/packaged.py
	$(BIN)/python -m app.http.graphiql.assets
	$(BIN)/python -m app.speech.assets
	$(BIN)/python -m app.embedder.assets
	@mkdir -p $(@D) && touch $@
