//! The file, and what is kept beside it: applies transactions and knows what the file must be.
//!
//! Order within a transaction: what is under way, the pages and their commit, their checksums, the position. Whatever of it a
//! kill leaves, the next start tells which of two states the file has.

use crate::batch::Batch;
use crate::comparison::{self, Found, RUN, compare, sum_of};
use crate::position::{Doing, Held, Position, PositionFile};
use litekeep_env::disk;
use litekeep_ltx::{Pgno, Txid};
use litekeep_replicate::local::{MetaDir, PageSums};
use litekeep_replicate::{Error, Kind};
use litekeep_sql::PageWriter;
use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After so many bytes of pages they go from the WAL into the file, as far as readers let them.
const CHECKPOINT_BYTES: u64 = 4 << 20;
/// A longer WAL is begun anew, for which readers are waited for a moment: where their transactions overlap, none of them ever
/// finds the other gone.
pub const WAL_LIMIT: u64 = 64 << 20;
const READERS_PATIENCE: Duration = Duration::from_millis(200);
const READERS_PAUSE: Duration = Duration::from_secs(2);
/// What a power cut may take is synced as often as this while much comes.
const SYNC_PAUSE: Duration = Duration::from_secs(1);
/// Two states whose pages agree in at least this share have a common history.
const COMMON_PERCENT: u64 = 50;

#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) path: PathBuf,
    pub(crate) meta: MetaDir,
    pub(crate) position: Position,
    positions: PositionFile,
    pub(crate) sums: Arc<PageSums>,
    /// `None` while a file is put in its place.
    writer: Option<PageWriter>,
    /// Device and inode of the file that the writer has open.
    identity: Option<(u64, u64)>,
    /// For pasting: the command that follows.
    command: String,
    /// Bytes of pages since the last checkpoint.
    pub(crate) in_wal: u64,
    synced_at: Instant,
    waited_at: Option<Instant>,
}

impl Replica {
    /// Claims what stands beside the file.
    pub(crate) fn claim(path: &Path, command: &str) -> Result<Replica, Error> {
        let meta = MetaDir::claim(&MetaDir::default_path(path), path)?;
        let (positions, position) = PositionFile::open(&meta.file(crate::position::NAME))?;
        let sums = Arc::new(PageSums::open(&meta.file(SUMS))?);
        Ok(Replica {
            path: path.to_owned(),
            meta,
            position: position.unwrap_or(Position::none()),
            positions,
            sums,
            writer: None,
            identity: None,
            command: command.to_owned(),
            in_wal: 0,
            synced_at: Instant::now(),
            waited_at: None,
        })
    }

    /// Opens the file.
    pub(crate) fn open(&mut self) -> Result<(), Error> {
        let file = self.path.metadata().map_err(Error::file("look at", &self.path))?;
        self.identity = Some((file.dev(), file.ino()));
        self.writer = Some(PageWriter::open(&self.path, WAL_LIMIT)?);
        Ok(())
    }

    /// Lets go of the file.
    pub(crate) fn let_go(&mut self) {
        (self.writer, self.identity) = (None, None);
    }

    pub(crate) fn writer(&mut self) -> Result<&mut PageWriter, Error> {
        self.writer.as_mut().ok_or_else(|| Error::new(Kind::Internal, "the replica is not open"))
    }

    pub(crate) fn held(&self) -> Result<Held, Error> {
        self.position.held.ok_or_else(|| Error::new(Kind::Internal, "the replica has no state"))
    }

    pub(crate) fn save(&mut self) -> Result<(), Error> {
        self.position.boot = disk::boot_id();
        self.positions.save(&self.position)
    }

    /// Something is under way.
    pub(crate) fn note(&mut self, doing: Doing, to: Txid) -> Result<(), Error> {
        self.position.doing = Some((doing, to));
        self.save()
    }

    /// The file has a state now.
    pub(crate) fn reached(&mut self, held: Held) -> Result<(), Error> {
        (self.position.held, self.position.doing) = (Some(held), None);
        self.save()
    }

    /// What is kept beside the file outlives a power cut, also by its name.
    pub(crate) fn sync_names(&self) -> Result<(), Error> {
        self.positions.sync()?;
        let beside = self.meta.path().parent().filter(|folder| !folder.as_os_str().is_empty());
        for folder in [self.meta.path(), beside.unwrap_or(Path::new("."))] {
            disk::sync_dir(folder).map_err(Error::file("sync", folder))?;
        }
        Ok(())
    }

    /// What was written before counts as lost by a power cut from here on.
    pub(crate) fn begin_work(&mut self) -> Result<(), Error> {
        self.position.is_closed = false;
        self.save()?;
        self.positions.sync()
    }

