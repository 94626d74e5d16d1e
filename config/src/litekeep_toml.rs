//! `litekeep.toml`.
//!
//! A setting is looked for in the `[[database]]`, its preset, `[defaults]`, the preset of `[defaults]`, and at last in
//! the built-in defaults; the first that has it counts.

mod backup;
mod cluster;
mod dashboard;
mod feed;
mod health;
mod job;
mod migrations;
mod named;
mod process;
mod run;
mod stream;
mod sync;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::conflicts::{self, Placed};
use crate::diagnostic::Error;
use crate::node::{self, Entry, Node, Value, entry};
use crate::pattern::Pattern;
use crate::processes::{self, Others};
use crate::reader::{Dialect, Reader, lexical};
use crate::settings::{Config, DatabaseConfig, Input, Log, LogFormat, LogLevel, Metrics, Preset, Source};
use crate::units;

const ROOT_KEYS: [&str; 12] = [
    "database",
    "defaults",
    "metrics",
    "dashboard",
    "stream",
    "log",
    "feed",
    "sync",
    "process",
    "job",
    "supervisor",
    "cluster",
];
/// What `[defaults]` has, and each `[[database]]` too.
const SETTING_KEYS: [&str; 13] = [
    "preset",
    "any_transaction",
    "any_second",
    "keep",
    "snapshot_every",
    "upload_interval",
    "wal_limit",
    "spool_limit",
    "shutdown_timeout",
    "verify",
    "restore_if_missing",
    "meta_dir",
    "conditional_writes",
];
/// What only a `[[database]]` has.
const DATABASE_ONLY_KEYS: [&str; 7] =
    ["path", "dir", "pattern", "recursive", "watch", "backup", "migrations"];

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
const CENTURY: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Values that are accepted; shorter ones would only burn requests, longer ones are slips.
const WINDOW: (Duration, Duration) = (Duration::ZERO, CENTURY);
const KEEP: (Duration, Duration) = (SECOND, CENTURY);
const SNAPSHOT: (Duration, Duration) = (SECOND, CENTURY);
const VERIFY: (Duration, Duration) = (SECOND, CENTURY);
const SHUTDOWN: (Duration, Duration) = (Duration::ZERO, DAY);
pub(crate) const UPLOAD: (Duration, Duration) = (Duration::from_millis(1), DAY);
const LEAST_WAL: u64 = 1 << 20;
const LEAST_SPOOL: u64 = 1 << 20;

pub(crate) fn read(input: &Input<'_>) -> Result<Config, Error> {
    let mut reader = Reader::new(input, Dialect::Litekeep);
    let mut config = Config::default();
    if let Some(root) = node::parse_toml(input.text, &mut reader.report) {
        reader.root(&root, &mut config);
    }
    config.warnings = reader.report.finish()?;
    Ok(config)
}

/// One layer of settings, each with its place.
#[derive(Default)]
struct Settings {
    any_transaction: Option<Placeable<Duration>>,
    any_second: Option<Placeable<Duration>>,
    keep: Option<Placeable<Option<Duration>>>,
    snapshot_every: Option<Duration>,
    upload_interval: Option<Duration>,
    wal_limit: Option<u64>,
    spool_limit: Option<u64>,
    shutdown_timeout: Option<Duration>,
    verify_every: Option<Option<Duration>>,
    restore_if_missing: Option<bool>,
    meta_dir: Option<PathBuf>,
    conditional_writes: Option<crate::ConditionalWrites>,
}

#[derive(Clone)]
struct Placeable<T> {
    value: T,
    span: Range<usize>,
}

impl Settings {
    fn preset(preset: Preset, span: &Range<usize>) -> Self {
        match preset {
            Preset::Small => Self {
                upload_interval: Some(60 * SECOND),
                keep: Some(Placeable { value: Some(14 * DAY), span: span.clone() }),
                snapshot_every: Some(DAY),
                verify_every: Some(Some(7 * DAY)),
                ..Self::default()
            },
        }
    }

    fn or(self, below: &Self) -> Self {
        Self {
            any_transaction: self.any_transaction.or_else(|| below.any_transaction.clone()),
            any_second: self.any_second.or_else(|| below.any_second.clone()),
            keep: self.keep.or_else(|| below.keep.clone()),
            snapshot_every: self.snapshot_every.or(below.snapshot_every),
            upload_interval: self.upload_interval.or(below.upload_interval),
            wal_limit: self.wal_limit.or(below.wal_limit),
            spool_limit: self.spool_limit.or(below.spool_limit),
            shutdown_timeout: self.shutdown_timeout.or(below.shutdown_timeout),
            verify_every: self.verify_every.or(below.verify_every),
            restore_if_missing: self.restore_if_missing.or(below.restore_if_missing),
            meta_dir: self.meta_dir.or_else(|| below.meta_dir.clone()),
            conditional_writes: self.conditional_writes.or(below.conditional_writes),
        }
    }
}

