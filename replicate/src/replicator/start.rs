//! Where a database and its log stand when replication begins.
//!
//! The log is the truth; local state is a cache that is brought up to it. Cases:
//! - An empty log: the whole database is copied once, as a snapshot, followed by a level-0 file of ours.
//! - A log that local state knows, perhaps with a few later files whose confirmation a crash swallowed, or that a
//!   Litestream wrote meanwhile: their page checksums are applied, and the WAL or a comparison of pages leads on. Where the WAL does not, the
//!   database must have a table that the log has, too: a `VACUUM` may leave no page as it was, and another file in its place has other tables.
//! - A log that local state does not know (lost with the disk, or another machine's): it is watched for another writer
//!   first, and the database must share its history with it, or a person must say `--new-timeline`.
//!
//! Nothing in the log is overwritten in any of these. A crash on the way changes nothing but a finished snapshot.

use super::copying::{ending_at, list, mend};
use super::database::{Database, Local};
use super::destination::Standing;
use super::kinship::{Kinship, refuse_another, require_kinship};
use super::set_back;
use super::status::Phase;
use crate::capture::{Broken, Capture, Found, Frames, Look, Pages, Place, Segment, Stamp, segment};
use crate::local::{MetaDir, PageSums, Places, Spool, State, StateFile, claims, restored, still_ours};
use crate::{Error, Kind, parents};
use litekeep_env::{disk, random_u64};
use litekeep_format::diff::{ParentMap, roots};
use litekeep_ltx::{Checksum, Decoder, FileName, Header, Pgno, Txid, WriterId, page_checksum};
use litekeep_store::plan::{self, Goal};
use litekeep_store::{FileRef, Log, SNAPSHOT_LEVEL, Store, StreamWriter};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Bytes of one request when a file of the log is read from front to back.
const READ_AHEAD: u64 = 1 << 20;

/// How long a start waits for a database that is locked before that counts as a failure: an application that is just creating
/// it, and switches it to WAL mode, lets go soon.
const LOCKED_PATIENCE: Duration = Duration::from_secs(10);
const LOCKED_PAUSE: Duration = Duration::from_millis(20);

/// Attaches to the database and brings local state to the end of the log.
pub(crate) async fn begin(db: &Arc<Database>) -> Result<(), Error> {
    attach_and_follow(db).await?;
    restored::forget(&db.settings.meta_dir);
    let local = db.local()?;
    db.keep_to_places(&local)
}

