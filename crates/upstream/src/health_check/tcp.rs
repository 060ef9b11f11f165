//! `tcp_health_check`: connects, sends bytes, and compares what the host sends.

use std::future::poll_fn;

use outrider_net::Address;
use outrider_net::NetworkStream;
use outrider_net::proxy_protocol::write_local_version_2;
use outrider_net::proxy_protocol::write_version_1;
use tokio::io::AsyncWriteExt as _;

use super::CheckResult;
use super::config::ProxyVersion;
use super::config::TcpCheck;
use super::connection::HealthCheckCx;
use super::payload;
use crate::Host;

/// How many bytes a host may send before the expected ones.
const MOST: usize = 1 << 20;

/// What the connection tells its peer of itself, by the PROXY protocol.
fn proxy_header(version: ProxyVersion, stream: &NetworkStream) -> Vec<u8> {
    match version {
        ProxyVersion::V1 => {
            let ends = stream.socket_addresses();
            let header = ends.map(|(source, target)| {
                write_version_1(&Address::Ip(source), &Address::Ip(target))
            });
            header.unwrap_or_default()
        }
        ProxyVersion::V2 => write_local_version_2(),
    }
}

/// Asks one host.
#[derive(Default)]
pub(super) struct TcpProbe {
    /// Kept between checks.
    stream: Option<NetworkStream>,
}

impl TcpProbe {
    pub(super) async fn check(
        &mut self,
        config: &TcpCheck,
        cx: &HealthCheckCx,
        host: &Host,
    ) -> CheckResult {
        // Whoever stops polling gives the connection up: it is put back after the whole answer only.
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => match cx.connect(host).await {
                Some(stream) => stream,
                None => return CheckResult::BROKEN,
            },
        };
        if config.receive.is_empty() {
            // As in Envoy, a connection is enough, and nothing is sent.
            return CheckResult::Healthy { degraded: false };
        }
        let mut sent = match config.proxy_header {
            Some(version) => proxy_header(version, &stream),
            None => Vec::new(),
        };
        sent.extend_from_slice(&config.send);
        if !sent.is_empty() && stream.write_all(&sent).await.is_err() {
            return CheckResult::BROKEN;
        }
        let mut received = Vec::new();
        let mut buffer = [0; 4096];
        while !payload::matches(&config.receive, &received) {
            match poll_fn(|task| stream.poll_read_some(task, &mut buffer)).await {
                Ok(count @ 1..) if received.len() < MOST => {
                    received.extend(buffer.iter().take(count));
                }
                Ok(_) | Err(_) => return CheckResult::BROKEN,
            }
        }
        if cx.config.reuse_connection {
            self.stream = Some(stream);
        }
        CheckResult::Healthy { degraded: false }
    }

    /// Waits until the host closes the connection that is kept.
    pub(super) async fn broken(&mut self) {
        let Some(stream) = &mut self.stream else {
            return std::future::pending().await;
        };
        let mut buffer = [0; 512];
        // Bytes between checks are ignored.
        while let Ok(1..) = poll_fn(|task| stream.poll_read_some(task, &mut buffer)).await {}
        self.stream = None;
    }
}
