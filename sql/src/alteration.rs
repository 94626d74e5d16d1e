//! What ALTER TABLE made of tables, found by doing it again in memory.

use rusqlite::limits::Limit;
use rusqlite::{Connection, OptionalExtension as _};

use crate::{Error, quoted};

/// A table that has another statement than before, and perhaps another name.
#[derive(Clone, Copy, Debug)]
pub struct Altered<'a> {
    /// Its name and statement before.
    pub had: (&'a str, &'a str),
    /// Its name and statement after.
    pub gets: (&'a str, &'a str),
}

/// How a table is altered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alteration {
    /// The statements for its columns, as it is named afterwards. Those for names of tables come before all of them.
    pub statements: Vec<String>,
    /// With them, and all tables renamed, its statement is the one that it gets.
    pub is_exact: bool,
    /// The columns that they add.
    pub added: Vec<String>,
    /// The columns that they rename: the name that each had, and the one that it gets.
    pub renamed: Vec<(String, String)>,
    /// Its columns have the same names as before.
    pub has_same_columns: bool,
}

/// The statements that rename a table. SQLite takes names that differ in the case of their letters for one, which is taken.
pub fn rename(had: &str, gets: &str) -> Vec<String> {
    let names = match had.eq_ignore_ascii_case(gets) {
        true => vec![had.to_owned(), format!("_litekeep_{gets}"), gets.to_owned()],
        false => vec![had.to_owned(), gets.to_owned()],
    };
    let step = |pair: &[String]| format!("ALTER TABLE {} RENAME TO {}", quoted(&pair[0]), quoted(&pair[1]));
    names.windows(2).map(step).collect()
}

