//! `/etc/resolv.conf` and `/etc/hosts`. Both are read again when they have changed: Kubernetes rewrites them.

use std::fs;
use std::fs::File;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use hickory_resolver::Hosts;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::Name;
use hickory_resolver::proto::rr::RecordType;

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

pub(super) fn read_hosts(path: &Path) -> Hosts {
    let mut hosts = Hosts::default();
    if let Ok(file) = File::open(path)
        && let Err(error) = hosts.read_hosts_conf(file)
    {
        log::warn!(target: "dns", "cannot read {}: {error}", path.display());
    }
    hosts
}

/// The addresses that the file gives a name.
pub(super) fn look_up(hosts: &Hosts, name: &Name, kind: RecordType) -> Vec<IpAddr> {
    let found = hosts.lookup_static_host(&Query::query(name.clone(), kind));
    let records = found.iter().flat_map(|lookup| lookup.answers());
    records.filter_map(|record| record.data.ip_addr()).collect()
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

/// The name with its final dot; none when it is not one.
pub(super) fn fully_qualified(text: &str) -> Option<Name> {
    let mut name = Name::from_str_relaxed(text).ok()?;
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
