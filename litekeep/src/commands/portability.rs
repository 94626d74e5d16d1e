//! `litekeep schema` and `litekeep lint`: what a database is on another server, and what cannot be there as it is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use litekeep_schema::portable::dialect::{self, Dialect, Fate};
use litekeep_schema::portable::mysql::{self, Flavor};
use litekeep_schema::portable::{Level, Note, Options, mongodb, postgres};
use litekeep_sql::{Declaration, Examiner, Profile, statements};
use litekeep_sync::copy;
use litekeep_sync::cut::Cut;
use litekeep_sync::push::is_wanted;
use serde::Serialize;

use crate::args::{Elsewhere, PortabilityLint, Server};
use crate::report::{self, Failure, Format, Outcome, text};

/// How long rows without a parent are looked for.
const LONG: Duration = Duration::from_secs(3600);

/// A database as it is elsewhere.
struct Surveyed {
    tables: Vec<Table>,
    notes: Vec<Note>,
}

#[derive(Serialize)]
struct Table {
    table: String,
    /// The statement that makes it, then its indexes.
    sql: Vec<String>,
    /// Statements for when all tables and their rows are there.
    foreign_keys: Vec<String>,
}

#[derive(Serialize)]
struct Finding {
    level: &'static str,
    table: String,
    column: Option<String>,
    message: String,
}

impl Finding {
    fn of(note: Note) -> Finding {
        Finding { level: note.level.word(), table: note.table, column: note.column, message: note.message }
    }

    fn line(&self) -> String {
        let column = self.column.as_ref().map_or(String::new(), |column| format!(".{column}"));
        format!("{}: {}{column} {}\n", self.level, self.table, self.message)
    }
}

async fn surveyed(args: &Elsewhere) -> Result<Surveyed> {
    is_there(&args.db)?;
    let (path, server) = (args.db.clone(), args.server);
    tokio::task::spawn_blocking(move || survey(&path, server)).await?
}

fn survey(path: &Path, server: Server) -> Result<Surveyed> {
    let (mut tables, mut notes) = (vec![], vec![]);
    let mut examiner = Examiner::open(path)?;
    for (declared, profiles) in copy::survey(&examiner, |table| is_wanted(&[], table), &Cut::default())? {
        let (table, found) = match server {
            Server::Postgres => in_postgres(&declared, &profiles),
            Server::Mysql => in_mysql(&declared, &profiles, Flavor::Mysql),
            Server::Mariadb => in_mysql(&declared, &profiles, Flavor::Mariadb),
            Server::Mongodb => in_mongodb(&declared, &profiles),
        };
        notes.extend(found);
        tables.push(table);
    }
    for (table, rows) in examiner.foreign_key_violations(LONG)?.unwrap_or_default() {
        let rows = text::count(usize::try_from(rows).unwrap_or(usize::MAX), "row");
        let message = format!("{rows} refer to rows that are not there: its foreign keys cannot be made");
        notes.push(Note { table, column: None, level: Level::Rule, message });
    }
    Ok(Surveyed { tables, notes })
}

fn in_postgres(declared: &Declaration, profiles: &[Profile]) -> (Table, Vec<Note>) {
    let options = Options::default();
    let (table, notes) = postgres::map(declared, profiles, &options);
    let sql = std::iter::once(table.create(&options)).chain(table.indexes).collect();
    (Table { table: declared.name.clone(), sql, foreign_keys: table.foreign_keys }, notes)
}

fn in_mysql(declared: &Declaration, profiles: &[Profile], flavor: Flavor) -> (Table, Vec<Note>) {
    let options = Options::default();
    let (table, notes) = mysql::map(declared, profiles, &options);
    let indexes = table.indexes.iter().map(|index| table.create_index(index, &options));
    let sql = std::iter::once(table.create(&options, flavor)).chain(indexes).collect();
    (Table { table: declared.name.clone(), sql, foreign_keys: table.foreign_keys }, notes)
}

/// Collections with validators, which admit what the columns declare.
fn in_mongodb(declared: &Declaration, profiles: &[Profile]) -> (Table, Vec<Note>) {
    let (table, mut notes) = mongodb::map(declared, profiles, &Options::default());
    notes.extend(no_foreign_keys(declared));
    let indexes = table.indexes.iter().map(|index| table.create_index(index));
    let sql = std::iter::once(table.create(true)).chain(indexes).collect();
    (Table { table: declared.name.clone(), sql, foreign_keys: vec![] }, notes)
}

fn no_foreign_keys(declared: &Declaration) -> Option<Note> {
    let message = "its foreign keys are not translated".to_owned();
    let note = Note { table: declared.name.clone(), column: None, level: Level::Rule, message };
    (!declared.foreign_keys.is_empty()).then_some(note)
}

fn is_there(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let folder = std::path::absolute(path).ok().and_then(|path| path.parent().map(Path::to_owned));
    let hint = match folder.filter(|folder| !folder.exists()) {
        Some(folder) => format!("there is no folder `{}` either", folder.display()),
        None => "give the path of a database, or for `lint` of files with SQL (*.sql): litekeep lint app.db --for postgres".to_owned(),
    };
    Err(Failure::invalid(format!("there is no `{}`", path.display())).hint(hint).into())
}

