//! Goal: what the replicator says is safe can be restored, whatever happened while it was away.
//! Method: the engine on a folder, with an application that works while it runs or while it does not.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use litekeep_env::ManualClock;
use litekeep_replicate::local::{MetaDir, StateFile};
use litekeep_replicate::replicator::{Gate, Phase, Replicator, Settings};
use litekeep_replicate::restore::{Goal, Options, outrun, roll_forward, to_path};
use litekeep_store::plan::Policy;
use litekeep_store::{Store, Target};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

pub(crate) struct Scene {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) stores: Vec<Store>,
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

impl Scene {
    pub(crate) fn new(stores: usize) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let open = |i| Store::open(&Target::Folder(dir.path().join(format!("bucket{i}")))).unwrap();
        let stores = (0..stores).map(open).collect();
        Scene { dir, stores }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.dir.path().join("app.db")
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            path: self.database(),
            meta_dir: MetaDir::default_path(&self.database()),
            stores: self.stores.clone(),
            upload_interval: Duration::from_millis(10),
            policy: Policy::default(),
            wal_limit: 64 << 20,
            spool_limit: 1 << 30,
            new_timeline: false,
            newcomer_watch: Duration::from_millis(100),
            absence_patience: Duration::from_secs(60),
            gate: Gate::default(),
        }
    }

    pub(crate) fn app(&self, sql: &str) {
        let app = Connection::open(self.database()).unwrap();
        app.execute_batch(sql).unwrap();
    }

    /// Replicates until everything is safe, then stops.
    pub(crate) async fn replicate(&self) {
        replicate(self.settings()).await;
    }

    /// A replicator that has brought the log up to date.
    pub(crate) async fn running(&self) -> Replicator {
        let replicator = Replicator::start().unwrap();
        replicator.add(self.settings()).unwrap();
        let left = replicator.sync(PATIENCE).await;
        assert!(left.is_empty(), "{left:?}");
        replicator
    }

    /// What a restore from one of the stores holds: the result of a query.
    pub(crate) async fn restored(&self, store: usize, query: &str) -> String {
        let to = self.dir.path().join("restored.db");
        let options = Options { force: true, ..Options::default() };
        to_path(&self.stores[store], Goal::Latest, &to, &options, &()).await.unwrap();
        query_of(&to, query)
    }
}

pub(crate) async fn replicate(settings: Settings) {
    let replicator = Replicator::start().unwrap();
    replicator.add(settings).unwrap();
    let left = replicator.shut_down(PATIENCE).await;
    assert!(left.is_empty(), "{left:?}");
}

/// Rows on pages of their own.
pub(crate) const TWO_PAGES: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x, pad);
     INSERT INTO t VALUES('a', zeroblob(3000)); INSERT INTO t VALUES('b', zeroblob(3000))";

fn query_of(path: &Path, query: &str) -> String {
    Connection::open(path).unwrap().query_row(query, [], |r| r.get::<_, String>(0)).unwrap()
}

pub(crate) const ALL: &str =
    "SELECT coalesce(group_concat(x, ','), '') FROM (SELECT x FROM t ORDER BY rowid)";
pub(crate) const SETUP: &str = "PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES('a')";

#[tokio::test(flavor = "multi_thread")]
async fn commits_while_nobody_watches_are_found_when_the_wal_is_gone() {
    let scene = Scene::new(1);
    scene.app(SETUP);
    scene.replicate().await;
    assert_eq!(scene.restored(0, ALL).await, "a");
    // The only connection closes: the WAL is copied into the database and deleted.
    for round in 0..3 {
        scene.app(&format!("INSERT INTO t VALUES('b{round}'); DELETE FROM t WHERE x = 'a'"));
        scene.replicate().await;
        assert_eq!(scene.restored(0, ALL).await, query_of(&scene.database(), ALL));
    }
}

