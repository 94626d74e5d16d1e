//! What a person should know of migrations before they run: what they destroy, whom they break, and where they fail.
//!
//! The files run in a database without rows that has the schema which they will meet, so that it is SQLite that reads them; what
//! a file did there is held against what was before. With a database its rows are asked too.

mod schema;
mod statement;

use super::folder::{Folder, Migration};
use super::guard;
use super::model::Before;
use crate::Error;
use crate::error::{refuses_rebuild, rewriting};
use crate::portable::dialect::{Dialect, Fate, findings};
use crate::words::{Head, head, words};
use litekeep_sql::{Aims, MigrationTransaction as Transaction, Migrator, statements};
use schema::{Schema, rows_are_many};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What was found in a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// The line of the statement, from 1.
    pub line: usize,
    /// What `-- litekeep:allow CODE REASON` calls it.
    pub code: &'static str,
    /// What happens.
    pub message: String,
    /// What to do instead.
    pub fix: String,
}

/// Everything that can be found; the guard's own codes besides.
const CODES: [&str; 17] = [
    "drop-table",
    "drop-column",
    "whole-table",
    "rename",
    "not-null",
    "not-null-data",
    "unique-data",
    "long-lock",
    "pragma",
    "vacuum",
    "journal-mode",
    "transaction",
    "attach",
    "not-portable",
    "fails",
    "allow",
    "allow-unknown",
];

/// Reads the migrations of a folder that have not run in `database`, or without one all. `portable`: also what Postgres or MySQL
/// would not understand.
///
/// # Errors
/// When the database cannot be read.
pub fn lint(folder: &Folder, database: Option<&Path>, portable: bool) -> Result<Vec<Finding>, Error> {
    let before = Before::of(folder, database)?;
    let mut model = Migrator::in_memory()?;
    let mut tx = model.begin()?;
    before.make(&mut tx);
    let data = database.map(|path| Migrator::open(path, Duration::from_secs(10))).transpose()?;
    let mut all = vec![];
    for migration in before.pending() {
        let mut file = File { migration, portable, findings: vec![] };
        file.read(&mut tx, data.as_ref())?;
        all.extend(file.allowed());
    }
    Ok(all)
}

/// Takes up what another statement aimed at.
fn add(aims: &mut Aims, own: Aims) {
    aims.deleted_from.extend(own.deleted_from);
    aims.dropped.extend(own.dropped);
    for (new, old) in own.renamed {
        let oldest = aims.renamed.remove(&old).unwrap_or(old);
        aims.renamed.insert(new, oldest);
    }
}

/// One file and what was found in it.
struct File<'a> {
    migration: &'a Migration,
    portable: bool,
    findings: Vec<Finding>,
}

/// In which line something came or went last.
#[derive(Default)]
struct Lines {
    came: BTreeMap<(String, String), usize>,
    went: BTreeMap<(String, String), usize>,
    /// Statements that add a column.
    adds: Vec<usize>,
    renames: Vec<usize>,
    last: usize,
}

impl Lines {
    fn note(&mut self, line: usize, statement: &str, was: &Schema, now: &Schema) {
        let words = words(statement);
        let has = |keyword| words.iter().any(|word| word.is(keyword));
        if words.first().is_some_and(|word| word.is("ALTER")) {
            self.adds.extend(has("ADD").then_some(line));
            self.renames.extend(has("RENAME").then_some(line));
        }
        for place in was.places().filter(|place| !now.has(place)) {
            self.went.insert(place, line);
        }
        for place in now.places().filter(|place| !was.has(place)) {
            self.came.insert(place, line);
        }
        self.last = line;
    }

    fn went(&self, table: &str, part: &str) -> usize {
        self.went.get(&(table.to_owned(), part.to_owned())).copied().unwrap_or(self.last)
    }

    fn came(&self, table: &str, part: &str) -> usize {
        self.came.get(&(table.to_owned(), part.to_owned())).copied().unwrap_or(self.last)
    }
}

