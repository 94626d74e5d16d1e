//! Goal: many databases are migrated fast, a bad migration is stopped early, and nothing is done twice. Method: the real binary
//! over folders of small databases.

use litekeep_testkit::process::eventually;

use crate::Place;
use crate::scene::LONG;
use crate::shapes::matches;

/// So many databases, and a migration that fails in those whose rows are not unique.
fn fleet(databases: usize) -> Place {
    let place = Place::new();
    for folder in ["migrations", "tenants"] {
        std::fs::create_dir(place.path(folder)).unwrap();
    }
    let toml = "[[database]]\ndir = './tenants'\npattern = '*.db'\nbackup = './backup'\nmigrations = './migrations'\n";
    std::fs::write(place.path("litekeep.toml"), toml).unwrap();
    std::fs::write(place.path("migrations/1_once.sql"), "-- migrate:up\nCREATE UNIQUE INDEX once ON t(x);\n")
        .unwrap();
    let template = place.database("template.db", 5);
    for n in 0..databases {
        std::fs::copy(&template, place.path(&format!("tenants/{n:04}.db"))).unwrap();
    }
    place
}

/// Makes the migration fail there.
fn spoil(place: &Place, n: usize) {
    let app = rusqlite::Connection::open(place.path(&format!("tenants/{n:04}.db"))).unwrap();
    app.execute_batch("INSERT INTO t(x) VALUES('same'), ('same')").unwrap();
}

fn mend(place: &Place, n: usize) {
    let app = rusqlite::Connection::open(place.path(&format!("tenants/{n:04}.db"))).unwrap();
    app.execute_batch("DELETE FROM t WHERE x = 'same'").unwrap();
}

#[test]
fn all_databases_are_migrated() {
    let place = fleet(200);
    let ran = place.run(&["migrate", "up", "--all", "--json"]).succeeded().json();
    matches("migrate-up-all", &ran);
    assert_eq!((&ran["databases"], &ran["migrated"]), (&200.into(), &200.into()), "{ran:#}");
    println!("{:.0} databases a second", 200.0 / ran["seconds"].as_f64().unwrap());
    let again = place.run(&["migrate", "up", "--all", "--json"]).succeeded().json();
    assert_eq!((&again["migrated"], &again["up_to_date"]), (&0.into(), &200.into()), "{again:#}");
    assert!(!place.path(".litekeep-migrate.journal").exists());
}

/// Without the end `undo` would have to ask what others wrote.
#[test]
fn the_marks_of_all_databases_have_their_ends() {
    let place = fleet(20);
    let litekeep =
        litekeep_testkit::Process::start(place.command(&["replicate"]), &place.path("litekeep.log")).unwrap();
    let is_there = |n: usize| place.path(&format!("backup/{n:04}.db/ltx")).exists();
    eventually("all are replicated", LONG, || Ok((0..20).all(is_there))).unwrap();
    place.run(&["migrate", "up", "--all"]).succeeded();
    for n in 0..20 {
        let database = format!("tenants/{n:04}.db");
        let status = place.run(&["migrate", "status", &database, "--json"]).succeeded().json();
        let mark = &status["marks"][0];
        assert!(mark["txid"].is_string() && mark["end"].is_string(), "{status:#}");
    }
    litekeep.terminate(LONG).unwrap();
}

#[test]
fn programs_of_others_migrate_theirs_among_all() {
    let place = fleet(3);
    let toml = std::fs::read_to_string(place.path("litekeep.toml")).unwrap();
    let program = "[[database]]\npath = 'template.db'\nbackup = './other'\nmigrations = { command = 'python3 add.py {db}' }\n";
    std::fs::write(place.path("litekeep.toml"), format!("{toml}{program}")).unwrap();
    let add =
        "import sqlite3, sys\nsqlite3.connect(sys.argv[1]).execute('CREATE TABLE IF NOT EXISTS more(x)')\n";
    std::fs::write(place.path("add.py"), add).unwrap();
    let ran = place.run(&["migrate", "up", "--all", "--json"]).succeeded().json();
    assert_eq!((&ran["databases"], &ran["migrated"]), (&4.into(), &4.into()), "{ran:#}");
    let again = place.run(&["migrate", "up", "--all", "--json"]).succeeded().json();
    assert_eq!((&again["migrated"], &again["up_to_date"]), (&0.into(), &4.into()), "{again:#}");
}

