//! One log in the store.
//!
//! Promises:
//! - A file of the log is never overwritten where the store honours conditional writes ([`Store::probe`]): whoever
//!   comes second with other bytes is told that he is fenced.
//! - A put whose reply was lost is resolved by reading the object back; what remains unknown is an error, and putting
//!   the same bytes again is always safe.
//! - A file shows whole or not at all. A crash leaves at most a temporary file (folder) or an unfinished multipart
//!   upload (bucket) behind; a lifecycle rule of the bucket should remove the latter.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use litekeep_ltx::{FileName, Header, TRAILER_LEN};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path as Key;
use object_store::{
    Attribute, Attributes, Extensions, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload,
};
use tokio::sync::OnceCell;

use crate::checks::Remembered;
use crate::counters::{Counters, Request};
use crate::error::{Error, Origin, Result};
use crate::folder::publish::Published;
use crate::folder::{self, Folder};
use crate::log::{FileRef, Layout, Log, Times, parse_name};
use crate::target::{Opened, Stamp, Target};

/// How long a request may take with the client's own retries: a base for the round trips, and the body at no less than
/// 100 KB/s.
const LIMIT_BASE: Duration = Duration::from_secs(15);
const LIMIT_BYTES_PER_MS: u64 = 100;
/// Less is no file of a log, but what is left of one.
const LEAST_BYTES: u64 = (Header::LEN + TRAILER_LEN) as u64;
/// A folder is listed within as long as so many bytes may take: a minute.
const LISTING_BYTES: u64 = 45_000 * LIMIT_BYTES_PER_MS;

/// Requests that one call runs at the same time.
const PARALLEL: usize = 16;

/// Whether the store honours put-if-absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Conditional {
    /// A second writer is fenced.
    Honoured,
    /// A second writer overwrites: the log is `unfenced`.
    Ignored,
}

/// How a put ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Put {
    /// The object is new.
    Written,
    /// The same bytes stood there already: an earlier try whose reply was lost.
    AlreadyThere,
}

/// One log in the store: the client, shared with other logs, and the place of this one.
#[derive(Clone)]
pub struct Store {
    pub(crate) client: Arc<Client>,
    pub(crate) prefix: Key,
    /// Somebody said that the store's conditional writes are not to be relied on.
    pub(crate) assumed_unfenced: bool,
    /// Files of the log are there: where all of it has vanished, nothing begins it anew.
    pub(crate) has_begun: bool,
    /// The folder with packs that are not in the store yet, where this is the machine of the database.
    pub(crate) packs_here: Option<Arc<std::path::Path>>,
}

pub(crate) struct Client {
    pub(crate) objects: Arc<dyn ObjectStore>,
    /// The same store's listing by pages.
    pages: Option<Arc<dyn PaginatedListStore>>,
    pub(crate) folder: Option<Folder>,
    layout: Layout,
    stamp: Stamp,
    name: String,
    /// Where the store is, as far as its name does not say it.
    endpoint: Option<String>,
    bulk_delete: bool,
    pub(crate) counters: Counters,
    pub(crate) remembered: Remembered,
    conditional: OnceCell<Conditional>,
}

impl Store {
    /// Opens a place without asking it anything.
    ///
    /// # Errors
    /// `Invalid` for settings that cannot work.
    pub fn open(target: &Target) -> Result<Store> {
        Store::new(target.open()?)
    }

    /// A log below `prefix` of any object store. Timestamps are kept as S3 keeps them, as metadata.
    ///
    /// # Errors
    /// `Invalid` for a prefix with empty or dotted segments.
    pub fn from_object_store(objects: Arc<dyn ObjectStore>, prefix: &str, layout: Layout) -> Result<Store> {
        Store::new(Opened {
            name: objects.to_string(),
            objects,
            pages: None,
            folder: None,
            layout,
            stamp: Stamp::LITESTREAM,
            path: prefix.to_owned(),
            endpoint: None,
            bulk_delete: false,
        })
    }

