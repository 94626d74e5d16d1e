//! Changes as SQL.
//!
//! Every statement names its row by the primary key, or by the rowid where there is none, and sets what is stored: generated
//! columns come by themselves. Text that is no UTF-8 is written as bytes, and numbers so that every SQLite reads them as they are.
//!
//! A script renames and alters tables first, then changes rows, and then makes indexes, views and triggers and drops tables.
//! No trigger runs: those of the tables that it writes to are dropped before, and made again at the end. What it cannot do is
//! a comment in it, and one of its [`Ended::missing`].

mod real;
mod standing;

use crate::comparison::is_shadow;
use crate::{Change, Error, Pair, RowRef, SchemaChange, Value, key};
use litekeep_format::{Catalog, SchemaRow};
use litekeep_sql::{Altered, TableReader, alterations, quoted, rename};
use standing::Standing;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Statements that make changes again, or take them back.
///
/// Those for the rows of a table are in an order in which no unique value is taken twice: rows whose unique values change are
/// deleted first and inserted last, and so are all that change where an index does not tell which columns it reads.
#[derive(Debug, Default)]
pub struct Script {
    forth: bool,
    /// The other names of tables that are renamed.
    renamed: BTreeMap<String, String>,
    /// Tables of virtual tables that the script makes, which do not come empty.
    made: BTreeSet<String>,
    /// Tables whose rows it leaves out.
    left_out: BTreeSet<String>,
    /// The table that rows come of.
    table: Option<String>,
    /// The names that its columns have in the script.
    names: BTreeMap<String, String>,
    /// By table, the names that columns have in the script which it renames.
    columns: BTreeMap<String, BTreeMap<String, String>>,
    /// Its columns that must be unique; `None`: any may be.
    unique: Option<BTreeSet<String>>,
    /// How many of its rows nothing tells from others.
    unnamed: usize,
    first: Vec<String>,
    then: Vec<String>,
    standing: Standing,
    reader: Option<TableReader>,
    /// What it makes at the end.
    coming: Vec<SchemaRow>,
    /// Tables of which rows came.
    told: BTreeSet<String>,
    /// Full-text indexes that triggers kept.
    full_text: BTreeSet<String>,
    /// Comes after all rows, which count themselves.
    sequences: Vec<String>,
    rest: Vec<String>,
    missing: Vec<String>,
}

/// The end of a script.
#[derive(Debug)]
pub struct Ended {
    /// Its last statements.
    pub statements: Vec<String>,
    /// What it does not do.
    pub missing: Vec<String>,
}

impl Script {
    /// Begins one that makes the changes between two states again (`forth`), or takes them back, and returns its first
    /// statements. `is_whole`: all rows of these tables come that differ; else no table is dropped.
    ///
    /// # Errors
    /// When SQLite has no memory.
    pub fn begin(
        changes: &[SchemaChange],
        (before, after): (&Catalog, &Catalog),
        forth: bool,
        is_whole: bool,
    ) -> Result<(Script, Vec<String>), Error> {
        let standing = if forth { Standing::of(before, after) } else { Standing::of(after, before) };
        let reader = Some(TableReader::new()?);
        let mut script = Script { forth, standing, reader, ..Script::default() };
        let mut statements = vec![];
        script.note_shadows(changes, is_whole);
        let own: Vec<SchemaChange> =
            changes.iter().filter(|change| !change.comes_by_itself(changes)).cloned().collect();
        let is_table = |row: Option<&SchemaRow>| row.is_some_and(|row| row.kind == "table");
        for (had, gets) in ends(&own, forth).filter(|(had, gets)| !is_table(had.or(*gets))) {
            statements.extend(had.map(drop_if_there));
            script.coming.extend(gets.cloned());
            // They go with their view.
            let view =
                had.filter(|row| row.kind == "view").map(|row| script.standing.drop_triggers(&row.name));
            script.coming.extend(view.unwrap_or_default());
        }
        let renamed = own.iter().filter_map(|change| {
            let to = own.iter().find(|new| {
                let name = new.after.as_ref().map(|row| &row.name);
                new.before.is_none() && is_table(new.after.as_ref()) && name == change.new_name.as_ref()
            });
            Some((change.before.as_ref()?, to?.after.as_ref()?))
        });
        let renamed: Vec<_> = renamed.map(|(old, new)| if forth { (old, new) } else { (new, old) }).collect();
        let mut altering = vec![];
        for (had, gets) in &renamed {
            let statements = rename(&had.name, &gets.name).into_iter();
            altering.extend(statements.map(|statement| statement + ";"));
            script.renamed.insert(had.name.clone(), gets.name.clone());
        }
        altering.extend(script.alter(&own, &renamed)?);
        if altering.iter().any(|statement| !statement.starts_with("--")) {
            let dropped = script.standing.drop_what_is_checked();
            statements.extend(dropped.iter().map(drop_if_there));
            script.coming.extend(dropped);
        }
        statements.append(&mut altering);
        let is_renamed = |row: &SchemaRow| renamed.iter().any(|(had, gets)| *had == row || *gets == row);
        for ends in ends(&own, forth) {
            match ends {
                (None, Some(gets)) if gets.kind == "table" && !is_renamed(gets) => {
                    statements.push(terminated(&gets.sql));
                }
                (Some(had), None) if had.kind == "table" && !is_renamed(had) => {
                    if is_whole {
                        script.rest.push(drop_if_there(had));
                    } else {
                        script.missing.push(format!(
                            "the table `{}` is not dropped: not all of its rows are asked for",
                            had.name
                        ));
                    }
                }
                (Some(had), Some(gets))
                    if had.kind == "table" && had.root.is_none() && had.sql != gets.sql =>
                {
                    let names =
                        [before, after].into_iter().flat_map(Catalog::tables).map(|table| &table.name);
                    let own = names.filter(|name| is_shadow(name, had) || is_shadow(name, gets));
                    script.left_out.extend(own.cloned());
                    statements
                        .push(comment(&format!("the virtual table {} was made anew", quoted(&gets.name))));
                    script.missing.push(format!(
                        "the virtual table `{}` was made anew, and what it holds is left out",
                        gets.name
                    ));
                }
                _ => {}
            }
        }
        Ok((script, statements))
    }

