//! `litekeep service install`: `litekeep up` as a service of systemd.
//!
//! Promises: nothing that somebody else wrote is overwritten; what is written has been checked by systemd itself, where it
//! is there.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::args::{self, ServiceAction};
use crate::report::{self, Failure, Format, Outcome, text};
use crate::settings::Settings;
use crate::stack::LAST_HOOKS;

/// How our own units begin.
const MARK: &str = "# Written by `litekeep service install`; the next one replaces it.";
/// On top of what processes and backups may take to end.
const SLACK: Duration = Duration::from_secs(15);

#[derive(Serialize)]
struct Installed {
    unit: PathBuf,
    name: String,
    /// Whether systemd found no fault with it; `None` where it is not there to ask.
    verified: Option<bool>,
    /// What to type next.
    next: String,
}

pub(super) fn run(args: &args::Service, format: Format) -> Result<Outcome> {
    match &args.action {
        ServiceAction::Install(args) => install(args, format).context("install the service"),
        ServiceAction::Show(args) => show(args, format).context("show the service"),
    }
}

fn show(args: &args::ServiceTarget, format: Format) -> Result<Outcome> {
    let unit = unit(args, format)?;
    report::result(format, &serde_json::json!({ "unit": unit }), || unit.clone());
    Ok(Outcome::Done)
}

fn install(args: &args::ServiceTarget, format: Format) -> Result<Outcome> {
    let unit = unit(args, format)?;
    let dir = folder(args)?;
    let path = dir.join(format!("{}.service", args.name));
    let doing = || format!("write `{}`", path.display());
    match std::fs::read_to_string(&path) {
        Ok(present) if !present.starts_with(MARK) => {
            let failure = Failure::invalid(format!("`{}` is there and not litekeep's", path.display()));
            return Err(failure.hint("give this one another name: --name my-app").into());
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::io(doing(), &error).into()),
    }
    let verified = verify(&unit, args)?;
    std::fs::create_dir_all(&dir).map_err(|error| Failure::io(doing(), &error))?;
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&dir)?;
        file.write_all(unit.as_bytes())?;
        use std::os::unix::fs::PermissionsExt as _;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        Ok(())
    };
    write().map_err(|error| {
        let failure = Failure::io(doing(), &error);
        if args.user { failure } else { failure.hint("run it as root, or for yourself only: --user") }
    })?;
    let user = if args.user { " --user" } else { "" };
    let next = format!(
        "systemctl{user} daemon-reload && systemctl{user} enable --now {}",
        text::shell_word(&args.name)
    );
    let installed = Installed { unit: path, name: args.name.clone(), verified, next };
    report::result(format, &installed, || {
        let checked =
            if verified.is_some() { "checked by systemd" } else { "not checked: systemd is not here" };
        format!("wrote {} ({checked}); now type\n  {}\n", installed.unit.display(), installed.next)
    });
    Ok(Outcome::Done)
}

fn folder(args: &args::ServiceTarget) -> Result<PathBuf, Failure> {
    if let Some(dir) = &args.dir {
        return Ok(dir.clone());
    }
    if !args.user {
        return Ok("/etc/systemd/system".into());
    }
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = of("XDG_CONFIG_HOME").or_else(|| of("HOME").map(|home| home.join(".config")));
    let config = config
        .ok_or_else(|| Failure::invalid("HOME is not set").hint("set it, or name a folder with --dir"))?;
    Ok(config.join("systemd/user"))
}