async fn attach_and_follow(db: &Arc<Database>) -> Result<(), Error> {
    db.phase(Phase::Starting);
    // The database is claimed before the folder: a second litekeep must not take the folder from one that rests.
    let capture = attach(db).await?;
    let local = open_local(db).await?;
    let known = local.state();
    let head = list(db, known).await?;
    let is_about = |nth: usize| local.is_about(&db.destinations()[nth].store.clone());
    let is_about = head.is_some_and(|(_, nth)| is_about(nth));
    db.leave_other_places(&local, head.map(|(_, nth)| nth))?;
    let Some((head, nth)) = head else {
        let txid = known.map_or(Txid::FIRST, |s| s.txid.next());
        return first_snapshot(db, &local, capture, txid).await;
    };
    if let Err(e) = mend(db, nth).await {
        tracing::warn!(path = %db.settings.path.display(), "{e}; the hole in the log stays");
    }
    let (store, log) = {
        let destinations = db.destinations();
        (destinations[nth].store.clone(), destinations[nth].log.clone())
    };
    let is_any_unlisted = db.destinations().iter().any(|d| d.standing == Standing::Unlisted);
    if let Some(s) = known.filter(|s| s.txid > head && is_any_unlisted) {
        return go_on_alone(db, &local, capture, (&store, &log, head), s).await;
    }
    // Of the only log that local state is about there is nothing to doubt.
    let is_in_log = match known {
        Some(s) if !is_about || db.destinations().len() > 1 => {
            holds(&store, &log, &s).await?.unwrap_or(is_about)
        }
        _ => true,
    };
    let newest = match log.newest_l0() {
        Some(file) if !is_in_log || known.is_none_or(|s| s.txid != head) => Some(store.header(file).await?),
        _ => None,
    };
    if let Some(s) = known.filter(|s| s.txid > head && !is_about) {
        tracing::info!(
            path = %db.settings.path.display(),
            "the log at {} ends at transaction {head}; those up to {} went to another place; going on with what the database has",
            store.place(), s.txid
        );
        db.forget_packs_after(nth, &store, Some(head)).await?;
    } else if let Some(s) = known.filter(|s| s.txid > head) {
        tracing::error!(
            path = %db.settings.path.display(),
            "the log at {} ends at transaction {head}, but {} was confirmed: later files have vanished from the store; going on with what the database has",
            store.place(), s.txid
        );
        db.forget_packs_after(nth, &store, Some(head)).await?;
    }
    let in_log = known.filter(|_| is_in_log);
    let ours =
        is_ours(in_log, newest, head) || known.is_some_and(|s| newest.is_some_and(|h| h.node == s.writer));
    let page_size = newest.map(|h| h.page_size).or(known.map(|s| s.page_size));
    let was_overtaken = !ours && local.was_overtaken();
    let capture = match known.filter(|_| !was_overtaken && !db.settings.new_timeline) {
        Some(_) => refuse_another(db, &local, capture, (newest, head), (&store, &log)).await?,
        None => capture,
    };
    let capture = match in_log.filter(|s| s.txid == head && !db.settings.new_timeline) {
        Some(_) => set_back::tell(db, &local, capture, (&store, &log)).await?,
        None => capture,
    };
    if page_size.is_some_and(|size| size != capture.page_size())
        && (known.is_some() && !was_overtaken || db.settings.new_timeline)
    {
        tracing::warn!(
            path = %db.settings.path.display(),
            "the pages of the database have another size than before; the log goes on with a new snapshot"
        );
        if !ours {
            watch_for_another(db, &store, &log, head).await?;
        }
        return first_snapshot(db, &local, capture, head.next()).await;
    }
    if known.is_some()
        && ours
        && let Err(hole) = plan::restore(&log, Goal::Latest)
    {
        tracing::error!(
            path = %db.settings.path.display(),
            "{hole}: files of the log at {} have vanished or are damaged; it goes on with a new snapshot, so that everything from now on can be restored",
            store.place()
        );
        return first_snapshot(db, &local, capture, head.next()).await;
    }
    let from = in_log.and_then(|s| trusted_sums(&s, head));
    apply_sums(&store, &log, &local, from, head).await?;
    let (capture, related) = match known {
        _ if db.settings.new_timeline => (capture, Ok(())),
        // Before the watch, during which a small database may change beyond recognition.
        None => require_kinship(db, &local, capture, newest, head, Kinship::Common).await?,
        Some(_) if was_overtaken => require_kinship(db, &local, capture, newest, head, Kinship::Same).await?,
        Some(_) => (capture, Ok(())),
    };
    if !ours {
        watch_for_another(db, &store, &log, head).await?;
    }
    related?;
    local.note_overtaken(false)?;
    let must_put = !ours || log.newest_l0().is_none();
    settle(db, local, capture, head, newest, in_log, must_put).await
}

/// Goes on at the only place that answers, which lacks what was put elsewhere: with a snapshot, under a number that nothing has
/// there.
async fn go_on_alone(
    db: &Arc<Database>,
    local: &Arc<Local>,
    capture: Capture,
    (store, log, head): (&Store, &Log, Txid),
    known: State,
) -> Result<(), Error> {
    let newest = match log.newest_l0() {
        Some(file) => Some(store.header(file).await?),
        None => None,
    };
    let place = store.place();
    if newest.is_some_and(|h| h.node != known.writer) {
        let message = format!(
            "the log at {place} was written by another replicator, and what this one has put is where nothing answers"
        );
        return Err(Error::new(Kind::Unavailable, message));
    }
    let capture = refuse_another(db, local, capture, (newest, head), (store, log)).await?;
    let waiting = local.spool.list()?.last().map(|file| file.name.max);
    let last = waiting.map_or(known.txid, |txid| txid.max(known.txid));
    tracing::warn!(
        path = %db.settings.path.display(),
        "only a place that does not answer has transactions {} to {}: the log at {place} goes on with a snapshot",
        head.next(), known.txid
    );
    first_snapshot(db, local, capture, last.next()).await
}

