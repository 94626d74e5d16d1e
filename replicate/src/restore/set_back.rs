//! A database file that is an earlier state of its own log: somebody put an older copy in its place.
//!
//! SQLite counts in page 1 how often that page was written, which is whenever the database grows, shrinks or gets another
//! schema. A file that has counted less than the log, and whose page 1 is one that the log has, is of that time; what was
//! committed since is not in it. Where page 1 was not written since the copy was made, it only looks so if all pages in
//! which the file differs are as they were before: an application may have taken back what it had done.
//!
//! Nothing is changed here, and little is read: page 1 of a few files, found by bisection, or the newest files.

use crate::capture::Wal;
use crate::local::{PageSums, StateFile, restored};
use crate::{Error, Kind};
use litekeep_ltx::{Checksum, PageSize, Pgno, Txid, page_checksum};
use litekeep_store::{FileRef, Log, Store};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Where page 1 has its count, big-endian.
const COUNT: std::ops::Range<usize> = 24..28;
/// Files that are looked into for one version of page 1.
const LOOKED_INTO: usize = 64;
/// A snapshot that is larger is not looked into: its index alone is large.
const LARGEST_BASE: u64 = 64 << 20;

/// What a file was set back to, and what its log has over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetBack {
    /// The last transaction of the log that the file can have.
    pub txid: Txid,
    /// Its time, milliseconds since the epoch.
    pub time_ms: i64,
    /// The last transaction of the log.
    pub head: Txid,
    /// Its time, milliseconds since the epoch.
    pub head_ms: i64,
}

/// Whether the file of a database that nobody has open was set back, and by nobody's wish that is known. `meta_dir`:
/// litekeep's own state of it.
///
/// # Errors
/// When the store does not answer or a file cannot be read.
pub async fn set_back(store: &Store, path: &Path, meta_dir: &Path) -> Result<Option<SetBack>, Error> {
    let Some(state) = StateFile::peek(&meta_dir.join("state")) else { return Ok(None) };
    if restored::is_noted(meta_dir, path) || has_first_page_in_wal(path, state.page_size)? {
        return Ok(None);
    }
    let mut page = vec![0; state.page_size.bytes()];
    let file = File::open(path).map_err(Error::file("open", path))?;
    if file.read_exact_at(&mut page, 0).is_err() {
        return Ok(None);
    }
    let log = store.list().await?;
    let sums = meta_dir.join("pages");
    if log.last() == Some(state.txid) && sums.exists() && is_in(&PageSums::open(&sums)?, &page)? {
        return Ok(None);
    }
    earlier(store, &log, &page).await
}

/// Whether the file's own page 1 says nothing, because the WAL has another. A WAL without it may be of the file, or may have been
/// left beside an older copy.
fn has_first_page_in_wal(path: &Path, page_size: PageSize) -> Result<bool, Error> {
    let Some(wal) = Wal::open(path)? else { return Ok(false) };
    let Some(header) = wal.header()? else { return Ok(false) };
    for index in 0.. {
        match wal.frame_header(page_size, index)? {
            Some(frame) if frame.salt == header.salt => {
                if frame.pgno == Pgno::FIRST {
                    return Ok(true);
                }
            }
            _ => break,
        }
    }
    Ok(false)
}

/// Whether page 1 is what the log has, as local state says.
pub(crate) fn is_in(sums: &PageSums, page: &[u8]) -> Result<bool, Error> {
    let mut sum = [Checksum::default()];
    sums.get(Pgno::FIRST, &mut sum)?;
    Ok(sum[0] == page_checksum(Pgno::FIRST, page))
}

