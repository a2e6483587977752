# What people do here. `make` alone lists it. What they do with Ray stands in distributed/ray.mk.
SHELL := /bin/bash
PYTHON ?= $(firstword $(foreach version,3.11 3.12 3.13,$(shell python$(version) -c '' 2> /dev/null && echo python$(version))))
export PORT ?= 8000
BENCHMARKS = bench-latency bench-batching bench-load bench-memory bench-plans bench-soak

.PHONY: help install demo run test test-fast fuzz lint format train evaluate export fidelity robustness lock clean $(BENCHMARKS) bench-faults

help: ## list what can be made
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

install: .venv/installed ## make .venv with what the service needs

demo: .venv/installed ## serve the embedded model, caption the sample pictures, go on serving
	.venv/bin/python examples/demo.py

run: .venv/installed ## serve BLIP-base (MODEL_ID=… for another); a first start downloads 990 MB
	.venv/bin/gunicorn wsgi:app

test: .venv/installed-dev ## run all tests (up to 30 minutes on 2 cores; test-fast leaves the slow ones out)
	@for program in redis-server chromium node npm; do command -v $$program > /dev/null || \
	echo "Without $$program, the tests that use it are skipped."; done
	.venv/bin/pytest

test-fast: .venv/installed-dev ## run all tests but the slow ones
	.venv/bin/pytest -m "not slow"

fuzz: .venv/installed-dev ## attack decoder, fetcher and HTTP interface with random input (MINUTES=10)
	SECONDS=0; until ((SECONDS >= 60 * $${MINUTES:-10})); do .venv/bin/pytest -m fuzz --hypothesis-profile=long || exit; done

lint: .venv/installed-dev ## check format, style, types and the direction of imports
	.venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/mypy . && .venv/bin/lint-imports --no-logo

format: .venv/installed-dev ## put the code into its format
	.venv/bin/ruff format . && .venv/bin/ruff check --fix .

train: .venv/installed ## train models/blip-emoji from scratch (hours; needs fonts-noto-color-emoji)
	OMP_WAIT_POLICY=PASSIVE .venv/bin/python -m tools.train_blip_emoji

evaluate: .venv/installed ## measure models/blip-emoji on 1,000 held-out scenes (needs the font too)
	.venv/bin/python -m tools.evaluate_blip_emoji

export: .venv/installed ## export a model for ENGINE=int8 (MODEL_ID=… OUT=folder; CALIBRATION=folder of your pictures)
	.venv/bin/python -m tools.export_int8 --model $(MODEL_ID) --out $(OUT) $(if $(CALIBRATION),--calibration $(CALIBRATION))

fidelity: .venv/installed ## compare an export with its model (MODEL_ID=… INT8=folder IMAGES=folder; REFERENCES=file.json)
	.venv/bin/python benchmarks/fidelity.py --model $(MODEL_ID) --int8 $(INT8) --images $(IMAGES) $(if $(REFERENCES),--references $(REFERENCES))

bench-latency: ## time the engines on a full-size BLIP-base
bench-batching: ## time the engines with 1, 2, 4 and 8 pictures at a time
bench-load: ## offer the service up to four times what it can do, and the plain service of benchmarks/ too
bench-memory: ## run the int8 service in a memory cgroup (needs root)
bench-plans: ## measure the plans of the README, in cgroups of their size (needs root)
bench-soak: ## see whether memory grows over 2,000 mixed requests
$(BENCHMARKS): bench-%: .venv/installed-dev build/blip-base-int8/int8.json
	.venv/bin/python -m benchmarks.$*

bench-faults: .venv/installed-dev ## break a dozen things under load, see what callers see (needs root, redis-server, cc)
	test -f build/blip-emoji-int8/int8.json || $(MAKE) export MODEL_ID=models/blip-emoji OUT=build/blip-emoji-int8
	.venv/bin/python -m benchmarks.faults

build/blip-base-int8/int8.json: build/blip-base/config.json
	.venv/bin/python -m tools.export_int8 --model build/blip-base --out build/blip-base-int8

build/blip-base/config.json: .venv/installed
	.venv/bin/python -m benchmarks.make_blip_base --out build/blip-base

robustness: .venv/installed-dev ## plant outliers in the embedded model and compare its exports on 1,000 scenes each
	OMP_WAIT_POLICY=PASSIVE .venv/bin/python -m benchmarks.robustness

lock: .venv/installed-dev ## pin every version anew, from the .in files
	.venv/bin/pip install --quiet pip-tools
	for name in requirements requirements-dev requirements-ray; do \
	.venv/bin/pip-compile -q --upgrade --strip-extras --no-emit-index-url --no-emit-find-links $$name.in && \
	sed -i 's/^\(torch==[0-9.]*\)+cpu/\1/' $$name.txt || exit; done

clean: ## remove what was made, the trained model excepted
	rm -rf .venv .venv-ray build .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/installed: requirements.txt
	$(if $(PYTHON),,$(error Python 3.11, 3.12 or 3.13 is needed. Install one, or name it: make install PYTHON=/path/to/python3))
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	.venv/bin/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
include distributed/ray.mk
