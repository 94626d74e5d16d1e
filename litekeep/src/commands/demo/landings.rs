//! When the bank's commits stood in the backup, seen from outside: the folder of the log is watched, and each new file is
//! read.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use litekeep_env::watch::{Event, Watcher};
use litekeep_env::{Clock, SystemClock};
use litekeep_ltx::{Decoder, FileName, Pgno};

use super::bank::{self, Progress};

/// How long the end of the watch can take to be noticed.
const TICK: Duration = Duration::from_millis(100);

/// A file of the log with transfers in it.
#[derive(Clone, Debug)]
pub(super) struct Landing {
    /// When its name was there, on the monotonic clock.
    pub(super) at: Duration,
    /// The transfers that the database has with it.
    pub(super) progress: Progress,
}

/// The watch on a folder of the log.
pub(super) struct Landings {
    seen: Arc<Mutex<Vec<Landing>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Landings {
    /// Watches `folder`, which is made where it does not exist; `page` holds the writers' progress.
    ///
    /// # Errors
    /// When the folder cannot be watched.
    pub(super) fn watch(folder: &Path, page: Pgno) -> Result<Landings> {
        std::fs::create_dir_all(folder).with_context(|| format!("make `{}`", folder.display()))?;
        let watcher = Watcher::new().context("start inotify")?;
        watcher.add(folder).with_context(|| format!("watch `{}`", folder.display()))?;
        let seen: Arc<Mutex<Vec<Landing>>> = Arc::default();
        let over: Arc<AtomicBool> = Arc::default();
        let (into, until) = (seen.clone(), over.clone());
        let thread = std::thread::Builder::new().name("landings".into()).spawn(move || {
            // What came before the end is still read.
            while !until.load(Relaxed) || watcher.wait(Some(Duration::ZERO)).unwrap_or(false) {
                if watcher.wait(Some(TICK)).unwrap_or(false) {
                    let at = SystemClock.boottime();
                    let new: Vec<Landing> = appeared(&watcher)
                        .iter()
                        .filter_map(|path| Some(Landing { at, progress: read(path, page)? }))
                        .collect();
                    lock(&into).extend(new);
                }
            }
        });
        Ok(Landings { seen, over, thread: Some(thread.context("start a thread")?) })
    }

    /// Whether the backup has all these transfers.
    pub(super) fn have(&self, wanted: &Progress) -> bool {
        let seen = lock(&self.seen);
        wanted.iter().all(|(writer, number)| {
            seen.iter().rev().any(|landing| landing.progress.get(writer).is_some_and(|last| last >= number))
        })
    }

    /// Ends the watch; what landed, in order.
    pub(super) fn end(mut self) -> Vec<Landing> {
        self.join();
        std::mem::take(&mut *lock(&self.seen))
    }

    fn join(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Landings {
    fn drop(&mut self) {
        self.join();
    }
}

fn lock(seen: &Mutex<Vec<Landing>>) -> MutexGuard<'_, Vec<Landing>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Files of the log that are new. The bank writes for seconds, so the kernel's queue does not overflow.
fn appeared(watcher: &Watcher) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let drained = watcher.drain(|event| {
        if let Event::Appeared(path) = event
            && path.file_name().and_then(|name| name.to_str()?.parse::<FileName>().ok()).is_some()
        {
            paths.push(path);
        }
    });
    if let Err(error) = drained {
        tracing::warn!("could not read file events: {error}");
    }
    paths
}

/// The progress in a file; `None` where it has none, or is not whole, or is gone again.
fn read(path: &Path, wanted: Pgno) -> Option<Progress> {
    let mut decoder = Decoder::new(BufReader::new(File::open(path).ok()?)).ok()?;
    let mut page = vec![0; decoder.header().page_size.bytes()];
    let mut progress = None;
    while let Some(pgno) = decoder.next_page(&mut page).ok()? {
        if pgno == wanted {
            progress = Some(bank::progress_in(&page));
        }
    }
    // No more pages means that the file is whole.
    progress
}
