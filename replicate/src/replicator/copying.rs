//! Destinations are listed, and one that lacks files which another has copies them.
//!
//! Before it does, the end of its own log is held against the other's. Where they differ (another replicator wrote to
//! one of them, or a power cut took the memory of what was put there) nothing may continue that end: the destination
//! goes on from the next snapshot, whatever it has before that.

use super::database::Database;
use super::destination::{Destination, Standing};
use super::left_behind;
use super::start::files_after;
use crate::capture::Segment;
use crate::local::State;
use crate::{Error, Kind, parents};
use futures::TryStreamExt;
use futures::future::join_all;
use litekeep_ltx::Txid;
use litekeep_store::plan::{self, Goal};
use litekeep_store::{Conditional, FileRef, Log, Store};
use std::sync::Arc;

/// Lists every destination. Returns the last transaction of the most advanced one, and which that is.
///
/// One that cannot be reached is left for later while another has all that was ever confirmed, or has waited for it long enough.
pub(super) async fn list(db: &Arc<Database>, known: Option<State>) -> Result<Option<(Txid, usize)>, Error> {
    let count = db.destinations().len();
    let listed = join_all((0..count).map(|nth| list_one(db, nth))).await;
    let mut head: Option<(Txid, usize)> = None;
    for (nth, listed) in listed.iter().enumerate() {
        if let Ok(last) = listed
            && *last > head.map(|(t, _)| t)
        {
            head = last.map(|t| (t, nth));
        }
    }
    let is_silent = |e: &Error| e.kind() == Kind::Unavailable;
    for (d, listed) in db.destinations().iter_mut().zip(&listed) {
        d.note_silence(listed.as_ref().is_err_and(is_silent));
    }
    let is_known = !db.settings.new_timeline && known.is_some() && head.is_some();
    let is_enough = known.map(|s| s.txid) <= head.map(|(head, _)| head);
    let was_overtaken = db.local()?.was_overtaken();
    for (nth, listed) in listed.into_iter().enumerate() {
        let Err(e) = listed else { continue };
        let mut destinations = db.destinations();
        let d = &mut destinations[nth];
        if !is_silent(&e) || !is_known || !(is_enough || d.is_given_up(db) && !was_overtaken) {
            return Err(e);
        }
        tracing::warn!(path = %db.settings.path.display(), store = d.store.place(), "{e}; going on without it until it answers");
        (d.log, d.durable, d.standing) = (Log::default(), None, Standing::Unlisted);
        (d.error, d.failures) = (Some(e.to_string()), 1);
        d.queue.clear();
    }
    if let Some((_, first)) = head {
        for (nth, d) in db.destinations().iter_mut().enumerate() {
            d.lags = nth != first;
            if nth == first {
                d.standing = Standing::Joined;
            }
        }
    }
    Ok(head)
}

/// Lists one destination; returns its last transaction.
async fn list_one(db: &Arc<Database>, nth: usize) -> Result<Option<Txid>, Error> {
    let (log, unfenced) = look_at(db, nth).await?;
    Ok(note(&mut db.destinations()[nth], log, unfenced))
}

/// What is at a destination, and whether its store ignores conditional writes.
async fn look_at(db: &Arc<Database>, nth: usize) -> Result<(Log, bool), Error> {
    let store = db.destinations()[nth].store.clone();
    let unfenced = store.probe().await? == Conditional::Ignored;
    let mut log = store.list().await?;
    db.local()?.meet_log(&store, &log, db.settings.new_timeline)?;
    db.destinations()[nth].leave_out_damaged(&mut log);
    if unfenced {
        tracing::warn!(
            store = store.place(),
            "the store ignores conditional writes: a second writer cannot be told apart"
        );
    }
    for stray in &log.strays {
        tracing::warn!(store = store.place(), "`{stray}` is not a file of the log and is left alone");
    }
    Ok((log, unfenced))
}

fn note(d: &mut Destination, log: Log, unfenced: bool) -> Option<Txid> {
    (d.durable, d.standing) = (log.last(), Standing::Listed);
    d.store.expect_log(!log.is_empty());
    (d.log, d.unfenced) = (log, unfenced);
    d.durable
}

/// Copies to one destination what another has and it lacks; where that cannot be had, it goes on with a snapshot.
pub(super) async fn catch_up(db: &Arc<Database>, nth: usize) -> Result<(), Error> {
    match copy_what_lacks(db, nth).await {
        Err(e) if e.kind() == Kind::Unavailable => left_behind::go_on(db, nth, e).await,
        other => other,
    }
}

