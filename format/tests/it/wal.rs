//! WAL header, frames and chain against WALs that SQLite wrote, and against what SQLite recovers from damaged ones.

use crate::real::{Database, PAGE_SIZES};
use litekeep_format::{
    Chain, DatabaseHeader, Error, FrameHeader, FrameSummer, Kind, Stop, WalHeader, WalIndexHeader,
    frame_offset, frame_size,
};
use litekeep_ltx::{PageSize, Salt};
use proptest::prelude::*;

fn header(wal: &[u8]) -> WalHeader {
    WalHeader::parse(wal.first_chunk().expect("a WAL header")).expect("SQLite wrote this header")
}

fn index(db: &Database) -> WalIndexHeader {
    WalIndexHeader::parse(&db.shm()).expect("SQLite wrote this wal-index")
}

/// The frames of a WAL, the last one perhaps cut short.
fn frames(wal: &[u8], page_size: PageSize) -> std::slice::Chunks<'_, u8> {
    wal[WalHeader::LEN..].chunks(usize::try_from(frame_size(page_size)).expect("a frame fits into memory"))
}

/// All frames that continue the chain, and why it ended.
fn follow(wal: &[u8]) -> (Vec<FrameHeader>, Option<Stop>, Chain) {
    let header = header(wal);
    let mut chain = Chain::new(&header);
    let mut headers = Vec::new();
    for frame in frames(wal, header.page_size) {
        match chain.step(frame) {
            Ok(header) => headers.push(header),
            Err(stop) => return (headers, Some(stop), chain),
        }
    }
    (headers, None, chain)
}

#[test]
fn every_frame_of_sqlite_verifies_and_agrees_with_the_index() {
    for page_size in PAGE_SIZES {
        for auto_vacuum in ["NONE", "FULL", "INCREMENTAL"] {
            let db = Database::new(page_size, auto_vacuum, "UTF-8");
            for round in 0..6 {
                db.insert(1 + 30 * round);
                let (wal, index) = (db.wal(), index(&db));
                let wal_header = header(&wal);
                let (headers, stop, chain) = follow(&wal);
                assert_eq!(stop, None);
                assert_eq!(wal_header.page_size.get(), page_size);
                assert_eq!(wal_header.big_endian, cfg!(target_endian = "big"));
                assert_eq!(headers.len(), index.max_frame as usize);
                assert_eq!(frame_offset(wal_header.page_size, index.max_frame), wal.len() as u64);
                let last = headers.last().expect("a commit writes frames");
                assert!(last.is_commit());
                assert_eq!(i64::from(last.commit), db.number("PRAGMA page_count"));
                assert_eq!((last.commit, last.checksum), (index.page_count, index.frame_checksum));
                assert_eq!(chain.checksum(), index.frame_checksum);
                assert_eq!((last.salt, chain.salt()), (index.salt, wal_header.salt));
            }
        }
    }
}

/// The newest header is in the newest frame of page 1, not in the database file.
#[test]
fn newest_frame_of_page_1_bears_the_database_header() {
    let db = Database::new(4096, "NONE", "UTF-8");
    db.execute("PRAGMA user_version = 77");
    let wal = db.wal();
    let page_size = header(&wal).page_size;
    let newest =
        frames(&wal, page_size).rfind(|frame| frame[..4] == [0, 0, 0, 1]).expect("the pragma wrote page 1");
    let parsed = DatabaseHeader::parse(&newest[FrameHeader::LEN..]).expect("a page 1");
    assert_eq!(i64::from(parsed.user_version), db.number("PRAGMA user_version"));
    assert_eq!(DatabaseHeader::parse(&db.main()).expect("a database header").user_version, 0);
}

