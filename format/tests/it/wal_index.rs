//! The wal-index header against the `-shm` files of a real SQLite. WAL and index are compared in `wal.rs`.

use crate::real::{Database, PAGE_SIZES};
use litekeep_format::locks::{self, read_lock};
use litekeep_format::{READ_MARK_UNUSED, WalIndexHeader};

fn index(db: &Database) -> WalIndexHeader {
    WalIndexHeader::parse(&db.shm()).expect("SQLite wrote this wal-index")
}

#[test]
fn every_page_size_is_read() {
    for page_size in PAGE_SIZES {
        let header = index(&Database::new(page_size, "NONE", "UTF-8"));
        assert_eq!(header.page_size.map(|size| size.get()), Some(page_size));
        assert!(header.is_init);
    }
}

#[test]
fn each_commit_changes_the_header() {
    let db = Database::new(4096, "NONE", "UTF-8");
    let before = index(&db);
    db.insert(1);
    let after = index(&db);
    assert_eq!(after.change, before.change + 1);
    assert!(after.max_frame > before.max_frame);
    assert_ne!(after.frame_checksum, before.frame_checksum);
}

/// A rolled-back transaction may have spilled frames, and the header does not cover them.
#[test]
fn spilled_frames_of_a_rollback_are_not_covered() {
    let db = Database::new(512, "NONE", "UTF-8");
    let before = index(&db);
    let len = db.wal().len();
    db.execute("PRAGMA cache_size = 5; BEGIN");
    db.insert(2000);
    assert!(db.wal().len() > len, "the transaction spilled");
    assert_eq!(index(&db).max_frame, before.max_frame);
    db.execute("ROLLBACK");
    let after = index(&db);
    assert_eq!(WalIndexHeader { checkpoint: before.checkpoint, ..after }, before);
}

/// An index that was built from an empty WAL knows no page size.
#[test]
fn index_of_an_empty_wal() {
    let db = Database::new(4096, "NONE", "UTF-8");
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)");
    let reopened = Database::from_files(&db.main(), &[]);
    reopened.number("SELECT count(*) FROM t");
    let header = index(&reopened);
    assert_eq!((header.max_frame, header.page_size), (0, None));
    reopened.insert(1);
    assert_eq!(index(&reopened).page_size.map(|size| size.get()), Some(4096));
}

#[test]
fn checkpoints_and_readers_are_seen() {
    let db = Database::new(4096, "NONE", "UTF-8");
    db.insert(100);
    let fresh = index(&db);
    assert_eq!(fresh.checkpoint.backfilled, 0);
    assert_eq!(fresh.checkpoint.read_marks[0], 0);
    assert_eq!(fresh.checkpoint.read_marks[4], READ_MARK_UNUSED);

    // A reader's mark is the last frame that it sees, and holds the checkpoint there.
    let path = db.connection.path().expect("a file").to_owned();
    let reader = rusqlite::Connection::open(path).expect("open a second connection");
    reader.execute_batch("BEGIN; SELECT count(*) FROM t").expect("begin to read");
    db.insert(100);
    let later = index(&db);
    assert!(later.max_frame > fresh.max_frame);
    assert!(later.checkpoint.read_marks[1..].contains(&fresh.max_frame));
    db.execute("PRAGMA wal_checkpoint(PASSIVE)");
    assert_eq!(index(&db).checkpoint.backfilled, fresh.max_frame);

    reader.execute_batch("COMMIT").expect("end reading");
    db.execute("PRAGMA wal_checkpoint(PASSIVE)");
    let done = index(&db).checkpoint;
    assert_eq!((done.backfilled, done.backfill_attempted), (later.max_frame, later.max_frame));
}

/// TRUNCATE resets at once, and the index has the new salt before the WAL has a header again. RESTART leaves the reset to
/// the next writer.
#[test]
fn a_reset_is_seen_in_the_index_first() {
    let db = Database::new(4096, "NONE", "UTF-8");
    db.insert(10);
    let before = index(&db);
    db.execute("PRAGMA wal_checkpoint(RESTART)");
    let restart = index(&db);
    assert_eq!((restart.salt, restart.max_frame), (before.salt, before.max_frame));
    assert_eq!(restart.checkpoint.backfilled, before.max_frame);

    db.execute("PRAGMA wal_checkpoint(TRUNCATE)");
    let truncated = index(&db);
    assert!(db.wal().is_empty());
    assert_eq!(truncated.max_frame, 0);
    assert_eq!(truncated.salt.first(), before.salt.first().wrapping_add(1));
    assert_ne!(truncated.salt.second(), before.salt.second());
    db.insert(1);
    assert_eq!(db.wal()[16..24], truncated.salt.0);
}

#[test]
fn any_damaged_bit_is_found() {
    let shm = Database::new(4096, "NONE", "UTF-8").shm();
    for bit in 0..8 * 96 {
        let mut bytes = shm.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(WalIndexHeader::parse(&bytes), None, "bit {bit} in one copy");
        let other = (bit + 8 * 48) % (8 * 96);
        bytes[other / 8] ^= 1 << (other % 8);
        assert_eq!(WalIndexHeader::parse(&bytes), None, "bit {bit} in both copies");
    }
    for len in 0..WalIndexHeader::LEN {
        assert_eq!(WalIndexHeader::parse(&shm[..len]), None);
    }
    assert!(WalIndexHeader::parse(&shm).is_some());
    assert_eq!(WalIndexHeader::parse(&[0; WalIndexHeader::LEN]), None);
}

/// The kernel's list of locks (`/proc/locks`) shows SQLite's on the bytes that the constants name.
#[test]
fn sqlite_locks_the_bytes_that_the_constants_name() {
    let db = Database::new(4096, "NONE", "UTF-8");
    let main = locks_of(&db, "");
    let shared_last = locks::SHARED_FIRST + locks::SHARED_SIZE - 1;
    assert!(main.contains(&("READ".into(), locks::SHARED_FIRST, shared_last)), "{main:?}");
    let shm = locks_of(&db, "-shm");
    assert!(shm.contains(&("READ".into(), locks::DMS, locks::DMS)), "{shm:?}");

    db.execute("BEGIN IMMEDIATE");
    let covers = |mode: &str, at: u64| {
        locks_of(&db, "-shm").iter().any(|(m, first, last)| m == mode && (*first..=*last).contains(&at))
    };
    assert!(covers("WRITE", locks::WRITE_LOCK));
    assert!(!covers("WRITE", locks::CHECKPOINT_LOCK) && !covers("WRITE", locks::RECOVER_LOCK));
    assert!((0..locks::READ_LOCKS).any(|i| covers("READ", read_lock(i))));
    assert_eq!(locks::RESERVED, locks::PENDING + 1);
}

/// Mode, first and last byte of this process's locks on a file of the database.
fn locks_of(db: &Database, suffix: &str) -> Vec<(String, u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let path = format!("{}{suffix}", db.connection.path().expect("a file"));
    let inode = std::fs::metadata(path).expect("look at the file").ino().to_string();
    let table = std::fs::read_to_string("/proc/locks").expect("read the list of locks");
    let mut locks = Vec::new();
    for line in table.lines() {
        // 1: POSIX  ADVISORY  READ 1234 00:21:5678 128 128
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "POSIX", _, mode, _, file, first, last] = fields[..] else { continue };
        let (Some(of), Ok(first), Ok(last)) = (file.rsplit(':').next(), first.parse(), last.parse()) else {
            continue;
        };
        if of == inode {
            locks.push((mode.to_owned(), first, last));
        }
    }
    locks
}
