//! Segments on their way to the destinations: queued, spooled when many wait, put in order, confirmed.

use super::copying::catch_up;
use super::database::{Database, Local, Work, lock};
use super::destination::{self, Destination, MEMORY_LIMIT};
use super::look::FEW_COMMITS;
use crate::capture::{Body, Segment};
use crate::local::State;
use crate::{Error, Kind};
use litekeep_env::disk;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// A destination that does not answer is told of again after so many tries, about every five minutes.
const TELL_AGAIN: u32 = 100;

impl Database {
    /// Hands a segment to every destination; in the spool when too much waits already, or none of them answers: a
    /// process that dies then leaves the points in time of the outage on disk.
    pub(super) fn enqueue(&self, work: &mut Work, segment: Segment) -> Result<(), Error> {
        work.last = Some(segment.txid());
        self.set_status(|s| s.commits += u64::from(segment.commits));
        let mut destinations = self.destinations();
        let local = work.local.as_ref().expect("set when the capture was");
        for left in leave_to_copying(&mut destinations) {
            forget_spooled(local, &destinations, &left);
        }
        let waiting =
            destinations.iter().filter(|d| !d.lags).map(Destination::waiting_bytes).max().unwrap_or(0);
        let mut segment = Arc::new(segment);
        let mut spilled = Ok(());
        if is_outage(&destinations) || waiting + segment.size > MEMORY_LIMIT {
            // All of them: what is only in memory when the process dies would leave a hole before what is on disk.
            let mut all = destinations.iter_mut().flat_map(|d| &mut d.queue).chain([&mut segment]);
            spilled = all.try_for_each(|queued| spill(local, queued));
        }
        // Also when the spool cannot be written: the capture has moved on, so that this is all there is of it.
        for d in destinations.iter_mut().filter(|d| !d.lags) {
            d.queue.push_back(segment.clone());
        }
        let told = work.capture.as_mut().map_or(Ok(()), |capture| capture.tell_in_log(false));
        spilled.and(told)
    }

    /// Whether more waits for every destination than the local disk may take.
    pub(super) fn is_over_limit(&self) -> bool {
        let destinations = self.destinations();
        let least = destinations
            .iter()
            .filter(|d| !d.lags)
            .map(|d| d.queue.iter().map(|s| s.size).sum::<u64>())
            .min();
        let Some(waiting) = least.filter(|w| *w > MEMORY_LIMIT) else { return false };
        let is_scarce = |(free, all)| free < reserve(all);
        waiting > self.settings.spool_limit || disk::space(&self.settings.meta_dir).is_ok_and(is_scarce)
    }

    /// Starts a shipping task for each destination that has something to do and has none.
    pub(crate) fn ship(self: &Arc<Self>) {
        let mut destinations = self.destinations();
        for (nth, d) in destinations.iter_mut().enumerate() {
            if !d.shipping && (!d.queue.is_empty() || d.lags) {
                d.shipping = true;
                self.shared.runtime.spawn(self.clone().ship_to(nth));
            }
        }
    }

    /// Puts the only segment that waits into a folder, on this thread, which may block: each handing over to another
    /// costs as much as the fsync of a fast disk. Whatever does not fit, or fails, is left to [`ship`](Self::ship), and
    /// so is what a hot writer wrote, whose next commits are captured meanwhile.
    pub(super) fn ship_here(self: &Arc<Self>) {
        let count = self.destinations().len();
        for nth in 0..count {
            let (store, segment) = {
                let mut destinations = self.destinations();
                let d = &mut destinations[nth];
                let is_folder = d.store.as_folder().is_some();
                let Some(segment) = d.queue.front().filter(|_| d.queue.len() == 1).cloned() else { continue };
                let is_hot = segment.commits > FEW_COMMITS;
                let may_put = self.settings.gate.is_open();
                if !is_folder || is_hot || d.shipping || d.lags || d.failures > 0 || !may_put {
                    continue;
                }
                d.shipping = true;
                d.begins(&segment);
                (d.store.clone(), segment)
            };
            let _turn = Turn { db: self, nth };
            let put = destination::sync_and_put_here(&store, &segment);
            let done = put.and_then(|is_there| if is_there { self.landed(nth, &segment) } else { Ok(()) });
            if let Err(e) = done {
                tracing::debug!(path = %self.settings.path.display(), store = store.place(), "{e}; trying again");
            }
            let d = &mut self.destinations()[nth];
            (d.shipping, d.hangs_from) = (false, None);
        }
        self.progress.notify_waiters();
    }

