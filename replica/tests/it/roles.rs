//! Goal: a copy becomes the source of transactions, and a source a copy, and nothing that was committed is lost on the way. Method:
//! two nodes with a replicator or a follower each, on one log in a folder; every row is compared.

use litekeep_env::SystemClock;
use litekeep_replica::{Follower, Fork, Options, Standing, is_source_of, rejoin};
use litekeep_replicate::capture::WriteBlock;
use litekeep_replicate::local::{MetaDir, StateFile};
use litekeep_replicate::replicator::{Gate, Phase, Replicator, Settings};
use litekeep_store::plan::Policy;
use litekeep_store::{Store, Target};
use rusqlite::Connection;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

struct Cluster {
    dir: TempDir,
    store: Store,
}

impl Cluster {
    fn new() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Target::Folder(dir.path().join("log"))).unwrap();
        for node in ["a", "b"] {
            std::fs::create_dir(dir.path().join(node)).unwrap();
        }
        Cluster { dir, store }
    }

    fn path(&self, node: &str) -> PathBuf {
        self.dir.path().join(node).join("app.db")
    }

    fn meta_dir(&self, node: &str) -> PathBuf {
        MetaDir::default_path(&self.path(node))
    }

    fn options(&self) -> Options {
        Options {
            force: false,
            new_timeline: false,
            parallelism: 4,
            clock: Arc::new(SystemClock),
            url: "file:///log".into(),
            command: "litekeep up".into(),
        }
    }

    async fn lead(&self, node: &str) -> Replicator {
        self.lead_behind(node, Gate::default()).await
    }

    async fn lead_behind(&self, node: &str, gate: Gate) -> Replicator {
        let replicator = Replicator::start().unwrap();
        replicator
            .add(Settings {
                path: self.path(node),
                meta_dir: self.meta_dir(node),
                stores: vec![self.store.clone()],
                upload_interval: Duration::from_millis(10),
                policy: Policy::default(),
                wal_limit: 64 << 20,
                spool_limit: 64 << 20,
                new_timeline: false,
                newcomer_watch: Duration::from_secs(60),
                absence_patience: Duration::from_secs(60),
                gate,
            })
            .unwrap();
        while replicator.statuses()[0].phase != Phase::Following {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        replicator
    }

    /// `a` leads with one row, which `b` has.
    async fn begin(&self) -> (Replicator, Follower) {
        write(&self.path("a"), &["first"]);
        let at_a = self.lead("a").await;
        assert!(at_a.sync(Duration::from_secs(10)).await.is_empty());
        let mut at_b = Follower::open(&self.store, &self.path("b"), self.options(), &()).await.unwrap();
        to_the_end(&mut at_b).await;
        (at_a, at_b)
    }

    async fn rejoin(&self, node: &str) -> (Follower, Option<Fork>) {
        rejoin(&self.store, &self.path(node), true, Arc::new(|| {}), self.options(), &()).await.unwrap()
    }

    /// Lets a copy take over.
    async fn promote(&self, mut follower: Follower) {
        loop {
            to_the_end(&mut follower).await;
            if follower.claim().await.unwrap() {
                break;
            }
        }
        follower.hand_over().await.unwrap();
    }
}

async fn to_the_end(follower: &mut Follower) {
    while let Some(work) = follower.look().await.unwrap() {
        follower.apply(work, &()).await.unwrap();
    }
}

fn write(path: &Path, names: &[&str]) {
    let app = Connection::open(path).unwrap();
    app.busy_timeout(Duration::from_secs(5)).unwrap();
    app.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS t(name, pad)").unwrap();
    for name in names {
        app.execute("INSERT INTO t VALUES(?1, randomblob(3000))", [name]).unwrap();
    }
}

