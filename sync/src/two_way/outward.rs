//! What the log says of rows that have changed here, and what the hub is to have of it.
//!
//! A file of the log may have put transactions of the application and of the pull together, and says only how each row was before and is
//! after all of them. The pull notes, in its own transactions, which image the hub has of each row that it has come upon; so of each row that is in the
//! file it is known what the last image of the hub's was, and whether the row was changed here after that.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use litekeep_ltx::Txid;
use litekeep_rows::feed::{Feed, RowEvent, Transaction};
use litekeep_sql::{Declaration, SYNC_TABLE};

use super::state::{FLIGHT, Outward, PENDING, Plan, SEEN, Seen, Stage, Waits, Work, image, parsed, values};
use crate::batch::picked;
use crate::ledger::{STAGE, row_id, text as json};
use crate::{Error, Value};

/// What a file of the log did.
#[derive(Debug, Default)]
pub(super) struct Diff {
    /// Rows by their ids.
    rows: BTreeMap<String, Net>,
    /// Images of the hub's that the pull has noted in it, by the same.
    seen: BTreeMap<String, Seen>,
    /// How far the pull was at its end.
    pub(super) stage: Option<Stage>,
    /// Tables that have changed, with what is said of them.
    pub(super) changed: Vec<(String, String)>,
}

/// A row before and after it.
#[derive(Debug, Default)]
struct Net {
    table: usize,
    key: Vec<Value>,
    before: Option<Vec<Value>>,
    after: Option<Vec<Value>>,
}

impl Diff {
    /// Adds a part of it; `sync` is the sync's name.
    pub(super) fn add(&mut self, plan: &Plan, sync: &str, part: Transaction) -> Result<(), Error> {
        for change in &part.schema {
            let Some(table) = plan.tables.iter().find(|table| table.mirror.name == change.of_table()) else {
                continue;
            };
            let is_table = |kind: &str| kind == "table";
            let row = change.after.as_ref().or(change.before.as_ref());
            if !row.is_some_and(|row| is_table(&row.kind)) || change.comes_by_itself(&part.schema) {
                continue;
            }
            let columns = match &change.after {
                Some(after) if after.name == table.mirror.name => {
                    let declared = Declaration::read(&after.name, &after.sql)?;
                    let columns = declared.columns.into_iter().filter(|column| column.generated.is_none());
                    Some(columns.map(|column| column.name).collect::<BTreeSet<_>>())
                }
                _ => None,
            };
            let known = table.mirror.columns.iter().map(|column| column.name.clone()).collect();
            if columns.as_ref() == Some(&known) {
                continue;
            }
            let what =
                if columns.is_some() { "its columns were changed" } else { "it was dropped or renamed" };
            self.changed
                .push((table.mirror.name.clone(), format!("{what} here in transaction {}", part.txid)));
        }
        for event in part.rows {
            if event.table == SYNC_TABLE {
                self.ours(sync, event)?;
            } else if let Some(nth) = plan.tables.iter().position(|table| table.mirror.name == event.table) {
                self.row(plan, nth, event);
            }
        }
        Ok(())
    }

    fn row(&mut self, plan: &Plan, nth: usize, event: RowEvent) {
        let table = &plan.tables[nth].mirror;
        let columns: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
        let key_of =
            |row: &[Value]| -> Vec<Value> { table.key.iter().map(|nth| row[*nth].clone()).collect() };
        for (row, is_after) in [(event.before, false), (event.after, true)] {
            let Some(row) = row.map(|row| picked(&columns, row)) else { continue };
            let key = key_of(&row);
            let id = row_id(&table.name, &key);
            // A row may go where another one was.
            let entry = self.rows.entry(id).or_insert_with(|| Net { table: nth, key, ..Net::default() });
            *(if is_after { &mut entry.after } else { &mut entry.before }) = Some(row);
        }
    }

    /// What the pull has noted.
    fn ours(&mut self, sync: &str, event: RowEvent) -> Result<(), Error> {
        let Some(row) = event.after else { return Ok(()) };
        let row = picked(&["name", "item", "content"], row);
        let text = |value: &Value| match value {
            Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
            _ => String::new(),
        };
        let [name, item, content] = [text(&row[0]), text(&row[1]), text(&row[2])];
        if name != sync {
            return Ok(());
        }
        if let Some(id) = item.strip_prefix(SEEN) {
            self.seen.insert(id.to_owned(), parsed(&content)?);
        } else if item == STAGE {
            self.stage = Some(parsed(&content)?);
        }
        Ok(())
    }