/// Whether a database with this page 1 is of an earlier time than the end of a log that has the like of it.
///
/// # Errors
/// Those of the store.
pub(crate) async fn earlier(store: &Store, log: &Log, page: &[u8]) -> Result<Option<SetBack>, Error> {
    let files = files_of(log);
    let (Some(last), Some(head)) = (files.last().copied(), log.last()) else { return Ok(None) };
    let counted = count(page);
    let Some((newest, version)) = page_at(store, &files, files.len() - 1).await? else { return Ok(None) };
    if version.len() != page.len() || count(&version) <= counted {
        return Ok(None);
    }
    // All from `above` on have counted more.
    let (mut below, mut above, mut found) = (0, newest, None);
    while below < above {
        let middle = below.midpoint(above);
        match page_at(store, &files, middle).await? {
            Some((nth, version)) if count(&version) > counted => above = nth,
            version => {
                found = version.filter(|(_, version)| **version == *page).map(|_| middle);
                below = middle + 1;
            }
        }
    }
    let Some(found) = found else { return Ok(None) };
    let txid = files[found].max();
    let (time_ms, head_ms) = (store.time_of(files[found]).await?, store.time_of(last).await?);
    Ok(Some(SetBack { txid, time_ms, head, head_ms }))
}

/// Whether these pages, in which a database differs from the end of the log, are all as they were before, as far as that is
/// among the newest files.
///
/// # Errors
/// Those of the store.
pub(crate) async fn as_before(
    store: &Store,
    log: &Log,
    mut pages: Vec<(Pgno, Checksum)>,
) -> Result<Option<SetBack>, Error> {
    let files = files_of(log);
    let (Some(last), Some(head)) = (files.last().copied(), log.last()) else { return Ok(None) };
    let mut found = last;
    for &file in files.iter().rev().take(LOOKED_INTO) {
        let wanted: Vec<Pgno> = pages.iter().map(|(pgno, _)| *pgno).collect();
        let versions = read(store, file, &wanted).await?;
        let is_so = |(pgno, sum): &(Pgno, Checksum)| {
            versions.get(pgno).is_some_and(|page| page_checksum(*pgno, page) == *sum)
        };
        if pages.iter().any(is_so) {
            pages.retain(|page| !is_so(page));
            found = file;
        }
        if pages.is_empty() {
            let (txid, time_ms) = (found.max(), store.time_of(found).await?);
            return Ok(Some(SetBack { txid, time_ms, head, head_ms: store.time_of(last).await? }));
        }
    }
    Ok(None)
}

/// The files that are looked into, by their ends; of those that end alike, the one that tells most closely when something
/// was written comes last.
fn files_of(log: &Log) -> Vec<&FileRef> {
    let mut files: Vec<&FileRef> =
        log.files().filter(|file| !file.is_base() || file.size <= LARGEST_BASE).collect();
    files.sort_by_key(|file| (file.max(), file.min()));
    files
}

/// Those of the pages that a file has; none of one that is gone or damaged.
async fn read(store: &Store, file: &FileRef, pages: &[Pgno]) -> Result<HashMap<Pgno, Arc<[u8]>>, Error> {
    let read = async { store.open_pages(file).await?.read(pages).await };
    match read.await {
        Err(e) if e.is_missing() || e.kind() == litekeep_store::ErrorKind::Corrupt => Ok(HashMap::new()),
        read => Ok(read?),
    }
}

/// The version of page 1 at the end of a file of the log, and the file that has it.
async fn page_at(store: &Store, files: &[&FileRef], nth: usize) -> Result<Option<(usize, Arc<[u8]>)>, Error> {
    for nth in (0..=nth).rev().take(LOOKED_INTO) {
        if let Some(page) = read(store, files[nth], &[Pgno::FIRST]).await?.remove(&Pgno::FIRST) {
            return Ok(Some((nth, page)));
        }
    }
    Ok(None)
}

fn count(page: &[u8]) -> u32 {
    page[COUNT].try_into().map_or(0, u32::from_be_bytes)
}

impl SetBack {
    /// Place and cause, for messages.
    pub fn message(&self, path: &Path, store: &Store) -> String {
        format!(
            "`{}` is an older copy, as it was at about transaction {} of {}, and its backup {} goes up to {} of {}",
            path.display(),
            self.txid,
            text(self.time_ms),
            store.place(),
            self.head,
            text(self.head_ms)
        )
    }

    /// The refusal to go on with the file.
    pub fn refusal(&self, path: &Path, store: &Store) -> Error {
        let file = path.display();
        Error::with_hint(
            Kind::Invalid,
            self.message(path, store),
            format!(
                "to go on with the last state of the backup: `litekeep restore --force {file}`, which keeps the present file aside; to go on with the present file: add `--new-timeline`, and the backup keeps what it has"
            ),
        )
    }
}

fn text(ms: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}
