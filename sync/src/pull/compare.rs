//! Which rows SQLite has otherwise than the source.
//!
//! Both go on meanwhile, so what differs at first may only be on its way: such rows are looked at again on both sides, until they are
//! the same, or the same twice and different.

use std::time::Duration;

use litekeep_sql::{Mirror, MirrorTable};

use super::Pull;
use super::sieve::Sieve;
use super::state::{Kept, kept};
use crate::compare::Found;
use crate::local::Local;
use crate::source::{Rows, Source, SourceTable, Unfit};
use crate::worker::Flow as _;
use crate::{Error, Kind, Value};

/// Keys that are looked at together again.
const AGAIN: usize = 500;
/// Between two looks, and how many there are.
const PAUSE: Duration = Duration::from_millis(700);
const LOOKS: usize = 20;

/// A row on both sides.
#[derive(Clone, PartialEq)]
struct Both {
    here: Option<Vec<Value>>,
    there: Option<Vec<Value>>,
}

impl<S: Source> Pull<S> {
    /// Compares all rows with those of the source.
    ///
    /// # Errors
    /// Those of the source and of the database; `Invalid` when nothing has been pulled yet.
    pub async fn compare(&mut self) -> Result<Found, Error> {
        self.begin_anew();
        let items = self.open().await?;
        let name = self.settings.name.clone();
        let Some(Kept { plan, paused, refused, .. }) = kept(&items)? else {
            let message = format!("the sync `{name}` has not begun");
            let hint = format!("`litekeep sync run {name}` makes the first copy");
            return Err(Error::with_hint(Kind::Invalid, message, hint));
        };
        self.settings.cut.is_same(&name, &plan.tables)?;
        self.source.connect().await?;
        let goes_on = |table: &SourceTable| !paused.iter().any(|(paused, _)| *paused == table.source);
        let tables: Vec<SourceTable> = plan.tables.into_iter().filter(goes_on).collect();
        let (found, _) = self.compare_all(&tables).await?;
        self.begin_anew();
        Ok(Found { refused, ..found })
    }

    /// The same for these tables, over the connection that is there; also how many rows each has there.
    pub(super) async fn compare_all(&mut self, tables: &[SourceTable]) -> Result<(Found, Vec<u64>), Error> {
        let (mut found, mut counts) = (Found::default(), vec![]);
        for table in tables {
            let before = found.rows;
            let mut sides = Sides { source: &mut self.source, local: &mut self.local };
            sides.compare(table, &mut found).await?;
            counts.push(found.rows - before);
        }
        Ok((found, counts))
    }
}

/// Both sides.
pub(crate) struct Sides<'a, S> {
    pub(crate) source: &'a mut S,
    pub(crate) local: &'a mut Local,
}