/// After a reset the frames of the generation before follow those of the new one.
#[test]
fn a_reset_ends_the_chain_at_the_old_salt() {
    let db = Database::new(1024, "NONE", "UTF-8");
    db.insert(300);
    let old = db.wal();
    let (old_headers, _, old_chain) = follow(&old);
    db.execute("PRAGMA wal_checkpoint(RESTART)");
    db.execute("DELETE FROM t WHERE id = 1");
    let wal = db.wal();
    let (new_headers, stop, chain) = follow(&wal);
    assert_eq!(stop, Some(Stop::OtherSalt(header(&old).salt)));
    assert_eq!(header(&wal).salt.first(), header(&old).salt.first().wrapping_add(1));
    assert_eq!(header(&wal).sequence, header(&old).sequence + 1);
    assert_eq!(chain.checksum(), index(&db).frame_checksum);
    assert!(!new_headers.is_empty() && new_headers.len() < old_headers.len());

    // The old chain, resumed where the new generation ends, runs to its end over the frames that are left.
    let at = new_headers.len();
    let before = &old_headers[at - 1];
    let mut rest =
        Chain::resume(before.salt, before.checksum, header(&old).page_size, header(&old).big_endian);
    for frame in frames(&wal, header(&old).page_size).skip(at) {
        rest.step(frame).expect("a frame of the generation before");
    }
    assert_eq!(rest.checksum(), old_chain.checksum());
}

/// A chain stops where the WAL was cut, stays there, and goes on when the rest has come.
#[test]
fn a_chain_waits_for_the_rest_of_a_frame() {
    let db = Database::new(512, "NONE", "UTF-8");
    db.insert(3);
    let wal = db.wal();
    let mut chain = Chain::new(&header(&wal));
    for frame in frames(&wal, header(&wal).page_size) {
        for len in [0, 1, 7, 23, 24, 100, frame.len() - 1] {
            assert_eq!(chain.step(&frame[..len]), Err(Stop::BadChecksum));
        }
        chain.step(frame).expect("the frame is whole");
    }
    assert_eq!(chain.checksum(), index(&db).frame_checksum);
}

/// Rewrites a WAL with checksums of the other byte order, as a machine of that order would have written it.
fn with_byte_order(wal: &[u8], big_endian: bool) -> Vec<u8> {
    let old = header(wal);
    let new = WalHeader::new(big_endian, old.page_size, old.sequence, old.salt);
    let summer = FrameSummer::new(old.page_size, big_endian);
    let mut bytes = new.to_bytes().to_vec();
    let mut checksum = new.checksum;
    for frame in frames(wal, old.page_size) {
        checksum = summer.chain(checksum, frame);
        let header = FrameHeader::parse(frame.first_chunk().expect("a frame")).expect("a page");
        bytes.extend_from_slice(&FrameHeader { checksum, ..header }.to_bytes());
        bytes.extend_from_slice(&frame[FrameHeader::LEN..]);
    }
    bytes
}

/// SQLite itself recovers the rewritten WAL, so the big-endian sums are right.
#[test]
fn sqlite_accepts_our_checksums_in_both_byte_orders() {
    for page_size in PAGE_SIZES {
        let db = Database::new(page_size, "NONE", "UTF-8");
        db.insert(500);
        db.insert(7);
        let wal = db.wal();
        assert_eq!(with_byte_order(&wal, header(&wal).big_endian), wal, "SQLite's own bytes come out again");
        for big_endian in [false, true] {
            let rewritten = with_byte_order(&wal, big_endian);
            let (headers, stop, chain) = follow(&rewritten);
            assert_eq!((headers.len(), stop), (index(&db).max_frame as usize, None));
            let copy = Database::from_files(&db.main(), &rewritten);
            assert_eq!(copy.number("SELECT count(*) FROM t"), 507);
            assert_eq!(copy.text("PRAGMA integrity_check"), "ok");
            let recovered = index(&copy);
            assert_eq!(recovered.big_endian_checksums, big_endian);
            assert_eq!(recovered.max_frame as usize, headers.len());
            assert_eq!(recovered.frame_checksum, chain.checksum());
        }
    }
}

