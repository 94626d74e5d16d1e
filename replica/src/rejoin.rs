//! From a database that transactions came from to a copy again, after another node has taken over.
//!
//! What it has beyond the last transaction that it and the log have in common becomes a [fork](Fork), and its pages go back to that
//! transaction, in one transaction of the file, before which nobody else can write. Order: the fork, the pages, the position of the copy;
//! the local state of the replicator goes last. A crash in between repeats what was not done: the same fork has the same name.

use crate::comparison::sum_of;
use crate::follower::{Follower, Options};
use crate::fork::{Draft, Fork};
use crate::log::{Between, Tail};
use crate::position::{Doing, Held, Mark, Position};
use crate::promotion::forget_state;
use crate::replica::Replica;
use crate::start::{blocking, sums_of};
use crate::state::{note_source, real};
use litekeep_env::disk;
use litekeep_format::PageSource as _;
use litekeep_ltx::{FileName, PageSize, Pgno, Txid};
use litekeep_replicate::local::{MetaDir, PageSums, Spool, State, StateFile};
use litekeep_replicate::log_state::{self, LogState};
use litekeep_replicate::restore::{self, Goal, Progress};
use litekeep_replicate::{Error, Kind};
use litekeep_store::{Log, Store};
use std::path::Path;
use std::sync::Arc;

/// What a file at a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is there.
    Absent,
    /// A copy, or the beginning of one.
    Copy,
    /// A database whose transactions go, or went, to a log.
    Source,
    /// A database that litekeep knows nothing of.
    Unknown,
}

impl Standing {
    /// Looks. Not for a process that has the file open in SQLite.
    pub fn of(path: &Path) -> Standing {
        let path = real(path);
        let meta_dir = MetaDir::default_path(&path);
        if Position::peek(&meta_dir).is_some() {
            Standing::Copy
        } else if StateFile::peek(&meta_dir.join("state")).is_some() {
            Standing::Source
        } else if path.metadata().is_ok_and(|file| file.len() > 0) {
            Standing::Unknown
        } else {
            Standing::Absent
        }
    }
}

/// Whether the last transactions of a log come from a database.
///
/// # Errors
/// Those of the store.
pub async fn is_source_of(store: &Store, path: &Path) -> Result<bool, Error> {
    let meta_dir = MetaDir::default_path(&real(path));
    let Some(state) = StateFile::peek(&meta_dir.join("state")) else { return Ok(false) };
    let log = store.list().await?;
    match log.newest_l0() {
        Some(newest) => {
            let header = store.header(newest).await?;
            Ok(header.node == state.writer
                || newest.max() == state.txid && header.timestamp_ms == state.captured_ms)
        }
        None => Ok(log.last() == Some(state.txid)),
    }
}

/// Called where nobody else may have written since: whoever keeps others from writing lets go of the lock then, and the next to take it is this one.
pub type LetGo = Arc<dyn Fn() + Send + Sync>;

/// Makes a copy of what stands there and goes on with it: of a database that transactions came from, or a copy into which somebody
/// has written. What it has beyond the log is kept. `has_led`: a file that never had to do with the log was made while this node led, and is
/// kept as a whole. Call from within the runtime.
///
/// # Errors
/// `Invalid` for a database that never had to do with this log; those of the store and the disk.
pub async fn rejoin(
    store: &Store,
    path: &Path,
    has_led: bool,
    let_go: LetGo,
    options: Options,
    progress: &dyn Progress,
) -> Result<(Follower, Option<Fork>), Error> {
    let path = real(path);
    let meta_dir = MetaDir::default_path(&path);
    match Standing::of(&path) {
        Standing::Unknown if has_led => {
            return give_up_unknown(store, &path, &let_go, options, progress).await;
        }
        Standing::Source if path.exists() => return leave(store, &path, &let_go, options, progress).await,
        Standing::Source => {
            let (at, command) = (path.clone(), options.command.clone());
            let claimed = blocking(move || Replica::claim(&at, &command)).await?;
            forget_state(&meta_dir)?;
            drop(claimed);
        }
        Standing::Copy => {
            let (at, command, dir) = (path.clone(), options.command.clone(), meta_dir.clone());
            // The way there, or from there, did not come to its end.
            let stale = move || {
                let claimed = Replica::claim(&at, &command)?;
                if dir.join("state").exists() { forget_state(&dir) } else { Ok(()) }.map(|()| drop(claimed))
            };
            blocking(stale).await?;
        }
        Standing::Absent | Standing::Unknown => {}
    }
    let_go();
    match Follower::open(store, &path, options.clone(), progress).await {
        // A kill came while it was given up.
        Err(e) if e.kind() == Kind::Invalid && has_led && is_given_up(&path) => {
            tracing::warn!("{e}");
            give_up_unknown(store, &path, &let_go, options, progress).await
        }
        Err(e) if e.kind() == Kind::Invalid && is_ours_with_more(&path) => {
            tracing::warn!("{e}");
            take_back(store, &path, &let_go, options).await
        }
        opened => Ok((opened?, None)),
    }
}

