//! Goal: an undo, and a `restore --table`, of any changes in any later state does what it promises: no row changes that is not written
//! by these changes; each row that was is there again or is told; nothing new refers to nothing; and where new rows stay, no
//! row is lost. Method: random rows in tables of every kind of key, whose rowids are given again often, and a model that knows
//! rows by their primary keys only, or by all of their values.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, ensure};
use litekeep_rows::Selection;
use litekeep_rows::statements::literal;
use litekeep_rows::undo::{Done, Options, Undo};
use litekeep_sql::RowEditor;
use litekeep_testkit::campaign;
use rusqlite::Connection;

use crate::scripts::{States, tables};

const SETUP: &str = "CREATE TABLE a(k TEXT PRIMARY KEY, x, y UNIQUE);
    CREATE TABLE b(id INTEGER PRIMARY KEY, a REFERENCES a(k), n);
    CREATE TABLE w(k TEXT, j, v, PRIMARY KEY(k, j)) WITHOUT ROWID;
    CREATE TABLE e(p, q, v, PRIMARY KEY(p, q));
    CREATE TABLE l(msg, b REFERENCES b(id))";

/// Each with how many of its first columns are the primary key.
const TABLES: [(&str, usize); 5] = [("a", 1), ("b", 1), ("w", 2), ("e", 2), ("l", 0)];

type Row = Vec<String>;

/// The rows of a table: by their keys, and how many there are of those without.
#[derive(Debug, Default)]
struct Rows {
    keyed: BTreeMap<Row, Row>,
    others: BTreeMap<Row, i64>,
}

type State = BTreeMap<&'static str, Rows>;

fn read(path: &Path) -> Result<State> {
    let db = Connection::open(path)?;
    let mut state = State::new();
    for (table, key) in TABLES {
        let rows = state.entry(table).or_default();
        let mut select = db.prepare(&format!("SELECT * FROM {table}"))?;
        let columns = select.column_count();
        let mut found = select.query(())?;
        while let Some(row) = found.next()? {
            let value = |nth| -> rusqlite::Result<String> {
                Ok(match row.get_ref(nth)? {
                    rusqlite::types::ValueRef::Text(text) => format!("'{}'", String::from_utf8_lossy(text)),
                    rusqlite::types::ValueRef::Integer(i) => i.to_string(),
                    rusqlite::types::ValueRef::Null => "NULL".to_owned(),
                    other => format!("{other:?}"),
                })
            };
            let row: Row = (0..columns).map(value).collect::<rusqlite::Result<_>>()?;
            if key == 0 || row[..key].iter().any(|value| value == "NULL") {
                *rows.others.entry(row).or_default() += 1;
            } else {
                rows.keyed.insert(row[..key].to_vec(), row);
            }
        }
    }
    Ok(state)
}

#[test]
fn an_undo_does_what_it_promises() {
    let mut totals = Totals::default();
    campaign::rounds("undo", 4, |seed| play(seed, &mut totals));
    let Totals { taken_back, conflicts, refused, .. } = totals;
    println!("{taken_back} rows taken back, {conflicts} conflicts, {refused} of {} refused", totals.undos);
    assert!(taken_back > 100 && conflicts > 20 && refused > 0 && refused < totals.undos / 2, "{totals:?}");
}

#[derive(Debug, Default)]
struct Totals {
    undos: u64,
    taken_back: u64,
    conflicts: u64,
    refused: u64,
}

fn play(seed: u64, totals: &mut Totals) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let steps = steps(&mut random)?;
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    let states = States::new(&steps);
    let last = steps.len() as u64 + 1;
    for _ in 0..24 {
        let from = random.u64(2..last);
        let to = random.u64(from + 1..=last);
        let at = random.u64(to..=last);
        let names: Vec<&str> = TABLES.iter().map(|(name, _)| *name).collect();
        let some: Vec<&str> = match random.u8(..3) {
            0 => names,
            1 => vec![names[random.usize(..names.len())]],
            _ => names.into_iter().filter(|_| random.u8(..3) > 0).collect(),
        };
        for keep_new in [false, true] {
            let wanted = tables(&some);
            let has_vacuumed = steps[to as usize - 1..at as usize - 1].contains(&"VACUUM");
            let case = Case { states: &states, from, to, at, wanted, keep_new, has_vacuumed };
            case.check(totals).map_err(|e| {
                e.context(format!("{from} to {to} in {at}, new rows stay: {keep_new}, {some:?}: {steps:#?}"))
            })?;
        }
    }
    Ok(())
}

