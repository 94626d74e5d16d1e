//! `[[sync]]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::run::each;
use crate::node::{Entry, Node, Value, entry};
use crate::reader::Reader;
use crate::settings::{DatabaseConfig, Direction, OtherSide, SyncConfig};

const KEYS: [&str; 8] = ["name", "from", "to", "direction", "tables", "schema", "rename", "types"];

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
        Some(SyncConfig {
            name: name??,
            database,
            other,
            direction,
            tables: tables?,
            schema,
            names: names?,
            types: types?,
        })
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
        let direction = if is_pull { Direction::Pull } else { Direction::Push };
        let ((database, key), other) = match direction {
            Direction::Pull => ((to, "to"), from),
            Direction::Push => ((from, "from"), to),
        };
        let database = self.database_of(database, node, ("sync", key), databases);
        let other = match other {
            Some(found) => self.other_side(found, direction),
            None => {
                let message = "this sync has no `to`: add to = \"${DATABASE_URL}\", or a URL such as postgres://user@host/database \
                               (as `from` where SQLite is to get its rows)";
                self.report.error(&node.span, message);
                None
            }
        };
        if let Some(found) = entry(entries, "direction") {
            let is = match direction {
                Direction::Push => "push",
                Direction::Pull => "pull",
            };
            match self.non_empty(found)?.as_str() {
                text if text == is => {}
                text @ ("push" | "pull") => {
                    let message = format!(
                        "`{text}` is the other way: from `from` to `to` it is \"{is}\"; exchange the two, or leave `direction` out"
                    );
                    self.refuse(found, message);
                }
                text => {
                    let message = format!(
                        "`{text}` is not there: it is \"push\" or \"pull\", by which of `from` and `to` is the URL"
                    );
                    self.refuse(found, message);
                }
            }
        }
        Some((database?, other?, direction))
    }

    fn other_side(&mut self, found: &Entry, direction: Direction) -> Option<OtherSide> {
        let url = self.non_empty(found)?;
        match (OtherSide::of(&url), url.split_once("://")) {
            (Some(OtherSide::Mongodb(_)), _) if direction == Direction::Pull => {
                let message = "there is no sync from MongoDB yet, only to it; from postgres:// and mysql:// there is";
                self.refuse(found, message);
                None
            }
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

    /// A table of texts.
    fn texts(&mut self, found: &Entry) -> Option<BTreeMap<String, String>> {
        let entries = match &found.node.value {
            Value::Table(entries) => entries,
            _ => self.table(found)?,
        };
        entries.iter().map(|one| Some((one.key.clone(), self.non_empty(one)?))).collect()
    }
}
