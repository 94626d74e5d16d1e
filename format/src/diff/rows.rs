//! The rows of a planned part of a table, in key order, and the merge of the old ones with the new ones.

use super::columns::Matching;
use super::parents::{PageSet, TWO_LEAD_TO_IT};
use super::plan::{Part, Plan, Scope};
use super::{Change, Pair, Sink};
use crate::btree::{BtreePage, Cell, PageSource, Tree};
use crate::error::Error;
use crate::record::{Field, Fields, Value, compare, has_fields};
use crate::table::{InOrder, RowRef, Table, TableLayout};
use crate::{TextEncoding, record};
use litekeep_ltx::Pgno;
use rustc_hash::FxHashMap;
use std::cmp::Ordering;

/// SQLite makes no deeper trees.
const MAX_DEPTH: usize = 20;

/// Goes over the cells of a plan in key order.
struct Walk<'a, S> {
    tree: Tree<'a, S>,
    plan: &'a Plan,
    touched: &'a PageSet,
    seen: PageSet,
    /// The pages from the root down.
    stack: Vec<Stop<'a>>,
}

/// A page on the way.
struct Stop<'a> {
    page: BtreePage,
    /// The next step: child 0, cell 0, child 1 ... of an interior page; of its touched children where cells are no rows.
    step: usize,
    part: &'a Part,
    /// What its cells may still take, so that a damaged page cannot give one cell a thousand times.
    room: usize,
}

impl<'a, S: PageSource> Walk<'a, S> {
    fn new(
        tree: Tree<'a, S>,
        root: Option<Pgno>,
        plan: &'a Plan,
        touched: &'a PageSet,
    ) -> Result<Self, S::Error> {
        let mut walk = Walk { tree, plan, touched, seen: PageSet::default(), stack: vec![] };
        if let Some(root) = root {
            walk.enter(root)?;
        }
        Ok(walk)
    }

    fn enter(&mut self, pgno: Pgno) -> Result<(), S::Error> {
        if let Some(part) = self.plan.get(&pgno) {
            if self.stack.len() == MAX_DEPTH || !self.seen.insert(pgno) {
                return Err(Error::Page { pgno, what: TWO_LEAD_TO_IT }.into());
            }
            let page = self.tree.page(pgno)?;
            let room = page.room();
            self.stack.push(Stop { page, step: 0, part, room });
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Cell>, S::Error> {
        while let Some(Stop { page, step, part, room }) = self.stack.last_mut() {
            let at = *step;
            *step += 1;
            let nth = if page.is_leaf() {
                Some(at).filter(|nth| *nth < page.cells())
            } else if let (Part::Touched(children), false) = (*part, page.has_payload()) {
                if let Some(child) = children.get(at).copied() {
                    self.enter(child)?;
                    continue;
                }
                None
            } else if at > 2 * page.cells() {
                None
            } else if at % 2 == 0 {
                let child = page.child(at / 2)?;
                self.enter(child)?;
                continue;
            } else {
                Some(at / 2)
            };
            let Some(nth) = nth else {
                self.stack.pop();
                continue;
            };
            if page.has_payload() {
                let cell = page.cell(nth)?;
                let overlap = Error::Page { pgno: page.pgno(), what: "its cells overlap" };
                *room = room.checked_sub(cell.local().len()).ok_or(overlap)?;
                let is_whole = matches!(part, Part::All);
                if is_whole || cell.overflow.is_some_and(|first| self.touched.contains(first)) {
                    return Ok(Some(cell));
                }
            }
        }
        Ok(None)
    }
}

/// The cells of one side, one after the other.
struct Side<'a, S> {
    walk: Walk<'a, S>,
    table: Option<&'a Table>,
    cell: Option<Cell>,
    /// The payload, when it was read from overflow pages.
    payload: Vec<u8>,
    is_whole: bool,
    /// Overflow pages that other rows may still have: none belongs to two.
    pages_left: usize,
}

impl<'a, S: PageSource> Side<'a, S> {
    fn new(
        tree: Tree<'a, S>,
        table: Option<&'a Table>,
        plan: &'a Plan,
        touched: &'a PageSet,
    ) -> Result<Self, S::Error> {
        let walk = Walk::new(tree, table.map(|table| table.root), plan, touched)?;
        let pages_left = tree.source.page_count() as usize;
        Ok(Side { walk, table, cell: None, payload: vec![], is_whole: false, pages_left })
    }

    fn advance(&mut self) -> Result<(), S::Error> {
        self.cell = self.walk.next()?;
        self.is_whole = self.cell.as_ref().is_some_and(|cell| cell.overflow.is_none());
        Ok(())
    }

