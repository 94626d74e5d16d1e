//! The subcommands, one file each.

mod databases;
mod demo;
mod history;
mod init;
mod migrate;
mod replicate;
mod restore;
mod run;
mod status;
mod verify;
mod version;

use anyhow::Result;

use crate::args::{Args, Command};
use crate::report::{Outcome, log};

/// Runs what the command line asks for.
///
/// # Errors
/// Each with a verb phrase as its outermost context.
pub(crate) async fn run(args: Args) -> Result<Outcome> {
    let format = args.format();
    // Those that replicate log as their configuration says.
    if !matches!(args.command, Command::Replicate(_) | Command::Run(_)) {
        log::start_quiet(format);
    }
    match args.command {
        Command::Init(args) => init::run(&args, format),
        Command::Databases(args) => databases::run(&args, format),
        Command::Migrate(args) => migrate::run(&args, format).await,
        Command::History(args) => history::run(&args, format).await,
        Command::Status(args) => status::run(&args, format).await,
        Command::Restore(args) => restore::run(&args, format).await,
        Command::Replicate(args) => replicate::run(&args, format).await,
        Command::Run(args) => run::run(&args, format).await,
        Command::Verify(args) => verify::run(&args, format).await,
        Command::Demo(args) => demo::run(&args, format).await,
        Command::DemoWriter(args) => demo::write(&args),
        Command::Version => version::run(format),
    }
}
