//! `litestream.yml` of Litestream 0.3 and 0.5, read as it is.
//!
//! Every key of Litestream's configuration reference (0.3.13 and 0.5) is mapped, warned about ([`keys`]) or refused;
//! a key of neither version is an error. Refused is what would change what is stored or where: encryption, and
//! stores that we do not write to.

mod indentation;
mod keys;
mod replica;

use std::time::Duration;

use crate::conflicts::{self, Placed};
use crate::diagnostic::Error;
use crate::node::{self, Entry, Node, Value, entry};
use crate::reader::{Dialect, Reader};
use crate::settings::{Config, DatabaseConfig, Input, Log, LogFormat, LogLevel, Metrics, Source};
use crate::units;

use self::keys::Known;
use self::replica::Replica;

/// Litestream's durations are Go's: no upper end to speak of.
const ANY: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(100 * 366 * 86_400));
/// A restore proves more than Litestream's look at the file list and downloads everything, so it runs at most daily.
const LEAST_VALIDATION: Duration = Duration::from_secs(86_400);

pub(crate) fn read(input: &Input<'_>) -> Result<Config, Error> {
    let mut reader = Reader::new(input, Dialect::Litestream);
    let mut config = Config::default();
    if let Some(root) = node::parse_yaml(input.text, "YAML", &mut reader.report) {
        match &root.value {
            Value::Table(entries) => reader.litestream(entries, &mut config),
            Value::Null => reader.report.warn(&(0..0), "the file is empty: there is nothing to back up"),
            _ => reader.report.error(&root.span, "a configuration is a table of keys such as `dbs:`"),
        }
    }
    config.warnings = reader.report.finish()?;
    Ok(config)
}

/// What the root says for all databases.
#[derive(Default)]
struct Globals {
    snapshot_interval: Option<Duration>,
    retention: Option<Duration>,
    delete_nothing: bool,
    any_second: Option<Duration>,
    verify_every: Option<Duration>,
    shutdown_timeout: Option<Duration>,
}