/// Whether the transaction of local state is the one that a log has under its number. After a power cut one of two logs may
/// have another there; where it has merged its way past it, nobody can tell (`None`).
async fn holds(store: &Store, log: &Log, known: &State) -> Result<Option<bool>, Error> {
    let Some(file) = ending_at(log, known.txid) else { return Ok(None) };
    Ok(Some(store.header(file).await?.timestamp_ms == known.captured_ms))
}

/// Whether the log ends with a file that this replicator wrote.
fn is_ours(known: Option<State>, newest: Option<Header>, head: Txid) -> bool {
    known.is_some_and(|s| s.txid == head || newest.is_some_and(|h| h.node == s.writer))
}

pub(super) async fn open_local(db: &Arc<Database>) -> Result<Arc<Local>, Error> {
    if let Some(local) = db.work().local.clone() {
        return Ok(local);
    }
    let this = db.clone();
    let open = move || {
        let meta = MetaDir::claim(&this.settings.meta_dir, &this.settings.path)?;
        let (file, state) = StateFile::open(&meta.file("state"))?;
        Ok::<_, Error>(Arc::new(Local {
            writer: state.map_or(WriterId(random_u64()), |s| s.writer),
            sums: PageSums::open(&meta.file("pages"))?,
            places: Mutex::new(Places::read(meta.path())),
            spool: Spool::of(meta.path()),
            state: Mutex::new((file, state)),
            meta,
        }))
    };
    let local = db.run_blocking(open).await?;
    db.work().local = Some(local.clone());
    Ok(local)
}

async fn attach(db: &Arc<Database>) -> Result<Capture, Error> {
    let (capture, found) = unlocked(db).await?;
    if !capture.files().claim()? {
        // Asking opens and closes the file, which would drop the locks of a capture.
        drop(capture);
        if claims::is_ours(&db.settings.path) {
            return Err(still_ours(&db.settings.path));
        }
        let pid = MetaDir::claimed_by(&db.settings.meta_dir, &db.settings.path);
        let who = pid.map_or(String::new(), |pid| format!(" (process {pid})"));
        return Err(Error::with_hint(
            Kind::Invalid,
            format!("another litekeep{who} already replicates `{}`", db.settings.path.display()),
            "stop that process first; `litekeep status` shows it",
        ));
    }
    if found == Found::Switched {
        tracing::warn!(path = %db.settings.path.display(), "the database was not in WAL mode; litekeep has switched it");
    }
    Ok(capture)
}

/// Waits until nobody's lock is in the way.
async fn unlocked(db: &Arc<Database>) -> Result<(Capture, Found), Error> {
    let until = Instant::now() + LOCKED_PATIENCE;
    loop {
        let path = db.settings.path.clone();
        match db.run_blocking(move || Capture::attach(&path)).await {
            Err(Error::Sqlite(e)) if e.is_busy() && Instant::now() < until => {
                tracing::debug!(path = %db.settings.path.display(), "{e}; waiting for that to end");
                tokio::time::sleep(LOCKED_PAUSE).await;
                db.may_go_on()?;
            }
            attached => return attached,
        }
    }
}

/// Up to where the local page checksums can be believed.
fn trusted_sums(state: &State, head: Txid) -> Option<Txid> {
    let up_to = if state.boot == disk::boot_id() { Some(state.txid) } else { state.synced };
    up_to.filter(|t| *t <= head)
}

