//! Level-0 files that the store has not confirmed: the buffer for an outage.
//!
//! One file a transaction, under the name that it will have in the log. A file is written under a temporary name, synced
//! and renamed, so what is there after a crash is whole. The spool is bounded by the caller.

use crate::Error;
use litekeep_env::disk;
use litekeep_ltx::FileName;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file in the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spooled {
    /// Its transaction.
    pub name: FileName,
    /// Bytes.
    pub size: u64,
}

/// The folder with the files.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
}

impl Spool {
    /// The spool in a folder, which is made when the first file comes.
    pub fn new(dir: &Path) -> Spool {
        Spool { dir: dir.to_owned() }
    }

    /// The spool of a database, by the folder of its local state.
    pub fn of(meta_dir: &Path) -> Spool {
        Spool::new(&meta_dir.join("spool"))
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files, oldest first; leftovers of a crash are removed.
    pub fn list(&self) -> Result<Vec<Spooled>, Error> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
            Err(e) => return Err(Error::file("list", &self.dir)(e)),
        };
        let mut files = vec![];
        for entry in entries {
            let entry = entry.map_err(Error::file("list", &self.dir))?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if name.ends_with(".tmp") {
                std::fs::remove_file(entry.path()).map_err(Error::file("remove", &entry.path()))?;
            } else if let Ok(name) = name.parse::<FileName>() {
                let size = entry.metadata().map_err(Error::file("read the size of", &entry.path()))?.len();
                files.push(Spooled { name, size });
            }
        }
        files.sort_unstable_by_key(|f| f.name.min);
        Ok(files)
    }

    /// Adds a file, durable when this returns.
    pub fn add(&self, name: FileName, bytes: &[u8]) -> Result<(), Error> {
        let mut writer = self.begin(name)?;
        writer.write_all(bytes).map_err(Error::file("write", &writer.temporary))?;
        writer.finish()
    }

    /// Begins a file that is written piece by piece.
    pub fn begin(&self, name: FileName) -> Result<SpoolWriter, Error> {
        std::fs::create_dir_all(&self.dir).map_err(Error::file("create", &self.dir))?;
        let temporary = self.dir.join(format!("{name}.tmp"));
        let file = File::create(&temporary).map_err(Error::file("create", &temporary))?;
        Ok(SpoolWriter { file, path: self.dir.join(name.to_string()), temporary })
    }

    /// Opens a file for reading piece by piece.
    pub fn open(&self, name: FileName) -> Result<File, Error> {
        let path = self.dir.join(name.to_string());
        File::open(&path).map_err(Error::file("open", &path))
    }

    /// The bytes of a file.
    pub fn read(&self, name: FileName) -> Result<Vec<u8>, Error> {
        let path = self.dir.join(name.to_string());
        std::fs::read(&path).map_err(Error::file("read", &path))
    }

    /// Removes a file that the store has confirmed.
    pub fn remove(&self, name: FileName) -> Result<(), Error> {
        let path = self.dir.join(name.to_string());
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::file("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    /// Moves every file to a named folder beside the spool, as the record of a fork.
    pub fn keep_as_fork(&self, name: &str) -> Result<Option<PathBuf>, Error> {
        if self.list()?.is_empty() {
            return Ok(None);
        }
        let forks = self.dir.with_file_name("forks");
        let target = forks.join(name);
        std::fs::create_dir_all(&forks).map_err(Error::file("create", &forks))?;
        std::fs::rename(&self.dir, &target).map_err(Error::file("keep the fork", &target))?;
        Ok(Some(target))
    }
}

/// A file of the spool on its way; without [`SpoolWriter::finish`] it never counts.
#[derive(Debug)]
pub struct SpoolWriter {
    file: File,
    path: PathBuf,
    temporary: PathBuf,
}

impl SpoolWriter {
    /// Makes the file durable and lets it count.
    pub fn finish(self) -> Result<(), Error> {
        let done = || -> std::io::Result<()> {
            self.file.sync_data()?;
            std::fs::rename(&self.temporary, &self.path)?;
            disk::sync_dir(self.path.parent().unwrap_or(Path::new(".")))
        };
        done().map_err(Error::file("write", &self.path))
    }
}

impl Write for SpoolWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