fn rows(path: &Path) -> Vec<String> {
    let app = Connection::open(path).unwrap();
    let ok: String = app.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(ok, "ok");
    let mut all = app.prepare("SELECT name FROM t ORDER BY rowid").unwrap();
    let all = all.query_map([], |row| row.get(0)).unwrap();
    all.map(Result::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_takes_over_and_what_only_the_former_source_had_is_a_fork() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.path("a"), cluster.path("b"));
    let (at_a, mut at_b) = cluster.begin().await;
    assert_eq!((Standing::of(&a), rows(&b)), (Standing::Source, vec!["first".to_owned()]));
    // What it does not know of yet is in the log before it claims it.
    write(&a, &["second"]);
    assert!(at_a.sync(Duration::from_secs(10)).await.is_empty());
    assert!(!at_b.claim().await.unwrap());
    cluster.promote(at_b).await;
    assert_eq!(Standing::of(&b), Standing::Source);
    // The former one goes on for a while, and cannot put anything.
    write(&a, &["only here", "here, too"]);
    let unsafe_ones = at_a.sync(Duration::from_secs(10)).await;
    assert_eq!(unsafe_ones[0].phase, Phase::Fenced, "{unsafe_ones:?}");
    at_a.shut_down(Duration::from_secs(1)).await;
    write(&a, &["while nobody looks"]);
    assert!(!is_source_of(&cluster.store, &a).await.unwrap());
    assert!(is_source_of(&cluster.store, &b).await.unwrap());
    let files = cluster.store.list().await.unwrap();
    let snapshots = files.files().filter(|file| file.is_base()).count();
    let at_b = cluster.lead("b").await;
    write(&b, &["third"]);
    assert!(at_b.sync(Duration::from_secs(10)).await.is_empty());
    let files = cluster.store.list().await.unwrap();
    assert_eq!(files.files().filter(|file| file.is_base()).count(), snapshots, "no new snapshot");

    let (mut at_a, fork) = cluster.rejoin("a").await;
    assert_eq!(rows(&a), ["first", "second"]);
    to_the_end(&mut at_a).await;
    assert_eq!(rows(&a), ["first", "second", "third"]);
    assert_eq!(at_a.verify(&()).await.unwrap().differs, None);
    let fork = fork.unwrap();
    let forks = Fork::all(&cluster.meta_dir("a")).unwrap();
    assert!(forks.contains(&fork), "{forks:?}");
    let restored = cluster.dir.path().join("fork.db");
    fork.restore(&cluster.store, &restored, &()).await.unwrap();
    assert_eq!(rows(&restored), ["first", "second", "only here", "here, too", "while nobody looks"]);

    // And back, in order: nothing is left over.
    assert!(at_b.shut_down(Duration::from_secs(10)).await.is_empty());
    cluster.promote(at_a).await;
    let (mut at_b, fork) = cluster.rejoin("b").await;
    assert_eq!(fork, None);
    let at_a = cluster.lead("a").await;
    write(&a, &["fourth"]);
    assert!(at_a.sync(Duration::from_secs(10)).await.is_empty());
    to_the_end(&mut at_b).await;
    assert_eq!(rows(&b), ["first", "second", "third", "fourth"]);
    assert_eq!(at_b.verify(&()).await.unwrap().differs, None);
    at_a.shut_down(Duration::from_secs(10)).await;
}

