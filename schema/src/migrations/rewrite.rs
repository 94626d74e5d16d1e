//! A migration that rebuilds a table, written so that nothing goes with the old one: the procedure of
//! <https://sqlite.org/lang_altertable.html#otheralter>, for files that rename the old table away first (which takes the references of
//! other tables along), that forget its indexes and triggers, or that only say how the table shall be.
//!
//! Promise: what is returned was run on a copy of the schema, and the guard found nothing lost there.

use super::folder::{Folder, Migration};
use super::guard;
use super::model::Before;
use crate::Error;
use crate::words::{Head, Word, head, words};
use litekeep_sql::{Census, MigrationTransaction as Transaction, Migrator, Value, quoted, statements};
use std::collections::BTreeMap;
use std::path::Path;

/// A file and what was done to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// The whole file.
    pub text: String,
    /// The tables that it rebuilds.
    pub rebuilt: Vec<Rebuild>,
}

/// A table that is rebuilt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rebuild {
    /// Its name.
    pub table: String,
    /// Indexes, triggers and views that the file did not make again.
    pub kept: Vec<String>,
    /// Columns that the new table does not have.
    pub columns_lost: Vec<String>,
}

/// A table that the file rebuilds.
struct Plan {
    table: String,
    /// What the new table is called until it takes the place of the old one.
    new: String,
    /// The statement that makes the new one, under that name.
    create: String,
    way: Way,
}

/// How a file rebuilds a table.
enum Way {
    /// The new one is filled, then the old one dropped, then the new one renamed.
    Safe,
    /// The old one is renamed to this first.
    Aside(String),
    /// It only says how the table shall be.
    Wish,
}

/// Rewrites the migration at `path`, which need not be in the folder. `database`: whose schema it meets; without one that of the
/// migrations before it. `table`: the one that the only CREATE TABLE of the file describes.
///
/// # Errors
/// `Invalid` when the file rebuilds nothing, or what it makes of the schema would still lose something.
pub fn rewrite(
    folder: &Folder,
    path: &Path,
    database: Option<&Path>,
    table: Option<&str>,
) -> Result<Rewritten, Error> {
    let own = |m: &&Migration| m.path == path || m.path.canonicalize().ok() == path.canonicalize().ok();
    let before = Before::of(folder, database)?;
    let text = std::fs::read_to_string(path).map_err(super::folder::failed("read", path))?;
    let (up, earlier) = match before.pending().iter().position(|m| own(&m)) {
        Some(at) => (before.pending()[at].up.clone(), &before.pending()[..at]),
        None => match folder.migrations.iter().find(own) {
            Some(m) => {
                return Err(Error::invalid(
                    format!("`{}` has run in the database", m.path.display()),
                    "write a new migration: files that have run stay as they are",
                ));
            }
            None => (text.clone(), before.pending()),
        },
    };
    let mut model = Migrator::in_memory()?;
    let mut tx = model.begin()?;
    before.make(&mut tx);
    for migration in earlier {
        tx.run(&migration.up).map_err(|stopped| super::run::failed(migration, stopped))?;
    }
    let met = Met::of(&tx)?;
    drop(tx);
    let plans = plans(&up, &met, table)?;
    if plans.is_empty() {
        return Err(Error::invalid(
            format!("`{}` rebuilds no table", path.display()),
            "write the CREATE TABLE of a table as it shall be; everything else about it is added",
        ));
    }
    let (statements, rebuilt) = met.finish(path, &up, &plans)?;
    let new = header(&up) + &folder.convention.joined(&statements);
    // The other parts of the file stay.
    let (part, text) = (up.trim_start_matches('\n'), text.replace("\r\n", "\n"));
    let text = if text.contains(part) { text.replacen(part, &new, 1) } else { new };
    Ok(Rewritten { text: folder.convention.marked(text), rebuilt })
}

/// What stands above the first statement, and what the file allows.
fn header(up: &str) -> String {
    let first = statements(up).next().map_or(0, |(line, _)| line - 1);
    let is_kept = |(at, line): &(usize, &str)| *at < first || line.trim().starts_with("-- litekeep:allow ");
    let kept = up.lines().enumerate().filter(is_kept).map(|(_, line)| line).collect::<Vec<_>>().join("\n");
    let note =
        "-- Foreign keys must be off before the transaction begins, as they are for `litekeep migrate up`.";
    format!("{}\n{note}\n", kept.trim_start_matches('\n')).trim_start().to_owned()
}

