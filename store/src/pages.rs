//! Single pages of a file of the log, without reading all of it.
//!
//! A small file is read whole and verified; those that follow one another can be read together. Of a large one, pages come
//! by range requests through the page index, and each is verified by its own checksum, which a record beside the log has or a reading
//! of the whole file gives ([`checks`](crate::checks)): a file that is damaged or exchanged meanwhile is an error.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::future::{self, TryFutureExt};
use futures::stream::{self, StreamExt, TryStreamExt};
use litekeep_ltx::{
    FileName, Header, IndexTail, PageChecks, PageIndex, Pgno, Txid, decode_file, decode_page,
};
use object_store::{GetOptions, GetRange, ObjectStore};

use crate::counters::Request;
use crate::error::{Error, Result};
use crate::folder::{self, Folder};
use crate::log::FileRef;
use crate::store::{Store, within};

/// Files up to this size are read whole.
pub(crate) const SMALL: u64 = 256 << 10;
/// Their pages stay decoded if they take no more: a page of zeros is a few bytes in the file.
const DECODED: usize = 1 << 20;
/// The most that is read together, but for the last file.
const FILES: usize = 256;
const BYTES: u64 = 4 << 20;
/// The least and the most that is read of a large file's end at first.
const TAIL: Range<u64> = 64 << 10..4 << 20;
/// Pages so far apart are fetched together: a request costs more than the bytes between them.
const GAP: u64 = 32 << 10;
/// The most that one request fetches.
const LARGEST: u64 = 4 << 20;
/// Requests at the same time.
const PARALLEL: usize = 8;

/// A file of the log whose pages can be read one by one.
#[derive(Debug)]
pub struct PageFile {
    store: Store,
    file: FileRef,
    header: Header,
    index: PageIndex,
    bytes: Source,
}

#[derive(Debug)]
enum Source {
    /// Its pages, in the order of the index.
    Decoded(Vec<Arc<[u8]>>),
    Whole(Bytes),
    /// A large file, in a folder an open one.
    InParts(Option<File>, Arc<PageChecks>),
}

impl Store {
    /// Opens a file to read single pages.
    ///
    /// # Errors
    /// [`Error::is_missing`] when compaction has replaced it since the listing; `Corrupt` when it is damaged.
    pub async fn open_pages(&self, file: &FileRef) -> Result<PageFile> {
        let opened =
            if file.size <= SMALL { self.open_small(file).await } else { self.open_large(file).await };
        opened.map_err(|e| e.or_corrupt(|cause| self.damaged(file, cause)))
    }

    /// A file of level 0 that came another way, verified as one that was read from here: of its pages none is asked for.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged.
    pub fn open_given(&self, bytes: &[u8]) -> Result<PageFile> {
        let damaged =
            |cause: String| Error::Corrupt { action: "read a file that was streamed".to_owned(), cause };
        let header = Header::parse(bytes).map_err(|e| damaged(e.to_string()))?;
        let file = FileRef {
            level: 0,
            name: FileName::from(&header),
            size: bytes.len() as u64,
            modified_ms: header.timestamp_ms,
        };
        self.decode_small(&file, bytes).map_err(damaged)
    }

    /// Opens the files of level 0 that follow a transaction, each of which has one, as far as they are there. What cannot be
    /// read ends them, and is an error only when it is the first.
    ///
    /// Of a folder, many small ones are read together. Elsewhere `at_once` are asked for, of which each one costs a request,
    /// also those that are not there.
    ///
    /// # Errors
    /// As [`open_pages`](Self::open_pages).
    pub async fn open_following(&self, after: Txid, at_once: usize) -> Result<Vec<PageFile>> {
        let found = match &self.client.folder {
            Some(folder) => {
                let (store, place) = (self.clone(), folder.clone());
                let reading = folder.blocking(move || Ok(store.read_following(&place, after)));
                self.failing(within(BYTES, reading).await, || format!("read `{}`", self.place()))?
            }
            None => self.get_following(after, at_once.clamp(1, PARALLEL)).await,
        };
        let mut files = vec![];
        for found in found {
            let opened = match found {
                Ok(Found::Small(file)) => Ok(*file),
                Ok(Found::Large(file)) => self.open_pages(&file).await,
                Err(e) => Err(e),
            };
            match opened {
                Ok(file) => files.push(file),
                Err(e) if files.is_empty() => return Err(e),
                Err(_) => break,
            }
        }
        Ok(files)
    }

