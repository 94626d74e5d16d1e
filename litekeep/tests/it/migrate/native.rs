//! Goal: other tools go on where litekeep stopped, and litekeep where they did. Method: the real tools.

use litekeep_testkit::installed;

use super::{UP, place};
use crate::{Place, Ran};

/// The real dbmate on a database of the same place.
fn dbmate(place: &Place, arguments: &[&str]) -> String {
    let mut command = std::process::Command::new(installed::dbmate().unwrap());
    command.args(["--no-dump-schema", "-d", "migrations", "-u", "sqlite:app.db"]).args(arguments);
    command.current_dir(place.dir.path());
    Ran::of(command).succeeded().stdout
}

#[test]
fn dbmate_and_litekeep_go_on_where_the_other_stopped() {
    let place = place();
    dbmate(&place, &["up"]);
    let second = UP.replace("orders", "invoices");
    std::fs::write(place.path("migrations/99990101000000_invoices.sql"), second).unwrap();
    let applied = place.run(&["migrate", "up", "app.db", "--json"]).succeeded().json();
    assert_eq!(applied["applied"].as_array().unwrap().len(), 1, "{applied}");
    assert!(dbmate(&place, &["status"]).contains("Pending: 0"));
    dbmate(&place, &["down"]);
    place.run(&["migrate", "down", "app.db"]).succeeded();
    assert!(dbmate(&place, &["status"]).contains("Applied: 0"));
}

/// What Drizzle says that has run, after it has run what was pending.
fn drizzle(place: &Place, folder: &str) -> serde_json::Value {
    let mut command = std::process::Command::new("node");
    command.arg(installed::drizzle().unwrap()).args(["app.db", folder]).current_dir(place.dir.path());
    Ran::of(command).succeeded().json()
}

