//! Reading the log's files while they are applied.
//!
//! A folder's files are read where they are decoded, into the decoder's own buffer: no copy goes through the runtime.
//! From a bucket so many ranges are fetched at once as the caller allows.

use super::apply::Failure;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use litekeep_store::{FileRef, Store};
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};

/// The log's files.
#[derive(Clone)]
pub(super) struct Source {
    store: Store,
    folder: Option<PathBuf>,
    requests: Arc<Semaphore>,
}

/// Some bytes of a file: there already, or to be read by who needs them.
pub(super) enum Part {
    Fetched(Bytes),
    OnDisk { path: PathBuf, range: Range<u64> },
}

impl Source {
    pub(super) fn new(store: &Store, parallelism: usize) -> Source {
        Source {
            store: store.clone(),
            folder: store.as_folder(),
            requests: Arc::new(Semaphore::new(parallelism)),
        }
    }

    pub(super) fn place(&self, file: &FileRef) -> String {
        self.store.place_of_file(file.level, file.name)
    }

    /// A range of a file, fetched now unless it lies in a folder.
    pub(super) async fn part(&self, file: &FileRef, range: Range<u64>) -> Result<Part, Failure> {
        match self.path(file) {
            Some(path) => Ok(Part::OnDisk { path, range }),
            None => self.fetch(file, range).await.map(Part::Fetched),
        }
    }

    /// A range of a file, now.
    pub(super) async fn fetch(&self, file: &FileRef, range: Range<u64>) -> Result<Bytes, Failure> {
        let _permit = self.requests.acquire().await.expect("the semaphore is never closed");
        let whole = range == (0..file.size);
        let got = if whole { self.store.get(file).await } else { self.store.get_range(file, range).await };
        got.map_err(|e| Failure::of_store(file, e))
    }

    fn path(&self, file: &FileRef) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?.join(self.store.layout().level_dir(file.level));
        Some(folder.join(file.name.to_string()))
    }

    /// A reader of the whole file for a blocking thread, which fetches ranges of `ahead` bytes in advance.
    pub(super) fn reader(
        &self,
        file: &FileRef,
        ahead: u64,
        parallelism: usize,
    ) -> Result<FileReader, Failure> {
        if let Some(path) = self.path(file) {
            let opened = File::open(&path).map_err(|e| Failure::of_io(file, &path, e))?;
            return Ok(FileReader::Folder(io::BufReader::with_capacity(1 << 20, opened)));
        }
        let (chunks, queue) = mpsc::channel(1);
        let (source, file) = (self.clone(), file.clone());
        // Ends by itself when the reader is dropped.
        tokio::spawn(async move {
            let starts = (0..file.size).step_by(ahead as usize);
            let (source, file) = (&source, &file);
            let mut fetched = stream::iter(starts)
                .map(|start| source.fetch(file, start..(start + ahead).min(file.size)))
                .buffered(parallelism);
            while let Some(chunk) = fetched.next().await {
                let failed = chunk.is_err();
                if chunks.send(chunk).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(FileReader::Fetched { chunk: Bytes::new(), queue, failure: None })
    }
}

impl Part {
    /// The bytes; `buffer` serves those that must be read first.
    pub(super) fn bytes<'a>(&'a self, file: &FileRef, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], Failure> {
        match self {
            Part::Fetched(bytes) => Ok(bytes),
            Part::OnDisk { path, range } => {
                buffer.resize((range.end - range.start) as usize, 0);
                let mut read = || File::open(path)?.read_exact_at(buffer, range.start);
                read().map_err(|e| Failure::of_io(file, path, e))?;
                Ok(buffer)
            }
        }
    }
}

/// Reads a whole file front to back.
pub(super) enum FileReader {
    Folder(io::BufReader<File>),
    Fetched {
        chunk: Bytes,
        queue: mpsc::Receiver<Result<Bytes, Failure>>,
        /// Why the last read failed, in more words than an I/O error has.
        failure: Option<Failure>,
    },
}

impl FileReader {
    /// Why reading failed, if it did.
    pub(super) fn take_failure(&mut self) -> Option<Failure> {
        match self {
            FileReader::Folder(_) => None,
            FileReader::Fetched { failure, .. } => failure.take(),
        }
    }
}

impl Read for FileReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            FileReader::Folder(file) => file.read(out),
            FileReader::Fetched { chunk, queue, failure } => {
                if chunk.is_empty() {
                    match queue.blocking_recv() {
                        Some(Ok(bytes)) => *chunk = bytes,
                        Some(Err(e)) => {
                            *failure = Some(e);
                            return Err(io::ErrorKind::Other.into());
                        }
                        None => return Ok(0),
                    }
                }
                let n = out.len().min(chunk.len());
                out[..n].copy_from_slice(&chunk.split_to(n));
                Ok(n)
            }
        }
    }
}
