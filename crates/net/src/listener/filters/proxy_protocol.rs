//! `envoy.filters.listener.proxy_protocol`: takes the client's address from the header that another proxy sends first.

mod rules;

use std::rc::Rc;
use std::sync::Arc;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::proxy_protocol_config::Version;
use outrider_config::api::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use outrider_config::unpack;
use outrider_stats::Counter;

use outrider_stats::Scope;
use prost_types::Any;

use super::BuildListenerFilter;
use super::InspectedConnection;
use super::ListenerFilter;
use super::ListenerFilterConfig;
use super::ListenerFilterStatus;
use crate::Address;
use crate::NetworkStream;
use crate::ProxyProtocolHeader;
use crate::TlvSelection;
use crate::WorkerCx;
use crate::proxy_protocol::HeaderVersion;
use crate::proxy_protocol::ParsedHeader;
use crate::proxy_protocol::VERSION_1_SIGNATURE;
use crate::proxy_protocol::VERSION_2_SIGNATURE;
use crate::proxy_protocol::find_version;
use crate::proxy_protocol::parse_version_1;
use crate::proxy_protocol::parse_version_2;
use rules::TlvRules;

/// How many bytes are read at first: as many as a header with addresses has at most.
const FIRST_READ: usize = 232;

pub(super) const FACTORY: Factory<BuildListenerFilter> = Factory {
    message: "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
    build,
};

outrider_stats::group! {
    /// `downstream_cx_proxy_proto_error`
    pub(super) struct ProxyProtocolErrorStats { downstream_cx_proxy_proto_error: Counter }
}

outrider_stats::group! {
    /// `proxy_proto.<stat_prefix>.*`
    pub(super) struct ProxyProtocolStats { not_found_allowed: Counter, not_found_disallowed: Counter }
}

outrider_stats::group! {
    /// `proxy_proto.<stat_prefix>.versions.<version>.*`
    pub(super) struct ProxyProtocolVersionStats { disallowed: Counter, error: Counter, found: Counter }
}

fn build(any: &Any, path: &FieldPath) -> Result<Arc<dyn ListenerFilterConfig>, ConfigErrors> {
    let message: ProxyProtocol = unpack(any, path)?;
    let allows = |version| !message.disallowed_versions().any(|other| other == version);
    let (allows_v1, allows_v2) = (allows(Version::V1), allows(Version::V2));
    if !allows_v1 && !allows_v2 {
        let text = "all versions are disallowed: remove one";
        let path = path.field("disallowed_versions");
        return Err(ConfigErrors::from(ConfigError::new(&path, text)));
    }
    let scope = Scope::new("proxy_proto");
    Ok(Arc::new(ProxyProtocolConfig {
        scope: match message.stat_prefix.as_str() {
            "" => scope,
            prefix => scope.name(prefix),
        },
        allows_v1,
        allows_v2,
        is_optional: message.allow_requests_without_proxy_protocol,
        rules: TlvRules::new(&message),
        passed_through: TlvSelection::new(message.pass_through_tlvs.as_ref()),
    }))
}

#[derive(Debug)]
struct ProxyProtocolConfig {
    scope: Scope,
    /// Neither is in `disallowed_versions`.
    allows_v1: bool,
    allows_v2: bool,
    /// `allow_requests_without_proxy_protocol`
    is_optional: bool,
    rules: TlvRules,
    /// `pass_through_tlvs`
    passed_through: TlvSelection,
}

impl ListenerFilterConfig for ProxyProtocolConfig {
    fn worker(self: Arc<Self>, cx: &WorkerCx) -> Box<dyn ListenerFilter> {
        let versions = self.scope.clone().name("versions");
        Box::new(ProxyProtocolFilter {
            errors: cx.store.register(Scope::new("")),
            stats: cx.store.register(self.scope.clone()),
            v1: cx.store.register(versions.clone().name("v1")),
            v2: cx.store.register(versions.name("v2")),
            config: self,
        })
    }
}

struct ProxyProtocolFilter {
    config: Arc<ProxyProtocolConfig>,
    errors: Arc<ProxyProtocolErrorStats>,
    stats: Arc<ProxyProtocolStats>,
    v1: Arc<ProxyProtocolVersionStats>,
    v2: Arc<ProxyProtocolVersionStats>,
}

impl ListenerFilter for ProxyProtocolFilter {
    fn on_accept(
        &self,
        _: &NetworkStream,
        _: &mut InspectedConnection,
        _: &WorkerCx,
    ) -> ListenerFilterStatus {
        ListenerFilterStatus::Read(FIRST_READ)
    }

    fn on_data(&self, bytes: &[u8], connection: &mut InspectedConnection) -> ListenerFilterStatus {
        if self.config.is_optional && !self.may_begin_header(bytes) {
            self.stats.not_found_allowed.inc();
            return ListenerFilterStatus::Continue;
        }
        let version = match find_version(bytes) {
            Ok(Some(version)) => version,
            Ok(None) => return ListenerFilterStatus::Read(FIRST_READ),
            Err(_) => {
                self.stats.not_found_disallowed.inc();
                self.errors.downstream_cx_proxy_proto_error.inc();
                return ListenerFilterStatus::Close;
            }
        };
        let (stats, is_allowed) = match version {
            HeaderVersion::V1 => (&self.v1, self.config.allows_v1),
            HeaderVersion::V2 => (&self.v2, self.config.allows_v2),
        };
        if !is_allowed {
            stats.found.inc();
            stats.disallowed.inc();
            return ListenerFilterStatus::Close;
        }
        let parsed = match version {
            HeaderVersion::V1 => parse_version_1(bytes).map(Ok),
            HeaderVersion::V2 => parse_version_2(bytes),
        };
        match parsed {
            Ok(Ok(header)) => {
                stats.found.inc();
                let length = header.length;
                self.apply(header, connection);
                ListenerFilterStatus::Drain(length)
            }
            Ok(Err(length)) => ListenerFilterStatus::Read(length.max(FIRST_READ)),
            Err(_) => {
                stats.error.inc();
                self.errors.downstream_cx_proxy_proto_error.inc();
                ListenerFilterStatus::Close
            }
        }
    }
}

impl ProxyProtocolFilter {
    /// Whether a header of an allowed version may begin with these bytes.
    fn may_begin_header(&self, bytes: &[u8]) -> bool {
        let agrees = |signature: &[u8]| {
            let compared = bytes.len().min(signature.len());
            bytes.get(..compared) == signature.get(..compared)
        };
        self.config.allows_v1 && agrees(VERSION_1_SIGNATURE)
            || self.config.allows_v2 && agrees(VERSION_2_SIGNATURE)
    }

    fn apply(&self, header: ParsedHeader, connection: &mut InspectedConnection) {
        self.config.rules.apply(&header.tlvs, connection);
        if let Some((source, destination)) = header.addresses {
            // Not `Address::from`, which would turn IPv4-mapped addresses into IPv4.
            connection.replace_addresses(Address::Ip(destination), Address::Ip(source));
        }
        let mut tlvs = header.tlvs;
        tlvs.retain(|tlv| self.config.passed_through.includes(tlv));
        let kept = ProxyProtocolHeader {
            source: connection.remote.clone(),
            destination: connection.local.clone(),
            tlvs,
        };
        connection
            .filter_state
            .set(ProxyProtocolHeader::KEY, Rc::new(kept));
    }
}