    /// What the hub is to have after this file. Rows of which only is known that the pull has come upon them: they may have been changed
    /// here, and back.
    pub(super) fn fold(self, works: &mut BTreeMap<String, Work>, time_ms: i64) -> Vec<(String, Seen)> {
        let Diff { rows, mut seen, .. } = self;
        for (id, Net { table, key, before, after }) in rows {
            let (base, time_ms) = match (seen.remove(&id), works.get(&id)) {
                // As the hub has it.
                (Some(seen), _) if seen.image == image(after.as_deref()) => {
                    works.remove(&id);
                    continue;
                }
                (Some(seen), _) => {
                    let changed_ms = seen.changed_ms(&image(after.as_deref()));
                    (seen.image, changed_ms.unwrap_or(time_ms))
                }
                (None, Some(work)) => (work.base.clone(), time_ms),
                (None, None) => (image(before.as_deref()), time_ms),
            };
            works.insert(
                id,
                Work { table, key, want: after, base, time_ms, waits: Waits::Due, is_late: false },
            );
        }
        let mut unknown = vec![];
        for (id, seen) in seen {
            match works.get_mut(&id) {
                Some(work) if seen.image == image(work.want.as_deref()) => drop(works.remove(&id)),
                Some(work) => (work.base, work.waits, work.is_late) = (seen.image, Waits::Due, false),
                None => unknown.push((id, seen)),
            }
        }
        unknown
    }
}

/// What is known of such a row, once it was looked up.
pub(super) fn found(
    works: &mut BTreeMap<String, Work>,
    (id, seen): (String, Seen),
    (table, row): (usize, Option<Vec<Value>>),
    time_ms: i64,
) -> Result<(), Error> {
    let image_here = image(row.as_deref());
    if seen.image != image_here {
        let time_ms = seen.changed_ms(&image_here).unwrap_or(time_ms);
        let key = values(&seen.key)?;
        works.insert(
            id,
            Work { table, key, want: row, base: seen.image, time_ms, waits: Waits::Due, is_late: false },
        );
    }
    Ok(())
}

/// How far the way to the hub is.
pub(super) struct Way {
    /// Rows that the hub shall have otherwise, by their ids.
    pub(super) works: BTreeMap<String, Work>,
    /// The same as the hub keeps them; `None`: of a table that is in the plan no more.
    pub(super) saved: BTreeMap<String, Option<Work>>,
    /// Rows that were written there and have not come back: in which push, and their images. Until then the hub's changes of them are those
    /// that were before it.
    pub(super) flights: HashMap<String, (u64, String)>,
    /// Pushes of which the hub keeps the rows.
    pub(super) kept_flights: BTreeSet<u64>,
    /// What the hub keeps of how far it is, and the same as it is written.
    pub(super) at: Option<Outward>,
    pub(super) written: Option<String>,
    /// Up to where the log was read, and when that was seen.
    pub(super) read: Option<(Txid, i64)>,
    pub(super) feed: Option<Feed>,
    /// A file that was read in part.
    pub(super) diff: Diff,
    /// How far the pull was in what was read.
    pub(super) seen: Option<Stage>,
    /// Transactions of the pull in what was read when the hub last kept how far that was: they are never read again.
    pub(super) passed: u64,
    pub(super) marked_ms: i64,
}

impl Way {
    /// By what the hub keeps; pushes up to `echoed` have come back.
    pub(super) fn read(items: &BTreeMap<String, String>, plan: &Plan, echoed: u64) -> Result<Way, Error> {
        let mut way = Way {
            works: BTreeMap::new(),
            saved: BTreeMap::new(),
            flights: HashMap::new(),
            kept_flights: BTreeSet::new(),
            at: None,
            written: items.get(STAGE).cloned(),
            read: None,
            feed: None,
            diff: Diff::default(),
            seen: None,
            passed: 0,
            marked_ms: 0,
        };
        way.at = way.written.as_deref().map(parsed).transpose()?;
        for (item, content) in items {
            if let Some(id) = item.strip_prefix(PENDING) {
                let kept = Work::read(content, plan)?;
                if let Some(work) = kept.clone() {
                    // One that is refused is tried once more after each start.
                    way.works.insert(id.to_owned(), Work { waits: Waits::Due, ..work });
                }
                way.saved.insert(id.to_owned(), kept);
            } else if let Some(push) = item.strip_prefix(FLIGHT).and_then(|nth| nth.parse().ok()) {
                way.kept_flights.insert(push);
                if push > echoed {
                    let rows: Vec<(String, String)> = parsed(content)?;
                    way.flights.extend(rows.into_iter().map(|(id, image)| (id, (push, image))));
                }
            }
        }
        Ok(way)
    }

