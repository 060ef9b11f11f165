//! Ways to find the address of the client that a request came from, if it is not that of the connection
//! (`HttpConnectionManager.original_ip_detection_extensions`).

use std::fmt::Debug;
use std::net::IpAddr;
use std::net::SocketAddr;

use http::StatusCode;
use outrider_codec::HeaderMap;
use outrider_codec::HeaderName;
use outrider_codec::header;
use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::address_prefix;
use outrider_config::address_prefix::AddressPrefix;
use outrider_config::api::envoy::config::core::v3::TypedExtensionConfig;
use outrider_config::api::envoy::extensions::http::original_ip_detection::custom_header::v3::CustomHeaderConfig;
use outrider_config::api::envoy::extensions::http::original_ip_detection::xff::v3::XffConfig;
use outrider_config::unpack;
use outrider_net::Address;
use prost_types::Any;

use super::forwarding::address_in;
use crate::route::header_name;

/// What a detector found.
#[derive(Debug, Default)]
pub(crate) struct DetectedIp {
    /// The client's address. Without one, the next detector is asked.
    pub(crate) address: Option<Address>,
    /// Whether the address may make the request an internal one.
    pub(crate) may_be_internal: bool,
    /// Whether the address of the connection is appended to `x-forwarded-for`, also if no address was found.
    pub(crate) appends_connection: bool,
    /// The status to refuse the request with.
    pub(crate) refused: Option<StatusCode>,
}

/// Finds the address of a request's client.
pub(crate) trait DetectOriginalIp: Debug + Send + Sync {
    /// Looks for the address. `connection` is the remote address of the connection.
    fn detect(&self, headers: &HeaderMap, connection: &Address) -> DetectedIp;
}

type BuildDetector = fn(&Any, &FieldPath) -> Result<Box<dyn DetectOriginalIp>, ConfigErrors>;

/// The detectors.
const FACTORIES: &[Factory<BuildDetector>] = &[
    Factory {
        message: "envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig",
        build: CustomHeader::build,
    },
    Factory {
        message: "envoy.extensions.http.original_ip_detection.xff.v3.XffConfig",
        build: Xff::build,
    },
];

/// Builds the list found at `path`.
pub(crate) fn build_all(
    extensions: &[TypedExtensionConfig],
    path: &FieldPath,
) -> Result<Box<[Box<dyn DetectOriginalIp>]>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let mut detectors = Vec::with_capacity(extensions.len());
    for (at, extension) in extensions.iter().enumerate() {
        let path = path.index(at).field("typed_config");
        let typed = extension.typed_config.clone().unwrap_or_default();
        let build = Factory::find(
            FACTORIES,
            "detection of the client's address",
            &typed,
            &path,
        );
        let Some(build) = errors.collect(build) else {
            continue;
        };
        detectors.extend(errors.collect(build(&typed, &path)));
    }
    errors.finish(detectors.into())
}

/// Reads a header of any name.
#[derive(Debug)]
struct CustomHeader {
    name: HeaderName,
    /// `allow_extension_to_set_address_as_trusted`
    may_be_internal: bool,
    /// `reject_with_status`
    refused: Option<StatusCode>,
}

impl CustomHeader {
    fn build(config: &Any, path: &FieldPath) -> Result<Box<dyn DetectOriginalIp>, ConfigErrors> {
        let message: CustomHeaderConfig = unpack(config, path)?;
        // As in Envoy, a status that does not say an error becomes 403.
        let refused = message.reject_with_status.map(|status| {
            let status = u16::try_from(status.code).map(StatusCode::from_u16);
            let status = status.ok().and_then(Result::ok);
            let error =
                status.filter(|status| status.is_client_error() || status.is_server_error());
            error.unwrap_or(StatusCode::FORBIDDEN)
        });
        Ok(Box::new(CustomHeader {
            name: header_name(&message.header_name, &path.field("header_name"))?,
            may_be_internal: message.allow_extension_to_set_address_as_trusted,
            refused,
        }))
    }
}

impl DetectOriginalIp for CustomHeader {
    fn detect(&self, headers: &HeaderMap, _: &Address) -> DetectedIp {
        let value = headers.get(&self.name).and_then(|value| value.as_str());
        match value.and_then(|text| text.parse::<IpAddr>().ok()) {
            Some(address) => DetectedIp {
                address: Some(Address::Ip(SocketAddr::new(address, 0))),
                may_be_internal: self.may_be_internal,
                ..DetectedIp::default()
            },
            None => DetectedIp {
                refused: self.refused,
                ..DetectedIp::default()
            },
        }
    }
}

/// Reads `x-forwarded-for`.
#[derive(Debug)]
struct Xff {
    /// `xff_num_trusted_hops`
    trusted_hops: u32,
    /// `xff_trusted_cidrs`
    trusted: Option<Vec<AddressPrefix>>,
    /// `skip_xff_append`
    appends_connection: bool,
}

impl Xff {
    fn build(config: &Any, path: &FieldPath) -> Result<Box<dyn DetectOriginalIp>, ConfigErrors> {
        let message: XffConfig = unpack(config, path)?;
        let mut errors = ConfigErrors::new();
        let cidrs = path.field("xff_trusted_cidrs").field("cidrs");
        let trusted = message.xff_trusted_cidrs.as_ref();
        if trusted.is_some() && message.xff_num_trusted_hops > 0 {
            errors.push(
                &path.field("xff_num_trusted_hops"),
                "cannot be set together with xff_trusted_cidrs",
            );
        }
        let trusted = trusted
            .map(|trusted| errors.collect(address_prefix::build_all(&trusted.cidrs, &cidrs)))
            .map(Option::unwrap_or_default);
        errors.finish(Box::new(Xff {
            trusted_hops: message.xff_num_trusted_hops,
            trusted,
            appends_connection: !message.skip_xff_append.unwrap_or(true),
        }))
    }
}

impl DetectOriginalIp for Xff {
    fn detect(&self, headers: &HeaderMap, connection: &Address) -> DetectedIp {
        let (address, may_be_internal) = match &self.trusted {
            None => address_in(headers, self.trusted_hops),
            Some(trusted) => {
                let is_trusted = |ip: IpAddr| trusted.iter().any(|prefix| prefix.contains(ip));
                match connection.ip() {
                    Some(peer) if is_trusted(peer.ip()) => {
                        let (_, is_single) = address_in(headers, 0);
                        (last_untrusted(headers, is_trusted), is_single)
                    }
                    _ => (None, false),
                }
            }
        };
        DetectedIp {
            address,
            may_be_internal,
            appends_connection: self.appends_connection,
            refused: None,
        }
    }
}

/// The last address in `x-forwarded-for` that is not trusted, or else the first one.
fn last_untrusted(headers: &HeaderMap, is_trusted: impl Fn(IpAddr) -> bool) -> Option<Address> {
    let mut found = None;
    for value in headers.get_all(&header::X_FORWARDED_FOR).rev() {
        for text in value.as_bytes().rsplit(|byte| *byte == b',') {
            let text = std::str::from_utf8(text).ok()?;
            let address: IpAddr = text.trim().parse().ok()?;
            found = Some(Address::Ip(SocketAddr::new(address, 0)));
            if !is_trusted(address) {
                return found;
            }
        }
    }
    found
}
