//! Which upgrades are allowed: `upgrade_configs` of the connection manager and of routes.

use outrider_codec::HeaderMap;
use outrider_codec::HeaderValue;
use outrider_codec::header;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::UpgradeConfig;

/// The allowed upgrade types, in lower case.
#[derive(Debug, Default)]
pub(crate) struct UpgradeTypes(Vec<UpgradeType>);

#[derive(Debug)]
struct UpgradeType {
    name: String,
    enabled: bool,
}

impl UpgradeTypes {
    pub(crate) fn build(
        configs: &[UpgradeConfig],
        path: &FieldPath,
    ) -> Result<UpgradeTypes, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut types: Vec<UpgradeType> = Vec::new();
        for (index, config) in configs.iter().enumerate() {
            let path = path.index(index);
            let name = config.upgrade_type.to_ascii_lowercase();
            if !config.filters.is_empty() {
                errors.push(
                    &path.field("filters"),
                    "not supported: filters for upgrades alone",
                );
            }
            if types.iter().any(|known| known.name == name) {
                errors.push(
                    &path.field("upgrade_type"),
                    format!("{name} is there twice"),
                );
            }
            types.push(UpgradeType {
                name,
                enabled: config.enabled.unwrap_or(true),
            });
        }
        errors.finish(UpgradeTypes(types))
    }

    /// Whether requests for an upgrade to `protocol` are allowed.
    pub(crate) fn allow(&self, protocol: &HeaderValue) -> bool {
        let same = |known: &&UpgradeType| {
            known
                .name
                .as_bytes()
                .eq_ignore_ascii_case(protocol.as_bytes())
        };
        self.0.iter().find(same).is_some_and(|known| known.enabled)
    }
}

/// The protocol that a request asks to be upgraded to, or that a response switches to. The codec has removed `h2c`
/// before.
pub(crate) fn requested(headers: &HeaderMap) -> Option<&HeaderValue> {
    let protocol = headers.get(&header::UPGRADE)?;
    let asked = headers.get_all(&header::CONNECTION).any(|value| {
        let mut tokens = value.as_bytes().split(|byte| *byte == b',');
        tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    });
    asked.then_some(protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_needs_both_headers() {
        for (connection, upgrade, want) in [
            ("keep-alive, Upgrade", "websocket", true),
            ("keep-alive", "websocket", false),
        ] {
            let headers = HeaderMap::from_iter([
                (&header::CONNECTION, HeaderValue::from_static(connection)),
                (&header::UPGRADE, HeaderValue::from_static(upgrade)),
            ]);
            assert_eq!(requested(&headers).is_some(), want, "{connection}");
        }
        assert!(requested(&HeaderMap::new()).is_none());
    }

    #[test]
    fn types_match_in_any_case_and_can_be_disabled() {
        let config = |name: &str, enabled| UpgradeConfig {
            upgrade_type: name.to_owned(),
            enabled,
            ..UpgradeConfig::default()
        };
        let path = FieldPath::root();
        let types = UpgradeTypes::build(
            &[config("websocket", None), config("x", Some(false))],
            &path,
        )
        .unwrap();
        assert!(types.allow(&HeaderValue::from_static("WebSocket")));
        assert!(!types.allow(&HeaderValue::from_static("x")));
        assert!(!types.allow(&HeaderValue::from_static("y")));
        assert!(UpgradeTypes::build(&[config("a", None), config("A", None)], &path).is_err());
    }
}
