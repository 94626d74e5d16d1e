//! Taking changes back on the live database.
//!
//! Promises:
//! - Only what still stands as the changes left it is taken back. A row that was changed since is a [`Conflict`]: it is
//!   listed and left alone. Of an updated row only the columns that the update changed count; what other columns got since
//!   stays.
//! - Everything is one transaction, which commits whole or not at all. Triggers do not run: what they did is in the changes
//!   too. When rows would refer to rows that are not there, nothing is changed.
//! - Tables that were dropped come back with their rows, and so do indexes, views and triggers, where nothing stands in the
//!   way. Whatever else changed in the schema stays, and is named.
//!
//! Changes are held in memory while they are taken back, so that no request to a bucket is waited for with the write lock. There is a
//! bound to that, beyond which nothing is taken back.

mod anew;
mod held;
mod references;
mod schema;
mod strangers;

use crate::{Change, Comparison, Error, Kind, Pair, Reader, SchemaChange, Selection, Value};
use held::{Item, Named, TableChanges};
use litekeep_format::TableLayout;
use litekeep_ltx::Point;
use litekeep_sql::{Dangling, RowEditor, TableKind, Written, is_full_text};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Conflicts that are kept to be shown; of more, only the number.
const KEPT: usize = 1000;
/// Rows that dangle that an error names.
const NAMED: usize = 3;
/// Bytes of changed rows that are held in memory.
const MOST_BYTES: usize = 1 << 30;

/// Why a row without a key is left alone where new rows stay.
const ONE_OR_TWO: &str = "it has no key: either it was changed, or it was deleted and a new row has its rowid; --exact gives it its old values";

/// Changes to take back.
#[derive(Debug, Default)]
pub struct Undo {
    tables: Vec<TableChanges>,
    schema: Vec<SchemaChange>,
    wanted: Selection,
    /// The earlier state, which has what cannot be taken back.
    from: Option<Point>,
    /// What the columns of the table that rows come of were called, and are now.
    names: BTreeMap<String, String>,
    /// Tables of which the earlier state's is another one than the later state's, by their names.
    gone: BTreeSet<String>,
    /// By table, the number after which AUTOINCREMENT went on in the earlier state, where that is not so any more.
    counters: BTreeMap<String, i64>,
    /// Bytes that rows take, and may take.
    held: usize,
    most: usize,
}

/// What became of a table between the two states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Dropped,
    Created,
}

/// How far to go.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Change the database; else only say what would be done.
    pub write: bool,
    /// Leave rows that are new.
    pub keep_new: bool,
}

/// What was done, or would be.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// By table.
    pub tables: BTreeMap<String, Counts>,
    /// What was left alone; the first of them.
    pub conflicts: Vec<Conflict>,
    /// How many they are.
    pub conflict_count: u64,
    /// What else the user should know.
    pub notes: Vec<String>,
    /// How many tables, indexes, views and triggers come back.
    pub brought_back: usize,
    /// How many changes of the schema and virtual tables stay; notes name them.
    pub stay: usize,
}

impl Done {
    /// Whether nothing is done.
    pub fn is_nothing(&self) -> bool {
        self.brought_back == 0 && self.tables.values().all(|counts| counts.changed() == 0)
    }
}

/// Rows of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Deleted rows that are back.
    pub inserted: u64,
    /// Updated rows that have their old values again.
    pub updated: u64,
    /// Inserted rows that are gone.
    pub deleted: u64,
    /// Rows that were as before already.
    pub unchanged: u64,
}

impl Counts {
    /// Rows that are not as they were.
    pub fn changed(&self) -> u64 {
        self.inserted + self.updated + self.deleted
    }
}

/// A row that was left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The table.
    pub table: String,
    /// The row; empty for a whole table.
    pub key: Vec<(String, Value)>,
    /// Why.
    pub reason: String,
}