    /// Tables of virtual tables come and go with these.
    fn note_shadows(&mut self, changes: &[SchemaChange], is_whole: bool) {
        for change in changes.iter().filter(|change| change.new_name.is_none()) {
            let (before, after) = (change.before.as_ref(), change.after.as_ref());
            let (had, gets) = if self.forth { (before, after) } else { (after, before) };
            let is_renamed = |name: &str| changes.iter().any(|gone| gone.new_name.as_deref() == Some(name));
            match (had, gets, change.owner(changes)) {
                (None, Some(gets), Some(_)) if !is_renamed(&gets.name) => {
                    self.made.insert(gets.name.clone());
                }
                (Some(had), None, Some(_)) if is_whole && !is_renamed(&had.name) => {
                    self.left_out.insert(had.name.clone());
                }
                _ => {}
            }
        }
        // Those of a virtual table that is renamed are renamed with it.
        for change in changes {
            if let (Some(before), Some(new)) = (&change.before, &change.new_name)
                && change.owner(changes).is_some()
            {
                let (had, gets) = if self.forth { (&before.name, new) } else { (new, &before.name) };
                self.renamed.insert(had.clone(), gets.clone());
            }
        }
    }

    /// The statements for columns, and comments for what they do not do.
    fn alter(
        &mut self,
        own: &[SchemaChange],
        renamed: &[(&SchemaRow, &SchemaRow)],
    ) -> Result<Vec<String>, Error> {
        let both = ends(own, self.forth).filter_map(|(had, gets)| had.zip(gets));
        let altered: Vec<_> = both
            .filter(|(had, _)| had.kind == "table")
            .chain(renamed.iter().copied())
            .filter(|(had, _)| had.root.is_some())
            .collect();
        let tables: Vec<Altered<'_>> = altered
            .iter()
            .map(|(had, gets)| Altered { had: (&had.name, &had.sql), gets: (&gets.name, &gets.sql) })
            .collect();
        let mut statements = vec![];
        for ((had, gets), alteration) in altered.iter().zip(alterations(&tables)?) {
            statements.extend(alteration.statements.iter().map(|statement| format!("{statement};")));
            let name = &gets.name;
            self.columns.insert(name.clone(), alteration.renamed.iter().cloned().collect());
            if !alteration.is_exact {
                statements.push(comment(&format!(
                    "the table {} was altered, from: {}",
                    quoted(name),
                    had.sql
                )));
                statements.push(comment(&format!("to: {}", gets.sql)));
                self.missing.push(format!(
                    "the table `{name}` was altered otherwise than in the names and number of its columns"
                ));
                if !alteration.has_same_columns {
                    statements.push(comment("its rows are left out"));
                    self.left_out.insert(name.clone());
                }
            } else if !self.forth {
                for column in &alteration.added {
                    let what = format!("what was in the column {} is not in here", quoted(column));
                    statements.push(comment(&what));
                    self.missing.push(format!(
                        "the column `{column}` of `{name}` comes back without what was in it; \
                         `litekeep restore -o FILE` has it"
                    ));
                }
            }
        }
        Ok(statements)
    }

