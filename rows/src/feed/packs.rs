//! Single commits for the feed, from packs of the log and, on the machine of the database, from the one that grows.
//!
//! Invariant: nothing is given that is not in the log. What is on this machine may be ahead of it, and become something else
//! when litekeep is killed before it is confirmed.

use crate::{Error, Kind};
use litekeep_ltx::{FileName, PageSize, Point, Txid};
use litekeep_replicate::{CommitReader, Single};
use litekeep_store::{PackRef, Store};

#[derive(Debug)]
pub(super) struct Packs {
    store: Store,
    /// Those that were listed and not tried yet; `None`: nobody has looked.
    known: Option<Vec<PackRef>>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    reader: CommitReader,
    is_here: bool,
    /// The log has this transaction, as the pack has it.
    in_log: Option<Txid>,
}

impl Packs {
    pub(super) fn new(store: &Store) -> Packs {
        Packs { store: store.clone(), known: None, open: None }
    }

    /// The commit after a state, if a pack has it and the log has come as far. It counts as given when this returns.
    pub(super) async fn next(&mut self, at: Point) -> Result<Option<(PageSize, Single)>, Error> {
        let wanted = if at.seq.is_some() { at.txid } else { at.txid.next() };
        loop {
            if self.open.is_none() && !self.open_one(wanted, at).await? {
                return Ok(None);
            }
            let open = self.open.as_mut().expect("just opened");
            let point = match open.reader.peek() {
                Ok(Some(point)) => point,
                // What is on this machine may grow.
                Ok(None) if open.is_here => return Ok(None),
                Ok(None) => {
                    self.open = None;
                    continue;
                }
                Err(e) => {
                    self.open = None;
                    or_file(e, at)?;
                    continue;
                }
            };
            if point <= at {
                open.reader.next_commit()?;
                continue;
            }
            if point.txid != wanted {
                self.open = None;
                continue;
            }
            if open.is_here && open.in_log != Some(wanted) {
                let name = FileName { min: wanted, max: wanted };
                let Some(file) = self.store.find(0, name).await? else { return Ok(None) };
                if open.reader.time_of_next() != Some(self.store.header(&file).await?.timestamp_ms) {
                    self.open = None;
                    return Ok(None);
                }
                open.in_log = Some(wanted);
            }
            let page_size = open.reader.page_size();
            return Ok(open.reader.next_commit()?.map(|single| (page_size, single)));
        }
    }

    /// Whether a pack that was not tried yet has the transaction, which a file of the log has.
    pub(super) fn look_again(&mut self, txid: Txid) -> bool {
        let Some(known) = &mut self.known else { return true };
        known.retain(|pack| pack.name.max >= txid && pack.path.is_none());
        known.extend(self.store.packs_here().unwrap_or_default());
        let has_one = known.iter().any(|pack| pack.has(txid));
        if has_one {
            self.open = None;
        }
        has_one
    }

    /// Whether a pack that was not tried yet has the transaction, as far as is known.
    pub(super) fn has(&self, txid: Txid) -> bool {
        self.known.iter().flatten().any(|pack| pack.has(txid))
    }

    async fn open_one(&mut self, wanted: Txid, at: Point) -> Result<bool, Error> {
        if self.known.is_none() {
            self.known = Some(self.store.list_packs().await?);
        }
        let known = self.known.as_mut().expect("just listed");
        while let Some(nth) = known.iter().rposition(|pack| pack.has(wanted)) {
            match CommitReader::open(&self.store, &known[nth]).await {
                Ok(reader) => {
                    let is_here = known.remove(nth).path.is_some();
                    self.open = Some(Open { reader, is_here, in_log: None });
                    return Ok(true);
                }
                // It was put since, or has expired.
                Err(Error::Store(e)) if e.is_missing() => drop(known.remove(nth)),
                Err(e) => {
                    or_file(e, at)?;
                    known.remove(nth);
                }
            }
        }
        Ok(false)
    }
}

/// Where a pack is damaged, the file of the log has the same commits as one.
fn or_file(error: Error, at: Point) -> Result<(), Error> {
    if error.kind() == Kind::Corrupt && at.seq.is_none() {
        tracing::warn!("{error}: these commits are told as one");
        return Ok(());
    }
    Err(error)
}
