//! Goal: a place where nothing is left of the log is not taken for a new one, and of two places that are used in turn each
//! has all of the database. Method: the engine on folders that are moved away, as when a disk is not mounted.

use std::path::PathBuf;
use std::time::Duration;

use litekeep_replicate::replicator::{Phase, Replicator, Settings};
use litekeep_replicate::restore::{Goal, Options, to_path};
use litekeep_replicate::verify::verify;
use rusqlite::Connection;

use crate::replicator::{ALL, PATIENCE, SETUP, Scene, TWO_PAGES, replicate};

/// The folder of a store while its disk is not mounted: an empty mount point, or not even that.
struct Unmounted {
    bucket: PathBuf,
    away: PathBuf,
    has_mount_point: bool,
}

impl Unmounted {
    fn begin(scene: &Scene, store: usize, has_mount_point: bool) -> Unmounted {
        let bucket = scene.dir.path().join(format!("bucket{store}"));
        let away = bucket.with_extension("away");
        std::fs::rename(&bucket, &away).unwrap();
        if has_mount_point {
            std::fs::create_dir(&bucket).unwrap();
        }
        Unmounted { bucket, away, has_mount_point }
    }

    /// Nothing was put on the wrong disk.
    fn is_untouched(&self) -> bool {
        match self.has_mount_point {
            true => std::fs::read_dir(&self.bucket).unwrap().next().is_none(),
            false => !self.bucket.exists(),
        }
    }

    fn end(self) {
        assert!(self.is_untouched());
        if self.has_mount_point {
            std::fs::remove_dir(&self.bucket).unwrap();
        }
        std::fs::rename(&self.away, &self.bucket).unwrap();
    }
}

fn says_what_to_do(message: &str) {
    for part in ["nothing is left of the log at", "bucket", "mount it", "--new-timeline"] {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_vanishes_is_an_outage_and_no_new_backup() {
    for has_mount_point in [false, true] {
        let scene = Scene::new(1);
        scene.app(SETUP);
        let replicator = scene.running().await;
        let unmounted = Unmounted::begin(&scene, 0, has_mount_point);
        scene.app("INSERT INTO t VALUES('b')");
        let left = replicator.sync(Duration::from_millis(400)).await;
        says_what_to_do(left[0].destinations[0].error.as_deref().expect("an outage"));
        unmounted.end();
        assert!(replicator.shut_down(PATIENCE).await.is_empty());
        assert_eq!(scene.restored(0, ALL).await, "a,b");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_gone_at_the_start_is_waited_for() {
    for has_mount_point in [false, true] {
        let scene = Scene::new(1);
        scene.app(SETUP);
        scene.replicate().await;
        let unmounted = Unmounted::begin(&scene, 0, has_mount_point);
        scene.app("INSERT INTO t VALUES('b')");
        let replicator = Replicator::start().unwrap();
        replicator.add(scene.settings()).unwrap();
        let left = replicator.sync(Duration::from_millis(400)).await;
        assert!(left[0].phase != Phase::Following, "{left:?}");
        says_what_to_do(left[0].message.as_deref().unwrap());
        unmounted.end();
        assert!(replicator.shut_down(PATIENCE).await.is_empty());
        assert_eq!(scene.restored(0, ALL).await, "a,b");
    }
}

/// Somebody has deleted it on purpose.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_gone_begins_anew_where_a_person_says_so() {
    let scene = Scene::new(1);
    scene.app(SETUP);
    scene.replicate().await;
    std::fs::remove_dir_all(scene.dir.path().join("bucket0")).unwrap();
    scene.app("INSERT INTO t VALUES('b')");
    replicate(Settings { new_timeline: true, ..scene.settings() }).await;
    scene.app("INSERT INTO t VALUES('c')");
    scene.replicate().await;
    assert_eq!(scene.restored(0, ALL).await, "a,b,c");
}

/// What the other one has would be copied to the wrong disk, the whole backup.
#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_that_is_gone_at_the_start_is_not_filled_anew() {
    let scene = Scene::new(2);
    scene.app(SETUP);
    scene.replicate().await;
    let unmounted = Unmounted::begin(&scene, 1, true);
    scene.app("INSERT INTO t VALUES('b')");
    let replicator = Replicator::start().unwrap();
    replicator.add(scene.settings()).unwrap();
    let left = replicator.sync(Duration::from_millis(600)).await;
    assert_eq!(left[0].phase, Phase::Following, "{left:?}");
    says_what_to_do(left[0].destinations[1].error.as_deref().unwrap());
    assert_eq!(scene.restored(0, ALL).await, "a,b");
    unmounted.end();
    assert!(replicator.shut_down(PATIENCE).await.is_empty());
    assert_eq!(scene.restored(1, ALL).await, "a,b");
}

/// Both have transactions of the same numbers, and what local state says of one page is true at one place only.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_places_used_in_turn_each_has_everything() {
    let scene = Scene::new(2);
    scene.app(TWO_PAGES);
    let to =
        |store: usize| replicate(Settings { stores: vec![scene.stores[store].clone()], ..scene.settings() });
    for (round, x) in ["c", "d", "e", "f", "g", "h", "i"].into_iter().enumerate() {
        let store = round % 2;
        to(store).await;
        // In turn on two pages.
        scene.app(&format!("UPDATE t SET x = '{x}' WHERE rowid = {}", 1 + (round / 2) % 2));
        to(store).await;
        let live = scene.dir.path().join("app.db");
        let live: String = Connection::open(live).unwrap().query_row(ALL, [], |row| row.get(0)).unwrap();
        assert_eq!(scene.restored(store, ALL).await, live, "round {round}");
    }
}

/// With an empty WAL nobody knows whether the log is only on its way; but what has not moved is not restored again.
#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_that_failed_is_not_made_again_while_nothing_moves() {
    use std::os::unix::fs::FileExt;
    let scene = Scene::new(1);
    scene.app("PRAGMA journal_mode=WAL; CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(9000))");
    scene.replicate().await;
    scene.app("PRAGMA wal_checkpoint(TRUNCATE)");
    let file = std::fs::File::options().write(true).open(scene.database()).unwrap();
    file.write_all_at(b"changed by nobody", 3 * 4096 - 100).unwrap();
    let store = &scene.stores[0];
    let gets = || store.counters().read().get;
    let before = gets();
    let to = scene.dir.path().join("restored.db");
    to_path(store, Goal::Latest, &to, &Options::default(), &()).await.unwrap();
    let of_a_restore = gets() - before;
    let scratch = scene.dir.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    let before = gets();
    let proof = verify(&scene.database(), store, &scratch, Duration::from_millis(900), &()).await.unwrap();
    assert!(!proof.holds());
    // And a header for each look.
    let looks = 5;
    assert!(gets() - before <= of_a_restore + looks, "{} for one restore, {}", of_a_restore, gets() - before);
}
