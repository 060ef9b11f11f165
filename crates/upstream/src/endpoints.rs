//! The endpoints in a cluster's config: addresses, or names to resolve.

use std::sync::Arc;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::Address as AddressMessage;
use outrider_config::api::envoy::config::core::v3::HealthStatus as HealthMessage;
use outrider_config::api::envoy::config::core::v3::SocketAddress;
use outrider_config::api::envoy::config::core::v3::address;
use outrider_config::api::envoy::config::core::v3::socket_address::PortSpecifier;
use outrider_config::api::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrider_config::api::envoy::config::endpoint::v3::Endpoint as EndpointMessage;
use outrider_config::api::envoy::config::endpoint::v3::LbEndpoint;
use outrider_config::api::envoy::config::endpoint::v3::LocalityLbEndpoints;
use outrider_config::api::envoy::config::endpoint::v3::endpoint::HealthCheckConfig;
use outrider_config::api::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use outrider_net::Address;
use outrider_net::parse_ip;

use crate::EndpointHealthCheck;
use crate::HealthStatus;
use crate::HostDescription;
use crate::Locality;

/// The endpoints of one locality and priority (`LocalityLbEndpoints`).
#[derive(Debug)]
pub(crate) struct LocalityEndpoints<T> {
    pub(crate) priority: u32,
    pub(crate) weight: u32,
    pub(crate) endpoints: Vec<Endpoint<T>>,
}

/// One endpoint. `T` is the parsed form of its address.
#[derive(Debug)]
pub(crate) struct Endpoint<T> {
    pub(crate) target: T,
    pub(crate) description: Arc<HostDescription>,
}

/// A name to resolve, and the port for its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DnsTarget {
    pub(crate) name: String,
    pub(crate) port: u16,
}

/// Reads all endpoints of `message`, found at `path`. `read` parses the address of each.
pub(crate) fn build<T>(
    message: &ClusterLoadAssignment,
    path: &FieldPath,
    read: fn(&EndpointMessage, &FieldPath) -> Result<T, ConfigError>,
) -> Result<Vec<LocalityEndpoints<T>>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let mut localities = Vec::with_capacity(message.endpoints.len());
    let list = path.field("endpoints");
    for (index, locality) in message.endpoints.iter().enumerate() {
        let path = list.index(index).field("lb_endpoints");
        let place = locality.locality.as_ref().map(Locality::from);
        let place = Arc::new(place.unwrap_or_default());
        let metadata = locality.metadata.clone().map(Arc::new);
        let mut endpoints = Vec::with_capacity(locality.lb_endpoints.len());
        for (index, endpoint) in locality.lb_endpoints.iter().enumerate() {
            let place = place.clone();
            let locality_metadata = metadata.clone();
            let built = build_endpoint(endpoint, &path.index(index), read, |found, check| {
                HostDescription {
                    locality_metadata,
                    ..describe(endpoint, locality, place, (found, check))
                }
            });
            endpoints.extend(errors.collect(built));
        }
        localities.push(LocalityEndpoints {
            priority: locality.priority,
            weight: locality.load_balancing_weight.unwrap_or(0),
            endpoints,
        });
    }
    errors.finish(localities)
}

fn build_endpoint<T>(
    message: &LbEndpoint,
    path: &FieldPath,
    read: fn(&EndpointMessage, &FieldPath) -> Result<T, ConfigError>,
    describe: impl FnOnce(&EndpointMessage, Option<Box<EndpointHealthCheck>>) -> HostDescription,
) -> Result<Endpoint<T>, ConfigError> {
    let path = path.field("endpoint");
    let Some(HostIdentifier::Endpoint(endpoint)) = &message.host_identifier else {
        return Err(ConfigError::new(
            &path,
            "an entry without an endpoint is not supported",
        ));
    };
    let check = endpoint.health_check_config.as_ref();
    let check = check.map(|check| health_check(check, &path.field("health_check_config")));
    Ok(Endpoint {
        target: read(endpoint, &path)?,
        description: Arc::new(describe(endpoint, check.transpose()?)),
    })
}

/// How an endpoint is checked, by `message`, found at `path`.
fn health_check(
    message: &HealthCheckConfig,
    path: &FieldPath,
) -> Result<Box<EndpointHealthCheck>, ConfigError> {
    let address = match &message.address {
        Some(address) => Some(literal(Some(address), &path.field("address"))?),
        None => None,
    };
    Ok(Box::new(EndpointHealthCheck {
        address,
        port: u16::try_from(message.port_value)
            .ok()
            .filter(|port| *port != 0),
        hostname: message.hostname.as_str().into(),
        disabled: message.disable_active_health_check,
    }))
}

