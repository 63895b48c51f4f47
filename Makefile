# The work on snowpit, one word each. The steps are in scripts/.

# rustup installs here; a shell that never read its profile does not know.
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: audit build bench demo deps faults fuzz help screenshots situations soak test

help:
	@echo 'make demo   stage two real incidents on private servers and watch them found'
	@echo 'make test   format, lints, unit and live tests, alert rules'
	@echo 'make situations  2,000 random lock situations on each PostgreSQL, 14 to 18 (an hour)'
	@echo 'make faults  stage servers, poolers and networks that fail, and print the tables of docs/faults.md'
	@echo 'make bench  what watching costs the database, and snowpit itself'
	@echo 'make fuzz   ten minutes of broken inputs for every reader of foreign bytes'
	@echo 'make soak MINUTES=30  a busy site for so long: does the daemon grow?'
	@echo 'make screenshots  pictures of the page for docs/images'
	@echo 'make audit  advisories, licences and sources of all dependencies'
	@echo 'make build  target/release/snowpit'
	@echo 'make deps   install the servers that the demo and the tests start'

deps:
	@scripts/deps
	@scripts/deps versions
	@scripts/deps apps

build:
	@scripts/deps cargo cc
	cargo build --release --locked

# The demo runs the development build: it is there in a third of the time, and
# what it shows waits for servers, not for us.
demo:
	@scripts/deps
	cargo build --locked
	target/debug/snowpit demo

test:
	@scripts/test

faults:
	@scripts/deps
	@scripts/faults

situations:
	@scripts/situations

bench:
	@scripts/deps
	cargo bench --locked

screenshots:
	@scripts/deps cargo cc chromium chromedriver
	cargo run --locked --example screenshots

# The development build: what grows, grows in it too.
soak: MINUTES ?= 30
soak:
	@scripts/deps cargo cc postgres pgbouncer
	cargo build --locked --bin snowpit --example soak
	target/debug/examples/soak $(MINUTES)

fuzz:
	@scripts/fuzz

audit:
	@cargo deny --version >/dev/null 2>&1 || { echo 'install it first: cargo install --locked cargo-deny' >&2; exit 1; }
	cargo deny check
