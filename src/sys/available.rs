//! How much memory the system, and the control groups of this process, have left.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;

/// The files that tell, open from the start: a process that confines itself later can still read them.
#[derive(Debug, Default)]
pub struct MemoryGauge {
    meminfo: Option<File>,
    groups: Vec<Group>,
}

/// A control group with a limit: its limit and its use, in bytes.
#[derive(Debug)]
struct Group {
    limit: File,
    usage: File,
    /// What of the use is page cache that can go.
    stat: Option<File>,
}

impl MemoryGauge {
    /// Opens what there is to open.
    pub fn open() -> Self {
        let mut groups = Vec::new();
        let listed = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        for line in listed.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let (root, limit, usage) = match controllers {
                "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
                "memory" => (
                    "/sys/fs/cgroup/memory",
                    "memory.limit_in_bytes",
                    "memory.usage_in_bytes",
                ),
                _ => continue,
            };
            let mut place = PathBuf::from(root).join(path.trim_start_matches('/'));
            while place.starts_with(root) {
                groups.extend(Group::open(&place, limit, usage));
                if !place.pop() {
                    break;
                }
            }
        }
        Self {
            meminfo: File::open("/proc/meminfo").ok(),
            groups,
        }
    }

    /// Bytes that could be had now without pushing anybody out: of the system, or of the tightest control group.
    pub fn available(&self) -> Option<u64> {
        let system = self.meminfo.as_ref().and_then(|file| {
            let text = read(file)?;
            let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
            let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
            kibibytes.checked_mul(1024)
        });
        let groups = self.groups.iter().filter_map(Group::available);
        groups.chain(system).min()
    }
}

impl Group {
    fn open(place: &Path, limit: &str, usage: &str) -> Option<Self> {
        Some(Self {
            limit: File::open(place.join(limit)).ok()?,
            usage: File::open(place.join(usage)).ok()?,
            stat: File::open(place.join("memory.stat")).ok(),
        })
    }

    fn available(&self) -> Option<u64> {
        // "max" is no number: no limit.
        let limit: u64 = read(&self.limit)?.trim().parse().ok()?;
        let usage: u64 = read(&self.usage)?.trim().parse().ok()?;
        let cache = self.stat.as_ref().and_then(|file| {
            let text = read(file)?;
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("inactive_file "))?;
            line.trim().parse::<u64>().ok()
        });
        Some(limit.saturating_sub(usage.saturating_sub(cache.unwrap_or(0))))
    }
}

/// Longest file here in bytes: meminfo and memory.stat have some 50 short lines.
const MAX_BYTES: usize = 16 * 1024;

fn read(file: &File) -> Option<String> {
    let mut buffer = vec![0; MAX_BYTES];
    let length = file.read_at(&mut buffer, 0).ok()?;
    buffer.truncate(length);
    String::from_utf8(buffer).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_system_has_memory_left() {
        let available = MemoryGauge::open().available().unwrap();
        assert!(available > 1 << 20, "{available}");
    }

    #[test]
    fn the_tightest_group_counts() {
        let place = std::env::temp_dir().join(format!("modelfs-gauge-{}", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        for (name, text) in [
            ("memory.max", "1000000\n"),
            ("memory.current", "900000\n"),
            (
                "memory.stat",
                "anon 500000\ninactive_file 200000\nactive_file 1\n",
            ),
        ] {
            std::fs::write(place.join(name), text).unwrap();
        }
        let gauge = MemoryGauge {
            meminfo: File::open("/proc/meminfo").ok(),
            groups: Group::open(&place, "memory.max", "memory.current")
                .into_iter()
                .collect(),
        };
        assert_eq!(gauge.available(), Some(300_000));
        std::fs::write(place.join("memory.max"), "max\n").unwrap();
        assert!(gauge.available().unwrap() > 1_000_000);
        std::fs::remove_dir_all(&place).unwrap();
    }
}
