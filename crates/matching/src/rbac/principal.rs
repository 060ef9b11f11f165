//! Principals: whom a policy is about (`envoy.config.rbac.v3.Principal`).

#![expect(deprecated, reason = "Envoy still obeys its deprecated fields")]

use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::address_prefix::AddressPrefix;
use outrider_config::api::envoy::config::rbac::v3::Principal;
use outrider_config::api::envoy::config::rbac::v3::principal::Identifier;
use outrider_config::api::envoy::extensions::rbac::principals::mtls_authenticated::v3::Config as MtlsAuthenticated;
use outrider_config::string_matcher::StringMatcher;
use outrider_config::unpack;
use outrider_net::SanMatcher;
use prost_types::Any;

use crate::FilterStateMatcher;
use crate::HeaderMatcher;
use crate::MetadataMatcher;

use super::condition::Condition;
use super::permission::required;
use super::permission::sourced_metadata;
use super::permission::url_path;

type BuildPrincipal = fn(&Any, &FieldPath) -> Result<Condition, ConfigErrors>;

/// The principals that are extensions (`envoy.rbac.principals`).
const FACTORIES: &[Factory<BuildPrincipal>] = &[Factory {
    message: "envoy.extensions.rbac.principals.mtls_authenticated.v3.Config",
    build: mtls_authenticated,
}];

/// Builds the principals found at `path`.
pub(super) fn build_all(
    config: &[Principal],
    path: &FieldPath,
) -> Result<Box<[Condition]>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let principals = config.iter().enumerate();
    let principals =
        principals.filter_map(|(at, principal)| errors.collect(build(principal, &path.index(at))));
    let principals = principals.collect();
    errors.finish(principals)
}

fn build(config: &Principal, path: &FieldPath) -> Result<Condition, ConfigErrors> {
    let range = |range, field| AddressPrefix::build(range, &path.field(field));
    Ok(match &config.identifier {
        Some(Identifier::AndIds(set)) => {
            Condition::All(build_all(&set.ids, &path.field("and_ids").field("ids"))?)
        }
        Some(Identifier::OrIds(set)) => {
            Condition::OneOf(build_all(&set.ids, &path.field("or_ids").field("ids"))?)
        }
        Some(Identifier::NotId(id)) => Condition::Not(Box::new(build(id, &path.field("not_id"))?)),
        Some(Identifier::Any(_)) => Condition::Any,
        Some(Identifier::Authenticated(authenticated)) => {
            let path = path.field("authenticated").field("principal_name");
            let name = authenticated.principal_name.as_ref();
            let name = name.map(|name| StringMatcher::build(name, &path));
            Condition::Authenticated(name.transpose()?)
        }
        Some(Identifier::SourceIp(source)) => {
            Condition::ConnectionRemoteIp(range(source, "source_ip")?)
        }
        Some(Identifier::DirectRemoteIp(remote)) => {
            Condition::DirectRemoteIp(range(remote, "direct_remote_ip")?)
        }
        Some(Identifier::RemoteIp(remote)) => Condition::RemoteIp(range(remote, "remote_ip")?),
        Some(Identifier::Header(header)) => {
            Condition::Header(HeaderMatcher::build(header, &path.field("header"))?)
        }
        Some(Identifier::UrlPath(matcher)) => url_path(matcher, path)?,
        Some(Identifier::Metadata(matcher)) => {
            Condition::DynamicMetadata(MetadataMatcher::build(matcher, &path.field("metadata"))?)
        }
        Some(Identifier::SourcedMetadata(sourced)) => sourced_metadata(sourced, path)?,
        Some(Identifier::FilterState(matcher)) => {
            let path = path.field("filter_state");
            Condition::FilterState(FilterStateMatcher::build(matcher, &path)?)
        }
        Some(Identifier::Custom(extension)) => {
            let path = path.field("custom").field("typed_config");
            let Some(config) = &extension.typed_config else {
                return Err(required(&path, "a principal is required"));
            };
            Factory::find(FACTORIES, "principal", config, &path)?(config, &path)?
        }
        None => return Err(required(path, "an identifier is required")),
    })
}

fn mtls_authenticated(config: &Any, path: &FieldPath) -> Result<Condition, ConfigErrors> {
    let message: MtlsAuthenticated = unpack(config, path)?;
    match &message.san_matcher {
        Some(matcher) => {
            let matcher = SanMatcher::build(matcher, &path.field("san_matcher"))?;
            Ok(Condition::MutualTls(Some(matcher)))
        }
        None if message.any_validated_client_certificate => Ok(Condition::MutualTls(None)),
        None => {
            let text = "At least one configuration field must be set: san_matcher or \
                        any_validated_client_certificate";
            Err(required(path, text))
        }
    }
}
