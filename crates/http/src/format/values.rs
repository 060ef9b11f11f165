//! Values as text: each function appends one value and returns its kind.

use std::fmt;
use std::io::Write;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::time::Duration;

use http::Version;
use outrider_net::Address;
use tokio::time::Instant;

use crate::ResponseFlag;
use crate::Stream;
use crate::format::Context;
use crate::format::OutputKind;
use crate::format::operators::Precision;

/// A value that does not exist on a plaintext connection.
pub(crate) fn absent(_: &Context<'_>, _: &mut Vec<u8>) -> OutputKind {
    OutputKind::Absent
}

pub(crate) fn number(value: u64, out: &mut Vec<u8>) -> OutputKind {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    OutputKind::Json
}

pub(crate) fn signed(value: i64, out: &mut Vec<u8>) -> OutputKind {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    OutputKind::Json
}

pub(crate) fn text(value: Option<&str>, out: &mut Vec<u8>) -> OutputKind {
    match value {
        Some(value) => {
            out.extend_from_slice(value.as_bytes());
            OutputKind::Text
        }
        None => OutputKind::Absent,
    }
}

/// A name; an empty one is absent.
pub(crate) fn name(value: &str, out: &mut Vec<u8>) -> OutputKind {
    text(Some(value).filter(|value| !value.is_empty()), out)
}

pub(crate) fn display(value: &impl fmt::Display, out: &mut Vec<u8>) -> OutputKind {
    #[expect(clippy::expect_used, reason = "writing to a Vec does not fail")]
    write!(out, "{value}").expect("a Vec takes every byte");
    OutputKind::Text
}

pub(crate) fn milliseconds(duration: Option<Duration>, out: &mut Vec<u8>) -> OutputKind {
    match duration {
        Some(duration) => number(saturated(duration.as_millis()), out),
        None => OutputKind::Absent,
    }
}

fn saturated(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// The time from one point to another; absent if a point was not reached or `to` came before `from`.
pub(crate) fn difference(
    from: Option<Instant>,
    to: Option<Instant>,
    precision: Precision,
    out: &mut Vec<u8>,
) -> OutputKind {
    let Some(duration) = from
        .zip(to)
        .and_then(|(from, to)| to.checked_duration_since(from))
    else {
        return OutputKind::Absent;
    };
    let value = match precision {
        Precision::Milliseconds => duration.as_millis(),
        Precision::Microseconds => duration.as_micros(),
        Precision::Nanoseconds => duration.as_nanos(),
    };
    number(saturated(value), out)
}

pub(crate) fn protocol(version: Option<Version>, out: &mut Vec<u8>) -> OutputKind {
    let version = version.filter(|version| *version != Stream::NOT_HTTP);
    text(version.map(protocol_text), out)
}

/// The name of a protocol; `-` if there is none.
pub(crate) fn protocol_name(version: Option<Version>) -> &'static str {
    version.map_or("-", protocol_text)
}

fn protocol_text(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

pub(crate) fn address(address: Option<&Address>, out: &mut Vec<u8>) -> OutputKind {
    match address {
        Some(address) => display(address, out),
        None => OutputKind::Absent,
    }
}

pub(crate) fn port(address: Option<&Address>, out: &mut Vec<u8>) -> OutputKind {
    let Some(address) = address else {
        return OutputKind::Absent;
    };
    match address.ip() {
        Some(address) => number(address.port().into(), out),
        None => OutputKind::Blank,
    }
}

/// `endpoint_id` of an internal address; other addresses have none.
pub(crate) fn endpoint_id(address: Option<&Address>, out: &mut Vec<u8>) -> OutputKind {
    let Some(address) = address else {
        return OutputKind::Absent;
    };
    out.extend_from_slice(address.endpoint_id().unwrap_or_default().as_bytes());
    OutputKind::Text
}

/// The address without its port, or with `prefix` the network that contains it (`10.1.0.0/16`).
pub(crate) fn host(address: Option<&Address>, prefix: Option<u8>, out: &mut Vec<u8>) -> OutputKind {
    let Some(address) = address else {
        return OutputKind::Absent;
    };
    let Some(ip) = address.ip() else {
        // A UNIX socket has no network.
        return prefix.map_or_else(|| display(address, out), |_| OutputKind::Text);
    };
    match (ip.ip(), prefix) {
        (ip, None) => display(&ip, out),
        (IpAddr::V4(ip), Some(prefix)) => {
            let prefix = prefix.min(32);
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            display(&Ipv4Addr::from_bits(ip.to_bits() & mask), out);
            display(&format_args!("/{prefix}"), out)
        }
        (IpAddr::V6(ip), Some(prefix)) => {
            let prefix = prefix.min(128);
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            display(&Ipv6Addr::from_bits(ip.to_bits() & mask), out);
            display(&format_args!("/{prefix}"), out)
        }
    }
}

/// The host's name, or its address if it has no name.
pub(crate) fn upstream_host_name(context: &Context<'_>, out: &mut Vec<u8>) -> OutputKind {
    let Some(upstream) = &context.stream.upstream else {
        return OutputKind::Absent;
    };
    match upstream.host_name.as_deref() {
        Some(name) if !name.is_empty() => text(Some(name), out),
        _ => address(upstream.host.as_ref(), out),
    }
}

pub(crate) fn upstream_host_name_without_port(
    context: &Context<'_>,
    out: &mut Vec<u8>,
) -> OutputKind {
    let Some(upstream) = &context.stream.upstream else {
        return OutputKind::Absent;
    };
    match upstream.host_name.as_deref() {
        Some(name) if !name.is_empty() => text(Some(without_port(name)), out),
        _ => host(upstream.host.as_ref(), None, out),
    }
}

pub(crate) fn without_port(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(name, _)| name)
}

