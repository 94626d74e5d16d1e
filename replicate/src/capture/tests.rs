//! Goal: whatever an application does, the segments rebuild exactly the state that SQLite shows.
//! Method: random application activity, seeded, mixed with captures, checkpoints, resets, rests and downtimes of the
//! replicator. A replica made of the segments alone is compared, page by page, with what SQLite serialises.

use super::*;
use crate::local::State;
use litekeep_env::file::sibling;
use litekeep_env::lock;
use litekeep_format::locks::WRITE_LOCK;
use litekeep_ltx::{Decoder, Txid, WriterId};
use rusqlite::Connection;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// A copy of the database that only ever sees segments.
#[derive(Default)]
struct Replica {
    pages: Vec<Vec<u8>>,
    txid: u64,
    bytes: u64,
}

impl Replica {
    fn stamp(&self) -> Stamp {
        Stamp { txid: Txid::new(self.txid + 1).unwrap(), writer: WriterId(1), timestamp_ms: 1 }
    }

    fn apply(&mut self, segment: &Segment, spool: &Spool, sums: &PageSums) {
        let bytes = match &segment.body {
            Body::Memory(b) => b.to_vec(),
            Body::Spooled => spool.read(segment.name()).unwrap(),
        };
        assert_eq!(segment.txid().get(), self.txid + 1);
        assert_eq!(bytes.len() as u64, segment.size);
        self.bytes += segment.size;
        let before = self.pages.len();
        let mut d = Decoder::new(&bytes[..]).unwrap();
        let page_size = d.header().page_size.bytes();
        let commit = d.header().commit as usize;
        self.pages.resize(self.pages.len().max(commit), vec![]);
        let mut page = vec![0; page_size];
        while let Some(p) = d.next_page(&mut page).unwrap() {
            self.pages[p.get() as usize - 1] = page.clone();
        }
        self.pages.truncate(commit);
        assert!(self.pages[before.min(commit)..].iter().all(|p| !p.is_empty()), "growth without a page");
        sums.apply(&segment.sums, segment.header.commit).unwrap();
        self.txid += 1;
    }
}

struct World {
    _dir: tempfile::TempDir,
    path: PathBuf,
    spool: Spool,
    sums: PageSums,
    replica: Replica,
    frames: Frames,
}

impl World {
    fn new(setup: &str) -> (World, Connection) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let app = Connection::open(&path).unwrap();
        // RESTART and TRUNCATE wait for the replicator's hold as long as the application lets them.
        app.busy_timeout(Duration::from_millis(3)).unwrap();
        app.execute_batch(setup).unwrap();
        let world = World {
            spool: Spool::new(&dir.path().join("spool")),
            sums: PageSums::open(&dir.path().join("pages")).unwrap(),
            _dir: dir,
            path,
            replica: Replica::default(),
            frames: Frames::default(),
        };
        (world, app)
    }

    fn connect(&self) -> Connection {
        let c = Connection::open(&self.path).unwrap();
        c.busy_timeout(Duration::from_millis(3)).unwrap();
        c.execute_batch("PRAGMA synchronous=OFF; PRAGMA cache_size=10").unwrap();
        c
    }

    /// Captures until nothing is new. Returns whether a break was met.
    fn follow(&mut self, capture: &mut Capture) -> bool {
        let mut broke = false;
        for _ in 0..10 {
            match capture.look(&mut self.frames).unwrap() {
                Look::Nothing => return broke,
                Look::Frames(end) => {
                    let s = capture
                        .segment(
                            &self.frames,
                            end,
                            self.replica.stamp(),
                            (&self.spool, &mut Packs::default()),
                        )
                        .unwrap();
                    self.replica.apply(&s, &self.spool, &self.sums);
                }
                Look::Broken(_) => {
                    broke = true;
                    self.compare_with_sums(capture);
                }
            }
        }
        panic!("there is always something new");
    }

    fn compare_with_sums(&mut self, capture: &mut Capture) {
        let differs = capture.difference(
            &self.sums,
            || self.replica.stamp(),
            (&self.spool, &mut Packs::default()),
            || Ok(()),
        );
        if let Some(s) = differs.unwrap() {
            self.replica.apply(&s, &self.spool, &self.sums);
        }
    }

    fn check(&self, context: &str) {
        let mut c = Connection::open(&self.path).unwrap();
        c.execute_batch("BEGIN").unwrap();
        let truth = c.serialize("main").unwrap();
        let ours: Vec<u8> = self.replica.pages.concat();
        if truth[..] != ours[..] {
            let n = self.replica.pages[0].len();
            let bad: Vec<usize> = (0..truth.len().max(ours.len()) / n)
                .filter(|i| truth.get(i * n..(i + 1) * n) != ours.get(i * n..(i + 1) * n))
                .map(|i| i + 1)
                .collect();
            panic!("{context}: sizes {} and {}, pages that differ: {bad:?}", truth.len() / n, ours.len() / n);
        }
        c.execute_batch("ROLLBACK").unwrap();
        // Not the last connection's close: that would checkpoint what the test is about.
        c.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    }
}

