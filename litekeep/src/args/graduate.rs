//! `litekeep graduate`.

use std::path::PathBuf;
use std::time::Duration;

use super::ConfigArgs;
use super::copy::pair;

#[derive(Debug, clap::Args)]
pub(crate) struct Graduate {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The database [default: the only one of the configuration]
    #[arg(value_name = "DB")]
    pub(crate) target: Option<PathBuf>,
    /// The server: postgres://, mysql:// or mariadb://; tables that are there are never overwritten
    #[arg(long, value_name = "URL")]
    pub(crate) to: String,
    /// The command (by `sh -c`) that lets the application use the server, whose URL it finds in DATABASE_URL
    #[arg(long, value_name = "CMD", conflicts_with = "processes")]
    pub(crate) switch: Option<String>,
    /// Or a process of `litekeep up` that is started anew with DATABASE_URL changed in its `env_file`; more than once: these
    #[arg(long = "process", value_name = "NAME")]
    pub(crate) processes: Vec<String>,
    /// How long writes of the application may wait until that begins; when it takes longer nothing has changed
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = litekeep_config::parse_duration)]
    pub(crate) within: Duration,
    /// Only this table, by its name in SQLite; more than once: these
    #[arg(long = "table", value_name = "TABLE")]
    pub(crate) tables: Vec<String>,
    /// The schema of the tables on the server, of MySQL the database
    #[arg(long, value_name = "NAME")]
    pub(crate) schema: Option<String>,
    /// A table has another name on the server
    #[arg(long, value_name = "HERE=THERE", value_parser = pair)]
    pub(crate) rename: Vec<(String, String)>,
    /// A column has another type on the server than its values suggest
    #[arg(long = "type", value_name = "TABLE.COLUMN=TYPE", value_parser = pair)]
    pub(crate) types: Vec<(String, String)>,
    /// End after the switch, instead of keeping both sides in step until a signal comes
    #[arg(long)]
    pub(crate) once: bool,
    /// Show what would be made, and what would not be as it is
    #[arg(long, conflicts_with_all = ["back", "done"])]
    pub(crate) dry_run: bool,
    /// Let the application use SQLite again, which has everything that was written to the server
    #[arg(long, conflicts_with = "done")]
    pub(crate) back: bool,
    /// End it: the two sides are not kept in step any more, and nothing is left of that on either
    #[arg(long, conflicts_with_all = ["switch", "processes"])]
    pub(crate) done: bool,
}
