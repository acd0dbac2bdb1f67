//! What the system says about memory and disk.

use std::fs;
use std::path::{Path, PathBuf};

/// Where Linux mounts control groups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The memory this process may use, in bytes: what the machine has, or what the control groups it
/// is in allow, whichever is least. `None` if the system does not say.
pub(super) fn memory_allowed() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| memory_total(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = group_files(Path::new(CGROUPS), &groups).into_iter();
    let limits = limits.filter_map(|file| group_limit(&fs::read_to_string(file).ok()?));
    limits.chain(machine).min()
}

/// Memory this process has resident, in bytes.
pub(crate) fn resident_bytes() -> Option<u64> {
    let pages = resident_pages(&fs::read_to_string("/proc/self/statm").ok()?)?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Bytes that an ordinary process may still write to the file system of `directory`.
pub(super) fn disk_free_bytes(directory: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(directory).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// The second field of `/proc/self/statm`.
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

/// The files that may hold a limit for a process whose `/proc/self/cgroup` is `groups`: a group
/// is limited by its ancestors, too. Of version 2 and version 1.
fn group_files(root: &Path, groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (base, file) = if controllers.is_empty() {
            (root.to_owned(), "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            (root.join("memory"), "memory.limit_in_bytes")
        } else {
            continue;
        };
        let relative = Path::new(path.trim_start_matches('/'));
        files.extend(relative.ancestors().map(|group| base.join(group).join(file)));
    }
    files
}

/// The limit in such a file; `None` if it is none. Version 1 writes a number near 2^63 then,
/// which is more than any machine has.
fn group_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_is_read() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100_000));
        let (allowed, resident) = (memory_allowed(), resident_bytes());
        assert!(allowed > resident, "{allowed:?} {resident:?}");
        assert!(disk_free_bytes(Path::new("/")).is_some());
        assert_eq!(disk_free_bytes(Path::new("/nowhere/at/all")), None);
    }

    #[test]
    fn fields_are_found() {
        assert_eq!(resident_pages("4000 1234 800 10 0 300 0\n"), Some(1234));
        assert_eq!(resident_pages(""), None);
        let meminfo = "MemTotal:       16384 kB\nMemFree:  1 kB\n";
        assert_eq!(memory_total(meminfo), Some(16_384 << 10));
        assert_eq!(memory_total("MemFree: 1 kB\n"), None);
        assert_eq!(group_limit("536870912\n"), Some(512 << 20));
        assert_eq!(group_limit("max\n"), None);
    }

    #[test]
    fn groups_and_their_ancestors_are_asked() {
        let root = Path::new("/g");
        let of = |groups| {
            let files = group_files(root, groups).into_iter();
            files.map(|file| file.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            of("0::/system.slice/isthmus.service\n"),
            [
                "/g/system.slice/isthmus.service/memory.max",
                "/g/system.slice/memory.max",
                "/g/memory.max"
            ]
        );
        assert_eq!(
            of("12:cpu,cpuacct:/a\n4:memory:/docker/1:2\n"),
            [
                "/g/memory/docker/1:2/memory.limit_in_bytes",
                "/g/memory/docker/memory.limit_in_bytes",
                "/g/memory/memory.limit_in_bytes"
            ]
        );
        assert_eq!(of("0::/\n"), ["/g/memory.max"]);
        assert_eq!(of("nonsense\n"), [""; 0]);
    }
}
