//! A database whose every state is known, and its log in a store.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use litekeep_ltx::{Decoder, Encoder, FileName, Header, PageSize, Pgno, Salt, Txid, WriterId, merge};
use litekeep_store::{FileRef, Log, Store, Target};
use rusqlite::Connection;

pub(crate) fn txid(n: u64) -> Txid {
    Txid::new(n).unwrap()
}

pub(crate) fn name(min: u64, max: u64) -> FileName {
    FileName { min: txid(min), max: txid(max) }
}

/// States by transaction, from 1.
pub(crate) struct Origin {
    pub(crate) store: Store,
    pub(crate) page_size: PageSize,
    pub(crate) states: Vec<Vec<u8>>,
    files: Vec<Bytes>,
    dir: Option<tempfile::TempDir>,
}

impl Origin {
    /// With its log in a folder.
    pub(crate) fn new(page_size: u32) -> Origin {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Target::Folder(dir.path().join("log"))).unwrap();
        Origin { dir: Some(dir), ..Origin::in_store(store, page_size) }
    }

    pub(crate) fn in_store(store: Store, page_size: u32) -> Origin {
        let page_size = PageSize::new(page_size).unwrap();
        Origin { store, page_size, states: vec![], files: vec![], dir: None }
    }

    /// A path in the origin's own folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.as_ref().unwrap().path().join(name)
    }

    pub(crate) fn last(&self) -> u64 {
        self.states.len() as u64
    }

    pub(crate) fn state(&self, txid: u64) -> &[u8] {
        &self.states[txid as usize - 1]
    }

    /// When a transaction was seen.
    pub(crate) fn time_ms(txid: u64) -> i64 {
        1_790_000_000_000 + txid as i64 * 1000
    }

    fn header(&self, min: u64, max: u64) -> Header {
        Header {
            page_size: self.page_size,
            commit: (self.state(max).len() / self.page_size.bytes()) as u32,
            min_txid: txid(min),
            max_txid: txid(max),
            timestamp_ms: Origin::time_ms(max),
            wal_offset: 32,
            wal_size: 0,
            wal_salt: Salt::default(),
            node: WriterId(7),
        }
    }

    fn encode(&self, min: u64, max: u64, before: &[u8]) -> Bytes {
        let size = self.page_size.bytes();
        let mut encoder = Encoder::new(Vec::new(), &self.header(min, max)).unwrap();
        for (nth, page) in self.state(max).chunks(size).enumerate() {
            if before.get(nth * size..(nth + 1) * size) != Some(page) {
                encoder.page(Pgno::new(nth as u32 + 1).unwrap(), page).unwrap();
            }
        }
        encoder.finish().unwrap().writer.into()
    }

    /// The database has a new state, which level 0 gets.
    pub(crate) async fn commit(&mut self, state: Vec<u8>) {
        self.states.push(state);
        let at = self.last();
        let before = if at == 1 { &[][..] } else { self.state(at - 1) };
        let file = self.encode(at, at, before);
        self.store.put(0, name(at, at), file.clone(), Origin::time_ms(at)).await.unwrap();
        self.files.push(file);
    }

    /// A new state, as SQLite has it in the file now.
    pub(crate) async fn commit_file(&mut self, db: &Connection, path: &Path) {
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        self.commit(std::fs::read(path).unwrap()).await;
    }

    pub(crate) async fn snapshot(&self, at: u64) {
        let file = self.encode(1, at, &[]);
        self.store.put(9, name(1, at), file, Origin::time_ms(at)).await.unwrap();
    }

    /// A compaction of these transactions; level 0 stays as it is.
    pub(crate) async fn compact(&self, level: u8, min: u64, max: u64) {
        let inputs = &self.files[min as usize - 1..max as usize];
        let decoders = inputs.iter().map(|file| Decoder::new(&file[..]).unwrap()).collect();
        let merged = merge(decoders, Vec::new()).unwrap().writer;
        self.store.put(level, name(min, max), merged.into(), Origin::time_ms(max)).await.unwrap();
    }

    pub(crate) async fn log(&self) -> Log {
        self.store.list().await.unwrap()
    }

    pub(crate) async fn file(&self, level: u8, min: u64, max: u64) -> FileRef {
        let log = self.log().await;
        log.level(level).iter().find(|f| f.name == name(min, max)).unwrap().clone()
    }

    pub(crate) async fn delete(&self, level: u8, min: u64, max: u64) {
        self.store.delete(vec![self.file(level, min, max).await]).await.unwrap();
    }

    /// Where a file of the folder is.
    pub(crate) fn file_path(&self, level: u8, min: u64, max: u64) -> PathBuf {
        self.path(&format!("log/ltx/{level}/{}", name(min, max)))
    }

    /// Changes a file behind the store's back; its time stays.
    pub(crate) fn damage(&self, level: u8, min: u64, max: u64, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.file_path(level, min, max);
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    }
}

/// Bytes that look random, of a length that is mostly no multiple of anything.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}