/// Each start counted as one.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_an_empty_wal_is_no_break_and_one_after_resets_is() {
    let scene = Scene::new(1);
    scene.app(SETUP);
    scene.replicate().await;
    let breaks = async || {
        let replicator = scene.running().await;
        let breaks = replicator.statuses()[0].breaks;
        assert!(replicator.shut_down(PATIENCE).await.is_empty());
        // What is left of it lets go a moment later, which the end of a process would not leave to chance.
        let settings = scene.settings();
        while MetaDir::claimed_by(&settings.meta_dir, &settings.path).is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        breaks
    };
    assert_eq!(breaks().await, 0, "nothing happened");
    scene.app("INSERT INTO t VALUES('b')");
    assert_eq!(breaks().await, 0, "the only connection has closed, so there is no WAL");
    let app = Connection::open(scene.database()).unwrap();
    app.execute_batch("INSERT INTO t VALUES('c')").unwrap();
    assert_eq!(breaks().await, 0, "the WAL began");
    for _ in 0..2 {
        app.execute_batch("PRAGMA wal_checkpoint(RESTART); INSERT INTO t VALUES('d')").unwrap();
    }
    assert_eq!(breaks().await, 1);
    assert_eq!(scene.restored(0, ALL).await, query_of(&scene.database(), ALL));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_called_safe_before_the_first_snapshot_is_there() {
    let scene = Scene::new(1);
    scene.app(SETUP);
    let replicator = scene.running().await;
    assert_eq!(scene.restored(0, ALL).await, "a");
    assert!(replicator.shut_down(PATIENCE).await.is_empty());
}

