//! `cargo xtask bench`: litekeep beside Litestream, beside PM2 where processes are concerned, and beside pgloader and
//! sqlite3-to-mysql where databases are copied, measured in one run; migrations of many databases and syncs alone.
//!
//! Method: each scenario (a module of its own, whose head says what is measured and how) is played by each system in
//! turn, in an order that rotates from repetition to repetition, so that whatever else the machine does meets all of
//! them. Databases, store and writers are new each time. The writer, the S3 server and the counting proxy are threads of
//! this process, so the CPU and memory reported are the replicator's alone. A figure is the median of the repetitions;
//! its ratio says how many times better litekeep is than the peer *in the same run*, which is worth more on a shared
//! machine than either figure.
//!
//! Nothing is asserted about time. The exit code is 1 when a result of litekeep is wrong (rows missing, a restore that
//! fails or differs), 2 when a scenario could not be played. A peer's wrong results are printed.
//!
//! An example and not part of `xtask`: so `cargo xtask test` need not build a server before anything else can start.

mod active;
mod arrivals;
mod commit_to_durable;
mod copy;
mod failover;
mod first_snapshot;
mod fleet;
mod following;
mod huge_transaction;
mod idle;
mod live_copy;
mod log_lines;
mod outage;
mod outcome;
mod point_in_time;
mod process_managers;
mod processes;
mod restart;
mod restore;
mod servers;
mod shipped;
mod single_commits;
mod source;
mod stage;
mod system;
#[cfg(test)]
mod tests;
mod writer_at_full_speed;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use litekeep_testkit::usage::machine_cpu;
use litekeep_testkit::{Litestream, Usage, clock, programs};
use tempfile::TempDir;

use crate::outcome::{Outcome, Played};
use crate::stage::Stage;
use crate::system::System;

#[derive(Parser)]
#[command(name = "cargo xtask bench", about = "Measures litekeep beside Litestream")]
struct Args {
    /// Scenarios; without: all of them.
    #[arg(value_parser = SCENARIOS.iter().map(|scenario| scenario.name).collect::<Vec<_>>())]
    scenarios: Vec<String>,
    #[command(flatten)]
    options: Options,
    /// Append one JSON object a run.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Seconds of load or of watching in each run.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) secs: f64,
    /// Runs of each system.
    #[arg(long, default_value_t = 1)]
    pub(crate) reps: usize,
    /// Where the backup goes; `outage` and `single-commits` always use S3.
    #[arg(long, value_enum, default_value_t = Target::Folder)]
    pub(crate) target: Target,
    /// Let litekeep, too, upload every 50 ms, whatever its default for the target is.
    #[arg(long)]
    pub(crate) equal: bool,
    /// Size of the big database; the huge transaction has half of it.
    #[arg(long, default_value_t = 0.25)]
    pub(crate) gib: f64,
    /// Lines that `log-lines` prints.
    #[arg(long, default_value_t = 10_000_000)]
    pub(crate) lines: u64,
    /// Rows that `copy-*` copies; a tenth of them follow at once in `push-*` and `pull-*`.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) rows: u64,
}

impl Options {
    pub(crate) fn load(&self) -> Duration {
        Duration::from_secs_f64(self.secs)
    }

