//! A sync that somebody lets rest: a file beside how it stands, which holds since when.
//!
//! Promise: it rests until the file is taken away, whoever is started again meanwhile.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use litekeep_env::{Clock, SystemClock, file};

use crate::{Error, Kind};

/// Between two looks at the file.
const LOOK: Duration = Duration::from_millis(500);

/// The file of one sync.
#[derive(Clone, Debug)]
pub struct Pause {
    path: PathBuf,
}

impl Pause {
    /// That of the sync that tells how it stands in a file.
    pub fn of(state: &Path) -> Pause {
        Pause { path: state.with_extension("paused") }
    }

    /// Since when it rests, in milliseconds since the epoch; `None`: it does not.
    pub fn since(&self) -> Option<i64> {
        match std::fs::read_to_string(&self.path) {
            Ok(text) => Some(text.trim().parse().unwrap_or(0)),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            // It is there: whoever made it wants it to rest.
            Err(_) => self.path.exists().then_some(0),
        }
    }

    /// Lets it rest; `false`: it does already.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set(&self) -> Result<bool, Error> {
        if self.since().is_some() {
            return Ok(false);
        }
        let failed = |error: std::io::Error| self.failed("write", &error);
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        file::replace(&self.path, SystemClock.unix_ms().to_string().as_bytes()).map_err(failed)?;
        Ok(true)
    }

    /// Lets it go on; `false`: it does already.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn lift(&self) -> Result<bool, Error> {
        match std::fs::remove_file(&self.path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.failed("remove", &error)),
        }
    }

    fn failed(&self, what: &str, error: &std::io::Error) -> Error {
        Error::new(Kind::Unavailable, format!("{what} `{}`: {error}", self.path.display()))
    }

    /// Waits until it rests, or does not.
    pub(crate) async fn until(&self, rests: bool) {
        while self.since().is_some() != rests {
            tokio::time::sleep(LOOK).await;
        }
    }
}
