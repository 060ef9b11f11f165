# The words of this project; `just ci` says them all. CI calls only these.

# Everything that must hold before a change lands.
ci: fmt lint test doc deny conformance

# Format what the formatter knows.
fmt:
    cargo fmt --all --check

# Every lint is an error.
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# All tests of the workspace.
test:
    cargo test --workspace

# The scenarios that were recorded from Envoy, against Outrider.
conformance *arguments:
    cargo build --profile fast --package outrider
    python3 conformance/run.py check --bin target/fast/outrider {{arguments}}

# The same scenarios against Envoy itself: do the recordings still hold?
conformance-envoy *arguments:
    python3 conformance/run.py check --envoy {{arguments}}

# Which case shows the effect of which field: tries with Envoy what conformance/effect.tsv does not say, or says of a case that changed.
coverage-effect *arguments:
    python3 conformance/run.py effect {{arguments}}

# Every published config of ../shared/corpus by both: what they say of it, and what they answer.
corpus *arguments:
    cargo build --profile fast --package outrider
    python3 conformance/run.py corpus --bin target/fast/outrider {{arguments}}

# The binary as the image has it, optimised by a profile of itself at work: target/pgo/outrider.
release:
    python3 conformance/bench/pgo.py

# Outrider beside Envoy and others: cycles and CPU time per request.
bench *arguments: release
    python3 conformance/bench/bench.py --outrider target/pgo/outrider {{arguments}}

# The documentation of all crates, without broken links.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Licences, duplicates and advisories of the dependencies.
deny:
    cargo deny check

# Regenerate the Envoy API subset from its official definitions.
proto:
    cargo run --manifest-path proto/generator/Cargo.toml

# Rewrite docs/SUPPORT.md from the support table.
support:
    OUTRIDER_WRITE_SUPPORT=1 cargo test --package outrider-config --test support

# The sidecar at work: real gRPC, pods that leave and join.
demo:
    cargo run --release --example sidecar
