//! Applying the files of a plan to a sink: fetched ahead, decoded on several threads, bounded in memory.
//!
//! - A file's pages reach the sink only after all pages of the files before it, so the newest version of a page wins.
//! - Small files travel whole, several at once. A large one is cut by its page index, and its pieces are decoded in
//!   any order; its checksum is then put together from theirs. One whose index would take too much memory is read
//!   front to back.
//! - Nothing that was started runs on after an error is returned: the caller may use the target again.

use super::Progress;
use super::plan::RestorePlan;
use super::sink::{Runs, Sink};
use super::source::{Part, Source};
use crate::{Error, Kind};
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use litekeep_ltx::{
    Chunk, Decoder, FileName, Header, IndexTail, PageIndex, PageSize, PartialChecksum, decode_chunk,
    verify_parts,
};
use litekeep_store::{self as store, FileRef, Store};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::task::{JoinHandle, JoinSet};

/// Bytes of the log that wait for a decoder, at most.
const WAITING_BYTES: u64 = 24 << 20;
/// The most that is fetched, and decoded by one thread, at once.
const LARGEST_PIECE: u64 = 4 << 20;
const SMALLEST_PIECE: u64 = 256 << 10;
/// Small files that are decoded in one go.
const GROUP_FILES: usize = 64;
/// A page index over this size (some 800,000 pages) is not held in memory.
const LARGEST_INDEX: u64 = 8 << 20;
/// The least that is read of a file's end.
const SMALLEST_TAIL: u64 = 64 << 10;
/// Threads that decode; more only wait for the disk.
const MOST_DECODERS: usize = 8;

/// Why a plan could not be carried out, by what can be tried next.
#[derive(Debug)]
pub(super) enum Failure {
    /// This file is not what was written: go around it.
    Damaged(FileRef, String),
    /// A file is gone: compaction or retention took it since the listing.
    Gone(Error),
    /// Nothing helps.
    Other(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure::Other(e)
    }
}

impl Failure {
    pub(super) fn of_store(file: &FileRef, e: store::Error) -> Failure {
        if e.is_missing() {
            Failure::Gone(e.into())
        } else if e.kind() == store::ErrorKind::Corrupt {
            Failure::Damaged(file.clone(), e.to_string())
        } else {
            Failure::Other(e.into())
        }
    }

    pub(super) fn of_io(file: &FileRef, path: &Path, e: io::Error) -> Failure {
        // A bad sector is as good as a wrong checksum: another file may hold the same pages.
        let damaged = e.kind() == io::ErrorKind::UnexpectedEof || e.raw_os_error() == Some(libc::EIO);
        match e.kind() {
            io::ErrorKind::NotFound => Failure::Gone(Error::file("read", path)(e)),
            _ if damaged => Failure::Damaged(file.clone(), format!("read `{}`: {e}", path.display())),
            _ => Failure::Other(Error::file("read", path)(e)),
        }
    }

    fn damaged(source: &Source, file: &FileRef, what: impl std::fmt::Display) -> Failure {
        Failure::Damaged(file.clone(), format!("read `{}`: {what}", source.place(file)))
    }
}

/// What all pieces of one restore share.
struct Work {
    source: Source,
    sink: Arc<dyn Sink>,
    page_size: PageSize,
    page_count: u32,
    parallelism: usize,
    limits: Limits,
}

/// What bounds the memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    piece_bytes: u64,
    index_bytes: u64,
}

impl Limits {
    pub(super) fn new(parallelism: usize) -> Limits {
        let piece_bytes = (WAITING_BYTES / parallelism as u64).clamp(SMALLEST_PIECE, LARGEST_PIECE);
        Limits { piece_bytes, index_bytes: LARGEST_INDEX }
    }
}

/// A large file, cut into pieces.
struct Large {
    file: FileRef,
    header_bytes: Bytes,
    header: Header,
    tail: Bytes,
    chunks: Vec<Chunk>,
}

/// What one thread decodes.
enum Job {
    /// Whole files, one after the other.
    Small(Vec<(FileRef, Part)>),
    /// One piece of a file.
    Piece(Arc<Large>, usize, Part),
    /// One file, front to back.
    Serial(FileRef),
}

/// What became of a job.
struct Done {
    /// Of the log.
    bytes: u64,
    outcome: Outcome,
}

enum Outcome {
    /// Files were applied and verified; the database has so many pages now.
    Files { page_count: u32 },
    /// A piece of the current file, not verified; with the number of its pages beyond the database's former end.
    Piece { nth: usize, part: Box<PartialChecksum>, grown: u64 },
}

