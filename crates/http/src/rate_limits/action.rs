//! `RateLimit.Action`: each adds one entry to a descriptor.

use std::net::IpAddr;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::address_prefix::AddressPrefix;
use outrider_config::api::envoy::config::core::v3::CidrRange;
use outrider_config::api::envoy::config::core::v3::Metadata;
use outrider_config::api::envoy::config::route::v3::HeaderMatcher as HeaderMatcherMessage;
use outrider_config::api::envoy::config::route::v3::QueryParameterMatcher;
use outrider_config::api::envoy::config::route::v3::rate_limit::Action as Message;
use outrider_config::api::envoy::config::route::v3::rate_limit::action as api;
use outrider_config::api::envoy::config::route::v3::rate_limit::action::meta_data::Source;
use outrider_config::api::envoy::r#type::matcher::v3::AddressMatcher;
use outrider_config::api::envoy::r#type::metadata::v3::MetadataKey;
use outrider_config::api::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;
use outrider_matching::HeaderMatcher;
use outrider_matching::MatchedHeader;
use outrider_matching::QueryMatcher;
use outrider_net::Address;
use prost_types::value::Kind;

use crate::Stream;
use crate::filters::QueryParameters;
use crate::format::Formatter;
use crate::route::Action;

/// One action.
#[derive(Clone, Debug)]
pub(super) enum LimitAction {
    SourceCluster,
    DestinationCluster,
    RequestHeader {
        header: MatchedHeader,
        key: String,
        skips: bool,
    },
    QueryParameter {
        name: String,
        key: String,
        skips: bool,
    },
    RemoteAddress,
    MaskedRemoteAddress {
        v4_length: u8,
        v6_length: u8,
    },
    RemoteAddressMatch(Box<AddressCondition>),
    GenericKey {
        key: String,
        value: String,
    },
    HeaderMatch {
        matchers: Box<[HeaderMatcher]>,
        expected: bool,
        key: String,
        value: String,
    },
    QueryMatch {
        matchers: Box<[QueryMatcher]>,
        expected: bool,
        key: String,
        value: String,
    },
    Metadata(Box<MetadataEntry>),
}

/// `remote_address_match`
#[derive(Clone, Debug)]
pub(super) struct AddressCondition {
    ranges: Vec<AddressPrefix>,
    inverts: bool,
    key: String,
    value: Formatter,
    default: String,
}

/// `metadata`
#[derive(Clone, Debug)]
pub(super) struct MetadataEntry {
    source: Source,
    place: MetadataPath,
    key: String,
    default: String,
    skips: bool,
}

/// Where a value is in metadata.
#[derive(Clone, Debug, Default)]
pub(super) struct MetadataPath {
    namespace: String,
    keys: Vec<String>,
}

/// What an action finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ActionEntry {
    /// A key and a value.
    Found(String, String),
    /// Nothing, and the rest of the descriptor counts.
    Skipped,
    /// Nothing, so that there is no descriptor.
    Missing,
}

impl LimitAction {
    pub(super) fn build(message: &Message, path: &FieldPath) -> Result<LimitAction, ConfigErrors> {
        use api::ActionSpecifier as Specifier;
        let Some(specifier) = &message.action_specifier else {
            let text = "expected an action, such as generic_key";
            return Err(ConfigErrors::from(ConfigError::new(path, text)));
        };
        let key_or = |key: &str, default: &str| match key {
            "" => default.to_owned(),
            key => key.to_owned(),
        };
        Ok(match specifier {
            Specifier::SourceCluster(_) => LimitAction::SourceCluster,
            Specifier::DestinationCluster(_) => LimitAction::DestinationCluster,
            Specifier::RequestHeaders(header) => LimitAction::RequestHeader {
                header: MatchedHeader::new(&header.header_name),
                key: header.descriptor_key.clone(),
                skips: header.skip_if_absent,
            },
            Specifier::QueryParameters(parameter) => LimitAction::QueryParameter {
                name: parameter.query_parameter_name.clone(),
                key: parameter.descriptor_key.clone(),
                skips: parameter.skip_if_absent,
            },
            Specifier::RemoteAddress(_) => LimitAction::RemoteAddress,
            Specifier::MaskedRemoteAddress(lengths) => LimitAction::MaskedRemoteAddress {
                v4_length: mask_length(lengths.v4_prefix_mask_len, 32),
                v6_length: mask_length(lengths.v6_prefix_mask_len, 128),
            },
            Specifier::RemoteAddressMatch(matched) => {
                let path = path.field("remote_address_match");
                LimitAction::RemoteAddressMatch(Box::new(AddressCondition::build(matched, &path)?))
            }
            Specifier::GenericKey(generic) => LimitAction::GenericKey {
                key: key_or(&generic.descriptor_key, "generic_key"),
                value: generic.descriptor_value.clone(),
            },
            Specifier::HeaderValueMatch(matched) => LimitAction::HeaderMatch {
                matchers: header_matchers(&matched.headers, &path.field("header_value_match"))?,
                expected: matched.expect_match.unwrap_or(true),
                key: key_or(&matched.descriptor_key, "header_match"),
                value: matched.descriptor_value.clone(),
            },
            Specifier::QueryParameterValueMatch(matched) => LimitAction::QueryMatch {
                matchers: query_matchers(
                    &matched.query_parameters,
                    &path.field("query_parameter_value_match"),
                )?,
                expected: matched.expect_match.unwrap_or(true),
                key: key_or(&matched.descriptor_key, "query_match"),
                value: matched.descriptor_value.clone(),
            },
            Specifier::Metadata(metadata) => LimitAction::Metadata(Box::new(MetadataEntry {
                source: metadata.source(),
                place: MetadataPath::new(metadata.metadata_key.as_ref()),
                key: metadata.descriptor_key.clone(),
                default: metadata.default_value.clone(),
                skips: metadata.skip_if_absent,
            })),
            #[expect(deprecated, reason = "Envoy refuses it, too")]
            Specifier::DynamicMetadata(_) | Specifier::Extension(_) => {
                let text = "not supported: use another action, such as metadata";
                return Err(ConfigErrors::from(ConfigError::new(path, text)));
            }
        })
    }

