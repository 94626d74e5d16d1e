//! What a database had beyond the log that another node went on with: kept, and never applied by itself.
//!
//! A fork is a folder below `forks/` in the local state, with files of the log's format: single transactions, or one file with all
//! that is different from the state that it goes on from. `fork.json` beside them says where it comes from; the replicator's own
//! have none. A crash leaves a folder under a temporary name, which does not count.

use litekeep_env::{disk, file};
use litekeep_ltx::{Decoder, Encoder, FileName, Header, PageSize, Pgno, Txid};
use litekeep_replicate::restore::{self, Goal, Progress};
use litekeep_replicate::{Error, Kind};
use litekeep_store::Store;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const FOLDER: &str = "forks";
const ABOUT: &str = "fork.json";
/// A folder in that of a fork: the same transaction by transaction, as far as they were told apart.
const TRANSACTIONS: &str = "transactions";

/// Where a fork comes from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct About {
    /// When it was kept, milliseconds since the epoch.
    pub kept_ms: i64,
    /// The log that went on without it.
    pub url: String,
    /// Pages that it has otherwise than the state before it, or all of them.
    pub pages: u64,
}

/// A fork.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fork {
    /// Its name, one in the database.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
    /// The transaction of the log that it goes on from; `None`: it has everything itself.
    pub base: Option<Txid>,
    /// Its files, in their order.
    pub files: Vec<FileName>,
    /// Bytes of these.
    pub bytes: u64,
    /// What is known of it besides.
    pub about: Option<About>,
}

impl Fork {
    /// Those of a database, by the folder of its local state, oldest first.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn all(meta_dir: &Path) -> Result<Vec<Fork>, Error> {
        let dir = meta_dir.join(FOLDER);
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
            Err(e) => return Err(Error::file("list", &dir)(e)),
        };
        let mut forks = vec![];
        for entry in entries {
            let path = entry.map_err(Error::file("list", &dir))?.path();
            if path.extension().is_none_or(|end| end != "tmp") {
                forks.extend(Fork::read(&path)?);
            }
        }
        forks.sort_by_cached_key(|fork| (fork.since_ms(), fork.name.clone()));
        Ok(forks)
    }

    fn read(path: &Path) -> Result<Option<Fork>, Error> {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(None) };
        let (mut files, mut bytes) = (vec![], 0);
        for entry in std::fs::read_dir(path).map_err(Error::file("list", path))? {
            let entry = entry.map_err(Error::file("list", path))?;
            if let Some(Ok(file)) = entry.file_name().to_str().map(str::parse::<FileName>) {
                bytes += entry.metadata().map_err(Error::file("look at", &entry.path()))?.len();
                files.push(file);
            }
        }
        files.sort_unstable_by_key(|file| file.min);
        let Some(first) = files.first() else { return Ok(None) };
        let about = std::fs::read(path.join(ABOUT)).ok();
        Ok(Some(Fork {
            name: name.to_owned(),
            path: path.to_owned(),
            base: first.min.prev(),
            bytes,
            about: about.and_then(|text| serde_json::from_slice(&text).ok()),
            files,
        }))
    }

    /// Takes in what waited in the spool: it is a part of the fork.
    pub(crate) fn take_in(&self, spool: &Path) -> Result<(), Error> {
        let within = self.path.join(TRANSACTIONS);
        match std::fs::rename(spool, &within) {
            Ok(()) => Ok(()),
            // There is nothing, or a kill came after some was taken in: what is left is a fork of its own.
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                Ok(())
            }
            Err(e) => Err(Error::file("move", spool)(e)),
        }
    }

    /// When it was kept, milliseconds since the epoch.
    pub fn since_ms(&self) -> i64 {
        let modified = || {
            let time = self.path.metadata().and_then(|folder| folder.modified()).ok()?;
            let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
            i64::try_from(since.as_millis()).ok()
        };
        self.about.as_ref().map_or_else(|| modified().unwrap_or_default(), |about| about.kept_ms)
    }

    /// Writes the database with it to a new file: the log's state, and the fork on top.
    ///
    /// # Errors
    /// Those of a restore; `Corrupt` for a file that is damaged.
    pub async fn restore(&self, store: &Store, path: &Path, progress: &dyn Progress) -> Result<(), Error> {
        match self.base {
            Some(base) => {
                let options = restore::Options::default();
                _ = restore::to_path(store, Goal::Txid(base), path, &options, progress).await?;
            }
            None => drop(File::create_new(path).map_err(Error::file("create", path))?),
        }
        let (fork, path) = (self.clone(), path.to_owned());
        crate::start::blocking(move || {
            let file =
                File::options().read(true).write(true).open(&path).map_err(Error::file("open", &path))?;
            for name in &fork.files {
                fork.apply(*name, &file, &path)?;
            }
            file.sync_all().map_err(Error::file("sync", &path))
        })
        .await
    }

    fn apply(&self, name: FileName, file: &File, path: &Path) -> Result<(), Error> {
        let own = self.path.join(name.to_string());
        let failed = |source| Error::Ltx { doing: format!("read `{}`", own.display()), source };
        let opened = File::open(&own).map_err(Error::file("open", &own))?;
        let mut decoder = Decoder::new(BufReader::new(opened)).map_err(failed)?;
        let Header { page_size, commit, .. } = *decoder.header();
        let mut page = vec![0; page_size.bytes()];
        while let Some(pgno) = decoder.next_page(&mut page).map_err(failed)? {
            file.write_all_at(&page, pgno.offset(page_size)).map_err(Error::file("write", path))?;
        }
        let bytes = u64::from(commit) * u64::from(page_size.get());
        file.set_len(bytes).map_err(Error::file("resize", path))
    }
}

