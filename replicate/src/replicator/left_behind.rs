//! A destination that lacks what only another has, which does not show it: after some patience it goes on with a snapshot of the
//! database, so that there is one place at least to which commits go.
//!
//! The snapshot ends with the last transaction that was captured, whose file waits for the others: no number gets two
//! contents, and they go on as if nothing had been. Only a start cannot know what waits there (the database may have changed since),
//! and takes the number after all that were given ([`start`](super::start)).

use super::copying::is_ours;
use super::database::{Database, Local, Work, lock};
use super::destination::{Destination, Standing};
use super::look::Step;
use super::places::is_restorable;
use super::start::{encode_pages, keep_parents};
use crate::capture::{Capture, Frames, Segment, Stamp};
use crate::{Error, Kind};
use litekeep_ltx::{FileName, Header, Txid};
use litekeep_store::plan::{self, Goal};
use litekeep_store::{SNAPSHOT_LEVEL, StreamWriter};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

impl Destination {
    /// Whether it has shown what it has, when others wanted to know.
    pub(super) fn note_silence(&mut self, is_silent: bool) {
        self.silent_since = is_silent.then(|| self.silent_since.unwrap_or_else(Instant::now));
    }

    /// Whether it was silent for so long that others do not wait for it any more.
    pub(super) fn is_given_up(&self, db: &Database) -> bool {
        self.silent_since.is_some_and(|since| since.elapsed() >= db.settings.absence_patience)
    }
}

/// What a snapshot is to end with. While it is made, [`Work::is_cut`] keeps everybody from capturing and from beginning again.
struct Cut {
    capture: Capture,
    local: Arc<Local>,
    stamp: Stamp,
    /// What waits for the others up to there, in its order.
    waiting: Vec<Arc<Segment>>,
    /// How often everything had been begun again.
    begun_again: u64,
}

/// Snapshots the database for a destination that cannot copy what it lacks.
///
/// # Errors
/// `why` it cannot, when the others are not given up, or what is there is not known to be this database's; those of the snapshot.
pub(super) async fn go_on(db: &Arc<Database>, nth: usize, why: Error) -> Result<(), Error> {
    if !are_given_up(db, nth).await || !is_own(db, nth).await {
        return Err(why);
    }
    let this = db.clone();
    let cut = db.run_blocking(move || this.cut(nth)).await?;
    let Some(Cut { capture, local, stamp, waiting, begun_again }) = cut else { return Err(why) };
    // It comes back also where the encoder fails.
    let capture = Arc::new(Mutex::new(capture));
    let snapshot = put(db, nth, &capture, stamp).await;
    let mut work = db.work();
    work.is_cut = false;
    let confirmed = snapshot.and_then(|(header, size)| {
        db.may_go_on()?;
        if work.begun_again != begun_again {
            return Err(Error::new(Kind::Unavailable, "the logs are listed again"));
        }
        waiting.iter().try_for_each(|segment| db.confirmed(&local, segment))?;
        let mut destinations = db.destinations();
        let d = &mut destinations[nth];
        d.landed(SNAPSHOT_LEVEL, FileName::from(&header), size, header.timestamp_ms);
        (d.failures, d.error, d.standing, d.lags) = (0, None, Standing::Joined, false);
        Ok(())
    });
    if work.begun_again == begun_again
        && let Some(capture) = Arc::into_inner(capture)
    {
        // Not when another writer has taken over meanwhile, or everything ends.
        let capture = capture.into_inner().unwrap_or_else(PoisonError::into_inner);
        _ = db.take_up(&mut work, capture);
    }
    drop(work);
    // For what was committed meanwhile.
    db.wake();
    confirmed?;
    db.keep_to_places(&local)
}

/// Whether a destination has a log that this replicator has written, or nothing yet.
async fn is_own(db: &Arc<Database>, nth: usize) -> bool {
    let (store, newest) = {
        let destinations = db.destinations();
        let d = &destinations[nth];
        if d.standing == Standing::Unlisted {
            return false;
        }
        (d.store.clone(), d.log.newest_l0().cloned())
    };
    match newest {
        Some(file) => is_ours(db, &store, &file).await.unwrap_or(false),
        None => true,
    }
}

