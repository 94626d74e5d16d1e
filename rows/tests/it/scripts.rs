//! Goal: scripts and undos of changes do what they say when the schema changed too. Method: a log of a database's pages after
//! each of its commits; scripts are run by SQLite on the one state, and the rows are those of the other.

use std::path::{Path, PathBuf};

use litekeep_replicate::restore::Goal;
use litekeep_rows::statements::{Ended, Script};
use litekeep_rows::undo::{Done, Options, Undo};
use litekeep_rows::{Change, Comparison, Error, Pair, Reader, SchemaChange, Selection};
use litekeep_sql::RowEditor;
use litekeep_testkit::churn::{self, Contents};
use rusqlite::Connection;

use crate::follow::{Story, txid};

/// Prints a script.
#[derive(Default)]
struct Printer {
    forth: bool,
    is_whole: bool,
    script: Script,
    lines: Vec<String>,
}

impl Reader for Printer {
    fn schema(&mut self, changes: &[SchemaChange]) -> Result<(), Error> {
        (self.script, self.lines) = Script::begin(changes, self.forth, self.is_whole)?;
        Ok(())
    }

    fn table(&mut self, pair: Pair<'_>, from: &[Option<usize>]) -> Result<(), Error> {
        self.lines.extend(self.script.table(pair, from));
        Ok(())
    }

    fn change(&mut self, pair: Pair<'_>, change: &Change<'_>) -> Result<(), Error> {
        self.script.add(pair, change)
    }
}

/// States of a database, the first of which is number 1.
struct States(Story);

impl States {
    fn new(statements: &[&str]) -> States {
        let statements: Vec<String> = statements.iter().map(|sql| (*sql).to_owned()).collect();
        let story = runtime().block_on(Story::new(&statements));
        (0..statements.len()).for_each(|nth| story.put_one(nth as u64 + 2));
        States(story)
    }

    fn comparison(&self, from: u64, to: u64) -> Comparison {
        let (from, to) = (Goal::Txid(txid(from)), Goal::Txid(txid(to)));
        runtime().block_on(Comparison::open(&self.0.store, from, to)).unwrap()
    }

    /// The statements, and what they do not do.
    fn script(&self, (from, to): (u64, u64), forth: bool, wanted: &Selection) -> (String, Vec<String>) {
        let is_whole = wanted.condition.is_none();
        let mut printer = Printer { forth, is_whole, ..Printer::default() };
        self.comparison(from, to).run(wanted, &mut printer).unwrap();
        let Ended { statements, missing } = printer.script.end();
        printer.lines.extend(statements);
        (printer.lines.join("\n"), missing)
    }

    /// A copy of a state.
    fn state(&self, n: u64) -> PathBuf {
        let path = self.0.dir.path().join(format!("state-{n}.db"));
        std::fs::write(&path, &self.0.images[n as usize - 1]).unwrap();
        path
    }

    /// Both scripts are complete and lead from the one state to the other.
    fn go_forth_and_back(&self, from: u64, to: u64) {
        for (forth, begin, end) in [(true, from, to), (false, to, from)] {
            let (script, missing) = self.script((from, to), forth, &Selection::default());
            assert_eq!(missing, Vec::<String>::new(), "{script}");
            let (path, expected) = (self.state(begin), self.0.dir.path().join("expected.db"));
            std::fs::write(&expected, &self.0.images[end as usize - 1]).unwrap();
            let db = Connection::open(&path).unwrap();
            db.execute_batch(&format!("PRAGMA foreign_keys=OFF; BEGIN; {script}\nCOMMIT"))
                .unwrap_or_else(|e| panic!("{from} to {to}, {forth}: {e}\n{script}"));
            let [found, wanted] = [&db, &Connection::open(&expected).unwrap()].map(comparable);
            assert_eq!(found.1, wanted.1, "{from} to {to}, {forth}\n{script}");
            let differ = |(name, rows): &(&String, &churn::Rows)| wanted.0.tables.get(*name) != Some(*rows);
            let different: Vec<_> = found.0.tables.iter().filter(differ).map(|(name, _)| name).collect();
            assert!(
                different.is_empty() && found.0.tables.len() == wanted.0.tables.len(),
                "{from} to {to}, {forth}: {different:?}\n{script}"
            );
        }
    }