impl File<'_> {
    fn found(&mut self, line: usize, code: &'static str, message: String, fix: impl Into<String>) {
        let path = self.migration.path.clone();
        self.findings.push(Finding { path, line, code, message, fix: fix.into() });
    }

    fn read(&mut self, tx: &mut Transaction<'_>, data: Option<&Migrator>) -> Result<(), Error> {
        let (was, census) = (Schema::of(tx)?, tx.census()?);
        let (mut now, mut aims, mut lines) = (was.clone(), Aims::default(), Lines::default());
        for (line, statement) in statements(&self.migration.up) {
            let known = self.findings.len();
            self.words_of(line, statement, &was);
            match tx.run(statement) {
                Ok(own) => add(&mut aims, own),
                // A trap that was named says why.
                Err(_) if self.findings.len() > known => {}
                Err(stopped) if refuses_rebuild(&stopped.message) => {
                    self.found(line, "fails", stopped.message, rewriting(&self.migration.path));
                    // As it is when it is rewritten: the table is back under its name.
                    let rewritten = format!(
                        "PRAGMA legacy_alter_table = ON; {statement}; PRAGMA legacy_alter_table = OFF"
                    );
                    if let Ok(own) = tx.run(&rewritten) {
                        add(&mut aims, own);
                    }
                }
                Err(stopped) => {
                    let fix = "mend the statement; where it needs what only the application has, such as a function, run it there";
                    self.found(line, "fails", stopped.message, fix);
                }
            }
            let next = Schema::of(tx)?;
            lines.note(line, statement, &now, &next);
            now = next;
        }
        self.losses(&was, &now, &aims, &lines);
        self.demands(&was, &now, &lines, data)?;
        self.locks(&was, &now, &lines, data)?;
        for harm in guard::harms(&census, &tx.census()?, &aims) {
            let line = match &harm {
                guard::Harm::LostObject { table, name, .. } => lines.went(table, name),
                _ => lines.last,
            };
            self.found(line, harm.code(), harm.to_string(), harm.fix());
        }
        Ok(())
    }

    /// What the words of a statement tell.
    fn words_of(&mut self, line: usize, statement: &str, was: &Schema) {
        let words = words(statement);
        if let Some((code, message, fix)) = statement::trap(&words) {
            self.found(line, code, message.to_owned(), fix);
        }
        if let Some((verb, table)) =
            statement::whole_table(&words).filter(|(_, table)| was.table(table).is_some())
        {
            let message = format!("the {verb} has no WHERE: it meets every row of `{table}`");
            self.found(
                line,
                "whole-table",
                message,
                "say which rows are meant; many rows are better changed in portions by the application",
            );
        }
        if self.portable {
            for (who, dialect) in [("Postgres", Dialect::Postgres), ("MySQL", Dialect::Mysql)] {
                let refused =
                    findings(statement, dialect).into_iter().filter(|found| found.fate == Fate::Refused);
                for found in refused {
                    self.found(line, "not-portable", format!("{who} refuses {}", found.what), found.instead);
                }
            }
        }
    }

    /// Tables and columns that go.
    fn losses(&mut self, was: &Schema, now: &Schema, aims: &Aims, lines: &Lines) {
        const SOON: &str = "release first the version of the application that does without it";
        for (table, columns) in &was.tables {
            let renamed = aims.renamed.iter().find(|(_, old)| *old == table).map(|(new, _)| new);
            let Some(left) = now.tables.get(table).or_else(|| now.tables.get(renamed?)) else {
                let message = format!("the table `{table}` and its rows go");
                self.found(
                    lines.went(table, ""),
                    "drop-table",
                    message,
                    format!("{SOON}, then drop the table"),
                );
                continue;
            };
            if !now.tables.contains_key(table) {
                let message = format!(
                    "`{table}` is called `{}` then: the running version does not find it",
                    renamed.map_or("", |new| new)
                );
                self.found(
                    lines.went(table, ""),
                    "rename",
                    message,
                    "make a view of the old name in the same file, or keep the name",
                );
                continue;
            }
            for column in columns.keys().filter(|column| !left.contains_key(*column)) {
                let line = lines.went(table, column);
                if lines.renames.contains(&line)
                    && columns.len() == left.len()
                    && !aims.renamed.contains_key(table)
                {
                    let message = format!(
                        "the column `{column}` of `{table}` gets another name: the running version does not find it"
                    );
                    self.found(
                        line,
                        "rename",
                        message,
                        "add a column of the new name, fill it, and drop the old one with a later version",
                    );
                } else {
                    let message = format!(
                        "the column `{column}` of `{table}` and what is in it go; the running version may still read it"
                    );
                    self.found(line, "drop-column", message, format!("{SOON}, then drop the column"));
                }
            }
        }
    }

    /// What rows must fulfil that they need not before.
    fn demands(
        &mut self,
        was: &Schema,
        now: &Schema,
        lines: &Lines,
        data: Option<&Migrator>,
    ) -> Result<(), Error> {
        for (table, columns) in &now.tables {
            let Some(before) = was.tables.get(table) else { continue };
            for (name, column) in columns.iter().filter(|(_, column)| column.not_null) {
                let old = before.get(name);
                if old.is_some_and(|old| old.not_null) {
                    continue;
                }
                let line = lines.came(table, name);
                if !column.has_default {
                    let message = format!(
                        "`{table}`.`{name}` must have a value: an INSERT of the running version that gives none fails"
                    );
                    self.found(line, "not-null", message, "give the column a DEFAULT");
                }
                let (condition, what) = match old {
                    Some(_) => (format!("WHERE {} IS NULL", litekeep_sql::quoted(name)), "have NULL there"),
                    None if lines.adds.contains(&line) && !column.has_default => {
                        (String::new(), "would have no value")
                    }
                    None => continue,
                };
                let found = schema::count(data, table, &condition)?;
                if found != Some(0) {
                    let rows = found.map_or("if rows".to_owned(), |rows| format!("{rows} rows"));
                    let message = format!(
                        "`{table}`.`{name}` is NOT NULL: the file fails, as {rows} of `{table}` {what}"
                    );
                    let message =
                        if found.is_none() { message.replace("fails, as", "fails") } else { message };
                    self.found(
                        line,
                        "not-null-data",
                        message,
                        "fill the column first, or give it a DEFAULT and copy with coalesce()",
                    );
                }
            }
            for unique in now.uniques(table).filter(|unique| !was.uniques(table).any(|old| old == *unique)) {
                let line = lines.came(table, &format!("unique {unique}"));
                let groups = match unique.is_whole() {
                    true => schema::duplicates(data, table, unique)?,
                    false => None,
                };
                if groups != Some(0) {
                    let message = match groups {
                        Some(groups) => format!(
                            "`{table}` ({unique}) must be unique: the file fails, as {groups} values are there more than once"
                        ),
                        None => format!(
                            "`{table}` ({unique}) must be unique: the file fails if a value is there more than once"
                        ),
                    };
                    self.found(
                        line,
                        "unique-data",
                        message,
                        "decide which of the rows stay, and delete the others in the same file",
                    );
                }
            }
        }
        Ok(())
    }

    /// What takes long while nobody else can write.
    fn locks(
        &mut self,
        was: &Schema,
        now: &Schema,
        lines: &Lines,
        data: Option<&Migrator>,
    ) -> Result<(), Error> {
        let Some(data) = data else { return Ok(()) };
        let mut work: Vec<(usize, String, String)> = vec![];
        for (index, table) in now.indexes.iter().filter(|(index, _)| !was.indexes.contains_key(*index)) {
            work.push((lines.came(table, index), table.clone(), format!("the index `{index}` is made")));
        }
        for (line, statement) in statements(&self.migration.up) {
            let words = words(statement);
            if let Some(Head::Rename(_, to)) = head(&words) {
                work.push((line, to.name(), "the table is made anew".to_owned()));
            }
            if let Some((verb, table)) = statement::whole_table(&words) {
                work.push((line, table, format!("the {verb} runs")));
            }
        }
        for (line, table, what) in work {
            if was.table(&table).is_some() && rows_are_many(data, &table)? {
                let message = format!(
                    "`{table}` has more than {} rows: nobody else can write while {what}",
                    schema::MANY
                );
                let fix = "`litekeep migrate rehearse` measures how long; do it when little is written";
                self.found(line, "long-lock", message, fix);
            }
        }
        Ok(())
    }

    /// What the file does not allow, and what is wrong with what it allows.
    fn allowed(mut self) -> Vec<Finding> {
        let lines = self.migration.up.lines().enumerate();
        let marks: Vec<_> = lines
            .filter_map(|(at, line)| Some((at + 1, line.trim().strip_prefix(guard::ALLOW)?.trim())))
            .collect();
        let codes = guard::allowed(&self.migration.up);
        self.findings.retain(|finding| !codes.contains(&finding.code));
        for (line, mark) in marks {
            let (code, reason) = mark.split_once(char::is_whitespace).unwrap_or((mark, ""));
            if reason.trim().is_empty() {
                let message = format!("`{} {code}` has no reason, and does nothing", guard::ALLOW.trim());
                self.found(line, "allow", message, "write behind the code why it must be so");
            } else if !CODES.contains(&code) && !guard::CODES.contains(&code) {
                let message = format!("there is no code `{code}`");
                self.found(
                    line,
                    "allow-unknown",
                    message,
                    "write one of those that `litekeep migrate lint` prints",
                );
            }
        }
        self.findings.sort_by_key(|finding| finding.line);
        self.findings
    }
}