    /// The file was put there: takes it as it is.
    pub(crate) fn install(&mut self, held: Held) -> Result<(), Error> {
        // Readers are other users.
        std::fs::set_permissions(&self.path, Permissions::from_mode(0o644))
            .map_err(Error::file("let others read", &self.path))?;
        self.open()?;
        let sums = self.sums.clone();
        let page_count = comparison::take(self.writer()?, &sums)?;
        if page_count != held.page_count {
            let message = format!("the restored file has {page_count} pages and not {}", held.page_count);
            return Err(Error::new(Kind::Internal, message));
        }
        self.reached(held)?;
        self.sync()
    }

    /// Everything up to here outlives a power cut.
    fn sync(&mut self) -> Result<(), Error> {
        self.sums.sync()?;
        self.position.synced = self.position.held.map(|held| held.txid);
        self.save()?;
        self.positions.sync()?;
        self.synced_at = Instant::now();
        Ok(())
    }

    /// Applies a transaction.
    pub(crate) fn apply(&mut self, batch: &Batch, held: Held) -> Result<(), Error> {
        self.begin()?;
        let applied = self.note(Doing::Commit, batch.to()).and_then(|()| {
            let writer = self.writer()?;
            let mut sums = Vec::with_capacity(batch.len());
            batch.for_each(|pgno, page| {
                writer.write(pgno, page)?;
                sums.push((pgno, sum_of(pgno, page)));
                Ok(())
            })?;
            writer.commit(held.page_count)?;
            Ok(sums)
        });
        let sums = applied.inspect_err(|_| self.roll_back())?;
        self.sums.apply(&sums, held.page_count)?;
        self.reached(held)?;
        self.in_wal += batch.len() as u64 * u64::from(held.page_size.get());
        self.tidy(false)
    }

    fn roll_back(&mut self) {
        if let Some(writer) = &self.writer {
            writer.rollback();
        }
    }

    /// Begins a transaction, unless somebody else has written.
    fn begin(&mut self) -> Result<(), Error> {
        self.require_in_place()?;
        while !self.writer()?.begin()? {
            self.settle()?;
        }
        Ok(())
    }

    /// A path that leads to another file now is of no use to its readers.
    fn require_in_place(&self) -> Result<(), Error> {
        let found = self.path.metadata().ok().map(|file| (file.dev(), file.ino()));
        if found == self.identity && self.meta.is_in_place() {
            return Ok(());
        }
        let what = if found.is_none() { "is gone" } else { "was replaced by another file" };
        let message = format!("`{}` {what} while it was followed", self.path.display());
        let hint = match found {
            None => format!("`{}` makes it anew", self.command),
            Some(_) => format!("`{} --force` keeps that aside and makes it anew", self.command),
        };
        Err(Error::with_hint(Kind::Invalid, message, hint))
    }

    /// Whether somebody else has written, where he may have: a checkpoint of his changes nothing.
    pub(crate) fn look(&mut self) -> Result<(), Error> {
        self.require_in_place()?;
        if self.writer()?.is_foreign()? { self.settle() } else { Ok(()) }
    }

    fn settle(&mut self) -> Result<(), Error> {
        self.require_own(|_| false)?;
        self.writer()?.accept();
        Ok(())
    }

    /// The file must be as it is known; `may_differ`: but for these pages.
    pub(crate) fn require_own(&mut self, may_differ: impl Fn(Pgno) -> bool) -> Result<Found, Error> {
        let sums = self.sums.clone();
        let held = self.held()?;
        let may_grow = may_differ(Pgno::FIRST);
        let found = compare(self.writer()?, &sums, may_differ)?;
        if found.count == 0 && (may_grow || found.page_count == held.page_count) {
            return Ok(found);
        }
        let what = match found.count {
            0 => format!("it has {} pages and not {}", found.page_count, held.page_count),
            _ => found.text(),
        };
        Err(Error::with_hint(
            Kind::Invalid,
            format!(
                "somebody else has written to the replica `{}`: what transaction {} has is not in {what}",
                self.path.display(),
                held.txid
            ),
            format!(
                "nothing more is applied to it: `{} --force` keeps it aside as it is, and begins anew",
                self.command
            ),
        ))
    }

    /// Goes on where a transaction was interrupted. `is_known`: the file has the state before it, or the one after it; else
    /// any in between.
    pub(crate) fn recover(&mut self, batch: &Batch, held: Held, is_known: bool) -> Result<(), Error> {
        let found = self.require_own(|pgno| batch.changes(pgno))?;
        let before = self.held()?;
        let is_before = found.explained == 0 && found.page_count == before.page_count;
        if is_known && !is_before {
            let mut sums = Vec::with_capacity(batch.len());
            batch.for_each(|pgno, page| {
                sums.push((pgno, sum_of(pgno, page)));
                Ok(())
            })?;
            self.sums.apply(&sums, held.page_count)?;
            self.position.held = Some(held);
            self.require_own(|_| false)?;
        }
        self.apply(batch, held)
    }

