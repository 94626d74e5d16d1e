use litekeep_schema::migrations::{Attend, Done, Folder, Harm, Migration, State, down, status, up};
use litekeep_schema::{Error, Kind};
use litekeep_sql::{Application, Value};
use std::path::PathBuf;
use std::sync::Barrier;
use std::time::Duration;

/// A database and its migrations.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        let scene = Scene { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(scene.dir.path().join("migrations")).unwrap();
        scene
    }

    /// Parents with three children that go with them.
    fn with_children() -> Scene {
        let scene = Scene::new();
        scene.app(
            "CREATE TABLE parent(id INTEGER PRIMARY KEY, name TEXT);
             CREATE TABLE child(id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent(id) ON DELETE CASCADE);
             CREATE INDEX child_parent ON child(parent);
             CREATE TRIGGER parent_named AFTER INSERT ON parent BEGIN UPDATE parent SET name = trim(name) WHERE id = new.id; END;
             INSERT INTO parent VALUES(1, 'a'), (2, 'b');
             INSERT INTO child VALUES(1, 1), (2, 1), (3, 2)",
        );
        scene
    }

    fn database(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    fn app(&self, sql: &str) {
        Application::create(&self.database()).unwrap().execute_batch(sql).unwrap();
    }

    fn file(&self, name: &str, text: &str) -> &Scene {
        std::fs::write(self.dir.path().join("migrations").join(name), text).unwrap();
        self
    }

    fn folder(&self) -> Folder {
        Folder::read(&self.dir.path().join("migrations"), None, Some(&self.database())).unwrap()
    }

    fn up(&self) -> Result<usize, Error> {
        up(&self.database(), &self.folder(), &mut ()).map(|ran| ran.len())
    }

    fn count(&self, of: &str) -> i64 {
        let rows =
            Application::open(&self.database()).unwrap().query(&format!("SELECT count(*) FROM {of}"), &[]);
        rows.unwrap()[0][0].as_integer().unwrap()
    }

    /// The file is refused with this harm, and has changed nothing.
    fn is_refused(&self, expected: &Harm) {
        let schema = "SELECT group_concat(sql) FROM (SELECT sql FROM sqlite_schema WHERE name NOT LIKE 'schema_m%' ORDER BY name)";
        let schema_now = || Application::open(&self.database()).unwrap().query(schema, &[]).unwrap();
        let (before, children) = (schema_now(), self.count("child"));
        let error = self.up().unwrap_err();
        let Error::Harm { harms, .. } = &error else { panic!("{error}") };
        assert_eq!(harms.first(), Some(expected), "{error}");
        assert!(error.hint().unwrap().contains("litekeep:allow"), "{error}");
        assert_eq!((schema_now(), self.count("child")), (before, children));
    }
}

/// The usual way to change a column, as drizzle-kit, sqlx, refinery and Alembic users write it.
const REBUILD: &str = "-- migrate:up
PRAGMA foreign_keys=OFF;
CREATE TABLE parent_new(id INTEGER PRIMARY KEY, name TEXT NOT NULL);
INSERT INTO parent_new SELECT id, name FROM parent;
DROP TABLE parent;
ALTER TABLE parent_new RENAME TO parent;
CREATE TRIGGER parent_named AFTER INSERT ON parent BEGIN UPDATE parent SET name = trim(name) WHERE id = new.id; END;
PRAGMA foreign_keys=ON;
";

/// Other tools run this in a transaction, in which the pragma does nothing: DROP TABLE then deletes all children.
#[test]
fn a_rebuilt_parent_keeps_its_children() {
    let scene = Scene::with_children();
    scene.file("1_name_not_null.sql", REBUILD);
    assert_eq!(scene.up().unwrap(), 1);
    assert_eq!((scene.count("parent"), scene.count("child")), (2, 3));
    let app = Application::open(&scene.database()).unwrap();
    assert!(app.execute_batch("INSERT INTO parent VALUES(9, NULL)").is_err(), "the new column is NOT NULL");
    app.execute_batch("DELETE FROM parent WHERE id = 1").unwrap();
    assert_eq!(scene.count("child"), 1, "the children refer to the new table");
}

