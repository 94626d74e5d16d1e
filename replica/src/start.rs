//! Where a file stands when following begins.
//!
//! Cases:
//! - There is none: the last state of the log is restored.
//! - It has what is kept beside it, page by page: it goes on. With a transaction under way it has the state before that or the
//!   one after it, and nothing in between, or somebody else has written.
//! - The machine went down: it has a state between the one that was synced last and the end. All that the log has after the
//!   former comes as one transaction, and leads from any of them to the end of the log; every other page must be as it is known.
//!   That costs one pass over the file and no more of the log than was not synced.
//! - It is another file: it is left alone.

use crate::comparison::sum_of;
use crate::follower::{Follower, Options};
use crate::log::{Between, Tail};
use crate::position::{Doing, Held, Position};
use crate::replica::Replica;
use crate::state::{note_source, real};
use litekeep_format::PageSource as _;
use litekeep_ltx::{Pgno, Txid};
use litekeep_replicate::local::{MetaDir, PageSums, StateFile};
use litekeep_replicate::restore::{self, Goal, Phase, Progress, RestorePlan};
use litekeep_replicate::{Error, Kind, log_state};
use litekeep_store::Store;
use std::path::Path;
use std::sync::Arc;

/// Opens a replica, or makes it.
pub(crate) async fn open(
    store: &Store,
    path: &Path,
    options: Options,
    progress: &dyn Progress,
) -> Result<Follower, Error> {
    let path = real(path);
    let meta_dir = MetaDir::default_path(&path);
    refuse_others(&path, &meta_dir, &options)?;
    let exists = path.try_exists().map_err(Error::file("look for", &path))?;
    let begins = !exists || options.force;
    // Nothing is made where there is no log.
    let plan = if begins { Some(restore::plan(store, Goal::Latest).await?) } else { None };
    let (at, command) = (path.clone(), options.command.clone());
    let replica = blocking(move || Replica::claim(&at, &command)).await?;
    note_source(&meta_dir, &options.url)?;
    let mut follower = Follower::new(Tail::new(store, &options.command), replica, options);
    match plan {
        Some(plan) => begin(&mut follower, plan, &path, progress).await?,
        None => go_on(&mut follower, progress).await?,
    }
    follower.with(Replica::begin_work).await?;
    Ok(follower)
}

/// What is not ours stays.
fn refuse_others(path: &Path, meta_dir: &Path, options: &Options) -> Result<(), Error> {
    let name = path.display();
    if path.is_dir() || path.file_name().is_none() {
        let message = format!("`{name}` is a folder");
        return Err(Error::with_hint(Kind::Invalid, message, "name the file that the replica shall be"));
    }
    if StateFile::peek(&meta_dir.join("state")).is_some() {
        return Err(Error::with_hint(
            Kind::Invalid,
            format!(
                "`{name}` is a database that litekeep replicates: it is where its transactions come from"
            ),
            "name another file for the replica",
        ));
    }
    if path.exists() && Position::peek(meta_dir).is_none() && !options.force {
        return Err(Error::with_hint(
            Kind::Invalid,
            format!("a file is at `{name}` already, and it is no replica"),
            format!("name another one, or `{} --force`, which keeps it aside", options.command),
        ));
    }
    Ok(())
}

async fn begin(
    follower: &mut Follower,
    plan: RestorePlan,
    path: &Path,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let to = plan.txid;
    let held = follower.tail.held(&plan, follower.now_ms()).await?;
    let former = follower.with(move |replica| {
        let former = replica.position;
        replica.position = Position::none();
        replica.note(Doing::File, to)?;
        // No file is there of which nothing is known.
        replica.sync_names()?;
        Ok(former)
    });
    let former = former.await?;
    let options = follower.restoring(follower.options.force);
    if let Err(e) = restore::to_path(&follower.tail.store, Goal::Txid(to), path, &options, progress).await {
        // What stands there is what it was.
        follower
            .with(move |replica| {
                replica.position = former;
                replica.save()
            })
            .await?;
        return Err(e);
    }
    follower.with(move |replica| replica.install(held)).await?;
    follower.tail.believe();
    Ok(())
}