/// A hot writer's checkpoints are litekeep's matter, but not for longer than it is hot.
#[tokio::test(flavor = "multi_thread")]
async fn an_application_may_checkpoint_after_a_burst() {
    let scene = Scene::new(1);
    scene.app(SETUP);
    let replicator = scene.running().await;
    let app = Connection::open(scene.database()).unwrap();
    for _ in 0..2000 {
        app.execute("INSERT INTO t VALUES('b')", []).unwrap();
    }
    let begin = std::time::Instant::now();
    let is_busy = || app.query_row("PRAGMA wal_checkpoint", [], |r| r.get::<_, bool>(0)).unwrap();
    while is_busy() {
        assert!(begin.elapsed() < PATIENCE, "the application cannot checkpoint");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(replicator.shut_down(PATIENCE).await.is_empty());
    assert_eq!(scene.restored(0, ALL).await, query_of(&scene.database(), ALL));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_destination_gets_everything_also_what_came_before_it() {
    let mut scene = Scene::new(2);
    let second = scene.stores.pop().unwrap();
    scene.app(SETUP);
    scene.app("CREATE TABLE large AS SELECT randomblob(500000)");
    scene.replicate().await;
    scene.stores.push(second);
    scene.app("INSERT INTO t VALUES('b')");
    scene.replicate().await;
    for store in 0..2 {
        assert_eq!(scene.restored(store, ALL).await, "a,b");
    }
    let mut checksums = vec![];
    for store in &scene.stores {
        let records = store.list_records("checksums").await.unwrap();
        assert_eq!(records.len(), 1, "{records:?}");
        checksums.push(store.get_record(&records[0].name).await.unwrap());
    }
    assert!(checksums[0].is_some() && checksums[0] == checksums[1], "the snapshot is the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_meta_folder_costs_no_snapshot() {
    let scene = Scene::new(1);
    scene.app(SETUP);
    scene.app("INSERT INTO t SELECT hex(randomblob(500)) FROM (WITH n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<500) SELECT i FROM n)");
    scene.replicate().await;
    let before = scene.stores[0].list().await.unwrap().size();
    std::fs::remove_dir_all(MetaDir::default_path(&scene.database())).unwrap();
    scene.app("UPDATE t SET x = 'changed' WHERE rowid = 250");
    scene.replicate().await;
    assert_eq!(scene.restored(0, ALL).await, query_of(&scene.database(), ALL));
    let added = scene.stores[0].list().await.unwrap().size() - before;
    assert!(added * 10 < before, "{added} bytes were added to {before}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_database_is_refused_unless_a_new_timeline_is_asked_for() {
    let scene = Scene::new(1);
    scene.app(SETUP);
    scene.app("INSERT INTO t SELECT hex(randomblob(500)) FROM (WITH n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<500) SELECT i FROM n)");
    scene.replicate().await;
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(scene.dir.path().join(format!("app.db{suffix}")));
    }
    std::fs::remove_dir_all(MetaDir::default_path(&scene.database())).unwrap();
    scene.app("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES('fresh')");
    let replicator = Replicator::start().unwrap();
    replicator.add(scene.settings()).unwrap();
    let left = replicator.shut_down(PATIENCE).await;
    assert_eq!(left[0].phase, Phase::Refused, "{left:?}");
    assert!(left[0].hint.as_deref().unwrap().contains("--new-timeline"));
    let replicator = Replicator::start().unwrap();
    replicator.add(Settings { new_timeline: true, ..scene.settings() }).unwrap();
    assert!(replicator.shut_down(PATIENCE).await.is_empty());
    assert_eq!(scene.restored(0, ALL).await, "fresh");
}

/// Another replicator has extended one of two logs: nothing of ours may follow what it put there.
#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_ends_otherwise_goes_on_from_the_next_snapshot() {
    let mut scene = Scene::new(2);
    scene.app(TWO_PAGES);
    scene.replicate().await;
    let copy = scene.dir.path().join("copy.db");
    to_path(&scene.stores[0], Goal::Latest, &copy, &Options::default(), &()).await.unwrap();
    Connection::open(&copy).unwrap().execute_batch("UPDATE t SET x = 'theirs' WHERE x = 'a'").unwrap();
    let meta_dir = scene.dir.path().join("meta");
    let stores = scene.stores[1..].to_vec();
    replicate(Settings { path: copy, meta_dir, stores, ..scene.settings() }).await;
    let end = scene.stores[1].list().await.unwrap().last();

    let second = scene.stores.pop().unwrap();
    for x in ["c", "d", "e"] {
        scene.app(&format!("UPDATE t SET x = '{x}' WHERE rowid = 2"));
        scene.replicate().await;
    }
    scene.stores.push(second);
    let replicator = Replicator::start().unwrap();
    replicator.add(scene.settings()).unwrap();
    let left = replicator.shut_down(Duration::from_secs(2)).await;
    let why = left[0].destinations[1].error.as_deref();
    assert!(why.is_some_and(|e| e.contains("it goes on with the next snapshot")), "{left:?}");
    assert_eq!(scene.stores[1].list().await.unwrap().last(), end);

    scene.app("UPDATE t SET x = 'f' WHERE rowid = 2");
    let policy = Policy { snapshot_every: Duration::ZERO, ..Policy::default() };
    let replicator = Replicator::start().unwrap();
    replicator.add(Settings { policy, ..scene.settings() }).unwrap();
    let left = replicator.shut_down(PATIENCE).await;
    assert!(left.is_empty(), "{left:?}");
    for store in 0..2 {
        assert_eq!(scene.restored(store, ALL).await, "a,f");
    }
}

/// A power cut took the memory of two transactions that the first of two destinations has. It is away when replication
/// begins again, and the other one is given one transaction with both.
async fn forgotten(scene: &mut Scene, app: &Connection) -> (Replicator, Outage) {
    app.execute_batch(TWO_PAGES).unwrap();
    scene.replicate().await;
    let meta_dir = MetaDir::default_path(&scene.database());
    let local = ["state", "pages"].map(|name| meta_dir.join(name));
    let before = local.each_ref().map(|path| std::fs::read(path).unwrap());
    let second = scene.stores.pop().unwrap();
    for x in ["c", "d"] {
        app.execute("UPDATE t SET x = ?1 WHERE rowid = 1", [x]).unwrap();
        scene.replicate().await;
    }
    scene.stores.push(second);
    std::iter::zip(&local, &before).for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
    let outage = Outage::begin(scene, 0);
    let replicator = Replicator::start().unwrap();
    replicator.add(scene.settings()).unwrap();
    assert!(!replicator.sync(Duration::from_secs(1)).await.is_empty());
    assert_eq!(scene.restored(1, ALL).await, "d,b");
    (replicator, outage)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_has_another_transaction_of_the_same_number_is_not_continued_by_it() {
    let mut scene = Scene::new(2);
    let app = Connection::open(scene.database()).unwrap();
    let (replicator, outage) = forgotten(&mut scene, &app).await;
    app.execute_batch("UPDATE t SET x = 'e' WHERE rowid = 2").unwrap();
    assert!(!replicator.shut_down(Duration::from_secs(1)).await.is_empty());
    assert_eq!(scene.restored(1, ALL).await, "d,e");
    outage.end();
    let ends = [scene.stores[0].list().await.unwrap().last(), scene.stores[1].list().await.unwrap().last()];
    assert_eq!(ends[0], ends[1]);

    let replicator = Replicator::start().unwrap();
    replicator.add(scene.settings()).unwrap();
    app.execute_batch("UPDATE t SET x = 'f' WHERE rowid = 1").unwrap();
    let left = replicator.shut_down(PATIENCE).await;
    assert!(left.is_empty(), "{left:?}");
    assert_eq!([scene.restored(0, ALL).await, scene.restored(1, ALL).await], ["f,e", "f,e"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_this_replicator_put_before_a_power_cut_is_no_other_writers() {
    let mut scene = Scene::new(2);
    let app = Connection::open(scene.database()).unwrap();
    let (replicator, outage) = forgotten(&mut scene, &app).await;
    outage.end();
    // Without a commit.
    let left = replicator.sync(PATIENCE).await;
    assert!(left.is_empty(), "{left:?}");
    assert_eq!([scene.restored(0, ALL).await, scene.restored(1, ALL).await], ["d,b", "d,b"]);
    app.execute_batch("UPDATE t SET x = 'e' WHERE rowid = 2").unwrap();
    let left = replicator.shut_down(PATIENCE).await;
    assert!(left.is_empty(), "{left:?}");
    assert_eq!([scene.restored(0, ALL).await, scene.restored(1, ALL).await], ["d,e", "d,e"]);
}

/// Deletes a file of level 0 from the middle of a log. Returns all that were there.
async fn lose_one_of(store: &Store) -> Vec<litekeep_store::FileRef> {
    let log = store.list().await.unwrap();
    let l0 = log.level(0);
    let lost = l0[l0.len() / 2].clone();
    assert!(l0.len() > 4 && !lost.is_base());
    store.delete(vec![lost]).await.unwrap();
    l0.to_vec()
}

/// Commits that are in the log one by one.
async fn separate_commits(scene: &Scene) {
    scene.app(SETUP);
    let replicator = scene.running().await;
    for n in 0..6 {
        scene.app(&format!("INSERT INTO t VALUES('{n}')"));
        assert!(replicator.sync(PATIENCE).await.is_empty());
    }
    assert!(replicator.shut_down(PATIENCE).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_log_with_a_hole_makes_a_snapshot() {
    let scene = Scene::new(1);
    separate_commits(&scene).await;
    lose_one_of(&scene.stores[0]).await;
    scene.replicate().await;
    assert_eq!(scene.restored(0, ALL).await, "a,0,1,2,3,4,5");
    scene.app("INSERT INTO t VALUES('6')");
    scene.replicate().await;
    assert_eq!(scene.restored(0, ALL).await, "a,0,1,2,3,4,5,6");
}

/// Also the instants come back.
#[tokio::test(flavor = "multi_thread")]
async fn a_hole_in_one_log_is_filled_from_another() {
    for lacking in 0..2 {
        let scene = Scene::new(2);
        separate_commits(&scene).await;
        let before = lose_one_of(&scene.stores[lacking]).await;
        scene.replicate().await;
        let log = scene.stores[lacking].list().await.unwrap();
        let names = |files: &[litekeep_store::FileRef]| files.iter().map(|f| f.name).collect::<Vec<_>>();
        assert_eq!(names(&before), names(log.level(0)), "{lacking}");
        assert_eq!(scene.restored(lacking, ALL).await, "a,0,1,2,3,4,5");
    }
}

/// In WAL mode a commit that leaves page 1 alone leaves the change counter alone too, and whoever wants to can set the
/// times of a file: none of it proves that a database is what it was when litekeep stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_header_size_and_time_do_not_show_is_found() {
    let scene = Scene::new(1);
    scene.app(TWO_PAGES);
    scene.app("PRAGMA wal_checkpoint(TRUNCATE)");
    scene.replicate().await;
    let looks = || {
        let file = std::fs::File::open(scene.database()).unwrap();
        let mut header = [0; 100];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut header, 0).unwrap();
        let metadata = file.metadata().unwrap();
        (header.to_vec(), metadata.len(), metadata.modified().unwrap())
    };
    let before = looks();
    scene.app("UPDATE t SET x = 'c' WHERE rowid = 2");
    std::fs::File::options().write(true).open(scene.database()).unwrap().set_modified(before.2).unwrap();
    assert!(looks() == before && !scene.dir.path().join("app.db-wal").exists());
    scene.replicate().await;
    assert_eq!(scene.restored(0, ALL).await, "a,c");
}

/// What a destination lacks it copies from another: it keeps nobody from looking at another file.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_replaced_is_captured_although_a_destination_is_away() {
    let scene = Scene::new(2);
    scene.app(SETUP);
    let replicator = scene.running().await;
    let outage = Outage::begin(&scene, 1);
    scene.app("INSERT INTO t VALUES('b')");
    assert!(!replicator.sync(Duration::from_millis(500)).await.is_empty());
    let fresh = scene.dir.path().join("fresh.db");
    scene.app(&format!("VACUUM INTO '{}'", fresh.display()));
    Connection::open(&fresh).unwrap().execute_batch("INSERT INTO t VALUES('c')").unwrap();
    for suffix in ["-wal", "-shm"] {
        std::fs::remove_file(scene.dir.path().join(format!("app.db{suffix}"))).unwrap();
    }
    std::fs::rename(&fresh, scene.database()).unwrap();
    let begin = std::time::Instant::now();
    while scene.restored(0, ALL).await != "a,b,c" {
        assert!(begin.elapsed() < PATIENCE / 3, "the new file is not captured");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    outage.end();
    let left = replicator.shut_down(PATIENCE).await;
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(scene.restored(1, ALL).await, "a,b,c");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_is_away_at_the_start_keeps_nothing_from_another() {
    let scene = Scene::new(2);
    scene.app(SETUP);
    scene.replicate().await;
    let outage = Outage::begin(&scene, 0);
    let replicator = Replicator::start().unwrap();
    replicator.add(scene.settings()).unwrap();
    scene.app("INSERT INTO t VALUES('b')");
    assert!(!replicator.sync(Duration::from_millis(500)).await.is_empty());
    assert_eq!(scene.restored(1, ALL).await, "a,b");
    outage.end();
    assert!(replicator.sync(PATIENCE).await.is_empty());
    assert_eq!(scene.restored(0, ALL).await, "a,b");

    // What was confirmed there alone must be seen first.
    let outage = Outage::begin(&scene, 0);
    scene.app("INSERT INTO t VALUES('c')");
    assert!(!replicator.shut_down(Duration::from_millis(500)).await.is_empty());
    outage.end();
    let outage = Outage::begin(&scene, 1);
    let replicator = Replicator::start().unwrap();
    replicator.add(scene.settings()).unwrap();
    scene.app("INSERT INTO t VALUES('d')");
    let left = replicator.sync(Duration::from_millis(500)).await;
    assert!(left[0].message.is_some(), "{left:?}");
    assert_eq!(scene.restored(0, ALL).await, "a,b");
    outage.end();
    assert!(replicator.shut_down(PATIENCE).await.is_empty());
    for store in 0..2 {
        assert_eq!(scene.restored(store, ALL).await, "a,b,c,d");
    }
}

/// What a destination copies from another later takes no room on the local disk until then.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_destination_has_does_not_stay_in_the_spool() {
    let scene = Scene::new(2);
    scene.app(SETUP);
    let replicator = scene.running().await;
    let outage = Outage::begin(&scene, 1);
    let first = Store::open(&Target::Folder(scene.dir.path().join("bucket0"))).unwrap();
    let spool = MetaDir::default_path(&scene.database()).join("spool");
    let spooled = || std::fs::read_dir(&spool).map_or(0, Iterator::count);
    let mut most_spooled = 0;
    for _ in 0..25 {
        let before = first.list().await.unwrap().last();
        scene.app("INSERT INTO t VALUES(hex(randomblob(500000)))");
        let begin = std::time::Instant::now();
        while first.list().await.unwrap().last() == before {
            assert!(begin.elapsed() < PATIENCE, "the other destination goes on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        most_spooled = most_spooled.max(spooled());
    }
    assert!(most_spooled > 0, "nothing was spooled");
    let begin = std::time::Instant::now();
    while spooled() > 0 {
        assert!(begin.elapsed() < PATIENCE, "{} files stay in the spool", spooled());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    outage.end();
    assert!(replicator.shut_down(PATIENCE).await.is_empty());
    let sum = "SELECT count(*) || ' ' || sum(length(x)) FROM t";
    for store in 0..2 {
        assert_eq!(scene.restored(store, sum).await, query_of(&scene.database(), sum));
    }
}

/// The bucket's folder is moved away and a file stands in its place: no put can land.
struct Outage {
    bucket: PathBuf,
    away: PathBuf,
}

impl Outage {
    fn begin(scene: &Scene, store: usize) -> Outage {
        let bucket = scene.dir.path().join(format!("bucket{store}"));
        let away = bucket.with_extension("away");
        std::fs::rename(&bucket, &away).unwrap();
        std::fs::write(&bucket, "").unwrap();
        Outage { bucket, away }
    }

    fn end(self) {
        std::fs::remove_file(&self.bucket).unwrap();
        std::fs::rename(&self.away, &self.bucket).unwrap();
    }
}

/// Each commit becomes a segment of its own, which waits.
async fn commit_each(scene: &Scene, replicator: &Replicator, rows: &[&str]) {
    for row in rows {
        scene.app(&format!("INSERT INTO t VALUES('{row}')"));
        assert!(!replicator.sync(Duration::from_millis(500)).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_cannot_be_written_loses_nothing() {
    let scene = Scene::new(1);
    scene.app(SETUP);
    let replicator = scene.running().await;
    let outage = Outage::begin(&scene, 0);
    let spool = MetaDir::default_path(&scene.database()).join("spool");
    let in_the_way: Vec<_> = (1..40).map(|n| spool.join(format!("{n:016x}-{n:016x}.ltx.tmp"))).collect();
    in_the_way.iter().for_each(|path| std::fs::create_dir_all(path).unwrap());
    commit_each(&scene, &replicator, &["b", "c", "d"]).await;
    in_the_way.iter().for_each(|path| std::fs::remove_dir(path).unwrap());
    outage.end();
    scene.app("INSERT INTO t VALUES('e')");
    let left = replicator.shut_down(PATIENCE).await;
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(scene.restored(0, ALL).await, "a,b,c,d,e");
}

/// What waits belongs to this log's past only if nobody has written to it since.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_the_spool_does_not_continue_another_writers_log() {
    let scene = Scene::new(1);
    scene.app(SETUP);
    scene.app("CREATE TABLE u(x); INSERT INTO u VALUES('ours'); CREATE TABLE v(x); INSERT INTO v VALUES(1)");
    scene.replicate().await;
    let copy = scene.dir.path().join("copy.db");
    to_path(&scene.stores[0], Goal::Latest, &copy, &Options::default(), &()).await.unwrap();

    let replicator = scene.running().await;
    let outage = Outage::begin(&scene, 0);
    scene.app("UPDATE u SET x = 'ours, later'");
    assert!(!replicator.sync(Duration::from_millis(500)).await.is_empty());
    commit_each(&scene, &replicator, &["b", "c", "d", "e", "f", "g"]).await;
    assert!(!replicator.shut_down(Duration::from_millis(100)).await.is_empty());
    outage.end();

    // Another machine takes over, and writes less than what waits here.
    let theirs = Settings { path: copy.clone(), meta_dir: scene.dir.path().join("meta"), ..scene.settings() };
    let replicator = Replicator::start().unwrap();
    replicator.add(theirs).unwrap();
    assert!(replicator.sync(PATIENCE).await.is_empty());
    let app = Connection::open(&copy).unwrap();
    app.execute_batch("PRAGMA journal_mode=WAL; UPDATE u SET x = 'theirs'").unwrap();
    assert!(replicator.shut_down(PATIENCE).await.is_empty());

    scene.replicate().await;
    let everything = format!("SELECT (SELECT x FROM u) || ': ' || ({ALL})");
    assert_eq!(scene.restored(0, &everything).await, query_of(&scene.database(), &everything));
    let forks = MetaDir::default_path(&scene.database()).join("forks");
    assert_eq!(std::fs::read_dir(forks).unwrap().count(), 1);
}

/// After a disk lost what the backup has, an application may run for a whole boot before anybody can ask the backup.
#[tokio::test(flavor = "multi_thread")]
async fn commits_of_a_boot_without_the_backup_are_not_rolled_over() {
    let scene = Scene::new(1);
    let settings = scene.settings();
    let files = ["", "-wal"].map(|suffix| scene.dir.path().join(format!("app.db{suffix}")));
    let app = Connection::open(scene.database()).unwrap();
    app.execute_batch(SETUP).unwrap();
    let replicator = Replicator::start().unwrap();
    replicator.add(settings.clone()).unwrap();
    assert!(replicator.sync(PATIENCE).await.is_empty());
    app.execute_batch("INSERT INTO t VALUES('b')").unwrap();
    let image = files.each_ref().map(|path| std::fs::read(path).unwrap());
    app.execute_batch("INSERT INTO t VALUES('c'); INSERT INTO t VALUES('d'); INSERT INTO t VALUES('e')")
        .unwrap();
    assert!(replicator.shut_down(PATIENCE).await.is_empty());
    drop(app);
    let _ = std::fs::remove_file(scene.dir.path().join("app.db-shm"));
    for (path, bytes) in files.iter().zip(&image) {
        std::fs::write(path, bytes).unwrap();
    }
    let confirmed_ms = StateFile::peek(&settings.meta_dir.join("state")).unwrap().confirmed_ms;
    let clock = ManualClock::new(confirmed_ms + 3_600_000);
    let written_at = |ms: i64| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(ms as u64);
        for path in &files {
            std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        }
    };
    let (store, path) = (&scene.stores[0], &settings.path);
    let options = Options::default();
    let look =
        async || outrun(store, path, &settings.meta_dir, &clock).await.unwrap().expect("commits are lost");

    let app = Connection::open(path).unwrap();
    app.execute_batch("INSERT INTO t VALUES('acknowledged')").unwrap();
    app.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    drop(app);
    written_at(confirmed_ms + 60_000);
    let refused = roll_forward(store, path, &look().await, &options, &()).await.unwrap_err();
    assert!(refused.hint().unwrap().contains("--new-timeline"), "{refused}");

    written_at(confirmed_ms);
    roll_forward(store, path, &look().await, &options, &()).await.unwrap();
    assert_eq!(query_of(path, ALL), "a,b,c,d,e");
}

/// A power cut takes commits that wait in the spool, and the application makes others, the last of which looks the same.
#[tokio::test(flavor = "multi_thread")]
async fn other_commits_in_place_of_those_that_wait_are_captured() {
    let scene = Scene::new(1);
    let files = ["", "-wal"].map(|suffix| scene.dir.path().join(format!("app.db{suffix}")));
    let app = Connection::open(scene.database()).unwrap();
    app.execute_batch(TWO_PAGES).unwrap();
    let replicator = scene.running().await;
    let image = files.each_ref().map(|path| std::fs::read(path).unwrap());
    let outage = Outage::begin(&scene, 0);
    for change in ["UPDATE t SET x = 'lost' WHERE rowid = 1", "UPDATE t SET x = 'same' WHERE rowid = 2"] {
        app.execute_batch(change).unwrap();
        assert!(!replicator.sync(Duration::from_millis(500)).await.is_empty());
    }
    assert!(!replicator.shut_down(Duration::from_millis(100)).await.is_empty());
    drop(app);
    let _ = std::fs::remove_file(scene.dir.path().join("app.db-shm"));
    for (path, bytes) in files.iter().zip(&image) {
        std::fs::write(path, bytes).unwrap();
    }
    let app = Connection::open(scene.database()).unwrap();
    app.execute_batch("UPDATE t SET x = 'kept' WHERE rowid = 1; UPDATE t SET x = 'same' WHERE rowid = 2")
        .unwrap();
    outage.end();
    scene.replicate().await;
    assert_eq!(scene.restored(0, ALL).await, "kept,same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_in_the_spool_stops_nothing() {
    let scene = Scene::new(1);
    scene.app(SETUP);
    scene.replicate().await;
    let replicator = scene.running().await;
    let outage = Outage::begin(&scene, 0);
    commit_each(&scene, &replicator, &["b", "c"]).await;
    assert!(!replicator.shut_down(Duration::from_millis(100)).await.is_empty());
    outage.end();
    let spool = MetaDir::default_path(&scene.database()).join("spool");
    let file = std::fs::read_dir(spool).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    std::fs::File::options().write(true).open(file).unwrap().set_len(150).unwrap();
    scene.replicate().await;
    assert_eq!(scene.restored(0, ALL).await, "a,b,c");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_the_spool_does_not_follow_a_new_snapshot() {
    let scene = Scene::new(1);
    scene.app(SETUP);
    let replicator = scene.running().await;
    let outage = Outage::begin(&scene, 0);
    commit_each(&scene, &replicator, &["b", "c", "d", "e"]).await;
    assert!(!replicator.shut_down(Duration::from_millis(100)).await.is_empty());
    std::fs::remove_dir_all(&outage.away).unwrap();
    std::fs::remove_file(&outage.bucket).unwrap();
    scene.app("DELETE FROM t WHERE x = 'b'");
    replicate(Settings { new_timeline: true, ..scene.settings() }).await;
    let last = scene.stores[0].list().await.unwrap().last();
    scene.replicate().await;
    assert_eq!(scene.stores[0].list().await.unwrap().last(), last, "older pages follow the snapshot");
    assert_eq!(scene.restored(0, ALL).await, "a,c,d,e");
}