impl Reader<'_> {
    fn litestream(&mut self, root: &[Entry], config: &mut Config) {
        let repaired = indentation::repair(root, &mut self.report);
        let root = repaired.as_deref().unwrap_or(root);
        self.check_litestream_keys(root, "the root", &[keys::ROOT, keys::REPLICA_SETTINGS]);
        if let Some(addr) = entry(root, "addr").and_then(|found| self.listen_address(found)) {
            config.metrics = Some(Metrics { addr });
        }
        config.exec = entry(root, "exec").and_then(|found| self.text(found));
        if let Some(entries) = entry(root, "logging").and_then(|found| self.table(found)) {
            config.log = self.logging(entries);
        }
        let globals = self.globals(root);
        let mut databases = Vec::new();
        match entry(root, "dbs").map(|found| (&found.node.value, found)) {
            Some((Value::Array(nodes), _)) => {
                for node in nodes {
                    databases.extend(self.litestream_database(node, root, &globals));
                }
            }
            Some((Value::Null, _)) | None => {
                self.report.warn(&(0..0), "there is no database below `dbs`, so there is nothing to back up");
            }
            Some((_, found)) => self.refuse(found, "it is a list: write `- path: ...` for each database"),
        }
        conflicts::check(&databases, &mut self.report);
        config.databases = databases.into_iter().map(|placed| placed.config).collect();
    }

    /// Errors for unknown keys, and a warning or error for each known one that is not mapped.
    fn check_litestream_keys(&mut self, entries: &[Entry], place: &str, tables: &[&[(&str, Known)]]) {
        let known = || tables.iter().flat_map(|table| table.iter());
        let names: Vec<&str> = known().map(|(name, _)| *name).collect();
        self.check_keys(entries, place, &names, |key| keys::elsewhere(key, place));
        for found in entries.iter().filter(|found| !matches!(found.node.value, Value::Null)) {
            match known().find(|(name, _)| *name == found.key) {
                Some((name, Known::NoEffect(reason))) => {
                    self.report
                        .warn(&found.key_span, format!("`{name}` has no effect in litekeep: {reason}"));
                }
                Some((name, Known::Refused(reason))) if !is_empty(&found.node) => {
                    self.report.error(&found.key_span, format!("`{name}` is refused: {reason}"));
                }
                _ => {}
            }
        }
    }

    fn go_duration(&mut self, entries: &[Entry], key: &str) -> Option<Duration> {
        entry(entries, key).and_then(|found| self.duration(found, "24h", ANY))
    }

    /// A duration of which zero means "off" or "the default" in Litestream.
    fn positive(&mut self, entries: &[Entry], key: &str) -> Option<Duration> {
        self.go_duration(entries, key).filter(|duration| !duration.is_zero())
    }

    fn globals(&mut self, root: &[Entry]) -> Globals {
        let mut globals = Globals { any_second: self.positive(root, "l0-retention"), ..Globals::default() };
        if let Some(entries) = entry(root, "snapshot").and_then(|found| self.table(found)) {
            (globals.snapshot_interval, globals.retention) = self.snapshot(entries);
        }
        if let Some(entries) = entry(root, "retention").and_then(|found| self.table(found)) {
            self.check_keys(entries, "`retention`", &["enabled"], |_| None);
            let enabled = entry(entries, "enabled").and_then(|found| self.boolean(found));
            globals.delete_nothing = enabled == Some(false);
        }
        if let Some(entries) = entry(root, "validation").and_then(|found| self.table(found)) {
            self.check_keys(entries, "`validation`", &["interval"], |_| None);
            globals.verify_every = self.validation(entries);
        }
        globals.shutdown_timeout = self.go_duration(root, "shutdown-sync-timeout");
        globals
    }

    fn snapshot(&mut self, entries: &[Entry]) -> (Option<Duration>, Option<Duration>) {
        self.check_keys(entries, "`snapshot`", &["interval", "retention"], |_| None);
        (self.positive(entries, "interval"), self.positive(entries, "retention"))
    }

    fn validation(&mut self, entries: &[Entry]) -> Option<Duration> {
        let interval = self.positive(entries, "interval")?;
        if interval < LEAST_VALIDATION
            && let Some(found) = entry(entries, "interval")
        {
            let message = "Litestream looks at the list of files; litekeep restores the backup and compares every page, \
                           which downloads it, so it does this every 24h and not more often";
            self.report.warn(&found.node.span, message);
        }
        Some(interval.max(LEAST_VALIDATION))
    }

    fn logging(&mut self, entries: &[Entry]) -> Log {
        self.check_keys(entries, "`logging`", &["level", "type", "stderr", "source"], |_| None);
        let level = entry(entries, "level").and_then(|found| {
            let text = self.text(found)?.to_ascii_lowercase();
            let levels = [LogLevel::Trace, LogLevel::Debug, LogLevel::Info, LogLevel::Warn, LogLevel::Error];
            let level = levels.into_iter().find(|level| level.as_str() == text);
            if level.is_none() {
                self.refuse(found, format!("unknown level `{text}`: there are debug, info, warn and error"));
            }
            level
        });
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json), ("pretty", LogFormat::Text)];
        let format = entry(entries, "type").and_then(|found| self.one_of(found, &formats));
        if let Some(found) = entry(entries, "stderr")
            && self.boolean(found) == Some(false)
        {
            let message = "`stderr: false` has no effect in litekeep: it logs to standard error, standard output is for data";
            self.report.warn(&found.key_span, message);
        }
        if let Some(found) = entry(entries, "source") {
            self.report.warn(
                &found.key_span,
                "`source` has no effect in litekeep: log lines name what happened where",
            );
        }
        Log { level: level.unwrap_or_default(), format: format.unwrap_or_default() }
    }

    fn litestream_database(&mut self, node: &Node, root: &[Entry], globals: &Globals) -> Option<Placed> {
        let Value::Table(entries) = &node.value else {
            self.report.error(&node.span, "a database is a table: write `- path: /path/to/db`");
            return None;
        };
        self.check_litestream_keys(entries, "a database", &[keys::DATABASE]);
        let source = self.litestream_source(entries, node);
        let replicas = self.replicas(entries, node, root);
        let (source, source_span) = source?;
        let mut config = DatabaseConfig::new(source);
        config.meta_dir = ["meta-path", "meta-dir"].iter().find_map(|key| {
            // A folder of our own: what stands in Litestream's stays as it is for the way back.
            entry(entries, key).and_then(|found| self.path(found)).map(|path| path.join("litekeep"))
        });
        let restore = entry(entries, "restore-if-db-not-exists").and_then(|found| self.boolean(found));
        config.restore_if_missing = restore.unwrap_or(false);
        let own = entry(entries, "snapshot").and_then(|found| self.table(found));
        let (own_interval, own_retention) = own.map_or((None, None), |entries| self.snapshot(entries));
        let shortest = |of: fn(&Replica) -> Option<Duration>| replicas.iter().filter_map(of).min();
        // A backup that is kept longer than asked for at one place is better than one that is gone at the other.
        let longest = replicas.iter().filter_map(|replica| replica.retention).max();
        let snapshot_every = globals.snapshot_interval.or(own_interval).or(shortest(|r| r.snapshot_interval));
        config.snapshot_every = snapshot_every.unwrap_or(config.snapshot_every);
        if let Some(keep) = globals.retention.or(own_retention).or(longest) {
            config.keep = Some(keep);
        }
        if globals.delete_nothing {
            config.keep = None;
        }
        config.any_second =
            globals.any_second.map_or(config.any_second, |window| window.max(config.any_second));
        config.any_second = config.keep.map_or(config.any_second, |keep| config.any_second.min(keep));
        config.any_transaction = config.any_transaction.min(config.any_second);
        config.verify_every = globals.verify_every.or(shortest(|r| r.verify_every));
        config.shutdown_timeout = globals.shutdown_timeout.unwrap_or(config.shutdown_timeout);
        self.warn_about_retentions(&replicas, config.keep);
        let (destinations, destination_spans) =
            replicas.into_iter().map(|replica| (replica.destination, replica.span)).unzip();
        config.destinations = destinations;
        Some(Placed { config, source_span, destination_spans })
    }

    /// Two replicas of one database with different retentions: ours has one for both.
    fn warn_about_retentions(&mut self, replicas: &[Replica], keep: Option<Duration>) {
        for replica in replicas {
            if let (Some(own), Some(keep)) = (replica.retention, keep)
                && own != keep
            {
                let keep = units::format_duration(keep);
                let message = format!(
                    "the retention of a database holds for all its replicas: {keep} is used here too"
                );
                self.report.warn(&replica.span, message);
            }
        }
    }

    fn litestream_source(
        &mut self,
        entries: &[Entry],
        node: &Node,
    ) -> Option<(Source, std::ops::Range<usize>)> {
        match (entry(entries, "path"), entry(entries, "dir")) {
            (Some(found), None) => {
                let path = self.database_path(found)?;
                Some((Source::File(path), found.node.span.clone()))
            }
            (None, Some(dir)) => self.folder(dir, entries, "`dir` needs a `pattern` such as \"*.db\"", false),
            (Some(_), Some(dir)) => {
                self.report.error(&dir.key_span, "a database has a `path` or a `dir`, not both");
                None
            }
            (None, None) => {
                self.report.error(&node.span, "this database has no `path`: add `path: /path/to/db`");
                None
            }
        }
    }

    /// A path, or a connection string `sqlite://` or `sqlite3://` of one.
    fn database_path(&mut self, found: &Entry) -> Option<std::path::PathBuf> {
        let Some(text) = self.text(found) else {
            if matches!(found.node.value, Value::Null | Value::Plain(_) | Value::String(_)) {
                self.refuse(found, "it is empty, or its variables are not set");
            }
            return None;
        };
        let stripped = ["sqlite3://", "sqlite://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        self.resolve_or_refuse(found, stripped.unwrap_or(&text))
    }
}

fn is_empty(node: &Node) -> bool {
    match &node.value {
        Value::Null => true,
        Value::Array(items) => items.iter().all(is_empty),
        Value::Table(entries) => entries.iter().all(|entry| is_empty(&entry.node)),
        Value::String(text) | Value::Plain(text) => text.is_empty() || text == "false",
        _ => false,
    }
}
