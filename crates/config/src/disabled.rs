//! The extensions that `--disable-extensions` disables.

use std::sync::Arc;

use crate::schema::ExtensionRow;

/// Extensions that no configuration may use. Clones share the list.
#[derive(Clone, Debug, Default)]
pub struct DisabledExtensions(Arc<[(&'static str, &'static str)]>);

impl DisabledExtensions {
    /// Parses a list of `category/name`, separated by commas. Entries that are not extensions are skipped with Envoy's
    /// warning.
    #[must_use]
    pub fn parse(list: &str) -> (DisabledExtensions, Vec<String>) {
        let mut disabled = Vec::new();
        let mut warnings = Vec::new();
        for given in list.split(',').filter(|given| !given.is_empty()) {
            let Some((category, name)) = given.split_once('/') else {
                warnings.push(format!(
                    "failed to disable invalid extension name '{given}'"
                ));
                continue;
            };
            let row = ExtensionRow::all()
                .iter()
                .find(|row| row.category() == category && row.name() == name);
            match row {
                Some(row) => disabled.push((row.category(), current_name(row))),
                None => warnings.push(format!("failed to disable unknown extension '{given}'")),
            }
        }
        (DisabledExtensions(disabled.into()), warnings)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the extension `name` of `category` is disabled. `name` must be a current name, not an old one.
    pub(crate) fn contains(&self, category: &str, name: &str) -> bool {
        self.0.contains(&(category, name))
    }
}

/// The current name of an extension. `row` may have an old one: rows with old names have no message type.
fn current_name(row: &ExtensionRow) -> &'static str {
    let key = short_name(row.name());
    let same = |other: &&ExtensionRow| {
        other.category() == row.category()
            && !other.type_name().is_empty()
            && short_name(other.name()) == key
    };
    match ExtensionRow::all().iter().find(same) {
        Some(current) if row.type_name().is_empty() => current.name(),
        _ => row.name(),
    }
}

/// The part that old and current names have in common.
fn short_name(name: &str) -> &str {
    let last = name.rsplit('.').next().unwrap_or(name);
    match last.strip_suffix("_access_log").unwrap_or(last) {
        "rate_limit" => "ratelimit",
        "local_rate_limit" => "local_ratelimit",
        "http_protocol_options" => "HttpProtocolOptions",
        "tcp_protocol_options" => "TcpProtocolOptions",
        "open_telemetry_stat_sink" => "open_telemetry",
        short => short,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_current_and_old_names_and_warns_of_others() {
        let list = "envoy.filters.http/envoy.router,envoy.access_loggers/envoy.stdout_access_log,\
                    envoy.filters.http/envoy.rate_limit,envoy.transport_sockets.upstream/raw_buffer,\
                    envoy.clusters/envoy.cluster.static,,nope,envoy.filters.http/nope";
        let (disabled, warnings) = DisabledExtensions::parse(list);
        assert_eq!(
            *disabled.0,
            [
                ("envoy.filters.http", "envoy.filters.http.router"),
                ("envoy.access_loggers", "envoy.access_loggers.stdout"),
                ("envoy.filters.http", "envoy.filters.http.ratelimit"),
                (
                    "envoy.transport_sockets.upstream",
                    "envoy.transport_sockets.raw_buffer"
                ),
                ("envoy.clusters", "envoy.cluster.static"),
            ]
        );
        assert_eq!(
            warnings,
            [
                "failed to disable invalid extension name 'nope'",
                "failed to disable unknown extension 'envoy.filters.http/nope'"
            ]
        );
    }

    /// Each row without a message either has a current name itself, or has the old name of a row with a message.
    #[test]
    fn knows_what_old_names_stand_for() {
        let old = ExtensionRow::all().iter().filter(|row| {
            let shared = ["envoy.filters.http", "envoy.filters.network"];
            shared.contains(&row.category()) && row.type_name().is_empty()
        });
        for row in old {
            assert_ne!(current_name(row), row.name());
        }
    }
}