fn act(apps: &mut Vec<Connection>, world: &World, r: &mut Random) {
    if apps.is_empty() {
        apps.push(world.connect());
    }
    let k = r.below(apps.len() as u64) as usize;
    let app = &apps[k];
    let run = |sql: &str| {
        let _ = app.execute_batch(sql);
    };
    match r.below(100) {
        0..=49 => {
            for _ in 0..1 + r.below(8) {
                run(&format!("UPDATE t SET b=randomblob(900) WHERE id={}", 1 + r.below(150)));
            }
        }
        50..=58 => {
            run("INSERT INTO t(b) VALUES(randomblob(5000)); DELETE FROM t WHERE id>150 AND random()%2")
        }
        59..=62 => {
            run("BEGIN; INSERT INTO u(b) SELECT zeroblob(3000) FROM t LIMIT 40; DELETE FROM u; COMMIT")
        }
        63..=72 => run("PRAGMA wal_checkpoint(PASSIVE)"),
        73..=77 => run("PRAGMA wal_checkpoint(RESTART)"),
        78..=82 => run("PRAGMA wal_checkpoint(TRUNCATE)"),
        83..=86 => run("BEGIN; UPDATE t SET b=randomblob(900); ROLLBACK"),
        87..=90 => {
            apps.remove(k);
        }
        91..=94 => apps.push(world.connect()),
        95..=96 => run("VACUUM"),
        97 => run("PRAGMA incremental_vacuum(3)"),
        _ => {
            apps.clear();
            let c = world.connect();
            let _ = c.execute_batch(
                "PRAGMA journal_mode=DELETE; UPDATE t SET b=randomblob(900) WHERE id=3; PRAGMA journal_mode=WAL",
            );
            apps.push(c);
        }
    }
}

