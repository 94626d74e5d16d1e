//! Goal: `doctor` finds what is wrong and names the line that mends it, and finds nothing where nothing is wrong. Method:
//! a database, a driver, a process or a store that provokes each finding.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Child, Command};

use litekeep_testkit::fault_proxy::{Fault, Kind, Rule};
use litekeep_testkit::installed;
use litekeep_testkit::process::eventually;
use rusqlite::Connection;
use serde_json::Value;

use crate::scene::{LONG, Scene, Store};
use crate::{Place, Ran, rails, shapes};

const DOCUMENT: &str = include_str!("../../../docs/doctor.md");

/// The checks of the only database.
struct Diagnosis {
    code: i32,
    whole: Value,
}

impl Diagnosis {
    fn of(mut command: Command) -> Diagnosis {
        let output = command.output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let whole = serde_json::from_str(&stdout)
            .unwrap_or_else(|error| panic!("{error}: {stdout}{}", String::from_utf8_lossy(&output.stderr)));
        shapes::matches("doctor", &whole);
        Diagnosis { code: output.status.code().unwrap(), whole }
    }

    fn at(place: &Place, arguments: &[&str]) -> Diagnosis {
        Diagnosis::of(place.command(&[&["doctor", "app.db", "--json"], arguments].concat()))
    }

    fn checks(&self) -> impl Iterator<Item = &Value> {
        self.whole["databases"][0]["checks"].as_array().unwrap().iter()
    }

    #[track_caller]
    fn check(&self, name: &str) -> &Value {
        let found = self.checks().find(|check| check["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {:#}", self.whole))
    }

    /// The check has this verdict, and its reason and lines have these words.
    #[track_caller]
    fn has(&self, name: &str, verdict: &str, words: &[&str]) {
        let check = self.check(name);
        assert_eq!(check["verdict"], verdict, "{check:#}");
        let fix = check["fix"].as_array().unwrap().iter();
        let said = ["reason", "hold", "of"].map(|key| &check[key]).into_iter().chain(fix);
        let said: Vec<&str> = said.filter_map(Value::as_str).collect();
        for word in words {
            assert!(said.iter().any(|said| said.contains(word)), "no `{word}` in {check:#}");
        }
    }
}

/// A block of the page, by its language.
fn snippet(language: &str) -> &'static str {
    let (_, rest) = DOCUMENT.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0
}

const PARENT_AND_CHILD: &str = "CREATE TABLE parent(id INTEGER PRIMARY KEY);
    CREATE TABLE child(id INTEGER PRIMARY KEY, parent_id REFERENCES parent);
    CREATE INDEX child_parent ON child(parent_id);";

#[test]
fn the_defaults_of_python_are_shown_with_the_lines_that_change_them() {
    let place = Place::new();
    Connection::open(place.database("app.db", 3)).unwrap().execute_batch(PARENT_AND_CHILD).unwrap();
    std::fs::write(place.path("requirements.txt"), "flask\n").unwrap();
    let found = Diagnosis::at(&place, &[]);
    found.has("journal_mode", "ok", &["persisted", "python"]);
    let line = "connection.execute(\"PRAGMA foreign_keys = ON\")";
    found.has("foreign_keys", "warning", &["1 declared, none enforced", "checked", line]);
    found.has("busy_timeout", "ok", &["5000 ms"]);
    found.has("transactions", "warning", &["deferred", "isolation_level=\"IMMEDIATE\""]);
    found.has("temp_store", "warning", &["PRAGMA temp_store = MEMORY"]);
    assert_eq!(found.code, 0, "defaults are no proof of a problem: {:#}", found.whole);
    assert!(found.check("sqlite_version")["reason"].as_str().unwrap().starts_with("3."));
}

