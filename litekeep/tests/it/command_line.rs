//! Bad input: each mistake is named with its place, its cause and what to do.

use crate::scene::LONG;
use crate::{Place, Ran, rows, shapes};
use litekeep_testkit::Process;
use litekeep_testkit::process::eventually;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

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

/// Runs litekeep as a user who may not do everything, also where the tests may.
fn run_as_nobody(place: &Place, arguments: &[&str]) -> Ran {
    use std::os::unix::process::CommandExt;
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let binary = place.path("litekeep");
    if !binary.exists() {
        std::fs::copy(env!("CARGO_BIN_EXE_litekeep"), &binary).unwrap();
    }
    set_mode(&place.path("."), 0o777);
    let mut command = std::process::Command::new(binary);
    command.args(arguments).current_dir(place.path(".")).env_clear();
    if is_root {
        command.uid(65534).gid(65534);
    }
    Ran::of(command)
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_may_not_be_opened_says_who_asked() {
    let place = Place::new();
    std::fs::write(place.path("litekeep.toml"), "").unwrap();
    set_mode(&place.path("litekeep.toml"), 0o000);
    let ran = run_as_nobody(&place, &["databases"]);
    ran.failed_with(&["read the configuration `litekeep.toml`: permission denied", "litekeep runs as user"]);

    std::fs::remove_file(place.path("litekeep.toml")).unwrap();
    set_mode(&place.database("app.db", 1), 0o444);
    for arguments in [&["replicate", "-once", "app.db", "./b"][..], &["run", "app.db", "--", "true"]] {
        let ran = run_as_nobody(&place, arguments);
        ran.failed_with(&["open `app.db`: permission denied", "litekeep runs as user"]);
    }

    let folder = place.path("folder");
    std::fs::create_dir(&folder).unwrap();
    set_mode(&place.database("folder/app.db", 1), 0o666);
    set_mode(&folder, 0o555);
    let ran = run_as_nobody(&place, &["replicate", "-once", "folder/app.db", "./b"]);
    ran.failed_with(&["make the folder `folder/.app.db-litekeep`: permission denied", "`meta_dir`"]);
    let ran = run_as_nobody(&place, &["init", "app.db", "--config", "folder/litekeep.toml"]);
    ran.failed_with(&["write `folder/litekeep.toml`: permission denied", "litekeep runs as user"]);
    set_mode(&folder, 0o755);
}

#[test]
fn a_configuration_that_is_no_text() {
    let place = Place::new();
    std::fs::create_dir(place.path("litekeep.toml")).unwrap();
    place.run(&["databases"]).failed_with(&["read the configuration `litekeep.toml`: is a directory"]);
    std::fs::write(place.path("other.toml"), [0xff, 0xfe]).unwrap();
    place
        .run(&["databases", "-config", "other.toml"])
        .failed_with(&["read the configuration `other.toml`: it is no text in UTF-8"]);
    let text = "[[database]]\ndir = \"gone\"\npattern = \"*\"\nbackup = \"./b\"\n";
    std::fs::write(place.path("folder.toml"), text).unwrap();
    place
        .run(&["databases", "-config", "folder.toml"])
        .failed_with(&["it does not exist", "hint: make the folder"]);
}

#[test]
fn what_is_no_database_is_refused_at_once() {
    let place = Place::new();
    std::fs::create_dir(place.path("folder")).unwrap();
    std::fs::write(place.path("text"), "not a database, but long enough to have a header".repeat(3)).unwrap();
    for (name, cause) in
        [("folder", "`folder` is not a file"), ("text", "read `text`: the file is not a SQLite")]
    {
        for arguments in [
            &["replicate", name, "./b"][..],
            &["replicate", "-once", name, "./b"],
            &["run", name, "--", "true"],
            &["init", name],
        ] {
            place.run(arguments).failed_with(&[cause, "hint: name the database itself"]);
        }
    }
    place.database("app.db", 1);
    for arguments in
        [&["replicate", "-once", "app.db", "./text"][..], &["restore", "-o", "x.db", "file:///dev/null"]]
    {
        place.run(arguments).failed_with(&["is not a folder", "hint:"]);
    }
}

/// `-once` that backs up nothing and says nothing let a mistyped path look like a backup.
#[test]
fn once_needs_each_database_and_backs_up_the_others() {
    let place = Place::new();
    place.database("app.db", 5);
    place.run(&["replicate", "-once", "gone.db", "./b"]).failed_with(&["`gone.db` does not exist", "hint:"]);
    let of = |name: &str| format!("[[database]]\npath = \"{name}\"\nbackup = \"./{name}-backup\"\n");
    std::fs::write(place.path("litekeep.toml"), of("gone.db") + &of("app.db")).unwrap();
    place.run(&["replicate", "-once"]).failed_with(&["gone.db` does not exist"]);
    place.run(&["restore", "-o", "back.db", "app.db"]).succeeded();
    assert_eq!(rows(&place.path("back.db")), 5);
}

/// It ran for ever, and everything was green: nobody heard that nothing was backed up.
#[test]
fn a_configuration_without_a_database_is_no_success() {
    let place = Place::new();
    for (name, text) in [("litekeep.toml", "[log]\nlevel = \"info\"\n"), ("litestream.yml", "dbs: []\n")] {
        std::fs::write(place.path(name), text).unwrap();
        for arguments in [&["replicate"][..], &["replicate", "-once"], &["run", "--", "touch", "started"]] {
            let mut ran = Process::start(place.command(arguments), &place.path("log")).unwrap();
            assert_eq!(ran.wait(LONG).unwrap().code(), Some(2), "{}", ran.output());
            assert!(ran.output().contains(&format!("`{name}` names no database")), "{}", ran.output());
        }
        assert!(!place.path("started").exists());
        for verb in ["verify", "history"] {
            place.run(&[verb]).failed_with(&["names no database", "[[database]]", "hint:"]);
        }
        let told = place.run(&["status"]);
        assert_eq!(told.code, 1, "{}", told.stdout);
        assert!(told.stdout.contains("names no database, so nothing is backed up"), "{}", told.stdout);
        let told = place.run(&["status", "--json"]).json();
        assert_eq!(told["ok"], false, "{told:#}");
        shapes::matches("status", &told);
        std::fs::remove_file(place.path(name)).unwrap();
    }
    // A folder may have none yet, and a stack needs none.
    std::fs::create_dir(place.path("dbs")).unwrap();
    let folder = "[[database]]\ndir = \"dbs\"\npattern = \"*.db\"\nbackup = \"backup\"\n";
    std::fs::write(place.path("litekeep.toml"), folder).unwrap();
    place.run(&["status"]).succeeded();
    place.run(&["verify"]).succeeded();
    std::fs::write(place.path("litekeep.toml"), "[process.a]\ncommand = \"sleep 1000\"\n").unwrap();
    let told = place.run(&["status"]).stdout;
    assert!(!told.contains("names no database") && told.contains("nothing runs them"), "{told}");
}

#[test]
fn one_unfit_database_does_not_keep_the_others_from_replication() {
    let place = Place::new();
    place.database("app.db", 5);
    std::fs::create_dir(place.path("folder")).unwrap();
    let of = |name: &str| format!("[[database]]\npath = \"{name}\"\nbackup = \"./{name}-backup\"\n");
    std::fs::write(place.path("litekeep.toml"), of("folder") + &of("app.db")).unwrap();
    let replicator = Process::start(place.command(&["replicate"]), &place.path("log")).unwrap();
    let is_there = || Ok(place.run(&["history", "app.db"]).code == 0);
    eventually("the fit one is backed up", Duration::from_secs(60), is_there).unwrap();
    assert!(replicator.output().contains("folder` is not a file"), "{}", replicator.output());
    replicator.terminate(Duration::from_secs(60)).unwrap();
}

/// The command in the hint, as a shell runs it.
fn paste_hint(place: &Place, ran: &Ran) -> Ran {
    let (_, hint) = ran.stderr.split_once("hint: ").unwrap_or_else(|| panic!("no hint: {}", ran.stderr));
    let command = hint.split('`').nth(1).and_then(|command| command.strip_prefix("litekeep ")).expect(hint);
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", &format!("{} {command}", env!("CARGO_BIN_EXE_litekeep"))]);
    shell.current_dir(place.path("."));
    Ran::of(shell)
}

#[test]
fn a_failed_restore_hints_at_a_command_that_works() {
    let place = Place::new();
    let db = place.database("my app.db", 3);
    let (db, folder) = (db.to_str().unwrap(), place.path("it's a backup"));
    let folder = folder.to_str().unwrap();
    let toml = format!("[[database]]\npath = {db:?}\nbackup = {folder:?}\n");
    std::fs::write(place.path("my.toml"), toml).unwrap();
    place.run(&["replicate", "-once", "-config", "my.toml"]).succeeded();
    for (arguments, hinted) in [
        (&["-txid", "99", "-o", "by txid.db", folder][..], "-txid"),
        (&["-at", "2001-01-01", "-o", "by time.db", "-config", "my.toml", "my app.db"], "-timestamp"),
        (&["-config", "my.toml", "my app.db"], "-force"),
        (&["-txid", "1", "-config", "my.toml", "my app.db"], "-force"),
        (&[folder], "-o app.db"),
    ] {
        let ran = place.run(&[&["restore"], arguments].concat()).failed_with(&["hint: ", hinted]);
        paste_hint(&place, &ran).succeeded();
    }
    assert_eq!(rows(&place.path("by txid.db")), 3);
    assert_eq!(rows(&place.path("app.db")), 3);
}

/// A log program that ended took litekeep with it: printing to a closed pipe panics.
#[test]
fn whoever_reads_stderr_may_go_away() {
    let place = Place::new();
    place.database("app.db", 5);
    let run = |arguments: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        place.command(arguments).stderr(writer).status().unwrap().code()
    };
    assert_eq!(run(&["restor"]), Some(2));
    assert_eq!(run(&["databases"]), Some(2));
    assert_eq!(run(&["replicate", "-once", "app.db", "./b"]), Some(0));
    assert_eq!(run(&["restore", "-o", "back.db", "./b"]), Some(0));
    assert_eq!(rows(&place.path("back.db")), 5);
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
