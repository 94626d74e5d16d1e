//! What does a restart cost after the application went on without the replicator? It is killed; 3,000 commits, a
//! checkpoint that empties the WAL and 100 more commits follow; it starts again, and one more commit is made. Measured:
//! until the store holds that last commit, and what was uploaded for it. At the end a restore must equal the source.

use std::time::Duration;

use anyhow::Result;
use litekeep_testkit::clock;

use crate::outcome::Outcome;
use crate::stage::{APP, QUIET, Stage, stop};

pub(crate) fn play(stage: &Stage<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut source = stage.big()?;
    let replicator = stage.replicate_app()?;
    for _ in 0..20 {
        source.commit()?;
        std::thread::sleep(Duration::from_millis(50));
    }
    stage.settle(QUIET)?;
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
    source.commit()?;
    stage.settle(2 * QUIET)?;
    let usage = replicator.usage()?;
    match stage.states(APP)?.iter().find(|state| state.newest >= source.newest()) {
        Some(state) => outcome.less("until current", "s", (state.ns - start) as f64 / 1e9),
        None => outcome.wrong("the last commit never came".into()),
    }
    outcome.mib("uploaded", stage.store.uploaded() - uploaded);
    outcome.time("CPU", usage.cpu);
    outcome.mib("peak memory", usage.peak_rss);
    stage.check(APP, &mut outcome)?;
    stop(replicator)?;
    Ok(outcome)
}