    fn new(opened: Opened) -> Result<Store> {
        let prefix = parse_prefix(&opened.path)?;
        let client = Client {
            objects: opened.objects,
            pages: opened.pages,
            folder: opened.folder,
            layout: opened.layout,
            stamp: opened.stamp,
            name: opened.name,
            endpoint: opened.endpoint,
            bulk_delete: opened.bulk_delete,
            counters: Counters::default(),
            remembered: Remembered::default(),
            conditional: OnceCell::new(),
        };
        Ok(Store {
            client: Arc::new(client),
            prefix,
            assumed_unfenced: false,
            has_begun: false,
            packs_here: None,
        })
    }

    /// The log below a further prefix, through the same client.
    ///
    /// # Errors
    /// `Invalid` for a prefix with empty or dotted segments.
    pub fn join(&self, relative: &str) -> Result<Store> {
        let mut prefix = self.prefix.clone();
        for part in parse_prefix(relative)?.as_ref().split('/').filter(|part| !part.is_empty()) {
            prefix = child(&prefix, part);
        }
        Ok(Store { prefix, ..self.clone() })
    }

    /// The same log, whose puts ask for no condition and look first instead, as on a store that knows none:
    /// [`probe`](Self::probe) says [`Conditional::Ignored`] without asking. For stores that answer conditional writes
    /// wrongly.
    #[must_use]
    pub fn assume_unfenced(self) -> Store {
        Store { assumed_unfenced: true, ..self }
    }

    /// Says whether files of the log are known to be there. If so, a put never makes the folder of the log anew, which is
    /// missing while its disk is not mounted.
    pub fn expect_log(&mut self, has_begun: bool) {
        self.has_begun = has_begun;
    }

    /// The place and how it is reached, for comparing it with others.
    pub fn identity(&self) -> String {
        let place = self.place();
        match (&self.client.endpoint, self.as_folder()) {
            (_, Some(folder)) => std::path::absolute(&folder).unwrap_or(folder).display().to_string(),
            (Some(endpoint), None) => format!("{place} at {endpoint}"),
            (None, None) => place,
        }
    }

    /// How messages name this place.
    pub fn place(&self) -> String {
        self.place_of(&self.prefix)
    }

    /// The folder, where the store is one.
    pub fn as_folder(&self) -> Option<std::path::PathBuf> {
        self.client.folder.as_ref().map(|folder| folder.root().join(self.prefix.as_ref()))
    }

    /// How keys are made here.
    pub fn layout(&self) -> Layout {
        self.client.layout
    }

    /// What all logs of this client asked and moved.
    pub fn counters(&self) -> &Counters {
        &self.client.counters
    }

    pub(crate) fn place_of(&self, key: &Key) -> String {
        let name = self.client.name.trim_end_matches('/');
        if key.as_ref().is_empty() { name.to_owned() } else { format!("{name}/{key}") }
    }

    /// The key of a file of this log, for messages.
    pub fn place_of_file(&self, level: u8, name: FileName) -> String {
        self.place_of(&self.key(level, name))
    }

    pub(crate) fn key(&self, level: u8, name: FileName) -> Key {
        child(&self.level_key(level), &name.to_string())
    }

    pub(crate) fn level_key(&self, level: u8) -> Key {
        self.client
            .layout
            .level_dir(level)
            .split('/')
            .fold(self.prefix.clone(), |key, part| child(&key, part))
    }

    // ---- listing

    /// The files of all levels, by one listing.
    pub async fn list(&self) -> Result<Log> {
        let mut files = Vec::new();
        let mut strays = Vec::new();
        for object in self.list_levels().await? {
            let tail = object.location.as_ref().strip_prefix(self.prefix.as_ref()).unwrap_or_default();
            let Some((level, name)) = self.client.layout.split(tail.trim_start_matches('/')) else {
                continue;
            };
            match parse_name(name) {
                Some(name) => files.push(FileRef {
                    level,
                    name,
                    size: object.size,
                    modified_ms: object.last_modified.timestamp_millis(),
                }),
                None => strays.push(object.location.to_string()),
            }
        }
        let mut log = Log::new(files);
        // The end of the log stays, for the next file must not take its name.
        let last = log.last();
        let is_cut = |file: &&FileRef| file.size < LEAST_BYTES && Some(file.max()) != last;
        let cut: Vec<FileRef> = log.files().filter(is_cut).cloned().collect();
        log.remove_all(&cut);
        strays.extend(
            cut.iter()
                .map(|file| format!("{} ({} bytes)", self.place_of_file(file.level, file.name), file.size)),
        );
        log.strays = strays;
        Ok(log)
    }

