//! What `litekeep demo` and its writers are told.

use std::path::PathBuf;

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