/// It is on the way to a state of the log, and has another one.
fn is_given_up(path: &Path) -> bool {
    let doing = Position::peek(&MetaDir::default_path(path)).and_then(|position| position.doing);
    matches!(doing, Some((Doing::Patch, _))) && path.exists()
}

/// A copy of a known state, in which something is otherwise.
fn is_ours_with_more(path: &Path) -> bool {
    let position = Position::peek(&MetaDir::default_path(path));
    position.is_some_and(|position| position.held.is_some() && position.doing.is_none()) && path.exists()
}

/// Of a copy: goes back to the state that it is known to be of.
async fn take_back(
    store: &Store,
    path: &Path,
    let_go: &LetGo,
    options: Options,
) -> Result<(Follower, Option<Fork>), Error> {
    let (at, command) = (path.to_owned(), options.command.clone());
    let replica = blocking(move || Replica::claim(&at, &command)).await?;
    let gone = || Error::new(Kind::Internal, "the copy has no state");
    let held = replica.position.held.ok_or_else(gone)?;
    let mut follower = Follower::new(Tail::new(store, &options.command), replica, options);
    if !follower.tail.is_of(&held).await? {
        let why = format!("no file of the log ends with transaction {}, which the copy has", held.txid);
        return Err(Error::new(Kind::Invalid, why));
    }
    let state = log_state::open(store, Goal::Txid(held.txid)).await?;
    let fork = go_back(&mut follower, held, state, let_go).await?;
    follower.with(Replica::begin_work).await?;
    Ok((follower, fork))
}

/// Of a database that transactions came from.
async fn leave(
    store: &Store,
    path: &Path,
    let_go: &LetGo,
    options: Options,
    progress: &dyn Progress,
) -> Result<(Follower, Option<Fork>), Error> {
    let (at, command) = (path.to_owned(), options.command.clone());
    let replica = blocking(move || Replica::claim(&at, &command)).await?;
    let meta_dir = replica.meta.path().to_owned();
    let state = StateFile::peek(&meta_dir.join("state"));
    let state = state.ok_or_else(|| Error::new(Kind::Internal, "the local state has vanished"))?;
    let log = store.list().await?;
    let common = common_point(store, &log, &state, path).await?;
    let tail = Tail::new(store, &options.command);
    let (parallelism, url) = (options.parallelism, options.url.clone());
    let mut follower = Follower::new(tail, replica, options);
    let at_common = match log_state::open(store, Goal::Txid(common)).await {
        Ok(state) => held_at(store, &log, &state, common).await?.map(|held| (held, state)),
        Err(e) if e.kind() == Kind::Unavailable => return Err(e),
        Err(e) => {
            tracing::warn!(
                "transaction {common} cannot be restored any more, so all of `{}` is kept: {e}",
                path.display()
            );
            None
        }
    };
    let fork = match at_common {
        Some((held, at_common)) => {
            sums_at(&mut follower, &state, &log, common, parallelism, progress).await?;
            let page = first_page(at_common.clone()).await?;
            follower
                .with(move |replica| {
                    replica.sums.apply(&[(Pgno::FIRST, sum_of(Pgno::FIRST, &page))], held.page_count)?;
                    replica.sums.sync()
                })
                .await?;
            go_back(&mut follower, held, at_common, let_go).await?
        }
        None => Some(give_up(&mut follower, common, let_go, progress).await?),
    };
    note_source(&meta_dir, &url)?;
    let kept = fork.clone();
    let clear = move || {
        let spool = Spool::of(&meta_dir);
        // What the log has all the same is nobody's to keep.
        for file in spool.list()?.iter().filter(|file| file.name.max <= common) {
            spool.remove(file.name)?;
        }
        if let Some(kept) = kept.filter(|_| spool.dir().is_dir()) {
            kept.take_in(spool.dir())?;
        }
        forget_state(&meta_dir)
    };
    blocking(clear).await?;
    follower.with(Replica::begin_work).await?;
    Ok((follower, fork))
}