#[test]
fn rows_that_a_rebuild_leaves_behind_are_named() {
    let scene = Scene::with_children();
    scene.file("1_rebuild.sql", &REBUILD.replace("FROM parent;", "FROM parent WHERE name <> 'b';"));
    scene.is_refused(&Harm::LostRows { table: "parent".into(), before: 2, after: 1 });
}

#[test]
fn rows_that_are_deleted_by_name_may_go() {
    let scene = Scene::with_children();
    scene.file(
        "1_delete.sql",
        "-- migrate:up\nDELETE FROM child WHERE parent = 2; DELETE FROM parent WHERE id = 2;",
    );
    assert_eq!(scene.up().unwrap(), 1);
    scene.file("2_drop.sql", "-- migrate:up\nDROP TABLE child;");
    assert_eq!(scene.up().unwrap(), 1);
}

#[test]
fn a_trigger_that_goes_with_its_table_is_named() {
    let scene = Scene::with_children();
    let without =
        REBUILD.lines().filter(|line| !line.starts_with("CREATE TRIGGER")).collect::<Vec<_>>().join("\n");
    scene.file("1_rebuild.sql", &without);
    let lost =
        Harm::LostObject { kind: "trigger".into(), name: "parent_named".into(), table: "parent".into() };
    scene.is_refused(&lost);
    scene.file(
        "1_rebuild.sql",
        &format!("{without}\n-- litekeep:allow lost-object the application trims by itself"),
    );
    assert_eq!(scene.up().unwrap(), 1);
}

/// Tools keep what stands above the parts; the hint of a refusal says to write it into the file.
#[test]
fn what_is_allowed_above_the_parts_of_a_file_is_allowed() {
    let scene = Scene::with_children();
    let rebuild = REBUILD.replace("FROM parent;", "FROM parent WHERE name <> 'b';");
    let allow = "-- litekeep:allow lost-rows they were sold\n-- litekeep:allow orphans nobody reads them\n";
    scene.file("1_rebuild.sql", &format!("{allow}{rebuild}"));
    assert_eq!(scene.up().unwrap(), 1);
    assert_eq!(scene.count("parent"), 1);
    // What the way back may lose is no matter of the way there.
    let below =
        rebuild.replace("name <> 'b'", "0") + "-- migrate:down\n-- litekeep:allow lost-rows a reason\n";
    scene.file("2_rebuild.sql", &below);
    scene.is_refused(&Harm::LostRows { table: "parent".into(), before: 1, after: 0 });
}

#[test]
fn an_index_that_goes_with_its_table_is_named() {
    let scene = Scene::with_children();
    scene.file(
        "1_rebuild.sql",
        "-- migrate:up
         CREATE TABLE c(id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent(id));
         INSERT INTO c SELECT * FROM child; DROP TABLE child; ALTER TABLE c RENAME TO child;",
    );
    scene.is_refused(&Harm::LostObject {
        kind: "index".into(),
        name: "child_parent".into(),
        table: "child".into(),
    });
}

#[test]
fn children_without_their_parents_are_named() {
    let scene = Scene::with_children();
    scene.file("1_delete.sql", "-- migrate:up\nDELETE FROM parent WHERE id = 1;");
    scene.is_refused(&Harm::Orphans { table: "child".into(), parent: "parent".into(), rows: 2 });
}

#[test]
fn a_key_that_is_referred_to_and_lost_is_named() {
    let scene = Scene::with_children();
    scene.app("CREATE TABLE odd(x REFERENCES parent(name))");
    scene.file("1_unrelated.sql", "-- migrate:up\nALTER TABLE child ADD COLUMN age;");
    assert_eq!(scene.up().unwrap(), 1, "what made no sense before is no harm of this file");
    scene.file("2_rebuild.sql", &REBUILD.replace("id INTEGER PRIMARY KEY", "id INTEGER"));
    let error = scene.up().unwrap_err();
    let Error::Harm { harms, .. } = &error else { panic!("{error}") };
    assert!(matches!(&harms[..], [Harm::BrokenReference { table, .. }] if table == "child"), "{error}");
}

