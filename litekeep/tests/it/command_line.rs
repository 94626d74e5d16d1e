//! Bad input: each mistake is named with its place, its cause and what to do.

use crate::Place;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_missing_configuration_says_how_to_get_one() {
    Place::new().run(&["databases"]).failed_with(&[
        "error: could not list the databases\n  caused by: there is no configuration: none of `litekeep.toml`",
        "hint: `litekeep init ./app.db` writes one",
    ]);
    Place::new()
        .run(&["databases", "-config", "gone.toml"])
        .failed_with(&["caused by: read the configuration `gone.toml`: it does not exist", "hint:"]);
}

#[test]
fn a_wrong_key_is_shown_in_its_line() {
    let place = Place::new();
    let text = "[[database]]\npath = \"app.db\"\nbackup = \"./b\"\nsnapshto = \"24h\"\n";
    std::fs::write(place.path("litekeep.toml"), text).unwrap();
    place.run(&["databases"]).failed_with(&["unknown key `snapshto`", "4 | snapshto = \"24h\"", "^^^^^^^^"]);
}

#[test]
fn a_configuration_that_may_not_be_read() {
    let place = Place::new();
    let path = place.path("litekeep.toml");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::read(&path).is_ok() {
        // For the superuser everything may be read: a folder in its place cannot.
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        place.run(&["databases"]).failed_with(&["read the configuration `litekeep.toml`: is a directory"]);
    } else {
        place.run(&["databases"]).failed_with(&["read the configuration `litekeep.toml`: permission denied"]);
    }
}

#[test]
fn an_unknown_kind_of_store() {
    let place = Place::new();
    place.run(&["restore", "-o", "x.db", "s3x://bucket/app"]).failed_with(&[
        "error: could not restore `s3x://bucket/app`",
        "unknown kind of store `s3x://`: did you mean `s3://`?",
    ]);
    let error = place.run(&["restore", "-json", "-o", "x.db", "s3x://bucket/app"]).json_error();
    assert_eq!(error["kind"], "invalid");
    assert_eq!(error["message"], "could not restore `s3x://bucket/app`");
}

#[test]
fn mistyped_flags_and_verbs() {
    let place = Place::new();
    place.run(&["restore", "-txdi", "1", "a.db"]).failed_with(&["did you mean `-txid`?", "hint:"]);
    place.run(&["restor", "a.db"]).failed_with(&["unrecognized subcommand 'restor'", "restore"]);
    place.run(&["generations", "a.db"]).failed_with(&["there is no `litekeep generations`", "history"]);
    place.run(&["restore", "-replica", "s3", "a.db"]).failed_with(&["has no meaning", "URL"]);
    let error = place.run(&["restor", "--json"]).json_error();
    assert!(error["message"].as_str().unwrap().contains("unrecognized subcommand"), "{error}");
}

#[test]
fn goals_that_are_no_past_instant() {
    let place = Place::new();
    place.run(&["restore", "--at", "2999-01-01", "a.db"]).failed_with(&["is in the future"]);
    place.run(&["restore", "--at", "soon", "a.db"]).failed_with(&["`soon`: it is no time", "5 min ago"]);
    place.run(&["restore", "-timestamp", "14:00", "a.db"]).failed_with(&["no RFC 3339 time", "--at"]);
    place.run(&["restore", "-txid", "xyz", "a.db"]).failed_with(&["1 to 16 hexadecimal digits"]);
    place.run(&["restore", "-txid", "1", "-at", "14:00", "a.db"]).failed_with(&["cannot be used with"]);
}

#[test]
fn a_database_that_nobody_backs_up() {
    let place = Place::new();
    place.database("other.db", 1);
    place.run(&["restore", "other.db"]).failed_with(&[
        "there is no configuration that names `other.db`, and no backup `other.db-backup` beside it",
        "hint: name the configuration with --config",
    ]);
    place.database("app.db", 1);
    place.run(&["init", "app.db"]).succeeded();
    place.run(&["history", "other.db"]).failed_with(&["`other.db` is not in the configuration", "`app.db`"]);
    place.run(&["restore", "app.db"]).failed_with(&["the log is empty", "hint:"]);
    place.run(&["restore", "-if-replica-exists", "app.db"]).succeeded();
}

#[test]
fn init_writes_once_and_only_for_databases() {
    let place = Place::new();
    place.run(&["init", "app.db"]).failed_with(&["`app.db` does not exist", "hint:"]);
    std::fs::write(place.path("text.db"), "not a database, but long enough to have a header".repeat(3))
        .unwrap();
    place.run(&["init", "text.db"]).failed_with(&["the file is not a SQLite database"]);
    assert!(!place.path("litekeep.toml").exists());

    place.database("app.db", 1);
    let out = place.run(&["init", "app.db"]).succeeded().stdout;
    assert!(out.contains("journal mode wal") && out.contains("next: litekeep replicate"), "{out}");
    let text = std::fs::read_to_string(place.path("litekeep.toml")).unwrap();
    place.run(&["init", "app.db"]).failed_with(&["`litekeep.toml` exists already and is left as it is"]);
    assert_eq!(std::fs::read_to_string(place.path("litekeep.toml")).unwrap(), text);
    place.run(&["databases"]).succeeded();
}

#[test]
fn a_litestream_configuration_is_named_when_it_is_used() {
    let place = Place::new();
    place.database("app.db", 1);
    let yaml =
        format!("dbs:\n  - path: {}\n    replica:\n      path: backup\n", place.path("app.db").display());
    std::fs::write(place.path("litestream.yml"), yaml).unwrap();
    let ran = place.run(&["databases"]).succeeded();
    assert!(ran.stderr.contains("using `litestream.yml`"), "{}", ran.stderr);
    assert!(ran.stdout.contains("app.db"), "{}", ran.stdout);
}

#[test]
fn a_backup_that_is_not_there_is_no() {
    let place = Place::new();
    let url = format!("file://{}", place.path("backup").display());
    let ran = place.run(&["history", &url]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stdout.contains("nothing can be restored from here"), "{}", ran.stdout);
    place.run(&["restore", "-o", "x.db", &url]).failed_with(&["the log is empty"]);
}

#[test]
fn help_and_version_go_to_stdout() {
    let place = Place::new();
    assert!(place.run(&["-help"]).succeeded().stdout.contains("replicate"));
    assert!(place.run(&["version"]).succeeded().stdout.starts_with("litekeep "));
    assert!(place.run(&["--version"]).succeeded().stdout.starts_with("litekeep "));
}