/// Which tables a file rebuilds, and how.
fn plans(up: &str, met: &Met, wanted: Option<&str>) -> Result<Vec<Plan>, Error> {
    let wanted = match wanted {
        Some(name) => Some(met.table(name).ok_or_else(|| {
            Error::invalid(
                format!("there is no table `{name}`"),
                "name one that the migrations before make, or the database that has it with --db",
            )
        })?),
        None => None,
    };
    let mut plans: Vec<Plan> = vec![];
    let mut made: BTreeMap<String, String> = BTreeMap::new();
    let mut aside: BTreeMap<String, String> = BTreeMap::new();
    let mut dropped: Vec<String> = vec![];
    for (_, statement) in statements(up) {
        match head(&words(statement)) {
            Some(Head::Create(name)) => {
                made.insert(name.name(), statement.to_owned());
                let Some(table) = wanted.clone().or_else(|| met.table(&name.name())) else { continue };
                if dropped.contains(&table) || plans.iter().any(|plan| plan.table == table) {
                    continue;
                }
                let way = aside.get(&table).map_or(Way::Wish, |old| Way::Aside(old.clone()));
                let new = met.free(&format!("new_{table}"));
                plans.push(Plan { create: replaced(statement, &[(name, &new)]), new, table, way });
            }
            Some(Head::Drop(name)) => dropped.extend(met.table(&name.name())),
            Some(Head::Rename(from, to)) => match (met.table(&from.name()), met.table(&to.name())) {
                (None, Some(table)) => {
                    let create = made.get(&from.name()).cloned().unwrap_or_default();
                    plans.push(Plan { table, new: from.name(), create, way: Way::Safe });
                }
                (Some(table), None) => drop(aside.insert(table, to.name())),
                _ => {}
            },
            _ => {}
        }
    }
    Ok(plans)
}

/// The columns of each table that can be written, and whether it counts by AUTOINCREMENT.
type Tables = BTreeMap<String, (Vec<String>, bool)>;

/// The schema that a file meets.
struct Met {
    /// Statements that make it, by the names of what they make.
    objects: Vec<(String, String)>,
    tables: Tables,
    census: Census,
}

impl Met {
    fn of(tx: &Transaction<'_>) -> Result<Met, Error> {
        let census = tx.census()?;
        let text = |value: &Value| if let Value::Text(text) = value { text.clone() } else { String::new() };
        let objects = tx.rows(
            "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY type <> 'table', type = 'trigger', rowid",
            &[],
        )?;
        let objects: Vec<_> = objects.iter().map(|row| (text(&row[0]), text(&row[1]))).collect();
        let mut tables = BTreeMap::new();
        for name in census.rows.keys() {
            let columns = columns(tx, name)?;
            let counts = objects.iter().any(|(object, sql)| {
                object == name && words(sql).iter().any(|word| word.is("AUTOINCREMENT"))
            });
            tables.insert(name.clone(), (columns, counts));
        }
        Ok(Met { objects, tables, census })
    }

    /// A table as it is really called.
    fn table(&self, name: &str) -> Option<String> {
        self.tables.keys().find(|table| table.eq_ignore_ascii_case(name)).cloned()
    }

    /// A name that nothing has.
    fn free(&self, wanted: &str) -> String {
        let is_taken = |name: &String| self.objects.iter().any(|(taken, _)| taken.eq_ignore_ascii_case(name));
        let mut names = std::iter::successors(Some(wanted.to_owned()), |name| Some(format!("{name}_")));
        names.find(|name| !is_taken(name)).unwrap_or_default()
    }

