//! Backups of Litestream 0.3, in any store.
//!
//! ```text
//! generations/<16 hex>/snapshots/<index>.snapshot.lz4          the database file when WAL file <index> was in use
//! generations/<16 hex>/wal/<index>_<offset>.wal.lz4            a piece of WAL file <index>, from byte <offset> on
//! ```
//!
//! Index and offset are 8 lower-case hexadecimal digits, the content is an LZ4 frame. A WAL file is the whole of one
//! generation of SQLite's WAL, with its header; a snapshot and all WAL files from its index on make the database.
//!
//! Promises: every frame is verified by SQLite's own checksums; a WAL file that does not begin at its beginning, pieces
//! that do not follow one another or are cut short, and a WAL file that others follow and that ends within a
//! transaction, are an error. Memory is bounded. Only whole transactions are applied.
//!
//! What the format cannot tell: whether whole transactions are missing at the end of a WAL file that others follow.
//! SQLite is therefore always asked about the result, if only by a quick check. Nor can it tell how far a snapshot
//! reaches: one that was copied while checkpoints went on has pages of later transactions, and makes no database until
//! the WAL pieces that have these transactions follow it.
//!
//! The format has no transaction ids. Times are the objects' modification times, so an instant is as exact as the pieces
//! were frequent, and in some buckets as whole seconds.

use super::install::{Integrity, Options, Target, blocking};
use super::plan::instant;
use super::{Goal, Phase, Progress};
use crate::{Error, Instead, Kind};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use litekeep_format::{Chain, DatabaseHeader, FrameHeader, WalHeader};
use litekeep_ltx::{PageSize, Pgno};
use litekeep_store::{self as store, ObjectRef, Store};
use lz4_flex::frame::FrameDecoder;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

const FOLDER: &str = "generations";

/// The most that one request reads.
const AHEAD_BYTES: u64 = 4 << 20;

/// What a restore from such a backup will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// The generation: 16 hexadecimal digits.
    pub generation: String,
    /// When the last piece was written, milliseconds since the epoch.
    pub time_ms: i64,
    /// Bytes of the snapshot and the WAL pieces.
    pub bytes: u64,
    /// The goal was an instant after the last piece of the backup.
    pub after_end: bool,
    snapshot: Piece,
    /// In order; of the WAL files from the snapshot's on.
    wal: Vec<Piece>,
    /// When the next piece was written, milliseconds since the epoch.
    next_ms: Option<i64>,
}

/// One object of the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    index: u32,
    /// In the WAL file; 0 for a snapshot.
    offset: u64,
    /// Below the backup's path.
    name: String,
    size: u64,
    modified_ms: i64,
}

/// A restored database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// What it was made from.
    pub backup: Backup,
    /// Page size.
    pub page_size: PageSize,
    /// Pages.
    pub page_count: u32,
    /// Where the former database is now.
    pub kept_aside: Option<PathBuf>,
}

/// Finds what brings the goal back, by one listing. `None`: there is no backup of this kind.
///
/// # Errors
/// `Invalid` for a transaction, and for an instant before the backup begins; both name an instant that can be restored.
pub async fn find(store: &Store, goal: Goal) -> Result<Option<Backup>, Error> {
    let mut generations: BTreeMap<String, Generation> = BTreeMap::new();
    for object in store.list_below(FOLDER).await? {
        if let Some((generation, kind, piece)) = parse(object) {
            generations.entry(generation).or_default().add(kind, piece);
        }
    }
    let newest_at = |at_ms| {
        let found = generations.iter().filter_map(|(name, generation)| generation.at(name, at_ms));
        found.max_by_key(|backup| backup.time_ms)
    };
    let Some(latest) = newest_at(i64::MAX) else { return Ok(None) };
    let instead = |what: String, ms| Error::Instead {
        kind: Kind::Invalid,
        message: format!("plan a restore of `{}`: {what}", store.place()),
        instead: Instead::Time(ms),
    };
    match goal {
        Goal::Latest => Ok(Some(latest)),
        Goal::Txid(_) | Goal::Commit(_) => Err(instead(
            "a backup of Litestream 0.3 has instants and no transaction ids".into(),
            latest.time_ms,
        )),
        Goal::Time(at_ms) => match newest_at(at_ms) {
            Some(backup) => Ok(Some(Backup { after_end: at_ms > latest.time_ms, ..backup })),
            None => {
                let snapshots = generations.values().flat_map(|generation| &generation.snapshots);
                let first_ms = snapshots.map(|s| s.modified_ms).min().unwrap_or(latest.time_ms);
                let (at, first) = (instant(at_ms), instant(first_ms));
                Err(instead(format!("the backup begins at {first}, after {at}"), first_ms))
            }
        },
    }
}

