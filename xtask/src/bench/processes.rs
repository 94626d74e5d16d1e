//! What do 100 processes cost that only wait, how soon is one back that was killed, and how long does it take to end them
//! all? litekeep replicates one database beside them. Each process writes its id into a file and becomes a `sleep`; the
//! first crash of 20 of them is timed from the kill to the next id. The end is timed as a user asks for it: `litekeep
//! down`, `pm2 kill`, until the last process is gone.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use litekeep_testkit::process::eventually;
use litekeep_testkit::{Usage, installed};

use crate::outcome::{Outcome, quantile};
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
        System::Litekeep => Manager::litekeep(stage, &dir)?,
        System::Pm2 => Manager::pm2(&dir)?,
        system => bail!("{} runs no processes", system.name()),
    };
    let begin = Instant::now();
    manager.run(&manager.start)?;
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

/// Who runs the processes.
struct Manager {
    program: PathBuf,
    dir: PathBuf,
    /// Arguments that start everything in the background, and end it.
    start: Vec<String>,
    end: Vec<String>,
    /// A file whose first line is the process id of what stays.
    pid: PathBuf,
}

impl Manager {
    fn litekeep(stage: &Stage<'_>, dir: &Path) -> Result<Manager> {
        let database = stage.databases(1)?.remove(0);
        let database = stage.path(&database);
        let mut toml = format!("[[database]]\npath = {database:?}\nbackup = \"./backup\"\n");
        for process in 0..PROCESSES {
            let _ = write!(
                toml,
                "[process.p{process}]\ncommand = [\"sh\", \"-c\", {:?}]\n",
                script(dir, process)
            );
        }
        let config = dir.join("litekeep.toml");
        std::fs::write(&config, toml)?;
        let verb = |verb: &str| vec![verb.to_owned(), "--config".into(), config.display().to_string()];
        let mut start = verb("up");
        start.push("--detach".into());
        Ok(Manager {
            program: stage.bench.litekeep.clone(),
            dir: dir.to_owned(),
            start,
            end: verb("down"),
            pid: dir.join(".litekeep/lock"),
        })
    }

    fn pm2(dir: &Path) -> Result<Manager> {
        let app = |process: usize| {
            let script = script(dir, process);
            serde_json::json!({ "name": format!("p{process}"), "script": "sh", "args": ["-c", script], "interpreter": "none" })
        };
        let apps: Vec<_> = (0..PROCESSES).map(app).collect();
        let config = dir.join("ecosystem.config.json");
        std::fs::write(&config, serde_json::json!({ "apps": apps }).to_string())?;
        Ok(Manager {
            program: installed::pm2()?,
            dir: dir.to_owned(),
            start: vec!["start".into(), config.display().to_string()],
            end: vec!["kill".into()],
            pid: dir.join("pm2/pm2.pid"),
        })
    }

    fn command(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("PM2_HOME", self.dir.join("pm2")).current_dir(&self.dir);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn run(&self, arguments: &[String]) -> Result<()> {
        let status = self.command(arguments).status().with_context(|| format!("start {:?}", self.program))?;
        ensure!(status.success(), "{:?} {arguments:?} ended with {status}", self.program);
        Ok(())
    }

    fn pid(&self) -> Result<u32> {
        let text = std::fs::read_to_string(&self.pid).with_context(|| format!("read {:?}", self.pid))?;
        text.trim().parse().with_context(|| format!("{:?} has no process id", self.pid))
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        _ = self.command(&self.end).stderr(Stdio::null()).status();
    }
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
