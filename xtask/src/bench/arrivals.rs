//! The store, and when each LTX file was there: in a folder, when it got its name (the fsync of its data came before,
//! that of the folder comes after); on S3, when the proxy passed on the success of its PutObject or of its
//! CompleteMultipartUpload. Nothing is read while the clock runs.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use litekeep_env::watch::{Event, Watcher};
use litekeep_testkit::fault_proxy::Kind;
use litekeep_testkit::s3_server::{BUCKET, REGION};
use litekeep_testkit::{FaultProxy, S3Options, S3Server, clock};

use crate::Target;

/// One file.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    /// CLOCK_MONOTONIC, nanoseconds.
    pub(crate) ns: i64,
    /// Below the store's root.
    pub(crate) key: String,
}

pub(crate) enum Store {
    Folder { root: PathBuf, seen: Arc<Mutex<Seen>>, stop: Arc<AtomicBool>, thread: Option<JoinHandle<()>> },
    S3 { server: S3Server, proxy: FaultProxy },
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    arrivals: Vec<Arrival>,
    paths: HashSet<PathBuf>,
    bytes: u64,
    /// What made the watch end; the arrivals are incomplete then.
    error: Option<String>,
}

impl Store {
    /// An empty store in `dir`.
    pub(crate) fn open(target: Target, dir: &Path) -> Result<Self> {
        let root = dir.join("store");
        std::fs::create_dir(&root).with_context(|| format!("make {root:?}"))?;
        if target == Target::S3 {
            let server = S3Server::start_with(S3Options { dir: Some(root), ..S3Options::default() })?;
            let proxy = FaultProxy::start(server.address(), 1)?;
            return Ok(Self::S3 { server, proxy });
        }
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let watcher = Watcher::new()?;
        watcher.add(&root)?;
        let thread = std::thread::spawn({
            let (root, seen, stop) = (root.clone(), seen.clone(), stop.clone());
            move || {
                if let Err(error) = watch(&watcher, &root, &seen, &stop) {
                    lock(&seen).error = Some(format!("{error:#}"));
                }
            }
        });
        Ok(Self::Folder { root, seen, stop, thread: Some(thread) })
    }

    /// The lines of a `replica:` below this name.
    pub(crate) fn replica(&self, name: &str) -> Vec<String> {
        match self {
            Self::Folder { root, .. } => vec!["type: file".into(), format!("path: {:?}", root.join(name))],
            Self::S3 { proxy, .. } => vec![
                "type: s3".into(),
                format!("bucket: {BUCKET}"),
                format!("path: {name:?}"),
                format!("endpoint: {}", proxy.endpoint()),
                format!("region: {REGION}"),
                "force-path-style: true".into(),
            ],
        }
    }

    /// The URL of what is below this name, for `litekeep.toml`.
    pub(crate) fn url(&self, name: &str) -> String {
        match self {
            Self::Folder { root, .. } => format!("file://{}", root.join(name).display()),
            Self::S3 { proxy, .. } => {
                format!("s3://{BUCKET}/{name}?endpoint={}&region={REGION}", proxy.endpoint())
            }
        }
    }

    /// The files that came, in the order of their coming.
    pub(crate) fn arrivals(&self) -> Result<Vec<Arrival>> {
        match self {
            Self::Folder { seen, .. } => {
                let seen = lock(seen);
                anyhow::ensure!(seen.error.is_none(), "watch the folder: {:?}", seen.error);
                Ok(seen.arrivals.clone())
            }
            Self::S3 { proxy, .. } => Ok(proxy
                .seen()
                .into_iter()
                .filter(|request| matches!(request.kind, Kind::PutObject | Kind::CompleteMultipartUpload))
                .filter_map(|request| {
                    let path = request.path.split('?').next().unwrap_or_default();
                    let key = path.strip_prefix('/')?.strip_prefix(BUCKET)?.strip_prefix('/')?.to_owned();
                    Some(Arrival { ns: request.succeeded_ns?, key })
                })
                .collect()),
        }
    }

    /// Bytes that were written to it.
    pub(crate) fn uploaded(&self) -> u64 {
        match self {
            Self::Folder { seen, .. } => lock(seen).bytes,
            Self::S3 { proxy, .. } => proxy.counts().total().bytes_in,
        }
    }

    /// Requests to it; `None`: a folder.
    pub(crate) fn requests(&self) -> Option<u64> {
        self.proxy().map(|proxy| proxy.counts().total().requests)
    }

    pub(crate) fn proxy(&self) -> Option<&FaultProxy> {
        match self {
            Self::Folder { .. } => None,
            Self::S3 { proxy, .. } => Some(proxy),
        }
    }

    /// The file that holds an object.
    pub(crate) fn object(&self, key: &str) -> PathBuf {
        match self {
            Self::Folder { root, .. } => root.join(key),
            Self::S3 { server, .. } => server.bucket_dir().join(key),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Self::Folder { stop, thread, .. } = self {
            stop.store(true, Ordering::Relaxed);
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch(watcher: &Watcher, root: &Path, seen: &Mutex<Seen>, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        if watcher.wait(Some(Duration::from_millis(50)))? {
            let mut result = Ok(());
            watcher.drain(|event| match event {
                Event::Appeared(path) if result.is_ok() => result = appeared(watcher, root, seen, &path),
                Event::Overflow => result = Err(anyhow::anyhow!("the kernel lost events")),
                _ => {}
            })?;
            result?;
        }
    }
    Ok(())
}

fn appeared(watcher: &Watcher, root: &Path, seen: &Mutex<Seen>, path: &Path) -> Result<()> {
    let ns = clock::monotonic_ns();
    if path.extension().is_some_and(|extension| extension == "ltx") {
        let mut seen = lock(seen);
        if seen.paths.insert(path.to_owned()) {
            seen.bytes += std::fs::metadata(path).map_or(0, |file| file.len());
            let key = path.strip_prefix(root)?.to_string_lossy().into_owned();
            seen.arrivals.push(Arrival { ns, key });
        }
    } else if path.is_dir() {
        watcher.add(path).with_context(|| format!("watch {path:?}"))?;
        // What came before the watch.
        for entry in std::fs::read_dir(path)? {
            appeared(watcher, root, seen, &entry?.path())?;
        }
    }
    Ok(())
}
