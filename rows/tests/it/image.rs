//! States of a small database, whole in memory, and what the WAL says was written between them.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use litekeep_format::{Chain, FrameHeader, PageBytes, PageSource, WalHeader, frame_offset};
use litekeep_ltx::Pgno;
use litekeep_rows::Error;
use rusqlite::Connection;

/// All pages of a state; those that are the same are shared with the state before, and with the page before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image(Vec<PageBytes>);

impl Image {
    /// The committed state, as SQLite itself gives the pages.
    pub(crate) fn read(db: &Connection, before: &Image) -> Result<Image> {
        let mut select = db.prepare_cached("SELECT data FROM sqlite_dbpage ORDER BY pgno")?;
        let mut rows = select.query(())?;
        let mut pages: Vec<PageBytes> = vec![];
        while let Some(row) = rows.next()? {
            let page = row.get_ref(0)?.as_blob()?;
            let is_same = |before: &&PageBytes| &before[..] == page;
            let same = before.0.get(pages.len()).filter(is_same).or_else(|| pages.last().filter(is_same));
            let page = same.cloned().unwrap_or_else(|| Arc::from(page));
            pages.push(page);
        }
        Ok(Image(pages))
    }

    /// The pages of either state whose bytes differ.
    pub(crate) fn different(&self, other: &Image) -> Vec<Pgno> {
        let count = self.0.len().max(other.0.len());
        let is_same = |nth: &usize| match (self.0.get(*nth), other.0.get(*nth)) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            _ => false,
        };
        let differ = (0..count).filter(|nth| !is_same(nth));
        differ.map(|nth| Pgno::new(nth as u32 + 1).unwrap()).collect()
    }
}

impl PageSource for Image {
    type Error = Error;

    fn page_count(&self) -> u32 {
        self.0.len() as u32
    }

    fn page(&self, pgno: Pgno) -> Result<PageBytes, Error> {
        Ok(self.0[pgno.get() as usize - 1].clone())
    }
}

/// Reads which pages each commit wrote.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    /// After the last commit.
    reached: Option<(Chain, u32)>,
}

impl Tail {
    /// The WAL was emptied.
    pub(crate) fn restart(&mut self) {
        self.reached = None;
    }

    /// The pages that were written since the last call, and by how many transactions.
    pub(crate) fn written(&mut self, database: &Path) -> Result<(Vec<Pgno>, u64)> {
        let mut wal = database.as_os_str().to_owned();
        wal.push("-wal");
        let bytes = std::fs::read(wal)?;
        let Some(header) = bytes.first_chunk::<{ WalHeader::LEN }>() else { return Ok((vec![], 0)) };
        let header = WalHeader::parse(header)?;
        let (mut chain, mut frames) = self.reached.take().unwrap_or_else(|| (Chain::new(&header), 0));
        self.reached = Some((chain.clone(), frames));
        let (mut written, mut pending, mut commits) = (vec![], vec![], 0);
        let len = FrameHeader::LEN + header.page_size.bytes();
        loop {
            let at = usize::try_from(frame_offset(header.page_size, frames))?;
            let Some(frame) = bytes.get(at..at + len) else { break };
            let Ok(frame) = chain.step(frame) else { break };
            frames += 1;
            pending.push(frame.pgno);
            if frame.is_commit() {
                commits += 1;
                written.append(&mut pending);
                self.reached = Some((chain.clone(), frames));
            }
        }
        written.sort_unstable();
        written.dedup();
        Ok((written, commits))
    }
}
