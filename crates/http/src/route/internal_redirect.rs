//! `InternalRedirectPolicy`: which redirects of the upstream the proxy follows itself.

use outrider_codec::HeaderName;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::TypedExtensionConfig;
use outrider_config::api::envoy::config::route::v3::InternalRedirectPolicy as PolicyMessage;
use outrider_config::api::envoy::config::route::v3::RouteAction;
use outrider_config::api::envoy::config::route::v3::route_action::InternalRedirectAction;
use outrider_config::api::envoy::extensions::internal_redirect::allow_listed_routes::v3::AllowListedRoutesConfig;
use outrider_config::api::envoy::extensions::internal_redirect::previous_routes::v3::PreviousRoutesConfig;
use outrider_config::type_name;
use outrider_config::unpack;
use prost::Name;

use crate::route::header_mutation::header_name;

/// The statuses that may be followed at all.
const STATUSES: [u32; 5] = [301, 302, 303, 307, 308];

/// Which redirects the proxy follows itself (`envoy.config.route.v3.InternalRedirectPolicy`).
#[derive(Debug)]
pub(crate) struct InternalRedirectPolicy {
    /// `max_internal_redirects`
    pub(crate) max: u32,
    /// `redirect_response_codes`
    pub(crate) statuses: Box<[u16]>,
    /// `predicates`
    pub(crate) predicates: Box<[RedirectPredicate]>,
    /// `allow_cross_scheme_redirect`
    pub(crate) allows_other_scheme: bool,
    /// `response_headers_to_copy`
    pub(crate) copied_headers: Box<[HeaderName]>,
}

/// An extension of `envoy.internal_redirect_predicates`: a condition on the route that a redirect leads to.
#[derive(Debug)]
pub(crate) enum RedirectPredicate {
    /// It has one of these names.
    AllowListedRoutes(Box<[String]>),
    /// This route has not redirected this request to it before.
    PreviousRoutes,
    /// It does not lead from plaintext to TLS.
    SafeCrossScheme,
}

impl InternalRedirectPolicy {
    /// The policy of `action`, found at `path`; `None` if redirects are not followed.
    pub(crate) fn build(
        action: &RouteAction,
        path: &FieldPath,
    ) -> Result<Option<InternalRedirectPolicy>, ConfigErrors> {
        if let Some(policy) = &action.internal_redirect_policy {
            let path = path.field("internal_redirect_policy");
            return InternalRedirectPolicy::of_message(policy, &path).map(Some);
        }
        #[expect(deprecated, reason = "Envoy still obeys them")]
        let (action, max) = (
            action.internal_redirect_action(),
            action.max_internal_redirects,
        );
        let follows = action == InternalRedirectAction::HandleInternalRedirect;
        let message = PolicyMessage {
            max_internal_redirects: max,
            ..PolicyMessage::default()
        };
        let policy = follows.then(|| InternalRedirectPolicy::of_message(&message, path));
        policy.transpose()
    }

    fn of_message(
        message: &PolicyMessage,
        path: &FieldPath,
    ) -> Result<InternalRedirectPolicy, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let list = path.field("predicates");
        let mut predicates = Vec::with_capacity(message.predicates.len());
        for (index, predicate) in message.predicates.iter().enumerate() {
            let built = RedirectPredicate::build(predicate, &list.index(index));
            predicates.extend(errors.collect(built));
        }
        let list = path.field("response_headers_to_copy");
        let mut copied_headers = Vec::with_capacity(message.response_headers_to_copy.len());
        for (index, name) in message.response_headers_to_copy.iter().enumerate() {
            let path = list.index(index);
            if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
                errors.push(
                    &path,
                    ":-prefixed headers or Hosts may not be specified here.",
                );
            } else {
                copied_headers.extend(errors.collect(header_name(name, &path)));
            }
        }
        let given = &message.redirect_response_codes;
        let statuses = given.iter().filter(|status| STATUSES.contains(status));
        errors.finish(InternalRedirectPolicy {
            max: message.max_internal_redirects.unwrap_or(1),
            statuses: match given.is_empty() {
                true => [302].into(),
                false => statuses.filter_map(|s| u16::try_from(*s).ok()).collect(),
            },
            predicates: predicates.into(),
            allows_other_scheme: message.allow_cross_scheme_redirect,
            copied_headers: copied_headers.into(),
        })
    }
}

impl RedirectPredicate {
    fn build(
        config: &TypedExtensionConfig,
        path: &FieldPath,
    ) -> Result<RedirectPredicate, ConfigError> {
        let path = path.field("typed_config");
        let Some(any) = &config.typed_config else {
            return Err(ConfigError::new(&path, "is required"));
        };
        let name = type_name(any);
        if name == AllowListedRoutesConfig::full_name() {
            let message: AllowListedRoutesConfig = unpack(any, &path)?;
            let names = message.allowed_route_names;
            return Ok(RedirectPredicate::AllowListedRoutes(names.into()));
        }
        if name == PreviousRoutesConfig::full_name() {
            return Ok(RedirectPredicate::PreviousRoutes);
        }
        // The support table admits no other type.
        Ok(RedirectPredicate::SafeCrossScheme)
    }
}