/// Whether none of the destinations that have everything shows a file with which a restore would begin.
async fn are_given_up(db: &Arc<Database>, nth: usize) -> bool {
    let others: Vec<_> = {
        let destinations = db.destinations();
        let others = destinations.iter().enumerate().filter(|(i, d)| *i != nth && !d.lags);
        let first =
            |d: &Destination| plan::restore(&d.log, Goal::Latest).ok().and_then(|c| c.first().cloned());
        others.map(|(i, d)| (i, d.store.clone(), first(d))).collect()
    };
    let mut are = !others.is_empty();
    for (other, store, file) in others {
        let is_silent = match file {
            Some(file) => store.header(&file).await.is_err(),
            None => !store.list().await.is_ok_and(|log| is_restorable(&log)),
        };
        let d = &mut db.destinations()[other];
        d.note_silence(is_silent);
        are &= d.is_given_up(db);
    }
    are
}

impl Database {
    /// Captures all there is, and takes the capture away. `None`: not now.
    fn cut(self: &Arc<Self>, nth: usize) -> Result<Option<Cut>, Error> {
        let mut work = self.work();
        let Some(local) = work.local.clone() else { return Ok(None) };
        let Work { capture: Some(capture), .. } = &mut *work else { return Ok(None) };
        // Before the look: what it finds is protected then.
        capture.renew_hold()?;
        if matches!(self.capture(&mut work, &mut Frames::default())?, Step::MustDrain | Step::Absent) {
            return Ok(None);
        }
        let Some(last) = work.last else { return Ok(None) };
        let waiting = {
            let destinations = self.destinations();
            let all = destinations.iter().flat_map(|d| d.queue.iter().filter(|s| s.txid() <= last).cloned());
            let mut waiting: Vec<Arc<Segment>> = all.collect();
            waiting.sort_by_key(|s| s.txid());
            waiting.dedup_by_key(|s| s.txid());
            waiting
        };
        let confirmed = local.state().filter(|s| s.txid == last).map(|s| s.captured_ms);
        let captured = waiting.last().map(|s| s.header.timestamp_ms);
        let Some(timestamp_ms) = confirmed.or(captured) else { return Ok(None) };
        let Some(capture) = work.capture.take() else { return Ok(None) };
        tracing::warn!(
            path = %self.settings.path.display(),
            "the log at {} lacks what only a place that does not answer has: it goes on with a snapshot at transaction {last}",
            self.destinations()[nth].store.place()
        );
        work.is_cut = true;
        let stamp = Stamp { txid: last, writer: local.writer, timestamp_ms };
        Ok(Some(Cut { capture, local, stamp, waiting, begun_again: work.begun_again }))
    }
}

