//! `ProxyProtocol.rules`: which facts in a header become dynamic metadata, or filter state.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outrider_config::api::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use outrider_config::api::envoy::extensions::filters::listener::proxy_protocol::v3::proxy_protocol::TlvLocation;
use outrider_config::api::envoy::extensions::filters::listener::proxy_protocol::v3::proxy_protocol::key_value_pair::ValueStringEncoding;
use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind;

use super::InspectedConnection;
use crate::FilterStateObject;
use crate::ProxyProtocolTlv;
use crate::sanitized_utf8;

/// The namespace of metadata for rules that name none.
const NAMESPACE: &str = "envoy.filters.listener.proxy_protocol";
/// The name of the facts in the filter state.
const FILTER_STATE_KEY: &str = "envoy.network.proxy_protocol.tlv";

#[derive(Debug)]
pub(super) struct TlvRules {
    /// By the type of the TLV.
    rules: BTreeMap<u8, TlvRule>,
    location: TlvLocation,
}

/// Where the value of one TLV goes.
#[derive(Debug)]
struct TlvRule {
    namespace: Box<str>,
    key: Box<str>,
    is_base64: bool,
}

impl TlvRules {
    pub(super) fn new(config: &ProxyProtocol) -> TlvRules {
        let rules = config.rules.iter().filter_map(|rule| {
            let target = rule.on_tlv_present.as_ref()?;
            let namespace = match target.metadata_namespace.as_str() {
                "" => NAMESPACE,
                namespace => namespace,
            };
            let made = TlvRule {
                namespace: namespace.into(),
                key: target.key.as_str().into(),
                is_base64: target.value_string_encoding() == ValueStringEncoding::Base64,
            };
            Some((u8::try_from(rule.tlv_type).ok()?, made))
        });
        TlvRules {
            rules: rules.collect(),
            location: config.tlv_location(),
        }
    }

    /// Notes the facts that rules name. Of several of one type, the first counts in metadata and the last in filter
    /// state, as in Envoy.
    pub(super) fn apply(&self, tlvs: &[ProxyProtocolTlv], connection: &mut InspectedConnection) {
        let mut facts = TlvFacts::default();
        for tlv in tlvs {
            let Some(rule) = self.rules.get(&tlv.kind) else {
                continue;
            };
            let text = match rule.is_base64 {
                true => STANDARD.encode(&tlv.value),
                false => sanitized_utf8(&tlv.value),
            };
            match self.location {
                TlvLocation::FilterState => {
                    facts.0.insert(rule.key.to_string(), text);
                }
                TlvLocation::DynamicMetadata => {
                    let known = connection.metadata.namespace(&rule.namespace);
                    if !known.is_some_and(|known| known.fields.contains_key(&*rule.key)) {
                        let value = Value {
                            kind: Some(Kind::StringValue(text)),
                        };
                        let fields = BTreeMap::from([(rule.key.to_string(), value)]);
                        connection
                            .metadata
                            .merge(&rule.namespace, Struct { fields });
                    }
                }
            }
        }
        if !facts.0.is_empty() {
            connection
                .filter_state
                .set(FILTER_STATE_KEY, Rc::new(facts));
        }
    }
}

/// The facts in the filter state, by the keys of their rules.
#[derive(Debug, Default)]
struct TlvFacts(BTreeMap<String, String>);

impl FilterStateObject for TlvFacts {
    fn text(&self) -> Option<Cow<'_, str>> {
        serde_json::to_string(&self.0).ok().map(Cow::Owned)
    }

    fn json(&self) -> Option<Value> {
        let text = |text: &String| Value {
            kind: Some(Kind::StringValue(text.clone())),
        };
        let fields = self.0.iter();
        let fields = fields.map(|(key, value)| (key.clone(), text(value)));
        let fields = Struct {
            fields: fields.collect(),
        };
        Some(Value {
            kind: Some(Kind::StructValue(fields)),
        })
    }

    fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.get(name).map(|value| Cow::Borrowed(value.as_str()))
    }
}
