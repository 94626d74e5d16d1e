//! Files whose change means something: one call for each burst of changes, and no polling.
//!
//! Folders are watched with everything below them, also what appears later. Of a file its folder is watched, so an editor that puts
//! a new file in its place counts. What is not there yet is waited for in the nearest folder that is.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use litekeep_env::watch::{Event, Watcher};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::error::{Error, Result};

/// Says of an absolute path whether it never counts.
pub type Never = Arc<dyn Fn(&Path) -> bool + Send + Sync>;

/// What is watched.
#[derive(Clone)]
pub struct Settings {
    /// Files and folders; folders with everything below them.
    pub paths: Vec<PathBuf>,
    /// Names below them that do not count, with all that is below these: `node_modules`, `*.log`. `*` stands for any characters, `?` for one.
    pub ignore: Vec<String>,
    /// What does not count, whoever watches it.
    pub never: Never,
    /// How long nothing must have changed before a change is told.
    pub delay: Duration,
}

impl Settings {
    /// Everything below these paths counts.
    pub fn new(paths: Vec<PathBuf>, delay: Duration) -> Settings {
        Settings { paths, ignore: vec![], never: Arc::new(|_| false), delay }
    }
}

/// A root, as it is named and without links.
struct Root {
    path: PathBuf,
    real: PathBuf,
}

impl Root {
    /// The names of events are made of it: it is absolute, whatever becomes of the working directory.
    fn new(path: &Path) -> Result<Root> {
        let path = std::path::absolute(path).map_err(Error::file(format!("watch `{}`", path.display())))?;
        Ok(Root { real: real(&path), path })
    }
}

/// A path without links; it need not be there itself.
pub fn real(path: &Path) -> PathBuf {
    let of_parent = || Some(fs::canonicalize(path.parent()?).ok()?.join(path.file_name()?));
    fs::canonicalize(path).ok().or_else(of_parent).unwrap_or_else(|| path.to_owned())
}

/// Whether it is this log or one that was rotated: `app.log.1.gz`.
pub(crate) fn is_log(path: &Path, log: &Path) -> bool {
    let rest = path.as_os_str().as_bytes().strip_prefix(log.as_os_str().as_bytes());
    rest.is_some_and(|rest| matches!(rest, b"" | [b'.', b'0'..=b'9', ..]))
}

/// Whether a name is of a pattern.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=name.len()).any(|skip| matches(rest, &name[skip..])),
        ([b'?', rest @ ..], [_, after @ ..]) => matches(rest, after),
        ([first, rest @ ..], [byte, after @ ..]) if first == byte => matches(rest, after),
        _ => false,
    }
}

/// Files are followed until this is dropped.
#[derive(Debug)]
pub(crate) struct Watch(JoinHandle<()>);

impl Watch {
    /// Follows files within a tokio runtime, by [`Files::follow`].
    pub(crate) fn new(following: impl Future<Output = ()> + Send + 'static) -> Watch {
        Watch(tokio::spawn(following))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Files that are watched.
pub(crate) struct Files {
    settings: Settings,
    roots: Vec<Root>,
    watcher: AsyncFd<Watcher>,
}

impl Files {
    /// Whether a change of this path counts.
    fn counts(&self, path: &Path) -> bool {
        let below = self.roots.iter().filter_map(|root| Some((root, path.strip_prefix(&root.path).ok()?)));
        let mut kept = below.filter(|(root, below)| {
            let is_ignored = below.components().any(|name| {
                let name = name.as_os_str().to_string_lossy();
                self.settings.ignore.iter().any(|pattern| matches(pattern.as_bytes(), name.as_bytes()))
            });
            !is_ignored && !(self.settings.never)(path) && !(self.settings.never)(&root.real.join(below))
        });
        kept.next().is_some()
    }

    /// Watches what is there and what will be.
    pub(crate) async fn watch(settings: Settings) -> Result<Arc<Files>> {
        let watcher = Watcher::new().and_then(|watcher| {
            // Its replacement is unsafe: the descriptor must stay open and the same, as it does here until both are dropped.
            #[allow(deprecated)]
            AsyncFd::new(watcher)
        });
        let watcher = watcher.map_err(Error::file("start inotify".into()))?;
        // A large tree takes a while.
        let attach = move || {
            let roots = settings.paths.iter().map(|path| Root::new(path)).collect::<Result<_>>()?;
            let files = Files { settings, roots, watcher };
            for root in &files.roots {
                let failed = Error::file(format!("watch `{}`", root.path.display()));
                files.attach(&root.path).map_err(failed)?;
            }
            Ok(Arc::new(files))
        };
        tokio::task::spawn_blocking(attach).await.expect("a walk does not panic")
    }

    /// Watches a path as far as it is there: the nearest folder above it, so that its coming and going is seen, and all below it.
    fn attach(&self, root: &Path) -> std::io::Result<()> {
        let nearest = || root.ancestors().skip(1).find(|above| above.is_dir());
        let mut watched = None;
        // What appeared before the watch was there has no event.
        while watched != nearest() {
            watched = nearest();
            watched.map_or(Ok(()), |above| self.watcher.get_ref().add(above))?;
        }
        if root.is_dir() { self.attach_below(root) } else { Ok(()) }
    }

    /// Watches a folder and the folders below it. Links are not followed: they may lead in a circle.
    fn attach_below(&self, dir: &Path) -> std::io::Result<()> {
        let mut open = vec![dir.to_owned()];
        while let Some(dir) = open.pop() {
            match self.watcher.get_ref().add(&dir) {
                // Gone again.
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                    ) =>
                {
                    continue;
                }
                result => result?,
            }
            // After the watch: what appears between the two is seen by both, and by neither never.
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_dir && self.counts(&entry.path()) {
                    open.push(entry.path());
                }
            }
        }
        Ok(())
    }

