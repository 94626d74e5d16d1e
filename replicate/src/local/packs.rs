//! Single commits on their way into packs: the pack that grows, and those that no store has.
//!
//! Promises:
//! - Nothing here can fail a capture: what cannot be kept, for want of space or time, is told apart no further than the
//!   log's files do, which then stay.
//! - A pack says nothing of a transaction that is not in the log: what a killed process had captured and nobody has
//!   confirmed is cut off at the next start, before the same numbers are given again.
//!
//! A pack that grows is not synced: after a power cut it ends where its checksums do.

use crate::Error;
use litekeep_env::disk;
use litekeep_ltx::{FileName, Header, Pack, PackEncoder, PageSize, Txid, WriterId};
use litekeep_store::PackRef;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A pack is closed with so many bytes, or after the time that the caller gives.
const LARGEST: u64 = 4 << 20;
/// Bytes of pages whose newest version is remembered for the next one.
const ROOM: usize = 1 << 20;
/// Bytes of one entry, before they are compressed. Transactions that are larger are told apart by their own files.
pub(crate) const MOST_BYTES: usize = 32 << 20;
/// Frames a second that are read for packs, and for how many seconds they add up. The commits of a faster writer are taken
/// together.
const FRAMES_A_SECOND: f64 = 20_000.0;
const BURST_SECONDS: f64 = 2.0;
/// Packs that wait for a store take no more than this.
const MOST_WAITING: u64 = 64 << 20;
/// Nor is one begun when the disk has less than this.
const RESERVE: u64 = 256 << 20;

const GROWING: &str = "growing";

/// The packs of one database.
#[derive(Debug)]
pub struct Packs {
    /// `None`: no packs are kept.
    dir: Option<PathBuf>,
    writer: WriterId,
    longest: Duration,
    growing: Option<Growing>,
    /// Closed ones may be there.
    some_closed: bool,
    /// Frames that may be read now, and since when.
    allowance: f64,
    counted_at: Instant,
}

#[derive(Debug)]
struct Growing {
    page_size: PageSize,
    /// Both are let go when the database rests.
    file: Option<File>,
    encoder: Option<PackEncoder>,
    first: Txid,
    last: Option<Txid>,
    bytes: u64,
    begun: Instant,
    worth: Worth,
}

/// What a pack tells that the files do not.
#[derive(Clone, Copy, Debug, Default)]
struct Worth {
    /// Commits of one file are told apart.
    apart: bool,
    /// Files, and the seconds that they are of: where files are many, compaction merges them.
    files: u32,
    seconds: u32,
    last_second: i64,
}

impl Worth {
    fn add(&mut self, timestamp_ms: i64, parts: u32) {
        let second = timestamp_ms.div_euclid(1000);
        self.apart |= parts > 1;
        self.seconds += u32::from(self.files == 0 || second != self.last_second);
        self.last_second = second;
        self.files += 1;
    }

    fn is_any(self) -> bool {
        self.apart || self.files * 2 > self.seconds * 3
    }
}

impl Default for Packs {
    /// Keeps none.
    fn default() -> Packs {
        Packs::new(None, WriterId(0), Duration::MAX)
    }
}

impl Packs {
    /// Keeps those of a database in a folder, which is made when the first one comes; each grows for so long at most.
    pub fn open(dir: &Path, writer: WriterId, longest: Duration) -> Packs {
        Packs::new(Some(dir.to_owned()), writer, longest)
    }

    fn new(dir: Option<PathBuf>, writer: WriterId, longest: Duration) -> Packs {
        let growing = None;
        Packs {
            dir,
            writer,
            longest,
            growing,
            some_closed: true,
            allowance: BURST_SECONDS * FRAMES_A_SECOND,
            counted_at: Instant::now(),
        }
    }

    /// Cuts off what is not in the log, which ends at `last`; of another writer's log everything.
    pub fn resume(&mut self, last: Option<Txid>) {
        self.growing = None;
        let Some(dir) = &self.dir else { return };
        for path in files_in(dir) {
            if let Err(e) = last.map_or_else(|| remove(&path), |last| cut(dir, &path, last)) {
                tracing::warn!("single commits of before this start: {e}");
            }
        }
    }

    /// Whether so many frames may be read.
    pub(crate) fn allows(&mut self, frames: usize) -> bool {
        let now = Instant::now();
        let earned = now.duration_since(self.counted_at).as_secs_f64() * FRAMES_A_SECOND;
        self.counted_at = now;
        self.allowance = (self.allowance + earned).min(BURST_SECONDS * FRAMES_A_SECOND);
        let may = frames as f64 <= self.allowance;
        if may {
            self.allowance -= frames as f64;
        }
        may
    }

