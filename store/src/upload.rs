//! Uploads of any size in bounded memory.
//!
//! What fits into one part becomes a plain put. Beyond that it is a multipart upload (a temporary file in a folder),
//! whose parts grow slowly enough for small memory and fast enough that 10,000 of them, which is S3's limit, hold more
//! than 1 TiB.

use bytes::{Bytes, BytesMut};
use litekeep_ltx::{FileName, Header, TRAILER_LEN};
use object_store::path::Path as Key;
use object_store::{MultipartUpload, PutMultipartOptions, PutPayload};
use tokio::task::JoinSet;

use crate::counters::Request;
use crate::error::{Error, Result};
use crate::folder::IfAbsent;
use crate::store::{Put, Store};

const MIB: usize = 1 << 20;

/// Part sizes and how many parts have each: 7.8 GiB, 31 GiB, 62 GiB and then 1.07 TiB.
const PART_SIZES: [(u64, usize); 4] =
    [(1000, 8 * MIB), (1000, 32 * MIB), (1000, 64 * MIB), (7000, 160 * MIB)];

/// Bytes under way at the same time, beside the part that is being filled; at least one part.
const IN_FLIGHT_BYTES: usize = 32 * MIB;

/// A file of the log on its way into the store. Dropped before [`finish`](Upload::finish), it leaves no file.
pub struct Upload {
    store: Store,
    key: Key,
    pub(crate) timestamp_ms: i64,
    buffer: Vec<Bytes>,
    buffered: usize,
    size: u64,
    /// Set by [`Upload::expect_bytes`].
    fixed_part: Option<usize>,
    parts: u64,
    multipart: Option<Box<dyn MultipartUpload>>,
    in_flight: JoinSet<object_store::Result<()>>,
    /// The first bytes, the header, to tell our own file from another's.
    head: BytesMut,
    /// The last bytes, the trailer with the checksum of the whole.
    tail: Vec<u8>,
}

impl Store {
    /// Begins a file of the log whose size is not known, or is large. `timestamp_ms`: the header's.
    pub fn put_stream(&self, level: u8, name: FileName, timestamp_ms: i64) -> Upload {
        Upload {
            store: self.clone(),
            key: self.key(level, name),
            timestamp_ms,
            buffer: Vec::new(),
            buffered: 0,
            size: 0,
            fixed_part: None,
            parts: 0,
            multipart: None,
            in_flight: JoinSet::new(),
            head: BytesMut::with_capacity(Header::LEN),
            tail: Vec::new(),
        }
    }
}

impl Upload {
    /// Announces the size. Parts are then all of one size, which Cloudflare R2 insists on beyond 7.8 GiB.
    #[must_use]
    pub fn expect_bytes(mut self, bytes: u64) -> Upload {
        let needed =
            usize::try_from(bytes.div_ceil(9_000)).unwrap_or(usize::MAX).div_ceil(MIB).saturating_mul(MIB);
        self.fixed_part = Some(needed.max(PART_SIZES[0].1));
        self
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds bytes; waits while too much is under way.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.remember(&bytes);
        self.size += bytes.len() as u64;
        self.buffered += bytes.len();
        self.buffer.push(bytes);
        // Strictly more, so that a file of exactly one part is still a plain put.
        while self.buffered > self.part_bytes() {
            self.send_part().await?;
        }
        Ok(())
    }

    /// Makes the file appear.
    ///
    /// # Errors
    /// `Fenced` when another file stands there; `Unavailable` when it is unknown whether it landed: begin anew.
    pub async fn finish(mut self) -> Result<Put> {
        if self.multipart.is_none() {
            let parts = std::mem::take(&mut self.buffer);
            return self.store.create(&self.key, parts, Some(self.timestamp_ms)).await;
        }
        self.send_part().await?;
        while let Some(part) = self.in_flight.join_next().await {
            self.part_done(part)?;
        }
        // Stores that cannot complete conditionally are at least asked first.
        if self.store.head_key(&self.key).await?.is_some() {
            self.abort().await;
            return self.compare().await;
        }
        let Some(mut multipart) = self.multipart.take() else { return Err(self.broken()) };
        self.store.client.counters.request(Request::Put, 1);
        let completed = match self.store.assumed_unfenced {
            true => crate::http::unconditional(multipart.complete()).await,
            false => multipart.complete().await,
        };
        match completed {
            Ok(_) => Ok(Put::Written),
            Err(error) => {
                self.multipart = Some(multipart);
                self.after_failed_completion(error).await
            }
        }
    }

    /// Gives up and removes what was uploaded, as far as the store lets us.
    pub async fn abort(&mut self) {
        self.in_flight.shutdown().await;
        if let Some(mut multipart) = self.multipart.take() {
            self.store.client.counters.request(Request::Delete, 1);
            if let Err(error) = multipart.abort().await {
                tracing::debug!(key = %self.key, %error, "an unfinished upload stays until the bucket's lifecycle rule");
            }
        }
    }

