//! Servers of files, reached by SFTP or WebDAV, as object stores.
//!
//! Promises:
//! - A file shows whole or not at all: it is sent under another name (`*.tmp`) and renamed when it is complete.
//! - Without leave to overwrite, a rename onto a taken name fails, as far as the server keeps that promise of its protocol.
//!
//! A crash leaves behind at most a `*.tmp` file beside the name; listings remove it after a day.

#[cfg(feature = "sftp")]
pub(crate) mod sftp;
#[cfg(feature = "webdav")]
pub(crate) mod webdav;

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{BoxFuture, Shared};
use futures::stream::{self, BoxStream, FuturesUnordered, StreamExt, TryStreamExt};
use futures::{FutureExt, TryFutureExt};
use object_store::path::Path as Key;
use object_store::{
    Attributes, CopyOptions, Extensions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, UploadPart,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::folder::publish::TEMPORARY_SUFFIX;
use crate::folder::{HasBegun, IfAbsent, Modified, store_error};

/// How old an unfinished file is when it counts as a crash's leftover, by the server's clock and ours.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 3600);

/// How long an upload that is given up may take to end in good order.
const ABORT_GRACE: Duration = Duration::from_secs(10);

/// Requests of one call under way at the same time.
const PARALLEL: usize = 8;

/// A file's content on its way to the server.
pub(crate) struct Content {
    pub(crate) chunks: BoxStream<'static, Bytes>,
    /// Bytes, if known.
    #[cfg_attr(not(feature = "webdav"), allow(dead_code))]
    pub(crate) size: Option<u64>,
}

/// What a protocol can do. Paths are those of keys: relative to the server's root, with slashes. Errors have the kinds
/// `NotFound`, `AlreadyExists` and `PermissionDenied` where that is what happened.
#[async_trait]
pub(crate) trait Files: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// Writes a new file in an existing folder. `modified_ms` becomes its modification time where the server lets us.
    async fn write(&self, path: &str, content: Content, modified_ms: Option<i64>) -> io::Result<()>;
    /// Renames a file. Without `overwrite` it is `AlreadyExists` when the name is taken.
    async fn rename(&self, from: &str, to: &str, overwrite: bool) -> io::Result<()>;
    /// Makes one folder. `NotFound` when the one above is missing; no error when it is there.
    async fn make_folder(&self, path: &str) -> io::Result<()>;
    /// Removes a file.
    async fn remove(&self, path: &str) -> io::Result<()>;
    /// Size and time of a file.
    async fn look(&self, path: &str) -> io::Result<Entry>;
    /// Reads a file or a range of it.
    async fn read(&self, path: &str, range: Option<GetRange>) -> io::Result<Reading>;
    /// The files and folders in a folder, `NotFound` where there is none.
    async fn list(&self, path: &str) -> io::Result<Vec<Entry>>;
}

/// A file or a folder, as the server shows it.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Last segment of the path.
    pub(crate) name: String,
    pub(crate) folder: bool,
    pub(crate) size: u64,
    pub(crate) modified: SystemTime,
}

/// A file being read.
pub(crate) struct Reading {
    pub(crate) file: Entry,
    pub(crate) range: Range<u64>,
    pub(crate) content: BoxStream<'static, io::Result<Bytes>>,
}

/// A server of files as an object store.
#[derive(Debug)]
pub(crate) struct Remote<F>(Arc<Inner<F>>);

impl<F> Clone for Remote<F> {
    fn clone(&self) -> Self {
        Remote(self.0.clone())
    }
}

#[derive(Debug)]
struct Inner<F> {
    files: F,
    /// Folders that are known to be there.
    made: Mutex<HashSet<String>>,
}

impl<F: Files> Remote<F> {
    pub(crate) fn new(files: F) -> Remote<F> {
        Remote(Arc::new(Inner { files, made: Mutex::default() }))
    }

