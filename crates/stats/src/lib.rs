//! Counters, gauges and histograms under Envoy's names.