#[derive(Default)]
struct Generation {
    snapshots: Vec<Piece>,
    wal: Vec<Piece>,
}

enum PieceKind {
    Snapshot,
    Wal,
}

/// Generation, kind and place of an object; `None` for others.
fn parse(object: ObjectRef) -> Option<(String, PieceKind, Piece)> {
    let hex = |digits: &str| (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok())?;
    let (generation, file) = object.name.strip_prefix(FOLDER)?.strip_prefix('/')?.split_once('/')?;
    if generation.len() != 16 || !generation.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let (kind, index, offset) = match file.split_once('/')? {
        ("snapshots", name) => (PieceKind::Snapshot, hex(name.strip_suffix(".snapshot.lz4")?)?, 0),
        ("wal", name) => {
            let (index, offset) = name.strip_suffix(".wal.lz4")?.split_once('_')?;
            (PieceKind::Wal, hex(index)?, hex(offset)?)
        }
        _ => return None,
    };
    let generation = generation.to_owned();
    let ObjectRef { name, size, modified_ms } = object;
    Some((generation, kind, Piece { index, offset: offset.into(), name, size, modified_ms }))
}

impl Generation {
    fn add(&mut self, kind: PieceKind, piece: Piece) {
        match kind {
            PieceKind::Snapshot => self.snapshots.push(piece),
            PieceKind::Wal => self.wal.push(piece),
        }
    }

    /// The newest state at an instant. The pieces stand in the order of their names, which is that of index and offset.
    fn at(&self, generation: &str, at_ms: i64) -> Option<Backup> {
        let snapshot = self.snapshots.iter().rfind(|s| s.modified_ms <= at_ms)?.clone();
        let wal = self.wal.iter().skip_while(|p| p.index < snapshot.index);
        // Up to the first that is too young, not all that are old enough: what follows a gap is of no use.
        let mut wal: Vec<Piece> = wal.cloned().collect();
        let later = wal.iter().position(|p| p.modified_ms > at_ms).map(|nth| wal.split_off(nth));
        Some(Backup {
            generation: generation.to_owned(),
            time_ms: wal.last().map_or(snapshot.modified_ms, |p| p.modified_ms.max(snapshot.modified_ms)),
            bytes: snapshot.size + wal.iter().map(|p| p.size).sum::<u64>(),
            after_end: false,
            next_ms: later.map(|later| later[0].modified_ms),
            snapshot,
            wal,
        })
    }
}

impl Backup {
    /// The pieces of each WAL file.
    fn wal_files(&self) -> impl DoubleEndedIterator<Item = &[Piece]> {
        self.wal.chunk_by(|a, b| a.index == b.index)
    }

    /// What is read, in order. Where the last whole transaction ends, only the end of the last WAL file tells, so that
    /// one is read twice.
    fn reading_order(&self) -> impl Iterator<Item = &Piece> {
        let again = self.wal_files().next_back().unwrap_or_default();
        std::iter::once(&self.snapshot).chain(&self.wal).chain(again)
    }

    /// The last instant before so many pieces of the WAL, at which a restore does not meet the next one.
    fn nearest(&self, intact: usize) -> Option<i64> {
        let bad = self.wal.get(intact)?;
        let times = self.wal[..intact].iter().map(|p| p.modified_ms);
        let reached = times.scan(self.snapshot.modified_ms, |reached, ms| {
            *reached = ms.max(*reached);
            Some(*reached)
        });
        std::iter::once(self.snapshot.modified_ms).chain(reached).filter(|ms| *ms < bad.modified_ms).last()
    }
}