    fn made(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.0.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the folder of a file, once per process; of a log that has begun only the innermost one.
    async fn settle(&self, path: &str, has_begun: bool) -> io::Result<()> {
        let Some((folder, _)) = path.rsplit_once('/') else { return Ok(()) };
        if !self.made().contains(folder) {
            match has_begun {
                true => self.0.files.make_folder(folder).await?,
                false => self.make_folders(folder).await?,
            }
            self.made().insert(folder.to_owned());
        }
        Ok(())
    }

    /// From the inside out, as most of a path is there and what is outside of it may not be ours to see.
    fn make_folders<'a>(&'a self, folder: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            match (self.0.files.make_folder(folder).await, folder.rsplit_once('/')) {
                (Err(e), Some((above, _))) if e.kind() == io::ErrorKind::NotFound => {
                    self.make_folders(above).await?;
                    self.0.files.make_folder(folder).await
                }
                (outcome, _) => outcome,
            }
        })
    }

    /// Sends a file under a name of its own, in the folder of `path`.
    async fn send(
        &self,
        temporary: &str,
        content: Content,
        (modified_ms, has_begun): (Option<i64>, bool),
    ) -> io::Result<()> {
        let sent = async {
            self.settle(temporary, has_begun).await?;
            self.0.files.write(temporary, content, modified_ms).await
        };
        let outcome = sent.await;
        if outcome.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            // Somebody took the folder away. The next try makes it.
            self.made().clear();
        }
        outcome
    }

    /// Gives a file that was sent its name, or removes it.
    async fn publish(&self, temporary: &str, key: &Key, overwrite: bool) -> object_store::Result<PutResult> {
        match self.0.files.rename(temporary, key.as_ref(), overwrite).await {
            Ok(()) => Ok(PutResult { e_tag: None, version: None, extensions: Default::default() }),
            Err(e) => {
                let _ = self.0.files.remove(temporary).await;
                Err(store_error(key, e))
            }
        }
    }

    async fn list_folder(&self, folder: &Key) -> object_store::Result<ListResult> {
        let mut found =
            ListResult { common_prefixes: Vec::new(), objects: Vec::new(), extensions: Default::default() };
        let entries = match self.0.files.list(folder.as_ref()).await {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            entries => entries.map_err(|e| store_error(folder, e))?,
        };
        for entry in entries {
            let below = if folder.as_ref().is_empty() { String::new() } else { format!("{folder}/") };
            let path = below + &entry.name;
            let key = Key::parse(&path).unwrap_or_else(|_| Key::from(path.as_str()));
            if entry.folder {
                found.common_prefixes.push(key);
            } else if path.ends_with(TEMPORARY_SUFFIX) {
                if now().duration_since(entry.modified).is_ok_and(|age| age > LEFTOVER_AGE) {
                    tracing::info!(path, "removing what a crashed writer left behind");
                    let _ = self.0.files.remove(&path).await;
                }
            } else {
                found.objects.push(meta(key, &entry));
            }
        }
        Ok(found)
    }

    async fn list_all(&self, prefix: Key) -> object_store::Result<Vec<ObjectMeta>> {
        let mut objects = Vec::new();
        let mut waiting = vec![prefix];
        let mut asked = FuturesUnordered::new();
        loop {
            while asked.len() < PARALLEL
                && let Some(folder) = waiting.pop()
            {
                asked.push(async move { self.list_folder(&folder).await });
            }
            let Some(found) = asked.next().await else { return Ok(objects) };
            let found = found?;
            objects.extend(found.objects);
            waiting.extend(found.common_prefixes);
        }
    }
}

impl<F: Files> fmt::Display for Remote<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.files)
    }
}

#[async_trait]
impl<F: Files> ObjectStore for Remote<F> {
    async fn put_opts(
        &self,
        location: &Key,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        let overwrite = match opts.mode {
            PutMode::Create => false,
            PutMode::Overwrite => true,
            PutMode::Update(_) => return Err(self.unsupported("put only over a known version")),
        };
        let temporary = beside(location);
        let how = how(&opts.extensions);
        let size = Some(payload.content_length() as u64);
        let content = Content { chunks: stream::iter(payload).boxed(), size };
        if let Err(e) = self.send(&temporary, content, how).await {
            let _ = self.0.files.remove(&temporary).await;
            return Err(store_error(location, e));
        }
        self.publish(&temporary, location, overwrite).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Key,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        let temporary = beside(location);
        let how = how(&opts.extensions);
        let (parts, queue) = mpsc::unbounded_channel();
        let (remote, path) = (self.clone(), temporary.clone());
        let task =
            tokio::spawn(async move { remote.send(&path, content_of(queue), how).await.map_err(Arc::new) });
        let abort = task.abort_handle();
        let sent = task.unwrap_or_else(|e| Err(Arc::new(io::Error::other(e)))).boxed().shared();
        Ok(Box::new(RemoteUpload {
            remote: self.clone(),
            key: location.clone(),
            temporary,
            overwrite: opts.extensions.get::<IfAbsent>().is_none(),
            size: 0,
            parts: Some(parts),
            sent,
            abort,
        }))
    }

