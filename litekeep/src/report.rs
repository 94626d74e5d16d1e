//! What the user sees: errors, results, exit codes.
//!
//! ```text
//! error: could not restore `app.db` to 2026-08-21T10:00:00Z
//!   caused by: read `app/0001/000…2a.ltx`: checksum mismatch (expected 8f3a…, found 0000…)
//! hint: run `litekeep verify app.db` to find the nearest intact point
//! ```
//!
//! The outermost context of every error is a verb phrase that says what the command was to do; "could not" stands only
//! here.

pub(crate) mod log;
pub(crate) mod progress;
pub(crate) mod text;

use std::fmt;
use std::io::{BufRead as _, IsTerminal, Write};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// How results and errors are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs; the shapes are in docs/json-output.md.
    Json,
}

/// How a command ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Exit code 0.
    Done,
    /// The answer is no: exit code 1.
    No,
    /// A command ran, and this was its exit code.
    Child(u8),
}

/// Exit code of every error.
const ERROR: u8 = 2;

/// What the user, or a program that runs litekeep, must do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Try again later.
    Unavailable,
    /// Another writer owns the backup.
    Fenced,
    /// Bytes are damaged or missing.
    Corrupt,
    /// The request or the configuration must be changed.
    Invalid,
    /// A bug.
    Internal,
}

impl From<litekeep_replicate::Kind> for Kind {
    fn from(kind: litekeep_replicate::Kind) -> Self {
        use litekeep_replicate::Kind as K;
        match kind {
            K::Unavailable => Kind::Unavailable,
            K::Fenced => Kind::Fenced,
            K::Corrupt => Kind::Corrupt,
            K::Invalid => Kind::Invalid,
            K::Internal => Kind::Internal,
        }
    }
}

/// An error of the command line itself.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into(), hint: None }
    }

    /// The request must be changed.
    pub(crate) fn invalid(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Invalid, message)
    }

    /// A local file could not be used; `doing` is a verb phrase that names it.
    pub(crate) fn io(doing: impl fmt::Display, error: &std::io::Error) -> Failure {
        use std::io::ErrorKind::{AlreadyExists, IsADirectory, NotADirectory, NotFound, PermissionDenied};
        let kind = match error.kind() {
            NotFound | PermissionDenied | AlreadyExists | IsADirectory | NotADirectory => Kind::Invalid,
            _ => Kind::Unavailable,
        };
        let failure = Failure::new(kind, format!("{doing}: {}", text::io_error(error)));
        Failure { hint: system_hint(error), ..failure }
    }

    /// What to type next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }
}

