//! From the log to a database file: any transaction, any instant.
//!
//! Promises:
//! - What is restored is exactly the state after the transaction that the plan names. A hole in the log, a file whose
//!   checksum is wrong or a file that lacks pages is an error or is gone around by other files of the log, which is
//!   reported; the result is never an older state in silence.
//! - Every file that went into the result was verified by its own checksum, whole.
//! - Memory is bounded, whatever the size of the database or of the log's files.
//! - [`to_path`] writes into a temporary file beside the target, which takes the target's name only when it is complete
//!   and on disk. An existing database is refused, or kept aside with its WAL; never while anybody has it open.
//!
//! A crash leaves the temporary file (`NAME.restoring-*`) behind, which the next restore into the folder removes. A
//! crash between keeping the old database aside and giving the new one its name leaves no database at the target, and
//! the old one whole under its kept name.

mod apply;
mod compare;
mod forward;
mod in_use;
mod install;
mod plan;
pub(crate) mod set_back;
mod sink;
mod source;
mod stranger;
pub mod v03;

pub use compare::{Differences, differences};
pub use forward::{Outrun, outrun, roll_forward};
pub use install::{Integrity, Options, Restored, to_path};
pub use plan::{Damaged, Goal, RestorePlan, plan};
pub use set_back::{SetBack, set_back};
pub use stranger::refuse_stranger;

use crate::local::PageSums;
use crate::{Error, Kind, Overlay, commits};
use apply::{Failure, Limits, apply};
use litekeep_ltx::{Checksum, Pgno};
use litekeep_store::{Store, plan as log_plan};
use sink::{DatabaseFile, PageSumsOf, Sink};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Requests at the same time, unless told otherwise.
pub const DEFAULT_PARALLELISM: usize = 8;

/// What a restore is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading the log and writing pages; counted in bytes of the log.
    Fetch,
    /// Asking SQLite whether the database is sound.
    Check,
    /// Waiting for the disk.
    Sync,
}

/// Who wants to know how far a restore is. `()` does not.
pub trait Progress: Send + Sync {
    /// A phase begins, with so many bytes to do; 0 when that cannot be counted. [`Phase::Fetch`] begins again when a
    /// file had to be gone around.
    fn begin(&self, phase: Phase, total_bytes: u64);
    /// So many bytes more are done.
    fn advance(&self, bytes: u64);
}

impl Progress for () {
    fn begin(&self, _: Phase, _: u64) {}
    fn advance(&self, _: u64) {}
}

/// Writes the planned state into an empty file, which has the length of the database afterwards. Not synced.
///
/// `path` is the file's name for messages; `parallelism`: requests at the same time. Where a file is damaged, others that hold the same transactions
/// are used; the plan that was carried out in the end is returned.
///
/// # Errors
/// `Corrupt` when no chain of intact files leads to the transaction; `Unavailable` when the store does not answer.
/// The file's content is meaningless then.
pub async fn fetch(
    store: &Store,
    plan: RestorePlan,
    target: Arc<File>,
    path: &Path,
    parallelism: usize,
    progress: &dyn Progress,
) -> Result<RestorePlan, Error> {
    let mut done = carry_out(store, plan, parallelism, progress, |plan| {
        let file = DatabaseFile::begin(target.clone(), path, plan)?;
        Ok(Arc::new(file) as Arc<dyn Sink>)
    })
    .await?;
    add_commits(store, &mut done, &target, path, progress).await?;
    Ok(done)
}

