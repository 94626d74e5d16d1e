//! Backups of Litestream 0.3, in a folder.
//!
//! ```text
//! generations/<16 hex>/snapshots/<index>.snapshot.lz4          the database file when WAL file <index> was in use
//! generations/<16 hex>/wal/<index>_<offset>.wal.lz4            a piece of WAL file <index>, from byte <offset> on
//! ```
//!
//! Index and offset are 8 lower-case hexadecimal digits, the content is an LZ4 frame. A WAL file is the whole of one
//! generation of SQLite's WAL, with its header; a snapshot and all WAL files from its index on make the database.
//!
//! Promises: every frame is verified by SQLite's own checksums; a WAL file that does not begin at its beginning, or
//! pieces that do not follow one another, are an error. Memory is bounded. Only whole transactions are applied.
//!
//! What the format cannot tell: whether the last pieces of a WAL file that others follow are missing. SQLite is therefore
//! always asked about the result, if only by a quick check.
//!
//! The format has no transaction ids. Times are the files' modification times, so an instant is as exact as the pieces
//! were frequent.

use super::install::{Integrity, Options, Target, blocking};
use super::{Phase, Progress};
use crate::{Error, Instead, Kind};
use litekeep_format::{Chain, DatabaseHeader, FrameHeader, WalHeader};
use litekeep_ltx::{PageSize, Pgno};
use lz4_flex::frame::FrameDecoder;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// What a restore from such a backup will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// The generation: 16 hexadecimal digits.
    pub generation: String,
    /// When the last piece was written, milliseconds since the epoch.
    pub time_ms: i64,
    /// Bytes that are read.
    pub bytes: u64,
    snapshot: Piece,
    /// In order; of the WAL files from the snapshot's on.
    wal: Vec<Piece>,
}

/// One file of the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    index: u32,
    /// In the WAL file; 0 for a snapshot.
    offset: u64,
    path: PathBuf,
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

/// Finds the newest state in `folder`, or the newest at an instant (milliseconds since the epoch). `None`: there is no
/// backup of this kind, or it begins later.
///
/// # Errors
/// When the folder cannot be read.
pub fn find(folder: &Path, at_ms: Option<i64>) -> Result<Option<Backup>, Error> {
    let generations = folder.join("generations");
    let mut newest: Option<Backup> = None;
    for name in names(&generations)? {
        if name.len() != 16 || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
            continue;
        }
        let found = find_in(&generations.join(&name), &name, at_ms.unwrap_or(i64::MAX))?;
        if let Some(found) = found
            && newest.as_ref().is_none_or(|n| n.time_ms < found.time_ms)
        {
            newest = Some(found);
        }
    }
    Ok(newest)
}

fn find_in(folder: &Path, generation: &str, at_ms: i64) -> Result<Option<Backup>, Error> {
    let snapshots = pieces(&folder.join("snapshots"), ".snapshot.lz4")?;
    let Some(snapshot) = snapshots.into_iter().rfind(|s| s.modified_ms <= at_ms) else { return Ok(None) };
    let mut wal = pieces(&folder.join("wal"), ".wal.lz4")?;
    wal.retain(|p| p.index >= snapshot.index);
    // Up to the first that is too young, not all that are old enough: what follows a gap is of no use.
    wal.truncate(wal.iter().take_while(|p| p.modified_ms <= at_ms).count());
    Ok(Some(Backup {
        generation: generation.to_owned(),
        time_ms: wal.last().map_or(snapshot.modified_ms, |p| p.modified_ms.max(snapshot.modified_ms)),
        bytes: snapshot.size + wal.iter().map(|p| p.size).sum::<u64>(),
        snapshot,
        wal,
    }))
}

/// Names in a folder; none where there is no such folder.
fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let list = || -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(folder)?;
        entries.map(|e| Ok(e?.file_name().into_string().unwrap_or_default())).collect()
    };
    match list() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        names => names.map_err(Error::file("list", folder)),
    }
}

