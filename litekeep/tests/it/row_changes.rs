//! Goal: `diff`, `undo`, `restore --table` and `changes` say and do what happened to rows. Method: the real binary on real
//! databases and backups, with SQL scripts run back by SQLite itself, and a bank that must balance while changes are taken
//! back under it.

use std::path::Path;
use std::time::Duration;

use litekeep_replicate::restore::Goal;
use litekeep_rows::{Change, Comparison, Error, Pair, Reader, SchemaChange, Selection};
use litekeep_store::{S3, Secret, Target};
use litekeep_testkit::Process;
use litekeep_testkit::bank::{self, Bank, Options};
use litekeep_testkit::churn::{self, Churn, Contents};
use litekeep_testkit::process::eventually;
use litekeep_testkit::s3_server::{ACCESS_KEY, BUCKET, SECRET_KEY};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::scene::{Backup, LONG, Scene, Store};
use crate::{Place, shapes};

mod history;
mod schema;

/// A database with two tables and one transaction of the log for each statement.
fn shop(place: &Place, statements: &[&str]) -> Connection {
    let db = Connection::open(place.path("app.db")).unwrap();
    db.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA foreign_keys=ON;
         CREATE TABLE customers(id INTEGER PRIMARY KEY, name TEXT UNIQUE, balance REAL DEFAULT 0);
         CREATE TABLE orders(id INTEGER PRIMARY KEY, customer REFERENCES customers ON DELETE CASCADE, what);
         CREATE INDEX by_customer ON orders(customer);
         CREATE TABLE log(what);
         CREATE TRIGGER gone AFTER DELETE ON customers BEGIN INSERT INTO log VALUES(old.name); END;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200)
           INSERT INTO customers SELECT i, 'name '||i, i*1.5 FROM n;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<1000)
           INSERT INTO orders SELECT i, i%200+1, randomblob(40) FROM n",
    )
    .unwrap();
    replicate(place);
    for statement in statements {
        db.execute_batch(statement).unwrap();
        replicate(place);
    }
    db
}

fn replicate(place: &Place) {
    place.run(&["replicate", "-once", "app.db", "./app.db-backup"]).succeeded();
}

