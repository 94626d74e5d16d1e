use super::*;
use crate::replicator::Gate;
use litekeep_env::watch::Watcher;
use litekeep_env::{Clock, SystemClock};
use litekeep_store::plan::Policy;
use litekeep_store::{Store, Target};
use rusqlite::Connection;

/// A database with an empty table `t`, its application, and a bucket that it has a snapshot in.
pub(in super::super) async fn begun(policy: Policy) -> (tempfile::TempDir, Connection, Arc<Database>) {
    let dir = tempfile::tempdir().unwrap();
    let app = Connection::open(dir.path().join("app.db")).unwrap();
    app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(x)").unwrap();
    let db = database(dir.path(), Arc::new(SystemClock), policy);
    start::begin(&db).await.unwrap();
    (dir, app, db)
}

/// Waits until its task has ended, which lets go of the local state, and opens that again: nobody else has it then, for no
/// other task begins.
pub(in super::super) async fn rested(db: &Arc<Database>) -> Arc<Local> {
    while db.awake.swap(true, SeqCst) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    start::open_local(db).await.unwrap()
}

/// All pages that SQLite shows.
pub(in super::super) fn pages_of(path: &Path) -> Vec<u8> {
    Connection::open(path).unwrap().serialize("main").unwrap().to_vec()
}

/// `app.db` in a folder, with a bucket beside it.
pub(in super::super) fn database(dir: &Path, clock: Arc<dyn Clock>, policy: Policy) -> Arc<Database> {
    with(dir, &["bucket"], clock, policy)
}

/// `app.db` in a folder, with these buckets beside it.
pub(in super::super) fn database_at(dir: &Path, buckets: &[&str]) -> Arc<Database> {
    with(dir, buckets, Arc::new(SystemClock), Policy::default())
}

fn with(dir: &Path, buckets: &[&str], clock: Arc<dyn Clock>, policy: Policy) -> Arc<Database> {
    let shared = Arc::new(Shared::new(clock, Watcher::new().unwrap()));
    let store = |name: &&str| Store::open(&Target::Folder(dir.join(name))).unwrap();
    let settings = Settings {
        meta_dir: dir.join("meta"),
        stores: buckets.iter().map(store).collect(),
        path: dir.join("app.db"),
        upload_interval: Duration::ZERO,
        policy,
        wal_limit: 64 << 20,
        spool_limit: 1 << 30,
        new_timeline: false,
        newcomer_watch: Duration::ZERO,
        absence_patience: Duration::ZERO,
        gate: Gate::default(),
    };
    Database::new(settings, shared)
}

/// Whoever asks for everything to be safe comes when it is about to rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_may_go_to_rest_while_it_is_asked_for() {
    let (_dir, app, db) = begun(Policy::default()).await;
    assert!(db.sync().await);
    rested(&db).await;
    for round in 0..300 {
        app.execute("INSERT INTO t VALUES(1)", []).unwrap();
        start::open_local(&db).await.unwrap();
        assert!(db.capture_present().await.is_some());
        while !db.destinations().iter().all(|d| d.queue.is_empty() && !d.shipping) {
            tokio::task::yield_now().await;
        }
        let resting = tokio::spawn(db.clone().rest());
        let ask = async || {
            while !resting.is_finished() {
                db.capture_present().await;
            }
        };
        tokio::join!(ask(), ask(), ask());
        resting.await.unwrap();
        assert!(!db.work.is_poisoned(), "round {round}");
    }
}

/// A reset captures what came since the look, which tells of none of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_shipped_after_a_look_that_finds_nothing() {
    let (_dir, app, db) = begun(Policy::default()).await;
    assert!(db.sync().await);
    rested(&db).await;
    app.execute("INSERT INTO t VALUES(1)", []).unwrap();
    assert!(matches!(db.look().unwrap(), Step::Captured { .. }));
    assert!(matches!(db.clone().step().await.unwrap(), Step::Quiet { .. }));
    for _ in 0..1000 {
        if db.destinations()[0].queue.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody ships it");
}