    /// Rows of these tables follow. `from`: for each column of the new one, the column that it was. Returns the statements for
    /// those of the table before.
    ///
    /// # Errors
    /// When SQLite does not understand the statement of a table.
    pub fn table(&mut self, pair: Pair<'_>, from: &[Option<usize>]) -> Result<Vec<String>, Error> {
        let name = self.name(pair);
        let statements = if self.table.as_ref() == Some(&name) { vec![] } else { self.rows() };
        self.names.clear();
        if let (Some(old), Some(new)) = (pair.old, pair.new) {
            let same = new.layout.columns.iter().zip(from);
            let same = same.filter_map(|(new, from)| Some((&old.layout.columns[(*from)?].name, &new.name)));
            let names = same.filter(|(old, new)| old != new).map(|(old, new)| match self.forth {
                true => (old.clone(), new.clone()),
                false => (new.clone(), old.clone()),
            });
            self.names = names.collect();
        } else if let Some(names) = self.columns.get(&name) {
            self.names.clone_from(names);
        }
        self.unique = self.unique(pair)?;
        self.told.insert(name.clone());
        self.table = Some(name);
        Ok(statements)
    }

    /// The columns that must be unique while rows are changed: before it is altered, or afterwards.
    fn unique(&self, pair: Pair<'_>) -> Result<Option<BTreeSet<String>>, Error> {
        let Some(reader) = &self.reader else { return Ok(None) };
        let (had, gets) = if self.forth { (pair.old, pair.new) } else { (pair.new, pair.old) };
        let mut names = BTreeSet::new();
        let is_same = had.zip(gets).is_some_and(|(had, gets)| had.sql == gets.sql);
        for table in had.filter(|_| !is_same).into_iter().chain(gets) {
            let Some(unique) = self.standing.unique(reader, table)? else { return Ok(None) };
            names.extend(unique.into_iter().map(|name| self.names.get(&name).cloned().unwrap_or(name)));
        }
        Ok(Some(names))
    }

    /// The name of a table when rows are changed.
    fn name(&self, pair: Pair<'_>) -> String {
        let (had, gets) = if self.forth { (pair.old, pair.new) } else { (pair.new, pair.old) };
        let name = gets.or(had).map(|table| table.name.clone()).unwrap_or_default();
        if gets.is_none() { self.renamed.get(&name).cloned().unwrap_or(name) } else { name }
    }

    /// The statements for the rows of a table.
    fn rows(&mut self) -> Vec<String> {
        let mut statements = vec![];
        let name = self.table.clone().unwrap_or_default();
        if !(self.first.is_empty() && self.then.is_empty()) {
            let triggers = self.standing.drop_triggers(&name);
            statements.extend(triggers.iter().map(drop_if_there));
            if !triggers.is_empty() {
                self.full_text.extend(self.standing.full_text_of(&name).map(str::to_owned));
            }
            self.coming.extend(triggers);
        }
        let unnamed = std::mem::take(&mut self.unnamed);
        if unnamed > 0 {
            let name = quoted(&name);
            let what = match unnamed {
                1 => format!("1 row of {name} is left out: nothing tells it from others"),
                rows => format!("{rows} rows of {name} are left out: nothing tells them from others"),
            };
            statements.push(comment(&what));
            self.missing.push(what);
        }
        statements.append(&mut self.first);
        statements.append(&mut self.then);
        statements
    }

