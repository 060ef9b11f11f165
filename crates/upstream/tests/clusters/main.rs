//! Clusters against real sockets: scripted backends and a scripted DNS server on loopback.

#[cfg(test)]
mod config;
#[cfg(test)]
mod dns;
#[cfg(test)]
mod http1;
#[cfg(test)]
mod http2;
#[cfg(test)]
mod support;
