# What a developer runs. PYTHON is the environment's: made by `make venv`, or any other that holds '.[dev]'.
PYTHON ?= .venv/bin/python

.PHONY: venv check style types test test-all full-size thorough mutation families faults performance gpu wheel

venv:
	python3 -m venv .venv && $(PYTHON) -m pip install -q -e '.[dev]'

check: style types

style: # names, docstrings, function lengths
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types: # basic; takes minutes
	$(PYTHON) -m pyright --pythonpath $(PYTHON)

test: # the quick part; -m takes the place of pyproject.toml's, so what that leaves out is named again
	$(PYTHON) -m pytest -n auto --dist loadfile \
		-m "not slow and not full_size and not thorough and not mutation and not faults and not families"

test-all: # what the README's command runs
	$(PYTHON) -m pytest -n auto --dist loadfile

full-size: # networks of up to a billion parameters against the references' numbers: 6 GiB
	$(PYTHON) -m pytest -m full_size

thorough: # commands measured or made whole, ten seconds and more each
	$(PYTHON) -m pytest -m thorough

mutation: # one-line faults in what scores an image, and what notices each; writes TABLE.md
	$(PYTHON) -m tests.mutation.run

faults: # kills, double starts, damaged files, full disks, hostile servers; writes nftbench/runs/FAULTS.md
	$(PYTHON) -m tests.faults

families: # every family of diffusers by the commands; writes nftbench/generation/FAMILIES.md (ten minutes and more)
	$(PYTHON) -m tests.families.table --write

performance: # ratios and coverage, printed; nothing asserts a time
	for name in generation interval_coverage memory memory_estimates overhead reading report scoring seed_coverage training; do \
		echo "== $$name" && $(PYTHON) -m tests.performance.$$name || exit 1; done

gpu: # where there is one: the commands' pixels, memory and trainings, then speed; needs no download
	CUDA_VISIBLE_DEVICES=0 $(PYTHON) -m pytest tests/gpu
	$(PYTHON) -m tests.gpu.sd35
	$(PYTHON) -m tests.performance.overlap

wheel:
	$(PYTHON) -m hatchling build -t wheel