/// Copies the whole database into an empty log.
async fn first_snapshot(
    db: &Arc<Database>,
    local: &Arc<Local>,
    mut capture: Capture,
    txid: Txid,
) -> Result<(), Error> {
    db.phase(Phase::Snapshot);
    set_aside(db, local, "a snapshot takes the place of what the spool continues")?;
    let (nth, store) = {
        let destinations = db.destinations();
        let nth = destinations.iter().position(|d| !d.lags).unwrap_or(0);
        (nth, destinations[nth].store.clone())
    };
    if db.destinations()[nth].log.is_empty() {
        db.forget_packs_after(nth, &store, None).await?;
    }
    let name = FileName { min: Txid::FIRST, max: txid };
    let expected = std::fs::metadata(&db.settings.path).map_or(0, |m| m.len());
    let (this, here) = (db.clone(), local.clone());
    // Nobody else has the capture until the snapshot is there: what came after it would get the same number, and whoever
    // waited for a lock on it might be the one to put what is encoded.
    let encode = move |to: &mut StreamWriter| {
        let encoded = encode_snapshot(&this, &here, &mut capture, txid, to)?;
        Ok::<_, Error>((encoded, capture))
    };
    // The encoder knows the time.
    let fence = db.fence.notified();
    db.may_go_on()?;
    let put = tokio::select! {
        put = store.put_from(SNAPSHOT_LEVEL, name, 0, Some(expected), encode) => put?,
        // The encoder meets a broken pipe, and lets the WAL go.
        () = fence => return db.may_go_on(),
    };
    let (((header, size, place, parents), capture), _) = put;
    keep_parents(db, &store, txid, parents).await;
    {
        let mut destinations = db.destinations();
        destinations[nth].landed(SNAPSHOT_LEVEL, name, size, header.timestamp_ms);
        destinations[nth].standing = Standing::Joined;
        // A second snapshot would show a later state under the same name: the others copy this one.
        for (other, d) in destinations.iter_mut().enumerate() {
            d.lags = other != nth;
        }
    }
    let now = db.shared.clock.unix_ms();
    save_state(local, header.commit, &header, place, now)?;
    let mut work = db.work();
    db.take_up(&mut work, capture)?;
    work.last = Some(txid);
    db.take_up_packs(&mut work, local, None);
    work.must_put = true;
    drop(work);
    db.phase(Phase::Following);
    Ok(())
}

/// The backup is whole without it.
pub(super) async fn keep_parents(db: &Database, store: &Store, txid: Txid, map: Option<ParentMap>) {
    if let Some(map) = map
        && let Err(e) = parents::put(store, txid, &map).await
    {
        tracing::warn!(path = %db.settings.path.display(), store = store.place(), "keep the parent map: {e}; comparisons of states will read more");
    }
}

/// Puts a state into a file, with what is kept beside a snapshot; the map of its pages is returned.
pub(super) fn encode_pages(
    db: &Database,
    pages: &Pages<'_>,
    stamp: Stamp,
    to: &mut StreamWriter,
    each: impl FnMut(Pgno, Checksum) -> Result<(), Error>,
) -> Result<(Header, u64, Option<ParentMap>), Error> {
    let (header, encoded) = segment::snapshot(pages, stamp, to, each)?;
    encoded.writer.keep_checks(encoded.checks);
    pages.sync()?;
    // While the pages are still in the system's cache.
    let parents = roots(pages).and_then(|roots| ParentMap::of(pages, roots.into_iter()));
    let parents = parents
        .inspect_err(|e| tracing::warn!(path = %db.settings.path.display(), "make the parent map: {e}"));
    Ok((header, encoded.size, parents.ok()))
}

fn encode_snapshot(
    db: &Database,
    local: &Local,
    capture: &mut Capture,
    txid: Txid,
    to: &mut StreamWriter,
) -> Result<(Header, u64, Option<Place>, Option<ParentMap>), Error> {
    let pages = capture.pages()?;
    // After it is fixed which commits the pages have.
    let stamp = Stamp { txid, writer: local.writer, timestamp_ms: db.next_time() };
    to.set_timestamp(stamp.timestamp_ms);
    let (place, page_count) = (pages.place, pages.page_count());
    let mut batch: Vec<(Pgno, Checksum)> = Vec::with_capacity(4096);
    let (header, size, parents) = encode_pages(db, &pages, stamp, to, |pgno, sum| {
        db.may_go_on()?;
        batch.push((pgno, sum));
        if batch.len() == batch.capacity() {
            local.sums.apply(&batch, page_count)?;
            batch.clear();
        }
        Ok(())
    })?;
    local.sums.apply(&batch, page_count)?;
    capture.set_position(place, page_count);
    Ok((header, size, place, parents))
}

fn save_state(
    local: &Local,
    page_count: u32,
    header: &Header,
    place: Option<Place>,
    confirmed_ms: i64,
) -> Result<(), Error> {
    let mut guard = local.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (file, state) = &mut *guard;
    let new = State {
        writer: local.writer,
        txid: header.max_txid,
        page_count,
        page_size: header.page_size,
        place,
        synced: None,
        boot: disk::boot_id(),
        confirmed_ms,
        captured_ms: header.timestamp_ms,
    };
    file.save(&new)?;
    // Whose log it is must be known after a power cut too; later saves only move the position, which the log knows.
    file.sync()?;
    let dir = std::path::absolute(local.meta.path()).map_err(Error::file("find", local.meta.path()))?;
    for dir in dir.ancestors().take(2) {
        disk::sync_dir(dir).map_err(Error::file("sync", dir))?;
    }
    *state = Some(new);
    Ok(())
}