    /// The objects below all levels, and perhaps some beside them. Where keys of levels and of others have no folder of
    /// their own, only a listing by pages takes the first digits of the levels as its prefix and so leaves out all that
    /// stands beside: records, databases below this one, an older backup.
    async fn list_levels(&self) -> Result<Vec<object_store::ObjectMeta>> {
        let levels = self.client.layout.levels();
        let Some(pages) = &self.client.pages else {
            let folder = levels.strip_suffix('/');
            return self.list_objects(&folder.map_or(self.prefix.clone(), |f| child(&self.prefix, f))).await;
        };
        let start = if self.prefix.as_ref().is_empty() { "" } else { "/" };
        let start = format!("{}{start}{levels}", self.prefix);
        let mut objects = Vec::new();
        let mut page_token = None;
        loop {
            self.client.counters.request(Request::List, 1);
            let options = PaginatedListOptions { page_token, ..PaginatedListOptions::default() };
            let page = pages.list_paginated(Some(&start), options).await;
            let page = self.failing(page, || format!("list `{}`", self.place()))?;
            objects.extend(page.result.objects);
            page_token = page.page_token;
            if page_token.is_none() {
                return Ok(objects);
            }
        }
    }

    pub(crate) async fn list_objects(&self, folder: &Key) -> Result<Vec<object_store::ObjectMeta>> {
        let listed = self.client.objects.list(Some(folder)).try_collect::<Vec<_>>();
        let listed = match &self.client.folder {
            Some(_) => within(LISTING_BYTES, listed).await,
            // Each page has its own limit.
            None => listed.await,
        };
        let pages = listed.as_ref().map_or(1, |objects| objects.len().div_ceil(1000).max(1));
        self.client.counters.request(Request::List, pages as u64);
        self.failing(listed, || format!("list `{}`", self.place_of(folder)))
    }

    /// The names that keys directly below this place go on with, by one listing: where it holds the logs of many databases,
    /// those of the databases.
    pub async fn names_below(&self) -> Result<Vec<String>> {
        let listed = self.client.objects.list_with_delimiter(Some(&self.prefix));
        let listed = match &self.client.folder {
            Some(_) => within(LISTING_BYTES, listed).await,
            // Each page has its own limit.
            None => listed.await,
        };
        let count = listed.as_ref().map_or(0, |listed| listed.common_prefixes.len() + listed.objects.len());
        self.client.counters.request(Request::List, count.div_ceil(1000).max(1) as u64);
        let listed = self.failing(listed, || format!("list `{}`", self.place()))?;
        Ok(listed.common_prefixes.iter().filter_map(|key| key.filename()).map(str::to_owned).collect())
    }

    // ---- writing

    /// Puts a file of the log, if its name is free. `timestamp_ms`: the header's, milliseconds since the epoch.
    ///
    /// # Errors
    /// `Fenced` when other bytes stand there; `Unavailable` when it is unknown whether the put landed, in which case
    /// the same call may be made again.
    pub async fn put(&self, level: u8, name: FileName, bytes: Bytes, timestamp_ms: i64) -> Result<Put> {
        self.create(&self.key(level, name), vec![bytes], Some(timestamp_ms)).await
    }

