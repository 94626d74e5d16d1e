//! A folder that hangs when told to, as one on a network file system whose server is gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::programs;

/// A folder whose fsyncs and listings, by the processes that were told about it, can be made to hang.
#[derive(Debug)]
pub struct HangingFolder {
    path: PathBuf,
}

impl HangingFolder {
    /// The folder at `path`, an absolute path without links.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Makes a command take part, by a library for LD_PRELOAD whose other fsyncs do nothing.
    ///
    /// # Errors
    /// When the library cannot be built.
    pub fn apply(&self, command: &mut Command) -> Result<()> {
        command.env("LD_PRELOAD", programs::recorder()?).env("LITEKEEP_HANG_DIR", &self.path);
        Ok(())
    }

    /// From now on it hangs, or no longer does.
    ///
    /// # Errors
    /// When the file beside it that says so cannot be written or removed.
    pub fn hang(&self, hangs: bool) -> Result<()> {
        let mut flag = self.path.as_os_str().to_owned();
        flag.push(".hangs");
        let done = if hangs { fs::write(&flag, "") } else { fs::remove_file(&flag) };
        done.with_context(|| format!("change {}", Path::new(&flag).display()))
    }
}
