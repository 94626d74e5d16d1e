//! The databases of a configuration, one by one.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use litekeep_config::{DatabaseConfig, Destination, Source};
use litekeep_format::DatabaseHeader;
use litekeep_replicate::local::MetaDir;
use litekeep_replicate::replicator::PACKS;
use litekeep_store::Store;

use super::members::{self, is_passed_over};
use crate::args::ConfigArgs;
use crate::report::{Failure, Format};
use crate::settings::{Settings, Stores, default_backup, default_destination, env, is_store};

/// The first bytes of a database.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// One database file and where it is backed up to.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pub(crate) path: PathBuf,
    /// Where litekeep keeps its own state.
    pub(crate) meta_dir: PathBuf,
    /// Its own places, also where the configuration names a folder of databases.
    pub(crate) destinations: Vec<Destination>,
    pub(crate) config: DatabaseConfig,
}

impl Database {
    /// A database without configuration, with the default destination.
    pub(crate) fn unconfigured(path: &Path) -> Database {
        let config = DatabaseConfig::new(Source::File(path.to_owned()));
        Database {
            path: path.to_owned(),
            meta_dir: MetaDir::default_path(path),
            destinations: vec![default_destination(path)],
            config,
        }
    }

    fn of_file(config: &DatabaseConfig, path: &Path) -> Database {
        Database {
            path: path.to_owned(),
            meta_dir: config.meta_dir.clone().unwrap_or_else(|| MetaDir::default_path(path)),
            destinations: config.destinations.clone(),
            config: config.clone(),
        }
    }

    /// The longest of the destinations' upload intervals: one capture serves all of them, and the slowest one says how often,
    /// as its requests cost.
    pub(crate) fn upload_interval(&self) -> Duration {
        let intervals =
            self.destinations.iter().map(|destination| self.config.upload_interval_for(destination));
        intervals.max().unwrap_or_default()
    }

    /// Whether there is neither the file nor anything of ours: then a replicator that waits for it leaves no trace either.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.path.exists() && !self.meta_dir.exists()
    }

    /// A database of a folder, which is not looked at.
    pub(crate) fn in_folder(config: &DatabaseConfig, dir: &Path, path: &Path) -> Result<Database> {
        let relative = path.strip_prefix(dir).unwrap_or(path);
        let joined: Result<Vec<_>, _> = config.destinations.iter().map(|d| d.join(relative)).collect();
        Ok(Database {
            path: path.to_owned(),
            meta_dir: match &config.meta_dir {
                Some(root) => root.join(relative),
                None => MetaDir::default_path(path),
            },
            destinations: joined.with_context(|| format!("name the backup of `{}`", path.display()))?,
            config: config.clone(),
        })
    }

    /// The database of a configuration that the user calls `path`; it need not exist.
    ///
    /// # Errors
    /// When it has none of that name.
    pub(crate) fn named(settings: &Settings, path: &Path) -> Result<Database> {
        let wanted = normal(path);
        for config in &settings.config.databases {
            match &config.source {
                Source::File(own) if normal(own) == wanted => return Ok(Database::of_file(config, own)),
                Source::Folder { dir, pattern, recursive, watch } => {
                    let dir = normal(dir);
                    let (pattern, recursive, watch) = (pattern.clone(), *recursive, *watch);
                    let source = Source::Folder { dir: dir.clone(), pattern, recursive, watch };
                    if source.covers(&wanted) {
                        return Database::in_folder(config, &dir, &wanted);
                    }
                }
                Source::File(_) => {}
            }
        }
        let known: Vec<String> =
            settings.config.databases.iter().map(|d| format!("`{}`", d.source)).collect();
        let failure = Failure::invalid(format!(
            "`{}` is not in the configuration `{}`, which has {}",
            path.display(),
            settings.path.display(),
            if known.is_empty() { "no database".to_owned() } else { known.join(", ") }
        ));
        Err(failure.hint("`litekeep databases` lists them with their backups").into())
    }
}

/// All databases of a configuration, also those of folders whose files are gone.
///
/// # Errors
/// When a folder cannot be read.
pub(crate) fn all(settings: &Settings) -> Result<Vec<Database>> {
    let mut databases = Vec::new();
    for config in &settings.config.databases {
        match &config.source {
            Source::File(path) => databases.push(Database::of_file(config, path)),
            Source::Folder { .. } => databases.extend(members::of_folder(config)?),
        }
    }
    Ok(databases)
}

/// The same without those of folders whose files are gone: nobody but a restore makes one of them.
///
/// # Errors
/// As [`all`].
pub(crate) fn present(settings: &Settings) -> Result<Vec<Database>> {
    let mut databases = all(settings)?;
    databases.retain(|database| !database.config.source.is_folder() || database.path.exists());
    Ok(databases)
}

/// A file that has appeared in a folder of databases, if it is one, or is empty and may become one. `dir` is the
/// configuration's folder as the file's path spells it.
///
/// # Errors
/// When its name cannot be one in the store.
pub(crate) fn appeared(config: &DatabaseConfig, dir: &Path, path: &Path) -> Result<Option<Database>> {
    let Source::Folder { pattern, recursive, watch, .. } = &config.source else { return Ok(None) };
    let source = Source::Folder {
        dir: dir.to_owned(),
        pattern: pattern.clone(),
        recursive: *recursive,
        watch: *watch,
    };
    let empty = || path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0);
    let below = path.parent().and_then(|parent| parent.strip_prefix(dir).ok());
    let is_passed_over = below.is_some_and(|folders| folders.iter().any(is_passed_over));
    if !source.covers(path) || is_passed_over || !(empty() || is_database(path)) {
        return Ok(None);
    }
    Database::in_folder(config, dir, path).map(Some)
}

