//! Compaction, retention and snapshots of one database's logs, without listing.

use super::database::Database;
use super::places::is_restorable;
use crate::{Error, parents};
use litekeep_store::plan::{self, Goal, Merge};
use litekeep_store::{ErrorKind, FileRef, Log, Store, Times};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Page checksums are made durable so often: after a power cut the log's files since then are read again.
const SYNC_SUMS: Duration = Duration::from_secs(60);
/// Maintenance that keeps failing is told of again after so many tries, about every five minutes.
const TELL_AGAIN: u32 = 30;

impl Database {
    /// Does what is due in every destination. Failures are logged and tried again later: the log is complete without.
    pub(crate) async fn maintain(self: &Arc<Self>) {
        if self.maintained.swap(true, SeqCst) {
            return;
        }
        let _turn = Turn(&self.maintained);
        self.recent.tidy();
        let count = self.destinations().len();
        for nth in 0..count {
            let (store, log, mut times) = {
                let destinations = self.destinations();
                let d = &destinations[nth];
                if d.log.is_empty() || d.lags || d.failures > 0 || !self.is_following() {
                    continue;
                }
                (d.store.clone(), d.log.clone(), d.times.clone())
            };
            let maintained = match self.maintain_one(nth, &store, log, &mut times).await {
                Err(Error::Store(e)) if e.is_missing() => self.list_again(nth, &store, &e).await,
                other => other,
            };
            let failures = {
                let failures = &mut self.destinations()[nth].maintenance_failures;
                *failures = if maintained.is_ok() { 0 } else { *failures + 1 };
                *failures
            };
            if let Err(e) = maintained
                && failures % TELL_AGAIN == 1
            {
                tracing::warn!(path = %self.settings.path.display(), store = store.place(), "maintenance: {e}");
            }
        }
        if let Err(e) = self.ship_packs(false).await {
            tracing::debug!(path = %self.settings.path.display(), "put single commits: {e}");
        }
        let due = self.work().sums_synced.is_none_or(|t| t.elapsed() >= SYNC_SUMS);
        if let Some(local) = self.local().ok().filter(|_| due) {
            self.work().sums_synced = Some(Instant::now());
            let synced = self.run_blocking(move || local.sync_sums()).await;
            if let Err(e) = synced {
                tracing::debug!("could not sync page checksums: {e}");
            }
        }
    }

    /// Somebody else has taken files away: from here on the log is what is there.
    async fn list_again(
        self: &Arc<Self>,
        nth: usize,
        store: &Store,
        missing: &litekeep_store::Error,
    ) -> Result<(), Error> {
        let path = self.settings.path.display();
        tracing::warn!(%path, store = store.place(), "maintenance: {missing}; listing the log again");
        let before: Vec<_> = self.destinations()[nth].log.files().cloned().collect();
        let mut listed = store.list().await?;
        if !is_restorable(&listed) {
            if !listed.is_empty() {
                // The next file would follow what cannot be restored; where there is no folder, it cannot be put.
                self.begin_again();
            }
            return Err(store.vanished().into());
        }
        let has_lost_its_end = listed.last() < before.iter().map(FileRef::max).max();
        let leads_nowhere = plan::restore(&listed, Goal::Latest).is_err();
        let end = {
            let mut destinations = self.destinations();
            let d = &mut destinations[nth];
            d.log.remove_all(&before);
            d.log.files().for_each(|landed_since| listed.insert(landed_since.clone()));
            (d.durable, d.log) = (listed.last(), listed);
            d.durable
        };
        if has_lost_its_end {
            self.forget_packs_after(nth, store, end).await?;
        }
        if has_lost_its_end || leads_nowhere {
            // The next file would follow a hole: begin again from what the log ends with now.
            self.begin_again();
        }
        Ok(())
    }

