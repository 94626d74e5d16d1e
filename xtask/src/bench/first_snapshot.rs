//! How long until a big database has its first copy, what does it cost, and does the application notice? A writer
//! commits every 10 ms, for one second alone, then beside the replicator until its first copy is complete and the store
//! is quiet again. At the end a restore must equal the source.

use std::time::Duration;

use anyhow::Result;
use litekeep_testkit::clock;

use crate::outcome::{Outcome, quantile};
use crate::source::{Commit, Writer};
use crate::stage::{APP, QUIET, Stage, stop};

pub(crate) fn play(stage: &Stage<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let writer = Writer::start(vec![stage.big()?], Duration::from_millis(10));
    std::thread::sleep(Duration::from_secs(1));
    let start = clock::monotonic_ns();
    let mut replicator = stage.replicate(&[APP.into()])?;
    let copied = stage.wait_for_first_copies(&mut replicator, &[APP.into()])?;
    let written = writer.stop()?;
    stage.shipped(&[APP.into()])?;
    stage.settle(2 * QUIET)?;
    let usage = replicator.usage()?;
    let commits =
        |from: i64, to: i64| p99(written.commits.iter().filter(|c| (from..to).contains(&c.began_ns)));
    outcome.less("first copy", "s", (copied - start) as f64 / 1e9);
    outcome.time("CPU until quiet", usage.cpu);
    outcome.mib("uploaded", stage.store.uploaded());
    outcome.mib("peak memory", usage.peak_rss);
    outcome.note("a commit's p99 before", "ms", commits(0, start));
    outcome.less("a commit's p99 during", "ms", commits(start, copied));
    stage.check(APP, &mut outcome)?;
    stop(replicator)?;
    Ok(outcome)
}

fn p99<'a>(commits: impl Iterator<Item = &'a Commit>) -> f64 {
    let mut took: Vec<f64> = commits.map(|commit| (commit.done_ns - commit.began_ns) as f64 / 1e6).collect();
    took.sort_by(f64::total_cmp);
    quantile(&took, 0.99)
}