/// A newcomer waits whether somebody else writes to the log.
async fn watch_for_another(db: &Arc<Database>, store: &Store, log: &Log, head: Txid) -> Result<(), Error> {
    let wait = db.settings.newcomer_watch;
    tracing::warn!(
        path = %db.settings.path.display(),
        "the log at {} was written by another replicator; watching it for {} s before taking over at transaction {head}",
        store.place(),
        wait.as_secs()
    );
    tokio::time::sleep(wait).await;
    let now = store.list().await?;
    if now.last() != log.last() {
        return Err(Error::with_hint(
            Kind::Fenced,
            format!("another replicator is writing to {}", store.place()),
            "stop it, or give this database a destination of its own",
        ));
    }
    Ok(())
}

/// Applies the page checksums of the log's files after `from` to the local ones.
async fn apply_sums(
    store: &Store,
    log: &Log,
    local: &Arc<Local>,
    from: Option<Txid>,
    head: Txid,
) -> Result<(), Error> {
    for file in files_after(log, from, head)? {
        let (local, reader) = (local.clone(), store.reader(&file, READ_AHEAD));
        let place = store.place_of_file(file.level, file.name);
        let apply = move || {
            apply_sums_of(&local, reader)
                .map_err(|source| Error::Ltx { doing: format!("read `{place}`"), source })
        };
        tokio::task::spawn_blocking(move || apply()?)
            .await
            .map_err(|e| Error::new(Kind::Internal, e.to_string()))??;
    }
    Ok(())
}

/// Applies the sums of one file, in pieces. Applied twice they are the same, so a file that turns out to be damaged at
/// its end does no harm: local state does not move until all are applied.
fn apply_sums_of(
    local: &Local,
    reader: litekeep_store::RangeReader,
) -> Result<Result<(), Error>, litekeep_ltx::Error> {
    let mut decoder = Decoder::new(reader)?;
    let commit = decoder.header().commit;
    let mut page = vec![0; decoder.header().page_size.bytes()];
    let mut batch = Vec::with_capacity(4096);
    loop {
        let next = decoder.next_page(&mut page)?;
        batch.extend(next.map(|pgno| (pgno, page_checksum(pgno, &page))));
        if next.is_none() || batch.len() == batch.capacity() {
            if let Err(e) = local.sums.apply(&batch, commit) {
                return Ok(Err(e));
            }
            batch.clear();
        }
        if next.is_none() {
            return Ok(Ok(()));
        }
    }
}

/// The files that lead from a state to the end of the log; those of a whole restore when there is none, or when the
/// log has merged the way.
pub(super) fn files_after(log: &Log, from: Option<Txid>, head: Txid) -> Result<Vec<FileRef>, Error> {
    let mut files = vec![];
    let mut at = from;
    while let Some(t) = at.filter(|t| *t < head) {
        let next = log
            .files()
            .filter(|f| !f.is_base() && f.min() <= t.next() && f.max() > t)
            .max_by_key(|f| f.max());
        let Some(next) = next else { return Ok(plan::restore(log, Goal::Txid(head))?) };
        files.push(next.clone());
        at = Some(next.max());
    }
    if from.is_none() {
        return Ok(plan::restore(log, Goal::Txid(head))?);
    }
    Ok(files)
}

