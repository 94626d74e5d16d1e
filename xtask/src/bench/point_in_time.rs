//! Does a restore to an instant give what was committed then? A writer commits about every 100 ms and notes the clock
//! before BEGIN and after COMMIT. Of 20 random instants each is *exact*, *short* (rows that were committed before it
//! are missing), or from the *future* (a row whose transaction began after it is there). A file's time is when the
//! replicator saw the commit, so an instant just after a commit may be short by it. Wrong are: a restore that fails, a
//! mixture of states, the future, and an instant after the last commit that does not give everything.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use litekeep_testkit::clock;

use crate::outcome::{Outcome, quantile};
use crate::source::{Source, Writer, newest_of};
use crate::stage::{APP, Stage, stop};

const INSTANTS: usize = 20;

/// Fewer commits would leave nothing to choose from.
const SHORTEST: Duration = Duration::from_secs(5);

pub(crate) fn play(stage: &Stage<'_>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let source = Source::create(&stage.path(APP), 0)?;
    let replicator = stage.replicate_app()?;
    let unix_offset_ns = clock::unix_ns() - clock::monotonic_ns();
    let written = Writer::start(vec![source], Duration::from_millis(100)).work(stage.load().max(SHORTEST))?;
    stage.shipped(&[APP.into()])?;
    let (first, last) =
        written.commits.first().zip(written.commits.last()).context("nothing was committed")?;
    let mut random = fastrand::Rng::new();
    let (mut exact, mut short, mut future, mut most_missing, mut took) = (0, 0, 0, 0, Vec::new());
    for _ in 0..INSTANTS {
        let instant_ms = (random.i64(first.done_ns..last.began_ns) + unix_offset_ns) / 1_000_000;
        let instant_ns = instant_ms * 1_000_000 - unix_offset_ns;
        let newest = |done: &dyn Fn(i64, i64) -> bool| {
            written.commits.iter().filter(|c| done(c.began_ns, c.done_ns)).map(|c| c.n).max().unwrap_or(0)
        };
        let due = newest(&|_, done| done <= instant_ns);
        let possible = newest(&|began, _| began <= instant_ns);
        let found = match newest_at(stage, instant_ms) {
            Ok((found, time)) => {
                took.push(time.as_secs_f64() * 1e3);
                found
            }
            Err(error) => {
                outcome.wrong(format!("{error:#}"));
                continue;
            }
        };
        exact += u32::from((due..=possible).contains(&found));
        short += u32::from(found < due);
        future += u32::from(found > possible);
        most_missing = most_missing.max(due - found);
    }
    if future > 0 {
        outcome.wrong(format!("{future} restores hold what was committed later"));
    }
    match newest_at(stage, clock::unix_ns() / 1_000_000) {
        Ok((found, _)) if found == last.n => {}
        Ok((found, _)) => outcome.wrong(format!("an instant after commit {} gives {found}", last.n)),
        Err(error) => outcome.wrong(format!("an instant after the last commit: {error:#}")),
    }
    stop(replicator)?;
    took.sort_by(f64::total_cmp);
    outcome.more("exact", "of 20", f64::from(exact));
    outcome.less("short", "of 20", f64::from(short));
    outcome.less("future", "of 20", f64::from(future));
    outcome.less("most rows missing", "", most_missing as f64);
    outcome.less("a restore's p50", "ms", quantile(&took, 0.5));
    Ok(outcome)
}

fn newest_at(stage: &Stage<'_>, unix_ms: i64) -> Result<(i64, Duration)> {
    let instant = jiff::Timestamp::from_millisecond(unix_ms)?.to_string();
    ensure!(instant.ends_with('Z'), "{instant} is not in UTC");
    let restored = stage.restore(APP, Some(&instant))?;
    let newest = newest_of(&restored.path).with_context(|| format!("what was restored to {instant}"))?;
    Ok((newest, restored.wall))
}
