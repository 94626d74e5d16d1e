//! The chain as objects beside the log, `litekeep/lease/<turn>`, each put only if absent.
//!
//! A turn costs one put, and a look of those who wait one get of the name that comes next. Older records are deleted, so a name that is free may
//! be one that was there: whoever knows only an old record must not believe that its put comes next. Therefore all names are listed
//! before a put that takes over, and after it again: the newest record is never deleted, so where ours is the last one it is next.
//! (A holder that renews within its time needs no such proof: nobody has taken over, and only holders delete.)

use async_trait::async_trait;
use bytes::Bytes;
use litekeep_store::{Conditional, ErrorKind as StoreError, Store};

use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;
use crate::register::{Put, Register};

const FOLDER: &str = "lease";
/// Records that stay, for those who read one after the other.
const KEPT: u64 = 8;

/// A register in a folder or a bucket.
#[derive(Clone, Debug)]
pub struct Bucket {
    store: Store,
}

impl Bucket {
    /// In the place of a log.
    ///
    /// # Errors
    /// `Invalid` where the store does not honour conditional writes, `Unavailable` where it does not answer.
    pub async fn open(store: Store) -> Result<Bucket> {
        match store.probe().await? {
            Conditional::Honoured => Ok(Bucket { store }),
            Conditional::Ignored => Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "`{}` does not honour conditional writes (If-None-Match), so two nodes could hold one lease: use another store, or etcd for the lease",
                    store.place()
                ),
            )),
        }
    }

    async fn get(&self, turn: u64) -> Result<Option<Record>> {
        let Some(bytes) = self.store.get_record(&name(turn)).await? else { return Ok(None) };
        match serde_json::from_slice::<Record>(&bytes) {
            Ok(record) if record.turn == turn => Ok(Some(record)),
            Ok(record) => Err(self.damaged(turn, &format!("it tells of turn {}", record.turn))),
            Err(e) => Err(self.damaged(turn, &e.to_string())),
        }
    }

    fn damaged(&self, turn: u64, cause: &str) -> Error {
        Error::new(ErrorKind::Corrupt, format!("read `litekeep/{}` in {}: {cause}", name(turn), self.place()))
    }

    /// The turns that are there, ascending.
    async fn turns(&self) -> Result<Vec<u64>> {
        let records = self.store.list_records(FOLDER).await?;
        let turn = |name: &str| u64::from_str_radix(name.rsplit('/').next()?, 16).ok();
        Ok(records.iter().filter_map(|record| turn(&record.name)).collect())
    }

    /// Deletes what nobody needs; that it fails now and then costs nothing.
    async fn forget(&self, turns: impl Iterator<Item = u64>) {
        let names: Vec<String> = turns.map(name).collect();
        if !names.is_empty()
            && let Err(e) = self.store.delete_records(&names).await
        {
            tracing::debug!("old records of a lease stay: {e}");
        }
    }
}

#[async_trait]
impl Register for Bucket {
    async fn newest(&self, known: Option<&Record>) -> Result<Option<Record>> {
        // A listing may name one that is deleted before it is read; then there are newer ones.
        let mut newest = match known {
            Some(record) => Some(record.clone()),
            None => loop {
                let Some(&turn) = self.turns().await?.last() else { return Ok(None) };
                if let Some(record) = self.get(turn).await? {
                    break Some(record);
                }
            },
        };
        while let Some(record) = &newest
            && let Some(next) = self.get(record.turn + 1).await?
        {
            newest = Some(next);
        }
        Ok(newest)
    }

    async fn put(&self, before: Option<&Record>, next: &Record) -> Result<Put> {
        let renews = before.is_some_and(|before| before.is_of_holding(next));
        let is_beyond = |turns: &[u64]| turns.last().is_some_and(|last| *last > next.turn);
        if !renews && is_beyond(&self.turns().await?) {
            return Ok(Put::Lost);
        }
        match self.store.put_record(&name(next.turn), Bytes::from(next.to_bytes()), true).await {
            Ok(_) => {}
            Err(e) if e.kind() == StoreError::Fenced => return Ok(Put::Lost),
            Err(e) => return Err(e.into()),
        }
        if renews {
            self.forget(next.turn.checked_sub(KEPT).into_iter()).await;
            return Ok(Put::Done);
        }
        let turns = self.turns().await?;
        if is_beyond(&turns) {
            return Ok(Put::Lost);
        }
        self.forget(turns.into_iter().filter(|turn| turn + KEPT <= next.turn)).await;
        Ok(Put::Done)
    }

    fn place(&self) -> String {
        self.store.place()
    }
}

fn name(turn: u64) -> String {
    format!("{FOLDER}/{turn:016x}")
}
