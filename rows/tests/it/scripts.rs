//! Goal: scripts and undos of changes do what they say when the schema changed too. Method: a log of a database's pages after
//! each of its commits; scripts are run by SQLite on the one state, and the rows are those of the other.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use litekeep_replicate::restore::Goal;
use litekeep_rows::statements::{Ended, Script, literal};
use litekeep_rows::undo::{Done, Options, Undo};
use litekeep_rows::{Catalog, Change, Comparison, Error, Pair, Reader, SchemaChange, Selection, Value};
use litekeep_sql::RowEditor;
use litekeep_testkit::campaign;
use litekeep_testkit::churn::{self, Contents};
use rusqlite::Connection;

use crate::follow::{Story, txid};

/// Prints a script.
#[derive(Default)]
struct Printer {
    forth: bool,
    is_whole: bool,
    states: Option<(Catalog, Catalog)>,
    script: Script,
    lines: Vec<String>,
}

impl Reader for Printer {
    fn states(&mut self, before: &Catalog, after: &Catalog) {
        self.states = Some((before.clone(), after.clone()));
    }

    fn schema(&mut self, changes: &[SchemaChange]) -> Result<(), Error> {
        let (before, after) = self.states.as_ref().unwrap();
        (self.script, self.lines) = Script::begin(changes, (before, after), self.forth, self.is_whole)?;
        Ok(())
    }

    fn table(&mut self, pair: Pair<'_>, from: &[Option<usize>]) -> Result<(), Error> {
        self.lines.extend(self.script.table(pair, from)?);
        Ok(())
    }

    fn change(&mut self, pair: Pair<'_>, change: &Change<'_>) -> Result<(), Error> {
        self.script.add(pair, change)
    }
}

/// States of a database, the first of which is number 1.
pub(crate) struct States(Story);

impl States {
    pub(crate) fn new(statements: &[&str]) -> States {
        let statements: Vec<String> = statements.iter().map(|sql| (*sql).to_owned()).collect();
        let story = runtime().block_on(Story::new(&statements));
        (0..statements.len()).for_each(|nth| story.put_one(nth as u64 + 2));
        States(story)
    }

    pub(crate) fn comparison(&self, from: u64, to: u64) -> Comparison {
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
    pub(crate) fn state(&self, n: u64) -> PathBuf {
        let path = self.0.dir.path().join(format!("state-{n}.db"));
        std::fs::write(&path, &self.0.images[n as usize - 1]).unwrap();
        path
    }

    /// Both scripts are complete and lead from the one state to the other.
    pub(crate) fn go_forth_and_back(&self, from: u64, to: u64) {
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

    /// The same by SQLite's shell, as a person runs them.
    fn go_forth_and_back_in_the_shell(&self, from: u64, to: u64) {
        for (forth, begin, end) in [(true, from, to), (false, to, from)] {
            let (script, missing) = self.script((from, to), forth, &Selection::default());
            assert_eq!(missing, Vec::<String>::new(), "{script}");
            let path = self.state(begin);
            let mut shell = Command::new("sqlite3");
            let mut shell = shell.arg("-bail").arg(&path).stdin(Stdio::piped()).spawn().unwrap();
            let mut input = shell.stdin.take().unwrap();
            write!(input, "PRAGMA foreign_keys=OFF;\nBEGIN;\n{script}\nCOMMIT;\n").unwrap();
            drop(input);
            assert!(shell.wait().unwrap().success(), "{script}");
            let found = comparable(&Connection::open(&path).unwrap());
            let wanted = comparable(&Connection::open(self.state(end)).unwrap());
            assert_eq!(found.1, wanted.1, "{from} to {to}, {forth}\n{script}");
            assert!(found.0.tables == wanted.0.tables, "{from} to {to}, {forth}\n{script}");
        }
    }

    /// Takes changes back in a copy of the last state.
    pub(crate) fn undo(&self, (from, to): (u64, u64), wanted: &Selection, keep_new: bool) -> (Done, PathBuf) {
        let path = self.state(self.0.images.len() as u64);
        (self.undo_in(&path, (from, to), wanted, keep_new), path)
    }

    pub(crate) fn undo_in(
        &self,
        path: &Path,
        (from, to): (u64, u64),
        wanted: &Selection,
        keep_new: bool,
    ) -> Done {
        let undo = Undo::of(self.comparison(from, to), wanted).unwrap();
        undo.apply(&RowEditor::open(path).unwrap(), Options { write: true, keep_new }).unwrap()
    }
}

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap())
}

