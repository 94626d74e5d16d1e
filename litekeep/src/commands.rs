//! The subcommands, one file each.

mod ask;
mod bench;
mod changes;
mod cluster;
mod copy;
mod databases;
mod demo;
mod diff;
mod doctor;
mod follow;
mod forks;
mod get;
mod graduate;
pub(crate) mod history;
mod import;
mod init;
mod migrate;
mod portability;
pub(crate) mod replicate;
mod restore;
mod row_history;
mod run;
mod service;
pub(crate) mod status;
mod sync;
mod top;
mod tune;
mod undo;
mod up;
mod verify;
mod version;
mod wait;

use anyhow::Result;

pub(crate) use doctor::Driver;

use crate::args::{Args, Command};
use crate::report::{Outcome, log};

/// Runs what the command line asks for.
///
/// # Errors
/// Each with a verb phrase as its outermost context.
pub(crate) async fn run(args: Args) -> Result<Outcome> {
    let format = args.format();
    // Those that replicate log as their configuration says.
    if !args.command.goes_on() {
        log::start_quiet(format);
    }
    match args.command {
        Command::Init(args) => init::run(&args, format),
        Command::Import(args) => import::run(&args, format),
        Command::Databases(args) => databases::run(&args, format),
        Command::Migrate(args) => migrate::run(&args, format).await,
        Command::History(args) if args.rows || args.table.is_some() || args.from.is_some() => {
            row_history::run(&args, format).await
        }
        Command::History(args) => history::run(&args, format).await,
        Command::Diff(args) => diff::run(&args, format).await,
        Command::Undo(args) => undo::run(&args, format).await,
        Command::Changes(args) => changes::run(&args, format).await,
        Command::Copy(args) => copy::run(&args, format).await,
        Command::Graduate(args) => graduate::run(&args, format).await,
        Command::Sync(args) => sync::run(&args, format).await,
        Command::Get(args) => get::run(&args, format).await,
        Command::Lint(args) => portability::lint(&args, format).await,
        Command::Schema(args) => portability::schema(&args, format).await,
        Command::Doctor(args) => doctor::run(&args, format).await,
        Command::Tune(args) => tune::run(&args, format),
        Command::Bench(args) => bench::run(&args, format).await,
        Command::Status(args) => status::run(&args, format).await,
        Command::Top(args) => top::run(&args, format).await,
        Command::Restore(args) => restore::run(&args, format).await,
        Command::Follow(args) => follow::run(&args, format).await,
        Command::Replicate(args) => replicate::run(&args, format).await,
        Command::Run(args) => run::run(&args, format).await,
        Command::Up(args) => up::run(&args, format).await,
        Command::Logs(args) => ask::logs(&args, format).await,
        Command::Events(args) => ask::events(&args, format).await,
        Command::Start(args) => ask::start(&args, format).await,
        Command::Stop(args) => ask::stop(&args, format).await,
        Command::Restart(args) => ask::restart(&args, format).await,
        Command::Reload(args) => ask::reload(&args, format).await,
        Command::Promote(args) => cluster::promote(&args, format).await,
        Command::Handoff(args) => cluster::handoff(&args, format).await,
        Command::Cluster(args) => cluster::cluster(&args, format).await,
        Command::Forks(args) => forks::run(&args, format).await,
        Command::Service(args) => service::run(&args, format),
        Command::Down(args) => ask::down(&args, format).await,
        Command::Verify(args) => verify::run(&args, format).await,
        Command::Wait(args) => wait::run(&args, format).await,
        Command::Demo(args) => demo::run(&args, format).await,
        Command::DemoWriter(args) => demo::write(&args),
        Command::Version => version::run(format),
    }
}
