//! Which columns, and which rows, of the tables go to a target or come from a source.

use std::collections::{BTreeMap, BTreeSet};

use litekeep_schema::portable::Note;
use litekeep_sql::{Declaration, MirrorColumn, NoSuchCut, RowFilter, TableReader, quoted};

use crate::source::{Part, SourceTable};
use crate::{Error, Kind, Value};

/// What of the tables is there for the other side; the rest is as if it were not there. Tables have their names in SQLite.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Of these tables only these columns.
    pub columns: BTreeMap<String, Vec<String>>,
    /// Of these tables only the rows that fulfil this condition of SQL on their values.
    pub rows: BTreeMap<String, String>,
    /// Of the tables without a condition only the rows that are asked for.
    pub others_are_asked_for: bool,
}

fn of<'a, T>(all: &'a BTreeMap<String, T>, table: &str) -> Option<&'a T> {
    all.iter().find(|(name, _)| name.eq_ignore_ascii_case(table)).map(|(_, of)| of)
}

impl Cut {
    /// The columns of a table that go; `None`: all.
    pub(crate) fn columns_of(&self, table: &str) -> Option<&[String]> {
        of(&self.columns, table).map(Vec::as_slice)
    }

    /// A table with the columns that go.
    ///
    /// # Errors
    /// `Invalid` when one is not there, or one of the key is left out.
    pub(crate) fn declared(&self, table: Declaration) -> Result<Declaration, Error> {
        let Some(columns) = self.columns_of(&table.name) else { return Ok(table) };
        let name = table.name.clone();
        table.only(columns).map_err(|mistake| mistaken(&name, mistake))
    }

    /// Which rows of a table, with all of its columns, go; `None`: all.
    ///
    /// # Errors
    /// `Invalid` when the condition is none.
    pub(crate) fn rows_of(&self, table: &Declaration) -> Result<Option<Rows>, Error> {
        let Some(condition) = of(&self.rows, &table.name) else { return Ok(None) };
        let (filter, names) = filter(condition, (&table.name, &table.sql))?;
        let place = |name: &String| table.columns.iter().position(|column| column.name == *name);
        let columns: Option<Vec<usize>> = names.iter().map(place).collect();
        let lacks = || Error::new(Kind::Internal, format!("read the columns of `{}`", table.name));
        Ok(Some(Rows { filter, columns: columns.ok_or_else(lacks)? }))
    }

    /// Tables of a source with what of them comes, and with what is noted of that.
    ///
    /// # Errors
    /// `Invalid` when a table or column that is named is not there, one of the key is left out, or a condition is none.
    pub fn of_source(
        &self,
        surveyed: Vec<(SourceTable, Vec<Note>)>,
    ) -> Result<Vec<(SourceTable, Vec<Note>)>, Error> {
        self.check(surveyed.iter().map(|(table, _)| table.mirror.name.as_str()))?;
        surveyed.into_iter().map(|(table, notes)| self.part(table, notes)).collect()
    }

    fn part(&self, table: SourceTable, mut notes: Vec<Note>) -> Result<(SourceTable, Vec<Note>), Error> {
        let SourceTable { source, types, mirror, .. } = table;
        let columns = self.columns_of(&mirror.name);
        let is_wanted = |name: &str| {
            columns.is_none_or(|columns| columns.iter().any(|column| column.eq_ignore_ascii_case(name)))
        };
        let is_it = |name: &str, other: &str| name.eq_ignore_ascii_case(other);
        for column in columns.unwrap_or_default() {
            if !mirror.columns.iter().any(|there| is_it(&there.name, column)) {
                // What is left out of a table is noted.
                let is_noted = |note: &Note| note.column.as_ref().is_some_and(|name| is_it(name, column));
                let is_computed = notes.iter().any(is_noted);
                let mistake = if is_computed { NoSuchCut::Computed } else { NoSuchCut::Unknown };
                return Err(mistaken(&mirror.name, mistake(column.clone())));
            }
        }
        let key = mirror.key.iter().map(|nth| &mirror.columns[*nth].name);
        if let Some(name) = key.into_iter().find(|name| !is_wanted(name)) {
            return Err(mistaken(&mirror.name, NoSuchCut::OfKey(name.clone())));
        }
        let condition = of(&self.rows, &mirror.name).cloned();
        let is_without = condition.is_none();
        let looks_at = match &condition {
            Some(condition) => looks_at(condition, &mirror.name, &mirror.columns)?,
            None => BTreeSet::new(),
        };
        let (kept, others): (Vec<usize>, Vec<usize>) =
            (0..mirror.columns.len()).partition(|nth| is_wanted(&mirror.columns[*nth].name));
        let unkept: Vec<usize> =
            others.into_iter().filter(|nth| looks_at.contains(&mirror.columns[*nth].name)).collect();
        let part = Part {
            is_some_columns: columns.is_some(),
            condition,
            unkept: unkept.iter().map(|nth| mirror.columns[*nth].clone()).collect(),
            is_asked_for: self.others_are_asked_for && is_without,
        };
        let types = kept.iter().chain(&unkept).map(|nth| types[*nth].clone()).collect();
        let comes = |name: &String| is_wanted(name) || part.unkept.iter().any(|column| column.name == *name);
        notes.retain(|note| note.column.as_ref().is_none_or(comes));
        Ok((SourceTable { source, types, mirror: mirror.only(&kept), part }, notes))
    }