#[test]
fn the_applications_own_connection_is_asked_by_the_snippet_of_the_page() {
    let place = Place::new();
    Connection::open(place.database("app.db", 3)).unwrap().execute_batch(PARENT_AND_CHILD).unwrap();
    std::fs::write(place.path("pragmas.py"), snippet("python")).unwrap();
    let app = |lines: &str| {
        let text = format!("import os, sqlite3\ndef connect():\n{lines}    return c\n");
        std::fs::write(place.path("app.py"), text).unwrap();
        Diagnosis::at(&place, &["--command", "python3 pragmas.py"])
    };
    let open = "    c = sqlite3.connect(os.environ['LITEKEEP_DATABASE'], isolation_level='IMMEDIATE')\n";
    let tuned = "    for p in ('synchronous = NORMAL', 'foreign_keys = ON', 'busy_timeout = 5000', 'cache_size = -64000', \
                 'mmap_size = 268435456', 'temp_store = MEMORY'):\n        c.execute('PRAGMA ' + p)\n";
    let found = app(&format!("{open}{tuned}"));
    assert_eq!(found.code, 0, "{:#}", found.whole);
    let settings =
        found.checks().filter(|check| check["area"] == "settings" && check["name"] != "sqlite_version");
    for check in settings {
        assert_eq!(check["verdict"], "ok", "{check:#}");
    }
    let careless = "    c = sqlite3.connect(os.environ['LITEKEEP_DATABASE'], timeout=0)\n    c.execute('PRAGMA synchronous = OFF')\n";
    let found = app(careless);
    assert_eq!(found.code, 1);
    found.has("synchronous", "problem", &["OFF", "PRAGMA synchronous = NORMAL"]);
    found.has("foreign_keys", "problem", &["none enforced"]);
    found.has("busy_timeout", "problem", &["at once", "PRAGMA busy_timeout = 5000"]);
}

#[test]
fn a_driver_that_was_named_must_answer() {
    let place = Place::new();
    place.database("app.db", 1);
    let ran = place.run(&["doctor", "app.db", "--command", "echo no pragmas; exit 3"]);
    ran.failed_with(&["told no pragmas (exit status: 3)", "hint: docs/doctor.md"]);
    // Nobody has installed it in this folder.
    let ran = place.run(&["doctor", "app.db", "--driver", "better-sqlite3"]);
    ran.failed_with(&["ask `better-sqlite3` for its settings"]);
    place.run(&["doctor", "app.db", "--driver", "odbc"]).failed_with(&["write one of better-sqlite3"]);
    // One that was only found is not checked, and neither is nothing at all.
    Diagnosis::at(&place, &[]).has("connection", "not_checked", &["no application with a known driver"]);
    std::fs::write(place.path("package.json"), "{ \"dependencies\": { \"better-sqlite3\": \"^12\" } }")
        .unwrap();
    let found = Diagnosis::at(&place, &[]);
    found.has("connection", "not_checked", &["better-sqlite3", "--command"]);
    assert_eq!(found.code, 0);
}

/// A process without a folder of its own runs in that of the configuration.
#[test]
fn the_processes_of_the_configuration_are_applications() {
    let place = Place::new();
    place.database("app.db", 1);
    let toml = "[[database]]\npath = \"app.db\"\nbackup = \"./b\"\n[process.one]\ncommand = \"python3 one.py\"\n\
                [process.two]\ncommand = \"./serve\"\ncwd = \"two\"\n";
    std::fs::write(place.path("litekeep.toml"), toml).unwrap();
    std::fs::create_dir(place.path("two")).unwrap();
    symlink(installed::django().unwrap(), place.path("two/.venv")).unwrap();
    let found = Diagnosis::at(&place, &[]);
    let asked: Vec<&str> = found
        .checks()
        .filter(|check| check["name"] == "busy_timeout" && check["verdict"] == "ok")
        .filter_map(|check| check["of"].as_str())
        .collect();
    assert!(asked.len() == 2 && asked[0] == "python" && asked[1].contains("two"), "{:#}", found.whole);
}

#[test]
fn better_sqlite3_is_asked() {
    let place = Place::new();
    let modules = installed::better_sqlite3().unwrap().join("node_modules");
    symlink(modules, place.path("node_modules")).unwrap();
    std::fs::write(place.path("package.json"), "{ \"dependencies\": { \"better-sqlite3\": \"^12\" } }")
        .unwrap();
    place.database("app.db", 3);
    let found = Diagnosis::at(&place, &[]);
    found.has("foreign_keys", "ok", &["better-sqlite3", "ON"]);
    found.has("temp_store", "warning", &["db.pragma(\"temp_store = MEMORY\")"]);
    found.has("transactions", "note", &["immediate"]);
}