/// One damaged byte anywhere in a WAL: SQLite recovers exactly the commits that the chain reaches.
#[test]
fn damage_ends_the_chain_where_sqlite_ends_recovery() {
    let mut rng = fastrand::Rng::with_seed(7);
    let db = Database::new(512, "NONE", "UTF-8");
    for _ in 0..10 {
        db.insert(6);
    }
    let (main, wal) = (db.main(), db.wal());
    for round in 0..150 {
        let mut damaged = wal.clone();
        // A third of the damage to frame headers, where each byte means something else.
        let at = if round % 3 == 0 {
            WalHeader::LEN + rng.usize(..wal.len() / 536) * 536 + rng.usize(..FrameHeader::LEN)
        } else {
            rng.usize(WalHeader::LEN..wal.len())
        };
        damaged[at] ^= 1 << rng.u8(..8);
        let (headers, stop, _) = follow(&damaged);
        assert_eq!(headers.len(), (at - WalHeader::LEN) / 536, "the chain ends at the damaged frame");
        assert!(stop.is_some());
        let commits = headers.iter().rposition(FrameHeader::is_commit).map_or(0, |last| last + 1);
        let recovered = Database::from_files(&main, &damaged);
        assert_eq!(recovered.number("PRAGMA page_count"), expected_pages(&main, &headers));
        assert_eq!(index(&recovered).max_frame as usize, commits, "damage at byte {at}");
    }
}

fn expected_pages(main: &[u8], headers: &[FrameHeader]) -> i64 {
    let in_file = DatabaseHeader::parse(main).expect("a database header").page_count;
    headers.iter().rfind(|h| h.is_commit()).map_or(in_file, |h| h.commit).into()
}

/// One damaged bit in the WAL header: SQLite sees an empty WAL, and so do we.
#[test]
fn damaged_wal_headers_are_refused() {
    let db = Database::new(4096, "NONE", "UTF-8");
    let good: [u8; 32] = *db.wal().first_chunk().expect("a WAL header");
    for bit in 0..8 * WalHeader::LEN {
        let mut bytes = good;
        bytes[bit / 8] ^= 1 << (bit % 8);
        let error = WalHeader::parse(&bytes).expect_err("one bit is wrong");
        let (expected, kind) = if bit / 8 < 4 && bit != 24 {
            (matches!(error, Error::NotAWal(_)), Kind::Invalid)
        } else {
            (error == Error::WalHeaderChecksum, Kind::Corrupt)
        };
        assert!(expected, "bit {bit}: {error}");
        assert_eq!(error.kind(), kind);
    }
}

/// Headers whose checksum is right but whose fields are not.
#[test]
fn sound_wal_headers_of_unknown_content_are_refused() {
    let sum = |bytes: &mut [u8; 32]| {
        let sum = litekeep_format::checksum_serial(false, &bytes[..24], Default::default());
        bytes[24..].copy_from_slice(&sum.to_bytes());
    };
    let page_size = PageSize::new(4096).expect("a page size");
    let good = WalHeader::new(false, page_size, 3, Salt([9; 8])).to_bytes();
    let mut version = good;
    version[7] ^= 1;
    sum(&mut version);
    assert_eq!(WalHeader::parse(&version), Err(Error::UnknownWalVersion(3_007_001)));
    let mut size = good;
    size[8..12].copy_from_slice(&4097u32.to_be_bytes());
    sum(&mut size);
    assert_eq!(WalHeader::parse(&size), Err(Error::PageSize(4097)));
}

fn page_sizes() -> impl Strategy<Value = PageSize> {
    (9u32..=16).prop_map(|bits| PageSize::new(1 << bits).expect("512 to 65536"))
}

proptest! {
    #[test]
    fn wal_headers_come_back(big_endian: bool, page_size in page_sizes(), sequence: u32, salt: [u8; 8]) {
        let header = WalHeader::new(big_endian, page_size, sequence, Salt(salt));
        prop_assert_eq!(WalHeader::parse(&header.to_bytes()), Ok(header));
    }

    #[test]
    fn frame_headers_come_back(bytes: [u8; 24]) {
        match FrameHeader::parse(&bytes) {
            Some(header) => prop_assert_eq!(header.to_bytes(), bytes),
            None => prop_assert_eq!(&bytes[..4], &[0; 4]),
        }
    }

    /// Frames stand one after the other, also where 32 bits do not reach.
    #[test]
    fn frames_lie_side_by_side(page_size in page_sizes(), index in 0..u32::MAX) {
        let next = frame_offset(page_size, index) + frame_size(page_size);
        prop_assert_eq!(next, frame_offset(page_size, index + 1));
        prop_assert_eq!(frame_offset(page_size, 0), 32);
    }
}