impl Undo {
    /// Collects the changes between the two states of a comparison. On a blocking thread.
    ///
    /// # Errors
    /// Those of the comparison, and `Invalid` when the rows are too many to be held in memory.
    pub fn of(comparison: Comparison, wanted: &Selection) -> Result<Undo, Error> {
        Undo::within(MOST_BYTES, comparison, wanted)
    }

    /// The same with another bound, bytes.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn within(most: usize, comparison: Comparison, wanted: &Selection) -> Result<Undo, Error> {
        let (from, wanted) = (Some(comparison.from().0), wanted.clone());
        let mut undo = Undo { from, wanted, most, ..Undo::default() };
        comparison.run(&undo.wanted.clone(), &mut undo)?;
        undo.end_table();
        Ok(undo)
    }

    /// Pairs the rows of the last table; about the bytes that all rows take.
    fn end_table(&mut self) {
        if let Some(table) = self.tables.last_mut() {
            let before = table.size();
            table.pair();
            self.held = self.held.saturating_sub(before) + table.size();
        }
        self.tables.pop_if(|table| table.items.is_empty());
    }

    fn add(&mut self, pair: Pair<'_>, change: &Change<'_>, is_wanted: bool) -> Result<(), Error> {
        let name = &pair.either().name;
        let fate = match (pair.old, pair.new) {
            (_, None) => Fate::Dropped,
            (None, _) => Fate::Created,
            _ => Fate::Stays,
        };
        if self.tables.last().is_none_or(|table| (&table.name, table.fate) != (name, fate)) {
            self.end_table();
            self.tables.push(TableChanges::of(pair, fate, &self.names));
        }
        self.held += self.tables.last_mut().expect("one was pushed").add(change, is_wanted)?;
        if self.held > self.most {
            let mib = self.most >> 20;
            // Where rows are paired, those that a condition leaves out are held, too.
            let less =
                if pair.has_hidden_rowid() { " or some --table" } else { ", some --table or a --where" };
            return Err(Error::with_hint(
                Kind::Invalid,
                format!(
                    "take the changes back: the rows that changed take more than {mib} MiB of memory; nothing was changed"
                ),
                format!(
                    "name a shorter time{less}; `litekeep diff --undo-sql` prints the statements that take all of it back"
                ),
            ));
        }
        Ok(())
    }

    /// How many rows differ.
    pub fn rows(&self) -> usize {
        self.tables.iter().map(|table| table.items.len()).sum()
    }

    /// Takes the changes back, or says what that would do. On a blocking thread.
    ///
    /// # Errors
    /// Those of SQLite, and `Invalid` when rows would be left that refer to missing ones. Nothing has changed then.
    pub fn apply(&self, editor: &RowEditor, options: Options) -> Result<Done, Error> {
        if let Some(done) = self.apply_once(editor, options, false)? {
            return Ok(done);
        }
        let done = self.apply_once(editor, options, true)?;
        done.ok_or_else(|| {
            Error::new(Kind::Internal, "take the changes back: what dangled before is not known")
        })
    }

    /// `None`: some rows refer to missing ones, and whether they did so before must be known first (`knows_before`).
    fn apply_once(
        &self,
        editor: &RowEditor,
        options: Options,
        knows_before: bool,
    ) -> Result<Option<Done>, Error> {
        // Also to say what would be done: only SQLite knows what its constraints allow.
        editor.begin(true)?;
        let mut run = Run {
            editor,
            options,
            done: Done::default(),
            rebuild: BTreeSet::new(),
            layouts: BTreeMap::new(),
            written: vec![],
            alike: BTreeMap::new(),
            blocked: strangers::Items::new(),
        };
        let outcome = run.all(self, knows_before);
        match outcome {
            Ok(true) if options.write && !run.done.is_nothing() => editor.commit()?,
            _ => editor.roll_back(),
        }
        outcome.map(|is_done| is_done.then_some(run.done))
    }
}

impl Reader for Undo {
    fn schema(&mut self, changes: &[SchemaChange]) -> Result<(), Error> {
        self.schema = changes.to_vec();
        Ok(())
    }

    fn takes_apart(&self) -> bool {
        true
    }