/// The file whose pieces are being decoded.
struct Current {
    large: Arc<Large>,
    parts: Vec<Option<PartialChecksum>>,
    grown: u64,
}

/// Applies the plan's files in order.
pub(super) async fn apply(
    store: &Store,
    plan: &RestorePlan,
    sink: Arc<dyn Sink>,
    parallelism: usize,
    limits: Limits,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let work = Arc::new(Work {
        source: Source::new(store, parallelism),
        sink,
        page_size: plan.page_size,
        page_count: plan.page_count,
        parallelism,
        limits,
    });
    let units = group(&plan.files, limits.piece_bytes);
    let opened = stream::iter(units).map(|unit| open(work.clone(), unit)).buffered(2);
    let jobs = opened.map_ok(|jobs| stream::iter(jobs.into_iter().map(Ok))).try_flatten();
    let fetched = jobs.map(|job| Abort(tokio::spawn(fetch(work.clone(), job)))).buffered(parallelism);

    let mut running = Running { set: JoinSet::new(), current: None, page_count: 0, progress };
    let outcome = dispatch(&work, fetched, &mut running).await;
    // Whatever still writes must have ended before the caller uses the target again.
    while running.set.join_next().await.is_some() {}
    outcome?;
    if running.page_count != plan.page_count {
        let message = format!(
            "restore transaction {}: {} pages instead of {}",
            plan.txid, running.page_count, plan.page_count
        );
        return Err(Error::new(Kind::Internal, message).into());
    }
    Ok(())
}

async fn dispatch(
    work: &Arc<Work>,
    mut fetched: impl stream::Stream<Item = Result<Job, Failure>> + Unpin,
    running: &mut Running<'_>,
) -> Result<(), Failure> {
    let decoders = std::thread::available_parallelism().map_or(1, |n| n.get()).min(MOST_DECODERS);
    while let Some(job) = fetched.next().await {
        let job = job?;
        // Later files write the same pages again: all of the earlier ones must be there first.
        match &job {
            Job::Piece(_, nth, _) if *nth > 0 => {}
            Job::Piece(large, ..) => {
                running.finish(work).await?;
                running.current = Some(Current::new(large.clone()));
            }
            Job::Small(_) | Job::Serial(_) => running.finish(work).await?,
        }
        while running.set.len() >= decoders {
            running.take_one().await?;
        }
        let (work, before) = (work.clone(), running.page_count);
        running.set.spawn_blocking(move || work.run(job, before));
    }
    running.finish(work).await
}

/// What has been handed to decoders.
struct Running<'a> {
    set: JoinSet<Result<Done, Failure>>,
    current: Option<Current>,
    /// Pages of the database after the files that are finished.
    page_count: u32,
    progress: &'a dyn Progress,
}

impl Running<'_> {
    /// Waits for one piece; `false` when none is left.
    async fn take_one(&mut self) -> Result<bool, Failure> {
        let Some(done) = self.set.join_next().await else { return Ok(false) };
        let done = done.map_err(|e| Error::new(Kind::Internal, format!("decode the log: {e}")))??;
        self.progress.advance(done.bytes);
        match done.outcome {
            Outcome::Files { page_count } => self.page_count = page_count,
            Outcome::Piece { nth, part, grown } => {
                let current = self.current.as_mut().expect("no piece outlives its file");
                current.parts[nth] = Some(*part);
                current.grown += grown;
            }
        }
        Ok(true)
    }

    /// Waits for all that was started, and verifies the file that was decoded in pieces.
    async fn finish(&mut self, work: &Arc<Work>) -> Result<(), Failure> {
        while self.take_one().await? {}
        if let Some(current) = self.current.take() {
            let before = self.page_count;
            self.page_count = current.large.header.commit;
            let work = work.clone();
            let verified = tokio::task::spawn_blocking(move || current.verify(&work, before));
            verified.await.map_err(|e| Error::new(Kind::Internal, format!("verify the log: {e}")))??;
        }
        Ok(())
    }
}

impl Current {
    fn new(large: Arc<Large>) -> Current {
        Current { parts: vec![None; large.chunks.len()], large, grown: 0 }
    }

