//! What `[[feed]]` and `[[sync]]` share: lists of tables, each with a name of its own, each of one database.

use std::path::PathBuf;

use crate::conflicts::covers;
use crate::node::{Entry, Node, Value};
use crate::process::is_name;
use crate::reader::Reader;
use crate::settings::{DatabaseConfig, Source};

impl Reader<'_> {
    /// The tables of a list, of which no two may have one name. `what`: `feed`.
    pub(super) fn named_tables<T>(
        &mut self,
        found: &Entry,
        what: &str,
        read: impl Fn(&mut Self, &[Entry], &Node) -> Option<T>,
        name: impl Fn(&T) -> &str,
    ) -> Vec<T> {
        let Value::Array(nodes) = &found.node.value else {
            let message = format!("{what}s are a list: write [[{what}]], with two brackets on each side");
            self.report.error(&found.key_span, message);
            return Vec::new();
        };
        let mut all: Vec<T> = Vec::new();
        for node in nodes {
            let Value::Table(entries) = &node.value else {
                let message = format!("a {what} is a table: write [[{what}]] and its keys below it");
                self.report.error(&node.span, message);
                continue;
            };
            let Some(one) = read(self, entries, node) else { continue };
            if all.iter().any(|other| name(other) == name(&one)) {
                let message = format!(
                    "`{}` is already a {what}: give each its own name, for its position is kept under it",
                    name(&one)
                );
                self.report.error(&node.span, message);
            }
            all.push(one);
        }
        all
    }

    pub(super) fn name_of(&mut self, found: &Entry) -> Option<String> {
        let name = self.non_empty(found)?;
        if !is_name(&name) {
            self.refuse(found, "a name has letters, digits, `-`, `_` and `.` only, and at most 64 of them");
            return None;
        }
        Some(name)
    }

    /// One of the databases; the only one need not be named. `what`: `feed`, and the key.
    pub(super) fn database_of(
        &mut self,
        found: Option<&Entry>,
        node: &Node,
        (what, key): (&str, &str),
        databases: &[DatabaseConfig],
    ) -> Option<PathBuf> {
        let Some(found) = found else {
            if let [DatabaseConfig { source: Source::File(only), .. }] = databases {
                return Some(only.clone());
            }
            let message = format!("this {what} does not say of which database: add {key} = \"app.db\"");
            self.report.error(&node.span, message);
            return None;
        };
        let path = self.path(found)?;
        if !databases.iter().any(|database| covers(&database.source, &path)) {
            let message =
                format!("`{}` is not in a [[database]]: a {what} is of one that is", path.display());
            self.refuse(found, message);
            return None;
        }
        Some(path)
    }
}
