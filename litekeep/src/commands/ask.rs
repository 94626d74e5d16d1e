//! `litekeep logs`, `events`, `start`, `stop`, `restart`, `reload`, `down`: what is asked of a running `litekeep up`.

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::args::{self, ConfigArgs, Processes};
use crate::control::{Ask, is_up, talk};
use crate::report::{self, Failure, Format, Outcome};
use crate::settings::Settings;
use crate::stack::{self, Happened, Line, Reloaded};

/// What was done.
#[derive(Serialize)]
struct Did {
    /// `started`, `stopped`, `restarted` or `ended`.
    did: &'static str,
    /// Empty for all.
    processes: Vec<String>,
}

pub(super) async fn logs(args: &args::Logs, format: Format) -> Result<Outcome> {
    let ask = Ask::Logs { names: args.names.clone(), lines: args.lines, follow: args.follow };
    let answer = async {
        if !args.follow && !is_up(&args.config, format).await? {
            return files(args, format);
        }
        let mut client = talk(&args.config, format, &ask).await?;
        let mut width = 0;
        while let Some(item) = client.next().await? {
            let line: Line = serde_json::from_value(item)?;
            width = width.max(line.process.len());
            report::line_out(format, &line, || line.text(width));
        }
        tell_end(args.follow, format);
        Ok(Outcome::Done)
    };
    answer.await.context("show the logs")
}

/// Who follows sees why nothing more comes.
fn tell_end(follows: bool, format: Format) {
    if follows && format == Format::Text {
        report::line(&"it has ended");
    }
}

/// The ends of the files that the last `litekeep up` left: why it ended may stand there.
fn files(args: &args::Logs, format: Format) -> Result<Outcome> {
    let settings = Settings::load_stack(&args.config, format)?;
    let files = stack::log_files(&settings, &args.names)?;
    report::warning(
        &format!("nothing of `{}` is up; this is what the files have", settings.path.display()),
        format,
    );
    let width = files.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (process, path) in files {
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Failure::io(format!("read `{}`", path.display()), &error).into()),
        };
        let text = String::from_utf8_lossy(&bytes);
        let last: Vec<&str> = text.lines().rev().take(args.lines).collect();
        for line in last.into_iter().rev() {
            let line = Line::of_file(&process, line);
            report::line_out(format, &line, || line.text(width));
        }
    }
    Ok(Outcome::Done)
}

pub(super) async fn events(args: &args::Events, format: Format) -> Result<Outcome> {
    let ask = Ask::Events { lines: args.lines, follow: args.follow };
    let answer = async {
        let mut client = talk(&args.config, format, &ask).await?;
        while let Some(item) = client.next().await? {
            let event: Happened = serde_json::from_value(item)?;
            report::line_out(format, &event, || event.line());
        }
        tell_end(args.follow, format);
        anyhow::Ok(Outcome::Done)
    };
    answer.await.context("show what happened")
}

pub(super) async fn start(args: &Processes, format: Format) -> Result<Outcome> {
    let ask = Ask::Start { names: args.names.clone() };
    act(&args.config, ask, "start", "started", &args.names, format).await
}

pub(super) async fn stop(args: &Processes, format: Format) -> Result<Outcome> {
    let ask = Ask::Stop { names: args.names.clone() };
    act(&args.config, ask, "stop", "stopped", &args.names, format).await
}

pub(super) async fn restart(args: &Processes, format: Format) -> Result<Outcome> {
    let ask = Ask::Restart { names: args.names.clone() };
    act(&args.config, ask, "restart", "restarted", &args.names, format).await
}

pub(super) async fn reload(args: &Processes, format: Format) -> Result<Outcome> {
    let ask = Ask::Reload { names: args.names.clone() };
    let answer = async {
        let mut client = talk(&args.config, format, &ask).await?;
        let mut done = Reloaded::default();
        while let Some(item) = client.next().await? {
            done = serde_json::from_value(item)?;
        }
        anyhow::Ok(done)
    };
    let done = answer.await.with_context(|| format!("reload {}", whom(&args.names)))?;
    done.warnings.iter().for_each(|warning| report::warning(warning, format));
    report::result(format, &done, || {
        let lists = [("reloaded", &done.reloaded), ("started", &done.started), ("stopped", &done.stopped)];
        let said = lists.iter().filter(|(_, names)| !names.is_empty());
        let said: Vec<String> = said.map(|(did, names)| format!("{did} {}\n", whom(names))).collect();
        if said.is_empty() { "nothing runs that could be reloaded\n".to_owned() } else { said.concat() }
    });
    Ok(Outcome::Done)
}

fn whom(names: &[String]) -> String {
    if names.is_empty() { "the processes".to_owned() } else { format!("`{}`", names.join("`, `")) }
}

pub(super) async fn down(args: &args::Down, format: Format) -> Result<Outcome> {
    let answer = async {
        let mut client = talk(&args.config, format, &Ask::Down).await?;
        while client.next().await?.is_some() {}
        client.gone().await;
        anyhow::Ok(())
    };
    answer.await.context("end everything")?;
    let did = Did { did: "ended", processes: Vec::new() };
    let has_backup = Settings::load_stack(&args.config, Format::Json)
        .is_ok_and(|settings| !settings.config.databases.is_empty());
    report::result(format, &did, || match has_backup {
        true => "everything has ended, and the backup is complete\n".to_owned(),
        false => "everything has ended\n".to_owned(),
    });
    Ok(Outcome::Done)
}

async fn act(
    config: &ConfigArgs,
    ask: Ask,
    verb: &str,
    did: &'static str,
    names: &[String],
    format: Format,
) -> Result<Outcome> {
    let whom = whom(names);
    let answer = async {
        let mut client = talk(config, format, &ask).await?;
        while client.next().await?.is_some() {}
        anyhow::Ok(())
    };
    answer.await.with_context(|| format!("{verb} {whom}"))?;
    report::result(format, &Did { did, processes: names.to_vec() }, || format!("{did} {whom}\n"));
    Ok(Outcome::Done)
}
