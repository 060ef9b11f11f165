//! Which headers a service may change (`HeaderMutationRules`).

use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::common::mutation_rules::v3::HeaderMutationRules as Message;
use outrider_config::api::envoy::r#type::matcher::v3::RegexMatcher;
use outrider_config::re2::FullRegex;

/// The rules. The first rule that applies to a header decides.
#[derive(Debug, Default)]
pub(super) struct MutationRules {
    allow_all_routing: bool,
    allow_envoy: bool,
    disallow_system: bool,
    disallow_all: bool,
    allow: Option<FullRegex>,
    disallow: Option<FullRegex>,
    disallow_is_error: bool,
}

/// What happens to a change of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MutationDecision {
    /// The change is made.
    Allowed,
    /// The change is skipped.
    Ignored,
    /// The change is an error of the service.
    Refused,
}

impl MutationRules {
    /// The rules found at `path`.
    pub(super) fn build(
        message: &Message,
        path: &FieldPath,
    ) -> Result<MutationRules, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut regex = |matcher: &Option<RegexMatcher>, field| {
            let built = matcher.as_ref()?;
            let built = FullRegex::build(built, &path.field(field));
            errors.collect(built.map_err(ConfigErrors::from))
        };
        let allow = regex(&message.allow_expression, "allow_expression");
        let disallow = regex(&message.disallow_expression, "disallow_expression");
        errors.finish(MutationRules {
            allow_all_routing: message.allow_all_routing.unwrap_or_default(),
            allow_envoy: message.allow_envoy.unwrap_or_default(),
            disallow_system: message.disallow_system.unwrap_or_default(),
            disallow_all: message.disallow_all.unwrap_or_default(),
            allow,
            disallow,
            disallow_is_error: message.disallow_is_error.unwrap_or_default(),
        })
    }

    /// Decides about a change of the header `name`, in lower case. `removes`: whether the header would be removed.
    pub(super) fn check(&self, name: &str, removes: bool) -> MutationDecision {
        match self.allows(name, removes) {
            true => MutationDecision::Allowed,
            false if self.disallow_is_error => MutationDecision::Refused,
            false => MutationDecision::Ignored,
        }
    }

    fn allows(&self, name: &str, removes: bool) -> bool {
        let is_system = name.starts_with(':');
        if removes && (is_system || name == "host") {
            return false;
        }
        let matches = |regex: &Option<FullRegex>| {
            let regex = regex.as_ref();
            regex.is_some_and(|regex| regex.is_match(name.as_bytes()))
        };
        if matches(&self.disallow) {
            return false;
        }
        if matches(&self.allow) {
            return true;
        }
        if self.disallow_all || self.disallow_system && is_system {
            return false;
        }
        let is_routing = matches!(name, "host" | ":authority" | ":scheme" | ":method");
        if is_routing && !self.allow_all_routing {
            return false;
        }
        self.allow_envoy || !name.starts_with("x-envoy")
    }
}
