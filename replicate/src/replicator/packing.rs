//! Packs on their way to the destinations. The log is complete without them, so nothing waits for this.

use super::database::{Database, Work};
use crate::Error;
use bytes::Bytes;
use litekeep_ltx::{FileName, Pack, Txid};
use litekeep_store::{PackRef, Store};
use std::path::PathBuf;
use std::sync::Arc;

impl Database {
    /// Puts the packs that are closed into every destination that has what they are about; `all`: also the one that grows.
    /// While the database is being looked at, nothing.
    ///
    /// # Errors
    /// Those of a store. What is left is tried again.
    pub(super) async fn ship_packs(self: &Arc<Self>, all: bool) -> Result<(), Error> {
        let has_any = |work: &Work| work.packs.has_any(all);
        if !self.try_work().is_some_and(|work| has_any(&work)) {
            return Ok(());
        }
        let this = self.clone();
        let closed = self.run_blocking(move || {
            let Some(mut work) = this.try_work() else { return Ok(vec![]) };
            if all || work.packs.is_due() {
                work.packs.close();
            }
            Ok(work.packs.closed())
        });
        let closed = closed.await?;
        let count = self.destinations().len();
        let mut everywhere = vec![true; closed.len()];
        let mut failed = None;
        for nth in 0..count {
            for (pack, everywhere) in closed.iter().zip(&mut everywhere) {
                match self.ship_pack(nth, pack).await {
                    Ok(done) => *everywhere &= done,
                    Err(e) => {
                        *everywhere = false;
                        failed = Some(e);
                        break;
                    }
                }
            }
            if failed.is_some() {
                everywhere.fill(false);
            }
        }
        for ((_, path), _) in closed.iter().zip(everywhere).filter(|(_, everywhere)| *everywhere) {
            let _ = std::fs::remove_file(path);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Puts a pack into a destination; `false`: not yet.
    async fn ship_pack(
        self: &Arc<Self>,
        nth: usize,
        (name, path): &(FileName, PathBuf),
    ) -> Result<bool, Error> {
        let (store, may_come) = {
            let destinations = self.destinations();
            let d = &destinations[nth];
            (d.store.clone(), d.answers() && !d.lags && d.durable >= Some(name.max))
        };
        if !may_come {
            return Ok(false);
        }
        if self.packs_of(nth, &store).await?.iter().any(|pack| pack.name == *name) {
            return Ok(true);
        }
        let bytes: Bytes = std::fs::read(path).map_err(Error::file("read", path))?.into();
        let size = bytes.len() as u64;
        if !self.is_of_this_log(nth, &store, &bytes).await? {
            return Ok(true);
        }
        match store.put_pack(*name, bytes).await {
            // One of these transactions is there; another try would meet it again.
            Err(e) if e.kind() == litekeep_store::ErrorKind::Fenced => return Ok(true),
            put => put?,
        };
        if let Some(packs) = &mut self.destinations()[nth].packs {
            packs.push(PackRef { name: *name, size, path: None });
            packs.sort_by_key(|pack| (pack.name.min, pack.name.max));
        }
        Ok(true)
    }

    /// Whether a destination has the last file that a pack is about. After a power cut, and where another writer was, it may
    /// have another one under that number.
    async fn is_of_this_log(&self, nth: usize, store: &Store, bytes: &[u8]) -> Result<bool, Error> {
        let Ok(pack) = Pack::scan(bytes) else { return Ok(false) };
        let Some((last, _)) = pack.entries.last() else { return Ok(false) };
        let found = {
            let destinations = self.destinations();
            let d = &destinations[nth];
            let file = d.log.level(0).iter().rev().find(|f| f.name.max == last.txid).cloned();
            file.map(|file| (d.times.contains(&file).then(|| d.times.of(&file)), file))
        };
        let time_ms = match found {
            None => return Ok(false),
            Some((Some(time_ms), _)) => time_ms,
            Some((None, file)) => store.header(&file).await?.timestamp_ms,
        };
        Ok(time_ms == last.timestamp_ms)
    }

    /// The packs of a destination, looked up once.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn packs_of(&self, nth: usize, store: &Store) -> Result<Vec<PackRef>, Error> {
        if let Some(packs) = self.destinations()[nth].packs.clone() {
            return Ok(packs);
        }
        let packs = store.list_packs().await?;
        self.destinations()[nth].packs = Some(packs.clone());
        Ok(packs)
    }

    /// Deletes the packs of transactions after the end of a log: their numbers are given again.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn forget_packs_after(
        &self,
        nth: usize,
        store: &Store,
        end: Option<Txid>,
    ) -> Result<(), Error> {
        let stale = |pack: &PackRef| Some(pack.name.max) > end;
        let (gone, packs): (Vec<_>, Vec<_>) = store.list_packs().await?.into_iter().partition(stale);
        if !gone.is_empty() {
            store.delete_packs(&gone.iter().map(|pack| pack.name).collect::<Vec<_>>()).await?;
        }
        self.destinations()[nth].packs = Some(packs);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commits::entries;
    use crate::log_state;
    use crate::replicator::PACKS;
    use crate::replicator::database::tests::{begun, rested};
    use crate::replicator::start;
    use crate::restore::{Goal, Options, to_path};
    use litekeep_format::PageSource;
    use litekeep_ltx::{PackEntry, Pgno, Pos};
    use litekeep_store::plan::{Merge, Policy};
    use rusqlite::Connection;

    /// The database after each of its commits, in the order of the log.
    struct Story {
        _dir: tempfile::TempDir,
        db: Arc<Database>,
        store: Store,
        /// The same on the machine of the database.
        here: Store,
        images: Vec<(Pos, Vec<u8>)>,
    }

    const STATEMENTS: [&str; 9] = [
        "INSERT INTO t VALUES(randomblob(3000))",
        "UPDATE t SET x = randomblob(40) WHERE rowid % 3 = 0",
        "CREATE TABLE IF NOT EXISTS u(a PRIMARY KEY, b)",
        "INSERT OR REPLACE INTO u SELECT abs(random()) % 50, randomblob(100) FROM t",
        "DELETE FROM t WHERE rowid % 2 = 0",
        "INSERT INTO t SELECT randomblob(9000) FROM u",
        "DROP TABLE u; VACUUM",
        "INSERT INTO t VALUES(1); UPDATE t SET x = 2 WHERE x = 1",
        "CREATE INDEX i ON t(x)",
    ];

    async fn story(setup: &str) -> Story {
        let (dir, mut app, db) = begun(Policy::default()).await;
        app.execute_batch(setup).unwrap();
        let store = db.destinations()[0].store.clone();
        assert!(db.sync().await);
        let mut images = vec![];
        let mut last = app.serialize("main").unwrap().to_vec();
        for round in 0..24 {
            // Some are captured together, whoever captures them.
            for statement in STATEMENTS[round % STATEMENTS.len()].split(';') {
                let _ = app.execute_batch(statement);
                let now = app.serialize("main").unwrap().to_vec();
                // Not every statement finds anything to change.
                if now != last {
                    images.push(now.clone());
                    last = now;
                }
            }
            if round % 5 > 2 {
                assert!(db.sync().await);
            }
        }
        assert!(db.sync().await);
        let local = rested(&db).await;
        let here = store.clone().with_packs_in(&local.meta.file(PACKS));
        let mut places = vec![];
        for pack in here.list_packs().await.unwrap() {
            for (entry, _) in Pack::scan(&here.get_pack(&pack).await.unwrap()).unwrap().entries {
                places.extend((1..=entry.parts).map(|seq| Pos { txid: entry.txid, seq }));
            }
        }
        // Those of the setup came before.
        let places = places.split_off(places.len() - images.len());
        assert!(places.iter().any(|pos| pos.seq > 2), "{places:?}");
        Story { _dir: dir, db, store, here, images: places.into_iter().zip(images).collect() }
    }

    impl Story {
        /// Merges all files of level 0, of which the last one stays.
        async fn merge(&self) {
            let files = self.store.list().await.unwrap().level(0).to_vec();
            let name = FileName { min: files[0].min(), max: files.last().unwrap().max() };
            self.store.compact(&Merge { level: 2, inputs: files.clone(), name }).await.unwrap();
            self.store.delete(files[..files.len() - 1].to_vec()).await.unwrap();
        }

        async fn is_told(&self, store: &Store) {
            for (pos, image) in &self.images {
                let to = self._dir.path().join(format!("{}.{}", pos.txid, pos.seq));
                let options = Options { force: true, ..Options::default() };
                let restored = to_path(store, Goal::Commit(*pos), &to, &options, &()).await;
                let restored = restored.unwrap_or_else(|e| panic!("{pos:?}: {e}")).unwrap();
                assert_eq!(restored.txid, pos.txid);
                let found = Connection::open(&to).unwrap().serialize("main").unwrap().to_vec();
                let pages = || found.chunks(4096).zip(image.chunks(4096)).enumerate();
                let differ: Vec<_> = pages().filter(|(_, (a, b))| a != b).map(|(n, _)| n + 1).collect();
                assert!(
                    found == *image,
                    "{pos:?}: pages {differ:?}, {} and {} bytes",
                    found.len(),
                    image.len()
                );
                let state = log_state::open(store, Goal::Commit(*pos)).await.unwrap();
                let page_size = state.view().page(Pgno::FIRST).unwrap().len();
                for (n, expected) in (1..).zip(image.chunks(page_size)) {
                    let page = state.view().page(Pgno::new(n).unwrap()).unwrap();
                    assert!(*page == *expected, "{pos:?}, page {n}");
                }
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_commit_can_be_restored() {
        for setup in ["", "PRAGMA auto_vacuum = 1; VACUUM"] {
            let story = story(setup).await;
            // On the machine of the database before a pack is put, and anywhere afterwards.
            story.is_told(&story.here).await;
            assert_eq!(story.store.list_packs().await.unwrap(), []);
            story.db.ship_packs(true).await.unwrap();
            assert_eq!(story.store.list_packs().await.unwrap().len(), 1);
            story.is_told(&story.store).await;
            // Also when files have been merged.
            story.merge().await;
            story.is_told(&story.store).await;
            let (first, _) = &story.images[0];
            let to = story._dir.path().join("whole");
            let goal = Goal::Txid(first.txid);
            to_path(&story.store, goal, &to, &Options::default(), &()).await.unwrap().unwrap();
        }
    }

    /// Where uploads come more often than once a second, files of a second were all that instants were told by.
    #[tokio::test(flavor = "multi_thread")]
    async fn an_instant_is_exact_where_files_are_merged() {
        let story = story("").await;
        story.db.ship_packs(true).await.unwrap();
        let pack = story.store.list_packs().await.unwrap().remove(0);
        let entries: Vec<PackEntry> = entries(&story.store, &pack).await.unwrap();
        story.merge().await;
        let mut told = 0;
        for at_ms in entries.iter().map(|entry| entry.timestamp_ms) {
            let last = entries.iter().rfind(|entry| entry.timestamp_ms <= at_ms).unwrap();
            let plan = crate::restore::plan(&story.store, Goal::Time(at_ms)).await.unwrap();
            assert_eq!((plan.point(), plan.time_ms), (last.txid.into(), last.timestamp_ms));
            let Some((_, image)) = story.images.iter().rfind(|(pos, _)| pos.txid == last.txid) else {
                continue;
            };
            let to = story._dir.path().join(format!("at-{}", last.txid));
            let options = Options { force: true, ..Options::default() };
            let restored =
                to_path(&story.store, Goal::Time(at_ms), &to, &options, &()).await.unwrap().unwrap();
            assert_eq!((restored.txid, restored.time_ms), (last.txid, last.timestamp_ms));
            assert!(Connection::open(&to).unwrap().serialize("main").unwrap().to_vec() == *image, "{at_ms}");
            told += 1;
        }
        assert!(told > 3, "{told} of {}", entries.len());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_commit_that_is_not_there_is_told() {
        let story = story("").await;
        let (last, _) = story.images.last().unwrap();
        let open = async |goal| log_state::open(&story.store, goal).await.unwrap_err();
        let not_apart = open(Goal::Commit(*last)).await;
        assert!(not_apart.to_string().contains("are not kept by themselves"), "{not_apart}");
        story.db.ship_packs(true).await.unwrap();
        let beyond = open(Goal::Commit(Pos { seq: last.seq + 1, ..*last })).await;
        assert!(beyond.to_string().contains("there is no"), "{beyond}");
        assert_eq!(beyond.kind(), crate::Kind::Invalid);
    }

    /// Its files tell as much.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_slow_writer_needs_no_pack() {
        let (_dir, app, db) = begun(Policy::default()).await;
        for n in 0..3 {
            app.execute("INSERT INTO t VALUES(?1)", [n]).unwrap();
            assert!(db.sync().await);
            tokio::time::sleep(std::time::Duration::from_millis(1001)).await;
        }
        db.ship_packs(true).await.unwrap();
        let store = db.destinations()[0].store.clone();
        assert_eq!(store.list_packs().await.unwrap(), []);
    }

    /// What another writer's log has under the same numbers is something else.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_pack_of_another_log_is_not_put() {
        let story = story("").await;
        let newest = story.db.destinations()[0].log.newest_l0().unwrap().clone();
        story.db.destinations()[0].times.insert(0, newest.name, 1);
        story.db.ship_packs(true).await.unwrap();
        assert_eq!(story.store.list_packs().await.unwrap(), []);
    }

    /// The database begins again after a panic, and so must its packs.
    #[tokio::test(flavor = "multi_thread")]
    async fn packs_go_on_after_a_panic() {
        let story = story("").await;
        let db = story.db.clone();
        let panicked = tokio::task::spawn_blocking(move || {
            let _work = db.work();
            panic!("as a defect would");
        });
        panicked.await.unwrap_err();
        story.db.ship_packs(true).await.unwrap();
        assert_eq!(story.store.list_packs().await.unwrap().len(), 1);
    }

    /// They would pile up, a pack a minute.
    #[tokio::test(flavor = "multi_thread")]
    async fn packs_that_are_too_old_go() {
        let story = story("").await;
        story.db.ship_packs(true).await.unwrap();
        assert_eq!(story.store.list_packs().await.unwrap().len(), 1);
        let newest = story.db.destinations()[0].log.newest_l0().unwrap().clone();
        let day_ms = 24 * 3600 * 1000;
        let long_ago = story.db.destinations()[0].times.of(&newest) - 2 * day_ms;
        let files: Vec<_> = story.db.destinations()[0].log.files().cloned().collect();
        for file in files {
            story.db.destinations()[0].times.insert(file.level, file.name, long_ago);
        }
        story.db.maintain().await;
        assert_eq!(story.store.list_packs().await.unwrap(), []);
    }

    /// What they are about gets the same numbers again.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_log_that_begins_anew_has_no_packs_of_the_old_one() {
        let story = story("").await;
        story.db.ship_packs(true).await.unwrap();
        let dir = story._dir.path();
        std::fs::remove_dir_all(dir.join("bucket/ltx")).unwrap();
        std::fs::remove_dir_all(dir.join("meta")).unwrap();
        story.db.work().capture = None;
        story.db.work().local = None;
        start::begin(&story.db).await.unwrap();
        assert_eq!(story.store.list_packs().await.unwrap(), []);
    }

    /// Of before somebody turned them off.
    #[tokio::test(flavor = "multi_thread")]
    async fn who_wants_no_packs_has_none_here() {
        let story = story("").await;
        let local = story.db.local().unwrap();
        assert!(!story.here.packs_here().unwrap().is_empty());
        let policy = Policy { any_transaction: std::time::Duration::ZERO, ..Policy::default() };
        let off = crate::replicator::database::tests::database(
            story._dir.path(),
            Arc::new(litekeep_env::SystemClock),
            policy,
        );
        off.take_up_packs(&mut off.work(), &local, Some(story.images[0].0.txid));
        assert_eq!(story.here.packs_here(), Some(vec![]));
    }

    /// Between its plan and its end, which may be long.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_pack_that_is_put_during_a_restore_is_found() {
        let story = story("").await;
        let (pos, image) = story.images.last().unwrap();
        let plan = crate::restore::plan(&story.here, Goal::Commit(*pos)).await.unwrap();
        story.db.ship_packs(true).await.unwrap();
        let path = story._dir.path().join("restored");
        let file = Arc::new(std::fs::File::create(&path).unwrap());
        crate::restore::fetch(&story.here, plan, file, &path, 1, &()).await.unwrap();
        assert!(Connection::open(&path).unwrap().serialize("main").unwrap().to_vec() == *image);
    }
}
