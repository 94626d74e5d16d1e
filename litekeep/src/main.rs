//! litekeep turns a SQLite file into a production database.
//!
//! stdout is data, stderr is everything else. Exit codes: 0 done; 1 the answer is no; 2 error; a child's own code passes
//! through.

mod args;
mod caches;
mod child;
mod cluster;
mod commands;
mod control;
mod dashboard;
mod feeds;
mod followers;
mod memory;
mod metrics;
mod point_in_time;
mod program;
mod proof;
mod replication;
mod report;
mod restore_points;
mod row_key;
mod scratch;
mod served;
mod settings;
mod stack;
mod streamed;
mod streams;
mod syncs;
mod verification;
mod waiting;

use std::process::ExitCode;
use std::time::Duration;

use report::Outcome;

/// Threads of the runtime: what they do is to wait for stores and to hand blocking work to other threads.
const WORKERS: usize = 2;
/// The same beside an application: a second one would be woken, to look for work, by each commit.
const WORKERS_BESIDE: usize = 1;
/// Threads for blocking work: more than folders that hang can hold at a time. Few are at work otherwise, and idle ones end
/// soon.
const BLOCKING: usize = 1024;
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_secs(3);
/// How long the end waits for threads: one in a folder that hangs would keep it for ever.
const END_PATIENCE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    memory::stay_small();
    let argv: Vec<_> = std::env::args_os().collect();
    program::take_name(&argv);
    let format = args::format_of(&argv);
    let args = match args::parse(argv) {
        Ok(args) => args,
        Err(args::Rejected::Clap(error)) => return report::usage(&error, format),
        Err(args::Rejected::Flag(error)) => return report::error(&error.into(), format),
    };
    let is_beside = args.command.goes_on();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(if is_beside { WORKERS_BESIDE } else { WORKERS })
        .max_blocking_threads(BLOCKING)
        .thread_keep_alive(BLOCKING_KEEP_ALIVE)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return report::error(&anyhow::Error::new(error).context("start its threads"), format),
    };
    let ran = runtime.block_on(async {
        let ran = commands::run(args).await;
        litekeep_sync::budget::settled().await;
        ran
    });
    let code = match ran {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Ok(Outcome::Child(code)) => ExitCode::from(code),
        Err(error) => report::error(&error, format),
    };
    runtime.shutdown_timeout(END_PATIENCE);
    code
}
