//! The filter's configuration: providers, and which requests need which tokens.

use std::collections::BTreeMap;
use std::collections::HashMap;

use outrider_client::ServiceCx;
use outrider_codec::HeaderName;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::route::v3::RouteMatch as RouteMatchMessage;
use outrider_config::api::envoy::extensions::filters::http::jwt_authn::v3 as api;
use outrider_config::api::envoy::extensions::filters::http::jwt_authn::v3::per_route_config::RequirementSpecifier;
use outrider_config::api::envoy::extensions::filters::http::jwt_authn::v3::requirement_rule::RequirementType;

use super::provider::Provider;
use super::requirement::ProviderMessages;
use super::requirement::Requirement;
use crate::Stream;
use crate::route::RequestView;
use crate::route::RouteMatch;

/// The configuration, shared by all workers.
#[derive(Debug)]
pub(super) struct JwtConfig {
    /// In the order of their names.
    pub(super) providers: Vec<Provider>,
    /// The first provider of each issuer.
    issuers: HashMap<String, usize>,
    /// Headers that only the filter may set: they are removed from each request.
    pub(super) sanitized: Vec<HeaderName>,
    rules: Vec<Rule>,
    /// `requirement_map`
    pub(super) named: BTreeMap<String, Requirement>,
    filter_state: Option<FilterStateRules>,
    /// `bypass_cors_preflight`
    pub(super) bypasses_preflights: bool,
    /// `strip_failure_response`
    pub(super) strips_reply: bool,
}

#[derive(Debug)]
struct Rule {
    matcher: RouteMatch,
    /// `None` to let all requests through.
    requirement: Option<Requirement>,
}

/// An object in the filter state tells what the request needs.
#[derive(Debug)]
struct FilterStateRules {
    name: String,
    requirements: HashMap<String, Requirement>,
}

/// `PerRouteConfig`
pub(super) enum RouteSettings {
    Disabled,
    /// The requirement of this name.
    Named(String),
}

impl RouteSettings {
    /// Checks the message found at `path`.
    pub(super) fn build(
        message: api::PerRouteConfig,
        path: &FieldPath,
    ) -> Result<RouteSettings, ConfigErrors> {
        match message.requirement_specifier {
            Some(RequirementSpecifier::Disabled(_)) => Ok(RouteSettings::Disabled),
            Some(RequirementSpecifier::RequirementName(name)) => Ok(RouteSettings::Named(name)),
            None => Err(ConfigErrors::from(ConfigError::new(
                path,
                "one of disabled or requirement_name is required",
            ))),
        }
    }
}

