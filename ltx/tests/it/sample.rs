//! Files to test with: what goes into one, its bytes, and what comes out of bytes.

use std::collections::BTreeMap;

use litekeep_ltx::{Decoder, Encoder, Error, Header, PageSize, Pgno, Salt, Txid, WriterId};
use proptest::prelude::*;

pub(crate) type Pages = BTreeMap<u32, Vec<u8>>;

/// One file's content.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub header: Header,
    pub pages: Pages,
}

pub(crate) fn header(page_size: u32, commit: u32, min: u64, max: u64) -> Header {
    Header {
        page_size: PageSize::new(page_size).unwrap(),
        commit,
        min_txid: Txid::new(min).unwrap(),
        max_txid: Txid::new(max).unwrap(),
        timestamp_ms: 1_790_000_000_123,
        wal_offset: 32,
        wal_size: 8272,
        wal_salt: Salt([1, 2, 3, 4, 5, 6, 7, 8]),
        node: WriterId(0x1122_3344_5566_7788),
    }
}

/// A page that compresses to about the share `noise` of 16 parts.
pub(crate) fn page(page_size: u32, seed: u64, noise: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..page_size)
        .map(|at| {
            if at % 16 < noise {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            } else {
                (at / 64) as u8
            }
        })
        .collect()
}

impl Sample {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), &self.header).unwrap();
        for (&pgno, page) in &self.pages {
            encoder.page(Pgno::new(pgno).unwrap(), page).unwrap();
        }
        let encoded = encoder.finish().unwrap();
        assert_eq!(encoded.size, encoded.writer.len() as u64);
        assert_eq!(encoded.pages, self.pages.len() as u64);
        assert_eq!(encoded.writer[encoded.writer.len() - 8..], encoded.checksum.0.to_be_bytes());
        encoded.writer
    }
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Sample, Error> {
    let mut decoder = Decoder::new(bytes)?;
    let header = *decoder.header();
    let mut pages = Pages::new();
    let mut page = vec![0; header.page_size.bytes()];
    while let Some(pgno) = decoder.next_page(&mut page)? {
        pages.insert(pgno.get(), page.clone());
    }
    assert!(decoder.trailer().is_some());
    assert!(decoder.next_page(&mut page).unwrap().is_none(), "the end stays the end");
    Ok(Sample { header, pages })
}

pub(crate) fn page_sizes() -> impl Strategy<Value = u32> {
    (9u32..=16).prop_map(|shift| 1 << shift)
}

/// Any file, snapshots and changes, of up to `max_pages` pages.
pub(crate) fn samples(max_pages: u32) -> impl Strategy<Value = Sample> {
    (page_sizes(), 1..=max_pages, any::<bool>(), any::<u64>(), any::<u64>(), any::<(i64, [u8; 8], u64)>())
        .prop_map(|(page_size, commit, snapshot, seed, chosen, (timestamp_ms, salt, node))| {
            let min = if snapshot { 1 } else { 2 + (seed >> 2) };
            let header = Header {
                timestamp_ms,
                wal_offset: (chosen >> 1).max(1),
                wal_size: seed >> 1,
                wal_salt: Salt(salt),
                node: WriterId(node),
                ..header(page_size, commit, min, min + chosen % 5)
            };
            let pages = (1..=commit)
                .filter(|pgno| snapshot || chosen.rotate_right(pgno % 64) & 1 == 1)
                .map(|pgno| {
                    (pgno, page(page_size, seed ^ u64::from(pgno), (seed >> (pgno % 60)) as u32 % 17))
                })
                .collect();
            Sample { header, pages }
        })
}
