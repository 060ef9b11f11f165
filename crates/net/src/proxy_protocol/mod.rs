//! Headers of the PROXY protocol, versions 1 and 2: a proxy sends one at the beginning of a connection to tell the
//! addresses of its client's connection (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).

mod parse;
mod selection;
mod write;

use crate::Address;
use crate::FilterStateObject;

pub(crate) use parse::HeaderVersion;
pub(crate) use parse::ParsedHeader;
pub(crate) use parse::VERSION_1_SIGNATURE;
pub(crate) use parse::VERSION_2_SIGNATURE;
pub(crate) use parse::find_version;
pub(crate) use parse::parse_version_1;
pub(crate) use parse::parse_version_2;
pub use selection::TlvSelection;
pub use write::write_local_version_2;
pub use write::write_version_1;
pub use write::write_version_2;

/// What a header of the PROXY protocol tells. In the filter state, under [`KEY`](Self::KEY), it is what the next proxy
/// gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocolHeader {
    /// The client's address.
    pub source: Address,
    /// The address that the client connected to.
    pub destination: Address,
    /// Further facts, in their order.
    pub tlvs: Vec<ProxyProtocolTlv>,
}

/// A fact in a header of version 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocolTlv {
    /// Its type.
    pub kind: u8,
    /// Its value, at most 65,535 bytes.
    pub value: Vec<u8>,
}

impl ProxyProtocolHeader {
    /// Its name in the filter state.
    pub const KEY: &str = "envoy.network.proxy_protocol_options";
}

impl FilterStateObject for ProxyProtocolHeader {}