/// Statements that SQLite takes with foreign keys on, in transactions.
fn steps(random: &mut fastrand::Rng) -> Result<Vec<String>> {
    let db = Connection::open_in_memory()?;
    db.execute_batch(&format!("PRAGMA foreign_keys = ON; {SETUP}"))?;
    let mut steps = vec![SETUP.to_owned()];
    for _ in 0..9 {
        if random.u8(..12) == 0 {
            db.execute_batch("VACUUM")?;
            steps.push("VACUUM".to_owned());
            continue;
        }
        let mut step = String::from("BEGIN;");
        for _ in 0..random.usize(5..25) {
            let statement = statement(random);
            if db.execute_batch(&format!("SAVEPOINT one; {statement} RELEASE one")).is_ok() {
                step += &statement;
            } else {
                db.execute_batch("ROLLBACK TO one; RELEASE one")?;
            }
        }
        steps.push(format!("{step} COMMIT"));
    }
    Ok(steps)
}

fn statement(random: &mut fastrand::Rng) -> String {
    let (k, other) = (random.char('a'..='f'), random.char('a'..='f'));
    let (n, m) = (random.u8(..8), random.u8(..8));
    let null = if random.bool() { "NULL".to_owned() } else { m.to_string() };
    match random.u8(..44) {
        0..3 => format!("INSERT OR IGNORE INTO a VALUES('{k}', {n}, {m});"),
        3 => format!("INSERT OR REPLACE INTO a VALUES('{k}', {n}, {m});"),
        4 => format!("UPDATE OR IGNORE a SET x = {n} WHERE k >= '{k}';"),
        5 => format!("UPDATE OR IGNORE a SET y = {n} WHERE k = '{k}';"),
        6 => format!("UPDATE OR IGNORE a SET k = '{other}' WHERE k = '{k}';"),
        7 => format!("DELETE FROM a WHERE k >= '{k}' AND k NOT IN (SELECT a FROM b WHERE a NOT NULL);"),
        8 => "DELETE FROM a WHERE rowid = (SELECT max(rowid) FROM a);".to_owned(),
        // All rows anew, in another order.
        9 => format!(
            "PRAGMA defer_foreign_keys = ON; CREATE TEMP TABLE held AS SELECT * FROM a; DELETE FROM a;
             INSERT INTO a SELECT * FROM held ORDER BY (unicode(k) * {n}) % 7, k; DROP TABLE held;"
        ),
        10 => "DELETE FROM a;".to_owned(),
        11..14 => format!("INSERT OR IGNORE INTO b VALUES({n}, '{k}', {m});"),
        14 => format!("UPDATE b SET n = {m} WHERE id >= {n};"),
        15 => format!("UPDATE b SET a = '{k}' WHERE id = {n};"),
        16 => format!("DELETE FROM b WHERE id >= {n};"),
        17 => format!("INSERT OR IGNORE INTO w VALUES('{k}', {n}, {m});"),
        18 => format!("UPDATE OR REPLACE w SET j = {m} WHERE k = '{k}';"),
        19 => format!("UPDATE w SET v = {m} WHERE k >= '{k}';"),
        20 => format!("DELETE FROM w WHERE k = '{k}';"),
        21..23 => format!("INSERT OR REPLACE INTO e VALUES({n}, {null}, '{k}');"),
        23 => format!("UPDATE e SET v = '{k}' WHERE p = {n};"),
        24 => format!("DELETE FROM e WHERE p >= {n};"),
        25 => format!("INSERT INTO l VALUES('{k}', {m});"),
        26 => format!("INSERT INTO l VALUES('{k}', NULL), ('{other}', (SELECT max(id) FROM b));"),
        27 => format!("DELETE FROM l; INSERT INTO l VALUES('{k}', NULL); DELETE FROM b WHERE id >= {n};"),
        28 => format!("UPDATE l SET msg = '{k}' WHERE msg = '{other}';"),
        29 => "DELETE FROM l;".to_owned(),
        30 => format!("DELETE FROM l WHERE msg = '{k}';"),
        31 => "DELETE FROM l WHERE rowid = (SELECT max(rowid) FROM l);".to_owned(),
        32..36 => format!("INSERT OR IGNORE INTO a VALUES('{k}', {m}, {n});"),
        36..39 => format!("INSERT OR IGNORE INTO b VALUES({n}, '{k}', {m});"),
        39..41 => format!("INSERT OR IGNORE INTO w VALUES('{k}', {n}, {m});"),
        41 => format!("INSERT OR IGNORE INTO e VALUES({n}, {m}, '{k}');"),
        _ => format!("INSERT INTO l VALUES('{k}', {n}), ('{k}', {m});"),
    }
}

/// The changes from one state to another, taken back in a third.
struct Case<'a> {
    states: &'a States,
    from: u64,
    to: u64,
    at: u64,
    wanted: Selection,
    keep_new: bool,
    /// Between the second state and the third.
    has_vacuumed: bool,
}

