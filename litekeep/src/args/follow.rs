//! What `litekeep follow` is told.

use std::path::PathBuf;

use litekeep_replicate::restore::DEFAULT_PARALLELISM;

use super::{ConfigArgs, parallelism};

const STREAM: &str = "Streaming";

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
    /// Take transactions from the primary as they are confirmed, and from the backup while it does not tell:
    /// https://host:port/NAME; its token is in LITEKEEP_STREAM_TOKEN
    #[arg(long, value_name = "URL", conflicts_with = "once", help_heading = STREAM)]
    pub(crate) stream: Option<String>,
    /// A file with the token instead
    #[arg(long, value_name = "FILE", requires = "stream", help_heading = STREAM)]
    pub(crate) stream_token_file: Option<PathBuf>,
    /// A PEM file with certificate authorities to trust beside the system's
    #[arg(long, value_name = "FILE", requires = "stream", help_heading = STREAM)]
    pub(crate) stream_ca: Option<PathBuf>,
    /// Send the token without TLS over a network that nobody listens to
    #[arg(long, requires = "stream", help_heading = STREAM)]
    pub(crate) stream_insecure: bool,
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
