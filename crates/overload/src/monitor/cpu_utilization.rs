//! `envoy.resource_monitors.cpu_utilization`: how busy the processors of the machine are, or the container's share of them.

mod container;

use std::path::Path;

use outrider_config::ConfigErrors;
use outrider_config::Factory;
use outrider_config::FieldPath;
use outrider_config::api::envoy::extensions::resource_monitors::cpu_utilization::v3::CpuUtilizationConfig;
use outrider_config::api::envoy::extensions::resource_monitors::cpu_utilization::v3::cpu_utilization_config::UtilizationComputeStrategy;
use outrider_config::unpack;
use prost_types::Any;

use super::Build;
use super::ResourceMonitor;
use super::number;
use super::read;
use super::refuse;
use crate::OverloadCx;

pub(super) const FACTORY: Factory<Build> = Factory {
    message: "envoy.extensions.resource_monitors.cpu_utilization.v3.CpuUtilizationConfig",
    build,
};

/// The weight of a new measurement in the moving average. It is Envoy's.
const NEW_WEIGHT: f64 = 0.05;

fn build(
    config: &Any,
    path: &FieldPath,
    _: &OverloadCx<'_>,
) -> Result<Box<dyn ResourceMonitor>, ConfigErrors> {
    let config: CpuUtilizationConfig = unpack(config, path)?;
    let source = match config.mode() {
        UtilizationComputeStrategy::Host => Source::Host,
        UtilizationComputeStrategy::Container => {
            let files = container::CpuFiles::find(Path::new("/"));
            let missing = || refuse(path, "no supported cgroup CPU implementation found");
            Source::Container(files.ok_or_else(missing)?)
        }
    };
    Ok(Box::new(CpuUtilization {
        source,
        before: None,
        average: 0.0,
    }))
}

#[derive(Debug)]
struct CpuUtilization {
    source: Source,
    before: Option<CpuTimes>,
    average: f64,
}

/// Where the times come from (`CpuUtilizationConfig.mode`).
#[derive(Debug)]
enum Source {
    Host,
    Container(container::CpuFiles),
}

/// The time that processors have worked, and the time that they could have worked, in one unit.
#[derive(Clone, Copy, Debug, PartialEq)]
struct CpuTimes {
    work: f64,
    total: f64,
}

impl ResourceMonitor for CpuUtilization {
    fn pressure(&mut self) -> Result<f64, String> {
        let now = match &self.source {
            Source::Host => host_times(&read(Path::new("/proc/stat"))?)?,
            Source::Container(files) => files.times()?,
        };
        let Some(before) = self.before.replace(now) else {
            return Ok(0.0);
        };
        let (work, total) = (now.work - before.work, now.total - before.total);
        if work < 0.0 || total <= 0.0 {
            // The next measurement compares with the same one again.
            self.before = Some(before);
            return Err(format!("the CPU times went from {before:?} to {now:?}"));
        }
        let utilization = (work / total).clamp(0.0, 1.0);
        self.average = utilization * NEW_WEIGHT + self.average * (1.0 - NEW_WEIGHT);
        Ok(self.average)
    }
}

/// The times in the first line of `/proc/stat`: user, nice, system and idle.
fn host_times(text: &str) -> Result<CpuTimes, String> {
    let malformed = || "unexpected format of /proc/stat".to_owned();
    let line = text.strip_prefix("cpu  ").ok_or_else(malformed)?;
    let times = line
        .split_ascii_whitespace()
        .map_while(|time| time.parse().ok());
    let times: Vec<u64> = times.take(4).collect();
    let [user, nice, system, idle] = times[..] else {
        return Err(malformed());
    };
    let work = number(user + nice + system);
    Ok(CpuTimes {
        work,
        total: work + number(idle),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_first_line() {
        let times = host_times("cpu  10 20 30 40 50 0 0\ncpu0 1 2 3 4").unwrap();
        assert_eq!(
            times,
            CpuTimes {
                work: 60.0,
                total: 100.0
            }
        );
        assert!(host_times("cpu0 1 2 3 4").is_err());
        assert!(host_times("cpu  1 2 3").is_err());
    }
}
