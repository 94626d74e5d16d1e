//! Proving that the log holds the database.
//!
//! The expected page checksums come from a read snapshot of the live file, never from anything that was shipped; the log
//! is restored into a scratch place; every page is compared. So a capture that lost or damaged a page fails here even if
//! every checksum in the log is right.
//!
//! The live state and the log meet at the end of a level-0 file: its header names the WAL generation and offset that it
//! ends at. While a hold of ours keeps the WAL from being reset and checkpoints from copying beyond it, the state at that
//! offset can be read from the live files, although the application goes on.
//!
//! Run it in a process of its own: closing the descriptors of a live database drops the POSIX locks that SQLite holds on
//! it in the same process. A crash leaves the scratch folder's files behind.

use crate::capture::{Capture, Pages};
use crate::local::PageSums;
use crate::restore::{self, Differences, Goal, Integrity, Progress, differences};
use crate::{Error, Kind};
use litekeep_ltx::{Checksum, Header, PageSize, Pgno, Salt, Txid, page_checksum};
use litekeep_store::Store;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What was compared, and how it came out.
#[derive(Clone, Debug)]
pub struct Proof {
    /// The transaction.
    pub txid: Txid,
    /// When its last commit was seen, milliseconds since the epoch.
    pub time_ms: i64,
    /// Page size of the database.
    pub page_size: PageSize,
    /// Pages that were compared.
    pub page_count: u32,
    /// Bytes of the log that were read.
    pub bytes: u64,
    /// Files of the log that could not be used, and were gone around.
    pub damaged: Vec<restore::Damaged>,
    /// How the restored database differs from the live one.
    pub differences: Differences,
}

impl Proof {
    /// The log holds the database.
    pub fn holds(&self) -> bool {
        self.differences.is_none()
    }
}

/// Pages that are named when they differ.
const NAMED: usize = 20;
/// Between two looks whether the log has come as far as the snapshot.
const PAUSE: Duration = Duration::from_millis(250);