    /// That of the tables of a source comes what they were begun with.
    ///
    /// # Errors
    /// `Invalid` where something else is wanted now.
    pub(crate) fn is_same(&self, sync: &str, tables: &[SourceTable]) -> Result<(), Error> {
        self.check(tables.iter().map(|table| table.mirror.name.as_str()))?;
        for SourceTable { mirror, part, .. } in tables {
            let name = &mirror.name;
            let has: Vec<&str> = mirror.columns.iter().map(|column| column.name.as_str()).collect();
            let wanted = self.columns_of(name);
            let are_same = match wanted {
                None => !part.is_some_columns,
                Some(wanted) => {
                    let is_wanted = |column: &&str| wanted.iter().any(|w| w.eq_ignore_ascii_case(column));
                    let is_there = |w: &String| has.iter().any(|column| w.eq_ignore_ascii_case(column));
                    part.is_some_columns && has.iter().all(is_wanted) && wanted.iter().all(is_there)
                }
            };
            let condition = of(&self.rows, name);
            let (was, is) = if !are_same {
                let was = match part.is_some_columns {
                    true => format!("the columns {} of `{name}`", has.join(", ")),
                    false => format!("all columns of `{name}`"),
                };
                let is = wanted.map_or("nothing of it".to_owned(), |wanted| wanted.join(", "));
                (was, format!("`columns` says {is}"))
            } else if part.is_asked_for != (self.others_are_asked_for && condition.is_none()) {
                let [was, is] =
                    [part.is_asked_for, !part.is_asked_for].map(|is_asked_for| match is_asked_for {
                        true => format!("the rows of `{name}` that are asked for"),
                        false => format!("all rows of `{name}`"),
                    });
                (was, format!("the configuration says {is}"))
            } else if condition != part.condition.as_ref() {
                let was = match &part.condition {
                    Some(condition) => format!("the rows of `{name}` that fulfil {condition:?}"),
                    None => format!("all rows of `{name}`"),
                };
                let is = condition.map_or("nothing of it".to_owned(), |condition| format!("{condition:?}"));
                (was, format!("`where` says {is}"))
            } else {
                continue;
            };
            let message = format!("the sync `{sync}` cannot go on: it was begun with {was}, and {is}");
            let hint = format!(
                "`litekeep sync resync {sync}` brings and removes what it must; a litekeep that runs has to be started anew to know of the change"
            );
            return Err(Error::with_hint(Kind::Invalid, message, hint));
        }
        Ok(())
    }

    /// That each of the tables that are named is there.
    ///
    /// # Errors
    /// `Invalid` for one that is not.
    pub(crate) fn check<'a>(&self, tables: impl Iterator<Item = &'a str> + Clone) -> Result<(), Error> {
        let named = self.columns.keys().map(|table| ("columns", table));
        for (key, table) in named.chain(self.rows.keys().map(|table| ("where", table))) {
            if !tables.clone().any(|there| there.eq_ignore_ascii_case(table)) {
                let names: Vec<String> = tables.map(|table| format!("`{table}`")).collect();
                let message = format!("`{key}`: there is no table `{table}` in the sync");
                let hint = format!("the tables are {}", names.join(", "));
                return Err(Error::with_hint(Kind::Invalid, message, hint));
            }
        }
        Ok(())
    }
}

