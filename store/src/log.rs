//! What stands in the store: the files of the log by level, and where they stand.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;

use litekeep_ltx::{FileName, Txid};

/// The level of snapshots; below it stand the compactions, and at 0 one file per capture.
pub const SNAPSHOT_LEVEL: u8 = 9;

/// How the keys of the log are made, as Litestream does for each kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `<path>/{level:04x}/<name>`: S3 and its like.
    Flat,
    /// `<path>/ltx/{level}/<name>`: folders, Google, Azure, SFTP, WebDAV.
    Ltx,
}

impl Layout {
    /// The folder of a level below the log's path.
    pub fn level_dir(self, level: u8) -> String {
        match self {
            Layout::Flat => format!("{level:04x}"),
            Layout::Ltx => format!("ltx/{level}"),
        }
    }

    /// What the keys of all levels begin with below the log's path, up to the level's one digit.
    pub(crate) fn levels(self) -> &'static str {
        match self {
            Layout::Flat => "000",
            Layout::Ltx => "ltx/",
        }
    }

    /// Level and file name of a key, which is given without the log's path. `None`: not below a level.
    pub(crate) fn split(self, tail: &str) -> Option<(u8, &str)> {
        let (level, name) = tail.strip_prefix(self.levels())?.split_once('/')?;
        match level.as_bytes() {
            [digit @ b'0'..=b'9'] => Some((digit - b'0', name)),
            _ => None,
        }
    }
}

/// One file of the log, as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileRef {
    /// 0 to [`SNAPSHOT_LEVEL`].
    pub level: u8,
    /// First and last transaction.
    pub name: FileName,
    /// Bytes.
    pub size: u64,
    /// The store's modification time, milliseconds since the epoch. In a folder it is the file's timestamp, over
    /// SFTP that second's end; elsewhere it is the time of the upload, which is never before the timestamp while clocks
    /// agree.
    pub modified_ms: i64,
}

impl FileRef {
    /// First transaction.
    pub fn min(&self) -> Txid {
        self.name.min
    }

    /// Last transaction.
    pub fn max(&self) -> Txid {
        self.name.max
    }

    /// Whether the file holds a whole database, and a restore may begin with it.
    pub fn is_base(&self) -> bool {
        self.name.min == Txid::FIRST
    }

    /// Whether this file's transactions include all of the other's.
    pub fn contains(&self, other: &FileRef) -> bool {
        self.min() <= other.min() && other.max() <= self.max()
    }
}

/// The files of one log at one moment, each level in the order of its transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    levels: BTreeMap<u8, Vec<FileRef>>,
    /// Keys under a level that are no files of the log: reported, never touched.
    pub strays: Vec<String>,
}

impl Log {
    /// A log of these files.
    pub fn new(files: impl IntoIterator<Item = FileRef>) -> Log {
        let mut log = Log::default();
        for file in files {
            log.levels.entry(file.level).or_default().push(file);
        }
        for files in log.levels.values_mut() {
            files.sort_by_key(|f| (f.min(), f.max()));
            files.dedup_by_key(|f| f.name);
        }
        log
    }

    /// The files of a level, in the order of their transactions.
    pub fn level(&self, level: u8) -> &[FileRef] {
        self.levels.get(&level).map_or(&[], Vec::as_slice)
    }

    /// All files, by level and then by transaction.
    pub fn files(&self) -> impl Iterator<Item = &FileRef> + Clone {
        self.levels.values().flatten()
    }

    /// No file at all.
    pub fn is_empty(&self) -> bool {
        self.levels.values().all(Vec::is_empty)
    }

    /// The last transaction that any file holds.
    pub fn last(&self) -> Option<Txid> {
        self.files().map(FileRef::max).max()
    }

    /// The newest level-0 file, from which a writer continues.
    pub fn newest_l0(&self) -> Option<&FileRef> {
        self.level(0).iter().max_by_key(|f| f.max())
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.files().map(|f| f.size).sum()
    }

    /// Adds a file after it was put, so that the next plan needs no listing.
    pub fn insert(&mut self, file: FileRef) {
        let files = self.levels.entry(file.level).or_default();
        match files.binary_search_by_key(&(file.min(), file.max()), |f| (f.min(), f.max())) {
            Ok(at) => files[at] = file,
            Err(at) => files.insert(at, file),
        }
    }

    /// Takes a file out, after it was deleted or found to be damaged: plans then go around it where they can.
    pub fn remove(&mut self, level: u8, name: FileName) -> Option<FileRef> {
        let files = self.levels.get_mut(&level)?;
        let at = files.binary_search_by_key(&(name.min, name.max), |f| (f.min(), f.max())).ok()?;
        Some(files.remove(at))
    }

    /// Takes many files out at once.
    pub fn remove_all(&mut self, gone: &[FileRef]) {
        let gone: std::collections::HashSet<_> = gone.iter().map(|f| (f.level, f.name)).collect();
        for files in self.levels.values_mut() {
            files.retain(|f| !gone.contains(&(f.level, f.name)));
        }
    }
}

/// The timestamps of files, milliseconds since the epoch, as far as they are known; for the others their modification
/// time stands in, which is never too early, so that nothing is taken for older than it is.
#[derive(Clone, Debug, Default)]
pub struct Times {
    known: HashMap<(u8, FileName), i64>,
}

impl Times {
    /// Remembers a file's timestamp.
    pub fn insert(&mut self, level: u8, name: FileName, timestamp_ms: i64) {
        self.known.insert((level, name), timestamp_ms);
    }

    /// Whether the timestamp is known.
    pub fn contains(&self, file: &FileRef) -> bool {
        self.known.contains_key(&(file.level, file.name))
    }

    /// The timestamp, or else the modification time.
    pub fn of(&self, file: &FileRef) -> i64 {
        self.known.get(&(file.level, file.name)).copied().unwrap_or(file.modified_ms)
    }

    /// Forgets all files that the log no longer has, so that the memory stays bounded by the log's.
    pub fn retain(&mut self, log: &Log) {
        let kept: std::collections::HashSet<_> = log.files().map(|f| (f.level, f.name)).collect();
        self.known.retain(|key, _| kept.contains(key));
    }
}

/// Reads the end of a key below a level's folder (see [`Layout::split`]). `None`: not a file of the log.
pub(crate) fn parse_name(tail: &str) -> Option<FileName> {
    let name = FileName::from_str(tail).ok()?;
    // Only the canonical spelling, so that one range of transactions has one key.
    (name.to_string() == tail).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_split_as_they_are_made() {
        for layout in [Layout::Flat, Layout::Ltx] {
            for level in 0..=SNAPSHOT_LEVEL {
                let key = format!("{}/name", layout.level_dir(level));
                assert_eq!(layout.split(&key), Some((level, "name")));
                assert!(key.starts_with(layout.levels()));
            }
            for other in
                ["000a/name", "00010/name", "0000", "ltx/10/name", "ltx/a/name", "ltx//name", "x/0000/name"]
            {
                assert_eq!(layout.split(other), None, "{other}");
            }
        }
    }
}
