//! `litekeep up`: databases, their backups and the processes beside them, from one file.

use std::fs::File;
use std::io::Read as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use litekeep_env::SystemClock;
use litekeep_env::notify::ServiceManager;
use litekeep_supervise as supervise;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::replicate::{Beside, Run, Scope};
use crate::args::{self, ConfigArgs};
use crate::cluster;
use crate::control::{self, Ask, Client, Home};
use crate::replication::Choices;
use crate::report::{self, Failure, Format, Kind, Outcome, Report, log};
use crate::settings::Settings;
use crate::stack::Stack;

/// Between two looks at the background.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a start may take to succeed or fail, once everything is up.
const SETTLE: Duration = Duration::from_secs(3);
/// What takes longer than this is worth being told.
const QUIET: Duration = Duration::from_secs(1);

pub(super) async fn run(args: &args::Up, format: Format) -> Result<Outcome> {
    let settings = Settings::load_stack(&args.config, format).context("start everything")?;
    let home = Home::of(&settings);
    if args.detach {
        return detach(args, &settings, &home, format).await.context("start everything in the background");
    }
    let own = settings.args(&args.config);
    let result = foreground(args, settings, own, home, format).await;
    result.context("run everything")
}

async fn foreground(
    args: &args::Up,
    settings: Settings,
    own: ConfigArgs,
    home: Home,
    format: Format,
) -> Result<Outcome> {
    if args.detached {
        litekeep_env::process::leave_session();
    }
    log::start(settings.config.log, format);
    let _claim = home.claim()?;
    if args.detached {
        let settings = supervise::log::Settings { path: Some(home.own_log()), ..Default::default() };
        tokio::spawn(async move {
            if let Err(error) = supervise::log::rotate_own(settings, Arc::new(SystemClock)).await {
                tracing::warn!("the log of litekeep itself is not rotated: {error}");
            }
        });
    }
    let all = Box::new(settings.clone());
    let prints = (!args.quiet && !args.detached).then_some(format);
    let stack = Arc::new(Stack::new(own.clone(), home.clone()));
    let server = tokio::spawn(control::serve(home.listen()?, stack.clone()));
    let alive = tokio::spawn(keep_alive());
    if settings.config.cluster.is_some() {
        let result = cluster::run(settings, &own, &stack, &home, prints).await;
        return finish(result, &stack, &home, (server, alive)).await;
    }
    let run = Run {
        scope: Scope::of_settings(settings, &args.config)?,
        choices: Choices::of_all(args.new_timeline),
        beside: Beside::Stack { stack: stack.clone(), settings: all, prints },
        once: false,
    };
    let result = run.run().await;
    finish(result, &stack, &home, (server, alive)).await
}

/// Tells how it went, and is not to be asked any more.
async fn finish(
    result: Result<Outcome>,
    stack: &Stack,
    home: &Home,
    (server, alive): (JoinHandle<()>, JoinHandle<()>),
) -> Result<Outcome> {
    let told = result.as_ref().map(|_| ()).map_err(Report::of);
    stack.tell_end(told).await;
    server.abort();
    alive.abort();
    home.forget_socket();
    result
}

/// Tells the service manager that litekeep lives.
async fn keep_alive() {
    match ServiceManager::from_env() {
        Ok(manager) => supervise::notify::keep_alive(&manager).await,
        Err(error) => tracing::warn!("could not reach the service manager: {error}"),
    }
}

/// Starts this program again, apart from the terminal, and waits until it has started everything or given up.
async fn detach(args: &args::Up, settings: &Settings, home: &Home, format: Format) -> Result<Outcome> {
    drop(home.claim()?);
    let path = home.own_log();
    let doing = || format!("write `{}`", path.display());
    let mut options = File::options();
    let log = options.create(true).append(true).open(&path).map_err(|error| Failure::io(doing(), &error))?;
    let begin = log.metadata().map_or(0, |metadata| metadata.len());
    let mut command = std::process::Command::new(std::env::current_exe().context("find this program")?);
    command.arg("up").arg("--detached").arg("--config").arg(&settings.path);
    if args.config.no_expand_env {
        command.arg("--no-expand-env");
    }
    if args.new_timeline {
        command.arg("--new-timeline");
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn().context("start this program again")?;
    let (started, mut shown, mut up_since) = (Instant::now(), begin, None);
    loop {
        if let Some(status) = child.try_wait()? {
            // What has been shown stands above.
            let (said, _) = said(&path, shown);
            let said = match String::from_utf8_lossy(&said).trim_end() {
                "" => String::new(),
                said => format!(":\n{said}"),
            };
            let failure = Failure::new(Kind::Invalid, format!("it ended with {status}{said}"));
            return Err(failure.hint(format!("`{}` has what it said", path.display())).into());
        }
        let up = status_if_up(home).await.filter(|status| {
            let since = *up_since.get_or_insert_with(Instant::now);
            all_tried(status) || since.elapsed() > SETTLE
        });
        if let Some(status) = up {
            troubles(&status).iter().for_each(|trouble| report::warning(trouble, format));
            let pid = child.id();
            report::result(format, &serde_json::json!({ "pid": pid, "log": path }), || {
                format!("up, as process {pid}; `litekeep status` shows it, `litekeep down` ends it\n")
            });
            return Ok(Outcome::Done);
        }
        if format == Format::Text && started.elapsed() > QUIET {
            let (said, end) = said(&path, shown);
            // The rest of a line comes yet.
            let whole = said.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            String::from_utf8_lossy(&said[..whole]).lines().for_each(|line| report::line(&line));
            shown = end - (said.len() - whole) as u64;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// How everything stands, once the databases are fit and the processes are being started.
async fn status_if_up(home: &Home) -> Option<Value> {
    let answer = async {
        let mut client = Client::ask(home, &Ask::Status).await.ok()??;
        client.next().await.ok()?
    };
    let answer = tokio::time::timeout(Duration::from_secs(3), answer).await;
    answer.ok().flatten().filter(|status| status["up"] == true)
}

fn processes(status: &Value) -> impl Iterator<Item = &Value> {
    status["processes"].as_array().into_iter().flatten()
}

fn has_failed(process: &Value) -> bool {
    process["restarts"] != 0 || ["failed", "backing_off"].iter().any(|state| process["state"] == *state)
}

/// Whether of each process that waits for nothing it is known whether it could be started.
fn all_tried(status: &Value) -> bool {
    processes(status)
        .all(|process| process["state"] != "starting" || !process["pid"].is_null() || has_failed(process))
}

/// What could not be started, or ended at once.
fn troubles(status: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let trouble = |process: &Value| {
        let (name, reason) = (text(&process["name"]), text(&process["restart_reason"]));
        let reason = if reason.is_empty() { text(&process["reason"]) } else { reason };
        format!("`{name}` does not run: {reason}")
    };
    processes(status).filter(|process| has_failed(process)).map(trouble).collect()
}

/// What the log has from here on, and where it ends.
fn said(path: &std::path::Path, begin: u64) -> (Vec<u8>, u64) {
    use std::io::Seek as _;
    let mut text = Vec::new();
    let Ok(mut file) = File::open(path) else { return (text, begin) };
    // What it said last is why it ended. A shorter file is another one: it was rotated.
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let begin = if begin > length { 0 } else { begin };
    let from = begin.max(length.saturating_sub(16 << 10));
    _ = file.seek(std::io::SeekFrom::Start(from)).and_then(|_| file.read_to_end(&mut text));
    let end = from + text.len() as u64;
    (text, end)
}
