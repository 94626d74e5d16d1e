//! Putting a restored database in its place, without ever losing the one that stands there.

use super::in_use::{self, SIDECARS};
use super::plan::{Damaged, Goal, plan};
use super::{DEFAULT_PARALLELISM, Phase, Progress, fetch};
use crate::local::{MetaDir, restored};
use crate::{Error, Instead, Kind};
use litekeep_env::file::{self, sibling};
use litekeep_env::{Clock, SystemClock, disk, lock};
use litekeep_ltx::{PageSize, Point, Txid};
use litekeep_sql::Observer;
use litekeep_store::Store;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much SQLite is asked about the restored database before it gets its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Integrity {
    /// Nothing: the checksums of the log prove that the pages are those of the original.
    #[default]
    None,
    /// `PRAGMA quick_check`.
    Quick,
    /// `PRAGMA integrity_check`.
    Full,
}

/// How to restore.
#[derive(Clone)]
pub struct Options {
    /// Replace an existing database, which is kept aside.
    pub force: bool,
    /// Do nothing where a database exists.
    pub if_not_exists: bool,
    /// What to check besides the log's own checksums.
    pub integrity: Integrity,
    /// Requests at the same time.
    pub parallelism: usize,
    /// Dates the database that is kept aside.
    pub clock: Arc<dyn Clock>,
    /// litekeep's own state of the database, where it is not beside it.
    pub meta_dir: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            force: false,
            if_not_exists: false,
            integrity: Integrity::None,
            parallelism: DEFAULT_PARALLELISM,
            clock: Arc::new(SystemClock),
            meta_dir: None,
        }
    }
}

/// A restored database.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The transaction whose state it has.
    pub txid: Txid,
    /// The same, with the number of the commit where it is a single one.
    pub point: Point,
    /// When that transaction was seen, milliseconds since the epoch.
    pub time_ms: i64,
    /// Page size.
    pub page_size: PageSize,
    /// Pages.
    pub page_count: u32,
    /// Bytes of the log that were read.
    pub bytes: u64,
    /// Files of the log that were read.
    pub files: usize,
    /// Where the former database is now.
    pub kept_aside: Option<PathBuf>,
    /// Files of the log that are damaged and were gone around.
    pub damaged: Vec<Damaged>,
    /// The goal was an instant after the last transaction of the log.
    pub after_end: bool,
}

/// Restores a database to `path`; see the module for what is promised. `None`: one was there, and
/// [`Options::if_not_exists`] was set.
///
/// # Errors
/// `Invalid` when a database is there, or in use; else those of [`plan`] and [`fetch`]. Nothing has changed then.
pub async fn to_path(
    store: &Store,
    goal: Goal,
    path: &Path,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Option<Restored>, Error> {
    let Some(target) = Target::prepare(path, options)? else { return Ok(None) };
    let plan = plan(store, goal).await?;
    let temporary = target.begin(plan.database_bytes())?;
    let file = temporary.file.clone();
    let done = fetch(store, plan, file, &temporary.path, options.parallelism, progress).await?;
    let kept_aside = temporary.finish(target, options, progress).await?;
    Ok(Some(Restored {
        txid: done.txid,
        point: done.point(),
        time_ms: done.time_ms,
        page_size: done.page_size,
        page_count: done.page_count,
        bytes: done.bytes(),
        files: done.files.len(),
        kept_aside,
        damaged: done.damaged,
        after_end: done.after_end,
    }))
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|e| Err(Error::new(Kind::Internal, format!("restore: {e}"))))
}

/// Where the database will stand.
#[derive(Debug)]
pub(super) struct Target {
    path: PathBuf,
    folder: PathBuf,
}

impl Target {
    /// Finds out whether a database may come here; `None` when one is there and shall stay.
    pub(super) fn prepare(path: &Path, options: &Options) -> Result<Option<Target>, Error> {
        let target = Target::find(path)?;
        if target.exists()? {
            if options.if_not_exists {
                return Ok(None);
            }
            target.refuse_unless(options.force)?;
        }
        // Said before the work; what counts is asked again at the end.
        drop(in_use::exclude(&target.path)?);
        Ok(Some(target))
    }

