//! How long does it take to get a big database back, and how much memory? The store holds its first snapshot and a
//! hundred transactions after it; the page cache is warm. "Alone" is `cp` of the same file with an fsync.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use litekeep_testkit::Process;

use crate::outcome::Outcome;
use crate::stage::{APP, LONG, Stage, stop, to_end};
use crate::system::System;

pub(crate) fn play(stage: &Stage<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut source = stage.big()?;
    if stage.system == System::Alone {
        let copy = stage.path("copy.db");
        let mut command = Command::new("cp");
        command.arg(stage.path(APP)).arg(&copy);
        let start = Instant::now();
        let mut process = Process::start(command, &stage.path("log"))?;
        let usage = to_end(&mut process)?;
        ensure!(process.wait(LONG)?.success(), "cp failed:\n{}", process.output());
        std::fs::File::open(&copy)?.sync_all()?;
        outcome.time("time", start.elapsed());
        outcome.mib("peak memory", usage.peak_rss);
        return Ok(outcome);
    }
    let replicator = stage.replicate_app()?;
    for _ in 0..100 {
        source.commit()?;
        std::thread::sleep(Duration::from_millis(5));
    }
    stage.shipped(&[APP.into()])?;
    stop(replicator)?;
    let restored = stage.restore(APP, None)?;
    outcome.time("time", restored.wall);
    outcome.time("CPU", restored.usage.cpu);
    outcome.mib("peak memory", restored.usage.peak_rss);
    stage.check(APP, &mut outcome)?;
    Ok(outcome)
}
