//! Keeps a replica at the end of its log.

use crate::batch::Batch;
use crate::comparison;
use crate::log::{Next, Tail};
use crate::position::{Doing, Held};
use crate::promotion::Claim;
use crate::replica::{NEXT, Replica};
use crate::source::Source;
use crate::start::{self, blocking};
use litekeep_env::file::sibling;
use litekeep_env::{Clock, disk};
use litekeep_ltx::{PageSize, Pgno, Txid};
use litekeep_replicate::local::{MetaDir, PageSums, Trouble};
use litekeep_replicate::restore::{self, Goal, Progress, RestorePlan};
use litekeep_replicate::{Error, Kind};
use litekeep_store::Store;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks whether somebody else has written, while nothing comes.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// How to follow.
#[derive(Clone)]
pub struct Options {
    /// Begin anew where a file is, which is kept aside.
    pub force: bool,
    /// Take the log although it is another one than before.
    pub new_timeline: bool,
    /// Requests at the same time.
    pub parallelism: usize,
    /// Tells when something was applied.
    pub clock: Arc<dyn Clock>,
    /// Where the log is, for those who look.
    pub url: String,
    /// The command that follows, for messages.
    pub command: String,
}

/// Something that is to be done.
#[derive(Debug)]
pub struct Work(Next);

/// What came into the file.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The state that it has now.
    pub held: Held,
    /// Transactions of the log, all in one of the file.
    pub transactions: u64,
    /// Files of the log.
    pub files: usize,
    /// Pages that were written.
    pub pages: usize,
}

/// What a comparison with the log found.
#[derive(Clone, Debug)]
pub struct Proof {
    /// The state that both have.
    pub txid: Txid,
    /// Pages that were compared.
    pub page_count: u32,
    /// How the file differs; `None`: in nothing.
    pub differs: Option<String>,
}

/// A replica, and its log.
pub struct Follower {
    pub(crate) tail: Tail,
    pub(crate) options: Options,
    /// `None` while a call that was not awaited to its end has it.
    replica: Option<Replica>,
    path: PathBuf,
    held: Option<Held>,
    looked_at: Instant,
    /// What takes the log over.
    pub(crate) claim: Option<Claim>,
}

impl Follower {
    /// Makes a replica, or goes on with one. Call from within the runtime.
    ///
    /// # Errors
    /// `Invalid` for a file that is none, that somebody else has written to or follows, and for another log than before; those
    /// of a restore.
    pub async fn open(
        store: &Store,
        path: &Path,
        options: Options,
        progress: &dyn Progress,
    ) -> Result<Follower, Error> {
        let opened = start::open(store, path, options.clone(), progress).await;
        if let Err(e) = &opened {
            let meta_dir = MetaDir::default_path(&crate::state::real(path));
            // One that another follower has is not ours to speak of.
            if crate::is_replica(path) && MetaDir::claimed_by(&meta_dir, path).is_none() {
                note_trouble(&meta_dir, e, options.clock.unix_ms());
            }
        }
        opened
    }

    pub(crate) fn new(tail: Tail, replica: Replica, options: Options) -> Follower {
        let (path, held) = (replica.path.clone(), replica.position.held);
        let (replica, looked_at) = (Some(replica), Instant::now());
        Follower { tail, options, replica, path, held, looked_at, claim: None }
    }

    /// The file is taken to have a state.
    pub(crate) fn hold(&mut self, held: Held) {
        self.held = Some(held);
        if let Some(replica) = &mut self.replica {
            replica.position.held = Some(held);
        }
    }

    pub(crate) fn take(&mut self) -> Option<Replica> {
        self.replica.take()
    }

    /// Asks it first what follows, from now on; `None`: the store alone.
    pub fn listen_to(&mut self, source: Option<Arc<dyn Source>>) {
        self.tail.listen_to(source);
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The state that it has.
    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.options.clock.unix_ms()
    }

    /// What is wrong, for those who look; `None`: nothing any more.
    pub fn tell(&self, trouble: Option<&Error>) {
        let meta_dir = MetaDir::default_path(&self.path);
        match trouble {
            Some(e) => note_trouble(&meta_dir, e, self.now_ms()),
            None => Trouble::clear(&meta_dir),
        }
    }