/// node has it from version 22 on.
#[test]
fn the_sqlite_of_node_is_asked_where_it_is() {
    let place = Place::new();
    place.database("app.db", 3);
    let has_it =
        Command::new("node").args(["-e", "require('node:sqlite')"]).output().unwrap().status.success();
    if has_it {
        let found = Diagnosis::at(&place, &["--driver", "node:sqlite"]);
        found.has("busy_timeout", "warning", &["db.exec(\"PRAGMA busy_timeout = 5000\")"]);
    } else {
        place.run(&["doctor", "app.db", "--driver", "node:sqlite"]).failed_with(&["node:sqlite"]);
    }
}

#[test]
fn django_is_asked_with_the_settings_of_its_project() {
    let place = Place::new();
    symlink(installed::django().unwrap(), place.path(".venv")).unwrap();
    let mut admin = Command::new(place.path(".venv/bin/django-admin"));
    assert!(
        admin.args(["startproject", "shop", "."]).current_dir(place.path(".")).status().unwrap().success()
    );
    place.database("app.db", 3);
    let settings = std::fs::read_to_string(place.path("shop/settings.py")).unwrap();
    let with = |options: &str| {
        let named = settings.replace("BASE_DIR / 'db.sqlite3',", &format!("BASE_DIR / 'app.db', {options}"));
        assert_ne!(named, settings);
        std::fs::write(place.path("shop/settings.py"), named).unwrap();
        Diagnosis::at(&place, &[])
    };
    let found = with("");
    found.has("foreign_keys", "ok", &["django"]);
    found.has("transactions", "warning", &["\"transaction_mode\": \"IMMEDIATE\""]);
    let line = found.check("transactions")["fix"][0].as_str().unwrap().split("  #").next().unwrap();
    with(line).has("transactions", "ok", &["immediate"]);
    let timeout = with("'OPTIONS': {'timeout': 0}");
    timeout.has("busy_timeout", "problem", &["PRAGMA busy_timeout = 5000;"]);
    assert_eq!(timeout.code, 1, "these are the application's own settings");
    std::fs::write(place.path("shop/settings.py"), &settings).unwrap();
    Diagnosis::at(&place, &[]).has("connection", "not_checked", &["another database"]);
}

/// The variables of its process say which of its databases it opens.
#[test]
fn rails_is_asked_with_its_database_yml_in_the_environment_of_its_process() {
    let place = Place::new();
    Connection::open(place.database("app.db", 3)).unwrap().execute_batch(PARENT_AND_CHILD).unwrap();
    let yaml = |more: &str| {
        format!(
            "production:\n  adapter: sqlite3\n  database: app.db\n{more}\ndevelopment:\n  adapter: sqlite3\n  database: other.db\n"
        )
    };
    rails::application(&place, &yaml("  timeout: 7000"));
    place.write_all(&[
        (".env", "RAILS_ENV=production\n"),
        (
            "litekeep.toml",
            "[[database]]\npath = \"shop/app.db\"\nbackup = \"./b\"\n\
                 [process.web]\ncommand = \"bin/rails server\"\ncwd = \"shop\"\nenv_file = \".env\"\n",
        ),
    ]);
    std::fs::rename(place.path("app.db"), place.path("shop/app.db")).unwrap();
    let diagnose = || Diagnosis::of(place.command(&["doctor", "--json"]));
    let found = diagnose();
    found.has("busy_timeout", "ok", &["7000 ms", "rails in "]);
    found.has("foreign_keys", "ok", &["ON"]);
    found.has("transactions", "warning", &["default_transaction_mode: immediate"]);
    place.write_all(&[("shop/config/database.yml", &yaml("  timeout: 100"))]);
    diagnose().has("busy_timeout", "warning", &["timeout: 5000  # config/database.yml"]);
    place.write_all(&[(".env", "RAILS_ENV=development\n")]);
    diagnose().has("connection", "not_checked", &["other.db", "another database"]);
}

