use litekeep_schema::Error;
use litekeep_schema::migrations::{Convention, Folder, State, down, new_file, status, up};
use litekeep_sql::{Application, Value};
use std::path::PathBuf;

/// A database, and a folder of migrations with these files.
struct Scene {
    dir: tempfile::TempDir,
}

const A: &str = "CREATE TABLE a(x);\n";
const B: &str = "CREATE TABLE b(x);\n";

impl Scene {
    fn new(files: &[(&str, &str)]) -> Scene {
        let scene = Scene { dir: tempfile::tempdir().unwrap() };
        for (name, text) in files {
            let path = scene.migrations().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        scene
    }

    fn migrations(&self) -> PathBuf {
        self.dir.path().join("migrations")
    }

    fn database(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    fn app(&self) -> Application {
        Application::create(&self.database()).unwrap()
    }

    fn read(&self, convention: Option<Convention>) -> Result<Folder, Error> {
        Folder::read(&self.migrations(), convention, Some(&self.database()))
    }

    fn up(&self, convention: Option<Convention>) -> Result<usize, Error> {
        up(&self.database(), &self.read(convention)?, &mut ()).map(|ran| ran.len())
    }

    fn rows(&self, sql: &str) -> Vec<Vec<Value>> {
        self.app().query(sql, &[]).unwrap()
    }

    fn refused(&self, convention: Option<Convention>, parts: &[&str]) {
        let error = self.up(convention).unwrap_err();
        let text = format!("{error}; {}", error.hint().unwrap_or_default());
        for part in parts {
            assert!(text.contains(part), "`{part}` is not in: {text}");
        }
    }
}

const PAIRS: [(&str, &str); 4] = [
    ("000001_a.up.sql", A),
    ("000001_a.down.sql", "DROP TABLE a;"),
    ("000002_b.up.sql", B),
    ("000002_b.down.sql", "DROP TABLE b;"),
];

#[test]
fn files_that_could_be_of_two_tools_are_refused_until_somebody_says_whose_they_are() {
    let scene = Scene::new(&PAIRS);
    scene.refused(None, &["sqlx or golang-migrate", "--convention sqlx", "--convention golang-migrate"]);
    assert_eq!(scene.up(Some(Convention::GolangMigrate)).unwrap(), 2);
    assert_eq!(scene.read(None).unwrap().convention, Convention::GolangMigrate, "the history tells it now");
    let scene = Scene::new(&[("1_a.sql", A)]);
    scene.refused(None, &["dbmate or sqlx", "--convention sqlx", "`-- migrate:up`"]);
}

#[test]
fn migrations_of_one_tool_do_not_run_on_the_history_of_another() {
    let scene = Scene::new(&[("1_a.sql", "-- migrate:up\nCREATE TABLE a(x);")]);
    scene
        .app()
        .execute_batch("CREATE TABLE refinery_schema_history(version, name, applied_on, checksum)")
        .unwrap();
    scene.refused(None, &["migrations of dbmate", "the history of refinery", "--convention dbmate"]);
    assert_eq!(scene.up(Some(Convention::Dbmate)).unwrap(), 1);
    let scene = Scene::new(&[("1_a.sql", "-- migrate:up\nCREATE TABLE a(x);")]);
    scene.app().execute_batch("CREATE TABLE schema_migrations(id, name)").unwrap();
    scene.refused(None, &["the columns id, name", "not the history of dbmate"]);
}

#[test]
fn golang_migrate_has_one_row_and_a_dirty_one_is_refused() {
    let scene = Scene::new(&PAIRS);
    scene
        .app()
        .execute_batch(
            "CREATE TABLE schema_migrations (version uint64,dirty bool); CREATE UNIQUE INDEX version_unique ON schema_migrations (version);
             CREATE TABLE a(x); INSERT INTO schema_migrations VALUES(1, 0)",
        )
        .unwrap();
    assert_eq!(scene.up(None).unwrap(), 1, "the first has run");
    let now = |version: i64| vec![vec![Value::Integer(version), Value::Integer(0)]];
    assert_eq!(scene.rows("SELECT version, dirty FROM schema_migrations"), now(2));
    let folder = scene.read(None).unwrap();
    assert_eq!(down(&scene.database(), &folder).unwrap().unwrap().name, "b");
    assert_eq!(scene.rows("SELECT version, dirty FROM schema_migrations"), now(1));
    down(&scene.database(), &folder).unwrap();
    assert!(scene.rows("SELECT * FROM schema_migrations").is_empty());
    scene.app().execute_batch("INSERT INTO schema_migrations VALUES(2, true)").unwrap();
    scene.refused(None, &["dirty at version 2", "force 2"]);
    // So it marks that the way back of the first one failed.
    scene.app().execute_batch("UPDATE schema_migrations SET version = -1").unwrap();
    scene.refused(None, &["dirty at version -1", "force -1"]);
    assert!(status(&scene.database(), &folder).is_err());
}

#[test]
fn sqlx_failures_are_refused_and_down_files_are_the_way_back() {
    let scene = Scene::new(&PAIRS);
    assert_eq!(scene.up(Some(Convention::Sqlx)).unwrap(), 2);
    let rows = scene.rows("SELECT version, description, success, length(checksum), execution_time > 0 FROM _sqlx_migrations ORDER BY 1");
    assert_eq!(rows[1], [2.into(), "b".into(), 1.into(), 48.into(), 1.into()]);
    assert_eq!(down(&scene.database(), &scene.read(None).unwrap()).unwrap().unwrap().version, "2");
    scene.app().execute_batch("UPDATE _sqlx_migrations SET success = false").unwrap();
    scene.refused(
        None,
        &["migration 1 is marked as failed", "DELETE FROM _sqlx_migrations WHERE version = 1"],
    );
}

#[test]
fn prisma_has_a_folder_for_each_and_tries_that_failed_are_refused() {
    let files = [
        ("migration_lock.toml", "provider = \"sqlite\""),
        ("20260101000000_a/migration.sql", A),
        ("20260102000000_b/migration.sql", B),
    ];
    let scene = Scene::new(&files);
    assert_eq!(scene.up(None).unwrap(), 2);
    let rows = scene.rows(
        "SELECT migration_name, length(id), substr(id, 15, 1), checksum, started_at <= finished_at, applied_steps_count, typeof(finished_at) FROM _prisma_migrations ORDER BY 1",
    );
    // `sha256sum` of the file.
    let checksum = "d89afa701da71c81c35b234f040ec570c47f1ef405559e016be5780cae90ddf7";
    assert_eq!(rows[0][..3], ["20260101000000_a".into(), 36.into(), "4".into()]);
    assert_eq!(rows[0][3], checksum.into());
    assert_eq!(rows[0][4..], [1.into(), 1.into(), "text".into()]);
    let ids = scene.rows("SELECT count(DISTINCT id) FROM _prisma_migrations");
    assert_eq!(ids, [[2.into()]]);
    scene
        .app()
        .execute_batch("UPDATE _prisma_migrations SET finished_at = NULL WHERE migration_name LIKE '%_b'")
        .unwrap();
    scene.refused(None, &["`20260102000000_b` and did not finish", "prisma migrate resolve --rolled-back"]);
    scene
        .app()
        .execute_batch(
            "UPDATE _prisma_migrations SET rolled_back_at = 1 WHERE finished_at IS NULL; DROP TABLE b",
        )
        .unwrap();
    let states = status(&scene.database(), &scene.read(None).unwrap()).unwrap();
    assert_eq!(states.iter().map(|s| s.state).collect::<Vec<_>>(), [State::Applied, State::Pending]);
    assert_eq!(scene.up(None).unwrap(), 1);
}

#[test]
fn new_files_are_such_as_their_tool_reads() {
    for (files, convention, expected) in [
        (&[("V7__a.sql", A)][..], None, "V8__add_it.sql"),
        (&PAIRS[..], Some(Convention::GolangMigrate), "000003_add_it.up.sql"),
        (&PAIRS[..], Some(Convention::Sqlx), "20260101000000_add_it.up.sql"),
        (&[("1_a.sql", A)][..], Some(Convention::Sqlx), "20260101000000_add_it.sql"),
        (&[("1_a/migration.sql", A)][..], None, "20260101000000_add_it/migration.sql"),
    ] {
        let scene = Scene::new(files);
        let folder = scene.read(convention).unwrap();
        let made = new_file(&folder, "20260101000000", "add it").unwrap();
        assert_eq!(made, scene.migrations().join(expected));
        assert_eq!(scene.read(convention).unwrap().migrations.len(), folder.migrations.len() + 1);
    }
}