/// A fork on its way: it counts when it is finished.
pub(crate) struct Draft {
    temporary: PathBuf,
    file: FileName,
    encoder: Encoder<BufWriter<File>>,
    pages: u64,
    /// Of the pages, so that the same content has the same name.
    hash: u64,
}

impl Draft {
    /// Begins one that goes on from a transaction, or with everything in it.
    pub(crate) fn begin(
        meta_dir: &Path,
        base: Txid,
        is_whole: bool,
        page_size: PageSize,
        page_count: u32,
        now_ms: i64,
    ) -> Result<Draft, Error> {
        let file = FileName { min: if is_whole { Txid::FIRST } else { base.next() }, max: base.next() };
        let temporary = meta_dir.join(FOLDER).join("fork.tmp");
        match std::fs::remove_dir_all(&temporary) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file("remove", &temporary)(e));
            }
            _ => {}
        }
        std::fs::create_dir_all(&temporary).map_err(Error::file("create", &temporary))?;
        let path = temporary.join(file.to_string());
        let out = BufWriter::new(File::create(&path).map_err(Error::file("create", &path))?);
        let header = Header {
            page_size,
            commit: page_count,
            min_txid: file.min,
            max_txid: file.max,
            timestamp_ms: now_ms,
            wal_offset: 32,
            wal_size: 0,
            wal_salt: Default::default(),
            node: Default::default(),
        };
        let encoder = Encoder::new(out, &header).map_err(failed)?;
        Ok(Draft { temporary, file, encoder, pages: 0, hash: u64::from(page_count) })
    }

    pub(crate) fn page(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), Error> {
        self.pages += 1;
        let sum = litekeep_ltx::page_checksum(pgno, page).0;
        self.hash = (self.hash.rotate_left(5) ^ sum).wrapping_mul(0x517c_c1b7_2722_0a95);
        self.encoder.page(pgno, page).map_err(failed)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// Nothing is to be kept.
    pub(crate) fn drop_it(self) {
        _ = std::fs::remove_dir_all(&self.temporary);
    }

    /// Makes it durable and lets it count.
    pub(crate) fn finish(self, url: &str, now_ms: i64) -> Result<Fork, Error> {
        let base = self.file.max.prev().unwrap_or(Txid::FIRST);
        let done = self.encoder.finish().map_err(failed)?;
        let out =
            done.writer.into_inner().map_err(|e| Error::file("write", &self.temporary)(e.into_error()))?;
        out.sync_all().map_err(Error::file("sync", &self.temporary))?;
        let about = About { kept_ms: now_ms, url: url.to_owned(), pages: self.pages };
        let text = serde_json::to_vec(&about).expect("strings and numbers");
        let about = self.temporary.join(ABOUT);
        file::replace(&about, &text).map_err(Error::file("write", &about))?;
        let folder = self.temporary.with_file_name(format!("{base}-{:08x}", self.hash >> 32));
        if folder.is_dir() {
            // A kill came after it was kept, and before the file went back.
            _ = std::fs::remove_dir_all(&self.temporary);
        } else {
            std::fs::rename(&self.temporary, &folder).map_err(Error::file("keep the fork", &folder))?;
            let forks = folder.parent().unwrap_or(Path::new("."));
            disk::sync_dir(forks).map_err(Error::file("sync", forks))?;
        }
        let gone = || Error::new(Kind::Internal, format!("`{}` has no fork", folder.display()));
        Fork::read(&folder)?.ok_or_else(gone)
    }
}

fn failed(source: litekeep_ltx::Error) -> Error {
    Error::Ltx { doing: "write a fork".into(), source }
}
