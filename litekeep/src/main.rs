//! litekeep turns a SQLite file into a production database.
//!
//! stdout is data, stderr is everything else. Exit codes: 0 done; 1 the answer is no; 2 error; a child's own code passes
//! through.

mod args;
mod child;
mod commands;
mod metrics;
mod point_in_time;
mod proof;
mod replication;
mod report;
mod restore_points;
mod settings;

use std::process::ExitCode;

use report::Outcome;

fn main() -> ExitCode {
    let argv: Vec<_> = std::env::args_os().collect();
    let format = args::format_of(&argv);
    let args = match args::parse(argv) {
        Ok(args) => args,
        Err(args::Rejected::Clap(error)) => return report::usage(&error, format),
        Err(args::Rejected::Flag(error)) => return report::error(&error.into(), format),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report::error(&anyhow::Error::new(error).context("start its threads"), format),
    };
    match runtime.block_on(commands::run(args)) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Ok(Outcome::Child(code)) => ExitCode::from(code),
        Err(error) => report::error(&error, format),
    }
}
