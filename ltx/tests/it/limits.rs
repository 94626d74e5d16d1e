//! The lock page, which no file may hold: only databases over 1 GiB have one.

use litekeep_ltx::{Encoder, ErrorKind, IndexTail, PageIndex, PageSize, Pgno, decode_chunk, verify_parts};

use crate::sample::{decode, header};

const PAGE_SIZE: u32 = 65536;

#[test]
fn the_lock_page_is_refused_and_skipped_by_snapshots() {
    let lock = PageSize::new(PAGE_SIZE).unwrap().lock_page().get();
    assert_eq!(lock, 16385);
    let zeros = vec![0; PAGE_SIZE as usize];
    let pgno = |n| Pgno::new(n).unwrap();

    let mut encoder = Encoder::new(Vec::new(), &header(PAGE_SIZE, lock + 1, 1, 1)).unwrap();
    for n in 1..lock {
        encoder.page(pgno(n), &zeros).unwrap();
    }
    assert_eq!(encoder.page(pgno(lock), &zeros).unwrap_err().kind(), ErrorKind::Invalid);
    encoder.page(pgno(lock + 1), &zeros).unwrap();
    let encoded = encoder.finish().unwrap();
    assert_eq!(encoded.pages, u64::from(lock));

    let bytes = encoded.writer;
    let IndexTail::Index(index) = PageIndex::from_tail(bytes.len() as u64, &bytes).unwrap() else { panic!() };
    assert_eq!(index.get(pgno(lock)), None);
    let parts: Vec<_> = index
        .split(1 << 20)
        .iter()
        .map(|chunk| &bytes[chunk.range.start as usize..chunk.range.end as usize])
        .map(|chunk| decode_chunk(PageSize::new(PAGE_SIZE).unwrap(), chunk, |_, _| ()).unwrap())
        .collect();
    assert!(parts.len() > 1);
    verify_parts(&bytes[..100], &parts, &bytes[index.tail_range().start as usize..]).unwrap();
}

/// A database that ends with the lock page has no page there to store.
#[test]
fn a_snapshot_may_end_at_the_lock_page() {
    let lock = PageSize::new(PAGE_SIZE).unwrap().lock_page().get();
    let mut encoder = Encoder::new(Vec::new(), &header(PAGE_SIZE, lock, 1, 1)).unwrap();
    let zeros = vec![0; PAGE_SIZE as usize];
    for n in 1..lock {
        encoder.page(Pgno::new(n).unwrap(), &zeros).unwrap();
    }
    let bytes = encoder.finish().unwrap().writer;
    assert_eq!(litekeep_ltx::Decoder::new(&bytes[..]).unwrap().verify().unwrap().post_apply.0, 0);
    assert!(decode(&bytes[..bytes.len() - 1]).is_err());
}
