//! What the store was asked and what it moved, since the start.

use std::sync::atomic::{AtomicU64, Ordering};

/// Kinds of requests, as price lists tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// Put, and each part, beginning and end of a multipart upload.
    Put,
    /// Get, whole or in part.
    Get,
    /// List: one per 1,000 keys.
    List,
    /// Head.
    Head,
    /// Delete: one per 1,000 keys where the store deletes in bulk.
    Delete,
}

/// Counts of requests and bytes, shared by everything that uses one client. The client's own retries are not seen.
#[derive(Debug, Default)]
pub struct Counters {
    put: AtomicU64,
    get: AtomicU64,
    list: AtomicU64,
    head: AtomicU64,
    delete: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    errors: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// See [`Request::Put`].
    pub put: u64,
    /// See [`Request::Get`].
    pub get: u64,
    /// See [`Request::List`].
    pub list: u64,
    /// See [`Request::Head`].
    pub head: u64,
    /// See [`Request::Delete`].
    pub delete: u64,
    /// Bytes read from the store.
    pub bytes_in: u64,
    /// Bytes written to the store.
    pub bytes_out: u64,
    /// Requests that failed; a put that found its name taken is not one.
    pub errors: u64,
}

impl Counters {
    pub(crate) fn request(&self, kind: Request, times: u64) {
        let counter = match kind {
            Request::Put => &self.put,
            Request::Get => &self.get,
            Request::List => &self.list,
            Request::Head => &self.head,
            Request::Delete => &self.delete,
        };
        counter.fetch_add(times, Ordering::Relaxed);
    }

    pub(crate) fn bytes_in(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn bytes_out(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// All counters now.
    pub fn read(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            put: load(&self.put),
            get: load(&self.get),
            list: load(&self.list),
            head: load(&self.head),
            delete: load(&self.delete),
            bytes_in: load(&self.bytes_in),
            bytes_out: load(&self.bytes_out),
            errors: load(&self.errors),
        }
    }
}

impl Counts {
    /// All requests.
    pub fn requests(&self) -> u64 {
        self.put + self.get + self.list + self.head + self.delete
    }

    /// Both together.
    pub fn and(&self, other: &Counts) -> Counts {
        Counts {
            put: self.put + other.put,
            get: self.get + other.get,
            list: self.list + other.list,
            head: self.head + other.head,
            delete: self.delete + other.delete,
            bytes_in: self.bytes_in + other.bytes_in,
            bytes_out: self.bytes_out + other.bytes_out,
            errors: self.errors + other.errors,
        }
    }

    /// What was counted since an earlier moment.
    pub fn since(&self, earlier: &Counts) -> Counts {
        Counts {
            put: self.put.saturating_sub(earlier.put),
            get: self.get.saturating_sub(earlier.get),
            list: self.list.saturating_sub(earlier.list),
            head: self.head.saturating_sub(earlier.head),
            delete: self.delete.saturating_sub(earlier.delete),
            bytes_in: self.bytes_in.saturating_sub(earlier.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(earlier.bytes_out),
            errors: self.errors.saturating_sub(earlier.errors),
        }
    }
}
