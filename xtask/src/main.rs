//! The project's chores: `cargo xtask test`, `cargo xtask campaign NAME --n N --seed S`, `cargo xtask bench`.

mod campaign;
mod test_run;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// Tells tests and benchmarks where the programs are (`litekeep_testkit::programs::BIN_DIR`), so that none of them builds any.
const BIN_DIR: &str = "LITEKEEP_BIN_DIR";

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's chores")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the tests need, build, run them all, and print `N passed, N failed` at the end.
    Test {
        /// Test the release build.
        #[arg(long)]
        release: bool,
        /// Ask clippy too, which uses what the tests leave of the processors while they wait.
        #[arg(long)]
        lints: bool,
        /// Arguments for the test programs: a part of a test's name, `--nocapture`, ...
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Run a long random test of many rounds; without a name: list them.
    Campaign {
        /// The campaign.
        name: Option<String>,
        /// Rounds.
        #[arg(long, default_value_t = 200)]
        n: u64,
        /// The first round's seed; each further round has the next one.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Measure litekeep beside Litestream; `--help` for what there is.
    #[command(disable_help_flag = true)]
    Bench {
        /// Scenarios and options.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> Result<ExitCode> {
    let ok = match Args::parse().command {
        Command::Test { release, lints, args } => test_run::run(release, lints, &args)?,
        Command::Campaign { name: Some(name), n, seed } => {
            tools::install()?.done()?;
            campaign::run(&name, n, seed)?
        }
        Command::Campaign { name: None, .. } => {
            campaign::list();
            true
        }
        Command::Bench { args } => return bench(&args),
    };
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the benchmarks and runs them; their exit code, or 2 where there is none.
fn bench(args: &[String]) -> Result<ExitCode> {
    // By itself, as its users build it: beside others it would get the features that they want.
    let built =
        cargo().args(["build", "--release", "--package", "litekeep"]).status().context("run cargo")?;
    if !built.success() {
        return Ok(ExitCode::from(2));
    }
    let mut command = cargo();
    command.args(["run", "--release", "--package", "litekeep-xtask", "--example", "bench", "--"]).args(args);
    let status = command.env(BIN_DIR, program_dir(true)?).status().context("run cargo")?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(2)))
}

/// The root of the workspace.
fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The cargo that runs us.
fn cargo() -> std::process::Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = apart_from_us(std::process::Command::new(program));
    cargo.current_dir(root());
    cargo
}

/// A command without what cargo tells the package that it runs, which is us; build scripts (ring's) would take it for a change, and run
/// again.
fn apart_from_us(mut command: std::process::Command) -> std::process::Command {
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|own| name.as_encoded_bytes().starts_with(own.as_bytes()))
        {
            command.env_remove(name);
        }
    }
    command
}

/// The folder of the programs that cargo builds; we are one of them, in the folder of whichever profile cargo ran us in.
fn program_dir(release: bool) -> Result<PathBuf> {
    let exe = std::env::current_exe().context("find this program")?;
    let target = exe.parent().and_then(|profile| profile.parent()).context("find cargo's target folder")?;
    Ok(target.join(if release { "release" } else { "debug" }))
}