fn campaign(seed: u64, rounds: usize, page_size: u32, auto_vacuum: &str) -> (u64, u64) {
    let setup = format!(
        "PRAGMA page_size={page_size}; PRAGMA auto_vacuum={auto_vacuum}; PRAGMA journal_mode=WAL;
         PRAGMA wal_autocheckpoint=0; CREATE TABLE t(id INTEGER PRIMARY KEY, b); CREATE TABLE u(id INTEGER PRIMARY KEY, b);
         INSERT INTO t(b) SELECT randomblob(900) FROM (WITH n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<150) SELECT i FROM n)"
    );
    let (mut world, app) = World::new(&setup);
    let mut apps = vec![app];
    let mut r = Random(seed);
    let mut saved: Option<(Option<Place>, u32)> = None;
    let (mut breaks, mut resumes) = (0, 0);
    for round in 0..rounds {
        let (mut capture, _) = Capture::attach(&world.path).unwrap();
        match saved {
            None => world.compare_with_sums(&mut capture),
            Some((place, count)) => {
                capture.set_position(place, count);
                resumes += 1;
                if world.follow(&mut capture) {
                    breaks += 1;
                }
            }
        }
        world.check(&format!("seed {seed} round {round}: after the return"));
        for step in 0..r.below(12) {
            for _ in 0..r.below(3) {
                act(&mut apps, &world, &mut r);
            }
            match r.below(10) {
                0..=4 => {
                    assert!(
                        !world.follow(&mut capture),
                        "seed {seed} round {round}.{step}: a break under the hold"
                    );
                    world.check(&format!("seed {seed} round {round}.{step}: following"));
                }
                5 => {
                    capture.checkpoint().unwrap();
                }
                6 => {
                    capture.shrink().unwrap();
                    let World { frames, spool, replica, sums, .. } = &mut world;
                    let stamp = replica.stamp();
                    let patience = Duration::from_millis(2);
                    capture
                        .reset(
                            frames,
                            (spool, &mut Packs::default()),
                            patience,
                            || stamp,
                            |s| replica.apply(&s, spool, sums),
                        )
                        .unwrap();
                }
                7 => capture.rest().unwrap(),
                _ => {}
            }
        }
        assert!(!world.follow(&mut capture), "seed {seed} round {round}: a break under the hold");
        world.check(&format!("seed {seed} round {round}: before the leave"));
        saved = Some((capture.place(), capture.page_count()));
        drop(capture);
        for _ in 0..r.below(4) {
            act(&mut apps, &world, &mut r);
        }
    }
    (resumes, breaks)
}

#[test]
fn segments_rebuild_every_state() {
    for (i, page_size) in [512, 1024, 4096, 65536].into_iter().enumerate() {
        for (j, auto_vacuum) in ["NONE", "FULL", "INCREMENTAL"].into_iter().enumerate() {
            let rounds = if page_size == 65536 { 10 } else { 25 };
            let seed = 0x9E37_79B9_7F4A_7C15 ^ ((i * 3 + j) as u64) << 40;
            let (resumes, breaks) = campaign(seed, rounds, page_size, auto_vacuum);
            assert!(breaks < resumes, "no downtime at all was bridged by the WAL");
        }
    }
}

#[test]
fn frames_beyond_the_wal_index_are_not_commits() {
    let (mut world, app) = World::new(
        "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x); INSERT INTO t VALUES(1)",
    );
    let (mut capture, _) = Capture::attach(&world.path).unwrap();
    world.compare_with_sums(&mut capture);
    app.execute_batch("INSERT INTO t VALUES(2)").unwrap();
    // Bring the WAL to the state after a commit whose fsync failed: the frame is there, the wal-index does not count it.
    let shm = std::fs::read(sibling(&world.path, "-shm")).unwrap();
    app.execute_batch("INSERT INTO t VALUES(3)").unwrap();
    let raw = std::fs::File::options().write(true).open(sibling(&world.path, "-shm")).unwrap();
    raw.write_all_at(&shm[..WalIndexHeader::LEN], 0).unwrap();
    std::mem::forget(raw);
    let Look::Frames(end) = capture.look(&mut world.frames).unwrap() else {
        panic!("the second row is committed")
    };
    assert_eq!((end.frames, world.frames.commits), (capture.place().unwrap().frames + 1, 1));
}

