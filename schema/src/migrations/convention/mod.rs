//! The tools whose folders are read as they are and whose histories are kept as they keep them, so that a user can go back.

mod dbmate;
mod detect;
mod drizzle;
mod golang_migrate;
mod prisma;
mod refinery;
mod sqlx;

use super::folder::{Folder, Migration, failed, order};
use crate::Error;
use litekeep_sql::{MigrationTransaction as Transaction, Migrator, Value};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) use detect::detect;

/// Whose layout a folder has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// dbmate's, and litekeep's own.
    Dbmate,
    /// Drizzle's.
    Drizzle,
    /// sqlx's.
    Sqlx,
    /// refinery's.
    Refinery,
    /// golang-migrate's.
    GolangMigrate,
    /// Prisma's.
    Prisma,
}

/// How one tool does it.
trait Tool {
    /// What it is called.
    fn name(&self) -> &'static str;
    /// Its history ...
    fn table(&self) -> &'static str;
    /// ... by whose columns it is told from others of the same name ...
    fn columns(&self) -> &'static [&'static str];
    /// ... and which is made so.
    fn create(&self) -> &'static str;
    fn read(&self, folder: &Path) -> Result<Vec<Migration>, Error>;
    /// What has run, by a history that is there.
    fn applied(&self, rows: &Rows<'_>) -> Result<Applied, Error>;
    /// Notes that a migration has run, and for how long.
    fn add(&self, tx: &Transaction<'_>, migration: &Migration, took: Duration) -> Result<(), Error>;
    /// Notes that a migration was taken back; `before`: the one that is the last then.
    fn remove(&self, tx: &Transaction<'_>, version: &str, before: Option<&str>) -> Result<(), Error>;
    /// The files of a migration without statements, with their texts.
    fn blank(&self, folder: &Folder, now: &str, name: &str) -> Result<Vec<(PathBuf, String)>, Error>;
}

/// What has run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// These versions.
    Each(Vec<String>),
    /// Everything that is not later than the latest of these.
    UpTo(Vec<String>),
}

impl Applied {
    /// The versions that the history names.
    pub(super) fn named(&self) -> &[String] {
        let (Applied::Each(versions) | Applied::UpTo(versions)) = self;
        versions
    }

    pub(super) fn has(&self, version: &str) -> bool {
        let version = order(version);
        match self {
            Applied::Each(versions) => versions.iter().any(|v| order(v) == version),
            Applied::UpTo(versions) => versions.iter().any(|v| order(v) >= version),
        }
    }
}

impl Convention {
    /// All that are known.
    pub const ALL: [Convention; 6] = [
        Convention::Dbmate,
        Convention::Drizzle,
        Convention::Sqlx,
        Convention::Refinery,
        Convention::GolangMigrate,
        Convention::Prisma,
    ];

    fn tool(self) -> &'static dyn Tool {
        match self {
            Convention::Dbmate => &dbmate::Dbmate,
            Convention::Drizzle => &drizzle::Drizzle,
            Convention::Sqlx => &sqlx::Sqlx,
            Convention::Refinery => &refinery::Refinery,
            Convention::GolangMigrate => &golang_migrate::GolangMigrate,
            Convention::Prisma => &prisma::Prisma,
        }
    }

    /// What the tool is called.
    pub fn name(self) -> &'static str {
        self.tool().name()
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Convention> {
        Convention::ALL.into_iter().find(|convention| convention.name() == name)
    }

    /// Statements as a file has them.
    pub(super) fn joined(self, statements: &[String]) -> String {
        let between = match self {
            Convention::Drizzle => format!("{}\n", drizzle::BREAKPOINT),
            _ => String::new(),
        };
        let all: Vec<_> = statements.iter().map(|statement| format!("{statement};\n")).collect();
        all.join(&between)
    }

    /// A file that its tool takes for a migration.
    pub(super) fn marked(self, text: String) -> String {
        let is_marked =
            self != Convention::Dbmate || text.lines().any(|line| dbmate::is_mark(line, dbmate::UP));
        if is_marked { text } else { format!("{}\n{text}", dbmate::UP) }
    }

    pub(super) fn read(self, folder: &Path) -> Result<Vec<Migration>, Error> {
        self.tool().read(folder)
    }

    /// Notes that a migration has run, and for how long.
    pub(super) fn add(
        self,
        tx: &Transaction<'_>,
        migration: &Migration,
        took: Duration,
    ) -> Result<(), Error> {
        self.tool().add(tx, migration, took)
    }

    /// Notes that a migration was taken back; `before`: the one that is the last then.
    pub(super) fn remove(
        self,
        tx: &Transaction<'_>,
        version: &str,
        before: Option<&str>,
    ) -> Result<(), Error> {
        self.tool().remove(tx, version, before)
    }
}

/// What has run, by a database that is only looked at.
pub(super) fn look(folder: &Folder, database: &Migrator) -> Result<Applied, Error> {
    let applied = applied(folder, &|sql, parameters| database.rows(sql, parameters))?;
    Ok(applied.unwrap_or(Applied::Each(vec![])))
}

/// The same under the write lock; makes the history where there is none.
pub(super) fn take(folder: &Folder, tx: &Transaction<'_>) -> Result<Applied, Error> {
    if let Some(applied) = applied(folder, &|sql, parameters| tx.rows(sql, parameters))? {
        return Ok(applied);
    }
    for statement in folder.convention.tool().create().split(';') {
        tx.execute(statement, &[])?;
    }
    Ok(Applied::Each(vec![]))
}

