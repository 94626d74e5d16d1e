//! The tables of a source, taken whole into SQLite, once.
//!
//! As a first copy is made, but of one moment, and the source keeps no changes for it. Interrupted, it takes another moment: rows that are
//! there already are not written again, and those that are gone go.

use litekeep_schema::portable::Note;
use litekeep_sql::Mirror;

use super::Pull;
use super::state::{Stage, kept};
use crate::source::{Source, SourceTable, surveyed};
use crate::target::Listed;
use crate::transfer::{Copied, Parts};
use crate::worker::Flow as _;
use crate::{Error, Kind};

impl<S: Source> Pull<S> {
    /// Copies. `told` hears how many rows are there.
    ///
    /// # Errors
    /// Those of the source and of the database. What is there stays, and goes on when it is asked again.
    pub async fn copy_once(&mut self, parts: Parts, mut told: impl FnMut(u64)) -> Result<Copied, Error> {
        self.begin_anew();
        let is_new = self.settings.creates && !self.settings.database.exists();
        self.kept = if is_new { None } else { kept(&self.open().await?)? };
        self.server = Some(self.source.connect_to_copy().await?);
        let surveyed = surveyed(&mut self.source, &self.settings.cut).await?;
        let notes: Vec<Note> = surveyed.iter().flat_map(|(_, notes)| notes.clone()).collect();
        let mut copied = Copied { notes, resumed: self.kept.is_some(), ..Copied::default() };
        if self.kept.is_none() {
            if parts == Parts::Rows {
                self.are_there(surveyed.iter().map(|(table, _)| table)).await?;
            }
            self.set_up().await?;
        }
        self.begin_copy(parts, copied.resumed).await?;
        while let Some(Stage::Copying { rows, tables, .. }) = self.kept.as_ref().map(|kept| &kept.stage) {
            told(*rows);
            if tables.is_empty() {
                break;
            }
            self.copy_some().await?;
        }
        if parts != Parts::Rows
            && let Some(kept) = &self.kept
        {
            copied.failed = self.end_copy(kept.stage.clone()).await?;
        }
        if parts != Parts::Schema {
            let tables: Vec<SourceTable> = self.kept.as_ref().map_or(vec![], |kept| kept.plan.tables.clone());
            let refused = self.refused_rows().await?;
            let found = self.compare_all(&tables).await?;
            let name = |table: &SourceTable| table.mirror.name.clone();
            copied.tables = tables.iter().map(name).zip(found.1).collect();
            (copied.found, copied.refused) = (Some(found.0), refused);
            copied.leave_out_refused();
            if parts == Parts::All {
                copied.failed.extend(self.dangling(tables).await?);
            }
        }
        self.keep_nothing().await?;
        Ok(copied)
    }

    /// For rows only: the tables must be there.
    async fn are_there(&mut self, tables: impl Iterator<Item = &SourceTable>) -> Result<(), Error> {
        if !self.local.is_open() {
            self.open().await?;
        }
        for table in tables {
            let mirrored = table.mirror.clone();
            if !self.local.on(move |mirror| Ok(mirror.has(&mirrored)?)).await? {
                let message = format!("there is no table `{}` in the database", table.mirror.name);
                let hint = format!("make it ({}), or copy the schema, too", table.mirror.create());
                return Err(Error::with_hint(Kind::Invalid, message, hint));
            }
        }
        Ok(())
    }

    /// All tables are to come, or none of them but their indexes.
    async fn begin_copy(&mut self, parts: Parts, resumed: bool) -> Result<(), Error> {
        let tables = match (parts, &self.kept) {
            (Parts::Schema, _) | (_, None) => vec![],
            (_, Some(kept)) => (0..kept.plan.tables.len()).collect(),
        };
        let server = self.server.clone().unwrap_or_default();
        let (position, after, rows) = (String::new(), None, 0);
        let stage = Stage::Copying { position, server, tables, after, rows, sweeps: resumed };
        self.commit(stage, |_| Ok(())).await
    }

    /// Foreign keys that do not hold here: servers may compare text without its case, or have not checked what was there before the key.
    async fn dangling(&mut self, tables: Vec<SourceTable>) -> Result<Vec<String>, Error> {
        let look = move |mirror: &Mirror| {
            let mut told = vec![];
            for SourceTable { mirror: table, .. } in &tables {
                for (parent, rows) in mirror.dangling(table)? {
                    let name = &table.name;
                    told.push(format!(
                        "{rows} of the rows of `{name}` refer to no row of `{parent}` as SQLite compares them"
                    ));
                }
            }
            Ok(told)
        };
        self.local.on(look).await
    }

    async fn refused_rows(&mut self) -> Result<Vec<Listed>, Error> {
        let items = self.local.on(|mirror| Ok(mirror.items()?)).await?;
        super::listed_in(&items)
    }
}