pub(crate) fn long_flags(context: &Context<'_>, out: &mut Vec<u8>) -> OutputKind {
    let flags = &context.stream.flags;
    if flags.is_empty() {
        return text(Some("-"), out);
    }
    for (at, flag) in flags.iter().map(ResponseFlag::long).enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(flag.as_bytes());
    }
    OutputKind::Text
}

/// `%RESPONSE_CODE_DETAILS%`. Whitespace is replaced by default, because it separates the fields of a log line.
pub(crate) fn details(stream: &Stream, keep_whitespace: bool, out: &mut Vec<u8>) -> OutputKind {
    let start = out.len();
    let kind = text(stream.details.as_deref(), out);
    if !keep_whitespace {
        for byte in &mut out[start..] {
            if byte.is_ascii_whitespace() {
                *byte = b'_';
            }
        }
    }
    kind
}

/// A random UUID (version 4).
pub(crate) fn unique_id(_: &Context<'_>, out: &mut Vec<u8>) -> OutputKind {
    out.extend_from_slice(&outrider_net::uuid(fastrand::u64(..), fastrand::u64(..)));
    OutputKind::Text
}

/// Truncates the text after `start` to at most `max` bytes, at the end of a character.
pub(crate) fn truncate(out: &mut Vec<u8>, start: usize, max: Option<usize>) {
    let Some(max) = max else { return };
    if out.len() - start > max {
        out.truncate(start + max);
    }
}

/// A JSON number as Envoy prints it: the shorter of decimal and scientific notation.
pub(crate) fn float(value: f64, out: &mut Vec<u8>) {
    let decimal = if value.fract() == 0.0 && value.abs() >= 9_007_199_254_740_992.0 {
        format!("{value:.0}")
    } else {
        value.to_string()
    };
    let shortest = format!("{value:e}");
    let scientific = match shortest.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => shortest,
    };
    let text = if scientific.len() < decimal.len() {
        scientific
    } else {
        decimal
    };
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_in_envoy() {
        for (value, expected) in [
            (1e15, "1e+15"),
            (123_456_789_012_345_680_000.0, "123456789012345683968"),
            (1e21, "1e+21"),
            (123_456.789, "123456.789"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e-4, "1e-04"),
            (0.000_012_34, "1.234e-05"),
            (1.0 / 3.0, "0.3333333333333333"),
            (100.0, "100"),
            (-5.0, "-5"),
            (9_007_199_254_740_992.0, "9007199254740992"),
            (18_446_744_073_709_551_616.0, "18446744073709551616"),
            (f64::MAX, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (-0.0, "-0"),
            (0.1, "0.1"),
        ] {
            let mut out = Vec::new();
            float(value, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn a_prefix_length_masks_the_address() {
        let v4 = Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 80)));
        let v6 = Address::from(
            "[2001:db8:1:2::9]:80"
                .parse::<std::net::SocketAddr>()
                .unwrap(),
        );
        let pipe = Address::pipe("/run/x.sock", 0);
        for (address, prefix, expected) in [
            (&v4, None, "127.0.0.1"),
            (&v4, Some(5), "120.0.0.0/5"),
            (&v4, Some(0), "0.0.0.0/0"),
            (&v4, Some(33), "127.0.0.1/32"),
            (&v6, Some(48), "2001:db8:1::/48"),
            (&v6, Some(0), "::/0"),
            (&pipe, None, "/run/x.sock"),
            (&pipe, Some(8), ""),
        ] {
            let mut out = Vec::new();
            host(Some(address), prefix, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