/// Finds the place in the WAL, or decides what to do without one.
async fn settle(
    db: &Arc<Database>,
    local: Arc<Local>,
    capture: Capture,
    head: Txid,
    newest: Option<Header>,
    known: Option<State>,
    must_put: bool,
) -> Result<(), Error> {
    let this = db.clone();
    let settled = move || {
        let mut capture = capture;
        let page_count = local.sums.page_count()?;
        let (place, without) = match known.filter(|s| s.txid == head) {
            Some(s) => (s.place, Broken::NoPlace),
            None => (locate(&mut capture, &local, newest, head)?, Broken::Unknown),
        };
        capture.set_position(place, page_count);
        let mut frames = Frames::default();
        let look = capture.resume(&mut frames)?;
        let path = this.settings.path.display();
        if let Look::Broken(why) = look {
            if why == Broken::Behind || why == Broken::Differs {
                tracing::warn!(%path, "{why}: the log keeps them up to transaction {head}, and goes on with what the file has now");
            }
            capture.forget_position(if place.is_none() { without } else { why });
        }
        let header = newest.filter(|h| h.max_txid == head);
        if known.is_none_or(|s| s.txid != head) {
            let now = this.shared.clock.unix_ms();
            let header = header.unwrap_or(Header {
                page_size: capture.page_size(),
                commit: page_count,
                min_txid: head,
                max_txid: head,
                timestamp_ms: now,
                wal_offset: 32,
                wal_size: 0,
                wal_salt: Default::default(),
                node: local.writer,
            });
            save_state(&local, page_count, &header, capture.place(), now)?;
        }
        let ours = is_ours(known, newest, head);
        let in_log = if ours { Some(head) } else { known.map(|s| s.txid).filter(|t| *t < head) };
        let mut pending = spooled(&this, &local, head, in_log)?;
        let mut work = this.work();
        work.last = Some(pending.last().map_or(head, |s| s.txid()));
        let known_to_packs = work.last.filter(|_| ours);
        this.take_up_packs(&mut work, &local, known_to_packs);
        if let Some(mut last) = pending.pop() {
            let rest = pending.iter().flat_map(|s| s.sums.iter().copied());
            let sums: HashMap<Pgno, Checksum> = rest.chain(last.sums.iter().copied()).collect();
            let place = capture.locate_all(&last.header, &sums, &mut frames)?;
            match place {
                Some(place) => capture.set_position(Some(place), last.header.commit),
                None => capture.forget_position(Broken::Unknown),
            }
            // Once it is confirmed, local state is to say so of these frames.
            last.place = place;
            pending.push(last);
        }
        let pending: Vec<Arc<Segment>> = pending.into_iter().map(Arc::new).collect();
        for d in this.destinations().iter_mut() {
            d.queue.clear();
            d.queue.extend(pending.iter().cloned());
        }
        work.must_put = must_put;
        this.take_up(&mut work, capture)
    };
    db.run_blocking(settled).await?;
    db.phase(Phase::Following);
    Ok(())
}

/// Where in the WAL the log ends, if its newest file is that end and the WAL proves it.
pub(super) fn locate(
    capture: &mut Capture,
    local: &Local,
    newest: Option<Header>,
    head: Txid,
) -> Result<Option<Place>, Error> {
    match newest.filter(|h| h.max_txid == head && h.page_size == capture.page_size()) {
        Some(h) => capture.locate(&h, |pgno| Ok(Some(local.sum_of(pgno)?))),
        None => Ok(None),
    }
}

