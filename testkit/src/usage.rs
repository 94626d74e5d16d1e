//! What a process costs, from `/proc`: CPU time in ticks of the kernel (10 ms), memory, descriptors.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// One look at a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of all its threads, in user mode and in the kernel.
    pub cpu: Duration,
    /// The same of its children that have ended and were waited for.
    pub cpu_of_children: Duration,
    /// Memory that is resident now, bytes.
    pub rss: u64,
    /// The most that ever was, bytes.
    pub peak_rss: u64,
    /// Open descriptors.
    pub descriptors: usize,
}

impl Usage {
    /// Looks at the process with this number.
    ///
    /// # Errors
    /// When there is none, or it has ended.
    pub fn of(process: u32) -> Result<Self> {
        Self::read(process).with_context(|| format!("read what process {process} uses"))
    }

    fn read(process: u32) -> Result<Self> {
        let dir = format!("/proc/{process}");
        let stat = fs::read_to_string(format!("{dir}/stat"))?;
        let status = fs::read_to_string(format!("{dir}/status"))?;
        // The name in parentheses may hold anything; utime, stime, cutime and cstime are fields 14 to 17 of proc(5).
        let (_, fields) = stat.rsplit_once(')').context("find the end of the name")?;
        let ticks: Vec<u64> =
            fields.split_whitespace().skip(11).take(4).map_while(|word| word.parse().ok()).collect();
        let &[user, system, children_user, children_system] = ticks.as_slice() else {
            anyhow::bail!("{dir}/stat has no CPU times: {stat:?}");
        };
        // An ended process that nobody waited for has no memory.
        let kib = |name: &str| -> Result<u64> {
            let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let value = value.and_then(|value| value.split_whitespace().next()).context("it has ended")?;
            Ok(value.parse::<u64>()? * 1024)
        };
        Ok(Self {
            cpu: duration(user + system),
            cpu_of_children: duration(children_user + children_system),
            rss: kib("VmRSS")?,
            peak_rss: kib("VmHWM")?,
            descriptors: fs::read_dir(format!("{dir}/fd"))?.count(),
        })
    }
}

/// CPU time that the whole machine spent at work since it started, all cores together.
///
/// # Errors
/// When `/proc/stat` cannot be read.
pub fn machine_cpu() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are in the first two.
    let &[user, nice, system, _, _, irq, softirq, steal, ..] = ticks.as_slice() else {
        anyhow::bail!("/proc/stat begins with {line:?}");
    };
    Ok(duration(user + nice + system + irq + softirq + steal))
}

#[allow(unsafe_code, reason = "sysconf(3) has no safe form in std")]
fn duration(ticks: u64) -> Duration {
    // SAFETY: sysconf takes and gives numbers only.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Duration::from_secs_f64(ticks as f64 / per_second as f64)
}
