//! Generates the typed Envoy API and the reader's tables from `proto/`.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

use crate::descriptor::FileSet;

mod descriptor;
mod limits;
mod prune;
mod rules;
mod support;
mod tables;

const ROOT: &str = "envoy.config.bootstrap.v3.Bootstrap";

#[expect(
    clippy::print_stdout,
    reason = "a build script speaks to Cargo on stdout"
)]
fn main() -> Result<(), Box<dyn Error>> {
    let proto = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    println!(
        "cargo::rerun-if-changed={}",
        proto.join("envoy-v3.binpb").display()
    );
    println!(
        "cargo::rerun-if-changed={}",
        proto.join("support").display()
    );
    println!(
        "cargo::rerun-if-changed={}",
        proto.join("service_messages.txt").display()
    );
    println!("cargo::rerun-if-changed=build");

    let set = FileSet::decode(std::fs::read(proto.join("envoy-v3.binpb"))?.as_slice())?;
    let support = support::read(&proto.join("support"))?;
    let extensions = support::read_extensions(&proto.join("support/extensions.txt"))?;
    let services = std::fs::read_to_string(proto.join("service_messages.txt"))?;
    let mut roots: Vec<String> = support.keys().cloned().chain([ROOT.to_owned()]).collect();
    let known = prune::prune(set.clone(), roots.clone());
    std::fs::write(
        out.join("tables.rs"),
        tables::generate(&known, &support, &extensions)?,
    )?;

    // Services' messages are no configuration, so that the reader needs no tables for them.
    let services = services.lines().filter(|line| !line.starts_with('#'));
    roots.extend(services.map(str::to_owned));
    let typed = prune::prune(set, roots).encode_to_vec();
    let typed = prost_types::FileDescriptorSet::decode(typed.as_slice())?;
    prost_build::Config::new()
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .include_file("api.rs")
        .compile_fds(typed)?;
    Ok(())
}
