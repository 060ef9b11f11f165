//! `envoy.resource_monitors.cgroup_memory`: the memory of the container as a share of its limit.

use std::path::Path;
use std::path::PathBuf;

use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::resource_monitors::cgroup_memory::v3::CgroupMemoryConfig;
use outrider_config::unpack;
use prost_types::Any;

use super::Build;
use super::ResourceMonitor;
use super::number;
use super::read;
use super::refuse;
use crate::OverloadCx;

pub(super) const FACTORY: Factory<Build> = Factory {
    message: "envoy.extensions.resource_monitors.cgroup_memory.v3.CgroupMemoryConfig",
    build,
};

/// Where containers see their own control group.
const CGROUP: &str = "/sys/fs/cgroup";

fn build(
    config: &Any,
    path: &FieldPath,
    _: &OverloadCx<'_>,
) -> Result<Box<dyn ResourceMonitor>, ConfigErrors> {
    let config: CgroupMemoryConfig = unpack(config, path)?;
    let files = MemoryFiles::find(Path::new(CGROUP));
    let files = files.ok_or_else(|| {
        let text = format!("no supported cgroup memory implementation found below {CGROUP}");
        refuse(path, text)
    })?;
    Ok(Box::new(CgroupMemory {
        files,
        max: Some(config.max_memory_bytes).filter(|max| *max > 0),
    }))
}

#[derive(Debug)]
struct CgroupMemory {
    files: MemoryFiles,
    /// `max_memory_bytes`: an upper bound of the limit.
    max: Option<u64>,
}

#[derive(Debug)]
struct MemoryFiles {
    usage: PathBuf,
    limit: PathBuf,
}

impl MemoryFiles {
    /// The files of version 2 of control groups, or else of version 1.
    fn find(root: &Path) -> Option<MemoryFiles> {
        let second = MemoryFiles {
            usage: root.join("memory.current"),
            limit: root.join("memory.max"),
        };
        if second.usage.exists() && second.limit.exists() {
            return Some(second);
        }
        let first = root.join("memory");
        first.exists().then(|| MemoryFiles {
            usage: first.join("memory.usage_in_bytes"),
            limit: first.join("memory.limit_in_bytes"),
        })
    }
}

impl ResourceMonitor for CgroupMemory {
    fn pressure(&mut self) -> Result<f64, String> {
        let usage = bytes(&self.files.usage)?;
        let limit = bytes(&self.files.limit)?;
        let limit = match self.max {
            Some(max) => max.min(limit),
            None => limit,
        };
        Ok(match limit {
            // No limit.
            u64::MAX => 0.0,
            limit => number(usage) / number(limit.max(1)),
        })
    }
}

/// The number in a file; the largest number if the file says that there is no limit.
fn bytes(file: &Path) -> Result<u64, String> {
    let text = read(file)?;
    match text.trim() {
        "max" | "-1" => Ok(u64::MAX),
        text => (text.parse()).map_err(|_| format!("no number in {}: {text:?}", file.display())),
    }
}