/// Writes what packs have over the files of the plan.
async fn add_commits(
    store: &Store,
    plan: &mut RestorePlan,
    target: &File,
    path: &Path,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let goal = plan.point();
    let mut reached = plan.whole().expect("a chain has a base");
    let mut listings = 0;
    let mut steps = std::collections::VecDeque::from(plan.steps.clone());
    while let Some(step) = steps.pop_front() {
        let overlay = match Overlay::of_step(store, &step, reached, goal).await {
            // A pack of this machine was put meanwhile, or compaction has replaced a file.
            Err(Error::Store(e)) if e.is_missing() && listings < LISTINGS => {
                listings += 1;
                let log = store.list().await?;
                let packs = commits::packs(store, &log).await?;
                steps = log_plan::steps_to(&log, &packs, Some(reached), goal)?.into();
                continue;
            }
            overlay => overlay?,
        };
        if overlay.page_size != plan.page_size {
            let message = format!("the pages have another size from transaction {reached} on");
            return Err(Error::new(Kind::Corrupt, message));
        }
        for (pgno, page) in overlay.pages() {
            let offset = pgno.offset(plan.page_size);
            target.write_all_at(page, offset).map_err(Error::file("write", path))?;
        }
        (plan.page_count, plan.time_ms, plan.seq) = (overlay.page_count, overlay.time_ms, overlay.end.seq);
        target.set_len(plan.database_bytes()).map_err(Error::file("resize", path))?;
        reached = step.end(plan.txid);
        progress.advance(step.size());
    }
    Ok(())
}

/// The checksums of all pages of the planned state, without writing a database.
///
/// `each` gets runs of consecutive pages from several threads, oldest version first: the last word on a page counts. It
/// fits [`PageSums::apply`]. Nothing of it counts before this returns `Ok`, and as long as a plan that goes around a
/// damaged file may begin anew, pages come again.
///
/// # Errors
/// As [`fetch`], and those of `each`.
pub async fn page_sums<F>(
    store: &Store,
    plan: RestorePlan,
    parallelism: usize,
    progress: &dyn Progress,
    each: F,
) -> Result<RestorePlan, Error>
where
    F: Fn(&[(Pgno, Checksum)]) -> Result<(), Error> + Send + Sync + 'static,
{
    let each = Arc::new(each);
    carry_out(store, plan, parallelism, progress, |plan| {
        Ok(Arc::new(PageSumsOf::new(plan.page_size, each.clone())) as Arc<dyn Sink>)
    })
    .await
}

/// Fills the file of page checksums with those of the planned state. A crash leaves it with a mixture: the caller notes
/// the position only afterwards.
///
/// # Errors
/// As [`fetch`], and those of the file.
pub async fn page_sums_into(
    store: &Store,
    plan: RestorePlan,
    sums: Arc<PageSums>,
    parallelism: usize,
    progress: &dyn Progress,
) -> Result<RestorePlan, Error> {
    let page_count = plan.page_count;
    let into = sums.clone();
    let done = page_sums(store, plan, parallelism, progress, move |run| into.apply(run, page_count)).await?;
    sums.sync()?;
    Ok(done)
}

/// How often a restore lists the log anew because compaction has replaced files under it.
const LISTINGS: usize = 4;

/// Applies the plan to fresh sinks until it succeeds or nothing is left to try.
async fn carry_out(
    store: &Store,
    mut plan: RestorePlan,
    parallelism: usize,
    progress: &dyn Progress,
    mut begin: impl FnMut(&RestorePlan) -> Result<Arc<dyn Sink>, Error>,
) -> Result<RestorePlan, Error> {
    let parallelism = parallelism.max(1);
    let mut listings = 0;
    loop {
        progress.begin(Phase::Fetch, plan.bytes());
        let sink = begin(&plan)?;
        match apply(store, &plan, sink, parallelism, Limits::new(parallelism), progress).await {
            Ok(()) => return Ok(plan),
            Err(Failure::Other(e)) => return Err(e),
            Err(Failure::Damaged(file, cause)) => {
                tracing::warn!(file = store.place_of_file(file.level, file.name), %cause, "damaged file in the log");
                plan = plan.without(store, file, cause).await?;
            }
            Err(Failure::Gone(e)) => {
                listings += 1;
                if listings == LISTINGS {
                    return Err(e);
                }
                plan = plan.again(store).await?;
            }
        }
    }
}
