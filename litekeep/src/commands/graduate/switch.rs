//! How an application comes to use another database: by a command of the user's, or by processes of `litekeep up`, started anew with another line
//! in their `env_file`.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use litekeep_config::ProcessConfig;

use crate::args::graduate::Graduate as Args;
use crate::child;
use crate::control::{Ask, Client, Home, talk};
use crate::report::{Failure, Format, Kind};
use crate::settings::Settings;
use crate::stack::{ProcessStatus, StackStatus};

/// What the application reads its database from.
const VARIABLE: &str = "DATABASE_URL";
/// How long it may take.
const LONG: Duration = Duration::from_secs(600);
/// Between two looks at how processes are.
const LOOK: Duration = Duration::from_millis(100);

pub(super) enum Switch {
    Command(String),
    Processes {
        args: crate::args::ConfigArgs,
        format: Format,
        names: Vec<String>,
        /// Their `env_file`s.
        files: Vec<PathBuf>,
    },
}

impl Switch {
    /// What the command line says; `None`: nothing.
    ///
    /// # Errors
    /// With the line to change where a process cannot be switched.
    pub(super) async fn of(args: &Args, format: Format) -> Result<Option<Switch>> {
        if let Some(command) = &args.switch {
            return Ok(Some(Switch::Command(command.clone())));
        }
        if args.processes.is_empty() {
            return Ok(None);
        }
        let settings = Settings::load_stack(&args.config, format)?;
        let mut files = vec![];
        for name in &args.processes {
            let process = settings.config.processes.iter().find(|process| process.name == *name);
            let none =
                || Failure::invalid(format!("there is no [process.{name}] in `{}`", settings.path.display()));
            let file = env_file(process.ok_or_else(none)?, &settings.path)?;
            if !files.contains(&file) {
                files.push(file);
            }
        }
        if Client::ask(&Home::of(&settings), &Ask::Status).await?.is_none() {
            let failure = Failure::invalid(format!("nothing of `{}` is up", settings.path.display()));
            return Err(failure.hint("`litekeep up` starts it; --switch names a command instead").into());
        }
        let (args, names) = (args.config.clone(), args.processes.clone());
        Ok(Some(Switch::Processes { args, format, names, files }))
    }

    /// Lets the application use this database.
    ///
    /// # Errors
    /// When it does not; files are as they were then.
    pub(super) async fn to(&self, url: &str) -> Result<()> {
        let files = match self {
            Switch::Command(command) => return bounded(run(command, url)).await,
            Switch::Processes { files, .. } => files,
        };
        let before = files.iter().map(|file| read(file)).collect::<Result<Vec<String>>>()?;
        let done = bounded(self.restarted(&before, url)).await;
        if done.is_err() {
            for (file, text) in files.iter().zip(&before) {
                write(file, text)?;
            }
            self.restart().await?;
        }
        done
    }

