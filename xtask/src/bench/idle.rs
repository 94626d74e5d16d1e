//! What do 1,000 databases cost in which nothing happens? One process replicates them; once each has its first copy and
//! the store is quiet, it is only watched.

use anyhow::Result;
use litekeep_testkit::clock;

use crate::outcome::Outcome;
use crate::stage::{QUIET, Stage, stop};

const DATABASES: usize = 1_000;

pub(crate) fn play(stage: &Stage<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let names = stage.databases(DATABASES)?;
    let start = clock::monotonic_ns();
    let mut replicator = stage.replicate(&names)?;
    let copied = stage.wait_for_first_copies(&mut replicator, &names)?;
    stage.settle(QUIET)?;
    let (before, requests) = (replicator.usage()?, stage.store.requests());
    std::thread::sleep(stage.load());
    let after = replicator.usage()?;
    outcome.less("first copies", "s", (copied - start) as f64 / 1e9);
    outcome.time("CPU until quiet", before.cpu);
    outcome.cpu(after.cpu - before.cpu, stage.load());
    outcome.mib("memory", after.rss);
    outcome.less("descriptors", "", after.descriptors as f64);
    if let (Some(before), Some(after)) = (requests, stage.store.requests()) {
        outcome.less("requests", "a minute", (after - before) as f64 * 60.0 / stage.load().as_secs_f64());
    }
    stage.check(&names[DATABASES / 2], &mut outcome)?;
    stop(replicator)?;
    Ok(outcome)
}
