//! From the base and the records to a folder that a power cut may have left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::record::{Change, Record};
use super::{Base, Survival, identity};

const SECTOR: usize = 512;

pub(super) struct Replay<'a> {
    pub(super) root: &'a Path,
    pub(super) base: &'a Base,
    /// In the order in which they ended.
    pub(super) records: &'a [Record],
    pub(super) survival: Survival,
}

/// What happens to the changes of one file or folder that no fsync covers.
#[derive(Clone, Copy)]
enum Luck {
    All,
    None,
    /// Those up to some moment, the rest not.
    Prefix(f64),
    /// Each sector by itself, with this probability.
    Scattered(f64),
}

impl Luck {
    fn draw(survival: Survival, random: &mut fastrand::Rng) -> Self {
        match survival {
            Survival::Everything => Self::All,
            Survival::Nothing => Self::None,
            Survival::Random(_) => match random.u8(0..5) {
                0 => Self::All,
                1 => Self::None,
                2 => Self::Prefix(random.f64()),
                _ => Self::Scattered(random.f64()),
            },
        }
    }
}

impl Replay<'_> {
    pub(super) fn write(&self, into: &Path) -> Result<()> {
        let mut random = match self.survival {
            Survival::Random(seed) => fastrand::Rng::with_seed(seed),
            _ => fastrand::Rng::with_seed(0),
        };
        let synced = self.last_syncs();
        let (names, folders) = self.names(&synced, &mut random);
        fs::create_dir_all(into).with_context(|| format!("make {into:?}"))?;
        // In order, so that a folder comes before what is in it.
        let place = |path: &Path| path.strip_prefix(self.root).map(|below| into.join(below)).ok();
        let mut there = BTreeSet::from([self.root.to_owned()]);
        for folder in &folders {
            if let (Some(place), true) =
                (place(folder), folder.parent().is_some_and(|dir| there.contains(dir)))
            {
                fs::create_dir_all(&place).with_context(|| format!("make {place:?}"))?;
                there.insert(folder.clone());
            }
        }
        for (path, file) in &names {
            let is_memory = path.as_os_str().as_encoded_bytes().ends_with(b"-shm");
            if is_memory || !path.parent().is_some_and(|dir| there.contains(dir)) {
                continue;
            }
            let Some(place) = place(path) else { continue };
            let luck = Luck::draw(self.survival, &mut random);
            let content = self.content(*file, synced.get(file).copied(), luck, &mut random);
            fs::write(&place, content).with_context(|| format!("write {place:?}"))?;
        }
        Ok(())
    }

    /// When the last fsync of each file and folder began.
    fn last_syncs(&self) -> BTreeMap<u64, u64> {
        let mut last = BTreeMap::new();
        for record in self.records {
            if let Change::Sync { file } = record.change {
                let begin = last.entry(file).or_insert(0);
                *begin = record.begin_ns.max(*begin);
            }
        }
        last
    }

    /// The names that are left, and the folders.
    fn names(
        &self,
        synced: &BTreeMap<u64, u64>,
        random: &mut fastrand::Rng,
    ) -> (BTreeMap<PathBuf, u64>, BTreeSet<PathBuf>) {
        let mut names = self.base.names.clone();
        let mut folders: BTreeSet<PathBuf> = self.base.folders.keys().cloned().collect();
        let limits = self.folder_limits(synced, random);
        for record in self.records {
            let survives = |path: &Path| {
                let limit = path.parent().and_then(|dir| limits.get(dir));
                limit.is_some_and(|limit| record.end_ns <= *limit)
            };
            match &record.change {
                Change::Entry { file, path } if survives(path) => _ = names.insert(path.clone(), *file),
                Change::Rename { from, to } if survives(to) => {
                    if let Some(file) = names.remove(from) {
                        names.insert(to.clone(), file);
                    }
                }
                Change::Remove { path } if survives(path) => {
                    names.remove(path);
                    folders.remove(path);
                }
                Change::MakeDir { path } if survives(path) => _ = folders.insert(path.clone()),
                _ => {}
            }
        }
        (names, folders)
    }

    /// Up to when the changes of each folder's names are there.
    fn folder_limits(
        &self,
        synced: &BTreeMap<u64, u64>,
        random: &mut fastrand::Rng,
    ) -> BTreeMap<PathBuf, u64> {
        let mut changes: BTreeMap<&Path, Vec<u64>> = BTreeMap::new();
        for record in self.records {
            let path = match &record.change {
                Change::Entry { path, .. } | Change::Remove { path } | Change::MakeDir { path } => path,
                Change::Rename { to, .. } => to,
                _ => continue,
            };
            if let Some(dir) = path.parent().filter(|dir| dir.starts_with(self.root)) {
                changes.entry(dir).or_default().push(record.end_ns);
            }
        }
        let limit = |dir: &Path, changes: Vec<u64>, random: &mut fastrand::Rng| {
            // A folder that is gone from the disk has no identity, and nothing in it matters.
            let durable = identity(dir).ok().and_then(|file| synced.get(&file).copied()).unwrap_or(0);
            let open: Vec<u64> = changes.into_iter().filter(|end| *end > durable).collect();
            let kept = match Luck::draw(self.survival, random) {
                Luck::All => open.len(),
                Luck::None => 0,
                Luck::Prefix(share) | Luck::Scattered(share) => (open.len() as f64 * share).round() as usize,
            };
            kept.checked_sub(1).and_then(|last| open.get(last).copied()).unwrap_or(durable)
        };
        changes.into_iter().map(|(dir, changes)| (dir.to_owned(), limit(dir, changes, random))).collect()
    }

    /// What is left of a file.
    fn content(&self, file: u64, synced: Option<u64>, luck: Luck, random: &mut fastrand::Rng) -> Vec<u8> {
        let mut content = self.base.files.get(&file).cloned().unwrap_or_default();
        let is_open = |record: &&Record| synced.is_none_or(|begin| record.end_ns > begin);
        let changes = || self.records.iter().filter(|record| record.change.file() == Some(file));
        for record in changes().filter(|record| !is_open(record)) {
            apply(&mut content, &record.change, |_| true);
        }
        let open: Vec<&Record> = changes().filter(is_open).collect();
        let whole = match luck {
            Luck::All => open.len(),
            Luck::Prefix(share) => (open.len() as f64 * share) as usize,
            Luck::None | Luck::Scattered(_) => 0,
        };
        for (n, record) in open.into_iter().enumerate() {
            match luck {
                Luck::Scattered(share) => apply(&mut content, &record.change, |_| random.f64() < share),
                // The one at the border is torn.
                Luck::Prefix(_) if n == whole => apply(&mut content, &record.change, |_| random.bool()),
                _ if n < whole => apply(&mut content, &record.change, |_| true),
                _ => {}
            }
        }
        content
    }
}

impl Change {
    /// The file whose content it changes.
    fn file(&self) -> Option<u64> {
        match self {
            Self::Write { file, .. } | Self::Resize { file, .. } => Some(*file),
            _ => None,
        }
    }
}

/// Makes those parts of a change, sector by sector, that survive.
fn apply(content: &mut Vec<u8>, change: &Change, mut survives: impl FnMut(usize) -> bool) {
    match change {
        Change::Resize { size, .. } if survives(0) => content.resize(*size, 0),
        Change::Write { offset, data, .. } => {
            let end = offset + data.len();
            let mut at = *offset;
            while at < end {
                let next = end.min((at / SECTOR + 1) * SECTOR);
                if survives(at / SECTOR) {
                    if content.len() < next {
                        content.resize(next, 0);
                    }
                    content[at..next].copy_from_slice(&data[at - offset..next - offset]);
                }
                at = next;
            }
        }
        _ => {}
    }
}
