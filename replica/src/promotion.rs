//! From a copy to the database that transactions come from.
//!
//! 1. The copy takes what the log has.
//! 2. It puts the next transaction, in which nothing changes. From then on whoever wrote to the log before cannot go on: the name
//!    that comes next for him is taken. If it was taken before, there is more to take.
//! 3. What is known of each page becomes local state of a replicator, which goes on from there without a new snapshot; the end of the WAL
//!    does, too, so that no page of the file has to be compared; the position of the copy goes last. A crash before that leaves a copy, and one after it the database.

use crate::follower::Follower;
use crate::position::{self, Held, Mark};
use crate::replica::Replica;
use crate::start::blocking;
use crate::state::SOURCE;
use litekeep_env::{disk, random_u64};
use litekeep_ltx::{Encoder, FileName, Header, Pgno, Txid, WriterId, page_checksum};
use litekeep_replicate::capture::place_after;
use litekeep_replicate::local::{PageSums, Places, Spool, State, StateFile, Trouble};
use litekeep_replicate::replicator::PACKS;
use litekeep_replicate::{Error, Kind};
use std::path::Path;

/// What is put, the same again while nobody has answered.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    header: Header,
    bytes: Vec<u8>,
    is_put: bool,
}

impl Follower {
    /// Takes the log over by its next transaction; `false`: somebody else has put that, which is to be applied first.
    ///
    /// # Errors
    /// Those of the store; whether it has it then, the next call finds out.
    pub async fn claim(&mut self) -> Result<bool, Error> {
        let held = self.require_held()?;
        let claim = match self.claim.take().filter(|claim| claim.header.max_txid == held.txid.next()) {
            Some(claim) => claim,
            None => self.make_claim(held).await?,
        };
        self.claim = Some(claim.clone());
        let (txid, time) = (claim.header.max_txid, claim.header.timestamp_ms);
        let put = self.tail.store.put(0, name(txid), claim.bytes.clone().into(), time).await;
        match put.map_err(Error::from) {
            Ok(_) => {}
            Err(e) if e.kind() == Kind::Fenced => {
                self.claim = None;
                self.tail.forget();
                return Ok(false);
            }
            Err(e) => return Err(e),
        }
        let mark = Mark::of(&claim.header);
        let held = Held { txid, time_ms: time, applied_ms: self.now_ms(), mark, ..held };
        self.with(move |replica| replica.reached(held)).await?;
        self.claim = Some(Claim { is_put: true, ..claim });
        Ok(true)
    }

    async fn make_claim(&mut self, held: Held) -> Result<Claim, Error> {
        let time = self.now_ms().max(held.time_ms);
        self.with(move |replica| {
            replica.look()?;
            let page = replica.writer()?.first_page()?;
            let txid = held.txid.next();
            let header = Header {
                page_size: held.page_size,
                commit: held.page_count,
                min_txid: txid,
                max_txid: txid,
                timestamp_ms: time,
                wal_offset: 32,
                wal_size: 0,
                wal_salt: Default::default(),
                node: WriterId(random_u64()),
            };
            let encoded = Encoder::new(vec![], &header).and_then(|mut encoder| {
                encoder.page(Pgno::FIRST, &page)?;
                encoder.finish()
            });
            let failed = |source| Error::Ltx { doing: format!("encode transaction {txid}"), source };
            Ok(Claim { header, bytes: encoded.map_err(failed)?.writer, is_put: false })
        })
        .await
    }

    /// Lets the file be an ordinary database again, which a replicator goes on with from the transaction that was claimed.
    ///
    /// # Errors
    /// `Invalid` when somebody else has written to it, or nothing was claimed.
    pub async fn hand_over(mut self) -> Result<(), Error> {
        let claim = self.claim.take().filter(|claim| claim.is_put);
        let claim = claim.ok_or_else(|| Error::new(Kind::Internal, "the log was not claimed"))?;
        let (place, now_ms) = (self.tail.store.identity(), self.now_ms());
        let replica = self.take().ok_or_else(|| Error::new(Kind::Internal, "the replica was let go"))?;
        blocking(move || hand_over(replica, &claim.header, &place, now_ms)).await
    }
}

fn name(txid: Txid) -> FileName {
    FileName { min: txid, max: txid }
}

fn hand_over(mut replica: Replica, header: &Header, place: &str, now_ms: i64) -> Result<(), Error> {
    let held = replica.held()?;
    let done = replica.writer()?.checkpoint()?;
    let end = if done.busy { None } else { place_after(&replica.path, done.frames)? };
    let first_page = replica.writer()?.first_page()?;
    // After that: what anybody writes from here on comes after the place.
    replica.look()?;
    let meta = replica.meta.path().to_owned();
    // Of an earlier time as the source of transactions.
    forget_state(&meta)?;
    let pages = meta.join("pages");
    let own = meta.join(crate::replica::SUMS);
    std::fs::copy(&own, &pages).map_err(Error::file("copy", &own))?;
    let sums = PageSums::open(&pages)?;
    sums.apply(&[(Pgno::FIRST, page_checksum(Pgno::FIRST, &first_page))], held.page_count)?;
    sums.sync()?;
    let mut places = Places::read(&meta);
    places.forget_all_but(&[])?;
    places.note_current(place)?;
    let (mut file, _) = StateFile::open(&meta.join("state"))?;
    file.save(&State {
        writer: header.node,
        txid: header.max_txid,
        page_count: held.page_count,
        page_size: held.page_size,
        place: end,
        synced: Some(header.max_txid),
        boot: disk::boot_id(),
        confirmed_ms: now_ms,
        captured_ms: header.timestamp_ms,
    })?;
    file.sync()?;
    disk::sync_dir(&meta).map_err(Error::file("sync", &meta))?;
    replica.let_go();
    for name in [position::NAME, crate::replica::SUMS, SOURCE] {
        remove(&meta.join(name))?;
    }
    Trouble::clear(&meta);
    disk::sync_dir(&meta).map_err(Error::file("sync", &meta))
}

/// Removes what a replicator keeps of a log that went on without it. What waits in the spool is kept, too.
pub(crate) fn forget_state(meta_dir: &Path) -> Result<(), Error> {
    let kept = Spool::of(meta_dir).keep_as_fork(&format!("spool-{:08x}", random_u64() >> 32))?;
    if let Some(kept) = kept {
        tracing::error!("transactions that were on their way are kept in `{}`", kept.display());
    }
    for name in ["state", "pages", "overtaken", "restored"] {
        remove(&meta_dir.join(name))?;
    }
    let packs = meta_dir.join(PACKS);
    match std::fs::remove_dir_all(&packs) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", &packs)(e)),
        _ => Ok(()),
    }
}

pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", path)(e)),
        _ => Ok(()),
    }
}
