//! What does a restart cost after the application went on without the replicator? It is killed; 3,000 commits, a
//! checkpoint that empties the WAL and 100 more commits follow; it starts again, and one more commit is made. Measured:
//! until the store holds that last commit, and what was uploaded for it. At the end a restore must equal the source.

use std::time::Duration;

use anyhow::Result;
use litekeep_testkit::clock;

use crate::outcome::Outcome;
use crate::stage::{APP, Stage, stop};

pub(crate) fn play(stage: &Stage<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut source = stage.big()?;
    let replicator = stage.replicate_app()?;
    for _ in 0..20 {
        source.commit()?;
        std::thread::sleep(Duration::from_millis(50));
    }
    stage.shipped(&[APP.into()])?;
    replicator.kill()?;
    for _ in 0..3_000 {
        source.commit()?;
    }
    source.checkpoint_truncate()?;
    for _ in 0..100 {
        source.commit()?;
    }
    let (uploaded, start) = (stage.store.uploaded(), clock::monotonic_ns());
    let replicator = stage.start()?;
    std::thread::sleep(Duration::from_millis(300));
    let last = source.commit()?;
    let lags = stage.lags(&[APP.into()], &[last], &mut outcome)?;
    let usage = replicator.usage()?;
    if let [lag_ms] = lags[..] {
        outcome.less("until current", "s", lag_ms / 1e3 + (last.done_ns - start) as f64 / 1e9);
    }
    outcome.mib("uploaded", stage.store.uploaded() - uploaded);
    outcome.time("CPU", usage.cpu);
    outcome.mib("peak memory", usage.peak_rss);
    stage.check(APP, &mut outcome)?;
    stop(replicator)?;
    Ok(outcome)
}