    /// Reads overflow pages, unless the first fields are there without.
    fn load(&mut self, fields: Option<usize>) -> Result<(), S::Error> {
        if let Some(cell) = &self.cell
            && !self.is_whole
            && !fields.is_some_and(|count| has_fields(cell.local(), count))
        {
            let tree = &self.walk.tree;
            let pages = (cell.payload_len - cell.local().len()).div_ceil(tree.usable - 4);
            let too_large = Error::Page { pgno: cell.pgno, what: "rows are larger than the database" };
            self.pages_left = self.pages_left.checked_sub(pages).ok_or(too_large)?;
            tree.payload(cell, &mut self.payload)?;
            self.is_whole = true;
        }
        Ok(())
    }

    /// What is known of the payload: all of it after `load(None)`.
    fn record(&self) -> &[u8] {
        match &self.cell {
            Some(cell) if cell.overflow.is_some() && self.is_whole => &self.payload,
            Some(cell) => cell.local(),
            None => &[],
        }
    }

    fn row(&self) -> Option<RowRef<'_>> {
        let cell = self.cell.as_ref()?;
        Some(RowRef { table: self.table?, rowid: cell.rowid, record: self.record() })
    }
}

/// What both sides of a pair are compared by.
pub(super) struct Comparison<'a> {
    pub(super) pair: Pair<'a>,
    pub(super) matching: &'a Matching,
    /// Equal bytes are equal rows.
    pub(super) bytes_decide: bool,
    /// An overflow chain that was not written is the same.
    pub(super) chains_last: bool,
    /// Rows that are the same are told too, as updated.
    pub(super) tells_all: bool,
}

impl<'a> Comparison<'a> {
    /// A row of the old WITHOUT ROWID table.
    fn old_row<'r>(&self, record: &'r [u8]) -> Option<RowRef<'r>>
    where
        'a: 'r,
    {
        self.pair.old.map(|table| RowRef { table, rowid: 0, record })
    }

    fn layout(&self) -> &TableLayout {
        &self.pair.either().layout
    }

    fn key_fields(&self) -> usize {
        self.layout().key.len()
    }

    /// Whether the columns are those of the old table, each in its place.
    fn has_same_columns(&self) -> bool {
        let count = self.pair.old.map(|table| table.layout.columns.len());
        let from = &self.matching.from;
        count == Some(from.len()) && from.iter().enumerate().all(|(nth, from)| *from == Some(nth))
    }

    /// Whether two rows of the same key are the same.
    fn is_same(&self, old: &RowRef<'_>, new: &RowRef<'_>) -> Result<bool, Error> {
        if self.tells_all {
            return Ok(false);
        }
        if self.bytes_decide && old.record == new.record {
            return Ok(true);
        }
        if let (true, Some(old), Some(new)) = (self.has_same_columns(), old.in_order()?, new.in_order()?) {
            return is_same_in_order(old, new);
        }
        let (mut scratch, mut before, mut after) = (vec![], vec![], vec![]);
        old.fields(&mut scratch, &mut before)?;
        new.fields(&mut scratch, &mut after)?;
        let expected = |nth: usize| match self.matching.from[nth] {
            Some(from) => before[from],
            None => new.table.layout.columns[nth].default.as_field(),
        };
        Ok(after.iter().enumerate().all(|(nth, field)| *field == expected(nth)))
    }
}

fn is_same_in_order(mut old: InOrder<'_>, mut new: InOrder<'_>) -> Result<bool, Error> {
    loop {
        match (old.next()?, new.next()?) {
            (None, None) => return Ok(true),
            (old, new) if old != new => return Ok(false),
            _ => {}
        }
    }
}

/// Reports how the planned rows of a pair differ.
pub(super) fn compare_rows<S, K>(
    scope: &Scope<'_, S>,
    plans: &(Plan, Plan),
    by: &Comparison<'_>,
    sink: &mut K,
) -> Result<(), S::Error>
where
    S: PageSource,
    K: Sink<S::Error>,
{
    let sides = || {
        let old = Side::new(scope.old, by.pair.old, &plans.0, scope.touched)?;
        let new = Side::new(scope.new, by.pair.new, &plans.1, scope.touched)?;
        Ok::<_, S::Error>((old, new))
    };
    let (old, new) = sides()?;
    if !by.layout().is_without_rowid() {
        return merge(scope, old, new, by, sink);
    }
    // The application may have its own idea of NOCASE, and it alone knows the collations that it has registered.
    let is_ordered = !by.layout().has_unknown_order() && is_ascending(old, by)? && is_ascending(new, by)?;
    let (old, new) = sides()?;
    if is_ordered { merge(scope, old, new, by, sink) } else { join(old, new, by, sink) }
}

/// Whether the rows are in the order that their key is thought to have.
fn is_ascending<S: PageSource>(mut side: Side<'_, S>, by: &Comparison<'_>) -> Result<bool, S::Error> {
    if by.layout().key.iter().all(|part| part.collation == record::Collation::Binary) {
        return Ok(true);
    }
    let mut before: Option<Vec<u8>> = None;
    loop {
        side.advance()?;
        side.load(Some(by.key_fields()))?;
        if side.cell.is_none() {
            return Ok(true);
        }
        let Some(table) = side.table else { return Ok(true) };
        if let Some(before) = &before
            && compare_keys(before, side.record(), &table.layout, table.encoding)? != Ordering::Less
        {
            return Ok(false);
        }
        let before = before.get_or_insert_default();
        before.clear();
        before.extend_from_slice(side.record());
    }
}

