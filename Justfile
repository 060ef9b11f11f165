# Common tasks. `.ci/run` runs `ci`, so what CI checks can be run here by the same names.

# Everything that must pass before a change lands.
ci: fmt lint doc deny test conformance conformance-envoy

# Check that the code is formatted.
fmt:
    cargo fmt --all --check

# Run Clippy; every warning is an error.
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# Build the documentation of all crates; a broken link is an error.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Check licences, sources, duplicates and advisories of the dependencies. Installs cargo-deny if it is missing.
deny:
    .ci/deny

# Run all tests of the workspace.
test:
    cargo test --workspace

# Run the recorded cases against Outrider.
conformance *arguments:
    cargo build --profile fast --package outrider
    python3 conformance/run.py check --bin target/fast/outrider {{arguments}}

# Run the recorded cases against Envoy itself, if it can be installed here, to see whether the recordings still hold.
conformance-envoy *arguments:
    .ci/conformance-envoy {{arguments}}

# Run one case, or several, against both proxies and show how they differ.
conformance-diff +names:
    cargo build --profile fast --package outrider
    python3 conformance/run.py diff --bin target/fast/outrider {{names}}

# Find and record which case shows the effect of which field, for the fields that are new or whose case changed.
coverage-effect *arguments:
    python3 conformance/run.py effect {{arguments}}

# Load every published config in a directory with both proxies, send the same requests, and compare.
corpus directory *arguments:
    cargo build --profile fast --package outrider
    python3 conformance/run.py corpus --shared {{directory}} --bin target/fast/outrider {{arguments}}

# Build the optimised binary of the image, guided by a profile of the benchmark's jobs: target/pgo/outrider.
release:
    python3 conformance/bench/pgo.py

# Measure Outrider beside Envoy and others: cycles and CPU time per request.
bench *arguments: release
    python3 conformance/bench/bench.py --outrider target/pgo/outrider {{arguments}}

# Attack Outrider and Envoy, and write the table of docs/security.md.
attacks *arguments: release
    python3 conformance/bench/attacks.py --outrider target/pgo/outrider --docs {{arguments}}

# Keep Outrider busy for ten minutes, and check that memory, gauges and descriptors return.
soak *arguments: release
    python3 conformance/bench/soak.py --outrider target/pgo/outrider {{arguments}}

# Run a fuzz target of `fuzz/` for some seconds. The flags are those of `cargo fuzz`; they need no other toolchain.
fuzz target seconds="300":
    fuzz/run {{target}} {{seconds}}

# Generate the subset of the Envoy API again from its official definitions.
proto:
    cargo run --manifest-path proto/generator/Cargo.toml

# Write docs/SUPPORT.md from the support table.
support:
    OUTRIDER_WRITE_SUPPORT=1 cargo test --package outrider-config --test support

# Run the sidecar demo: real gRPC servers, of which one leaves and one joins.
demo:
    cargo run --release --example sidecar