#[test]
fn status_of_all_names_those_that_are_behind() {
    let place = fleet(4);
    let status = |code: i32| {
        let ran = place.run(&["migrate", "status", "--all", "--json"]);
        assert_eq!(ran.code, code, "{}{}", ran.stdout, ran.stderr);
        ran.json()
    };
    let before = status(1);
    assert_eq!(before["behind"].as_array().unwrap().len(), 4, "{before:#}");
    place.run(&["migrate", "up", "--all"]).succeeded();
    let after = status(0);
    assert_eq!((&after["up_to_date"], &after["behind"]), (&4.into(), &serde_json::json!([])), "{after:#}");

    // One ran what the folder does not have any more, one has the history of another tool, and the others lack the new file.
    let app = rusqlite::Connection::open(place.path("tenants/0001.db")).unwrap();
    app.execute_batch("INSERT INTO schema_migrations VALUES('0')").unwrap();
    let other = rusqlite::Connection::open(place.path("tenants/0002.db")).unwrap();
    other
        .execute_batch("DROP TABLE schema_migrations; CREATE TABLE schema_migrations(version, dirty)")
        .unwrap();
    std::fs::write(place.path("migrations/2_more.sql"), "-- migrate:up\nCREATE TABLE more(x);\n").unwrap();
    let behind = status(1);
    matches("migrate-status-all", &behind);
    assert_eq!(behind["behind"].as_array().unwrap().len(), 3, "{behind:#}");
    assert_eq!(behind["behind"][1]["pending"], serde_json::json!(["2"]), "{behind:#}");
    assert_eq!(behind["behind"][1]["missing"], serde_json::json!(["0"]), "{behind:#}");
    let failed = behind["failed"][0]["database"].as_str().unwrap();
    assert!(failed.ends_with("tenants/0002.db"), "{behind:#}");
    let text = place.run(&["migrate", "status", "--all"]);
    for word in [
        "4 databases: 0 up to date, 3 with pending migrations, 1 that cannot be read",
        "litekeep migrate up --all",
    ] {
        assert!(text.stdout.contains(word), "{}", text.stdout);
    }
}

