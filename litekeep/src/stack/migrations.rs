//! Pending migrations of the databases that have some.
//!
//! Each database's run in a process of its own (`litekeep migrate up`, with its guard and its mark): this one has the databases open to
//! copy them, and would lose its locks by opening them a second time.

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::stream::{self, StreamExt as _};
use litekeep_config::Config;
use litekeep_env::process::Group;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::untaken::is_known;
use crate::args::ConfigArgs;
use crate::report::{Failure, Kind, Relayed};
use crate::settings::{Database, Settings, database};

/// Databases of a folder that migrate at the same time.
const AT_ONCE: usize = 4;
/// Migrations that take so long are told of; then at twice the time, and so on.
const FIRST_SIGN: Duration = Duration::from_secs(2);

/// Runs them, of those databases that `up` began with where it has. After a failure no other begins, and those that are under way come
/// to their end.
///
/// # Errors
/// The first that failed; says of which others they have run.
pub(super) async fn run(settings: &Settings, begun: Option<&Config>, args: &ConfigArgs) -> Result<()> {
    let databases = database::all(settings)?.into_iter();
    let wanted = databases.filter(|database| database.config.migrations.is_some());
    let wanted = wanted.filter(|database| begun.is_none_or(|begun| is_known(begun, &database.config.source)));
    let has_failed = &AtomicBool::new(false);
    let each = |Database { path, .. }: Database| async move {
        if has_failed.load(Relaxed) {
            return None;
        }
        let result = up(&path, args).await;
        has_failed.fetch_or(result.is_err(), Relaxed);
        Some((format!("`{}`", path.display()), result))
    };
    let (mut failed, mut migrated) = (Vec::new(), Vec::new());
    let mut all = stream::iter(wanted).map(each).buffer_unordered(AT_ONCE);
    while let Some(tried) = all.next().await {
        match tried {
            Some((path, Err(error))) => failed.push((path, error)),
            Some((path, Ok(true))) => migrated.push(path),
            Some((_, Ok(false))) | None => {}
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let (path, first) = failed.remove(0);
    let mut doing = format!("run the migrations of {path}");
    if !failed.is_empty() {
        let others: Vec<String> = failed.into_iter().map(|(path, _)| path).collect();
        doing += &format!("; those of {} failed, too", others.join(", "));
    }
    if !migrated.is_empty() {
        doing += &format!("; those of {} have run", migrated.join(", "));
    }
    Err(first.context(doing))
}

/// Whether something ran.
async fn up(database: &Path, args: &ConfigArgs) -> Result<bool> {
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command.args(["migrate", "up", "--json"]);
    args.pass_on(&mut command);
    // After `--` a path may begin with a dash.
    command.arg("--").arg(database);
    let output = with_signs_of_life(ended_with_its_group(command), database).await?;
    let done: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let text = |of: &Value, key: &str| of[key].as_str().unwrap_or_default().to_owned();
    let all = done["applied"].as_array().map(Vec::as_slice).unwrap_or_default();
    for applied in all {
        let version = text(applied, "version");
        tracing::info!(path = %database.display(), version, "migrated: {}", text(applied, "name"));
    }
    if done["changed"] == true {
        tracing::info!(path = %database.display(), "migrated by `{}`", text(&done, "command"));
    }
    if output.status.success() {
        return Ok(!all.is_empty() || done["changed"] == true);
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

/// Says now and then that they run.
async fn with_signs_of_life<T>(migrating: impl Future<Output = T>, database: &Path) -> T {
    let begun = Instant::now();
    let mut migrating = std::pin::pin!(migrating);
    let mut pause = FIRST_SIGN;
    loop {
        match tokio::time::timeout(pause, &mut migrating).await {
            Ok(done) => return done,
            Err(_) => {
                let seconds = begun.elapsed().as_secs();
                tracing::info!(path = %database.display(), "its migrations have been running for {seconds} s");
                pause *= 2;
            }
        }
    }
}

/// Awaits the end of a program. Not awaited to its end, it is ended with all that it has started, before anybody goes on: what it
/// writes after that would be in no backup. A file of SQL has changed nothing then.
async fn ended_with_its_group(mut command: Command) -> Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn()?;
    let group = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Group::led_by);
    let (mut said, mut told) = (Vec::new(), Vec::new());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (mut stdout, mut stderr) = (stdout.context("take its output")?, stderr.context("take its output")?);
    let read = tokio::try_join!(stdout.read_to_end(&mut said), stderr.read_to_end(&mut told));
    let status = child.wait().await?;
    // What it has left running is its own affair then.
    if let Some(group) = group {
        group.leave();
    }
    read?;
    Ok(Output { status, stdout: said, stderr: told })
}
