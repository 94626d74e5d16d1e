//! What does one transaction of half the big database's size cost? Measured from its COMMIT's return until the store
//! holds it, and the most memory that the replicator took. At the end a restore must equal the source.

use anyhow::Result;

use crate::outcome::Outcome;
use crate::source::Source;
use crate::stage::{APP, Stage, stop};

pub(crate) fn play(stage: &Stage<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut source = Source::create(&stage.path(APP), 100)?;
    let replicator = stage.replicate_app()?;
    let before = replicator.usage()?;
    let commit = source.commit_big(stage.bench.options.big_bytes() / 2)?;
    let lags = stage.lags(&[APP.into()], &[commit], &mut outcome)?;
    let after = replicator.usage()?;
    if let [lag_ms] = lags[..] {
        outcome.less("until durable", "s", lag_ms / 1e3);
    }
    outcome.time("CPU", after.cpu - before.cpu);
    outcome.note("memory before", "MiB", before.rss as f64 / f64::from(1 << 20));
    outcome.mib("peak memory", after.peak_rss);
    stage.check(APP, &mut outcome)?;
    stop(replicator)?;
    Ok(outcome)
}