fn describe(
    endpoint: &LbEndpoint,
    locality: &LocalityLbEndpoints,
    place: Arc<Locality>,
    (found, health_check): (&EndpointMessage, Option<Box<EndpointHealthCheck>>),
) -> HostDescription {
    HostDescription {
        hostname: found.hostname.as_str().into(),
        locality: place,
        priority: locality.priority,
        weight: endpoint.load_balancing_weight.unwrap_or(1).max(1),
        health: HealthStatus::from(endpoint.health_status()),
        metadata: endpoint.metadata.clone().map(Box::new),
        locality_metadata: None,
        health_check,
    }
}

/// The addresses of a STATIC endpoint, the primary one first.
pub(crate) fn static_addresses(
    message: &EndpointMessage,
    path: &FieldPath,
) -> Result<Vec<Address>, ConfigError> {
    let mut addresses = vec![literal(message.address.as_ref(), &path.field("address"))?];
    let more = path.field("additional_addresses");
    for (index, address) in message.additional_addresses.iter().enumerate() {
        let path = more.index(index).field("address");
        addresses.push(literal(address.address.as_ref(), &path)?);
    }
    Ok(addresses)
}

/// The name and port of a DNS endpoint.
pub(crate) fn dns_target(
    message: &EndpointMessage,
    path: &FieldPath,
) -> Result<DnsTarget, ConfigError> {
    let path = path.field("address");
    let address = message.address.as_ref().and_then(|a| a.address.as_ref());
    let Some(address::Address::SocketAddress(address)) = address else {
        return Err(ConfigError::new(
            &path,
            "an endpoint without a socket_address to resolve is not supported",
        ));
    };
    let path = path.field("socket_address");
    if !address.resolver_name.is_empty() {
        return Err(ConfigError::new(
            &path.field("resolver_name"),
            "STRICT_DNS and LOGICAL_DNS clusters must NOT have a custom resolver name set",
        ));
    }
    Ok(DnsTarget {
        name: address.address.clone(),
        port: port(address, &path)?,
    })
}

/// Envoy's advice if a STATIC cluster contains something other than an address.
const CONSIDER: &str =
    "Consider setting resolver_name or setting cluster type to 'STRICT_DNS' or 'LOGICAL_DNS'";

fn literal(message: Option<&AddressMessage>, path: &FieldPath) -> Result<Address, ConfigError> {
    match message.and_then(|message| message.address.as_ref()) {
        Some(address::Address::SocketAddress(address)) => {
            let path = path.field("socket_address");
            if !address.resolver_name.is_empty() {
                return Err(ConfigError::new(
                    &path.field("resolver_name"),
                    format!("unknown address resolver {:?}", address.resolver_name),
                ));
            }
            let text = &address.address;
            let port = port(address, &path)?;
            let parsed = parse_ip(text, port).ok_or_else(|| {
                ConfigError::new(
                    &path.field("address"),
                    format!("malformed IP address: {text}. {CONSIDER}"),
                )
            })?;
            Ok(Address::Ip(parsed))
        }
        Some(address::Address::Pipe(_) | address::Address::EnvoyInternalAddress(_)) => {
            let address = message.map(|message| Address::build(message, path));
            address.unwrap_or_else(|| Err(ConfigError::new(path, CONSIDER)))
        }
        _ => Err(ConfigError::new(
            path,
            format!("expected a socket_address, a pipe or an envoy_internal_address. {CONSIDER}"),
        )),
    }
}

fn port(message: &SocketAddress, path: &FieldPath) -> Result<u16, ConfigError> {
    match &message.port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(*port).map_err(|_| {
            ConfigError::new(
                &path.field("port_value"),
                format!("expected a port up to 65535, got {port}"),
            )
        }),
        Some(PortSpecifier::NamedPort(_)) => Err(ConfigError::new(
            &path.field("named_port"),
            format!("IP resolver can't handle port specifier type 4. {CONSIDER}"),
        )),
        None => Ok(0),
    }
}

impl From<&outrider_config::api::envoy::config::core::v3::Locality> for Locality {
    fn from(message: &outrider_config::api::envoy::config::core::v3::Locality) -> Locality {
        Locality {
            region: message.region.clone(),
            zone: message.zone.clone(),
            sub_zone: message.sub_zone.clone(),
        }
    }
}

impl From<HealthMessage> for HealthStatus {
    fn from(message: HealthMessage) -> HealthStatus {
        match message {
            HealthMessage::Unknown | HealthMessage::Healthy => HealthStatus::Healthy,
            HealthMessage::Unhealthy | HealthMessage::Timeout => HealthStatus::Unhealthy,
            HealthMessage::Draining => HealthStatus::Draining,
            HealthMessage::Degraded => HealthStatus::Degraded,
        }
    }
}
