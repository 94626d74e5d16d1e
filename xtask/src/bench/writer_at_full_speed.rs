//! What does a replicator cost an application that commits as fast as it can? Transactions of one insert and one update
//! with `synchronous = NORMAL`, beside a replicator and alone. The CPU is the replicator's until all is shipped, for
//! each commit; the WAL is what the application sees of it. At the end a restore must equal the source.

use std::time::Duration;

use anyhow::Result;

use crate::outcome::Outcome;
use crate::source::{Source, Writer};
use crate::stage::{APP, Stage, stop};
use crate::system::System;

pub(crate) fn play(stage: &Stage<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let source = Source::create(&stage.path(APP), 10_000)?;
    let replicator = if stage.system == System::Alone { None } else { Some(stage.replicate_app()?) };
    let before = replicator.as_ref().map(|replicator| replicator.usage()).transpose()?;
    let written = Writer::start(vec![source], Duration::ZERO).work(stage.load())?;
    let commits = written.commits.len() as f64;
    outcome.more("commits", "a second", commits / written.wall.as_secs_f64());
    outcome.mib("largest WAL", written.largest_wal);
    if let (Some(replicator), Some(before)) = (replicator, before) {
        stage.shipped(&[APP.into()])?;
        let after = replicator.usage()?;
        outcome.less("CPU a commit", "µs", (after.cpu - before.cpu).as_secs_f64() * 1e6 / commits);
        outcome.mib("peak memory", after.peak_rss);
        stage.check(APP, &mut outcome)?;
        stop(replicator)?;
    }
    Ok(outcome)
}
