//! A Go program is asked by a small one that is built in its own module: with the version of the driver that its `go.mod` has, and
//! with the data source name (DSN) that its source passes to `sql.Open`, where that stands there as a literal.
//!
//! Promises: nothing is downloaded, nothing of the module changes, and none of the program's own code runs.

use std::fs;
use std::path::{Path, PathBuf};

use litekeep_env::random_u64;

use super::is_same;
use crate::report::text;
use crate::scratch::Scratch;

/// Drivers for `database/sql`: the module, and the name that it registers.
const DRIVERS: [(&str, &str); 2] =
    [("github.com/mattn/go-sqlite3", "sqlite3"), ("modernc.org/sqlite", "sqlite")];

/// Files and bytes of source that are looked at for a DSN.
const MOST_FILES: usize = 2000;
const LARGEST_FILE: u64 = 1 << 20;

const PROGRAM: &str = r#"package main

import (
	"database/sql"
	"encoding/json"
	"log"
	"os"

	_ "MODULE"
)

func main() {
	db, err := sql.Open("NAME", os.Args[1])
	if err != nil {
		log.Fatal("error: ", err)
	}
	db.SetMaxOpenConns(1)
	if err := db.Ping(); err != nil {
		log.Fatal("error: ", err)
	}
	found := map[string]interface{}{}
	one := func(name, query string) {
		var value interface{}
		if db.QueryRow(query).Scan(&value) != nil {
			return
		}
		if text, ok := value.([]byte); ok {
			value = string(text)
		}
		found[name] = value
	}
	for _, name := range []string{"journal_mode", "synchronous", "foreign_keys", "busy_timeout", "cache_size", "mmap_size", "temp_store"} {
		one(name, "PRAGMA "+name)
	}
	one("sqlite_version", "SELECT sqlite_version()")
	one("database", "SELECT file FROM pragma_database_list WHERE name = 'main'")
	json.NewEncoder(os.Stdout).Encode(found)
}
"#;

/// A program that asks, and the folder that it goes away with.
pub(super) struct Probe {
    pub(super) words: Vec<String>,
    pub(super) folder: Scratch,
    /// How transactions begin.
    pub(super) transactions: String,
    /// File and line of the DSN, if the source has one.
    pub(super) place: Option<String>,
}

/// Neither modules nor another Go may come from the network.
pub(super) const OFFLINE: [(&str, &str); 3] =
    [("GOPROXY", "off"), ("GOTOOLCHAIN", "local"), ("GOSUMDB", "off")];

/// Writes the program for a module in `dir`.
pub(super) fn prepare(dir: &Path, database: &Path) -> Result<Probe, String> {
    let path = dir.join("go.mod");
    let go_mod = fs::read_to_string(&path)
        .map_err(|error| format!("read `{}`: {}", path.display(), text::io_error(&error)))?;
    let (module, name) = required(&go_mod).ok_or_else(|| {
        let known: Vec<&str> = DRIVERS.iter().map(|(module, _)| *module).collect();
        format!("go.mod requires neither {}", known.join(" nor "))
    })?;
    let (dsn, place) = match own_dsn(dir, name, database)? {
        Some((dsn, place)) => (dsn, Some(place)),
        None => (database.to_string_lossy().into_owned(), None),
    };
    let prefix = format!("litekeep-doctor-{}-", std::process::id());
    let folder = Scratch::new(&std::env::temp_dir(), &prefix).map_err(|failure| failure.to_string())?;
    let file = folder.path().join(format!("probe_{:x}.go", random_u64()));
    fs::write(&file, PROGRAM.replace("MODULE", module).replace("NAME", name))
        .map_err(|error| text::io_error(&error))?;
    // Of the flags of the user's environment, one that may change go.mod does not count.
    let modules = if dir.join("vendor/modules.txt").exists() { "-mod=vendor" } else { "-mod=readonly" };
    let transactions = parameter(&dsn, "_txlock").unwrap_or("deferred").to_lowercase();
    let file = file.to_string_lossy().into_owned();
    let words = ["go".into(), "run".into(), modules.into(), file, dsn].into();
    Ok(Probe { words, folder, transactions, place })
}

/// The driver that a `go.mod` requires; one that is only indirect last.
fn required(go_mod: &str) -> Option<(&'static str, &'static str)> {
    let requirements = requirements(go_mod);
    let find = |is_direct: bool| {
        DRIVERS.into_iter().find(|(module, _)| {
            let is_it = |line: &str| line.split_whitespace().next() == Some(*module);
            requirements.iter().any(|line| is_it(line) && line.contains("// indirect") != is_direct)
        })
    };
    find(true).or_else(|| find(false))
}

/// What follows `require`, a module a line: what is replaced or excluded is named elsewhere, too.
fn requirements(go_mod: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut is_inside = false;
    for line in go_mod.lines().map(str::trim) {
        match line.strip_prefix("require").map(str::trim_start) {
            Some(rest) if rest.starts_with('(') => is_inside = true,
            Some(rest) => found.push(rest),
            None if line.starts_with(')') => is_inside = false,
            None if is_inside => found.push(line),
            None => {}
        }
    }
    found
}

