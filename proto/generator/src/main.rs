//! Writes `proto/envoy-v3.binpb`: the official Envoy API definitions, pruned to what a bootstrap file can reach.
//!
//! The source is the descriptor set inside the crate `envoy-types`. Kept are `Bootstrap`, every extension message that
//! `proto/support/extensions.txt` names, the messages of `proto/service_messages.txt`, and whatever these refer to;
//! comments, services and file options go.
//!
//! `just proto` runs it; its test compares.

use std::error::Error;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use prost::Message;

use crate::descriptor::FileSet;

#[path = "../../../crates/config/build/descriptor.rs"]
mod descriptor;
#[path = "../../../crates/config/build/prune.rs"]
mod prune;

/// What it writes.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../envoy-v3.binpb");

const ROOTS: [&str; 3] = [
    "envoy.config.bootstrap.v3.Bootstrap",
    "envoy.config.route.v3.FilterConfig",
    "envoy.config.route.v3.RouteConfiguration",
];

fn main() -> Result<(), Box<dyn Error>> {
    std::fs::write(FILE, generate()?)?;
    Ok(())
}

/// The bytes of the file.
fn generate() -> Result<Vec<u8>, Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let set = FileSet::decode(std::fs::read(descriptor_set(here)?)?.as_slice())?;
    let extensions = std::fs::read_to_string(here.join("../support/extensions.txt"))?;
    let mut roots: Vec<String> = ROOTS.iter().map(|&root| root.to_owned()).collect();
    roots.extend(extension_types(&extensions));
    let services = std::fs::read_to_string(here.join("../service_messages.txt"))?;
    roots.extend(service_messages(&services));
    Ok(prune::prune(set, roots).encode_to_vec())
}

/// Where Cargo has put `envoy-types`.
fn descriptor_set(here: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--manifest-path"])
        .arg(here.join("Cargo.toml"))
        .output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"]
        .as_array()
        .ok_or("cargo metadata lists no packages")?;
    let manifest = packages
        .iter()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or("cargo metadata does not list envoy-types")?;
    Ok(Path::new(manifest)
        .with_file_name("src")
        .join("generated/types.bin"))
}

/// The message types in a list of extensions: the third word of each line.
fn extension_types(list: &str) -> impl Iterator<Item = String> + '_ {
    list.lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| line.split_whitespace().skip(2))
        .map(str::to_owned)
}

/// The message types in a list of one a line.
fn service_messages(list: &str) -> impl Iterator<Item = String> + '_ {
    list.lines()
        .filter(|line| !line.starts_with('#'))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_file_is_current() {
        assert!(
            super::generate().unwrap() == std::fs::read(super::FILE).unwrap(),
            "run `just proto`"
        );
    }
}
