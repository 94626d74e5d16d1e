//! What `litekeep promote`, `handoff`, `cluster` and `forks` are told.

use std::path::PathBuf;

use clap::Subcommand;

use super::ConfigArgs;

#[derive(Debug, clap::Args)]
pub(crate) struct Promote {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Go on although a primary that does not answer may have what the log has not
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Handoff {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The node that shall lead [default: whichever comes first]
    #[arg(value_name = "NODE")]
    pub(crate) node: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Cluster {
    #[command(subcommand)]
    pub(crate) command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Show the nodes, their roles, how far they are behind, and their forks; exit code 1 when something is wrong
    Status(ClusterStatus),
    /// Forget nodes that are not up any more
    Forget(ClusterForget),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ClusterStatus {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ClusterForget {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The nodes
    #[arg(value_name = "NODE", required_unless_present = "gone")]
    pub(crate) nodes: Vec<String>,
    /// All that have not been heard of for a day
    #[arg(long, conflicts_with = "nodes")]
    pub(crate) gone: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Forks {
    #[command(subcommand)]
    pub(crate) command: ForksCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ForksCommand {
    /// List what was committed here and is not in the log
    List(ForksList),
    /// Show a fork, and how to look at it
    Show(ForksShow),
    /// Write the database with a fork to a new file
    Restore(ForksRestore),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ForksList {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// A database [default: all of the configuration]
    #[arg(value_name = "DB")]
    pub(crate) database: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ForksShow {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The fork
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ForksRestore {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The fork
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The file to be written
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}