/// By a program of its own, built in the module, whose files stay as they are.
#[test]
fn a_go_module_is_asked_with_the_dsn_of_its_source() {
    let place = Place::new();
    let go_mod = "module shop\n\ngo 1.19\n\nrequire github.com/mattn/go-sqlite3 v1.14.16\n\n\
                  replace github.com/mattn/go-sqlite3 => /usr/share/gocode/src/github.com/mattn/go-sqlite3\n";
    let main =
        |open: &str| format!("package main\n\nfunc main() {{\n\t{open}\n\tpanic(\"it is not run\")\n}}\n");
    Connection::open(place.database("app.db", 3)).unwrap().execute_batch(PARENT_AND_CHILD).unwrap();
    // Its compiler keeps what it has built below HOME.
    let diagnose = || {
        let mut command = place.command(&["doctor", "app.db", "--json"]);
        command.env("HOME", std::env::var_os("HOME").unwrap());
        Diagnosis::of(command)
    };
    let with = |open: &str| {
        place.write_all(&[("go.mod", go_mod), ("main.go", &main(open))]);
        let found = diagnose();
        assert_eq!(std::fs::read_to_string(place.path("go.mod")).unwrap(), go_mod);
        found
    };
    let found = with("db, _ := sql.Open(\"sqlite3\", path)");
    found.has("busy_timeout", "ok", &["5000 ms"]);
    found.has("foreign_keys", "warning", &["none enforced", "_foreign_keys=ON"]);
    found.has("transactions", "warning", &["_txlock=immediate"]);
    assert_eq!(found.check("busy_timeout")["of"], "go", "the driver's defaults");
    let open =
        "db, _ := sql.Open(\"sqlite3\", \"file:app.db?_busy_timeout=70&_foreign_keys=on&_txlock=immediate\")";
    let found = with(open);
    found.has("busy_timeout", "warning", &["70 ms", "go, by main.go:4"]);
    found.has("foreign_keys", "ok", &["ON"]);
    found.has("transactions", "ok", &["immediate"]);
    let both = format!("{open}; ro, _ := sql.Open(\"sqlite3\", \"file:app.db?mode=ro\")");
    with(&both).has("connection", "not_checked", &["in several ways", "main.go:4", "--command"]);
    // What is not here is not downloaded, and the user is told how else to ask.
    let absent = "module shop\n\ngo 1.19\n\nrequire modernc.org/sqlite v1.40.0\n";
    place.write_all(&[("go.mod", absent)]);
    diagnose().has("connection", "not_checked", &["modernc.org/sqlite", "--command"]);
}

/// "ask `go` for its settings: it does not exist" left open what does not.
#[test]
fn a_go_module_without_a_compiler_says_so() {
    let place = Place::new();
    place.database("app.db", 3);
    std::fs::create_dir(place.path("empty")).unwrap();
    let doctor = || {
        let mut command = place.command(&["doctor", "app.db", "--driver", "go"]);
        command.env("PATH", place.path("empty"));
        Ran::of(command)
    };
    doctor().failed_with(&["ask `go`", "go.mod`: it does not exist"]);
    place.write_all(&[("go.mod", "module shop\n\ngo 1.19\n\nrequire modernc.org/sqlite v1.40.0\n")]);
    doctor().failed_with(&["the Go compiler, `go`, is not here", "--command"]);
    assert!(place.run(&["doctor", "--help"]).stdout.contains("django, go"));
}

/// What stands in for modernc.org/sqlite, which no package of Debian has: the same name for `database/sql` and the same
/// parameters, over the driver that is here.
const STAND_IN: &str = r#"package sqlite

import (
	"database/sql"
	"database/sql/driver"
	"net/url"
	"strings"

	"github.com/mattn/go-sqlite3"
)

type stand struct{ sqlite3.SQLiteDriver }

func (s *stand) Open(dsn string) (driver.Conn, error) {
	path, query, _ := strings.Cut(dsn, "?")
	parameters, err := url.ParseQuery(query)
	if err != nil {
		return nil, err
	}
	// modernc.org/sqlite sets no timeout by itself, mattn/go-sqlite3 does.
	connection, err := s.SQLiteDriver.Open(path + "?_busy_timeout=0")
	for _, pragma := range parameters["_pragma"] {
		if err == nil {
			_, err = connection.(*sqlite3.SQLiteConn).Exec("PRAGMA "+pragma, nil)
		}
	}
	return connection, err
}

func init() { sql.Register("sqlite", &stand{}) }
"#;

