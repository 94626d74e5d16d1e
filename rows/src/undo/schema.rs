//! Changes of the schema: what can be taken back, and what is only named.

use super::{Run, Undo};
use crate::{Error, SchemaChange};
use litekeep_format::SchemaRow;
use litekeep_sql::{Declaration, is_full_text};
use std::collections::{BTreeMap, BTreeSet};

/// What a change of the schema did.
enum Kind<'a> {
    Dropped(&'a SchemaRow),
    Made(&'a SchemaRow),
    Altered(&'a SchemaRow, &'a SchemaRow),
}

impl<'a> Kind<'a> {
    fn of(change: &'a SchemaChange) -> Option<Kind<'a>> {
        Some(match (&change.before, &change.after) {
            (Some(before), None) => Kind::Dropped(before),
            (None, Some(after)) => Kind::Made(after),
            (Some(before), Some(after)) => Kind::Altered(before, after),
            (None, None) => return None,
        })
    }
}

/// Tables that were dropped.
#[derive(Default)]
pub(super) struct Dropped {
    /// Those that are there again, and the tables that virtual ones have.
    pub(super) made: BTreeSet<String>,
    /// Those that cannot be made, with SQLite's words.
    pub(super) refused: BTreeMap<String, String>,
}

/// Whether a full-text index keeps nothing to be filled again from.
pub(super) fn has_no_content(sql: &str) -> bool {
    let plain = sql.replace([' ', '"', '\''], "").to_lowercase();
    plain.contains("content=,") || plain.contains("content=)")
}

impl Undo {
    /// Where what cannot be taken back is still to be had.
    fn restore(&self) -> String {
        let from = self.from.map_or("TXID".to_owned(), |from| from.to_string());
        format!("`litekeep restore DB -o FILE -txid {from}` has it")
    }

    /// The changes but those that come by themselves.
    fn own_changes(&self) -> impl Iterator<Item = (&SchemaChange, Kind<'_>)> {
        let own = self.schema.iter().filter(|change| !change.comes_by_itself(&self.schema));
        own.filter_map(|change| Some((change, Kind::of(change)?)))
    }
}

impl Run<'_> {
    /// Makes tables that were dropped and are not there.
    pub(super) fn bring_back_tables(&mut self, undo: &Undo) -> Result<Dropped, Error> {
        let mut dropped = Dropped::default();
        for (change, kind) in undo.own_changes() {
            let Kind::Dropped(before) = kind else { continue };
            if before.kind != "table" || change.new_name.is_some() || self.is_there(before)? {
                continue;
            }
            if before.root.is_some() {
                match self.editor.execute(&before.sql) {
                    Err(litekeep_sql::Error::Refused { message, .. }) => {
                        let why = message.split(" in CREATE TABLE").next().unwrap_or_default().to_owned();
                        let (name, restore) = (&before.name, undo.restore());
                        self.stays(format!(
                            "the table `{name}` was dropped, and cannot be made again: {why}; {restore}"
                        ));
                        dropped.refused.insert(before.name.clone(), why);
                        continue;
                    }
                    done => done?,
                }
            } else if !self.bring_back_virtual(undo, change, before)? {
                continue;
            }
            self.done.brought_back += 1;
            self.done.notes.push(format!("the table `{}` comes back", before.name));
            dropped.made.insert(before.name.clone());
            let owned = undo.schema.iter().filter(|other| other.owner(&undo.schema) == Some(change));
            dropped.made.extend(owned.filter_map(|other| Some(other.before.as_ref()?.name.clone())));
        }
        Ok(dropped)
    }

    /// Numbers that AUTOINCREMENT gave to rows that are not there any more are given to no others.
    pub(super) fn bring_back_counters(&self, undo: &Undo, made: &BTreeSet<String>) -> Result<(), Error> {
        for (table, was) in undo.counters.iter().filter(|(table, _)| made.contains(*table)) {
            self.editor.raise_counter(table, *was)?;
        }
        Ok(())
    }

    /// Only full-text indexes can be filled again, from their content.
    fn bring_back_virtual(
        &mut self,
        undo: &Undo,
        change: &SchemaChange,
        before: &SchemaRow,
    ) -> Result<bool, Error> {
        let name = &before.name;
        let is_filled = is_full_text(&before.sql) && !has_no_content(&before.sql);
        let mut owned = undo.schema.iter().filter(|other| other.owner(&undo.schema) == Some(change));
        let has_content =
            owned.any(|other| other.before.as_ref().is_some_and(|row| row.name == format!("{name}_content")));
        let is_wanted = !has_content || undo.wanted.has_table(&format!("{name}_content"));
        if !is_filled || !is_wanted {
            let why =
                if is_wanted { undo.restore() } else { format!("--table {name}_content brings it back") };
            self.stays(format!("the virtual table `{name}` was dropped, and stays so; {why}"));
            return Ok(false);
        }
        if let Err(e) = self.editor.execute(&before.sql) {
            self.stays(format!("the virtual table `{name}` cannot be made again: {e}; {}", undo.restore()));
            return Ok(false);
        }
        self.rebuild.insert(name.clone());
        Ok(true)
    }

    fn is_there(&self, row: &SchemaRow) -> Result<bool, Error> {
        Ok(self.editor.object(&row.kind, &row.name)?.is_some())
    }

    pub(super) fn stays(&mut self, what: String) {
        self.done.stay += 1;
        self.done.notes.push(what);
    }

    /// Indexes, views and triggers that were dropped, where nothing stands in the way. Triggers last: they may be of views.
    pub(super) fn bring_back_the_rest(&mut self, undo: &Undo) -> Result<(), Error> {
        let dropped = || {
            undo.own_changes().filter_map(|(_, kind)| match kind {
                Kind::Dropped(before) if before.kind != "table" => Some(before),
                _ => None,
            })
        };
        let (triggers, others): (Vec<_>, Vec<_>) = dropped().partition(|row| row.kind == "trigger");
        for before in others.into_iter().chain(triggers) {
            let what = format!("the {} `{}`", before.kind, before.name);
            if let Some(now) = self.editor.object(&before.kind, &before.name)? {
                if now != before.sql {
                    self.stays(format!("{what} was dropped, and another one has its name now"));
                }
                continue;
            }
            match self.editor.execute(&before.sql) {
                Ok(()) => {
                    self.done.brought_back += 1;
                    self.done.notes.push(format!("{what} comes back"));
                }
                Err(e) => self.stays(format!("{what} was dropped, and cannot be made again: {e}")),
            }
        }
        Ok(())
    }

    /// What is new, or other than it was.
    pub(super) fn name_what_stays(&mut self, undo: &Undo) -> Result<(), Error> {
        let mut new_names = BTreeSet::new();
        for (change, kind) in undo.own_changes() {
            if let (Kind::Dropped(before), Some(now)) = (kind, &change.new_name) {
                new_names.insert(now.as_str());
                self.stays(format!("`{}` was renamed to `{now}`, and stays so", before.name));
            }
        }
        // Names that others refer to are written there too.
        let mut is_rewritten = !new_names.is_empty();
        for (_, kind) in undo.own_changes() {
            match kind {
                Kind::Made(after)
                    if !self.options.keep_new
                        && !new_names.contains(after.name.as_str())
                        && self.is_there(after)? =>
                {
                    self.stays(format!("the {} `{}` is new, and stays", after.kind, after.name));
                }
                Kind::Altered(before, after) if after.root.is_some() && after.kind == "table" => {
                    is_rewritten |= self.name_columns(undo, before, after, is_rewritten)?;
                }
                // Who asks for its rows as they were shall know why there are none.
                Kind::Made(after)
                    if self.options.keep_new
                        && after.kind == "table"
                        && !new_names.contains(after.name.as_str())
                        && undo.wanted.tables.iter().any(|name| name.eq_ignore_ascii_case(&after.name)) =>
                {
                    self.stays(format!("the table `{}` was not there yet", after.name));
                }
                _ => {}
            }
        }
        for (_, kind) in undo.own_changes() {
            let Kind::Altered(before, after) = kind else { continue };
            let is_as_before =
                || Ok::<_, Error>(self.editor.object(&after.kind, &after.name)? == Some(before.sql.clone()));
            if (after.kind != "table" || after.root.is_none()) && !is_rewritten && !is_as_before()? {
                self.stays(format!("the {} `{}` was made anew, and stays so", after.kind, after.name));
            }
        }
        Ok(())
    }

    /// How the columns of a table differ; whether one of them has no longer its name.
    fn name_columns(
        &mut self,
        undo: &Undo,
        before: &SchemaRow,
        after: &SchemaRow,
        is_rewritten: bool,
    ) -> Result<bool, Error> {
        let table = &after.name;
        match self.editor.object("table", table)? {
            Some(now) if now != before.sql => {}
            _ => return Ok(false),
        }
        let columns = |row: &SchemaRow| -> Result<Vec<String>, Error> {
            let declared = Declaration::read(&row.name, &row.sql)?.columns;
            Ok(declared.into_iter().map(|column| column.name).collect())
        };
        let (had, has) = (columns(before)?, columns(after)?);
        let lost: Vec<&String> = had.iter().filter(|name| !has.contains(name)).collect();
        let new: Vec<&String> = has.iter().filter(|name| !had.contains(name)).collect();
        let is_renamed =
            |(old, now): (&String, &String)| old == now || lost.contains(&old) && new.contains(&now);
        if lost.is_empty() && new.is_empty() {
            if !is_rewritten {
                self.stays(format!("the table `{table}` was altered, and stays so; {}", undo.restore()));
            }
        } else if !undo.gone.contains(table) && had.len() == has.len() && had.iter().zip(&has).all(is_renamed)
        {
            for (old, now) in had.iter().zip(&has).filter(|(old, now)| old != now) {
                self.stays(format!("the column `{old}` of `{table}` was renamed to `{now}`, and stays so"));
            }
        } else {
            for name in &lost {
                let restore = undo.restore();
                self.stays(format!("the column `{name}` of `{table}` was dropped, and stays so; {restore}"));
            }
            let is_told = !self.options.keep_new;
            for name in new.iter().filter(|_| is_told) {
                self.stays(format!("the column `{name}` of `{table}` is new, and stays"));
            }
        }
        Ok(!lost.is_empty())
    }
}
