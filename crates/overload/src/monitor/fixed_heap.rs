//! `envoy.resource_monitors.fixed_heap`: the memory of the process as a share of a fixed limit.

use std::sync::Arc;

use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::resource_monitors::fixed_heap::v3::FixedHeapConfig;
use outrider_config::unpack;
use outrider_runtime::Runtime;
use prost_types::Any;

use super::Build;
use super::ResourceMonitor;
use super::number;
use super::refuse;
use crate::OverloadCx;

pub(super) const FACTORY: Factory<Build> = Factory {
    message: "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
    build,
};

fn build(
    config: &Any,
    path: &FieldPath,
    cx: &OverloadCx<'_>,
) -> Result<Box<dyn ResourceMonitor>, ConfigErrors> {
    let config: FixedHeapConfig = unpack(config, path)?;
    let by_runtime = path.field("max_heap_size_bytes_runtime");
    let max = match &config.max_heap_size_bytes_runtime {
        None => Max::Fixed(config.max_heap_size_bytes),
        Some(_) if config.max_heap_size_bytes > 0 => {
            let text = "expected only one of max_heap_size_bytes and max_heap_size_bytes_runtime";
            return Err(refuse(&by_runtime, text));
        }
        Some(value) => Max::Runtime {
            runtime: cx.runtime.clone(),
            key: value.runtime_key.as_str().into(),
            default: value.default_value,
        },
    };
    if max.bytes() == 0 {
        return Err(refuse(path, "max heap size must be greater than 0"));
    }
    Ok(Box::new(FixedHeap {
        max,
        allocated: cx.allocated_memory,
    }))
}

#[derive(Debug)]
struct FixedHeap {
    max: Max,
    /// Returns the memory of the process, in bytes.
    allocated: fn() -> u64,
}

#[derive(Debug)]
enum Max {
    /// `max_heap_size_bytes`
    Fixed(u64),
    /// `max_heap_size_bytes_runtime`
    Runtime {
        runtime: Arc<Runtime>,
        key: Box<str>,
        default: u64,
    },
}

impl Max {
    fn bytes(&self) -> u64 {
        match self {
            Max::Fixed(bytes) => *bytes,
            Max::Runtime {
                runtime,
                key,
                default,
            } => runtime.snapshot().number(key).unwrap_or(*default),
        }
    }
}

impl ResourceMonitor for FixedHeap {
    fn pressure(&mut self) -> Result<f64, String> {
        match self.max.bytes() {
            0 => Err("the runtime sets a max heap size of 0".to_owned()),
            max => Ok(number((self.allocated)()) / number(max)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_share_of_the_limit() {
        let mut monitor = FixedHeap {
            max: Max::Fixed(1000),
            allocated: || 250,
        };
        assert_eq!(monitor.pressure(), Ok(0.25));
    }
}