    /// What the action finds in `stream`.
    pub(super) fn entry(&self, stream: &Stream, node_cluster: &str) -> ActionEntry {
        let found = |key: &str, value: &str| ActionEntry::Found(key.to_owned(), value.to_owned());
        let absent = |skips: &bool| match skips {
            true => ActionEntry::Skipped,
            false => ActionEntry::Missing,
        };
        let if_expected = |holds: bool, key: &str, value: &str| match holds {
            true => found(key, value),
            false => ActionEntry::Missing,
        };
        match self {
            LimitAction::SourceCluster => found("source_cluster", node_cluster),
            LimitAction::DestinationCluster => match destination(stream) {
                Some(cluster) => found("destination_cluster", cluster),
                None => ActionEntry::Missing,
            },
            LimitAction::RequestHeader { header, key, skips } => {
                match header.values(&stream.request).next() {
                    Some(value) => found(key, &String::from_utf8_lossy(value)),
                    None => absent(skips),
                }
            }
            LimitAction::QueryParameter { name, key, skips } => {
                match QueryParameters::parse(query(stream)).first(name) {
                    Some(value) => found(key, &String::from_utf8_lossy(value)),
                    None => absent(skips),
                }
            }
            LimitAction::RemoteAddress => match remote_ip(stream) {
                Some(ip) => found("remote_address", &ip.to_string()),
                None => ActionEntry::Missing,
            },
            LimitAction::MaskedRemoteAddress {
                v4_length,
                v6_length,
            } => match remote_ip(stream) {
                Some(ip) => {
                    let length = if ip.is_ipv4() { *v4_length } else { *v6_length };
                    let masked = AddressPrefix::of(ip, length).to_string();
                    found("masked_remote_address", &masked)
                }
                None => ActionEntry::Missing,
            },
            LimitAction::RemoteAddressMatch(condition) => condition.entry(stream),
            LimitAction::GenericKey { key, value } => found(key, value),
            LimitAction::HeaderMatch {
                matchers,
                expected,
                key,
                value,
            } => {
                let matches = matchers.iter().all(|one| one.matches(&stream.request));
                if_expected(matches == *expected, key, value)
            }
            LimitAction::QueryMatch {
                matchers,
                expected,
                key,
                value,
            } => {
                let parameters = QueryParameters::parse(query(stream));
                let holds = |one: &QueryMatcher| one.matches_value(parameters.first(one.name()));
                if_expected(matchers.iter().all(holds) == *expected, key, value)
            }
            LimitAction::Metadata(entry) => entry.entry(stream),
        }
    }
}

impl AddressCondition {
    fn build(
        message: &api::RemoteAddressMatch,
        path: &FieldPath,
    ) -> Result<AddressCondition, ConfigErrors> {
        let mut errors = ConfigErrors::new();
        let matcher = message.address_matcher.clone();
        let AddressMatcher {
            ranges,
            invert_match,
        } = matcher.unwrap_or_default();
        let ranges_path = path.field("address_matcher").field("ranges");
        let ranges = ranges.into_iter().enumerate();
        let ranges = ranges.filter_map(|(at, range)| {
            let range = CidrRange {
                address_prefix: range.address_prefix,
                prefix_len: range.prefix_len,
            };
            let built = AddressPrefix::build(&range, &ranges_path.index(at));
            errors.collect(built.map_err(ConfigErrors::from))
        });
        let ranges = ranges.collect();
        let value_path = path.field("descriptor_value");
        let value = Formatter::compile_omitting(&message.descriptor_value, &value_path);
        let Some(value) = errors.collect(value.map_err(ConfigErrors::from)) else {
            return Err(errors);
        };
        errors.finish(AddressCondition {
            ranges,
            inverts: invert_match,
            key: match message.descriptor_key.as_str() {
                "" => "remote_address_match".to_owned(),
                key => key.to_owned(),
            },
            value,
            default: message.default_value.clone(),
        })
    }

