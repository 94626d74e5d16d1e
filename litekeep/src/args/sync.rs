//! `litekeep sync`.

use std::path::PathBuf;

use clap::Subcommand;

use super::ConfigArgs;

#[derive(Debug, clap::Args)]
pub(crate) struct Sync {
    #[command(subcommand)]
    pub(crate) action: SyncAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SyncAction {
    /// Show the tables that are made, their types, and what is not as it is on the other side; exit code 1 when one cannot be made
    Plan(Named),
    /// Bring the side that is written to up to date, and end
    Run(Named),
    /// Say how far each sync is; exit code 1 when something is wrong
    Status(Named),
    /// Let a sync rest, without connections, until it is resumed; a litekeep that runs heeds it within a second
    Pause(Named),
    /// Let a paused sync go on
    Resume(Named),
    /// Compare every row with the other side; exit code 1 when one differs
    Verify(Verify),
    /// Go on from the present state, by comparing every row: after a log that was begun anew, or for tables that stand still
    Resync(Named),
    /// List the rows that the side that is written to cannot hold, with the reason
    Refused(Named),
    /// List the rows that both sides had changed, with what has won and what has lost; of a sync in both directions
    Conflicts(Named),
    /// End a sync from a server, or in both directions, which then keeps no changes for it any more; rows stay
    Forget(Named),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The sync [default: the only one]
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
}

/// A row of a cache: a sync with `mode = "cache"`.
#[derive(Debug, clap::Args)]
pub(crate) struct Get {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The database
    #[arg(value_name = "DATABASE")]
    pub(crate) database: PathBuf,
    /// The table, by its name in SQLite
    #[arg(value_name = "TABLE")]
    pub(crate) table: String,
    /// The key: 42, id=42, or a=1,b=x
    #[arg(value_name = "KEY", allow_hyphen_values = true)]
    pub(crate) key: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) named: Named,
    /// Write the rows that differ
    #[arg(long)]
    pub(crate) repair: bool,
}
