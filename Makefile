# What people and CI call. Everything is said by the scripts; nothing is installed behind anybody's back.
.PHONY: help setup test-servers demo test bench-relay chaos-relay check fmt

help: ## show this
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

setup: ## install what is missing (needs Rust; uses apt-get as root, PyPI otherwise)
	@scripts/setup

test-servers: setup ## fetch the server versions that the tests run against into .servers/
	@scripts/test-servers || echo "some servers are missing: the tests that want them will be skipped"

demo: setup ## watch reads survive a primary that breaks in three ways
	cargo run --quiet --bin rbuddy -- demo $(ARGS)

test: test-servers ## run all tests against real servers
	@scripts/run-tests $(ARGS)

# Only the report goes to stdout.
bench-relay: ## measure the relay beside direct replication, HAProxy and socat (ARGS=--quick shows that it works)
	@scripts/setup >&2
	@scripts/setup-bench >&2
	@cargo build --quiet --release --bin rbuddy --bin rbuddy-bench
	@target/release/rbuddy-bench $(ARGS)

chaos-relay: test-servers ## break everything around the relay alone, in ROUNDS=200 seeded rounds from SEED=1000 on
	@scripts/chaos-relay

fmt: ## format the code
	cargo fmt --all

check: ## what CI runs: format, lints, tests, documentation
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@scripts/run-tests
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --workspace --no-deps --document-private-items --quiet