    /// As [`put`](Self::put) into a folder, on a thread that may block. `None`, and nothing done: the store is no folder, or
    /// the folder has as many calls under way as it may.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_blocking(
        &self,
        level: u8,
        name: FileName,
        bytes: Bytes,
        timestamp_ms: i64,
    ) -> Result<Option<Put>> {
        let Some(folder) = &self.client.folder else { return Ok(None) };
        let Some(_turn) = folder.try_turn() else { return Ok(None) };
        let key = self.key(level, name);
        self.client.counters.request(Request::Put, 1);
        let put = match folder.put_blocking(&key, &[&bytes], Some(timestamp_ms), false, self.has_begun) {
            Ok(Published::Written) => {
                self.client.counters.bytes_out(bytes.len() as u64);
                Ok(Put::Written)
            }
            Ok(Published::Exists) => {
                self.client.counters.request(Request::Get, 1);
                let theirs = std::fs::read(folder.root().join(key.as_ref()))
                    .map_err(|e| Error::from_store(self.writing(&key), folder::store_error(&key, e)))?;
                self.same_or_fenced(&key, &[bytes], &theirs)
            }
            Err(e) => {
                self.client.counters.error();
                Err(self.not_written(&key, folder::store_error(&key, e)))
            }
        };
        put.map(Some)
    }

    /// Puts an object if its name is free, and finds out what happened where the reply does not tell.
    pub(crate) async fn create(
        &self,
        key: &Key,
        parts: Vec<Bytes>,
        timestamp_ms: Option<i64>,
    ) -> Result<Put> {
        if self.assumed_unfenced {
            return self.create_unfenced(key, parts, timestamp_ms).await;
        }
        let error = match self.put_object(key, parts.clone(), timestamp_ms, PutMode::Create).await {
            Ok(()) => return Ok(Put::Written),
            Err(e) => e,
        };
        use object_store::Error as E;
        match error {
            // Some adapters know no conditional put: look first. Such a store is `unfenced`.
            E::NotImplemented { .. } | E::NotSupported { .. } => {
                self.create_unfenced(key, parts, timestamp_ms).await
            }
            E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. } | E::Generic { .. } => {
                match self.get_key(key, None, size_of(&parts)).await {
                    Ok(theirs) => self.same_or_fenced(key, &parts, &theirs),
                    Err(_) => Err(self.not_written(key, error)),
                }
            }
            error => Err(self.not_written(key, error)),
        }
    }

    /// Why a put failed.
    pub(crate) fn not_written(&self, key: &Key, error: object_store::Error) -> Error {
        // A bucket has no folders: there it is the bucket that is missing.
        let has_folders = matches!(self.client.stamp, Stamp::Modified | Stamp::Roughly);
        match error {
            object_store::Error::NotFound { .. } if self.has_begun && has_folders => self.vanished(),
            error => Error::from_store(self.writing(key), error),
        }
    }

    /// Nothing of a log is there that was.
    pub fn vanished(&self) -> Error {
        Error::Vanished { place: self.place() }
    }

    async fn create_unfenced(&self, key: &Key, parts: Vec<Bytes>, timestamp_ms: Option<i64>) -> Result<Put> {
        match self.get_key(key, None, size_of(&parts)).await {
            Ok(theirs) => return self.same_or_fenced(key, &parts, &theirs),
            Err(e) if e.is_missing() => {}
            Err(e) => return Err(e),
        }
        let put = self.put_object(key, parts, timestamp_ms, PutMode::Overwrite).await;
        put.map(|()| Put::Written).map_err(|e| self.not_written(key, e))
    }

    pub(crate) async fn put_object(
        &self,
        key: &Key,
        parts: Vec<Bytes>,
        timestamp_ms: Option<i64>,
        mode: PutMode,
    ) -> object_store::Result<()> {
        let size = size_of(&parts);
        let (attributes, extensions) = self.stamped(timestamp_ms);
        let options = PutOptions { mode, attributes, extensions, ..PutOptions::default() };
        self.client.counters.request(Request::Put, 1);
        let put = self.client.objects.put_opts(key, PutPayload::from_iter(parts), options);
        let outcome = within(size, put).await;
        match &outcome {
            Ok(_) => self.client.counters.bytes_out(size),
            Err(object_store::Error::AlreadyExists { .. }) => {}
            Err(_) => self.client.counters.error(),
        }
        outcome.map(drop)
    }

    /// What a timestamp becomes in a put's options.
    pub(crate) fn stamped(&self, timestamp_ms: Option<i64>) -> (Attributes, Extensions) {
        let (mut attributes, mut extensions) = (Attributes::new(), Extensions::new());
        // Only files of the log have a timestamp.
        if self.has_begun && timestamp_ms.is_some() {
            extensions.insert(folder::HasBegun);
        }
        match (self.client.stamp, timestamp_ms) {
            (Stamp::Modified | Stamp::Roughly, Some(ms)) => {
                extensions.insert(folder::Modified(ms));
            }
            (Stamp::Metadata(name), Some(ms)) => {
                attributes.insert(Attribute::Metadata(name.into()), rfc3339(ms).into());
            }
            (_, None) => {}
        }
        (attributes, extensions)
    }

    pub(crate) fn writing(&self, key: &Key) -> String {
        format!("write `{}`", self.place_of(key))
    }

    fn same_or_fenced(&self, key: &Key, ours: &[Bytes], theirs: &[u8]) -> Result<Put> {
        let mut rest = theirs;
        let same = ours.iter().all(|part| match rest.strip_prefix(part.as_ref()) {
            Some(after) => {
                rest = after;
                true
            }
            None => false,
        });
        if same && rest.is_empty() {
            return Ok(Put::AlreadyThere);
        }
        let head = ours.first().map_or(&[][..], AsRef::as_ref);
        Err(self.fenced(key, head, theirs))
    }

    /// The error of him who comes second. Both arguments begin with the file's header.
    pub(crate) fn fenced(&self, key: &Key, ours: &[u8], theirs: &[u8]) -> Error {
        Error::Fenced {
            place: self.place_of(key),
            ours: Box::new(Origin::of(ours)),
            theirs: Box::new(Origin::of(theirs)),
        }
    }

    // ---- reading

    /// A file by its name, `None` where there is none.
    pub async fn find(&self, level: u8, name: FileName) -> Result<Option<FileRef>> {
        let key = self.key(level, name);
        self.client.counters.request(Request::Get, 1);
        match self.client.objects.head(&key).await {
            Ok(meta) => {
                let modified_ms = meta.last_modified.timestamp_millis();
                Ok(Some(FileRef { level, name, size: meta.size, modified_ms }))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => self.failing(Err(e), || format!("look for `{}`", self.place_of(&key))),
        }
    }

    /// The whole file.
    ///
    /// # Errors
    /// [`Error::is_missing`] when compaction has replaced it since the listing.
    pub async fn get(&self, file: &FileRef) -> Result<Bytes> {
        self.get_key(&self.key(file.level, file.name), None, file.size).await
    }

    /// A range of bytes, which must lie within the file.
    pub async fn get_range(&self, file: &FileRef, range: Range<u64>) -> Result<Bytes> {
        self.get_whole_range(&self.key(file.level, file.name), range).await
    }

    /// The whole file in order, in chunks of the store's choice.
    pub async fn get_stream(&self, file: &FileRef) -> Result<BoxStream<'static, Result<Bytes>>> {
        let key = self.key(file.level, file.name);
        let action = format!("read `{}`", self.place_of(&key));
        self.client.counters.request(Request::Get, 1);
        let got = within(0, self.client.objects.get(&key)).await;
        let got = self.failing(got, || action.clone())?;
        let client = self.client.clone();
        let chunks = stream::unfold(Some(got.into_stream()), |chunks| async {
            let mut chunks = chunks?;
            match within(0, async { chunks.next().await.transpose() }).await {
                Ok(None) => None,
                Ok(Some(bytes)) => Some((Ok(bytes), Some(chunks))),
                Err(e) => Some((Err(e), None)),
            }
        });
        let chunks = chunks.map(move |chunk| match chunk {
            Ok(bytes) => {
                client.counters.bytes_in(bytes.len() as u64);
                Ok(bytes)
            }
            Err(e) => {
                client.counters.error();
                Err(Error::from_store(action.clone(), e))
            }
        });
        Ok(chunks.boxed())
    }

    /// The header, by a range read.
    ///
    /// # Errors
    /// `Corrupt` when it is none, or tells of other transactions than the name.
    pub async fn header(&self, file: &FileRef) -> Result<Header> {
        self.head(file).await.map(|(_, header)| header)
    }

    /// The header as it stands in the file, and what it says.
    pub(crate) async fn head(&self, file: &FileRef) -> Result<(Bytes, Header)> {
        let key = self.key(file.level, file.name);
        let corrupt = |cause: String| Error::Corrupt {
            action: format!("read the header of `{}`", self.place_of(&key)),
            cause,
        };
        if file.size < Header::LEN as u64 {
            return Err(corrupt(format!("the file has only {} bytes", file.size)));
        }
        let bytes = self.get_range(file, 0..Header::LEN as u64).await?;
        let header = Header::parse(&bytes).map_err(|e| corrupt(e.to_string()))?;
        if FileName::from(&header) != file.name {
            return Err(corrupt(format!(
                "it tells of transactions {} to {}",
                header.min_txid, header.max_txid
            )));
        }
        Ok((bytes, header))
    }

    /// The file's timestamp, milliseconds since the epoch: in a folder the modification time, elsewhere the header's.
    pub async fn time_of(&self, file: &FileRef) -> Result<i64> {
        match self.client.stamp {
            Stamp::Modified => Ok(file.modified_ms),
            _ => Ok(self.header(file).await?.timestamp_ms),
        }
    }

    /// Learns the timestamps of these files, several at a time, as far as they are not known yet. Files that are gone
    /// are passed over.
    pub async fn learn_times(&self, files: Vec<FileRef>, times: &mut Times) -> Result<()> {
        let unknown: Vec<_> = files.into_iter().filter(|f| !times.contains(f)).collect();
        let mut answers = stream::iter(unknown)
            .map(|file| async move {
                let time = self.time_of(&file).await;
                (file, time)
            })
            .buffer_unordered(PARALLEL);
        while let Some((file, time)) = answers.next().await {
            match time {
                Ok(ms) => times.insert(file.level, file.name, ms),
                Err(e) if e.is_missing() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// A range that must lie within the object.
    pub(crate) async fn get_whole_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let bytes = self.get_key(key, Some(range.clone()), range.end - range.start).await?;
        if bytes.len() as u64 != range.end - range.start {
            return Err(Error::Corrupt {
                action: format!("read bytes {} to {} of `{}`", range.start, range.end, self.place_of(key)),
                cause: format!("only {} bytes are there", bytes.len()),
            });
        }
        Ok(bytes)
    }

    /// An object or a range of it, of about so many bytes.
    pub(crate) async fn get_key(
        &self,
        key: &Key,
        range: Option<Range<u64>>,
        about_bytes: u64,
    ) -> Result<Bytes> {
        self.client.counters.request(Request::Get, 1);
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let read = async { self.client.objects.get_opts(key, options).await?.bytes().await };
        let bytes =
            self.failing(within(about_bytes, read).await, || format!("read `{}`", self.place_of(key)))?;
        self.client.counters.bytes_in(bytes.len() as u64);
        Ok(bytes)
    }

    /// Size of an object, `None` where there is none.
    pub(crate) async fn head_key(&self, key: &Key) -> Result<Option<u64>> {
        self.client.counters.request(Request::Head, 1);
        match self.client.objects.head(key).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => self.failing(Err(e), || format!("look for `{}`", self.place_of(key))),
        }
    }

    /// Counts a failure and says what was tried.
    pub(crate) fn failing<T>(
        &self,
        outcome: object_store::Result<T>,
        action: impl FnOnce() -> String,
    ) -> Result<T> {
        outcome.map_err(|e| {
            self.client.counters.error();
            Error::from_store(action(), e)
        })
    }

    // ---- deleting

    /// Deletes files and what is kept beside them; one that is gone already is no error.
    pub async fn delete(&self, files: Vec<FileRef>) -> Result<()> {
        self.delete_checks(&files).await?;
        let keys = files.iter().map(|file| self.key(file.level, file.name)).collect();
        self.delete_keys(keys).await
    }

    pub(crate) async fn delete_keys(&self, keys: Vec<Key>) -> Result<()> {
        let requests = if self.client.bulk_delete { keys.len().div_ceil(1000) } else { keys.len() };
        self.client.counters.request(Request::Delete, requests as u64);
        let mut deleted = self.client.objects.delete_stream(stream::iter(keys.into_iter().map(Ok)).boxed());
        let mut first_error = None;
        while let Some(outcome) = deleted.next().await {
            match outcome {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => {
                    self.client.counters.error();
                    first_error.get_or_insert(e);
                }
            }
        }
        match first_error {
            None => Ok(()),
            Some(e) => Err(Error::from_store(format!("delete files of `{}`", self.place()), e)),
        }
    }

    // ---- what the store can do

    /// Whether the store honours put-if-absent. Asks once per client, with one or two puts under `litekeep/`; a folder
    /// needs no asking.
    pub async fn probe(&self) -> Result<Conditional> {
        if self.assumed_unfenced {
            return Ok(Conditional::Ignored);
        }
        if self.client.folder.is_some() {
            return Ok(Conditional::Honoured);
        }
        self.client.conditional.get_or_try_init(|| self.ask_conditional()).await.copied()
    }

    async fn ask_conditional(&self) -> Result<Conditional> {
        use object_store::Error as E;
        let key = self.record_key("probe")?;
        // The object stays, so that the next start is answered by the first put.
        for body in ["is there a", "conditional put?"] {
            match self
                .put_object(&key, vec![Bytes::from_static(body.as_bytes())], None, PutMode::Create)
                .await
            {
                Ok(()) => {}
                Err(E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. }) => {
                    return Ok(Conditional::Honoured);
                }
                Err(E::NotImplemented { .. } | E::NotSupported { .. }) => return Ok(Conditional::Ignored),
                Err(e) => return Err(Error::from_store(format!("probe `{}`", self.place()), e)),
            }
        }
        Ok(Conditional::Ignored)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(&self.place()).finish()
    }
}