#[test]
fn the_other_driver_of_go_is_asked_by_its_own_name_and_parameters() {
    let place = Place::new();
    let mattn = "require github.com/mattn/go-sqlite3 v1.14.16\n\n\
                 replace github.com/mattn/go-sqlite3 => /usr/share/gocode/src/github.com/mattn/go-sqlite3\n";
    let go_mod = format!(
        "module shop\n\ngo 1.19\n\nrequire modernc.org/sqlite v1.40.0\n\n\
         {}\nreplace modernc.org/sqlite => ./driver\n",
        mattn.replacen("v1.14.16", "v1.14.16 // indirect", 1)
    );
    let driver = format!("module modernc.org/sqlite\n\ngo 1.19\n\n{mattn}");
    std::fs::create_dir(place.path("driver")).unwrap();
    place.write_all(&[("go.mod", &go_mod), ("driver/go.mod", &driver), ("driver/driver.go", STAND_IN)]);
    place.database("app.db", 3);
    let diagnose = || {
        let mut command = place.command(&["doctor", "app.db", "--json"]);
        command.env("HOME", std::env::var_os("HOME").unwrap());
        Diagnosis::of(command)
    };
    let found = diagnose();
    found.has("busy_timeout", "warning", &["_pragma=busy_timeout(5000)"]);
    found.has("transactions", "warning", &["_txlock=immediate"]);
    let dsn = "file:app.db?_pragma=busy_timeout(7000)&_pragma=foreign_keys(1)&_txlock=immediate";
    let main = format!("package main\n\nfunc main() {{\n\tsql.Open(\"sqlite\", \"{dsn}\")\n}}\n");
    place.write_all(&[("main.go", &main)]);
    let found = diagnose();
    found.has("busy_timeout", "ok", &["7000 ms"]);
    found.has("foreign_keys", "ok", &["ON"]);
    found.has("transactions", "ok", &["immediate"]);
    assert_eq!(found.check("busy_timeout")["of"], "go, by main.go:4");
}

#[test]
fn each_finding_of_the_file_has_its_line() {
    let place = Place::new();
    let database = Connection::open(place.path("app.db")).unwrap();
    let joined: Vec<String> = (0..12).map(|n| format!("parent AS p{n}")).collect();
    database
        .execute_batch(&format!(
            "PRAGMA page_size = 1024; PRAGMA foreign_keys = OFF;
             CREATE TABLE parent(id INTEGER PRIMARY KEY);
             CREATE TABLE child(id INTEGER PRIMARY KEY, parent_id REFERENCES parent, x UNIQUE);
             CREATE TABLE heap(x);
             CREATE VIEW all_of_it AS SELECT 1 FROM {};
             WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
             INSERT INTO child(parent_id, x) SELECT i, i FROM n;
             CREATE TABLE gone(x); INSERT INTO gone VALUES(zeroblob(40000000)); DROP TABLE gone;",
            joined.join(", ")
        ))
        .unwrap();
    let found = Diagnosis::at(&place, &[]);
    assert_eq!(found.code, 1);
    found.has("wal", "problem", &["journal mode delete", "PRAGMA journal_mode = WAL;"]);
    found.has("page_size", "warning", &["1024"]);
    found.has("free_pages", "warning", &["VACUUM"]);
    found.has("statistics", "warning", &["child has 3000 rows and no statistics", "ANALYZE \"child\";"]);
    let line = "CREATE INDEX \"child_parent_id\" ON \"child\"(\"parent_id\");";
    found.has("foreign_key_indexes", "warning", &[]);
    assert_eq!(found.check("foreign_key_indexes")["fix"][0], line);
    found.has("foreign_key_violations", "problem", &["3000 in child"]);
    found.has("primary_keys", "note", &["heap"]);
    found.has("many_joins", "note", &["all_of_it reads 12 tables"]);
    // The lines do what they say.
    database
        .execute_batch(&format!(
            "{line} DELETE FROM child; ANALYZE \"child\"; PRAGMA journal_mode = WAL; DROP VIEW all_of_it; DROP TABLE heap"
        ))
        .unwrap();
    let mended = Diagnosis::at(&place, &[]);
    for name in ["wal", "statistics", "foreign_key_indexes", "foreign_key_violations"] {
        mended.has(name, "ok", &[]);
    }
    assert_eq!(mended.code, 0, "{:#}", mended.whole);
}

