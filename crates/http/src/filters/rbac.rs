//! Allows or denies requests by policies (`envoy.filters.http.rbac`).
//!
//! Shadow policies only count, and tell in dynamic metadata, what they would decide.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use outrider_codec::Body;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::filters::http::rbac::v3 as api;
use outrider_config::unpack;
use outrider_matching::rbac::Decision;
use outrider_matching::rbac::Policies;
use outrider_matching::rbac::Subject;
use outrider_stats::Counter;
use outrider_stats::Lazy;
use outrider_stats::Scope;
use outrider_stats::WorkerStore;
use prost_types::Any;
use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind;

use super::FilterBuildCx;
use super::FilterCx;
use super::FilterFactory;
use super::FilterStatus;
use super::FilterWorkerCx;
use super::HttpFilter;
use super::HttpFilterConfig;
use super::RouteConfig;
use super::RouteFactory;
use crate::Stream;
use crate::local_reply::LocalReply;

/// The namespace of the filter's dynamic metadata.
const NAMESPACE: &str = "envoy.filters.http.rbac";
/// The namespace of metadata that several filters set.
const COMMON_NAMESPACE: &str = "envoy.common";

pub(super) const FACTORY: FilterFactory = FilterFactory {
    message: "envoy.extensions.filters.http.rbac.v3.RBAC",
    build,
    routes: Some(&RouteFactory {
        message: "envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
        build: |config, path, _| {
            let message: api::RbacPerRoute = unpack(config, path)?;
            let settings = message.rbac.as_ref();
            let settings = settings.map(|rbac| RbacSettings::build(rbac, &path.field("rbac")));
            Ok(Arc::new(RbacRouteSettings(settings.transpose()?)))
        },
    }),
};

outrider_stats::group! {
    /// `http.<stat_prefix>.rbac.<rules_stat_prefix>.*`
    pub(super) struct RulesStats {
        allowed: Counter,
        denied: Counter,
    }
}

outrider_stats::group! {
    /// `http.<stat_prefix>.rbac.<shadow_rules_stat_prefix>.*`
    pub(super) struct ShadowRulesStats {
        shadow_allowed: Counter,
        shadow_denied: Counter,
    }
}

outrider_stats::group! {
    /// `….policy.<name>.*`: each is listed from the first request on.
    pub(super) struct PolicyStats {
        allowed: Lazy<Counter>,
        denied: Lazy<Counter>,
        shadow_allowed: Lazy<Counter>,
        shadow_denied: Lazy<Counter>,
    }
}

fn build(
    config: &Any,
    path: &FieldPath,
    cx: &FilterBuildCx<'_>,
) -> Result<Arc<dyn HttpFilterConfig>, ConfigErrors> {
    let message: api::Rbac = unpack(config, path)?;
    Ok(Arc::new(RbacConfig {
        settings: RbacSettings::build(&message, path)?,
        scope: cx.scope.clone().name("rbac"),
    }))
}

/// The policies of the filter or of a route.
#[derive(Debug)]
struct RbacSettings {
    enforced: Ruleset,
    shadow: Ruleset,
    /// `track_per_rule_stats`
    counts_policies: bool,
}

/// Policies that are enforced, or those that are not.
#[derive(Debug)]
struct Ruleset {
    /// `None` if nothing is to be decided.
    policies: Option<Policies>,
    /// Comes before the names of stats and of metadata.
    prefix: Box<str>,
}

/// `RBACPerRoute`; without settings the filter does nothing.
struct RbacRouteSettings(Option<RbacSettings>);

impl RbacSettings {
    fn build(config: &api::Rbac, path: &FieldPath) -> Result<RbacSettings, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let rules = config.rules.as_ref();
        let rules = rules.map(|rules| Policies::build(rules, &path.field("rules")));
        let shadow = config.shadow_rules.as_ref();
        let shadow = shadow.map(|rules| Policies::build(rules, &path.field("shadow_rules")));
        let settings = RbacSettings {
            enforced: Ruleset {
                policies: rules.and_then(|rules| errors.collect(rules)),
                prefix: config.rules_stat_prefix.as_str().into(),
            },
            shadow: Ruleset {
                policies: shadow.and_then(|rules| errors.collect(rules)),
                prefix: config.shadow_rules_stat_prefix.as_str().into(),
            },
            counts_policies: config.track_per_rule_stats,
        };
        errors.finish(settings)
    }
}

#[derive(Debug)]
struct RbacConfig {
    settings: RbacSettings,
    /// `http.<stat_prefix>.rbac`
    scope: Scope,
}

impl RbacConfig {
    /// The scope of the stats of a ruleset of the filter. As in Envoy, those of routes count there, too.
    fn stats_scope(&self, ruleset: &Ruleset) -> Scope {
        let scope = self.scope.clone();
        match &*ruleset.prefix {
            "" => scope,
            prefix => scope.verbatim(prefix),
        }
    }
}

impl HttpFilterConfig for RbacConfig {
    fn worker(self: Arc<Self>, cx: &FilterWorkerCx<'_>) -> Rc<dyn HttpFilter> {
        let store = cx.worker.store.clone();
        let enforced = self.stats_scope(&self.settings.enforced);
        let shadow = self.stats_scope(&self.settings.shadow);
        Rc::new(RbacFilter {
            routes: cx.route_config(),
            rules: store.register(enforced.clone()),
            shadow_rules: store.register(shadow.clone()),
            policies: PolicyCounters::new(enforced, &store),
            shadow_policies: PolicyCounters::new(shadow, &store),
            config: self,
        })
    }
}