fn mistaken(table: &str, mistake: NoSuchCut) -> Error {
    let (message, hint) = match mistake {
        NoSuchCut::Unknown(column) => (
            format!("`columns`: the table `{table}` has no column `{column}`"),
            "name a column that it has, or take `columns` of it out".to_owned(),
        ),
        NoSuchCut::Computed(column) => (
            format!("`columns`: `{column}` of `{table}` is computed, and left out"),
            "take it out".to_owned(),
        ),
        NoSuchCut::OfKey(column) => (
            format!("`columns`: `{column}` is of the primary key of `{table}`, by which its rows are known"),
            format!("add \"{column}\" to the columns"),
        ),
    };
    Error::with_hint(Kind::Invalid, message, hint)
}

/// A condition on the rows of a table by its name and its statement, and the columns that it knows.
fn filter(condition: &str, (table, sql): (&str, &str)) -> Result<(RowFilter, Vec<String>), Error> {
    let layout = TableReader::new()?.read(table, sql, true)?;
    let mut filter = RowFilter::of_values(condition)?;
    filter.begin(table, &layout).map_err(|error| {
        let message = format!("`where`: the condition on `{table}` is none: {error}");
        Error::with_hint(
            Kind::Invalid,
            message,
            "it is SQL on the columns of the table, as behind WHERE: \"total > 0\"",
        )
    })?;
    Ok((filter, layout.columns.into_iter().map(|column| column.name).collect()))
}

/// The same, on values as these columns have them in SQLite.
fn filter_on<'a>(
    condition: &str,
    table: &str,
    columns: impl Iterator<Item = &'a MirrorColumn>,
) -> Result<(RowFilter, Vec<String>), Error> {
    let columns: Vec<String> =
        columns.map(|column| format!("{} {}", quoted(&column.name), column.declared)).collect();
    filter(condition, (table, &format!("CREATE TABLE {}({})", quoted(table), columns.join(", "))))
}

/// The names of the columns that a condition looks at.
fn looks_at(condition: &str, table: &str, columns: &[MirrorColumn]) -> Result<BTreeSet<String>, Error> {
    // Those that differ in case only cannot be in one table here; they are refused where both are wanted.
    let mut seen = BTreeSet::new();
    let columns = columns.iter().filter(|column| seen.insert(column.name.to_lowercase()));
    let (mut filter, names) = filter_on(condition, table, columns)?;
    Ok(filter.columns()?.into_iter().map(|nth| names[nth].clone()).collect())
}

/// The condition on the rows of a source's table, on the values that come, and which of them it looks at; `None`: all rows are kept.
///
/// # Errors
/// `Invalid` when the condition is none.
pub(crate) fn filter_of_source(table: &SourceTable) -> Result<Option<(RowFilter, Vec<usize>)>, Error> {
    let Some(condition) = &table.part.condition else { return Ok(None) };
    let columns = table.coming().map(|(column, _)| column);
    let (mut filter, _) = filter_on(condition, &table.mirror.name, columns)?;
    let looks_at = filter.columns()?;
    Ok(Some((filter, looks_at)))
}

/// Which rows of a table go.
pub(crate) struct Rows {
    filter: RowFilter,
    /// The columns that the condition sees, by their places in the declaration.
    pub(crate) columns: Vec<usize>,
}

impl Rows {
    /// Whether a row goes. `values`: of [`columns`](Self::columns).
    ///
    /// # Errors
    /// What SQLite says to the condition.
    pub(crate) fn has(&self, values: &[Value]) -> Result<bool, Error> {
        Ok(self.filter.matches(0, values)?)
    }
}

#[cfg(test)]
mod tests {
    use litekeep_schema::portable::Level;
    use litekeep_sql::{MirrorRules, MirrorTable};

    use super::*;
    use crate::source::SourceType;

