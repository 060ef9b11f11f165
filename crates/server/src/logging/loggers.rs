//! The names of Envoy's loggers, and the choice of a logger for each record.

/// Every logger of Envoy 1.40, in the order in which `/logging` lists them.
pub(crate) const LOGGERS: &[&str] = &[
    "a2a",
    "admin",
    "ai_protocol_manager",
    "alternate_protocols_cache",
    "aws",
    "assert",
    "backtrace",
    "basic_auth",
    "cache_filter",
    "client",
    "config",
    "connection",
    "conn_handler",
    "compression",
    "credential_injector",
    "decompression",
    "dns",
    "dubbo",
    "envoy_bug",
    "ext_authz",
    "ext_proc",
    "rocketmq",
    "file",
    "filter",
    "forward_proxy",
    "geolocation",
    "grpc",
    "happy_eyeballs",
    "hc",
    "health_checker",
    "http",
    "http2",
    "hystrix",
    "init",
    "io",
    "jwt",
    "json_rpc",
    "kafka",
    "key_value_store",
    "lua",
    "local_rate_limit",
    "main",
    "matcher",
    "mcp",
    "misc",
    "mongo",
    "multi_connection",
    "notification",
    "oauth2",
    "quic",
    "quic_stream",
    "pool",
    "rate_limit_quota",
    "rbac",
    "rds",
    "redis",
    "router",
    "runtime",
    "stats",
    "secret",
    "sse",
    "tap",
    "testing",
    "thrift",
    "tracing",
    "upstream",
    "udp",
    "wasm",
    "websocket",
    "golang",
    "stats_sinks",
    "dynamic_modules",
    "ip_tagging",
];

/// The logger of records whose target is a module path, by crate. Longest crate name first.
const CRATES: &[(&str, &str)] = &[
    ("outrider_admin", "admin"),
    ("outrider_codec", "http"),
    ("outrider_config", "config"),
    ("outrider_http", "http"),
    ("outrider_net", "conn_handler"),
    ("outrider_stats", "stats"),
    ("outrider_upstream", "upstream"),
    ("outrider", "main"),
    ("h2", "http2"),
    ("hickory", "dns"),
];

/// The index in [`LOGGERS`] of a name; that of `misc` for an unknown one.
pub(crate) fn index(name: &str) -> usize {
    let position = |name: &str| LOGGERS.iter().position(|&logger| logger == name);
    position(name)
        .or_else(|| position("misc"))
        .unwrap_or_default()
}

/// The index in [`LOGGERS`] of the logger for a record's target.
pub(crate) fn of_target(target: &str) -> usize {
    let by_crate = CRATES.iter().find(|(name, _)| target.starts_with(name));
    index(by_crate.map_or(target, |(_, logger)| logger))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_logger_or_a_module() {
        for (target, logger) in [
            ("upstream", "upstream"),
            ("http2", "http2"),
            ("outrider_http::router", "http"),
            ("outrider::startup", "main"),
            ("h2::proto::streams", "http2"),
            ("hickory_proto::x", "dns"),
            ("mio::poll", "misc"),
        ] {
            assert_eq!(LOGGERS[of_target(target)], logger, "{target}");
        }
    }
}