/// The files of one kind, by index and offset. Others are passed over.
fn pieces(folder: &Path, extension: &str) -> Result<Vec<Piece>, Error> {
    let hex = |digits: &str| (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok())?;
    let mut found = vec![];
    for name in names(folder)? {
        let Some(stem) = name.strip_suffix(extension) else { continue };
        let (index, offset) = stem.split_once('_').unwrap_or((stem, "00000000"));
        let (Some(index), Some(offset)) = (hex(index), hex(offset)) else { continue };
        let path = folder.join(&name);
        let metadata = std::fs::metadata(&path).map_err(Error::file("look at", &path))?;
        let modified = metadata.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        let modified_ms = modified.map_or(0, |d| d.as_millis() as i64);
        found.push(Piece { index, offset: offset.into(), size: metadata.len(), modified_ms, path });
    }
    found.sort_by_key(|p| (p.index, p.offset));
    Ok(found)
}

/// Restores a backup to `path`, as [`to_path`](super::to_path) does. `None`: a database was there, and
/// [`Options::if_not_exists`] was set.
///
/// # Errors
/// `Corrupt` for damaged or missing pieces, with the last instant before them.
pub async fn to_path(
    backup: Backup,
    path: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Option<Restored>, Error> {
    let Some(target) = Target::prepare(path, options)? else { return Ok(None) };
    // How large the database is, nobody knows before its last frame.
    let temporary = target.begin(backup.bytes, options.clock.unix_ms())?;
    progress.begin(Phase::Fetch, backup.bytes);
    let (from, file, name) = (backup.clone(), temporary.file.clone(), temporary.path.clone());
    let (page_size, page_count) = blocking(move || rebuild(&from, &file, &name)).await?;
    progress.advance(backup.bytes);
    let mut options = options.clone();
    if options.integrity == Integrity::None {
        options.integrity = Integrity::Quick;
    }
    let kept_aside = temporary.finish(target, &options, progress).await?;
    Ok(Some(Restored { backup, page_size, page_count, kept_aside }))
}

/// Writes the database; returns the size of its pages and their number.
fn rebuild(backup: &Backup, file: &Arc<File>, path: &Path) -> Result<(PageSize, u32), Error> {
    let page_size = unpack_snapshot(&backup.snapshot, file, path)?;
    let len = file.metadata().map_err(Error::file("read the size of", path))?.len();
    let mut page_count = (len / u64::from(page_size.get())) as u32;
    let mut last = &backup.snapshot;
    let wal_files = backup.wal.chunk_by(|a, b| a.index == b.index);
    for (due, wal) in (backup.snapshot.index..).zip(wal_files) {
        if wal[0].index != due || wal[0].offset != 0 {
            let missing = format!("WAL file {due:08x} is missing or lacks its beginning");
            return Err(damaged(&wal[0].path, &missing, last));
        }
        let (frames, commit) = walk(wal, page_size, u64::MAX, last, |_, _| Ok(()))?;
        walk(wal, page_size, frames, last, |pgno, page| {
            file.write_all_at(page, pgno.offset(page_size)).map_err(Error::file("write", path))
        })?;
        page_count = commit.unwrap_or(page_count);
        last = wal.last().expect("a chunk is not empty");
    }
    let len = u64::from(page_count) * u64::from(page_size.get());
    file.set_len(len).map_err(Error::file("resize", path))?;
    Ok((page_size, page_count))
}

fn unpack_snapshot(snapshot: &Piece, file: &File, path: &Path) -> Result<PageSize, Error> {
    let mut reader = Pieces::new(std::slice::from_ref(snapshot))?;
    let mut writer = file;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = reader.fill(&mut buffer).map_err(|e| unreadable(snapshot, e, None))?;
        writer.write_all(&buffer[..n]).map_err(Error::file("write", path))?;
        if n < buffer.len() {
            break;
        }
    }
    let mut header = [0; DatabaseHeader::LEN];
    file.read_exact_at(&mut header, 0).map_err(Error::file("read", path))?;
    let header = DatabaseHeader::parse(&header);
    let header =
        header.map_err(|source| Error::Format { doing: "read", path: snapshot.path.clone(), source })?;
    Ok(header.page_size)
}