/// A place with the folders `one` and `both`, of which the second has a rebuild of the table `parent`, and a database in which `first` has
/// run the first and that has rows. The files are such as drizzle-kit writes them.
fn of_drizzle(first: impl Fn(&Place)) -> (Place, rusqlite::Connection) {
    let files = [
        "CREATE TABLE `parent` (`id` integer PRIMARY KEY NOT NULL, `name` text);
--> statement-breakpoint
CREATE TABLE `child` (`id` integer PRIMARY KEY NOT NULL, `parent` integer REFERENCES parent(id) ON DELETE cascade)",
        "PRAGMA foreign_keys=OFF;--> statement-breakpoint
CREATE TABLE `__new_parent` (`id` integer PRIMARY KEY NOT NULL, `name` text NOT NULL);
--> statement-breakpoint
INSERT INTO `__new_parent`(\"id\", \"name\") SELECT \"id\", \"name\" FROM `parent`;--> statement-breakpoint
DROP TABLE `parent`;--> statement-breakpoint
ALTER TABLE `__new_parent` RENAME TO `parent`;--> statement-breakpoint
PRAGMA foreign_keys=ON;",
    ];
    let place = Place::new();
    for (folder, count) in [("one", 1), ("both", 2)] {
        std::fs::create_dir_all(place.path(folder).join("meta")).unwrap();
        let entry = |n: usize| serde_json::json!({"idx": n, "when": 1_767_225_600_000_u64 + n as u64, "tag": format!("{n:04}_x")});
        let entries: Vec<_> = (0..count).map(entry).collect();
        let journal = serde_json::json!({"version": "7", "dialect": "sqlite", "entries": entries});
        std::fs::write(place.path(folder).join("meta/_journal.json"), journal.to_string()).unwrap();
        for (n, text) in files.iter().enumerate().take(count) {
            std::fs::write(place.path(folder).join(format!("{n:04}_x.sql")), text).unwrap();
        }
    }
    first(&place);
    let app = rusqlite::Connection::open(place.path("app.db")).unwrap();
    let rows = "INSERT INTO parent VALUES(1, 'a'); INSERT INTO child VALUES(1, 1), (2, 1), (3, 1)";
    app.execute_batch(rows).unwrap();
    (place, app)
}

fn children(app: &rusqlite::Connection) -> i64 {
    app.query_row("SELECT count(*) FROM child", [], |row| row.get(0)).unwrap()
}

#[test]
fn drizzle_and_litekeep_go_on_where_the_other_stopped() {
    let begun = || of_drizzle(|place| drop(drizzle(place, "one")));
    let (place, app) = begun();
    let by_drizzle = drizzle(&place, "both");
    assert_eq!(children(&app), 3, "its client has foreign keys off");
    let (place, app) = begun();
    assert_eq!(place.run(&["migrate", "status", "--dir", "both", "app.db"]).code, 1);
    place.run(&["migrate", "up", "--dir", "both", "app.db"]).succeeded();
    assert_eq!(children(&app), 3);
    assert_eq!(
        drizzle(&place, "both"),
        by_drizzle,
        "there is nothing to do for Drizzle, and the history is its own"
    );
}

/// Drizzle runs all in one transaction, in which `PRAGMA foreign_keys=OFF` of its own files does nothing, and better-sqlite3 has them on.
#[test]
fn children_that_drizzle_loses_with_better_sqlite3_stay() {
    let drizzle = |place: &Place, folder: &str| {
        let mut command = installed::drizzle_by_better_sqlite3().unwrap();
        command.args(["app.db", folder]).current_dir(place.dir.path());
        Ran::of(command).succeeded();
    };
    let begun = || of_drizzle(|place| drizzle(place, "one"));
    let (place, app) = begun();
    drizzle(&place, "both");
    assert_eq!(children(&app), 0);
    let (place, app) = begun();
    place.run(&["migrate", "up", "--dir", "both", "app.db"]).succeeded();
    assert_eq!(children(&app), 3);
    drizzle(&place, "both");
    assert_eq!(children(&app), 3, "there is nothing to do for Drizzle");
}

/// The real sqlx or refinery on `app.db` of a place.
fn native(place: &Place, arguments: &[&str]) -> Ran {
    let mut command = std::process::Command::new(installed::migrators().unwrap());
    command.arg(arguments[0]).args(["app.db", "migrations"]).args(&arguments[1..]);
    command.current_dir(place.dir.path());
    Ran::of(command)
}

/// A place without a database, with a folder of migrations.
fn folder(files: &[(&str, &str)]) -> Place {
    let place = Place::new();
    std::fs::create_dir(place.path("migrations")).unwrap();
    for (name, text) in files {
        std::fs::write(place.path("migrations").join(name), text).unwrap();
    }
    place
}

#[test]
fn sqlx_and_litekeep_go_on_where_the_other_stopped() {
    let place = folder(&[
        ("20260101_make_orders.up.sql", "CREATE TABLE orders(id INTEGER PRIMARY KEY);\n"),
        ("20260101_make_orders.down.sql", "DROP TABLE orders;\n"),
    ]);
    native(&place, &["sqlx"]).succeeded();
    let second = [
        ("up", "ALTER TABLE orders ADD COLUMN at_once;"),
        ("down", "ALTER TABLE orders DROP COLUMN at_once;"),
    ];
    for (end, text) in second {
        std::fs::write(place.path(&format!("migrations/20260102_at_once.{end}.sql")), text).unwrap();
    }
    let applied = place.run(&["migrate", "up", "app.db", "--json"]).succeeded().json();
    assert_eq!(applied["applied"].as_array().unwrap().len(), 1, "{applied}");
    // It compares checksums; had it found one that differs, or a migration to run, this would fail.
    native(&place, &["sqlx"]).succeeded();
    native(&place, &["sqlx", "20260101"]).succeeded();
    assert_eq!(place.run(&["migrate", "status", "app.db"]).code, 1, "the second is pending again");
    place.run(&["migrate", "up", "app.db"]).succeeded();
    place.run(&["migrate", "down", "app.db"]).succeeded();
    native(&place, &["sqlx"]).succeeded();
    let app = rusqlite::Connection::open(place.path("app.db")).unwrap();
    let history = |what: &str| {
        let sql = format!("SELECT {what} FROM _sqlx_migrations ORDER BY version");
        let mut rows = app.prepare(&sql).unwrap();
        rows.query_map([], |row| row.get::<_, String>(0)).unwrap().collect::<Result<Vec<_>, _>>().unwrap()
    };
    assert_eq!(history("description"), ["make orders", "at once"]);
    // Whoever ran a file, its entry is the same: the table is compared with one that sqlx has filled alone.
    let ours = (history("hex(checksum)"), history("success || typeof(checksum) || typeof(installed_on)"));
    app.execute_batch("DROP TABLE orders; DROP TABLE _sqlx_migrations").unwrap();
    native(&place, &["sqlx"]).succeeded();
    assert_eq!(
        (history("hex(checksum)"), history("success || typeof(checksum) || typeof(installed_on)")),
        ours
    );
}

#[test]
fn refinery_and_litekeep_go_on_where_the_other_stopped() {
    let place = folder(&[("V1__orders.sql", "CREATE TABLE orders(id INTEGER PRIMARY KEY);\n")]);
    // It makes no database.
    std::fs::write(place.path("app.db"), "").unwrap();
    native(&place, &["refinery"]).succeeded();
    std::fs::write(place.path("migrations/V2__a_lot_more.sql"), "ALTER TABLE orders ADD COLUMN y;\n")
        .unwrap();
    let applied = place.run(&["migrate", "up", "app.db", "--json"]).succeeded().json();
    assert_eq!(applied["applied"].as_array().unwrap().len(), 1, "{applied}");
    std::fs::write(place.path("migrations/V3__z.sql"), "ALTER TABLE orders ADD COLUMN z;\n").unwrap();
    native(&place, &["refinery"]).succeeded();
    assert!(place.run(&["migrate", "up", "app.db"]).succeeded().stdout.contains("up to date"));
    // It compares checksums: of a file that was edited afterwards it says so.
    std::fs::write(place.path("migrations/V2__a_lot_more.sql"), "ALTER TABLE orders ADD COLUMN x;\n")
        .unwrap();
    let differs = native(&place, &["refinery"]);
    assert!(differs.code != 0 && differs.stderr.contains("Divergent"), "{}", differs.stderr);
}

#[test]
fn prisma_and_litekeep_go_on_where_the_other_stopped() {
    let place = Place::new();
    let add = |name: &str| {
        std::fs::create_dir_all(place.path("migrations").join(name)).unwrap();
        let text = format!("CREATE TABLE \"{name}\" (\"id\" INTEGER NOT NULL PRIMARY KEY);\n");
        std::fs::write(place.path("migrations").join(name).join("migration.sql"), text).unwrap();
    };
    let prisma = |arguments: &[&str]| {
        let mut command = installed::prisma(&place.path("app.db"), &place.path("migrations")).unwrap();
        command.args(arguments);
        Ran::of(command)
    };
    add("20260101000000_one");
    std::fs::write(place.path("migrations/migration_lock.toml"), "provider = \"sqlite\"\n").unwrap();
    prisma(&["deploy"]).succeeded();
    add("20260102000000_two");
    assert_ne!(prisma(&["status"]).code, 0, "one is pending");
    let applied = place.run(&["migrate", "up", "app.db", "--json"]).succeeded().json();
    assert_eq!(applied["applied"].as_array().unwrap().len(), 1, "{applied}");
    let status = prisma(&["status"]).succeeded().stdout;
    assert!(status.contains("up to date"), "{status}");
    add("20260103000000_three");
    prisma(&["deploy"]).succeeded();
    assert!(place.run(&["migrate", "up", "app.db"]).succeeded().stdout.contains("up to date"));
    // Its own rows and ours are of one kind; it reads instants that its native engine has written too.
    let app = rusqlite::Connection::open(place.path("app.db")).unwrap();
    let kinds = "SELECT group_concat(DISTINCT typeof(id) || length(id) || typeof(started_at) || length(started_at) || typeof(finished_at) || length(checksum) || applied_steps_count || coalesce(logs, '')) FROM _prisma_migrations";
    let kinds = app.query_row(kinds, [], |row| row.get::<_, String>(0)).unwrap();
    assert!(!kinds.contains(','), "{kinds}");
    app.execute_batch(
        "UPDATE _prisma_migrations SET started_at = 1767225600000, finished_at = 1767225600001",
    )
    .unwrap();
    add("20260104000000_four");
    place.run(&["migrate", "up", "app.db"]).succeeded();
    let numbers = "SELECT count(*) FROM _prisma_migrations WHERE typeof(started_at) = 'integer'";
    assert_eq!(app.query_row(numbers, [], |row| row.get::<_, i64>(0)).unwrap(), 4);
    assert!(prisma(&["status"]).succeeded().stdout.contains("up to date"));
}

/// The danger that this is all about: with foreign keys on, as the drivers have them, the same file costs other tools the children.
#[test]
fn children_that_other_tools_lose_stay() {
    const REBUILD: &str = "PRAGMA foreign_keys=OFF;
CREATE TABLE new(id INTEGER PRIMARY KEY, name TEXT NOT NULL);
INSERT INTO new SELECT id, name FROM parent;
DROP TABLE parent;
ALTER TABLE new RENAME TO parent;
PRAGMA foreign_keys=ON;
";
    let left = |file: &str, text: &str, by: &dyn Fn(&Place)| {
        let place = folder(&[(file, text)]);
        let app = rusqlite::Connection::open(place.path("app.db")).unwrap();
        app.execute_batch(
            "CREATE TABLE parent(id INTEGER PRIMARY KEY, name TEXT);
             CREATE TABLE child(id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent(id) ON DELETE CASCADE);
             INSERT INTO parent VALUES(1, 'a'); INSERT INTO child VALUES(1, 1), (2, 1), (3, 1)",
        )
        .unwrap();
        by(&place);
        children(&app)
    };
    let by_litekeep = |convention: &'static str| {
        move |place: &Place| {
            place.run(&["migrate", "up", "app.db", "--convention", convention]).succeeded();
        }
    };
    let marked = format!("-- migrate:up\n{REBUILD}-- migrate:down\n");
    let by_dbmate = |place: &Place| drop(dbmate(place, &["-u", "sqlite:app.db?_fk=1", "up"]));
    assert_eq!(left("1_rebuild.sql", &marked, &by_dbmate), 0);
    assert_eq!(left("1_rebuild.sql", &marked, &by_litekeep("dbmate")), 3);
    let by_sqlx = |place: &Place| drop(native(place, &["sqlx"]).succeeded());
    assert_eq!(left("1_rebuild.sql", REBUILD, &by_sqlx), 0);
    assert_eq!(left("1_rebuild.sql", REBUILD, &by_litekeep("sqlx")), 3);
    let by_refinery = |place: &Place| drop(native(place, &["refinery"]).succeeded());
    assert_eq!(left("V1__rebuild.sql", REBUILD, &by_refinery), 0);
    assert_eq!(left("V1__rebuild.sql", REBUILD, &by_litekeep("refinery")), 3);
}