    async fn get_opts(&self, location: &Key, options: GetOptions) -> object_store::Result<GetResult> {
        let error = |e| store_error(location, e);
        if options.version.is_some() {
            return Err(self.unsupported("get a version"));
        }
        let Reading { file, range, content } = match options.head {
            true => {
                let file = self.0.files.look(location.as_ref()).await.map_err(error)?;
                Reading { range: 0..file.size, file, content: stream::empty().boxed() }
            }
            false => self.0.files.read(location.as_ref(), options.range.clone()).await.map_err(error)?,
        };
        let meta = meta(location.clone(), &file);
        options.check_preconditions(&meta)?;
        let key = location.clone();
        let payload = content.map_err(move |e| store_error(&key, e)).boxed();
        Ok(GetResult {
            payload: GetResultPayload::Stream(payload),
            meta,
            range,
            attributes: Attributes::default(),
            extensions: Default::default(),
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Key>>,
    ) -> BoxStream<'static, object_store::Result<Key>> {
        let remote = self.clone();
        locations
            .map(move |key| {
                let remote = remote.clone();
                async move {
                    let key = key?;
                    match remote.0.files.remove(key.as_ref()).await {
                        Ok(()) => Ok(key),
                        Err(e) => Err(store_error(&key, e)),
                    }
                }
            })
            .buffered(PARALLEL)
            .boxed()
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let (remote, prefix) = (self.clone(), prefix.cloned().unwrap_or_default());
        stream::once(async move { remote.list_all(prefix).await })
            .map_ok(|objects| stream::iter(objects.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> object_store::Result<ListResult> {
        self.list_folder(&prefix.cloned().unwrap_or_default()).await
    }

    async fn copy_opts(&self, _: &Key, _: &Key, _: CopyOptions) -> object_store::Result<()> {
        Err(self.unsupported("copy"))
    }
}

impl<F: Files> Remote<F> {
    fn unsupported(&self, operation: &str) -> object_store::Error {
        object_store::Error::NotImplemented { operation: operation.to_owned(), implementer: self.to_string() }
    }
}

/// Parts go out one after the other through one request; each counts as sent when the next one is asked for.
#[derive(Debug)]
struct RemoteUpload<F> {
    remote: Remote<F>,
    key: Key,
    temporary: String,
    overwrite: bool,
    size: u64,
    /// `None` once completed or aborted.
    parts: Option<mpsc::UnboundedSender<(PutPayload, oneshot::Sender<()>)>>,
    sent: Shared<BoxFuture<'static, Result<(), Arc<io::Error>>>>,
    abort: AbortHandle,
}

fn content_of(queue: mpsc::UnboundedReceiver<(PutPayload, oneshot::Sender<()>)>) -> Content {
    let chunks = stream::unfold((queue, None::<oneshot::Sender<()>>), |(mut queue, taken)| async move {
        if let Some(taken) = taken {
            let _ = taken.send(());
        }
        // Nobody waits for parts of an upload that was given up: the file ends in good order and can be removed.
        let (payload, taken) = queue.recv().await.filter(|(_, taken)| !taken.is_closed())?;
        Some((stream::iter(payload), (queue, Some(taken))))
    });
    Content { chunks: chunks.flatten().boxed(), size: None }
}

impl<F: Files> RemoteUpload<F> {
    fn failure(key: &Key, error: &io::Error) -> object_store::Error {
        store_error(key, io::Error::new(error.kind(), error.to_string()))
    }
}

#[async_trait]
impl<F: Files> MultipartUpload for RemoteUpload<F> {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (taken, done) = oneshot::channel();
        self.size += data.content_length() as u64;
        if let Some(parts) = &self.parts {
            // One that is not received is dropped with its sender, and so noticed below.
            let _ = parts.send((data, taken));
        }
        let (sent, key) = (self.sent.clone(), self.key.clone());
        Box::pin(async move {
            if done.await.is_ok() {
                return Ok(());
            }
            match sent.await {
                Ok(()) => Ok(()),
                Err(e) => Err(Self::failure(&key, &e)),
            }
        })
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        if self.parts.take().is_none() {
            return Err(self.remote.unsupported("complete an upload that is finished"));
        }
        self.sent.clone().await.map_err(|e| Self::failure(&self.key, &e))?;
        let there = self.remote.0.files.look(&self.temporary).await.map_err(|e| store_error(&self.key, e))?;
        if there.size != self.size {
            let cause = format!("the server has {} of {} bytes", there.size, self.size);
            return Err(store_error(&self.key, io::Error::other(cause)));
        }
        self.remote.publish(&self.temporary, &self.key, self.overwrite).await
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.parts = None;
        if tokio::time::timeout(ABORT_GRACE, self.sent.clone()).await.is_err() {
            self.abort.abort();
        }
        match self.remote.0.files.remove(&self.temporary).await {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(store_error(&self.key, e)),
            _ => Ok(()),
        }
    }
}

/// The modification time that a put gives the file, and whether its log has begun.
fn how(extensions: &Extensions) -> (Option<i64>, bool) {
    (extensions.get::<Modified>().map(|m| m.0), extensions.get::<HasBegun>().is_some())
}

/// A name beside the key's that no other writer, here or elsewhere, makes.
fn beside(key: &Key) -> String {
    // Each of these hashers has a key of its own, from the system's randomness.
    let chance = std::hash::RandomState::new().build_hasher().finish();
    format!("{key}.{chance:016x}{TEMPORARY_SUFFIX}")
}

/// What of a file of this size a range means.
pub(crate) fn resolve(range: Option<&GetRange>, size: u64) -> io::Result<Range<u64>> {
    match range {
        None => Ok(0..size),
        Some(range) => crate::folder::resolve(range, size).map_err(io::Error::other),
    }
}

fn meta(location: Key, entry: &Entry) -> ObjectMeta {
    ObjectMeta {
        location,
        last_modified: entry.modified.into(),
        size: entry.size,
        e_tag: None,
        version: None,
    }
}

/// Compared only with the server's times; removing too early costs one failed put.
#[allow(clippy::disallowed_methods)]
fn now() -> SystemTime {
    SystemTime::now()
}