    fn entry(&self, stream: &Stream) -> ActionEntry {
        let Some(ip) = remote_ip(stream) else {
            return ActionEntry::Missing;
        };
        if self.ranges.iter().any(|range| range.contains(ip)) == self.inverts {
            return ActionEntry::Missing;
        }
        let mut value = Vec::new();
        self.value.write(stream, &mut value);
        if value.is_empty() {
            value.extend_from_slice(self.default.as_bytes());
        }
        match value.is_empty() {
            true => ActionEntry::Missing,
            false => {
                let value = String::from_utf8_lossy(&value).into_owned();
                ActionEntry::Found(self.key.clone(), value)
            }
        }
    }
}

impl MetadataEntry {
    fn entry(&self, stream: &Stream) -> ActionEntry {
        let metadata = match self.source {
            Source::Dynamic => stream.dynamic_metadata.get(),
            Source::RouteEntry => stream.route.as_ref().and_then(|r| r.metadata.as_deref()),
            Source::ClusterEntry => {
                let cluster = stream.cluster.as_ref();
                cluster.and_then(|cluster| cluster.info().metadata.as_deref())
            }
            // Refused by the support table.
            Source::ClusterLocalityEntry => None,
        };
        match (self.place.find(metadata), self.default.as_str()) {
            (Some(Kind::StringValue(text)), _) if !text.is_empty() => {
                ActionEntry::Found(self.key.clone(), text.clone())
            }
            (_, "") if self.skips => ActionEntry::Skipped,
            (_, "") => ActionEntry::Missing,
            (_, default) => ActionEntry::Found(self.key.clone(), default.to_owned()),
        }
    }
}

impl MetadataPath {
    pub(super) fn new(key: Option<&MetadataKey>) -> MetadataPath {
        let Some(key) = key else {
            return MetadataPath::default();
        };
        let keys = key.path.iter().map(|segment| match &segment.segment {
            Some(Segment::Key(key)) => key.clone(),
            Some(Segment::Index(_)) | None => String::new(),
        });
        MetadataPath {
            namespace: key.key.clone(),
            keys: keys.collect(),
        }
    }

    /// The value there.
    pub(super) fn find<'m>(&self, metadata: Option<&'m Metadata>) -> Option<&'m Kind> {
        let mut fields = metadata?.filter_metadata.get(&self.namespace)?;
        let (last, parents) = self.keys.split_last()?;
        for key in parents {
            match fields.fields.get(key)?.kind.as_ref()? {
                Kind::StructValue(inner) => fields = inner,
                _ => return None,
            }
        }
        fields.fields.get(last)?.kind.as_ref()
    }
}

fn header_matchers(
    messages: &[HeaderMatcherMessage],
    path: &FieldPath,
) -> Result<Box<[HeaderMatcher]>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let path = path.field("headers");
    let matchers = messages.iter().enumerate();
    let matchers = matchers.filter_map(|(at, message)| {
        let built = HeaderMatcher::build(message, &path.index(at));
        errors.collect(built.map_err(ConfigErrors::from))
    });
    let matchers = matchers.collect();
    errors.finish(matchers)
}

fn query_matchers(
    messages: &[QueryParameterMatcher],
    path: &FieldPath,
) -> Result<Box<[QueryMatcher]>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let path = path.field("query_parameters");
    let matchers = messages.iter().enumerate();
    let matchers = matchers.filter_map(|(at, message)| {
        let built = QueryMatcher::build(message, &path.index(at));
        errors.collect(built.map_err(ConfigErrors::from))
    });
    let matchers = matchers.collect();
    errors.finish(matchers)
}

/// The number of bits that count, all by default.
fn mask_length(length: Option<u32>, most: u8) -> u8 {
    let length = length.and_then(|length| u8::try_from(length).ok());
    length.unwrap_or(most).min(most)
}

fn query(stream: &Stream) -> &str {
    let query = stream.request.path().split_once('?');
    let query = query.map_or("", |(_, query)| query);
    query.split('#').next().unwrap_or_default()
}

/// The client's address, if it is not a UNIX socket.
fn remote_ip(stream: &Stream) -> Option<IpAddr> {
    match &stream.remote_address {
        Address::Ip(address) => Some(address.ip()),
        Address::Pipe(_) | Address::Internal(_) => None,
    }
}

/// The name of the cluster that the route chooses.
fn destination(stream: &Stream) -> Option<&str> {
    match &stream.route.as_deref()?.action {
        Action::Forward(action) => action.cluster.name(&stream.request),
        _ => None,
    }
}