#[derive(Serialize)]
struct Schema {
    database: PathBuf,
    tables: Vec<Table>,
    findings: Vec<Finding>,
    ok: bool,
}

pub(super) async fn schema(args: &Elsewhere, format: Format) -> Result<Outcome> {
    let Surveyed { tables, notes } = surveyed(args).await.context("translate a schema")?;
    let ok = notes.iter().all(|note| note.level < Level::Table);
    let findings = notes.into_iter().map(Finding::of).collect();
    let schema = Schema { database: args.db.clone(), tables, findings, ok };
    let comment = if matches!(args.server, Server::Mongodb) { "//" } else { "--" };
    report::result(format, &schema, || schema.text(comment));
    Ok(if ok { Outcome::Done } else { Outcome::No })
}

impl Schema {
    /// Statements, with what is not as it is here as comments.
    fn text(&self, comment: &str) -> String {
        let mut out: String =
            self.findings.iter().map(|finding| format!("{comment} {}", finding.line())).collect();
        for table in &self.tables {
            out.push('\n');
            out.extend(table.sql.iter().map(|statement| format!("{statement};\n")));
        }
        let keys: Vec<&String> = self.tables.iter().flat_map(|table| &table.foreign_keys).collect();
        if !keys.is_empty() {
            out.push_str(&format!("\n{comment} Once all rows are there:\n"));
            out.extend(keys.iter().map(|statement| format!("{statement};\n")));
        }
        out
    }
}

#[derive(Serialize)]
struct Lint {
    database: PathBuf,
    tables: usize,
    findings: Vec<Finding>,
    ok: bool,
}

pub(super) async fn lint(args: &PortabilityLint, format: Format) -> Result<Outcome> {
    let is_sql = |path: &PathBuf| path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("sql"));
    match &args.paths[..] {
        paths if paths.iter().all(is_sql) => lint_sql(paths, args.server, format),
        [db] => lint_database(&Elsewhere { db: db.clone(), server: args.server }, format).await,
        _ => {
            Err(Failure::invalid("look at one database, or at files with SQL (*.sql), one or several").into())
        }
    }
}

async fn lint_database(args: &Elsewhere, format: Format) -> Result<Outcome> {
    let Surveyed { tables, mut notes } = surveyed(args).await.context("look at a database")?;
    // What is worst comes first.
    notes.sort_by_key(|note| std::cmp::Reverse(note.level));
    let ok = notes.iter().all(|note| note.level < Level::Values);
    let findings = notes.into_iter().map(Finding::of).collect();
    let lint = Lint { database: args.db.clone(), tables: tables.len(), findings, ok };
    report::result(format, &lint, || {
        let lines: String = lint.findings.iter().map(Finding::line).collect();
        let tables = text::count(lint.tables, "table");
        let end = if ok { "every row can go there as it is" } else { "not everything can go there as it is" };
        format!("{lines}{tables}: {end}\n")
    });
    Ok(if ok { Outcome::Done } else { Outcome::No })
}

#[derive(Serialize)]
struct LintSql {
    files: Vec<PathBuf>,
    statements: usize,
    findings: Vec<Trouble>,
    ok: bool,
}

/// What a statement means elsewhere.
#[derive(Serialize)]
struct Trouble {
    level: &'static str,
    file: PathBuf,
    line: usize,
    what: String,
    instead: &'static str,
}

fn lint_sql(files: &[PathBuf], server: Server, format: Format) -> Result<Outcome> {
    let dialect = match server {
        Server::Postgres => Dialect::Postgres,
        Server::Mysql => Dialect::Mysql,
        Server::Mariadb => Dialect::Mariadb,
        Server::Mongodb => {
            return Err(Failure::invalid(
                "MongoDB has no SQL: of a database `lint` says what becomes of its rows there",
            )
            .into());
        }
    };
    let (mut count, mut findings) = (0, vec![]);
    for file in files {
        is_there(file)?;
        let sql = std::fs::read_to_string(file)
            .map_err(|error| Failure::io(format!("read `{}`", file.display()), &error))?;
        for (line, statement) in statements(&sql) {
            count += 1;
            findings.extend(dialect::findings(statement, dialect).into_iter().map(|found| Trouble {
                level: if found.fate == Fate::Refused { "refused" } else { "otherwise" },
                file: file.clone(),
                line,
                what: found.what,
                instead: found.instead,
            }));
        }
    }
    let ok = findings.is_empty();
    let lint = LintSql { files: files.to_vec(), statements: count, findings, ok };
    report::result(format, &lint, || {
        let line = |found: &Trouble| {
            let fate =
                if found.level == "refused" { "is refused there" } else { "means something else there" };
            format!("{}:{}: {} {fate}: {}\n", found.file.display(), found.line, found.what, found.instead)
        };
        let lines: String = lint.findings.iter().map(line).collect();
        let end = if ok {
            "nothing was found that is otherwise there"
        } else {
            "not every statement can go there as it is"
        };
        format!("{lines}{}: {end}\n", text::count(count, "statement"))
    });
    Ok(if ok { Outcome::Done } else { Outcome::No })
}