impl<S: Source> Sides<'_, S> {
    /// Counts the rows of a table that differ.
    pub(crate) async fn compare(&mut self, table: &SourceTable, found: &mut Found) -> Result<(), Error> {
        let sieve = Sieve::of(table)?;
        if table.mirror.key.is_empty() {
            return self.compare_without_key((table, &sieve), found).await;
        }
        let mirrored = table.mirror.clone();
        self.local.on(move |mirror| Ok(mirror.begin_sweep(&mirrored)?)).await?;
        self.source.open(table, Rows::All).await?;
        let columns: Vec<&str> = table.mirror.columns.iter().map(|column| column.name.as_str()).collect();
        let mut doubtful = vec![];
        loop {
            let rows = self.source.fetch().await?;
            let (unfit, is_last) = (self.source.unfit(), rows.is_empty());
            for (key, here) in self.here(table, unfit).await? {
                found.rows += 1;
                found.count(&table.mirror.name, &columns, &key, (Some(&vec![]), here.as_ref()));
            }
            if is_last {
                break;
            }
            let rows = sieve.rows(rows).await?;
            found.rows += rows.len() as u64;
            let mirrored = table.mirror.clone();
            let differ = self.local.on(move |mirror| others(mirror, &mirrored, &rows));
            doubtful.extend(differ.await?);
        }
        let mirrored = table.mirror.clone();
        doubtful.extend(self.local.on(move |mirror| Ok(mirror.unseen(&mirrored, usize::MAX)?)).await?);
        for keys in doubtful.chunks(AGAIN) {
            for (key, Both { here, there }) in self.look_again((table, &sieve), keys).await? {
                found.count(&table.mirror.name, &columns, &key, (there.as_ref(), here.as_ref()));
            }
        }
        Ok(())
    }

    /// What is here of rows that cannot be here as they are there; they are not gone.
    async fn here(
        &mut self,
        table: &SourceTable,
        unfit: Vec<Unfit>,
    ) -> Result<Vec<(Vec<Value>, Option<Vec<Value>>)>, Error> {
        if unfit.is_empty() {
            return Ok(vec![]);
        }
        let mirrored = table.mirror.clone();
        let of = move |mirror: &Mirror| {
            let here = unfit.into_iter().map(|Unfit { key, .. }| {
                if key.len() != mirrored.key.len() {
                    return Ok::<_, Error>((key, None));
                }
                mirror.keep(&key)?;
                let here = mirror.row(&mirrored, &key)?;
                Ok((key, here))
            });
            here.collect()
        };
        self.local.on(of).await
    }

    /// Rows that stay different.
    async fn look_again(
        &mut self,
        of: (&SourceTable, &Sieve),
        keys: &[Vec<Value>],
    ) -> Result<Vec<(Vec<Value>, Both)>, Error> {
        let mut open: Vec<(Vec<Value>, Option<Both>)> = keys.iter().map(|key| (key.clone(), None)).collect();
        let mut stay = vec![];
        for look in 0..LOOKS {
            if open.is_empty() {
                break;
            }
            if look > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            let keys: Vec<Vec<Value>> = open.iter().map(|(key, _)| key.clone()).collect();
            let both = self.look(of, &keys).await?;
            let before = std::mem::take(&mut open);
            for ((key, before), now) in before.into_iter().zip(both) {
                if now.here == now.there {
                    continue;
                }
                match before == Some(now.clone()) || look + 1 == LOOKS {
                    true => stay.push((key, now)),
                    false => open.push((key, Some(now))),
                }
            }
        }
        Ok(stay)
    }

    async fn look(
        &mut self,
        (table, sieve): (&SourceTable, &Sieve),
        keys: &[Vec<Value>],
    ) -> Result<Vec<Both>, Error> {
        self.source.open(table, Rows::With(keys)).await?;
        let mut there = vec![];
        loop {
            let rows = self.source.fetch().await?;
            if rows.is_empty() {
                break;
            }
            there.extend(sieve.rows(rows).await?);
        }
        let (mirrored, asked) = (table.mirror.clone(), keys.to_vec());
        let here = self.local.on(move |mirror| {
            asked.iter().map(|key| Ok(mirror.row(&mirrored, key)?)).collect::<Result<Vec<_>, Error>>()
        });
        let is_it = |row: &&Vec<Value>, key: &Vec<Value>| {
            table.mirror.key.iter().zip(key).all(|(nth, value)| row[*nth] == *value)
        };
        let both = here.await?.into_iter().zip(keys);
        let both =
            both.map(|(here, key)| Both { here, there: there.iter().find(|row| is_it(row, key)).cloned() });
        Ok(both.collect())
    }
}

/// Notes that rows are there, and tells the keys of those that are otherwise here.
fn others(mirror: &Mirror, table: &MirrorTable, rows: &[Vec<Value>]) -> Result<Vec<Vec<Value>>, Error> {
    let mut others = vec![];
    mirror.begin(false)?;
    for row in rows {
        let key: Vec<Value> = table.key.iter().map(|nth| row[*nth].clone()).collect();
        mirror.keep(&key)?;
        if mirror.row(table, &key)?.as_ref() != Some(row) {
            others.push(key);
        }
    }
    mirror.commit()?;
    Ok(others)
}