#[test]
fn what_is_no_database_is_an_error_or_a_problem() {
    let place = Place::new();
    place
        .run(&["doctor", "gone.db"])
        .failed_with(&["could not examine `gone.db`", "`gone.db` does not exist"]);
    place.run(&["doctor"]).failed_with(&["there is no configuration"]);
    let toml = "[[database]]\npath = \"gone.db\"\nbackup = \"./b\"\n[[database]]\npath = \"app.db\"\nbackup = \"./b2\"\n";
    std::fs::write(place.path("litekeep.toml"), toml).unwrap();
    place.database("app.db", 1);
    let found = Diagnosis::of(place.command(&["doctor", "--json"]));
    assert_eq!(found.code, 1);
    found.has("readable", "problem", &["does not exist"]);
    assert_eq!(found.whole["databases"].as_array().unwrap().len(), 2, "the other one is examined, too");
}

#[test]
fn who_keeps_the_wal_is_named() {
    let place = Place::new();
    let toml = "[[database]]\npath = \"app.db\"\nbackup = \"./b\"\nwal_limit = \"1MiB\"\n";
    std::fs::write(place.path("litekeep.toml"), toml).unwrap();
    let reader = Connection::open(place.database("app.db", 1)).unwrap();
    reader.execute_batch("BEGIN; SELECT * FROM t").unwrap();
    let writer = Connection::open(place.path("app.db")).unwrap();
    for _ in 0..30 {
        writer.execute("INSERT INTO t(x) VALUES(zeroblob(100000))", ()).unwrap();
    }
    let found = Diagnosis::at(&place, &[]);
    let me = format!("process {}", std::process::id());
    found.has("wal_size", "warning", &[&me, "end the read transaction"]);
    found.has("writers", "ok", &["1 can write", &me]);
}

/// Each was watched for two seconds after the other, and each asked every driver again.
#[test]
fn many_databases_are_watched_together_and_ask_each_driver_once() {
    let place = Place::new();
    let toml = "[[database]]\ndir = \"tenants\"\npattern = \"*.db\"\nbackup = \"./b\"\n";
    place.write_all(&[("litekeep.toml", toml), ("requirements.txt", ""), ("tenants/readme", "")]);
    // Who asks is noted, and asks the one that is there.
    let python = "#!/bin/sh\necho asked >> asked\nexec python3 \"$@\"\n";
    place.write_all(&[(".venv/bin/python", python)]);
    std::fs::set_permissions(place.path(".venv/bin/python"), Permissions::from_mode(0o755)).unwrap();
    let names = ["a", "b", "c"];
    let open = |name: &&str| {
        let app = Connection::open(place.database(&format!("tenants/{name}.db"), 1)).unwrap();
        app.execute_batch("BEGIN IMMEDIATE").unwrap();
        app
    };
    let held: Vec<Connection> = names.iter().map(open).collect();
    // Another journal mode is another answer.
    let other = Connection::open(place.path("tenants/d.db")).unwrap();
    other.execute_batch("CREATE TABLE t(x)").unwrap();
    let whole = Diagnosis::of(place.command(&["doctor", "--json"])).whole;
    let databases = whole["databases"].as_array().unwrap();
    let told = |nth: usize, name: &str| {
        let checks = databases[nth]["checks"].as_array().unwrap();
        let found = checks.iter().find(|check| check["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {:#}", databases[nth])).clone()
    };
    for (nth, name) in ["a", "b", "c", "d"].iter().enumerate() {
        assert!(databases[nth]["path"].as_str().unwrap().ends_with(&format!("{name}.db")), "{whole:#}");
        assert_eq!(told(nth, "busy_timeout")["of"], "python");
        let me = format!("1 can write: process {} ", std::process::id());
        assert!(told(nth, "writers")["reason"].as_str().unwrap().contains(&me), "{whole:#}");
        assert_eq!(told(nth, "journal_mode")["verdict"], if *name == "d" { "problem" } else { "ok" });
    }
    assert_eq!(std::fs::read_to_string(place.path("asked")).unwrap(), "asked\nasked\n");
    drop(held);
    // A person sees how far it is.
    let ran = place.run(&["doctor"]);
    for name in names {
        assert!(ran.stderr.contains(&format!("tenants/{name}.db`")), "{}", ran.stderr);
    }
}

/// A process that is ended with the test.
struct Writing(Child);