    /// As far as the files are there and small, and the first that is not.
    fn read_following(&self, folder: &Folder, after: Txid) -> Vec<Result<Found>> {
        let folder = folder.root().join(self.level_key(0).as_ref());
        let (mut found, mut bytes, mut next) = (vec![], 0, after);
        let mut content = vec![];
        while found.len() < FILES && bytes < BYTES {
            next = next.next();
            let name = FileName { min: next, max: next };
            self.client.counters.request(Request::Get, 1);
            let read = match read_small(&folder.join(name.to_string()), name, &mut content) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                read => read.map_err(|e| folder::store_error(&self.key(0, name), e)),
            };
            let read = self.failing(read, || format!("read `{}`", self.place_of_file(0, name)));
            let read = read.and_then(|file| match file.size <= SMALL {
                true => self.found(file, &content),
                false => Ok(Found::Large(file)),
            });
            let is_last = !matches!(read, Ok(Found::Small(_)));
            bytes += read.as_ref().map_or(0, Found::size);
            found.push(read);
            if is_last {
                break;
            }
        }
        found
    }

    async fn get_following(&self, after: Txid, at_once: usize) -> Vec<Result<Found>> {
        let names = std::iter::successors(Some(after.next()), |txid| Some(txid.next())).take(at_once);
        let asking = names.map(|txid| {
            let store = self.clone();
            async move { store.get_named(FileName { min: txid, max: txid }).await }
        });
        let asking: Vec<_> = asking.collect();
        let answers: Vec<Result<Option<Found>>> = stream::iter(asking).buffered(PARALLEL).collect().await;
        answers.into_iter().map_while(Result::transpose).collect()
    }

    /// A file of level 0 by its name, `None` where there is none: one request, unless it is large.
    async fn get_named(&self, name: FileName) -> Result<Option<Found>> {
        let key = self.key(0, name);
        self.client.counters.request(Request::Get, 1);
        let options = GetOptions { range: Some(GetRange::Bounded(0..SMALL)), ..GetOptions::default() };
        let get = async {
            let got = self.client.objects.get_opts(&key, options).await?;
            Ok((got.meta.clone(), got.bytes().await?))
        };
        match within(SMALL, get).await {
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            got => {
                let (meta, bytes) = self.failing(got, || format!("read `{}`", self.place_of(&key)))?;
                let modified_ms = meta.last_modified.timestamp_millis();
                let file = FileRef { level: 0, name, size: meta.size, modified_ms };
                match file.size <= SMALL {
                    true => self.found(file, &bytes).map(Some),
                    false => Ok(Some(Found::Large(file))),
                }
            }
        }
    }

    /// A small file of these bytes.
    fn found(&self, file: FileRef, bytes: &[u8]) -> Result<Found> {
        self.client.counters.bytes_in(bytes.len() as u64);
        let decoded = self.decode_small(&file, bytes);
        decoded.map(|file| Found::Small(Box::new(file))).map_err(|cause| self.damaged(&file, cause))
    }

    async fn open_small(&self, file: &FileRef) -> std::result::Result<PageFile, Failure> {
        let bytes = self.get(file).await?;
        self.decode_small(file, &bytes).map_err(Failure::Damaged)
    }

    fn decode_small(&self, file: &FileRef, bytes: &[u8]) -> std::result::Result<PageFile, String> {
        let mut pages = vec![];
        let (header, index) = decode_file(bytes, |_, page| {
            if pages.len() * page.len() < DECODED {
                pages.push(Arc::from(page));
            }
        })
        .map_err(|e| e.to_string())?;
        if FileName::from(&header) != file.name {
            return Err(format!("it tells of transactions {} to {}", header.min_txid, header.max_txid));
        }
        let is_whole = pages.len() as u64 == index.pages();
        let bytes = match is_whole {
            true => Source::Decoded(pages),
            false => Source::Whole(Bytes::copy_from_slice(bytes)),
        };
        Ok(PageFile { store: self.clone(), file: file.clone(), header, index, bytes })
    }

    async fn open_large(&self, file: &FileRef) -> std::result::Result<PageFile, Failure> {
        let head = self.head(file).map_err(Failure::from);
        let (ends, record) =
            future::join(future::try_join(head, self.tail(file)), self.record_of(file)).await;
        let ((head, header), (index, tail)) = ends?;
        let seal = PageChecks::seal_of(&head, &tail);
        let is_of_it = |checks: &PageChecks| checks.seal() == seal && checks.pages() as u64 == index.pages();
        let checks = match record.filter(is_of_it) {
            Some(checks) => Arc::new(checks),
            None => self.checks_of_all(file, seal).await?,
        };
        if !is_of_it(&checks) {
            return Err(Failure::Damaged("it is another one than a moment ago".to_owned()));
        }
        let folder = self.as_folder().map(|root| root.join(self.layout().level_dir(file.level)));
        let opened = folder.and_then(|folder| File::open(folder.join(file.name.to_string())).ok());
        let bytes = Source::InParts(opened, checks);
        Ok(PageFile { store: self.clone(), file: file.clone(), header, index, bytes })
    }

    /// The page index, and all bytes from its pages' end on.
    async fn tail(&self, file: &FileRef) -> std::result::Result<(PageIndex, Bytes), Failure> {
        // An index takes about one byte for 300 of the file, so that one request is mostly enough.
        let mut len = (file.size / 256).clamp(TAIL.start, TAIL.end).min(file.size);
        loop {
            let mut tail = self.get_range(file, file.size - len..file.size).await?;
            match PageIndex::from_tail(file.size, &tail)? {
                IndexTail::Index(index) => {
                    let range = index.tail_range();
                    let tail = tail.split_off(tail.len() - (range.end - range.start) as usize);
                    return Ok((index, tail));
                }
                IndexTail::Need(needed) => len = needed,
            }
        }
    }

    pub(crate) fn damaged(&self, file: &FileRef, cause: String) -> Error {
        Error::Corrupt { action: format!("read `{}`", self.place_of_file(file.level, file.name)), cause }
    }
}

