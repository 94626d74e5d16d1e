//! How much a whole tree may use, and who sees to that.
//!
//! Where a cgroup has the controllers, the kernel holds the tree to its limits on memory and processor time. Without one nothing limits
//! processor time, which [`not_enforced`] says. Memory is measured in any case, and too much of it is a reason for a new run:
//! measured by the tree's cgroup where one counts, else as the sum of the proportional set sizes of all its processes, so a
//! command behind `sh -c` counts like any other. One sample may be a peak; only several in a row are a reason.

use std::time::Duration;

use crate::cgroup::Cgroups;
use crate::process::Spec;
use crate::tree::{Tree, proportional_memory};

/// A limit on the memory of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes.
    pub max: u64,
    /// So many samples in a row above it are too much.
    pub samples: u32,
    /// From one sample to the next.
    pub every: Duration,
}

impl Memory {
    /// A limit with the usual patience.
    pub fn new(max: u64) -> Memory {
        Memory { max, samples: 3, every: Duration::from_secs(5) }
    }

    /// Waits until the tree uses too much, and says so.
    pub(crate) async fn exceeded(&self, tree: &Tree) -> String {
        let mut above = 0;
        loop {
            let used = used(tree).await;
            above = if used > self.max { above + 1 } else { 0 };
            if above >= self.samples.max(1) {
                let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
                return format!(
                    "its processes use {:.1} MiB, the limit is {:.1} MiB",
                    mib(used),
                    mib(self.max)
                );
            }
            tokio::time::sleep(self.every).await;
        }
    }
}

/// What is asked for, by `(name, spec)`, and cannot be had with these cgroups; none if all can.
pub fn not_enforced<'a>(
    cgroups: &Cgroups,
    specs: impl Iterator<Item = (&'a str, &'a Spec)> + Clone,
) -> Option<String> {
    let with = |has: fn(&Spec) -> bool| {
        let names = specs.clone().filter(|(_, spec)| has(spec)).map(|(name, _)| format!("`{name}`"));
        Some(names.collect::<Vec<_>>().join(", ")).filter(|names| !names.is_empty())
    };
    let cpu = with(|spec| spec.cpu.is_some()).filter(|_| !cgroups.limits_cpu());
    let memory = with(|spec| spec.memory.is_some()).filter(|_| !cgroups.limits_memory());
    let cpu = cpu.map(|names| format!("the limit on processor time of {names} is not enforced"));
    let memory = memory
        .map(|names| format!("the limit on memory of {names} is measured only, not enforced by the kernel"));
    let what = cpu.into_iter().chain(memory).collect::<Vec<_>>().join("; ");
    let hint = "litekeep may make no cgroup with that controller (under systemd: `Delegate=yes`)";
    (!what.is_empty()).then(|| format!("{what}: {hint}"))
}

async fn used(tree: &Tree) -> u64 {
    if let Some(bytes) = tree.group_memory() {
        return bytes;
    }
    let members = tree.members_now().await;
    let sum = move || proportional_memory(&members);
    tokio::task::spawn_blocking(sum).await.expect("reading /proc does not panic")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spawn::{Command, Spawn};

    #[test]
    fn what_is_not_enforced_is_said_with_the_names() {
        let mut spec = Spec::new(Spawn::new(Command::shell("true")));
        let none = Cgroups::default();
        assert_eq!(not_enforced(&none, [("web", &spec)].into_iter()), None);
        (spec.cpu, spec.memory) = (Some(0.5), Some(Memory::new(1)));
        let said = not_enforced(&none, [("web", &spec), ("api", &spec)].into_iter()).unwrap();
        assert!(said.contains("processor time of `web`, `api` is not enforced"), "{said}");
        assert!(said.contains("memory of `web`, `api` is measured only"), "{said}");
        let v1 = Cgroups { memory_v1: Some("/m".into()), cpu_v1: Some("/c".into()), ..none };
        assert_eq!(not_enforced(&v1, [("web", &spec)].into_iter()), None);
    }
}
