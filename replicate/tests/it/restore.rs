//! Goal: a restore gives exactly the state that was asked for, or an error that says what can be had instead.
//! Method: databases whose every state is known; files of the log merged, deleted, damaged.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use litekeep_ltx::{Checksum, PageSize, Pgno, page_checksum};
use litekeep_replicate::local::PageSums;
use litekeep_replicate::restore::{
    Goal, Integrity, Options, Phase, Progress, RestorePlan, differences, fetch, page_sums_into, plan, to_path,
};
use litekeep_replicate::{Error, Instead, Kind};
use litekeep_store::{S3, Secret, Store, Target};
use litekeep_testkit::S3Server;
use litekeep_testkit::s3_server::{ACCESS_KEY, BUCKET, REGION, SECRET_KEY};
use proptest::prelude::*;
use rusqlite::Connection;

use crate::origin::{Origin, noise, txid};

/// Enough that a file of 300 KB is cut into pieces.
const MANY: usize = 128;

async fn restored(origin: &Origin, goal: Goal, parallelism: usize) -> (RestorePlan, Vec<u8>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let target = Arc::new(file.reopen().unwrap());
    // What stands in the target before must not shine through.
    std::fs::write(file.path(), noise(3, 100_000)).unwrap();
    let plan = plan(&origin.store, goal).await.unwrap();
    let plan = fetch(&origin.store, plan, target, file.path(), parallelism, &()).await.unwrap();
    (plan, std::fs::read(file.path()).unwrap())
}

async fn real_database(page_size: u32, auto_vacuum: &str) -> Origin {
    let mut origin = Origin::new(page_size);
    let path = origin.path("app.db");
    let db = Connection::open(&path).unwrap();
    db.execute_batch(&format!(
        "PRAGMA page_size={page_size}; PRAGMA auto_vacuum={auto_vacuum}; PRAGMA journal_mode=WAL;
         CREATE TABLE t(id INTEGER PRIMARY KEY, b)"
    ))
    .unwrap();
    origin.commit_file(&db, &path).await;
    for step in [
        "WITH n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<400) INSERT INTO t SELECT i, randomblob(900) FROM n",
        "UPDATE t SET b=randomblob(900) WHERE id % 50 = 0",
        "CREATE INDEX i ON t(b)",
        "DELETE FROM t WHERE id > 100",
        "VACUUM",
        "INSERT INTO t(b) SELECT randomblob(3000) FROM t",
        "DROP INDEX i; PRAGMA incremental_vacuum",
        "INSERT INTO t(b) VALUES(zeroblob(200000))",
    ] {
        db.execute_batch(step).unwrap();
        origin.commit_file(&db, &path).await;
    }
    origin
}

#[tokio::test(flavor = "multi_thread")]
async fn real_databases_come_back_at_every_transaction() {
    for (page_size, auto_vacuum) in [(512, "FULL"), (1024, "NONE"), (4096, "INCREMENTAL"), (65536, "NONE")] {
        let origin = real_database(page_size, auto_vacuum).await;
        origin.compact(1, 2, 4).await;
        origin.compact(2, 2, 7).await;
        origin.snapshot(3).await;
        let options = Options { integrity: Integrity::Full, ..Options::default() };
        for at in 1..=origin.last() {
            let path = origin.path(&format!("at-{at}.db"));
            let goal = Goal::Txid(txid(at));
            let done = to_path(&origin.store, goal, &path, &options, &()).await.unwrap().unwrap();
            assert_eq!((done.txid, done.time_ms), (txid(at), Origin::time_ms(at)));
            assert!(std::fs::read(&path).unwrap() == origin.state(at), "{page_size} bytes, transaction {at}");
            assert_eq!(done.kept_aside, None);
        }
        let latest = plan(&origin.store, Goal::Latest).await.unwrap();
        assert_eq!(latest.txid, txid(origin.last()));
        assert_eq!(latest.database_bytes(), origin.state(origin.last()).len() as u64);
    }
}

/// A database of any pages: grows, shrinks and changes at random.
#[derive(Clone, Debug)]
struct Story {
    page_size: u32,
    /// For each transaction: pages of the database, and a seed for what changes.
    steps: Vec<(u32, u64)>,
    /// Level and range of compactions, as shares of the log.
    merges: Vec<(u8, usize, usize)>,
    snapshots: Vec<usize>,
    /// Level-0 files that are gone.
    gone: Vec<usize>,
    parallelism: usize,
}

