//! `RequestMirrorPolicy`: copies of requests to other clusters.

use std::sync::Arc;

use outrider_codec::HeaderValue;
use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use outrider_runtime::RuntimeFraction;

use crate::RequestHead;
use crate::Stream;
use crate::filters::HeaderMutation;
use crate::route::forward::ClusterSpecifier;

/// Which requests are copied, to where, and with which changes.
#[derive(Clone, Debug)]
pub(crate) struct MirrorPolicy {
    cluster: ClusterSpecifier,
    /// The share of requests that are copied; `None` for all.
    fraction: Option<RuntimeFraction>,
    host: MirrorHost,
    /// `request_headers_mutations`, in their order.
    mutations: Box<[HeaderMutation]>,
}

/// The host of a copy.
#[derive(Clone, Debug)]
enum MirrorHost {
    /// The request's host with `-shadow` appended.
    WithSuffix,
    /// `disable_shadow_host_suffix_append`: the request's host.
    Same,
    /// `host_rewrite_literal`
    Literal(HeaderValue),
}

impl MirrorPolicy {
    /// Builds the `request_mirror_policies` of the message at `path`.
    pub(crate) fn list(
        messages: &[RequestMirrorPolicy],
        path: &FieldPath,
    ) -> Result<Arc<[MirrorPolicy]>, ConfigErrors> {
        let path = path.field("request_mirror_policies");
        let mut errors = ConfigErrors::new();
        let mut policies = Vec::with_capacity(messages.len());
        for (at, message) in messages.iter().enumerate() {
            let path = path.index(at);
            policies.extend(errors.collect(MirrorPolicy::build(message, &path)));
        }
        errors.finish(policies.into())
    }

    fn build(
        message: &RequestMirrorPolicy,
        path: &FieldPath,
    ) -> Result<MirrorPolicy, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let cluster = match (message.cluster.as_str(), message.cluster_header.as_str()) {
            ("", "") => Err(ConfigError::new(
                path,
                "Exactly one of cluster or cluster_header in request mirror policy need to be specified",
            )),
            (name, "") => Ok(ClusterSpecifier::Name(name.into())),
            ("", header) => ClusterSpecifier::header(header, &path.field("cluster_header")),
            _ => Err(ConfigError::new(
                path,
                "Only one of cluster or cluster_header in request mirror policy can be specified",
            )),
        };
        let cluster = errors.collect(cluster.map_err(ConfigErrors::from));
        let host = match message.host_rewrite_literal.as_str() {
            "" if message.disable_shadow_host_suffix_append => Ok(MirrorHost::Same),
            "" => Ok(MirrorHost::WithSuffix),
            host => HeaderValue::try_from(host)
                .map(MirrorHost::Literal)
                .map_err(|_| {
                    ConfigError::new(&path.field("host_rewrite_literal"), "not a header value")
                }),
        };
        let host = errors.collect(host.map_err(ConfigErrors::from));
        let mutations_path = path.field("request_headers_mutations");
        let mutations = message.request_headers_mutations.iter().enumerate();
        let mutations = mutations.filter_map(|(at, mutation)| {
            errors.collect(HeaderMutation::build(mutation, &mutations_path.index(at)))
        });
        let mutations: Box<[HeaderMutation]> = mutations.collect();
        let (Some(cluster), Some(host)) = (cluster, host) else {
            return Err(errors);
        };
        errors.finish(MirrorPolicy {
            cluster,
            fraction: message.runtime_fraction.as_ref().map(RuntimeFraction::of),
            host,
            mutations,
        })
    }

    /// The cluster, if it is the same for all requests.
    pub(crate) fn constant_cluster(&self) -> Option<&str> {
        match &self.cluster {
            ClusterSpecifier::Name(name) => Some(name),
            ClusterSpecifier::Header(_) => None,
        }
    }

    /// The cluster to which this request is copied, if it is.
    pub(crate) fn cluster<'a>(&'a self, stream: &'a Stream) -> Option<&'a str> {
        let fraction = self.fraction.as_ref();
        let holds = |share: &RuntimeFraction| share.holds(stream.runtime(), stream.id);
        match fraction.is_none_or(holds) {
            true => self.cluster.name(&stream.request),
            false => None,
        }
    }

    /// The head of the copy.
    pub(crate) fn head(&self, stream: &mut Stream) -> RequestHead {
        let mut head = stream.request.clone();
        if !self.mutations.is_empty() {
            // Values of the mutations are evaluated on the copy.
            std::mem::swap(&mut stream.request, &mut head);
            for mutation in &self.mutations {
                mutation.apply_to_request(stream);
            }
            std::mem::swap(&mut stream.request, &mut head);
        }
        match &self.host {
            MirrorHost::WithSuffix => {
                if let Some(host) = with_suffix(head.authority()) {
                    head.authority = Some(host);
                }
            }
            MirrorHost::Same => {}
            MirrorHost::Literal(host) => head.authority = Some(host.clone()),
        }
        head
    }
}

/// Appends `-shadow` to the host, before its port if it has one.
fn with_suffix(authority: &[u8]) -> Option<HeaderValue> {
    let colon = authority
        .iter()
        .rposition(|byte| matches!(byte, b':' | b']'));
    let colon = colon.filter(|at| authority.get(*at) == Some(&b':'));
    let (host, port) = authority.split_at(colon.unwrap_or(authority.len()));
    HeaderValue::from_bytes(&[host, b"-shadow", port].concat()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Results of Envoy 1.40.0.
    #[test]
    fn the_suffix_goes_before_the_port() {
        for (host, expected) in [
            ("a.test", "a.test-shadow"),
            ("a.test:80", "a.test-shadow:80"),
            ("[::1]", "[::1]-shadow"),
            ("[::1]:80", "[::1]-shadow:80"),
            ("a:", "a-shadow:"),
            ("a:b", "a-shadow:b"),
            ("a:1:2", "a:1-shadow:2"),
            ("::1", ":-shadow:1"),
            ("", "-shadow"),
        ] {
            let value = with_suffix(host.as_bytes()).unwrap();
            assert_eq!(value, expected, "{host}");
        }
    }
}
