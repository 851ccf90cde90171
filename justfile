# The words that people expect, for what the scripts do. `just` needs nothing that the scripts do not: each recipe is one
# command that can be typed without it. `just --list` shows them all.

# Show what there is.
default:
    @just --list --unsorted

# Start a server on this machine; its data is in ./countersign-data.
serve *arguments:
    cargo run --release -- serve {{ arguments }}

# Play the whole protocol, with attacks, in ten seconds.
demo:
    cargo run -- demo

# Run every test, or the parts named: just test rust clients.
test *parts:
    ./test {{ parts }}

# Run the Rust tests whose names contain a word, on one PostgreSQL.
unit *filter:
    tests/postgres/run -- cargo test --locked --workspace {{ filter }}

# Check format, clippy, rustdoc, spelling and links, as .ci/run does.
lint:
    .ci/run lint

# Format the code.
fmt:
    cargo fmt --all

# Correct what is spelled wrong.
spell:
    .ci/run spelling || target/tools/typos/bin/typos --write-changes

# Everything that must hold before a merge.
ci:
    .ci/run

# Measure, and compare with Redis and PostgreSQL: docs/performance.md.
bench *arguments:
    bench/compare {{ arguments }}

# Count the instructions of a request, where times are too noisy.
instructions *arguments:
    bench/instructions {{ arguments }}

# Torture the real binary: races, crashes, lost answers (docs/reliability.md).
trial name *arguments:
    cargo build --release -p countersign -p countersign-trials
    COUNTERSIGN_BIN=target/release/countersign target/release/countersign-trials {{ name }} {{ arguments }}

# Feed every input some more thousand times with changed corpora.
fuzz cases="60000":
    COUNTERSIGN_FUZZ_CASES={{ cases }} cargo test -p countersign-fuzz-targets --test bounded

# Change the domain in small ways, and list the changes that no test notices (needs cargo-mutants).
mutants *arguments:
    cargo mutants -p countersign-core --baseline skip {{ arguments }} -- --lib

# Show how many lines the tests run (needs cargo-llvm-cov; CONTRIBUTING.md has the last figure).
coverage *arguments:
    cargo llvm-cov --locked --workspace --no-fail-fast --summary-only {{ arguments }}

# Make the book of all pages: target/book/index.html.
book:
    contrib/build-book

# Write docs/reference.md, docs/countersign.sample.toml and the expected help texts anew from the program.
generate:
    UPDATE_EXPECT=1 cargo test -p countersign --lib --test it -- sample_file help:: reference::

# Make the Debian package.
package:
    contrib/build-package