impl Case<'_> {
    fn check(&self, totals: &mut Totals) -> Result<()> {
        totals.undos += 1;
        let state = |n: u64| read(&self.states.state(n));
        let (a, b, c) = (state(self.from)?, state(self.to)?, state(self.at)?);
        let path = self.states.state(self.at);
        let undo = Undo::of(self.states.comparison(self.from, self.to), &self.wanted)?;
        let options = Options { write: true, keep_new: self.keep_new };
        let done = undo.apply(&RowEditor::open(&path)?, options).map_err(|e| e.to_string());
        let r = read(&path)?;
        let db = Connection::open(&path)?;
        let dangling: i64 =
            db.query_row("SELECT count(*) FROM pragma_foreign_key_check", (), |row| row.get(0))?;
        ensure!(dangling == 0, "{dangling} rows refer to nothing: {done:?}");
        let done = match done {
            Err(e) if e.contains("would refer to rows that are not there") => {
                totals.refused += 1;
                Done::default()
            }
            done => done.map_err(anyhow::Error::msg)?,
        };
        let is_refused = done.tables.is_empty() && done.conflicts.is_empty();
        totals.conflicts += done.conflict_count;
        totals.taken_back += done.tables.values().map(|counts| counts.changed()).sum::<u64>();
        for (table, _) in TABLES {
            let told: BTreeSet<Row> = done
                .conflicts
                .iter()
                .filter(|conflict| conflict.table == table)
                .map(|conflict| conflict.key.iter().map(|(_, value)| literal(value)).collect())
                .collect();
            let all = [&a, &b, &c, &r].map(|state| &state[table]);
            let is_wanted = self.wanted.has_table(table) && !is_refused;
            self.check_keyed(all.map(|rows| &rows.keyed), &told, is_wanted)
                .and_then(|()| self.check_others(all.map(|rows| &rows.others), told.len() as i64, is_wanted))
                .map_err(|e| e.context(format!("{table}: {done:?}")))?;
        }
        Ok(())
    }

    fn check_keyed(
        &self,
        [a, b, c, r]: [&BTreeMap<Row, Row>; 4],
        told: &BTreeSet<Row>,
        is_wanted: bool,
    ) -> Result<()> {
        let keys: BTreeSet<&Row> = [a, b, c, r].into_iter().flat_map(BTreeMap::keys).collect();
        for key in keys {
            let [a, b, c, r] = [a, b, c, r].map(|rows| rows.get(key));
            let rows = || format!("{key:?}: {a:?}, {b:?}, {c:?}, {r:?}");
            let is_written = is_wanted && a != b && !(self.keep_new && a.is_none());
            if !is_written || told.contains(key) {
                ensure!(r == c, "left alone, and changed: {}", rows());
                continue;
            }
            match (a, b) {
                (Some(a), Some(b)) => {
                    let changed: Vec<usize> = (0..a.len()).filter(|nth| a[*nth] != b[*nth]).collect();
                    let (Some(c), Some(r)) = (c, r) else { anyhow::bail!("not told: {}", rows()) };
                    let stood = changed.iter().all(|nth| c[*nth] == b[*nth]) || r == c;
                    let is_back = (0..a.len())
                        .all(|nth| r[nth] == if changed.contains(&nth) { &a[nth] } else { &c[nth] }[..]);
                    ensure!(stood && is_back, "updated: {}", rows());
                }
                (Some(_), None) => ensure!(r == a && (c.is_none() || c == a), "deleted: {}", rows()),
                _ => ensure!(r.is_none() && (c.is_none() || c == b), "inserted: {}", rows()),
            }
        }
        Ok(())
    }

    fn check_others(&self, [a, b, c, r]: [&BTreeMap<Row, i64>; 4], told: i64, is_wanted: bool) -> Result<()> {
        let rows: BTreeSet<&Row> = [a, b, c, r].into_iter().flat_map(BTreeMap::keys).collect();
        let (mut missing, mut which) = (0, vec![]);
        for row in rows {
            let [a, b, c, r] = [a, b, c, r].map(|rows| rows.get(row).copied().unwrap_or(0));
            let counts = || format!("{row:?}: {a}, {b}, {c}, {r}");
            let most_removed = if self.keep_new || !is_wanted { 0 } else { (b - a).max(0) };
            let most_added = if is_wanted { (a - b).max(0) } else { 0 };
            ensure!(c - r <= most_removed, "lost: {}", counts());
            ensure!(r - c <= most_added, "too many: {}", counts());
            // Those that came since may be the ones that are gone.
            let lacks = (most_added - (r - c).max(0)).min(a - r).max(0);
            // One with the very same values may have the rowid of the one that is gone now, and counts as that.
            let has_its_rowid = self.has_vacuumed && c > 0;
            if lacks > 0 && !has_its_rowid {
                which.push(counts());
                missing += lacks;
            }
        }
        ensure!(missing <= told, "{missing} are not there, and {told} are told: {which:?}");
        Ok(())
    }
}
