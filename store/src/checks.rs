//! Whether what is read from the log is what was written.
//!
//! Promises:
//! - A page of a large file is given only with the checksum that it was written with ([`PageChecks`]). Whoever merges files or makes
//!   a snapshot puts those of its pages as a record beside the levels, `litekeep/checksums/<level>-<first>-<last>`. Where there is
//!   none, or one that is damaged or of another file, the file is read to its end first, which gives the same.
//! - A record is put after its file, and is deleted before it: a crash leaves none that nobody deletes. Those of files that somebody
//!   else took away go with the next snapshot that goes ([`Store::delete_stray_checks`]).
//! - Levels 0 and 1 have none: their files are single uploads, or those of a second, and records would double their puts.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use litekeep_ltx::{Checksum, FileName, PageChecks};
use tokio::runtime::Handle;

use crate::compact::codec_error;
use crate::error::{Error, Result};
use crate::log::{FileRef, Log};
use crate::pages::SMALL;
use crate::store::Store;
use crate::stream::RangeReader;

const FOLDER: &str = "checksums";
/// The least level that has records.
const LEAST_LEVEL: u8 = 2;
/// A record is less than this share of its file, unless pages take but a few bytes there: bounds how long reading it may take.
const RECORD_SHARE: u64 = 16;
/// Bytes of one read.
const READ_BYTES: u64 = 4 << 20;
/// Pages whose checksums are remembered, for 16 MiB.
const REMEMBERED: usize = 4 << 20;
/// A file that was damaged is read again after so long, or when it is another one.
const READ_AGAIN: Duration = Duration::from_secs(600);

/// What reading files to their end has told.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Of files that were whole, the newest last.
    whole: VecDeque<Arc<PageChecks>>,
    /// Why others were not, and since when this is known: whoever tries again and again must not read all of it each time.
    damaged: HashMap<(Checksum, i64), (String, Instant)>,
}

impl Remembered {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn get(&self, seal: Checksum, modified_ms: i64) -> Option<Result<Arc<PageChecks>, String>> {
        if let Some(checks) = self.whole.iter().find(|checks| checks.seal() == seal) {
            return Some(Ok(checks.clone()));
        }
        let (cause, since) = self.damaged.get(&(seal, modified_ms))?;
        (since.elapsed() < READ_AGAIN).then(|| Err(cause.clone()))
    }

    /// The last one stays, whatever it takes.
    fn put_within(&mut self, most_pages: usize, checks: Arc<PageChecks>) {
        self.whole.retain(|other| other.seal() != checks.seal());
        self.whole.push_back(checks);
        let mut pages: usize = self.whole.iter().map(|checks| checks.pages()).sum();
        while pages > most_pages && self.whole.len() > 1 {
            pages -= self.whole.pop_front().map_or(0, |checks| checks.pages());
        }
    }

    fn put_damaged(&mut self, seal: Checksum, modified_ms: i64, cause: String) {
        self.damaged.retain(|_, (_, since)| since.elapsed() < READ_AGAIN);
        self.damaged.insert((seal, modified_ms), (cause, Instant::now()));
    }
}

impl Store {
    /// Reads a file to its end.
    ///
    /// # Errors
    /// `Corrupt` when it is not what was written; [`Error::is_missing`] when it is gone.
    pub(crate) async fn verify(&self, file: &FileRef) -> Result<PageChecks> {
        let action = format!("read `{}`", self.place_of_file(file.level, file.name));
        let first = self.get_range(file, 0..file.size.min(READ_BYTES)).await?;
        let reader = RangeReader::new(self.clone(), file.clone(), first, READ_BYTES, Handle::current());
        match tokio::task::spawn_blocking(move || PageChecks::of(reader)).await {
            Ok(read) => read.map_err(|e| codec_error(action, e)),
            Err(e) => Err(Error::Internal { action, cause: e.to_string() }),
        }
    }

    /// The record beside a file, if it can be had. It may be of another file.
    pub(crate) async fn record_of(&self, file: &FileRef) -> Option<PageChecks> {
        let read = self.record_bytes(file).await.and_then(|bytes| {
            let parsed = bytes.map(|bytes| PageChecks::parse(&bytes)).transpose();
            parsed.map_err(|e| codec_error(format!("read `{}`", record(file.level, file.name)), e))
        });
        read.unwrap_or_else(|e| {
            tracing::debug!(store = self.place(), "{e}; reading all of the file instead");
            None
        })
    }

    async fn record_bytes(&self, file: &FileRef) -> Result<Option<Bytes>> {
        match has_record(file.level, file.size) {
            true => self.get_record_of(&record(file.level, file.name), file.size / RECORD_SHARE).await,
            false => Ok(None),
        }
    }