#[test]
fn a_canary_that_fails_stops_everything() {
    let place = fleet(20);
    spoil(&place, 2);
    let ran = place.run(&["migrate", "up", "--all", "--json", "--canary", "3", "--max-failures", "9"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let ran = ran.json();
    matches("migrate-up-all", &ran);
    assert_eq!((&ran["migrated"], &ran["left"]), (&2.into(), &17.into()), "{ran:#}");
    assert!(ran["failed"][0]["error"]["causes"][0].as_str().unwrap().contains("UNIQUE"), "{ran:#}");
}

#[test]
fn the_budget_of_failures_ends_the_waves_and_the_journal_goes_on_behind_them() {
    let place = fleet(30);
    [5, 6, 12].iter().for_each(|n| spoil(&place, *n));
    let up = |budget: &str| {
        place.run(&[
            "migrate",
            "up",
            "--all",
            "--json",
            "--wave",
            "5",
            "--workers",
            "1",
            "--max-failures",
            budget,
        ])
    };
    let ran = up("1");
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    // The canary, a wave with the first failure, and of the next one only the second failure.
    assert_eq!(
        (ran.json()["migrated"].clone(), ran.json()["left"].clone()),
        (5.into(), 23.into()),
        "{}",
        ran.stdout
    );
    let ran = up("3");
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    // None of those that failed before is a canary now, which would keep the others from being tried.
    let ran = ran.json();
    assert_eq!((&ran["migrated"], &ran["left"]), (&22.into(), &0.into()), "{ran:#}");
    assert_eq!(ran["failed"].as_array().unwrap().len(), 3, "{ran:#}");
    [5, 6, 12].iter().for_each(|n| mend(&place, *n));
    let ran = up("0").succeeded().json();
    assert_eq!(
        (&ran["done_before"], &ran["migrated"], &ran["left"]),
        (&27.into(), &3.into(), &0.into()),
        "{ran:#}"
    );
    assert!(!place.path(".litekeep-migrate.journal").exists());
}

/// They were taken without a word, and meant nothing.
#[test]
fn what_is_for_all_databases_is_refused_for_one() {
    let place = fleet(1);
    let flags =
        [["--canary", "2"], ["--wave", "2"], ["--workers", "2"], ["--max-failures", "2"], ["--journal", "j"]];
    for flag in flags {
        for rest in [&["template.db"][..], &["--command", "true", "template.db"], &[]] {
            let ran = place.run(&[&["migrate", "up"][..], rest, &flag].concat());
            let named = ran.stderr.contains(flag[0]) || ran.stderr.contains("--all");
            assert!(ran.code == 2 && named, "{flag:?} {rest:?}: {} {}", ran.code, ran.stderr);
        }
    }
    assert_eq!(place.run(&["migrate", "status", "template.db"]).code, 1, "nothing has run");
}

/// The journal had it as done, and it stayed behind while the run was a success.
#[test]
fn a_database_that_was_set_back_meanwhile_is_migrated_again() {
    let place = fleet(3);
    spoil(&place, 2);
    assert_eq!(place.run(&["migrate", "up", "--all", "--workers", "1"]).code, 1);
    // As `undo` and `restore` do.
    for end in ["", "-wal", "-shm"] {
        _ = std::fs::remove_file(place.path(&format!("tenants/0000.db{end}")));
    }
    std::fs::copy(place.path("template.db"), place.path("tenants/0000.db")).unwrap();
    mend(&place, 2);
    let ran = place.run(&["migrate", "up", "--all", "--json"]).succeeded().json();
    assert_eq!((&ran["done_before"], &ran["migrated"]), (&1.into(), &2.into()), "{ran:#}");
    place.run(&["migrate", "status", "--all"]).succeeded();
}

#[test]
fn a_journal_of_other_migrations_does_not_count() {
    let place = fleet(4);
    spoil(&place, 3);
    assert_eq!(place.run(&["migrate", "up", "--all"]).code, 1);
    std::fs::write(place.path("migrations/2_more.sql"), "-- migrate:up\nCREATE TABLE more(x);\n").unwrap();
    mend(&place, 3);
    let ran = place.run(&["migrate", "up", "--all", "--json"]).succeeded().json();
    assert_eq!((&ran["done_before"], &ran["migrated"]), (&0.into(), &4.into()), "{ran:#}");
}

/// The folder of the first database ran on every one.
#[test]
fn each_database_is_migrated_by_its_own_folder() {
    let place = fleet(3);
    std::fs::create_dir(place.path("users-migrations")).unwrap();
    let sql = "-- migrate:up\nCREATE TABLE users(x);\n";
    std::fs::write(place.path("users-migrations/1_users.sql"), sql).unwrap();
    place.database("users.db", 5);
    let database = "[[database]]\npath = './users.db'\nbackup = './users-backup'\n";
    let tenants = std::fs::read_to_string(place.path("litekeep.toml")).unwrap();
    std::fs::write(place.path("litekeep.toml"), format!("{database}{tenants}")).unwrap();
    let ran = place.run(&["migrate", "up", "--all"]);
    assert!(
        ran.code != 0 && ran.stderr.contains("users.db") && ran.stderr.contains("--dir"),
        "{}",
        ran.stderr
    );

    let toml = format!("{database}migrations = './users-migrations'\n{tenants}");
    std::fs::write(place.path("litekeep.toml"), toml).unwrap();
    let ran = place.run(&["migrate", "up", "--all", "--json"]).succeeded().json();
    assert_eq!((&ran["migrated"], ran["folders"].as_array().unwrap().len()), (&4.into(), 2), "{ran:#}");
    let has = |name: &str, what: &str| {
        let app = rusqlite::Connection::open(place.path(name)).unwrap();
        let sql = "SELECT count(*) FROM sqlite_schema WHERE name = ?1";
        app.query_row(sql, [what], |row| row.get::<_, i64>(0)).unwrap() == 1
    };
    assert!(has("users.db", "users") && !has("users.db", "once"));
    assert!(has("tenants/0001.db", "once") && !has("tenants/0001.db", "users"));
}