    async fn after_failed_completion(&mut self, error: object_store::Error) -> Result<Put> {
        let outcome = self.compare().await;
        match outcome {
            Ok(put) => Ok(put),
            Err(e @ Error::Fenced { .. }) => {
                self.abort().await;
                Err(e)
            }
            Err(_) => {
                self.store.client.counters.error();
                self.abort().await;
                Err(Error::from_store(self.store.writing(&self.key), error))
            }
        }
    }

    /// Whether the file that stands there is ours: header, size and trailer, with the checksum of all bytes, agree.
    async fn compare(&mut self) -> Result<Put> {
        let Some(size) = self.store.head_key(&self.key).await? else {
            return Err(Error::Missing { action: format!("read `{}`", self.store.place_of(&self.key)) });
        };
        let head_end = size.min(Header::LEN as u64);
        let head = self.store.get_key(&self.key, Some(0..head_end), head_end).await?;
        if size == self.size && head == self.head {
            let tail_bytes = self.tail.len() as u64;
            let tail = self.store.get_key(&self.key, Some(size - tail_bytes..size), tail_bytes).await?;
            if tail == self.tail {
                return Ok(Put::AlreadyThere);
            }
        }
        Err(self.store.fenced(&self.key, &self.head, &head))
    }

    async fn send_part(&mut self) -> Result<()> {
        if self.multipart.is_none() {
            let (attributes, mut extensions) = self.store.stamped(Some(self.timestamp_ms));
            extensions.insert(IfAbsent);
            let options = PutMultipartOptions { attributes, extensions, ..PutMultipartOptions::default() };
            self.store.client.counters.request(Request::Put, 1);
            let begun = self.store.client.objects.put_multipart_opts(&self.key, options).await;
            let begun = begun.map_err(|e| {
                self.store.client.counters.error();
                self.store.not_written(&self.key, e)
            });
            self.multipart = Some(begun?);
        }
        let part_bytes = self.part_bytes();
        let slots = (IN_FLIGHT_BYTES / part_bytes).max(1);
        while self.in_flight.len() >= slots {
            match self.in_flight.join_next().await {
                Some(part) => self.part_done(part)?,
                None => break,
            }
        }
        let payload = self.take(part_bytes);
        let Some(multipart) = &mut self.multipart else { return Err(self.broken()) };
        self.store.client.counters.request(Request::Put, 1);
        self.store.client.counters.bytes_out(payload.content_length() as u64);
        self.in_flight.spawn(multipart.put_part(payload));
        self.parts += 1;
        Ok(())
    }

    fn part_done(&self, part: Result<object_store::Result<()>, tokio::task::JoinError>) -> Result<()> {
        let outcome = part.unwrap_or_else(|e| Err(e.into()));
        outcome.map_err(|e| {
            self.store.client.counters.error();
            self.store.not_written(&self.key, e)
        })
    }

    fn part_bytes(&self) -> usize {
        if let Some(bytes) = self.fixed_part {
            return bytes;
        }
        let mut parts = self.parts;
        for (count, bytes) in PART_SIZES {
            if parts < count {
                return bytes;
            }
            parts -= count;
        }
        PART_SIZES[PART_SIZES.len() - 1].1
    }

    /// Takes at most so many bytes from the front of the buffer.
    fn take(&mut self, bytes: usize) -> PutPayload {
        let mut taken = Vec::new();
        let mut missing = bytes;
        let mut rest = std::mem::take(&mut self.buffer).into_iter();
        for mut chunk in rest.by_ref() {
            if chunk.len() > missing {
                taken.push(chunk.split_to(missing));
                missing = 0;
                self.buffer.push(chunk);
                break;
            }
            missing -= chunk.len();
            taken.push(chunk);
        }
        self.buffer.extend(rest);
        self.buffered -= bytes - missing;
        PutPayload::from_iter(taken)
    }

    fn remember(&mut self, bytes: &[u8]) {
        let missing = Header::LEN - self.head.len();
        self.head.extend_from_slice(&bytes[..bytes.len().min(missing)]);
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TRAILER_LEN)..]);
        let excess = self.tail.len().saturating_sub(TRAILER_LEN);
        self.tail.drain(..excess);
    }

    fn broken(&self) -> Error {
        Error::Internal {
            action: self.store.writing(&self.key),
            cause: "the upload was used after its end".to_owned(),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut multipart) = self.multipart.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let mut in_flight = std::mem::take(&mut self.in_flight);
            runtime.spawn(async move {
                in_flight.shutdown().await;
                let _ = multipart.abort().await;
            });
        }
    }
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload").field("key", &self.key).field("size", &self.size).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_parts_hold_more_than_a_tebibyte() {
        let (parts, bytes) =
            PART_SIZES.iter().fold((0, 0), |(n, sum), (count, size)| (n + count, sum + count * *size as u64));
        assert_eq!(parts, 10_000);
        assert!(bytes > 1 << 40);
    }
}
