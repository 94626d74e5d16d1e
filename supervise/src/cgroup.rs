//! Control groups, where this process may make some: a whole tree is one group, which is killed and measured as one.
//!
//! Version 2 gives `cgroup.kill`, and memory and processor time if its parent may pass these controllers on; version 1 gives each
//! in a hierarchy of its own. Each run has its own group, named for this process and the run; groups that a dead litekeep left are
//! removed when they are empty.
//!
//! A group of version 2 that passes controllers on may have no processes of its own, so litekeep moves below it. That has a price:
//! when litekeep is killed and its processes go on (systemd's `KillMode=process`), systemd cannot put the next litekeep into that
//! group as long as they live (EBUSY, status 219/CGROUP). So controllers are passed on only when something has a limit.

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
    /// This process's group in version 1's hierarchy of processor time.
    pub cpu_v1: Option<PathBuf>,
}

impl Cgroups {
    /// The groups that this process is in, as far as it may make others below them.
    pub fn detect() -> Cgroups {
        let found = Cgroups::own();
        let usable = |dir: Option<PathBuf>| dir.filter(|dir| is_usable(dir));
        Cgroups { v2: usable(found.v2), memory_v1: usable(found.memory_v1), cpu_v1: usable(found.cpu_v1) }
    }

    /// Passes on the controllers that these limits need, and no others; for that this process may move to a group below.
    pub(crate) fn pass_on_for(&self, limits: impl Iterator<Item = Limits>) {
        let Some(v2) = &self.v2 else { return };
        let (memory, cpu) = limits.fold((false, false), |(memory, cpu), limits| {
            (memory || limits.memory.is_some(), cpu || limits.cpu.is_some())
        });
        for (controller, is_needed) in [("memory", memory), ("cpu", cpu)] {
            if is_needed {
                pass_on(v2, controller, std::process::id());
            }
        }
    }

    /// Whether the kernel holds a tree to its limit on memory.
    pub fn limits_memory(&self) -> bool {
        self.memory_v1.is_some() || self.v2.as_deref().is_some_and(|dir| passes_on(dir, "memory"))
    }

    /// Whether the kernel holds a tree to its limit on processor time.
    pub fn limits_cpu(&self) -> bool {
        self.cpu_v1.is_some() || self.v2.as_deref().is_some_and(|dir| passes_on(dir, "cpu"))
    }

    fn own() -> Cgroups {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        placed(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
    }

    /// Without memory, so that tests do not change where their memory counts.
    #[cfg(test)]
    pub(crate) fn detect_without_memory() -> Cgroups {
        let Cgroups { v2, cpu_v1, .. } = Cgroups::own();
        let usable = |dir: Option<PathBuf>| dir.filter(|dir| is_usable(dir));
        Cgroups { v2: usable(v2), memory_v1: None, cpu_v1: usable(cpu_v1) }
    }

    /// A group for one run with its limits; nothing where there are no cgroups.
    pub(crate) fn make(&self, run: &str, limits: Limits) -> Group {
        let name = format!("{PREFIX}{}-{}", std::process::id(), run.replace('/', "_"));
        let make = |parent: &Option<PathBuf>| {
            let dir = parent.as_ref()?.join(&name);
            fs::create_dir(&dir).ok()?;
            Some(dir)
        };
        let cpu_v1 = limits.cpu.and_then(|_| make(&self.cpu_v1));
        let group = Group { v2: make(&self.v2), memory_v1: make(&self.memory_v1), cpu_v1 };
        group.limit(limits);
        group
    }
}

/// What the kernel is to hold a tree to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Limits {
    /// Bytes.
    pub(crate) memory: Option<u64>,
    /// Processors.
    pub(crate) cpu: Option<f64>,
}

fn passes_on(dir: &Path, controller: &str) -> bool {
    let passed = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    passed.split_whitespace().any(|passed| passed == controller)
}

/// Passes a controller on to the groups below. A group with processes of its own may not (cgroups(7)): if only this process is in
/// it, it moves to a group of its own below.
fn pass_on(dir: &Path, controller: &str, own: u32) {
    let path = dir.join("cgroup.subtree_control");
    if fs::write(&path, format!("+{controller}")).is_ok() {
        return;
    }
    let members = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let offered = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    if members.trim() == own.to_string() && offered.split_whitespace().any(|offered| offered == controller) {
        let below = dir.join(format!("{PREFIX}{own}-self"));
        _ = fs::create_dir(&below);
        _ = fs::write(below.join("cgroup.procs"), own.to_string());
        _ = fs::write(&path, format!("+{controller}"));
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
        cpu_v1: dir(mount("cgroup", "cpu"), group("cpu")),
    }
}

/// The group of one run; removed when dropped.
#[derive(Debug, Default)]
pub(crate) struct Group {
    v2: Option<PathBuf>,
    memory_v1: Option<PathBuf>,
    cpu_v1: Option<PathBuf>,
}

/// Microseconds within which a share of processor time is counted.
const CPU_PERIOD: u32 = 100_000;
/// The smallest share that the kernel takes, in microseconds.
const LEAST_CPU: f64 = 1000.0;

