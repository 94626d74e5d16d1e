//! Goal: `lint` and `rewrite` as a user meets them; what they find is held in the crate `schema`. Method: the real binary.

use crate::Place;
use crate::shapes::matches;

const SCHEMA: &str = "-- migrate:up
CREATE TABLE parent(id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE child(id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent(id) ON DELETE CASCADE);
CREATE INDEX parent_name ON parent(name);
";

const WISH: &str = "-- migrate:up
ALTER TABLE parent RENAME TO former;
CREATE TABLE parent(id INTEGER PRIMARY KEY, name TEXT NOT NULL);
INSERT INTO parent SELECT id, name FROM former;
DROP TABLE former;
";

fn place() -> Place {
    let place = Place::new();
    std::fs::create_dir(place.path("migrations")).unwrap();
    std::fs::write(place.path("migrations/1_schema.sql"), SCHEMA).unwrap();
    place.run(&["migrate", "up", "app.db"]).succeeded();
    let app = rusqlite::Connection::open(place.path("app.db")).unwrap();
    app.execute_batch("INSERT INTO parent VALUES(1, 'a'); INSERT INTO child VALUES(1, 1), (2, 1), (3, 1)")
        .unwrap();
    std::fs::write(place.path("migrations/2_rebuild.sql"), WISH).unwrap();
    place
}

#[test]
fn findings_are_printed_and_the_exit_code_is_1() {
    let place = place();
    let found = place.run(&["migrate", "lint", "--json"]);
    assert_eq!(found.code, 1, "{}", found.stderr);
    matches("migrate-lint", &found.json());
    let text = place.run(&["migrate", "lint", "migrations", "--db", "app.db"]);
    assert_eq!(text.code, 1);
    assert!(text.stdout.contains("migrations/2_rebuild.sql:2: lost-object: "), "{}", text.stdout);
    std::fs::remove_file(place.path("migrations/2_rebuild.sql")).unwrap();
    assert_eq!(place.run(&["migrate", "lint"]).succeeded().stdout, "nothing found\n");
}

#[test]
fn a_refused_rebuild_is_rewritten_and_runs() {
    let place = place();
    place.run(&["migrate", "up", "app.db"]).failed_with(&["3 rows of `child`", "litekeep migrate rewrite"]);
    let written = place.run(&["migrate", "rewrite", "migrations/2_rebuild.sql", "--json"]).succeeded().json();
    matches("migrate-rewrite", &written);
    assert_eq!(written["rebuilt"][0]["made_again"][0], "parent_name");
    let file = "migrations/2_rebuild.sql";
    place.run(&["migrate", "rewrite", file, "-o", file, "--db", "app.db"]).succeeded();
    assert_eq!(std::fs::read_to_string(place.path(file)).unwrap(), written["text"].as_str().unwrap());
    place.run(&["migrate", "up", "app.db"]).succeeded();
    let app = rusqlite::Connection::open(place.path("app.db")).unwrap();
    let children: i64 = app.query_row("SELECT count(*) FROM child", [], |row| row.get(0)).unwrap();
    assert_eq!(children, 3);
    place.run(&["migrate", "rewrite", file, "--db", "app.db"]).failed_with(&["has run in the database"]);
}

/// The second line of docs/migrations.md, as it stands there: the file was taken for a migration, of which it has not the name.
#[test]
fn a_table_as_it_shall_be_is_no_migration_and_becomes_one() {
    let place = Place::new();
    let app = rusqlite::Connection::open(place.path("app.db")).unwrap();
    let schema = "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT); CREATE INDEX users_name ON users(name); \
                  INSERT INTO users VALUES(1, 'a')";
    app.execute_batch(schema).unwrap();
    let wanted = "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT NOT NULL);\n";
    std::fs::write(place.path("wanted.sql"), wanted).unwrap();
    let line = ["migrate", "rewrite", "wanted.sql", "--table", "users", "--db", "app.db"];
    // There need not be a folder of migrations; if there is one, it says how they are written.
    place.run(&line).succeeded();
    std::fs::create_dir(place.path("migrations")).unwrap();
    std::fs::write(place.path("migrations/1_more.sql"), "-- migrate:up\nCREATE TABLE more(x);\n").unwrap();
    let text = place.run(&line).succeeded().stdout;
    assert!(text.contains("-- migrate:up") && text.contains("CREATE INDEX users_name"), "{text}");
    std::fs::write(place.path("migrations/2_users.sql"), text).unwrap();
    place.run(&["migrate", "up", "app.db"]).succeeded();
    let sql: String =
        app.query_row("SELECT sql FROM sqlite_schema WHERE name = 'users'", [], |row| row.get(0)).unwrap();
    assert!(sql.contains("NOT NULL"), "{sql}");
}
