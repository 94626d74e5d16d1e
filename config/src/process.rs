//! Processes and jobs: what `litekeep up` runs.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::cron::Cron;
use crate::secret::Secret;

/// One `[process.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessConfig {
    /// Its name: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// What is executed, and in which surroundings.
    pub run: RunConfig,
    /// How many of it there are.
    pub instances: u32,
    /// Which ends are followed by a new start.
    pub restart: Restart,
    /// After this many crashes without a stable run between them it counts as failed, and is tried again slowly.
    pub restart_limit: u32,
    /// The wait from the second crash on grows from the first of these to the second.
    pub backoff: (Duration, Duration),
    /// The signal that asks it to end, without `SIG`.
    pub stop_signal: String,
    /// How long it may take to end before it is killed.
    pub stop_timeout: Duration,
    /// Waited before the first start.
    pub start_delay: Duration,
    /// What must have been reached before it starts.
    pub depends_on: Vec<(String, Until)>,
    /// Whether it may be used.
    pub health: Option<Check<Probe>>,
    /// Whether it is to be ended and started anew.
    pub liveness: Option<Check<Probe>>,
    /// How long the new run of a reload may take to become ready.
    pub ready_timeout: Duration,
    /// What its whole tree may use.
    pub limits: Limits,
    /// Sockets that litekeep holds open for it, each with its name in `LISTEN_FDNAMES`.
    pub listen: Vec<(String, Listen)>,
    /// The port of litekeep's proxy, for programs that cannot take a socket: each instance gets `PORT` of its own.
    pub proxy: Option<SocketAddr>,
    /// It is reloaded when one of these changes.
    pub watch: Option<WatchConfig>,
    /// Where its output is kept.
    pub log: ProcessLog,
    /// Commands that run when something happened to it.
    pub hooks: Vec<(Hook, Command)>,
    /// `litestream replicate`, whose work is litekeep's own, unless `native = false` wants the program.
    pub litestream: Option<Litestream>,
    /// In a cluster it runs on the primary only.
    pub if_primary: bool,
    /// In a cluster, what becomes of it when its node changes roles.
    pub on_role_change: OnRoleChange,
}

/// What becomes of a process that runs in every role when its node changes roles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OnRoleChange {
    /// It is reloaded, with another `LITEKEEP_ROLE`.
    #[default]
    Restart,
    /// It gets this signal, named without `SIG`.
    Signal(String),
    /// It goes on.
    Nothing,
}

impl ProcessConfig {
    /// A process with the documented defaults.
    pub fn new(name: impl Into<String>, command: Command) -> Self {
        Self {
            name: name.into(),
            run: RunConfig::new(command),
            instances: 1,
            restart: Restart::default(),
            restart_limit: 10,
            backoff: (Duration::from_millis(100), Duration::from_secs(30)),
            stop_signal: "TERM".into(),
            stop_timeout: Duration::from_secs(10),
            start_delay: Duration::ZERO,
            depends_on: Vec::new(),
            health: None,
            liveness: None,
            ready_timeout: Duration::from_secs(60),
            limits: Limits::default(),
            listen: Vec::new(),
            proxy: None,
            watch: None,
            log: ProcessLog::default(),
            hooks: Vec::new(),
            litestream: None,
            if_primary: false,
            on_role_change: OnRoleChange::default(),
        }
    }
}

/// A command in its surroundings.
#[derive(Clone, Debug, PartialEq)]
pub struct RunConfig {
    /// What is executed.
    pub command: Command,
    /// The working directory; `None`: the folder of the configuration.
    pub cwd: Option<PathBuf>,
    /// Variables over those of `env_file`, which are over litekeep's own. A value may be secret.
    pub env: Vec<(String, Secret)>,
    /// Lines `NAME=VALUE`, read at each start.
    pub env_file: Option<PathBuf>,
    /// A user's name or number.
    pub user: Option<String>,
    /// A group's name or number; the user's if none.
    pub group: Option<String>,
    /// The umask.
    pub umask: Option<u32>,
    /// Soft and hard limit of each resource, by the resource's name in small letters (`nofile`, `core`); `None` is unlimited.
    pub rlimits: Vec<(String, Option<u64>, Option<u64>)>,
}

