//! Requirements: which tokens a request must have (`JwtRequirement`).

use std::collections::BTreeMap;

use outrider_codec::HeaderName;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::http::jwt_authn::v3::JwtProvider;
use outrider_config::api::envoy::extensions::filters::http::jwt_authn::v3::JwtRequirement;
use outrider_config::api::envoy::extensions::filters::http::jwt_authn::v3::jwt_requirement::RequiresType;

use super::locations::Locations;
use super::provider::Audiences;
use super::provider::header_name;

/// Tells the upstream that a token was not verified, unless `verification_status_header` names another header.
const STATUS_HEADER: &str = "x-jwt-signature-verified";

/// What a request needs.
#[derive(Debug)]
pub(super) enum Requirement {
    /// Nothing.
    None,
    /// Valid tokens of one provider.
    Provider {
        /// The provider's place in the order of the names.
        index: usize,
        /// In place of the provider's.
        audiences: Option<Audiences>,
    },
    /// Tokens of several providers, which are found by their issuer.
    Lenient {
        locations: Locations,
        leniency: Leniency,
    },
    Any(Vec<Requirement>),
    All(Vec<Requirement>),
}

/// What is let through without a valid token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Leniency {
    /// `allow_missing`
    Missing,
    /// `allow_missing_or_failed`
    Failed,
    /// `extract_only_without_validation`: a header tells of a token that is not valid.
    FailedWithHeader(HeaderName),
}

/// The providers that requirements may name.
pub(super) struct ProviderMessages<'m>(pub(super) BTreeMap<&'m str, &'m JwtProvider>);

impl Requirement {
    /// Builds the requirement found at `path`.
    pub(super) fn build(
        config: &JwtRequirement,
        path: &FieldPath,
        providers: &ProviderMessages<'_>,
    ) -> Result<Requirement, ConfigErrors> {
        let all: Vec<_> = providers.0.keys().copied().collect();
        build(config, path, providers, &all)
    }
}

/// `lenient`: the providers whose tokens a lenient requirement looks at.
fn build(
    config: &JwtRequirement,
    path: &FieldPath,
    providers: &ProviderMessages<'_>,
    lenient: &[&str],
) -> Result<Requirement, ConfigErrors> {
    let leniency = match &config.requires_type {
        None => return Ok(Requirement::None),
        Some(RequiresType::ProviderName(name)) => {
            let index = providers.index(name, &path.field("provider_name"))?;
            return Ok(Requirement::Provider {
                index,
                audiences: None,
            });
        }
        Some(RequiresType::ProviderAndAudiences(with)) => {
            let path = path.field("provider_and_audiences");
            let index = providers.index(&with.provider_name, &path.field("provider_name"))?;
            let audiences = (!with.audiences.is_empty()).then(|| Audiences::new(&with.audiences));
            return Ok(Requirement::Provider { index, audiences });
        }
        Some(RequiresType::RequiresAny(any)) => {
            let path = path.field("requires_any").field("requirements");
            return build_any(&any.requirements, &path, providers);
        }
        Some(RequiresType::RequiresAll(list)) => {
            let path = path.field("requires_all").field("requirements");
            let all: Vec<_> = providers.0.keys().copied().collect();
            let mut errors = ConfigErrors::new();
            let list = list.requirements.iter().enumerate();
            let list = list.filter_map(|(at, requirement)| {
                errors.collect(build(requirement, &path.index(at), providers, &all))
            });
            let list = list.collect();
            return errors.finish(Requirement::All(list));
        }
        Some(RequiresType::AllowMissing(())) => Leniency::Missing,
        Some(RequiresType::AllowMissingOrFailed(())) => Leniency::Failed,
        Some(RequiresType::ExtractOnlyWithoutValidation(extract)) => {
            let path = path.field("extract_only_without_validation");
            let name = match extract.verification_status_header.as_str() {
                "" => STATUS_HEADER,
                name => name,
            };
            let name = header_name(name, &path.field("verification_status_header"))?;
            Leniency::FailedWithHeader(name)
        }
    };
    let mut locations = Locations::default();
    for name in lenient {
        if let Some(provider) = providers.0.get(name) {
            locations.add(provider, path)?;
        }
    }
    Ok(Requirement::Lenient {
        locations,
        leniency,
    })
}

/// As in Envoy, `allow_missing` and `allow_missing_or_failed` come last, the latter replaces the former, and they look only
/// at tokens of the providers that the list names.
fn build_any(
    list: &[JwtRequirement],
    path: &FieldPath,
    providers: &ProviderMessages<'_>,
) -> Result<Requirement, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let mut requirements = Vec::new();
    let mut named = Vec::new();
    let mut lenient = None;
    for (at, requirement) in list.iter().enumerate() {
        match &requirement.requires_type {
            Some(RequiresType::ProviderName(name)) => named.push(name.as_str()),
            Some(RequiresType::ProviderAndAudiences(with)) => named.push(&with.provider_name),
            Some(RequiresType::AllowMissing(())) => {
                lenient.get_or_insert((at, requirement));
                continue;
            }
            Some(RequiresType::AllowMissingOrFailed(())) => {
                lenient = Some((at, requirement));
                continue;
            }
            _ => {}
        }
        let all: Vec<_> = providers.0.keys().copied().collect();
        requirements.extend(errors.collect(build(requirement, &path.index(at), providers, &all)));
    }
    if let Some((at, requirement)) = lenient {
        let all: Vec<_> = providers.0.keys().copied().collect();
        let looked_at = if named.is_empty() { &all } else { &named };
        requirements.extend(errors.collect(build(
            requirement,
            &path.index(at),
            providers,
            looked_at,
        )));
    }
    errors.finish(Requirement::Any(requirements))
}

impl ProviderMessages<'_> {
    fn index(&self, name: &str, path: &FieldPath) -> Result<usize, ConfigErrors> {
        let index = self.0.keys().position(|known| *known == name);
        index.ok_or_else(|| {
            let text = format!("Required provider ['{name}'] is not configured.");
            ConfigErrors::from(ConfigError::new(path, text))
        })
    }
}
