//! What litekeep and SQLite write below watched folders: never a reason to reload, however the folders are nested.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use litekeep_config::{Config, DatabaseConfig, Source, StoreUrl};
use litekeep_replicate::local::MetaDir;
use litekeep_supervise::watch::{Never, real};

use crate::control::Home;

/// What SQLite puts beside a database.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];
/// What litekeep puts into the folder of a backup.
const OF_BACKUP: [&str; 2] = ["ltx", "litekeep"];

/// Whether a path is written by litekeep or by SQLite.
pub(super) fn never(config: &Config, home: &Home) -> Never {
    let homes = [home.dir.clone(), real(&home.dir)].map(|dir| Home { dir });
    let databases: Vec<Written> = config.databases.iter().flat_map(Written::by).collect();
    Arc::new(move |path| {
        homes.iter().any(|home| home.has(path)) || databases.iter().any(|database| database.has(path))
    })
}

/// An absolute path, and the same without links.
fn spellings(path: &Path) -> Vec<PathBuf> {
    let named = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    vec![real(&named), named]
}

/// What belongs to a `[[database]]`.
struct Written {
    /// The file, or the folder with its pattern.
    source: Source,
    /// Its folder, or that of the file itself.
    base: PathBuf,
    meta_dirs: Vec<PathBuf>,
    backups: Vec<PathBuf>,
}

impl Written {
    fn by(config: &DatabaseConfig) -> Vec<Written> {
        let (Source::File(base) | Source::Folder { dir: base, .. }) = &config.source;
        let places = config.destinations.iter().filter_map(|destination| match &destination.url {
            StoreUrl::File { path } => Some(path),
            _ => None,
        });
        let backups: Vec<PathBuf> = places.flat_map(|path| spellings(path)).collect();
        let meta_dirs: Vec<PathBuf> = config.meta_dir.iter().flat_map(|dir| spellings(dir)).collect();
        let of = |base: PathBuf| {
            let mut source = config.source.clone();
            let (Source::File(own) | Source::Folder { dir: own, .. }) = &mut source;
            own.clone_from(&base);
            Written { source, base, meta_dirs: meta_dirs.clone(), backups: backups.clone() }
        };
        spellings(base).into_iter().map(of).collect()
    }

    fn has(&self, path: &Path) -> bool {
        self.is_beside(path)
            || self.is_way(path)
            || path.ancestors().any(|dir| self.is_state(dir) || self.is_backup(dir))
    }

    /// The database, or what SQLite puts beside it.
    fn is_beside(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let of = |end: &str| Some(path.with_file_name(OsStr::from_bytes(name.strip_suffix(end.as_bytes())?)));
        self.source.covers(path) || COMPANIONS.into_iter().filter_map(of).any(|of| self.source.covers(&of))
    }

    /// litekeep's state of a database.
    fn is_state(&self, dir: &Path) -> bool {
        let name = dir.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let of = name.strip_prefix('.').and_then(|name| name.strip_suffix("-litekeep"));
        let of = of.map(|name| dir.with_file_name(name));
        of.is_some_and(|of| self.source.covers(&of) && MetaDir::default_path(&of) == dir)
            || self.meta_dirs.iter().any(|root| self.is_at(root, dir))
    }

    /// The log of a database.
    fn is_backup(&self, dir: &Path) -> bool {
        self.backups.iter().any(|root| {
            let of = OF_BACKUP.into_iter().filter(|name| dir.ends_with(name)).find_map(|_| dir.parent());
            of.is_some_and(|of| self.is_at(root, of)) || (self.source.is_folder() && self.is_at(root, dir))
        })
    }

    /// A folder for backups or state, or one in it for databases that are further down.
    fn is_way(&self, path: &Path) -> bool {
        self.backups.iter().chain(&self.meta_dirs).any(|root| match path.strip_prefix(root) {
            Ok(below) => below.as_os_str().is_empty() || self.base.join(below).is_dir(),
            Err(_) => false,
        })
    }

    /// Whether a folder stands below a root as a database stands below its folder; of one database it is the root.
    fn is_at(&self, root: &Path, dir: &Path) -> bool {
        match (&self.source, dir.strip_prefix(root)) {
            (_, Err(_)) => false,
            (Source::File(_), Ok(below)) => below.as_os_str().is_empty(),
            (Source::Folder { .. }, Ok(below)) => self.source.covers(&self.base.join(below)),
        }
    }
}
