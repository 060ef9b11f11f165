//! Address prefixes (`envoy.config.core.v3.CidrRange`).

use std::net::IpAddr;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::FieldPath;
use outrider_config::api::envoy::config::core::v3::CidrRange;

/// A network such as `10.0.0.0/8`. Bits beyond the length are zero, so that equal networks are equal values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    network: IpAddr,
    length: u8,
}

impl Prefix {
    fn build(range: &CidrRange, path: &FieldPath) -> Result<Prefix, ConfigError> {
        let address: IpAddr = range.address_prefix.parse().map_err(|_| {
            let message = format!("malformed IP address: {}", range.address_prefix);
            ConfigError::new(&path.field("address_prefix"), message)
        })?;
        // A length beyond the address's is reduced to it, as in Envoy.
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = u8::try_from(range.prefix_len.unwrap_or(0))
            .unwrap_or(most)
            .min(most);
        Ok(Prefix {
            network: mask(address, length),
            length,
        })
    }

    pub(super) fn length(&self) -> u8 {
        self.length
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.network.is_ipv4() && mask(address, self.length) == self.network
    }
}

/// Reads all prefixes of a list.
pub(super) fn build_all(
    ranges: &[CidrRange],
    path: &FieldPath,
) -> Result<Vec<Prefix>, ConfigErrors> {
    let mut errors = ConfigErrors::new();
    let build = |(index, range)| errors.collect(Prefix::build(range, &path.index(index)));
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