    pub(super) fn pushes(&self) -> u64 {
        self.at.as_ref().map_or(0, |at| at.pushes)
    }

    /// What the hub must keep otherwise of the rows that are not there as they shall be.
    pub(super) fn pending(&self, plan: &Plan) -> Vec<(String, Option<String>)> {
        let item = |id: &String| format!("{PENDING}{id}");
        let is_saved = |id: &String, work: &Work| {
            let saved = self.saved.get(id).and_then(Option::as_ref);
            saved.is_some_and(|saved| saved.is_kept_as(work))
        };
        let mut items: Vec<(String, Option<String>)> = (self.works.iter())
            .filter(|(id, work)| !is_saved(id, work))
            .map(|(id, work)| (item(id), Some(work.kept(plan))))
            .collect();
        let gone = self.saved.keys().filter(|id| !self.works.contains_key(*id));
        items.extend(gone.map(|id| (item(id), None)));
        items
    }

    /// These items are there now, of rows that wait as they did when they were [told](Self::pending).
    pub(super) fn saved(&mut self, items: &[(String, Option<String>)]) {
        self.passed = self.seen.as_ref().map_or(self.passed, Stage::commits);
        for (item, content) in items {
            let Some(id) = item.strip_prefix(PENDING) else { continue };
            match content {
                Some(_) => drop(self.saved.insert(id.to_owned(), self.works.get(id).cloned())),
                None => drop(self.saved.remove(id)),
            }
        }
    }

    /// The item that says which rows a push has written.
    pub(super) fn flight(push: u64, rows: &[(String, String)]) -> (String, Option<String>) {
        (format!("{FLIGHT}{push:016}"), Some(json(&rows)))
    }

    /// Items of pushes that have come back.
    pub(super) fn landed(&self, echoed: u64) -> Vec<(String, Option<String>)> {
        self.kept_flights.range(..=echoed).map(|push| (format!("{FLIGHT}{push:016}"), None)).collect()
    }
}

#[cfg(test)]
mod tests {
    use litekeep_sql::{MirrorColumn, MirrorRules, MirrorTable};

    use super::*;
    use crate::source::SourceTable;

    /// Each waiting row was written anew as text at each look, to see that nothing of it had changed.
    #[test]
    fn rows_that_wait_are_written_when_they_change_and_not_at_each_look() {
        let column =
            |name: &str| MirrorColumn { name: name.to_owned(), declared: String::new(), is_not_null: false };
        let mirror = MirrorTable {
            name: "t".to_owned(),
            columns: vec![column("id"), column("v")],
            key: vec![0],
            indexes: vec![],
            rules: MirrorRules::default(),
        };
        let table = SourceTable { source: "t".to_owned(), types: vec![], mirror, part: Default::default() };
        let plan = Plan { slot: "node".to_owned(), tables: vec![table] };
        let work = |n: i64| Work {
            table: 0,
            key: vec![Value::Integer(n)],
            want: Some(row("b")),
            base: of(Some("a")),
            time_ms: 1,
            waits: Waits::Until("0/1".to_owned()),
            is_late: false,
        };
        let mut way = Way::read(&BTreeMap::new(), &plan, 0).unwrap();
        way.works = (0..100).map(|n| (format!("t/{n}"), work(n))).collect();
        let written = || super::super::state::WRITTEN.with(|written| written.replace(0));
        written();
        let items = way.pending(&plan);
        assert_eq!((items.len(), written()), (100, 100));
        way.saved(&items);
        for _ in 0..10 {
            assert_eq!(way.pending(&plan), []);
        }
        assert_eq!(written(), 0);
        way.works.get_mut("t/7").unwrap().waits = Waits::Refused("no".to_owned());
        way.works.remove("t/8");
        let changed = way.pending(&plan);
        let names: Vec<&str> = changed.iter().map(|(item, _)| &item[PENDING.len()..]).collect();
        assert_eq!((names, written()), (vec!["t/7", "t/8"], 1));
        way.saved(&changed);
        // After a start one that was refused is tried again, and is kept as before until it is known.
        let kept = items.into_iter().chain(changed).fold(BTreeMap::new(), |mut all, (item, content)| {
            match content {
                Some(content) => all.insert(item, content),
                None => all.remove(&item),
            };
            all
        });
        let mut again = Way::read(&kept, &plan, 0).unwrap();
        assert_eq!(again.works["t/7"].waits, Waits::Due);
        again.works.get_mut("t/7").unwrap().waits = Waits::Refused("no".to_owned());
        written();
        assert_eq!((again.pending(&plan), written()), (vec![], 0));
    }