    /// Takes the pages that a later state has otherwise from a file that has it, as one transaction. `is_same`: it is known to be
    /// of the same log.
    pub(crate) fn patch(&mut self, state: &File, held: Held, is_same: bool) -> Result<usize, Error> {
        let page_size = held.page_size;
        let at = self.meta.file(NEXT);
        let read = |pgno: Pgno, page: &mut [u8]| {
            state.read_exact_at(page, pgno.offset(page_size)).map_err(Error::file("read", &at))
        };
        let mut page = vec![0; page_size.bytes()];
        // All that the file does not have are different.
        let mut differs = vec![true; held.page_count as usize + 1];
        self.writer()?.read_all(|pgno, here| {
            let Some(differs) = differs.get_mut(pgno.get() as usize) else { return Ok(()) };
            read(pgno, &mut page)?;
            *differs =
                if pgno == Pgno::FIRST { sum_of(pgno, here) != sum_of(pgno, &page) } else { here != page };
            Ok::<(), Error>(())
        })?;
        let lock_page = page_size.lock_page();
        let numbers = || (1..=held.page_count).filter_map(Pgno::new).filter(|pgno| *pgno != lock_page);
        let differing: Vec<Pgno> = numbers().filter(|pgno| differs[pgno.get() as usize]).collect();
        let before = self.held()?;
        let same = u64::from(held.page_count).saturating_sub(differing.len() as u64);
        let is_kin =
            before.mark.node == held.mark.node || same * 100 >= u64::from(held.page_count) * COMMON_PERCENT;
        if !is_same && !is_kin {
            return Err(Error::with_hint(
                Kind::Invalid,
                format!(
                    "the log is another one than before: only {same} of its {} pages are those of the replica, which has transaction {}",
                    held.page_count, before.txid
                ),
                format!(
                    "if it is the right one, `{} --new-timeline` goes over to it; readers go on",
                    self.command
                ),
            ));
        }
        self.begin()?;
        let patched = self.note(Doing::Patch, held.txid).and_then(|()| {
            let writer = self.writer()?;
            for pgno in &differing {
                read(*pgno, &mut page)?;
                writer.write(*pgno, &page)?;
            }
            Ok(writer.commit(held.page_count)?)
        });
        patched.inspect_err(|_| self.roll_back())?;
        let mut run = Vec::with_capacity(RUN);
        for pgno in numbers() {
            read(pgno, &mut page)?;
            run.push((pgno, sum_of(pgno, &page)));
            if run.len() == RUN {
                self.sums.apply(&run, held.page_count)?;
                run.clear();
            }
        }
        self.sums.apply(&run, held.page_count)?;
        self.reached(held)?;
        self.in_wal += 1 + differing.len() as u64 * u64::from(page_size.get());
        self.tidy(true)?;
        Ok(differing.len())
    }

    /// Keeps the WAL short, and what a power cut may take. `is_resting`: nothing more comes for now.
    pub(crate) fn tidy(&mut self, is_resting: bool) -> Result<(), Error> {
        if self.in_wal == 0 || self.in_wal < CHECKPOINT_BYTES && !is_resting {
            return Ok(());
        }
        let frame = u64::from(self.held()?.page_size.get()) + 24;
        let writer = self.writer()?;
        let mut done = writer.checkpoint()?;
        self.in_wal = 0;
        let may_wait = self.waited_at.is_none_or(|waited_at| waited_at.elapsed() >= READERS_PAUSE);
        if u64::from(done.frames) * frame > WAL_LIMIT && may_wait {
            done = self.writer()?.checkpoint_all(READERS_PATIENCE)?;
            self.waited_at = Some(Instant::now());
        }
        if done.is_complete() && (is_resting || self.synced_at.elapsed() >= SYNC_PAUSE) {
            self.sync()?;
        }
        Ok(())
    }

    /// Everything is synced, as far as readers let it, and the file let go.
    pub(crate) fn close(mut self) -> Result<(), Error> {
        let done = self.writer()?.checkpoint()?;
        if done.is_complete() && self.position.doing.is_none() {
            self.position.is_closed = true;
            self.sync()?;
        }
        Ok(())
    }
}

/// The page checksums, in the folder of local state.
pub(crate) const SUMS: &str = "replica-pages";
/// A restored state, in the folder of local state.
pub(crate) const NEXT: &str = "replica-next";