/// Restores a backup to `path`, as [`to_path`](super::to_path) does. `None`: a database was there, and
/// [`Options::if_not_exists`] was set.
///
/// # Errors
/// `Corrupt` for damaged or missing pieces, with the last instant before them.
pub async fn to_path(
    store: &Store,
    backup: Backup,
    path: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Option<Restored>, Error> {
    let Some(target) = Target::prepare(path, options)? else { return Ok(None) };
    // How large the database is, nobody knows before its last frame.
    let temporary = target.begin(backup.bytes)?;
    let (chunks, queue) = mpsc::channel(1);
    let rebuild = Rebuild {
        store: store.clone(),
        backup: backup.clone(),
        file: temporary.file.clone(),
        path: temporary.path.clone(),
    };
    let rebuilding = blocking(move || rebuild.run(queue));
    let fetching = fetch(store, &backup, options.parallelism, chunks, progress);
    let (rebuilt, ()) = tokio::join!(rebuilding, fetching);
    let (page_size, page_count) = rebuilt?;
    let mut options = options.clone();
    if options.integrity == Integrity::None {
        options.integrity = Integrity::Quick;
    }
    let finished = temporary.finish(target, &options, progress).await;
    let kept_aside = finished.map_err(|e| match backup.next_ms {
        Some(ms) if e.kind() == Kind::Corrupt => Error::Instead {
            kind: Kind::Corrupt,
            message: format!("{e}; the snapshot was copied while the database was written to, and its first instants may not be restorable"),
            instead: Instead::Time(ms),
        },
        _ => e,
    })?;
    Ok(Some(Restored { backup, page_size, page_count, kept_aside }))
}

/// Reads the pieces in order, some requests ahead, until all is read or nobody wants more.
async fn fetch(
    store: &Store,
    backup: &Backup,
    parallelism: usize,
    chunks: mpsc::Sender<store::Result<Bytes>>,
    progress: &dyn Progress,
) {
    progress.begin(Phase::Fetch, backup.reading_order().map(|piece| piece.size).sum());
    let requests = backup.reading_order().flat_map(|piece| ranges(piece).map(move |range| (piece, range)));
    let mut fetched = stream::iter(requests)
        .map(|(piece, range)| store.read(&piece.name, range))
        .buffered(parallelism.max(1));
    while let Some(chunk) = fetched.next().await {
        progress.advance(chunk.as_ref().map_or(0, |bytes| bytes.len() as u64));
        if chunks.send(chunk).await.is_err() {
            return;
        }
    }
}

fn ranges(piece: &Piece) -> impl Iterator<Item = Range<u64>> + use<> {
    let size = piece.size;
    (0..size).step_by(AHEAD_BYTES as usize).map(move |start| start..(start + AHEAD_BYTES).min(size))
}

/// The part of a restore that blocks.
struct Rebuild {
    store: Store,
    backup: Backup,
    file: Arc<File>,
    /// Of the file, for messages.
    path: PathBuf,
}

impl Rebuild {
    /// Writes the database; returns the size of its pages and their number.
    fn run(&self, queue: mpsc::Receiver<store::Result<Bytes>>) -> Result<(PageSize, u32), Error> {
        let mut pieces = Pieces::new(queue);
        let page_size = self.unpack_snapshot(&mut pieces)?;
        let len = self.file.metadata().map_err(Error::file("read the size of", &self.path))?.len();
        let mut page_count = (len / u64::from(page_size.get())) as u32;
        let mut begin = 0;
        for (due, pieces_of) in (self.backup.snapshot.index..).zip(self.backup.wal_files()) {
            let wal = begin..begin + pieces_of.len();
            if pieces_of[0].index != due || pieces_of[0].offset != 0 {
                let missing = format!("WAL file {due:08x} is missing or lacks its beginning");
                return Err(self.damaged(begin, &missing));
            }
            begin = wal.end;
            let is_last = begin == self.backup.wal.len();
            let limit = if is_last {
                self.walk(&mut pieces, wal.clone(), page_size, u64::MAX, |_, _| Ok(()))?.whole
            } else {
                u64::MAX
            };
            let walked = self.walk(&mut pieces, wal, page_size, limit, |pgno, page| {
                let written = self.file.write_all_at(page, pgno.offset(page_size));
                written.map_err(Error::file("write", &self.path))
            })?;
            if walked.whole < walked.frames {
                let cut =
                    format!("WAL file {due:08x} before it ends within a transaction: its rest is missing");
                return Err(self.damaged(begin, &cut));
            }
            page_count = walked.page_count.unwrap_or(page_count);
        }
        let len = u64::from(page_count) * u64::from(page_size.get());
        self.file.set_len(len).map_err(Error::file("resize", &self.path))?;
        Ok((page_size, page_count))
    }

    fn unpack_snapshot(&self, pieces: &mut Pieces) -> Result<PageSize, Error> {
        let snapshot = &self.backup.snapshot;
        let place = self.store.place_of_object(&snapshot.name);
        pieces.begin(snapshot);
        let mut writer = &*self.file;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = pieces.read(&mut buffer);
            let n = read.map_err(|e| {
                e.or_damaged(|what| Error::new(Kind::Corrupt, format!("read `{place}`: {what}")))
            })?;
            if n == 0 {
                break;
            }
            writer.write_all(&buffer[..n]).map_err(Error::file("write", &self.path))?;
        }
        let mut header = [0; DatabaseHeader::LEN];
        self.file.read_exact_at(&mut header, 0).map_err(Error::file("read", &self.path))?;
        let header = DatabaseHeader::parse(&header);
        let header = header.map_err(|e| Error::new(Kind::Corrupt, format!("read `{place}`: {e}")))?;
        Ok(header.page_size)
    }

    /// Goes over the first `limit` frames of a WAL file, verifying all. `wal`: which pieces.
    fn walk(
        &self,
        pieces: &mut Pieces,
        wal: Range<usize>,
        page_size: PageSize,
        limit: u64,
        mut each: impl FnMut(Pgno, &[u8]) -> Result<(), Error>,
    ) -> Result<Walked, Error> {
        let begin = wal.start;
        let mut reader = WalFile::new(pieces, &self.backup.wal[wal]);
        let mut header = [0; WalHeader::LEN];
        let n = reader.fill(&mut header);
        let n = n.map_err(|e| e.or_damaged(|what| self.damaged(begin + reader.nth, &what)))?;
        let header = match WalHeader::parse(&header) {
            Ok(header) if n == WalHeader::LEN && header.page_size == page_size => header,
            Ok(_) => return Err(self.damaged(begin, "the WAL's page size is not the database's")),
            Err(e) => return Err(self.damaged(begin, &e.to_string())),
        };
        let mut chain = Chain::new(&header);
        let mut frame = vec![0; FrameHeader::LEN + page_size.bytes()];
        let mut walked = Walked { frames: 0, whole: 0, page_count: None };
        while walked.frames < limit {
            let n = reader.fill(&mut frame);
            let n = n.map_err(|e| e.or_damaged(|what| self.damaged(begin + reader.nth, &what)))?;
            if n == 0 {
                break;
            }
            let step = chain.step(&frame[..n]).map_err(|_| {
                self.damaged(begin + reader.nth, &format!("frame {} is not SQLite's", walked.frames))
            })?;
            each(step.pgno, &frame[FrameHeader::LEN..])?;
            walked.frames += 1;
            if step.is_commit() {
                (walked.whole, walked.page_count) = (walked.frames, Some(step.commit));
            }
        }
        Ok(walked)
    }

    /// The error of a WAL piece before which all are intact. `nth`: which one.
    fn damaged(&self, nth: usize, what: &str) -> Error {
        let message = format!("read `{}`: {what}", self.store.place_of_object(&self.backup.wal[nth].name));
        match self.backup.nearest(nth) {
            Some(ms) => Error::Instead { kind: Kind::Corrupt, message, instead: Instead::Time(ms) },
            None => Error::new(Kind::Corrupt, message),
        }
    }
}