    fn counter(&mut self, table: &str, was: i64) -> Result<(), Error> {
        self.counters.insert(table.to_owned(), was);
        Ok(())
    }

    fn table(&mut self, pair: Pair<'_>, from: &[Option<usize>]) -> Result<(), Error> {
        self.names.clear();
        if let (Some(old), Some(new)) = (pair.old, pair.new) {
            let columns = new.layout.columns.iter().zip(from);
            let names =
                columns.filter_map(|(new, from)| Some((&old.layout.columns[(*from)?].name, &new.name)));
            let other = names.filter(|(old, new)| old != new);
            self.names = other.map(|(old, new)| (old.clone(), new.clone())).collect();
        }
        if let (Some(old), None) = (pair.old, pair.new) {
            self.gone.insert(old.name.clone());
        }
        Ok(())
    }

    fn change(&mut self, pair: Pair<'_>, change: &Change<'_>) -> Result<(), Error> {
        self.add(pair, change, true)
    }

    fn other(&mut self, pair: Pair<'_>, change: &Change<'_>) -> Result<(), Error> {
        self.add(pair, change, false)
    }
}

/// What to do with a row.
enum Step<'a> {
    Insert,
    /// Under another rowid: nothing else tells the row, and its own is taken.
    InsertAnew,
    Update(Named<'a>),
    Delete,
    Nothing,
    Conflict(&'static str),
}

/// A step that a constraint forbade, with its words.
type Waiting<'a> = (&'a TableChanges, &'a Item, Step<'a>, String);

/// A row that is not as it was.
struct WrittenRow<'a> {
    table: &'a TableChanges,
    item: &'a Item,
    /// The rowid that it got, where that is another one.
    rowid: Option<i64>,
}

struct Run<'a> {
    editor: &'a RowEditor,
    options: Options,
    done: Done,
    /// Virtual tables for full-text search.
    rebuild: BTreeSet<String>,
    /// The tables as they are now.
    layouts: BTreeMap<String, TableLayout>,
    /// The rows that were.
    written: Vec<WrittenRow<'a>>,
    /// Of tables without a key: how many rows have values of this hash.
    alike: BTreeMap<String, HashMap<u64, u64>>,
    /// What stays as it is, since it referred to a row whose key another one has now.
    blocked: strangers::Items,
}

impl<'a> Run<'a> {
    /// Everything; `false`: some rows refer to missing ones, and whether they did so before is not known.
    fn all(&mut self, undo: &'a Undo, knows_before: bool) -> Result<bool, Error> {
        let before = knows_before.then(|| self.dangling(undo)).transpose()?;
        let dropped = self.bring_back_tables(undo)?;
        let mut tables = vec![];
        for table in &undo.tables {
            if let Some(why) = dropped.refused.get(&table.name) {
                self.conflict_of_table(table, &format!("the table cannot be made again: {why}"));
            } else if self.is_applicable(undo, table, &dropped.made)? {
                tables.push(table);
            }
        }
        // What was inserted goes first, and what was deleted comes last: between them keys and unique values may have
        // gone from one row to another.
        let updated = |item: &Item| !item.is_inserted() && !item.is_deleted();
        let phases = [&Item::is_inserted as &dyn Fn(&Item) -> bool, &updated, &Item::is_deleted];
        for (nth, wanted) in phases.into_iter().enumerate() {
            let mut waiting = vec![];
            for &table in &tables {
                for item in table.items.iter().filter(|item| wanted(item)) {
                    self.step(table, item, &mut waiting)?;
                }
            }
            self.try_again(waiting)?;
            if nth == 0 {
                self.blocked = self.would_meet_strangers(&tables)?;
            }
        }
        self.bring_back_counters(undo, &dropped.made)?;
        self.bring_back_the_rest(undo)?;
        self.name_what_stays(undo)?;
        // Other writers wait meanwhile: only where single rows do not tell, whole tables are looked at.
        if !self.refer_to_what_is_there()? {
            let after = self.dangling(undo)?;
            let Some(before) = before.or_else(|| after.is_empty().then(BTreeMap::new)) else {
                return Ok(false);
            };
            let is_new =
                |(row, count): &(&Dangling, &u64)| before.get(*row).is_none_or(|before| before < *count);
            let left: Vec<Dangling> = after.iter().filter(is_new).map(|(row, _)| row.clone()).collect();
            if !left.is_empty() {
                return Err(refused(&left));
            }
        }
        self.renew_what_follows(&tables)?;
        Ok(true)
    }