#[test]
fn a_view_that_would_not_work_any_more_is_named() {
    let scene = Scene::with_children();
    scene.app("CREATE VIEW names AS SELECT name FROM parent");
    // SQLite itself refuses a rebuild below a view, unless it is told to rename as it did long ago.
    scene.file(
        "1_rebuild.sql",
        "-- migrate:up
         PRAGMA legacy_alter_table=ON;
         CREATE TABLE p(id INTEGER PRIMARY KEY, label TEXT);
         INSERT INTO p SELECT * FROM parent; DROP TABLE parent; ALTER TABLE p RENAME TO parent;
         -- litekeep:allow lost-object no names any more",
    );
    let error = scene.up().unwrap_err();
    let Error::Harm { harms, .. } = &error else { panic!("{error}") };
    assert!(matches!(&harms[..], [Harm::BrokenView { name, .. }] if name == "names"), "{error}");
}

#[test]
fn a_failed_statement_is_named_by_file_and_line_and_undoes_its_file_only() {
    let scene = Scene::with_children();
    scene.file("1_good.sql", "-- migrate:up\nALTER TABLE child ADD COLUMN age INTEGER;");
    scene.file(
        "2_bad.sql",
        "-- migrate:up\nBEGIN;\nDELETE FROM child;\nCOMMIT;\n\nINSERT INTO nowhere VALUES(1);",
    );
    let error = scene.up().unwrap_err();
    let text = error.to_string();
    assert!(text.contains("2_bad.sql`, line 6: no such table: nowhere"), "{text}");
    assert_eq!(scene.count("child"), 3, "a COMMIT in a file does not commit");
    let states: Vec<State> =
        status(&scene.database(), &scene.folder()).unwrap().into_iter().map(|s| s.state).collect();
    assert_eq!(states, [State::Applied, State::Pending]);
}

#[test]
fn what_does_not_fit_into_a_transaction_is_refused_with_its_reason() {
    for (statement, reason) in [
        ("ROLLBACK;", "one transaction"),
        ("ATTACH 'other.db' AS other;", "ATTACH"),
        ("PRAGMA journal_mode=DELETE;", "journal mode"),
        ("VACUUM;", "VACUUM"),
    ] {
        let scene = Scene::with_children();
        scene.file("1_bad.sql", &format!("-- migrate:up\nDELETE FROM child;\n{statement}"));
        let error = scene.up().unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains(reason), "{error}");
        assert_eq!(scene.count("child"), 3);
    }
}

#[test]
fn a_trigger_with_many_statements_is_one_statement() {
    let scene = Scene::new();
    scene.file(
        "1_trigger.sql",
        "-- migrate:up\nCREATE TABLE t(x); CREATE TABLE log(x);\nCREATE TRIGGER g AFTER INSERT ON t BEGIN\n  INSERT INTO log VALUES('a;b');\n  INSERT INTO log VALUES(2);\nEND;\nINSERT INTO t VALUES(1) /* ; */;",
    );
    assert_eq!(scene.up().unwrap(), 1);
    assert_eq!(scene.count("log"), 2);
}

#[test]
fn the_way_back_is_taken_for_the_last_one() {
    let scene = Scene::new();
    scene.file("1_a.sql", "-- migrate:up\nCREATE TABLE a(x);\n-- migrate:down\nDROP TABLE a;");
    scene.file("10_b.sql", "-- migrate:up\nCREATE TABLE b(x);\n-- migrate:down\nDROP TABLE b;");
    assert_eq!(scene.up().unwrap(), 2);
    assert_eq!(down(&scene.database(), &scene.folder()).unwrap().unwrap().version, "10");
    assert_eq!(scene.count("a"), 0);
    assert_eq!(scene.up().unwrap(), 1);
    std::fs::remove_file(scene.dir.path().join("migrations/10_b.sql")).unwrap();
    assert!(down(&scene.database(), &scene.folder()).unwrap_err().to_string().contains("has no file for it"));
    let states: Vec<State> =
        status(&scene.database(), &scene.folder()).unwrap().into_iter().map(|s| s.state).collect();
    assert_eq!(states, [State::Applied, State::Missing]);
}