struct Walked {
    frames: u64,
    /// How many of them belong to whole transactions.
    whole: u64,
    /// Pages of the database after those; `None` when there is no whole transaction.
    page_count: Option<u32>,
}

/// The pieces of one WAL file, read as the file that they make.
struct WalFile<'a> {
    pieces: &'a mut Pieces,
    wal: &'a [Piece],
    /// The piece that is being read.
    nth: usize,
    position: u64,
}

impl<'a> WalFile<'a> {
    fn new(pieces: &'a mut Pieces, wal: &'a [Piece]) -> WalFile<'a> {
        pieces.begin(&wal[0]);
        WalFile { pieces, wal, nth: 0, position: 0 }
    }

    /// Reads until the buffer is full or all is read; returns the bytes.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, Unreadable> {
        let mut filled = 0;
        while filled < buffer.len() {
            let n = self.pieces.read(&mut buffer[filled..])?;
            filled += n;
            self.position += n as u64;
            if n == 0 {
                let Some(next) = self.wal.get(self.nth + 1) else { break };
                self.nth += 1;
                if next.offset != self.position {
                    let (end, begin) = (self.position, next.offset);
                    let hole = format!("the pieces before it end at {end:#x} and not at {begin:#x}");
                    return Err(Unreadable::Damaged(hole));
                }
                self.pieces.begin(next);
            }
        }
        Ok(filled)
    }
}