/// Goes over the first `limit` frames of a WAL file, verifying all. Returns how many of them belong to whole transactions
/// and the pages of the database after those. `before`: the last piece of what is whole so far.
fn walk(
    wal: &[Piece],
    page_size: PageSize,
    limit: u64,
    before: &Piece,
    mut each: impl FnMut(Pgno, &[u8]) -> Result<(), Error>,
) -> Result<(u64, Option<u32>), Error> {
    let mut reader = Pieces::new(wal)?;
    let mut header = [0; WalHeader::LEN];
    let n = reader.fill(&mut header).map_err(|e| unreadable(reader.at(), e, Some(before)))?;
    let header = WalHeader::parse(&header);
    let header = match header {
        Ok(header) if n == WalHeader::LEN && header.page_size == page_size => header,
        Ok(_) => return Err(damaged(&wal[0].path, "the WAL's page size is not the database's", before)),
        Err(e) => return Err(damaged(&wal[0].path, &e.to_string(), before)),
    };
    let mut chain = Chain::new(&header);
    let mut frame = vec![0; FrameHeader::LEN + page_size.bytes()];
    let (mut frames, mut whole, mut page_count) = (0, 0, None);
    while frames < limit {
        let n = reader.fill(&mut frame).map_err(|e| unreadable(reader.at(), e, Some(before)))?;
        if n == 0 {
            break;
        }
        let step = chain.step(&frame[..n]);
        let at = reader.at();
        let step = step.map_err(|_| damaged(&at.path, &format!("frame {frames} is not SQLite's"), before))?;
        each(step.pgno, &frame[FrameHeader::LEN..])?;
        frames += 1;
        if step.is_commit() {
            (whole, page_count) = (frames, Some(step.commit));
        }
    }
    Ok((whole, page_count))
}

fn damaged(path: &Path, what: &str, last: &Piece) -> Error {
    Error::Instead {
        kind: Kind::Corrupt,
        message: format!("read `{}`: {what}", path.display()),
        instead: Instead::Time(last.modified_ms),
    }
}

fn unreadable(piece: &Piece, e: io::Error, last: Option<&Piece>) -> Error {
    match (e.kind(), last) {
        (io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied, _) => Error::file("read", &piece.path)(e),
        (_, Some(last)) => damaged(&piece.path, &e.to_string(), last),
        (_, None) => Error::new(Kind::Corrupt, format!("read `{}`: {e}", piece.path.display())),
    }
}

/// Consecutive pieces, decompressed.
struct Pieces<'a> {
    pieces: &'a [Piece],
    nth: usize,
    reader: FrameDecoder<BufReader<File>>,
    position: u64,
}

impl<'a> Pieces<'a> {
    fn new(pieces: &'a [Piece]) -> Result<Pieces<'a>, Error> {
        let first = &pieces[0];
        let reader = open(first).map_err(Error::file("open", &first.path))?;
        Ok(Pieces { pieces, nth: 0, reader, position: 0 })
    }

    /// The piece that is being read.
    fn at(&self) -> &'a Piece {
        &self.pieces[self.nth]
    }

    /// Reads until the buffer is full or all is read; returns the bytes.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.reader.read(&mut buffer[filled..]) {
                Ok(0) if self.nth + 1 == self.pieces.len() => break,
                Ok(0) => {
                    let next = &self.pieces[self.nth + 1];
                    if next.offset != self.position {
                        let hole = format!(
                            "bytes {:#x} to {:#x} of the WAL file are missing",
                            self.position, next.offset
                        );
                        return Err(io::Error::new(io::ErrorKind::InvalidData, hole));
                    }
                    self.nth += 1;
                    self.reader = open(next)?;
                }
                Ok(n) => {
                    filled += n;
                    self.position += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }
}

fn open(piece: &Piece) -> io::Result<FrameDecoder<BufReader<File>>> {
    Ok(FrameDecoder::new(BufReader::with_capacity(256 << 10, File::open(&piece.path)?)))
}
