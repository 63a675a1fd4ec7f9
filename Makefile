# What people and CI call. Everything is said by the scripts; nothing is installed behind anybody's back.
.PHONY: help setup test-servers demo test sim bench-relay chaos chaos-relay explore fuzz fuzz-corpus check fmt

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

# A seed that fails is told by `make sim SEED=n`.
sim: ## simulate SEEDS=100000 seeded runs of the controller from FROM=1 on, or tell the story of SEED=n
	@cargo build --quiet --release -p rbuddy-sim
	@target/release/rbuddy-sim $(if $(SEED),replay $(SEED),run --seeds $(or $(SEEDS),100000) --from $(or $(FROM),1))

# Only the report goes to stdout.
bench-relay: ## measure the relay beside direct replication, HAProxy and socat (ARGS=--quick shows that it works)
	@scripts/setup >&2
	@scripts/setup-bench >&2
	@cargo build --quiet --release --bin rbuddy --bin rbuddy-bench
	@target/release/rbuddy-bench $(ARGS)

chaos: test-servers ## break everything around a whole rbuddy with readers running, in ROUNDS=100 seeded rounds from SEED=2000 on
	@scripts/chaos

chaos-relay: test-servers ## break everything around the relay alone, in ROUNDS=200 seeded rounds from SEED=1000 on
	@scripts/chaos-relay

# Not through nextest: that ends a test which takes more than minutes. Optimised, since there are millions of states.
explore: ## try every pair of faults at every step of the controller's small configurations (about 20 minutes)
	EXPLORE=all cargo test --quiet --release -p rbuddy-core --test explore -- --nocapture --test-threads=1

fuzz: ## look for inputs that break what reads bytes of others (SECONDS=600 for each target, TARGETS="rdb info")
	@scripts/fuzz --seconds $(or $(SECONDS),600) $(TARGETS)

fuzz-corpus: ## take over what fuzzing found into the inputs that `make test` checks
	@scripts/fuzz --keep $(TARGETS)

fmt: ## format the code
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml

check: ## what CI runs: format, lints, tests, documentation
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets -- -D warnings
	@scripts/run-tests
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --workspace --no-deps --document-private-items --quiet