    /// A link is followed, so that the database is replaced and not the link.
    fn find(path: &Path) -> Result<Target, Error> {
        let path = if path.is_symlink() {
            path.canonicalize().map_err(Error::file("follow the link", path))?
        } else {
            path.to_owned()
        };
        if path.is_dir() || path.file_name().is_none() {
            return Err(Error::with_hint(
                Kind::Invalid,
                format!("restore to `{}`: it is a folder", path.display()),
                "name the database file to be",
            ));
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        Ok(Target { path, folder })
    }

    fn exists(&self) -> Result<bool, Error> {
        self.path.try_exists().map_err(Error::file("look for", &self.path))
    }

    fn refuse_unless(&self, force: bool) -> Result<(), Error> {
        if force {
            return Ok(());
        }
        Err(Error::Instead {
            kind: Kind::Invalid,
            message: format!("restore to `{}`: a file is there already", self.path.display()),
            instead: Instead::Force,
        })
    }

    /// A temporary file beside the target, after leftovers were removed and the disk was found large enough.
    pub(super) fn begin(&self, bytes: u64) -> Result<Temporary, Error> {
        std::fs::create_dir_all(&self.folder).map_err(Error::file("create", &self.folder))?;
        self.remove_leftovers();
        let (free, _) =
            disk::space(&self.folder).map_err(Error::file("read the free space of", &self.folder))?;
        if free < bytes {
            let folder = self.folder.display();
            return Err(Error::with_hint(
                Kind::Invalid,
                format!("restore to `{folder}`: {bytes} bytes are needed and {free} are free"),
                "make room there, or restore to another file system with -o",
            ));
        }
        loop {
            let path = sibling(&self.path, &format!("{RESTORING}{:016x}", litekeep_env::random_u64()));
            let mut options = File::options();
            let file = options.read(true).write(true).create_new(true).open(&path);
            let file = file.map_err(Error::file("create", &path))?;
            if lock::claim_own(&path, &file) {
                return Ok(Temporary { path, file: Arc::new(file) });
            }
        }
    }

    /// Removes what restores that were killed left in the folder. Failing to costs space only.
    fn remove_leftovers(&self) {
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(restored) = restored_beside(&name.to_string_lossy()).map(|name| self.folder.join(name))
            else {
                continue;
            };
            // What SQLite puts beside it is locked by nobody.
            let claimed = lock::claim_leftover(&restored);
            if claimed.is_some() || restored.symlink_metadata().is_err() {
                tracing::info!(path = %entry.path().display(), "removing what a restore that was killed left behind");
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Gives the database and its sidecars, as far as they are there, names of their own.
    ///
    /// Links come first: at the instant at which the database leaves its place, all that belongs to it stands under its
    /// kept name already.
    fn keep_aside(&self, now_ms: i64) -> Result<Option<PathBuf>, Error> {
        let kept = self.free_name(now_ms)?;
        let sidecars = SIDECARS.map(|suffix| (sibling(&self.path, suffix), sibling(&kept, suffix)));
        let mut moved = vec![];
        for (from, to) in &sidecars {
            match std::fs::hard_link(from, to) {
                Ok(()) => moved.push((from, to, true)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                // A file system without links.
                Err(_) => moved.push((from, to, false)),
            }
        }
        let had_database = match std::fs::rename(&self.path, &kept) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => {
                for (_, to, _) in moved.iter().filter(|(.., linked)| *linked) {
                    let _ = std::fs::remove_file(to);
                }
                return Err(Error::file("keep aside", &self.path)(e));
            }
        };
        for (from, to, linked) in &moved {
            let done = if *linked { std::fs::remove_file(from) } else { std::fs::rename(from, to) };
            done.map_err(Error::file("keep aside", from))?;
        }
        Ok((had_database || !moved.is_empty()).then_some(kept))
    }

    /// A name for the old database that nothing has yet.
    fn free_name(&self, now_ms: i64) -> Result<PathBuf, Error> {
        let time = jiff::Timestamp::from_millisecond(now_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let stamp = time.strftime("%Y%m%dT%H%M%S");
        for nth in 1..1000 {
            let suffix = match nth {
                1 => format!("{KEPT}{stamp}"),
                _ => format!("{KEPT}{stamp}-{nth}"),
            };
            let kept = sibling(&self.path, &suffix);
            let taken = [""].iter().chain(&SIDECARS).any(|s| sibling(&kept, s).symlink_metadata().is_ok());
            if !taken {
                return Ok(kept);
            }
        }
        Err(Error::new(Kind::Invalid, format!("keep `{}` aside: all names are taken", self.path.display())))
    }
}

/// Between the target's name and a random number.
const RESTORING: &str = ".restoring-";
/// Between the target's name and the time of the restore (UTC).
const KEPT: &str = ".before-restore-";

/// `NAME.restoring-<16 hexadecimal digits>`, of this name or of what SQLite puts beside it during a check.
fn restored_beside(name: &str) -> Option<&str> {
    let (_, end) = name.rsplit_once(RESTORING)?;
    let suffix = SIDECARS.iter().find(|suffix| end.ends_with(**suffix)).map_or(0, |suffix| suffix.len());
    let digits = &end[..end.len() - suffix];
    let is_one = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_one.then(|| &name[..name.len() - suffix])
}

/// The file that is being restored; removed unless it was installed.
#[derive(Debug)]
pub(super) struct Temporary {
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
}

impl Temporary {
    /// Checks the content as far as was asked for, and puts it in its place. Returns where the old database is.
    pub(super) async fn finish(
        self,
        target: Target,
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<Option<PathBuf>, Error> {
        if options.integrity != Integrity::None {
            progress.begin(Phase::Check, 0);
            let (path, quick) = (self.path.clone(), options.integrity == Integrity::Quick);
            blocking(move || check(&path, quick)).await?;
        }
        progress.begin(Phase::Sync, 0);
        let (force, now_ms) = (options.force, options.clock.unix_ms());
        let meta_dir = options.meta_dir.clone().unwrap_or_else(|| MetaDir::default_path(&target.path));
        let restored = self.file.metadata().map_err(Error::file("look at", &self.path))?;
        let kept = blocking(move || self.install(&target, force, now_ms)).await?;
        if let Err(e) = restored::note(&meta_dir, &restored) {
            tracing::warn!("{e}");
        }
        Ok(kept)
    }

    /// Makes the content durable and gives the file its name.
    fn install(self, target: &Target, force: bool, now_ms: i64) -> Result<Option<PathBuf>, Error> {
        self.file.sync_all().map_err(Error::file("sync", &self.path))?;
        let mut kept = None;
        let path = &target.path;
        let exclusive = in_use::exclude(path)?;
        let old = std::fs::metadata(path).ok();
        if let Some(old) = &old {
            target.refuse_unless(force)?;
            self.take_after(old);
        }
        if old.is_some() || SIDECARS.iter().any(|s| sibling(path, s).exists()) {
            kept = target.keep_aside(now_ms)?;
        }
        let renamed = file::rename_if_absent(&self.path, path);
        renamed.map_err(Error::file("give the restored database its name", path))?;
        disk::sync_dir(&target.folder).map_err(Error::file("sync", &target.folder))?;
        drop(exclusive);
        Ok(kept)
    }

    /// Owner and permissions of the file that is replaced, as far as this user may give them.
    fn take_after(&self, old: &std::fs::Metadata) {
        let _ = self.file.set_permissions(old.permissions());
        let _ = std::os::unix::fs::fchown(&self.file, Some(old.uid()), Some(old.gid()));
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        for suffix in [""].iter().chain(&SIDECARS) {
            let _ = std::fs::remove_file(sibling(&self.path, suffix));
        }
    }
}

/// Asks SQLite; what it puts beside the file is removed again.
fn check(path: &Path, quick: bool) -> Result<(), Error> {
    let found = Observer::open(path)?.integrity(quick);
    for suffix in SIDECARS {
        let _ = std::fs::remove_file(sibling(path, suffix));
    }
    let found = found?;
    if found.is_empty() {
        return Ok(());
    }
    let shown: Vec<_> = found.iter().take(5).map(String::as_str).collect();
    Err(Error::Instead {
        kind: Kind::Corrupt,
        message: format!(
            "check the restored database: SQLite finds {} errors: {}",
            found.len(),
            shown.join("; ")
        ),
        instead: Instead::Earlier,
    })
}