/// What waits in the spool beyond the log; anything that does not continue it is kept aside. When another replicator has
/// written to the log, that is everything after `in_log`, the last transaction of ours there.
fn spooled(db: &Database, local: &Local, head: Txid, in_log: Option<Txid>) -> Result<Vec<Segment>, Error> {
    let mut pending: Vec<Segment> = vec![];
    for file in local.spool.list()? {
        if Some(file.name.max) <= in_log {
            local.spool.remove(file.name)?;
            continue;
        }
        let expected = pending.last().map_or(head, |s| s.txid()).next();
        if file.name.min != expected || in_log != Some(head) {
            set_aside(db, local, "the spool does not continue the log")?;
            return Ok(vec![]);
        }
        match Segment::from_spool(&local.spool, &file) {
            Ok(segment) => pending.push(segment),
            // What a disk that lost synced writes has left of it; the database has what was in it.
            Err(e) if e.kind() == Kind::Corrupt => {
                set_aside(db, local, &e.to_string())?;
                return Ok(vec![]);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(pending)
}

fn set_aside(db: &Database, local: &Local, why: &str) -> Result<(), Error> {
    let kept = local.spool.keep_as_fork(&format!("fork-{}", db.shared.clock.unix_ms()))?;
    if let Some(kept) = kept {
        let (path, kept) = (db.settings.path.display(), kept.display());
        tracing::error!(%path, "{why}; what waited is kept in `{kept}`");
    }
    Ok(())
}

impl Local {
    /// Notes how far into the WAL the log has come, where that was found out after the confirmation.
    pub(super) fn note_place(&self, place: Option<Place>) -> Result<(), Error> {
        let mut guard = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (file, state) = &mut *guard;
        if let (Some(state), Some(_)) = (state, place)
            && state.place != place
        {
            let new = State { place, ..*state };
            file.save(&new)?;
            *state = new;
        }
        Ok(())
    }

    fn sum_of(&self, pgno: Pgno) -> Result<Checksum, Error> {
        let mut one = [Checksum::default()];
        self.sums.get(pgno, &mut one)?;
        Ok(one[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replicator::database::tests::{begun, database};
    use litekeep_env::SystemClock;
    use litekeep_store::plan::Policy;
    use rusqlite::Connection;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    fn fence() -> Error {
        Error::new(Kind::Fenced, "another replicator writes here")
    }

    /// Nothing of ours is left to do, and the application's WAL is its own again.
    fn is_let_go(db: &Database, app: &Connection) {
        assert!(db.work().capture.is_none());
        let status = db.status();
        assert_eq!(status.phase, Phase::Fenced, "{status:?}");
        assert_eq!(status.message.as_deref(), Some("another replicator writes here"));
        app.execute_batch("INSERT INTO t VALUES(1)").unwrap();
        let is_busy: bool = app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get(0)).unwrap();
        assert!(!is_busy, "the WAL is held");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_fence_during_a_snapshot_lets_the_wal_go_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let app = Connection::open(dir.path().join("app.db")).unwrap();
        app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t AS SELECT randomblob(200000000) AS x")
            .unwrap();
        let db = database(dir.path(), Arc::new(SystemClock), Policy::default());
        db.awake.store(true, SeqCst);
        let this = db.clone();
        let beginning = tokio::spawn(async move { begin(&this).await });
        while db.status().phase != Phase::Snapshot {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        db.fenced(&fence()).await;
        let e = beginning.await.unwrap().unwrap_err();
        assert_eq!(e.kind(), Kind::Fenced);
        db.failed(&e, 0);
        // The encoder ends at its next page.
        tokio::time::sleep(Duration::from_millis(500)).await;
        is_let_go(&db, &app);
        assert!(db.destinations()[0].log.is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_fence_during_a_start_lets_the_wal_go_at_once() {
        let (_dir, app, db) = begun(Policy::default()).await;
        db.awake.store(true, SeqCst);
        assert!(db.capture_present().await.is_some());
        db.work().capture = None;
        db.fenced(&fence()).await;
        let e = begin(&db).await.unwrap_err();
        db.failed(&e, 0);
        is_let_go(&db, &app);
    }

    /// Whoever asks for everything to be safe meanwhile does not give the snapshot's number to what follows it.
    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_is_captured_until_a_snapshot_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let app = Connection::open(dir.path().join("app.db")).unwrap();
        app.execute_batch(
            "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(9000000))",
        )
        .unwrap();
        let db = database(dir.path(), Arc::new(SystemClock), Policy::default());
        // No task but this one.
        db.awake.store(true, SeqCst);
        begin(&db).await.unwrap();
        // A log that nobody knows to have been there.
        std::fs::remove_dir_all(dir.path().join("bucket")).unwrap();
        std::fs::remove_file(dir.path().join("meta/places.json")).unwrap();
        {
            let mut work = db.work();
            (work.capture, work.local) = (None, None);
        }
        let is_over = Arc::new(AtomicBool::new(false));
        let (this, over) = (db.clone(), is_over.clone());
        let asking = tokio::spawn(async move {
            while !over.load(SeqCst) {
                app.execute("INSERT INTO t VALUES(1)", []).unwrap();
                this.capture_present().await;
            }
        });
        begin(&db).await.unwrap();
        is_over.store(true, SeqCst);
        asking.await.unwrap();
        let destinations = db.destinations();
        let snapshot = destinations[0].log.files().find(|f| f.is_base()).unwrap().max();
        let queued = destinations[0].queue.iter().map(|s| s.txid());
        let landed = destinations[0].log.level(0).iter().map(FileRef::max);
        assert!(queued.chain(landed).all(|txid| txid > snapshot));
    }
}
