//! The database header against what SQLite's pragmas say.

use crate::real::{Database, PAGE_SIZES};
use litekeep_format::{AutoVacuum, DatabaseHeader, Error, Kind, TextEncoding};

#[test]
fn header_says_what_the_pragmas_say() {
    for page_size in PAGE_SIZES {
        for auto_vacuum in ["NONE", "FULL", "INCREMENTAL"] {
            for encoding in ["UTF-8", "UTF-16le", "UTF-16be"] {
                let db = Database::new(page_size, auto_vacuum, encoding);
                db.insert(200);
                db.execute(
                    "PRAGMA user_version = -7; PRAGMA application_id = 0x4c4b;
                     DELETE FROM t WHERE id > 10; PRAGMA wal_checkpoint(TRUNCATE);",
                );
                compare(&db);
            }
        }
    }
}

fn compare(db: &Database) {
    let header = DatabaseHeader::parse(&db.main()).expect("SQLite wrote this header");
    assert_eq!(i64::from(header.page_size.get()), db.number("PRAGMA page_size"));
    assert_eq!(header.valid_page_count().map(i64::from), Some(db.number("PRAGMA page_count")));
    assert_eq!(i64::from(header.freelist_count), db.number("PRAGMA freelist_count"));
    assert_eq!(i64::from(header.schema_cookie), db.number("PRAGMA schema_version"));
    assert_eq!(i64::from(header.user_version), db.number("PRAGMA user_version"));
    assert_eq!(i64::from(header.application_id), db.number("PRAGMA application_id"));
    let auto_vacuum = match header.auto_vacuum {
        AutoVacuum::None => 0,
        AutoVacuum::Full => 1,
        AutoVacuum::Incremental => 2,
    };
    assert_eq!(auto_vacuum, db.number("PRAGMA auto_vacuum"));
    let encoding = match header.text_encoding {
        TextEncoding::Utf8 => "UTF-8",
        TextEncoding::Utf16Le => "UTF-16le",
        TextEncoding::Utf16Be => "UTF-16be",
    };
    assert_eq!(encoding, db.text("PRAGMA encoding"));
    assert_eq!(header.sqlite_version, rusqlite::version_number().cast_unsigned());
    assert_eq!((header.read_version, header.write_version, header.reserved), (2, 2, 0));
    assert_eq!(header.schema_format, 4);
    assert!(header.is_wal());
}

#[test]
fn journal_mode_is_seen() {
    let db = Database::new(4096, "NONE", "UTF-8");
    db.execute("PRAGMA journal_mode = DELETE");
    let header = DatabaseHeader::parse(&db.main()).expect("SQLite wrote this header");
    assert!(!header.is_wal());
    assert_eq!((header.read_version, header.write_version), (1, 1));
}

/// A database without tables has neither a schema format nor an encoding yet.
#[test]
fn database_without_tables() {
    let empty = Database::from_files(&[], &[]);
    empty.execute("PRAGMA user_version = 3");
    let bytes = empty.main();
    let header = DatabaseHeader::parse(&bytes).expect("SQLite wrote this header");
    assert_eq!((header.schema_format, header.user_version, header.page_count), (0, 3, 1));
    assert_eq!(header.text_encoding, TextEncoding::Utf8);
}

/// Changes a byte of a header that SQLite wrote, and asks SQLite too whether the database can be read.
#[test]
fn what_sqlite_refuses_is_refused() {
    let db = Database::new(1024, "NONE", "UTF-8");
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)");
    let good = db.main();
    let cases: [(usize, u8, Option<Error>); 12] = [
        (0, b's', Some(Error::NotADatabase)),
        (15, b'!', Some(Error::NotADatabase)),
        (17, 1, Some(Error::PageSize(1024 + 65536))),
        (16, 0, Some(Error::PageSize(0))),
        (16, 1, Some(Error::PageSize(256))),
        (16, 5, Some(Error::PageSize(5 * 256))),
        (19, 3, Some(Error::UnknownReadVersion(3))),
        (21, 63, Some(Error::PayloadFractions([63, 32, 32]))),
        (23, 33, Some(Error::PayloadFractions([64, 32, 33]))),
        (20, 255, None),
        (18, 3, None),
        (59, 4, None),
    ];
    for (at, byte, expected) in cases {
        let mut bytes = good.clone();
        bytes[at] = byte;
        let parsed = DatabaseHeader::parse(&bytes);
        assert_eq!(parsed.as_ref().err(), expected.as_ref(), "byte {at} = {byte}");
        let sqlite = Database::from_files(&bytes, &[]);
        let opened = sqlite.connection.query_row("PRAGMA schema_version", [], |row| row.get::<_, i64>(0));
        assert_eq!(opened.is_ok(), parsed.is_ok(), "SQLite disagrees on byte {at} = {byte}: {opened:?}");
    }
}

#[test]
fn reserved_bytes_leave_at_least_480() {
    let mut bytes = Database::new(512, "NONE", "UTF-8").main();
    for reserved in 0..=u8::MAX {
        bytes[20] = reserved;
        let header = DatabaseHeader::parse(&bytes);
        if reserved <= 32 {
            assert_eq!(header.expect("480 bytes are usable").reserved, reserved);
        } else {
            let error = header.expect_err("fewer than 480 bytes are usable");
            assert_eq!(error, Error::ReservedBytes { reserved, page_size: 512 });
            assert_eq!(error.kind(), Kind::Corrupt);
        }
    }
}

#[test]
fn page_count_of_an_old_writer_is_not_trusted() {
    let mut bytes = Database::new(512, "NONE", "UTF-8").main();
    assert!(DatabaseHeader::parse(&bytes).expect("SQLite wrote this").valid_page_count().is_some());
    bytes[27] ^= 1;
    assert_eq!(DatabaseHeader::parse(&bytes).expect("the counter may be anything").valid_page_count(), None);
}

#[test]
fn short_files_are_invalid() {
    let bytes = Database::new(512, "NONE", "UTF-8").main();
    for len in 0..DatabaseHeader::LEN {
        let error = DatabaseHeader::parse(&bytes[..len]).expect_err("too short");
        assert_eq!(error, Error::ShortDatabaseHeader { len });
        assert_eq!(error.kind(), Kind::Invalid);
    }
}