    async fn restarted(&self, before: &[String], url: &str) -> Result<()> {
        let Switch::Processes { args, format, names, files } = self else { return Ok(()) };
        for (file, text) in files.iter().zip(before) {
            write(file, &with_url(text, url))?;
        }
        self.restart().await?;
        // Executed is not yet at work.
        loop {
            let mut client = talk(args, *format, &Ask::Status).await?;
            let none = || Failure::new(Kind::Unavailable, "`litekeep up` does not say how it stands");
            let status: StackStatus = serde_json::from_value(client.next().await?.ok_or_else(none)?)?;
            let of = |process: &&ProcessStatus| {
                names.iter().any(|name| crate::stack::belongs(&process.name, name))
            };
            let mut all = status.processes.iter().filter(of);
            if let Some(process) = all.clone().find(|process| !is_on_its_way(&process.state)) {
                let ProcessStatus { name, state, reason, last_exit, .. } = process;
                let exit = last_exit.as_ref().map_or(String::new(), |exit| format!("; it ended with {exit}"));
                let message = format!("`{name}` is {state} with the new {VARIABLE}: {reason}{exit}");
                let hint = format!("`litekeep logs {name}` shows what it said");
                return Err(Failure::invalid(message).hint(hint).into());
            }
            if all.all(|process| process.state == "healthy") {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn restart(&self) -> Result<()> {
        let Switch::Processes { args, format, names, .. } = self else { return Ok(()) };
        let mut client = talk(args, *format, &Ask::Restart { names: names.clone() }).await?;
        while client.next().await?.is_some() {}
        Ok(())
    }
}

async fn bounded(work: impl Future<Output = Result<()>>) -> Result<()> {
    let late = || Failure::new(Kind::Unavailable, format!("it took longer than {} s", LONG.as_secs()));
    tokio::time::timeout(LONG, work).await.map_err(|_| late())?
}

fn is_on_its_way(state: &str) -> bool {
    matches!(state, "waiting" | "starting" | "healthy" | "unhealthy" | "stopping")
}

async fn run(command: &str, url: &str) -> Result<()> {
    // stdout is ours.
    let out = std::io::stderr().as_fd().try_clone_to_owned()?;
    let mut shell = tokio::process::Command::new("/bin/sh");
    shell.args(["-c", command]).env(VARIABLE, url);
    shell.stdin(Stdio::null()).stdout(Stdio::from(out)).kill_on_drop(true);
    // It must not go on while the application can write to SQLite.
    child::ends_with_litekeep(&mut shell);
    let mut child = shell.spawn().context("start the switch command")?;
    let status = child.wait().await?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::invalid(format!("the switch command failed: {status}")).into())
}

/// The file from which a process has the variable.
fn env_file(process: &ProcessConfig, config: &Path) -> Result<PathBuf> {
    let (name, config) = (&process.name, config.display());
    let failed = |message: String, hint: String| Err(Failure::invalid(message).hint(hint).into());
    if process.run.env.iter().any(|(variable, _)| variable == VARIABLE) {
        return failed(
            format!("`{config}` says {VARIABLE} in `env` of [process.{name}]"),
            format!(
                "take it out there, put the line {VARIABLE}=... into a file that its `env_file` names, then `litekeep reload {name}`; or let --switch \
                 change it and run `litekeep reload {name}`"
            ),
        );
    }
    let Some(file) = &process.run.env_file else {
        return failed(
            format!("[process.{name}] of `{config}` has no `env_file`, in which {VARIABLE} could be changed"),
            format!(
                "add env_file = \"{name}.env\" there, with the line {VARIABLE}=..., then `litekeep reload {name}`; or name a command by --switch"
            ),
        );
    };
    if !read(file)?.lines().any(|line| prefix(line).is_some()) {
        return failed(
            format!("`{}`, the `env_file` of [process.{name}], does not say {VARIABLE}", file.display()),
            format!("add the line {VARIABLE}=... with what it uses now; or name a command by --switch"),
        );
    }
    // Not a link to it.
    Ok(file.canonicalize().unwrap_or_else(|_| file.clone()))
}

/// What stands before the value in a line that sets the variable.
fn prefix(line: &str) -> Option<&str> {
    let rest = line.trim_start();
    let rest = rest.strip_prefix("export ").map_or(rest, str::trim_start);
    let rest = rest.strip_prefix(VARIABLE)?.trim_start();
    rest.strip_prefix('=').map(|value| &line[..line.len() - value.len()])
}

/// The same text with another value.
fn with_url(text: &str, url: &str) -> String {
    // Within quotes a shell reads nothing into it.
    let quoted = if url.contains('\'') { url.to_owned() } else { format!("'{url}'") };
    let line = |line: &str| prefix(line).map_or(line.to_owned(), |prefix| format!("{prefix}{quoted}"));
    let mut lines: Vec<String> = text.lines().map(line).collect();
    if text.ends_with('\n') {
        lines.push(String::new());
    }
    lines.join("\n")
}

fn read(file: &Path) -> Result<String> {
    let doing = || format!("read `{}`", file.display());
    Ok(std::fs::read_to_string(file).map_err(|error| Failure::io(doing(), &error))?)
}

/// Gives a file another content, whole or not at all, with the owner and the permissions that it has: there is a password in it.
fn write(file: &Path, text: &str) -> Result<()> {
    let write = || {
        let was = std::fs::metadata(file)?;
        let partial = litekeep_env::file::sibling(file, ".partial");
        _ = std::fs::remove_file(&partial);
        let mut new = std::fs::OpenOptions::new();
        let mut new = new.write(true).create_new(true).mode(was.mode() & 0o777).open(&partial)?;
        let own = new.metadata()?;
        if (own.uid(), own.gid()) != (was.uid(), was.gid()) {
            fchown(&new, Some(was.uid()), Some(was.gid()))?;
        }
        new.set_permissions(was.permissions())?;
        new.write_all(text.as_bytes())?;
        new.sync_all()?;
        std::fs::rename(&partial, file)
    };
    Ok(write().map_err(|error| Failure::io(format!("write `{}`", file.display()), &error))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_line_of_the_variable_changes() {
        let text = "A=1\n # DATABASE_URL=x\nexport DATABASE_URL = sqlite:app.db\nDATABASE_URL_OLD=y\n";
        let changed =
            "A=1\n # DATABASE_URL=x\nexport DATABASE_URL ='postgres://a@b/c?d=e&f'\nDATABASE_URL_OLD=y\n";
        assert_eq!(with_url(text, "postgres://a@b/c?d=e&f"), changed);
        assert_eq!(with_url("DATABASE_URL=", "it's"), "DATABASE_URL=it's");
        let read = litekeep_supervise::spawn::env_file(changed.as_bytes()).unwrap();
        assert!(read.iter().any(|(name, value)| name == VARIABLE && value == "postgres://a@b/c?d=e&f"));
    }

    #[test]
    fn a_file_keeps_its_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("app.env");
        std::fs::write(&file, "a").unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        write(&file, "b").unwrap();
        assert_eq!(read(&file).unwrap(), "b");
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
    }
}