/// A promotion reads no page of the file: what is known of each, and where the WAL ends, leads on, also where somebody writes in
/// between.
#[tokio::test(flavor = "multi_thread")]
async fn who_takes_over_goes_on_from_the_end_of_the_wal() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.path("a"), cluster.path("b"));
    write(&a, &["first"]);
    let at_a = cluster.lead("a").await;
    assert!(at_a.sync(Duration::from_secs(10)).await.is_empty());
    let mut at_b = Follower::open(&cluster.store, &b, cluster.options(), &()).await.unwrap();
    write(&a, &["second"]);
    assert!(at_a.sync(Duration::from_secs(10)).await.is_empty());
    to_the_end(&mut at_b).await;
    at_a.shut_down(Duration::from_secs(10)).await;
    // The last user of a WAL deletes it.
    let app = Connection::open(&b).unwrap();
    app.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, u32>(0)).unwrap();
    cluster.promote(at_b).await;
    let state = StateFile::peek(&cluster.meta_dir("b").join("state")).unwrap();
    let frames = state.place.map(|place| place.frames);
    assert!(frames.is_some_and(|frames| frames > 0), "{state:?}");
    write(&b, &["in between"]);
    // What no commit has changed is not looked at: a comparison would find it, and put it into the log.
    let last = std::fs::metadata(&b).unwrap().len() - 4096;
    let file = std::fs::File::options().read(true).write(true).open(&b).unwrap();
    let mut page = [0; 64];
    file.read_exact_at(&mut page, last + 3000).unwrap();
    file.write_all_at(&page.map(|byte| !byte), last + 3000).unwrap();
    drop(file);
    let at_b = cluster.lead("b").await;
    assert!(at_b.sync(Duration::from_secs(10)).await.is_empty());
    assert_eq!(at_b.statuses()[0].breaks, 0);
    at_b.shut_down(Duration::from_secs(10)).await;
    let restored = cluster.dir.path().join("restored.db");
    let copy = Follower::open(&cluster.store, &restored, cluster.options(), &()).await.unwrap();
    copy.close().await.unwrap();
    assert_eq!(rows(&restored), ["first", "second", "in between"]);
    let pad = |path: &Path| -> Vec<u8> {
        let app = Connection::open(path).unwrap();
        app.query_row("SELECT pad FROM t WHERE name = 'second'", [], |row| row.get(0)).unwrap()
    };
    assert_ne!(pad(&restored), pad(&b));
    assert_eq!(pad(&restored), pad(&a));
}

/// A node that has slept for so long that compaction has made its next name free again must not put anything there.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_closed_gate_transactions_wait() {
    let cluster = Cluster::new();
    let a = cluster.path("a");
    write(&a, &["first"]);
    let is_open = Arc::new(AtomicBool::new(true));
    let asked = is_open.clone();
    let at_a = cluster.lead_behind("a", Gate::new(move || asked.load(SeqCst))).await;
    assert!(at_a.sync(Duration::from_secs(10)).await.is_empty());
    let last = cluster.store.list().await.unwrap().last();
    is_open.store(false, SeqCst);
    write(&a, &["second"]);
    assert!(!at_a.sync(Duration::from_secs(1)).await.is_empty());
    assert_eq!(cluster.store.list().await.unwrap().last(), last);
    is_open.store(true, SeqCst);
    assert!(at_a.sync(Duration::from_secs(10)).await.is_empty());
    assert!(cluster.store.list().await.unwrap().last() > last);
    at_a.shut_down(Duration::from_secs(10)).await;
}

/// Somebody has written into a copy: it goes on, and what he wrote is kept.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_into_a_copy_is_a_fork() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.path("a"), cluster.path("b"));
    write(&a, &["first"]);
    let at_a = cluster.lead("a").await;
    assert!(at_a.sync(Duration::from_secs(10)).await.is_empty());
    let at_b = Follower::open(&cluster.store, &b, cluster.options(), &()).await.unwrap();
    at_b.close().await.unwrap();
    write(&b, &["by mistake"]);
    write(&a, &["second"]);
    assert!(at_a.sync(Duration::from_secs(10)).await.is_empty());
    let (mut at_b, fork) = cluster.rejoin("b").await;
    to_the_end(&mut at_b).await;
    assert_eq!(rows(&b), ["first", "second"]);
    let restored = cluster.dir.path().join("fork.db");
    fork.unwrap().restore(&cluster.store, &restored, &()).await.unwrap();
    assert_eq!(rows(&restored), ["first", "by mistake"]);
    at_a.shut_down(Duration::from_secs(10)).await;
}