    /// Makes a merge. Inputs that turn out to be damaged are counted on no more; where the end of the log cannot be restored without
    /// them, it begins again with a new snapshot.
    async fn merged(self: &Arc<Self>, nth: usize, store: &Store, merge: &Merge) -> Result<FileRef, Error> {
        let failed = match store.compact(merge).await {
            Err(e) if e.kind() == ErrorKind::Corrupt => e,
            other => return other.map_err(Error::from),
        };
        let damaged = store.damaged_inputs(merge).await?;
        let leads_nowhere = {
            let mut destinations = self.destinations();
            let d = &mut destinations[nth];
            d.damaged.retain(|known| !damaged.contains(known));
            d.damaged.extend(damaged.iter().cloned());
            let mut whole = d.log.clone();
            d.leave_out_damaged(&mut whole);
            d.log = whole;
            !damaged.is_empty() && plan::restore(&d.log, Goal::Latest).is_err()
        };
        for file in &damaged {
            let (path, file) = (self.settings.path.display(), store.place_of_file(file.level, file.name));
            tracing::error!(%path, "`{file}` is damaged: what only it has cannot be restored");
        }
        if leads_nowhere {
            self.begin_again();
        }
        Err(failed.into())
    }

    async fn maintain_one(
        self: &Arc<Self>,
        nth: usize,
        store: &Store,
        mut log: Log,
        times: &mut Times,
    ) -> Result<(), Error> {
        let now = self.shared.clock.unix_ms();
        let policy = &self.settings.policy;
        let unknown: Vec<_> = plan::untimed(&log).into_iter().filter(|f| !times.contains(f)).collect();
        if !unknown.is_empty() {
            store.learn_times(unknown, times).await?;
        }
        // An idle database costs no request.
        let mut has_worked = false;
        loop {
            let merges = plan::compaction(&log, times, now, policy);
            if merges.is_empty() {
                break;
            }
            has_worked = true;
            for merge in merges {
                let merged = self.merged(nth, store, &merge).await?;
                let time = merge.inputs.last().map_or(now, |f| times.of(f));
                self.note(nth, merged.level, merged.name, merged.size, time);
                log.insert(merged.clone());
                times.insert(merged.level, merged.name, time);
            }
        }
        if plan::snapshot_due(&log, times, now, policy)
            && let Some(merge) = plan::snapshot(&log)?
        {
            let merged = self.merged(nth, store, &merge).await?;
            let time = merge.inputs.last().map_or(now, |f| times.of(f));
            self.note(nth, merged.level, merged.name, merged.size, time);
            log.insert(merged.clone());
            times.insert(merged.level, merged.name, time);
            parents::renew(store, merged.max()).await.unwrap_or_else(|e| {
                tracing::debug!(store = store.place(), "renew the parent map: {e}");
            });
        }
        let known = self.destinations()[nth].packs.clone();
        let packs = match known {
            None if has_worked => self.packs_of(nth, store).await?,
            known => known.unwrap_or_default(),
        };
        let expired: Vec<_> = plan::expired_packs(&log, times, &packs, now, policy);
        let gone = plan::retention(&log, times, &packs, now, policy);
        if !expired.is_empty() {
            if let Some(packs) = &mut self.destinations()[nth].packs {
                packs.retain(|pack| !expired.contains(pack));
            }
            store.delete_packs(&expired.iter().map(|pack| pack.name).collect::<Vec<_>>()).await?;
        }
        if !gone.is_empty() {
            // Forgotten first: whoever plans meanwhile does not count on them.
            self.destinations()[nth].log.remove_all(&gone);
            let is_kept = |file: &&FileRef| file.is_base() && !gone.contains(file);
            let oldest = log.files().filter(is_kept).map(FileRef::max).min();
            let oldest = oldest.filter(|_| gone.iter().any(FileRef::is_base));
            store.delete(gone).await?;
            if let Some(oldest) = oldest {
                parents::forget_before(store, oldest).await?;
                let remaining = self.destinations()[nth].log.clone();
                store.delete_stray_checks(&remaining).await?;
            }
        }
        let mut destinations = self.destinations();
        let d = &mut destinations[nth];
        let remaining = d.log.clone();
        d.times.retain(&remaining);
        Ok(())
    }