    /// Full-text indexes, and a word about triggers, which did not run.
    fn renew_what_follows(&mut self, tables: &[&TableChanges]) -> Result<(), Error> {
        for table in tables {
            if self.done.tables.get(&table.name).is_some_and(|counts| counts.changed() > 0) {
                let (indexes, has_triggers) = self.editor.followers(&table.name)?;
                self.rebuild.extend(indexes);
                if has_triggers {
                    self.done.notes.push(format!("the triggers of `{}` do not run", table.name));
                }
            }
        }
        for name in &std::mem::take(&mut self.rebuild) {
            let made = self.editor.virtual_table(name)?.unwrap_or_default();
            if schema::has_no_content(&made) {
                self.stays(format!("the full-text index `{name}` is left as it is, since it has no content"));
            } else if self.options.write
                && let Err(e) = self.editor.rebuild(name)
            {
                self.stays(format!("the full-text index `{name}` could not be rebuilt: {e}"));
            }
        }
        Ok(())
    }

    fn dangling(&self, undo: &Undo) -> Result<BTreeMap<Dangling, u64>, Error> {
        let mut found = BTreeMap::new();
        for table in &undo.tables {
            found.extend(self.editor.dangling(&table.name)?);
        }
        Ok(found)
    }

    /// Whether the rows of a table can be looked at one by one.
    fn is_applicable(
        &mut self,
        undo: &Undo,
        table: &TableChanges,
        dropped: &BTreeSet<String>,
    ) -> Result<bool, Error> {
        let is_remade = undo.tables.iter().any(|other| other.name == table.name && other.fate != table.fate);
        if is_remade || table.fate == Fate::Dropped && !dropped.contains(&table.name) {
            let by_itself = undo.schema.iter().any(|change| {
                change.before.as_ref().is_some_and(|row| row.name == table.name)
                    && change.comes_by_itself(&undo.schema)
            });
            if !by_itself {
                self.conflict_of_table(table, "the table was made anew, and its rows cannot be told apart");
            }
            return Ok(false);
        }
        let Some((layout, kind)) = self.editor.table(&table.name)? else {
            let now = table.root.map(|root| self.editor.table_at(root)).transpose()?.flatten();
            let reason = match now {
                Some(now) => {
                    format!("the table is not there any more; what is called `{now}` now has its place")
                }
                None => "the table is not there any more".to_owned(),
            };
            self.conflict_of_table(table, &reason);
            return Ok(false);
        };
        match kind {
            TableKind::Internal => return Ok(false),
            TableKind::Shadow(owner) => {
                let made = self.editor.virtual_table(&owner)?.unwrap_or_default();
                if !is_full_text(&made) {
                    let note = format!("the virtual table `{owner}` is left as it is");
                    if !self.done.notes.contains(&note) {
                        self.stays(note);
                    }
                    return Ok(false);
                }
                self.rebuild.insert(owner);
                if !table.name.ends_with("_content") {
                    return Ok(false);
                }
            }
            TableKind::Ordinary => {}
        }
        let has = |name: &str| layout.columns.iter().any(|column| column.name == name);
        if let Some(missing) = table.columns().find(|name| !has(name)) {
            let names: Vec<_> = layout.columns.iter().map(|column| format!("`{}`", column.name)).collect();
            let reason =
                format!("the table has no column `{missing}` any more; its columns are {}", names.join(", "));
            self.conflict_of_table(table, &reason);
            return Ok(false);
        }
        let written = layout.columns.iter().filter(|column| !column.is_generated);
        let written: Vec<&str> = written.map(|column| column.name.as_str()).collect();
        if let Some(why) = self.editor.why_not_written(&table.name, &written)? {
            let reason = format!(
                "SQLite cannot write to it without what the application adds: {why}; `litekeep diff --undo-sql` prints \
                 statements to run there"
            );
            self.conflict_of_table(table, &reason);
            return Ok(false);
        }
        self.layouts.insert(table.name.clone(), layout);
        Ok(true)
    }