/// Compares the live database with what a restore of its log gives. Waits at most `patience` for the log to contain the
/// state that the snapshot sees.
///
/// # Errors
/// `Unavailable` when the log does not come as far in time; `Corrupt` when it cannot be restored at all;
/// [`Empty`](litekeep_store::Error::Empty) when there is none.
pub async fn verify(
    database: &Path,
    store: &Store,
    scratch: &Path,
    patience: Duration,
    progress: &dyn Progress,
) -> Result<Proof, Error> {
    let path = database.to_owned();
    let mut capture = blocking(move || Capture::attach(&path).map(|(capture, _)| capture)).await?;
    let deadline = Instant::now() + patience;
    let mut compared: Option<(Ends, Proof)> = None;
    loop {
        let (back, meeting) = meet(capture, store, scratch, compared.as_ref().map(|(ends, _)| *ends)).await?;
        capture = back;
        let is_over = Instant::now() >= deadline;
        match (meeting, &compared) {
            (Meeting::At(ends, met), _) => {
                let proof = compare(store, scratch, met, progress).await?;
                // With nothing in the WAL there is no offset to meet at: a log that differs may only be on its way.
                if proof.holds() || met.exact || Instant::now() >= deadline {
                    return Ok(proof);
                }
                compared = Some((ends, proof));
            }
            // The same comparison again would end as it did.
            (Meeting::AsBefore, Some((_, proof))) if is_over => return Ok(proof.clone()),
            (Meeting::Nowhere, _) if is_over => return Err(behind(database, store, patience)),
            _ => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn behind(database: &Path, store: &Store, patience: Duration) -> Error {
    Error::with_hint(
        Kind::Unavailable,
        format!(
            "the log at {} has not come as far as `{}` within {} s",
            store.place(),
            database.display(),
            patience.as_secs()
        ),
        "is it being replicated? `litekeep status` shows how far it is",
    )
}

/// Where the log and the live WAL end. As long as both stay, so does what a comparison finds.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ends {
    log: Txid,
    wal: (Salt, u32),
}

/// What came of looking for the end of the log in the live files.
enum Meeting {
    At(Ends, Met),
    /// The log is behind the hold.
    Nowhere,
    /// Nothing has moved since the last comparison.
    AsBefore,
}

/// A transaction whose live state was summed up.
#[derive(Clone, Copy)]
struct Met {
    txid: Txid,
    page_size: PageSize,
    page_count: u32,
    /// The level-0 file's own offset says that the states are the same.
    exact: bool,
}

/// Finds the end of the log in the live files and sums up the pages there, unless that was done when both ended so.
async fn meet(
    capture: Capture,
    store: &Store,
    scratch: &Path,
    before: Option<Ends>,
) -> Result<(Capture, Meeting), Error> {
    let log = store.list().await?;
    let last = log.last().ok_or(litekeep_store::Error::Empty)?;
    let header = match log.newest_l0().filter(|f| f.max() == last) {
        Some(file) => Some(store.header(file).await?),
        None => None,
    };
    let sums_path = sums_path(scratch);
    blocking(move || {
        let mut capture = capture;
        let ends = Ends { log: last, wal: capture.wal_end()? };
        if before == Some(ends) {
            return Ok((capture, Meeting::AsBefore));
        }
        let met = sum_up(&mut capture, header, last, &sums_path)?;
        Ok((capture, met.map_or(Meeting::Nowhere, |met| Meeting::At(ends, met))))
    })
    .await
}

fn sum_up(
    capture: &mut Capture,
    header: Option<Header>,
    txid: Txid,
    sums_path: &Path,
) -> Result<Option<Met>, Error> {
    let page_size = capture.page_size();
    let named = header.filter(|h| h.page_size == page_size).map(|h| (h.wal_salt, h.wal_offset + h.wal_size));
    let Some((pages, exact)) = capture.pages_at_offset(named)? else { return Ok(None) };
    let page_count = pages.page_count();
    write_sums(&pages, sums_path)?;
    Ok(Some(Met { txid, page_size, page_count, exact }))
}

fn write_sums(pages: &Pages<'_>, path: &Path) -> Result<(), Error> {
    let sums = PageSums::open(path)?;
    let mut batch: Vec<(Pgno, Checksum)> = Vec::with_capacity(4096);
    pages.for_each(|pgno, page| {
        batch.push((pgno, page_checksum(pgno, page)));
        if batch.len() == batch.capacity() {
            sums.apply(&batch, pages.page_count())?;
            batch.clear();
        }
        Ok(())
    })?;
    sums.apply(&batch, pages.page_count())
}

async fn compare(store: &Store, scratch: &Path, met: Met, progress: &dyn Progress) -> Result<Proof, Error> {
    let target = scratch.join("restored.db");
    let options = restore::Options { force: true, integrity: Integrity::None, ..restore::Options::default() };
    let restored = restore::to_path(store, Goal::Txid(met.txid), &target, &options, progress).await?;
    let restored = restored.ok_or_else(|| Error::new(Kind::Internal, "a forced restore did nothing"))?;
    let sums = sums_path(scratch);
    let found = blocking(move || {
        let sums = PageSums::open(&sums)?;
        let found =
            differences(&target, met.page_size, met.page_count, NAMED, |pgno, out| sums.get(pgno, out))?;
        std::fs::remove_file(&target).map_err(Error::file("remove", &target))?;
        Ok(found)
    })
    .await?;
    Ok(Proof {
        txid: met.txid,
        time_ms: restored.time_ms,
        page_size: met.page_size,
        page_count: met.page_count,
        bytes: restored.bytes,
        damaged: restored.damaged,
        differences: found,
    })
}

fn sums_path(scratch: &Path) -> PathBuf {
    scratch.join("expected-page-checksums")
}

async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(e) => Err(Error::new(Kind::Internal, format!("verify: {e}"))),
    }
}