    fn note(&self, nth: usize, level: u8, name: litekeep_ltx::FileName, size: u64, time: i64) {
        self.destinations()[nth].landed(level, name, size, time);
    }
}

/// Maintenance that is under way, until it ends or panics.
struct Turn<'a>(&'a AtomicBool);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use crate::replicator::{
        Phase,
        database::tests::{begun, database},
        start,
    };
    use crate::restore::{Goal as RestoreGoal, Options, to_path};
    use litekeep_env::{ManualClock, SystemClock};
    use litekeep_store::plan::{self, Goal, Policy};
    use rusqlite::Connection;
    use std::sync::Arc;
    use std::time::Duration;

    #[tokio::test(flavor = "multi_thread")]
    async fn files_that_somebody_took_away_are_noticed() {
        let policy = Policy { snapshot_every: Duration::ZERO, ..Policy::default() };
        let (_dir, app, db) = begun(policy).await;
        for n in 0..3 {
            app.execute("INSERT INTO t VALUES(?1)", [n]).unwrap();
            assert!(db.sync().await);
        }
        let (store, last) = {
            let destinations = db.destinations();
            (destinations[0].store.clone(), destinations[0].log.newest_l0().unwrap().clone())
        };
        store.delete(vec![last]).await.unwrap();
        db.maintain().await;
        app.execute("INSERT INTO t VALUES(3)", []).unwrap();
        assert!(db.sync().await);
        let log = db.destinations()[0].log.clone();
        assert!(log.files().eq(store.list().await.unwrap().files()));
        plan::restore(&log, Goal::Latest).expect("nothing follows a hole");
    }

    /// Also of one whose file somebody else has deleted.
    #[tokio::test(flavor = "multi_thread")]
    async fn page_checksums_go_with_their_snapshot() {
        let keep = Duration::from_secs(60);
        let policy = Policy {
            any_transaction: Duration::ZERO,
            any_second: Duration::ZERO,
            keep,
            snapshot_every: Duration::from_secs(1),
        };
        let dir = tempfile::tempdir().unwrap();
        let app = Connection::open(dir.path().join("app.db")).unwrap();
        app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t AS SELECT randomblob(500000) AS x")
            .unwrap();
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        let db = database(dir.path(), clock.clone(), policy);
        start::begin(&db).await.unwrap();
        let store = db.destinations()[0].store.clone();
        let records = async || {
            let records = store.list_records("checksums").await.unwrap();
            records.into_iter().map(|record| record.name).collect::<Vec<_>>()
        };
        let of_snapshots = || {
            let log = db.destinations()[0].log.clone();
            let names = log.level(9).iter().map(|file| format!("checksums/9-{}-{}", file.min(), file.max()));
            names.collect::<Vec<_>>()
        };
        assert_eq!((records().await, of_snapshots().len()), (of_snapshots(), 1));
        let stray = "checksums/3-0000000000000001-0000000000000009";
        store.put_record(stray, "of a file that is gone".into(), false).await.unwrap();
        let commit = async |n: i64| {
            clock.advance(Duration::from_secs(30));
            app.execute("INSERT INTO t VALUES(?1)", [n]).unwrap();
            assert!(db.sync().await);
            db.maintain().await;
            assert_eq!(db.destinations()[0].maintenance_failures, 0);
        };
        commit(1).await;
        assert_eq!((of_snapshots().len(), records().await.len()), (2, 3));
        let first = of_snapshots().remove(0);
        for n in 2..6 {
            commit(n).await;
        }
        assert!(!of_snapshots().contains(&first));
        assert_eq!(records().await, of_snapshots());
    }

    /// Not a bucket, where puts land as before, becomes the place of a new backup.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_backup_that_somebody_deleted_is_missed() {
        let policy = Policy { snapshot_every: Duration::ZERO, ..Policy::default() };
        let (_dir, app, db) = begun(policy).await;
        app.execute("INSERT INTO t VALUES(1)", []).unwrap();
        assert!(db.sync().await);
        let (store, files) = {
            let destinations = db.destinations();
            (destinations[0].store.clone(), destinations[0].log.files().cloned().collect())
        };
        store.delete(files).await.unwrap();
        app.execute("INSERT INTO t VALUES(2)", []).unwrap();
        assert!(db.sync().await);
        db.maintain().await;
        while db.status().phase != Phase::Failing {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let message = db.status().message.unwrap();
        assert!(
            message.contains("nothing is left of the log") && message.contains("--new-timeline"),
            "{message}"
        );
        assert!(store.list().await.unwrap().files().all(|file| !file.is_base()));
    }

    /// What lies before the hole stays, and everything from now on can be restored.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_hole_in_the_log_is_followed_by_a_snapshot() {
        let policy = Policy { snapshot_every: Duration::ZERO, ..Policy::default() };
        let (_dir, app, db) = begun(policy).await;
        for n in 0..5 {
            app.execute("INSERT INTO t VALUES(?1)", [n]).unwrap();
            assert!(db.sync().await);
        }
        let (store, hole) = {
            let destinations = db.destinations();
            let l0 = destinations[0].log.level(0);
            (destinations[0].store.clone(), l0[l0.len() - 3].clone())
        };
        store.delete(vec![hole.clone()]).await.unwrap();
        db.maintain().await;
        app.execute("INSERT INTO t VALUES(9)", []).unwrap();
        assert!(db.sync().await);
        assert!(db.is_following(), "{:?}", db.status());
        let log = store.list().await.unwrap();
        assert!(db.destinations()[0].log.files().eq(log.files()));
        plan::restore(&log, Goal::Latest).expect("a snapshot after the hole");
        plan::restore(&log, Goal::Txid(hole.min().prev().unwrap())).expect("what was before it");
    }

    /// What only the damaged file has is lost, and everything from now on can be restored; also by a litekeep that knows nothing of it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_damaged_file_in_the_log_is_followed_by_a_snapshot() {
        let policy = Policy { snapshot_every: Duration::ZERO, ..Policy::default() };
        let (dir, app, db) = begun(policy).await;
        for n in 0..5 {
            app.execute("INSERT INTO t VALUES(?1)", [n]).unwrap();
            assert!(db.sync().await);
        }
        let (store, damaged) = {
            let destinations = db.destinations();
            let l0 = destinations[0].log.level(0);
            (destinations[0].store.clone(), l0[l0.len() - 3].clone())
        };
        let path = std::path::PathBuf::from(store.place_of_file(damaged.level, damaged.name));
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        std::fs::write(&path, &bytes).unwrap();
        db.maintain().await;
        assert_eq!(db.destinations()[0].damaged, std::slice::from_ref(&damaged));
        app.execute("INSERT INTO t VALUES(9)", []).unwrap();
        assert!(db.sync().await);
        assert!(db.is_following(), "{:?}", db.status());
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "it is left as it is");
        let to = dir.path().join("restored.db");
        to_path(&store, RestoreGoal::Latest, &to, &Options::default(), &()).await.unwrap();
        let rows = |path| {
            Connection::open(path)
                .unwrap()
                .query_row("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0))
                .unwrap()
        };
        assert_eq!(rows(to), 6);
        db.maintain().await;
        assert_eq!(db.destinations()[0].maintenance_failures, 0);
    }

    /// The thread that maintenance runs on may be the one that puts what a first snapshot encodes.
    #[test]
    fn maintenance_does_not_wait_for_a_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let app = Connection::open(dir.path().join("app.db")).unwrap();
        app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t AS SELECT randomblob(100000000)").unwrap();
        let one = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let db = {
            let _within = one.enter();
            database(dir.path(), Arc::new(SystemClock), Policy::default())
        };
        let (tell, is_there) = std::sync::mpsc::channel();
        let this = db.clone();
        one.spawn(async move { tell.send(start::begin(&this).await) });
        while db.status().phase != Phase::Snapshot {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Encoding has begun.
        std::thread::sleep(Duration::from_millis(20));
        one.spawn(async move { db.maintain().await });
        let begun = is_there.recv_timeout(Duration::from_secs(20));
        one.shutdown_background();
        begun.expect("the snapshot ends").unwrap();
    }
}