/// The only DSN by which the source opens this database, and where it stands.
fn own_dsn(dir: &Path, driver: &str, database: &Path) -> Result<Option<(String, String)>, String> {
    let mut files = Vec::new();
    sources(dir, &mut files);
    files.sort();
    let mut found: Vec<(String, String)> = Vec::new();
    for file in &files {
        let Ok(source) = fs::read_to_string(file) else { continue };
        for (dsn, line) in literals(&source, driver) {
            let is_this = is_same(&dir.join(path_of(dsn)), database);
            if is_this && !found.iter().any(|(known, _)| known == dsn) {
                let file = file.strip_prefix(dir).unwrap_or(file);
                found.push((dsn.to_owned(), format!("{}:{line}", file.display())));
            }
        }
    }
    if found.len() > 1 {
        let places: Vec<&str> = found.iter().map(|(_, place)| place.as_str()).collect();
        return Err(format!("it opens this database in several ways, at {}", places.join(", ")));
    }
    Ok(found.pop())
}

/// The Go files of a module, without those of its tests and of other modules.
fn sources(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            let is_other =
                name.starts_with(['.', '_']) || ["vendor", "testdata", "node_modules"].contains(&&*name);
            if !is_other && !path.join("go.mod").exists() {
                sources(&path, files);
            }
        } else if name.ends_with(".go") && !name.ends_with("_test.go") && files.len() < MOST_FILES {
            let is_short = entry.metadata().is_ok_and(|metadata| metadata.len() <= LARGEST_FILE);
            files.extend(is_short.then_some(path));
        }
    }
}

/// The literal DSNs of calls such as `sql.Open("sqlite3", "app.db")`, or GORM's `sqlite.Open("app.db")`, each with its line. One
/// with escapes in it, or that is put together, is none.
fn literals<'a>(source: &'a str, driver: &str) -> Vec<(&'a str, usize)> {
    let named = format!("\"{driver}\"");
    let mut found = Vec::new();
    for call in ["sqlite.Open(", ".Open(", ".MustOpen(", ".Connect(", ".MustConnect("] {
        for (at, _) in source.match_indices(call) {
            let arguments = source[at + call.len()..].trim_start();
            let last = match call {
                "sqlite.Open(" => Some(arguments),
                _ => arguments.strip_prefix(&named).and_then(|rest| rest.trim_start().strip_prefix(',')),
            };
            if let Some(dsn) = last.and_then(only_literal) {
                found.push((dsn, source[..at].lines().count().max(1)));
            }
        }
    }
    found
}

/// The literal of which the last argument of a call consists.
fn only_literal(argument: &str) -> Option<&str> {
    let argument = argument.trim_start();
    let quote = argument.chars().next().filter(|c| matches!(c, '`' | '"'))?;
    let (text, rest) = argument[1..].split_once(quote)?;
    let has_escapes = quote == '"' && text.contains('\\');
    (!has_escapes && rest.trim_start().starts_with(')')).then_some(text)
}

/// The file that a DSN names.
fn path_of(dsn: &str) -> &str {
    let dsn = dsn.strip_prefix("file:").unwrap_or(dsn);
    dsn.split_once('?').map_or(dsn, |(path, _)| path)
}

/// A parameter of a DSN.
fn parameter<'a>(dsn: &'a str, name: &str) -> Option<&'a str> {
    let (_, parameters) = dsn.split_once('?')?;
    let mut pairs = parameters.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find_map(|(key, value)| (key == name).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_is_the_one_that_go_mod_requires() {
        let mattn = Some(("github.com/mattn/go-sqlite3", "sqlite3"));
        assert_eq!(required("require github.com/mattn/go-sqlite3 v1.14.16"), mattn);
        let both = "require (\n\tgithub.com/mattn/go-sqlite3 v1.14.16 // indirect\n\tmodernc.org/sqlite v1.40.0\n)\n";
        assert_eq!(required(both), Some(("modernc.org/sqlite", "sqlite")));
        let gorm = "require (\n\tgorm.io/driver/sqlite v1.6.0\n\tgithub.com/mattn/go-sqlite3 v1.14.22 // indirect\n)\n";
        assert_eq!(required(gorm), mattn);
        assert_eq!(
            required("require github.com/mattn/go-sqlite3-fork v1\n// github.com/mattn/go-sqlite3"),
            None
        );
        let replaced = "require modernc.org/sqlite v1.40.0\nrequire (\n\tgithub.com/mattn/go-sqlite3 v1.14.22 // indirect\n)\n\
                        replace github.com/mattn/go-sqlite3 => ../go-sqlite3\nexclude (\n\tgithub.com/mattn/go-sqlite3 v1.14.0\n)\n";
        assert_eq!(required(replaced), Some(("modernc.org/sqlite", "sqlite")));
    }

    #[test]
    fn literals_are_found_and_nothing_is_guessed() {
        let source = "package main\nfunc a() { sql.Open(\"sqlite3\", \"file:app.db?_txlock=immediate\") }\n\
                      func b() { sqlx.MustConnect( \"sqlite3\",\n `b.db` ) }\n\
                      func c() { sql.Open(\"sqlite3\", \"c.db?\"+options); sql.Open(\"sqlite3\", path) }\n\
                      func d() { sql.Open(\"sqlite3\", \"d\\x2edb\"); sql.Open(\"pgx\", \"e.db\") }\n\
                      func e() { gorm.Open(sqlite.Open(\"f.db\"), &gorm.Config{}) }\n";
        let found = literals(source, "sqlite3");
        assert_eq!(found, [("f.db", 7), ("file:app.db?_txlock=immediate", 2), ("b.db", 3)]);
        assert_eq!((path_of("file:a/b.db?x=1"), path_of("a.db")), ("a/b.db", "a.db"));
        assert_eq!(parameter("a.db?_fk=1&_txlock=exclusive", "_txlock"), Some("exclusive"));
        assert_eq!(parameter("a.db", "_txlock"), None);
    }
}