    async fn ship_to(self: Arc<Self>, nth: usize) {
        let _turn = Turn { db: &self, nth };
        loop {
            let (store, segment, lags) = {
                let mut destinations = self.destinations();
                let d = &mut destinations[nth];
                let segment = d.queue.front().cloned();
                if segment.is_none() && !d.lags {
                    d.shipping = false;
                    break;
                }
                if let Some(segment) = segment.as_ref().filter(|_| !d.lags) {
                    d.begins(segment);
                }
                (d.store.clone(), segment, d.lags)
            };
            let shipped = match segment {
                Some(segment) if !lags => self.clone().ship_one(nth, &store, &segment).await,
                _ => catch_up(&self, nth).await,
            };
            self.destinations()[nth].hangs_from = None;
            // What was left to copying meanwhile is gone from the spool.
            let is_left = !lags && self.destinations()[nth].lags;
            if let Err(e) = shipped
                && !is_left
            {
                let wait = {
                    let mut destinations = self.destinations();
                    let d = &mut destinations[nth];
                    d.failures += 1;
                    if d.failures % TELL_AGAIN == 1 {
                        tracing::warn!(path = %self.settings.path.display(), store = d.store.place(), "{e}; trying again");
                    }
                    d.error = Some(e.to_string());
                    d.back_off()
                };
                if e.kind() == Kind::Fenced {
                    self.fenced(&e).await;
                    self.destinations()[nth].shipping = false;
                    break;
                }
                if self.shared.stopping.load(SeqCst) {
                    break;
                }
                tokio::time::sleep(wait).await;
            }
            self.progress.notify_waiters();
        }
        self.progress.notify_waiters();
        if !self.awake.load(SeqCst) {
            // It went to rest before this was confirmed, and kept its local state open for it.
            self.wake();
        }
    }

    async fn ship_one(
        self: Arc<Self>,
        nth: usize,
        store: &litekeep_store::Store,
        segment: &Arc<Segment>,
    ) -> Result<(), Error> {
        let local = self.local()?;
        if !self.settings.gate.is_open() {
            let message = "this node does not lead now, so nothing of it goes into the log";
            return Err(Error::new(Kind::Unavailable, message));
        }
        destination::put(store, &local.spool, segment).await?;
        self.landed(nth, segment)
    }

    /// A destination has the segment at the head of its queue, where it stays until local state has moved on: page
    /// checksums that miss one segment would be wrong for ever.
    fn landed(self: &Arc<Self>, nth: usize, segment: &Segment) -> Result<(), Error> {
        let (name, time) = (segment.name(), segment.header.timestamp_ms);
        self.destinations()[nth].landed(0, name, segment.size, time);
        self.recent.landed(segment);
        let local = self.local()?;
        self.confirmed(&local, segment)?;
        let mut destinations = self.destinations();
        let d = &mut destinations[nth];
        if d.failures > 0 {
            tracing::info!(path = %self.settings.path.display(), store = d.store.place(), "it answers again");
        }
        (d.failures, d.error) = (0, None);
        // It may have been spooled while it was under way from memory.
        if let Some(done) = d.queue.pop_front() {
            forget_spooled(&local, &destinations, &done);
        }
        Ok(())
    }

