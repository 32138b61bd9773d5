# Everything runs in an environment of its own, which is made when it is first needed.
#
#   make train                          a VAE on handwritten digits
#   make train EXPERIMENT=digits_ae ARGS="--learning-rate 3e-4" ACCEL=gpu
#   make sweep ARGS="--seeds 4 --over beta=0.5,1,2,4"

.DEFAULT_GOAL := help

EXPERIMENT ?= digits_vae
ARGS ?=
# cpu, gpu or tpu: which JAX wheels are installed and which platform JAX must use.
ACCEL ?= cpu
PYTHON ?= python3
PYTEST_ARGS ?=

platform_cpu := cpu
platform_gpu := cuda
platform_tpu := tpu
platform := $(platform_$(ACCEL))
ifeq ($(platform),)
$(error ACCEL=$(ACCEL) is unknown: cpu, gpu or tpu)
endif

# The wheels for a GPU depend on its driver: CUDA 13 needs 580 or newer.
wheels_cpu :=
wheels_gpu = ,cuda$(shell driver=$$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -1); \
  [ "$${driver%%.*}" -ge 580 ] 2>/dev/null && echo 13 || echo 12)
wheels_tpu := ,tpu

DATASET ?= mnist
# Without one, `make reproduce` only writes the page.
TABLE ?=
SIZE ?= quick
no_run = $(error there is no run of $(EXPERIMENT) yet: make train EXPERIMENT=$(EXPERIMENT))
RUN ?= $(lastword $(sort $(wildcard runs/$(basename $(notdir $(EXPERIMENT)))/[0-9]*)))

# Where there are no ARGS; a variable, since make splits what stands in a function at its commas.
sweep_default := --seeds 4 --over beta=0.5,1,2,4

venv := .venv/$(ACCEL)
run := JAX_PLATFORMS=$(platform) $(venv)/bin
# Two processes of tests fit on a CPU; on an accelerator each would take all of its memory.
workers := $(if $(filter cpu,$(ACCEL)),2,0)

# $(call install,EXTRAS): into $(venv), with uv where there is one, at the versions that are tested together.
install = if command -v uv >/dev/null; \
  then UV_COMPILE_BYTECODE=1 uv pip install --quiet --python $(venv)/bin/python -c .ci/constraints.txt -e ".[$(1)]"; \
  else $(PYTHON) -m pip --python $(venv)/bin/python install --quiet --disable-pip-version-check -c .ci/constraints.txt -e ".[$(1)]"; fi

# Two goals at once would install into one environment at once.
.NOTPARALLEL:
.PHONY: help train sweep evaluate report hosts test test-all mutants coverage prepare test-prepare check bench feeds figures methods reproduce constraints clean device-$(ACCEL)

help: ## say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14
	@echo
	@echo 'train and sweep take EXPERIMENT=name, ARGS="settings", ACCEL=cpu|gpu|tpu; experiments:'
	@grep -lE '^(def build\b|build =)' experiments/*.py | sed -E 's|.*/(.*)\.py|  \1|'

train: $(venv)/.train ## train EXPERIMENT (digits_vae) on ACCEL (cpu) with ARGS
	@$(run)/vaejax train $(EXPERIMENT) $(ARGS)

sweep: $(venv)/.train ## train EXPERIMENT for several seeds and settings (ARGS) as one program
	@$(run)/vaejax sweep $(EXPERIMENT) $(or $(ARGS),$(sweep_default))

evaluate: $(venv)/.train ## measure RUN (the newest of EXPERIMENT): ln p(x), its bound, the latents
	@$(run)/vaejax evaluate $(or $(RUN),$(no_run)) $(ARGS)

report: $(venv)/.train ## write the page of RUN (the newest of EXPERIMENT) again, and show it
	@$(run)/vaejax report $(or $(RUN),$(no_run)) --open $(ARGS)

hosts: $(venv)/.train ## train on two processes as if they were two hosts, and compare with one
	@$(run)/python experiments/two_hosts.py $(ARGS)