    /// The checksums of a file with this seal, by reading all of it if that was not done yet.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub(crate) async fn checks_of_all(&self, file: &FileRef, seal: Checksum) -> Result<Arc<PageChecks>> {
        let remembered = &self.client.remembered;
        let known = remembered.known().get(seal, file.modified_ms);
        if let Some(known) = known {
            return known.map_err(|cause| self.damaged(file, cause));
        }
        match self.verify(file).await {
            Ok(checks) => {
                let checks = Arc::new(checks);
                remembered.known().put_within(REMEMBERED, checks.clone());
                Ok(checks)
            }
            Err(Error::Corrupt { cause, .. }) => {
                remembered.known().put_damaged(seal, file.modified_ms, cause.clone());
                Err(self.damaged(file, cause))
            }
            Err(e) => Err(e),
        }
    }

    /// Puts the record of a file that is there. The file is whole without.
    pub(crate) async fn put_checks(&self, level: u8, name: FileName, size: u64, checks: &PageChecks) {
        if has_record(level, size)
            && let Err(e) = self.put_record(&record(level, name), checks.to_bytes().into(), false).await
        {
            let file = self.place_of_file(level, name);
            tracing::warn!(
                file,
                "keep the checksums of its pages: {e}; who reads some of them reads all of the file"
            );
        }
    }

    /// Copies the record of a file to where the file was copied to.
    ///
    /// # Errors
    /// Those of the stores.
    pub async fn copy_checks(&self, to: &Store, file: &FileRef) -> Result<()> {
        if let Some(bytes) = self.record_bytes(file).await? {
            to.put_record(&record(file.level, file.name), bytes, false).await?;
        }
        Ok(())
    }

    /// Deletes the records of files that are about to be deleted.
    pub(crate) async fn delete_checks(&self, files: &[FileRef]) -> Result<()> {
        let with_record = files.iter().filter(|file| has_record(file.level, file.size));
        let records: Vec<_> = with_record.map(|file| record(file.level, file.name)).collect();
        if records.is_empty() { Ok(()) } else { self.delete_records(&records).await }
    }

    /// Deletes the records of files that the log does not have: one listing.
    ///
    /// # Errors
    /// `Unavailable` when the store does not answer.
    pub async fn delete_stray_checks(&self, log: &Log) -> Result<()> {
        let known: HashSet<_> = log.files().map(|file| record(file.level, file.name)).collect();
        let mut records: Vec<_> =
            self.list_records(FOLDER).await?.into_iter().map(|record| record.name).collect();
        records.retain(|record| !known.contains(record));
        if records.is_empty() { Ok(()) } else { self.delete_records(&records).await }
    }
}

fn has_record(level: u8, size: u64) -> bool {
    level >= LEAST_LEVEL && size > SMALL
}

