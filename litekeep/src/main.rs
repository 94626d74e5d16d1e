//! litekeep turns a SQLite file into a production database.
//!
//! stdout is data, stderr is everything else. Exit codes: 0 done; 1 the answer is no; 2 error.

mod args;
mod commands;
mod point_in_time;
mod proof;
mod report;
mod restore_points;
mod settings;

use std::process::ExitCode;

use report::{Format, Outcome};

fn main() -> ExitCode {
    let argv: Vec<_> = std::env::args_os().collect();
    let format = args::format_of(&argv);
    let args = match args::parse(argv) {
        Ok(args) => args,
        Err(args::Rejected::Clap(error)) => return report::usage(&error, format),
        Err(args::Rejected::Flag(error)) => return report::error(&error.into(), format),
    };
    start_log(format);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report::error(&anyhow::Error::new(error).context("start its threads"), format),
    };
    match runtime.block_on(commands::run(args)) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::No) => ExitCode::from(1),
        Err(error) => report::error(&error, format),
    }
}

/// Warnings of the lower layers go to stderr; with `--json` stderr has nothing but objects.
fn start_log(format: Format) {
    if format == Format::Text {
        let filter = tracing_subscriber::EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
}