/// Finds how each of the tables is altered, which all are at once.
///
/// # Errors
/// When SQLite has no memory.
pub fn alterations(tables: &[Altered<'_>]) -> Result<Vec<Alteration>, Error> {
    let (made, wanted) = (Memory::new()?, Memory::new()?);
    let are_there: Vec<bool> =
        tables.iter().map(|table| made.run(table.had.1) && wanted.run(table.gets.1)).collect();
    let there = || tables.iter().zip(&are_there).filter(|(_, is_there)| **is_there).map(|(table, _)| table);
    for table in there() {
        let (had, gets) = (table.had.0, table.gets.0);
        // A new name is written in quotes, here and where others refer to it, and stays so when it is the old one again. So it shall
        // be on both sides.
        let there_and_back = |memory: &Memory| {
            for statement in rename(gets, "renamed").iter().chain(&rename("renamed", gets)) {
                memory.run(statement);
            }
        };
        if had == gets {
            there_and_back(&made);
        } else {
            for statement in rename(had, gets) {
                made.run(&statement);
            }
        }
        there_and_back(&wanted);
    }
    let altered: Vec<Alteration> =
        there().map(|table| made.alter(&wanted, table.gets.0)).collect::<Result<_, _>>()?;
    let mut altered = altered.into_iter();
    let mut all = vec![];
    for (table, is_there) in tables.iter().zip(&are_there) {
        let mut alteration = altered.next().filter(|_| *is_there).unwrap_or_default();
        alteration.is_exact = *is_there && made.sql(table.gets.0)? == wanted.sql(table.gets.0)?;
        if !alteration.is_exact {
            alteration =
                Alteration { has_same_columns: alteration.has_same_columns, ..Alteration::default() };
        }
        all.push(alteration);
    }
    Ok(all)
}

/// A database in memory.
struct Memory(Connection);

impl Memory {
    fn new() -> Result<Memory, Error> {
        let connection = Connection::open_in_memory().map_err(failed)?;
        // Statements come from files that anybody may have written.
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0).map_err(failed)?;
        Ok(Memory(connection))
    }

    fn run(&self, sql: &str) -> bool {
        self.0.execute(sql, ()).is_ok()
    }

    fn sql(&self, table: &str) -> Result<Option<String>, Error> {
        let ask = "SELECT sql FROM sqlite_schema WHERE type='table' AND name=?1";
        self.0.query_row(ask, [table], |row| row.get(0)).optional().map_err(failed)
    }

    fn columns(&self, table: &str) -> Result<Vec<String>, Error> {
        let ask = || -> rusqlite::Result<Vec<String>> {
            let mut columns =
                self.0.prepare_cached("SELECT name FROM pragma_table_xinfo(?1) ORDER BY cid")?;
            columns.query_map([table], |row| row.get(0))?.collect()
        };
        ask().map_err(failed)
    }

    /// Makes the columns of a table those that are wanted, as far as ALTER TABLE can.
    fn alter(&self, wanted: &Memory, table: &str) -> Result<Alteration, Error> {
        let (had, gets) = (self.columns(table)?, wanted.columns(table)?);
        let lost: Vec<&String> = had.iter().filter(|name| !gets.contains(name)).collect();
        let new: Vec<&String> = gets.iter().filter(|name| !had.contains(name)).collect();
        let has_same_columns = lost.is_empty() && new.is_empty();
        let mut alteration = Alteration { has_same_columns, ..Alteration::default() };
        let alter = |what: String| format!("ALTER TABLE {} {what}", quoted(table));
        let is_renamed =
            |(old, now): (&String, &String)| old == now || lost.contains(&old) && new.contains(&now);
        if !has_same_columns && had.len() == gets.len() && had.iter().zip(&gets).all(is_renamed) {
            for (old, now) in had.iter().zip(&gets).filter(|(old, now)| old != now) {
                let rename =
                    |old: &str, now: &str| alter(format!("RENAME COLUMN {} TO {}", quoted(old), quoted(now)));
                self.run(&rename(old, now));
                wanted.run(&rename(now, "renamed column"));
                wanted.run(&rename("renamed column", now));
                alteration.statements.push(rename(old, now));
                alteration.renamed.push((old.clone(), now.clone()));
            }
            return Ok(alteration);
        }
        for name in lost {
            let drop = alter(format!("DROP COLUMN {}", quoted(name)));
            self.run(&drop);
            alteration.statements.push(drop);
        }
        if !new.is_empty()
            && let Some(definitions) = self.added(wanted, table, new.len())?
        {
            alteration.added = new.into_iter().cloned().collect();
            alteration
                .statements
                .extend(definitions.into_iter().map(|text| alter(format!("ADD COLUMN {text}"))));
        }
        Ok(alteration)
    }

    /// The definitions of the last columns, as ALTER TABLE puts them into a statement; they are in the table then.
    fn added(&self, wanted: &Memory, table: &str, count: usize) -> Result<Option<Vec<String>>, Error> {
        let (Some(before), Some(after)) = (self.sql(table)?, wanted.sql(table)?) else { return Ok(None) };
        let Some(length) = after.len().checked_sub(before.len()) else { return Ok(None) };
        // From the end: what stands behind the columns is short.
        for at in (0..=before.len()).rev() {
            let parts = (before.get(..at), before.get(at..), after.get(..at), after.get(at + length..));
            let (Some(first), Some(last), Some(same_first), Some(same_last)) = parts else { continue };
            if last != same_last {
                break;
            }
            let text = after.get(at..at + length).and_then(|text| text.strip_prefix(", "));
            let Some(text) = text.filter(|_| first == same_first) else { continue };
            let definitions = split(text);
            if definitions.len() != count {
                continue;
            }
            self.run("SAVEPOINT added");
            let add = |text: &String| self.run(&format!("ALTER TABLE {} ADD COLUMN {text}", quoted(table)));
            if definitions.iter().all(add) && self.sql(table)?.as_ref() == Some(&after) {
                self.run("RELEASE added");
                return Ok(Some(definitions));
            }
            self.run("ROLLBACK TO added");
            self.run("RELEASE added");
        }
        Ok(None)
    }
}