/// Why a piece cannot be read.
enum Unreadable {
    Store(store::Error),
    Damaged(String),
}

impl Unreadable {
    fn or_damaged(self, damaged: impl FnOnce(String) -> Error) -> Error {
        match self {
            Unreadable::Store(error) => error.into(),
            Unreadable::Damaged(what) => damaged(what),
        }
    }
}

/// Pieces, decompressed one after the other.
struct Pieces(FrameDecoder<Fetched>);

impl Pieces {
    fn new(queue: mpsc::Receiver<store::Result<Bytes>>) -> Pieces {
        let fetched = Fetched { queue, chunk: Bytes::new(), left: 0, is_short: false, failure: None };
        Pieces(FrameDecoder::new(fetched))
    }

    /// Goes on with the next piece, after the end of the one before.
    fn begin(&mut self, piece: &Piece) {
        self.0.get_mut().left = piece.size;
    }

    /// Some bytes of the piece; 0 at its proper end. The decoder itself takes a frame that is cut between two blocks for
    /// a whole one.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Unreadable> {
        let read = self.0.read(buffer);
        let fetched = self.0.get_mut();
        if let Some(failure) = fetched.failure.take() {
            return Err(Unreadable::Store(failure));
        }
        match read {
            _ if fetched.is_short => Err(Unreadable::Damaged("it is cut short".into())),
            Ok(0) if fetched.left > 0 => Err(Unreadable::Damaged("it goes on after its end".into())),
            Ok(n) => Ok(n),
            Err(e) => Err(Unreadable::Damaged(e.to_string())),
        }
    }
}

/// The bytes of a piece as they arrive.
struct Fetched {
    queue: mpsc::Receiver<store::Result<Bytes>>,
    /// Never of two pieces.
    chunk: Bytes,
    /// Bytes of the piece that have not been read.
    left: u64,
    /// More was wanted than the piece has.
    is_short: bool,
    /// What an I/O error cannot say.
    failure: Option<store::Error>,
}

impl Read for Fetched {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            self.is_short = true;
            return Ok(0);
        }
        if self.chunk.is_empty() {
            match self.queue.blocking_recv() {
                Some(Ok(bytes)) => self.chunk = bytes,
                Some(Err(e)) => {
                    self.failure = Some(e);
                    return Err(io::ErrorKind::Other.into());
                }
                None => return Err(io::Error::other("the restore was given up")),
            }
        }
        let n = out.len().min(self.chunk.len());
        out[..n].copy_from_slice(&self.chunk.split_to(n));
        self.left -= n as u64;
        Ok(n)
    }
}
