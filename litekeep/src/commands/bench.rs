//! `litekeep bench`: what SQLite does on this machine, with its default settings and with the tuned ones.
//!
//! Everything happens in a folder of its own that goes away afterwards. Each figure is a ratio of two measurements made here, one after the
//! other, so a disk that does not wait for its writes shows: its ratios are small, and the latency of a sync stands beside
//! them.

mod load;
mod postgres;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use litekeep_env::disk;
use serde::Serialize;

use crate::args;
use crate::report::progress::Steps;
use crate::report::{self, Failure, Format, Outcome};
use crate::scratch::Scratch;

use load::{Bench, Mode, Pace};

/// Readers beside the writer.
const READERS: usize = 8;
/// Rows in a batch.
const BATCH: u64 = 1000;
/// Measurements that share the time.
const PHASES: u32 = 11;
const SYNCS: usize = 50;

#[derive(Debug, Serialize)]
struct Figures {
    dir: PathBuf,
    seconds_each: f64,
    sync_p50_ms: f64,
    sync_p99_ms: f64,
    mixed: Mixed,
    batches: Vec<Batches>,
    point_reads: Reads,
    /// The same in a Postgres, where one was named.
    postgres: Option<Postgres>,
    small_transactions_per_second: f64,
    beside_readers: BesideReaders,
    meaning: Vec<String>,
}

/// Four reads to one write, one connection.
#[derive(Debug, Serialize)]
struct Mixed {
    default_per_second: f64,
    tuned_per_second: f64,
    ratio: f64,
}

/// A row a transaction, against many.
#[derive(Debug, Serialize)]
struct Batches {
    settings: &'static str,
    rows_per_second_alone: f64,
    rows_per_second_in_batches: f64,
    ratio: f64,
}