/// Puts the state that was captured.
async fn put(
    db: &Arc<Database>,
    nth: usize,
    capture: &Arc<Mutex<Capture>>,
    stamp: Stamp,
) -> Result<(Header, u64), Error> {
    let store = db.destinations()[nth].store.clone();
    let name = FileName { min: Txid::FIRST, max: stamp.txid };
    let expected = std::fs::metadata(&db.settings.path).map_or(0, |m| m.len());
    let (this, capture) = (db.clone(), capture.clone());
    let encode = move |to: &mut StreamWriter| {
        let mut capture = lock(&capture);
        let Some(mut pages) = capture.captured_pages()? else {
            return Err(Error::new(Kind::Unavailable, "more has been committed since what was captured"));
        };
        // The same bytes also when the WAL has begun anew before the next try.
        pages.place = None;
        encode_pages(&this, &pages, stamp, to, |_, _| this.may_go_on())
    };
    let put = store.put_from(SNAPSHOT_LEVEL, name, stamp.timestamp_ms, Some(expected), encode);
    let ((header, size, parents), _) = put.await?;
    keep_parents(db, &store, stamp.txid, parents).await;
    Ok((header, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replicator::copying::catch_up;
    use crate::replicator::database::tests::{database_at, pages_of, rested};
    use crate::replicator::start;
    use crate::restore::{Options, to_path};
    use rusqlite::Connection;
    use std::path::Path;
    use std::sync::atomic::Ordering::SeqCst;
    use std::time::Duration;

    async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        for _ in 0..6000 {
            if is_so() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what}: not within a minute");
    }

    fn durable(db: &Database, nth: usize) -> Option<Txid> {
        db.destinations()[nth].durable
    }

    fn last(db: &Database) -> Option<Txid> {
        db.work().last
    }

    /// A database with two destinations, of which the second lacks a transaction, and the first does not show it.
    async fn left_behind(dir: &Path) -> (Connection, Arc<Database>) {
        let app = Connection::open(dir.join("app.db")).unwrap();
        app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x)").unwrap();
        let db = database_at(dir, &["first", "second"]);
        start::begin(&db).await.unwrap();
        assert!(db.sync().await);
        rested(&db).await;
        until("nobody ships", || db.destinations().iter().all(|d| !d.shipping)).await;
        // Nothing goes to the second.
        db.destinations()[1].shipping = true;
        app.execute("INSERT INTO t VALUES('lacked')", []).unwrap();
        db.look().unwrap();
        {
            let d = &mut db.destinations()[1];
            (d.lags, d.queue) = (true, Default::default());
        }
        db.ship();
        until("the first has it", || db.destinations()[0].queue.is_empty()).await;
        assert!(durable(&db, 0) > durable(&db, 1));
        std::fs::rename(dir.join("first"), dir.join("away")).unwrap();
        (app, db)
    }

    async fn assert_holds(db: &Database, nth: usize, dir: &Path) {
        let to = dir.join("restored.db");
        let options = Options { force: true, ..Options::default() };
        let store = db.settings.stores[nth].clone();
        to_path(&store, crate::restore::Goal::Latest, &to, &options, &()).await.unwrap();
        assert!(pages_of(&to) == pages_of(&dir.join("app.db")), "destination {nth}");
    }

    /// Nothing went to the second any more, until the first was back.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_lacks_something_goes_on_with_a_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let (app, db) = left_behind(dir.path()).await;
        let waits = || db.destinations()[0].queue.len();
        for _ in 0..3 {
            app.execute("INSERT INTO t VALUES('while the first is away')", []).unwrap();
            db.look().unwrap();
        }
        assert_eq!(waits(), 3);
        app.execute("INSERT INTO t VALUES('not captured yet')", []).unwrap();
        catch_up(&db, 1).await.unwrap();
        assert_eq!(waits(), 4);
        assert_eq!(durable(&db, 1), last(&db));
        assert_eq!(db.local().unwrap().state().map(|s| s.txid), last(&db));
        assert_holds(&db, 1, dir.path()).await;
        db.destinations()[1].shipping = false;
        app.execute("INSERT INTO t VALUES('afterwards')", []).unwrap();
        db.look().unwrap();
        db.ship();
        until("the second has it", || db.destinations()[1].queue.is_empty()).await;
        assert_holds(&db, 1, dir.path()).await;
        std::fs::rename(dir.path().join("away"), dir.path().join("first")).unwrap();
        until("the first has it", || waits() == 0).await;
        assert_holds(&db, 0, dir.path()).await;
        let both = [0, 1].map(|nth| db.destinations()[nth].log.last());
        assert_eq!(both[0], both[1]);
        // Each of them is a point in time still.
        assert!(db.destinations()[0].log.level(0).len() > 4);
    }

    /// A start waited for the first, and nothing was captured.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_start_goes_on_with_a_snapshot_where_something_lacks() {
        let dir = tempfile::tempdir().unwrap();
        let (app, db) = left_behind(dir.path()).await;
        app.execute("INSERT INTO t VALUES('captured, put nowhere')", []).unwrap();
        db.look().unwrap();
        let given = last(&db);
        db.shared.stopping.store(true, SeqCst);
        db.clone().close().await;
        app.execute("INSERT INTO t VALUES('while nobody looked')", []).unwrap();
        let db = database_at(dir.path(), &["first", "second"]);
        start::begin(&db).await.unwrap();
        assert!(durable(&db, 1) > given);
        assert_holds(&db, 1, dir.path()).await;
        std::fs::rename(dir.path().join("away"), dir.path().join("first")).unwrap();
        app.execute("INSERT INTO t VALUES('afterwards')", []).unwrap();
        assert!(db.sync().await);
        for nth in [0, 1] {
            assert_holds(&db, nth, dir.path()).await;
        }
    }

    /// The only thread of the runtime waited for the snapshot, which waited for it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn everything_else_goes_on_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let (app, db) = left_behind(dir.path()).await;
        app.execute_batch("INSERT INTO t VALUES(randomblob(30000000))").unwrap();
        let snapshot = tokio::spawn({
            let db = db.clone();
            async move { catch_up(&db, 1).await }
        });
        let mut rounds = 0;
        while !snapshot.is_finished() {
            app.execute("INSERT INTO t VALUES('meanwhile')", []).unwrap();
            db.awake.store(false, SeqCst);
            db.wake();
            db.maintain().await;
            db.capture_present().await;
            rounds += 1;
            assert!(rounds < 6000, "it does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        snapshot.await.unwrap().unwrap();
        db.destinations()[1].shipping = false;
        std::fs::rename(dir.path().join("away"), dir.path().join("first")).unwrap();
        assert!(db.sync().await);
        for nth in [0, 1] {
            assert_holds(&db, nth, dir.path()).await;
        }
    }

    /// A number would have got two contents.
    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_is_captured_and_nothing_begins_while_it_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let (app, db) = left_behind(dir.path()).await;
        let cut = db.cut(1).unwrap().unwrap();
        app.execute("INSERT INTO t VALUES('afterwards')", []).unwrap();
        assert!(matches!(db.look().unwrap(), Step::MustDrain));
        assert!(matches!(db.clone().step().await.unwrap(), Step::MustDrain));
        db.last_look().unwrap();
        assert_eq!(last(&db), Some(cut.stamp.txid));
        // What has been begun again since is another matter.
        db.begin_again();
        assert_ne!(db.work().begun_again, cut.begun_again);
    }

    /// A disk that is not mounted shows an empty folder.
    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_goes_to_where_nothing_is_left_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let (_app, db) = left_behind(dir.path()).await;
        db.destinations()[1].standing = Standing::Unlisted;
        std::fs::rename(dir.path().join("second"), dir.path().join("mounted")).unwrap();
        std::fs::create_dir(dir.path().join("second")).unwrap();
        catch_up(&db, 1).await.unwrap_err();
        assert_eq!(std::fs::read_dir(dir.path().join("second")).unwrap().count(), 0);
    }

    /// A short outage counted from an earlier one.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_has_answered_is_not_silent() {
        let dir = tempfile::tempdir().unwrap();
        let (_app, db) = left_behind(dir.path()).await;
        let d = &mut db.destinations()[0];
        d.note_silence(true);
        d.landed(0, FileName { min: Txid::FIRST, max: Txid::FIRST }, 1, 0);
        assert_eq!(d.silent_since, None);
    }

    /// One that answers is waited for, however long it takes.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_can_be_copied_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (_app, db) = left_behind(dir.path()).await;
        std::fs::rename(dir.path().join("away"), dir.path().join("first")).unwrap();
        let why = || Error::new(Kind::Unavailable, "it takes long");
        assert_eq!(go_on(&db, 1, why()).await.unwrap_err().to_string(), "it takes long");
        catch_up(&db, 1).await.unwrap();
        let snapshots = db.destinations()[1].log.level(SNAPSHOT_LEVEL).len();
        assert_eq!((snapshots, durable(&db, 1)), (1, last(&db)));
    }
}