    /// A table `t` with the key (`a`, `id`).
    fn table() -> (SourceTable, Vec<Note>) {
        let columns = ["x", "id", "b", "a", "c"].map(|name| MirrorColumn {
            name: name.to_owned(),
            declared: if name == "b" { "INTEGER" } else { "TEXT" }.to_owned(),
            is_not_null: false,
        });
        let kind =
            |column: &MirrorColumn| SourceType { name: format!("of {}", column.name), form: String::new() };
        let types = columns.iter().map(kind).collect();
        let indexes = [("by_b", 2), ("by_c", 4)].map(|(name, nth)| (name.to_owned(), vec![nth]));
        let mirror = MirrorTable {
            name: "t".to_owned(),
            columns: columns.to_vec(),
            key: vec![3, 1],
            indexes: indexes.to_vec(),
            rules: MirrorRules::default(),
        };
        let note = |column: &str, level| Note {
            table: "t".to_owned(),
            column: Some(column.to_owned()),
            level,
            message: "is so".to_owned(),
        };
        let notes = vec![note("v", Level::Info), note("x", Level::Table), note("c", Level::Info)];
        (SourceTable { source: "T".to_owned(), types, mirror, part: Part::default() }, notes)
    }

    fn cut(columns: &[&str], rows: Option<&str>) -> Cut {
        let columns: Vec<String> = columns.iter().map(|&name| name.to_owned()).collect();
        let columns = Some(columns).filter(|all| !all.is_empty()).map(|all| ("t".to_owned(), all));
        Cut {
            columns: columns.into_iter().collect(),
            rows: rows.map(|condition| ("T".to_owned(), condition.to_owned())).into_iter().collect(),
            others_are_asked_for: false,
        }
    }

    #[test]
    fn a_table_comes_with_what_is_wanted_and_what_its_condition_looks_at() {
        let mut all = cut(&["A", "id", "c"], Some("b > 5 AND c <> 'x'")).of_source(vec![table()]).unwrap();
        let (part, notes) = all.remove(0);
        let names: Vec<&str> = part.coming().map(|(column, _)| column.name.as_str()).collect();
        assert_eq!(names, ["id", "a", "c", "b"], "what is not kept comes last");
        assert!(part.coming().all(|(column, kind)| kind.name == format!("of {}", column.name)));
        assert_eq!((part.mirror.columns.len(), part.mirror.key.as_slice()), (3, &[1, 0][..]));
        assert_eq!(part.mirror.indexes, [("by_c".to_owned(), vec![2])]);
        let noted: Vec<_> = notes.iter().map(|note| note.column.as_deref().unwrap()).collect();
        assert_eq!(noted, ["c"], "what does not come does not matter");

        // All columns, those that are added later too.
        let (whole, notes) = cut(&[], Some("b > 5")).of_source(vec![table()]).unwrap().remove(0);
        assert_eq!((whole.mirror, notes.len()), (table().0.mirror, 3));
        assert!(!whole.part.is_some_columns && whole.part.unkept.is_empty());
    }

    #[test]
    fn what_cannot_come_is_told() {
        for (cut, said) in [
            (cut(&["id", "b"], None), "`a` is of the primary key of `t`"),
            (cut(&["a", "id", "v"], None), "`v` of `t` is computed"),
            (cut(&["a", "id", "y"], None), "no column `y`"),
            (cut(&["a", "id"], Some("y = 1")), "the condition on `t` is none"),
            (cut(&["a", "id"], Some("id = ")), "the condition on `t` is none"),
        ] {
            let error = cut.of_source(vec![table()]).unwrap_err().to_string();
            assert!(error.contains(said), "{said}: {error}");
        }
        let other = Cut { rows: [("u".to_owned(), "1".to_owned())].into(), ..Cut::default() };
        assert!(other.of_source(vec![table()]).unwrap_err().to_string().contains("there is no table `u`"));
    }

    #[test]
    fn another_cut_than_that_of_the_beginning_is_told() {
        let begun = |cut: &Cut| vec![cut.of_source(vec![table()]).unwrap().remove(0).0];
        let cuts = [
            Cut::default(),
            cut(&["a", "id"], None),
            cut(&["a", "id", "c"], None),
            cut(&["a", "id"], Some("b = 1")),
            cut(&["a", "id"], Some("b = 2")),
            cut(&[], Some("b = 2")),
        ];
        for (nth, was) in cuts.iter().enumerate() {
            for (other, is) in cuts.iter().enumerate() {
                assert_eq!(is.is_same("s", &begun(was)).is_ok(), nth == other, "{was:?} and {is:?}");
            }
        }
        assert!(cut(&["ID", "A"], None).is_same("s", &begun(&cuts[1])).is_ok(), "in another order");
    }
}