    /// A destination has the segment: local state moves on.
    pub(super) fn confirmed(self: &Arc<Self>, local: &Local, segment: &Segment) -> Result<(), Error> {
        let mut guard = lock(&local.state);
        let (file, state) = &mut *guard;
        if state.is_some_and(|s| s.txid >= segment.txid()) {
            return Ok(());
        }
        // Another destination may have it, and its confirmation may have failed.
        if state.is_some_and(|s| s.txid.next() < segment.txid()) {
            let message = format!("local state has not come as far as to transaction {}", segment.txid());
            return Err(Error::new(Kind::Unavailable, message));
        }
        local.sums.apply(&segment.sums, segment.header.commit)?;
        let now = self.shared.clock.unix_ms();
        let new = State {
            writer: local.writer,
            txid: segment.txid(),
            page_count: segment.header.commit,
            page_size: segment.header.page_size,
            place: segment.place,
            synced: state.and_then(|s| s.synced),
            boot: disk::boot_id(),
            confirmed_ms: now,
            captured_ms: segment.header.timestamp_ms,
        };
        file.save(&new)?;
        *state = Some(new);
        self.set_status(|s| s.confirmed_ms = Some(now));
        Ok(())
    }

    /// Another writer owns the log: stop, and keep what it does not have.
    pub(super) async fn fenced(self: &Arc<Self>, e: &Error) {
        if !self.fenced.swap(true, SeqCst) {
            self.note_failure(e, 0);
        }
        self.fence.notify_waiters();
        let (this, is_overtaken) = (self.clone(), e.kind() == Kind::Fenced);
        let kept = self.run_blocking(move || {
            this.let_go(is_overtaken);
            Ok(())
        });
        if let Err(e) = kept.await {
            tracing::error!("{e}");
        }
    }

    fn let_go(&self, is_overtaken: bool) {
        let mut work = self.work();
        work.capture = None;
        work.packs.resume(None);
        if let Some(local) = &work.local {
            if is_overtaken && let Err(e) = local.note_overtaken(true) {
                tracing::error!("could not note that the log has another owner: {e}");
            }
            let queued: Vec<_> =
                self.destinations().iter_mut().flat_map(|d| std::mem::take(&mut d.queue)).collect();
            for segment in &queued {
                if let Body::Memory(bytes) = &segment.body {
                    let _ = local.spool.add(segment.name(), bytes);
                }
            }
            let name = format!("fork-{}", self.shared.clock.unix_ms());
            match local.spool.keep_as_fork(&name) {
                Ok(Some(path)) => tracing::error!(
                    path = %self.settings.path.display(),
                    "transactions that are not in the log are kept in `{}`", path.display()
                ),
                Ok(None) => {}
                Err(e) => tracing::error!("could not keep the fork: {e}"),
            }
        }
    }
}

/// A destination's turn to ship, which a panic ends too: the next commit tries again.
struct Turn<'a> {
    db: &'a Database,
    nth: usize,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let d = &mut self.db.destinations()[self.nth];
            (d.shipping, d.hangs_from, d.failures) = (false, None, d.failures + 1);
            d.error = Some("a put has panicked".to_owned());
        }
    }
}

/// Bytes of a disk that are the application's, whatever waits: a tenth, and 1 GiB of a large one, of which a tenth is more
/// than many have free on an ordinary day.
fn reserve(disk: u64) -> u64 {
    (disk / 10).min(1 << 30)
}

/// Whether no destination answers that the newest transactions go to.
pub(super) fn is_outage(destinations: &[Destination]) -> bool {
    destinations.iter().filter(|d| !d.lags).all(|d| !d.answers())
}

/// Moves a segment from memory to the spool. The same segment in another queue finds its file there.
fn spill(local: &Local, segment: &mut Arc<Segment>) -> Result<(), Error> {
    if let Body::Memory(bytes) = &segment.body {
        local.spool.add(segment.name(), bytes)?;
        *segment = Arc::new(Segment { body: Body::Spooled, ..Segment::clone(segment) });
    }
    Ok(())
}

/// Removes a segment from the spool when it is there and waits in no queue. What stays there goes at the next start.
fn forget_spooled(local: &Local, destinations: &[Destination], segment: &Segment) {
    let waits = |d: &Destination| d.queue.iter().any(|s| s.txid() == segment.txid());
    if matches!(segment.body, Body::Spooled)
        && !destinations.iter().any(waits)
        && let Err(e) = local.spool.remove(segment.name())
    {
        tracing::warn!("a file that is in the store stays in the spool: {e}");
    }
}

