//! A folder as an object store.
//!
//! Promises:
//! - A file appears whole, durable and only once (module `publish`).
//! - A small put costs one fsync of the file and one of its folder, and a handful of other system calls.
//! - The modification time of a file of the log is its timestamp, as Litestream expects it.
//! - Several processes may use one folder at once.
//! - A folder that hangs holds a few threads, however often its calls are tried again.
//!
//! `object_store`'s own `LocalFileSystem` cannot set modification times.

pub(crate) mod publish;
mod read;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path as Key;
use object_store::{
    CopyMode, CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, UploadPart,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use publish::{Published, Temporary};
#[cfg(any(feature = "sftp", feature = "webdav"))]
pub(crate) use read::resolve;

/// The modification time that a put gives the file, milliseconds since the epoch; travels in the options' extensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Modified(pub(crate) i64);

/// Asks a multipart upload not to overwrite; travels in the options' extensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IfAbsent;

/// Says that the log has begun, so that the folder above the file's own must be there: it is not made anew where a disk
/// is not mounted. Travels in the options' extensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HasBegun;

/// Calls that are under way in one folder at the same time.
const AT_ONCE: usize = 8;

/// A folder of the local file system, used as an object store. It is made by the first put.
#[derive(Clone)]
pub struct Folder(Arc<Inner>);

struct Inner {
    root: PathBuf,
    /// For each call that is under way.
    turns: Arc<Semaphore>,
    /// Folders that this process knows to be durable with all folders above them.
    settled: Mutex<HashSet<PathBuf>>,
}

impl Folder {
    /// Opens nothing and makes nothing.
    pub fn new(root: impl Into<PathBuf>) -> Folder {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Folder(Arc::new(Inner { root: root.into(), turns, settled: Mutex::default() }))
    }

    /// Leave to make a call on this thread now, if there are not many under way.
    pub(crate) fn try_turn(&self) -> Option<OwnedSemaphorePermit> {
        self.0.turns.clone().try_acquire_owned().ok()
    }

    /// Runs file work where it may block. Its turn ends with the work, also when nobody waits for it any more.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> object_store::Result<T> + Send + 'static,
    ) -> object_store::Result<T> {
        let turn = self.0.turns.clone().acquire_owned().await;
        let work = move || {
            let _turn = turn;
            work()
        };
        tokio::task::spawn_blocking(work).await?
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.0.root.join(key.as_ref())
    }

    /// Writes a file as a whole, on the calling thread.
    pub(crate) fn put_blocking(
        &self,
        key: &Key,
        slices: &[&[u8]],
        modified_ms: Option<i64>,
        overwrite: bool,
        has_begun: bool,
    ) -> io::Result<Published> {
        let target = self.path(key);
        self.with_folder(&target, has_begun, |target| publish::put(target, slices, modified_ms, overwrite))
    }

    /// Runs `write` once the target's folder is there and durable; again if the folder vanished meanwhile.
    fn with_folder<T>(
        &self,
        target: &Path,
        has_begun: bool,
        write: impl Fn(&Path) -> io::Result<T>,
    ) -> io::Result<T> {
        let folder = publish::parent(target);
        self.settle(folder, has_begun)?;
        match write(target) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.settled().clear();
                self.settle(folder, has_begun)?;
                write(target)
            }
            outcome => outcome,
        }
    }

    /// Makes a folder and what it stands in, and makes their names durable, once per process: a folder that is there
    /// may have been made by a process that died before it could make it durable. Of a log that has begun only the
    /// innermost folder is made.
    fn settle(&self, folder: &Path, has_begun: bool) -> io::Result<()> {
        if self.settled().contains(folder) {
            return Ok(());
        }
        match has_begun {
            false => std::fs::create_dir_all(folder)?,
            true => match std::fs::create_dir(folder) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                outcome => outcome?,
            },
        }
        let above_root = publish::parent(&self.0.root);
        for ancestor in folder.ancestors().skip(1) {
            let ancestor = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
            // The folders above the root are the user's; one that we may not read is not ours to sync.
            match publish::sync_folder(ancestor) {
                Err(e)
                    if e.kind() == io::ErrorKind::PermissionDenied && !ancestor.starts_with(&self.0.root) => {
                }
                outcome => outcome?,
            }
            if ancestor == above_root || !ancestor.starts_with(&self.0.root) {
                break;
            }
        }
        self.settled().insert(folder.to_owned());
        Ok(())
    }

    fn settled(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.0.settled.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Folder").field(&self.0.root).finish()
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "folder {}", self.0.root.display())
    }
}

#[async_trait]
impl ObjectStore for Folder {
    async fn put_opts(
        &self,
        location: &Key,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        let overwrite = match opts.mode {
            PutMode::Create => false,
            PutMode::Overwrite => true,
            PutMode::Update(_) => return Err(unsupported("put only over a known version")),
        };
        if !opts.attributes.is_empty() {
            return Err(unsupported("keep attributes"));
        }
        let modified_ms = opts.extensions.get::<Modified>().map(|m| m.0);
        let has_begun = opts.extensions.get::<HasBegun>().is_some();
        let (folder, key) = (self.clone(), location.clone());
        self.blocking(move || {
            let slices: Vec<&[u8]> = payload.iter().map(AsRef::as_ref).collect();
            outcome(&key, folder.put_blocking(&key, &slices, modified_ms, overwrite, has_begun))
        })
        .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Key,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        if !opts.attributes.is_empty() {
            return Err(unsupported("keep attributes"));
        }
        let target = self.path(location);
        let (folder, key, path) = (self.clone(), location.clone(), target.clone());
        let has_begun = opts.extensions.get::<HasBegun>().is_some();
        let make =
            move || folder.with_folder(&path, has_begun, Temporary::beside).map_err(|e| store_error(&key, e));
        let temporary = self.blocking(make).await?;
        Ok(Box::new(FolderUpload {
            folder: self.clone(),
            key: location.clone(),
            target,
            temporary: Some(Arc::new(temporary)),
            offset: 0,
            modified_ms: opts.extensions.get::<Modified>().map(|m| m.0),
            overwrite: opts.extensions.get::<IfAbsent>().is_none(),
        }))
    }