impl Group {
    /// The group of a run that an earlier litekeep started, by its [`Group::places`].
    pub(crate) fn again(places: [Option<PathBuf>; 3]) -> Group {
        let [v2, memory_v1, cpu_v1] = places.map(|dir| dir.filter(|dir| dir.is_dir()));
        Group { v2, memory_v1, cpu_v1 }
    }

    /// Its folders: of version 2, of memory and of processor time.
    pub(crate) fn places(&self) -> [Option<&Path>; 3] {
        [self.v2.as_deref(), self.memory_v1.as_deref(), self.cpu_v1.as_deref()]
    }

    /// Sets limits as far as there are controllers. Memory is slowed down at its limit, where samples see it, and ends at a
    /// quarter more, so that one burst does not take the machine's.
    pub(crate) fn limit(&self, limits: Limits) {
        let set = |dir: &Option<PathBuf>, name: &str, value: String| {
            if let Some(dir) = dir {
                _ = fs::write(dir.join(name), value);
            }
        };
        let high = limits.memory.map_or("max".into(), |bytes| bytes.to_string());
        let wall = limits.memory.map(|bytes| bytes.saturating_add(bytes / 4));
        set(&self.v2, "memory.high", high);
        set(&self.v2, "memory.max", wall.map_or("max".into(), |bytes| bytes.to_string()));
        set(&self.v2, "memory.oom.group", "1".into());
        set(&self.memory_v1, "memory.limit_in_bytes", wall.map_or("-1".into(), |bytes| bytes.to_string()));
        let quota = limits.cpu.map(|cpus| (cpus * f64::from(CPU_PERIOD)).max(LEAST_CPU) as u64);
        let share = quota.map_or("max".into(), |quota| quota.to_string());
        set(&self.v2, "cpu.max", format!("{share} {CPU_PERIOD}"));
        set(&self.cpu_v1, "cpu.cfs_period_us", CPU_PERIOD.to_string());
        set(&self.cpu_v1, "cpu.cfs_quota_us", quota.map_or("-1".into(), |quota| quota.to_string()));
    }

    /// That the kernel killed a process of it for want of memory, in words.
    pub(crate) fn ran_out_of_memory(&self) -> Option<&'static str> {
        let files = [(&self.v2, "memory.events"), (&self.memory_v1, "memory.oom_control")];
        let was_killed = files.into_iter().any(|(dir, name)| {
            let text =
                dir.as_ref().and_then(|dir| fs::read_to_string(dir.join(name)).ok()).unwrap_or_default();
            let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse::<u64>().ok());
            kills.is_some_and(|kills| kills > 0)
        });
        was_killed.then_some("memory: the kernel killed a process at its limit")
    }

    fn dirs(&self) -> impl Iterator<Item = &PathBuf> {
        self.v2.iter().chain(&self.memory_v1).chain(&self.cpu_v1)
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
        assert_eq!(found, Cgroups { v2: Some("/sys/fs/cgroup/b".into()), ..Cgroups::default() });
        assert_eq!(placed("1 2 0:1 /kube/a /x rw - cgroup2 c rw\n", "0::/elsewhere\n"), Cgroups::default());
    }

    #[test]
    fn memory_is_what_cannot_simply_be_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let cgroups = Cgroups { memory_v1: Some(dir.path().into()), ..Cgroups::default() };
        let group = cgroups.make("web/1", Limits { memory: Some(4000), cpu: None });
        let own = group.memory_v1.clone().unwrap();
        assert_eq!(group.memory(), None);
        fs::write(own.join("memory.usage_in_bytes"), "5000\n").unwrap();
        fs::write(own.join("memory.stat"), "inactive_file 1\ntotal_inactive_file 2000\n").unwrap();
        assert_eq!(group.memory(), Some(3000));
        assert_eq!(fs::read_to_string(own.join("memory.limit_in_bytes")).unwrap(), "5000");
        assert_eq!(group.ran_out_of_memory(), None);
        fs::write(own.join("memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n").unwrap();
        assert!(group.ran_out_of_memory().is_some());
    }

    #[test]
    fn a_group_in_which_only_this_process_is_passes_controllers_on_when_it_has_moved_below() {
        let Some(v2) = Cgroups::detect_without_memory().v2 else {
            eprintln!("skipped: no writable cgroup of version 2 here");
            return;
        };
        let offered = fs::read_to_string(v2.join("cgroup.controllers")).unwrap();
        let offered: Vec<&str> = offered.split_whitespace().collect();
        let passed = offered.iter().find(|name| passes_on(&v2, name));
        let turn = |name: &str, sign| fs::write(v2.join("cgroup.subtree_control"), format!("{sign}{name}"));
        let Some(controller) = passed.or_else(|| offered.iter().find(|name| turn(name, '+').is_ok())) else {
            eprintln!("skipped: no controller to pass on here");
            return;
        };
        let dir = v2.join(format!("{PREFIX}{}-test", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
        pass_on(&dir, controller, child.id() + 1);
        assert!(!passes_on(&dir, controller), "another process is in it");
        pass_on(&dir, controller, child.id());
        let passes = passes_on(&dir, controller);
        child.kill().unwrap();
        child.wait().unwrap();
        _ = fs::remove_dir(dir.join(format!("{PREFIX}{}-self", child.id())));
        _ = fs::remove_dir(&dir);
        if passed.is_none() {
            _ = turn(controller, '-');
        }
        assert!(passes);
    }
}
