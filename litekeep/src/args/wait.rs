//! `litekeep wait`.

use std::path::PathBuf;
use std::time::Duration;

use litekeep_ltx::Txid;

use super::ConfigArgs;

#[derive(Debug, clap::Args)]
pub(crate) struct Wait {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The database, or with --txid also a live copy of it
    #[arg(value_name = "DB")]
    pub(crate) target: PathBuf,
    /// Until this transaction is there [default: everything that is committed now]
    #[arg(long, value_name = "TXID")]
    pub(crate) txid: Option<Txid>,
    /// Until so many replicas of the cluster have it, too, which the litekeep that is up here must know
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) replicas: Option<u32>,
    /// For so long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = litekeep_config::parse_duration)]
    pub(crate) timeout: Duration,
}