    /// What takes the commits of a transaction; `None`: they are not kept.
    pub(crate) fn begin(&mut self, txid: Txid, page_size: PageSize) -> Option<&mut PackEncoder> {
        let dir = self.dir.clone()?;
        let continues = |g: &Growing| g.page_size == page_size && g.last.map(Txid::next) == Some(txid);
        if !self.growing.as_ref().is_some_and(continues) {
            self.close();
            if disk::space(dir.parent()?).is_ok_and(|(free, _)| free < RESERVE) {
                return None;
            }
            let begun = begin(&dir, page_size, self.writer, txid);
            self.growing = begun.map_err(|e| tracing::debug!("single commits: {e}")).ok();
        }
        let growing = self.growing.as_mut()?;
        Some(growing.encoder.get_or_insert_with(|| PackEncoder::new(page_size, ROOM)))
    }

    /// Ends the transaction that was begun.
    pub(crate) fn finish(&mut self, header: &Header, commits: u32, parts: u32) {
        let Some(growing) = &mut self.growing else { return };
        let Some(encoder) = &mut growing.encoder else { return };
        let entry = encoder.finish(header.max_txid, header.timestamp_ms, commits);
        let written = entry.map_err(|source| Error::Ltx { doing: "pack single commits".into(), source });
        let written = written.and_then(|entry| growing.write(self.dir.as_deref(), &entry));
        if let Err(e) = written {
            self.give_up(&e);
            return;
        }
        growing.last = Some(header.max_txid);
        growing.worth.add(header.timestamp_ms, parts);
        if growing.bytes >= LARGEST {
            self.close();
        }
    }

    /// The transaction that was begun is not kept.
    pub(crate) fn give_up(&mut self, why: &Error) {
        tracing::debug!("single commits are not kept: {why}");
        self.close();
    }

    /// Whether there is anything to put; with `all`, also the pack that grows.
    pub fn has_any(&self, all: bool) -> bool {
        self.dir.is_some() && (self.some_closed || self.is_due() || all && self.growing.is_some())
    }

    /// Whether the pack that grows has grown for long enough.
    pub fn is_due(&self) -> bool {
        self.growing.as_ref().is_some_and(|g| g.begun.elapsed() >= self.longest)
    }

    /// Ends the pack that grows; it stays if it tells anything that the files of the log do not.
    pub fn close(&mut self) {
        let (Some(dir), Some(growing)) = (&self.dir, self.growing.take()) else { return };
        self.some_closed = true;
        let path = dir.join(GROWING);
        let Growing { first, last, worth, .. } = growing;
        let closed = match last.filter(|_| worth.is_any()) {
            Some(last) => keep(dir, &path, FileName { min: first, max: last }),
            None => remove(&path),
        };
        if let Err(e) = closed {
            tracing::debug!("single commits: {e}");
        }
    }

    /// Lets memory and descriptors go.
    pub fn rest(&mut self) {
        if let Some(growing) = &mut self.growing {
            (growing.file, growing.encoder) = (None, None);
        }
    }

    /// The packs that are closed, oldest first.
    pub fn closed(&mut self) -> Vec<(FileName, PathBuf)> {
        let closed = self.dir.as_deref().map(closed_in).unwrap_or_default();
        self.some_closed = !closed.is_empty();
        closed
    }
}

impl Growing {
    fn write(&mut self, dir: Option<&Path>, entry: &[u8]) -> Result<(), Error> {
        let path = dir.unwrap_or(Path::new(".")).join(GROWING);
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let file = File::options().append(true).open(&path);
                self.file.insert(file.map_err(Error::file("open", &path))?)
            }
        };
        file.write_all(entry).map_err(Error::file("write", &path))?;
        self.bytes += entry.len() as u64;
        Ok(())
    }
}

fn begin(dir: &Path, page_size: PageSize, writer: WriterId, first: Txid) -> Result<Growing, Error> {
    disk::make_dir(dir).map_err(Error::file("create", dir))?;
    let waiting: u64 = closed_in(dir).iter().filter_map(|(_, path)| Some(path.metadata().ok()?.len())).sum();
    if waiting > MOST_WAITING
        && let Some((_, oldest)) = closed_in(dir).first()
    {
        remove(oldest)?;
    }
    let path = dir.join(GROWING);
    let header = PackEncoder::header(page_size, writer);
    std::fs::write(&path, &header).map_err(Error::file("write", &path))?;
    let bytes = header.len() as u64;
    let (begun, worth) = (Instant::now(), Worth::default());
    Ok(Growing { page_size, file: None, encoder: None, first, last: None, bytes, begun, worth })
}