#[derive(Debug, Serialize)]
struct Reads {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

impl From<Pace> for Reads {
    fn from(pace: Pace) -> Reads {
        let us = |time| ms(time) * 1000.0;
        Reads { per_second: pace.per_second, p50_us: us(pace.p50), p99_us: us(pace.p99) }
    }
}

#[derive(Debug, Serialize)]
struct Postgres {
    #[serde(flatten)]
    reads: Reads,
    /// How many times as many point reads SQLite makes.
    ratio: f64,
}

#[derive(Debug, Serialize)]
struct BesideReaders {
    readers: usize,
    writer_p99_ms_alone: f64,
    writer_p99_ms_with_readers: f64,
    ratio: f64,
    reads_per_second: f64,
}

pub(super) async fn run(args: &args::Bench, format: Format) -> Result<Outcome> {
    let (dir, time) = (args.dir.clone(), Duration::from_secs(args.seconds));
    // First, so that a wrong URL costs no time.
    let postgres = match &args.postgres {
        Some(url) => Some(postgres::reads(url, time / PHASES).await.context("measure Postgres")?),
        None => None,
    };
    let doing = format!("measure SQLite in `{}`", dir.display());
    let figures = tokio::task::spawn_blocking(move || measure(&dir, time, postgres, format))
        .await
        .context("measure")?;
    let figures = figures.context(doing)?;
    report::result(format, &figures, || figures.text());
    Ok(Outcome::Done)
}

fn measure(dir: &Path, time: Duration, postgres: Option<Pace>, format: Format) -> Result<Figures> {
    let scratch = Scratch::beside(dir, ".litekeep-bench-");
    let scratch = scratch.map_err(|failure| failure.or_hint("name the folder of the database with --dir"))?;
    let each = time / PHASES;
    let steps = Steps::new(format, u64::from(PHASES) + 1);
    let syncs = disk::sync_latencies(scratch.path(), SYNCS)
        .map_err(|error| Failure::io(format!("write in `{}`", dir.display()), &error))?;
    let bench = |mode: Mode| Bench::new(&scratch.path().join(format!("{}.db", mode.name())), mode, each);
    steps.next("making tables");
    let (default, normal, full) = (bench(Mode::Default)?, bench(Mode::Normal)?, bench(Mode::Full)?);

    steps.next("mixed load, default settings");
    let before = default.mixed()?;
    steps.next("mixed load, tuned");
    let after = normal.mixed()?;
    let mut batches = Vec::new();
    for bench in [&default, &normal, &full] {
        let settings = bench.mode.name();
        steps.next(&format!("one row a transaction, {settings}"));
        let alone = bench.inserts(1)?;
        steps.next(&format!("batches, {settings}"));
        let many = bench.inserts(BATCH)?;
        batches.push(Batches {
            settings,
            rows_per_second_alone: alone,
            rows_per_second_in_batches: many,
            ratio: ratio(many, alone),
        });
    }
    steps.next("point reads");
    let reads = normal.reads()?;
    steps.next("a writer alone");
    let alone = normal.writer()?;
    steps.next("a writer beside readers");
    let (beside, read) = normal.writer_beside(READERS)?;
    steps.end();

    let figures = Figures {
        dir: dir.to_owned(),
        seconds_each: each.as_secs_f64(),
        sync_p50_ms: ms(load::percentile(&syncs, 50)),
        sync_p99_ms: ms(load::percentile(&syncs, 99)),
        mixed: Mixed { default_per_second: before, tuned_per_second: after, ratio: ratio(after, before) },
        small_transactions_per_second: alone.per_second,
        batches,
        postgres: postgres.map(|postgres| Postgres {
            ratio: ratio(reads.per_second, postgres.per_second),
            reads: postgres.into(),
        }),
        point_reads: reads.into(),
        beside_readers: BesideReaders {
            readers: READERS,
            writer_p99_ms_alone: ms(alone.p99),
            writer_p99_ms_with_readers: ms(beside.p99),
            ratio: ratio(ms(beside.p99), ms(alone.p99)),
            reads_per_second: read,
        },
        meaning: Vec::new(),
    };
    Ok(Figures { meaning: meaning(&figures), ..figures })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn ratio(one: f64, other: f64) -> f64 {
    if other > 0.0 { one / other } else { 0.0 }
}

/// What the ratios say, and what they do not.
fn meaning(figures: &Figures) -> Vec<String> {
    let mut said = Vec::new();
    let sync = figures.sync_p50_ms;
    if sync < 0.1 {
        said.push(format!(
            "a sync takes {sync:.3} ms: this disk is memory, or does not wait. Ratios that live on syncs are small here, and what a power cut \
             takes is another question"
        ));
    }
    if let [default, normal, full] = figures.batches.as_slice() {
        said.push(format!(
            "batches make inserts {:.0} times faster by default, {:.0} times under FULL, where each transaction waits for the disk, and {:.0} \
             times under NORMAL, where none does: \"100 times\" is true only where each commit syncs",
            default.ratio, full.ratio, normal.ratio
        ));
    }
    said.push(format!(
        "the tuned settings make this mixed load {:.1} times faster; nearly all of it comes from WAL mode with NORMAL, which a power cut may cost \
         the last commits",
        figures.mixed.ratio
    ));
    if let Some(postgres) = &figures.postgres {
        said.push(format!(
            "one client after the other: SQLite answers {:.0} times as many point reads, because no answer travels; many clients at once, and \
             queries that work longer than they travel, are another matter",
            postgres.ratio
        ));
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if cores <= READERS {
        said.push(format!(
            "{READERS} readers and a writer share {} here, so the writer's time with readers is also the scheduler's",
            report::text::count(cores, "core")
        ));
    }
    said
}

impl Figures {
    fn text(&self) -> String {
        let Figures { mixed, point_reads, beside_readers, .. } = self;
        let mut out = format!(
            "sync of 4 KiB           p50 {:.2} ms, p99 {:.2} ms, in {}\n",
            self.sync_p50_ms,
            self.sync_p99_ms,
            self.dir.display()
        );
        out.push_str(&format!(
            "mixed load              {:.0}/s by default, {:.0}/s tuned: {:.1} times\n",
            mixed.default_per_second, mixed.tuned_per_second, mixed.ratio
        ));
        for batch in &self.batches {
            out.push_str(&format!(
                "inserts, {:<14} {:.0} rows/s one by one, {:.0} rows/s in batches of {BATCH}: {:.0} times\n",
                batch.settings, batch.rows_per_second_alone, batch.rows_per_second_in_batches, batch.ratio
            ));
        }
        out.push_str(&format!(
            "point reads             {:.0}/s, p50 {:.1} µs, p99 {:.1} µs, one thread\n",
            point_reads.per_second, point_reads.p50_us, point_reads.p99_us
        ));
        if let Some(Postgres { reads, ratio }) = &self.postgres {
            out.push_str(&format!(
                "the same in Postgres    {:.0}/s, p50 {:.1} µs, p99 {:.1} µs: SQLite {ratio:.1} times\n",
                reads.per_second, reads.p50_us, reads.p99_us
            ));
        }
        out.push_str(&format!(
            "small transactions      {:.0}/s, tuned\n",
            self.small_transactions_per_second
        ));
        out.push_str(&format!(
            "beside {} readers        writer p99 {:.2} ms, alone {:.2} ms: {:.1} times; {:.0} reads/s meanwhile\n",
            beside_readers.readers,
            beside_readers.writer_p99_ms_with_readers,
            beside_readers.writer_p99_ms_alone,
            beside_readers.ratio,
            beside_readers.reads_per_second
        ));
        out.extend(self.meaning.iter().map(|line| format!("- {line}\n")));
        out
    }
}
