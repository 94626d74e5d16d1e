//! The command line.
//!
//! Litestream's flags with one dash (`-config`, `-txid`) work beside the usual two dashes: [`single_dash`] rewrites them
//! before clap sees them.

pub(crate) mod cluster;
pub(crate) mod copy;
pub(crate) mod demo;
pub(crate) mod follow;
pub(crate) mod graduate;
mod single_dash;
pub(crate) mod sync;
pub(crate) mod wait;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};
use litekeep_ltx::Point;
use litekeep_replicate::restore::DEFAULT_PARALLELISM;
use litekeep_schema::migrations::{Convention, HARMS};

use crate::commands::Driver;
use crate::report::{Failure, Format};

/// Turns a SQLite file into a production database: continuous, verified backup with recovery to any second.
#[derive(Debug, Parser)]
#[command(name = "litekeep", version, disable_help_subcommand = true, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Print JSON on stdout, and errors as JSON on stderr
    #[arg(long, global = true)]
    json: bool,
}

impl Args {
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { Format::Text }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look at a database and write a commented litekeep.toml for it
    Init(Init),
    /// Write a litekeep.toml that does what the file of another process manager says
    Import(Import),
    /// List the databases of the configuration
    Databases(Databases),
    /// List the points that can be restored
    #[command(visible_alias = "ltx")]
    History(History),
    /// Show which rows differ between two moments, from the backup alone
    Diff(Diff),
    /// Take changes back on the live database, without the rows that were written since
    Undo(Undo),
    /// Print every changed row as it comes, one JSON object a line
    Changes(Changes),
    /// Copy a whole database to a server, or from one into SQLite, and compare every value
    Copy(copy::Copy),
    /// Move an application from SQLite to PostgreSQL, MySQL or MariaDB while it runs, without losing a row; from PostgreSQL also back
    Graduate(graduate::Graduate),
    /// Keep SQLite and another database in step: PostgreSQL, MySQL, MariaDB or MongoDB
    Sync(sync::Sync),
    /// Print a row of a server's table from the cache in SQLite, or from the server, which is then in SQLite, too; exit code 1 when there is none
    Get(sync::Get),
    /// Say what of a database cannot be as it is on another server: types, values, rules; exit code 1 when rows cannot go there
    Lint(PortabilityLint),
    /// Print the statements that make the tables of a database on another server
    Schema(Elsewhere),
    /// Say how far the backup is behind; exit code 1 when something is wrong
    Status(Status),
    /// Watch everything in the terminal, second by second
    Top(Top),
    /// Check settings, file, machine and backup, with the line to change for each finding; exit code 1 for a problem
    Doctor(Doctor),
    /// Set what persists in the file as production needs it, and print the lines for what does not
    Tune(Tune),
    /// Measure SQLite on this machine, with default settings and with tuned ones
    Bench(Bench),
    /// Bring a database back: the last state, or that of any transaction or instant
    Restore(Restore),
    /// Keep a live copy of a database on this machine, from its backup alone; other processes read it with any SQLite
    Follow(follow::Follow),
    /// Back up databases continuously, until told to stop
    Replicate(Replicate),
    /// Run a command beside the backup of its database
    Run(Run),
    /// Run everything in the configuration: databases with their backups, and the processes beside them
    Up(Up),
    /// Show what the processes print
    Logs(Logs),
    /// Show what happened to the processes
    Events(Events),
    /// Start processes that were stopped, or run jobs now
    Start(Processes),
    /// Stop processes; the backup goes on
    Stop(Processes),
    /// Stop processes and start them again
    Restart(Processes),
    /// Take the changed configuration: pending migrations first, then each new process before its old one goes
    Reload(Processes),
    /// End what `up` runs, and wait until the backup is complete
    Down(Down),
    /// Become the primary of the cluster, in the place of another node or of none
    Promote(cluster::Promote),
    /// Leave the lead of the cluster to another node, with everything confirmed
    Handoff(cluster::Handoff),
    /// Show the nodes of the cluster
    Cluster(cluster::Cluster),
    /// Show what was committed on this node and is not in the log that another node went on with
    Forks(cluster::Forks),
    /// Let systemd run `litekeep up`
    Service(Service),
    /// Restore into a scratch folder and compare each page with the live database; exit code 1 when one differs
    Verify(Verify),
    /// Wait until what is committed now is in the backup; exit code 1 when it is not in time
    Wait(wait::Wait),
    /// Change the schema by numbered files of SQL, each run once and under a guard
    Migrate(Migrate),
    /// Make a bank in a temporary folder, lose it under load, bring it back, and check every account
    Demo(demo::Demo),
    /// One writer of the demo
    #[command(hide = true)]
    DemoWriter(demo::DemoWriter),
    /// Print the versions of litekeep and of its SQLite
    Version,
}