    /// Takes changes back in a copy of the last state.
    fn undo(&self, (from, to): (u64, u64), wanted: &Selection, keep_new: bool) -> (Done, PathBuf) {
        let path = self.state(self.0.images.len() as u64);
        (self.undo_in(&path, (from, to), wanted, keep_new), path)
    }

    fn undo_in(&self, path: &Path, (from, to): (u64, u64), wanted: &Selection, keep_new: bool) -> Done {
        let undo = Undo::of(self.comparison(from, to), wanted).unwrap();
        undo.apply(&RowEditor::open(path).unwrap(), Options { write: true, keep_new }).unwrap()
    }
}

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap())
}

fn tables(names: &[&str]) -> Selection {
    Selection { tables: names.iter().map(|name| (*name).to_owned()).collect(), ..Selection::default() }
}

/// All rows but those of SQLite's own tables, and the counters of AUTOINCREMENT and what else there is, by name.
fn comparable(db: &Connection) -> (Contents, Vec<(String, i64)>) {
    let mut contents = Contents::read(db).unwrap();
    let has_counters = contents.tables.contains_key("sqlite_sequence");
    contents.tables.retain(|name, _| !name.starts_with("sqlite_"));
    let ask = |sql: &str| -> Vec<(String, i64)> {
        let mut ask = db.prepare(sql).unwrap();
        ask.query_map((), |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    };
    let mut names = ask("SELECT type || ' ' || name, 0 FROM sqlite_schema WHERE type <> 'table' ORDER BY 1");
    names.extend(if has_counters {
        ask("SELECT name, seq FROM sqlite_sequence ORDER BY name")
    } else {
        Default::default()
    });
    (contents, names)
}

fn count(path: &Path, from: &str) -> i64 {
    let db = Connection::open(path).unwrap();
    db.query_row(&format!("SELECT count(*) FROM {from}"), (), |row| row.get(0)).unwrap()
}

const SHOP: &str = "CREATE TABLE customers(id INTEGER PRIMARY KEY, name TEXT UNIQUE, balance REAL DEFAULT 0);
    CREATE TABLE orders(id INTEGER PRIMARY KEY, customer REFERENCES customers ON DELETE CASCADE, what);
    CREATE INDEX by_customer ON orders(customer); CREATE TABLE log(what);
    CREATE TRIGGER gone AFTER DELETE ON customers BEGIN INSERT INTO log VALUES(old.name); END;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<50)
      INSERT INTO customers SELECT i, 'name '||i, i*1.5 FROM n;
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200)
      INSERT INTO orders SELECT i, i%50+1, 'what '||i FROM n";

#[test]
fn a_renamed_table_keeps_its_rows_in_scripts() {
    let states = States::new(&[
        SHOP,
        "ALTER TABLE customers RENAME TO clients; UPDATE clients SET balance = -1 WHERE id = 3;
         DELETE FROM clients WHERE id = 4; INSERT INTO clients VALUES(900, 'new', 1);
         CREATE VIRTUAL TABLE words USING fts5(body); INSERT INTO words VALUES('one'), ('two')",
        "ALTER TABLE words RENAME TO terms; INSERT INTO terms VALUES('three'); ALTER TABLE clients RENAME COLUMN name TO title;
         ALTER TABLE clients RENAME TO people; UPDATE people SET title = 'changed' WHERE id = 5; DELETE FROM people WHERE id = 6",
    ]);
    for (from, to) in [(2, 3), (3, 4), (2, 4)] {
        states.go_forth_and_back(from, to);
    }
    for (table, forth) in [("customers", true), ("customers", false), ("clients", true), ("clients", false)] {
        let (script, missing) = states.script((2, 3), forth, &tables(&[table]));
        assert!(script.contains(" RENAME TO ") && script.contains("\"balance\"="), "{table}: {script}");
        assert!(!script.contains("DROP TABLE") && !script.contains("CREATE TABLE"), "{table}: {script}");
        assert!(missing.is_empty(), "{missing:?}");
    }
}