    /// Writes the statements, adds what is lost, and tries the outcome.
    fn finish(&self, path: &Path, up: &str, plans: &[Plan]) -> Result<(Vec<String>, Vec<Rebuild>), Error> {
        // Views and triggers that read the table stop the rename, unless SQLite is told to leave them alone.
        let ordered = |legacy| {
            let statements = self.ordered(up, plans, legacy)?;
            self.tried(path, &statements).map(|(lost, _)| (statements, lost))
        };
        let (mut statements, lost) = ordered(false).or_else(|_| ordered(true))?;
        let again = self.objects.iter().filter(|(name, _)| lost.contains(name));
        statements.extend(again.map(|(_, sql)| sql.clone()));
        let (left, now) = self.tried(path, &statements)?;
        if let Some(name) = left.first() {
            let hint = "make it again in the file, or drop it by name";
            return Err(Error::invalid(format!("`{name}` would still be lost"), hint));
        }
        let rebuild = |plan: &Plan| {
            let of_table = |name: &&String| {
                self.census.objects.iter().any(|o| &o.name == *name && o.table == plan.table)
            };
            let columns = |tables: &Tables| tables.get(&plan.table).map(|(columns, _)| columns.clone());
            let now = columns(&now).unwrap_or_default();
            let mut columns_lost = columns(&self.tables).unwrap_or_default();
            columns_lost.retain(|column| !now.contains(column));
            let kept = lost.iter().filter(of_table).cloned().collect();
            Rebuild { table: plan.table.clone(), kept, columns_lost }
        };
        let rebuilt = plans.iter().map(rebuild).collect();
        Ok((statements, rebuilt))
    }

    /// Which objects a file loses, although it does not drop them, and the tables that it leaves.
    fn tried(&self, path: &Path, statements: &[String]) -> Result<(Vec<String>, Tables), Error> {
        let mut model = Migrator::in_memory()?;
        let mut tx = model.begin()?;
        for (_, sql) in &self.objects {
            let _ = tx.run(sql);
        }
        let aims = tx.run(&statements.join(";\n")).map_err(|stopped| {
            Error::invalid(
                format!("`{}`, rewritten, does not run: {}", path.display(), stopped.message),
                "change the file to fit the schema; what refers to a column that goes must be dropped by name",
            )
        })?;
        let (objects, others): (Vec<_>, Vec<_>) = guard::harms(&self.census, &tx.census()?, &aims)
            .into_iter()
            .partition(|harm| matches!(harm, guard::Harm::LostObject { .. }));
        if !others.is_empty() {
            return Err(Error::Harm { path: path.to_owned(), harms: others });
        }
        let name = |harm| if let guard::Harm::LostObject { name, .. } = harm { Some(name) } else { None };
        Ok((objects.into_iter().filter_map(name).collect(), Met::of(&tx)?.tables))
    }

    /// The statements of a file in the safe order.
    fn ordered(&self, up: &str, plans: &[Plan], legacy: bool) -> Result<Vec<String>, Error> {
        let (mut out, mut later, mut open) = (vec![], vec![], None::<&Plan>);
        for (_, statement) in statements(up) {
            let words = words(statement);
            let find = |is: &dyn Fn(&Plan) -> bool| plans.iter().find(|plan| is(plan));
            match head(&words) {
                Some(Head::Create(name)) => {
                    let is = |p: &Plan| match p.way {
                        Way::Safe => false,
                        Way::Aside(_) => name.names(&p.table),
                        Way::Wish => replaced(statement, &[(name, &p.new)]) == p.create,
                    };
                    let Some(plan) = find(&is) else {
                        out.push(statement.to_owned());
                        continue;
                    };
                    out.push(plan.create.clone());
                    if matches!(plan.way, Way::Wish) {
                        out.push(self.copy(plan)?);
                        out.extend(self.swap(plan, legacy));
                    }
                }
                Some(Head::Rename(from, to)) => {
                    let is_aside =
                        |p: &Plan| matches!(&p.way, Way::Aside(old) if from.names(&p.table) && to.names(old));
                    let is_end = |p: &Plan| matches!(p.way, Way::Safe) && from.names(&p.new);
                    match (find(&is_aside), find(&is_end)) {
                        (Some(plan), _) => open = Some(plan),
                        // Done where the old one was dropped.
                        (_, Some(_)) => {}
                        _ => out.push(statement.to_owned()),
                    }
                }
                Some(Head::Insert(name)) if open.is_some_and(|plan| name.names(&plan.table)) => {
                    let Some(plan) = open else { continue };
                    out.push(by_its_name(statement, &words, plan, Some(name)));
                }
                Some(Head::Drop(name)) => {
                    let is = |p: &Plan| match &p.way {
                        Way::Safe => name.names(&p.table),
                        Way::Aside(old) => name.names(old),
                        Way::Wish => false,
                    };
                    match find(&is) {
                        Some(plan) => {
                            out.extend(self.swap(plan, legacy));
                            out.append(&mut later);
                            open = None;
                        }
                        None => out.push(statement.to_owned()),
                    }
                }
                // What is made for the new table waits until that has its name.
                _ => match open {
                    Some(plan) if words.iter().any(|word| word.names(&plan.table)) => {
                        later.push(statement.to_owned())
                    }
                    Some(plan) => out.push(by_its_name(statement, &words, plan, None)),
                    None => out.push(statement.to_owned()),
                },
            }
        }
        out.append(&mut later);
        Ok(out)
    }

