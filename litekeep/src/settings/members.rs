//! The databases of a `[[database]]` that names a folder.
//!
//! Promise: one whose file is gone still belongs to the folder, so that it is missed and can be restored. It is known by
//! litekeep's own state of it, and where that is gone too, by its log below the folder's destinations.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Result;
use litekeep_config::{DatabaseConfig, Destination, Pattern, Source};
use litekeep_replicate::local::{MetaDir, StateFile};

use super::database::is_database;
use crate::report::Failure;
use crate::settings::{Database, Stores};

/// What stands at the path of a log itself, where one stands directly at the destination of a folder.
const OF_A_LOG: [&str; 3] = ["ltx", "litekeep", "generations"];

/// Those that are there, and those that litekeep has state of. Nothing for a `[[database]]` that names a file.
///
/// # Errors
/// When a folder cannot be read.
pub(super) fn of_folder(config: &DatabaseConfig) -> Result<Vec<Database>> {
    let Source::Folder { dir, pattern, recursive, .. } = &config.source else { return Ok(Vec::new()) };
    let mut search = Search { pattern, recursive: *recursive, paths: BTreeSet::new() };
    search.files(dir, config.meta_dir.is_none())?;
    if let Some(root) = &config.meta_dir {
        search.states(root, dir)?;
    }
    search.paths.iter().map(|path| Database::in_folder(config, dir, path)).collect()
}

struct Search<'a> {
    pattern: &'a Pattern,
    recursive: bool,
    paths: BTreeSet<PathBuf>,
}

impl Search<'_> {
    fn is_meant(&self, name: &OsStr) -> bool {
        name.to_str().is_some_and(|name| self.pattern.matches(name))
    }

    /// Files that are databases; `states_beside`: and those whose state stands where theirs would be.
    fn files(&mut self, dir: &Path, states_beside: bool) -> Result<(), Failure> {
        let failed = |error: std::io::Error| {
            let failure = Failure::io(format!("search `{}` for databases", dir.display()), &error);
            match error.kind() {
                ErrorKind::NotFound => failure.hint("make the folder, or correct `dir` in the configuration"),
                _ => failure,
            }
        };
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let (path, name) = (entry.path(), entry.file_name());
            // A link to a folder could lead around in a circle.
            if entry.file_type().map_err(failed)?.is_dir() {
                let remembered = MetaDir::database_of(&path).filter(|_| states_beside);
                match remembered.filter(|database| self.is_meant(database.file_name().unwrap_or_default())) {
                    Some(database) if has_state(&path) => _ = self.paths.insert(database),
                    _ if self.recursive && !is_passed_over(&name) => self.files(&path, states_beside)?,
                    _ => {}
                }
            } else if self.is_meant(&name) && is_database(&path) {
                self.paths.insert(path);
            }
        }
        Ok(())
    }

    /// Those that have state in a folder below `root`, as they stand below `dir`.
    fn states(&mut self, root: &Path, dir: &Path) -> Result<(), Failure> {
        let failed = |error: std::io::Error| {
            Failure::io(format!("search `{}` for the state of databases", root.display()), &error)
        };
        let entries = match std::fs::read_dir(root) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            if !entry.file_type().map_err(failed)?.is_dir() {
                continue;
            }
            let (state, name) = (entry.path(), entry.file_name());
            if self.is_meant(&name) && has_state(&state) {
                self.paths.insert(dir.join(name));
            } else if self.recursive && !is_passed_over(&name) {
                self.states(&state, &dir.join(name))?;
            }
        }
        Ok(())
    }
}

/// Whether something of a database was confirmed once, as its local state has it.
fn has_state(meta_dir: &Path) -> bool {
    StateFile::peek(&meta_dir.join("state")).is_some()
}

/// Our own state has no databases of the user's, and hidden folders are our own or somebody's private matter.
pub(super) fn is_passed_over(folder: &OsStr) -> bool {
    let name = folder.to_string_lossy();
    name.starts_with('.') || name.ends_with("-litekeep")
}

/// Databases of a folder that are not `known`, and have a log at one of its destinations: where a disk was lost, nothing else
/// tells of them. Costs a listing for each destination, and for each folder below it that may have databases.
///
/// # Errors
/// When a destination cannot be listed.
pub(crate) async fn lost(
    config: &DatabaseConfig,
    known: &[Database],
    stores: &Stores,
) -> Result<Vec<Database>> {
    let Source::Folder { dir, pattern, recursive, .. } = &config.source else { return Ok(Vec::new()) };
    let mut found = BTreeSet::new();
    for destination in &config.destinations {
        let mut folders = VecDeque::from([PathBuf::new()]);
        while let Some(folder) = folders.pop_front() {
            for name in stores.open(&below(destination, &folder)?)?.names_below().await? {
                let relative = folder.join(&name);
                let path = dir.join(&relative);
                if pattern.matches(&name) {
                    let is_known = found.contains(&path) || known.iter().any(|known| known.path == path);
                    if is_known || !stores.open(&below(destination, &relative)?)?.list().await?.is_empty() {
                        found.insert(path);
                        continue;
                    }
                }
                if *recursive && !is_passed_over(OsStr::new(&name)) && !OF_A_LOG.contains(&&*name) {
                    folders.push_back(relative);
                }
            }
        }
    }
    let lost = found.iter().filter(|path| known.iter().all(|known| known.path != **path));
    lost.map(|path| Database::in_folder(config, dir, path)).collect()
}

/// The place of a folder below a destination.
fn below(destination: &Destination, folder: &Path) -> Result<Destination> {
    if folder.as_os_str().is_empty() { Ok(destination.clone()) } else { Ok(destination.join(folder)?) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(dir: &Path, recursive: bool) -> DatabaseConfig {
        let pattern = Pattern::parse("*.db").unwrap();
        DatabaseConfig::new(Source::Folder { dir: dir.to_owned(), pattern, recursive, watch: true })
    }

    fn paths(config: &DatabaseConfig) -> Vec<PathBuf> {
        of_folder(config).unwrap().into_iter().map(|database| database.path).collect()
    }

    /// A folder alone is no state: a replicator makes it before it has anything confirmed.
    #[test]
    fn a_folder_without_a_confirmed_state_remembers_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (dbs, meta) = (dir.path().join("dbs"), dir.path().join("meta"));
        for own in [dbs.join(".a.db-litekeep"), meta.join("a.db")] {
            std::fs::create_dir_all(&own).unwrap();
            std::fs::write(own.join("state"), "").unwrap();
        }
        let config = folder(&dbs, true);
        assert!(paths(&config).is_empty());
        assert!(paths(&DatabaseConfig { meta_dir: Some(meta), ..config }).is_empty());
    }
}
