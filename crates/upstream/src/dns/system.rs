//! `/etc/resolv.conf` and `/etc/hosts`. Both are read again after they have changed: Kubernetes rewrites them.

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

/// The contents of `/etc/resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ResolvConf {
    pub(super) servers: Vec<SocketAddr>,
    pub(super) search: Vec<Name>,
    /// `ndots`: a name with fewer dots is tried with the search domains first.
    pub(super) ndots: usize,
    pub(super) rotate: bool,
}

/// A file and its contents when it was last read.
#[derive(Debug)]
pub(super) struct CachedFile<T> {
    path: PathBuf,
    parse: fn(&Path) -> T,
    read_at: Option<(SystemTime, u64)>,
    parsed: Arc<T>,
}

impl<T: Default> CachedFile<T> {
    pub(super) fn new(path: &str, parse: fn(&Path) -> T) -> CachedFile<T> {
        CachedFile {
            path: path.into(),
            parse,
            read_at: None,
            parsed: Arc::default(),
        }
    }

    /// The current contents of the file; the default if it cannot be read.
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

/// The addresses of each name in `/etc/hosts`, including aliases.
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

/// The addresses of a name in the file. `localhost` and names below it have the loopback addresses.
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

/// Whether this is the last label of the name.
pub(super) fn is_below(name: &Name, label: &str) -> bool {
    let last = name.iter().next_back();
    last.is_some_and(|last| last.eq_ignore_ascii_case(label.as_bytes()))
}

/// As in the C library, the server is 127.0.0.1 if there is no file, or no server in it.
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
            // The last of `search` and `domain` takes effect.
            Some("search" | "domain") => {
                conf.search = words.filter_map(fully_qualified).collect();
            }
            Some("options") => {
                for option in words {
                    match option.split_once(':') {
                        Some(("ndots", dots)) => conf.ndots = dots.parse().unwrap_or(1).min(15),
                        None if option == "rotate" => conf.rotate = true,
                        // Timeouts and attempts are Envoy's, regardless of the file.
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    conf
}

/// The name with its final dot; `None` if it is malformed. Envoy's library accepts the characters of host names and a
/// few others.
pub(super) fn fully_qualified(text: &str) -> Option<Name> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/*".contains(&byte);
    if text.is_empty() || !text.bytes().all(allowed) {
        return None;
    }
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() {
        return Some(Name::root());
    }
    // Parsed label by label: hickory would treat a whole name as an internationalised one and convert it to lower case.
    let mut name = Name::from_labels(text.split('.').map(str::as_bytes)).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// Whether this machine has IPv4 and IPv6 addresses other than loopback.
pub(super) fn routable_families() -> (bool, bool) {
    let reaches = |any: &str, far: &str| {
        // Connecting a datagram socket sends nothing; it only looks for a route.
        let socket = std::net::UdpSocket::bind(any);
        socket.and_then(|socket| socket.connect(far)).is_ok()
    };
    (
        reaches("0.0.0.0:0", "192.0.2.1:53"),
        reaches("[::]:0", "[2001:db8::1]:53"),
    )
}