pub(crate) fn tables(names: &[&str]) -> Selection {
    Selection { tables: names.iter().map(|name| (*name).to_owned()).collect(), ..Selection::default() }
}

/// All rows but those of SQLite's own tables, and the counters of AUTOINCREMENT and the statements of what else there is.
fn comparable(db: &Connection) -> (Contents, Vec<(String, i64)>) {
    let mut contents = Contents::read(db).unwrap();
    let has_counters = contents.tables.contains_key("sqlite_sequence");
    contents.tables.retain(|name, _| !name.starts_with("sqlite_"));
    let ask = |sql: &str| -> Vec<(String, i64)> {
        let mut ask = db.prepare(sql).unwrap();
        ask.query_map((), |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    };
    let mut names = ask("SELECT coalesce(sql, name), 0 FROM sqlite_schema WHERE type <> 'table' ORDER BY 1");
    names.extend(if has_counters {
        ask("SELECT name, seq FROM sqlite_sequence ORDER BY name")
    } else {
        Default::default()
    });
    (contents, names)
}

pub(crate) fn count(path: &Path, from: &str) -> i64 {
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
        "INSERT INTO log VALUES('x'), ('y')",
        "UPDATE customers SET name = 'wrong' WHERE id = 1; DELETE FROM orders WHERE id = 2; DELETE FROM log WHERE what = 'y';
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
    assert_eq!(found.map(|from| count(&path, from)), [1, 1, 2, 0]);
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

#[test]
fn unique_values_that_move_from_row_to_row_do_not_meet_on_the_way() {
    let states = States::new(&[
        "CREATE TABLE users(id INTEGER PRIMARY KEY, name); CREATE UNIQUE INDEX u ON users(name);
         CREATE TABLE list(id INTEGER PRIMARY KEY, list, place); CREATE UNIQUE INDEX places ON list(list, place);
         CREATE TABLE some(id INTEGER PRIMARY KEY, a, is_live); CREATE UNIQUE INDEX live ON some(a) WHERE is_live;
         CREATE TABLE named(id INTEGER PRIMARY KEY, name); CREATE UNIQUE INDEX lower_name ON named(lower(name));
         CREATE TABLE computed(id INTEGER PRIMARY KEY, a, b AS (a + 1) UNIQUE);
         INSERT INTO users VALUES(1, 'a'), (2, 'b'), (3, 'c'); INSERT INTO list VALUES(1, 1, 1), (2, 1, 2), (3, 1, 3);
         INSERT INTO some VALUES(1, 'a', 1), (2, 'a', 0); INSERT INTO named VALUES(1, 'A'), (2, 'B');
         INSERT INTO computed(id, a) VALUES(1, 1), (2, 2), (3, 3)",
        "UPDATE users SET name = 'z' WHERE id = 1; UPDATE users SET name = 'a' WHERE id = 2;
         UPDATE list SET place = place + 10; UPDATE list SET place = place - 9;
         UPDATE some SET is_live = 1 - is_live WHERE id = 1; UPDATE some SET is_live = 1 WHERE id = 2;
         UPDATE named SET name = 'x' WHERE id = 1; UPDATE named SET name = 'a' WHERE id = 2;
         UPDATE computed SET a = a + 10; UPDATE computed SET a = 14 - a",
        // Under other names, and with an index that comes and one that goes.
        "ALTER TABLE users RENAME TO people; ALTER TABLE people RENAME COLUMN name TO title;
         UPDATE people SET title = 'y' WHERE id = 3; UPDATE people SET title = 'c' WHERE id = 1;
         DROP INDEX places; CREATE UNIQUE INDEX places ON list(place); UPDATE list SET place = place + 10;
         UPDATE list SET place = place - 9",
    ]);
    for (from, to) in [(2, 3), (3, 4), (2, 4)] {
        states.go_forth_and_back(from, to);
    }
}

const STOCK: &str = "CREATE TABLE stock(id INTEGER PRIMARY KEY, n); INSERT INTO stock VALUES(1, 100);
    CREATE TABLE orders(id INTEGER PRIMARY KEY, n); CREATE TABLE log(what);
    CREATE TRIGGER sold AFTER INSERT ON Orders BEGIN UPDATE stock SET n = n - new.n; INSERT INTO log(rowid, what) VALUES(new.id, 'sold'); END;
    CREATE TRIGGER back AFTER DELETE ON orders BEGIN UPDATE stock SET n = n + old.n; DELETE FROM log WHERE rowid = old.id; END;
    CREATE VIEW all_orders AS SELECT * FROM orders;
    CREATE TRIGGER through INSTEAD OF INSERT ON all_orders BEGIN INSERT INTO orders VALUES(new.id, new.n); END;
    CREATE TABLE docs(body); CREATE VIRTUAL TABLE found USING fts5(body, content='docs');
    CREATE TRIGGER docs_new AFTER INSERT ON docs BEGIN INSERT INTO found(rowid, body) VALUES(new.rowid, new.body); END";

#[test]
fn triggers_neither_run_in_a_script_nor_are_they_lost() {
    let states = States::new(&[
        STOCK,
        "INSERT INTO orders VALUES(1, 5); INSERT INTO docs VALUES('a fox')",
        "INSERT INTO all_orders VALUES(2, 7); DELETE FROM orders WHERE id = 1; DROP TRIGGER sold;
         CREATE TRIGGER sold AFTER INSERT ON orders BEGIN UPDATE stock SET n = n - 2 * new.n; END",
        "ALTER TABLE orders RENAME TO sales; INSERT INTO sales VALUES(3, 1)",
        "DROP VIEW all_orders; CREATE VIEW all_orders AS SELECT id, n FROM sales;
         CREATE TRIGGER through INSTEAD OF INSERT ON all_orders BEGIN INSERT INTO orders VALUES(new.id, new.n); END",
    ]);
    for (from, to) in [(2, 3), (3, 4), (2, 4), (4, 5), (2, 5), (5, 6), (2, 6)] {
        states.go_forth_and_back(from, to);
    }
    // What only a trigger keeps is right without it, too.
    let (script, missing) = states.script((2, 3), true, &tables(&["docs"]));
    assert!(missing.is_empty() && script.contains("VALUES('rebuild');"), "{script}");
    let db = Connection::open(states.state(2)).unwrap();
    db.execute_batch(&script).unwrap();
    let found = |word: &str| -> i64 {
        db.query_row("SELECT count(*) FROM found WHERE found MATCH ?1", [word], |row| row.get(0)).unwrap()
    };
    assert_eq!(found("fox"), 1);
    db.execute_batch("INSERT INTO docs VALUES('a dog')").unwrap();
    assert_eq!(found("dog"), 1, "the trigger is there again");
    assert!(!states.script((2, 3), true, &Selection::default()).0.contains("rebuild"));
}

/// ALTER TABLE refuses to rename anything while a view is of a table that is not there.
#[test]
fn a_view_of_a_table_that_is_gone_stops_no_script() {
    let states = States::new(&[
        "CREATE TABLE a(x); CREATE TABLE b(x); CREATE VIEW of_b AS SELECT * FROM b; INSERT INTO a VALUES(1);
         CREATE TRIGGER to_b AFTER INSERT ON a WHEN new.x > 9 BEGIN INSERT INTO b VALUES(1); END",
        "DROP TABLE b",
        "PRAGMA legacy_alter_table = ON; ALTER TABLE a RENAME TO c; PRAGMA legacy_alter_table = OFF; UPDATE c SET x = 2",
    ]);
    states.go_forth_and_back(3, 4);
}

#[test]
fn a_row_that_nothing_tells_from_others_is_left_out() {
    let states = States::new(&[
        "CREATE TABLE ra(rowid, oid, _rowid_); INSERT INTO ra VALUES(2, 'first', 0), (1, 'second', 0)",
        "DELETE FROM ra WHERE oid = 'first'; INSERT INTO ra VALUES(7, 'third', 0)",
        "INSERT INTO ra VALUES(8, 'fourth', 0)",
    ]);
    let (script, missing) = states.script((2, 3), true, &Selection::default());
    assert_eq!(missing, ["1 row of \"ra\" is left out: nothing tells it from others"]);
    assert!(!script.contains("DELETE") && script.contains("-- 1 row of \"ra\" is left out"), "{script}");
    let (script, missing) = states.script((3, 4), true, &Selection::default());
    assert!(missing.is_empty() && script.contains("VALUES(8, 'fourth', 0)"), "{script}");
}

/// Rows in random order under unique indexes of every kind, with triggers, while these come and go.
#[test]
fn scripts_lead_from_any_state_to_any_other() {
    const SETUP: &str = "CREATE TABLE u(id INTEGER PRIMARY KEY, a, b, c TEXT COLLATE NOCASE, v AS (a % 100));
        CREATE TABLE w(k TEXT, a, b UNIQUE, PRIMARY KEY(k)) WITHOUT ROWID; CREATE TABLE p(k PRIMARY KEY, a, b);
        CREATE TABLE seen(what, id)";
    const MORE: &[&str] = &[
        "CREATE UNIQUE INDEX IF NOT EXISTS i1 ON u(a)",
        "CREATE UNIQUE INDEX IF NOT EXISTS i2 ON u(b, c DESC)",
        "CREATE UNIQUE INDEX IF NOT EXISTS i3 ON u(a) WHERE b > 3",
        "CREATE UNIQUE INDEX IF NOT EXISTS i4 ON u(a + b)",
        "CREATE UNIQUE INDEX IF NOT EXISTS i5 ON u(v)",
        "CREATE UNIQUE INDEX IF NOT EXISTS i6 ON p(a, b)",
        "CREATE UNIQUE INDEX IF NOT EXISTS i7 ON w(a)",
        "CREATE TRIGGER IF NOT EXISTS t1 AFTER UPDATE ON u BEGIN INSERT INTO seen VALUES('u', old.id); UPDATE p SET b = b + 1 WHERE k = old.id; END",
        "CREATE TRIGGER IF NOT EXISTS t2 BEFORE DELETE ON u BEGIN INSERT INTO seen VALUES('d', old.id); END",
        "CREATE TRIGGER IF NOT EXISTS t3 AFTER INSERT ON w BEGIN DELETE FROM seen WHERE id = 3; END",
        "CREATE VIEW IF NOT EXISTS v1 AS SELECT * FROM u",
        "DROP TRIGGER IF EXISTS t1",
        "DROP INDEX IF EXISTS i1",
        "DROP INDEX IF EXISTS i4",
        "ALTER TABLE seen RENAME TO heard",
        "ALTER TABLE heard RENAME TO seen",
        "ALTER TABLE p RENAME COLUMN b TO bb",
        "ALTER TABLE p RENAME COLUMN bb TO b",
    ];
    campaign::rounds("scripts", 1, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        // Statements that SQLite refuses there are left out.
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(&format!("CREATE TABLE t(id INTEGER PRIMARY KEY, x); {SETUP}")).unwrap();
        let mut steps = vec![SETUP.to_owned()];
        for nth in 0..8 {
            let mut step = format!("BEGIN; UPDATE t SET x = {nth} WHERE id = 1;");
            for _ in 0..random.usize(10..30) {
                let (key, other) = (random.u8(..12), random.u8(..12));
                let (a, b) = (random.u8(..12), random.u8(..12));
                let statement = match random.u8(..14) {
                    0..4 => format!("INSERT OR IGNORE INTO u VALUES({key}, {a}, {b}, 'c{a}');"),
                    4 => format!("UPDATE OR IGNORE u SET a = {a} WHERE id = {key};"),
                    5 => format!("UPDATE OR IGNORE u SET a = -1 - a, b = {b} WHERE id IN ({key}, {other});"),
                    6 => format!("UPDATE OR REPLACE u SET a = a + 1, c = 'C' || b WHERE id >= {key};"),
                    7 => format!("DELETE FROM u WHERE id = {key}; DELETE FROM p WHERE k = {other};"),
                    8 => format!("INSERT OR REPLACE INTO w VALUES('{key}', {a}, {b});"),
                    9 => format!("UPDATE OR IGNORE w SET a = {a}, k = '{other}' WHERE k = '{key}';"),
                    10 => format!("UPDATE OR REPLACE w SET b = {b} WHERE k = '{key}';"),
                    11 => format!("INSERT OR IGNORE INTO p VALUES({key}, {a}, {b});"),
                    12 => format!("UPDATE OR REPLACE p SET k = {other}, a = {a} WHERE k = {key};"),
                    _ => format!("{};", random.choice(MORE).unwrap()),
                };
                if db.execute_batch(&format!("SAVEPOINT one; {statement} RELEASE one")).is_ok() {
                    step += &statement;
                } else {
                    db.execute_batch("ROLLBACK TO one; RELEASE one").unwrap();
                }
            }
            steps.push(format!("{step} COMMIT"));
        }
        let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
        let states = States::new(&steps);
        let last = states.0.images.len() as u64;
        for _ in 0..5 {
            let from = random.u64(2..last);
            states.go_forth_and_back(from, random.u64(from + 1..=last));
        }
        Ok(())
    });
}

/// What is left as it is counts, in a dry run too.
#[test]
fn an_undo_says_that_virtual_tables_stay() {
    let states = States::new(&[
        "CREATE VIRTUAL TABLE bare USING fts5(body, content=''); INSERT INTO bare(rowid, body) VALUES(1, 'fox');
         CREATE VIRTUAL TABLE geo USING rtree(id, a, b); INSERT INTO geo VALUES(1, 0, 1)",
        "INSERT INTO bare(rowid, body) VALUES(2, 'dog')",
        "INSERT INTO geo VALUES(2, 0, 1)",
    ]);
    for write in [false, true] {
        for ((from, to), note) in [
            ((2, 3), "the full-text index `bare` is left as it is, since it has no content"),
            ((3, 4), "the virtual table `geo` is left as it is"),
        ] {
            let undo = Undo::of(states.comparison(from, to), &Selection::default()).unwrap();
            let editor = RowEditor::open(&states.state(4)).unwrap();
            let done = undo.apply(&editor, Options { write, keep_new: false }).unwrap();
            assert_eq!((done.stay, &done.notes[..]), (1, &[note.to_owned()][..]), "{write}");
        }
    }
}

/// Why rows were left alone.
pub(crate) fn reasons(done: &Done) -> Vec<String> {
    done.conflicts.iter().map(|conflict| format!("{}: {}", conflict.table, conflict.reason)).collect()
}

#[test]
fn an_undo_joins_no_rows_to_a_stranger() {
    let states = States::new(&[
        "CREATE TABLE p(id INTEGER PRIMARY KEY, name); CREATE TABLE c(id INTEGER PRIMARY KEY, p REFERENCES p, what);
         CREATE TABLE g(id INTEGER PRIMARY KEY, c REFERENCES c(id));
         INSERT INTO p VALUES(1, 'alice'), (2, 'bob'), (3, 'eve'); INSERT INTO c VALUES(1, 1, 'order'), (2, 2, 'order'), (3, 1, 'moves');
         INSERT INTO g VALUES(1, 1), (2, 2)",
        "DELETE FROM g; DELETE FROM c WHERE id < 3; UPDATE c SET p = 3; DELETE FROM p WHERE id < 3",
        "INSERT INTO p VALUES(1, 'mallory')",
    ]);
    let (done, path) = states.undo((2, 3), &Selection::default(), false);
    assert_eq!(done.conflict_count, 4, "{done:?}");
    let found = ["p", "c WHERE p = 1", "c", "g WHERE c = 2", "g", "p WHERE name = 'mallory'"];
    assert_eq!(found.map(|from| count(&path, from)), [3, 0, 2, 1, 1, 1]);
}

#[test]
fn an_undo_gives_rows_without_a_key_another_rowid() {
    let states = States::new(&[
        "CREATE TABLE log(what); INSERT INTO log VALUES('a'), ('b'), ('c')",
        "DELETE FROM log",
        "INSERT INTO log VALUES('new'), ('newer')",
    ]);
    let (done, path) = states.undo((2, 3), &Selection::default(), false);
    assert_eq!((done.conflict_count, done.tables["log"].inserted), (0, 3), "{done:?}");
    assert_eq!(["log", "log WHERE what IN ('a', 'b', 'c')"].map(|from| count(&path, from)), [5, 3]);
    // Once only.
    let again = states.undo_in(&path, (2, 3), &Selection::default(), false);
    assert!(again.is_nothing() && again.conflict_count == 2, "{again:?}");
    assert_eq!(reasons(&again)[0], "log: another row has its rowid now, and one like it is there");
}

#[test]
fn an_undo_goes_around_what_sqlite_cannot_check_or_write() {
    let states = States::new(&[
        "PRAGMA foreign_keys = OFF; CREATE TABLE s(id INTEGER PRIMARY KEY, v); CREATE TABLE mis(o REFERENCES s(v)); INSERT INTO mis VALUES('a');
         INSERT INTO s VALUES(1, 'a'), (2, 'a'); CREATE TABLE own(id INTEGER PRIMARY KEY, k)",
        "UPDATE s SET v = 'b' WHERE id = 1; INSERT INTO own VALUES(1, 'k')",
    ]);
    let (done, path) = states.undo((2, 3), &tables(&["s"]), false);
    assert_eq!((done.conflict_count, count(&path, "s WHERE v = 'a'")), (0, 2), "{done:?}");
    let path = states.state(3);
    let db = Connection::open(&path).unwrap();
    db.create_collation("mine", |a, b| a.cmp(b)).unwrap();
    db.execute_batch("CREATE INDEX i ON own(k COLLATE mine)").unwrap();
    drop(db);
    let done = states.undo_in(&path, (2, 3), &Selection::default(), false);
    assert_eq!((done.tables["s"].updated, done.conflict_count), (1, 1), "{done:?}");
    let reason = &reasons(&done)[0];
    assert!(reason.contains("no such collation sequence: mine; `litekeep diff --undo-sql`"), "{reason}");
}

#[test]
fn an_undo_names_what_a_table_is_called_now() {
    let states = States::new(&[
        "CREATE TABLE a(id INTEGER PRIMARY KEY, x); INSERT INTO a VALUES(1, 1)",
        "UPDATE a SET x = 2",
        "ALTER TABLE a RENAME COLUMN x TO y",
        "ALTER TABLE a RENAME TO b",
    ]);
    let undo = |path: &Path| reasons(&states.undo_in(path, (2, 3), &Selection::default(), false));
    assert_eq!(
        undo(&states.state(4)),
        ["a: the table has no column `x` any more; its columns are `id`, `y` (1 row)"]
    );
    assert_eq!(
        undo(&states.state(5)),
        ["a: the table is not there any more; what is called `b` now has its place (1 row)"]
    );
}

/// Each was one more step of an expression, of which SQLite takes a thousand.
#[test]
fn text_of_many_nuls_can_be_written() {
    let app = Connection::open_in_memory().unwrap();
    for nuls in [1, 99, 100, 5_000] {
        let text = "a\0'é".repeat(nuls);
        let sql = format!(
            "SELECT CAST({0} AS BLOB), typeof({0})",
            literal(&Value::Text(text.clone().into_bytes()))
        );
        let read = app.query_row(&sql, [], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, String>(1)?)));
        assert_eq!(read.unwrap(), (text.into_bytes(), "text".to_owned()));
    }
}

