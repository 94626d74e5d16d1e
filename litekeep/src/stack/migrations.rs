//! Pending migrations of the databases that have some.
//!
//! Each database's run in a process of its own (`litekeep migrate up`, with its guard and its mark): this one has the databases open to
//! copy them, and would lose its locks by opening them a second time.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result};
use futures::stream::{self, TryStreamExt as _};
use serde_json::Value;
use tokio::process::Command;

use crate::args::ConfigArgs;
use crate::report::{Failure, Kind, Relayed};
use crate::settings::{Database, Settings, database};

/// Databases of a folder that migrate at the same time.
const AT_ONCE: usize = 4;

/// Runs them.
///
/// # Errors
/// The first that failed; those before it have run.
pub(super) async fn run(settings: &Settings, args: &ConfigArgs) -> Result<()> {
    let databases = database::all(settings)?.into_iter();
    let wanted = databases.filter(|database| database.config.migrations.is_some());
    let each = async |Database { path, .. }: Database| {
        let doing = || format!("run the migrations of `{}`", path.display());
        up(&path, args).await.with_context(doing)
    };
    stream::iter(wanted.map(Ok)).try_for_each_concurrent(AT_ONCE, each).await
}

async fn up(database: &Path, args: &ConfigArgs) -> Result<()> {
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command.args(["migrate", "up", "--json"]);
    args.pass_on(&mut command);
    // After `--` a path may begin with a dash.
    command.arg("--").arg(database);
    // Ended in the middle, the file that is running has changed nothing.
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let done: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let text = |of: &Value, key: &str| of[key].as_str().unwrap_or_default().to_owned();
    for applied in done["applied"].as_array().into_iter().flatten() {
        let version = text(applied, "version");
        tracing::info!(path = %database.display(), version, "migrated: {}", text(applied, "name"));
    }
    if done["changed"] == true {
        tracing::info!(path = %database.display(), "migrated by `{}`", text(&done, "command"));
    }
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let reports = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let error = reports.filter_map(|report| serde_json::from_value(report["error"].clone()).ok()).next_back();
    match error {
        Some(report) => Err(Relayed(report).into()),
        None => {
            Err(Failure::new(Kind::Internal, format!("`litekeep migrate up` {}: {said}", output.status))
                .into())
        }
    }
}