    /// Adds a change of a row.
    ///
    /// # Errors
    /// `Corrupt` for a damaged row.
    pub fn add(&mut self, pair: Pair<'_>, change: &Change<'_>) -> Result<(), Error> {
        let (old, new) = match change {
            Change::Inserted(new) => (None, Some(new)),
            Change::Updated(old, new) => (Some(old), Some(new)),
            Change::Deleted(old) => (Some(old), None),
        };
        let (had, gets) = if self.forth { (old, new) } else { (new, old) };
        let table = self.name(pair);
        // What ANALYZE counted is of no use in another database.
        if self.left_out.contains(&table) || table.starts_with("sqlite_stat") {
            return Ok(());
        }
        if table == "sqlite_sequence" {
            return self.add_sequence(had, gets);
        }
        if had.is_some_and(|had| key(had).is_ok_and(|key| key.is_empty())) {
            self.unnamed += 1;
            return Ok(());
        }
        match (had, gets) {
            (Some(had), Some(gets)) if !self.has_other_unique_values(had, gets)? => {
                let statement = self.update(had, gets, &table)?;
                self.then.extend(statement);
            }
            (had, gets) => {
                let had = had.map(|row| self.delete(row, &table)).transpose()?;
                let gets = gets.map(|row| self.insert(row, &table)).transpose()?;
                self.first.extend(had);
                self.then.extend(gets);
            }
        }
        Ok(())
    }

    /// Rows by the name of their table: rowids of `sqlite_sequence` are as it comes.
    fn add_sequence(&mut self, had: Option<&RowRef<'_>>, gets: Option<&RowRef<'_>>) -> Result<(), Error> {
        for row in [had, gets].into_iter().flatten() {
            let name = row.values()?.into_iter().next().unwrap_or(Value::Null);
            self.sequences.push(format!("DELETE FROM sqlite_sequence WHERE name={};", literal(&name)));
        }
        if let Some(row) = gets {
            let values: Vec<_> = row.values()?.iter().map(literal).collect();
            self.sequences
                .push(format!("INSERT INTO sqlite_sequence(name, seq) VALUES({});", values.join(", ")));
        }
        Ok(())
    }

    /// The last statements, and what is missing.
    pub fn end(mut self) -> Ended {
        let mut statements = self.rows();
        statements.append(&mut self.rest);
        self.standing.sort(&mut self.coming);
        statements.extend(self.coming.iter().map(|row| terminated(&row.sql)));
        // Where what they keep comes itself, it is right already.
        let is_told = |name: &str| self.told.iter().any(|told| told.starts_with(&format!("{name}_")));
        for name in self.full_text.iter().filter(|name| !is_told(name)) {
            let name = quoted(name);
            statements.push(format!("INSERT INTO {name}({name}) VALUES('rebuild');"));
        }
        // A table that was dropped has taken its own with it.
        statements.append(&mut self.sequences);
        Ended { statements, missing: self.missing }
    }

    /// Columns by the names that they have in the script.
    fn named(&self, values: Vec<(String, Value)>) -> Vec<(String, Value)> {
        let name = |name: String| self.names.get(&name).cloned().unwrap_or(name);
        values.into_iter().map(|(column, value)| (name(column), value)).collect()
    }

    fn has_other_unique_values(&self, had: &RowRef<'_>, gets: &RowRef<'_>) -> Result<bool, Error> {
        let Some(unique) = &self.unique else { return Ok(true) };
        let before = self.named(crate::named(had)?);
        let after = crate::named(gets)?;
        let is_as_before = |name: &String| {
            after.iter().any(|(n, v)| n == name && before.iter().any(|(m, w)| m == n && w == v))
        };
        Ok(!unique.iter().all(is_as_before))
    }

    fn insert(&self, row: &RowRef<'_>, table: &str) -> Result<String, Error> {
        let mut values = writable(row)?;
        let layout = &row.table.layout;
        if let Some(rowid) = layout.rowid_name().filter(|_| layout.has_hidden_rowid()) {
            values.insert(0, (rowid.to_owned(), Value::Integer(row.rowid)));
        }
        let join = |parts: Vec<String>| parts.join(", ");
        let names = join(values.iter().map(|(name, _)| quoted(name)).collect());
        let values = join(values.iter().map(|(_, value)| literal(value)).collect());
        let or_replace = if self.made.contains(table) { " OR REPLACE" } else { "" };
        Ok(format!("INSERT{or_replace} INTO {}({names}) VALUES({values});", quoted(table)))
    }

    fn delete(&self, row: &RowRef<'_>, table: &str) -> Result<String, Error> {
        Ok(format!("DELETE FROM {} WHERE {};", quoted(table), self.condition(row)?))
    }

    fn update(&self, had: &RowRef<'_>, gets: &RowRef<'_>, table: &str) -> Result<Option<String>, Error> {
        let before = self.named(writable(had)?);
        let set: Vec<String> = writable(gets)?
            .iter()
            .filter(|(name, value)| !before.iter().any(|(n, v)| n == name && v == value))
            .map(|(name, value)| format!("{}={}", quoted(name), literal(value)))
            .collect();
        if set.is_empty() {
            return Ok(None);
        }
        Ok(Some(format!("UPDATE {} SET {} WHERE {};", quoted(table), set.join(", "), self.condition(had)?)))
    }

