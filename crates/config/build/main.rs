//! Generates the typed Envoy API from `proto/`.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

use crate::descriptor::FileSet;

mod descriptor;
mod prune;

const ROOTS: [&str; 14] = [
    "envoy.config.bootstrap.v3.Bootstrap",
    "envoy.config.route.v3.RouteConfiguration",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "envoy.extensions.filters.http.router.v3.Router",
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    "envoy.extensions.access_loggers.file.v3.FileAccessLog",
    "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
    "envoy.extensions.access_loggers.stream.v3.StderrAccessLog",
    "envoy.extensions.clusters.dns.v3.DnsCluster",
    "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
    "envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig",
    "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
    "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
    "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
];

#[expect(
    clippy::print_stdout,
    reason = "a build script speaks to Cargo on stdout"
)]
fn main() -> Result<(), Box<dyn Error>> {
    let proto = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!(
        "cargo::rerun-if-changed={}",
        proto.join("envoy-v3.binpb").display()
    );
    println!("cargo::rerun-if-changed=build");
    let set = FileSet::decode(std::fs::read(proto.join("envoy-v3.binpb"))?.as_slice())?;
    let typed = prune::prune(set, ROOTS.map(str::to_owned).to_vec());
    let typed = prost_types::FileDescriptorSet::decode(typed.encode_to_vec().as_slice())?;
    prost_build::Config::new()
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .include_file("api.rs")
        .compile_fds(typed)?;
    Ok(())
}