/// What stands between commas that are neither in brackets nor in quotes.
fn split(text: &str) -> Vec<String> {
    let (mut parts, mut part, mut depth, mut quote) = (vec![], String::new(), 0_i32, None);
    for c in text.chars() {
        match (quote, c) {
            (Some(end), c) if c == end => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"' | '`') => quote = Some(c),
            (None, '[') => quote = Some(']'),
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            (None, ',') if depth == 0 => {
                parts.push(std::mem::take(&mut part).trim().to_owned());
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    parts.push(part.trim().to_owned());
    parts
}

fn failed(e: rusqlite::Error) -> Error {
    Error::new("alter tables in memory", e)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What ALTER TABLE makes of a table in a real database, found there and back.
    fn there_and_back(before: &str, alter: &str) -> [Alteration; 2] {
        let db = Connection::open_in_memory().unwrap();
        let tables = || -> Vec<(String, String)> {
            let mut ask =
                db.prepare("SELECT name, sql FROM sqlite_schema WHERE type='table' ORDER BY rowid").unwrap();
            ask.query_map((), |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
        };
        db.execute_batch(before).unwrap();
        let old = tables();
        db.execute_batch(alter).unwrap();
        let new = tables();
        fn end((name, sql): &(String, String)) -> (&str, &str) {
            (name, sql)
        }
        let found = |had: &[(String, String)], gets: &[(String, String)]| {
            let all: Vec<_> =
                had.iter().zip(gets).map(|(had, gets)| Altered { had: end(had), gets: end(gets) }).collect();
            let found = alterations(&all).unwrap();
            assert!(found.iter().skip(1).all(|other| other.is_exact), "{alter}: {found:?}");
            found.into_iter().next().unwrap()
        };
        [found(&old, &new), found(&new, &old)]
    }

    #[test]
    fn what_alter_table_did_is_found_and_turned_round() {
        let table = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b, CHECK(b <> ',)')); CREATE TABLE child(t REFERENCES t)";
        for (alter, forth, back) in [
            ("ALTER TABLE t RENAME TO u", vec![], vec![]),
            ("ALTER TABLE t RENAME TO u; ALTER TABLE u RENAME TO t", vec![], vec![]),
            (
                "ALTER TABLE t RENAME COLUMN a TO c",
                vec!["RENAME COLUMN \"a\" TO \"c\""],
                vec!["RENAME COLUMN \"c\" TO \"a\""],
            ),
            (
                "ALTER TABLE t ADD COLUMN c DEFAULT 'x, y'; ALTER TABLE t ADD d DECIMAL(10, 2)",
                vec!["ADD COLUMN c DEFAULT 'x, y'", "ADD COLUMN d DECIMAL(10, 2)"],
                vec!["DROP COLUMN \"c\"", "DROP COLUMN \"d\""],
            ),
            (
                "ALTER TABLE t RENAME TO \"o u\"; ALTER TABLE \"o u\" ADD COLUMN c",
                vec!["ADD COLUMN c"],
                vec!["DROP COLUMN \"c\""],
            ),
        ] {
            let short = |found: &Alteration| -> Vec<String> {
                let words = |sql: &String| sql.split_once("\" ").map(|(_, rest)| rest.to_owned()).unwrap();
                found.statements.iter().map(words).collect()
            };
            let found = there_and_back(table, alter);
            assert!(found.iter().all(|found| found.is_exact), "{alter}: {found:?}");
            assert_eq!([short(&found[0]), short(&found[1])], [forth, back], "{alter}");
        }
        // From the middle, and with a column in its place: it cannot be put back where it was.
        let [forth, back] = there_and_back(table, "ALTER TABLE t DROP COLUMN a");
        assert!(forth.is_exact && !back.is_exact && !back.has_same_columns, "{forth:?} {back:?}");
    }
}
