//! Address prefixes (`envoy.config.core.v3.CidrRange`).

use std::fmt;
use std::net::IpAddr;

use crate::ConfigError;
use crate::ConfigErrors;
use crate::FieldPath;
use crate::api::envoy::config::core::v3::CidrRange;

/// A network such as `10.0.0.0/8`. Bits beyond the length are zero, so that equal networks are equal values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPrefix {
    network: IpAddr,
    length: u8,
}

impl AddressPrefix {
    /// Builds the prefix found at `path`.
    ///
    /// # Errors
    /// The prefix is no IP address.
    pub fn build(range: &CidrRange, path: &FieldPath) -> Result<AddressPrefix, ConfigError> {
        let address: IpAddr = range.address_prefix.parse().map_err(|_| {
            let message = format!("malformed IP address: {}", range.address_prefix);
            ConfigError::new(&path.field("address_prefix"), message)
        })?;
        // A length beyond the address's is reduced to it, as in Envoy.
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = u8::try_from(range.prefix_len.unwrap_or(0))
            .unwrap_or(most)
            .min(most);
        Ok(AddressPrefix {
            network: mask(address, length),
            length,
        })
    }

    /// The network of `length` bits that the address is in.
    #[must_use]
    pub fn of(address: IpAddr, length: u8) -> AddressPrefix {
        AddressPrefix {
            network: mask(address, length),
            length,
        }
    }

    /// The number of bits that count.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether the address is in the network.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.network.is_ipv4() && mask(address, self.length) == self.network
    }
}

impl fmt::Display for AddressPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

/// Reads all prefixes of the list at `path`.
///
/// # Errors
/// A prefix that is no IP address.
pub fn build_all(
    ranges: &[CidrRange],
    path: &FieldPath,
) -> Result<Vec<AddressPrefix>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let build = |(index, range)| errors.collect(AddressPrefix::build(range, &path.index(index)));
    let prefixes = ranges.iter().enumerate().filter_map(build).collect();
    errors.finish(prefixes)
}

fn mask(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}