#[test]
fn of_ten_that_start_at_once_one_runs_what_is_pending() {
    let scene = Scene::with_children();
    for n in 1..=5 {
        scene.file(&format!("{n}_add.sql"), &format!("-- migrate:up\nALTER TABLE child ADD COLUMN c{n};"));
    }
    let (begin, folder, database) = (Barrier::new(10), scene.folder(), scene.database());
    let ran: Vec<usize> = std::thread::scope(|scope| {
        let race = || {
            begin.wait();
            up(&database, &folder, &mut ()).unwrap().len()
        };
        let racers: Vec<_> = (0..10).map(|_| scope.spawn(race)).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert_eq!(ran.iter().sum::<usize>(), 5, "{ran:?}");
    assert_eq!(scene.count("schema_migrations"), 5);
}

/// Ends the transaction of another connection when it has been told three times that it is waited for.
struct Waiting {
    other: Option<Application>,
    told: Vec<Duration>,
    most: usize,
}

impl Attend for Waiting {
    fn waits(&mut self, waited: Duration) -> bool {
        self.told.push(waited);
        if self.told.len() == 3 {
            self.other.take();
        }
        self.told.len() < self.most
    }
}

/// Of several that begin together one may rebuild a large table for minutes.
#[test]
fn another_that_holds_the_lock_is_waited_for_until_it_is_said_to_be_too_long() {
    let scene = Scene::with_children();
    scene.file("1_add.sql", "-- migrate:up\nALTER TABLE child ADD COLUMN more;");
    let held = || {
        let other = Application::open(&scene.database()).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        Some(other)
    };
    let mut waiting = Waiting { other: held(), told: vec![], most: 2 };
    let error = up(&scene.database(), &scene.folder(), &mut waiting).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(waiting.told.len() == 2 && waiting.told.is_sorted(), "{:?}", waiting.told);
    drop(waiting);
    let mut waiting = Waiting { other: held(), told: vec![], most: usize::MAX };
    assert_eq!(up(&scene.database(), &scene.folder(), &mut waiting).unwrap().len(), 1);
    assert_eq!(waiting.told.len(), 3);
}

#[test]
fn another_tools_history_is_left_alone() {
    let scene = Scene::new();
    scene.app("CREATE TABLE schema_migrations(version uint64, dirty bool); INSERT INTO schema_migrations VALUES(3, 0)");
    scene.file("4_d.sql", "-- migrate:up\nCREATE TABLE d(x);");
    let error = scene.up().unwrap_err();
    assert!(error.to_string().contains("the history of golang-migrate"), "{error}");
    let rows =
        Application::open(&scene.database()).unwrap().query("SELECT * FROM schema_migrations", &[]).unwrap();
    assert_eq!(rows, [vec![Value::Integer(3), Value::Integer(0)]]);
}

/// What `up` tells, in its order; a writer comes between two migrations when it is told to.
struct Told<'a> {
    scene: &'a Scene,
    writes: bool,
    said: Vec<String>,
}

impl Attend for Told<'_> {
    fn begins(&mut self, pending: &[&Migration]) {
        let is_locked =
            Application::open(&self.scene.database()).unwrap().query("SELECT * FROM one", &[]).is_err();
        self.said.push(format!("{} pending, nothing changed: {is_locked}", pending.len()));
    }

    fn ran(&mut self, done: &Done) {
        if self.writes && done.version == "1" {
            self.scene.app("INSERT INTO one VALUES(1)");
        }
        self.said.push(done.version.clone());
    }

    fn ends(&mut self, disturbed: bool) {
        self.said.push(format!("disturbed: {disturbed}"));
    }
}

#[test]
fn whoever_writes_between_two_migrations_is_noticed() {
    for writes in [false, true] {
        let scene = Scene::new();
        scene.app("CREATE TABLE before(x)");
        scene.file("1_one.sql", "-- migrate:up\nCREATE TABLE one(x);");
        scene.file("2_two.sql", "-- migrate:up\nCREATE TABLE two(x);");
        let mut told = Told { scene: &scene, writes, said: vec![] };
        up(&scene.database(), &scene.folder(), &mut told).unwrap();
        let disturbed = format!("disturbed: {writes}");
        assert_eq!(told.said, ["2 pending, nothing changed: true", "1", "2", &disturbed]);
        let mut told = Told { scene: &scene, writes, said: vec![] };
        up(&scene.database(), &scene.folder(), &mut told).unwrap();
        assert!(told.said.is_empty(), "nothing is pending");
    }
}
