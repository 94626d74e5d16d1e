//! What `litekeep follow` is told.

use std::path::PathBuf;

use litekeep_replicate::restore::DEFAULT_PARALLELISM;

use super::{ConfigArgs, parallelism};

#[derive(Debug, clap::Args)]
pub(crate) struct Follow {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// A database, or the URL of a backup
    #[arg(value_name = "DB|URL")]
    pub(crate) target: String,
    /// The file that the copy is; other processes read it with any SQLite
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Come to the end of the backup, and stop
    #[arg(long)]
    pub(crate) once: bool,
    /// With --once: compare each page with the backup; exit code 1 when one differs
    #[arg(long, requires = "once")]
    pub(crate) verify: bool,
    /// Begin anew where a file is, which is kept aside
    #[arg(long)]
    pub(crate) force: bool,
    /// Go over to the backup although it is another one than before
    #[arg(long)]
    pub(crate) new_timeline: bool,
    /// Requests at the same time
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PARALLELISM, value_parser = parallelism)]
    pub(crate) parallelism: usize,
}