    async fn get_opts(&self, location: &Key, options: GetOptions) -> object_store::Result<GetResult> {
        let (path, key) = (self.path(location), location.clone());
        self.blocking(move || read::open(&path, &key, &options)).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Key>>,
    ) -> BoxStream<'static, object_store::Result<Key>> {
        let folder = self.clone();
        locations
            .ready_chunks(256)
            .then(move |keys| {
                let folder = folder.clone();
                async move {
                    let here = folder.clone();
                    let work = move || {
                        let remove = |key: Key| match std::fs::remove_file(here.path(&key)) {
                            Ok(()) => Ok(key),
                            Err(e) => Err(store_error(&key, e)),
                        };
                        Ok(keys.into_iter().map(|key| key.and_then(remove)).collect::<Vec<_>>())
                    };
                    match folder.blocking(work).await {
                        Ok(removed) => stream::iter(removed),
                        Err(e) => stream::iter(vec![Err(e)]),
                    }
                }
            })
            .flatten()
            .boxed()
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let (folder, prefix) = (self.clone(), prefix.cloned().unwrap_or_default());
        let here = folder.clone();
        stream::once(async move { folder.blocking(move || read::list(here.root(), &prefix)).await })
            .flat_map(|listing| match listing {
                Ok(found) => stream::iter(found.into_iter().map(Ok)).boxed(),
                Err(e) => stream::once(async { Err(e) }).boxed(),
            })
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> object_store::Result<ListResult> {
        let (root, prefix) = (self.0.root.clone(), prefix.cloned().unwrap_or_default());
        self.blocking(move || read::list_one(&root, &prefix)).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> object_store::Result<()> {
        let overwrite = matches!(options.mode, CopyMode::Overwrite);
        let (folder, from, key) = (self.clone(), from.clone(), to.clone());
        self.blocking(move || {
            let mut source = std::fs::File::open(folder.path(&from)).map_err(|e| store_error(&from, e))?;
            let target = folder.path(&key);
            let temporary =
                folder.with_folder(&target, false, Temporary::beside).map_err(|e| store_error(&key, e))?;
            io::copy(&mut source, &mut temporary.file()).map_err(|e| store_error(&key, e))?;
            outcome(&key, temporary.publish(&target, None, overwrite)).map(drop)
        })
        .await
    }
}

/// Parts are written in place as they come, so that nothing is held but the part in hand.
#[derive(Debug)]
struct FolderUpload {
    folder: Folder,
    key: Key,
    target: PathBuf,
    /// `None` once completed or aborted. Parts in flight hold it too, so that an abort waits for no one.
    temporary: Option<Arc<Temporary>>,
    offset: u64,
    modified_ms: Option<i64>,
    overwrite: bool,
}

#[async_trait]
impl MultipartUpload for FolderUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (begin, key, folder) = (self.offset, self.key.clone(), self.folder.clone());
        self.offset += data.content_length() as u64;
        let Some(temporary) = self.temporary.clone() else {
            return Box::pin(async { Err(unsupported("add to a finished upload")) });
        };
        Box::pin(async move {
            let work = move || {
                let mut at = begin;
                for slice in &data {
                    temporary.file().write_all_at(slice, at).map_err(|e| store_error(&key, e))?;
                    at += slice.len() as u64;
                }
                publish::start_writeback(temporary.file(), begin, at - begin);
                Ok(())
            };
            folder.blocking(work).await
        })
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let temporary = self.temporary.take().and_then(Arc::into_inner);
        let Some(temporary) = temporary else {
            return Err(unsupported("complete an upload that is finished or has parts in flight"));
        };
        let (key, target) = (self.key.clone(), self.target.clone());
        let (modified_ms, overwrite) = (self.modified_ms, self.overwrite);
        self.folder.blocking(move || outcome(&key, temporary.publish(&target, modified_ms, overwrite))).await
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.temporary = None;
        Ok(())
    }
}

fn outcome(key: &Key, published: io::Result<Published>) -> object_store::Result<PutResult> {
    match published {
        Ok(Published::Written) => {
            Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
        }
        Ok(Published::Exists) => {
            Err(store_error(key, io::Error::new(io::ErrorKind::AlreadyExists, "the file exists")))
        }
        Err(e) => Err(store_error(key, e)),
    }
}

pub(crate) fn store_error(key: &Key, error: io::Error) -> object_store::Error {
    let (path, kind, source) = (key.to_string(), error.kind(), Box::new(error));
    match kind {
        io::ErrorKind::NotFound => object_store::Error::NotFound { path, source },
        io::ErrorKind::AlreadyExists => object_store::Error::AlreadyExists { path, source },
        io::ErrorKind::PermissionDenied => object_store::Error::PermissionDenied { path, source },
        _ => object_store::Error::Generic { store: "files", source },
    }
}

fn unsupported(operation: &str) -> object_store::Error {
    object_store::Error::NotImplemented { operation: operation.to_owned(), implementer: "folder".to_owned() }
}
