//! `[[feed]]`.

use std::path::PathBuf;

use super::run::each;
use crate::conflicts::covers;
use crate::feed_url::FeedUrl;
use crate::node::{Entry, Node, Value, entry};
use crate::process::is_name;
use crate::reader::Reader;
use crate::settings::{DatabaseConfig, FeedConfig, FeedFrom, Source};

const KEYS: [&str; 6] = ["name", "database", "to", "ca_file", "tables", "from"];

impl Reader<'_> {
    pub(super) fn feeds(&mut self, found: &Entry, databases: &[DatabaseConfig]) -> Vec<FeedConfig> {
        let Value::Array(nodes) = &found.node.value else {
            let message = "feeds are a list: write [[feed]], with two brackets on each side";
            self.report.error(&found.key_span, message);
            return Vec::new();
        };
        let mut feeds: Vec<FeedConfig> = Vec::new();
        for node in nodes {
            let Value::Table(entries) = &node.value else {
                self.report.error(&node.span, "a feed is a table: write [[feed]] and its keys below it");
                continue;
            };
            let Some(feed) = self.feed(entries, node, databases) else { continue };
            if feeds.iter().any(|other| other.name == feed.name) {
                let message = format!(
                    "`{}` is already a feed: give each its own name, for its position is kept under it",
                    feed.name
                );
                self.report.error(&node.span, message);
            }
            feeds.push(feed);
        }
        feeds
    }

    fn feed(&mut self, entries: &[Entry], node: &Node, databases: &[DatabaseConfig]) -> Option<FeedConfig> {
        self.check_keys(entries, "[[feed]]", &KEYS, |key| match key {
            "url" => Some("here it is `to`".to_owned()),
            "table" => Some("here it is `tables`, a list".to_owned()),
            _ => None,
        });
        let get = |key: &str| entry(entries, key);
        let name = get("name").map(|found| self.feed_name(found));
        if name.is_none() {
            let message =
                "this feed has no `name`, under which its position is kept: add name = \"orders-to-nats\"";
            self.report.error(&node.span, message);
        }
        let database = self.feed_database(get("database"), node, databases);
        let to = match get("to") {
            Some(found) => self.non_empty(found).and_then(|text| {
                let to = FeedUrl::parse_with(&text, &mut |path| self.resolve(path));
                self.accept(found, to)
            }),
            None => {
                let message = "this feed has no `to`: add to = \"file:///srv/events.jsonl\", or a URL such as nats://127.0.0.1:4222/app.changes";
                self.report.error(&node.span, message);
                None
            }
        };
        let tables = get("tables").map(each).unwrap_or_default();
        let tables = tables.iter().map(|table| self.non_empty(table)).collect::<Option<Vec<_>>>();
        let from = match get("from") {
            Some(found) => {
                let text = self.non_empty(found)?;
                self.accept(found, FeedFrom::parse(&text))?
            }
            None => FeedFrom::default(),
        };
        let ca_file = get("ca_file").and_then(|found| self.path(found));
        Some(FeedConfig { name: name??, database: database?, to: to?, ca_file, tables: tables?, from })
    }

    fn feed_name(&mut self, found: &Entry) -> Option<String> {
        let name = self.non_empty(found)?;
        if !is_name(&name) {
            self.refuse(found, "a name has letters, digits, `-`, `_` and `.` only, and at most 64 of them");
            return None;
        }
        Some(name)
    }

    /// One of the databases; the only one need not be named.
    fn feed_database(
        &mut self,
        found: Option<&Entry>,
        node: &Node,
        databases: &[DatabaseConfig],
    ) -> Option<PathBuf> {
        let Some(found) = found else {
            if let [DatabaseConfig { source: Source::File(only), .. }] = databases {
                return Some(only.clone());
            }
            let message = "this feed does not say of which database: add database = \"app.db\"";
            self.report.error(&node.span, message);
            return None;
        };
        let path = self.path(found)?;
        if !databases.iter().any(|database| covers(&database.source, &path)) {
            self.refuse(
                found,
                format!("`{}` is not in a [[database]]: a feed reads its backup", path.display()),
            );
            return None;
        }
        Some(path)
    }
}
