//! Between blocking code, which encodes and decodes, and the store, which is asynchronous.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use bytes::{Bytes, BytesMut};
use litekeep_ltx::{FileName, PageChecks};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::log::FileRef;
use crate::store::{Put, Store};

/// Bytes that travel at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Chunks that wait for the store; beyond it the writer waits.
const QUEUE: usize = 8;

/// The blocking end of an upload.
#[derive(Debug)]
pub struct StreamWriter {
    buffer: BytesMut,
    chunks: mpsc::Sender<Bytes>,
    timestamp_ms: Arc<AtomicI64>,
    checks: Option<PageChecks>,
}

impl StreamWriter {
    /// Gives the file another timestamp, milliseconds since the epoch, where only the encoder knows it. Before the first
    /// byte; later ones have no effect.
    pub fn set_timestamp(&self, timestamp_ms: i64) {
        self.timestamp_ms.store(timestamp_ms, SeqCst);
    }

    /// Gives the file a record of these checksums of its pages, where files of its level and size have one.
    pub fn keep_checks(&mut self, checks: PageChecks) {
        self.checks = Some(checks);
    }

    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = self.buffer.split().freeze();
        self.buffer.reserve(CHUNK_BYTES);
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the upload failed");
        self.chunks.blocking_send(chunk).map_err(gone)
    }
}

impl Write for StreamWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == CHUNK_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Store {
    /// Puts a file of the log that `encode` writes on a blocking thread. `expect_bytes`: its size, if known about (see
    /// [`crate::Upload::expect_bytes`]).
    ///
    /// # Errors
    /// `encode`'s own, in which case no file appears; else those of [`crate::Upload::finish`].
    pub async fn put_from<T, E>(
        &self,
        level: u8,
        name: FileName,
        timestamp_ms: i64,
        expect_bytes: Option<u64>,
        encode: impl FnOnce(&mut StreamWriter) -> Result<T, E> + Send + 'static,
    ) -> Result<(T, Put), E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let mut upload = self.put_stream(level, name, timestamp_ms);
        if let Some(bytes) = expect_bytes {
            upload = upload.expect_bytes(bytes);
        }
        let (chunks, mut queue) = mpsc::channel(QUEUE);
        let timestamp = Arc::new(AtomicI64::new(timestamp_ms));
        let timestamp_ms = timestamp.clone();
        let encoding = tokio::task::spawn_blocking(move || {
            let buffer = BytesMut::with_capacity(CHUNK_BYTES);
            let mut writer = StreamWriter { buffer, chunks, timestamp_ms, checks: None };
            let value = encode(&mut writer)?;
            // A failure shows at the other end.
            let _ = writer.send();
            Ok::<_, E>((value, writer.checks))
        });
        let mut failure = None;
        while let Some(chunk) = queue.recv().await {
            upload.timestamp_ms = timestamp.load(SeqCst);
            if let Err(e) = upload.write(chunk).await {
                failure = Some(e);
                // Breaks the writer's pipe, so that the encoder ends.
                break;
            }
        }
        drop(queue);
        let encoded = encoding.await.unwrap_or_else(|e| {
            let action = format!("encode `{}`", self.place_of_file(level, name));
            Err(Error::Internal { action, cause: e.to_string() }.into())
        });
        if let Some(e) = failure {
            upload.abort().await;
            return Err(e.into());
        }
        match encoded {
            Ok((value, checks)) => {
                let size = upload.size();
                let put = upload.finish().await?;
                if let Some(checks) = checks {
                    self.put_checks(level, name, size, &checks).await;
                }
                Ok((value, put))
            }
            Err(e) => {
                upload.abort().await;
                Err(e)
            }
        }
    }
}

impl Store {
    /// A file of the log to be read on a blocking thread, `ahead` bytes at a time. Call from within the runtime.
    pub fn reader(&self, file: &FileRef, ahead: u64) -> RangeReader {
        RangeReader::new(self.clone(), file.clone(), Bytes::new(), ahead, Handle::current())
    }
}

/// Reads a file of the log from a blocking thread, some bytes at a time, so that many may be open at once with little
/// memory and no connection held.
pub struct RangeReader {
    store: Store,
    file: FileRef,
    runtime: Handle,
    ahead: u64,
    chunk: Bytes,
    position: u64,
}

impl RangeReader {
    /// Begins with the first bytes, which the caller has read already. `ahead`: bytes of one further read.
    pub(crate) fn new(store: Store, file: FileRef, first: Bytes, ahead: u64, runtime: Handle) -> RangeReader {
        let position = first.len() as u64;
        RangeReader { store, file, runtime, ahead, chunk: first, position }
    }
}

impl Read for RangeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.chunk.is_empty() && self.position < self.file.size {
            let end = (self.position + self.ahead).min(self.file.size);
            let read = self.store.get_range(&self.file, self.position..end);
            self.chunk = self.runtime.block_on(read).map_err(io::Error::other)?;
            self.position = end;
        }
        let taken = buffer.len().min(self.chunk.len());
        buffer[..taken].copy_from_slice(&self.chunk.split_to(taken));
        Ok(taken)
    }
}