/// Lines that end as on the web, numbers that older versions of SQLite read otherwise, and comments and names with line breaks.
#[test]
fn scripts_run_in_the_shell() {
    let states = States::new(&[
        "CREATE TABLE texts(k TEXT PRIMARY KEY, a); CREATE TABLE numbers(r REAL PRIMARY KEY, a);
         CREATE TABLE \"two\nlines\"(a, b); INSERT INTO \"two\nlines\" VALUES(1, 2), (3, 4);
         CREATE TABLE small(a); CREATE TABLE v(a, rowid AS (a * 2) VIRTUAL); INSERT INTO v VALUES(1), (2), (4)",
        "INSERT INTO texts VALUES('k' || char(13) || char(10), 'l1' || char(13, 10) || 'l2' || char(13)), ('n', char(0, 13, 10) || 'é');
         INSERT INTO texts SELECT 'many', replace(hex(zeroblob(300)), '00', 'x' || char(13, 10, 0));
         INSERT INTO numbers VALUES(0.511066794939322, 1), (0.1, 2), (-1e-300, 3), (1.7976931348623157e308, 4);
         ALTER TABLE \"two\nlines\" RENAME COLUMN b TO c; DELETE FROM \"two\nlines\" WHERE a = 1;
         CREATE VIEW seen AS SELECT a FROM small -- ends in a comment\n;
         CREATE INDEX part ON small(a) WHERE a > 1 -- as this\n;
         ALTER TABLE small RENAME TO other; ALTER TABLE other RENAME TO SMALL; INSERT INTO small VALUES(7);
         UPDATE v SET a = 10 WHERE a = 2",
        "UPDATE texts SET a = 'x' || char(13, 10), k = k || char(13, 10); UPDATE numbers SET a = a + 1, r = r * 1.1 WHERE r < 1",
    ]);
    for (from, to) in [(2, 3), (3, 4), (2, 4)] {
        states.go_forth_and_back_in_the_shell(from, to);
    }
}