fn record(level: u8, name: FileName) -> String {
    format!("{FOLDER}/{level}-{}-{}", name.min, name.max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::pages::PageFile;
    use crate::target::Target;
    use litekeep_ltx::{Encoded, Encoder, Header, PageSize, Pgno, Salt, Txid, WriterId};
    use std::io::Write;
    use std::path::PathBuf;

    const NAME: FileName = FileName { min: Txid::FIRST, max: Txid::FIRST };
    const PAGES: u32 = 200;

    /// A snapshot of pages that do not compress.
    fn snapshot<W: Write>(seed: u64, out: W) -> Encoded<W> {
        let header = Header {
            page_size: PageSize::new(4096).unwrap(),
            commit: PAGES,
            min_txid: Txid::FIRST,
            max_txid: Txid::FIRST,
            timestamp_ms: 0,
            wal_offset: 32,
            wal_size: 0,
            wal_salt: Salt::default(),
            node: WriterId(1),
        };
        let mut encoder = Encoder::new(out, &header).unwrap();
        let mut random = fastrand::Rng::with_seed(seed);
        for pgno in (1..=PAGES).filter_map(Pgno::new) {
            let page: Vec<u8> = (0..4096).map(|_| random.u8(..)).collect();
            encoder.page(pgno, &page).unwrap();
        }
        encoder.finish().unwrap()
    }

    /// A folder with a snapshot that has a record.
    struct Place {
        dir: tempfile::TempDir,
        file: FileRef,
        whole: Vec<u8>,
    }

    impl Place {
        async fn new() -> Place {
            let dir = tempfile::tempdir().unwrap();
            let store = open(&dir);
            let put = store.put_from(9, NAME, 0, None, |out| {
                let encoded = snapshot(1, out);
                encoded.writer.keep_checks(encoded.checks);
                Ok::<_, Error>(())
            });
            put.await.unwrap();
            let file = store.find(9, NAME).await.unwrap().unwrap();
            let whole = store.get(&file).await.unwrap().to_vec();
            Place { dir, file, whole }
        }

        /// As another process has it.
        fn store(&self) -> Store {
            open(&self.dir)
        }

        fn write(&self, bytes: &[u8]) {
            std::fs::write(self.dir.path().join(format!("ltx/9/{NAME}")), bytes).unwrap();
        }

        fn damage(&self, at: usize) {
            let mut bytes = self.whole.clone();
            bytes[at] ^= 1;
            self.write(&bytes);
        }

        fn record(&self) -> PathBuf {
            self.dir.path().join("litekeep").join(record(9, NAME))
        }

        /// Opens the file; how much of it was read.
        async fn opened_by(&self, store: &Store) -> Result<(PageFile, u64)> {
            let before = store.counters().read();
            let file = store.open_pages(&self.file).await?;
            Ok((file, store.counters().read().since(&before).bytes_in))
        }
    }

    fn open(dir: &tempfile::TempDir) -> Store {
        Store::open(&Target::Folder(dir.path().to_owned())).unwrap()
    }

    /// Opens the file anew and reads all of its pages.
    async fn read(place: &Place) -> Result<()> {
        let (file, _) = place.opened_by(&place.store()).await?;
        let pages: Vec<_> = file.pages().collect();
        assert_eq!(file.read(&pages).await?.len(), PAGES as usize);
        Ok(())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_record_saves_reading_the_whole_file_and_nothing_else() {
        let place = Place::new().await;
        let (_, with_record) = place.opened_by(&place.store()).await.unwrap();
        assert!(with_record < place.file.size / 4, "{with_record}");
        let record = std::fs::read(place.record()).unwrap();
        let of_another = snapshot(2, vec![]).checks.to_bytes();
        let damaged = [&record[..100], &[record[100] ^ 1], &record[101..]].concat();
        for beside in [None, Some(&of_another[..]), Some(&damaged), Some(&record[..50]), Some(&[])] {
            match beside {
                None => std::fs::remove_file(place.record()).unwrap(),
                Some(bytes) => std::fs::write(place.record(), bytes).unwrap(),
            }
            let store = place.store();
            let (_, at_first) = place.opened_by(&store).await.unwrap();
            assert!(at_first > place.file.size, "{at_first}");
            let (_, then) = place.opened_by(&store).await.unwrap();
            assert!(then < place.file.size / 4, "once is enough: {then}");
            read(&place).await.unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn damage_anywhere_is_an_error() {
        let place = Place::new().await;
        let end = place.whole.len();
        // Within the header, pages, the page index, and the trailer.
        let places = [21, 35, end / 3, end / 2, end - 400, end - 30, end - 20, end - 1];
        for has_record in [true, false] {
            if !has_record {
                std::fs::remove_file(place.record()).unwrap();
            }
            read(&place).await.unwrap();
            for at in places {
                place.damage(at);
                let error = read(&place).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{at} of {end}: {error}");
                assert!(error.to_string().contains(&NAME.to_string()), "{error}");
                place.write(&place.whole);
            }
        }
        std::fs::remove_file(place.dir.path().join(format!("ltx/9/{NAME}"))).unwrap();
        assert!(read(&place).await.unwrap_err().is_missing());
    }

    /// Pages that are read one by one, here and by range requests.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_happens_to_an_open_file_is_an_error() {
        let place = Place::new().await;
        let page = Pgno::new(PAGES / 2).unwrap();
        for has_record in [true, false] {
            if !has_record {
                std::fs::remove_file(place.record()).unwrap();
            }
            let (file, _) = place.opened_by(&place.store()).await.unwrap();
            let before = file.read(&[page]).await.unwrap();
            assert_eq!(file.read_here(page).unwrap().unwrap(), before[&page]);
            let other = snapshot(2, vec![]).writer;
            assert_eq!(other.len(), place.whole.len());
            place.damage(place.whole.len() / 2);
            let outcomes = file.read(&file.pages().collect::<Vec<_>>()).await.map(drop);
            assert!(outcomes.unwrap_err().to_string().contains("checksum mismatch"));
            // In place, so that the open file has it too.
            place.write(&other);
            for outcome in [file.read(&[page]).await.map(drop), file.read_here(page).unwrap().map(drop)] {
                let error = outcome.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                assert!(error.to_string().contains(&format!("page {page}: checksum mismatch")), "{error}");
            }
            place.write(&place.whole);
            assert_eq!(file.read(&[page]).await.unwrap(), before);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_damaged_file_is_not_read_again_and_again() {
        let place = Place::new().await;
        std::fs::remove_file(place.record()).unwrap();
        let store = place.store();
        place.damage(place.whole.len() / 2);
        let file = store.find(9, NAME).await.unwrap().unwrap();
        let first = store.open_pages(&file).await.unwrap_err();
        let before = store.counters().read();
        let second = store.open_pages(&file).await.unwrap_err();
        assert_eq!(first.to_string(), second.to_string());
        assert!(store.counters().read().since(&before).bytes_in < file.size / 4);
        place.write(&place.whole);
        let mended = FileRef { modified_ms: file.modified_ms + 1, ..file };
        store.open_pages(&mended).await.unwrap();
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let checks = |seed: u64| Arc::new(snapshot(seed, vec![]).checks);
        let (one, two, three) = (checks(1), checks(2), checks(3));
        let mut known = Known::default();
        for checks in [&one, &two, &three, &one] {
            known.put_within(3 * PAGES as usize, checks.clone());
        }
        assert_eq!(known.whole, [two.clone(), three.clone(), one.clone()]);
        assert_eq!(known.get(two.seal(), 0), Some(Ok(two.clone())));
        known.put_within(2 * PAGES as usize, two.clone());
        assert_eq!(known.whole, [one, two]);
        known.put_within(1, three.clone());
        assert_eq!(known.whole, [three]);
    }
}
