use litekeep_schema::migrations::{Convention, Finding, Folder, lint, up};
use litekeep_sql::Application;
use std::path::PathBuf;

const SCHEMA: &str = "
CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT, email TEXT, old TEXT);
CREATE TABLE orders(id INTEGER PRIMARY KEY, user INTEGER REFERENCES users(id));
CREATE INDEX users_name ON users(name);
";

struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    /// The schema is one migration, `sql` the next.
    fn new(sql: &str) -> Scene {
        let scene = Scene { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(scene.migrations()).unwrap();
        std::fs::write(scene.migrations().join("1_schema.sql"), SCHEMA).unwrap();
        std::fs::write(scene.migrations().join("2_change.sql"), sql).unwrap();
        scene
    }

    fn migrations(&self) -> PathBuf {
        self.dir.path().join("migrations")
    }

    fn database(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    fn folder(&self) -> Folder {
        Folder::read(&self.migrations(), Some(Convention::Sqlx), None).unwrap()
    }

    /// A database in which the first has run, with these rows.
    fn with(self, rows: &str) -> Scene {
        let first = Folder { migrations: self.folder().migrations[..1].to_vec(), ..self.folder() };
        up(&self.database(), &first, &mut ()).unwrap();
        Application::open(&self.database()).unwrap().execute_batch(rows).unwrap();
        self
    }

    fn found(&self) -> Vec<Finding> {
        let database = Some(self.database()).filter(|database| database.exists());
        lint(&self.folder(), database.as_deref(), false).unwrap()
    }

    fn codes(&self) -> Vec<(usize, &'static str)> {
        self.found().iter().map(|finding| (finding.line, finding.code)).collect()
    }
}

fn codes(sql: &str) -> Vec<(usize, &'static str)> {
    Scene::new(sql).codes()
}

/// It was told as `drop-table`, and nothing said what to do.
#[test]
fn a_rebuild_that_a_view_or_trigger_stops_is_to_be_rewritten() {
    let rebuild = "CREATE TABLE new(id INTEGER PRIMARY KEY, name TEXT, email TEXT, old TEXT DEFAULT 'none');
INSERT INTO new SELECT * FROM users;
DROP TABLE users;
ALTER TABLE new RENAME TO users;
CREATE INDEX users_name ON users(name);";
    for reads in [
        "CREATE VIEW names AS SELECT name FROM users;",
        "CREATE TRIGGER named AFTER INSERT ON orders BEGIN UPDATE users SET old = 'x' WHERE id = new.user; END;",
    ] {
        let scene = Scene::new(rebuild);
        std::fs::write(scene.migrations().join("1_schema.sql"), format!("{SCHEMA}{reads}")).unwrap();
        let found = scene.found();
        let [only] = &found[..] else { panic!("{found:#?}") };
        assert_eq!((only.line, only.code), (4, "fails"), "{only:?}");
        assert!(only.message.contains("no such table: main.users"), "{only:?}");
        assert!(
            only.fix.contains("`litekeep migrate rewrite ") && only.fix.contains("2_change.sql"),
            "{only:?}"
        );
        let error = up(&scene.database(), &scene.folder(), &mut ()).unwrap_err();
        assert_eq!(error.hint().as_ref(), Some(&only.fix), "{error}");
    }
}

#[test]
fn what_is_destroyed_is_found() {
    assert_eq!(codes("CREATE TABLE more(x);\n-- a comment\nDROP TABLE orders;"), [(3, "drop-table")]);
    assert_eq!(codes("ALTER TABLE users DROP COLUMN old;"), [(1, "drop-column")]);
    assert_eq!(
        codes("UPDATE users SET old = name;\nDELETE FROM orders;"),
        [(1, "whole-table"), (2, "whole-table")]
    );
    assert_eq!(codes("UPDATE users SET old = name WHERE old IS NULL;"), []);
    assert_eq!(
        codes("CREATE TABLE t(x); INSERT INTO t VALUES(1); UPDATE t SET x = 2; DROP TABLE t;"),
        [],
        "its own"
    );
}

#[test]
fn what_breaks_the_running_version_is_found() {
    assert_eq!(codes("ALTER TABLE orders RENAME TO purchases;"), [(1, "rename")]);
    assert_eq!(codes("\nALTER TABLE users RENAME COLUMN name TO title;"), [(2, "rename")]);
    assert_eq!(
        codes("ALTER TABLE users ADD COLUMN age INTEGER NOT NULL;"),
        [(1, "not-null"), (1, "not-null-data")]
    );
    assert_eq!(codes("ALTER TABLE users ADD COLUMN age INTEGER NOT NULL DEFAULT 0;"), []);
    assert_eq!(codes("ALTER TABLE users ADD COLUMN age INTEGER; CREATE INDEX users_age ON users(age);"), []);
}

/// The usual rebuild, with an index that is forgotten and a column that has become NOT NULL.
const REBUILD: &str =
    "CREATE TABLE u(id INTEGER PRIMARY KEY, name TEXT NOT NULL DEFAULT '', email TEXT UNIQUE);
INSERT INTO u SELECT id, name, email FROM users;
DROP TABLE users;
ALTER TABLE u RENAME TO users;
";

#[test]
fn a_rebuild_is_no_dropped_table_but_what_it_leaves_behind_is_found() {
    let expected = [(3, "drop-column"), (3, "lost-object"), (4, "not-null-data"), (4, "unique-data")];
    let mut found = codes(REBUILD);
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn rows_are_asked_where_there_are_some() {
    let whole = "INSERT INTO users(name, email) VALUES('a', 'x'), ('b', 'y'), ('c', NULL), ('d', NULL)";
    let mut found = Scene::new(REBUILD).with(whole).codes();
    found.sort();
    assert_eq!(found, [(3, "drop-column"), (3, "lost-object")], "nothing of it fails");
    let twice = "INSERT INTO users(name, email) VALUES(NULL, 'x'), (NULL, 'x'), ('c', 'x')";
    let found = Scene::new(REBUILD).with(twice).found();
    let message =
        |code| found.iter().find(|f| f.code == code).unwrap_or_else(|| panic!("{found:#?}")).message.as_str();
    assert!(message("not-null-data").contains("2 rows of `users` have NULL"), "{found:#?}");
    assert!(
        message("unique-data").contains("(email)") && message("unique-data").contains("1 values"),
        "{found:#?}"
    );
    let scene = Scene::new(
        "CREATE UNIQUE INDEX once ON users(email);\nALTER TABLE orders ADD COLUMN n INT NOT NULL;",
    );
    assert_eq!(scene.with(twice).codes(), [(1, "unique-data"), (2, "not-null")], "orders has no rows");
}

#[test]
fn work_on_many_rows_is_a_long_lock() {
    let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100001) INSERT INTO users(name) SELECT 'a' FROM n";
    let sql = "CREATE INDEX users_email ON users(email);\nCREATE INDEX orders_user ON orders(user);\nUPDATE users SET old = 1;";
    let expected = [(1, "long-lock"), (3, "whole-table"), (3, "long-lock")];
    assert_eq!(Scene::new(sql).with(many).codes(), expected);
}

#[test]
fn traps_of_sqlite_are_found_once() {
    let sql = "PRAGMA foreign_keys=OFF;\nBEGIN;\nPRAGMA journal_mode=DELETE;\nCOMMIT;\nVACUUM;\nATTACH 'x' AS y;\nSELECT nothing();";
    let expected = [
        (1, "pragma"),
        (2, "transaction"),
        (3, "journal-mode"),
        (4, "transaction"),
        (5, "vacuum"),
        (6, "attach"),
        (7, "fails"),
    ];
    assert_eq!(codes(sql), expected);
}

#[test]
fn what_stands_above_the_parts_of_a_file_is_read() {
    let scene = Scene::new("");
    let found = |above: &str| {
        let text = format!("{above}\n-- migrate:up\nDROP TABLE orders;\n-- migrate:down\nSELECT 1;\n");
        std::fs::write(scene.migrations().join("1_schema.sql"), format!("-- migrate:up\n{SCHEMA}")).unwrap();
        std::fs::write(scene.migrations().join("2_change.sql"), text).unwrap();
        let folder = Folder::read(&scene.migrations(), None, None).unwrap();
        let found = lint(&folder, None, false).unwrap();
        found.iter().map(|finding| (finding.line, finding.code)).collect::<Vec<_>>()
    };
    assert_eq!(found("-- litekeep:allow drop-table nobody has read it since May"), []);
    assert_eq!(found("-- litekeep:allow drop-tabel a reason"), [(1, "allow-unknown"), (3, "drop-table")]);
    assert_eq!(found("-- litekeep:allow drop-table"), [(1, "allow"), (3, "drop-table")]);
}

#[test]
fn a_reason_allows_and_nothing_else_does() {
    assert_eq!(codes("-- litekeep:allow drop-table nobody has read it since May\nDROP TABLE orders;"), []);
    assert_eq!(codes("-- litekeep:allow drop-table\nDROP TABLE orders;"), [(1, "allow"), (2, "drop-table")]);
    assert_eq!(
        codes("-- litekeep:allow drop-tabel a reason\nDROP TABLE orders;"),
        [(1, "allow-unknown"), (2, "drop-table")]
    );
}

#[test]
fn only_what_has_not_run_is_read_where_there_is_a_database() {
    let scene = Scene::new("ALTER TABLE users ADD COLUMN a;").with("");
    std::fs::write(scene.migrations().join("1_schema.sql"), "DROP TABLE gone;").unwrap();
    assert_eq!(scene.codes(), []);
    std::fs::remove_file(scene.database()).unwrap();
    assert_eq!(scene.codes(), [(1, "fails"), (1, "fails")]);
}

#[test]
fn what_other_databases_do_not_understand_is_found_when_asked_for() {
    let scene = Scene::new("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT);");
    assert_eq!(scene.codes(), []);
    let found = lint(&scene.folder(), None, true).unwrap();
    assert_eq!(
        found.iter().map(|f| f.code).collect::<Vec<_>>(),
        ["not-portable", "not-portable"],
        "of both servers"
    );
}
