//! `litekeep copy`.

use std::path::PathBuf;

/// A database and where it shall be; one of the two is SQLite.
#[derive(Debug, clap::Args)]
pub(crate) struct Copy {
    /// The database: a file, or postgres://, mysql://, mariadb:// or mongodb://
    #[arg(value_name = "FROM")]
    pub(crate) from: String,
    /// Where it shall be, likewise; tables that are there are never overwritten
    #[arg(value_name = "TO")]
    pub(crate) to: String,
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
    /// Tables, indexes and foreign keys, but no rows
    #[arg(long, conflicts_with = "data_only")]
    pub(crate) schema_only: bool,
    /// Rows, into tables that are there and empty
    #[arg(long)]
    pub(crate) data_only: bool,
    /// Show what would be made, and what would not be as it is
    #[arg(long)]
    pub(crate) dry_run: bool,
}

pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let (first, second) = text.split_once('=').ok_or("it has no `=`")?;
    match first.is_empty() || second.is_empty() {
        true => Err("one side of the `=` is empty".to_owned()),
        false => Ok((first.to_owned(), second.to_owned())),
    }
}

/// What one of the two is.
pub(crate) enum Place<'a> {
    /// A file.
    Sqlite(PathBuf),
    /// A URL of a server.
    Server(&'a str),
}

impl Place<'_> {
    pub(crate) fn of(text: &str) -> Place<'_> {
        match text.strip_prefix("sqlite:") {
            Some(path) => Place::Sqlite(path.strip_prefix("//").unwrap_or(path).into()),
            None if text.contains("://") => Place::Server(text),
            None => Place::Sqlite(text.into()),
        }
    }
}
