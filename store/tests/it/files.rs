//! LTX files to put, and what they must amount to.

use std::collections::BTreeMap;

use bytes::Bytes;
use litekeep_ltx::{Decoder, Encoder, FileName, Header, PageSize, Pgno, Salt, Txid, WriterId};

pub(crate) const PAGE_BYTES: usize = 512;

pub(crate) fn name(min: u64, max: u64) -> FileName {
    FileName { min: Txid::new(min).unwrap(), max: Txid::new(max).unwrap() }
}

/// A database as it changes: its pages and the files that were made of the changes.
pub(crate) struct Database {
    random: fastrand::Rng,
    pub(crate) pages: BTreeMap<u32, Vec<u8>>,
    pub(crate) txid: u64,
}

impl Database {
    pub(crate) fn new(seed: u64) -> Database {
        Database { random: fastrand::Rng::with_seed(seed), pages: BTreeMap::new(), txid: 0 }
    }

    /// The next transaction, which writes `writes` pages at most of a database that grows to `pages`.
    pub(crate) fn commit(&mut self, writes: u32, pages: u32, timestamp_ms: i64) -> (FileName, Bytes) {
        self.txid += 1;
        let before = self.pages.len() as u32;
        self.pages.retain(|pgno, _| *pgno <= pages);
        let mut changed: Vec<u32> = (before + 1..=pages).collect();
        changed.extend((0..writes).map(|_| self.random.u32(1..=pages)));
        changed.sort_unstable();
        changed.dedup();
        for pgno in &changed {
            let fill = self.random.u8(..);
            let mut page = vec![fill; PAGE_BYTES];
            self.random.fill(&mut page[..64]);
            self.pages.insert(*pgno, page);
        }
        let name = name(self.txid, self.txid);
        let changed = changed.iter().map(|pgno| (*pgno, self.pages[pgno].as_slice()));
        (name, encode(name, pages, timestamp_ms, changed))
    }

    /// The whole database as one file.
    pub(crate) fn snapshot(&self, timestamp_ms: i64) -> (FileName, Bytes) {
        let name = name(1, self.txid);
        let all = self.pages.iter().map(|(pgno, page)| (*pgno, page.as_slice()));
        (name, encode(name, self.pages.len() as u32, timestamp_ms, all))
    }
}

pub(crate) fn encode<'a>(
    name: FileName,
    commit: u32,
    timestamp_ms: i64,
    pages: impl Iterator<Item = (u32, &'a [u8])>,
) -> Bytes {
    let header = Header {
        page_size: PageSize::new(PAGE_BYTES as u32).unwrap(),
        commit,
        min_txid: name.min,
        max_txid: name.max,
        timestamp_ms,
        wal_offset: 32,
        wal_size: 0,
        wal_salt: Salt::default(),
        node: WriterId(7),
    };
    let mut encoder = Encoder::new(Vec::new(), &header).unwrap();
    for (pgno, page) in pages {
        encoder.page(Pgno::new(pgno).unwrap(), page).unwrap();
    }
    encoder.finish().unwrap().writer.into()
}

/// Applies files in order.
pub(crate) fn restore(files: &[Bytes]) -> BTreeMap<u32, Vec<u8>> {
    let mut pages = BTreeMap::new();
    for bytes in files {
        let mut decoder = Decoder::new(bytes.as_ref()).unwrap();
        let commit = decoder.header().commit;
        let mut page = vec![0; PAGE_BYTES];
        while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
            pages.insert(pgno.get(), page.clone());
        }
        pages.retain(|pgno, _| *pgno <= commit);
    }
    pages
}
