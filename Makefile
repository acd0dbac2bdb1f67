# make test         all tests: Rust, and real clients against the release build
# make check        read-only gate: format, clippy, dependency directions, licences
# make fix          what of that can be repaired
# make deb          a Debian package of the release build
# make test-peers   what needs Debian's packages: the AMQP tests against rabbitmq-server, as
#                   reference; LDAP against slapd; pages in chromium; MQTT with mosquitto_pub and
#                   mosquitto_sub
# make bench, soak, sim, fuzz
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := test

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/isthmus
VENV := $(CACHE)/venv
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
RESULTS := $(TARGET)/test-results
# Here, wherever the target directory is.
NEXTEST_RESULTS := target/nextest/default/junit.xml
PYTHON_TESTS := $(abspath tests/python)
PYTEST = cd $(PYTHON_TESTS) && $(VENV)/bin/pytest -p no:cacheprovider
NODE_MODULES := tests/node/node_modules/.package-lock.json
HAS_NEXTEST = cargo nextest --version >/dev/null 2>&1
FUZZ_SECONDS ?= 60

export ISTHMUS_BIN ?= $(TARGET)/release/isthmus

.PHONY: test test-rust test-doc test-clients test-peers check fix bench soak sim fuzz build deb

test: test-rust test-doc test-clients

build:
	cargo build --release --package isthmus --package isthmus-bench

test-rust: build | $(RESULTS)
	rm -f $(NEXTEST_RESULTS) $(RESULTS)/nextest.xml $(RESULTS)/cargo-test.log
	if $(HAS_NEXTEST); then \
	  status=0; cargo nextest run --workspace || status=$$?; \
	  cp $(NEXTEST_RESULTS) $(RESULTS)/nextest.xml; exit $$status; \
	else \
	  cargo test --workspace --lib --bins --tests --no-fail-fast 2>&1 | tee $(RESULTS)/cargo-test.log; \
	fi

test-doc: | $(RESULTS)
	cargo test --workspace --doc --no-fail-fast 2>&1 | tee $(RESULTS)/doc.log

# First what may run side by side, then what measures time and memory or kills brokers.
test-clients: build $(VENV)/requirements.txt $(NODE_MODULES) | $(RESULTS)
	status=0; \
	( $(PYTEST) -n 2 -m 'not serial and not browser' --junitxml $(RESULTS)/clients.xml ) || status=$$?; \
	( $(PYTEST) -m serial --junitxml $(RESULTS)/serial.xml ) || status=$$?; \
	exit $$status

test-peers: $(VENV)/requirements.txt $(NODE_MODULES) | $(RESULTS)
	tests/apt-install rabbitmq-server
	$(VENV)/bin/python tests/python/with_rabbitmq.py $(MAKE) --no-print-directory peers-running
	tests/apt-install slapd
	$(MAKE) --no-print-directory peers-ldap
	tests/apt-install chromium
	$(MAKE) --no-print-directory peers-browser
	tests/apt-install mosquitto-clients
	$(MAKE) --no-print-directory peers-mosquitto

.PHONY: peers-running
peers-running:
	$(PYTEST) -n 2 -m peers --junitxml $(RESULTS)/peers.xml

# The tests that need Debian's slapd.
.PHONY: peers-ldap
peers-ldap: | $(RESULTS)
	rm -f $(NEXTEST_RESULTS) $(RESULTS)/ldap.xml $(RESULTS)/ldap.log
	if $(HAS_NEXTEST); then \
	  status=0; cargo nextest run --package isthmus-ldap --package isthmus --run-ignored only || status=$$?; \
	  cp $(NEXTEST_RESULTS) $(RESULTS)/ldap.xml; exit $$status; \
	else \
	  cargo test --package isthmus-ldap --package isthmus --test slapd --test ldap -- --ignored 2>&1 | tee $(RESULTS)/ldap.log; \
	fi

# The tests that need Debian's chromium.
.PHONY: peers-browser
peers-browser: build $(VENV)/requirements.txt $(NODE_MODULES) | $(RESULTS)
	$(PYTEST) -m browser --junitxml $(RESULTS)/browser.xml

# Clients of Debian's mosquitto against the release build; `make test` runs them as well where they
# are installed.
.PHONY: peers-mosquitto
peers-mosquitto: build | $(RESULTS)
	$(PYTEST) -m mosquitto --junitxml $(RESULTS)/mosquitto.xml

check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test --package isthmus-test-workspace --locked --quiet

fix:
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	cargo fmt --all

deb: build
	cargo deb --version >/dev/null 2>&1 || cargo install --locked cargo-deb
	cargo deb --package isthmus --no-build --locked

bench: build $(VENV)/requirements.txt
	cargo bench --workspace
	tests/load-peers
	$(VENV)/bin/python $(PYTHON_TESTS)/load_cluster.py

# The long forms: hundreds of kills, of messages, transactions and dead letters under way.
soak: build $(VENV)/requirements.txt
	$(PYTEST) -m soak --timeout=3600 -rP
soak: export ISTHMUS_SOAK := 1

# The seeded suites on the simulated disk, with many seeds; a failing one names itself.
sim: export ISTHMUS_SEEDS ?= 20000
sim: export ISTHMUS_CASES ?= 20
sim:
	cargo test --release --package isthmus-storage --package isthmus-core --package isthmus-broker \
	  --package isthmus-sim

# libFuzzer needs unstable compiler flags; the bootstrap switch lends them to a stable toolchain.
fuzz: export RUSTC_BOOTSTRAP := 1
fuzz:
	cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz
	for target in $$(cargo fuzz list); do \
	  cargo fuzz run --sanitizer none $$target -- -max_total_time=$(FUZZ_SECONDS); \
	done

$(RESULTS):
	mkdir -p $@

$(VENV)/requirements.txt: tests/python/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	cp $< $@

$(NODE_MODULES): tests/node/package-lock.json
	cd tests/node && npm ci
	touch $@