fn size_of(parts: &[Bytes]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

/// How long a request that moves so many bytes may take.
pub fn time_limit(bytes: u64) -> Duration {
    LIMIT_BASE + Duration::from_millis(bytes / LIMIT_BYTES_PER_MS)
}

/// Bounds a request that moves so many bytes; beyond it nobody knows whether it landed.
pub(crate) async fn within<T>(
    bytes: u64,
    request: impl Future<Output = object_store::Result<T>>,
) -> object_store::Result<T> {
    let limit = time_limit(bytes);
    match tokio::time::timeout(limit, request).await {
        Ok(outcome) => outcome,
        Err(_) => Err(object_store::Error::Generic {
            store: "client",
            source: format!("no answer within {} s", limit.as_secs()).into(),
        }),
    }
}

/// Slashes at the ends mean nothing; the rest is taken as it is.
fn parse_prefix(prefix: &str) -> Result<Key> {
    Key::parse(prefix.trim_matches('/')).map_err(|e| Error::Invalid {
        action: format!("use `{prefix}` as a path in the store"),
        cause: e.to_string(),
    })
}

/// A key one segment deeper, spelled as given: keys made elsewhere must be found again.
fn child(key: &Key, segment: &str) -> Key {
    let joined = if key.as_ref().is_empty() { segment.to_owned() } else { format!("{key}/{segment}") };
    Key::parse(&joined).unwrap_or_else(|_| Key::from(joined))
}

/// As Litestream writes it: with nine digits of nanoseconds, which Go's `RFC3339Nano` also reads.
fn rfc3339(ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{time:.9}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_have_nanoseconds() {
        assert_eq!(rfc3339(1_700_000_000_123), "2023-11-14T22:13:20.123000000Z");
    }

    #[test]
    fn keys_follow_the_layout() {
        let memory = || Arc::new(object_store::memory::InMemory::new());
        let name = "0000000000000001-000000000000002a.ltx".parse().unwrap();
        let flat = Store::from_object_store(memory(), "/backup/app db/", Layout::Flat).unwrap();
        assert_eq!(flat.key(9, name).as_ref(), "backup/app db/0009/0000000000000001-000000000000002a.ltx");
        let ltx = Store::from_object_store(memory(), "", Layout::Ltx).unwrap().join("a/b").unwrap();
        assert_eq!(ltx.key(0, name).as_ref(), "a/b/ltx/0/0000000000000001-000000000000002a.ltx");
        assert!(ltx.join("a/../b").is_err());
    }
    #[tokio::test]
    async fn a_store_that_is_assumed_unfenced_looks_before_it_puts() {
        let memory = Arc::new(object_store::memory::InMemory::new());
        let store = Store::from_object_store(memory, "", Layout::Flat).unwrap();
        let unfenced = store.clone().assume_unfenced().join("app").unwrap();
        let counts = || store.counters().read();
        assert_eq!(unfenced.probe().await.unwrap(), Conditional::Ignored);
        assert_eq!((counts().put, counts().get), (0, 0));
        let name = "0000000000000001-0000000000000001.ltx".parse().unwrap();
        let body = Bytes::from_static(b"one");
        assert_eq!(unfenced.put(0, name, body.clone(), 1).await.unwrap(), Put::Written);
        assert_eq!((counts().put, counts().get), (1, 1));
        assert_eq!(unfenced.put(0, name, body, 1).await.unwrap(), Put::AlreadyThere);
        assert_eq!((counts().put, counts().get), (1, 2));
        assert!(unfenced.put(0, name, Bytes::from_static(b"two"), 1).await.is_err());
        assert_eq!(counts().put, 1);
    }
}
