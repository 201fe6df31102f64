# The same commands for people and CI. `make demo` and `make test` set up what they need.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
MODEL ?=
PORT ?=
BENCH ?= export --shape smollm2
IMAGE ?= gguf-chat
IMAGE_OPTIONS ?=

# Without PORT, GGUF_CHAT_PORT counts.
SERVE := $(if $(PORT),--port $(PORT))

.PHONY: setup demo chat test test-fast check bench lock llama-server image clean browser

# One stamp per requirements file, so that a change in one reinstalls that one alone. What is installed is the
# lock of each, by its hashes; `make lock` writes them.
setup: $(VENV)/.pipeline

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# Without pip's cache: it may hold a wheel of llama-cpp-python that was built with other flags.
$(VENV)/.chat: requirements.lock.txt | $(VENV)/bin/python
	@echo "Installing the chat; compiling llama.cpp for every CPU takes 5 to 8 minutes on two cores ..."
	$(PIP) install --quiet --no-cache-dir --require-hashes -r requirements.lock.txt
	@touch $@

# The last line adds torch, which no lock can hold for both its CPU and its CUDA build.
$(VENV)/.pipeline: requirements-pipeline.txt requirements-pipeline.lock.txt $(VENV)/.chat
	@echo "Installing the pipeline ..."
	$(PIP) install --quiet --no-deps --require-hashes -r requirements-pipeline.lock.txt
	$(PIP) install --quiet -r requirements-pipeline.txt
	@touch $@

$(VENV)/.dev: requirements-dev.lock.txt $(VENV)/.pipeline
	@echo "Installing the tests' tools ..."
	$(PIP) install --quiet --no-deps --require-hashes -r requirements-dev.lock.txt
	@touch $@

demo: setup
	$(PY) scripts/make_base.py --out models/smollm2-base
	$(PY) scripts/export_gguf.py --base models/smollm2-base --adapter models/captain-bob-lora \
		--quant Q4_K_M --quant Q6_K --out models/captain-bob
	$(PY) app.py models/captain-bob $(SERVE)

chat: $(VENV)/.chat
	$(PY) app.py $(if $(MODEL),"$(MODEL)") $(SERVE)

test: $(VENV)/.dev browser
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Under a minute: no model, no browser, nothing slow.
test-fast: $(VENV)/.dev
	$(PY) -m pytest -n 2 --dist loadfile -m "not model and not browser and not slow"

check: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

bench: $(VENV)/.dev
	$(PY) scripts/bench.py $(BENCH)

# The versions stay; `make lock LOCK=--upgrade` takes the newest that the requirements allow.
lock: $(VENV)/.dev
	$(PY) scripts/lock.py $(LOCK)

# For `make bench BENCH="serve ... --llama-server PATH"`; prints PATH, which is in the cache folder.
llama-server: $(VENV)/.dev
	@$(PY) scripts/build_llama_server.py

# docs/container.md; `make image IMAGE_OPTIONS=--network=host` passes options to podman or docker.
image:
	@sh scripts/build_image.sh $(IMAGE) $(IMAGE_OPTIONS)

# The browser tests drive a real Chromium: the system's, or one that is installed here.
browser: $(VENV)/.dev
	@sh scripts/ensure_browser.sh $(PY)

clean:
	rm -rf $(VENV) models/smollm2-base models/captain-bob bench-scratch .pytest_cache .mypy_cache .ruff_cache
