//! The drivers through which applications open databases: which ones are here, and what a connection of theirs has.
//!
//! A probe opens the database as the driver does by itself, so it shows the driver's defaults. What the application sets
//! afterwards only its own code can show: that is what `--command` is for.

mod go;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use litekeep_config::{Command, RunConfig, Secret};
use litekeep_supervise::spawn::env_file;
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::report::text;

/// Rails takes seconds to load, and SQLite's C code a minute to compile, once.
const PATIENCE: Duration = Duration::from_secs(60);
const COMPILER_PATIENCE: Duration = Duration::from_secs(300);

/// A driver that can be asked, or is known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    BetterSqlite3,
    NodeSqlite,
    Python,
    Rails,
    Django,
    Go,
}

impl Driver {
    pub(crate) const ALL: [Driver; 6] = [
        Driver::BetterSqlite3,
        Driver::NodeSqlite,
        Driver::Python,
        Driver::Rails,
        Driver::Django,
        Driver::Go,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Driver::BetterSqlite3 => "better-sqlite3",
            Driver::NodeSqlite => "node:sqlite",
            Driver::Python => "python",
            Driver::Rails => "rails",
            Driver::Django => "django",
            Driver::Go => "go",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Driver> {
        Driver::ALL.into_iter().find(|driver| driver.name() == name)
    }

    /// Whether a probe runs with the application's own settings, and not with the driver's defaults.
    pub(super) fn knows_the_application(self) -> bool {
        matches!(self, Driver::Rails | Driver::Django)
    }

    /// The line that sets a pragma on each connection of this driver.
    pub(in crate::commands) fn line(self, pragma: &str, value: &str) -> String {
        match self {
            Driver::BetterSqlite3 => {
                format!("db.pragma(\"{pragma} = {value}\")  // after each new Database(...)")
            }
            Driver::NodeSqlite => {
                format!("db.exec(\"PRAGMA {pragma} = {value}\")  // after each new DatabaseSync(...)")
            }
            Driver::Python => {
                format!(
                    "connection.execute(\"PRAGMA {pragma} = {value}\")  # after each sqlite3.connect(...)"
                )
            }
            Driver::Rails if pragma == "busy_timeout" => format!("timeout: {value}  # config/database.yml"),
            Driver::Rails => {
                format!("pragmas: {{ {pragma}: {} }}  # config/database.yml", value.to_lowercase())
            }
            Driver::Django => format!(
                "\"OPTIONS\": {{\"init_command\": \"PRAGMA {pragma} = {value};\"}}  # DATABASES in settings.py"
            ),
            Driver::Go => format!(
                "_pragma={pragma}({value})  // in the DSN of modernc.org/sqlite; mattn/go-sqlite3: _{pragma}={value}"
            ),
        }
    }

    /// The line that makes transactions take the write lock when they begin.
    pub(super) fn immediate(self) -> &'static str {
        match self {
            Driver::BetterSqlite3 => "db.transaction(work).immediate(...)",
            Driver::NodeSqlite => "db.exec(\"BEGIN IMMEDIATE\")",
            Driver::Python => {
                "sqlite3.connect(path, isolation_level=\"IMMEDIATE\")  # or None, with your own BEGIN IMMEDIATE"
            }
            Driver::Rails => {
                "default_transaction_mode: immediate  # config/database.yml, Rails 7.2; 8.0 has it by default"
            }
            Driver::Django => {
                "\"OPTIONS\": {\"transaction_mode\": \"IMMEDIATE\"}  # DATABASES in settings.py, Django 5.1"
            }
            Driver::Go => "_txlock=immediate  // in the DSN",
        }
    }
}

/// A place where an application lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commands) struct App {
    pub(super) dir: PathBuf,
    /// The first words of what starts it, where that is known.
    pub(super) program: Option<String>,
    /// Its variables over litekeep's own: Rails finds its database by one.
    pub(super) env: Vec<(String, Secret)>,
    pub(super) env_file: Option<PathBuf>,
}

impl App {
    /// The current folder.
    pub(super) fn here() -> App {
        App { dir: PathBuf::from("."), program: None, env: Vec::new(), env_file: None }
    }