impl Drop for Writing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn two_processes_that_write_are_noticed() {
    let place = Place::new();
    place.database("app.db", 1);
    // Each gives the other a chance, or one would keep the lock and the other sleep.
    let script = "import os, sqlite3, time
c = sqlite3.connect('app.db', isolation_level=None, timeout=60)
while True:
    c.execute('BEGIN IMMEDIATE')
    c.execute(f'INSERT INTO t(x) VALUES({os.getpid()})')
    c.execute('COMMIT')
    time.sleep(0.02)
";
    let start = || {
        let python = Command::new("python3").args(["-c", script]).current_dir(place.path(".")).spawn();
        Writing(python.unwrap())
    };
    let both = [start(), start()];
    let database = Connection::open(place.path("app.db")).unwrap();
    let begun = || Ok(database.query_row("SELECT count(DISTINCT x) = 3 FROM t", (), |row| row.get(0))?);
    eventually("both write", LONG, begun).unwrap();
    let found = Diagnosis::at(&place, &[]);
    found.has("writers", "warning", &["2 processes wrote", "python3 -c", "queue"]);
    drop(both);
}

#[test]
fn a_sound_backup_is_found_sound_and_left_as_it_was() {
    for store in [Store::Folder, Store::S3] {
        let scene = Scene::new(store, "");
        scene.place.database("app.db", 100);
        let litekeep = scene.replicate().unwrap();
        eventually("the backup is complete", LONG, || Ok(scene.status()?["ok"] == true)).unwrap();
        let found = Diagnosis::of(scene.command(&["doctor", "app.db", "--json"]));
        found.has("freshness", "ok", &[]);
        found.has("permissions", "ok", &["put, list, get and delete"]);
        found.has("conditional_writes", "ok", &[]);
        found.has("retention", "ok", &["enforced"]);
        found.has("proof", "warning", &["litekeep verify app.db"]);
        found.has("restore_time", "note", &["to fetch"]);
        assert_eq!(found.code, 0, "{:#}", found.whole);
        let left = std::fs::read_dir(scene.objects().join("litekeep")).into_iter().flatten();
        let left: Vec<String> = left.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(left.iter().all(|name| !name.contains("doctor")), "{left:?}");
        scene.litekeep(&["verify", "app.db"]).unwrap();
        Diagnosis::of(scene.command(&["doctor", "app.db", "--json"])).has("proof", "ok", &["proven"]);
        scene.stop(litekeep).unwrap();
        let stopped = Diagnosis::of(scene.command(&["doctor", "app.db", "--json"]));
        stopped.has("freshness", "problem", &["no replicator is running"]);
        assert_eq!(stopped.code, 1);
    }
}

#[test]
fn a_key_that_may_not_do_everything_is_noticed() {
    let scene = Scene::new(Store::Proxied, "");
    scene.place.database("app.db", 10);
    scene.replicate_once().unwrap();
    for (kinds, step) in [
        (&[Kind::PutObject][..], "put"),
        (&[Kind::GetObject], "get"),
        (&[Kind::DeleteObject, Kind::DeleteObjects], "delete"),
    ] {
        let refused =
            kinds.iter().fold(Rule::new(Fault::Status(403)).path("doctor-"), |rule, kind| rule.on(*kind));
        // What is deleted several at a time is named in the body.
        let refused_by_body = Rule::new(Fault::Status(403)).on(Kind::DeleteObjects);
        scene.proxy().inject(refused);
        if step == "delete" {
            scene.proxy().inject(refused_by_body);
        }
        let found = Diagnosis::of(scene.command(&["doctor", "app.db", "--json"]));
        found.has("permissions", "problem", &[&format!("it may not {step}"), "s3:"]);
        scene.proxy().clear();
    }
}

#[test]
fn the_limits_are_printed_where_they_are_wanted() {
    let place = Place::new();
    place.database("app.db", 1);
    let found = Diagnosis::at(&place, &["--limits"]);
    let limits = found.whole["limits"].as_array().unwrap();
    assert!(limits.iter().any(|limit| limit["instead"].as_str().unwrap().contains("DuckDB")), "{limits:#?}");
    for limit in limits {
        let text = limit["text"].as_str().unwrap();
        assert!(DOCUMENT.contains(text), "docs/doctor.md does not say: {text}");
    }
    let text = place.run(&["doctor", "app.db", "--limits"]).stdout;
    assert!(text.contains("what SQLite and litekeep are not for") && text.contains("0 problems"), "{text}");
    assert!(Diagnosis::at(&place, &[]).whole["limits"].as_array().unwrap().is_empty());
}