#[test]
fn ten_wrapped_restarts_upload_a_fraction_of_the_database() {
    let (mut world, app) = World::new(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; CREATE TABLE t(id INTEGER PRIMARY KEY, b);
         INSERT INTO t(b) SELECT randomblob(900) FROM (WITH n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<20000) SELECT i FROM n)",
    );
    let (mut capture, _) = Capture::attach(&world.path).unwrap();
    world.compare_with_sums(&mut capture);
    let first = world.replica.bytes;
    let mut capture = Some(capture);
    for i in 0..10 {
        let leaving = capture.take().unwrap();
        let position = (leaving.place(), leaving.page_count());
        drop(leaving);
        // Enough commits on a few rows to wrap the WAL several times.
        for j in 0..1500 {
            app.execute("UPDATE t SET b=randomblob(900) WHERE id=?1", [i * 7 + j % 5 + 1]).unwrap();
        }
        let (mut back, _) = Capture::attach(&world.path).unwrap();
        back.set_position(position.0, position.1);
        assert!(world.follow(&mut back), "the WAL wrapped, so page checksums must have been needed");
        world.check(&format!("restart {i}"));
        capture = Some(back);
    }
    let later = world.replica.bytes - first;
    assert!(later * 20 < first, "{later} bytes for ten restarts of a database of {first}");
}

/// A reader that keeps the WAL in use is waited for, named when it stays, and not in the way of what comes after it.
#[test]
fn a_reset_waits_for_readers_that_leave() {
    let (mut world, app) =
        World::new("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x)");
    let (mut capture, _) = Capture::attach(&world.path).unwrap();
    world.follow(&mut capture);
    let reader = world.connect();
    reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
    app.execute_batch("INSERT INTO t VALUES(zeroblob(50000))").unwrap();
    let mut reset = |patience| {
        let World { frames, spool, replica, sums, .. } = &mut world;
        capture.shrink().unwrap();
        let stamp = replica.stamp();
        capture
            .reset(
                frames,
                (spool, &mut Packs::default()),
                patience,
                || stamp,
                |s| replica.apply(&s, spool, sums),
            )
            .unwrap()
    };
    let me = Some(Reader { pid: Some(std::process::id()) });
    assert_eq!(reset(Duration::from_millis(5)), Reset::ReaderInTheWay(me));
    let leaves = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        reader.execute_batch("COMMIT").unwrap();
        reader
    });
    assert_eq!(reset(Duration::from_secs(60)), Reset::Done);
    leaves.join().unwrap();
    let wal_bytes = || std::fs::metadata(sibling(&world.path, "-wal")).unwrap().len();
    let before = wal_bytes();
    app.execute_batch("INSERT INTO t VALUES(zeroblob(10000))").unwrap();
    assert_eq!(wal_bytes(), before, "the WAL began anew");
    world.follow(&mut capture);
    world.check("after the reset");
}

/// Rows on pages of their own, which `commits` updates write again and again, one frame each.
fn updated(rows: u32, commits: u32) -> (World, Connection, Capture) {
    let (mut world, app) = World::new(
        "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(id INTEGER PRIMARY KEY, b)",
    );
    for _ in 0..rows {
        app.execute("INSERT INTO t(b) VALUES(zeroblob(3000))", []).unwrap();
    }
    let (mut capture, _) = Capture::attach(&world.path).unwrap();
    world.compare_with_sums(&mut capture);
    for n in 0..commits {
        app.execute("UPDATE t SET b = randomblob(3000) WHERE id = ?1", [1 + n % rows]).unwrap();
    }
    (world, app, capture)
}

/// Writes into a frame, counted from 0, behind SQLite's back.
fn damage(world: &World, frame: u32, offset: u64, bytes: &[u8]) {
    let wal = std::fs::File::options().write(true).open(sibling(&world.path, "-wal")).unwrap();
    let size = frame_size(PageSize::new(4096).unwrap());
    wal.write_all_at(bytes, size * u64::from(frame) + 32 + offset).unwrap();
}

/// A page in the middle of a frame.
const IN_PAGE: u64 = 24 + 2000;

