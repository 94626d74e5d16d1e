//! What is written is read back, and what must not be written is refused.

use std::io::Read;

use litekeep_ltx::{Decoder, Encoder, ErrorKind, FileName, Header, Pgno, Txid};
use proptest::prelude::*;

use crate::sample::{decode, header, page, samples};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn files(sample in samples(40)) {
        let read = decode(&sample.encode()).unwrap();
        prop_assert_eq!(read.header, sample.header);
        prop_assert!(read.pages == sample.pages);
    }

    #[test]
    fn headers(sample in samples(1)) {
        let bytes = sample.header.to_bytes();
        prop_assert_eq!(Header::parse(&bytes).unwrap(), sample.header);
    }

    #[test]
    fn file_names(min in 1u64.., more in 0..1000u64) {
        let name = FileName { min: Txid::new(min).unwrap(), max: Txid::new(min.saturating_add(more)).unwrap() };
        prop_assert_eq!(name.to_string().parse::<FileName>().unwrap(), name);
    }
}

#[test]
fn a_reader_that_gives_one_byte_at_a_time() {
    struct Trickle<'a>(&'a [u8]);
    impl Read for Trickle<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let len = buf.len().min(1);
            self.0.read(&mut buf[..len])
        }
    }
    let header = header(4096, 3, 1, 7);
    let mut encoder = Encoder::new(Vec::new(), &header).unwrap();
    for pgno in 1..=3 {
        encoder.page(Pgno::new(pgno).unwrap(), &page(4096, pgno.into(), 8)).unwrap();
    }
    let bytes = encoder.finish().unwrap().writer;
    assert_eq!(
        Decoder::new(Trickle(&bytes)).unwrap().verify().unwrap(),
        Decoder::new(&bytes[..]).unwrap().verify().unwrap()
    );
}

#[test]
fn names_of_other_things_are_refused() {
    for name in [
        "",
        ".ltx",
        "0000000000000001-0000000000000001",
        "0000000000000001-0000000000000001.LTX",
        "000000000000000A-000000000000000B.ltx",
        "0000000000000002-0000000000000001.ltx",
        "0000000000000000-0000000000000001.ltx",
        "1-1.ltx",
        "+000000000000001-0000000000000001.ltx",
        "0000000000000001-0000000000000001-0000000000000001.ltx",
        "0000000000000001-0000000000000001.ltx.tmp",
    ] {
        assert!(name.parse::<FileName>().is_err(), "{name}");
    }
}

/// The encoder must refuse each page that a reader would refuse, and go on as if it had not been offered.
#[test]
fn pages_out_of_place_are_refused_and_change_nothing() {
    let data = page(4096, 1, 4);
    let pgno = |n| Pgno::new(n).unwrap();
    let mut encoder = Encoder::new(Vec::new(), &header(4096, 10, 5, 5)).unwrap();
    encoder.page(pgno(4), &data).unwrap();
    for (n, bytes) in [(4, &data[..]), (3, &data), (11, &data), (5, &data[1..]), (5, &[])] {
        assert_eq!(encoder.page(pgno(n), bytes).unwrap_err().kind(), ErrorKind::Invalid, "page {n}");
    }
    encoder.page(pgno(10), &data).unwrap();
    let read = decode(&encoder.finish().unwrap().writer).unwrap();
    assert_eq!(read.pages.keys().copied().collect::<Vec<_>>(), [4, 10]);
}

#[test]
fn a_snapshot_must_be_whole() {
    let data = page(512, 1, 4);
    let mut encoder = Encoder::new(Vec::new(), &header(512, 3, 1, 9)).unwrap();
    encoder.page(Pgno::new(1).unwrap(), &data).unwrap();
    assert_eq!(encoder.page(Pgno::new(3).unwrap(), &data).unwrap_err().kind(), ErrorKind::Invalid);
    encoder.page(Pgno::new(2).unwrap(), &data).unwrap();
    assert_eq!(encoder.finish().unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn headers_that_cannot_be_read_back_are_refused() {
    let good = header(4096, 1, 2, 3);
    for bad in [
        Header { commit: 0, ..good },
        Header { max_txid: Txid::FIRST, ..good },
        Header { wal_offset: 1 << 63, ..good },
        Header { wal_offset: 0, wal_size: 0, ..good },
        Header { wal_offset: 0, wal_salt: Default::default(), ..good },
        Header { wal_size: u64::MAX, ..good },
    ] {
        assert_eq!(Encoder::new(Vec::new(), &bad).err().unwrap().kind(), ErrorKind::Invalid, "{bad:?}");
    }
}

#[test]
fn nothing_goes_on_after_a_failed_write() {
    #[derive(Debug)]
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut encoder = Encoder::new(Full, &header(65536, 100, 2, 2)).unwrap();
    let failed =
        (1..=100).find_map(|n| encoder.page(Pgno::new(n).unwrap(), &page(65536, 9, 16)).err()).unwrap();
    assert_eq!(failed.kind(), ErrorKind::Io);
    assert_eq!(
        encoder.page(Pgno::new(100).unwrap(), &page(65536, 9, 16)).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert_eq!(encoder.finish().unwrap_err().kind(), ErrorKind::Invalid);
}
