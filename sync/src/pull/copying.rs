//! Rows of a source as they are now, on their way into SQLite.

use litekeep_sql::{Mirror, MirrorTable, Written, quoted};

use super::Pull;
use super::apply::{key_of, list, list_unfit};
use super::sieve::Sieve;
use super::state::{Kept, Stage, damaged, with_more};
use crate::batch::Refused;
use crate::cache::shelf::forget_time;
use crate::ledger::{PLAN, text as json};
use crate::source::{Rows, Source};
use crate::target::{key_text, key_value};
use crate::{Error, Kind, Value};

impl<S: Source> Pull<S> {
    /// Copies the next rows, or ends a table.
    pub(super) async fn copy_some(&mut self) -> Result<(), Error> {
        let Some(Kept { plan, stage, refused, .. }) = &self.kept else { return Ok(()) };
        let Stage::Copying { position, server, tables, after, rows, sweeps } = stage else {
            return Ok(());
        };
        let (begun, any_refused) = (stage.clone(), *refused > 0);
        let is_cache = self.settings.cut.others_are_asked_for;
        let (position, server, sweeps) = (position.clone(), server.clone(), *sweeps);
        let (mut tables, mut after, mut rows) = (tables.clone(), after.clone(), *rows);
        let Some(nth) = tables.first().copied() else {
            let consistent_at = self.source.position().await?;
            let stage = Stage::Following { position, server, time_ms: None, consistent_at };
            for failed in self.end_copy(stage).await? {
                tracing::warn!(sync = self.settings.name, "{failed}");
            }
            return Ok(());
        };
        let table = plan.tables[nth].clone();
        let has_key = !table.mirror.key.is_empty();
        // Rows are noted as they come, and those that did not come go.
        let is_swept = sweeps && has_key;
        let sieve = if let Some(sieve) = &self.copying {
            sieve.clone()
        } else {
            // What was seen is forgotten with the connection: then all of it is seen again.
            after = after.filter(|_| !sweeps);
            let key = after.as_ref().map(|key| key.iter().map(|text| key_value(text)).collect());
            let key: Option<Vec<Value>> = match key {
                Some(None) => return Err(damaged("its key")),
                Some(key) => key,
                None => None,
            };
            self.source.open(&table, key.as_deref().map_or(Rows::All, Rows::After)).await?;
            if !has_key {
                self.empty(&table.mirror).await?;
            }
            if is_swept {
                let mirrored = table.mirror.clone();
                self.local.on(move |mirror| Ok(mirror.begin_sweep(&mirrored)?)).await?;
            }
            self.copying.insert(Sieve::of(&table)?).clone()
        };
        let found = self.source.fetch().await?;
        let unfit = self.source.unfit();
        let grown = self.source.grown().and_then(|now| with_more(&table, &now));
        if found.is_empty() {
            self.copying = None;
            tables.remove(0);
            let stage = Stage::Copying { position, server, tables, after: None, rows, sweeps };
            if !unfit.is_empty() {
                let mirrored = table.mirror.clone();
                let listed = self.commit(begun, move |mirror| list_unfit(mirror, &mirrored, is_swept, unfit));
                let listed = listed.await?;
                self.count(listed);
            }
            while is_swept && self.sweep(&table.mirror).await? > 0 {}
            return self.commit(stage, |_| Ok(())).await;
        }
        let table = grown.clone().unwrap_or(table);
        // Of one that has grown more is kept.
        let sieve = if grown.is_some() { self.copying.insert(Sieve::of(&table)?).clone() } else { sieve };
        let plan = self.kept.as_mut().filter(|_| grown.is_some()).map(|kept| {
            kept.plan.tables[nth] = table.clone();
            json(&kept.plan)
        });
        // Nothing says where rows without a key go on.
        after = found
            .last()
            .filter(|_| has_key)
            .map(|row| key_of(&table.mirror, row).iter().map(key_text).collect());
        let found = sieve.rows(found).await?;
        rows += found.len() as u64;
        let stage = Stage::Copying { position, server, tables, after, rows, sweeps };
        let mirrored = table.mirror.clone();
        let written = self.commit(stage, move |mirror| {
            if plan.is_some() {
                mirror.add_columns(&mirrored)?;
                mirror.set(PLAN, plan.as_deref())?;
            }
            let (mut refused, mut fine) = (vec![], vec![]);
            for row in &found {
                if is_swept {
                    mirror.keep(&key_of(&mirrored, row))?;
                }
                if is_cache {
                    forget_time(mirror, &mirrored, &key_of(&mirrored, row))?;
                }
                match mirror.put(&mirrored, row)? {
                    Written::Forbidden(reason) => {
                        refused.push(Refused { table: nth, key: key_of(&mirrored, row), reason });
                    }
                    Written::Rows(_) if any_refused => fine.push(key_of(&mirrored, row)),
                    Written::Rows(_) => {}
                }
            }
            let listed = list(mirror, &mirrored.name, &refused, &fine)?;
            Ok(listed + list_unfit(mirror, &mirrored, is_swept, unfit)?)
        });
        let listed = written.await?;
        self.count(listed);
        Ok(())
    }

    /// Makes the indexes, and tells those that cannot be made.
    pub(super) async fn end_copy(&mut self, stage: Stage) -> Result<Vec<String>, Error> {
        let Some(Kept { plan, .. }) = &self.kept else { return Ok(vec![]) };
        let all: Vec<MirrorTable> = plan.tables.iter().map(|table| table.mirror.clone()).collect();
        let make = move |mirror: &Mirror| {
            Ok(all
                .iter()
                .filter_map(|table| mirror.make_indexes(table).err())
                .map(|e| e.to_string())
                .collect())
        };
        self.commit(stage, make).await
    }

    /// A table without a key begins anew: nothing tells which of its rows are here.
    async fn empty(&mut self, table: &MirrorTable) -> Result<(), Error> {
        let table = table.clone();
        let emptied = self.commit_alone(move |mirror| {
            let Written::Forbidden(why) = mirror.clear(&table)? else { return Ok(()) };
            let message = format!("the rows of an earlier try in `{}` cannot go: {why}", table.name);
            let hint = format!("DELETE FROM {}; and then the same again", quoted(&table.name));
            Err(Error::with_hint(Kind::Invalid, message, hint))
        });
        emptied.await
    }

    async fn sweep(&mut self, table: &MirrorTable) -> Result<usize, Error> {
        let table = table.clone();
        self.commit_alone(move |mirror| Ok(mirror.sweep(&table)?)).await
    }
}
