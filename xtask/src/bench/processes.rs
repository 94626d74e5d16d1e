//! What do 100 processes cost that only wait, how soon is one back that was killed, and how long does it take to end them
//! all? litekeep replicates one database beside them. Each process writes its id into a file and becomes a `sleep`; the
//! first crash of 20 of them is timed from the kill to the next id. The end is timed as a user asks for it: `litekeep
//! down`, `pm2 kill`, until the last process is gone.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use litekeep_testkit::Usage;
use litekeep_testkit::process::eventually;
use serde_json::json;

use crate::outcome::{Outcome, quantile};
use crate::process_managers::Manager;
use crate::stage::{LONG, Stage};
use crate::system::System;

const PROCESSES: usize = 100;
const CRASHES: usize = 20;
/// Before the load is measured, so that starting is over.
const SETTLE: Duration = Duration::from_secs(5);

pub(crate) fn play(stage: &Stage<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let dir = stage.path("processes");
    std::fs::create_dir_all(dir.join("pids"))?;
    let manager = match stage.system {
        System::Litekeep => {
            let toml = (0..PROCESSES).fold(String::new(), |mut toml, process| {
                let script = script(&dir, process);
                let _ = write!(toml, "[process.p{process}]\ncommand = [\"sh\", \"-c\", {script:?}]\n");
                toml
            });
            Manager::litekeep(stage, &dir, &toml)?
        }
        System::Pm2 => {
            let app = |process: usize| json!({ "name": format!("p{process}"), "script": "sh", "args": ["-c", script(&dir, process)], "interpreter": "none" });
            Manager::pm2(&dir, (0..PROCESSES).map(app).collect())?
        }
        system => bail!("{} runs no processes", system.name()),
    };
    let begin = Instant::now();
    manager.start()?;
    let mut pids = Vec::new();
    for process in 0..PROCESSES {
        pids.push(pid(&dir, process, None)?);
    }
    outcome.less("all run after", "ms", begin.elapsed().as_secs_f64() * 1e3);
    std::thread::sleep(SETTLE);
    let own = manager.pid()?;
    let before = Usage::of(own)?;
    std::thread::sleep(stage.load());
    let after = Usage::of(own)?;
    outcome.cpu(after.cpu - before.cpu, stage.load());
    outcome.mib("memory", after.rss);

    let mut back = Vec::new();
    for (process, known) in pids.iter_mut().enumerate().take(CRASHES) {
        let begin = Instant::now();
        kill(*known)?;
        *known = pid(&dir, process, Some(*known))?;
        back.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    back.sort_by(f64::total_cmp);
    outcome.less("first restart p50", "ms", quantile(&back, 0.5));
    outcome.less("first restart max", "ms", quantile(&back, 1.0));

    let begin = Instant::now();
    let mut ending = manager.command(&manager.end).spawn().context("end them all")?;
    let alive = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
    eventually("all have ended", LONG, || Ok(!pids.iter().any(alive)))?;
    outcome.less("all ended after", "ms", begin.elapsed().as_secs_f64() * 1e3);
    ensure!(ending.wait()?.success(), "{:?} failed", manager.end);
    Ok(outcome)
}

/// Appears whole, so that it is never read half.
fn script(dir: &Path, process: usize) -> String {
    let file = dir.join("pids").join(process.to_string());
    format!("echo $$ >{0}.tmp && mv {0}.tmp {0} && exec sleep 1000000", file.display())
}

/// The id of a process, once it is another one than `not`.
fn pid(dir: &Path, process: usize, not: Option<u32>) -> Result<u32> {
    let file = dir.join("pids").join(process.to_string());
    let mut found = None;
    eventually("the process runs", LONG, || {
        found = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        Ok(found.is_some() && found != not)
    })?;
    found.context("the process has no id")
}

fn kill(pid: u32) -> Result<()> {
    let status = Command::new("kill").arg("-9").arg(pid.to_string()).status().context("start kill")?;
    ensure!(status.success(), "kill {pid} failed");
    Ok(())
}
