//! Control groups, where this process may make some: a whole tree is one group, which is killed and measured as one.
//!
//! Version 2 gives `cgroup.kill`, and memory if its parent may pass the controller on; version 1 gives memory. Each run has its
//! own group, named for this process and the run; groups that a dead litekeep left are removed when they are empty.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use litekeep_env::process::Pid;

/// Where groups may be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// This process's group in the hierarchy of version 2.
    pub v2: Option<PathBuf>,
    /// This process's group in version 1's hierarchy of memory.
    pub memory_v1: Option<PathBuf>,
}

impl Cgroups {
    /// The groups that this process is in, as far as it may make others below them.
    pub fn detect() -> Cgroups {
        let found = Cgroups::own();
        let usable = |dir: Option<PathBuf>| dir.filter(|dir| is_usable(dir));
        let cgroups = Cgroups { v2: usable(found.v2), memory_v1: usable(found.memory_v1) };
        if let Some(v2) = &cgroups.v2 {
            // Refused where this process itself is in that group; then the tree's memory is measured otherwise.
            _ = fs::write(v2.join("cgroup.subtree_control"), "+memory");
        }
        cgroups
    }

    fn own() -> Cgroups {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        placed(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
    }

    /// Version 2 only, which tests may use without changing where their memory counts.
    #[cfg(test)]
    pub(crate) fn detect_v2() -> Option<PathBuf> {
        Cgroups::own().v2.filter(|dir| is_usable(dir))
    }

    /// A group for one run; nothing where there are no cgroups.
    pub(crate) fn make(&self, run: &str) -> Group {
        let name = format!("{PREFIX}{}-{}", std::process::id(), run.replace('/', "_"));
        let make = |parent: &Option<PathBuf>| {
            let dir = parent.as_ref()?.join(&name);
            fs::create_dir(&dir).ok()?;
            Some(dir)
        };
        Group { v2: make(&self.v2), memory_v1: make(&self.memory_v1) }
    }
}

const PREFIX: &str = "litekeep-";

/// Whether groups can be made there. Removes what dead processes left.
fn is_usable(parent: &Path) -> bool {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            _ = fs::remove_dir(entry.path());
        }
    }
    let probe = parent.join(format!("{PREFIX}{}-probe", std::process::id()));
    fs::create_dir(&probe).is_ok() && fs::remove_dir(&probe).is_ok()
}

/// This process's groups by the kernel's two tables (proc(5), cgroups(7)).
fn placed(mounts: &str, groups: &str) -> Cgroups {
    let group = |controller: &str| {
        groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            controllers.split(',').any(|name| name == controller).then_some(path)
        })
    };
    let mount = |kind: &str, option: &str| {
        mounts.lines().find_map(|line| {
            let (place, source) = line.split_once(" - ")?;
            let [_, _, _, root, point, ..] = place.split(' ').collect::<Vec<_>>()[..] else { return None };
            let mut source = source.split(' ');
            let matches = source.next()? == kind
                && (option.is_empty() || source.nth(1)?.split(',').any(|word| word == option));
            matches.then_some((root, point))
        })
    };
    let dir = |mount: Option<(&str, &str)>, group: Option<&str>| {
        let ((root, point), group) = (mount?, group?);
        // The mount shows the part of the hierarchy below `root`; a group outside it cannot be reached.
        let below = if root == "/" { group } else { group.strip_prefix(root)? };
        Some(Path::new(point).join(below.trim_start_matches('/')))
    };
    Cgroups {
        v2: dir(mount("cgroup2", ""), group("")),
        memory_v1: dir(mount("cgroup", "memory"), group("memory")),
    }
}

/// The group of one run; removed when dropped.
#[derive(Debug, Default)]
pub(crate) struct Group {
    v2: Option<PathBuf>,
    memory_v1: Option<PathBuf>,
}

impl Group {
    fn dirs(&self) -> impl Iterator<Item = &PathBuf> {
        self.v2.iter().chain(&self.memory_v1)
    }

    /// What a child writes itself to.
    pub(crate) fn entrances(&self) -> io::Result<Vec<File>> {
        self.dirs().map(|dir| File::options().write(true).open(dir.join("cgroup.procs"))).collect()
    }

    /// Kills everything in it, if the kernel can.
    pub(crate) fn kill(&self) {
        if let Some(dir) = &self.v2 {
            _ = fs::write(dir.join("cgroup.kill"), "1");
        }
    }

    /// Everything in it.
    pub(crate) fn pids(&self) -> Vec<Pid> {
        let lists = self.dirs().map(|dir| fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default());
        lists.flat_map(|list| list.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
    }

    /// Bytes of memory that it uses and that cannot simply be dropped; none where no controller counts.
    pub(crate) fn memory(&self) -> Option<u64> {
        let read = |dir: &Path, used: &str, inactive: &str| {
            let used: u64 = fs::read_to_string(dir.join(used)).ok()?.trim().parse().ok()?;
            let stat = fs::read_to_string(dir.join("memory.stat")).ok()?;
            let dropped = stat.lines().find_map(|line| line.strip_prefix(inactive)?.trim().parse().ok());
            Some(used.saturating_sub(dropped.unwrap_or(0)))
        };
        let v2 = self.v2.as_deref().and_then(|dir| read(dir, "memory.current", "inactive_file "));
        let v1 = || read(self.memory_v1.as_deref()?, "memory.usage_in_bytes", "total_inactive_file ");
        v2.or_else(v1)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for dir in self.dirs() {
            _ = fs::remove_dir(dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_in_both_versions() {
        let mounts = "30 25 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      31 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = placed(mounts, "4:memory:/box/1\n0::/\n");
        assert_eq!(found.v2.unwrap(), Path::new("/sys/fs/cgroup/unified/"));
        assert_eq!(found.memory_v1.unwrap(), Path::new("/sys/fs/cgroup/memory/box/1"));
        // A container whose mount shows only its own part.
        let found = placed("1 2 0:1 /kube/a /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "0::/kube/a/b\n");
        assert_eq!(found, Cgroups { v2: Some("/sys/fs/cgroup/b".into()), memory_v1: None });
        assert_eq!(placed("1 2 0:1 /kube/a /x rw - cgroup2 c rw\n", "0::/elsewhere\n"), Cgroups::default());
    }

    #[test]
    fn memory_is_what_cannot_simply_be_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let cgroups = Cgroups { v2: None, memory_v1: Some(dir.path().into()) };
        let group = cgroups.make("web/1");
        let own = group.memory_v1.clone().unwrap();
        assert_eq!(group.memory(), None);
        fs::write(own.join("memory.usage_in_bytes"), "5000\n").unwrap();
        fs::write(own.join("memory.stat"), "inactive_file 1\ntotal_inactive_file 2000\n").unwrap();
        assert_eq!(group.memory(), Some(3000));
    }
}
