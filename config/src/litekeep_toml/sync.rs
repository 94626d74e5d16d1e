//! `[[sync]]`.

use std::collections::BTreeMap;

use super::run::each;
use crate::node::{Entry, Node, Value, entry};
use crate::reader::Reader;
use crate::secret::Secret;
use crate::settings::{DatabaseConfig, SyncConfig, SyncTo};

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
        let database = self.database_of(get("from"), node, ("sync", "from"), databases);
        let to = match get("to") {
            Some(found) => self.sync_to(found),
            None => {
                let message = "this sync has no `to`: add to = \"${DATABASE_URL}\", or a URL such as postgres://user@host/database";
                self.report.error(&node.span, message);
                None
            }
        };
        if let Some(found) = get("direction") {
            let text = self.non_empty(found)?;
            if text != "push" {
                self.refuse(
                    found,
                    format!("`{text}` is not there yet: \"push\" sends the changes of SQLite"),
                );
            }
        }
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
            database: database?,
            to: to?,
            tables: tables?,
            schema,
            names: names?,
            types: types?,
        })
    }

    fn sync_to(&mut self, found: &Entry) -> Option<SyncTo> {
        let url = self.non_empty(found)?;
        match url.split_once("://") {
            Some(("postgres" | "postgresql", _)) => Some(SyncTo::Postgres(Secret::new(url))),
            Some(("mysql" | "mariadb", _)) => Some(SyncTo::Mysql(Secret::new(url))),
            Some((scheme, _)) => {
                let message = format!(
                    "there is no sync with `{scheme}://`: it is postgres://user@host/database, or mysql:// or mariadb://"
                );
                self.refuse(found, message);
                None
            }
            // It may be a password that stands alone.
            None => {
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