    /// Where a process of the configuration runs.
    pub(super) fn of(run: &RunConfig, home: &Path) -> App {
        let program = match &run.command {
            Command::Words(words) => words.first().cloned(),
            Command::Shell(line) => line.split_whitespace().next().map(str::to_owned),
        };
        let dir = run.cwd.as_ref().map_or_else(|| home.to_owned(), |cwd| home.join(cwd));
        // A configuration without a folder in its name.
        let dir = if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir };
        App { dir, program, env: run.env.clone(), env_file: run.env_file.clone() }
    }

    /// The variables that it starts with.
    fn variables(&self) -> Result<Vec<(OsString, OsString)>, String> {
        let mut all = match &self.env_file {
            Some(path) => {
                let name = path.display();
                let text =
                    std::fs::read(path).map_err(|e| format!("read `{name}`: {}", text::io_error(&e)))?;
                env_file(&text).map_err(|line| format!("`{name}`, line {line}, is not NAME=VALUE"))?
            }
            None => Vec::new(),
        };
        all.extend(self.env.iter().map(|(name, value)| (name.into(), value.expose().into())));
        Ok(all)
    }

    /// The drivers whose traces are in the folder. Frameworks come instead of the driver below them.
    pub(in crate::commands) fn drivers(&self) -> Vec<Driver> {
        let has = |name: &str| self.dir.join(name).exists();
        let says = |file: &str, word: &str| {
            std::fs::read_to_string(self.dir.join(file)).is_ok_and(|text| text.contains(word))
        };
        let program = self.program.as_deref().and_then(|program| Path::new(program).file_name()?.to_str());
        let runs = |names: &[&str]| program.is_some_and(|own| names.iter().any(|name| own.starts_with(name)));
        let mut found = Vec::new();
        if says("package.json", "\"better-sqlite3\"") {
            found.push(Driver::BetterSqlite3);
        } else if has("package.json") || runs(&["node"]) {
            found.push(Driver::NodeSqlite);
        }
        if has("manage.py") {
            found.push(Driver::Django);
        } else if PYTHON.iter().any(|name| has(name)) || runs(&["python", "gunicorn", "uvicorn", "flask"]) {
            found.push(Driver::Python);
        }
        if has("bin/rails") && says("Gemfile", "rails") {
            found.push(Driver::Rails);
        }
        if says("go.mod", "sqlite") {
            found.push(Driver::Go);
        }
        found
    }

    /// The Python of the folder's own environment, or else of the system.
    fn python(dir: &Path) -> String {
        let own = [".venv/bin/python", "venv/bin/python"].into_iter().map(|own| dir.join(own));
        let own = own.into_iter().find(|own| own.exists());
        own.map_or_else(|| "python3".to_owned(), |own| own.to_string_lossy().into_owned())
    }
}

/// Files of a Python project.
const PYTHON: [&str; 5] = ["requirements.txt", "pyproject.toml", "Pipfile", "setup.py", ".venv"];

/// What a connection has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Found {
    pub(super) sqlite_version: Option<String>,
    pub(super) journal_mode: Option<String>,
    pub(super) synchronous: Option<i64>,
    pub(super) foreign_keys: Option<i64>,
    pub(super) busy_timeout: Option<i64>,
    pub(super) cache_size: Option<i64>,
    pub(super) mmap_size: Option<i64>,
    pub(super) temp_store: Option<i64>,
    /// How transactions begin: `deferred`, `immediate`, `exclusive`; `None`: the application says so each time.
    pub(super) transactions: Option<String>,
    /// The file that it has opened, where the driver chooses it.
    pub(super) database: Option<String>,
    /// Where the application's source says how it opens it, if that was used.
    #[serde(skip)]
    pub(super) place: Option<String>,
}

impl Found {
    /// Whose settings these are: the driver's own, or those of a place in the source.
    pub(super) fn of(&self, driver: &str) -> String {
        self.place.as_ref().map_or(driver.to_owned(), |place| format!("{driver}, by {place}"))
    }
}

const NODE: &str = "const names = ['journal_mode', 'synchronous', 'foreign_keys', 'busy_timeout', 'cache_size', 'mmap_size', 'temp_store'];
const found = {};
const value = row => row === undefined ? null : Object.values(row)[0];
for (const name of names) found[name] = value(one('PRAGMA ' + name));
found.sqlite_version = value(one('SELECT sqlite_version()'));
db.close();
console.log(JSON.stringify(found));";

const BETTER_SQLITE3: &str = "const Database = require('better-sqlite3');
const db = new Database(process.argv[1], { fileMustExist: true });
const one = sql => db.prepare(sql).get();
";

/// Until Node 22.13 it had to be asked for.
const NODE_SQLITE: &str = "const flag = '--experimental-sqlite';
if (!require('node:module').isBuiltin('node:sqlite') && process.allowedNodeEnvironmentFlags.has(flag)) {
  const again = [flag, ...process.execArgv, ...process.argv.slice(1)];
  process.exit(require('node:child_process').spawnSync(process.execPath, again, { stdio: 'inherit' }).status);
}
const { DatabaseSync } = require('node:sqlite');
const db = new DatabaseSync(process.argv[1]);
const one = sql => db.prepare(sql).get();
";