    /// Calls with a path that changed, after each burst of changes; the next one is gathered while the call goes on.
    pub(crate) async fn follow(
        self: Arc<Files>,
        on_change: impl Fn(PathBuf) -> BoxFuture<'static, ()> + Send,
    ) {
        let mut call: Option<BoxFuture<'static, ()>> = None;
        // What changed and since when nothing did.
        let mut changed: Option<(PathBuf, Instant)> = None;
        loop {
            let due = changed.as_ref().filter(|_| call.is_none()).map(|(_, at)| *at + self.settings.delay);
            tokio::select! {
                ready = self.watcher.readable() => {
                    match ready {
                        Ok(mut guard) => guard.clear_ready(),
                        Err(_) => return,
                    }
                    if let Some(path) = self.clone().look().await {
                        changed = Some((path, Instant::now()));
                    }
                }
                () = until(due) => match self.clone().look().await {
                    // Not over yet: this task was late, not the changes.
                    Some(path) => changed = Some((path, Instant::now())),
                    None => call = changed.take().map(|(path, _)| on_change(path)),
                },
                () = over(&mut call) => call = None,
            }
        }
    }

    /// Takes what happened, off the async threads: a large tree may have appeared.
    async fn look(self: Arc<Files>) -> Option<PathBuf> {
        tokio::task::spawn_blocking(move || self.take()).await.expect("a walk does not panic")
    }

    /// Takes what happened, and follows folders that came and went; a path that changed, if one counts.
    fn take(&self) -> Option<PathBuf> {
        let roots = || self.roots.iter().map(|root| root.path.as_path());
        let mut changed = None;
        let mut count = |path: &Path| {
            if self.counts(path) {
                changed = Some(path.to_owned());
            }
        };
        let told = self.watcher.get_ref().drain(|event| match event {
            Event::Modified(path) => count(&path),
            Event::Appeared(path) => {
                let roots = roots().filter(|root| root.starts_with(&path));
                roots.for_each(|root| self.appeared(root, &mut count));
                if self.counts(&path) {
                    self.appeared(&path, &mut count);
                }
            }
            Event::Vanished(path) => {
                // A folder that was moved away would go on telling under its old name.
                self.watcher.get_ref().remove(&path);
                count(&path);
            }
            Event::Overflow => roots().for_each(|root| self.appeared(root, &mut count)),
        });
        if let Err(error) = told {
            tracing::warn!("could not read what changed: {error}");
        }
        changed
    }

    /// Follows what appeared, if it is still there.
    fn appeared(&self, path: &Path, count: &mut impl FnMut(&Path)) {
        let is_root = self.roots.iter().any(|root| root.path == path);
        let found = path.symlink_metadata();
        let followed = match &found {
            _ if is_root => self.attach(path),
            Ok(found) if found.is_dir() => self.attach_below(path),
            _ => Ok(()),
        };
        if let Err(error) = followed {
            tracing::warn!("could not watch `{}`: {error}", path.display());
        }
        if found.is_ok() || !is_root {
            count(path);
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn over(call: &mut Option<BoxFuture<'static, ()>>) {
    match call {
        Some(call) => call.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