/// Of many frames only the headers are read at first.
#[test]
fn a_page_that_is_not_what_was_committed_is_an_error() {
    let (mut world, _app, mut capture) = updated(100, 100);
    let Look::Frames(end) = capture.look(&mut world.frames).unwrap() else { panic!("there are commits") };
    let frame = world.frames.slots.last().unwrap().index;
    damage(&world, frame, IN_PAGE, b"damaged");
    let e = capture
        .segment(&world.frames, end, world.replica.stamp(), (&world.spool, &mut Packs::default()))
        .unwrap_err();
    assert_eq!(e.kind(), Kind::Corrupt);
    assert!(e.to_string().starts_with(&format!("frame {} of `", frame + 1)), "{e}");
    world.compare_with_sums(&mut capture);
    world.check("SQLite shows the damage, and the log has it");
    assert!(!world.follow(&mut capture));
}

/// Nobody reads what was written again since.
#[test]
fn a_damaged_page_that_nobody_sees_is_passed_over() {
    let (mut world, _app, mut capture) = updated(50, 100);
    let first = capture.place().unwrap().frames;
    damage(&world, first, IN_PAGE, b"damaged");
    assert!(!world.follow(&mut capture));
    world.check("with a damaged page that was written again");
}

/// The page number in a frame's header is only SQLite's help for a recovery. A wrong one must neither hide a page nor put one
/// in another's place.
#[test]
fn a_frame_that_names_another_page_is_not_believed() {
    for (rows, named) in [(100, 3u32), (100, 99_999), (50, 3), (50, 99_999)] {
        let (mut world, app, mut capture) = updated(rows, 100);
        let frame = capture.place().unwrap().frames + 10;
        damage(&world, frame, 0, &named.to_be_bytes());
        let look = capture.look(&mut world.frames).unwrap();
        assert_eq!(look, Look::Broken(Broken::Damaged(frame + 1)), "{rows} {named}");
        assert!(world.follow(&mut capture));
        world.check("after a comparison of pages");
        app.execute("UPDATE t SET b = 1 WHERE id = 7", []).unwrap();
        assert!(!world.follow(&mut capture), "the next commit continues what was compared");
        world.check("after another commit");
    }
}

/// Few frames are read as a chain. A comparison waits for readers, without which nobody can tell what SQLite shows.
#[test]
fn a_damaged_wal_is_compared_when_its_readers_have_left() {
    let (mut world, app, mut capture) = updated(100, 3);
    let reader = world.connect();
    reader.execute_batch("BEGIN; SELECT * FROM t").unwrap();
    app.execute("UPDATE t SET b = randomblob(3000) WHERE id = 9", []).unwrap();
    let frame = capture.place().unwrap().frames + 1;
    damage(&world, frame, IN_PAGE, b"damaged");
    assert_eq!(capture.look(&mut world.frames).unwrap(), Look::Broken(Broken::Damaged(frame + 1)));
    let stamp = || world.replica.stamp();
    let e =
        capture.difference(&world.sums, stamp, (&world.spool, &mut Packs::default()), || Ok(())).unwrap_err();
    assert_eq!(e.kind(), Kind::Unavailable);
    assert!(e.to_string().contains(&format!("frame {} of the WAL is damaged", frame + 1)), "{e}");
    drop(reader);
    assert!(world.follow(&mut capture));
    world.check("after the reader has left");
}

/// The end of one generation and the beginning of the next are neighbours among the frames, and not in the WAL.
#[test]
fn neighbours_of_two_generations_are_read_apart() {
    let (mut world, app) = World::new(
        "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x); CREATE TABLE u(x);
         INSERT INTO t VALUES(1); INSERT INTO u VALUES(zeroblob(50000)); PRAGMA wal_checkpoint(RESTART);
         UPDATE t SET x=2; UPDATE u SET x=2",
    );
    let (mut capture, _) = Capture::attach(&world.path).unwrap();
    world.compare_with_sums(&mut capture);
    let (place, page_count) = (capture.place(), capture.page_count());
    drop(capture);
    // Page 2 ends the old generation, page 3 begins the new one.
    app.execute_batch("UPDATE t SET x=3; PRAGMA wal_checkpoint(RESTART); UPDATE u SET x=3").unwrap();
    let (mut capture, _) = Capture::attach(&world.path).unwrap();
    capture.set_position(place, page_count);
    assert!(!world.follow(&mut capture), "the old generation is whole");
    world.check("after one reset");
}