    fn condition(&self, row: &RowRef<'_>) -> Result<String, Error> {
        let terms = self.named(key(row)?).into_iter().map(|(name, value)| match value {
            Value::Null => format!("{} IS NULL", quoted(&name)),
            value => format!("{}={}", quoted(&name), literal(&value)),
        });
        Ok(terms.collect::<Vec<_>>().join(" AND "))
    }
}

/// A comment of one line, whatever is in it.
fn comment(text: &str) -> String {
    format!("-- {}", text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// A statement with its end, which a comment at the end of it must not take in.
fn terminated(sql: &str) -> String {
    let mut rest = sql;
    while let Some(at) = rest.find(['\'', '"', '`', '[', '-', '/']) {
        let (opening, closing) = match &rest[at..] {
            text if text.starts_with("--") => (2, "\n"),
            text if text.starts_with("/*") => (2, "*/"),
            text if text.starts_with('[') => (1, "]"),
            text if text.starts_with(['-', '/']) => {
                rest = &text[1..];
                continue;
            }
            text => (1, &text[..1]),
        };
        let (is_line, is_block) = (closing == "\n", closing == "*/");
        match rest[at + opening..].split_once(closing) {
            Some((_, after)) => rest = after,
            None if is_line => return format!("{sql}\n;"),
            None if is_block => return format!("{sql}*/;"),
            None => break,
        }
    }
    format!("{sql};")
}

fn drop_if_there(row: &SchemaRow) -> String {
    format!("DROP {} IF EXISTS {};", row.kind.to_uppercase(), quoted(&row.name))
}

fn ends(
    changes: &[SchemaChange],
    forth: bool,
) -> impl Iterator<Item = (Option<&SchemaRow>, Option<&SchemaRow>)> {
    changes.iter().map(move |change| {
        let ends = (change.before.as_ref(), change.after.as_ref());
        if forth { ends } else { (ends.1, ends.0) }
    })
}

/// The columns that a statement can set.
pub(crate) fn writable(row: &RowRef<'_>) -> Result<Vec<(String, Value)>, Error> {
    let columns = row.table.layout.columns.iter().zip(row.values()?);
    Ok(columns
        .filter(|(column, _)| !column.is_generated)
        .map(|(column, value)| (column.name.clone(), value))
        .collect())
}

/// A value as SQL.
pub fn literal(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(i) => i.to_string(),
        Value::Real(f) => real::literal(*f),
        Value::Text(text) => match str::from_utf8(text) {
            Ok(text) => text_literal(text),
            Err(_) => format!("CAST({} AS TEXT)", blob(text)),
        },
        Value::Blob(bytes) => blob(bytes),
    }
}

/// What stands in a text as `char(N)`: a NUL ends one, and the command-line shell drops a return at the end of a line.
const BY_NUMBER: [char; 2] = ['\0', '\r'];
/// Text with more of them has other characters in their places: an expression can be 1,000 deep.
const MOST_PARTS: usize = 100;

fn text_literal(text: &str) -> String {
    let quote = |text: &str| format!("'{}'", text.replace('\'', "''"));
    match text.matches(BY_NUMBER).count() {
        0 => quote(text),
        1..MOST_PARTS => {
            let mut parts = vec![];
            let mut rest = text;
            while let Some((before, after)) = rest.split_once(BY_NUMBER) {
                let number = rest.as_bytes()[before.len()];
                parts.extend([quote(before), format!("char({number})")]);
                rest = after;
            }
            parts.push(quote(rest));
            format!("({})", parts.join("||"))
        }
        _ => {
            let free = ('\u{e000}'..).filter(|c| !text.contains(*c));
            let pairs: Vec<(char, char)> = BY_NUMBER.into_iter().zip(free).collect();
            let text =
                pairs.iter().fold(text.to_owned(), |text, (c, other)| text.replace(*c, &other.to_string()));
            pairs.iter().fold(quote(&text), |text, (c, other)| {
                format!("replace({text},'{other}',char({}))", u32::from(*c))
            })
        }
    }
}

fn blob(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(3 + 2 * bytes.len());
    text.push_str("x'");
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes all");
    }
    text.push('\'');
    text
}
