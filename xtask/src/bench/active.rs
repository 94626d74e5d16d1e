//! What do 100 databases cost that each commit once a second, evenly spread, and how far behind is the store?

use std::time::Duration;

use anyhow::Result;

use crate::outcome::Outcome;
use crate::source::{Source, Writer};
use crate::stage::{QUIET, Stage, stop};

const DATABASES: usize = 100;

pub(crate) fn play(stage: &Stage<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let names = stage.databases(DATABASES)?;
    let sources = names.iter().map(|name| Source::open(&stage.path(name))).collect::<Result<Vec<_>>>()?;
    let mut replicator = stage.replicate(&names)?;
    stage.wait_for_first_copies(&mut replicator, &names)?;
    stage.settle(QUIET)?;
    let before = replicator.usage()?;
    let written = Writer::start(sources, Duration::from_secs(1) / DATABASES as u32).work(stage.load())?;
    let after = replicator.usage()?;
    let lags = stage.lags(&names, &written.commits, &mut outcome)?;
    stop(replicator)?;
    outcome.lags(lags);
    outcome.cpu(after.cpu - before.cpu, written.wall);
    outcome.mib("memory", after.rss);
    outcome.note("commits", "a second", written.commits.len() as f64 / written.wall.as_secs_f64());
    Ok(outcome)
}