impl JwtConfig {
    /// Builds the configuration found at `path`.
    pub(super) fn build(
        config: &api::JwtAuthentication,
        path: &FieldPath,
        services: &ServiceCx<'_>,
    ) -> Result<JwtConfig, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let messages: BTreeMap<_, _> = config
            .providers
            .iter()
            .map(|(name, provider)| (name.as_str(), provider))
            .collect();
        let mut providers = Vec::new();
        let mut issuers = HashMap::new();
        for (index, (name, provider)) in messages.iter().enumerate() {
            let path = path.field("providers").key(*name);
            providers.extend(errors.collect(Provider::build(provider, &path, services)));
            issuers.entry(provider.issuer.clone()).or_insert(index);
        }
        let messages = ProviderMessages(messages);
        let sanitized = providers.iter();
        let sanitized = sanitized.flat_map(|provider: &Provider| &provider.locations.sanitized);
        let sanitized = sanitized.cloned().collect();
        let mut named = BTreeMap::new();
        for (name, requirement) in &config.requirement_map {
            let path = path.field("requirement_map").key(name);
            let built = errors.collect(Requirement::build(requirement, &path, &messages));
            named.extend(built.map(|requirement| (name.clone(), requirement)));
        }
        let rules = config.rules.iter().enumerate();
        let rules = rules.filter_map(|(at, rule)| {
            let path = path.field("rules").index(at);
            errors.collect(Rule::build(rule, &path, config, &messages))
        });
        let rules = rules.collect();
        let filter_state = config.filter_state_rules.as_ref().map(|rules| {
            let path = path.field("filter_state_rules");
            FilterStateRules::build(rules, &path, &messages)
        });
        let filter_state = filter_state.and_then(|rules| errors.collect(rules));
        errors.finish(JwtConfig {
            providers,
            issuers,
            sanitized,
            rules,
            named,
            filter_state,
            bypasses_preflights: config.bypass_cors_preflight,
            strips_reply: config.strip_failure_response,
        })
    }

    /// What a request needs, by the first rule that matches it, or else by its filter state.
    pub(super) fn find(&self, stream: &Stream) -> Option<&Requirement> {
        let view = RequestView::of(stream);
        let path = view.head.path.as_ref().map_or("", |target| target.path());
        let mut rules = self.rules.iter();
        if let Some(rule) = rules.find(|rule| rule.matcher.matches(&view, path)) {
            return rule.requirement.as_ref();
        }
        let rules = self.filter_state.as_ref()?;
        let text = stream.filter_state.get(&rules.name)?.text()?;
        rules.requirements.get(&*text)
    }

    /// The provider for tokens of this issuer: the first of this issuer, or else the first for any issuer.
    pub(super) fn provider_of(&self, issuer: &str) -> Option<usize> {
        let named = self.issuers.get(issuer);
        named.or_else(|| self.issuers.get("")).copied()
    }
}

impl Rule {
    fn build(
        rule: &api::RequirementRule,
        path: &FieldPath,
        config: &api::JwtAuthentication,
        providers: &ProviderMessages<'_>,
    ) -> Result<Rule, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        // As in Envoy, the filter looks at no other condition.
        let conditions = rule.r#match.clone().unwrap_or_default();
        let conditions = RouteMatchMessage {
            path_specifier: conditions.path_specifier,
            case_sensitive: conditions.case_sensitive,
            headers: conditions.headers,
            query_parameters: conditions.query_parameters,
            ..RouteMatchMessage::default()
        };
        let matcher = errors.collect(RouteMatch::build(&conditions, &path.field("match")));
        let requirement = match &rule.requirement_type {
            Some(RequirementType::Requires(requirement)) => {
                let path = path.field("requires");
                errors.collect(Requirement::build(requirement, &path, providers))
            }
            Some(RequirementType::RequirementName(name)) => {
                let path = path.field("requirement_name");
                match config.requirement_map.get(name) {
                    Some(requirement) => {
                        errors.collect(Requirement::build(requirement, &path, providers))
                    }
                    None => {
                        errors.push(&path, wrong_name(name, config));
                        None
                    }
                }
            }
            None => None,
        };
        let Some(matcher) = matcher else {
            return Err(errors);
        };
        errors.finish(Rule {
            matcher,
            requirement,
        })
    }
}

fn wrong_name(name: &str, config: &api::JwtAuthentication) -> String {
    let mut names: Vec<_> = config.requirement_map.keys().map(String::as_str).collect();
    names.sort_unstable();
    let names = names.join(",");
    format!("Wrong requirement_name: {name}. It should be one of [{names}]")
}

impl FilterStateRules {
    fn build(
        rules: &api::FilterStateRule,
        path: &FieldPath,
        providers: &ProviderMessages<'_>,
    ) -> Result<FilterStateRules, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut requirements = HashMap::new();
        for (value, requirement) in &rules.requires {
            let path = path.field("requires").key(value);
            let built = errors.collect(Requirement::build(requirement, &path, providers));
            requirements.extend(built.map(|requirement| (value.clone(), requirement)));
        }
        errors.finish(FilterStateRules {
            name: rules.name.clone(),
            requirements,
        })
    }
}
