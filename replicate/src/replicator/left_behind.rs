//! A destination that lacks what only another has, which does not show it: after some patience it goes on with a snapshot of the
//! database, so that there is one place at least to which commits go.
//!
//! The snapshot ends with the last transaction that was captured, whose file waits for the others: no number gets two
//! contents, and they go on as if nothing had been. Only a start cannot know what waits there (the database may have changed since),
//! and takes the number after all that were given ([`start`](super::start)).

use super::database::{Database, Work};
use super::destination::{Destination, Standing};
use super::look::Step;
use super::places::is_restorable;
use super::shipping::forget_all_spooled;
use super::start::{encode_pages, keep_parents};
use crate::capture::{Frames, Segment, Stamp};
use crate::{Error, Kind};
use litekeep_format::diff::ParentMap;
use litekeep_ltx::{FileName, Header, Txid};
use litekeep_store::plan::{self, Goal};
use litekeep_store::{SNAPSHOT_LEVEL, Store, StreamWriter};
use std::sync::Arc;
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

/// Snapshots the database for a destination that cannot copy what it lacks.
///
/// # Errors
/// `why` it cannot, when the others are not given up; those of the snapshot.
pub(super) async fn go_on(db: &Arc<Database>, nth: usize, why: Error) -> Result<(), Error> {
    if !are_given_up(db, nth).await {
        return Err(why);
    }
    let this = db.clone();
    let cut = db.run_blocking(move || this.cut(nth)).await?;
    let Some((stamp, waiting)) = cut else { return Err(why) };
    let put = put(db, nth, stamp, waiting).await;
    // Whatever ended it before the pages had been read.
    db.work().is_cut = false;
    if put.is_err() {
        let local = db.local()?;
        let mut destinations = db.destinations();
        let left = std::mem::take(&mut destinations[nth].queue);
        destinations[nth].lags = true;
        forget_all_spooled(&local, &destinations, left);
    }
    put
}

/// Whether none of the destinations that have everything shows a file with which a restore would begin.
async fn are_given_up(db: &Arc<Database>, nth: usize) -> bool {
    let others: Vec<(usize, Store, Option<litekeep_store::FileRef>)> = {
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
    /// Captures all there is, and nothing more until a snapshot of that has been read for a destination. Returns what the snapshot
    /// ends with, and what waits for the others up to there. `None`: not now.
    fn cut(self: &Arc<Self>, nth: usize) -> Result<Option<(Stamp, Vec<Arc<Segment>>)>, Error> {
        let mut work = self.work();
        let Some(local) = work.local.clone() else { return Ok(None) };
        let Work { capture: Some(capture), .. } = &mut *work else { return Ok(None) };
        // Before the look: what it finds is protected then.
        capture.renew_hold()?;
        if matches!(self.capture(&mut work, &mut Frames::default())?, Step::MustDrain | Step::Absent) {
            return Ok(None);
        }
        let Some(last) = work.last else { return Ok(None) };
        let destinations = self.destinations();
        let mut waiting: Vec<Arc<Segment>> =
            destinations.iter().flat_map(|d| d.queue.iter().filter(|s| s.txid() <= last).cloned()).collect();
        waiting.sort_by_key(|s| s.txid());
        waiting.dedup_by_key(|s| s.txid());
        let confirmed = local.state().filter(|s| s.txid == last).map(|s| s.captured_ms);
        let captured = waiting.last().map(|s| s.header.timestamp_ms);
        let Some(timestamp_ms) = confirmed.or(captured) else { return Ok(None) };
        let d = &destinations[nth];
        tracing::warn!(
            path = %self.settings.path.display(),
            "the log at {} lacks what only a place that does not answer has: it goes on with a snapshot at transaction {last}",
            d.store.place()
        );
        work.is_cut = true;
        Ok(Some((Stamp { txid: last, writer: local.writer, timestamp_ms }, waiting)))
    }

    /// Encodes what was captured; from there on the destination gets what follows.
    fn encode_captured(
        self: &Arc<Self>,
        nth: usize,
        stamp: Stamp,
        to: &mut StreamWriter,
    ) -> Result<(Header, u64, Option<ParentMap>), Error> {
        let mut work = self.work();
        let Work { capture: Some(capture), .. } = &mut *work else {
            return Err(Error::new(Kind::Unavailable, "the database is begun again"));
        };
        let Some(pages) = capture.captured_pages()? else {
            return Err(Error::new(Kind::Unavailable, "the state that was captured cannot be read any more"));
        };
        let encoded = encode_pages(self, &pages, stamp, to, |_, _| self.may_go_on())?;
        work.is_cut = false;
        self.destinations()[nth].lags = false;
        Ok(encoded)
    }
}

async fn put(db: &Arc<Database>, nth: usize, stamp: Stamp, waiting: Vec<Arc<Segment>>) -> Result<(), Error> {
    let store = db.destinations()[nth].store.clone();
    let name = FileName { min: Txid::FIRST, max: stamp.txid };
    let expected = std::fs::metadata(&db.settings.path).map_or(0, |m| m.len());
    let this = db.clone();
    let encode = move |to: &mut StreamWriter| this.encode_captured(nth, stamp, to);
    let put = store.put_from(SNAPSHOT_LEVEL, name, stamp.timestamp_ms, Some(expected), encode);
    let ((header, size, parents), _) = put.await?;
    keep_parents(db, &store, stamp.txid, parents).await;
    let local = db.local()?;
    for segment in &waiting {
        db.confirmed(&local, segment)?;
    }
    {
        let mut destinations = db.destinations();
        let d = &mut destinations[nth];
        d.landed(SNAPSHOT_LEVEL, name, size, header.timestamp_ms);
        (d.failures, d.error, d.standing) = (0, None, Standing::Joined);
    }
    db.keep_to_places(&local)
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
