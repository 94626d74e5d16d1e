//! Where the programs are that tests run as processes of their own.
//!
//! A test of this package gets its binary from cargo; tests of other packages get it here, built first if need be, for
//! `cargo test -p` builds no binary of another package.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

/// A folder with all programs, built already: set by `cargo xtask test`, so that no test waits for a build.
pub const BIN_DIR: &str = "LITEKEEP_BIN_DIR";

/// The `testkit` program.
///
/// # Errors
/// When it cannot be built.
pub fn testkit() -> Result<PathBuf> {
    built("litekeep-testkit", &["--bin", "testkit"], "testkit")
}

/// The `litekeep` program, in the build profile of the caller.
///
/// # Errors
/// When it cannot be built.
pub fn litekeep() -> Result<PathBuf> {
    built("litekeep", &["--bin", "litekeep"], "litekeep")
}

/// The library that records what a process does to files.
pub(crate) fn recorder() -> Result<PathBuf> {
    built("litekeep-recorder", &["--lib"], "liblitekeep_recorder.so")
}

/// The root of the workspace.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn built(package: &str, target: &[&str], file: &str) -> Result<PathBuf> {
    static BUILT: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
    if let Some(dir) = std::env::var_os(BIN_DIR) {
        let path = Path::new(&dir).join(file);
        if path.exists() {
            return Ok(path);
        }
    }
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let built = built.get_or_insert_default();
    if let Some(path) = built.get(file) {
        return Ok(path.clone());
    }
    let path = build(package, target, file)?;
    built.insert(file.to_owned(), path.clone());
    Ok(path)
}

/// Builds into the folder and the profile that the running test was built in.
fn build(package: &str, target: &[&str], file: &str) -> Result<PathBuf> {
    let exe = std::env::current_exe().context("find the running program")?;
    let profile_dir = exe
        .ancestors()
        .skip(1)
        .find(|dir| dir.join(".fingerprint").is_dir())
        .with_context(|| format!("find cargo's folder above {exe:?}"))?;
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => bail!("{profile_dir:?} is no folder of a build profile"),
    };
    let target_dir = profile_dir.parent().context("find cargo's target folder")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--package", package, "--profile", profile])
        .args(target)
        .arg("--target-dir")
        .arg(target_dir)
        .current_dir(workspace())
        .output()
        .with_context(|| format!("run cargo to build {package}"))?;
    if !output.status.success() {
        bail!("build {package}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(profile_dir.join(file))
}