    /// Joins the pieces' checksums. `before`: pages of the database before this file.
    fn verify(self, work: &Work, before: u32) -> Result<(), Failure> {
        let Large { file, header, header_bytes, tail, .. } = &*self.large;
        let parts: Vec<_> = self.parts.into_iter().map(|p| p.expect("all pieces were decoded")).collect();
        verify_parts(header_bytes, &parts, tail).map_err(|e| Failure::damaged(&work.source, file, e))?;
        work.check_growth(file, before, header.commit, self.grown)
    }
}

impl Work {
    fn run(&self, job: Job, before: u32) -> Result<Done, Failure> {
        match job {
            Job::Small(files) => self.run_small(&files, before),
            Job::Piece(large, nth, part) => self.run_piece(&large, nth, &part, before),
            Job::Serial(file) => {
                let mut reader = self.source.reader(&file, self.limits.piece_bytes, self.parallelism)?;
                let decoded = self.decode(&file, &mut reader, before);
                // The reader knows better than the decoder why bytes were missing.
                let page_count = decoded.map_err(|e| reader.take_failure().unwrap_or(e))?;
                Ok(Done { bytes: file.size, outcome: Outcome::Files { page_count } })
            }
        }
    }

    fn run_small(&self, files: &[(FileRef, Part)], before: u32) -> Result<Done, Failure> {
        let mut buffer = Vec::new();
        let mut page_count = before;
        let mut bytes = 0;
        for (file, part) in files {
            page_count = self.decode(file, part.bytes(file, &mut buffer)?, page_count)?;
            bytes += file.size;
        }
        Ok(Done { bytes, outcome: Outcome::Files { page_count } })
    }

    fn run_piece(&self, large: &Large, nth: usize, part: &Part, before: u32) -> Result<Done, Failure> {
        let mut buffer = Vec::new();
        let bytes = part.bytes(&large.file, &mut buffer)?;
        let mut runs = Runs::new(&*self.sink, self.page_count);
        let mut grown = 0;
        let mut written = Ok(());
        let part = decode_chunk(self.page_size, bytes, |pgno, page| {
            grown += u64::from(pgno.get() > before);
            if written.is_ok() {
                written = runs.push(pgno, page);
            }
        })
        .map_err(|e| Failure::damaged(&self.source, &large.file, e))?;
        written?;
        runs.flush()?;
        Ok(Done { bytes: bytes.len() as u64, outcome: Outcome::Piece { nth, part: Box::new(part), grown } })
    }

    /// Applies one file front to back; returns the pages of the database after it.
    fn decode(&self, file: &FileRef, reader: impl io::Read, before: u32) -> Result<u32, Failure> {
        let damaged = |e| match e {
            litekeep_ltx::Error::Io { source, .. } => {
                Failure::of_io(file, Path::new(&self.source.place(file)), source)
            }
            e => Failure::damaged(&self.source, file, e),
        };
        let mut decoder = Decoder::new(reader).map_err(damaged)?;
        let header = *decoder.header();
        self.check_header(file, &header)?;
        let mut runs = Runs::new(&*self.sink, self.page_count);
        let mut page = vec![0; self.page_size.bytes()];
        let mut grown = 0;
        while let Some(pgno) = decoder.next_page(&mut page).map_err(damaged)? {
            grown += u64::from(pgno.get() > before);
            runs.push(pgno, &page)?;
        }
        runs.flush()?;
        self.check_growth(file, before, header.commit, grown)?;
        Ok(header.commit)
    }

    fn check_header(&self, file: &FileRef, header: &Header) -> Result<(), Failure> {
        if FileName::from(header) != file.name {
            let what = format!("it tells of transactions {} to {}", header.min_txid, header.max_txid);
            return Err(Failure::damaged(&self.source, file, what));
        }
        if header.page_size != self.page_size {
            let (is, planned) = (header.page_size.get(), self.page_size.get());
            let what = format!("its pages have {is} bytes and those of the database {planned}");
            return Err(Failure::damaged(&self.source, file, what));
        }
        Ok(())
    }

    /// A file must hold every page by which the database grew: no other file does.
    fn check_growth(&self, file: &FileRef, before: u32, after: u32, grown: u64) -> Result<(), Failure> {
        let lock = self.page_size.lock_page().get();
        let needed = u64::from(after.saturating_sub(before)) - u64::from(before < lock && lock <= after);
        if grown == needed {
            return Ok(());
        }
        let what =
            format!("the database grows from {before} to {after} pages and only {grown} of them are there");
        Err(Failure::damaged(&self.source, file, what))
    }
}

/// Small files, or one large.
enum Unit {
    Small(Vec<FileRef>),
    Large(FileRef),
}

