//! `[[feed]]`.

use super::run::each;
use crate::feed_url::FeedUrl;
use crate::node::{Entry, Node, entry};
use crate::reader::Reader;
use crate::settings::{DatabaseConfig, FeedConfig, FeedFrom};

const KEYS: [&str; 6] = ["name", "database", "to", "ca_file", "tables", "from"];

impl Reader<'_> {
    pub(super) fn feeds(&mut self, found: &Entry, databases: &[DatabaseConfig]) -> Vec<FeedConfig> {
        let feed = |this: &mut Self, entries: &[Entry], node: &Node| this.feed(entries, node, databases);
        self.named_tables(found, "feed", feed, |feed| &feed.name)
    }

    fn feed(&mut self, entries: &[Entry], node: &Node, databases: &[DatabaseConfig]) -> Option<FeedConfig> {
        self.check_keys(entries, "[[feed]]", &KEYS, |key| match key {
            "url" => Some("here it is `to`".to_owned()),
            "table" => Some("here it is `tables`, a list".to_owned()),
            _ => None,
        });
        let get = |key: &str| entry(entries, key);
        let name = get("name").map(|found| self.name_of(found));
        if name.is_none() {
            let message =
                "this feed has no `name`, under which its position is kept: add name = \"orders-to-nats\"";
            self.report.error(&node.span, message);
        }
        let database = self.database_of(get("database"), node, ("feed", "database"), databases);
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
}
