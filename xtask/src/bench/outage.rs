//! What does an outage of the store cost, and when is it made up for? A writer commits about every 50 ms; for ten seconds
//! each request is answered 503. Measured from the end of the outage until the store holds what was committed by
//! then. At the end a restore must equal the source. S3 only.

use std::time::Duration;

use anyhow::{Context, Result};
use litekeep_testkit::clock;
use litekeep_testkit::fault_proxy::Fault;

use crate::outcome::Outcome;
use crate::source::{Source, Writer};
use crate::stage::{APP, QUIET, Stage, stop};

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
    // Longer than the longest pause between two attempts that was seen.
    let written = writer.work(stage.load())?;
    stage.settle(2 * QUIET)?;
    let usage = replicator.usage()?;
    let states = stage.states(APP)?;
    let due = written.commits.iter().filter(|commit| commit.done_ns <= end).map(|commit| commit.n).max();
    match states.iter().find(|state| Some(state.newest) >= due) {
        Some(state) => outcome.less("until current", "s", ((state.ns - end) as f64 / 1e9).max(0.0)),
        None => outcome.wrong("what was committed during the outage never came".into()),
    }
    stage.lags(&[APP.into()], &written.commits, &mut outcome)?;
    outcome.less("requests during it", "", (after.requests - before.requests) as f64);
    outcome.mib("peak memory", usage.peak_rss);
    stage.check(APP, &mut outcome)?;
    stop(replicator)?;
    Ok(outcome)
}