async fn go_on(follower: &mut Follower, progress: &dyn Progress) -> Result<(), Error> {
    progress.begin(Phase::Check, 0);
    let position = follower
        .with(|replica| {
            replica.open()?;
            Ok((replica.position, replica.writer()?.page_size()))
        })
        .await;
    let (position, page_size) = position?;
    let Some(held) = position.held else { return adopt(follower, position, progress).await };
    if page_size != held.page_size {
        return adopt(follower, position, progress).await;
    }
    if position.is_doubtful() {
        return after_power_cut(follower, &position, held, progress).await;
    }
    match position.doing {
        Some((Doing::Commit, to)) => after_kill(follower, held, to, progress).await,
        Some((Doing::Patch, to)) => before_or_at(follower, held, to, progress).await,
        // A file of another page size was to come, and has not.
        Some((Doing::File, _)) | None => follower.settle_as_known(held).await,
    }
}

/// The file has the state before a transaction, or after it.
async fn after_kill(
    follower: &mut Follower,
    held: Held,
    to: Txid,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let log = follower.tail.store.list().await?;
    let between = follower.tail.between(&log, held.txid, to).await?;
    match between {
        Between::Batch(batch) => follower.recover(batch, true).await,
        // Compaction has merged it with later ones.
        Between::Nothing | Between::Hole => match follower.tail.all_after(&held, held.txid).await? {
            Between::Batch(batch) => follower.recover(batch, false).await,
            Between::Nothing | Between::Hole => before_or_at(follower, held, to, progress).await,
        },
    }
}

/// The file has one of two states; whether it is the later one only the log can tell.
async fn before_or_at(
    follower: &mut Follower,
    held: Held,
    to: Txid,
    progress: &dyn Progress,
) -> Result<(), Error> {
    match follower.settle_as_known(held).await {
        Err(e) if e.kind() == Kind::Invalid => take_as(follower, to, progress).await,
        settled => settled,
    }
}

/// The file has any state from the one that was synced last.
async fn after_power_cut(
    follower: &mut Follower,
    position: &Position,
    held: Held,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let synced = position.synced.unwrap_or(held.txid);
    match follower.tail.all_after(&held, synced).await? {
        Between::Batch(batch) => follower.recover(batch, false).await,
        Between::Nothing => follower.settle_as_known(held).await,
        Between::Hole => {
            tracing::warn!(
                "the machine went down, and the log does not lead on from transaction {synced}, which was synced last: what \
                 the replica has otherwise than the log is taken for what the power cut took"
            );
            follower.patch(&format!("transaction {synced} was synced last"), false, progress).await.map(drop)
        }
    }
}

/// A file was put there, and nothing noted it as whole: it is ours if it has the state that it was to have.
async fn adopt(follower: &mut Follower, position: Position, progress: &dyn Progress) -> Result<(), Error> {
    match position.doing {
        Some((Doing::File, to)) => take_as(follower, to, progress).await,
        _ => Err(Error::with_hint(
            Kind::Invalid,
            "another file is in the place of the replica",
            format!("`{} --force` keeps it aside and begins anew", follower.options.command),
        )),
    }
}

/// The file must have this state of the log.
async fn take_as(follower: &mut Follower, txid: Txid, progress: &dyn Progress) -> Result<(), Error> {
    let plan = restore::plan(&follower.tail.store, Goal::Txid(txid)).await?;
    let held = follower.tail.held(&plan, follower.now_ms()).await?;
    let sums = follower.with(|replica| Ok(replica.sums.clone())).await?;
    sums_of(&follower.tail.store, plan, sums, follower.options.parallelism, progress).await?;
    follower
        .with(move |replica| {
            replica.position.held = Some(held);
            replica.require_own(|_| false)?;
            replica.reached(held)
        })
        .await
}

/// The checksums that all pages of a state of the log must have in a file.
pub(crate) async fn sums_of(
    store: &Store,
    plan: RestorePlan,
    sums: Arc<PageSums>,
    parallelism: usize,
    progress: &dyn Progress,
) -> Result<RestorePlan, Error> {
    let done = restore::page_sums_into(store, plan, sums.clone(), parallelism, progress).await?;
    // Of page 1 not all bytes count.
    let state = log_state::open(store, done.point().into()).await?;
    let page_count = done.page_count;
    blocking(move || {
        let page = state.view().page(Pgno::FIRST)?;
        sums.apply(&[(Pgno::FIRST, sum_of(Pgno::FIRST, &page))], page_count)
    })
    .await?;
    Ok(done)
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|e| Err(Error::new(Kind::Internal, format!("follow: {e}"))))
}
