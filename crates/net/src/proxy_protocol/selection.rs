//! `ProxyProtocolPassThroughTLVs`: which facts of a header go on to the next proxy.

use outrider_config::api::envoy::config::core::v3::ProxyProtocolPassThroughTlVs;
use outrider_config::api::envoy::config::core::v3::proxy_protocol_pass_through_tl_vs::PassTlVsMatchType;

use super::ProxyProtocolTlv;

/// A selection of TLVs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlvSelection {
    /// `INCLUDE_ALL`
    All,
    /// `INCLUDE`: those of these types.
    OfTypes(Vec<u8>),
}

impl TlvSelection {
    /// Reads a selection; nothing if there is no message.
    #[must_use]
    pub fn new(config: Option<&ProxyProtocolPassThroughTlVs>) -> TlvSelection {
        let Some(config) = config else {
            return TlvSelection::OfTypes(Vec::new());
        };
        match config.match_type() {
            PassTlVsMatchType::IncludeAll => TlvSelection::All,
            PassTlVsMatchType::Include => {
                let types = config.tlv_type.iter();
                TlvSelection::OfTypes(types.filter_map(|&one| u8::try_from(one).ok()).collect())
            }
        }
    }

    /// Whether this TLV is selected.
    #[must_use]
    pub fn includes(&self, tlv: &ProxyProtocolTlv) -> bool {
        match self {
            TlvSelection::All => true,
            TlvSelection::OfTypes(types) => types.contains(&tlv.kind),
        }
    }
}