/// Whoever keeps checkpoints from happening is in nobody's way for longer than he says, his own least of all.
#[test]
fn checkpoints_that_are_held_happen_again() {
    let (mut world, app) =
        World::new("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x)");
    let (mut capture, _) = Capture::attach(&world.path).unwrap();
    world.compare_with_sums(&mut capture);
    let is_busy = || app.query_row("PRAGMA wal_checkpoint", [], |r| r.get::<_, bool>(0)).unwrap();
    let hold = |capture: &mut Capture| {
        capture.let_checkpoints(false).unwrap();
        assert!(is_busy());
    };
    hold(&mut capture);
    capture.let_checkpoints(true).unwrap();
    assert!(!is_busy());
    hold(&mut capture);
    assert!(capture.checkpoint().unwrap().is_complete());
    assert!(!is_busy());
    hold(&mut capture);
    let shm = std::fs::File::options().write(true).open(sibling(&world.path, "-shm")).unwrap();
    shm.write_all_at(&[0; WalIndexHeader::LEN], 0).unwrap();
    std::mem::forget(shm);
    world.follow(&mut capture);
    app.execute_batch("INSERT INTO t VALUES(1)").unwrap();
    world.follow(&mut capture);
    world.check("after the recovery of the wal-index");
}

#[test]
fn a_huge_transaction_goes_through_the_spool() {
    let (mut world, app) = World::new(
        "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(id INTEGER PRIMARY KEY, b)",
    );
    let (mut capture, _) = Capture::attach(&world.path).unwrap();
    world.compare_with_sums(&mut capture);
    app.execute_batch("BEGIN").unwrap();
    for _ in 0..300 {
        app.execute("INSERT INTO t(b) VALUES(randomblob(100000))", []).unwrap();
    }
    app.execute_batch("COMMIT").unwrap();
    assert!(!world.follow(&mut capture));
    assert_eq!(world.spool.list().unwrap().len(), 1);
    world.check("after 30 MB in one transaction");
}

#[test]
fn a_saved_state_is_as_good_as_the_capture() {
    let (mut world, app) =
        World::new("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x)");
    let (mut capture, _) = Capture::attach(&world.path).unwrap();
    world.compare_with_sums(&mut capture);
    app.execute_batch("INSERT INTO t VALUES(1)").unwrap();
    world.follow(&mut capture);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let state = State {
        writer: WriterId(1),
        txid: Txid::new(world.replica.txid).unwrap(),
        page_count: capture.page_count(),
        page_size: capture.page_size(),
        place: capture.place(),
        synced: None,
        boot: [0; 16],
        confirmed_ms: 0,
        captured_ms: 0,
    };
    crate::local::StateFile::open(&path).unwrap().0.save(&state).unwrap();
    drop(capture);
    app.execute_batch("INSERT INTO t VALUES(2)").unwrap();
    let back = crate::local::StateFile::peek(&path).unwrap();
    let (mut capture, _) = Capture::attach(&world.path).unwrap();
    capture.set_position(back.place, back.page_count);
    assert!(!world.follow(&mut capture));
    world.check("after the return");
}

#[test]
fn pages_of_a_later_state_are_not_restated() {
    for setup in ["PRAGMA journal_mode=WAL", "PRAGMA journal_mode=WAL; CREATE TABLE t(x)"] {
        let (mut world, app) = World::new(setup);
        let (mut capture, _) = Capture::attach(&world.path).unwrap();
        world.compare_with_sums(&mut capture);
        app.execute_batch("CREATE TABLE u(x); INSERT INTO u VALUES(randomblob(50000))").unwrap();
        let stamp = world.replica.stamp();
        assert!(
            capture.restate(&[Pgno::FIRST], stamp, (&world.spool, &mut Packs::default())).unwrap().is_none()
        );
        assert!(!world.follow(&mut capture));
        world.check("after a commit between two looks");
        let stamp = world.replica.stamp();
        let again =
            capture.restate(&[Pgno::FIRST], stamp, (&world.spool, &mut Packs::default())).unwrap().unwrap();
        world.replica.apply(&again, &world.spool, &world.sums);
        world.check("after a transaction that changes nothing");
    }
}