async fn copy_what_lacks(db: &Arc<Database>, nth: usize) -> Result<(), Error> {
    if db.destinations()[nth].standing == Standing::Unlisted {
        let (log, unfenced) = look_at(db, nth).await?;
        if log.last() > most_durable(&db.destinations(), nth) {
            return Err(goes_beyond(db, nth, &log).await?);
        }
        note(&mut db.destinations()[nth], log, unfenced);
    }
    let (to, best, standing, log, end, head) = {
        let destinations = db.destinations();
        let d = &destinations[nth];
        let others = destinations.iter().enumerate().filter(|(i, d)| *i != nth && !d.lags);
        let best = others.max_by_key(|(_, d)| d.durable);
        let Some((best, head)) = best.and_then(|(best, d)| Some((best, d.durable?))) else {
            return Err(Error::new(Kind::Unavailable, "no destination is complete yet"));
        };
        (d.store.clone(), best, d.standing, destinations[best].log.clone(), log_end(d), head)
    };
    let from = db.destinations()[best].store.clone();
    let files = match end {
        Some(end) if standing != Standing::Joined && !is_end_of(&to, &end, &from, &log).await? => {
            let next = log.files().filter(|f| f.is_base() && f.max() > end.max()).max_by_key(|f| f.max());
            let next = match next.cloned() {
                // Where another has written, it is given time until the next snapshot to be noticed.
                None if is_ours(db, &to, &end).await? => snapshot_beyond(db, best, &log, end.max()).await?,
                next => next,
            };
            let next = next.ok_or_else(|| {
                let (at, place, other) = (end.max(), to.place(), from.place());
                Error::new(
                    Kind::Unavailable,
                    format!("transaction {at} at {place} is not the one at {other}: it goes on with the next snapshot there"),
                )
            })?;
            let after = files_after(&log, Some(next.max()), head)?;
            [vec![next], after].concat()
        }
        end => files_after(&log, end.map(|f| f.max()), head)?,
    };
    for file in &files {
        copy(db, &from, nth, file).await?;
        db.destinations()[nth].standing = Standing::Joined;
    }
    mend(db, nth).await?;
    let mut destinations = db.destinations();
    destinations[best].note_silence(false);
    let others = destinations.iter().enumerate().filter(|(i, _)| *i != nth);
    let queued: Vec<Arc<Segment>> = others.flat_map(|(_, d)| d.queue.iter().cloned()).collect();
    let most = most_durable(&destinations, nth);
    let d = &mut destinations[nth];
    (d.failures, d.error, d.standing) = (0, None, Standing::Joined);
    if d.durable >= most {
        let mut waiting: Vec<Arc<Segment>> =
            queued.into_iter().filter(|s| Some(s.txid()) > d.durable).collect();
        waiting.sort_by_key(|s| s.txid());
        waiting.dedup_by_key(|s| s.txid());
        d.queue = waiting.into();
        d.lags = false;
    }
    drop(destinations);
    let local = db.local()?;
    db.keep_to_places(&local)
}

async fn copy(db: &Arc<Database>, from: &Store, nth: usize, file: &FileRef) -> Result<(), Error> {
    let to = db.destinations()[nth].store.clone();
    let mut stream = from.get_stream(file).await?;
    let time = from.time_of(file).await?;
    let mut upload = to.put_stream(file.level, file.name, time).expect_bytes(file.size);
    while let Some(piece) = stream.try_next().await? {
        upload.write(piece).await?;
    }
    upload.finish().await?;
    let copied = from.copy_checks(&to, file).await;
    copied.unwrap_or_else(|e| tracing::warn!(store = to.place(), "copy checksums of pages: {e}"));
    if file.is_base() {
        let copied = parents::copy(from, &to, file.max()).await;
        copied.unwrap_or_else(|e| tracing::warn!(store = to.place(), "copy the parent map: {e}"));
    }
    db.destinations()[nth].landed(file.level, file.name, file.size, time);
    Ok(())
}

/// Whether a file is of level 0 and this replicator wrote it.
pub(super) async fn is_ours(db: &Arc<Database>, store: &Store, file: &FileRef) -> Result<bool, Error> {
    Ok(file.level == 0 && store.header(file).await?.node == db.local()?.writer)
}

/// Makes a snapshot of what a log has, if that is more than up to `txid`.
async fn snapshot_beyond(
    db: &Arc<Database>,
    nth: usize,
    log: &Log,
    txid: Txid,
) -> Result<Option<FileRef>, Error> {
    let Some(merge) = plan::snapshot(log)?.filter(|merge| merge.name.max > txid) else { return Ok(None) };
    let store = db.destinations()[nth].store.clone();
    let merged = store.compact(&merge).await?;
    let time = store.time_of(&merged).await?;
    db.destinations()[nth].landed(merged.level, merged.name, merged.size, time);
    parents::renew(&store, merged.max()).await.unwrap_or_else(|e| {
        tracing::debug!(store = store.place(), "renew the parent map: {e}");
    });
    Ok(Some(merged))
}

