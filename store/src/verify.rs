//! Whether a file of the log is what was written, which only all of its bytes can tell: the format has one checksum for a
//! whole file, and none for a page.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use litekeep_ltx::Decoder;
use tokio::runtime::Handle;

use crate::compact::codec_error;
use crate::error::{Error, Result};
use crate::log::FileRef;
use crate::store::Store;
use crate::stream::RangeReader;

/// Bytes of one read.
const READ_BYTES: u64 = 4 << 20;

/// Files that were read to their end, and were whole.
#[derive(Debug, Default)]
pub(crate) struct Verified(Mutex<HashSet<FileRef>>);

impl Verified {
    fn files(&self) -> MutexGuard<'_, HashSet<FileRef>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// The same log for whoever writes its pages into a database: [`open_pages`](Self::open_pages) and
    /// [`open_following`](Self::open_following) read a large file to its end before they give anything of it. Each file is
    /// read so once; small ones always are.
    #[must_use]
    pub fn verifying_pages(self) -> Store {
        Store { verified: Some(Default::default()), ..self }
    }

    /// Reads a file to its end.
    ///
    /// # Errors
    /// `Corrupt` when it is not what was written; [`Error::is_missing`] when it is gone.
    pub async fn verify(&self, file: &FileRef) -> Result<()> {
        let action = format!("read `{}`", self.place_of_file(file.level, file.name));
        let first = self.get_range(file, 0..file.size.min(READ_BYTES)).await?;
        let reader = RangeReader::new(self.clone(), file.clone(), first, READ_BYTES, Handle::current());
        let reading = tokio::task::spawn_blocking(move || Decoder::new(reader)?.verify().map(drop));
        match reading.await {
            Ok(read) => read.map_err(|e| codec_error(action, e)),
            Err(e) => Err(Error::Internal { action, cause: e.to_string() }),
        }
    }

    /// Verifies a file whose pages are about to be read, where that is wanted and was not done yet.
    pub(crate) async fn verify_if_wanted(&self, file: &FileRef) -> Result<()> {
        let Some(verified) = &self.verified else { return Ok(()) };
        if !verified.files().contains(file) {
            self.verify(file).await?;
            verified.files().insert(file.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::target::Target;
    use litekeep_ltx::{Encoder, FileName, Header, PageSize, Pgno, Salt, Txid, WriterId};

    /// A snapshot of pages that do not compress.
    fn snapshot(pages: u32) -> Vec<u8> {
        let header = Header {
            page_size: PageSize::new(4096).unwrap(),
            commit: pages,
            min_txid: Txid::FIRST,
            max_txid: Txid::FIRST,
            timestamp_ms: 0,
            wal_offset: 32,
            wal_size: 0,
            wal_salt: Salt::default(),
            node: WriterId(1),
        };
        let mut encoder = Encoder::new(Vec::new(), &header).unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        for pgno in (1..=pages).filter_map(Pgno::new) {
            let page: Vec<u8> = (0..4096).map(|_| random.u8(..)).collect();
            encoder.page(pgno, &page).unwrap();
        }
        encoder.finish().unwrap().writer
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_is_read_to_its_end_before_a_page_of_it_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let store = store_of(&dir);
        let name = FileName { min: Txid::FIRST, max: Txid::FIRST };
        let mut bytes = snapshot(100);
        store.put(9, name, bytes.clone().into(), 0).await.unwrap();
        let file = store.find(9, name).await.unwrap().unwrap();
        let verifying = store.clone().verifying_pages();
        let read_by = async |store: &Store| {
            let before = store.counters().read();
            store.open_pages(&file).await.unwrap();
            store.counters().read().since(&before).bytes_in
        };
        assert!(read_by(&store).await < file.size / 2);
        assert!(read_by(&verifying).await > file.size);
        assert!(read_by(&verifying).await < file.size / 2, "once is enough");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(dir.path().join(format!("ltx/9/{name}")), bytes).unwrap();
        let page = Pgno::new(50).unwrap();
        store.open_pages(&file).await.unwrap().read(&[page]).await.unwrap();
        let damaged = store.verifying_pages().open_pages(&file).await.unwrap_err();
        assert_eq!(damaged.kind(), ErrorKind::Corrupt, "{damaged}");
        std::fs::remove_file(dir.path().join(format!("ltx/9/{name}"))).unwrap();
        assert!(store_of(&dir).verifying_pages().open_pages(&file).await.unwrap_err().is_missing());
    }

    fn store_of(dir: &tempfile::TempDir) -> Store {
        Store::open(&Target::Folder(dir.path().to_owned())).unwrap()
    }
}
