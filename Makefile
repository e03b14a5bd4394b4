# Every command of this project's development; `make` alone lists them.
# PYTHON=... names the interpreter to use; without it, the first of python3 and python3.10 to 3.14 that fits.

VENV := .venv
BIN := $(VENV)/bin
FOLDERS := config wire insight store interceptor agent cli demo
# A strict editable install links, under build/, the modules that exist at that moment, and copies the rest.
LINKS := $(wildcard build/__editable__*)
INSTALLED := setup.cfg setup.py pyproject.toml interceptor/compiled.pyx $(wildcard interceptor/*/*.pxi) interceptor/kafka/record_scope.py interceptor/kafka/send_span.py $(VENV)/modules cli/kaspan $(if $(LINKS),,force)
# setuptools leaves data files out of an editable install, and `kaspan run` needs this one.
LINK_INJECT := mkdir -p $(VENV)/share/kaspan && ln -sfn "$(CURDIR)/interceptor/inject" $(VENV)/share/kaspan/inject
PIP := $(BIN)/pip --quiet --disable-pip-version-check --no-input

# Where `make quick` has its 200 MB of temporary files: in memory where there is room, for a spool waits for the disk.
QUICK_FILES = $(or $(shell df -kP /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 1000000 { print "/dev/shm" }'),/tmp)

# Versions of kafka-python whose own tests are run.
UPSTREAM := '2.*' '3.*'

.DEFAULT_GOAL := help
.PHONY: help dev quick quick-tests test matrix upstream third-party lint demo wheels bench clean force

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST)

dev: $(VENV)/dev ## make .venv with kaspan (editable) and every tool; quick when nothing has changed

quick: $(VENV)/dev ## in a minute: the linters, and the unit tests that start no programs, on all cores
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint quick-tests

# Rewriting the tests' assertions is half of collecting them, unless Python may keep the result.
quick-tests: $(VENV)/dev
	@files=$$(mktemp -d "$(QUICK_FILES)/kq.XXXXXX"); \
	trap 'rm -rf "$$files"' EXIT INT TERM; \
	KASPAN_TEST_STORES=10 PYTEST_DEBUG_TEMPROOT="$$files" PYTHONDONTWRITEBYTECODE= $(BIN)/pytest tests/unit -q \
	    -m 'not processes and not servers and not large' --hypothesis-profile=quick \
	    --numprocesses=auto --maxprocesses=8 --dist=worksteal

test: $(VENV)/dev ## unit tests, and integration tests on real Kafka and real Zipkin (Java 17 and Maven)
	$(BIN)/pytest

matrix: $(VENV)/dev ## the interceptor's tests with every kafka-python and every Python
	$(BIN)/nox

upstream: $(VENV)/dev ## kafka-python's own tests, with and without kaspan: nothing may differ
	@$(BIN)/python tests/upstream/compare.py $(UPSTREAM)

third-party: $(VENV)/dev ## programs of others that use kafka-python, with and without kaspan, on real servers
	@$(BIN)/python tests/third_party/compare.py $(PROGRAMS)

lint: $(VENV)/dev ## ruff, mypy --strict and the layers between the packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

demo: $(VENV)/demo ## run three plain kafka-python applications traced, and print their traces
	@$(BIN)/kaspan demo

wheels: $(VENV)/dev ## into dist/: sdist, a wheel for every Python, and compiled ones for x86-64 and aarch64
	@$(BIN)/nox --session wheels

bench: $(VENV)/dev ## measure kaspan against its peers, in one run
	set -e; for script in $(filter-out %_worker.py,$(wildcard bench/*.py)); do $(BIN)/python "$$script"; done

clean: ## remove what make and the tests made, the fetched servers too
	rm -rf $(VENV) build dist *.egg-info tests/servers/target tests/zipkin_kit/target
	rm -rf .nox .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/dev: $(INSTALLED)
	$(PIP) install --editable '.[agent,demo,dev]'
	@$(LINK_INJECT)
	@touch $@ $(VENV)/demo

$(VENV)/demo: $(INSTALLED)
	@echo 'Installing kaspan and what its demo needs into $(VENV) ...'
	@$(PIP) install --editable '.[agent,demo]'
	@$(LINK_INJECT)
	@touch $@

# Changes only when a module comes or goes.
$(VENV)/modules: force | $(BIN)/python
	@find $(FOLDERS) -name '*.py' | sort > $@.now
	@cmp -s $@.now $@ || cp $@.now $@

# Debian's python3 comes without ensurepip, and then `python3 -m venv` leaves half a venv behind.
$(BIN)/python:
	@found=''; bare=''; \
	for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python3.10); do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || continue; \
	    if "$$python" -c 'import ensurepip, venv' 2>/dev/null; then found=$$python; break; fi; \
	    bare=$${bare:-$$python}; \
	done; \
	if [ -n "$$found" ]; then \
	    "$$found" -m venv $(VENV); \
	elif [ -n "$$bare" ]; then \
	    echo "kaspan: $$bare cannot make a virtual environment: it has no ensurepip" \
	        "(Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; \
	else \
	    old=$$($(or $(PYTHON),python3) --version 2>/dev/null); \
	    echo "kaspan needs Python 3.10 or newer, and found $${old:-none}" \
	        "(to use another one: make PYTHON=/path/to/python3)" >&2; exit 1; \
	fi