    pub(crate) async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Replica) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let gone = || Error::new(Kind::Internal, "the replica was let go in the middle of something");
        let mut replica = self.replica.take().ok_or_else(gone)?;
        let (replica, done) = blocking(move || {
            let done = work(&mut replica);
            Ok((replica, done))
        })
        .await?;
        self.held = replica.position.held;
        self.replica = Some(replica);
        done
    }

    /// Looks what is to be done; `None`: the file is at the end of the log. Nothing is lost when it is not awaited to its end.
    ///
    /// # Errors
    /// Those of the store, and `Invalid` for another log than before.
    pub async fn look(&mut self) -> Result<Option<Work>, Error> {
        let held = self.require_held()?;
        let next = match self.tail.next(&held).await {
            // A person wants that one.
            Err(e) if e.kind() == Kind::Invalid && self.options.new_timeline => {
                Next::Elsewhere { why: e.to_string(), is_same: true }
            }
            next => next?,
        };
        Ok(match next {
            Next::Nothing => None,
            next => Some(Work(next)),
        })
    }

    pub(crate) fn require_held(&self) -> Result<Held, Error> {
        self.held.ok_or_else(|| Error::new(Kind::Internal, "the replica has no state"))
    }

    /// Does it.
    ///
    /// # Errors
    /// `Invalid` when somebody else has written to the file: nothing is applied then. `Unavailable` when the store or the disk
    /// does not do its part: ask again.
    pub async fn apply(&mut self, work: Work, progress: &dyn Progress) -> Result<Applied, Error> {
        // What was found and not done is found again.
        self.try_apply(work, progress).await.inspect_err(|_| self.tail.forget())
    }

    async fn try_apply(&mut self, work: Work, progress: &dyn Progress) -> Result<Applied, Error> {
        let before = self.require_held()?;
        match work.0 {
            Next::Files(batch) if batch.page_size() == before.page_size => {
                let held = batch.held(self.now_ms());
                let (files, pages) = (batch.files(), batch.len());
                self.with(move |replica| replica.apply(&batch, held)).await?;
                let transactions = held.txid.get().saturating_sub(before.txid.get());
                Ok(Applied { held, transactions, files, pages })
            }
            Next::Files(batch) => {
                let why = format!(
                    "pages have {} bytes from transaction {} on",
                    batch.page_size().get(),
                    batch.to()
                );
                self.patch(&why, true, progress).await
            }
            Next::Elsewhere { why, is_same } => self.patch(&why, is_same, progress).await,
            Next::Nothing => Ok(Applied { held: before, transactions: 0, files: 0, pages: 0 }),
        }
    }

    /// While there is nothing to do: keeps the WAL short, and looks whether somebody else has written.
    ///
    /// # Errors
    /// `Invalid` when somebody has.
    pub async fn rest(&mut self) -> Result<(), Error> {
        if self.looked_at.elapsed() < LOOK_PAUSE {
            return Ok(());
        }
        self.looked_at = Instant::now();
        self.with(|replica| {
            replica.look()?;
            replica.tidy(true)
        })
        .await
    }

    pub(crate) async fn recover(&mut self, batch: Batch, is_known: bool) -> Result<(), Error> {
        let before = self.require_held()?;
        if batch.page_size() != before.page_size {
            return self.settle_as_known(before).await;
        }
        let held = batch.held(self.now_ms());
        self.with(move |replica| replica.recover(&batch, held, is_known)).await
    }

    /// The file must be as it is known: nothing explains a difference.
    pub(crate) async fn settle_as_known(&mut self, held: Held) -> Result<(), Error> {
        self.with(move |replica| {
            replica.require_own(|_| false)?;
            replica.reached(held)
        })
        .await
    }

    /// Goes over to the last state of the log, to which its files do not lead: restores it, and takes what is different as one
    /// transaction, so that readers go on.
    pub(crate) async fn patch(
        &mut self,
        why: &str,
        is_same: bool,
        progress: &dyn Progress,
    ) -> Result<Applied, Error> {
        let before = self.require_held()?;
        tracing::info!("going over to the last state of the log: {why}");
        let store = self.tail.store.clone();
        let plan = restore::plan(&store, Goal::Latest).await.map_err(|e| match e {
            // It was not empty before.
            Error::Store(litekeep_store::Error::Empty) => store.vanished().into(),
            e => e,
        })?;
        if plan.txid < before.txid && !self.options.new_timeline {
            return Err(self.tail.another(&before, &format!("it ends with {}", plan.txid)));
        }
        if plan.page_size != before.page_size {
            return self.replace(plan, progress).await;
        }
        let next = MetaDir::default_path(&self.path).join(NEXT);
        let patched = self.patch_from(plan, &next, is_same, progress).await;
        let _ = std::fs::remove_file(&next);
        let (held, files, pages) = patched?;
        self.tail.forget();
        self.tail.believe();
        let transactions = held.txid.get().saturating_sub(before.txid.get());
        Ok(Applied { held, transactions, files, pages })
    }

    async fn patch_from(
        &mut self,
        plan: RestorePlan,
        next: &Path,
        is_same: bool,
        progress: &dyn Progress,
    ) -> Result<(Held, usize, usize), Error> {
        let folder = next.parent().unwrap_or(Path::new("."));
        let (free, _) = disk::space(folder).map_err(Error::file("read the free space of", folder))?;
        let needed = plan.database_bytes();
        if free < needed {
            return Err(Error::with_hint(
                Kind::Unavailable,
                format!(
                    "compare the replica with a restored state: {needed} bytes are needed and {free} are free"
                ),
                "make room there: it goes on by itself",
            ));
        }
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true);
        let state = Arc::new(options.open(next).map_err(Error::file("create", next))?);
        let (parallelism, files) = (self.options.parallelism, plan.files.len());
        let plan = restore::fetch(&self.tail.store, plan, state.clone(), next, parallelism, progress).await?;
        let held = self.tail.held(&plan, self.now_ms()).await?;
        let is_same = is_same || self.options.new_timeline;
        let pages = self.with(move |replica| replica.patch(&state, held, is_same)).await?;
        Ok((held, files, pages))
    }

    /// Puts a new file in the place of the one that is there, whose pages have another size. Nobody may have it open.
    async fn replace(&mut self, plan: RestorePlan, progress: &dyn Progress) -> Result<Applied, Error> {
        let before = self.require_held()?;
        let (to, page_size) = (plan.txid, plan.page_size);
        let held = self.tail.held(&plan, self.now_ms()).await?;
        let files = plan.files.len();
        self.with(move |replica| {
            replica.look()?;
            replica.note(Doing::File, to)?;
            replica.let_go();
            Ok(())
        })
        .await?;
        let options = self.restoring(true);
        let restored =
            restore::to_path(&self.tail.store, Goal::Txid(to), &self.path, &options, progress).await;
        let kept = match restored {
            Ok(restored) => restored.and_then(|restored| restored.kept_aside),
            Err(e) => {
                self.with(move |replica| {
                    replica.open()?;
                    replica.reached(before)
                })
                .await?;
                return Err(in_the_way(&e, before, page_size));
            }
        };
        self.with(move |replica| replica.install(held)).await?;
        // It has a state of the log, and nothing else.
        for suffix in ["", "-wal", "-shm"] {
            let _ = kept.as_ref().map(|kept| std::fs::remove_file(sibling(kept, suffix)));
        }
        self.tail.forget();
        self.tail.believe();
        let transactions = held.txid.get().saturating_sub(before.txid.get());
        Ok(Applied { held, transactions, files, pages: held.page_count as usize })
    }

    pub(crate) fn restoring(&self, force: bool) -> restore::Options {
        restore::Options {
            force,
            parallelism: self.options.parallelism,
            clock: self.options.clock.clone(),
            ..restore::Options::default()
        }
    }

    /// Compares the file with the state that the log has, page by page.
    ///
    /// # Errors
    /// Those of a restore.
    pub async fn verify(&mut self, progress: &dyn Progress) -> Result<Proof, Error> {
        let txid = self.require_held()?.txid;
        let path = MetaDir::default_path(&self.path).join("replica-proof");
        let proof = self.verify_by(txid, &path, progress).await;
        let _ = std::fs::remove_file(&path);
        proof
    }

    async fn verify_by(&mut self, txid: Txid, path: &Path, progress: &dyn Progress) -> Result<Proof, Error> {
        let store = self.tail.store.clone();
        let plan = restore::plan(&store, Goal::Txid(txid)).await?;
        let sums = Arc::new(PageSums::open(path)?);
        let plan = start::sums_of(&store, plan, sums.clone(), self.options.parallelism, progress).await?;
        let found =
            self.with(move |replica| comparison::compare(replica.writer()?, &sums, |_: Pgno| false)).await?;
        let differs = match (found.page_count == plan.page_count, found.count) {
            (true, 0) => None,
            (true, _) => Some(found.text()),
            (false, _) => Some(format!("it has {} pages and not {}", found.page_count, plan.page_count)),
        };
        Ok(Proof { txid, page_count: plan.page_count, differs })
    }

    /// Lets the file go, with everything synced, as far as readers let it.
    ///
    /// # Errors
    /// When that fails; nothing is lost then, and the next start takes longer.
    pub async fn close(mut self) -> Result<(), Error> {
        match self.replica.take() {
            Some(replica) => blocking(move || replica.close()).await,
            None => Ok(()),
        }
    }
}

fn note_trouble(meta_dir: &Path, e: &Error, at_ms: i64) {
    let phase = if e.kind() == Kind::Unavailable { "failing" } else { "refused" };
    let (message, hint) = (e.to_string(), e.hint().map(str::to_owned));
    Trouble { phase: phase.to_owned(), message, hint, at_ms }.write(meta_dir);
}

/// The error for a file that cannot be exchanged now.
fn in_the_way(e: &Error, before: Held, page_size: PageSize) -> Error {
    let (was, is) = (before.page_size.get(), page_size.get());
    Error::with_hint(
        Kind::Unavailable,
        format!(
            "the pages of the database have {is} bytes instead of {was}, which takes a new file: {e}; readers see transaction {} until then",
            before.txid
        ),
        "it goes on as soon as nobody has the replica open",
    )
}