/// A file that was looked for.
enum Found {
    Small(Box<PageFile>),
    Large(FileRef),
}

impl Found {
    fn size(&self) -> u64 {
        match self {
            Found::Small(file) => file.file.size,
            Found::Large(_) => 0,
        }
    }
}

/// A file of level 0 in a folder; `content` has its bytes then if it is small.
fn read_small(path: &Path, name: FileName, content: &mut Vec<u8>) -> io::Result<FileRef> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let since_epoch = metadata.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let found = FileRef { level: 0, name, size: metadata.len(), modified_ms: since_epoch.as_millis() as i64 };
    if found.size <= SMALL {
        content.resize(found.size as usize, 0);
        file.read_exact_at(content, 0)?;
    }
    Ok(found)
}

/// Why a file cannot be read.
enum Failure {
    Store(Error),
    Damaged(String),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure::Store(e)
    }
}

impl From<litekeep_ltx::Error> for Failure {
    fn from(e: litekeep_ltx::Error) -> Failure {
        Failure::Damaged(e.to_string())
    }
}

impl Failure {
    fn or_corrupt(self, corrupt: impl FnOnce(String) -> Error) -> Error {
        match self {
            Failure::Store(e) => e,
            Failure::Damaged(cause) => corrupt(cause),
        }
    }
}

impl PageFile {
    /// Which file it is.
    pub fn file(&self) -> &FileRef {
        &self.file
    }

    /// Its header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whether reading a page costs a request.
    pub fn is_remote(&self) -> bool {
        matches!(self.bytes, Source::InParts(None, _))
    }

    /// Whether it holds the page.
    pub fn contains(&self, pgno: Pgno) -> bool {
        self.index.nth(pgno).is_some()
    }

    /// Its pages, ascending, if they are all in memory.
    pub fn decoded(&self) -> Option<impl Iterator<Item = (Pgno, &Arc<[u8]>)>> {
        let Source::Decoded(pages) = &self.bytes else { return None };
        Some(self.pages().zip(pages))
    }