    fn step(
        &mut self,
        table: &'a TableChanges,
        item: &'a Item,
        waiting: &mut Vec<Waiting<'a>>,
    ) -> Result<(), Error> {
        if self.options.keep_new && item.is_inserted() {
            return Ok(());
        }
        if self.blocked.contains(&std::ptr::from_ref(item)) {
            let reason =
                "what it referred to is not there, and another row has its key now or it stays away itself";
            self.conflict(table, item, reason.to_owned());
            return Ok(());
        }
        let (step, why) = match self.blind(table, item) {
            Some(step) => match self.take(table, item, &step)? {
                None => return Ok(()),
                why => (self.plan(table, item)?, why),
            },
            None => (self.plan(table, item)?, None),
        };
        match (step, why) {
            (Step::Conflict(reason), _) => self.conflict(table, item, reason.to_owned()),
            // Others get theirs first.
            (step @ Step::InsertAnew, _) => waiting.push((table, item, step, String::new())),
            (step @ Step::Insert, Some(why)) => waiting.push((table, item, step, why)),
            (step, _) => {
                if let Some(why) = self.take(table, item, &step)? {
                    waiting.push((table, item, step, why));
                }
            }
        }
        Ok(())
    }

    /// A deleted row is inserted without a look, where its key is the table's: it is taken just when another row stands there.
    fn blind(&self, table: &TableChanges, item: &Item) -> Option<Step<'a>> {
        if !item.is_deleted() || table.is_by_rowid(item) {
            return None;
        }
        let layout = self.layouts.get(&table.name)?;
        let key = table.key(item);
        let is_key =
            |(nth, (name, _)): (&usize, &(&str, Value))| layout.columns[*nth].name.eq_ignore_ascii_case(name);
        let is_the_tables =
            key.len() == layout.primary_key.len() && layout.primary_key.iter().zip(&key).all(is_key);
        is_the_tables.then_some(Step::Insert)
    }

    /// What is to be done, by what stands there now.
    fn plan(&self, table: &'a TableChanges, item: &'a Item) -> Result<Step<'a>, Error> {
        let key = table.key(item);
        if key.is_empty() {
            return Ok(Step::Conflict("nothing tells it from other rows"));
        }
        let by_rowid = table.is_by_rowid(item);
        let columns = |values: &Named<'a>| -> Vec<&str> { values.iter().map(|(name, _)| *name).collect() };
        let now = |values: &Named<'a>| self.editor.row(&table.name, &columns(values), &borrowed(&key));
        let is = |row: &[Value], values: &Named<'_>| row.iter().eq(values.iter().map(|(_, value)| value));
        Ok(match (table.was(item), table.is(item)) {
            (None, Some(new)) => match now(&new)? {
                None => Step::Nothing,
                Some(row) if is(&row, &new) && self.has_nothing_newer(table, &key)? => Step::Delete,
                Some(_) => Step::Conflict("it was changed since"),
            },
            (Some(old), None) => match now(&old)? {
                None => Step::Insert,
                Some(row) if is(&row, &old) => Step::Nothing,
                Some(_) if by_rowid => Step::InsertAnew,
                Some(_) => Step::Conflict("another row has its key now"),
            },
            (Some(old), Some(new)) => {
                let Some(row) = now(&new)? else { return Ok(Step::Conflict("it was deleted since")) };
                let was = |name: &str| old.iter().find(|(old, _)| *old == name);
                let mut differing: Vec<(usize, &(&str, Value))> = vec![];
                for (nth, (name, value)) in new.iter().enumerate() {
                    differing.extend(was(name).filter(|(_, old)| old != value).map(|old| (nth, old)));
                }
                let stands = match by_rowid {
                    true => is(&row, &new),
                    false => differing.iter().all(|(nth, _)| row[*nth] == new[*nth].1),
                };
                let is_back = match by_rowid {
                    true => (new.iter().zip(&row))
                        .all(|((name, _), now)| was(name).is_none_or(|(_, old)| old == now)),
                    false => differing.iter().all(|(nth, (_, old))| row[*nth] == *old),
                };
                if is_back {
                    Step::Nothing
                } else if by_rowid && self.options.keep_new {
                    Step::Conflict(ONE_OR_TWO)
                } else if stands {
                    Step::Update(differing.into_iter().map(|(_, old)| old.clone()).collect())
                } else {
                    Step::Conflict("it was changed since")
                }
            }
            (None, None) => Step::Nothing,
        })
    }

    /// Does it; the reason when a constraint is in the way.
    fn take(
        &mut self,
        table: &'a TableChanges,
        item: &'a Item,
        step: &Step<'_>,
    ) -> Result<Option<String>, Error> {
        let written = match step {
            Step::Insert | Step::InsertAnew => {
                let mut values = table.was(item).unwrap_or_default();
                if matches!(step, Step::Insert) && table.is_by_rowid(item) {
                    values.extend(table.key(item));
                }
                self.editor.insert(&table.name, &borrowed(&values))?
            }
            Step::Update(values) => {
                self.editor.update(&table.name, &borrowed(values), &borrowed(&table.key(item)))?
            }
            Step::Delete => self.editor.delete(&table.name, &borrowed(&table.key(item)))?,
            Step::Nothing | Step::Conflict(_) => Written::Rows(0),
        };
        let is_one = match written {
            Written::Forbidden(why) => return Ok(Some(why)),
            Written::Rows(rows) => rows == 1,
        };
        if !is_one && !matches!(step, Step::Nothing | Step::Conflict(_)) {
            let message = format!(
                "take the changes back: a key of `{}` names several rows; nothing was changed",
                table.name
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        if !matches!(step, Step::Nothing | Step::Conflict(_)) {
            let rowid = matches!(step, Step::InsertAnew).then(|| self.editor.last_rowid());
            self.written.push(WrittenRow { table, item, rowid });
        }
        let counts = self.done.tables.entry(table.name.clone()).or_default();
        match step {
            Step::Insert | Step::InsertAnew => counts.inserted += 1,
            Step::Update(_) => counts.updated += 1,
            Step::Delete => counts.deleted += 1,
            Step::Nothing | Step::Conflict(_) => counts.unchanged += 1,
        }
        Ok(None)
    }

    /// What a constraint forbade may be possible after the rest, or when rows that exchange unique values are out of each
    /// other's way.
    fn try_again(&mut self, mut waiting: Vec<Waiting<'a>>) -> Result<(), Error> {
        loop {
            let before = waiting.len();
            let mut left = vec![];
            for (table, item, step, _) in waiting {
                if matches!(step, Step::InsertAnew) && self.has_its_like(table, item)? {
                    let why = "another row has its rowid now, and one like it is there";
                    self.conflict(table, item, why.to_owned());
                    continue;
                }
                if let Some(why) = self.take(table, item, &step)? {
                    left.push((table, item, step, why));
                }
            }
            waiting = left;
            if waiting.is_empty() || waiting.len() == before && !self.exchange(&mut waiting)? {
                break;
            }
        }
        for (table, item, _, why) in waiting {
            self.conflict(table, item, why);
        }
        Ok(())
    }

    /// Whether columns that the table has got since still have their default.
    fn has_nothing_newer(&self, table: &TableChanges, key: &Named<'_>) -> Result<bool, Error> {
        let layout = self.layouts.get(&table.name);
        let columns = layout.into_iter().flat_map(|layout| &layout.columns);
        let newer: Vec<_> =
            columns.filter(|column| !column.is_generated && !table.knows(&column.name)).collect();
        if newer.is_empty() {
            return Ok(true);
        }
        let names: Vec<&str> = newer.iter().map(|column| column.name.as_str()).collect();
        let row = self.editor.row(&table.name, &names, &borrowed(key))?.unwrap_or_default();
        Ok(row.iter().eq(newer.iter().map(|column| &column.default)))
    }

    /// Takes all updated rows out and puts them back as they were; whether that was possible.
    fn exchange(&mut self, waiting: &mut Vec<Waiting<'a>>) -> Result<bool, Error> {
        let is_update = |step: &Step<'_>| matches!(step, Step::Update(_));
        self.editor.execute("SAVEPOINT exchange")?;
        let mut rows = vec![];
        for &(table, item, ref step, _) in waiting.iter() {
            let (Step::Update(values), Some(layout)) = (step, self.layouts.get(&table.name)) else {
                continue;
            };
            let columns = layout.columns.iter().filter(|column| !column.is_generated);
            let mut columns: Vec<&str> = columns.map(|column| column.name.as_str()).collect();
            // Whoever refers to the row by its rowid finds it again.
            columns.extend(layout.rowid_name().filter(|_| layout.has_hidden_rowid()));
            let key = table.key(item);
            let row = self.editor.row(&table.name, &columns, &borrowed(&key))?.unwrap_or_default();
            self.editor.delete(&table.name, &borrowed(&key))?;
            rows.push((table, item, columns, values, row));
        }
        let mut are_back = !rows.is_empty();
        for (table, _, columns, values, row) in &rows {
            let was = |name: &str| values.iter().find(|(old, _)| *old == name).map(|(_, value)| value);
            let columns = columns.iter().zip(row);
            let values: Vec<_> = columns.map(|(name, now)| (*name, was(name).unwrap_or(now))).collect();
            are_back &= matches!(self.editor.insert(&table.name, &values)?, Written::Rows(_));
        }
        if !are_back {
            self.editor.execute("ROLLBACK TO exchange")?;
        }
        self.editor.execute("RELEASE exchange")?;
        if are_back {
            for (table, item, ..) in rows {
                self.done.tables.entry(table.name.clone()).or_default().updated += 1;
                self.written.push(WrittenRow { table, item, rowid: None });
            }
            waiting.retain(|(_, _, step, _)| !is_update(step));
        }
        Ok(are_back)
    }

    fn conflict(&mut self, table: &TableChanges, item: &Item, reason: String) {
        self.done.conflict_count += 1;
        if self.done.conflicts.len() < KEPT {
            let key = table.key(item).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            self.done.conflicts.push(Conflict { table: table.name.clone(), key, reason });
        }
    }

    fn conflict_of_table(&mut self, table: &TableChanges, reason: &str) {
        self.done.conflict_count += table.items.len() as u64;
        let rows = table.items.len();
        let reason = format!("{reason} ({rows} {})", if rows == 1 { "row" } else { "rows" });
        self.done.conflicts.push(Conflict { table: table.name.clone(), key: vec![], reason });
    }
}

fn borrowed<'a>(values: &'a Named<'_>) -> Vec<(&'a str, &'a Value)> {
    values.iter().map(|(name, value)| (*name, value)).collect()
}

fn refused(left: &[Dangling]) -> Error {
    let named: Vec<_> = left
        .iter()
        .take(NAMED)
        .map(|(table, rowid, parent, _)| {
            let row = rowid.map_or(String::new(), |rowid| format!(" {rowid}"));
            format!("row{row} of `{table}` refers to `{parent}`")
        })
        .collect();
    Error::with_hint(
        Kind::Invalid,
        format!(
            "take the changes back: {} rows would refer to rows that are not there ({}); nothing was changed",
            left.len(),
            named.join(", ")
        ),
        "name the tables on both sides of the foreign key, or a longer time",
    )
}
