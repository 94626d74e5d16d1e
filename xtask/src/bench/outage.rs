//! What does an outage of the store cost, and when is it made up for? A writer commits about every 50 ms; for ten seconds
//! each request is answered 503. Measured from the end of the outage until the store holds what was committed by
//! then. At the end a restore must equal the source. S3 only.

use std::time::Duration;

use anyhow::{Context, Result};
use litekeep_testkit::clock;
use litekeep_testkit::fault_proxy::Fault;

use crate::outcome::Outcome;
use crate::source::{Commit, Source, Writer};
use crate::stage::{APP, Stage, stop};

const OUTAGE: Duration = Duration::from_secs(10);

pub(crate) fn play(stage: &Stage<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let proxy = stage.store.proxy().context("an outage needs the proxy")?;
    let source = Source::create(&stage.path(APP), 100)?;
    let replicator = stage.replicate_app()?;
    let writer = Writer::start(vec![source], Duration::from_millis(50));
    std::thread::sleep(Duration::from_secs(2));
    let before = proxy.counts().total();
    proxy.outage(Some(Fault::Status(503)));
    std::thread::sleep(OUTAGE);
    proxy.outage(None);
    let (end, after) = (clock::monotonic_ns(), proxy.counts().total());
    let written = writer.work(stage.load())?;
    let during: Vec<Commit> = written.commits.into_iter().filter(|commit| commit.done_ns <= end).collect();
    let last = during.last().copied().context("nothing was committed")?;
    let lags = stage.lags(&[APP.into()], &during, &mut outcome)?;
    let usage = replicator.usage()?;
    if let Some(lag_ms) = lags.last() {
        outcome.less("until current", "s", lag_ms / 1e3 - (end - last.done_ns) as f64 / 1e9);
    }
    outcome.less("requests during it", "", (after.requests - before.requests) as f64);
    outcome.mib("peak memory", usage.peak_rss);
    stage.check(APP, &mut outcome)?;
    stop(replicator)?;
    Ok(outcome)
}
