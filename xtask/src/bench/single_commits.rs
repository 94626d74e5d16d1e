//! What do single commits cost the store, beside the log itself? Transactions that insert a row of about 130 bytes and update two
//! others, one of them anywhere among 200,000, about 100 or 1,000 a second, with a bucket's default of one upload a
//! second. Counted until the replicator has ended, which puts what is left; at the end a restore must equal the source. S3 only.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::outcome::Outcome;
use crate::source::Source;
use crate::stage::{APP, Stage, stop};

const ROWS: usize = 200_000;

pub(crate) fn hundred_a_second(stage: &Stage<'_>) -> Result<Outcome> {
    play(stage, Duration::from_millis(10))
}

pub(crate) fn thousand_a_second(stage: &Stage<'_>) -> Result<Outcome> {
    play(stage, Duration::from_millis(1))
}

fn play(stage: &Stage<'_>, pause: Duration) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut source = Source::create(&stage.path(APP), ROWS)?;
    let replicator = stage.replicate_app()?;
    let before = stage.store.arrivals()?.len();
    let (start, mut random) = (Instant::now(), fastrand::Rng::with_seed(4));
    let (mut next, mut commits) = (start, 0_u32);
    while start.elapsed() < stage.load() {
        source.commit_scattered()?;
        commits += 1;
        next = (next + pause.mul_f64(0.5 + random.f64())).max(Instant::now());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let wall = start.elapsed();
    stage.shipped(&[APP.into()])?;
    stop(replicator)?;
    let arrivals = stage.store.arrivals()?;
    let (mut log, mut packs) = (Stored::default(), Stored::default());
    for arrival in &arrivals[before..] {
        let size = std::fs::metadata(stage.store.object(&arrival.key));
        let size = size.with_context(|| format!("look at {}", arrival.key))?.len();
        match arrival.key.split('/').rev().nth(1) {
            Some("commits") => packs.add(size),
            // Merged files hold nothing new.
            Some("0000") => log.add(size),
            _ => {}
        }
    }
    outcome.note("commits", "a second", f64::from(commits) / wall.as_secs_f64());
    for (stored, names) in [
        (log, ["puts of the log", "bytes of the log", "the log, a commit"]),
        (packs, ["puts of packs", "bytes of packs", "packs, a commit"]),
    ] {
        outcome.less(names[0], "", f64::from(stored.puts));
        outcome.mib(names[1], stored.bytes);
        outcome.less(names[2], "bytes", stored.bytes as f64 / f64::from(commits));
    }
    stage.check(APP, &mut outcome)?;
    Ok(outcome)
}

/// Objects of one kind.
#[derive(Default)]
struct Stored {
    puts: u32,
    bytes: u64,
}

impl Stored {
    fn add(&mut self, bytes: u64) {
        self.puts += 1;
        self.bytes += bytes;
    }
}
