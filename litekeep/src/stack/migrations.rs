//! Pending migrations of the databases that have some.
//!
//! Each database's run in a process of its own (`litekeep migrate up`, with its guard and its mark): this one has the databases open to
//! copy them, and would lose its locks by opening them a second time.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures::stream::{self, StreamExt as _};
use litekeep_config::Config;
use litekeep_env::process::Group;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use super::untaken::is_known;
use crate::args::ConfigArgs;
use crate::program;
use crate::report::{Failure, Kind, Relayed};
use crate::settings::{Database, Settings, database};

/// Databases of a folder that migrate at the same time.
const AT_ONCE: usize = 4;
/// Migrations that take so long are told of; then at twice the time, and so on.
const FIRST_SIGN: Duration = Duration::from_secs(2);
/// When a program has ended, its last words are on their way for no longer than that; who still has its output is something else.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// So much of what it says last is kept.
const KEPT: usize = 64 << 10;

/// Runs them, of those databases that `up` began with where it has. After a failure no other begins, and those that are under way come
/// to their end.
///
/// # Errors
/// The first that failed; says of which others they have run.
pub(super) async fn run(settings: &Settings, begun: Option<&Config>, args: &ConfigArgs) -> Result<()> {
    let databases = database::present(settings)?.into_iter();
    let wanted = databases.filter(|database| database.config.migrations.is_some());
    let wanted = wanted.filter(|database| begun.is_none_or(|begun| is_known(begun, &database.config.source)));
    let has_failed = &AtomicBool::new(false);
    let told: &Vec<String> = &settings.config.warnings.iter().map(ToString::to_string).collect();
    let each = |Database { path, .. }: Database| async move {
        if has_failed.load(Relaxed) {
            return None;
        }
        let result = up(&path, args, told).await;
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

/// Whether something ran. `told`: warnings that the user has heard already.
async fn up(database: &Path, args: &ConfigArgs, told: &[String]) -> Result<bool> {
    let mut command = program::again();
    command.args(["migrate", "up", "--json"]);
    args.pass_on(&mut command);
    // After `--` a path may begin with a dash.
    command.arg("--").arg(database);
    let mut said = Said { database, told, result: Vec::new(), words: Vec::new(), line: 0 };
    let status = with_signs_of_life(ended_with_its_group(command, &mut said), database).await?;
    let done: Value = serde_json::from_slice(&said.result).unwrap_or_default();
    let text = |of: &Value, key: &str| of[key].as_str().unwrap_or_default().to_owned();
    let all = done["applied"].as_array().map(Vec::as_slice).unwrap_or_default();
    for applied in all {
        let version = text(applied, "version");
        tracing::info!(path = %database.display(), version, "migrated: {}", text(applied, "name"));
    }
    if done["changed"] == true {
        tracing::info!(path = %database.display(), "migrated by `{}`", text(&done, "command"));
    }
    if status.success() {
        return Ok(!all.is_empty() || done["changed"] == true);
    }
    let words = String::from_utf8_lossy(&said.words);
    let reports = words.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let error = reports.filter_map(|report| serde_json::from_value(report["error"].clone()).ok()).next_back();
    match error {
        Some(report) => Err(Relayed(report).into()),
        None => Err(Failure::new(Kind::Internal, format!("`litekeep migrate up` {status}: {words}")).into()),
    }
}

/// What a `litekeep migrate up --json` says.
struct Said<'a> {
    database: &'a Path,
    /// Warnings that are not to be repeated.
    told: &'a [String],
    result: Vec<u8>,
    /// The end of stderr, where programs of others say what they like.
    words: Vec<u8>,
    /// Where in it the line begins that is not whole yet.
    line: usize,
}

impl Said<'_> {
    /// Tells its warnings at once: it may be waiting for somebody.
    fn take(&mut self, words: &[u8]) {
        self.words.extend_from_slice(words);
        while let Some(end) = self.words[self.line..].iter().position(|byte| *byte == b'\n') {
            let line: Value =
                serde_json::from_slice(&self.words[self.line..self.line + end]).unwrap_or_default();
            let message = line["warning"]["message"].as_str();
            if let Some(message) = message.filter(|message| !self.told.iter().any(|told| told == message)) {
                tracing::warn!(path = %self.database.display(), "{message}");
            }
            self.line += end + 1;
        }
        let cut = self.words.len().saturating_sub(KEPT);
        self.words.drain(..cut);
        self.line = self.line.saturating_sub(cut);
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

/// Awaits the end of a program, and not of what it has left running, which may have its output still. Not awaited to its end, it is ended
/// with all that it has started, before anybody goes on: what it writes after that would be in no backup. A file of SQL has changed
/// nothing then.
async fn ended_with_its_group(mut command: Command, said: &mut Said<'_>) -> Result<ExitStatus> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn()?;
    let group = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Group::led_by);
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (mut stdout, mut stderr) = (stdout.context("take its output")?, stderr.context("take its output")?);
    let mut result = Vec::new();
    let status = {
        let of_stdout = read(&mut stdout, |bytes| result.extend_from_slice(bytes));
        let of_stderr = read(&mut stderr, |bytes| said.take(bytes));
        let mut reading = std::pin::pin!(async { tokio::try_join!(of_stdout, of_stderr).map(drop) });
        let mut all = None;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                end = &mut reading, if all.is_none() => all = Some(end),
            }
        };
        if let Some(group) = group {
            group.leave();
        }
        let all = match all {
            Some(end) => Ok(end),
            None => tokio::time::timeout(LAST_WORDS, reading).await,
        };
        all.unwrap_or(Ok(()))?;
        status
    };
    said.result = result;
    // Whoever writes into a pipe that nobody reads is ended.
    tokio::spawn(async move { tokio::join!(read(stdout, |_| ()), read(stderr, |_| ())) });
    Ok(status)
}

/// Hands on what comes, until the end.
async fn read(mut from: impl AsyncRead + Unpin, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(8 << 10);
    while from.read_buf(&mut bytes).await? > 0 {
        take(&bytes);
        bytes.clear();
    }
    Ok(())
}