/// A destination that is far behind another does not fill the local disk: it copies from the other one later. Returns what
/// waited for it.
fn leave_to_copying(destinations: &mut [Destination]) -> Vec<Arc<Segment>> {
    let mut left = vec![];
    let best = destinations.iter().filter_map(|d| d.durable).max();
    for d in destinations {
        let waiting: u64 = d.queue.iter().map(|s| s.size).sum();
        // What stays at the head of a queue until local state has moved on is there already.
        let is_behind = d.queue.back().is_some_and(|s| d.durable < Some(s.txid()) && best >= Some(s.txid()));
        if waiting > MEMORY_LIMIT && is_behind {
            left.extend(std::mem::take(&mut d.queue));
            d.lags = true;
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replicator::{
        database::tests::{begun, database},
        look::Step,
        start,
        status::Phase,
    };
    use litekeep_env::SystemClock;
    use litekeep_ltx::{Header, PageSize, Salt, Txid, WriterId};
    use litekeep_store::plan::Policy;
    use litekeep_store::{Store, Target};
    use std::time::{Duration, Instant};

    fn segment(n: u64, size: u64) -> Arc<Segment> {
        let txid = Txid::new(n).unwrap();
        let header = Header {
            page_size: PageSize::new(4096).unwrap(),
            commit: 1,
            min_txid: txid,
            max_txid: txid,
            timestamp_ms: 0,
            wal_offset: 32,
            wal_size: 0,
            wal_salt: Salt::default(),
            node: WriterId(1),
        };
        let body = Body::Spooled;
        Arc::new(Segment { header, body, size, sums: vec![], place: None, commits: 1, wal: None })
    }

    fn destination(durable: u64, waiting: &[u64]) -> Destination {
        let store = Store::open(&Target::Folder("/nowhere".into())).unwrap();
        let mut d = Destination::new(store);
        d.durable = Txid::new(durable);
        d.queue = waiting.iter().map(|n| segment(*n, MEMORY_LIMIT + 1)).collect();
        d
    }

    /// A large disk of which less than a tenth is free has room for an outage.
    #[test]
    fn a_large_disk_needs_no_tenth_free() {
        assert_eq!([reserve(2 << 30), reserve(252 << 30)], [(2 << 30) / 10, 1 << 30]);
    }

    /// What has landed stays at the head of the queue until local state has moved on. It must not look like something
    /// to copy from another destination: what is captured meanwhile would go to no queue at all.
    #[test]
    fn only_a_destination_that_is_behind_is_left_to_copying() {
        let mut destinations = [destination(5, &[5]), destination(4, &[5])];
        let left = leave_to_copying(&mut destinations);
        assert_eq!(left.len(), 1);
        assert_eq!(destinations.each_ref().map(|d| (d.lags, d.queue.len())), [(false, 1), (true, 0)]);
    }

    /// A process whose health is its backup's lag ended although all was safe in one of two places.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_one_destination_has_is_not_behind() {
        let dir = tempfile::tempdir().unwrap();
        let db = database(dir.path(), Arc::new(SystemClock), Policy::default());
        *db.destinations() = vec![destination(5, &[]), destination(4, &[5])];
        assert_eq!(db.status().behind_since_ms, None);
        db.destinations()[0] = destination(4, &[5]);
        assert_eq!(db.status().behind_since_ms, Some(0));
    }

    /// Nobody was told that the points in time of an outage had come to their end.
    #[tokio::test(flavor = "multi_thread")]
    async fn more_than_may_wait_is_told_until_it_is_gone() {
        let (_dir, app, db) = begun(Policy::default()).await;
        db.awake.store(true, SeqCst);
        db.destinations()[0].queue.push_back(segment(9, db.settings.spool_limit + 1));
        app.execute("INSERT INTO t VALUES(1)", []).unwrap();
        for _ in 0..2 {
            assert!(matches!(db.look().unwrap(), Step::MustDrain));
            let status = db.status();
            assert_eq!(status.phase, Phase::Failing);
            assert!(status.message.is_some_and(|message| message.contains("`spool_limit`")));
        }
        db.destinations()[0].queue.clear();
        db.look().unwrap();
        assert!(db.is_following());
    }

    /// Page checksums that miss one segment would be wrong for ever.
    #[tokio::test(flavor = "multi_thread")]
    async fn local_state_passes_over_no_segment() {
        let (_dir, app, db) = begun(Policy::default()).await;
        for n in 0..2 {
            app.execute("INSERT INTO t VALUES(?1)", [n]).unwrap();
            db.look().unwrap();
        }
        let local = db.local().unwrap();
        let queued = db.destinations()[0].queue.clone();
        assert_eq!(queued.len(), 2);
        db.confirmed(&local, &queued[1]).unwrap_err();
        db.confirmed(&local, &queued[0]).unwrap();
        db.confirmed(&local, &queued[1]).unwrap();
        assert_eq!(local.state().map(|s| s.txid), Some(queued[1].txid()));
    }

    /// A put that panics is nobody's turn any more, and nobody waits for it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_keeps_nothing_from_being_captured() {
        let dir = tempfile::tempdir().unwrap();
        let db = database(dir.path(), Arc::new(SystemClock), Policy::default());
        db.destinations()[0].queue.push_back(segment(1, 1));
        db.destinations()[0].shipping = true;
        let turn = || {
            let _turn = Turn { db: &db, nth: 0 };
            panic!("a bug");
        };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(turn)).unwrap_err();
        let due = db.wait_until_due(Instant::now(), Duration::ZERO);
        assert!(tokio::time::timeout(Duration::from_secs(5), due).await.is_ok());
        assert!(!db.destinations()[0].shipping);
    }

    /// A put into a folder never fails while it hangs. There were no points in time then, and what had been captured was in
    /// memory only.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_put_that_hangs_is_an_outage() {
        let (_dir, app, db) = begun(Policy::default()).await;
        let look = || {
            app.execute("INSERT INTO t VALUES(1)", []).unwrap();
            db.look().unwrap();
        };
        let is_due = async |within| {
            let due = db.wait_until_due(Instant::now(), Duration::ZERO);
            tokio::time::timeout(within, due).await.is_ok()
        };
        let bodies = || {
            let spooled = |s: &Arc<Segment>| matches!(s.body, Body::Spooled);
            db.destinations()[0].queue.iter().map(spooled).collect::<Vec<_>>()
        };
        look();
        db.destinations()[0].shipping = true;
        db.destinations()[0].hangs_from = Some(Instant::now() + Duration::from_secs(3600));
        assert!(!is_due(Duration::from_millis(1500)).await, "what comes meanwhile goes with the next put");
        look();
        assert_eq!(bodies(), [false; 2]);
        db.destinations()[0].hangs_from = Some(Instant::now());
        assert!(is_due(Duration::from_secs(60)).await);
        look();
        assert_eq!(bodies(), [true; 3]);
    }

    /// What is left to copying goes from the spool, perhaps while it is about to be put.
    #[test]
    fn a_segment_that_is_left_while_it_is_under_way_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().max_blocking_threads(1).enable_all().build().unwrap();
        let db = {
            let _within = runtime.enter();
            database(dir.path(), Arc::new(SystemClock), Policy::default())
        };
        runtime.block_on(start::open_local(&db)).unwrap();
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        runtime.spawn_blocking(move || wait.recv());
        let spooled = segment(1, 1);
        db.destinations()[0].queue.push_back(spooled.clone());
        db.ship();
        while Arc::strong_count(&spooled) < 3 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let left = std::mem::take(&mut db.destinations()[0].queue);
        db.destinations()[0].lags = true;
        drop((left, go_on));
        while db.destinations()[0].failures == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(20));
        assert!(!db.fenced.load(SeqCst));
        runtime.shutdown_background();
    }
}