/// What has run; `None` where there is no history yet.
fn applied(folder: &Folder, rows: &Rows<'_>) -> Result<Option<Applied>, Error> {
    let tool = folder.convention.tool();
    let histories = detect::histories(rows)?;
    if histories.contains(&folder.convention) {
        return tool.applied(rows).map(Some);
    }
    if let (Some(other), false) = (histories.first(), folder.chosen) {
        return Err(Error::invalid(
            format!(
                "`{}` has migrations of {}, and the database has the history of {}",
                folder.path.display(),
                tool.name(),
                other.name()
            ),
            format!(
                "`--convention {}` begins a history of its own, by which none of these has run; `--convention {}` goes on with the one that is there",
                tool.name(),
                other.name()
            ),
        ));
    }
    let columns = columns(rows, tool.table())?;
    if !columns.is_empty() {
        return Err(Error::invalid(
            format!(
                "the table `{}` has the columns {}: it is not the history of {}, whose files these are",
                tool.table(),
                columns.join(", "),
                tool.name()
            ),
            "run these migrations with the tool that made the table, or name its convention with --convention",
        ));
    }
    Ok(None)
}

/// Makes an empty migration; `now`: digits that are greater than every version before. Of two files the first is returned.
///
/// # Errors
/// `Invalid` when the name is not fit for a file, the file exists, or another program must make it.
pub fn new_file(folder: &Folder, now: &str, name: &str) -> Result<PathBuf, Error> {
    let fit = |c: char| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let name: String = name.chars().map(fit).collect();
    if name.trim_matches('_').is_empty() {
        return Err(Error::invalid(
            "a migration needs a name",
            "say what it does: `litekeep migrate new add_orders`",
        ));
    }
    let files = folder.convention.tool().blank(folder, now, &name)?;
    for (path, text) in &files {
        let parent = path.parent().unwrap_or(&folder.path);
        std::fs::create_dir_all(parent).map_err(failed("make the folder", parent))?;
        let made = std::fs::File::create_new(path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
        made.map_err(failed("make", path))?;
    }
    Ok(files.into_iter().next().map(|(path, _)| path).unwrap_or_default())
}

/// A query of the database.
type Rows<'a> = dyn Fn(&str, &[Value]) -> Result<Vec<Vec<Value>>, litekeep_sql::Error> + 'a;

/// The columns of a table; none where there is no such table.
fn columns(rows: &Rows<'_>, table: &str) -> Result<Vec<String>, Error> {
    Ok(texts(rows("SELECT name FROM pragma_table_info(?1)", &[table.into()])?))
}

/// The only column of some rows, whatever type a tool gives it.
fn texts(rows: Vec<Vec<Value>>) -> Vec<String> {
    let text = |value| match value {
        Value::Text(text) => Some(text),
        Value::Integer(n) => Some(n.to_string()),
        Value::Real(x) => Some(format!("{x:.0}")),
        Value::Null | Value::Blob(_) => None,
    };
    rows.into_iter().flatten().filter_map(text).collect()
}

/// The entries of a folder of migrations.
fn listed(folder: &Path) -> Result<std::fs::ReadDir, Error> {
    std::fs::read_dir(folder).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::invalid(
            format!("list the migrations in `{}`: the folder does not exist", folder.display()),
            "`litekeep migrate new NAME` makes the first file in it; --dir, or `migrations` in the [[database]], names another",
        ),
        _ => failed("list the migrations in", folder)(error),
    })
}

/// The files of a folder that end in `.sql`, with their stems.
fn sql_files(folder: &Path) -> Result<Vec<(PathBuf, String)>, Error> {
    let mut files = vec![];
    for entry in listed(folder)? {
        let path = entry.map_err(failed("list the migrations in", folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(stem) = name.strip_suffix(".sql") {
            files.push((path.clone(), stem.to_owned()));
        }
    }
    files.sort();
    Ok(files)
}

fn text_of(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(failed("read", path))
}

/// `VERSION_name`: digits, and what follows the underscores.
fn numbered<'a>(stem: &'a str, path: &Path) -> Result<(&'a str, &'a str), Error> {
    let digits = stem.bytes().take_while(u8::is_ascii_digit).count();
    let (version, rest) = stem.split_at(digits);
    if version.is_empty() {
        return Err(Error::invalid(
            format!("`{}` is no migration: its name does not begin with a version", path.display()),
            "name it like 20260131120000_what_it_does.sql, as `litekeep migrate new` does",
        ));
    }
    Ok((version, rest.trim_start_matches('_')))
}

/// Migrations of one file each, or of `.up.sql` and `.down.sql`.
fn pairs(folder: &Path) -> Result<Vec<Migration>, Error> {
    let (mut migrations, mut downs) = (vec![], vec![]);
    for (path, stem) in sql_files(folder)? {
        let text = text_of(&path)?;
        if let Some(stem) = stem.strip_suffix(".down") {
            downs.push((numbered(stem, &path)?.0.to_owned(), text));
            continue;
        }
        let (version, name) = numbered(stem.strip_suffix(".up").unwrap_or(&stem), &path)?;
        let (version, name, up) = (version.to_owned(), name.to_owned(), text.clone());
        migrations.push(Migration { version, name, path, text, up, down: None });
    }
    for (version, text) in downs {
        if let Some(up) = migrations.iter_mut().find(|m| order(&m.version) == order(&version)) {
            up.down = Some(text);
        }
    }
    Ok(migrations)
}

/// Empty files of a pair, or one where the folder has only such.
fn blank_pair(folder: &Folder, version: &str, name: &str, always_two: bool) -> Vec<(PathBuf, String)> {
    let file = |end: &str| (folder.path.join(format!("{version}_{name}{end}")), "\n".to_owned());
    let is_pair =
        |m: &Migration| m.path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".up.sql"));
    match always_two || folder.migrations.iter().any(is_pair) {
        true => vec![file(".up.sql"), file(".down.sql")],
        false => vec![file(".sql")],
    }
}
