//! What an outage left in the spool of a database whose file is gone since: it is in no log, and in no file of SQLite.

use super::destination;
use crate::capture::Segment;
use crate::local::{MetaDir, Spool, Spooled, State, StateFile};
use crate::{Error, Kind};
use litekeep_ltx::Txid;
use litekeep_store::Store;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A replicator that runs puts them itself as soon as a store answers; it is given so long.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// The transactions that wait in the spool of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranded {
    /// The first of them.
    pub first: Txid,
    /// The last.
    pub last: Txid,
}

/// What waits in the spool of a database. Somebody may be about to put it.
pub fn stranded(meta_dir: &Path) -> Option<Stranded> {
    let names = std::fs::read_dir(Spool::of(meta_dir).dir()).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().to_str()?.parse::<litekeep_ltx::FileName>().ok());
    names.fold(None, |found: Option<Stranded>, name| {
        let so_far = found.unwrap_or(Stranded { first: name.min, last: name.max });
        Some(Stranded { first: so_far.first.min(name.min), last: so_far.last.max(name.max) })
    })
}

/// Puts what waits in the spool of a database into its logs, so that a restore has it; one that has all of it is enough. Returns
/// what that was, if anything. The files stay until a replicator has seen the logs.
///
/// # Errors
/// `Invalid` when they continue none of the logs, or another litekeep has them; those of the stores.
pub async fn put_stranded(stores: &[Store], path: &Path, meta_dir: &Path) -> Result<Option<Stranded>, Error> {
    let Some(found) = stranded(meta_dir) else { return Ok(None) };
    let until = Instant::now() + PATIENCE;
    let meta = loop {
        match MetaDir::claim(meta_dir, path) {
            Ok(meta) => break meta,
            Err(e) if Instant::now() >= until => return Err(e),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
        if stranded(meta_dir).is_none() {
            return Ok(Some(found));
        }
    };
    let spool = Spool::of(meta_dir);
    let files = spool.list()?;
    let (_, state) = StateFile::open(&meta.file("state"))?;
    let mut failed = None;
    let mut is_there = false;
    for store in stores {
        match put_all(store, &spool, &files, state).await {
            Ok(true) => is_there = true,
            Ok(false) => {
                let message = format!(
                    "transactions {} to {} of `{}`, which wait in `{}`, do not continue the log at {}",
                    found.first,
                    found.last,
                    path.display(),
                    spool.dir().display(),
                    store.place()
                );
                let hint = "to go on without them, move that folder away";
                failed.get_or_insert(Error::with_hint(Kind::Invalid, message, hint));
            }
            Err(e) => _ = failed.get_or_insert(e),
        }
    }
    match failed {
        Some(e) if !is_there => Err(e),
        _ => Ok(Some(found)),
    }
}

/// Whether a log has all of them in the end.
async fn put_all(
    store: &Store,
    spool: &Spool,
    files: &[Spooled],
    state: Option<State>,
) -> Result<bool, Error> {
    let log = store.list().await?;
    let head = log.last();
    let waiting: Vec<&Spooled> = files.iter().filter(|file| Some(file.name.max) > head).collect();
    if waiting.is_empty() {
        return Ok(true);
    }
    // Only of this database's own log: another replicator may have taken it over.
    let is_ours = match (log.newest_l0(), state) {
        (Some(newest), Some(state)) => store.header(newest).await?.node == state.writer,
        (None, Some(state)) => head == Some(state.txid),
        (_, None) => false,
    };
    let end = waiting
        .iter()
        .try_fold(head, |at, file| (at?.next() == file.name.min).then_some(Some(file.name.max)));
    if !is_ours || end.is_none() {
        return Ok(false);
    }
    for file in waiting {
        let segment = Arc::new(Segment::from_spool(spool, file)?);
        destination::put(store, spool, &segment).await?;
    }
    Ok(true)
}
