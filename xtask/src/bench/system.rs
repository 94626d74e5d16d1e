//! What is measured: litekeep and its peer read the same `litestream.yml` and know the same commands.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use litekeep_testkit::S3Server;

use crate::{Bench, Options};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    /// No replicator.
    Alone,
    Litekeep,
    /// With its defaults: it looks once a second.
    Litestream,
    /// It looks every 50 ms.
    LitestreamTuned,
    /// It runs processes.
    Pm2,
    /// It copies databases to PostgreSQL.
    Pgloader,
    /// It copies databases to MySQL and MariaDB.
    Sqlite3ToMysql,
}

impl System {
    pub(crate) const ALL: [Self; 7] = [
        Self::Alone,
        Self::Litekeep,
        Self::Litestream,
        Self::LitestreamTuned,
        Self::Pm2,
        Self::Pgloader,
        Self::Sqlite3ToMysql,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Litekeep => "litekeep",
            Self::Litestream => "Litestream",
            Self::LitestreamTuned => "Litestream 50 ms",
            Self::Pm2 => "PM2",
            Self::Pgloader => "pgloader",
            Self::Sqlite3ToMysql => "sqlite3-to-mysql",
        }
    }

    pub(crate) fn is_peer(self) -> bool {
        !matches!(self, Self::Alone | Self::Litekeep)
    }

    /// The configuration for databases, given with the YAML lines of their replicas.
    pub(crate) fn config<'a>(
        self,
        options: &Options,
        dbs: impl Iterator<Item = (&'a Path, Vec<String>)>,
    ) -> String {
        let mut yaml = String::from("dbs:\n");
        for (path, mut replica) in dbs {
            let _ = writeln!(yaml, "  - path: {path:?}");
            if self == Self::LitestreamTuned {
                yaml.push_str("    monitor-interval: 50ms\n");
            }
            if self == Self::LitestreamTuned || (self == Self::Litekeep && options.equal) {
                replica.push("sync-interval: 50ms".into());
            }
            yaml.push_str("    replica:\n");
            for line in replica {
                let _ = writeln!(yaml, "      {line}");
            }
        }
        yaml
    }

    /// `replicate` or `restore` with a configuration.
    pub(crate) fn command(self, bench: &Bench, verb: &str, config: &Path) -> Result<Command> {
        let program = match self {
            Self::Litekeep => bench.litekeep.as_path(),
            Self::Litestream | Self::LitestreamTuned => {
                bench.litestream.as_ref().context("Litestream is not installed")?.binary()
            }
            _ => anyhow::bail!("nobody replicates"),
        };
        let mut command = Command::new(program);
        command.arg(verb).arg("-config").arg(config);
        // Profiles, proxies and certificates of whoever measures must not decide anything.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"AWS_"))
        {
            command.env_remove(name);
        }
        command.envs(S3Server::env());
        Ok(command)
    }
}
