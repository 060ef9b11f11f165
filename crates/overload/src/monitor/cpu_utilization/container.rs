//! The CPU times of a container, from its control group.

use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use super::CpuTimes;
use super::number;
use super::read;

/// What `cpu.shares` calls one processor.
const SHARES_PER_CPU: f64 = 1000.0;

/// The files that tell the CPU times.
#[derive(Debug)]
pub(super) struct CpuFiles {
    version: Version,
    /// Times count from here.
    origin: Instant,
}

/// The version of control groups.
#[derive(Debug)]
enum Version {
    One {
        shares: PathBuf,
        usage: PathBuf,
    },
    Two {
        stat: PathBuf,
        max: PathBuf,
        cpus: PathBuf,
    },
}

impl CpuFiles {
    /// The files of the control group of this process, in the file system below `root`: those of version 2, or else of
    /// version 1.
    pub(super) fn find(root: &Path) -> Option<CpuFiles> {
        let mut directories = vec![root.join("sys/fs/cgroup")];
        directories.extend(own_directory(root));
        let second = directories.into_iter().map(|directory| Version::Two {
            stat: directory.join("cpu.stat"),
            max: directory.join("cpu.max"),
            cpus: directory.join("cpuset.cpus.effective"),
        });
        let first = Version::One {
            shares: root.join("sys/fs/cgroup/cpu/cpu.shares"),
            usage: root.join("sys/fs/cgroup/cpuacct/cpuacct.usage"),
        };
        let version = second.chain([first]).find(Version::exists)?;
        Some(CpuFiles {
            version,
            origin: Instant::now(),
        })
    }

    /// The times now, in nanoseconds.
    pub(super) fn times(&self) -> Result<CpuTimes, String> {
        let elapsed = self.origin.elapsed().as_secs_f64() * 1e9;
        Ok(match &self.version {
            Version::One { shares, usage } => {
                let cpus = parse(&read(shares)?, shares)? / SHARES_PER_CPU;
                CpuTimes {
                    work: parse(&read(usage)?, usage)?,
                    total: elapsed * cpus,
                }
            }
            Version::Two { stat, max, cpus } => {
                let text = read(stat)?;
                let mut lines = text.lines();
                let usage = lines.find_map(|line| line.strip_prefix("usage_usec "));
                let usage = usage.ok_or_else(|| format!("no usage_usec in {}", stat.display()))?;
                let cpus = count(&read(cpus)?).ok_or_else(|| unexpected(cpus))?;
                let limit = quota(&read(max)?).ok_or_else(|| unexpected(max))?;
                CpuTimes {
                    work: parse(usage, stat)? * 1000.0,
                    total: elapsed * limit.min(number(cpus)),
                }
            }
        })
    }
}

impl Version {
    fn exists(&self) -> bool {
        match self {
            Version::One { shares, usage } => shares.exists() && usage.exists(),
            Version::Two { stat, max, cpus } => stat.exists() && max.exists() && cpus.exists(),
        }
    }
}

/// The directory of this process's control group of version 2, if the whole tree is mounted and not only the container's
/// part.
fn own_directory(root: &Path) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let (mounted, at) = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let fields: Vec<&str> = before.split(' ').collect();
        (after.split(' ').next() == Some("cgroup2")).then_some(())?;
        Some((*fields.get(3)?, *fields.get(4)?))
    })?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let below = own.trim_end().strip_prefix(mounted.trim_end_matches('/'));
    let directory = format!("{at}{}", below.unwrap_or_default());
    Some(root.join(directory.trim_start_matches('/')))
}

fn unexpected(file: &Path) -> String {
    format!("unexpected format of {}", file.display())
}

fn parse(text: &str, file: &Path) -> Result<f64, String> {
    let value = text.trim().parse::<u64>();
    value.map(number).map_err(|_| unexpected(file))
}

/// How many processors a list such as `0-3,5` names.
fn count(list: &str) -> Option<u64> {
    let mut count = 0;
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        count += last.checked_sub(first)?.checked_add(1)?;
    }
    Some(count)
}

/// How many processors `cpu.max` allows: `quota period`, or `max period`.
fn quota(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    if quota == "max" {
        return Some(f64::INFINITY);
    }
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0).then(|| number(quota) / number(period))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_processors() {
        assert_eq!(count("0-3,5\n"), Some(5));
        assert_eq!(count("7"), Some(1));
        assert_eq!(count("3-1"), None);
        assert_eq!(count(""), None);
        assert_eq!(quota("150000 100000\n"), Some(1.5));
        assert_eq!(quota("max 100000"), Some(f64::INFINITY));
        assert_eq!(quota("1 0"), None);
    }

    #[test]
    fn finds_the_group_of_this_process_in_the_whole_tree() {
        let root = std::env::temp_dir().join(format!("outrider-cpu-{}", std::process::id()));
        let group = root.join("cgroups/pod/one");
        std::fs::create_dir_all(&group).unwrap();
        std::fs::create_dir_all(root.join("proc/self")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(root.join(name), text).unwrap();
        write(
            "proc/self/mountinfo",
            "31 23 0:28 /pod /cgroups rw - cgroup2 cgroup2 rw\n",
        );
        write("proc/self/cgroup", "1:cpu:/\n0::/pod/pod/one\n");
        assert!(CpuFiles::find(&root).is_none());
        for (name, text) in [
            ("cpu.stat", "usage_usec 1500\nuser_usec 1\n"),
            ("cpu.max", "50000 100000\n"),
            ("cpuset.cpus.effective", "0-3\n"),
        ] {
            std::fs::write(group.join(name), text).unwrap();
        }
        let files = CpuFiles::find(&root).unwrap();
        assert_eq!(files.times().unwrap().work, 1_500_000.0);
        std::fs::remove_dir_all(&root).unwrap();
    }
}