/// The unit's text.
fn unit(args: &args::ServiceTarget, format: Format) -> Result<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    if args.name.is_empty() || !args.name.chars().all(is_name) {
        let failure = Failure::invalid(format!("`{}` cannot name a service", args.name));
        return Err(failure.hint("a name has only letters, digits, `-`, `_`, `.` and `@`").into());
    }
    let settings = Settings::load_stack(&args.config, format)?;
    let config =
        settings.path.canonicalize().with_context(|| format!("find `{}`", settings.path.display()))?;
    let program = std::env::current_exe().context("find this program")?;
    let dir = config.parent().unwrap_or(Path::new("/"));
    let ends = settings.config.processes.iter().map(|process| process.stop_timeout);
    let ends = ends.chain(settings.config.jobs.iter().map(|job| job.stop_timeout));
    // Levels of dependencies end one after another; so many of them that all are in a row is the worst.
    let processes: Duration = ends.sum();
    let backups = settings.config.databases.iter().map(|database| database.shutdown_timeout).max();
    let has_hooks = settings.config.processes.iter().any(|process| !process.hooks.is_empty());
    let hooks = if has_hooks { LAST_HOOKS } else { Duration::ZERO };
    let timeout = processes + hooks + backups.unwrap_or_default() + SLACK;
    let mut out = format!("{MARK}\n[Unit]\nDescription=litekeep: {}\n", escaped(&config)?);
    let _ = write!(
        out,
        "After=network-online.target\nWants=network-online.target\nStartLimitIntervalSec=0\n\n\
         [Service]\nType=notify\nNotifyAccess=main\n\
         ExecStart={program} up --quiet --config {config}{literal}\nExecReload={program} reload --config {config}{literal}\n\
         WorkingDirectory={dir}\nRestart=on-failure\nRestartSec=1s\n\
         # Only litekeep is told to end: it ends processes and backups in their order. Should it be killed, they go on, and the\n\
         # next start takes them over.\n\
         KillMode=process\nTimeoutStopSec={stop}s\nTimeoutStartSec=infinity\nWatchdogSec=60s\n\
         # A group of its own for each process, to limit and to end it as a whole.\n\
         Delegate=yes\nOOMPolicy=continue\nLimitNOFILE=65536\n",
        program = quoted(&program)?,
        config = quoted(&config)?,
        literal = if args.config.no_expand_env { " --no-expand-env" } else { "" },
        dir = escaped(dir)?,
        stop = timeout.as_secs(),
    );
    if let Some(user) = args.run_as.as_ref().filter(|_| !args.user) {
        let unknown = || {
            Failure::invalid(format!("there is no user `{user}` on this machine"))
                .hint("`useradd --system NAME` makes one")
        };
        litekeep_env::process::identity(user).ok().flatten().ok_or_else(unknown)?;
        let _ = writeln!(out, "User={user}");
    }
    let target = if args.user { "default.target" } else { "multi-user.target" };
    let _ = write!(out, "\n[Install]\nWantedBy={target}\n");
    Ok(out)
}

/// A path in a unit, where `%` stands for something.
fn escaped(path: &Path) -> Result<String, Failure> {
    let text = path.to_str().filter(|text| !text.contains(['\n', '\r']));
    let text = text
        .ok_or_else(|| Failure::invalid(format!("`{}` cannot stand in a unit of systemd", path.display())))?;
    Ok(text.replace('%', "%%"))
}

/// A path as a word of a command line, where `$` does, too.
fn quoted(path: &Path) -> Result<String, Failure> {
    let text = escaped(path)?.replace('\\', r"\\").replace('"', "\\\"").replace('$', "$$");
    Ok(format!("\"{text}\""))
}

/// What systemd says of the unit; `None` where it is not there to ask.
fn verify(unit: &str, args: &args::ServiceTarget) -> Result<Option<bool>> {
    let dir = tempfile::tempdir().context("make a temporary folder")?;
    let path = dir.path().join(format!("{}.service", args.name));
    std::fs::write(&path, unit).context("write the unit to check it")?;
    let mut command = Command::new("systemd-analyze");
    command.arg("verify").arg("--man=no").arg("--generators=no");
    if args.user {
        command.arg("--user");
    }
    let output = match command.arg(&path).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::io("start systemd-analyze", &error).into()),
    };
    // It speaks of other units of the machine, too.
    let said = String::from_utf8_lossy(&output.stderr);
    let own: Vec<&str> = said.lines().filter(|line| line.contains(&*path.to_string_lossy())).collect();
    if own.is_empty() {
        return Ok(Some(true));
    }
    let failure = Failure::invalid(format!("systemd does not take the unit:\n{}", own.join("\n")));
    Err(failure.hint("`litekeep service show` prints it").into())
}