impl Command {
    /// Whether it works beside an application until it is told to stop, and logs as its configuration says.
    pub(crate) fn goes_on(&self) -> bool {
        matches!(self, Command::Replicate(_) | Command::Run(_) | Command::Up(_))
    }
}

/// Which configuration.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ConfigArgs {
    /// Configuration: a litekeep.toml or a litestream.yml [default: litekeep.toml here, then in /etc]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Take each `$` in the configuration as it stands
    #[arg(long)]
    pub(crate) no_expand_env: bool,
}

impl ConfigArgs {
    /// The same for this program in another process.
    pub(crate) fn pass_on(&self, command: &mut tokio::process::Command) {
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        if self.no_expand_env {
            command.arg("--no-expand-env");
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    /// The database
    #[arg(value_name = "DB")]
    pub(crate) database: PathBuf,
    /// Where to back up to [default: a folder beside the database]
    #[arg(long, value_name = "URL")]
    pub(crate) to: Option<String>,
    /// The file to write
    #[arg(long, value_name = "FILE", default_value = "litekeep.toml")]
    pub(crate) config: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// An ecosystem.config.json of PM2, a Procfile, or an oxfile.toml
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "FILE", default_value = "litekeep.toml")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Databases {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Migrate {
    #[command(subcommand)]
    pub(crate) action: MigrateAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MigrateAction {
    /// Make an empty migration
    New {
        /// What it does: add_orders
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        dir: MigrationsDir,
    },
    /// Run what is pending; of several that start at once one does it, and the others wait
    Up(MigrateUp),
    /// Run what is pending on a copy from the backup, and say what it costs; exit code 1 when the copy is damaged then
    Rehearse(MigrateTarget),
    /// Take back the last one, by its own `-- migrate:down`
    Down(MigrateTarget),
    /// Restore the state before the last `up` from the backup
    Undo(MigrateUndo),
    /// List the migrations; exit code 1 when one is pending
    Status(MigrateStatus),
    /// Say what pending migrations destroy, whom they break and where they fail; exit code 1 when something is found
    Lint(MigrateLint),
    /// Write a migration that rebuilds a table so that no index, trigger, view or child row goes with it
    Rewrite(MigrateRewrite),
}

#[derive(Debug, clap::Args)]
pub(crate) struct MigrationsDir {
    /// The folder with the files [default: migrations, or db/migrations where only that exists]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Whose files they are: dbmate, drizzle, sqlx, refinery, golang-migrate, prisma [default: found out]
    #[arg(long, value_name = "NAME", value_parser = convention)]
    pub(crate) convention: Option<Convention>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MigrateUp {
    #[command(flatten)]
    pub(crate) target: MigrateTarget,
    /// Let another program do it, by `sh -c`: {db} and DATABASE_URL are the database
    #[arg(long, value_name = "CMD")]
    pub(crate) command: Option<String>,
    /// Let it work on a copy first, and on the database only if nothing was lost there
    #[arg(long, requires = "command")]
    pub(crate) rehearse: bool,
    /// What the program may do
    #[arg(long, value_name = "CODE", requires = "command", value_parser = HARMS)]
    pub(crate) allow: Vec<String>,
    /// All databases of the configuration
    #[arg(long, conflicts_with_all = OF_ONE)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) fleet: MigrateFleet,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MigrateStatus {
    #[command(flatten)]
    pub(crate) target: MigrateTarget,
    /// All databases of the configuration, of which those that are not up to date are named
    #[arg(long, conflicts_with = "database")]
    pub(crate) all: bool,
}

/// What excludes `--all`, and so what needs it: clap demands nothing that something given excludes.
const OF_ONE: [&str; 2] = ["database", "command"];

/// How many at a time.
#[derive(Debug, clap::Args)]
pub(crate) struct MigrateFleet {
    /// So many databases first; if one of them fails, no other is touched. Those that the run before has done count
    #[arg(long, value_name = "N", default_value_t = 1, requires = "all", conflicts_with_all = OF_ONE)]
    pub(crate) canary: usize,
    /// Then so many at a time, with a look at the failures between
    #[arg(long, value_name = "N", default_value_t = 200, requires = "all", conflicts_with_all = OF_ONE, value_parser = at_least_one)]
    pub(crate) wave: usize,
    /// Databases at the same time
    #[arg(long, value_name = "N", default_value_t = 16, requires = "all", conflicts_with_all = OF_ONE, value_parser = at_least_one)]
    pub(crate) workers: usize,
    /// Stop when more than so many have failed
    #[arg(long, value_name = "N", default_value_t = 0, requires = "all", conflicts_with_all = OF_ONE)]
    pub(crate) max_failures: usize,
    /// Notes what is done, for the next run after one that stopped [default: beside the configuration]
    #[arg(long, value_name = "FILE", requires = "all", conflicts_with_all = OF_ONE)]
    pub(crate) journal: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MigrateUndo {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The database [default: the only one of the configuration]
    #[arg(value_name = "DB")]
    pub(crate) database: Option<PathBuf>,
    /// Go on although later transactions are lost
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MigrateLint {
    /// The folder with the files, as --dir
    #[arg(value_name = "DIR", conflicts_with = "dir")]
    pub(crate) folder: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) dir: MigrationsDir,
    /// A database: its schema and rows are asked, and only what has not run there is read
    #[arg(long, value_name = "DB")]
    pub(crate) db: Option<PathBuf>,
    /// Also find what Postgres or MySQL would not understand
    #[arg(long)]
    pub(crate) portable: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MigrateRewrite {
    /// The migration, or a file with the CREATE TABLE of a table as it shall be
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The file to write [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// The table that the only CREATE TABLE of the file describes [default: the one that it names]
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: Option<String>,
    /// The database whose schema it meets [default: what the migrations before it make]
    #[arg(long, value_name = "DB")]
    pub(crate) db: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) dir: MigrationsDir,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MigrateTarget {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    #[command(flatten)]
    pub(crate) dir: MigrationsDir,
    /// The database [default: the only one of the configuration]
    #[arg(value_name = "DB")]
    pub(crate) database: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Top {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct History {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// A database, or the URL of a backup [default: all databases of the configuration]
    #[arg(value_name = "DB|URL")]
    pub(crate) target: Option<String>,
    /// Read the time of each file from the file itself: a request each, exact also where uploads came late
    #[arg(long)]
    pub(crate) exact: bool,
    /// List transactions with the tables that they touched and how many rows, instead of files
    #[arg(long)]
    pub(crate) rows: bool,
    /// Only transactions that touched this table
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: Option<String>,
    /// With --table: what happened to one row: --key 7 (of the primary key, else the rowid), --key name=x, --key a=1,b=x
    #[arg(long, value_name = "KEY", requires = "table", allow_hyphen_values = true)]
    pub(crate) key: Option<String>,
    /// With --rows or --table: begin after this moment [default: the first point of the backup]
    #[arg(long, value_name = "MOMENT")]
    pub(crate) from: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Diff {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// A database, or the URL of a backup [default: the database of the configuration]
    #[arg(value_name = "DB|URL")]
    pub(crate) target: Option<String>,
    /// The earlier moment: a transaction, or a time as `restore --at` takes it ("5 min ago", 14:03:07)
    #[arg(long, value_name = "MOMENT")]
    pub(crate) from: String,
    /// The later moment [default: the last transaction of the backup]
    #[arg(long, value_name = "MOMENT")]
    pub(crate) to: Option<String>,
    /// Only this table; may be repeated
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: Vec<String>,
    /// Only rows that fulfil this condition, before or after: "balance < 0"
    #[arg(long = "where", value_name = "SQL", requires = "table")]
    pub(crate) condition: Option<String>,
    /// Print the statements that make the changes again
    #[arg(long, conflicts_with = "json")]
    pub(crate) sql: bool,
    /// Print the statements that take the changes back
    #[arg(long, conflicts_with_all = ["json", "sql"])]
    pub(crate) undo_sql: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Undo {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The database
    #[arg(value_name = "DB")]
    pub(crate) database: PathBuf,
    /// Take this transaction back, or with `.` and a number one commit of it
    #[arg(long, value_name = "TXID", conflicts_with_all = ["from", "to"])]
    pub(crate) txid: Option<Point>,
    /// Take back what was changed after this moment: a transaction, or a time ("5 min ago", 14:03:07)
    #[arg(long, value_name = "MOMENT")]
    pub(crate) from: Option<String>,
    /// Up to this moment [default: the last transaction of the backup]
    #[arg(long, value_name = "MOMENT", requires = "from")]
    pub(crate) to: Option<String>,
    /// Only this table; may be repeated
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: Vec<String>,
    /// Only rows that fulfil this condition, before or after: "balance < 0"
    #[arg(long = "where", value_name = "SQL", requires = "table")]
    pub(crate) condition: Option<String>,
    /// Do it without asking
    #[arg(long)]
    pub(crate) yes: bool,
    /// Say what would be done, and change nothing
    #[arg(long, conflicts_with = "yes")]
    pub(crate) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Changes {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// A database, or the URL of a backup [default: the database of the configuration]
    #[arg(value_name = "DB|URL")]
    pub(crate) target: Option<String>,
    /// Begin after this moment: a transaction, or a time ("5 min ago") [default with --follow: now]
    #[arg(long, value_name = "MOMENT")]
    pub(crate) from: Option<String>,
    /// Go on with what is to come
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only this table; may be repeated
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: Vec<String>,
    /// Only rows that fulfil this condition, before or after
    #[arg(long = "where", value_name = "SQL", requires = "table")]
    pub(crate) condition: Option<String>,
    /// Deliver to a file or a broker instead of printing: /srv/events.jsonl, nats://host/subject, redis://host/0?stream=NAME,
    /// amqp://host/vhost?exchange=NAME&routing_key=KEY
    #[arg(long, value_name = "URL", requires = "position")]
    pub(crate) to: Option<String>,
    /// Where the position is kept, from which the next run goes on
    #[arg(long, value_name = "FILE", requires = "to")]
    pub(crate) position: Option<PathBuf>,
    /// Certificate authorities to trust instead of the system's
    #[arg(long, value_name = "FILE", requires = "to")]
    pub(crate) ca_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// A database [default: all databases of the configuration]
    #[arg(value_name = "DB")]
    pub(crate) target: Option<String>,
}

/// A database, and where it shall be.
#[derive(Debug, clap::Args)]
pub(crate) struct Elsewhere {
    /// The database
    #[arg(value_name = "DB")]
    pub(crate) db: PathBuf,
    /// The other server
    #[arg(long = "for", alias = "target", value_name = "SERVER")]
    pub(crate) server: Server,
}

/// What shall be on another server.
#[derive(Debug, clap::Args)]
pub(crate) struct PortabilityLint {
    /// A database, or files with SQL that is written for SQLite (*.sql)
    #[arg(value_name = "DB|FILE.sql", required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// The other server
    #[arg(long = "for", alias = "target", value_name = "SERVER")]
    pub(crate) server: Server,
}

/// A kind of server.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Server {
    Postgres,
    Mysql,
    Mariadb,
    Mongodb,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// A database [default: all databases of the configuration]
    #[arg(value_name = "DB")]
    pub(crate) target: Option<PathBuf>,
    /// Ask this driver: better-sqlite3, node:sqlite, python, rails, django, go [default: those of the project here]
    #[arg(long, value_name = "NAME", value_parser = driver)]
    pub(crate) driver: Option<Driver>,
    /// Ask the application itself: a command (by `sh -c`) that prints its pragmas as JSON; {db} is the database
    #[arg(long, value_name = "CMD", conflicts_with = "driver")]
    pub(crate) command: Option<String>,
    /// Also print what SQLite is not for
    #[arg(long)]
    pub(crate) limits: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Tune {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// A database [default: all databases of the configuration]
    #[arg(value_name = "DB")]
    pub(crate) target: Option<PathBuf>,
    /// Do it, and not only say it
    #[arg(long)]
    pub(crate) apply: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Bench {
    /// Where to measure, in a folder that goes away afterwards
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Seconds for all measurements
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub(crate) seconds: u64,
    /// Also read from this Postgres, with TLS unless it is this machine's: postgres://USER:PASSWORD@HOST/DATABASE
    #[arg(long, value_name = "URL")]
    pub(crate) postgres: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// A database, or the URL of a backup
    #[arg(value_name = "DB|URL")]
    pub(crate) target: String,
    /// The file to restore to [default: the database itself]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Restore to this transaction (hexadecimal, as `litekeep history` shows it), or with `.` and a number to a commit within it
    #[arg(long, value_name = "TXID", group = "goal")]
    pub(crate) txid: Option<Point>,
    /// Restore to this instant, RFC 3339
    #[arg(long, value_name = "TIME", group = "goal")]
    pub(crate) timestamp: Option<String>,
    /// Restore to this instant: "5 min ago", 14:03:07, "yesterday 14:00", RFC 3339, Unix seconds; local time
    #[arg(long, value_name = "WHEN", group = "goal")]
    pub(crate) at: Option<String>,
    /// Replace an existing database, which is kept aside
    #[arg(long)]
    pub(crate) force: bool,
    /// Do nothing, successfully, where the database exists
    #[arg(long)]
    pub(crate) if_db_not_exists: bool,
    /// Do nothing, successfully, where there is no backup
    #[arg(long)]
    pub(crate) if_replica_exists: bool,
    /// Also let SQLite check the restored database
    #[arg(long, value_name = "MODE", value_enum, default_value = "none")]
    pub(crate) integrity_check: IntegrityCheck,
    /// Requests at the same time
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PARALLELISM, value_parser = parallelism)]
    pub(crate) parallelism: usize,
    /// Say what would be restored, and restore nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Bring the rows of this table back into the live database as they were, instead of the whole database; may be repeated
    #[arg(long, value_name = "TABLE")]
    pub(crate) table: Vec<String>,
    /// With --table: only rows that fulfil this condition, then or now: "customer = 7"
    #[arg(long = "where", value_name = "SQL", requires = "table")]
    pub(crate) condition: Option<String>,
    /// With --table: remove rows that are new since
    #[arg(long, requires = "table")]
    pub(crate) exact: bool,
    /// With --table: do it without asking
    #[arg(long, requires = "table", conflicts_with = "dry_run")]
    pub(crate) yes: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Replicate {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// One database, instead of those of the configuration
    #[arg(value_name = "DB")]
    pub(crate) database: Option<PathBuf>,
    /// Where it is backed up to [default: as the configuration says]
    #[arg(value_name = "URL", requires = "database")]
    pub(crate) urls: Vec<String>,
    /// Run a command (by `sh -c`), and stop when it ends
    #[arg(long, value_name = "CMD")]
    pub(crate) exec: Option<String>,
    /// Bring the backups up to date once, and stop
    #[arg(long, conflicts_with = "exec")]
    pub(crate) once: bool,
    /// Restore each database that does not exist before it is replicated
    #[arg(long)]
    pub(crate) restore_if_db_not_exists: bool,
    /// Go on with a database that shares no history with its backup, or anew where the backup is gone
    #[arg(long)]
    pub(crate) new_timeline: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The database [default: all databases of the configuration]
    #[arg(value_name = "DB")]
    pub(crate) database: Option<PathBuf>,
    /// Go on with a database that shares no history with its backup, or anew where the backup is gone
    #[arg(long)]
    pub(crate) new_timeline: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Go on in the background, once everything has started
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Keep what the processes print to the log files
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Go on with a database that shares no history with its backup, or anew where the backup is gone
    #[arg(long)]
    pub(crate) new_timeline: bool,
    /// Whether this is the background itself
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Processes [default: all]
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Go on with what they print from now on
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How many lines
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    pub(crate) lines: usize,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Events {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Go on with what happens from now on
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How many events
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    pub(crate) lines: usize,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Processes {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Processes [default: all]
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Service {
    #[command(subcommand)]
    pub(crate) action: ServiceAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceAction {
    /// Write a unit and have systemd check it
    Install(ServiceTarget),
    /// Print the unit
    Show(ServiceTarget),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ServiceTarget {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// The service's name
    #[arg(long, value_name = "NAME", default_value = "litekeep")]
    pub(crate) name: String,
    /// For this user only, without root
    #[arg(long)]
    pub(crate) user: bool,
    /// The user that it runs as [default: root]
    #[arg(long, value_name = "USER", conflicts_with = "user")]
    pub(crate) run_as: Option<String>,
    /// Where units are [default: /etc/systemd/system, or ~/.config/systemd/user]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Down {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// A database [default: all databases of the configuration]
    #[arg(value_name = "DB")]
    pub(crate) target: Option<String>,
    /// Where to restore to; needs as much space as the database [default: beside the database]
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,
    /// Seconds to wait until the backup has the last commits
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) patience: u64,
}

/// What SQLite checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum IntegrityCheck {
    /// Nothing: the checksums of the backup are checked in any case
    None,
    /// PRAGMA quick_check
    Quick,
    /// PRAGMA integrity_check
    Full,
}

fn parallelism(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=256) => Ok(n),
        _ => Err("write a number from 1 to 256".to_owned()),
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "write a number from 1".to_owned())
}

fn convention(name: &str) -> Result<Convention, String> {
    Convention::named(name).ok_or_else(|| {
        let known = Convention::ALL.map(Convention::name);
        format!("write one of {}", known.join(", "))
    })
}

fn driver(name: &str) -> Result<Driver, String> {
    Driver::named(name).ok_or_else(|| format!("write one of {}", Driver::ALL.map(Driver::name).join(", ")))
}

/// Why a command line was not taken.
#[derive(Debug)]
pub(crate) enum Rejected {
    /// Clap's words, or a request for help.
    Clap(clap::Error),
    /// A flag with one dash that we do not have.
    Flag(Failure),
}

/// Reads a command line, the program's name first.
pub(crate) fn parse(argv: Vec<OsString>) -> Result<Args, Rejected> {
    let argv = single_dash::normalise(argv, &Args::command()).map_err(Rejected::Flag)?;
    Args::try_parse_from(argv).map_err(Rejected::Clap)
}

/// How to report, known before the command line is understood: its errors are reported too.
pub(crate) fn format_of(argv: &[OsString]) -> Format {
    let own = argv.iter().take_while(|argument| *argument != "--");
    let json = own.into_iter().any(|argument| argument == "--json" || argument == "-json");
    if json { Format::Json } else { Format::Text }
}

#[cfg(test)]
mod tests;
