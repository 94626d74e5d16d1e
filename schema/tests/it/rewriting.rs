use litekeep_schema::Error;
use litekeep_schema::migrations::{Convention, Folder, Harm, Rewritten, rewrite, up};
use litekeep_sql::Application;
use std::path::PathBuf;

/// Parents with three children that go with them, and everything that can hang on a table.
const SCHEMA: &str = "
CREATE TABLE parent(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, extra TEXT);
CREATE TABLE child(id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent(id) ON DELETE CASCADE);
CREATE TABLE log(x);
CREATE INDEX parent_name ON parent(name);
CREATE VIEW names AS SELECT name FROM parent;
CREATE TRIGGER parent_logged AFTER INSERT ON parent BEGIN INSERT INTO log VALUES('parent; ' || new.id); END;
CREATE TRIGGER child_logged AFTER INSERT ON child BEGIN INSERT INTO log SELECT name FROM parent WHERE id = new.parent; END;
INSERT INTO parent(name) VALUES('a'), ('b'), ('c'); DELETE FROM parent WHERE id = 3;
INSERT INTO child VALUES(1, 1), (2, 1), (3, 2); DELETE FROM log;
";

const NEW: &str =
    "CREATE TABLE parent(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, extra TEXT);";

struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new(file: &str) -> Scene {
        let scene = Scene { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(scene.dir.path().join("migrations")).unwrap();
        std::fs::write(scene.file(), file).unwrap();
        Application::create(&scene.database()).unwrap().execute_batch(SCHEMA).unwrap();
        scene
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("migrations/1_rebuild.sql")
    }

    fn database(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    fn folder(&self) -> Folder {
        let marked = std::fs::read_to_string(self.file()).unwrap().contains("-- migrate:up");
        let convention = if marked { Convention::Dbmate } else { Convention::Sqlx };
        Folder::read(&self.dir.path().join("migrations"), Some(convention), None).unwrap()
    }

    fn up(&self) -> Result<usize, Error> {
        up(&self.database(), &self.folder(), &mut ()).map(|ran| ran.len())
    }

    /// Refused as it is; rewritten it runs, and nothing is lost.
    fn is_mended(&self) -> Rewritten {
        let rewritten = rewrite(&self.folder(), &self.file(), Some(&self.database()), None).unwrap();
        std::fs::write(self.file(), &rewritten.text).unwrap();
        assert_eq!(self.up().unwrap_or_else(|error| panic!("{error}\n{}", rewritten.text)), 1);
        self.is_whole(&rewritten.text);
        rewritten
    }

    fn is_whole(&self, text: &str) {
        let app = Application::open(&self.database()).unwrap();
        let ask = |sql: &str| {
            format!("{:?}", app.query(sql, &[]).unwrap_or_else(|error| panic!("{sql}: {error}\n{text}")))
        };
        assert_eq!(ask("SELECT count(*) FROM child"), "[[Integer(3)]]", "{text}");
        assert_eq!(ask("SELECT group_concat(id || name) FROM parent"), "[[Text(\"1a,2b\")]]", "{text}");
        let objects = "SELECT count(*) FROM sqlite_schema WHERE name IN ('parent_name', 'names', 'parent_logged', 'child_logged')";
        assert_eq!(ask(objects), "[[Integer(4)]]", "{text}");
        assert_eq!(ask("PRAGMA foreign_key_check"), "[]", "{text}");
        assert_eq!(ask("PRAGMA integrity_check"), "[[Text(\"ok\")]]", "{text}");
        assert!(app.execute_batch("INSERT INTO parent(name) VALUES(NULL)").is_err(), "{text}");
        app.execute_batch("INSERT INTO parent(name) VALUES('d'); INSERT INTO child VALUES(9, 4)").unwrap();
        assert_eq!(
            ask("SELECT group_concat(x) FROM log"),
            "[[Text(\"parent; 4,d\")]]",
            "a number is given out once: {text}"
        );
        app.execute_batch("DELETE FROM parent WHERE id = 1").unwrap();
        assert_eq!(ask("SELECT count(*) FROM child"), "[[Integer(2)]]", "{text}");
    }
}

/// Renames the old table away, and with it what refers to it: the children would refer to a table that goes.
#[test]
fn a_rebuild_in_the_unsafe_order_is_refused_and_its_rewriting_keeps_the_children() {
    let file = format!(
        "-- Names must be there.
ALTER TABLE parent RENAME TO \"parent_old\";
{NEW}
INSERT INTO parent (id, name, extra) SELECT parent_old.id, name, extra FROM parent_old WHERE parent_old.id > 0;
CREATE INDEX parent_extra ON parent(extra);
DROP TABLE parent_old;
"
    );
    let scene = Scene::new(&file);
    let error = scene.up().unwrap_err();
    assert!(error.to_string().contains("1_rebuild.sql"), "{error}");
    let Error::Harm { harms, .. } = &error else { panic!("{error}") };
    let orphans = Harm::Orphans { table: "child".into(), parent: "parent_old".into(), rows: 3 };
    assert!(harms.contains(&orphans), "{error}");
    assert!(error.hint().unwrap().contains("litekeep migrate rewrite"), "{:?}", error.hint());
    let rewritten = scene.is_mended();
    assert!(rewritten.text.starts_with("-- Names must be there.\n"), "{}", rewritten.text);
    assert_eq!(rewritten.rebuilt[0].table, "parent");
    assert_eq!(rewritten.rebuilt[0].kept, ["parent_name", "parent_logged"]);
}

#[test]
fn the_way_back_stays_also_where_lines_end_as_on_windows() {
    let scene = Scene::new(
        &format!("-- migrate:up\n{NEW}\n-- migrate:down\nDROP TABLE parent;\n").replace('\n', "\r\n"),
    );
    assert!(scene.is_mended().text.ends_with("-- migrate:down\nDROP TABLE parent;\n"));
    // A file that is none yet becomes one.
    let wish = scene.dir.path().join("wish.sql");
    std::fs::write(&wish, NEW).unwrap();
    let rewritten = rewrite(&scene.folder(), &wish, None, Some("parent"));
    assert!(rewritten.is_err(), "without the database there is no such table");
    let rewritten = rewrite(&scene.folder(), &wish, Some(&scene.database()), None).unwrap();
    assert!(rewritten.text.starts_with("-- migrate:up\n"), "{}", rewritten.text);
}

/// As drizzle-kit, sqlx, refinery and Alembic users write it.
#[test]
fn the_usual_rebuild_gets_back_its_index_and_trigger() {
    let file = "-- migrate:up
PRAGMA foreign_keys=OFF;
CREATE TABLE __new_parent(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, extra TEXT);
INSERT INTO __new_parent SELECT id, name, extra FROM parent;
DROP TABLE parent;
ALTER TABLE __new_parent RENAME TO parent;
PRAGMA foreign_keys=ON;
-- migrate:down
SELECT 1;
";
    let scene = Scene::new(file);
    let error = scene.up().unwrap_err().to_string();
    assert!(error.contains("names"), "SQLite does not rename below a view: {error}");
    let rewritten = scene.is_mended();
    assert!(rewritten.text.ends_with("-- migrate:down\nSELECT 1;\n"), "{}", rewritten.text);
}

#[test]
fn what_a_table_shall_be_is_enough() {
    let scene = Scene::new(NEW);
    assert!(scene.up().is_err(), "the table is there");
    assert!(scene.is_mended().rebuilt[0].columns_lost.is_empty());
    let scene = Scene::new("");
    let wish = scene.dir.path().join("wish.sql");
    std::fs::write(
        &wish,
        "create table if not exists `wanted`(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL)",
    )
    .unwrap();
    let rewritten = rewrite(&scene.folder(), &wish, Some(&scene.database()), Some("parent")).unwrap();
    assert_eq!(rewritten.rebuilt[0].columns_lost, ["extra"]);
    std::fs::write(scene.file(), &rewritten.text).unwrap();
    assert_eq!(scene.up().unwrap(), 1);
    scene.is_whole(&rewritten.text);
}

#[test]
fn what_does_not_fit_the_new_table_is_an_error() {
    let scene = Scene::new("CREATE TABLE parent(id INTEGER PRIMARY KEY AUTOINCREMENT, extra TEXT);");
    let error =
        rewrite(&scene.folder(), &scene.file(), Some(&scene.database()), None).unwrap_err().to_string();
    assert!(error.contains("no such column: name") || error.contains("names"), "{error}");
    std::fs::write(scene.file(), "CREATE TABLE other(x);").unwrap();
    let error =
        rewrite(&scene.folder(), &scene.file(), Some(&scene.database()), None).unwrap_err().to_string();
    assert!(error.contains("rebuilds no table"), "{error}");
}

#[test]
fn without_a_database_the_migrations_before_make_the_schema() {
    let scene = Scene::new(&SCHEMA[..SCHEMA.find("INSERT INTO parent(name)").unwrap()]);
    let second = scene.dir.path().join("migrations/2_again.sql");
    std::fs::write(&second, NEW).unwrap();
    let rewritten = rewrite(&scene.folder(), &second, None, None).unwrap();
    assert_eq!(rewritten.rebuilt[0].kept, ["parent_name", "parent_logged"]);
    for statement in ["DROP TABLE \"parent\"", "CREATE INDEX parent_name", "CREATE TRIGGER parent_logged"] {
        assert!(rewritten.text.contains(statement), "{}", rewritten.text);
    }
}

#[test]
fn drizzles_statements_stay_apart() {
    let scene = Scene::new(NEW);
    let folder = scene.dir.path().join("drizzle");
    std::fs::create_dir_all(folder.join("meta")).unwrap();
    std::fs::write(folder.join("meta/_journal.json"), r#"{"entries": [{"when": 1, "tag": "0000_x"}]}"#)
        .unwrap();
    let file = folder.join("0000_x.sql");
    std::fs::write(&file, "PRAGMA foreign_keys=OFF;--> statement-breakpoint\n".to_owned() + NEW).unwrap();
    let read = || Folder::read(&folder, None, None).unwrap();
    let rewritten = rewrite(&read(), &file, Some(&scene.database()), None).unwrap();
    assert!(
        rewritten.text.contains("RENAME TO \"parent\";\n--> statement-breakpoint\n"),
        "{}",
        rewritten.text
    );
    std::fs::write(&file, &rewritten.text).unwrap();
    assert_eq!(up(&scene.database(), &read(), &mut ()).unwrap().len(), 1);
    scene.is_whole(&rewritten.text);
}