impl Reader<'_> {
    pub(crate) fn root(&mut self, root: &[Entry], config: &mut Config) {
        self.check_keys(root, "litekeep.toml", &ROOT_KEYS, misplaced_at_root);
        let defaults = match entry(root, "defaults").and_then(|found| self.table(found)) {
            Some(entries) => {
                self.check_keys(entries, "[defaults]", &SETTING_KEYS, |key| {
                    DATABASE_ONLY_KEYS
                        .contains(&key)
                        .then(|| format!("`{key}` belongs to one database: write it in its [[database]]"))
                        .or_else(|| litestream_name(key))
                });
                self.settings(entries)
            }
            None => Settings::default(),
        };
        if let Some(entries) = entry(root, "metrics").and_then(|found| self.table(found)) {
            self.check_keys(entries, "[metrics]", &["addr"], |_| None);
            let addr = entry(entries, "addr").and_then(|found| self.listen_address(found));
            config.metrics = addr.map(|addr| Metrics { addr });
        }
        config.dashboard =
            entry(root, "dashboard").and_then(|found| self.dashboard(found, config.metrics.as_ref()));
        let taken = [
            ("[metrics]", config.metrics.as_ref().map(|own| own.addr)),
            ("[dashboard]", config.dashboard.as_ref().map(|own| own.addr)),
        ];
        config.stream = entry(root, "stream")
            .and_then(|found| self.stream(found, taken, entry(root, "cluster").is_some()));
        if let Some(entries) = entry(root, "log").and_then(|found| self.table(found)) {
            config.log = self.log(entries);
        }
        let mut databases = Vec::new();
        for node in self.database_tables(root) {
            if let Value::Table(entries) = &node.value {
                databases.extend(self.database(entries, &node.span, &defaults));
            }
        }
        conflicts::check(&databases, &mut self.report);
        config.databases = databases.into_iter().map(|placed| placed.config).collect();
        config.feeds =
            entry(root, "feed").map(|found| self.feeds(found, &config.databases)).unwrap_or_default();
        config.syncs =
            entry(root, "sync").map(|found| self.syncs(found, &config.databases)).unwrap_or_default();
        config.cluster = entry(root, "cluster")
            .and_then(|found| self.cluster(found, &config.databases, entry(root, "stream").is_some()));
        self.supervised(root, config);
        let has_cluster = entry(root, "cluster").is_some();
        self.check_roles(root, &config.processes, has_cluster);
    }

    /// What `litekeep up` runs.
    fn supervised(&mut self, root: &[Entry], config: &mut Config) {
        if let Some(entries) = entry(root, "supervisor").and_then(|found| self.table(found)) {
            self.check_keys(entries, "[supervisor]", &["state_dir"], |_| None);
            config.state_dir = entry(entries, "state_dir").and_then(|found| self.path(found));
        }
        config.jobs = entry(root, "job").map(|found| self.jobs(found)).unwrap_or_default();
        let processes = entry(root, "process").map(|found| self.processes(found)).unwrap_or_default();
        let jobs = self.own_names(root);
        let own = [
            ("[metrics]", config.metrics.as_ref().map(|own| own.addr)),
            ("[dashboard]", config.dashboard.as_ref().map(|own| own.addr)),
            ("[stream]", config.stream.as_ref().map(|own| own.addr)),
        ];
        let others = Others { databases: &config.databases, jobs, own };
        config.processes = processes::check(processes, &others, &mut self.report);
        self.check_logs(root, config);
    }

    /// A log is a file of its own: it is appended to, renamed and deleted.
    fn check_logs(&mut self, root: &[Entry], config: &Config) {
        let processes = config.processes.iter().map(|process| (&process.name, &process.log, &process.run));
        let jobs = config.jobs.iter().map(|job| (&job.name, &job.log, &job.run));
        let mut logs: Vec<(PathBuf, &str)> = Vec::new();
        for (key, (name, log, run)) in processes.map(|of| ("process", of)).chain(jobs.map(|of| ("job", of))) {
            let span = entry(root, key).and_then(|found| {
                let log = found.node.entry(name)?.node.entry("log")?;
                Some(log.node.entry("path")?.node.span.clone())
            });
            let (Some(span), Some(path)) = (span, log.path.as_deref().map(lexical)) else { continue };
            let is_of = |database: &&DatabaseConfig| {
                let text = path.to_string_lossy();
                let parts = ["", "-wal", "-shm", "-journal"].into_iter();
                let mut files = parts.filter_map(|part| text.strip_suffix(part));
                files.any(|file| conflicts::covers(&database.source, Path::new(file)))
            };
            let other = if let Some(database) = config.databases.iter().find(is_of) {
                Some(format!("it is of the database `{}`", database.source))
            } else if path == lexical(self.input.path) {
                Some("it is this configuration".to_owned())
            } else if run.env_file.as_deref().map(lexical) == Some(path.clone()) {
                Some("it is its `env_file`".to_owned())
            } else {
                let same = logs.iter().find(|(other, _)| *other == path);
                same.map(|(_, other)| format!("`{other}` has its log there"))
            };
            if let Some(other) = other {
                let message = format!(
                    "`{}` cannot be the log of `{name}`: {other}; give it a file of its own",
                    path.display()
                );
                self.report.error(&span, message);
            }
            logs.push((path, name));
        }
    }

    /// The names of the jobs, which no process has: one name is one log file and one thing to ask for.
    fn own_names<'n>(&mut self, root: &'n [Entry]) -> Vec<&'n str> {
        let tables = |key: &str| match entry(root, key).map(|found| &found.node.value) {
            Some(Value::Table(tables)) => tables.as_slice(),
            _ => &[],
        };
        for job in tables("job") {
            if let Some(process) = entry(tables("process"), &job.key) {
                let line = self.report.line_of(&process.key_span);
                let message =
                    format!("`{}` is already a process, in line {line}: give one another name", job.key);
                self.report.error(&job.key_span, message);
            }
        }
        tables("job").iter().map(|job| job.key.as_str()).collect()
    }

    fn database_tables<'n>(&mut self, root: &'n [Entry]) -> Vec<&'n Node> {
        let Some(found) = entry(root, "database") else {
            if entry(root, "process").is_none() && entry(root, "job").is_none() {
                self.report.warn(&(0..0), "there is no [[database]], so there is nothing to back up");
            }
            return Vec::new();
        };
        match &found.node.value {
            Value::Array(nodes) => {
                for node in nodes.iter().filter(|node| !matches!(node.value, Value::Table(_))) {
                    self.report
                        .error(&node.span, "a database is a table: write [[database]] and its keys below it");
                }
                nodes.iter().collect()
            }
            _ => {
                let message = "databases are a list: write [[database]], with two brackets on each side";
                self.report.error(&found.key_span, message);
                Vec::new()
            }
        }
    }

    fn database(&mut self, entries: &[Entry], span: &Range<usize>, defaults: &Settings) -> Option<Placed> {
        let known: Vec<&str> = DATABASE_ONLY_KEYS.iter().chain(&SETTING_KEYS).copied().collect();
        self.check_keys(entries, "[[database]]", &known, |key| {
            backup::KEYS
                .contains(&key)
                .then(|| {
                    format!(
                        "`{key}` belongs to a destination: write backup = {{ url = \"...\", {key} = ... }}"
                    )
                })
                .or_else(|| litestream_name(key))
        });
        let source = self.source(entries, span);
        let settings = self.settings(entries).or(defaults);
        let destinations = match entry(entries, "backup") {
            Some(found) => self.destinations(found, settings.conditional_writes),
            None => {
                let message = "this database has no `backup`: add backup = \"file:///var/backups/app\" or a URL such as s3://bucket/path";
                self.report.error(span, message);
                Vec::new()
            }
        };
        let (source, source_span) = source?;
        let mut config = DatabaseConfig::new(source);
        self.apply(&mut config, settings);
        config.migrations = entry(entries, "migrations").and_then(|found| self.migrations(found));
        let (destinations, destination_spans) = destinations.into_iter().unzip();
        config.destinations = destinations;
        Some(Placed { config, source_span, destination_spans })
    }

    fn source(&mut self, entries: &[Entry], span: &Range<usize>) -> Option<(Source, Range<usize>)> {
        let folder_keys = ["pattern", "recursive", "watch"];
        match (entry(entries, "path"), entry(entries, "dir")) {
            (Some(path), None) => {
                for found in folder_keys.iter().filter_map(|key| entry(entries, key)) {
                    let message = format!("`{}` goes with `dir`, but this database has a `path`", found.key);
                    self.report.error(&found.key_span, message);
                }
                Some((Source::File(self.path(path)?), path.node.span.clone()))
            }
            (None, Some(dir)) => {
                let without_pattern =
                    "`dir` needs a `pattern` that says which files are databases: add pattern = \"*.db\"";
                self.folder(dir, entries, without_pattern, true)
            }
            (Some(_), Some(dir)) => {
                let message = "a database has a `path` or a `dir`, not both: use a second [[database]]";
                self.report.error(&dir.key_span, message);
                None
            }
            (None, None) => {
                let message = "this database has no `path`: add path = \"app.db\", or dir = \"...\" and pattern = \"*.db\" for a folder of databases";
                self.report.error(span, message);
                None
            }
        }
    }

    /// The folder of databases that a table has in `dir`; whether it is watched where the table does not say is the
    /// format's.
    pub(crate) fn folder(
        &mut self,
        dir: &Entry,
        entries: &[Entry],
        without_pattern: &str,
        watched: bool,
    ) -> Option<(Source, Range<usize>)> {
        let path = self.path(dir);
        let Some(pattern) = entry(entries, "pattern") else {
            self.report.error(&dir.key_span, without_pattern);
            return None;
        };
        let pattern = self.pattern(pattern);
        let recursive = entry(entries, "recursive").map_or(Some(false), |found| self.boolean(found));
        let watch = entry(entries, "watch").map_or(Some(watched), |found| self.boolean(found));
        let source = Source::Folder { dir: path?, pattern: pattern?, recursive: recursive?, watch: watch? };
        Some((source, dir.node.span.clone()))
    }

    fn pattern(&mut self, found: &Entry) -> Option<Pattern> {
        let text = self.text(found)?;
        let pattern = Pattern::parse(&text).map_err(|cause| format!("`{text}` is not a pattern: {cause}"));
        self.accept(found, pattern)
    }

    /// The settings of one table, over its own preset.
    fn settings(&mut self, entries: &[Entry]) -> Settings {
        let get = |key: &str| entry(entries, key);
        let preset = match get("preset") {
            Some(found) => match self.one_of(found, &[("small", Preset::Small)]) {
                Some(preset) => Settings::preset(preset, &found.node.span),
                None => Settings::default(),
            },
            None => Settings::default(),
        };
        let own = Settings {
            any_transaction: get("any_transaction").and_then(|found| {
                let value = self.duration(found, "24h", WINDOW)?;
                Some(Placeable { value, span: found.node.span.clone() })
            }),
            any_second: get("any_second").and_then(|found| {
                let value = self.duration(found, "24h", WINDOW)?;
                Some(Placeable { value, span: found.node.span.clone() })
            }),
            keep: get("keep").and_then(|found| {
                let value = self.keep(found)?;
                Some(Placeable { value, span: found.node.span.clone() })
            }),
            snapshot_every: get("snapshot_every").and_then(|found| self.duration(found, "24h", SNAPSHOT)),
            upload_interval: get("upload_interval").and_then(|found| self.duration(found, "1s", UPLOAD)),
            wal_limit: get("wal_limit").and_then(|found| self.size(found, "64MiB", LEAST_WAL)),
            spool_limit: get("spool_limit").and_then(|found| self.size(found, "1GiB", LEAST_SPOOL)),
            shutdown_timeout: get("shutdown_timeout").and_then(|found| self.duration(found, "30s", SHUTDOWN)),
            verify_every: get("verify").and_then(|found| self.verify(found)),
            restore_if_missing: get("restore_if_missing").and_then(|found| self.boolean(found)),
            meta_dir: get("meta_dir").and_then(|found| self.path(found)),
            conditional_writes: get("conditional_writes").and_then(|found| self.conditional_writes(found)),
        };
        own.or(&preset)
    }

    fn keep(&mut self, found: &Entry) -> Option<Option<Duration>> {
        if matches!(found.node.value, Value::String(_)) && self.text(found)? == "forever" {
            return Some(None);
        }
        self.duration(found, "30d", KEEP).map(Some)
    }

    fn verify(&mut self, found: &Entry) -> Option<Option<Duration>> {
        match &found.node.value {
            Value::Bool(false) => Some(None),
            Value::Table(entries) => {
                self.check_keys(entries, "`verify`", &["every"], |_| None);
                match entry(entries, "every") {
                    Some(every) => self.duration(every, "24h", VERIFY).map(Some),
                    None => {
                        self.refuse(found, "it needs `every`: write verify = { every = \"24h\" }");
                        None
                    }
                }
            }
            _ => {
                let message = "write verify = { every = \"24h\" }, or verify = false for never";
                self.refuse(found, message);
                None
            }
        }
    }

    fn apply(&mut self, config: &mut DatabaseConfig, settings: Settings) {
        let keep = settings.keep.as_ref().map_or(config.keep, |keep| keep.value);
        match (settings.any_second, keep) {
            (Some(window), Some(keep)) if window.value > keep => {
                let (window_text, keep) =
                    (units::format_duration(window.value), units::format_duration(keep));
                let message = format!(
                    "`any_second` ({window_text}) cannot be longer than `keep` ({keep}): what is deleted cannot be restored"
                );
                self.report.error(&window.span, message);
            }
            (Some(window), _) => config.any_second = window.value,
            (None, Some(keep)) => config.any_second = config.any_second.min(keep),
            (None, None) => {}
        }
        match settings.any_transaction {
            Some(window) if window.value > config.any_second => {
                let (window_text, any_second) =
                    (units::format_duration(window.value), units::format_duration(config.any_second));
                let message = format!(
                    "`any_transaction` ({window_text}) cannot be longer than `any_second` ({any_second}): a commit is found from the second before it"
                );
                self.report.error(&window.span, message);
            }
            Some(window) => config.any_transaction = window.value,
            None => config.any_transaction = config.any_transaction.min(config.any_second),
        }
        config.keep = keep;
        config.snapshot_every = settings.snapshot_every.unwrap_or(config.snapshot_every);
        config.upload_interval = settings.upload_interval;
        config.wal_limit = settings.wal_limit.unwrap_or(config.wal_limit);
        config.spool_limit = settings.spool_limit.unwrap_or(config.spool_limit);
        config.shutdown_timeout = settings.shutdown_timeout.unwrap_or(config.shutdown_timeout);
        config.verify_every = settings.verify_every.unwrap_or(config.verify_every);
        config.restore_if_missing = settings.restore_if_missing.unwrap_or(config.restore_if_missing);
        config.meta_dir = settings.meta_dir;
    }

    fn log(&mut self, entries: &[Entry]) -> Log {
        self.check_keys(entries, "[log]", &["level", "format"], |_| None);
        let level = entry(entries, "level").and_then(|found| self.log_level(found));
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        let format = entry(entries, "format").and_then(|found| self.one_of(found, &formats));
        Log { level: level.unwrap_or_default(), format: format.unwrap_or_default() }
    }

    pub(crate) fn log_level(&mut self, found: &Entry) -> Option<LogLevel> {
        let levels = [LogLevel::Trace, LogLevel::Debug, LogLevel::Info, LogLevel::Warn, LogLevel::Error];
        self.one_of(found, &levels.map(|level| (level.as_str(), level)))
    }
}