/// Keeps all of a file that nothing in the log leads to, and takes the log's last state in its place, in one transaction.
async fn give_up(
    follower: &mut Follower,
    base: Txid,
    let_go: &LetGo,
    progress: &dyn Progress,
) -> Result<Fork, Error> {
    let let_go = let_go.clone();
    let (fork, page_size, page_count) =
        follower.with(move |replica| replica.keep_whole(base, &let_go)).await?;
    follower.begin_at(base, page_size, page_count);
    follower.patch("nothing in the log leads to what the file has", true, progress).await?;
    Ok(fork)
}

/// The same of a file that the log knows nothing of.
async fn give_up_unknown(
    store: &Store,
    path: &Path,
    let_go: &LetGo,
    options: Options,
    progress: &dyn Progress,
) -> Result<(Follower, Option<Fork>), Error> {
    let (at, command, url) = (path.to_owned(), options.command.clone(), options.url.clone());
    let replica = blocking(move || Replica::claim(&at, &command)).await?;
    note_source(replica.meta.path(), &url)?;
    let mut follower = Follower::new(Tail::new(store, &options.command), replica, options);
    let fork = give_up(&mut follower, Txid::FIRST, let_go, progress).await?;
    follower.with(Replica::begin_work).await?;
    Ok((follower, Some(fork)))
}

/// The last transaction of ours in the log: the one of local state, or a later one whose confirmation did not come.
async fn common_point(store: &Store, log: &Log, state: &State, path: &Path) -> Result<Txid, Error> {
    let another = |why: &str| {
        Error::with_hint(
            Kind::Invalid,
            format!(
                "the log at {} is not the one that `{}` went to up to transaction {}: {why}",
                store.place(),
                path.display(),
                state.txid
            ),
            "if it is the right one, move the file and what litekeep keeps beside it away: a copy is made anew",
        )
    };
    match log.last() {
        None => return Err(store.vanished().into()),
        Some(last) if last < state.txid => return Err(another(&format!("it ends with {last}"))),
        Some(_) => {}
    }
    let name = |txid| FileName { min: txid, max: txid };
    if let Some(file) = store.find(0, name(state.txid)).await?
        && store.header(&file).await?.timestamp_ms != state.captured_ms
    {
        return Err(another("it has another transaction of that number"));
    }
    let mut common = state.txid;
    while let Some(file) = store.find(0, name(common.next())).await? {
        if store.header(&file).await?.node != state.writer {
            break;
        }
        common = common.next();
    }
    Ok(common)
}

/// How the end of a state is known again; `None`: no file ends with it.
async fn held_at(store: &Store, log: &Log, state: &LogState, txid: Txid) -> Result<Option<Held>, Error> {
    let Some(file) = log.files().find(|file| file.max() == txid) else { return Ok(None) };
    let header = store.header(file).await?;
    Ok(Some(Held {
        txid,
        time_ms: header.timestamp_ms,
        applied_ms: state.time_ms,
        page_count: header.commit,
        page_size: header.page_size,
        mark: Mark::of(&header),
    }))
}

async fn first_page(state: LogState) -> Result<Vec<u8>, Error> {
    blocking(move || Ok(state.view().page(Pgno::FIRST)?.to_vec())).await
}

/// Fills the checksums of the copy with those of the common state: what local state knows, and what the log has since.
async fn sums_at(
    follower: &mut Follower,
    state: &State,
    log: &Log,
    common: Txid,
    parallelism: usize,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let known = if state.boot == disk::boot_id() { Some(state.txid) } else { state.synced };
    let between = match known.filter(|known| *known <= common) {
        Some(known) => follower.tail.between(log, known, common).await?,
        None => Between::Hole,
    };
    let batch = match between {
        Between::Nothing => None,
        Between::Batch(batch) => Some(batch),
        Between::Hole => {
            let store = follower.tail.store.clone();
            let plan = restore::plan(&store, Goal::Txid(common)).await?;
            let sums = follower.with(|replica| Ok(replica.sums.clone())).await?;
            return sums_of(&store, plan, sums, parallelism, progress).await.map(drop);
        }
    };
    let page_count = state.page_count;
    follower
        .with(move |replica| {
            let known = PageSums::open(&replica.meta.file("pages"))?;
            copy_sums(&known, &replica.sums)?;
            let Some(batch) = batch else { return replica.sums.apply(&[], page_count) };
            let mut sums = Vec::with_capacity(batch.len());
            batch.for_each(|pgno, page| {
                sums.push((pgno, sum_of(pgno, page)));
                Ok(())
            })?;
            replica.sums.apply(&sums, batch.held(0).page_count)
        })
        .await
}