const PYTHON_SQLITE3: &str = "import json, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
names = ['journal_mode', 'synchronous', 'foreign_keys', 'busy_timeout', 'cache_size', 'mmap_size', 'temp_store']
found = {name: (connection.execute('PRAGMA ' + name).fetchone() or [None])[0] for name in names}
found['sqlite_version'] = sqlite3.sqlite_version
level = connection.isolation_level
found['transactions'] = None if level is None else (level.lower() or 'deferred')
connection.close()
print(json.dumps(found))";

const DJANGO: &str = "import json
from django.db import connection
connection.ensure_connection()
cursor = connection.cursor()
names = ['journal_mode', 'synchronous', 'foreign_keys', 'busy_timeout', 'cache_size', 'mmap_size', 'temp_store']
found = {name: (cursor.execute('PRAGMA ' + name).fetchone() or [None])[0] for name in names}
found['sqlite_version'] = cursor.execute('SELECT sqlite_version()').fetchone()[0]
mode = connection.settings_dict.get('OPTIONS', {}).get('transaction_mode')
found['transactions'] = (mode or 'deferred').lower()
found['database'] = str(connection.settings_dict['NAME'])
print(json.dumps(found))";

/// Newer versions wait in Ruby instead of by the pragma, which then has 0.
const RAILS: &str = "require 'json'
connection = ActiveRecord::Base.connection
names = %w[journal_mode synchronous foreign_keys busy_timeout cache_size mmap_size temp_store]
found = names.to_h { |name| [name, connection.select_value(\"PRAGMA #{name}\")] }
found['sqlite_version'] = connection.select_value('SELECT sqlite_version()')
config = ActiveRecord::Base.connection_db_config.configuration_hash
found['busy_timeout'] = config[:timeout].to_i if found['busy_timeout'].to_i == 0
mode = config[:default_transaction_mode] || (Rails::VERSION::MAJOR >= 8 ? 'immediate' : 'deferred')
found['transactions'] = mode.to_s
found['database'] = File.expand_path(config[:database].to_s, Rails.root)
puts found.to_json";

/// What drivers have said. Each is asked once for an application and a journal mode, which is all that a connection has of the file: of
/// the others of many databases it would say the same. Whoever asks has the lock: they are asked one after the other.
#[derive(Default)]
pub(super) struct Answers(Mutex<Vec<Answer>>);

struct Answer {
    driver: Driver,
    app: App,
    journal_mode: String,
    found: Result<Found, String>,
}

impl Answers {
    /// What a driver says of a database that is in this journal mode; the error is why it could not be asked.
    pub(super) async fn of(
        &self,
        driver: Driver,
        app: &App,
        database: &Path,
        journal_mode: &str,
    ) -> Result<Found, String> {
        // A program's path would be taken from the folder that it runs in.
        let dir = std::path::absolute(&app.dir).map_err(|error| text::io_error(&error))?;
        let probe = Probe::of(driver, &dir, database).await?;
        let is_own = probe.is_of_this_database();
        let mut answers = self.0.lock().await;
        let is_it =
            |one: &&Answer| (one.driver, &one.app, one.journal_mode.as_str()) == (driver, app, journal_mode);
        if let Some(known) = answers.iter().find(is_it).filter(|_| !is_own) {
            return of_this(known.found.clone()?, &dir, database);
        }
        let found = probe.ask(app, &dir).await;
        if !is_own {
            // It opens what it is given, and what that was is no part of the answer.
            let named = |found: &Found| found.database.clone().filter(|_| driver.knows_the_application());
            let found = found.clone().map(|found| Found { database: named(&found), ..found });
            answers.push(Answer { driver, app: app.clone(), journal_mode: journal_mode.to_owned(), found });
        }
        of_this(found?, &dir, database)
    }

    /// Runs the user's own command, which prints the same as JSON.
    pub(super) async fn run(&self, line: &str, database: &Path) -> Result<Found, String> {
        let _alone = self.0.lock().await;
        let line = line.replace("{db}", &text::shell_word(&database.to_string_lossy()));
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", &line]).env("LITEKEEP_DATABASE", database);
        ask(command, &line, PATIENCE).await
    }
}

/// How a driver is asked.
enum Probe {
    Words(Vec<String>),
    Go(go::Probe),
}

impl Probe {
    async fn of(driver: Driver, dir: &Path, database: &Path) -> Result<Probe, String> {
        let path = || database.to_string_lossy().into_owned();
        let words = match driver {
            Driver::BetterSqlite3 => {
                ["node".to_owned(), "-e".to_owned(), format!("{BETTER_SQLITE3}{NODE}"), path()].into()
            }
            Driver::NodeSqlite => {
                ["node".to_owned(), "-e".to_owned(), format!("{NODE_SQLITE}{NODE}"), path()].into()
            }
            Driver::Python => [App::python(dir), "-c".to_owned(), PYTHON_SQLITE3.to_owned(), path()].into(),
            Driver::Django => {
                [App::python(dir), "manage.py".into(), "shell".into(), "-c".into(), DJANGO.into()].into()
            }
            Driver::Rails => {
                let runner = dir.join("bin/rails").to_string_lossy().into_owned();
                [runner, "runner".to_owned(), RAILS.to_owned()].into()
            }
            Driver::Go => {
                let (module, database) = (dir.to_owned(), database.to_owned());
                let prepared = tokio::task::spawn_blocking(move || go::prepare(&module, &database)).await;
                let prepared = prepared.map_err(|error| error.to_string())?;
                return prepared.map(Probe::Go).map_err(|cause| format!("{cause}: use --command"));
            }
        };
        Ok(Probe::Words(words))
    }

    /// The source says how it opens this very one.
    fn is_of_this_database(&self) -> bool {
        matches!(self, Probe::Go(probe) if probe.place.is_some())
    }

    async fn ask(self, app: &App, dir: &Path) -> Result<Found, String> {
        match self {
            Probe::Words(words) => ask(command(&words, app, dir)?, &words[0], PATIENCE).await,
            Probe::Go(go::Probe { words, folder, transactions, place }) => {
                let mut command = command(&words, app, dir)?;
                command.envs(go::OFFLINE);
                let found = ask(command, "go run", COMPILER_PATIENCE).await;
                drop(folder);
                Ok(Found { transactions: Some(transactions), place, ..found? })
            }
        }
    }
}

fn command(words: &[String], app: &App, dir: &Path) -> Result<tokio::process::Command, String> {
    let mut command = tokio::process::Command::new(&words[0]);
    command.args(&words[1..]).current_dir(dir).envs(app.variables()?);
    Ok(command)
}

fn of_this(found: Found, dir: &Path, database: &Path) -> Result<Found, String> {
    match &found.database {
        Some(other) if !is_same(&dir.join(other), database) => {
            Err(format!("the application is set to open `{other}`, which is another database"))
        }
        _ => Ok(found),
    }
}

async fn ask(mut command: tokio::process::Command, name: &str, patience: Duration) -> Result<Found, String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(patience, command.output()).await;
    let ended = ended.map_err(|_| format!("`{name}` did not end within {} s", patience.as_secs()))?;
    let output = ended.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            let program = command.as_std().get_program().to_string_lossy();
            match &*program {
                "go" => {
                    "the Go compiler, `go`, is not here: install it, or put its folder into PATH".to_owned()
                }
                path if path.contains('/') => format!("`{path}` does not exist"),
                name => format!("`{name}` is not here: install it, or put its folder into PATH"),
            }
        }
        _ => format!("start `{name}`: {}", text::io_error(&error)),
    })?;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // Frameworks print what they like before it.
    let found = stdout.lines().rev().find_map(|line| serde_json::from_str::<Found>(line).ok());
    match found {
        Some(found) if found != Found::default() => Ok(found),
        _ => {
            let mut said = stderr.lines().chain(stdout.lines()).filter(|line| !line.trim().is_empty());
            let is_error = |line: &&str| line.contains("rror");
            let last =
                said.clone().find(is_error).or(said.next_back()).unwrap_or("it printed nothing").trim();
            let short: String = last.chars().take(200).collect();
            Err(format!("`{name}` told no pragmas ({}): {short}", output.status))
        }
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_known_by_the_files_of_the_project() {
        let of = |files: &[(&str, &str)], program: Option<&str>| {
            let dir = tempfile::tempdir().unwrap();
            for (name, content) in files {
                let path = dir.path().join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, content).unwrap();
            }
            let program = program.map(str::to_owned);
            App { dir: dir.path().to_owned(), program, ..App::here() }.drivers()
        };
        assert_eq!(of(&[], None), []);
        let package = "{ \"dependencies\": { \"better-sqlite3\": \"^12\" } }";
        assert_eq!(of(&[("package.json", package)], None), [Driver::BetterSqlite3]);
        assert_eq!(of(&[("package.json", "{}")], Some("npm")), [Driver::NodeSqlite]);
        assert_eq!(of(&[("requirements.txt", "flask")], None), [Driver::Python]);
        assert_eq!(of(&[], Some("/usr/bin/python3.11")), [Driver::Python]);
        assert_eq!(of(&[("requirements.txt", "django"), ("manage.py", "")], None), [Driver::Django]);
        assert_eq!(of(&[("Gemfile", "gem \"rails\""), ("bin/rails", "")], None), [Driver::Rails]);
        assert_eq!(of(&[("go.mod", "require modernc.org/sqlite v1.40.0")], None), [Driver::Go]);
    }

    #[test]
    fn each_name_is_one_driver() {
        assert!(Driver::ALL.iter().all(|driver| Driver::named(driver.name()) == Some(*driver)));
    }
}
