//! Permissions: what a policy is about (`envoy.config.rbac.v3.Permission`).

#![expect(deprecated, reason = "Envoy still obeys its deprecated fields")]

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::address_prefix::AddressPrefix;
use outrider_config::api::envoy::config::rbac::v3::MetadataSource;
use outrider_config::api::envoy::config::rbac::v3::Permission;
use outrider_config::api::envoy::config::rbac::v3::SourcedMetadata;
use outrider_config::api::envoy::config::rbac::v3::permission::Rule;
use outrider_config::api::envoy::r#type::matcher::v3::PathMatcher;
use outrider_config::api::envoy::r#type::matcher::v3::path_matcher;
use outrider_config::api::envoy::r#type::v3::Int32Range;
use outrider_config::string_matcher::StringMatcher;

use crate::HeaderMatcher;
use crate::MetadataMatcher;

use super::condition::Condition;

/// Builds the permissions found at `path`.
pub(super) fn build_all(
    config: &[Permission],
    path: &FieldPath,
) -> Result<Box<[Condition]>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let permissions = config.iter().enumerate();
    let permissions = permissions
        .filter_map(|(at, permission)| errors.collect(build(permission, &path.index(at))));
    let permissions = permissions.collect();
    errors.finish(permissions)
}

fn build(config: &Permission, path: &FieldPath) -> Result<Condition, ConfigErrors> {
    Ok(match &config.rule {
        Some(Rule::AndRules(set)) => Condition::All(build_all(
            &set.rules,
            &path.field("and_rules").field("rules"),
        )?),
        Some(Rule::OrRules(set)) => Condition::OneOf(build_all(
            &set.rules,
            &path.field("or_rules").field("rules"),
        )?),
        Some(Rule::NotRule(rule)) => {
            Condition::Not(Box::new(build(rule, &path.field("not_rule"))?))
        }
        Some(Rule::Any(_)) => Condition::Any,
        Some(Rule::Header(header)) => {
            Condition::Header(HeaderMatcher::build(header, &path.field("header"))?)
        }
        Some(Rule::UrlPath(matcher)) => url_path(matcher, path)?,
        Some(Rule::DestinationIp(range)) => {
            Condition::DestinationIp(AddressPrefix::build(range, &path.field("destination_ip"))?)
        }
        Some(Rule::DestinationPort(port)) => Condition::DestinationPort(*port..*port + 1),
        Some(Rule::DestinationPortRange(range)) => {
            port_range(range, &path.field("destination_port_range"))?
        }
        Some(Rule::Metadata(matcher)) => {
            Condition::DynamicMetadata(MetadataMatcher::build(matcher, &path.field("metadata"))?)
        }
        Some(Rule::SourcedMetadata(sourced)) => sourced_metadata(sourced, path)?,
        Some(Rule::RequestedServerName(matcher)) => Condition::ServerName(StringMatcher::build(
            matcher,
            &path.field("requested_server_name"),
        )?),
        Some(Rule::Matcher(_)) => return Err(unsupported(&path.field("matcher"))),
        Some(Rule::UriTemplate(_)) => return Err(unsupported(&path.field("uri_template"))),
        None => return Err(required(path, "a rule is required")),
    })
}

/// The condition in the field `url_path`.
pub(super) fn url_path(config: &PathMatcher, path: &FieldPath) -> Result<Condition, ConfigErrors> {
    let path = path.field("url_path").field("path");
    match &config.rule {
        Some(path_matcher::Rule::Path(matcher)) => {
            Ok(Condition::Path(StringMatcher::build(matcher, &path)?))
        }
        None => Err(required(&path, "a path is required")),
    }
}

/// The condition in the field `sourced_metadata`.
pub(super) fn sourced_metadata(
    config: &SourcedMetadata,
    path: &FieldPath,
) -> Result<Condition, ConfigErrors> {
    let path = path.field("sourced_metadata").field("metadata_matcher");
    let Some(matcher) = &config.metadata_matcher else {
        return Err(required(&path, "value is required"));
    };
    let matcher = MetadataMatcher::build(matcher, &path)?;
    Ok(match config.metadata_source() {
        MetadataSource::Dynamic => Condition::DynamicMetadata(matcher),
        MetadataSource::Route => Condition::RouteMetadata(matcher),
    })
}

fn port_range(range: &Int32Range, path: &FieldPath) -> Result<Condition, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let mut bound = |bound: i32, field: &'static str| {
        let port = u32::try_from(bound).ok().filter(|port| *port <= 65536);
        if port.is_none() {
            let text = format!("range {field} {bound} is out of bounds: expected 0 to 65536");
            errors.push(&path.field(field), text);
        }
        port
    };
    let (start, end) = (bound(range.start, "start"), bound(range.end, "end"));
    if let (Some(start), Some(end)) = (start, end)
        && start >= end
    {
        let text = format!("range start {start} cannot be greater or equal than range end {end}");
        errors.push(path, text);
    }
    let ports = start.unwrap_or_default()..end.unwrap_or_default();
    errors.finish(Condition::DestinationPort(ports))
}

fn unsupported(path: &FieldPath) -> ConfigErrors {
    ConfigErrors::from(ConfigError::new(path, "not supported"))
}

pub(super) fn required(path: &FieldPath, text: &'static str) -> ConfigErrors {
    ConfigErrors::from(ConfigError::new(path, text))
}