/// Reals at random, of as many digits as people write and as computers do.
#[test]
fn the_shell_reads_every_real_as_it_is() {
    let mut random = fastrand::Rng::with_seed(3);
    let mut reals = vec![];
    for nth in 0..40_000 {
        let digits = 10_f64.powi(nth % 17);
        reals.push((random.f64() * 180.0 * digits).round() / digits);
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, script) = (folder.path().join("reals.db"), folder.path().join("script.sql"));
    let values: Vec<_> =
        reals.iter().map(|f| format!("INSERT INTO t VALUES({});", literal(&Value::Real(*f)))).collect();
    std::fs::write(&script, format!("CREATE TABLE t(a REAL); BEGIN;\n{}\nCOMMIT;", values.join("\n")))
        .unwrap();
    let read = format!(".read {}", script.display());
    assert!(Command::new("sqlite3").arg("-bail").arg(&path).arg(read).status().unwrap().success());
    let db = Connection::open(&path).unwrap();
    let mut select = db.prepare("SELECT a FROM t ORDER BY rowid").unwrap();
    let found: Vec<f64> = select.query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(found, reals);
}

/// Rows of its own tables would be others than those that it looks for.
#[test]
fn a_virtual_table_that_was_made_anew_is_left_as_it_is() {
    let states = States::new(&[
        "CREATE VIRTUAL TABLE found USING fts5(body); INSERT INTO found VALUES('a running fox')",
        "DROP TABLE found; CREATE VIRTUAL TABLE found USING fts5(body, tokenize = 'porter'); INSERT INTO found VALUES('a running dog')",
    ]);
    for (begin, forth, word) in [(2, true, "fox"), (3, false, "dog")] {
        let (script, missing) = states.script((2, 3), forth, &Selection::default());
        assert!(missing[0].contains("`found` was made anew"), "{missing:?}");
        let db = Connection::open(states.state(begin)).unwrap();
        db.execute_batch(&script).unwrap();
        db.execute_batch("INSERT INTO found(found) VALUES('integrity-check')").unwrap();
        let found: String =
            db.query_row("SELECT body FROM found WHERE found MATCH ?1", [word], |row| row.get(0)).unwrap();
        assert_eq!(found, format!("a running {word}"));
    }
}