    fn row(v: &str) -> Vec<Value> {
        vec![Value::Integer(1), Value::Text(v.into())]
    }

    fn net(before: Option<&str>, after: Option<&str>) -> Option<Net> {
        Some(Net { table: 0, key: vec![Value::Integer(1)], before: before.map(row), after: after.map(row) })
    }

    fn of(image_of: Option<&str>) -> String {
        image(image_of.map(row).as_deref())
    }

    /// What is to be done after a file with this row and this note, where that was to be done before; and how many rows must be looked up.
    fn folded(
        before: Option<(Option<&str>, Option<&str>)>,
        net: Option<Net>,
        note: Option<Option<&str>>,
    ) -> (Option<(String, Option<String>)>, usize) {
        let work = |(base, want): (Option<&str>, Option<&str>)| Work {
            table: 0,
            key: vec![Value::Integer(1)],
            want: want.map(row),
            base: of(base),
            time_ms: 1,
            waits: Waits::Until("0/1".to_owned()),
            is_late: false,
        };
        let mut works: BTreeMap<String, Work> =
            before.map(|before| ("t/1".to_owned(), work(before))).into_iter().collect();
        let seen = |note: Option<&str>| Seen {
            commit: 1,
            image: of(note),
            key: vec!["i1".to_owned()],
            merged: None,
        };
        let diff = Diff {
            rows: net.map(|net| ("t/1".to_owned(), net)).into_iter().collect(),
            seen: note.map(|note| ("t/1".to_owned(), seen(note))).into_iter().collect(),
            ..Diff::default()
        };
        let unknown = diff.fold(&mut works, 2).len();
        let text = |row: &Vec<Value>| {
            if let Value::Text(text) = &row[1] {
                String::from_utf8_lossy(text).into_owned()
            } else {
                String::new()
            }
        };
        (works.remove("t/1").map(|work| (work.base, work.want.as_ref().map(text))), unknown)
    }

    #[test]
    fn what_was_changed_here_is_told_from_what_came() {
        let todo = |base: Option<&str>, want: &str| (Some((of(base), Some(want.to_owned()))), 0);
        let nothing = (None, 0);
        // Changed here, and the hub has it as it was before.
        assert_eq!(folded(None, net(Some("a"), Some("b")), None), todo(Some("a"), "b"));
        assert_eq!(folded(None, net(None, Some("b")), None), todo(None, "b"));
        assert_eq!(folded(None, net(Some("a"), None), None), (Some((of(Some("a")), None)), 0));
        // As the pull has left it; it was changed here before, and has lost.
        assert_eq!(folded(None, net(Some("a"), Some("x")), Some(Some("x"))), nothing);
        assert_eq!(folded(Some((Some("a"), Some("b"))), net(Some("b"), Some("x")), Some(Some("x"))), nothing);
        // Changed here after that.
        assert_eq!(folded(None, net(Some("a"), Some("b")), Some(Some("x"))), todo(Some("x"), "b"));
        assert_eq!(folded(None, net(Some("a"), Some("b")), Some(None)), todo(None, "b"));
        // Changed here and on: the hub has what it had.
        assert_eq!(
            folded(Some((Some("a"), Some("b"))), net(Some("b"), Some("c")), None),
            todo(Some("a"), "c")
        );
        // It has won over what came.
        assert_eq!(folded(Some((Some("a"), Some("b"))), None, Some(Some("x"))), todo(Some("x"), "b"));
        // The same on both sides.
        assert_eq!(folded(Some((Some("a"), Some("b"))), None, Some(Some("b"))), nothing);
        // It may have been there and back.
        assert_eq!(folded(None, None, Some(Some("x"))), (None, 1));
    }
}
