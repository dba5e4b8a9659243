# make demo                    transcribe the example; leave MIDI, sheet music, a report
# make transcribe AUDIO=a.mp3  the same for your own file (without the score)
# make test                    the whole test suite
# make test-browser            the pages, in Chromium; installs it with apt-get if missing
# make fuzz MINUTES=10         damaged input of every kind; make test tries a little of it
# make faults                  runs that are killed, a full disk, two runs in one folder
# make attacks                 what strangers could try with mt3 serve
# make docs                    these pages as a site, in build/docs
# make docs-check              the commands on the pages, in a fresh copy of the checkout
# make versions                quick tests, lowest and newest versions of everything
# make lock                    the newest versions into requirements.lock
# make lint                    style and likely defects
# make offline                 every command, in a place without a network
# make dist                    a release in dist: built twice, checked, installed, described
# make clean                   remove what make made
#
# Everything happens in a virtual environment of its own, .venv, made on first use by
# $(PYTHON) (3.11 or later). Nothing is installed elsewhere.

PYTHON ?= python3
VENV   ?= .venv
OUT    ?= out
AUDIO  ?=
MINUTES ?= 10

# Windows puts programs in Scripts.
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
MT3 := $(BIN)/mt3
# In the versions of requirements.lock, with which the figures on the pages were measured.
INSTALL := $(PIP) install --quiet --constraint $(VENV)/constraints.txt

# A file's tests share what they compile. Files with slow tests come first.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder
OPTIMISED := tests/golden tests/test_decoding_stream.py

.DELETE_ON_ERROR:
.PHONY: help demo transcribe test test-browser fuzz faults attacks docs docs-check versions \
  lock lint format offline dist clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; name one with: make PYTHON=...  This is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Without hashes: pip knows none of this checkout, and would refuse to install it.
$(VENV)/constraints.txt: requirements.lock $(VENV)/made
	sed -n '/==/s/ \\$$//p' $< > $@

# What transcribing needs, and no more.
$(VENV)/installed: $(VENV)/constraints.txt setup.py pyproject.toml
	$(INSTALL) --editable .
	@touch $@

# Sheet music as well.
$(VENV)/installed-score: $(VENV)/installed
	$(INSTALL) --editable '.[score]'
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(INSTALL) --editable '.[docs]'
	@touch $@

# tinysoundfont renders notes for the tests. It declares pyaudio, which needs PortAudio
# to build and is not used, hence --no-deps.
$(VENV)/installed-test: $(VENV)/installed
	$(INSTALL) --editable '.[test]'
	$(INSTALL) --no-deps 'tinysoundfont>=0.3.7'
	@touch $@

demo: $(VENV)/installed-score
	$(MT3) transcribe examples/example.flac -o $(OUT)/demo --format mid,musicxml,png,html --overwrite
	$(MT3) score examples/example.mid $(OUT)/demo/example.mid --main
	@echo "A MIDI file, sheet music (MusicXML), a picture and a report are in $(OUT)/demo."

transcribe: $(VENV)/installed
	@test -n "$(AUDIO)" || { echo 'Name a file: make transcribe AUDIO=song.mp3' >&2; exit 2; }
	$(MT3) transcribe "$(AUDIO)" -o $(OUT)/transcribed --format mid,png,html --overwrite
	@echo "The MIDI file, a picture and a report are in $(OUT)/transcribed."

test: $(VENV)/installed-test
	$(BIN)/python -m pytest $(PARALLEL) $(addprefix --ignore=,$(OPTIMISED))
	@echo 'Golden tests and decoding, with programs optimised as they are for use:'
	XLA_FLAGS= $(BIN)/python -m pytest -q $(PARALLEL) $(OPTIMISED)

docs: $(VENV)/installed-docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going \
	  -c docs -d build/doctrees . build/docs
	@echo 'The first page is build/docs/index.html.'

test-browser: $(VENV)/installed-test
	$(BIN)/python -m tests.browser.chromium
	$(BIN)/python -m pytest tests/browser

fuzz: $(VENV)/installed-test
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES)

faults: $(VENV)/installed-test
	$(BIN)/python -m tests.faults

attacks: $(VENV)/installed-test
	$(BIN)/python -m tests.attacks

docs-check: $(VENV)/installed-test
	$(BIN)/python -m tests.support.page_commands

# uv makes environments with the lowest versions, and lock files for every system.
$(VENV)/installed-uv: $(VENV)/made
	$(PIP) install --quiet 'uv>=0.13'
	@touch $@

versions: $(VENV)/installed-test $(VENV)/installed-uv
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m tests.versions

# pyaudio: see tinysoundfont.
lock: $(VENV)/installed-uv
	echo 'tinysoundfont>=0.3.7' | $(BIN)/uv pip compile --quiet --upgrade \
	  --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command 'make lock' --no-emit-package pyaudio \
	  --extra test --extra notebooks --extra docs setup.py - -o requirements.lock

lint: $(VENV)/installed-test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

format: $(VENV)/installed-test
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

offline: $(VENV)/installed-test
	$(BIN)/python -m tests.support.offline_commands

dist: $(VENV)/made
	$(BIN)/python scripts/make_release.py

clean:
	rm -rf $(VENV) $(OUT) build dist *.egg-info docs/api .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
