//! Single pages of a file of the log, without reading all of it.
//!
//! A small file is read whole and verified. Of a large one, pages come by range requests through the page index, and the
//! file's checksum cannot be verified: the format has none for a page. What is decoded has the right length and number.

use std::collections::HashMap;
use std::fs::File;
use std::io::Cursor;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use litekeep_ltx::{Decoder, Header, IndexTail, PageIndex, Pgno, decode_page};

use crate::error::{Error, Result};
use crate::log::FileRef;
use crate::store::Store;

/// Files up to this size are read whole.
const SMALL: u64 = 256 << 10;
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
    Whole(Bytes),
    OnDisk(File),
    Remote,
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

    async fn open_small(&self, file: &FileRef) -> std::result::Result<PageFile, Failure> {
        let bytes = self.get(file).await?;
        Decoder::new(Cursor::new(&bytes)).and_then(|mut decoder| decoder.verify())?;
        let header = Header::parse(&bytes[..Header::LEN])?;
        let IndexTail::Index(index) = PageIndex::from_tail(file.size, &bytes)? else {
            return Err(Failure::Damaged("it has no page index".into()));
        };
        Ok(PageFile { store: self.clone(), file: file.clone(), header, index, bytes: Source::Whole(bytes) })
    }

    async fn open_large(&self, file: &FileRef) -> std::result::Result<PageFile, Failure> {
        let header = self.header(file).await?;
        // An index takes about one byte for 300 of the file, so that one request is mostly enough.
        let mut len = (file.size / 256).clamp(TAIL.start, TAIL.end).min(file.size);
        let index = loop {
            let tail = self.get_range(file, file.size - len..file.size).await?;
            match PageIndex::from_tail(file.size, &tail)? {
                IndexTail::Index(index) => break index,
                IndexTail::Need(needed) => len = needed,
            }
        };
        let folder = self.as_folder().map(|root| root.join(self.layout().level_dir(file.level)));
        let opened = folder.and_then(|folder| File::open(folder.join(file.name.to_string())).ok());
        let bytes = opened.map_or(Source::Remote, Source::OnDisk);
        Ok(PageFile { store: self.clone(), file: file.clone(), header, index, bytes })
    }

    fn damaged(&self, file: &FileRef, cause: String) -> Error {
        Error::Corrupt { action: format!("read `{}`", self.place_of_file(file.level, file.name)), cause }
    }
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
        matches!(self.bytes, Source::Remote)
    }

    /// Whether it holds the page.
    pub fn contains(&self, pgno: Pgno) -> bool {
        self.index.get(pgno).is_some()
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
            Source::Remote => None,
            Source::Whole(bytes) => Some(self.decode(pgno, &bytes[range.start as usize..range.end as usize])),
            Source::OnDisk(file) => {
                let mut block = vec![0; (range.end - range.start) as usize];
                let read = file.read_exact_at(&mut block, range.start);
                Some(match read {
                    Ok(()) => self.decode(pgno, &block),
                    Err(e) => Err(self.store.damaged(&self.file, e.to_string())),
                })
            }
        }
    }

    /// Pages that the file holds, by as few requests as it takes.
    ///
    /// # Errors
    /// As [`read_here`](Self::read_here); [`Error::is_missing`] when the file is gone.
    pub async fn read(&self, pages: &[Pgno]) -> Result<HashMap<Pgno, Arc<[u8]>>> {
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
        let page_size = self.header.page_size;
        let mut page = vec![0; page_size.bytes()];
        match decode_page(page_size, block, &mut page) {
            Ok(found) if found == pgno => Ok(page.into()),
            Ok(found) => Err(self
                .store
                .damaged(&self.file, format!("page {found} stands in the place of page {pgno}"))),
            Err(e) => Err(self.store.damaged(&self.file, e.to_string())),
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