fn copy_sums(from: &PageSums, to: &PageSums) -> Result<(), Error> {
    let count = from.page_count()?;
    let mut known = from.ascending();
    let mut run = Vec::with_capacity(crate::comparison::RUN);
    for pgno in (1..=count).filter_map(Pgno::new) {
        run.push((pgno, known.get(pgno)?));
        if run.len() == crate::comparison::RUN {
            to.apply(&run, count)?;
            run.clear();
        }
    }
    to.apply(&run, count)
}

async fn go_back(
    follower: &mut Follower,
    held: Held,
    state: LogState,
    let_go: &LetGo,
) -> Result<Option<Fork>, Error> {
    let (url, let_go) = (follower.options.url.clone(), let_go.clone());
    let now_ms = follower.now_ms();
    follower
        .with(move |replica| {
            replica.open()?;
            replica.go_back(held, |pgno| Ok(state.view().page(pgno)?.to_vec()), &let_go, &url, now_ms)
        })
        .await
}

impl Replica {
    /// Keeps what is otherwise than in a state of the log, by its checksums, and goes back to that state.
    fn go_back(
        &mut self,
        held: Held,
        page_of: impl Fn(Pgno) -> Result<Vec<u8>, Error>,
        let_go: &LetGo,
        url: &str,
        now_ms: i64,
    ) -> Result<Option<Fork>, Error> {
        let (sums, meta_dir) = (self.sums.clone(), self.meta.path().to_owned());
        let writer = self.writer()?;
        if writer.page_size() != held.page_size {
            return Err(Error::with_hint(
                Kind::Invalid,
                format!("the pages of `{}` have another size than those of the log", self.path.display()),
                "move the file and what litekeep keeps beside it away: a copy is made anew",
            ));
        }
        let_go();
        writer.begin_over()?;
        let mut back = || {
            let page_count = writer.page_count()?;
            let (mut known, mut differing) = (sums.ascending(), vec![]);
            let mut draft = Draft::begin(&meta_dir, held.txid, false, held.page_size, page_count, now_ms)?;
            writer.read_all(|pgno, page| {
                if known.get(pgno)? != sum_of(pgno, page) {
                    differing.push(pgno);
                    draft.page(pgno, page)?;
                }
                Ok::<(), Error>(())
            })?;
            if draft.is_empty() && page_count == held.page_count {
                draft.drop_it();
                writer.rollback();
                return Ok(None);
            }
            let fork = draft.finish(url, now_ms)?;
            let lock_page = held.page_size.lock_page();
            let missing = (page_count + 1..=held.page_count).filter_map(Pgno::new);
            let changed = differing.into_iter().filter(|pgno| pgno.get() <= held.page_count);
            for pgno in changed.chain(missing).filter(|pgno| *pgno != lock_page) {
                writer.write(pgno, &page_of(pgno)?)?;
            }
            writer.commit(held.page_count)?;
            Ok(Some(fork))
        };
        let gone_back: Result<_, Error> = back();
        let fork = gone_back.inspect_err(|_| writer.rollback())?;
        self.reached(held)?;
        self.sync_names()?;
        self.in_wal = self.in_wal.max(1);
        self.tidy(true)?;
        Ok(fork)
    }

    /// Keeps all of the file.
    fn keep_whole(&mut self, base: Txid, let_go: &LetGo) -> Result<(Fork, PageSize, u32), Error> {
        self.open()?;
        let (meta_dir, now_ms) =
            (self.meta.path().to_owned(), litekeep_env::Clock::unix_ms(&litekeep_env::SystemClock));
        let writer = self.writer()?;
        let page_size = writer.page_size();
        let_go();
        writer.begin_over()?;
        let kept = (|| {
            let page_count = writer.page_count()?;
            let mut draft = Draft::begin(&meta_dir, base, true, page_size, page_count, now_ms)?;
            writer.read_all(|pgno, page| draft.page(pgno, page))?;
            Ok((draft.finish("", now_ms)?, page_size, page_count))
        })();
        writer.rollback();
        kept
    }
}

impl Follower {
    /// Some state of the log's past, only so that a later one can be taken.
    fn begin_at(&mut self, txid: Txid, page_size: PageSize, page_count: u32) {
        let mark = Mark { node: Default::default(), wal: (Default::default(), 0) };
        let (time_ms, applied_ms) = (0, self.now_ms());
        self.hold(Held { txid, time_ms, applied_ms, page_count, page_size, mark });
    }
}