fn merge<S, K>(
    scope: &Scope<'_, S>,
    mut old: Side<'_, S>,
    mut new: Side<'_, S>,
    by: &Comparison<'_>,
    sink: &mut K,
) -> Result<(), S::Error>
where
    S: PageSource,
    K: Sink<S::Error>,
{
    let layout = by.layout();
    let key_fields = by.key_fields();
    old.advance()?;
    new.advance()?;
    loop {
        let order = match (&old.cell, &new.cell) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), Some(_)) if layout.is_without_rowid() => {
                old.load(Some(key_fields))?;
                new.load(Some(key_fields))?;
                compare_keys(old.record(), new.record(), layout, by.pair.either().encoding)?
            }
            (Some(old), Some(new)) => old.rowid.cmp(&new.rowid),
        };
        let is_same = order == Ordering::Equal && is_same_cell(scope, &old, &new, by);
        if !is_same {
            if order != Ordering::Greater {
                old.load(None)?;
            }
            if order != Ordering::Less {
                new.load(None)?;
            }
            let change = match (old.row(), new.row()) {
                (Some(old), _) if order == Ordering::Less => Some(Change::Deleted(old)),
                (_, Some(new)) if order == Ordering::Greater => Some(Change::Inserted(new)),
                (Some(old), Some(new)) if !by.is_same(&old, &new)? => Some(Change::Updated(old, new)),
                _ => None,
            };
            if let Some(change) = change {
                sink.change(by.pair, change)?;
            }
        }
        if order != Ordering::Greater {
            old.advance()?;
        }
        if order != Ordering::Less {
            new.advance()?;
        }
    }
}

/// Whether two cells of the same key are the same without reading their overflow pages.
fn is_same_cell<S>(scope: &Scope<'_, S>, old: &Side<'_, S>, new: &Side<'_, S>, by: &Comparison<'_>) -> bool {
    let (Some(old), Some(new)) = (&old.cell, &new.cell) else { return false };
    let is_same_chain = match (old.overflow, new.overflow) {
        (None, None) => true,
        (Some(old), Some(new)) => by.chains_last && old == new && !scope.touched.contains(old),
        _ => false,
    };
    by.bytes_decide && is_same_chain && old.payload_len == new.payload_len && old.local() == new.local()
}

/// For rows whose order is not known: keeps the old ones in memory.
fn join<S, K>(
    mut old: Side<'_, S>,
    mut new: Side<'_, S>,
    by: &Comparison<'_>,
    sink: &mut K,
) -> Result<(), S::Error>
where
    S: PageSource,
    K: Sink<S::Error>,
{
    let mut before: FxHashMap<Vec<Value>, Vec<u8>> = FxHashMap::default();
    let count = by.key_fields();
    let encoding = by.pair.either().encoding;
    while old.step()? {
        before.insert(key_of(old.record(), count, encoding)?, old.record().to_vec());
    }
    while new.step()? {
        let Some(row) = new.row() else { continue };
        let found = before.remove(&key_of(row.record, count, encoding)?);
        match found.as_deref().and_then(|record| by.old_row(record)) {
            None => sink.change(by.pair, Change::Inserted(row))?,
            Some(old) if !by.is_same(&old, &row)? => sink.change(by.pair, Change::Updated(old, row))?,
            Some(_) => {}
        }
    }
    for record in before.values() {
        if let Some(row) = by.old_row(record) {
            sink.change(by.pair, Change::Deleted(row))?;
        }
    }
    Ok(())
}

impl<S: PageSource> Side<'_, S> {
    /// The next row, whole; whether there is one.
    fn step(&mut self) -> Result<bool, S::Error> {
        self.advance()?;
        self.load(None)?;
        Ok(self.cell.is_some())
    }
}

fn key_of(record: &[u8], count: usize, encoding: TextEncoding) -> Result<Vec<Value>, Error> {
    let mut fields = Fields::of(record)?;
    (0..count).map(|_| Ok(fields.next()?.unwrap_or(Field::Null).to_value(encoding))).collect()
}

fn compare_keys(a: &[u8], b: &[u8], layout: &TableLayout, encoding: TextEncoding) -> Result<Ordering, Error> {
    let (mut a, mut b) = (Fields::of(a)?, Fields::of(b)?);
    for part in &layout.key {
        let (a, b) = (a.next()?.ok_or(Error::Record)?, b.next()?.ok_or(Error::Record)?);
        let order = compare(a, b, &part.collation, encoding);
        if order != Ordering::Equal {
            return Ok(if part.descending { order.reverse() } else { order });
        }
    }
    Ok(Ordering::Equal)
}
