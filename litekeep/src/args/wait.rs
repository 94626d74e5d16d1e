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
    /// For so long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = litekeep_config::parse_duration)]
    pub(crate) timeout: Duration,
}