/// Beyond the spool's limit the WAL is let go. What a later look finds is read a second time when it is large, so that
/// nobody may overwrite it in between.
#[test]
fn what_a_look_finds_is_held_although_the_wal_was_let_go() {
    let (mut world, app) =
        World::new("PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x)");
    let (mut capture, _) = Capture::attach(&world.path).unwrap();
    world.compare_with_sums(&mut capture);
    capture.let_go().unwrap();
    app.execute_batch("INSERT INTO t SELECT randomblob(1000000) FROM (WITH n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<12) SELECT i FROM n)").unwrap();
    let Look::Frames(end) = capture.look(&mut world.frames).unwrap() else { panic!("there is a commit") };
    let before = world.frames.page_count;
    let _ = app.execute_batch("PRAGMA wal_checkpoint(RESTART); UPDATE t SET x = randomblob(1000000)");
    let s = capture
        .segment(&world.frames, end, world.replica.stamp(), (&world.spool, &mut Packs::default()))
        .unwrap();
    assert_eq!(s.header.commit, before);
    world.replica.apply(&s, &world.spool, &world.sums);
    assert!(!world.follow(&mut capture), "the WAL began anew");
    world.check("after both transactions");
}

/// The lock page begins a run of checksums that are read together, and is passed over.
#[test]
fn nothing_differs_behind_the_lock_page() {
    let (world, app) = World::new("PRAGMA page_size=65536; PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
    app.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(app);
    let page_size = PageSize::new(65536).unwrap();
    let page_count = page_size.lock_page().get() + 10;
    let file = std::fs::File::options().write(true).open(&world.path).unwrap();
    file.set_len(u64::from(page_count) * u64::from(page_size.get())).unwrap();
    drop(file);
    let (mut capture, _) = Capture::attach(&world.path).unwrap();
    let mut sums = vec![];
    let pages = capture.pages().unwrap();
    assert_eq!(pages.page_count(), page_count);
    pages
        .for_each(|pgno, page| {
            sums.push((pgno, page_checksum(pgno, page)));
            Ok(())
        })
        .unwrap();
    world.sums.apply(&sums, page_count).unwrap();
    let found = capture
        .difference(&world.sums, || world.replica.stamp(), (&world.spool, &mut Packs::default()), || Ok(()))
        .unwrap();
    assert!(found.is_none(), "{:?}", found.map(|s| s.sums.len()));
}

/// Another connection of this process, that of a sync, wrote without the lock that it counted on.
#[test]
fn letting_go_drops_no_lock_of_another_connection() {
    let (world, app) = World::new("PRAGMA journal_mode=WAL; CREATE TABLE t(x)");
    let mirror = litekeep_sql::Mirror::open(&world.path, "orders", false).unwrap();
    // Closing it would drop the locks, too.
    let shm = std::mem::ManuallyDrop::new(std::fs::File::open(sibling(&world.path, "-shm")).unwrap());
    let is_locked = || lock::holder(&shm, WRITE_LOCK, 1).unwrap().is_some();
    for _ in 0..3 {
        mirror.begin(true).unwrap();
        let (capture, _) = Capture::attach(&world.path).unwrap();
        assert!(is_locked());
        drop(capture);
        assert!(is_locked());
        mirror.roll_back();
        assert!(!is_locked());
    }
    drop(mirror);
    // Nor does anything of it count as a connection.
    let mode = app.query_row("PRAGMA journal_mode=DELETE", [], |row| row.get::<_, String>(0));
    assert_eq!(mode.unwrap(), "delete");
}
