//! `/etc/resolv.conf` and `/etc/hosts`. Both are read again when they have changed: Kubernetes rewrites them.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use hickory_proto::rr::Name;
use hickory_proto::rr::RecordType;

/// What `/etc/resolv.conf` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ResolvConf {
    pub(super) servers: Vec<SocketAddr>,
    pub(super) search: Vec<Name>,
    /// A name with fewer dots is tried with the search domains first.
    pub(super) ndots: usize,
    pub(super) rotate: bool,
}

/// A file, as of when it was last read.
#[derive(Debug)]
pub(super) struct Watched<T> {
    path: PathBuf,
    parse: fn(&Path) -> T,
    read_at: Option<(SystemTime, u64)>,
    parsed: Arc<T>,
}

impl<T: Default> Watched<T> {
    pub(super) fn new(path: &str, parse: fn(&Path) -> T) -> Watched<T> {
        Watched {
            path: path.into(),
            parse,
            read_at: None,
            parsed: Arc::default(),
        }
    }

    /// What the file says now; nothing if it cannot be read.
    pub(super) fn get(&mut self) -> Arc<T> {
        let state = fs::metadata(&self.path)
            .ok()
            .and_then(|file| Some((file.modified().ok()?, file.len())));
        if state.is_none() || state != self.read_at {
            self.read_at = state;
            self.parsed = Arc::new((self.parse)(&self.path));
        }
        self.parsed.clone()
    }
}

/// The addresses of each name of `/etc/hosts`, aliases among them.
pub(super) type Hosts = HashMap<Name, Vec<IpAddr>>;

pub(super) fn read_hosts(path: &Path) -> Hosts {
    let text = fs::read(path).unwrap_or_default();
    let mut hosts = Hosts::new();
    for line in String::from_utf8_lossy(&text).lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(ip) = words.next().and_then(|ip| ip.parse::<IpAddr>().ok()) else {
            continue;
        };
        for name in words.filter_map(fully_qualified) {
            let addresses = hosts.entry(name.to_lowercase()).or_default();
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
    }
    hosts
}

/// The addresses that the file gives a name, and those of this machine itself for `localhost` and what is below it.
pub(super) fn look_up(hosts: &Hosts, name: &Name, kind: RecordType) -> Vec<IpAddr> {
    let name = name.to_lowercase();
    let known = hosts.get(&name).into_iter().flatten().copied();
    let mut found: Vec<IpAddr> = known.filter(|ip| is_of(*ip, kind)).collect();
    if found.is_empty() && is_below(&name, "localhost") {
        found.push(match kind {
            RecordType::AAAA => Ipv6Addr::LOCALHOST.into(),
            _ => Ipv4Addr::LOCALHOST.into(),
        });
    }
    found
}

pub(super) fn is_of(ip: IpAddr, kind: RecordType) -> bool {
    ip.is_ipv4() == (kind == RecordType::A)
}

/// Whether the last label of a name is this one.
pub(super) fn is_below(name: &Name, label: &str) -> bool {
    let last = name.iter().next_back();
    last.is_some_and(|last| last.eq_ignore_ascii_case(label.as_bytes()))
}

/// Without the file, or a server in it, the server is on this machine, as the C library has it.
pub(super) fn read_resolv_conf(path: &Path) -> ResolvConf {
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut conf = ResolvConf {
        ndots: 1,
        ..ResolvConf::default()
    };
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let ip = words.next().and_then(|ip| ip.parse::<IpAddr>().ok());
                conf.servers.extend(ip.map(|ip| SocketAddr::new(ip, 53)));
            }
            // The last of the two counts.
            Some("search" | "domain") => {
                conf.search = words.filter_map(fully_qualified).collect();
            }
            Some("options") => {
                for option in words {
                    match option.split_once(':') {
                        Some(("ndots", dots)) => conf.ndots = dots.parse().unwrap_or(1).min(15),
                        None if option == "rotate" => conf.rotate = true,
                        // Timeouts and attempts are Envoy's own, whatever the file says.
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    conf
}

/// The name with its final dot; none when it is not one. Envoy's library takes the bytes of host names, and few others.
pub(super) fn fully_qualified(text: &str) -> Option<Name> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/*".contains(&byte);
    if text.is_empty() || !text.bytes().all(allowed) {
        return None;
    }
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() {
        return Some(Name::root());
    }
    // Label by label: a name as a whole would be read as an internationalised one, in small letters.
    let mut name = Name::from_labels(text.split('.').map(str::as_bytes)).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// Which families this machine has an address of, apart from the loopback's: IPv4, IPv6.
pub(super) fn routable_families() -> (bool, bool) {
    let reaches = |any: &str, far: &str| {
        // Connecting a datagram socket only looks for a route.
        let socket = std::net::UdpSocket::bind(any);
        socket.and_then(|socket| socket.connect(far)).is_ok()
    };
    (
        reaches("0.0.0.0:0", "192.0.2.1:53"),
        reaches("[::]:0", "[2001:db8::1]:53"),
    )
}
