//! The command line.
//!
//! Litestream's flags with one dash (`-config`, `-txid`) work beside the usual two dashes: [`single_dash`] rewrites them
//! before clap sees them.

mod single_dash;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};
use litekeep_ltx::Txid;
use litekeep_replicate::restore::DEFAULT_PARALLELISM;

use crate::report::{Failure, Format};

/// Turns a SQLite file into a production database: continuous, verified backup with recovery to any second.
#[derive(Debug, Parser)]
#[command(name = "litekeep", version, disable_help_subcommand = true, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Print JSON on stdout, and errors as JSON on stderr
    #[arg(long, global = true)]
    json: bool,
}

impl Args {
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { Format::Text }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look at a database and write a commented litekeep.toml for it
    Init(Init),
    /// List the databases of the configuration
    Databases(Databases),
    /// List the points that can be restored
    #[command(visible_alias = "ltx")]
    History(History),
    /// Say how far the backup is behind; exit code 1 when something is wrong
    Status(Status),
    /// Bring a database back: the last state, or that of any transaction or instant
    Restore(Restore),
    /// Back up databases continuously, until told to stop
    Replicate(Replicate),
    /// Run a command beside the backup of its database
    Run(Run),
    /// Restore into a scratch folder and compare each page with the live database; exit code 1 when one differs
    Verify(Verify),
    /// Change the schema by numbered files of SQL, each run once and under a guard
    Migrate(Migrate),
    /// Make a bank in a temporary folder, lose it under load, bring it back, and check every account
    Demo(Demo),
    /// One writer of the demo
    #[command(hide = true)]
    DemoWriter(DemoWriter),
    /// Print the versions of litekeep and of its SQLite
    Version,
}

