//! Providers: whose tokens are accepted, and what becomes of their claims (`JwtProvider`).

use std::collections::HashSet;
use std::time::Duration;

use outrider_client::ServiceCx;
use outrider_codec::HeaderName;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::http::jwt_authn::v3::JwtClaimToHeader;
use outrider_config::api::envoy::extensions::filters::http::jwt_authn::v3::JwtProvider;
use outrider_config::api::envoy::extensions::filters::http::jwt_authn::v3::jwt_provider::JwksSourceSpecifier;
use outrider_config::data_source;
use outrider_config::duration;
use outrider_config::string_matcher::StringMatcher;

use super::jwks::Jwks;
use super::locations::Locations;
use super::remote::RemoteJwks;

/// `clock_skew_seconds` if it is not set.
pub(super) const CLOCK_SKEW: u64 = 60;
/// `jwt_cache_size` if it is not set.
const CACHE_SIZE: usize = 100;
/// `jwt_max_token_size` if it is not set.
const MAX_CACHED_LENGTH: usize = 4096;

/// A provider, shared by all workers.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) audiences: Audiences,
    pub(super) subjects: Option<StringMatcher>,
    /// `None` if tokens need no `exp`.
    pub(super) lifetime: Option<Lifetime>,
    pub(super) keys: KeySource,
    pub(super) locations: Locations,
    /// `forward`
    pub(super) keeps_token: bool,
    pub(super) payload_header: Option<HeaderName>,
    /// `pad_forward_payload_header`
    pub(super) pads_payload: bool,
    /// The keys under which dynamic metadata has parts of the token; empty for none.
    pub(super) payload_in_metadata: String,
    pub(super) header_in_metadata: String,
    pub(super) failure_in_metadata: String,
    /// Claims that become lists in the metadata: their text is split at spaces.
    pub(super) space_delimited: Vec<String>,
    /// In seconds.
    pub(super) clock_skew: u64,
    pub(super) claims: Vec<ClaimHeader>,
    pub(super) clears_route_cache: bool,
    pub(super) cache: Option<CacheLimits>,
}

/// How long a token may be valid from now on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lifetime {
    /// As long as it likes, but not forever.
    Limited,
    /// Less than this.
    Below(Duration),
}

/// Where the keys come from.
#[derive(Debug)]
pub(super) enum KeySource {
    Local(Jwks),
    Remote(Box<RemoteJwks>),
}

/// `claim_to_headers`
#[derive(Debug)]
pub(super) struct ClaimHeader {
    pub(super) name: HeaderName,
    pub(super) path: Vec<String>,
}

/// `jwt_cache_config`
#[derive(Clone, Copy, Debug)]
pub(super) struct CacheLimits {
    pub(super) tokens: usize,
    pub(super) token_length: usize,
}

/// Audiences that are accepted; all if it is empty.
#[derive(Debug)]
pub(super) struct Audiences(HashSet<String>);

impl Audiences {
    pub(super) fn new(audiences: &[String]) -> Audiences {
        let audiences = audiences.iter().map(|audience| bare(audience).to_owned());
        Audiences(audiences.collect())
    }

    /// Whether one of a token's audiences is accepted.
    pub(super) fn allow(&self, audiences: &[String]) -> bool {
        self.0.is_empty()
            || audiences
                .iter()
                .any(|audience| self.0.contains(bare(audience)))
    }
}

/// An audience as it is compared: without the scheme and the last slash.
fn bare(audience: &str) -> &str {
    let start = audience.strip_prefix("http://");
    let start = start.or_else(|| audience.strip_prefix("https://"));
    let text = start.unwrap_or(audience);
    text.strip_suffix('/').unwrap_or(text)
}