/// Opens a database file and reads its header (`None`: it is empty, a database without a page) and its size. Not for a
/// process that has the database open in SQLite, which would lose its locks.
///
/// # Errors
/// When there is none, it cannot be opened so, or it is something else.
pub(crate) fn look(path: &Path, options: &OpenOptions) -> Result<(Option<DatabaseHeader>, u64), Failure> {
    let name = path.display();
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => Failure::invalid(format!("`{name}` does not exist"))
            .hint("check the path, or start the application once so that it makes its database"),
        _ => Failure::io(format!("open `{name}`"), &error),
    };
    // Asked first: opening a pipe would wait for its other end, and a folder cannot be opened for writing.
    if !path.metadata().map_err(failed)?.is_file() {
        return Err(Failure::invalid(format!("`{name}` is not a file")).hint(
            "name the database itself; a folder of databases is written `dir = ` and `pattern = ` in litekeep.toml",
        ));
    }
    let file = options.open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let mut bytes = Vec::new();
    file.take(DatabaseHeader::LEN as u64).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.is_empty() {
        return Ok((None, size));
    }
    let header = DatabaseHeader::parse(&bytes).map_err(|error| {
        Failure::invalid(format!("read `{name}`: {error}"))
            .hint("name the database itself; litekeep cannot read one that another program has encrypted")
    })?;
    Ok((Some(header), size))
}

/// Refuses a symbolic link: SQLite keeps the WAL beside the file that it leads to.
///
/// # Errors
/// With the name of that file.
pub(crate) fn refuse_link(path: &Path) -> Result<(), Failure> {
    if !path.is_symlink() {
        return Ok(());
    }
    let message =
        format!("`{}` is a symbolic link, and SQLite keeps the WAL beside what it leads to", path.display());
    let hint = path
        .canonicalize()
        .map_or("name the database itself".to_owned(), |real| format!("name `{}` instead", real.display()));
    Err(Failure::invalid(message).hint(hint))
}

pub(super) fn is_database(path: &Path) -> bool {
    let mut magic = [0; MAGIC.len()];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && &magic == MAGIC
}

/// A log that the user asked for, and the database that it belongs to, if known.
#[derive(Clone, Debug)]
pub(crate) struct Backup {
    pub(crate) database: Option<Database>,
    pub(crate) destination: Destination,
}

/// The backups that an argument means: a URL or folder is one itself, a database has those of the configuration (or the
/// default folder beside it, where there is no configuration), nothing means all databases.
///
/// # Errors
/// When the database is unknown, the URL is none, or the configuration has mistakes.
pub(crate) fn backups(target: Option<&str>, args: &ConfigArgs, format: Format) -> Result<Vec<Backup>> {
    if let Some(url) = target.filter(|target| is_store(target)) {
        return Ok(vec![Backup { database: None, destination: Destination::parse(url, &env)? }]);
    }
    let databases = databases(target.map(Path::new), args, format)?;
    let backups = databases.into_iter().flat_map(|database| {
        let destinations = database.destinations.clone();
        destinations
            .into_iter()
            .map(move |destination| Backup { database: Some(database.clone()), destination })
    });
    Ok(backups.collect())
}

impl Backup {
    /// Opens it. On the machine of the database its newest commits can be told apart before the backup has them.
    ///
    /// # Errors
    /// As [`Stores::open`].
    pub(crate) fn open(&self, stores: &Stores) -> Result<Store> {
        let store = stores.open(&self.destination)?;
        Ok(match &self.database {
            Some(database) => store.with_packs_in(&database.meta_dir.join(PACKS)),
            None => store,
        })
    }
}

/// The database that was named, or all of the configuration.
///
/// # Errors
/// As [`backups`].
pub(crate) fn databases(target: Option<&Path>, args: &ConfigArgs, format: Format) -> Result<Vec<Database>> {
    let Some(path) = target else {
        let settings = Settings::load(args, format)?;
        settings.require_database()?;
        return all(&settings);
    };
    match Settings::find(args, format)? {
        Some(settings) => Ok(vec![Database::named(&settings, path)?]),
        None if default_backup(path).is_dir() => Ok(vec![Database::unconfigured(path)]),
        None => Err(Failure::invalid(format!(
            "there is no configuration that names `{}`, and no backup `{}` beside it",
            path.display(),
            default_backup(path).display()
        ))
        .hint(
            "name the configuration with --config; for commands that only read a backup also its URL will do",
        )
        .into()),
    }
}

/// The path with its folder resolved as far as it exists, so that two spellings of one file are equal. The file itself is
/// not resolved: SQLite's `-wal` stands beside the name that was opened.
pub(super) fn normal(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return path };
    match parent.canonicalize() {
        Ok(parent) => parent.join(name),
        Err(_) => lexical(&path),
    }
}

fn lexical(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}
