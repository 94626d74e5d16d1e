//! What both states have, and stands in the way while a script changes one into the other: triggers would run, unique indexes
//! refuse values for a while, and views of tables that are not there make ALTER TABLE fail.

use litekeep_format::{Catalog, SchemaRow, Table};
use litekeep_sql::{TableReader, is_full_text_of};
use std::collections::BTreeSet;

use crate::Error;

/// Indexes, views and triggers that are the same in both states, and the full-text indexes of the one that a script leads to.
#[derive(Debug, Default)]
pub(super) struct Standing {
    rows: Vec<SchemaRow>,
    full_text: Vec<SchemaRow>,
    /// Those that the script has dropped.
    dropped: BTreeSet<(String, String)>,
    /// The order in which the later state has everything.
    order: Vec<(String, String)>,
}

impl Standing {
    pub(super) fn of(had: &Catalog, gets: &Catalog) -> Standing {
        let is_kept = |row: &&SchemaRow| {
            let is_same = |other: &SchemaRow| {
                (&other.kind, &other.name, &other.sql) == (&row.kind, &row.name, &row.sql)
            };
            row.kind != "table" && !row.sql.is_empty() && gets.rows().any(is_same)
        };
        let is_virtual = |row: &&SchemaRow| row.kind == "table" && row.root.is_none();
        Standing {
            rows: had.rows().filter(is_kept).cloned().collect(),
            full_text: gets.rows().filter(is_virtual).cloned().collect(),
            dropped: BTreeSet::new(),
            order: gets.rows().map(name).collect(),
        }
    }

    /// The triggers of a table or view that are still there, which the script drops.
    pub(super) fn drop_triggers(&mut self, table: &str) -> Vec<SchemaRow> {
        self.drop(|row| row.kind == "trigger" && row.table.eq_ignore_ascii_case(table))
    }

    /// All triggers and views that are still there, which the script drops: ALTER TABLE looks into each of them. Triggers first,
    /// since those of a view go with it.
    pub(super) fn drop_what_is_checked(&mut self) -> Vec<SchemaRow> {
        let mut dropped = self.drop(|row| row.kind == "trigger");
        dropped.extend(self.drop(|row| row.kind == "view"));
        dropped
    }

    fn drop(&mut self, is_wanted: impl Fn(&SchemaRow) -> bool) -> Vec<SchemaRow> {
        let Standing { rows, dropped, .. } = self;
        rows.iter().filter(|row| is_wanted(row) && dropped.insert(name(row))).cloned().collect()
    }

    /// Sorts what a script makes: as it was made before, but indexes and views before triggers, which may be of views.
    pub(super) fn sort(&self, made: &mut [SchemaRow]) {
        let place = |row: &SchemaRow| self.order.iter().position(|other| *other == name(row));
        made.sort_by_cached_key(|row| (row.kind == "trigger", place(row)));
    }

    /// The full-text indexes that have a table's rows as their content.
    pub(super) fn full_text_of(&self, table: &str) -> impl Iterator<Item = &str> {
        let found = self.full_text.iter().filter(move |row| is_full_text_of(&row.sql, table));
        found.map(|row| row.name.as_str())
    }

    /// The columns of a table that must be unique, alone or together with others; `None`: it may be any.
    pub(super) fn unique(&self, reader: &TableReader, table: &Table) -> Result<Option<Vec<String>>, Error> {
        let is_index = |row: &&SchemaRow| row.kind == "index" && row.table.eq_ignore_ascii_case(&table.name);
        let indexes: Vec<_> =
            self.rows.iter().filter(is_index).map(|row| (row.name.as_str(), row.sql.as_str())).collect();
        Ok(reader.unique_columns((&table.name, &table.sql), &indexes)?)
    }
}

fn name(row: &SchemaRow) -> (String, String) {
    (row.kind.clone(), row.name.clone())
}
