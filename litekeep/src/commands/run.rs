//! `litekeep run DB -- CMD...`: an application with its backup, also without any configuration.
//!
//! The application starts only when the database is fit: a missing one is restored first, and one that has nothing to do
//! with its backup is refused.

use anyhow::{Context as _, Result};

use super::replicate::{self, Scope};
use crate::args;
use crate::replication::Choices;
use crate::report::{Format, Outcome, log};

pub(super) async fn run(args: &args::Run, format: Format) -> Result<Outcome> {
    let what = || format!("run `{}`", args.command[0].to_string_lossy());
    let scope = match &args.database {
        Some(path) => Scope::of_one(path, &args.config, format),
        None => Scope::of_all(&args.config, format),
    };
    let scope = scope.with_context(what)?;
    log::start(scope.log, format);
    let run = replicate::Run {
        scope,
        choices: Choices::of_all(args.new_timeline),
        beside: replicate::Beside::Command(args.command.clone()),
        once: false,
    };
    run.run().await.with_context(what)
}
