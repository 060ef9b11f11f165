//! Role-based access control: policies that say who may do what (`envoy.config.rbac.v3.RBAC`).

mod condition;
mod permission;
mod principal;

use outrider_codec::RequestHead;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::Metadata;
use outrider_config::api::envoy::config::rbac::v3 as api;
pub use outrider_config::api::envoy::config::rbac::v3::rbac::Action;
use outrider_net::Address;
use outrider_net::DownstreamConnectionInfo;

use crate::FilterStateView;

use self::condition::Condition;

/// What policies decide on: a request, or a connection without one.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The client's connection.
    pub connection: &'a DownstreamConnectionInfo,
    /// The client's address, which may be from `x-forwarded-for`.
    pub remote: &'a Address,
    /// `None` outside of HTTP.
    pub request: Option<&'a RequestHead>,
    /// Metadata that filters have set.
    pub dynamic_metadata: Option<&'a Metadata>,
    /// The metadata of the route.
    pub route_metadata: Option<&'a Metadata>,
    /// Objects that filters share.
    pub filter_state: &'a dyn FilterStateView,
}

/// Named policies, and what a match of one means.
#[derive(Debug)]
pub struct Policies {
    action: Action,
    /// In the order of their names.
    policies: Box<[NamedPolicy]>,
}

#[derive(Debug)]
struct NamedPolicy {
    name: Box<str>,
    permissions: Box<[Condition]>,
    principals: Box<[Condition]>,
}

/// What policies decide about a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'p> {
    action: Action,
    /// The name of the first policy that matches.
    pub policy: Option<&'p str>,
}

impl Policies {
    /// Builds the policies found at `path`.
    ///
    /// # Errors
    /// A condition is not valid or not supported.
    pub fn build(config: &api::Rbac, path: &FieldPath) -> Result<Policies, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let path = path.field("policies");
        let policies = config.policies.iter();
        let policies = policies.filter_map(|(name, policy)| {
            errors.collect(NamedPolicy::build(name, policy, &path.key(name)))
        });
        let mut policies: Vec<_> = policies.collect();
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        errors.finish(Policies {
            action: config.action(),
            policies: policies.into(),
        })
    }

    /// Decides about `subject` by the first policy that matches.
    #[must_use]
    pub fn decide(&self, subject: &Subject<'_>) -> Decision<'_> {
        let mut policies = self.policies.iter();
        let matched = policies.find(|policy| policy.matches(subject));
        Decision {
            action: self.action,
            policy: matched.map(|policy| &*policy.name),
        }
    }
}

impl Decision<'_> {
    /// Whether the subject is allowed.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        match self.action {
            Action::Allow => self.policy.is_some(),
            Action::Deny => self.policy.is_none(),
            Action::Log => true,
        }
    }

    /// What access logs are told about the subject (`access_log_hint`); `None` if the policies do not decide that.
    #[must_use]
    pub fn log_hint(&self) -> Option<bool> {
        (self.action == Action::Log).then_some(self.policy.is_some())
    }
}

impl NamedPolicy {
    fn build(
        name: &str,
        config: &api::Policy,
        path: &FieldPath,
    ) -> Result<NamedPolicy, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let permissions = &path.field("permissions");
        let permissions = errors.collect(permission::build_all(&config.permissions, permissions));
        let principals = &path.field("principals");
        let principals = errors.collect(principal::build_all(&config.principals, principals));
        errors.finish(NamedPolicy {
            name: name.into(),
            permissions: permissions.unwrap_or_default(),
            principals: principals.unwrap_or_default(),
        })
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        let holds = |condition: &Condition| condition.holds(subject);
        self.permissions.iter().any(holds) && self.principals.iter().any(holds)
    }
}
