//! `[[sync]]`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::run::each;
use crate::node::{Entry, Node, Value, entry};
use crate::reader::Reader;
use crate::settings::{CacheConfig, ConflictPolicy, DatabaseConfig, Direction, OtherSide, SyncConfig};

/// Rows that a cache keeps at most, unless it says how many.
const ROWS: usize = 100_000;
/// How long a cache remembers that there is no row, at most, unless it says how long.
const NEGATIVE: Duration = Duration::from_secs(30);
/// How long rows may be kept.
const TIMES: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(366 * 86_400));
/// What only a cache has.
const OF_CACHE: [&str; 5] = ["ttl", "stale", "negative_ttl", "max_rows", "follow"];

const KEYS: [&str; 21] = [
    "name",
    "from",
    "to",
    "direction",
    "mode",
    "ttl",
    "stale",
    "negative_ttl",
    "max_rows",
    "follow",
    "tables",
    "columns",
    "where",
    "schema",
    "rename",
    "types",
    "conflict",
    "max_connections",
    "every",
    "cron",
    "time_zone",
];

impl Reader<'_> {
    pub(super) fn syncs(&mut self, found: &Entry, databases: &[DatabaseConfig]) -> Vec<SyncConfig> {
        let sync = |this: &mut Self, entries: &[Entry], node: &Node| this.sync(entries, node, databases);
        self.named_tables(found, "sync", sync, |sync| &sync.name)
    }

    fn sync(&mut self, entries: &[Entry], node: &Node, databases: &[DatabaseConfig]) -> Option<SyncConfig> {
        self.check_keys(entries, "[[sync]]", &KEYS, |key| match key {
            "database" => Some("here it is `from`".to_owned()),
            "url" => Some("here it is `to`".to_owned()),
            "table" => Some("here it is `tables`, a list".to_owned()),
            "max_age" => Some("here it is `ttl`".to_owned()),
            "conflicts" => Some("here it is `conflict`".to_owned()),
            "schedule" | "interval" => Some("here it is `every`, or `cron`".to_owned()),
            _ => None,
        });
        let get = |key: &str| entry(entries, key);
        let name = get("name").map(|found| self.name_of(found));
        if name.is_none() {
            let message =
                "this sync has no `name`, under which its position is kept: add name = \"app-to-postgres\"";
            self.report.error(&node.span, message);
        }
        let (database, other, direction) = self.sides(entries, node, databases)?;
        let tables = get("tables").map(each).unwrap_or_default();
        let tables = tables.iter().map(|table| self.non_empty(table)).collect::<Option<Vec<_>>>();
        let schema = match get("schema") {
            Some(found) => Some(self.non_empty(found)?),
            None => None,
        };
        let names = get("rename").map_or(Some(BTreeMap::new()), |found| self.texts(found));
        let types = get("types").map_or(Some(BTreeMap::new()), |found| self.texts(found));
        if let Some(found) =
            ["columns", "where"].into_iter().find_map(get).filter(|_| direction == Direction::Both)
        {
            let message = "all columns and rows of a table go both ways; it is for a sync in one direction, `push` or `pull`";
            self.refuse(found, message);
            return None;
        }
        if let Some(found) = ["columns", "where"]
            .into_iter()
            .find_map(get)
            .filter(|_| direction == Direction::Pull && matches!(other, OtherSide::Mongodb(_)))
        {
            let message = "all documents and fields of a collection come from MongoDB; `columns` and `where` of a pull are for PostgreSQL, MySQL and MariaDB";
            self.refuse(found, message);
            return None;
        }
        let cache = self.cache(entries, direction)?;
        let columns = get("columns").map_or(Some(BTreeMap::new()), |found| self.lists(found));
        let rows = get("where").map_or(Some(BTreeMap::new()), |found| self.texts(found));
        let (conflict, conflicts) = match get("conflict") {
            Some(found) if direction == Direction::Both => self.conflict(found)?,
            Some(found) => {
                self.refuse(
                    found,
                    "only one side is written to, so there are no conflicts: it is for direction = \"both\"",
                );
                return None;
            }
            None => (ConflictPolicy::default(), BTreeMap::new()),
        };
        let max_connections = match get("max_connections") {
            Some(found) => Some(self.count(found, 1..=10_000)?),
            None => None,
        };
        let schedule = self.schedule(entries, "a sync")?;
        Some(SyncConfig {
            name: name??,
            database,
            other,
            direction,
            tables: tables?,
            schema,
            schedule,
            names: names?,
            columns: columns?,
            rows: rows?,
            types: types?,
            cache,
            conflict,
            conflicts,
            max_connections,
        })
    }

    /// What is kept, and for how long, with `mode = "cache"`.
    fn cache(&mut self, entries: &[Entry], direction: Direction) -> Option<Option<CacheConfig>> {
        let get = |key: &str| entry(entries, key);
        let Some(mode) = get("mode") else {
            if let Some(found) = OF_CACHE.into_iter().find_map(get) {
                self.refuse(found, "it is for a cache: add mode = \"cache\"");
                return None;
            }
            return Some(None);
        };
        let text = self.non_empty(mode)?;
        if text != "cache" {
            self.refuse(
                mode,
                format!("`{text}` is not there: it is \"cache\"; without `mode` all rows are kept in step"),
            );
            return None;
        }
        if direction != Direction::Pull {
            self.refuse(mode, "a cache has rows of a server: say which as from = \"${DATABASE_URL}\"");
            return None;
        }
        let follows = match get("follow") {
            Some(found) => self.boolean(found)?,
            None => false,
        };
        let others = ["where", "every", "cron", "time_zone"];
        let is_out_of_place = |found: &&Entry| !(follows && found.key == "where");
        if let Some(found) = others.into_iter().filter_map(get).find(is_out_of_place) {
            let message = match found.key.as_str() {
                "where" => {
                    "a cache has the rows that are asked for, whichever they are; with follow = true, and the rights for that, rows that fulfil a condition are kept in step"
                }
                _ => "a cache connects when it is asked for what it does not have",
            };
            self.refuse(found, message);
            return None;
        }
        let Some(found) = get("ttl") else {
            self.refuse(mode, "say how old a row may become before the server is asked again: ttl = \"5m\"");
            return None;
        };
        let ttl = self.duration(found, "5m", TIMES)?;
        let mut time = |key: &str, without: Duration| match get(key) {
            Some(found) => self.duration(found, "5m", TIMES),
            None => Some(without),
        };
        let (stale, negative_ttl) = (time("stale", ttl), time("negative_ttl", ttl.min(NEGATIVE)));
        let max_rows = match get("max_rows") {
            Some(found) => self.count(found, 1..=100_000_000)? as usize,
            None => ROWS,
        };
        Some(Some(CacheConfig { ttl, stale: stale?, negative_ttl: negative_ttl?, max_rows, follows }))
    }

    /// Who wins: a word for all tables, or a table of words by tables.
    fn conflict(&mut self, found: &Entry) -> Option<(ConflictPolicy, BTreeMap<String, ConflictPolicy>)> {
        if let Value::Table(entries) = &found.node.value {
            let one = |this: &mut Self, one: &Entry| Some((one.key.clone(), this.policy(one)?));
            let by_table = entries.iter().map(|entry| one(self, entry)).collect::<Option<_>>()?;
            return Some((ConflictPolicy::default(), by_table));
        }
        Some((self.policy(found)?, BTreeMap::new()))
    }

    fn policy(&mut self, found: &Entry) -> Option<ConflictPolicy> {
        match self.non_empty(found)?.as_str() {
            "server" => Some(ConflictPolicy::Server),
            "sqlite" => Some(ConflictPolicy::Sqlite),
            "latest" => Some(ConflictPolicy::Latest),
            "merge" => Some(ConflictPolicy::MergeServer),
            "merge-sqlite" => Some(ConflictPolicy::MergeSqlite),
            "merge-latest" => Some(ConflictPolicy::MergeLatest),
            text => {
                let message = format!(
                    "`{text}` is not there: it is \"server\", \"sqlite\", \"latest\", \"merge\", \"merge-sqlite\" or \"merge-latest\""
                );
                self.refuse(found, message);
                None
            }
        }
    }

    /// The database, the other side, and which of them is written to: one of `from` and `to` is a URL.
    fn sides(
        &mut self,
        entries: &[Entry],
        node: &Node,
        databases: &[DatabaseConfig],
    ) -> Option<(PathBuf, OtherSide, Direction)> {
        let (from, to) = (entry(entries, "from"), entry(entries, "to"));
        let is_pull = match from {
            Some(found) => self.non_empty(found)?.contains("://"),
            None => false,
        };
        let one_way = if is_pull { Direction::Pull } else { Direction::Push };
        let said = match entry(entries, "direction") {
            Some(found) => Some((found, self.non_empty(found)?)),
            None => None,
        };
        let direction = match &said {
            Some((_, text)) if text == "both" => Direction::Both,
            _ => one_way,
        };
        let ((database, key), other) = if is_pull { ((to, "to"), from) } else { ((from, "from"), to) };
        let database = self.database_of(database, node, ("sync", key), databases);
        let other = match other {
            Some(found) => self.other_side(found),
            None => {
                let message = "this sync has no `to`: add to = \"${DATABASE_URL}\", or a URL such as postgres://user@host/database \
                               (as `from` where SQLite is to get its rows)";
                self.report.error(&node.span, message);
                None
            }
        };
        if let Some((found, text)) = said.filter(|_| direction != Direction::Both) {
            let is = if is_pull { "pull" } else { "push" };
            match text.as_str() {
                text if text == is => {}
                text @ ("push" | "pull") => {
                    let message = format!(
                        "`{text}` is the other way: from `from` to `to` it is \"{is}\"; exchange the two, or leave `direction` out"
                    );
                    self.refuse(found, message);
                }
                text => {
                    let message = format!(
                        "`{text}` is not there: it is \"push\" or \"pull\", by which of `from` and `to` is the URL, or \"both\""
                    );
                    self.refuse(found, message);
                }
            }
        }
        Some((database?, other?, direction))
    }

    fn other_side(&mut self, found: &Entry) -> Option<OtherSide> {
        let url = self.non_empty(found)?;
        match (OtherSide::of(&url), url.split_once("://")) {
            (Some(other), _) => Some(other),
            (None, Some((scheme, _))) => {
                let message = format!(
                    "there is no sync with `{scheme}://`: it is postgres://user@host/database, or mysql://, mariadb:// or mongodb://"
                );
                self.refuse(found, message);
                None
            }
            // It may be a password that stands alone.
            (None, None) => {
                self.refuse(found, "it is no URL such as postgres://user@host/database");
                None
            }
        }
    }

    /// A table of lists of texts.
    fn lists(&mut self, found: &Entry) -> Option<BTreeMap<String, Vec<String>>> {
        let entries = match &found.node.value {
            Value::Table(entries) => entries,
            _ => self.table(found)?,
        };
        let list = |this: &mut Self, one: &Entry| -> Option<Vec<String>> {
            let all = each(one);
            if all.is_empty() {
                this.refuse(one, "no column is named: name those that are wanted, or leave the table out");
                return None;
            }
            all.iter().map(|text| this.non_empty(text)).collect()
        };
        entries.iter().map(|one| Some((one.key.clone(), list(self, one)?))).collect()
    }

    /// A table of texts.
    fn texts(&mut self, found: &Entry) -> Option<BTreeMap<String, String>> {
        let entries = match &found.node.value {
            Value::Table(entries) => entries,
            _ => self.table(found)?,
        };
        entries.iter().map(|one| Some((one.key.clone(), self.non_empty(one)?))).collect()
    }
}