/// Advice for a key at the root that belongs into a table.
fn misplaced_at_root(key: &str) -> Option<String> {
    if DATABASE_ONLY_KEYS.contains(&key) {
        return Some(format!("`{key}` belongs to a database: write it below [[database]]"));
    }
    if SETTING_KEYS.contains(&key) {
        return Some(format!("write `{key}` below [defaults] for all databases, or below one [[database]]"));
    }
    match key {
        "databases" | "dbs" | "db" => Some("write [[database]] for each database".into()),
        "processes" | "apps" | "service" | "services" => Some("write [process.NAME] for each process".into()),
        "jobs" | "cron" => Some("write [job.NAME] for each job".into()),
        "state_dir" => Some("write `state_dir` below [supervisor]".into()),
        "addr" => Some("write `addr` below [metrics]".into()),
        "level" | "format" => Some(format!("write `{key}` below [log]")),
        _ => None,
    }
}

/// What a key of `litestream.yml` is called here.
fn litestream_name(key: &str) -> Option<String> {
    let ours = match key.replace('-', "_").as_str() {
        "replica" | "replicas" | "destination" | "destinations" | "url" => "backup",
        "sync_interval" => "upload_interval",
        "retention" => "keep",
        "snapshot" | "snapshot_interval" => "snapshot_every",
        "validation" | "validation_interval" | "verify_every" => "verify = { every = \"24h\" }",
        "meta_path" => "meta_dir",
        "shutdown_sync_timeout" => "shutdown_timeout",
        "restore_if_db_not_exists" => "restore_if_missing",
        _ => return None,
    };
    Some(format!("here it is `{ours}`"))
}
