# Everything runs from .venv, which is made and kept up to date by itself. `make help` lists what there is.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q install -c constraints.txt
DEPENDS := pyproject.toml constraints.txt

# Where some hundreds of Pythons start, what one has compiled is kept for the others.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test compiled test-long test-ha lint bench screenshots docs docs-serve clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

run: .venv/server.stamp ## Start Marzhook (a first start makes .env from .env.example)
	@test -e .env || { cp .env.example .env && echo "Made .env from .env.example."; }
	@exec $(BIN)/marzhook run $(ARGS)

test: .venv/dev.stamp ## Run all checks and all tests, on all cores (ARGS="-k name" selects)
	@$(MAKE) --no-print-directory -j2 lint compiled
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

# By one process beside the checks, which have one core, or each of those that test would compile the tests for itself.
compiled: .venv/dev.stamp
	@$(BIN)/python -m pytest --collect-only -qq > /dev/null || true

test-long: .venv/dev.stamp ## Kill workers and servers under full load: minutes; prints what it measures
	$(BIN)/python -m pytest -m long -s $(ARGS)

test-ha: .venv/dev.stamp .venv/ha.stamp ## Kill the leader of a Patroni cluster, cut a worker off: minutes; prints what it measures
	$(BIN)/python -m pytest -m ha -s -rs $(ARGS)

lint: .venv/dev.stamp ## Check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports

bench: .venv/peers.stamp ## Measure, at most 15 minutes (ARGS="--quick": 3; ARGS="throughput --rounds 5")
	$(BIN)/python -m bench $(ARGS)

screenshots: .venv/dev.stamp ## Picture the dashboard in each language, and say what does not fit (ARGS=folder)
	$(BIN)/python tests/screenshots.py $(or $(ARGS),build/screenshots)

docs: .venv/docs.stamp ## Build the guide into build/site
	@$(BIN)/zensical build --clean --strict
	@$(BIN)/zensical build --clean --strict --config-file mkdocs.fa.yml
	@cp build/fa/fa/*.html build/site/fa/

docs-serve: docs ## Build the guide and show it at http://127.0.0.1:8000
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site $(or $(ARGS),8000)

clean: ## Remove .venv and all caches; .env and databases stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# To run needs less than to develop, so a first start waits for less. A stamp is newer than what it was installed from.
.venv/server.stamp: $(DEPENDS) | .venv/bin/pip
	@echo "Installing what Marzhook needs into .venv (once; it takes a minute) …"
	@$(PIP) -e '.[server,postgres]'
	@touch $@

.venv/dev.stamp: $(DEPENDS) | .venv/bin/pip
	@echo "Installing what Marzhook's development needs into .venv (once; it takes a minute or two) …"
	@$(PIP) -e '.[server,postgres,otel,docs,dev]'
	@touch $@ .venv/server.stamp .venv/docs.stamp

# What Marzhook is measured beside. (Celery also wants a redis-server.)
.venv/peers.stamp: .venv/dev.stamp
	@$(PIP) -e '.[peers]'
	@touch $@

.venv/docs.stamp: $(DEPENDS) | .venv/bin/pip
	@echo "Installing what the guide is built with into .venv (once) …"
	@$(PIP) -e '.[docs]'
	@touch $@

# Patroni has an environment of its own: it is no part of Marzhook's. Where root runs the tests, Patroni runs as somebody who
# cannot read root's own Python.
HA_PYTHON ?= $(firstword $(wildcard /usr/bin/python3) $(PYTHON))
.venv/ha.stamp: constraints.txt | .venv/bin/pip
	@echo "Installing Patroni into .venv/ha (once) …"
	@$(HA_PYTHON) -m venv --clear --without-pip .venv/ha
	@$(BIN)/python -m pip --python .venv/ha/bin/python --disable-pip-version-check -q install -c constraints.txt \
		'patroni[etcd3,psycopg3]>=4.0'
	@touch $@

# pip is there only once the environment is whole. Debian's python3 can lack venv, in its own package.
.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Marzhook needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "This Python has no venv; type: sudo apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv --clear .venv
