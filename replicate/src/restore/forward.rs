//! A database that its own log has outrun: a disk lost synced writes in a power cut, or a volume was set back to an
//! older image.
//!
//! Promises:
//! - Nothing happens without proof from the WAL that the file has lost transactions of the log.
//! - The file is brought to the log's last state only when nobody can have written to it since: it and its WAL were last
//!   changed before this machine started, and the WAL not later than the log. It is kept aside all the same. Otherwise a
//!   person decides.
//!
//! A crash leaves what a crash in any restore leaves.

use super::{Goal, Options, Progress, Restored, to_path};
use crate::capture::Broken;
use crate::capture::continuity::{self, Reached};
use crate::local::{Spool, StateFile};
use crate::{Error, Kind};
use litekeep_env::Clock;
use litekeep_env::file::sibling;
use litekeep_format::{WalHeader, frame_size};
use litekeep_ltx::{Header, Txid};
use litekeep_store::Store;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// What was committed so long after the log's end, milliseconds, is taken for the last commits before the machine went
/// down. Later ones may be of another boot, in which the application ran and the store did not answer.
const LAST_COMMITS_MS: i64 = 5000;

/// What a file has lost.
#[derive(Clone, Copy, Debug)]
pub struct Outrun {
    /// Last transaction of the log.
    head: Txid,
    /// Its time, milliseconds since the epoch.
    time_ms: i64,
    why: Broken,
    /// Nobody can have written to the file since.
    is_untouched: bool,
}

/// Whether the log has outrun its database; `None` as well when that cannot be told. `meta_dir`: litekeep's own state of
/// the database. Nobody may have it open.
///
/// # Errors
/// When the store does not answer or a file cannot be read.
pub async fn outrun(
    store: &Store,
    path: &Path,
    meta_dir: &Path,
    clock: &dyn Clock,
) -> Result<Option<Outrun>, Error> {
    let Some(state) = StateFile::peek(&meta_dir.join("state")) else { return Ok(None) };
    let log = store.list().await?;
    let (Some(file), Some(head)) = (log.newest_l0(), log.last()) else { return Ok(None) };
    let newest = store.header(file).await?;
    if newest.max_txid != head || head < state.txid || newest.page_size != state.page_size {
        return Ok(None);
    }
    let place = state.place.filter(|_| state.txid == head);
    let known = place.map(|p| Reached { salt: p.salt, frames: p.frames, checksum: Some(p.checksum) });
    let Some(reached) = known.or_else(|| reached_by(&newest)) else { return Ok(None) };
    let Some(why) = continuity::lost(path, reached)? else { return Ok(None) };
    let is_ours = state.txid == head || newest.node == state.writer;
    let nothing_waits = Spool::of(meta_dir).list()?.is_empty();
    let ended_ms = state.confirmed_ms.max(newest.timestamp_ms);
    let is_untouched = is_ours && nothing_waits && is_untouched(path, ended_ms, clock)?;
    Ok(Some(Outrun { head, time_ms: newest.timestamp_ms, why, is_untouched }))
}

/// Brings an outrun database to the end of the log.
///
/// # Errors
/// `Invalid` when a person must decide whether the file or the log is right; those of [`to_path`]. Nothing has changed
/// then.
pub async fn roll_forward(
    store: &Store,
    path: &Path,
    outrun: &Outrun,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Restored, Error> {
    if !outrun.is_untouched {
        return Err(undecided(store, path, outrun));
    }
    let options = Options { force: true, if_not_exists: false, ..options.clone() };
    let restored = to_path(store, Goal::Latest, path, &options, progress).await?;
    restored.ok_or_else(|| Error::new(Kind::Internal, "a forced restore did nothing"))
}

/// Where in the WAL the newest file ends, as its header tells; `None` for one that was not read from a WAL.
fn reached_by(newest: &Header) -> Option<Reached> {
    let frames = (newest.wal_offset + newest.wal_size).checked_sub(WalHeader::LEN as u64)?;
    let frame_len = frame_size(newest.page_size);
    if newest.wal_salt == Default::default() || !frames.is_multiple_of(frame_len) {
        return None;
    }
    let frames = u32::try_from(frames / frame_len).ok()?;
    Some(Reached { salt: newest.wal_salt, frames, checksum: None })
}

/// Whether database and WAL were last written before this machine started, and nothing was committed after the log's end.
fn is_untouched(path: &Path, ended_ms: i64, clock: &dyn Clock) -> Result<bool, Error> {
    let start_ms = clock.unix_ms() - clock.boottime().as_millis() as i64;
    let wal_ms = changed_ms(&sibling(path, "-wal"))?;
    Ok(changed_ms(path)?.max(wal_ms) < start_ms && wal_ms <= ended_ms + LAST_COMMITS_MS)
}

fn changed_ms(file: &Path) -> Result<i64, Error> {
    let changed = std::fs::metadata(file).and_then(|m| m.modified());
    let changed = changed.map_err(Error::file("read the time of", file))?;
    Ok(changed.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64))
}

fn undecided(store: &Store, path: &Path, outrun: &Outrun) -> Error {
    let Outrun { head, time_ms, why, .. } = outrun;
    let time = jiff::Timestamp::from_millisecond(*time_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let path = path.display();
    Error::with_hint(
        Kind::Invalid,
        format!(
            "`{path}` lacks transactions that its backup {} has, up to {head} of {time}: {why}. It was set back or lost a part, and may have been written since",
            store.place()
        ),
        format!(
            "to go on with the last state of the backup: `litekeep restore --force {path}`, which keeps the present file aside; to go on with the present file: add `--new-timeline`, and the backup keeps its transactions"
        ),
    )
}
