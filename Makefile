# Two commands do everything on a fresh machine: `make app` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HOST ?= 127.0.0.1
PORT ?= 7860
WORKSPACE ?= workspace
HARDWARE ?= zero-a10g

.PHONY: help install install-dev app check format test test-slow test-extras shapes evidence bench train-demo bench-train bench-gpu bench-sweep space-stage space-deploy

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements-deepspeed.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@

install: $(VENV)/.installed  ## make the virtual environment with the pinned requirements

install-dev: $(VENV)/.installed-dev  ## the same, with what tests and linters need

app: install  ## serve the page at http://127.0.0.1:7860
	$(BIN)/python app.py --host $(HOST) --port $(PORT) --workspace $(WORKSPACE)

check: install-dev  ## linters and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: install-dev  ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: check  ## linters, then every test that runs in minutes, on two cores
	$(BIN)/python -m pytest -m "not slow and not alone and not extras" --numprocesses 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m "alone and not slow"

test-slow: install-dev  ## the evidence that takes longer
	$(BIN)/python -m pytest -m slow

build/extras: requirements-8bit.txt requirements-slurm.txt
	$(BIN)/python -m pip install --quiet --upgrade --no-deps --target $@ --requirement requirements-8bit.txt --requirement requirements-slurm.txt
	touch $@

test-extras: install-dev build/extras  ## what needs bitsandbytes and submitit, which other tests don't have
	PYTHONPATH=build/extras $(BIN)/python -m pytest -m extras

shapes: install  ## train a Shapes base from nothing into build/shapes (hours on two cores; resumable)
	$(BIN)/python -m chats.shapes.pretrain

evidence: install  ## measure the methods on Shapes and write docs/evidence.md
	$(BIN)/python -m benchmarks.evidence

train-demo: install  ## fine-tune the embedded model in minutes and score it before and after
	$(BIN)/python -m benchmarks.train_demo

bench: install  ## throughput of the methods as ratios of one run
	$(BIN)/python -m benchmarks.throughput --write docs/performance.md

bench-train: install  ## speed of training as ratios of one run
	$(BIN)/python -m benchmarks.training --write docs/performance.md

bench-gpu: install  ## speed and memory of models of SDXL's and SD3's shape on a GPU; goes on where it stopped
	$(BIN)/python -m benchmarks.speed --write docs/performance.md

bench-sweep: install  ## a sweep of the Alpha lab against the same pictures one by one
	$(BIN)/python -m benchmarks.sweep

space-stage: install  ## write the tree of a Hugging Face Space into build/space; HARDWARE=cpu-basic for one without a GPU
	PYTHONPATH=. $(BIN)/python spaces/space.py stage --hardware $(HARDWARE)

space-deploy: install  ## upload it: make space-deploy REPO=owner/name
	PYTHONPATH=. $(BIN)/python spaces/space.py deploy --hardware $(HARDWARE) --repo $(REPO)
