# Short commands for `lifecycle` and its environment; the graph of the stages is in the recipes themselves.
#
#   make lifecycle                    the whole desk lifecycle, then the card
#   make sft                          one stage of RECIPES, then its gate; nothing if it is done
#   make dpo RECIPES=recipes/mine LAYOUT=zero3 ARGS="--train.max_steps 5"
#   make sft LAYOUT=zero3 PROCESSES=2 CPU=1   a layout with two processes, on the CPU
#   make variants                     the LoRA and QLoRA variants of the lifecycle
#   make broken                       runs one wrong recipe per failure; prints code, time, message
#   make test-fast                    the tests that load no model, for refactoring
#   make test / make test-slow        the tests
#   make help                         all targets

SHELL := /bin/bash
PYTHON ?= python3
RECIPES ?= recipes/desk
LAYOUT ?=
PROCESSES ?=
CPU ?=
ARGS ?=
RUN ?=
LAUNCH = $(if $(LAYOUT),--layout $(LAYOUT)) $(if $(PROCESSES),--processes $(PROCESSES)) $(if $(CPU),--cpu)
VENV := .venv
BIN := $(VENV)/bin
LIFECYCLE := $(BIN)/lifecycle
INSTALLED := $(VENV)/installed
WORLD := data/desk/world/manifest.json
# The world is generated for recipes that read it.
NEEDED = $(shell grep -qs data/desk/world $(RECIPES)/*.yaml && echo $(WORLD))

# The desk does not need the Hub; run a recipe with a Hub id with HF_HUB_OFFLINE=0.
export HF_HUB_OFFLINE ?= 1

.PHONY: help install data lifecycle variants report push curate tokenizer pretrain sft reward ppo dpo kto evaluate export \
	broken test test-fast test-slow lint format clean
.DELETE_ON_ERROR:

help:
	@sed -n '1,/^$$/p' Makefile | sed 's/^# \{0,1\}//'
	@echo "stages: curate tokenizer pretrain sft reward ppo dpo kto evaluate export, and sft-lora sft-qlora dpo-lora"
	@echo "others: install data report push lint format clean"

# --- environment: a local .venv with the versions that were tested together -------------------------------
install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,curation,pii,publish,serve]'
	@touch $@

# --- the desk world ---------------------------------------------------------------------------------------
data: $(WORLD)

$(WORLD): $(wildcard data/desk/*.py) | $(INSTALLED)
	@$(BIN)/python data/desk/generate.py

# --- the lifecycle ----------------------------------------------------------------------------------------
# What is done is left out. --replace: after an edit of a recipe its earlier run is renamed, not refused.
lifecycle: | $(INSTALLED) $(WORLD)
	@$(LIFECYCLE) run recipes/desk --until 06-ppo --until 08-kto --until 11-export --replace

# With the full fine-tunes, with which their gates compare them.
variants: | $(INSTALLED) $(WORLD)
	@$(LIFECYCLE) run recipes/desk --until 04-sft-lora --until 04-sft-qlora --until 07-dpo-lora --replace

# make push RUN=runs/desk/11-export ARGS="--repo me/desk --license apache-2.0 --dry-run"
push: | $(INSTALLED)
	@HF_HUB_OFFLINE=0 $(LIFECYCLE) push $(RUN) $(ARGS)

report: | $(INSTALLED)
	@$(LIFECYCLE) report

# --- one stage --------------------------------------------------------------------------------------------
curate tokenizer pretrain sft reward ppo dpo kto evaluate export sft-lora sft-qlora dpo-lora: %: | $(INSTALLED) $(NEEDED)
	@recipe=$$(ls $(RECIPES)/[0-9]*-$@.yaml 2>/dev/null | head -1); \
	if [ -z "$$recipe" ]; then echo "no recipe $(RECIPES)/[0-9]*-$@.yaml" >&2; exit 2; fi; \
	$(LIFECYCLE) run $$recipe --unless-done $(LAUNCH) $(ARGS) && $(LIFECYCLE) gate $$recipe $(ARGS)

# --- broken recipes ---------------------------------------------------------------------------------------
broken: | $(INSTALLED)
	@$(BIN)/python recipes/broken/run.py $(ARGS)

# --- tests ------------------------------------------------------------------------------------------------
test: | $(INSTALLED) $(WORLD)
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-fast: | $(INSTALLED) $(WORLD)
	$(BIN)/python -m pytest -m "not slow and not model" -n 2 --dist loadfile

test-slow: | $(INSTALLED) $(WORLD)
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal

lint: | $(INSTALLED)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: | $(INSTALLED)
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean:
	rm -rf runs build/broken data/desk/world