impl Failure {
    /// What to type next where nothing better is known.
    pub(crate) fn or_hint(mut self, hint: &str) -> Failure {
        self.hint.get_or_insert_with(|| hint.to_owned());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An error that another litekeep reported.
#[derive(Debug)]
pub(crate) struct Relayed(pub(crate) Report);

impl fmt::Display for Relayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Relayed {}

/// An error as it is printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    pub(crate) causes: Vec<String>,
    pub(crate) hint: Option<String>,
}

impl Report {
    pub(crate) fn of(error: &anyhow::Error) -> Report {
        if let Some(Relayed(report)) = error.chain().next().and_then(|outermost| outermost.downcast_ref()) {
            return report.clone();
        }
        let relayed = error.chain().find_map(|cause| cause.downcast_ref::<Relayed>());
        let mut all: Vec<String> = Vec::new();
        for cause in error.chain() {
            match cause.downcast_ref() {
                // What the other one was to do is a part of what this one was to do.
                Some(Relayed(report)) => {
                    let message = report.message.strip_prefix("could not ").unwrap_or(&report.message);
                    all.push(message.to_owned());
                    all.extend_from_slice(&report.causes);
                    break;
                }
                None => all.push(cause.to_string()),
            }
        }
        let alone = all.len() == 1;
        let mut said: Vec<String> = Vec::new();
        for cause in all {
            // Some messages begin with their context's words, and some carry their source's.
            if said.len() > 1 {
                said.pop_if(|last| cause.starts_with(&format!("{last}: ")));
            }
            if said.last().is_none_or(|last| !last.contains(&cause)) {
                said.push(cause);
            }
        }
        let known = || error.chain().find_map(known).unwrap_or((Kind::Internal, None));
        let (kind, hint) = relayed.map_or_else(known, |Relayed(report)| (report.kind, report.hint.clone()));
        let message = said.remove(0);
        let message = if alone { message } else { format!("could not {message}") };
        Report { kind, message, causes: said, hint }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        for cause in &self.causes {
            write!(f, "\n  caused by: {}", cause.replace('\n', "\n    "))?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Kind and hint of an error of ours; `None` for what others throw.
fn known(error: &(dyn std::error::Error + 'static)) -> Option<(Kind, Option<String>)> {
    if let Some(error) = error.downcast_ref::<Failure>() {
        return Some((error.kind, error.hint.clone()));
    }
    if error.is::<litekeep_config::Error>() {
        return Some((Kind::Invalid, None));
    }
    use litekeep_replicate::{Error, Kind as K};
    if let Some(error) = error.downcast_ref::<Error>() {
        let hint = match error {
            Error::Store(error) => store_hint(error),
            Error::Instead { .. } => Some("`litekeep history` lists what can be restored".to_owned()),
            Error::File { source, .. } => system_hint(source),
            Error::Sqlite(error) => sql_hint(error),
            error => error.hint().map(str::to_owned),
        };
        return Some((error.kind().into(), hint));
    }
    if let Some(error) = error.downcast_ref::<litekeep_schema::Error>() {
        use litekeep_schema::Kind as S;
        let kind = match error.kind() {
            S::Unavailable => Kind::Unavailable,
            S::Corrupt => Kind::Corrupt,
            S::Invalid => Kind::Invalid,
        };
        return Some((kind, error.hint()));
    }
    if let Some(error) = error.downcast_ref::<litekeep_supervise::Error>() {
        use litekeep_supervise::Kind as S;
        let kind = match error.kind() {
            S::Unavailable => Kind::Unavailable,
            S::Invalid => Kind::Invalid,
            S::Internal => Kind::Internal,
        };
        return Some((kind, None));
    }
    if let Some(error) = error.downcast_ref::<litekeep_store::Error>() {
        return Some((K::from(error.kind()).into(), store_hint(error)));
    }
    if let Some(error) = error.downcast_ref::<litekeep_sql::Error>() {
        return Some((K::from(error).into(), sql_hint(error)));
    }
    None
}

fn store_hint(error: &litekeep_store::Error) -> Option<String> {
    use litekeep_store::Error as E;
    let hint = match error {
        E::Empty | E::Missing { .. } => {
            "check the URL; `litekeep databases` shows where each database is backed up to"
        }
        E::Unavailable { .. } => {
            "check the endpoint, the region and the network, and try again; `litekeep databases` shows each URL"
        }
        E::Invalid { cause, .. } if cause.contains("AccessKey") => {
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or `access_key_id` and `secret_access_key` in litekeep.toml"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

fn sql_hint(error: &litekeep_sql::Error) -> Option<String> {
    if error.is_busy() {
        return Some("try again when the application has ended its transaction".to_owned());
    }
    let uid = litekeep_env::user_id().filter(|_| error.may_not_write())?;
    Some(format!(
        "in WAL mode SQLite writes beside a database also to read it: litekeep runs as user {uid}; run it as the user of the application, or change the permissions of file and folder"
    ))
}

/// What helps against what the system said.
fn system_hint(error: &std::io::Error) -> Option<String> {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem, StorageFull};
    match error.kind() {
        PermissionDenied => litekeep_env::user_id().map(|uid| {
            format!(
                "litekeep runs as user {uid}, who may not: run it as the user of the application, or change the permissions"
            )
        }),
        ReadOnlyFilesystem => Some("mount that file system for writing, or name a place on another".to_owned()),
        StorageFull => Some("make room there, or name a place on another file system".to_owned()),
        _ => None,
    }
}

/// Prints an error and gives its exit code.
pub(crate) fn error(error: &anyhow::Error, format: Format) -> ExitCode {
    print_error(&Report::of(error), format);
    ExitCode::from(ERROR)
}

/// Prints what clap has to say: help and version on stdout, complaints on stderr.
pub(crate) fn usage(error: &clap::Error, format: Format) -> ExitCode {
    if !error.use_stderr() {
        stdout(&error.to_string());
        return ExitCode::SUCCESS;
    }
    match format {
        Format::Text if std::io::stderr().is_terminal() => stderr(&error.render().ansi().to_string()),
        Format::Text => stderr(&error.render().to_string()),
        Format::Json => {
            let whole = error.to_string();
            let message = whole.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
            let hint = Some("`litekeep --help` shows how it is used".to_owned());
            let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
            print_error(&Report { kind: Kind::Invalid, message, causes: Vec::new(), hint }, format);
        }
    }
    ExitCode::from(ERROR)
}

fn print_error(report: &Report, format: Format) {
    match format {
        Format::Text => line(report),
        Format::Json => line(&serde_json::json!({ "error": report })),
    }
}

/// Prints a remark on stderr; with JSON as `{"warning": …}`.
pub(crate) fn warning(message: &str, format: Format) {
    match format {
        Format::Text => line(&format_args!("warning: {message}")),
        Format::Json => line(&serde_json::json!({ "warning": { "message": message } })),
    }
}

/// Prints a result: `value` as JSON, or the text.
pub(crate) fn result<T: Serialize>(format: Format, value: &T, text: impl FnOnce() -> String) {
    stdout(&match format {
        Format::Text => text(),
        Format::Json => {
            let mut json = serde_json::to_string_pretty(value).expect("results have string keys only");
            json.push('\n');
            json
        }
    });
}

/// Prints a line of a longer result: `value` as JSON in one line, or the text. `false` when nobody reads any more.
pub(crate) fn line_out<T: Serialize>(format: Format, value: &T, text: impl FnOnce() -> String) -> bool {
    match format {
        Format::Text => stdout(&text()),
        Format::Json => {
            let json = serde_json::to_string(value).expect("results have string keys only");
            stdout(&format!("{json}\n"))
        }
    }
}

/// Writes to stdout. Whoever reads has the right to stop reading (`| head`), so a failure there is not ours to report.
fn stdout(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// The same to stderr, where `eprint!` would panic.
fn stderr(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Asks whoever sits at the terminal whether to go on; no where nobody can be asked.
pub(crate) fn is_agreed(format: Format) -> bool {
    if format == Format::Json || !std::io::stdin().is_terminal() {
        return false;
    }
    line(&"go on? [y/N]");
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    ["y", "yes"].contains(&answer.trim().to_lowercase().as_str())
}

/// A line on stderr.
pub(crate) fn line(text: &impl fmt::Display) {
    stderr(&format!("{text}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn the_format_of_the_architecture() {
        let failure =
            Failure::new(Kind::Corrupt, "read `a.ltx`: checksum mismatch").hint("run `litekeep verify`");
        let error = Err::<(), _>(failure).context("restore `app.db`").unwrap_err();
        let report = Report::of(&error);
        assert_eq!(
            report.to_string(),
            "error: could not restore `app.db`\n  caused by: read `a.ltx`: checksum mismatch\nhint: run `litekeep verify`"
        );
        assert_eq!(
            serde_json::to_value(&report).unwrap(),
            serde_json::json!({
                "kind": "corrupt",
                "message": "could not restore `app.db`",
                "causes": ["read `a.ltx`: checksum mismatch"],
                "hint": "run `litekeep verify`",
            })
        );
    }

    /// Which of several databases failed was in the contexts above it, and they were dropped.
    #[test]
    fn contexts_above_the_report_of_another_litekeep_are_kept() {
        let failure = Failure::new(Kind::Corrupt, "no such table: t").hint("mend it");
        let error = anyhow::Error::new(failure).context("run `1_a.sql`").context("run the migrations");
        let error = anyhow::Error::new(Relayed(Report::of(&error)));
        let error = error.context("run the migrations of `b.db`").context("run everything");
        assert_eq!(
            Report::of(&error).to_string(),
            "error: could not run everything\n  caused by: run the migrations of `b.db`\n  caused by: run `1_a.sql`\n  \
             caused by: no such table: t\nhint: mend it"
        );
    }

    #[test]
    fn a_source_that_was_said_is_not_said_again() {
        #[derive(Debug)]
        struct Outer(std::io::Error);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "read `x`: {}", self.0)
            }
        }
        impl std::error::Error for Outer {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.0)
            }
        }
        let error = anyhow::Error::new(Outer(std::io::Error::other("broken"))).context("do it");
        assert_eq!(Report::of(&error).causes, ["read `x`: broken"]);
    }

    #[test]
    fn kinds_and_hints_come_from_the_lower_layers() {
        let error = litekeep_replicate::Error::from(litekeep_store::Error::Empty);
        let report = Report::of(&anyhow::Error::new(error).context("restore `app.db`"));
        assert_eq!(report.kind, Kind::Invalid);
        assert!(report.hint.unwrap().contains("`litekeep databases`"));
        let error = litekeep_sql::Error::Busy { context: "read the schema" };
        assert_eq!(Report::of(&error.into()).kind, Kind::Unavailable);
    }
}
