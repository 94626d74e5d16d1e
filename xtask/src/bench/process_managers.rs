//! Who runs processes: `litekeep up` beside a database that it replicates, or PM2.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use litekeep_testkit::installed;
use serde_json::{Value, json};

use crate::stage::Stage;

/// A process manager in the background; dropping it ends it with all that it runs.
pub(crate) struct Manager {
    program: PathBuf,
    dir: PathBuf,
    /// Arguments that start everything in the background, and end it.
    start: Vec<String>,
    pub(crate) end: Vec<String>,
    /// Arguments that follow the output of a process whose name comes after them.
    follow: Vec<String>,
    /// A file whose first line is the process id of what stays.
    pid: PathBuf,
}

impl Manager {
    /// `processes` are the tables of the configuration.
    pub(crate) fn litekeep(stage: &Stage<'_>, dir: &Path, processes: &str) -> Result<Manager> {
        let database = stage.databases(1)?.remove(0);
        let database = stage.path(&database);
        let toml = format!("[[database]]\npath = {database:?}\nbackup = \"./backup\"\n{processes}");
        let config = dir.join("litekeep.toml");
        std::fs::write(&config, toml)?;
        let verb = |verb: &[&str]| {
            let words = verb.iter().copied().chain(["--config"]).map(str::to_owned);
            words.chain([config.display().to_string()]).collect()
        };
        Ok(Manager {
            program: stage.bench.litekeep.clone(),
            dir: dir.to_owned(),
            start: verb(&["up", "--detach"]),
            end: verb(&["down"]),
            follow: verb(&["logs", "-f"]),
            pid: dir.join(".litekeep/lock"),
        })
    }

    pub(crate) fn pm2(dir: &Path, apps: Vec<Value>) -> Result<Manager> {
        let config = dir.join("ecosystem.config.json");
        std::fs::write(&config, json!({ "apps": apps }).to_string())?;
        Ok(Manager {
            program: installed::pm2()?,
            dir: dir.to_owned(),
            start: vec!["start".into(), config.display().to_string()],
            end: vec!["kill".into()],
            follow: vec!["logs".into(), "--raw".into()],
            pid: dir.join("pm2/pm2.pid"),
        })
    }

    pub(crate) fn start(&self) -> Result<()> {
        self.run(&self.start)
    }

    pub(crate) fn end(&self) -> Result<()> {
        self.run(&self.end)
    }

    /// What prints the output of a process as it comes.
    pub(crate) fn follow(&self, process: &str) -> Command {
        let mut command = self.command(&self.follow);
        command.arg(process);
        command
    }

    pub(crate) fn command(&self, arguments: &[String]) -> Command {
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

    pub(crate) fn pid(&self) -> Result<u32> {
        let text = std::fs::read_to_string(&self.pid).with_context(|| format!("read {:?}", self.pid))?;
        text.trim().parse().with_context(|| format!("{:?} has no process id", self.pid))
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        _ = self.command(&self.end).stderr(Stdio::null()).status();
    }
}
