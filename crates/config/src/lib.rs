//! Bootstrap YAML and JSON to checked Envoy API messages, with positions and diagnostics.
