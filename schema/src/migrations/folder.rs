//! A folder of migrations, in the layout of one of the tools that are known.

use super::convention::{Convention, detect};
use crate::Error;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// All migrations of a folder, in the order of their versions.
#[derive(Clone, Debug)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    /// How it is laid out, and so whose history is kept.
    pub convention: Convention,
    /// The user said so, and it was not found out.
    pub chosen: bool,
    /// What is in it.
    pub migrations: Vec<Migration>,
}

/// One migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Digits; compared as numbers.
    pub version: String,
    /// What it is called beside its version.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// The whole file.
    pub text: String,
    /// The statements, at the lines at which they stand in the file.
    pub up: String,
    /// Those that take it back, in the same way; `None` when there is no way back.
    pub down: Option<String>,
}

impl Folder {
    /// Reads all migrations of a folder. `convention`: whose they are, where the user has said it; else their files tell it, and
    /// where these leave a choice, the history in `database`.
    ///
    /// # Errors
    /// `Invalid` for a folder that is missing, a file that is no migration, a version that two files have, and files that could be
    /// those of several tools.
    pub fn read(
        path: &Path,
        convention: Option<Convention>,
        database: Option<&Path>,
    ) -> Result<Folder, Error> {
        let chosen = convention.is_some();
        let convention = convention.map_or_else(|| detect(path, database), Ok)?;
        let mut migrations = convention.read(path)?;
        migrations.sort_by(|a, b| order(&a.version).cmp(&order(&b.version)));
        if let Some(pair) =
            migrations.windows(2).find(|pair| order(&pair[0].version) == order(&pair[1].version))
        {
            return Err(Error::invalid(
                format!(
                    "`{}` and `{}` have the same version",
                    pair[0].path.display(),
                    pair[1].path.display()
                ),
                "give the one that has not run anywhere yet a later version",
            ));
        }
        Ok(Folder { path: path.to_owned(), convention, chosen, migrations })
    }

    /// Tells these migrations, as they are now, from all others.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for migration in &self.migrations {
            for part in [&migration.version, &migration.text] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A folder that is not there yet.
    pub fn missing(path: &Path, convention: Option<Convention>) -> Folder {
        let chosen = convention.is_some();
        let convention = convention.unwrap_or(Convention::Dbmate);
        Folder { path: path.to_owned(), convention, chosen, migrations: vec![] }
    }
}

/// By which versions are compared: as numbers of any length.
pub(super) fn order(version: &str) -> (usize, &str) {
    let digits = version.trim_start_matches('0');
    (digits.len(), digits)
}

/// A file or folder that could not be read.
pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { doing, path, source }
}