    pub(crate) fn big_bytes(&self) -> u64 {
        (self.gib * f64::from(1u32 << 30)) as u64
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    Folder,
    S3,
}

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    systems: &'static [System],
    s3_only: bool,
    play: fn(&Stage<'_>) -> Result<Outcome>,
}

const LITEKEEP: &[System] = &[System::Litekeep];
const BOTH: &[System] = &[System::Litekeep, System::Litestream];
const WITH_ALONE: &[System] = &[System::Alone, System::Litekeep, System::Litestream];
const WITH_TUNED: &[System] = &[System::Litekeep, System::Litestream, System::LitestreamTuned];

const SCENARIOS: &[Scenario] = &[
    scenario("commit-to-durable", WITH_TUNED, commit_to_durable::play),
    scenario("writer-at-full-speed", WITH_ALONE, writer_at_full_speed::play),
    scenario("first-snapshot", BOTH, first_snapshot::play),
    scenario("restore", WITH_ALONE, restore::play),
    scenario("idle", BOTH, idle::play),
    scenario("active", WITH_TUNED, active::play),
    scenario("point-in-time", BOTH, point_in_time::play),
    scenario("restart", BOTH, restart::play),
    Scenario { s3_only: true, ..scenario("outage", BOTH, outage::play) },
    scenario("huge-transaction", BOTH, huge_transaction::play),
    Scenario { s3_only: true, ..scenario("single-commits", LITEKEEP, single_commits::hundred_a_second) },
    Scenario {
        s3_only: true,
        ..scenario("single-commits-busy", LITEKEEP, single_commits::thousand_a_second)
    },
    scenario("processes", &[System::Litekeep, System::Pm2], processes::play),
    scenario("log-lines", &[System::Litekeep, System::Pm2], log_lines::play),
    scenario("fleet", LITEKEEP, fleet::play),
    scenario("copy-postgres", &[System::Litekeep, System::Pgloader], copy::to_postgres),
    scenario("copy-mariadb", &[System::Litekeep, System::Sqlite3ToMysql], copy::to_mariadb),
    scenario("copy-mysql", &[System::Litekeep, System::Sqlite3ToMysql], copy::to_mysql),
    scenario("copy-mongodb", LITEKEEP, copy::to_mongodb),
    scenario("push-postgres", LITEKEEP, following::push_to_postgres),
    scenario("push-mariadb", LITEKEEP, following::push_to_mariadb),
    scenario("push-mysql", LITEKEEP, following::push_to_mysql),
    scenario("pull-postgres", LITEKEEP, following::pull_from_postgres),
    scenario("pull-mariadb", LITEKEEP, following::pull_from_mariadb),
    scenario("pull-mysql", LITEKEEP, following::pull_from_mysql),
    scenario("follow", LITEKEEP, live_copy::by_the_backup),
    scenario("follow-stream", LITEKEEP, live_copy::by_the_primary),
    scenario("failover", LITEKEEP, failover::by_the_bucket),
    scenario("failover-etcd", LITEKEEP, failover::by_etcd),
];

const fn scenario(
    name: &'static str,
    systems: &'static [System],
    play: fn(&Stage<'_>) -> Result<Outcome>,
) -> Scenario {
    Scenario { name, systems, s3_only: false, play }
}

/// What all runs share.
pub(crate) struct Bench {
    pub(crate) options: Options,
    pub(crate) litekeep: PathBuf,
    /// `None`: litekeep is measured without its peer.
    pub(crate) litestream: Option<Litestream>,
    /// Holds the big database once it is made.
    pub(crate) dir: TempDir,
}

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::from(2)
    })
}

fn run() -> Result<ExitCode> {
    let args = Args::parse();
    ensure!(
        !cfg!(debug_assertions),
        "figures of a debug build say nothing: `cargo xtask bench` builds right"
    );
    let bench = Bench {
        options: args.options,
        litekeep: programs::litekeep()?,
        litestream: Some(Litestream::install()?),
        dir: tempfile::tempdir()?,
    };
    let mut json = match &args.json {
        Some(path) => Some(
            File::options().create(true).append(true).open(path).with_context(|| format!("open {path:?}"))?,
        ),
        None => None,
    };
    let (mut wrong, mut failed) = (false, false);
    for scenario in SCENARIOS {
        if !args.scenarios.is_empty() && !args.scenarios.iter().any(|name| name == scenario.name) {
            continue;
        }
        let played = bench.play(scenario);
        print!("{}", outcome::table(scenario, &bench.options, &played));
        wrong |= played.iter().any(|run| run.system == System::Litekeep && !run.wrong().is_empty());
        failed |= played.iter().any(|run| run.outcome.is_err());
        if let Some(file) = &mut json {
            for run in &played {
                writeln!(file, "{}", run.json(scenario, &bench)).context("write the JSON file")?;
            }
        }
    }
    Ok(if failed { ExitCode::from(2) } else { ExitCode::from(u8::from(wrong)) })
}

impl Bench {
    fn play(&self, scenario: &Scenario) -> Vec<Played> {
        let mut systems: Vec<System> = scenario.systems.to_vec();
        systems.retain(|system| self.litestream.is_some() || !system.is_peer());
        let mut played = Vec::new();
        for rep in 0..self.options.reps {
            for &system in &systems {
                eprintln!("{} {}: {} of {}", scenario.name, system.name(), rep + 1, self.options.reps);
                played.push(self.play_once(scenario, system));
            }
            systems.rotate_left(1);
        }
        played
    }

    fn play_once(&self, scenario: &Scenario, system: System) -> Played {
        // All our processes are ended and waited for at both ends, so what is not ours is another's.
        let cpu = || -> Result<Duration> {
            let own = Usage::of(std::process::id())?;
            Ok(machine_cpu()?.saturating_sub(own.cpu + own.cpu_of_children))
        };
        let (start, before) = (Instant::now(), cpu());
        let target = if scenario.s3_only { Target::S3 } else { self.options.target };
        let outcome = Stage::set(self, system, target).and_then(|stage| (scenario.play)(&stage));
        let others = match (before, cpu()) {
            (Ok(before), Ok(after)) => {
                after.saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64()
            }
            _ => f64::NAN,
        };
        if let Err(error) = &outcome {
            eprintln!("{} {}: {error:#}", scenario.name, system.name());
        }
        Played { system, target, outcome, other_cores: others, at_unix_s: clock::unix_ns() / 1_000_000_000 }
    }
}