/// Which configuration.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ConfigArgs {
    /// Configuration: a litekeep.toml or a litestream.yml [default: litekeep.toml here, then in /etc]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Take each `$` in the configuration as it stands
    #[arg(long)]
    pub(crate) no_expand_env: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    /// The database
    #[arg(value_name = "DB")]
    pub(crate) database: PathBuf,
    /// Where to back up to [default: a folder beside the database]
    #[arg(long, value_name = "URL")]
    pub(crate) to: Option<String>,
    /// The file to write
    #[arg(long, value_name = "FILE", default_value = "litekeep.toml")]
    pub(crate) config: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Databases {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Migrate {
    #[command(subcommand)]
    pub(crate) action: MigrateAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MigrateAction {
    /// Make an empty migration
    New {
        /// What it does: add_orders
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        dir: MigrationsDir,
    },
    /// Run what is pending; of several that start at once one does it, and the others wait
    Up(MigrateTarget),
    /// Run what is pending on a copy from the backup, and say what it costs; exit code 1 when the copy is damaged then
    Rehearse(MigrateTarget),
    /// Take back the last one, by its own `-- migrate:down`
    Down(MigrateTarget),
    /// List the migrations; exit code 1 when one is pending
    Status(MigrateTarget),
}

#[derive(Debug, clap::Args)]
pub(crate) struct MigrationsDir {
    /// The folder with the files [default: migrations, or db/migrations where only that exists]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MigrateTarget {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) dir: MigrationsDir,
    /// The database [default: the only one of the configuration]
    #[arg(value_name = "DB")]
    pub(crate) database: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct History {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// A database, or the URL of a backup [default: all databases of the configuration]
    #[arg(value_name = "DB|URL")]
    pub(crate) target: Option<String>,
    /// Read the time of each file from the file itself: a request each, exact also where uploads came late
    #[arg(long)]
    pub(crate) exact: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// A database [default: all databases of the configuration]
    #[arg(value_name = "DB")]
    pub(crate) target: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// A database, or the URL of a backup
    #[arg(value_name = "DB|URL")]
    pub(crate) target: String,
    /// The file to restore to [default: the database itself]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Restore to this transaction (hexadecimal, as `litekeep history` shows it)
    #[arg(long, value_name = "TXID", group = "goal")]
    pub(crate) txid: Option<Txid>,
    /// Restore to this instant, RFC 3339
    #[arg(long, value_name = "TIME", group = "goal")]
    pub(crate) timestamp: Option<String>,
    /// Restore to this instant: "5 min ago", 14:03:07, "yesterday 14:00", RFC 3339, Unix seconds; local time
    #[arg(long, value_name = "WHEN", group = "goal")]
    pub(crate) at: Option<String>,
    /// Replace an existing database, which is kept aside
    #[arg(long)]
    pub(crate) force: bool,
    /// Do nothing, successfully, where the database exists
    #[arg(long)]
    pub(crate) if_db_not_exists: bool,
    /// Do nothing, successfully, where there is no backup
    #[arg(long)]
    pub(crate) if_replica_exists: bool,
    /// Also let SQLite check the restored database
    #[arg(long, value_name = "MODE", value_enum, default_value = "none")]
    pub(crate) integrity_check: IntegrityCheck,
    /// Requests at the same time
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PARALLELISM, value_parser = parallelism)]
    pub(crate) parallelism: usize,
    /// Say what would be restored, and restore nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Replicate {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// One database, instead of those of the configuration
    #[arg(value_name = "DB")]
    pub(crate) database: Option<PathBuf>,
    /// Where it is backed up to [default: as the configuration says]
    #[arg(value_name = "URL", requires = "database")]
    pub(crate) urls: Vec<String>,
    /// Run a command (by `sh -c`), and stop when it ends
    #[arg(long, value_name = "CMD")]
    pub(crate) exec: Option<String>,
    /// Bring the backups up to date once, and stop
    #[arg(long, conflicts_with = "exec")]
    pub(crate) once: bool,
    /// Restore each database that does not exist before it is replicated
    #[arg(long)]
    pub(crate) restore_if_db_not_exists: bool,
    /// Go on with a database that shares no history with its backup
    #[arg(long)]
    pub(crate) new_timeline: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The database [default: all databases of the configuration]
    #[arg(value_name = "DB")]
    pub(crate) database: Option<PathBuf>,
    /// Go on with a database that shares no history with its backup
    #[arg(long)]
    pub(crate) new_timeline: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// A database [default: all databases of the configuration]
    #[arg(value_name = "DB")]
    pub(crate) target: Option<String>,
    /// Where to restore to; needs as much space as the database [default: beside the database]
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,
    /// Seconds to wait until the backup has the last commits
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) patience: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    /// Seconds of load before the database is deleted
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
    /// Leave the folder where it is, to look around in it
    #[arg(long)]
    pub(crate) keep: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DemoWriter {
    /// The bank
    pub(crate) database: PathBuf,
    /// Which of the writers this is
    pub(crate) writer: u32,
}

/// What SQLite checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum IntegrityCheck {
    /// Nothing: the checksums of the backup are checked in any case
    None,
    /// PRAGMA quick_check
    Quick,
    /// PRAGMA integrity_check
    Full,
}

fn parallelism(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=256) => Ok(n),
        _ => Err("write a number from 1 to 256".to_owned()),
    }
}

/// Why a command line was not taken.
#[derive(Debug)]
pub(crate) enum Rejected {
    /// Clap's words, or a request for help.
    Clap(clap::Error),
    /// A flag with one dash that we do not have.
    Flag(Failure),
}

/// Reads a command line, the program's name first.
pub(crate) fn parse(argv: Vec<OsString>) -> Result<Args, Rejected> {
    let argv = single_dash::normalise(argv, &Args::command()).map_err(Rejected::Flag)?;
    Args::try_parse_from(argv).map_err(Rejected::Clap)
}

/// How to report, known before the command line is understood: its errors are reported too.
pub(crate) fn format_of(argv: &[OsString]) -> Format {
    let own = argv.iter().take_while(|argument| *argument != "--");
    let json = own.into_iter().any(|argument| argument == "--json" || argument == "-json");
    if json { Format::Json } else { Format::Text }
}

#[cfg(test)]
mod tests;
