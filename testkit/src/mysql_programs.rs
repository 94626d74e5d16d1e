//! MySQL itself, which Debian has in its unstable release only: fetched by apt with settings and lists of its own, unpacked beside the
//! system, and run with the libraries that came with it. Nothing of the system changes, and no rights are needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::installed::installed;
use crate::litestream::run;

const PACKAGE: &str = "mysql-server-core";
const SOURCE: &str =
    "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian sid main\n";
/// What is there when it is whole: the names of the packages.
const WHOLE: &str = "packages.txt";

/// The folder that it is unpacked in.
///
/// # Errors
/// When it cannot be fetched: no apt, no network.
pub(crate) fn folder() -> Result<PathBuf> {
    let folder = installed("mysql", |folder| folder.join(WHOLE).exists(), fetch)?;
    Ok(folder.join("root"))
}

/// Its program below such a folder, by the loader that came with it.
pub(crate) fn program(root: &Path) -> Command {
    let libraries =
        ["usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib"].map(|path| root.join(path));
    let libraries: Vec<String> = libraries.iter().map(|path| path.display().to_string()).collect();
    let mut command = Command::new(loader(root).unwrap_or_else(|| root.join("usr/lib/ld.so")));
    command
        .arg("--library-path")
        .arg(libraries.join(":"))
        .arg(root.join("usr/sbin/mysqld"))
        .arg("--no-defaults");
    command.arg(format!("--basedir={}", root.join("usr").display()));
    command.arg(format!("--lc-messages-dir={}", root.join("usr/share/mysql").display()));
    command
}

fn loader(root: &Path) -> Option<PathBuf> {
    let candidates = ["usr/lib64/ld-linux-x86-64.so.2", "usr/lib/ld-linux-aarch64.so.1"];
    candidates.iter().map(|path| root.join(path)).find(|path| path.exists())
}

fn fetch(folder: &Path) -> Result<()> {
    let lists = folder.join("lists");
    let cache = folder.join("cache");
    for dir in [lists.join("partial"), cache.join("archives/partial"), folder.join("root")] {
        fs::create_dir_all(&dir).with_context(|| format!("make {dir:?}"))?;
    }
    fs::write(folder.join("sources.list"), SOURCE)?;
    fs::write(folder.join("status"), "")?;
    let option = |name: &str, path: &Path| format!("-o{name}={}", path.display());
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args([
            option("Dir::Etc::sourcelist", &folder.join("sources.list")),
            option("Dir::Etc::sourceparts", Path::new("/dev/null")),
            option("Dir::State::lists", &lists),
            option("Dir::State::status", &folder.join("status")),
            option("Dir::Cache", &cache),
        ]);
        let whoami = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
        apt.arg(format!("-oAPT::Sandbox::User={whoami}"));
        apt.args(["-oAPT::Install-Recommends=false", "-oAcquire::Languages=none", "-oDebug::NoLocking=true"]);
        apt.args(arguments);
        run(apt)
    };
    apt(&["update"]).context("read the list of Debian's unstable release")?;
    apt(&["install", "--yes", "--download-only", PACKAGE]).with_context(|| format!("fetch {PACKAGE}"))?;
    let mut names = vec![];
    for entry in fs::read_dir(cache.join("archives"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "deb") {
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("--extract").arg(&path).arg(folder.join("root"));
            run(unpack).with_context(|| format!("unpack {path:?}"))?;
            names.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    ensure!(loader(&folder.join("root")).is_some(), "there is no loader among {names:?}");
    names.sort();
    fs::write(folder.join(WHOLE), names.join("\n")).context("note what was unpacked")
}
