//! Resource monitors (extensions `envoy.resource_monitors`): each measures the pressure on one resource.
//!
//! Monitors run on the main thread and read small files of the system, so they need not wait for anything.

mod cgroup_memory;
mod cpu_utilization;
mod fixed_heap;
mod injected_resource;

use std::fmt;

use outrider_config::ConfigError;
use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use prost_types::Any;

use crate::OverloadCx;

/// Measures one resource.
pub(crate) trait ResourceMonitor: fmt::Debug {
    /// The pressure now: 0 is none and 1 is the limit. It may be above 1.
    ///
    /// # Errors
    /// Why it cannot be measured, for the log.
    fn pressure(&mut self) -> Result<f64, String>;
}

type Build =
    fn(&Any, &FieldPath, &OverloadCx<'_>) -> Result<Box<dyn ResourceMonitor>, ConfigErrors>;

/// The monitors that measure at each refresh.
pub(crate) const FACTORIES: &[Factory<Build>] = &[
    cgroup_memory::FACTORY,
    cpu_utilization::FACTORY,
    fixed_heap::FACTORY,
    injected_resource::FACTORY,
];

/// The error of one field.
fn refuse(path: &FieldPath, message: impl Into<String>) -> ConfigErrors {
    ConfigError::new(path, message).into()
}

/// A count of bytes or of time as a floating-point number. Counts are far below 2^53, where that is exact.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn number(count: u64) -> f64 {
    count as f64
}

/// Reads a file of the system; the error names the file.
fn read(path: &std::path::Path) -> Result<String, String> {
    std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))
}
