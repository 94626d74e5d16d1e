//! Decoding in pieces gives what decoding front to back gives, and verifies as much.

use litekeep_ltx::{
    Decoder, Encoder, Error, IndexTail, PageChecks, PageIndex, PageSize, Pgno, Trailer, decode_chunk,
    decode_file, decode_page, verify_parts,
};
use proptest::prelude::*;

use crate::sample::{Pages, Sample, samples};

/// As restore does it, except that "the store" is a slice and the pieces are decoded last to first.
pub(crate) fn decode_in_chunks(bytes: &[u8], max_bytes: u64) -> Result<(Pages, Trailer), Error> {
    let index = index_of(bytes)?;
    let header = litekeep_ltx::Header::parse(bytes)?;
    let chunks = index.split(max_bytes);
    let mut pages = Pages::new();
    let mut parts = Vec::new();
    for chunk in chunks.iter().rev() {
        let block = &bytes[chunk.range.start as usize..chunk.range.end as usize];
        let part = decode_chunk(header.page_size, block, |pgno, page| {
            pages.insert(pgno.get(), page.to_vec());
        })?;
        parts.push(part);
    }
    parts.reverse();
    let trailer = verify_parts(&bytes[..100], &parts, &bytes[index.tail_range().start as usize..])?;
    assert!(parts.iter().map(|part| part.pages()).eq(chunks.iter().map(|chunk| chunk.pages)));
    Ok((pages, trailer))
}

/// Asks for the tail as a range reader does: a guess first, then what the answer says.
fn index_of(bytes: &[u8]) -> Result<PageIndex, Error> {
    let len = bytes.len() as u64;
    let tail = |n: u64| &bytes[bytes.len().saturating_sub(n as usize)..];
    match PageIndex::from_tail(len, tail(16))? {
        IndexTail::Index(_) => panic!("16 bytes hold no index"),
        IndexTail::Need(first) => match PageIndex::from_tail(len, tail(first))? {
            IndexTail::Index(index) => Ok(index),
            IndexTail::Need(second) => match PageIndex::from_tail(len, tail(second))? {
                IndexTail::Index(index) => Ok(index),
                IndexTail::Need(_) => panic!("a third request must not be needed"),
            },
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn chunks_equal_the_stream(sample in samples(40), max_bytes in 0u64..100_000) {
        let bytes = sample.encode();
        let (pages, trailer) = decode_in_chunks(&bytes, max_bytes).unwrap();
        prop_assert!(pages == sample.pages);
        prop_assert_eq!(trailer, Decoder::new(&bytes[..]).unwrap().verify().unwrap());
    }

    /// What the encoder notes, what reading all of a file gives, and what a reader of single pages holds against them.
    #[test]
    fn each_page_has_its_checksum(sample in samples(40), damaged in any::<prop::sample::Index>(), bit in 0..8) {
        let mut encoder = Encoder::new(Vec::new(), &sample.header).unwrap();
        for (&pgno, page) in &sample.pages {
            encoder.page(Pgno::new(pgno).unwrap(), page).unwrap();
        }
        let encoded = encoder.finish().unwrap();
        let (mut bytes, checks) = (encoded.writer, encoded.checks);
        prop_assert_eq!(&PageChecks::of(&bytes[..]).unwrap(), &checks);
        prop_assert_eq!(checks.pages(), sample.pages.len());
        let index = index_of(&bytes).unwrap();
        let (blocks, tail) = (100..index.tail_range().start as usize, index.tail_range().start as usize..);
        prop_assert_eq!(PageChecks::seal_of(&bytes[..100], &bytes[tail.clone()]), checks.seal());
        let at = damaged.index(bytes.len());
        bytes[at] ^= 1u8 << bit;
        if !blocks.contains(&at) {
            prop_assert_ne!(PageChecks::seal_of(&bytes[..100], &bytes[tail]), checks.seal());
            return Ok(());
        }
        let mut page = vec![0; sample.header.page_size.bytes()];
        for (nth, (pgno, range)) in index.iter().enumerate() {
            let block = &bytes[range.start as usize..range.end as usize];
            let is_read = decode_page(sample.header.page_size, block, &mut page).is_ok_and(|found| found == pgno);
            // A flipped bit may leave what a page is decompressed to as it was.
            let is_whole = is_read && page == sample.pages[&pgno.get()];
            prop_assert_eq!(is_read && checks.is_page(nth, &page), is_whole);
            prop_assert!(is_whole || range.contains(&(at as u64)));
        }
    }

    #[test]
    fn a_file_in_memory_equals_the_stream(sample in samples(40), damaged in any::<prop::sample::Index>(), bit in 0..8) {
        let mut bytes = sample.encode();
        let mut pages = Pages::new();
        let (header, index) = decode_file(&bytes, |pgno, page| drop(pages.insert(pgno.get(), page.to_vec()))).unwrap();
        prop_assert!(pages == sample.pages);
        prop_assert_eq!((header, index), (sample.header, index_of(&bytes).unwrap()));
        prop_assert!(decode_file(&bytes[..bytes.len() - 1], |_, _| ()).is_err());
        let at = damaged.index(bytes.len());
        bytes[at] ^= 1u8 << bit;
        let decoder = Decoder::new(&bytes[..]).and_then(|mut decoder| decoder.verify());
        prop_assert_eq!(decode_file(&bytes, |_, _| ()).is_ok(), decoder.is_ok());
    }

    #[test]
    fn the_index_finds_each_page(sample in samples(20)) {
        let bytes = sample.encode();
        let index = index_of(&bytes).unwrap();
        prop_assert_eq!(index.iter().len() as u64, index.pages());
        let mut page = vec![0; sample.header.page_size.bytes()];
        for n in 1..=21 {
            let pgno = Pgno::new(n).unwrap();
            let range = index.get(pgno);
            prop_assert_eq!(range.is_some(), sample.pages.contains_key(&n));
            if let Some(range) = range {
                let block = &bytes[range.start as usize..range.end as usize];
                prop_assert_eq!(decode_page(sample.header.page_size, block, &mut page).unwrap(), pgno);
                prop_assert!(page == sample.pages[&n]);
                prop_assert!(decode_page(sample.header.page_size, &block[..block.len() - 1], &mut page).is_err());
            }
        }
    }
}

fn three_pages() -> (Vec<u8>, PageSize) {
    let pages = (1..=3).map(|n| (n, crate::sample::page(512, n.into(), 5))).collect();
    let header = crate::sample::header(512, 3, 1, 4);
    (Sample { header, pages }.encode(), header.page_size)
}

#[test]
fn parts_out_of_order_or_missing_are_refused() {
    let (bytes, page_size) = three_pages();
    let index = index_of(&bytes).unwrap();
    let tail = &bytes[index.tail_range().start as usize..];
    let parts: Vec<_> = index
        .split(1)
        .iter()
        .map(|chunk| &bytes[chunk.range.start as usize..chunk.range.end as usize])
        .map(|block| decode_chunk(page_size, block, |_, _| ()).unwrap())
        .collect();
    let verify = |order: &[usize]| {
        let parts: Vec<_> = order.iter().map(|&at| parts[at].clone()).collect();
        verify_parts(&bytes[..100], &parts, tail)
    };
    verify(&[0, 1, 2]).unwrap();
    for wrong in [&[][..], &[0], &[0, 1], &[1, 2], &[0, 2], &[1, 0, 2], &[0, 1, 1, 2], &[2, 1, 0]] {
        verify(wrong).unwrap_err();
    }
}
