//! Rows whose tables, indexes, views and triggers change as well.

use rusqlite::Connection;
use serde_json::json;

use super::{goes_forth_and_back, lines, replicate, shop, txids};
use crate::Place;

/// The last transaction, and the one before it.
fn last_two(place: &Place) -> (String, String) {
    let txids = txids(place);
    (txids[txids.len() - 2].clone(), txids[txids.len() - 1].clone())
}

fn count(db: &Connection, from: &str) -> i64 {
    db.query_row(&format!("SELECT count(*) FROM {from}"), (), |row| row.get(0)).unwrap()
}

#[test]
fn a_renamed_table_keeps_its_rows_in_scripts() {
    let place = Place::new();
    shop(
        &place,
        &["ALTER TABLE customers RENAME TO clients; UPDATE clients SET balance = -1 WHERE id = 3;
           DELETE FROM clients WHERE id = 4; INSERT INTO clients VALUES(900, 'new', 1);
           CREATE VIRTUAL TABLE words USING fts5(body); INSERT INTO words VALUES('one'), ('two')",
          "ALTER TABLE words RENAME TO terms; INSERT INTO terms VALUES('three'); ALTER TABLE clients RENAME COLUMN name TO title;
           ALTER TABLE clients RENAME TO people; UPDATE people SET title = 'changed' WHERE id = 5"],
    );
    let txids = txids(&place);
    let [first, second, third] = [3, 2, 1].map(|back| txids[txids.len() - back].as_str());
    for (from, to) in [(first, second), (second, third), (first, third)] {
        goes_forth_and_back(&place, from, to, "a renamed table");
    }
    for table in ["customers", "clients"] {
        for flag in ["--sql", "--undo-sql"] {
            let arguments = ["diff", "app.db", "--from", first, "--to", second, "--table", table, flag];
            let script = place.run(&arguments).succeeded().stdout;
            assert!(
                script.contains(" RENAME TO ") && !script.contains("DROP TABLE"),
                "{table} {flag}: {script}"
            );
            assert!(
                !script.contains("CREATE TABLE") && script.contains("\"balance\"="),
                "{table} {flag}: {script}"
            );
        }
    }
}

#[test]
fn an_undo_leaves_a_renamed_table_where_it_is() {
    let place = Place::new();
    let db = shop(
        &place,
        &["ALTER TABLE log RENAME TO journal; DELETE FROM journal; UPDATE customers SET balance = 5"],
    );
    let (_, wrong) = last_two(&place);
    let done = place.run(&["undo", "app.db", "--txid", &wrong, "--yes"]);
    assert_eq!(done.code, 1, "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("`log` was renamed to `journal`, and stays so"), "{}", done.stdout);
    assert_eq!(count(&db, "sqlite_schema WHERE name = 'log'"), 0);
    assert_eq!(count(&db, "customers WHERE balance = 5"), 0);
}

/// Its name is like those of the tables that a full-text index has.
#[test]
fn a_table_that_is_named_after_a_virtual_one_is_a_table() {
    let place = Place::new();
    let db = shop(
        &place,
        &[
            "CREATE VIRTUAL TABLE docs USING fts5(body); INSERT INTO docs VALUES('a fox');
             CREATE TABLE docs_meta(id INTEGER PRIMARY KEY, a); INSERT INTO docs_meta VALUES(1, 'kept')",
            "DROP TABLE docs; DROP TABLE docs_meta",
        ],
    );
    let (from, wrong) = last_two(&place);
    goes_forth_and_back(&place, &from, &wrong, "a virtual table");
    let arguments = ["restore", "app.db", "--table", "docs_meta", "-txid", &from, "--yes"];
    place.run(&arguments).succeeded();
    assert_eq!((count(&db, "docs_meta"), count(&db, "sqlite_schema WHERE name LIKE 'docs%'")), (1, 1));
    db.execute_batch("DROP TABLE docs_meta").unwrap();
    place.run(&["undo", "app.db", "--txid", &wrong, "--yes"]).succeeded();
    assert_eq!((count(&db, "docs_meta"), count(&db, "docs WHERE docs MATCH 'fox'")), (1, 1));
    db.execute_batch("INSERT INTO docs(docs) VALUES('integrity-check'); DROP TABLE docs").unwrap();
    // Never one of its tables alone.
    place.run(&["restore", "app.db", "--table", "docs_content", "-txid", &from, "--yes"]).succeeded();
    assert_eq!(count(&db, "docs WHERE docs MATCH 'fox'"), 1);
}

#[test]
fn some_rows_of_a_table_never_drop_it() {
    let place = Place::new();
    shop(
        &place,
        &[
            "CREATE TABLE made(id INTEGER PRIMARY KEY, a); INSERT INTO made VALUES(1, 'x'), (2, 'y'); DROP TABLE log",
        ],
    );
    let (from, to) = last_two(&place);
    for (table, flag) in [("made", "--undo-sql"), ("log", "--sql")] {
        let range = ["diff", "app.db", "--from", &from, "--to", &to, "--table", table, flag];
        let some = place.run(&[&range[..], &["--where", "rowid = 1"]].concat());
        assert!(!some.stdout.contains("DROP TABLE"), "{}", some.stdout);
        assert!(some.code == 1 && some.stderr.contains("is not dropped"), "{}", some.stderr);
        assert!(place.run(&range).succeeded().stdout.contains("DROP TABLE"));
    }
}

#[test]
fn scripts_alter_tables_and_run() {
    let place = Place::new();
    let db = shop(
        &place,
        &[
            "CREATE TABLE numbered(id INTEGER PRIMARY KEY AUTOINCREMENT, a); INSERT INTO numbered(a) VALUES(1), (2);
             CREATE TABLE gone(id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO gone VALUES(40)",
            "ALTER TABLE customers ADD COLUMN note TEXT DEFAULT 'none, yet'; UPDATE customers SET note = 'x' WHERE id = 3;
             ALTER TABLE orders RENAME COLUMN what TO contents; DELETE FROM orders WHERE id = 5; UPDATE orders SET contents = 1 WHERE id = 6;
             INSERT INTO numbered(a) VALUES(3); DELETE FROM numbered WHERE id = 3; DROP TABLE gone; ANALYZE;
             CREATE VIRTUAL TABLE pages USING fts5(body); INSERT INTO pages VALUES('a fox');
             CREATE VIEW seen AS SELECT 1; CREATE TRIGGER instead INSTEAD OF INSERT ON seen BEGIN SELECT 1; END;
             DROP TRIGGER gone; DROP INDEX by_customer; CREATE INDEX by_contents ON orders(contents)",
        ],
    );
    let (from, to) = last_two(&place);
    goes_forth_and_back(&place, &from, &to, "altered tables");
    // What was in a column is nowhere but in the backup.
    db.execute_batch("ALTER TABLE customers DROP COLUMN note").unwrap();
    replicate(&place);
    let (from, to) = last_two(&place);
    let range = ["diff", "app.db", "--from", &from, "--to", &to];
    let forth = place.run(&[&range[..], &["--sql"]].concat()).succeeded();
    assert!(forth.stdout.contains("DROP COLUMN \"note\";"), "{}", forth.stdout);
    let back = place.run(&[&range[..], &["--undo-sql"]].concat());
    assert!(back.stdout.contains("ADD COLUMN note TEXT DEFAULT 'none, yet';"), "{}", back.stdout);
    assert!(back.code == 1 && back.stderr.contains("the column `note` of `customers`"), "{}", back.stderr);
}

#[test]
fn an_undo_names_what_stays_and_brings_back_what_it_can() {
    let place = Place::new();
    let db = shop(
        &place,
        &[
            "CREATE VIEW poor AS SELECT * FROM customers WHERE balance < 10; CREATE TABLE wide(a, b); INSERT INTO wide VALUES(1, 2)",
            "DROP VIEW poor; DROP TRIGGER gone; DROP INDEX by_customer",
            "ALTER TABLE wide DROP COLUMN b",
        ],
    );
    let txids = txids(&place);
    let [dropped, column] = [2, 1].map(|back| txids[txids.len() - back].as_str());
    let done = place.run(&["undo", "app.db", "--txid", dropped, "--yes"]).succeeded();
    for what in
        ["the view `poor` comes back", "the trigger `gone` comes back", "the index `by_customer` comes back"]
    {
        assert!(done.stdout.contains(what), "{what}: {}", done.stdout);
    }
    assert_eq!(count(&db, "sqlite_schema WHERE name IN ('poor', 'gone', 'by_customer')"), 3);
    let again = place.run(&["undo", "app.db", "--txid", dropped, "--yes"]).succeeded();
    assert!(again.stdout.contains("there is nothing to take back"), "{}", again.stdout);
    let before = &txids[txids.len() - 2];
    let restore = ["restore", "app.db", "--table", "wide", "-txid", before.as_str(), "--yes"];
    for arguments in [&["undo", "app.db", "--txid", column, "--yes"][..], &restore] {
        let done = place.run(arguments);
        assert_eq!(done.code, 1, "{}{}", done.stdout, done.stderr);
        assert!(
            done.stdout.contains("the column `b` of `wide` was dropped, and stays so; `litekeep restore"),
            "{}",
            done.stdout
        );
    }
}

/// SQLite gives the rowids of deleted rows, the pages of dropped tables and the places of dropped columns again.
#[test]
fn nothing_is_overwritten_that_has_the_place_of_what_is_gone() {
    let place = Place::new();
    let db = shop(
        &place,
        &[
            "CREATE TABLE users(id TEXT PRIMARY KEY, name); INSERT INTO users VALUES('A', 'a'), ('B', 'b'), ('C', 'c');
             CREATE TABLE contacts(id INTEGER PRIMARY KEY, name, phone TEXT); INSERT INTO contacts VALUES(1, 'a', '555');
             CREATE TABLE sessions(id INTEGER PRIMARY KEY, user TEXT, note TEXT); INSERT INTO sessions VALUES(1, 'u1', 'n1')",
            "DELETE FROM users",
            "INSERT INTO users VALUES('X', 'x'), ('Y', 'y')",
            "DROP TABLE sessions; CREATE TABLE tokens(id INTEGER PRIMARY KEY, secret TEXT, scope TEXT);
             INSERT INTO tokens VALUES(1, 's1', 'all')",
            "ALTER TABLE contacts DROP COLUMN phone; ALTER TABLE contacts ADD COLUMN email TEXT",
        ],
    );
    let txids = txids(&place);
    let [before, tokens, contacts] = [5, 2, 1].map(|back| txids[txids.len() - back].as_str());
    let diff =
        |from: &str, to: &str| place.run(&["diff", "app.db", "--from", from, "--to", to]).succeeded().stdout;
    let text = diff(&txids[txids.len() - 3], tokens);
    assert!(text.contains("secret='s1'") && !text.contains("was sessions"), "{text}");
    assert!(diff(tokens, contacts).contains("phone='555'"));
    for table in ["users", "sessions"] {
        place.run(&["restore", "app.db", "--table", table, "-txid", before, "--yes"]).succeeded();
    }
    let found = ["users", "users WHERE id > 'W'", "sessions WHERE user = 'u1'", "tokens WHERE secret = 's1'"];
    assert_eq!(found.map(|from| count(&db, from)), [5, 2, 1, 1]);
    let done = place.run(&["undo", "app.db", "--txid", contacts, "--yes"]);
    assert_eq!(done.code, 1, "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("contacts: the table was made anew"), "{}", done.stdout);
    assert!(
        done.stdout.contains("the column `phone` of `contacts` was dropped, and stays so"),
        "{}",
        done.stdout
    );
    assert_eq!(count(&db, "contacts WHERE email IS NULL"), 1);
}

#[test]
fn rows_go_back_under_the_new_names_of_their_columns() {
    let place = Place::new();
    let db = shop(
        &place,
        &["UPDATE customers SET name = 'wrong' WHERE id = 1; DELETE FROM orders WHERE id = 2; DELETE FROM log;
           ALTER TABLE customers RENAME COLUMN name TO title; ALTER TABLE orders RENAME COLUMN id TO number"],
    );
    let (_, wrong) = last_two(&place);
    let done = place.run(&["undo", "app.db", "--txid", &wrong, "--yes", "--json"]);
    assert_eq!((done.code, &done.json()["conflict_count"]), (1, &json!(0)), "{}", done.stdout);
    assert!(
        done.stdout.contains("the column `name` of `customers` was renamed to `title`"),
        "{}",
        done.stdout
    );
    assert_eq!(
        [count(&db, "customers WHERE title = 'name 1'"), count(&db, "orders WHERE number = 2")],
        [1, 1]
    );
}

#[test]
fn the_life_of_a_row_is_found_by_its_key() {
    let place = Place::new();
    shop(
        &place,
        &[
            "CREATE TABLE codes(id, code TEXT PRIMARY KEY); INSERT INTO codes VALUES(7, 'seven');
             CREATE TABLE pairs(a, b, c, PRIMARY KEY(a, b)); INSERT INTO pairs VALUES(1, 2, 3); INSERT INTO log VALUES('x')",
        ],
    );
    let life = |table: &str, key: &str| {
        let arguments = ["history", "app.db", "--table", table, "--key", key, "--json"];
        lines(&place.run(&arguments).succeeded().stdout).len()
    };
    assert_eq!(
        [
            life("codes", "seven"),
            life("codes", "7"),
            life("codes", "id=7"),
            life("pairs", "a=1,b=2"),
            life("log", "1")
        ],
        [1, 0, 1, 1, 1]
    );
    let several = place.run(&["history", "app.db", "--table", "pairs", "--key", "1"]);
    several.failed_with(&["the primary key of `pairs` has 2 columns", "--key a=…,b=…"]);
}

#[test]
fn a_table_that_never_was_is_refused() {
    let place = Place::new();
    shop(&place, &["DELETE FROM log", "DROP TABLE log"]);
    for command in [&["history", "app.db"][..], &["changes", "app.db", "--from", "1"]] {
        let refused = place.run(&[command, &["--table", "order"]].concat());
        refused.failed_with(&["there is no table `order`", "the tables are `customers`, `orders`"]);
        place.run(&[command, &["--table", "log"]].concat()).succeeded();
    }
}

#[test]
fn a_row_with_another_key_is_deleted_and_created() {
    let place = Place::new();
    let db =
        shop(&place, &["CREATE TABLE codes(code TEXT PRIMARY KEY, v); INSERT INTO codes VALUES('a', 1)"]);
    let (_, from) = last_two(&place);
    db.execute_batch("UPDATE codes SET code = 'b'; UPDATE codes SET v = CAST(x'ff41' AS TEXT)").unwrap();
    replicate(&place);
    let events = lines(&place.run(&["changes", "app.db", "--from", &from]).succeeded().stdout);
    let told: Vec<_> =
        events.iter().map(|e| json!([e["op"], e["key"], e["transaction"]["total_order"]])).collect();
    let is_apart = events.len() == 3;
    let expected =
        [json!(["d", {"code": "a"}, 1]), json!(["c", {"code": "b"}, 2]), json!(["u", {"code": "b"}, 1])];
    assert_eq!(told, expected[..if is_apart { 3 } else { 2 }]);
    let last = events.last().unwrap();
    assert_eq!((&last["after"]["v"], &last["source"]["name"]), (&json!({"text": "ff41"}), &json!("app.db")));
    assert_eq!(events[0]["after"], json!(null));
}

#[test]
fn conditions_and_values_are_told_as_they_are() {
    let place = Place::new();
    let db = shop(
        &place,
        &["CREATE TABLE t(id INTEGER PRIMARY KEY, a, twice AS (a * 2)); INSERT INTO t VALUES(1, 5), (2, 6)"],
    );
    let (_, from) = last_two(&place);
    db.execute_batch(
        "ALTER TABLE t ADD COLUMN state TEXT DEFAULT 'open'; UPDATE t SET a = char(27, 8238, 127) || 'x' WHERE id = 1;
         UPDATE t SET state = 'done' WHERE id = 2",
    )
    .unwrap();
    replicate(&place);
    let diff = |condition: &str| {
        place.run(&["diff", "app.db", "--from", &from, "--table", "t", "--where", condition])
    };
    let open = diff("state = 'open'").succeeded().stdout;
    assert!(open.contains("2 updated") && !open.contains('\u{1b}') && !open.contains('\u{202e}'), "{open}");
    assert!(open.contains("\\u{1b}\\u{202e}\\u{7f}x"), "{open}");
    diff("twice = 10").failed_with(&["the column `twice` of `t` is computed and not stored"]);
}

#[test]
fn moments_are_read_in_one_way() {
    let place = Place::new();
    shop(&place, &["DELETE FROM log"]);
    let short = txids(&place).pop().unwrap().trim_start_matches('0').to_owned();
    place.run(&["diff", "app.db", "--from", "1", "--to", &short]).succeeded();
    place.run(&["history", "app.db", "--table", "log", "--from", "1"]).succeeded();
    place
        .run(&["history", "app.db", "--from", "1"])
        .failed_with(&["--from is for the history of rows", "--rows"]);
    place
        .run(&["undo", "./app.db-backup", "--txid", "2"])
        .failed_with(&["in the live database", "name the database"]);
}