/// Keeps the entries of a pack up to a transaction, under the name that fits.
fn cut(dir: &Path, path: &Path, last: Txid) -> Result<(), Error> {
    let bytes = std::fs::read(path).map_err(Error::file("read", path))?;
    let Ok(pack) = Pack::scan(&bytes) else { return remove(path) };
    let known = pack.entries.iter().take_while(|(entry, _)| entry.txid <= last);
    let mut worth = Worth::default();
    known.clone().for_each(|(entry, _)| worth.add(entry.timestamp_ms, entry.parts));
    let (Some((first, _)), Some((last, range))) = (pack.entries.first(), known.last()) else {
        return remove(path);
    };
    if !worth.is_any() {
        return remove(path);
    }
    if range.end < bytes.len() {
        let file = File::options().write(true).open(path).map_err(Error::file("open", path))?;
        file.set_len(range.end as u64).map_err(Error::file("shorten", path))?;
    }
    keep(dir, path, FileName { min: first.txid, max: last.txid })
}

fn keep(dir: &Path, path: &Path, name: FileName) -> Result<(), Error> {
    let to = dir.join(PackRef::file_name(name));
    std::fs::rename(path, &to).map_err(Error::file("rename", path))
}

fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", path)(e)),
        _ => Ok(()),
    }
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn closed_in(dir: &Path) -> Vec<(FileName, PathBuf)> {
    let named = |path: PathBuf| Some((PackRef::parse(path.file_name()?.to_str()?)?, path));
    let mut closed: Vec<_> = files_in(dir).into_iter().filter_map(named).collect();
    closed.sort_unstable_by_key(|(name, _)| (name.min, name.max));
    closed
}

#[cfg(test)]
mod tests {
    use super::*;
    use litekeep_ltx::{PackDecoder, Salt};

    const PAGE_SIZE: PageSize = PageSize::new(512).unwrap();

    fn txid(n: u64) -> Txid {
        Txid::new(n).unwrap()
    }

    fn add(packs: &mut Packs, n: u64, timestamp_ms: i64, parts: u32) {
        let header = Header {
            page_size: PAGE_SIZE,
            commit: 1,
            min_txid: txid(n),
            max_txid: txid(n),
            timestamp_ms,
            wal_offset: 32,
            wal_size: 0,
            wal_salt: Salt::default(),
            node: WriterId(1),
        };
        let encoder = packs.begin(header.max_txid, PAGE_SIZE).unwrap();
        for part in 0..parts {
            encoder.page(litekeep_ltx::Pgno::FIRST, &[part as u8; 512]);
            encoder.commit(1);
        }
        packs.finish(&header, parts, parts);
    }

    fn closed(packs: &mut Packs) -> Vec<(u64, u64)> {
        packs.closed().iter().map(|(name, _)| (name.min.get(), name.max.get())).collect()
    }

    #[test]
    fn what_the_files_tell_as_well_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut packs = Packs::open(&dir.path().join("packs"), WriterId(1), Duration::MAX);
        (1..=3).for_each(|n| add(&mut packs, n, n as i64 * 1000, 1));
        packs.close();
        assert_eq!(closed(&mut packs), []);
        (4..=6).for_each(|n| add(&mut packs, n, n as i64 * 100, 1));
        packs.close();
        add(&mut packs, 7, 7000, 2);
        packs.rest();
        add(&mut packs, 8, 8000, 1);
        packs.close();
        assert_eq!(closed(&mut packs), [(4, 6), (7, 8)]);
    }

    #[test]
    fn a_start_cuts_off_what_the_log_does_not_have() {
        let dir = tempfile::tempdir().unwrap();
        let mut packs = Packs::open(dir.path(), WriterId(1), Duration::MAX);
        (1..=4).for_each(|n| add(&mut packs, n, 0, 2));
        packs.close();
        (6..=9).for_each(|n| add(&mut packs, n, 0, 2));
        packs.resume(Some(txid(7)));
        assert_eq!(closed(&mut packs), [(1, 4), (6, 7)]);
        let bytes = std::fs::read(&packs.closed()[1].1).unwrap();
        let mut decoder = PackDecoder::new(bytes).unwrap();
        let captures: Vec<_> = std::iter::from_fn(|| decoder.next_capture().unwrap()).collect();
        assert_eq!(captures.iter().map(|c| c.commits.len()).collect::<Vec<_>>(), [2, 2]);
        packs.resume(None);
        assert_eq!(closed(&mut packs), []);
    }

    #[test]
    fn a_gap_begins_another_pack() {
        let dir = tempfile::tempdir().unwrap();
        let mut packs = Packs::open(dir.path(), WriterId(1), Duration::MAX);
        [1, 2, 4].into_iter().for_each(|n| add(&mut packs, n, 0, 2));
        packs.close();
        assert_eq!(closed(&mut packs), [(1, 2), (4, 4)]);
    }

    #[test]
    fn a_writer_that_is_too_fast_is_not_followed() {
        let mut packs = Packs::default();
        assert!(packs.allows(40_000) && !packs.allows(20_000));
        packs.counted_at -= Duration::from_secs(1);
        assert!(packs.allows(19_999));
        assert!(packs.begin(txid(1), PAGE_SIZE).is_none());
    }
}