impl RunConfig {
    /// A command in litekeep's own surroundings.
    pub fn new(command: Command) -> Self {
        Self {
            command,
            cwd: None,
            env: Vec::new(),
            env_file: None,
            user: None,
            group: None,
            umask: None,
            rlimits: Vec::new(),
        }
    }
}

/// What is executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A program and its arguments: a list, or a line in which a shell would find words only.
    Words(Vec<String>),
    /// A line for `sh -c`.
    Shell(String),
}

/// Which ends are followed by a new start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// Every end but exit code 0.
    #[default]
    OnFailure,
    /// Every end that nobody asked for.
    Always,
    /// None: a one-shot.
    Never,
}

/// What a dependency must have reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The process runs.
    Started,
    /// The process is ready.
    Healthy,
    /// The process ended with exit code 0.
    CompletedSuccessfully,
    /// The database (by its path) is there: it existed, or was restored.
    DbRestored,
    /// No migration of the database is pending.
    Migrated,
    /// The backup of the database has its first copy and is not red.
    Replicating,
}

/// A check with its times and thresholds; `P` says how a process is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Check<P> {
    /// How it is asked.
    pub probe: P,
    /// Failures this soon after the start do not count until the first success.
    pub start_period: Duration,
    /// From one probe's end to the next.
    pub interval: Duration,
    /// A probe that takes longer has failed.
    pub timeout: Duration,
    /// So many successes in a row make it fit.
    pub successes: u32,
    /// So many failures in a row make it unfit.
    pub failures: u32,
}

impl<P> Check<P> {
    /// A check with the documented times.
    pub fn new(probe: P) -> Self {
        Self {
            probe,
            start_period: Duration::from_secs(30),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            successes: 1,
            failures: 3,
        }
    }

    /// The same times and thresholds of another probe.
    pub fn asking<Q>(&self, probe: Q) -> Check<Q> {
        let Self { start_period, interval, timeout, successes, failures, .. } = *self;
        Check { probe, start_period, interval, timeout, successes, failures }
    }
}

/// How a process is asked whether it is fit.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// A GET, answered with a status below 400.
    Http {
        /// `http://HOST[:PORT][/PATH]`; `{port}` stands for the instance's own port behind the proxy.
        url: String,
        /// The answer must contain the run's `LITEKEEP_INSTANCE`.
        names_instance: bool,
    },
    /// Something accepts connections at `HOST:PORT`, with the same `{port}`.
    Tcp(String),
    /// It says so itself, by sd_notify(3): nobody asks.
    Notify,
    /// A command ends with 0.
    Exec(Command),
    /// A database answers a quick read, its WAL is not above a size, its backup not behind by more than a time.
    Sqlite {
        /// The database.
        path: PathBuf,
        /// In bytes.
        max_wal: Option<u64>,
        /// The age of the oldest commit that no destination has confirmed.
        max_lag: Option<Duration>,
    },
}

/// What a whole tree of processes may use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    /// Processors: 0.5 is half of one.
    pub cpu: Option<f64>,
}

/// A socket that litekeep holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// `HOST:PORT`.
    Tcp(SocketAddr),
    /// `unix:PATH`.
    Unix(PathBuf),
}

/// Files whose change means a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchConfig {
    /// Files and folders; folders with everything below them.
    pub paths: Vec<PathBuf>,
    /// Names that are not looked at (`node_modules`, `*.log`).
    pub ignore: Vec<String>,
    /// How long nothing must have changed before the reload.
    pub delay: Duration,
}

/// How the output of a process is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessLog {
    /// The file; `None`: `log/NAME.log` in litekeep's own folder.
    pub path: Option<PathBuf>,
    /// The file is rotated before it grows beyond this many bytes.
    pub max_size: u64,
    /// The file is rotated when it is older.
    pub max_age: Option<Duration>,
    /// How many rotated files stay.
    pub keep: u32,
    /// Whether rotated files are compressed.
    pub compress: bool,
}