fn stories() -> impl Strategy<Value = Story> {
    (
        (9u32..=12).prop_map(|shift| 1 << shift),
        prop::collection::vec((1u32..800, any::<u64>()), 1..14),
        prop::collection::vec((1u8..=3, 0usize..14, 0usize..14), 0..6),
        prop::collection::vec(0usize..14, 0..3),
        prop::collection::vec(0usize..14, 0..4),
        prop_oneof![Just(1usize), Just(4), Just(MANY)],
    )
        .prop_map(|(page_size, steps, merges, snapshots, gone, parallelism)| Story {
            page_size,
            steps,
            merges,
            snapshots,
            gone,
            parallelism,
        })
}

async fn tell(story: &Story) -> Origin {
    let mut origin = Origin::new(story.page_size);
    let mut state: Vec<u8> = vec![];
    let size = story.page_size as usize;
    for &(pages, seed) in &story.steps {
        let before = state.len() / size;
        state.resize(pages as usize * size, 0);
        for nth in (before..pages as usize)
            .chain((0..8).map(|k| (seed.rotate_left(k * 8) % u64::from(pages)) as usize))
        {
            // Half a page of noise, so that it compresses to a half.
            state[nth * size..nth * size + size / 2].copy_from_slice(&noise(seed ^ nth as u64, size / 2));
        }
        origin.commit(state.clone()).await;
    }
    let last = story.steps.len();
    for &(level, a, b) in &story.merges {
        let (min, max) = (a.min(b) % last + 1, a.max(b) % last + 1);
        if min <= max {
            origin.compact(level, min as u64, max as u64).await;
        }
    }
    for at in &story.snapshots {
        origin.snapshot((at % last + 1) as u64).await;
    }
    for at in story.gone.iter().map(|at| (at % last + 1) as u64).collect::<std::collections::BTreeSet<_>>() {
        origin.delete(0, at, at).await;
    }
    origin
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_a_plan_promises_is_what_comes_back(story in stories()) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let origin = tell(&story).await;
            let mut whole = 0;
            for at in 1..=origin.last() {
                match plan(&origin.store, Goal::Txid(txid(at))).await {
                    Ok(_) => {
                        let (done, bytes) = restored(&origin, Goal::Txid(txid(at)), story.parallelism).await;
                        prop_assert_eq!(done.txid, txid(at));
                        prop_assert!(bytes == origin.state(at), "transaction {}", at);
                        whole += 1;
                    }
                    // A transaction without a chain is refused; whether that is right, the plan's own tests say.
                    Err(e) => prop_assert!(matches!(e.kind(), Kind::Corrupt | Kind::Invalid), "{}", e),
                }
            }
            prop_assert!(whole > 0 || !story.gone.is_empty());
            Ok(())
        })?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instant_is_the_last_transaction_by_then() {
    let origin = real_database(4096, "NONE").await;
    let at = |ms| plan(&origin.store, Goal::Time(ms));
    for n in 1..origin.last() {
        for (offset, expected) in [(-1, n - 1), (0, n), (999, n)] {
            if expected > 0 {
                let plan = at(Origin::time_ms(n) + offset).await.unwrap();
                assert_eq!((plan.txid, plan.time_ms), (txid(expected), Origin::time_ms(expected)));
                assert!(!plan.after_end);
            }
        }
    }
    // Nothing has changed since: the state at that time is the last one, but nobody can prove it.
    let later = at(Origin::time_ms(origin.last()) + 1).await.unwrap();
    assert!(later.after_end && later.txid == txid(origin.last()));

    let error = at(Origin::time_ms(1) - 1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    for expected in ["2026-09-21T14:13:20.999Z", "2026-09-21T14:13:21Z", "2026-09-21T14:13:29Z"] {
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instant_within_merged_transactions_is_the_state_before_them() {
    let origin = real_database(4096, "NONE").await;
    origin.compact(1, 3, 6).await;
    for gone in [3, 4, 6] {
        origin.delete(0, gone, gone).await;
    }
    // Transaction 5 is still there but for its predecessors.
    let plan = plan(&origin.store, Goal::Time(Origin::time_ms(5))).await.unwrap();
    assert_eq!((plan.txid, plan.time_ms), (txid(2), Origin::time_ms(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_gone_around_and_reported() {
    let origin = real_database(4096, "NONE").await;
    origin.compact(1, 2, 4).await;
    origin.compact(2, 2, 6).await;
    origin.snapshot(5).await;
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("a flipped bit in a page", |b| b[5000] ^= 1),
        ("a flipped bit in the trailer", |b| *b.last_mut().unwrap() ^= 1),
        ("a truncated file", |b| b.truncate(b.len() / 2)),
        ("no LTX file", |b| b.fill(7)),
    ];
    for (what, damage) in damages {
        let undamaged = std::fs::read(origin.file_path(9, 1, 5)).unwrap();
        origin.damage(9, 1, 5, damage);
        for parallelism in [1, MANY] {
            let (done, bytes) = restored(&origin, Goal::Latest, parallelism).await;
            assert!(bytes == origin.state(origin.last()), "{what}");
            assert_eq!(done.damaged.len(), 1, "{what}");
            let place = origin.file_path(9, 1, 5).display().to_string();
            assert!(done.damaged[0].cause.contains(&place), "{what}: {}", done.damaged[0].cause);
        }
        origin.damage(9, 1, 5, |b| *b = undamaged);
    }
    let (done, _) = restored(&origin, Goal::Latest, 4).await;
    assert_eq!(done.damaged, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_another_copy_the_error_names_the_file_and_the_nearest_intact_point() {
    let origin = real_database(1024, "NONE").await;
    origin.damage(0, 6, 6, |b| b[500] ^= 4);
    for goal in [Goal::Latest, Goal::Txid(txid(6)), Goal::Time(Origin::time_ms(8))] {
        let path = origin.path("restored.db");
        let error = to_path(&origin.store, goal, &path, &Options::default(), &()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.to_string().contains(&origin.file_path(0, 6, 6).display().to_string()), "{error}");
        assert_eq!(error.instead(), Some(Instead::Txid(txid(5))), "{error}");
        assert!(!path.exists());
        assert_eq!(leftovers(path.parent().unwrap()), 0);
    }
    let (_, bytes) = restored(&origin, Goal::Txid(txid(5)), 4).await;
    assert!(bytes == origin.state(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_is_an_error_and_never_an_older_state() {
    let origin = real_database(1024, "NONE").await;
    origin.delete(0, 4, 4).await;
    for goal in [Goal::Latest, Goal::Txid(txid(4)), Goal::Txid(txid(7)), Goal::Time(Origin::time_ms(7))] {
        let error = plan(&origin.store, goal).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.to_string().contains("0000000000000004"), "{error}");
        assert_eq!(error.instead(), Some(Instead::Txid(txid(3))), "{error}");
    }
    let beyond = plan(&origin.store, Goal::Txid(txid(99))).await.unwrap_err();
    assert_eq!(beyond.kind(), Kind::Invalid);
    for goal in [Goal::Latest, Goal::Txid(txid(1))] {
        let error = plan(&Origin::new(512).store, goal).await.unwrap_err();
        assert!(matches!(error, Error::Store(litekeep_store::Error::Empty)), "{goal:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_lacks_pages_is_refused() {
    let mut origin = Origin::new(512);
    origin.commit(noise(1, 512 * 4)).await;
    // Transaction 2 is encoded against a state that the log never had: pages 5 to 6 are missing.
    let mut wrong = Origin::in_store(origin.store.clone(), 512);
    wrong.states.push(noise(2, 512 * 6));
    let mut state = noise(2, 512 * 6);
    state.extend(noise(3, 512));
    wrong.commit(state).await;
    let plan = plan(&origin.store, Goal::Latest).await.unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let target = Arc::new(file.reopen().unwrap());
    let error = fetch(&origin.store, plan, target, file.path(), 4, &()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("from 4 to 7 pages and only 1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_compaction_replaces_meanwhile_are_found_again() {
    let origin = real_database(4096, "NONE").await;
    let plan = plan(&origin.store, Goal::Txid(txid(7))).await.unwrap();
    origin.compact(1, 2, 7).await;
    for gone in 2..=7 {
        origin.delete(0, gone, gone).await;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let target = Arc::new(file.reopen().unwrap());
    let done = fetch(&origin.store, plan, target, file.path(), 4, &()).await.unwrap();
    assert_eq!((done.txid, done.files.len()), (txid(7), 2));
    assert!(std::fs::read(file.path()).unwrap() == origin.state(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_gives_the_same_as_a_folder() {
    let server = S3Server::start().unwrap();
    let s3 = S3 {
        bucket: BUCKET.into(),
        path: "app".into(),
        endpoint: Some(server.endpoint()),
        region: Some(REGION.into()),
        access_key_id: Some(ACCESS_KEY.into()),
        secret_access_key: Some(Secret::new(SECRET_KEY)),
        ..S3::default()
    };
    let mut origin = Origin::in_store(Store::open(&Target::S3(s3)).unwrap(), 1024);
    let mut state = noise(1, 3 << 20);
    for seed in 2..8 {
        origin.commit(state.clone()).await;
        state[seed as usize * 9000..][..1000].copy_from_slice(&noise(seed, 1000));
    }
    let (_, bytes) = restored(&origin, Goal::Latest, MANY).await;
    assert!(bytes == origin.state(6));
    let plan = plan(&origin.store, Goal::Time(Origin::time_ms(4))).await.unwrap();
    assert_eq!((plan.txid, plan.time_ms), (txid(4), Origin::time_ms(4)));
}

#[tokio::test(flavor = "multi_thread")]
async fn page_checksums_are_those_of_the_restored_pages() {
    let origin = real_database(1024, "FULL").await;
    origin.snapshot(3).await;
    for at in [3, 5, origin.last()] {
        let sums = Arc::new(PageSums::open(&origin.path("sums")).unwrap());
        let goal = plan(&origin.store, Goal::Txid(txid(at))).await.unwrap();
        let page_count = goal.page_count;
        page_sums_into(&origin.store, goal, sums.clone(), MANY, &()).await.unwrap();
        let state = origin.state(at);
        let mut found = vec![Checksum::default(); state.len() / 1024];
        assert_eq!(sums.page_count().unwrap() as usize, found.len());
        sums.get(Pgno::FIRST, &mut found).unwrap();
        let expected =
            state.chunks(1024).zip(1..).map(|(page, n)| page_checksum(Pgno::new(n).unwrap(), page));
        assert_eq!(found, expected.collect::<Vec<_>>());

        let mut bytes = state.to_vec();
        assert!(compare(&origin, &bytes, page_count, &sums).is_none());
        bytes[1024 * 2 + 77] ^= 1;
        bytes[1024 * 9] ^= 1;
        let found = compare(&origin, &bytes, page_count, &sums);
        assert_eq!((found.length, found.count), (None, 2));
        assert_eq!(found.pages, [3, 10].map(|n| Pgno::new(n).unwrap()));
        bytes.truncate(bytes.len() - 1);
        assert_eq!(compare(&origin, &bytes, page_count, &sums).length, Some(bytes.len() as u64));
    }
}

fn compare(
    origin: &Origin,
    bytes: &[u8],
    page_count: u32,
    sums: &PageSums,
) -> litekeep_replicate::restore::Differences {
    let path = origin.path("compared.db");
    std::fs::write(&path, bytes).unwrap();
    let page_size = PageSize::new(1024).unwrap();
    differences(&path, page_size, page_count, 10, |first, out| sums.get(first, out)).unwrap()
}

#[derive(Default)]
struct Counted {
    total: AtomicU64,
    done: AtomicU64,
}

impl Progress for Counted {
    fn begin(&self, phase: Phase, total: u64) {
        if phase == Phase::Fetch {
            self.total.store(total, SeqCst);
            self.done.store(0, SeqCst);
        }
    }

    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_comes_near_to_the_total() {
    let origin = real_database(4096, "NONE").await;
    let progress = Counted::default();
    let path = origin.path("restored.db");
    let done = to_path(&origin.store, Goal::Latest, &path, &Options::default(), &progress).await.unwrap();
    let (total, counted) = (progress.total.load(SeqCst), progress.done.load(SeqCst));
    assert_eq!(total, done.unwrap().bytes);
    // The index of a file that is read in pieces is not counted.
    assert!(counted <= total && counted > total / 10 * 9, "{counted} of {total}");
}

fn leftovers(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains(".restoring-")).count()
}

/// A lock page lies within the database: it is never in the log, and comes back as zeros.
#[tokio::test(flavor = "multi_thread")]
async fn the_lock_page_comes_back_as_zeros() {
    use litekeep_ltx::{Encoder, Header, Salt, WriterId};
    let origin = Origin::new(65536);
    let page_size = origin.page_size;
    let pages = page_size.lock_page().get() + 2;
    let header = Header {
        page_size,
        commit: pages,
        min_txid: txid(1),
        max_txid: txid(1),
        timestamp_ms: 1,
        wal_offset: 32,
        wal_size: 0,
        wal_salt: Salt::default(),
        node: WriterId(1),
    };
    let mut encoder = Encoder::new(Vec::new(), &header).unwrap();
    for pgno in (1..=pages).filter_map(Pgno::new).filter(|p| *p != page_size.lock_page()) {
        encoder.page(pgno, &vec![pgno.get() as u8 | 1; page_size.bytes()]).unwrap();
    }
    let bytes = encoder.finish().unwrap().writer;
    origin.store.put(9, crate::origin::name(1, 1), bytes.into(), 1).await.unwrap();
    let path = origin.path("large.db");
    to_path(&origin.store, Goal::Latest, &path, &Options::default(), &()).await.unwrap();
    let file = File::open(&path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), u64::from(pages) * 65536);
    let mut page = vec![1; 65536];
    for n in [1, 2, pages - 2, pages - 1, pages] {
        let pgno = Pgno::new(n).unwrap();
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut page, pgno.offset(page_size)).unwrap();
        let expected = if pgno == page_size.lock_page() { 0 } else { n as u8 | 1 };
        assert!(page.iter().all(|b| *b == expected), "page {n}");
    }
}