test: $(venv)/.test ## prove the mathematics, drive every command and lower every experiment
	$(run)/python -m pytest -n $(workers) --dist worksteal $(PYTEST_ARGS)

# Pages are tried in a browser where there is one.
test-all: $(venv)/.browser ## run every test there is
	$(run)/python -m pytest -n $(workers) --dist worksteal -m "" $(PYTEST_ARGS)

mutants: $(venv)/.test ## inject each bug of tests/mutants.toml; the test that it names must fail
	@$(run)/python tests/mutants.py $(ARGS)

coverage: $(venv)/.coverage ## measure which lines and branches the tests of make test run
	$(run)/coverage erase
	$(run)/coverage run -m pytest -n $(workers) --dist worksteal $(PYTEST_ARGS)
	$(run)/coverage combine --quiet
	$(run)/coverage report

# TensorFlow has an environment of its own: nothing else needs it.
prepare: ## prepare DATASET (mnist) of tensorflow-datasets, which takes TensorFlow; reading it does not
	@$(MAKE) --no-print-directory venv=.venv/prepare .venv/prepare/.train .venv/prepare/.prepare
	@JAX_PLATFORMS=cpu .venv/prepare/bin/vaejax data tfds:$(DATASET) $(ARGS)

test-prepare: ## run the tests that take TensorFlow
	@$(MAKE) --no-print-directory venv=.venv/prepare .venv/prepare/.test .venv/prepare/.prepare
	JAX_PLATFORMS=cpu .venv/prepare/bin/python -m pytest -m slow tests/data/test_tfds_builders.py $(PYTEST_ARGS)

check: $(venv)/.check ## format, lint, types
	$(venv)/bin/ruff format --check .
	$(venv)/bin/ruff check .
	$(venv)/bin/mypy

bench: $(venv)/.bench ## how fast it is: training, evaluation, start, sweeps and scale, against others and the machine
	@$(run)/python -m experiments.benchmarks $(ARGS)

feeds: $(venv)/.train ## examples streamed from the host against examples on the device
	@$(run)/python experiments/benchmarks/feeds.py $(ARGS)

figures: $(venv)/.train ## draw the picture of the README again
	@$(run)/python experiments/ae_beside_vae.py

methods: $(venv)/.train ## train every method of the README's table
	@$(run)/python -m experiments.methods $(ARGS)

reproduce: $(venv)/.train ## run the rows of TABLE (iwae, vamp, ...) at SIZE (quick) that are missing, and write experiments/RESULTS.md
	@$(run)/python -m experiments.reproduce $(TABLE) --size $(SIZE) $(ARGS)

constraints: ## resolve the versions that are tested together again (needs uv)
	uv pip compile --universal --upgrade --no-header --no-annotate \
	  --python-version 3.11 --extra check --extra browser --extra coverage \
	  pyproject.toml -o .ci/constraints.txt

clean: ## remove the environments and the caches
	rm -rf .venv .coverage .pytest_cache .hypothesis .mypy_cache .ruff_cache

$(venv)/.%: pyproject.toml .ci/constraints.txt | device-$(ACCEL) $(venv)/bin/python
	@echo "installing vaejax[$*$(wheels_$(ACCEL))] into $(venv); the first time this takes a minute"
	@$(call install,$*$(wheels_$(ACCEL)))
	@touch $@

$(venv)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "vaejax needs Python 3.11 or newer: PYTHON=path names one"; exit 1; }
	@$(PYTHON) -m venv --without-pip $(venv) \
	  || { rm -rf $(venv); echo "$(PYTHON) cannot make environments: install its venv module"; exit 1; }

# Said before gigabytes are downloaded; JAX itself has the last word when it starts.
device-cpu device-tpu: ;
device-gpu:
	@nvidia-smi -L >/dev/null 2>&1 || { echo "ACCEL=gpu: no NVIDIA GPU or driver here (nvidia-smi finds none)"; exit 1; }