/// Two nodes began with nothing, one after the other, and the first one's database never came into the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_the_log_knows_nothing_of_is_kept_whole() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.path("a"), cluster.path("b"));
    write(&a, &["in the log"]);
    let at_a = cluster.lead("a").await;
    assert!(at_a.sync(Duration::from_secs(10)).await.is_empty());
    write(&b, &["never in the log", "nor this"]);
    let refused = rejoin(&cluster.store, &b, false, Arc::new(|| {}), cluster.options(), &()).await;
    assert!(refused.err().unwrap().to_string().contains("it is no replica"));
    assert_eq!(rows(&b), ["never in the log", "nor this"]);
    let (mut at_b, fork) = cluster.rejoin("b").await;
    assert_eq!(rows(&b), ["in the log"]);
    write(&a, &["after it"]);
    assert!(at_a.sync(Duration::from_secs(10)).await.is_empty());
    to_the_end(&mut at_b).await;
    assert_eq!(rows(&b), ["in the log", "after it"]);
    assert_eq!(at_b.verify(&()).await.unwrap().differs, None);
    let (fork, restored) = (fork.unwrap(), cluster.dir.path().join("fork.db"));
    assert_eq!(fork.base, None);
    fork.restore(&cluster.store, &restored, &()).await.unwrap();
    assert_eq!(rows(&restored), ["never in the log", "nor this"]);
    at_a.shut_down(Duration::from_secs(10)).await;
}

/// A start after a kill between any two steps of a change of roles: both notes are there.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_a_change_leaves_a_copy() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.path("a"), cluster.path("b"));
    write(&a, &["first"]);
    let at_a = cluster.lead("a").await;
    assert!(at_a.sync(Duration::from_secs(10)).await.is_empty());
    let mut at_b = Follower::open(&cluster.store, &b, cluster.options(), &()).await.unwrap();
    assert!(at_b.claim().await.unwrap());
    let keep = cluster.dir.path().join("kept");
    std::fs::create_dir(&keep).unwrap();
    let notes = ["replica", "replica-pages", "replica.json"];
    for note in notes {
        std::fs::copy(cluster.meta_dir("b").join(note), keep.join(note)).unwrap();
    }
    at_b.hand_over().await.unwrap();
    for note in notes {
        std::fs::copy(keep.join(note), cluster.meta_dir("b").join(note)).unwrap();
    }
    assert_eq!(Standing::of(&b), Standing::Copy);
    let (at_b, fork) = cluster.rejoin("b").await;
    assert_eq!(fork, None);
    assert!(!cluster.meta_dir("b").join("state").exists());
    cluster.promote(at_b).await;
    let at_b = cluster.lead("b").await;
    write(&b, &["second"]);
    assert!(at_b.sync(Duration::from_secs(10)).await.is_empty());
    at_a.shut_down(Duration::from_secs(1)).await;
    at_b.shut_down(Duration::from_secs(10)).await;
}

/// Who keeps others from writing lets go only when nothing is left to be asked of the store: until then nobody writes what would be a fork.
#[tokio::test(flavor = "multi_thread")]
async fn the_lock_is_let_go_of_at_the_very_last() {
    let cluster = Cluster::new();
    let a = cluster.path("a");
    let (at_a, at_b) = cluster.begin().await;
    at_a.shut_down(Duration::from_secs(10)).await;
    cluster.promote(at_b).await;
    let mut block = WriteBlock::open(&a).unwrap().unwrap();
    assert!(block.close().unwrap());
    let block = Arc::new(Mutex::new(block));
    let (log, away) = (cluster.dir.path().join("log"), cluster.dir.path().join("away"));
    let let_go = {
        let (block, log, away, a) = (block.clone(), log.clone(), away.clone(), a.clone());
        Arc::new(move || {
            let app = Connection::open(&a).unwrap();
            app.busy_timeout(Duration::ZERO).unwrap();
            assert!(app.execute("INSERT INTO t VALUES('too late', 1)", []).is_err());
            std::fs::rename(&log, &away).unwrap();
            block.lock().unwrap().lift().unwrap();
        })
    };
    let rejoined = rejoin(&cluster.store, &a, true, let_go, cluster.options(), &()).await;
    std::fs::rename(&away, &log).unwrap();
    let (mut at_a, fork) = rejoined.unwrap();
    assert!(fork.is_none());
    to_the_end(&mut at_a).await;
    assert_eq!(rows(&a), ["first"]);
}