/// Copies into a log with a hole what others have of it, as far as it takes to restore its end.
pub(super) async fn mend(db: &Arc<Database>, nth: usize) -> Result<(), Error> {
    let log_of = |nth: usize| db.destinations()[nth].log.clone();
    let is_whole = || plan::restore(&log_of(nth), Goal::Latest).is_ok();
    let count = db.destinations().len();
    for other in 0..count {
        if other == nth || log_of(nth).is_empty() || is_whole() || !has_same_past(db, nth, other).await? {
            continue;
        }
        let (from, theirs) = {
            let d = &db.destinations()[other];
            (d.store.clone(), d.log.clone())
        };
        let place = db.destinations()[nth].store.place();
        tracing::warn!(path = %db.settings.path.display(), "files of the log at {place} are missing: copying them from {}", from.place());
        // What lies in the holes brings the instants back too; failing that, what a restore of the end needs.
        while let Err(litekeep_store::Error::Hole { first_missing, last_missing, .. }) =
            plan::restore(&log_of(nth), Goal::Latest)
        {
            let lies_there =
                |f: &FileRef| !f.is_base() && f.min() <= last_missing && f.max() >= first_missing;
            if !copy_lacking(db, &from, nth, theirs.files().filter(|f| lies_there(f))).await? {
                break;
            }
        }
        if !is_whole()
            && let Ok(chain) = plan::restore(&theirs, Goal::Latest)
        {
            copy_lacking(db, &from, nth, chain.iter()).await?;
        }
    }
    Ok(())
}

/// Copies the files that a log lacks; whether there was one.
async fn copy_lacking<'a>(
    db: &Arc<Database>,
    from: &Store,
    nth: usize,
    files: impl Iterator<Item = &'a FileRef>,
) -> Result<bool, Error> {
    let own = db.destinations()[nth].log.clone();
    let mut is_any = false;
    for file in files.filter(|f| !own.level(f.level).iter().any(|own| own.name == f.name)) {
        copy(db, from, nth, file).await?;
        is_any = true;
    }
    Ok(is_any)
}

/// Whether the end of another log is a transaction of this one.
async fn has_same_past(db: &Arc<Database>, nth: usize, other: usize) -> Result<bool, Error> {
    let (own, log, store, end, are_joined) = {
        let destinations = db.destinations();
        let (d, other) = (&destinations[nth], &destinations[other]);
        let are_joined = [d, other].iter().all(|d| d.standing == Standing::Joined);
        (d.store.clone(), d.log.clone(), other.store.clone(), log_end(other), are_joined)
    };
    match end {
        Some(end) => Ok(are_joined || is_end_of(&store, &end, &own, &log).await?),
        None => Ok(false),
    }
}

/// A log has more than was put anywhere, as far as we know.
async fn goes_beyond(db: &Arc<Database>, nth: usize, log: &Log) -> Result<Error, Error> {
    let store = db.destinations()[nth].store.clone();
    let place = store.place();
    if let Some(end) = log.newest_l0().filter(|f| Some(f.max()) == log.last())
        && is_ours(db, &store, end).await?
    {
        // Not while something is on its way to the others, which may come as far by themselves.
        if db.destinations().iter().all(|d| d.queue.is_empty()) {
            db.begin_again();
        }
        let message = format!(
            "the log at {place} goes beyond the others, which a power cut can leave behind: it is brought in step with them"
        );
        return Ok(Error::new(Kind::Unavailable, message));
    }
    Ok(Error::with_hint(
        Kind::Fenced,
        format!(
            "the log at {place} goes beyond what this database has put anywhere: another replicator has written to it"
        ),
        "stop it, or give this database a destination of its own",
    ))
}

/// The last transaction that any other destination has.
fn most_durable(destinations: &[Destination], nth: usize) -> Option<Txid> {
    destinations.iter().enumerate().filter(|(i, _)| *i != nth).filter_map(|(_, d)| d.durable).max()
}

/// A file that the log of a destination ends with.
fn log_end(d: &Destination) -> Option<FileRef> {
    ending_at(&d.log, d.durable?).cloned()
}

pub(super) fn ending_at(log: &Log, txid: Txid) -> Option<&FileRef> {
    log.files().filter(|f| f.max() == txid).min_by_key(|f| f.level)
}

/// Whether another log has the same transaction where this one ends. A file carries the time of its last transaction,
/// at level 0 also who wrote it; where the other has merged its way past it, nobody can tell.
async fn is_end_of(store: &Store, end: &FileRef, other: &Store, log: &Log) -> Result<bool, Error> {
    let Some(there) = ending_at(log, end.max()) else { return Ok(false) };
    let (ours, theirs) = (store.header(end).await?, other.header(there).await?);
    let is_one_writer = end.level != there.level || ours.node == theirs.node;
    Ok(is_one_writer && ours.timestamp_ms == theirs.timestamp_ms)
}
