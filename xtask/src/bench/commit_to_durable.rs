//! How long after a commit does the store hold it? A writer commits about every 50 ms and stamps the clock after each
//! COMMIT; the store stamps each file. Afterwards the files say which of them was the first to hold each commit.

use std::time::Duration;

use anyhow::Result;

use crate::outcome::Outcome;
use crate::source::{Source, Writer};
use crate::stage::{APP, Stage, stop};

pub(crate) fn play(stage: &Stage<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let source = Source::create(&stage.path(APP), 100)?;
    let replicator = stage.replicate_app()?;
    let before = replicator.usage()?;
    let written = Writer::start(vec![source], Duration::from_millis(50)).work(stage.load())?;
    let after = replicator.usage()?;
    let lags = stage.lags(&[APP.into()], &written.commits, &mut outcome)?;
    stop(replicator)?;
    outcome.lags(lags);
    outcome.cpu(after.cpu - before.cpu, written.wall);
    outcome.mib("peak memory", after.peak_rss);
    outcome.note("commits", "", written.commits.len() as f64);
    Ok(outcome)
}
