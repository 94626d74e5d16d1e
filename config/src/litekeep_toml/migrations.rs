//! `migrations` of a database: a folder, or another program.

use super::run::each;
use crate::node::{Entry, Value, entry};
use crate::reader::Reader;
use crate::settings::{MigrationProgram, Migrations};

const KEYS: [&str; 4] = ["command", "cwd", "rehearse", "allow"];

impl Reader<'_> {
    pub(super) fn migrations(&mut self, found: &Entry) -> Option<Migrations> {
        if !matches!(found.node.value, Value::Table(_)) {
            return self.path(found).map(Migrations::Folder);
        }
        let entries = self.table(found)?;
        self.check_keys(entries, "migrations", &KEYS, |key| {
            (key == "dir").then(|| "a folder of files is written migrations = \"migrations\"".to_owned())
        });
        let Some(command) = entry(entries, "command") else {
            self.refuse(
                found,
                "write which program migrates: migrations = { command = \"npx knex migrate:latest\" }",
            );
            return None;
        };
        let command = self.non_empty(command)?;
        let cwd = match entry(entries, "cwd") {
            Some(cwd) => self.path(cwd)?,
            None => self.resolve_or_refuse(found, ".")?,
        };
        let rehearse = entry(entries, "rehearse").map_or(Some(false), |found| self.boolean(found))?;
        let allow = entry(entries, "allow").map(each).unwrap_or_default();
        let allow = allow.iter().map(|code| self.text(code)).collect::<Option<_>>()?;
        Some(Migrations::Program(MigrationProgram { command, cwd, rehearse, allow }))
    }
}