#[test]
fn scripts_alter_tables_and_run() {
    let states = States::new(&[
        SHOP,
        "CREATE TABLE numbered(id INTEGER PRIMARY KEY AUTOINCREMENT, a); INSERT INTO numbered(a) VALUES(1), (2);
         CREATE TABLE gone(id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO gone VALUES(40)",
        "ALTER TABLE customers ADD COLUMN note TEXT DEFAULT 'none, yet'; UPDATE customers SET note = 'x' WHERE id = 3;
         ALTER TABLE orders RENAME COLUMN what TO contents; DELETE FROM orders WHERE id = 5; UPDATE orders SET contents = 1 WHERE id = 6;
         INSERT INTO numbered(a) VALUES(3); DELETE FROM numbered WHERE id = 3; DROP TABLE gone; ANALYZE;
         CREATE VIRTUAL TABLE pages USING fts5(body); INSERT INTO pages VALUES('a fox');
         CREATE VIEW seen AS SELECT 1; CREATE TRIGGER instead INSTEAD OF INSERT ON seen BEGIN SELECT 1; END;
         DROP TRIGGER gone; DROP INDEX by_customer; CREATE INDEX by_contents ON orders(contents)",
        "ALTER TABLE customers DROP COLUMN note; CREATE TABLE made(id INTEGER PRIMARY KEY); INSERT INTO made VALUES(1), (2)",
    ]);
    for (from, to) in [(2, 3), (3, 4), (2, 4)] {
        states.go_forth_and_back(from, to);
    }
    let (script, missing) = states.script((4, 5), true, &Selection::default());
    assert!(script.contains("DROP COLUMN \"note\";") && missing.is_empty(), "{script}");
    // What was in the column is nowhere but in the backup.
    let (script, missing) = states.script((4, 5), false, &Selection::default());
    assert!(script.contains("ADD COLUMN note TEXT DEFAULT 'none, yet';"), "{script}");
    assert!(missing[0].contains("the column `note` of `customers`"), "{missing:?}");
    // With a condition some rows go, and never the table.
    let some = Selection { condition: Some("id = 1".to_owned()), ..tables(&["made"]) };
    let (script, missing) = states.script((4, 5), false, &some);
    assert!(
        !script.contains("DROP TABLE") && script.contains("DELETE FROM \"made\" WHERE \"id\"=1;"),
        "{script}"
    );
    assert!(missing[0].contains("`made` is not dropped"), "{missing:?}");
    assert!(states.script((4, 5), false, &tables(&["made"])).0.contains("DROP TABLE"));
}

/// What only later versions of SQLite can alter is told and left as it is; rows are changed beside it, and taken back as far as
/// the constraints that are there now allow.
#[test]
fn constraints_that_came_and_went_are_told_and_stay() {
    let states = States::new(&[
        SHOP,
        "CREATE TABLE noted(id INTEGER PRIMARY KEY, note CONSTRAINT noted_note NOT NULL); INSERT INTO noted VALUES(1, 'a'), (2, 'b');
         UPDATE orders SET what = NULL WHERE id < 3",
        "ALTER TABLE noted DROP CONSTRAINT noted_note; UPDATE noted SET note = NULL WHERE id = 2",
        "UPDATE orders SET what = 'given' WHERE what IS NULL OR id = 9; ALTER TABLE orders ALTER COLUMN what SET NOT NULL;
         ALTER TABLE orders ADD CONSTRAINT numbered CHECK (id > 0)",
    ]);
    for (from, to, table, row) in [(3, 4, "noted", "\"note\"=NULL"), (4, 5, "orders", "\"what\"='given'")] {
        let (script, missing) = states.script((from, to), true, &Selection::default());
        assert!(
            missing.len() == 1
                && missing[0].starts_with(&format!("the table `{table}` was altered otherwise")),
            "{missing:?}"
        );
        assert!(script.contains(row), "{script}");
    }
    let (done, path) = states.undo((3, 5), &Selection::default(), false);
    assert_eq!((done.conflict_count, done.stay), (2, 2), "{done:?}");
    assert!(done.conflicts.iter().all(|conflict| conflict.table == "orders"), "{:?}", done.conflicts);
    assert!(
        done.conflicts[0].reason.contains("NOT NULL constraint failed: orders.what"),
        "{:?}",
        done.conflicts
    );
    let found = ["noted WHERE note = 'b'", "orders WHERE what = 'given'", "orders WHERE what = 'what 9'"];
    assert_eq!(found.map(|from| count(&path, from)), [1, 2, 1]);
}

/// An application that does not check foreign keys: rows that refer to nothing are in nobody's way, and those that would come to do
/// so are refused, whether single rows tell it or all of them are looked at.
#[test]
fn an_undo_makes_no_row_refer_to_nothing() {
    let states = States::new(&[
        SHOP,
        "PRAGMA foreign_keys = OFF; UPDATE orders SET customer = 999 WHERE id IN (30, 31)",
        "UPDATE orders SET what = 'changed' WHERE id IN (30, 40)",
        "UPDATE orders SET customer = 998 WHERE id = 30",
        "UPDATE orders SET customer = 1 WHERE id = 31",
        "INSERT INTO customers VALUES(900, 'new', 0); INSERT INTO orders VALUES(9000, 7, 'x')",
        "UPDATE orders SET customer = 900 WHERE id = 9000",
        "DELETE FROM orders WHERE customer = 2",
        "DELETE FROM customers WHERE id = 7; DELETE FROM orders WHERE customer = 7",
        "DELETE FROM customers WHERE id IN (3, 4); UPDATE customers SET id = 4000 WHERE id = 8",
    ]);
    let undo = |from: u64| {
        let undo = Undo::of(states.comparison(from, from + 1), &Selection::default()).unwrap();
        let editor = RowEditor::open(&states.state(states.0.images.len() as u64)).unwrap();
        undo.apply(&editor, Options { write: true, keep_new: false })
    };
    for (from, rows) in [(3, 2), (4, 1), (8, 4), (9, 6), (10, 6)] {
        let done = undo(from).unwrap_or_else(|e| panic!("{from}: {e}"));
        let changed: u64 = done.tables.values().map(|counts| counts.changed()).sum();
        assert_eq!((changed, done.conflict_count), (rows, 0), "{from}: {done:?}");
    }
    for (from, row) in [(5, "row 31 of `orders`"), (6, "row 9000 of `orders`")] {
        let error = undo(from).unwrap_err().to_string();
        let told = "1 rows would refer to rows that are not there (";
        assert!(error.contains(&format!("{told}{row} refers to `customers`)")), "{from}: {error}");
    }
}

/// What was deleted is inserted first and looked at when that is forbidden.
#[test]
fn a_deleted_row_comes_back_only_where_nothing_stands() {
    let states = States::new(&[
        SHOP,
        "CREATE TABLE codes(code TEXT, n, PRIMARY KEY(code, n)); INSERT INTO codes VALUES('a', NULL), ('b', 1)",
        "DELETE FROM customers WHERE id BETWEEN 5 AND 8; DELETE FROM codes",
        "INSERT INTO customers VALUES(5, 'another', 1), (6, 'name 6', 9.0), (900, 'name 7', 0); INSERT INTO codes VALUES('a', NULL)",
    ]);
    let (done, path) = states.undo((3, 4), &tables(&["customers", "codes"]), false);
    for table in ["customers", "codes"] {
        let counts = done.tables[table];
        assert_eq!((counts.inserted, counts.unchanged), (1, 1), "{table}: {done:?}");
    }
    let reasons: Vec<&str> = done.conflicts.iter().map(|conflict| conflict.reason.as_str()).collect();
    assert_eq!(reasons, ["another row has its key now", "UNIQUE constraint failed: customers.name"]);
    let found =
        ["customers WHERE id IN (5, 6, 8, 900)", "customers WHERE name = 'another'", "customers", "codes"];
    assert_eq!(found.map(|from| count(&path, from)), [4, 1, 50, 2]);
}

#[test]
fn an_undo_leaves_what_was_renamed_where_it_is() {
    let states = States::new(&[
        SHOP,
        "INSERT INTO log VALUES('x')",
        "UPDATE customers SET name = 'wrong' WHERE id = 1; DELETE FROM orders WHERE id = 2; DELETE FROM log;
         ALTER TABLE log RENAME TO journal; ALTER TABLE customers RENAME COLUMN name TO title;
         ALTER TABLE orders RENAME COLUMN id TO number",
    ]);
    let (done, path) = states.undo((3, 4), &Selection::default(), false);
    for note in [
        "`log` was renamed to `journal`, and stays so",
        "the column `name` of `customers` was renamed to `title`, and stays so",
    ] {
        assert!(done.notes.iter().any(|n| n == note), "{note}: {:?}", done.notes);
    }
    assert_eq!((done.conflict_count, done.stay), (0, 3), "{done:?}");
    let found = [
        "customers WHERE title = 'name 1'",
        "orders WHERE number = 2",
        "journal",
        "sqlite_schema WHERE name = 'log'",
    ];
    assert_eq!(found.map(|from| count(&path, from)), [1, 1, 1, 0]);
}

#[test]
fn an_undo_names_what_stays_and_brings_back_what_it_can() {
    let states = States::new(&[
        SHOP,
        "CREATE VIEW poor AS SELECT * FROM customers; CREATE TABLE wide(a, b); INSERT INTO wide VALUES(1, 2);
         CREATE VIRTUAL TABLE docs USING fts5(body); INSERT INTO docs VALUES('a fox'), ('a dog');
         CREATE TABLE docs_meta(id INTEGER PRIMARY KEY, a); INSERT INTO docs_meta VALUES(1, 'kept');
         CREATE VIRTUAL TABLE boxes USING rtree(id, a, b); INSERT INTO boxes VALUES(1, 0, 1)",
        "DROP VIEW poor; DROP TRIGGER gone; DROP INDEX by_customer",
        "ALTER TABLE wide DROP COLUMN b",
        "DROP TABLE docs; DROP TABLE docs_meta; DROP TABLE boxes",
    ]);
    let (done, path) = states.undo((3, 4), &Selection::default(), false);
    assert_eq!((done.brought_back, done.stay), (3, 0), "{done:?}");
    assert_eq!(count(&path, "sqlite_schema WHERE name IN ('poor', 'gone', 'by_customer')"), 3);
    assert!(states.undo_in(&path, (3, 4), &Selection::default(), false).is_nothing());

    for keep_new in [false, true] {
        let (done, _) = states.undo((4, 5), &tables(&["wide"]), keep_new);
        let lost = "the column `b` of `wide` was dropped, and stays so; `litekeep restore";
        assert!(done.stay == 1 && done.notes[0].starts_with(lost), "{done:?}");
    }

    let (done, path) = states.undo((5, 6), &Selection::default(), false);
    assert_eq!((done.brought_back, done.stay), (2, 1), "{done:?}");
    assert!(
        done.notes.iter().any(|note| note.starts_with("the virtual table `boxes` was dropped")),
        "{done:?}"
    );
    assert_eq!(["docs_meta", "docs WHERE docs MATCH 'fox'"].map(|from| count(&path, from)), [1, 1]);
    let check = "INSERT INTO docs(docs) VALUES('integrity-check')";
    Connection::open(&path).unwrap().execute_batch(check).unwrap();
    // An ordinary table whose name is like those of the index, and never one of the index's own alone.
    let (done, path) = states.undo((5, 6), &tables(&["docs_meta"]), true);
    assert_eq!((done.brought_back, count(&path, "docs_meta")), (1, 1), "{done:?}");
    let (done, path) = states.undo((5, 6), &tables(&["docs_content"]), true);
    assert_eq!((done.brought_back, count(&path, "docs WHERE docs MATCH 'dog'")), (1, 1), "{done:?}");
}