    /// The pages that it holds, ascending.
    pub fn pages(&self) -> impl ExactSizeIterator<Item = Pgno> + '_ {
        self.index.iter().map(|(pgno, _)| pgno)
    }

    /// A page that costs no request. `None`: it needs one, or the file does not hold the page.
    ///
    /// # Errors
    /// `Corrupt` when the page is damaged, `Unavailable` when it cannot be read.
    pub fn read_here(&self, pgno: Pgno) -> Option<Result<Arc<[u8]>>> {
        let range = self.index.get(pgno)?;
        match &self.bytes {
            Source::InParts(None, _) => None,
            Source::Decoded(pages) => Some(Ok(pages[self.index.nth(pgno)?].clone())),
            Source::Whole(bytes) => Some(self.decode(pgno, &bytes[range.start as usize..range.end as usize])),
            Source::InParts(Some(file), _) => {
                thread_local! {
                    static BLOCK: RefCell<Vec<u8>> = const { RefCell::new(vec![]) };
                }
                BLOCK.with_borrow_mut(|block| {
                    block.resize((range.end - range.start) as usize, 0);
                    Some(match file.read_exact_at(block, range.start) {
                        Ok(()) => self.decode(pgno, block),
                        Err(e) => Err(self.store.damaged(&self.file, e.to_string())),
                    })
                })
            }
        }
    }

    /// Pages that the file holds, by as few requests as it takes.
    ///
    /// # Errors
    /// As [`read_here`](Self::read_here); [`Error::is_missing`] when the file is gone.
    pub async fn read(&self, pages: &[Pgno]) -> Result<HashMap<Pgno, Arc<[u8]>>> {
        if matches!(self.bytes, Source::Decoded(_) | Source::Whole(_)) {
            let read = pages.iter().filter_map(|pgno| Some((*pgno, self.read_here(*pgno)?)));
            return read.map(|(pgno, page)| Ok((pgno, page?))).collect();
        }
        let mut blocks: Vec<(Pgno, Range<u64>)> =
            pages.iter().filter_map(|pgno| Some((*pgno, self.index.get(*pgno)?))).collect();
        blocks.sort_by_key(|(_, range)| range.start);
        blocks.dedup();
        let runs: Vec<&[(Pgno, Range<u64>)]> = runs(&blocks);
        // Owned by each task: a stream of borrowing ones is not `Send` for every lifetime.
        let fetches = runs.iter().map(|run| {
            let (store, file, range) =
                (self.store.clone(), self.file.clone(), run[0].1.start..run[run.len() - 1].1.end);
            async move { store.get_range(&file, range).await }
        });
        let fetches: Vec<_> = fetches.collect();
        let fetched: Vec<Bytes> = stream::iter(fetches).buffered(PARALLEL).try_collect().await?;
        let mut found = HashMap::with_capacity(blocks.len());
        for (run, bytes) in runs.iter().zip(fetched) {
            let begin = run[0].1.start;
            for (pgno, range) in *run {
                let block = &bytes[(range.start - begin) as usize..(range.end - begin) as usize];
                found.insert(*pgno, self.decode(*pgno, block)?);
            }
        }
        Ok(found)
    }

    fn decode(&self, pgno: Pgno, block: &[u8]) -> Result<Arc<[u8]>> {
        thread_local! {
            static PAGE: RefCell<Vec<u8>> = const { RefCell::new(vec![]) };
        }
        let page_size = self.header.page_size;
        let decoded = PAGE.with_borrow_mut(|page| {
            page.resize(page_size.bytes(), 0);
            decode_page(page_size, block, page).map(|found| (found, Arc::from(&page[..])))
        });
        let cause = match decoded {
            Ok((found, page)) if found == pgno && self.is_page(pgno, &page) => return Ok(page),
            Ok((found, _)) if found == pgno => format!("page {pgno}: checksum mismatch"),
            Ok((found, _)) => format!("page {found} stands in the place of page {pgno}"),
            Err(e) => e.to_string(),
        };
        Err(self.store.damaged(&self.file, cause))
    }

    /// Whether the page is the one that was written.
    fn is_page(&self, pgno: Pgno, page: &[u8]) -> bool {
        match &self.bytes {
            Source::Decoded(_) | Source::Whole(_) => true,
            Source::InParts(_, checks) => self.index.nth(pgno).is_some_and(|nth| checks.is_page(nth, page)),
        }
    }
}

/// Blocks that one request fetches.
fn runs(blocks: &[(Pgno, Range<u64>)]) -> Vec<&[(Pgno, Range<u64>)]> {
    let mut runs = vec![];
    let mut begin = 0;
    for at in 1..=blocks.len() {
        let ends = at == blocks.len()
            || blocks[at].1.start - blocks[at - 1].1.end > GAP
            || blocks[at].1.end - blocks[begin].1.start > LARGEST;
        if ends && begin < at {
            runs.push(&blocks[begin..at]);
            begin = at;
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_travel_together() {
        let block = |pgno, start, end| (Pgno::new(pgno).unwrap(), start..end);
        let blocks = [
            block(1, 100, 200),
            block(2, 200, 300),
            block(9, 300 + GAP, 400 + GAP),
            block(10, 401 + 2 * GAP, 500 + 2 * GAP),
            block(11, LARGEST, LARGEST + 401 + 2 * GAP),
        ];
        let lens: Vec<usize> = runs(&blocks).iter().map(|run| run.len()).collect();
        assert_eq!(lens, [3, 1, 1]);
        assert!(runs(&[]).is_empty());
    }
}