impl Provider {
    /// Builds the provider found at `path`.
    pub(super) fn build(
        config: &JwtProvider,
        path: &FieldPath,
        services: &ServiceCx<'_>,
    ) -> Result<Provider, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let subjects = config.subjects.as_ref();
        let subjects =
            subjects.map(|matcher| StringMatcher::build(matcher, &path.field("subjects")));
        let subjects = subjects.and_then(|matcher| errors.collect(matcher));
        let longest = duration::optional(config.max_lifetime.as_ref(), &path.field("max_lifetime"));
        let longest = errors.collect(longest).flatten();
        let lifetime = longest.map(Lifetime::Below);
        let lifetime = lifetime.or(config.require_expiration.then_some(Lifetime::Limited));
        let keys = errors.collect(keys(config, path, services));
        let mut locations = Locations::default();
        errors.collect(locations.add(config, path));
        let payload_header = &path.field("forward_payload_header");
        let payload_header = match config.forward_payload_header.as_str() {
            "" => None,
            name => errors.collect(header_name(name, payload_header)),
        };
        let claims = config.claim_to_headers.iter().enumerate();
        let claims = claims.filter_map(|(at, claim)| {
            let path = path.field("claim_to_headers").index(at);
            errors.collect(ClaimHeader::build(claim, &path))
        });
        let claims = claims.collect();
        let normalized = config.normalize_payload_in_metadata.clone();
        let Some(keys) = keys else {
            return Err(errors);
        };
        errors.finish(Provider {
            audiences: Audiences::new(&config.audiences),
            subjects,
            lifetime,
            keys,
            locations,
            keeps_token: config.forward,
            payload_header,
            pads_payload: config.pad_forward_payload_header,
            payload_in_metadata: config.payload_in_metadata.clone(),
            header_in_metadata: config.header_in_metadata.clone(),
            failure_in_metadata: config.failed_status_in_metadata.clone(),
            space_delimited: normalized.unwrap_or_default().space_delimited_claims,
            clock_skew: match config.clock_skew_seconds {
                0 => CLOCK_SKEW,
                seconds => seconds.into(),
            },
            claims,
            clears_route_cache: config.clear_route_cache,
            cache: config.jwt_cache_config.as_ref().map(|cache| CacheLimits {
                tokens: or_default(cache.jwt_cache_size, CACHE_SIZE),
                token_length: or_default(cache.jwt_max_token_size, MAX_CACHED_LENGTH),
            }),
        })
    }
}

fn or_default(number: u32, default: usize) -> usize {
    match number {
        0 => default,
        number => usize::try_from(number).unwrap_or(usize::MAX),
    }
}

fn keys(
    config: &JwtProvider,
    path: &FieldPath,
    services: &ServiceCx<'_>,
) -> Result<KeySource, ConfigErrors> {
    match &config.jwks_source_specifier {
        Some(JwksSourceSpecifier::LocalJwks(source)) => {
            let path = path.field("local_jwks");
            let text = data_source::read(source, None, &path)?;
            let keys = Jwks::parse(&text);
            let keys =
                keys.map_err(|error| ConfigError::new(&path, format!("invalid jwks: {error}")))?;
            Ok(KeySource::Local(keys))
        }
        Some(JwksSourceSpecifier::RemoteJwks(remote)) => {
            let remote = RemoteJwks::build(remote, &path.field("remote_jwks"), services)?;
            Ok(KeySource::Remote(Box::new(remote)))
        }
        None => Err(ConfigErrors::from(ConfigError::new(
            path,
            "expected local_jwks or remote_jwks",
        ))),
    }
}

impl ClaimHeader {
    fn build(config: &JwtClaimToHeader, path: &FieldPath) -> Result<ClaimHeader, ConfigErrors> {
        let name = header_name(&config.header_name, &path.field("header_name"))?;
        let segments = config.claim_path.iter().map(|segment| segment.key.clone());
        let mut claim: Vec<String> = segments.collect();
        if claim.is_empty() == config.claim_name.is_empty() {
            let text = "exactly one of claim_name and claim_path is required";
            return Err(ConfigErrors::from(ConfigError::new(path, text)));
        }
        if claim.is_empty() {
            claim = config.claim_name.split('.').map(str::to_owned).collect();
        }
        Ok(ClaimHeader { name, path: claim })
    }
}

/// The name of a request header that the filter sets.
pub(super) fn header_name(name: &str, path: &FieldPath) -> Result<HeaderName, ConfigErrors> {
    name.to_ascii_lowercase().parse().map_err(|_| {
        let text = format!("{name:?} is no header name");
        ConfigErrors::from(ConfigError::new(path, text))
    })
}