    /// Copies the columns that both have.
    fn copy(&self, plan: &Plan) -> Result<String, Error> {
        let mut model = Migrator::in_memory()?;
        let mut tx = model.begin()?;
        tx.run(&plan.create).map_err(|stopped| Error::invalid(stopped.message, "mend the CREATE TABLE"))?;
        let new = columns(&tx, &plan.new)?;
        let old = self.tables.get(&plan.table).map(|(columns, _)| columns.as_slice()).unwrap_or_default();
        let both: Vec<_> = new.iter().filter(|column| old.contains(column)).map(|c| quoted(c)).collect();
        let columns = both.join(", ");
        let (new, old) = (quoted(&plan.new), quoted(&plan.table));
        Ok(format!("INSERT INTO {new} ({columns}) SELECT {columns} FROM {old}"))
    }

    /// Lets the new table take the place of the old one.
    fn swap(&self, plan: &Plan, legacy: bool) -> Vec<String> {
        let (new, old) = (quoted(&plan.new), quoted(&plan.table));
        let text = |name: &str| format!("'{}'", name.replace('\'', "''"));
        let mut out = vec![];
        let counted = self.tables.get(&plan.table).is_some_and(|(_, counts)| *counts);
        if counted && words(&plan.create).iter().any(|word| word.is("AUTOINCREMENT")) {
            // Numbers of rows that were deleted are not given out again.
            out.push(format!("DELETE FROM sqlite_sequence WHERE name = {}", text(&plan.new)));
            out.push(format!(
                "INSERT INTO sqlite_sequence (name, seq) SELECT {}, seq FROM sqlite_sequence WHERE name = {}",
                text(&plan.new),
                text(&plan.table)
            ));
        }
        let pragma = |value: &str| format!("PRAGMA legacy_alter_table = {value}");
        out.extend(legacy.then(|| pragma("ON")));
        out.push(format!("DROP TABLE {old}"));
        out.push(format!("ALTER TABLE {new} RENAME TO {old}"));
        out.extend(legacy.then(|| pragma("OFF")));
        out
    }
}

/// The columns of a table that can be written.
fn columns(tx: &Transaction<'_>, table: &str) -> Result<Vec<String>, Error> {
    let rows = tx.rows("SELECT name FROM pragma_table_xinfo(?1) WHERE hidden IN (0, 1)", &[table.into()])?;
    let text = |value| if let Value::Text(text) = value { Some(text) } else { None };
    Ok(rows.into_iter().flatten().filter_map(text).collect())
}

/// A statement for an old table that keeps its name; `filled`: where it names the new one.
fn by_its_name(statement: &str, words: &[Word<'_>], plan: &Plan, filled: Option<Word<'_>>) -> String {
    let mut changes = vec![];
    if let Way::Aside(old) = &plan.way {
        changes.extend(words.iter().filter(|word| word.names(old)).map(|word| (*word, plan.table.as_str())));
    }
    changes.extend(filled.map(|word| (word, plan.new.as_str())));
    replaced(statement, &changes)
}

/// A statement with other names in some places.
fn replaced(statement: &str, changes: &[(Word<'_>, &str)]) -> String {
    let mut changes = changes.to_vec();
    changes.sort_by_key(|(word, _)| word.at);
    let (mut out, mut from) = (String::new(), 0);
    for (word, name) in changes {
        out.push_str(&statement[from..word.at]);
        out.push_str(&quoted(name));
        from = word.at + word.text.len();
    }
    out + &statement[from..]
}