/// Keeps the order of the files.
fn group(files: &[FileRef], piece_bytes: u64) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    let mut bytes = 0;
    for file in files {
        match units.last_mut() {
            _ if file.size > piece_bytes => units.push(Unit::Large(file.clone())),
            Some(Unit::Small(group)) if group.len() < GROUP_FILES && bytes + file.size <= piece_bytes => {
                group.push(file.clone());
                bytes += file.size;
            }
            _ => {
                units.push(Unit::Small(vec![file.clone()]));
                bytes = file.size;
            }
        }
    }
    units
}

/// A job whose bytes are still to be fetched.
enum Planned {
    Small(Vec<FileRef>),
    Piece(Arc<Large>, usize),
    Serial(FileRef),
}

/// Finds out how a unit is decoded.
async fn open(work: Arc<Work>, unit: Unit) -> Result<Vec<Planned>, Failure> {
    let file = match unit {
        Unit::Small(files) => return Ok(vec![Planned::Small(files)]),
        Unit::Large(file) => file,
    };
    let source = &work.source;
    let (header_bytes, tail) = futures::try_join!(
        fetch_bytes(source, &file, 0..Header::LEN as u64),
        fetch_tail(source, &file, work.limits)
    )?;
    let damaged = |e| Failure::damaged(source, &file, e);
    let Some((tail, index)) = tail else { return Ok(vec![Planned::Serial(file)]) };
    let header = Header::parse(&header_bytes).map_err(damaged)?;
    work.check_header(&file, &header)?;
    let chunks = index.split(work.limits.piece_bytes);
    let pieces = chunks.len();
    let large = Arc::new(Large { header_bytes, header, tail, chunks, file });
    Ok((0..pieces).map(|nth| Planned::Piece(large.clone(), nth)).collect())
}

/// The end of a file with its page index; `None` when that is too large to hold.
async fn fetch_tail(
    source: &Source,
    file: &FileRef,
    limits: Limits,
) -> Result<Option<(Bytes, PageIndex)>, Failure> {
    // An index takes about one byte for 300 of the file, so that one request is mostly enough.
    let mut len = (file.size / 256).clamp(SMALLEST_TAIL, LARGEST_PIECE).min(file.size);
    loop {
        let tail = fetch_bytes(source, file, file.size - len..file.size).await?;
        match PageIndex::from_tail(file.size, &tail).map_err(|e| Failure::damaged(source, file, e))? {
            IndexTail::Index(index)
                if index.tail_range().end - index.tail_range().start <= limits.index_bytes =>
            {
                let range = index.tail_range();
                let tail = tail.slice((len - (range.end - range.start)) as usize..);
                return Ok(Some((tail, index)));
            }
            IndexTail::Need(needed) if needed <= limits.index_bytes => len = needed,
            _ => return Ok(None),
        }
    }
}

async fn fetch_bytes(source: &Source, file: &FileRef, range: std::ops::Range<u64>) -> Result<Bytes, Failure> {
    match source.part(file, range).await? {
        Part::Fetched(bytes) => Ok(bytes),
        part => {
            let file = file.clone();
            let read = tokio::task::spawn_blocking(move || {
                let mut buffer = Vec::new();
                part.bytes(&file, &mut buffer)?;
                Ok(Bytes::from(buffer))
            });
            read.await.map_err(|e| Error::new(Kind::Internal, format!("read the log: {e}")))?
        }
    }
}

async fn fetch(work: Arc<Work>, planned: Result<Planned, Failure>) -> Result<Job, Failure> {
    let source = &work.source;
    match planned? {
        Planned::Small(files) => {
            let parts = futures::future::try_join_all(files.into_iter().map(async |file| {
                let part = source.part(&file, 0..file.size).await?;
                Ok::<_, Failure>((file, part))
            }));
            Ok(Job::Small(parts.await?))
        }
        Planned::Piece(large, nth) => {
            let part = source.part(&large.file, large.chunks[nth].range.clone()).await?;
            Ok(Job::Piece(large, nth, part))
        }
        Planned::Serial(file) => Ok(Job::Serial(file)),
    }
}

/// A task that ends with its handle, and fetches on while nobody waits for it.
struct Abort(JoinHandle<Result<Job, Failure>>);

impl Future for Abort {
    type Output = Result<Job, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let joined = std::task::ready!(Pin::new(&mut self.0).poll(context));
        Poll::Ready(
            joined.unwrap_or_else(|e| Err(Error::new(Kind::Internal, format!("fetch the log: {e}")).into())),
        )
    }
}

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