impl Default for ProcessLog {
    fn default() -> Self {
        Self { path: None, max_size: 10 << 20, max_age: None, keep: 5, compress: true }
    }
}

/// What happened to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// It became ready.
    Healthy,
    /// It crashed, or was ended because it was unfit.
    Crashed,
    /// It counts as failed.
    Failed,
    /// It was stopped.
    Stopped,
}

/// The arguments of a `litestream replicate`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Litestream {
    /// The program itself is to run, and litekeep leaves its databases alone.
    pub foreign: bool,
    /// `-config`; `None` with a database of its own on the command line, else `/etc/litestream.yml`.
    pub config: Option<PathBuf>,
    /// The database and the places that it is copied to.
    pub database: Option<(PathBuf, Vec<String>)>,
    /// `-exec`: what litestream would run itself, which becomes the process's command.
    pub exec: Option<String>,
}

/// One `[job.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct JobConfig {
    /// Its name, of the same kind as a process's.
    pub name: String,
    /// What is executed, and in which surroundings.
    pub run: RunConfig,
    /// When.
    pub schedule: Schedule,
    /// What happens when it is due while it still runs.
    pub overlap: Overlap,
    /// It is ended when it takes longer.
    pub timeout: Option<Duration>,
    /// Each run starts at a random moment within this time after it is due.
    pub jitter: Duration,
    /// Whether one that was due while litekeep did not run is made up for, once, at the start.
    pub catch_up: bool,
    /// How many runs its history has.
    pub history: u32,
    /// The signal that asks it to end, without `SIG`.
    pub stop_signal: String,
    /// How long it may take to end before it is killed.
    pub stop_timeout: Duration,
    /// What its whole tree may use.
    pub limits: Limits,
    /// Where its output is kept.
    pub log: ProcessLog,
    /// In a cluster it runs on the primary only.
    pub if_primary: bool,
}

/// When a job is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// By the wall clock.
    Cron {
        /// Five fields, or six with seconds first, or `@daily` and the like.
        cron: String,
        /// A name of the IANA database; `None`: the machine's own.
        time_zone: Option<String>,
    },
    /// From one due moment to the next.
    Every(Duration),
}

impl Schedule {
    /// The moment after another one when it is due, in milliseconds since the epoch, by the wall clock; `None`: never.
    ///
    /// # Errors
    /// What is wrong with the times or the time zone.
    pub fn due(&self) -> Result<Due, String> {
        let (cron, zone) = match self {
            Schedule::Every(interval) => {
                let interval = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX);
                return Ok(Arc::new(move |after_ms| after_ms.checked_add(interval)));
            }
            Schedule::Cron { cron, time_zone } => (cron, time_zone),
        };
        let cron = Cron::parse(cron).map_err(|cause| format!("`{cron}`: {cause}"))?;
        let zone = match zone {
            Some(name) => TimeZone::get(name).map_err(|cause| cause.to_string())?,
            None => TimeZone::system(),
        };
        Ok(Arc::new(move |after_ms| {
            let after = Timestamp::from_millisecond(after_ms).ok()?.to_zoned(zone.clone());
            Some(cron.next(&after)?.timestamp().as_millisecond())
        }))
    }
}

/// When something is due after a moment, in milliseconds since the epoch.
pub type Due = Arc<dyn Fn(i64) -> Option<i64> + Send + Sync>;

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Schedule::Cron { cron, time_zone: Some(zone) } => write!(f, "{cron} ({zone})"),
            Schedule::Cron { cron, time_zone: None } => f.write_str(cron),
            Schedule::Every(interval) => write!(f, "every {}", crate::format_duration(*interval)),
        }
    }
}

/// What happens when a job is due while it still runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlap {
    /// This time is left out.
    #[default]
    Skip,
    /// It runs when the one before has ended; at most one waits.
    Queue,
    /// The one before is ended.
    Kill,
}

/// Whether a name can be that of a process or job: it is part of file names and of what is typed.
pub fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && name.len() <= 64
        && name.chars().all(allowed)
}