/// The counters of the policies of one ruleset, by name.
#[derive(Debug)]
struct PolicyCounters {
    scope: Scope,
    store: WorkerStore,
    known: RefCell<HashMap<Box<str>, Arc<PolicyStats>>>,
}

impl PolicyCounters {
    fn new(scope: Scope, store: &WorkerStore) -> PolicyCounters {
        PolicyCounters {
            scope: scope.name("policy"),
            store: store.clone(),
            known: RefCell::default(),
        }
    }

    fn get(&self, policy: &str) -> Arc<PolicyStats> {
        let mut known = self.known.borrow_mut();
        if let Some(stats) = known.get(policy) {
            return stats.clone();
        }
        let stats: Arc<PolicyStats> = self.store.register(self.scope.clone().verbatim(policy));
        known.insert(policy.into(), stats.clone());
        stats
    }
}

/// The filter on one worker.
#[derive(Debug)]
struct RbacFilter {
    config: Arc<RbacConfig>,
    routes: RouteConfig<RbacRouteSettings>,
    rules: Arc<RulesStats>,
    shadow_rules: Arc<ShadowRulesStats>,
    policies: PolicyCounters,
    shadow_policies: PolicyCounters,
}

impl HttpFilter for RbacFilter {
    fn on_request(&self, stream: &mut Stream, _: &mut Body, _: &FilterCx<'_>) -> FilterStatus {
        let route = stream.route.clone();
        let settings = match self.routes.most_specific(route.as_deref()) {
            Some(RbacRouteSettings(Some(settings))) => settings,
            Some(RbacRouteSettings(None)) => return FilterStatus::Continue,
            None => &self.config.settings,
        };
        if let Some(policies) = &settings.shadow.policies {
            self.shadow(settings, policies, stream);
        }
        match &settings.enforced.policies {
            Some(policies) => self.enforce(settings, policies, stream),
            None => FilterStatus::Continue,
        }
    }
}

impl RbacFilter {
    fn shadow(&self, settings: &RbacSettings, policies: &Policies, stream: &mut Stream) {
        let decision = policies.decide(&subject(stream));
        let is_allowed = decision.is_allowed();
        match is_allowed {
            true => self.shadow_rules.shadow_allowed.inc(),
            false => self.shadow_rules.shadow_denied.inc(),
        }
        if let Some(policy) = decision.policy.filter(|_| settings.counts_policies) {
            let stats = self.shadow_policies.get(policy);
            match is_allowed {
                true => stats.shadow_allowed.get().inc(),
                false => stats.shadow_denied.get().inc(),
            }
        }
        let prefix = prefix(&settings.shadow, &self.config.settings.shadow);
        let fields = outcome(&format!("{prefix}shadow"), &decision);
        stream.dynamic_metadata.merge(NAMESPACE, fields);
    }

    fn enforce(
        &self,
        settings: &RbacSettings,
        policies: &Policies,
        stream: &mut Stream,
    ) -> FilterStatus {
        let decision = policies.decide(&subject(stream));
        let is_allowed = decision.is_allowed();
        match is_allowed {
            true => self.rules.allowed.inc(),
            false => self.rules.denied.inc(),
        }
        if let Some(policy) = decision.policy.filter(|_| settings.counts_policies) {
            let stats = self.policies.get(policy);
            match is_allowed {
                true => stats.allowed.get().inc(),
                false => stats.denied.get().inc(),
            }
        }
        let prefix = prefix(&settings.enforced, &self.config.settings.enforced);
        let fields = outcome(&format!("{prefix}enforced"), &decision);
        stream.dynamic_metadata.merge(NAMESPACE, fields);
        if let Some(hint) = decision.log_hint() {
            let hint = Kind::BoolValue(hint);
            let hint = ("access_log_hint".to_owned(), Value { kind: Some(hint) });
            let fields = BTreeMap::from([hint]);
            stream
                .dynamic_metadata
                .merge(COMMON_NAMESPACE, Struct { fields });
        }
        match is_allowed {
            true => FilterStatus::Continue,
            false => FilterStatus::Reply(denied(&decision)),
        }
    }
}

/// The prefix of the names in metadata: the route's, or else the filter's.
fn prefix<'p>(of_route: &'p Ruleset, of_filter: &'p Ruleset) -> &'p str {
    match &*of_route.prefix {
        "" => &of_filter.prefix,
        prefix => prefix,
    }
}

/// What dynamic metadata tells about a decision.
fn outcome(name: &str, decision: &Decision<'_>) -> Struct {
    let text = |text: &str| Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    let result = match decision.is_allowed() {
        true => "allowed",
        false => "denied",
    };
    let mut fields = BTreeMap::from([(format!("{name}_engine_result"), text(result))]);
    if let Some(policy) = decision.policy {
        fields.insert(format!("{name}_effective_policy_id"), text(policy));
    }
    Struct { fields }
}

fn denied(decision: &Decision<'_>) -> LocalReply {
    // White space would split a field of an access log.
    let policy = decision.policy.unwrap_or("none");
    let policy = policy.replace(|letter: char| letter.is_ascii_whitespace(), "_");
    let details = format!("rbac_access_denied_matched_policy[{policy}]");
    LocalReply::new(StatusCode::FORBIDDEN, details).body("RBAC: access denied")
}

fn subject(stream: &Stream) -> Subject<'_> {
    let route = stream.route.as_ref();
    Subject {
        connection: &stream.connection,
        remote: &stream.remote_address,
        request: Some(&stream.request),
        dynamic_metadata: stream.dynamic_metadata.get(),
        route_metadata: route.and_then(|route| route.metadata.as_deref()),
        filter_state: &stream.filter_state,
    }
}