/// The transactions of the log, in order.
fn txids(place: &Place) -> Vec<String> {
    let history = place.run(&["history", "app.db", "--json"]).succeeded().json();
    let files = history["backups"][0]["files"].as_array().unwrap().clone();
    let mut txids: Vec<_> = files.iter().map(|file| file["max_txid"].as_str().unwrap().to_owned()).collect();
    txids.dedup();
    txids
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_diff_names_each_row_that_differs() {
    let place = Place::new();
    shop(
        &place,
        &[
            "UPDATE customers SET balance = 99 WHERE id = 7",
            "DELETE FROM customers WHERE id = 8",
            "INSERT INTO customers VALUES(1000, 'new', 9e999); ALTER TABLE orders ADD COLUMN note DEFAULT 'none'",
        ],
    );
    let txids = txids(&place);
    let n = txids.len();
    let diff = |from: &str, to: &str, more: &[&str]| {
        let arguments = [&["diff", "app.db", "--from", from, "--to", to][..], more].concat();
        place.run(&arguments).succeeded().stdout
    };
    let (first, last) = (&txids[n - 4], &txids[n - 1]);
    let updated = lines(&diff(first, &txids[n - 3], &["--json"]));
    assert_eq!(
        updated[0],
        json!({"table": "customers", "op": "update", "key": {"id": 7},
            "old": {"id": 7, "name": "name 7", "balance": 10.5}, "new": {"id": 7, "name": "name 7", "balance": 99.0}})
    );
    shapes::matches("diff-end", &updated[1]);

    let text = diff(&txids[n - 3], &txids[n - 2], &[]);
    assert!(text.contains("\ncustomers\n  - id=8  name='name 8'  balance=12.0\n"), "{text}");
    assert!(text.contains("3 tables changed: 1 inserted, 0 updated, 6 deleted"), "{text}");
    let text = diff(&txids[n - 2], last, &[]);
    assert!(text.contains("  + id=1000  name='new'  balance=9e999"), "{text}");
    assert!(text.contains("~ table orders") && !text.contains("\norders\n"), "{text}");

    let all = lines(&diff(first, last, &["--json"]));
    shapes::matches("diff-schema", &all[0]);
    let of = |op: &str| all.iter().filter(|line| line["op"] == op).count();
    assert_eq!((of("insert"), of("update"), of("delete")), (2, 1, 6));
    let some = lines(&diff(first, last, &["--json", "--table", "orders", "--where", "id > 500"]));
    assert_eq!(some.iter().filter(|line| line["op"] == "delete").count(), 2, "{some:?}");
}

/// SQLite runs the scripts, and the databases are the same.
#[test]
fn the_statements_of_a_diff_do_it_again_and_take_it_back() {
    let place = Place::new();
    shop(
        &place,
        &[
            "UPDATE customers SET balance = balance + 1, name = name || '''s' WHERE id % 7 = 0;
             DELETE FROM orders WHERE id % 3 = 0; INSERT INTO orders(customer, what) VALUES(1, 'text' || char(0) || 'more');
             CREATE TABLE notes(t TEXT PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO notes VALUES('a', NULL), ('b', 2.0);
             CREATE TABLE plain(a); INSERT INTO plain VALUES(1), (2); DELETE FROM log; DROP TABLE log",
        ],
    );
    let txids = txids(&place);
    let (from, to) = (txids[txids.len() - 2].as_str(), txids[txids.len() - 1].as_str());
    goes_forth_and_back(&place, from, to, "a shop");
}

/// Random rows of every kind of table.
#[test]
fn the_statements_of_random_changes_do_them_again_and_take_them_back() {
    for seed in 1..=3 {
        let place = Place::new();
        let mut churn = Churn::create(place.path("app.db"), seed).unwrap();
        replicate(&place);
        for _ in 0..3 {
            (0..8).for_each(|_| churn.row_transaction().unwrap());
            replicate(&place);
        }
        let txids = txids(&place);
        for (from, to) in [(0, 1), (txids.len() - 2, txids.len() - 1), (0, txids.len() - 1)] {
            goes_forth_and_back(&place, &txids[from], &txids[to], &format!("seed {seed}, {from}-{to}"));
        }
    }
}

fn goes_forth_and_back(place: &Place, from: &str, to: &str, what: &str) {
    let restored = |txid: &str| {
        let path = place.path(&format!("restored-{txid}.db"));
        place.run(&["restore", "app.db", "--force", "-txid", txid, "-o", path.to_str().unwrap()]).succeeded();
        path
    };
    for (goal, other, flag) in [(from, to, "--sql"), (to, from, "--undo-sql")] {
        let (path, expected) = (restored(goal), restored(other));
        let script = place.run(&["diff", "app.db", "--from", from, "--to", to, flag]).succeeded().stdout;
        let db = Connection::open(&path).unwrap();
        churn::register(&db).unwrap();
        // What triggers did is in the script.
        db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
        db.pragma_update(None, "foreign_keys", false).unwrap();
        db.execute_batch(&script).unwrap_or_else(|e| panic!("{what} {flag}: {e}"));
        let other = Connection::open(&expected).unwrap();
        churn::register(&other).unwrap();
        let [(found, counters), (wanted, expected)] = [&db, &other].map(comparable);
        assert_eq!(counters, expected, "{what} {flag}");
        let names = found.tables.keys().eq(wanted.tables.keys());
        let differ = |(name, rows): &(&String, &churn::Rows)| wanted.tables.get(*name) != Some(*rows);
        let different: Vec<_> = found.tables.iter().filter(differ).map(|(name, _)| name).collect();
        assert!(names && different.is_empty(), "{what} {flag}: {different:?}\n{script}");
    }
}

/// All rows but those of SQLite's own tables, and the counters of AUTOINCREMENT by the names of their tables.
fn comparable(db: &Connection) -> (Contents, Vec<(String, i64)>) {
    let mut contents = Contents::read(db).unwrap();
    let has_counters = contents.tables.contains_key("sqlite_sequence");
    contents.tables.retain(|name, _| !name.starts_with("sqlite_"));
    let ask = "SELECT name, seq FROM sqlite_sequence ORDER BY name";
    let counters = has_counters.then(|| {
        let mut ask = db.prepare(ask).unwrap();
        ask.query_map((), |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    });
    (contents, counters.unwrap_or_default())
}

#[test]
fn a_wrong_deletion_is_taken_back_and_what_came_since_stays() {
    let place = Place::new();
    let db = shop(&place, &["DELETE FROM customers; UPDATE log SET what = 'x'"]);
    let txids = txids(&place);
    db.execute_batch(
        "INSERT INTO customers VALUES(5, 'another', 1), (5000, 'later', 2); INSERT INTO log VALUES('later')",
    )
    .unwrap();
    replicate(&place);
    let wrong = txids.last().unwrap();

    let shown = place.run(&["undo", "app.db", "--txid", wrong, "--dry-run", "--json"]);
    assert_eq!(shown.code, 1, "{}", shown.stderr);
    assert_eq!(shown.json()["applied"], false);
    let count = |table: &str| -> i64 {
        db.query_row(&format!("SELECT count(*) FROM {table}"), (), |row| row.get(0)).unwrap()
    };
    assert_eq!(count("orders"), 0);
    let refused = place.run(&["undo", "app.db", "--txid", wrong]);
    assert_eq!((refused.code, count("orders")), (2, 0));
    assert!(refused.stderr.contains("add --yes"), "{}", refused.stderr);

    let done = place.run(&["undo", "app.db", "--txid", wrong, "--yes", "--json"]);
    assert_eq!(done.code, 1, "customer 5 is another one now: {}", done.stderr);
    let done = done.json();
    assert_eq!(done["conflicts"][0]["key"]["id"], 5, "{done}");
    let orders = json!({"table": "orders", "inserted": 995, "updated": 0, "deleted": 0, "unchanged": 0});
    assert!(done["tables"].as_array().unwrap().contains(&orders), "{done}");
    // Nobody gets the orders of another customer.
    assert_eq!((count("customers"), count("orders"), count("log")), (201, 995, 1));
    let five: String = db.query_row("SELECT name FROM customers WHERE id=5", (), |row| row.get(0)).unwrap();
    assert_eq!(five, "another");
    db.execute_batch("PRAGMA integrity_check; PRAGMA foreign_key_check").unwrap();
}

#[test]
fn what_changed_since_is_left_alone_column_by_column() {
    let place = Place::new();
    let db = shop(&place, &["UPDATE customers SET balance = 0"]);
    let txids = txids(&place);
    db.execute_batch(
        "UPDATE customers SET balance = 50 WHERE id = 3; UPDATE customers SET name = 'renamed' WHERE id = 4;
         DELETE FROM customers WHERE id = 6",
    )
    .unwrap();
    let done = place.run(&["undo", "app.db", "--txid", txids.last().unwrap(), "--yes"]);
    assert_eq!(done.code, 1, "{}", done.stderr);
    let balance = |id: i64| -> (String, f64) {
        let ask = "SELECT name, balance FROM customers WHERE id=?1";
        db.query_row(ask, [id], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    };
    assert_eq!(balance(3), ("name 3".into(), 50.0));
    assert_eq!(balance(4), ("renamed".into(), 6.0));
    assert_eq!(balance(5), ("name 5".into(), 7.5));
    for line in
        ["2 rows left alone", "customers id=3: it was changed since", "customers id=6: it was deleted since"]
    {
        assert!(done.stdout.contains(line), "{line}: {}", done.stdout);
    }
    assert!(done.stdout.contains("customers: 198 were given their old values"), "{}", done.stdout);
}

#[test]
fn rows_that_exchanged_unique_values_go_back() {
    let place = Place::new();
    let db = shop(
        &place,
        &[
            "UPDATE customers SET name = 'x' WHERE id=1; UPDATE customers SET name = 'name 1' WHERE id=2; UPDATE customers SET name = 'name 2' WHERE id=1",
        ],
    );
    let wrong = txids(&place).pop().unwrap();
    let done = place.run(&["undo", "app.db", "--txid", &wrong, "--yes", "--json"]);
    assert_eq!(done.succeeded().json()["conflict_count"], 0);
    let name = |id: i64| -> String {
        db.query_row("SELECT name FROM customers WHERE id=?1", [id], |row| row.get(0)).unwrap()
    };
    assert_eq!([name(1), name(2)], ["name 1", "name 2"]);
}

/// Its rows are told as deleted and as inserted, and stand there all the same.
#[test]
fn a_table_that_was_made_anew_is_left_alone() {
    let place = Place::new();
    let db = shop(
        &place,
        &["PRAGMA foreign_keys=OFF; BEGIN;
           CREATE TABLE other(id INTEGER PRIMARY KEY, extra, name TEXT UNIQUE, balance REAL DEFAULT 0);
           INSERT INTO other SELECT id, NULL, name, balance FROM customers;
           DROP TABLE customers; ALTER TABLE other RENAME TO customers; UPDATE orders SET what = 1; COMMIT;
           PRAGMA foreign_keys=ON"],
    );
    let wrong = txids(&place).pop().unwrap();
    let done = place.run(&["undo", "app.db", "--txid", &wrong, "--yes"]);
    assert_eq!(done.code, 1, "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("the table was made anew"), "{}", done.stdout);
    let count: i64 = db.query_row("SELECT count(*) FROM customers", (), |row| row.get(0)).unwrap();
    let back: i64 =
        db.query_row("SELECT count(*) FROM orders WHERE typeof(what)='blob'", (), |row| row.get(0)).unwrap();
    assert_eq!((count, back), (200, 1000));
}

#[test]
fn a_key_that_went_from_row_to_row_goes_back() {
    let place = Place::new();
    let db = shop(
        &place,
        &[
            "CREATE TABLE codes(code TEXT PRIMARY KEY, v); INSERT INTO codes VALUES('b', 1), ('a', 1)",
            "DELETE FROM codes WHERE code = 'b'; UPDATE codes SET code = 'b' WHERE code = 'a'",
        ],
    );
    let wrong = txids(&place).pop().unwrap();
    place.run(&["undo", "app.db", "--txid", &wrong, "--yes"]).succeeded();
    let codes: String =
        db.query_row("SELECT group_concat(code ORDER BY code) FROM codes", (), |row| row.get(0)).unwrap();
    assert_eq!(codes, "a,b");
}

#[test]
fn a_dropped_table_comes_back_with_all_that_belongs_to_it() {
    let place = Place::new();
    let db = shop(&place, &["PRAGMA foreign_keys=OFF; DROP TABLE customers; PRAGMA foreign_keys=ON"]);
    let wrong = txids(&place).pop().unwrap();
    let done = place.run(&["undo", "app.db", "--txid", &wrong, "--yes"]).succeeded();
    assert!(done.stdout.contains("the table `customers` comes back"), "{}", done.stdout);
    let triggers: i64 = db
        .query_row(
            "SELECT count(*) FROM sqlite_schema WHERE tbl_name='customers' AND type='trigger'",
            (),
            |row| row.get(0),
        )
        .unwrap();
    let rows: i64 = db.query_row("SELECT count(*) FROM customers", (), |row| row.get(0)).unwrap();
    assert_eq!((triggers, rows), (1, 200));
}

/// Rows that the later changes refer to.
#[test]
fn nothing_is_changed_when_rows_would_dangle() {
    let place = Place::new();
    let db = shop(&place, &["INSERT INTO customers VALUES(900, 'new', 0)"]);
    let wrong = txids(&place).pop().unwrap();
    db.execute_batch("INSERT INTO orders VALUES(9000, 900, 'x')").unwrap();
    let refused = place.run(&["undo", "app.db", "--txid", &wrong, "--yes"]);
    refused.failed_with(&["row 9000 of `orders` refers to `customers`", "nothing was changed"]);
    let is_there: bool =
        db.query_row("SELECT EXISTS(SELECT 1 FROM customers WHERE id=900)", (), |row| row.get(0)).unwrap();
    assert!(is_there);
}

#[test]
fn a_full_text_index_finds_what_came_back() {
    let place = Place::new();
    let db = shop(
        &place,
        &[
            "CREATE VIRTUAL TABLE pages USING fts5(body); INSERT INTO pages VALUES('the quick fox'), ('a lazy dog')",
            "DELETE FROM pages WHERE rowid = 1",
        ],
    );
    let wrong = txids(&place).pop().unwrap();
    db.execute_batch("INSERT INTO pages VALUES('a later cat')").unwrap();
    place.run(&["undo", "app.db", "--txid", &wrong, "--yes"]).succeeded();
    let found = |word: &str| -> i64 {
        db.query_row("SELECT count(*) FROM pages WHERE pages MATCH ?1", [word], |row| row.get(0)).unwrap()
    };
    assert_eq!(["fox", "dog", "cat"].map(found), [1, 1, 1]);
    db.execute_batch("INSERT INTO pages(pages) VALUES('integrity-check')").unwrap();
}

#[test]
fn rows_of_a_table_are_as_they_were() {
    let place = Place::new();
    let db = shop(
        &place,
        &[
            "UPDATE orders SET what = 'wrong'; DELETE FROM orders WHERE id < 10",
            "INSERT INTO orders VALUES(5000, 1, 'new'); UPDATE customers SET balance = 1",
        ],
    );
    let txids = txids(&place);
    let before = txids[txids.len() - 3].as_str();
    let arguments = ["restore", "app.db", "--table", "orders", "-txid", before, "--yes"];
    place.run(&[&arguments[..], &["--where", "id < 20"]].concat()).succeeded();
    let count = |sql: &str| -> i64 {
        db.query_row(&format!("SELECT count(*) FROM {sql}"), (), |row| row.get(0)).unwrap()
    };
    assert_eq!(count("orders WHERE what = 'wrong'"), 1000 - 19);
    place.run(&arguments).succeeded();
    assert_eq!(
        [count("orders WHERE what = 'wrong'"), count("orders"), count("customers WHERE balance = 1")],
        [0, 1001, 200]
    );
    place.run(&[&arguments[..], &["--exact"]].concat()).succeeded();
    assert_eq!(count("orders"), 1000);
}

#[test]
fn bad_input_is_told() {
    let place = Place::new();
    shop(&place, &["DELETE FROM log"]);
    let txid = txids(&place).pop().unwrap();
    let run = |arguments: &[&str], parts: &[&str]| {
        place.run(arguments).failed_with(parts);
    };
    run(&["diff", "app.db", "--from", "nonsense"], &["`nonsense`: ", "name a transaction by its 16 digits"]);
    run(&["diff", "app.db", "--from", &txid, "--to", "0000000000000001"], &["is before transaction"]);
    run(
        &["diff", "app.db", "--from", "0000000000000001", "--table", "order"],
        &["there is no table `order`", "the tables are `customers`, `orders`, `log`"],
    );
    run(
        &["diff", "app.db", "--from", "0000000000000001", "--table", "log", "--where", "absent = 1"],
        &["no such column: absent"],
    );
    run(&["undo", "app.db"], &["say what to take back", "--txid"]);
    run(&["undo", "nowhere.db", "--txid", &txid], &["nowhere.db"]);
    run(&["restore", "app.db", "--table", "log"], &["say as of when"]);
    run(&["changes", "app.db"], &["say from where on"]);
}

#[test]
fn shapes_are_as_documented() {
    let place = Place::new();
    let path = place.database("app.db", 10);
    replicate(&place);
    let db = Connection::open(&path).unwrap();
    db.execute_batch(
        "UPDATE t SET x = 'y' WHERE n = 7; DELETE FROM t WHERE n = 8; INSERT INTO t VALUES(70, 'z')",
    )
    .unwrap();
    replicate(&place);
    let txid = txids(&place).pop().unwrap();
    db.execute_batch("UPDATE t SET x = 'other' WHERE n = 7; ALTER TABLE t ADD COLUMN m").unwrap();
    replicate(&place);
    let before = txids(&place)[0].clone();
    let diff = place.run(&["diff", "app.db", "--from", &before, "--to", &txid, "--json"]).succeeded();
    let (end, rows) =
        lines(&diff.stdout).split_last().map(|(end, rows)| (end.clone(), rows.to_vec())).unwrap();
    assert_eq!(rows.len(), 3);
    rows.iter().for_each(|row| shapes::matches("diff-row", row));
    shapes::matches("diff-end", &end);
    let changes = lines(&place.run(&["changes", "app.db", "--from", &before]).succeeded().stdout);
    let (schema, rows): (Vec<_>, Vec<_>) =
        changes.into_iter().partition(|event| event.get("schema").is_some());
    schema.iter().for_each(|event| shapes::matches("changes-schema", event));
    assert_eq!((schema.len(), rows.len()), (1, 4));
    rows.iter().take(3).for_each(|event| shapes::matches("changes-row", event));
    let history = lines(&place.run(&["history", "app.db", "--rows", "--json"]).succeeded().stdout);
    // The first upload was found by comparing pages; the second one has two commits.
    assert_eq!(history.len(), 3);
    history.iter().for_each(|transaction| shapes::matches("history-rows", transaction));
    let life = ["history", "app.db", "--table", "t", "--key", "n=7", "--json"];
    let life = lines(&place.run(&life).succeeded().stdout);
    assert_eq!(life.iter().map(|event| &event["op"]).collect::<Vec<_>>(), ["update", "update"]);
    shapes::matches("history-row", &life[0]);
    let undo = place.run(&["undo", "app.db", "--txid", &txid, "--yes", "--json"]);
    assert_eq!(undo.code, 1, "{}", undo.stderr);
    shapes::matches("undo", &undo.json());
}

/// Commits that one upload has put together: each is told, compared, restored and taken back by itself, while litekeep runs
/// and, from the backup alone, afterwards.
#[test]
fn single_commits_of_one_upload_are_told_apart() {
    let scene = Scene::new(Store::Folder, "upload_interval = \"3s\"");
    let db = Connection::open(scene.db()).unwrap();
    db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE items(id INTEGER PRIMARY KEY, v)").unwrap();
    let litekeep = scene.replicate().unwrap();
    eventually("the first copy is confirmed", LONG, || Ok(scene.confirmed()?.is_some())).unwrap();
    let path = scene.place.path("changes.jsonl");
    let follow = scene.command(&["changes", "app.db", "--follow", "--table", "items"]);
    let follower = Process::start(follow, &path).unwrap();
    // The first one goes at once, the others wait for the interval.
    let mut n = 0;
    eventually("the follower is there", LONG, || {
        n += 1;
        db.execute("INSERT INTO items VALUES(?1, 'first')", [n])?;
        std::thread::sleep(Duration::from_millis(300));
        Ok(!lines_of(&path).is_empty())
    })
    .unwrap();
    for statement in [
        "INSERT INTO items VALUES(1001, 'a'), (1002, 'b'), (1003, 'c')",
        "UPDATE items SET v = 'changed' WHERE id = 1001",
        "DELETE FROM items WHERE id > 1000",
        "INSERT INTO items VALUES(2000, 'later')",
    ] {
        db.execute_batch(statement).unwrap();
    }
    let of = |id: u64, op: &str| lines_of(&path).into_iter().find(|e| e["key"]["id"] == id && e["op"] == op);
    eventually("the last one is told", LONG, || Ok(of(2000, "c").is_some())).unwrap();
    let position = |event: Option<Value>| event.unwrap()["source"]["position"].as_str().unwrap().to_owned();
    let [inserted, updated, deleted] = [of(1002, "c"), of(1001, "u"), of(1003, "d")].map(position);
    assert!(inserted < updated && updated < deleted, "{inserted} {updated} {deleted}");
    assert_eq!([&inserted, &updated].map(|p| p.len() > 16), [true; 2], "{inserted} {updated}");

    let values = |path: &Path| -> Vec<String> {
        let db = Connection::open(path).unwrap();
        let mut rows = db.prepare("SELECT v FROM items WHERE id > 1000 ORDER BY id").unwrap();
        rows.query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let prove = |target: &str| {
        let diff = ["diff", target, "--from", &inserted, "--to", &updated, "--json"];
        let rows = lines(&scene.litekeep(&diff).unwrap());
        assert_eq!((rows.len(), &rows[0]["op"]), (2, &json!("update")), "{rows:?}");
        for (position, expected) in [(&inserted, "a b c"), (&updated, "changed b c")] {
            let to = scene.place.path("single.db");
            let _ = std::fs::remove_file(&to);
            let to_text = to.to_str().unwrap();
            scene.litekeep(&["restore", target, "-o", to_text, "-txid", position]).unwrap();
            assert_eq!(values(&to).join(" "), expected, "{position}");
        }
        let history = scene.litekeep(&["history", target, "--rows", "--table", "items", "--json"]).unwrap();
        let told: Vec<_> = lines(&history).iter().map(|t| t["txid"].as_str().unwrap().to_owned()).collect();
        assert!([&inserted, &updated, &deleted].iter().all(|position| told.contains(position)), "{told:?}");
        let is_updated = |transaction: &Value| transaction["txid"] == updated.as_str();
        let seen = lines(&history).into_iter().find(is_updated).unwrap();
        assert_eq!(rows[1]["to"], json!({"txid": updated, "time": seen["time"]}), "{target}");
    };
    prove("app.db");
    follower.kill().unwrap();
    scene.stop(litekeep).unwrap();
    prove(&scene.url());
    // Whoever names the upload learns that it is several commits; whoever names one knows.
    let txid = &inserted[..16];
    for (position, is_told) in [(txid, true), (&deleted, false)] {
        let dry = scene.litekeep(&["undo", "app.db", "--txid", position, "--dry-run"]).unwrap();
        assert_eq!(dry.contains(&format!("{txid}.1 to {txid}.")), is_told, "{dry}");
    }
    scene.litekeep(&["undo", "app.db", "--txid", &deleted, "--yes"]).unwrap();
    assert_eq!(values(&scene.db()), ["changed", "b", "c", "later"]);
    // The last one of an upload, too, is by itself: without its number it would be all of them.
    let last = position(of(2000, "c"));
    assert_eq!(last[..17], inserted[..17], "{last}");
    scene.litekeep(&["undo", "app.db", "--txid", &last, "--yes"]).unwrap();
    assert_eq!(values(&scene.db()), ["changed", "b", "c"]);
    for (position, message) in [(format!("{txid}.99"), "there is no"), (format!("{txid}.x"), "invalid value")]
    {
        let refused = scene.place.run(&["undo", "app.db", "--txid", &position, "--dry-run"]);
        assert!(refused.code == 2 && refused.stderr.contains(message), "{}", refused.stderr);
    }
}

/// Rows of the bank's own ledger are deleted and taken back while it writes, and it must balance in the end.
#[test]
fn changes_are_taken_back_under_a_live_writer() {
    let scene = Scene::new(Store::Folder, "upload_interval = \"20ms\"");
    let litekeep = scene.replicate().unwrap();
    let mut bank = Bank::start(&Options { pause_us: 1_000, ..scene.bank() }).unwrap();
    bank.wait_for(200, LONG).unwrap();
    eventually("the first copy is confirmed", LONG, || Ok(scene.confirmed()?.is_some())).unwrap();
    let path = scene.place.path("changes.jsonl");
    // The bank has written these, and reads only its last one.
    let old = ["--table", "ledger", "--where", "op <= 100"];
    let follow = scene.command(&[&["changes", "app.db", "--follow"][..], &old].concat());
    let follower = Process::start(follow, &path).unwrap();
    let told = |op: &str| lines_of(&path).iter().filter(|event| event["op"] == op).count();
    let db = Connection::open(scene.db()).unwrap();
    db.busy_timeout(Duration::from_secs(30)).unwrap();
    eventually("the follower is there and the deletion is told", LONG, || {
        // What went before the follower had begun is not told: it goes once more.
        db.execute_batch(
            "CREATE TEMP TABLE IF NOT EXISTS kept AS SELECT * FROM ledger WHERE op <= 100;
             BEGIN IMMEDIATE; INSERT OR IGNORE INTO ledger SELECT * FROM kept; COMMIT",
        )?;
        std::thread::sleep(Duration::from_millis(500));
        db.execute("DELETE FROM ledger WHERE op <= 100", ())?;
        std::thread::sleep(Duration::from_secs(2));
        Ok(told("d") >= 100)
    })
    .unwrap();
    let deleted = lines_of(&path).into_iter().rev().find(|event| event["op"] == "d").unwrap();
    let txid = deleted["source"]["position"].as_str().unwrap().to_owned();
    let (before, acknowledged) = (told("c"), bank.acks().unwrap().highest());
    scene.litekeep(&[&["undo", "app.db", "--txid", &txid, "--yes"][..], &old].concat()).unwrap();
    eventually("what came back is told", LONG, || Ok(told("c") == before + 100)).unwrap();
    follower.kill().unwrap();
    bank.wait_for(acknowledged + 20, LONG).unwrap();
    let acknowledged = bank.stop().unwrap().highest();
    scene.stop(litekeep).unwrap();
    assert_eq!(bank::check(&scene.db()).unwrap().ops, acknowledged);
}

fn lines_of(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// On another machine, with nothing but the bucket.
#[test]
fn a_cold_diff_of_one_row_reads_a_hundredth_of_the_database_at_most() {
    let scene = Scene::new(Store::S3, "");
    let db = Connection::open(scene.db()).unwrap();
    db.execute_batch(
        "PRAGMA journal_mode=WAL; CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); CREATE TABLE other(x);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<100000)
           INSERT INTO t SELECT i, i, randomblob(1000) FROM n;
         INSERT INTO other VALUES(randomblob(1000000))",
    )
    .unwrap();
    scene.replicate_once().unwrap();
    let from = scene.last_txid().unwrap().parse().unwrap();
    db.execute("UPDATE t SET a = 0 WHERE id = 50000", ()).unwrap();
    scene.replicate_once().unwrap();
    let database_bytes = std::fs::metadata(scene.db()).unwrap().len();

    struct Count(u64);
    impl Reader for Count {
        fn schema(&mut self, changes: &[SchemaChange]) -> Result<(), Error> {
            assert!(changes.is_empty());
            Ok(())
        }
        fn change(&mut self, _: Pair<'_>, change: &Change<'_>) -> Result<(), Error> {
            assert!(matches!(change, Change::Updated(..)));
            self.0 += 1;
            Ok(())
        }
    }
    let Backup::S3 { server, .. } = &scene.backup else { panic!("it is on S3") };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    // As a program that has just begun.
    let cold = || {
        let bucket = S3 {
            bucket: BUCKET.into(),
            path: "app".into(),
            endpoint: Some(server.endpoint()),
            access_key_id: Some(ACCESS_KEY.into()),
            secret_access_key: Some(Secret::new(SECRET_KEY)),
            ..S3::default()
        };
        let store = litekeep_store::Store::open(&Target::S3(bucket)).unwrap();
        let opened = Comparison::open(&store, Goal::Txid(from), Goal::Latest);
        let comparison = runtime.block_on(opened).unwrap();
        let mut count = Count(0);
        comparison.run(&Selection::default(), &mut count).unwrap();
        assert_eq!(count.0, 1);
        let read = store.counters().read();
        (store, read)
    };
    let (store, read) = cold();
    assert!(read.bytes_in * 100 < database_bytes, "{} of {database_bytes} bytes: {read:?}", read.bytes_in);
    // Whoever has no checksums of pages reads all of a file first, and once.
    let snapshot = runtime.block_on(store.list()).unwrap().level(9)[0].clone();
    let records = runtime.block_on(store.list_records("checksums")).unwrap();
    let names: Vec<_> = records.into_iter().map(|record| record.name).collect();
    assert_eq!(names.len(), 1);
    runtime.block_on(store.delete_records(&names)).unwrap();
    let whole = cold().1.bytes_in;
    assert!(
        (snapshot.size..snapshot.size + database_bytes / 100).contains(&whole),
        "{whole} of {snapshot:?}"
    );
}

/// The log begins anew there.
#[test]
fn pages_that_got_another_size_are_told_with_what_to_type() {
    let place = Place::new();
    place.database("app.db", 3);
    let sql = |sql: &str| Connection::open(place.path("app.db")).unwrap().execute_batch(sql).unwrap();
    let replicate = || drop(place.run(&["replicate", "-once", "app.db", "app.db-backup"]).succeeded());
    replicate();
    sql("INSERT INTO t(n) VALUES(100)");
    replicate();
    let before = txids(&place).pop().unwrap();
    sql("PRAGMA journal_mode = DELETE; PRAGMA page_size = 8192; VACUUM; PRAGMA journal_mode = WAL");
    replicate();
    let since = txids(&place).pop().unwrap();
    sql("INSERT INTO t(n) VALUES(101)");
    replicate();
    let diff = place.run(&["diff", "app.db", "--from", &before]);
    diff.failed_with(&["4096 bytes until transaction", "8192 since", "`--to ", "`--from "]);
    let history = place.run(&["history", "app.db", "--rows"]);
    assert_eq!(history.code, 2);
    assert!(history.stdout.contains("t +1"), "what is before is told: {}", history.stdout);
    assert!(history.stderr.contains("begins anew with a snapshot"), "{}", history.stderr);
    assert!(history.stderr.contains("goes on after it"), "{}", history.stderr);
    let rest = place.run(&["diff", "app.db", "--from", &since, "--json"]).succeeded();
    assert_eq!(lines(&rest.stdout).iter().filter(|line| line["op"] == "insert").count(), 1);
}
