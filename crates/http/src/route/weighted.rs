//! `WeightedCluster`: one of several clusters, chosen at random by weight. Each cluster has a route of its own.

use std::sync::Arc;

use outrider_codec::HeaderName;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::route::v3::WeightedCluster;
use outrider_config::api::envoy::config::route::v3::weighted_cluster::RandomValueSpecifier;
use outrider_runtime::RuntimeNumber;
use outrider_runtime::Snapshot;

use crate::Captures;
use crate::RequestHead;
use crate::route::RequestView;
use crate::route::Route;
use crate::route::header_mutation::header_name;

/// Routes that differ in their cluster, and the weight of each.
#[derive(Debug)]
pub(crate) struct WeightedRoutes {
    /// Each route with the sum of the weights up to and including it.
    routes: Box<[(u64, Arc<Route>)]>,
    /// The header from which the random number is read.
    header: Option<HeaderName>,
    /// The weights as runtime keys, with `runtime_key_prefix`.
    keyed: Option<Box<[RuntimeNumber]>>,
}

impl WeightedRoutes {
    /// Checks the weights; `route_name` is for error messages.
    pub(crate) fn build(
        config: &WeightedCluster,
        routes: Vec<Arc<Route>>,
        route_name: &str,
        path: &FieldPath,
    ) -> Result<WeightedRoutes, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let mut total = 0;
        let mut cumulative = Vec::with_capacity(routes.len());
        for (at, (cluster, route)) in config.clusters.iter().zip(routes).enumerate() {
            match cluster.weight {
                Some(weight) => total += u64::from(weight),
                None => errors.push(
                    &path.field("clusters").index(at).field("weight"),
                    "value is required",
                ),
            }
            cumulative.push((total, route));
        }
        if total == 0 && errors.is_empty() {
            errors.push(
                path,
                "Sum of weights in the weighted_cluster must be greater than 0.",
            );
        }
        if total > u64::from(u32::MAX) {
            errors.push(
                path,
                format!(
                    "The sum of weights of all weighted clusters of route {route_name} exceeds {}",
                    u32::MAX
                ),
            );
        }
        let header = match &config.random_value_specifier {
            Some(RandomValueSpecifier::HeaderName(name)) => {
                errors.collect(header_name(name, &path.field("header_name")))
            }
            Some(RandomValueSpecifier::UseHashPolicy(true)) => {
                errors.push(
                    &path.field("use_hash_policy"),
                    "hash policies are not supported",
                );
                None
            }
            Some(RandomValueSpecifier::UseHashPolicy(false)) | None => None,
        };
        let prefix = &config.runtime_key_prefix;
        let keyed = config.clusters.iter().map(|cluster| {
            let key = format!("{prefix}.{}", cluster.name);
            RuntimeNumber::new(&key, cluster.weight.unwrap_or_default().into())
        });
        errors.finish(WeightedRoutes {
            routes: cumulative.into(),
            header,
            keyed: (!prefix.is_empty()).then(|| keyed.collect()),
        })
    }

    /// The route for a request; `None` if the sum of the runtime's weights is zero or too large.
    pub(crate) fn choose(&self, request: &RequestView<'_>) -> Option<&Arc<Route>> {
        let random = self.random_of(request.head).unwrap_or(request.random);
        if let Some((weights, runtime)) = self.keyed.as_ref().zip(request.runtime) {
            return self.choose_by_runtime(weights, runtime, random);
        }
        let (total, _) = self.routes.last()?;
        let chosen = random.checked_rem(*total)?;
        let at = self.routes.partition_point(|(up_to, _)| *up_to <= chosen);
        self.routes.get(at).map(|(_, route)| route)
    }

    fn choose_by_runtime(
        &self,
        weights: &[RuntimeNumber],
        runtime: &Snapshot,
        random: u64,
    ) -> Option<&Arc<Route>> {
        let weights = || weights.iter().map(|weight| weight.value(Some(runtime)));
        let total = weights().try_fold(0, u64::checked_add)?;
        let mut point = random.checked_rem(u32::try_from(total).ok()?.into())?;
        for (weight, (_, route)) in weights().zip(&self.routes) {
            match point.checked_sub(weight) {
                None => return Some(route),
                Some(rest) => point = rest,
            }
        }
        None
    }

    /// Whether `choose` may find no route for some request.
    pub(crate) fn may_have_none(&self) -> bool {
        self.keyed.is_some()
    }

    pub(crate) fn capture(&self, captures: &mut Captures) {
        for (_, route) in &self.routes {
            route.capture(captures);
        }
    }

    /// The random number in the request's header, if it is a number.
    fn random_of(&self, head: &RequestHead) -> Option<u64> {
        let value = head.headers.get(self.header.as_ref()?)?;
        value.as_str()?.parse().ok()
    }
}
