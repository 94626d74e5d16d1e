//! A folder of migrations, in the layout of one of the tools that are known.

use super::convention::{Convention, dbmate, drizzle};
use crate::Error;
use std::path::{Path, PathBuf};

/// All migrations of a folder, in the order of their versions.
#[derive(Clone, Debug)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    /// How it is laid out, and so whose history is kept.
    pub convention: Convention,
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
    /// Reads all migrations of a folder.
    ///
    /// # Errors
    /// `Invalid` for a folder that is missing, a file that is no migration, and a version that two files have.
    pub fn read(path: &Path) -> Result<Folder, Error> {
        let convention = Convention::of(path);
        let mut migrations = match convention {
            Convention::Dbmate => dbmate::read(path)?,
            Convention::Drizzle => drizzle::read(path)?,
        };
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
        Ok(Folder { path: path.to_owned(), convention, migrations })
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
