//! `litekeep migrate up --command`: another program migrates, and what it did is held against what was there.
//!
//! The write lock cannot be held for it, so harm is found after it is done: `--rehearse` finds it on a copy, and what is done to
//! the database itself can be undone where there is a backup. Of several that come at once each runs it in its turn.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use litekeep_config::MigrationProgram;
use litekeep_schema::migrations::{self, HARMS, Survey};
use serde::Serialize;

use super::fresh::Fresh;
use super::marks::Marking;
use super::only;
use super::turn::Turn;
use super::waiting::{PATIENCE, Patience};
use crate::args;
use crate::report::{self, Failure, Format, Outcome, text};
use crate::scratch::Scratch;
use crate::settings::Database;

#[derive(Serialize)]
struct Commanded {
    database: PathBuf,
    /// It was not there before.
    created: bool,
    command: String,
    rehearsed: bool,
    /// The schema or a number of rows is not what it was.
    changed: bool,
}

pub(super) fn run(args: &args::MigrateUp, command: &str, format: Format) -> Result<Outcome> {
    let (database, known) = only(&args.target, "up", format)?;
    let program = MigrationProgram {
        command: command.to_owned(),
        cwd: PathBuf::from("."),
        rehearse: args.rehearse,
        allow: args.allow.clone(),
    };
    run_program(database, known, &program, format)
}

/// The same with the program that the configuration names.
pub(super) fn run_program(
    database: PathBuf,
    known: Option<Database>,
    program: &MigrationProgram,
    format: Format,
) -> Result<Outcome> {
    let doing = || format!("run the migrations of `{}`", database.display());
    let _turn = Turn::wait(&database, known.as_ref(), PATIENCE, format).with_context(doing)?;
    let fresh = Fresh::of(&database);
    let changed = migrate(&database, known, program, PATIENCE, format);
    fresh.tell(format);
    let changed = changed?;
    let (command, rehearsed) = (program.command.clone(), program.rehearse);
    let commanded = Commanded { created: fresh.is_made(), database, command, rehearsed, changed };
    report::result(format, &commanded, || {
        let what = if commanded.changed { "nothing was lost" } else { "nothing has changed" };
        format!("`{}`: {what}\n", commanded.database.display())
    });
    Ok(Outcome::Done)
}

/// Lets the program migrate under the guard, by whoever has the turn; whether the schema or a number of rows is another one then.
pub(super) fn migrate(
    database: &Path,
    known: Option<Database>,
    program: &MigrationProgram,
    patience: Patience,
    format: Format,
) -> Result<bool> {
    let command = &program.command;
    if let Some(code) = program.allow.iter().find(|code| !HARMS.contains(&code.as_str())) {
        let failure = Failure::invalid(format!("`{code}` cannot be allowed: there is no such loss"));
        return Err(failure.hint(format!("there are {}", HARMS.join(", "))).into());
    }
    if program.rehearse {
        rehearse(database, program).with_context(|| format!("rehearse `{command}` on a copy"))?;
    }
    let mut marking = Marking::of(database, known, patience, format);
    let before = survey(database)?;
    marking.set(command).context("mark the state before")?;
    let ran = start(program, database);
    let after = survey(database)?;
    let has_way_back = marking.has_way_back();
    marking.keep_if_changed().context("mark the state before")?;
    if let Some(harms) = harms(&before, &after, &program.allow) {
        let way_back = match has_way_back {
            true => format!(
                "`litekeep migrate undo {}` restores the state before",
                text::shell_word(&database.to_string_lossy())
            ),
            false => "there is no backup of the state before; with --rehearse a copy comes to harm first"
                .to_owned(),
        };
        let failure = Failure::invalid(format!("`{command}` has changed the database: {harms}"));
        return Err(anyhow::Error::from(failure.hint(way_back)).context("let another program migrate"));
    }
    ran.context("let another program migrate")?;
    Ok(before != after)
}

fn rehearse(database: &Path, program: &MigrationProgram) -> Result<()> {
    let beside = database.parent().filter(|parent| !parent.as_os_str().is_empty());
    let scratch = Scratch::beside(beside.unwrap_or(Path::new(".")), ".litekeep-rehearsal-")?;
    // Some tools go by the name.
    let copy = scratch.path().join(database.file_name().unwrap_or_default());
    let real = survey(database)?;
    migrations::copy(database, &copy)?;
    let before = survey(&copy)?;
    let ran = start(program, &copy);
    let after = survey(&copy)?;
    if before == after && survey(database)? != real {
        let failure = Failure::invalid("the copy is as it was, and the database itself has changed");
        return Err(failure
            .hint("let the program take the database from DATABASE_URL, or write {db} in the command")
            .into());
    }
    if let Some(harms) = harms(&before, &after, &program.allow) {
        let failure = Failure::invalid(format!("on the copy {harms}; the database itself is untouched"));
        let hint = "where that is meant, `--allow CODE`; foreign keys that are on while a table is rebuilt delete the rows that refer to it";
        return Err(failure.hint(hint).into());
    }
    ran
}

fn survey(database: &Path) -> Result<Survey> {
    Ok(Survey::of(database)?)
}

fn harms(before: &Survey, after: &Survey, allow: &[String]) -> Option<String> {
    let harms = before.harms(after, allow);
    let all: Vec<_> = harms.iter().map(|harm| format!("{harm} ({})", harm.code())).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// Runs the program; what it prints is no result of ours, and goes to stderr.
fn start(MigrationProgram { command, cwd, .. }: &MigrationProgram, database: &Path) -> Result<()> {
    let path = std::path::absolute(database).context("find the database")?;
    let url = url(std::env::var("DATABASE_URL").ok().as_deref(), &path);
    let line = command.replace("{db}", &text::shell_word(&path.to_string_lossy()));
    let mut shell = Command::new("sh");
    shell.args(["-c", &line]).env("DATABASE_URL", url).env("LITEKEEP_DATABASE", &path).current_dir(cwd);
    let status = shell.stdin(Stdio::null()).stdout(std::io::stderr()).status();
    let status = status.map_err(|error| Failure::io(format!("start `sh` in `{}`", cwd.display()), &error))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::invalid(format!("`{command}` ended with {status}")).into())
}

/// The database in the words of the tool: with the scheme and the slashes of the URL that the user has set.
fn url(set: Option<&str>, path: &Path) -> String {
    let scheme = set.and_then(|set| {
        let (scheme, rest) = set.split_once(':')?;
        let slashes = rest.bytes().take_while(|byte| *byte == b'/').count();
        // The last of an odd number but three is the path's own.
        let own = match slashes {
            0 | 1 => 0,
            2 => 2,
            _ => 3,
        };
        Some(format!("{scheme}:{}", "/".repeat(own)))
    });
    format!("{}{}", scheme.unwrap_or_else(|| "sqlite:".to_owned()), path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_is_as_the_tool_writes_it() {
        let of = |set| url(set, Path::new("/srv/app.db"));
        assert_eq!(of(None), "sqlite:/srv/app.db");
        assert_eq!(of(Some("file:./dev.db")), "file:/srv/app.db");
        assert_eq!(of(Some("sqlite:/old.db")), "sqlite:/srv/app.db");
        assert_eq!(of(Some("sqlite://dev.db")), "sqlite:///srv/app.db");
        assert_eq!(of(Some("sqlite:///dev.db")), "sqlite:////srv/app.db");
        assert_eq!(of(Some("sqlite:////old/app.db")), "sqlite:////srv/app.db");
    }
}
