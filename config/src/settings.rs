//! What a configuration file comes to, whichever format it was written in.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::diagnostic::{Error, Warning};
use crate::feed_url::FeedUrl;
use crate::pattern::Pattern;
use crate::process::{JobConfig, ProcessConfig, Schedule};
use crate::secret::Secret;
use crate::store_url::StoreUrl;

/// One configuration file and the caller's ways to look things up.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// Where the file is: shown in messages, and its folder is what relative paths in it start from.
    pub path: &'a Path,
    /// The file's content.
    pub text: &'a str,
    /// The value of an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The content of a file named by `${file:/path}`, or why it cannot be read.
    pub read_file: &'a dyn Fn(&Path) -> Result<String, String>,
}

/// A whole configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// The databases, in the order of the file.
    pub databases: Vec<DatabaseConfig>,
    /// Where Prometheus metrics are served, if anywhere.
    pub metrics: Option<Metrics>,
    /// Where the status page is served, if anywhere.
    pub dashboard: Option<Dashboard>,
    /// Where live copies stream the log's end from, if anywhere.
    pub stream: Option<Stream>,
    /// How to log.
    pub log: Log,
    /// The command to run beside the replication (Litestream's `exec`).
    pub exec: Option<String>,
    /// What is told of changed rows, and to whom.
    pub feeds: Vec<FeedConfig>,
    /// Which databases are kept in step with others.
    pub syncs: Vec<SyncConfig>,
    /// The processes that `litekeep up` runs.
    pub processes: Vec<ProcessConfig>,
    /// The jobs that `litekeep up` runs.
    pub jobs: Vec<JobConfig>,
    /// Where `litekeep up` keeps its socket, its logs and its state; `None`: `.litekeep` beside the configuration.
    pub state_dir: Option<PathBuf>,
    /// The cluster that this node is one of.
    pub cluster: Option<ClusterConfig>,
    /// What works otherwise than the file's author may think; to be shown at start.
    pub warnings: Vec<Warning>,
}

impl Config {
    /// Reads a `litekeep.toml`.
    ///
    /// # Errors
    /// Every mistake of the file, with its place.
    pub fn from_toml(input: &Input<'_>) -> Result<Self, Error> {
        crate::litekeep_toml::read(input)
    }

    /// Reads a `litestream.yml` of Litestream 0.3 or 0.5. Settings that have an equivalent are mapped, settings that
    /// have no effect here give a warning, and what would change what is stored (encryption) is refused.
    ///
    /// # Errors
    /// Every mistake of the file, with its place.
    pub fn from_litestream_yaml(input: &Input<'_>) -> Result<Self, Error> {
        crate::litestream_yaml::read(input)
    }
}

/// `[cluster]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterConfig {
    /// The name of this node; `None`: that of its host.
    pub node: Option<String>,
    /// Who says which node is the primary.
    pub lease: ClusterLease,
    /// How long a lease holds.
    pub ttl: Duration,
    /// Whether this node may become primary by itself.
    pub candidate: bool,
    /// Nodes with smaller numbers come first.
    pub priority: u32,
    /// The host at which the other nodes reach the proxies of this one; `None`: they are for this node alone.
    pub address: Option<String>,
    /// How these proxies answer.
    pub proxy: ClusterProxy,
}

/// How the proxies of a node of a cluster answer.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterProxy {
    /// When a request that may have written is answered.
    pub acknowledge: Acknowledge,
    /// How long replicas are waited for.
    pub acknowledge_patience: Duration,
    /// How long a read waits for what its client has seen, before the primary answers it.
    pub read_patience: Duration,
    /// A node that is further behind is not healthy.
    pub max_lag: Duration,
    /// Requests of which the path begins so go to the primary whatever their method.
    pub to_primary: Vec<String>,
    /// WebSockets stay on the node instead of going to the primary.
    pub websockets_stay: bool,
    /// The path that tells how the node is.
    pub health: String,
}

impl Default for ClusterProxy {
    fn default() -> Self {
        ClusterProxy {
            acknowledge: Acknowledge::Local,
            acknowledge_patience: Duration::from_secs(10),
            read_patience: Duration::from_secs(2),
            max_lag: Duration::from_secs(10),
            to_primary: vec![],
            websockets_stay: false,
            health: "/.litekeep/health".to_owned(),
        }
    }
}

/// What a write has survived when its request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledge {
    /// Its COMMIT on the primary.
    Local,
    /// Also the loss of the primary's machine.
    Bucket,
    /// Also the loss of the primary's machine together with the backup, and reads on so many replicas see it.
    Replicas(u32),
}

impl Default for ClusterConfig {
    fn default() -> Self {
        ClusterConfig {
            node: None,
            lease: ClusterLease::Beside,
            ttl: Duration::from_secs(5),
            candidate: true,
            priority: 0,
            address: None,
            proxy: ClusterProxy::default(),
        }
    }
}

/// Who says which node of a cluster is the primary.
#[derive(Clone, Debug, PartialEq)]
pub enum ClusterLease {
    /// A lease beside the backup of the first database.
    Beside,
    /// A lease in a folder or a bucket.
    Store(Box<Destination>),
    /// A lease in etcd; its URL.
    Etcd(Secret),
    /// Nobody: it is always this node.
    Fixed(String),
}

/// One `[[database]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct DatabaseConfig {
    /// Which file or files.
    pub source: Source,
    /// Where to; at least one. For [`Source::Folder`] each database has its own place below it ([`StoreUrl::join`]).
    pub destinations: Vec<Destination>,
    /// Where litekeep keeps its own state; `None`: `.NAME-litekeep` beside the database. For [`Source::Folder`] it is the root
    /// below which each database's own folder stands at its path relative to `dir`.
    pub meta_dir: Option<PathBuf>,
    /// Any single commit within this window can be told apart; zero: none. Never longer than `any_second`.
    pub any_transaction: Duration,
    /// Any second within this window can be restored. Never longer than `keep`.
    pub any_second: Duration,
    /// How long snapshots and compactions are kept; `None`: for ever.
    pub keep: Option<Duration>,
    /// How often a snapshot is made.
    pub snapshot_every: Duration,
    /// At most one upload per interval; `None`: the destination's own default ([`Destination::default_upload_interval`]).
    pub upload_interval: Option<Duration>,
    /// The size of the WAL, in bytes, at which it is reset.
    pub wal_limit: u64,
    /// How much, in bytes, is kept locally while the destination cannot be reached.
    pub spool_limit: u64,
    /// How long a shutdown waits for its last upload to be confirmed.
    pub shutdown_timeout: Duration,
    /// How often a restore is proven; `None`: only when asked.
    pub verify_every: Option<Duration>,
    /// Whether a database file that does not exist at start is restored from its backup.
    pub restore_if_missing: bool,
    /// Its migrations, which `litekeep up` and `reload` run first.
    pub migrations: Option<Migrations>,
}

/// Who migrates a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Migrations {
    /// litekeep, by the files of a folder.
    Folder(PathBuf),
    /// Another program.
    Program(MigrationProgram),
}

impl Migrations {
    /// The folder of the files.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Migrations::Folder(folder) => Some(folder),
            Migrations::Program(_) => None,
        }
    }

    /// The program.
    pub fn program(&self) -> Option<&MigrationProgram> {
        match self {
            Migrations::Folder(_) => None,
            Migrations::Program(program) => Some(program),
        }
    }
}

/// A program that migrates a database, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationProgram {
    /// A line for `sh -c`, with `{db}` for the database.
    pub command: String,
    /// Where it runs.
    pub cwd: PathBuf,
    /// Whether it works on a copy first.
    pub rehearse: bool,
    /// Codes of losses that are meant.
    pub allow: Vec<String>,
}

impl DatabaseConfig {
    /// A database with the documented defaults and no destination yet.
    pub fn new(source: Source) -> Self {
        let defaults = Defaults::default();
        Self {
            source,
            destinations: Vec::new(),
            meta_dir: None,
            any_transaction: defaults.any_transaction,
            any_second: defaults.any_second,
            keep: defaults.keep,
            snapshot_every: defaults.snapshot_every,
            upload_interval: None,
            wal_limit: defaults.wal_limit,
            spool_limit: defaults.spool_limit,
            shutdown_timeout: defaults.shutdown_timeout,
            verify_every: None,
            restore_if_missing: false,
            migrations: None,
        }
    }

    /// The upload interval that holds for one of the destinations: the destination's own, the database's, or the
    /// default of its kind of store.
    pub fn upload_interval_for(&self, destination: &Destination) -> Duration {
        destination
            .upload_interval
            .or(self.upload_interval)
            .unwrap_or_else(|| destination.default_upload_interval())
    }
}

/// The defaults of a `[[database]]`.
struct Defaults {
    any_transaction: Duration,
    any_second: Duration,
    keep: Option<Duration>,
    snapshot_every: Duration,
    wal_limit: u64,
    spool_limit: u64,
    shutdown_timeout: Duration,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            any_transaction: Duration::from_secs(24 * 3600),
            any_second: Duration::from_secs(24 * 3600),
            keep: Some(Duration::from_secs(30 * 86_400)),
            snapshot_every: Duration::from_secs(24 * 3600),
            wal_limit: 64 << 20,
            spool_limit: 1 << 30,
            shutdown_timeout: Duration::from_secs(30),
        }
    }
}

/// The database file, or the folder of database files.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// One database.
    File(PathBuf),
    /// Every database in a folder.
    Folder {
        /// The folder.
        dir: PathBuf,
        /// Which names in it are databases.
        pattern: Pattern,
        /// Whether its subfolders are searched too.
        recursive: bool,
        /// Whether databases that appear later are taken up.
        watch: bool,
    },
}

impl Source {
    /// Whether databases come and go in it.
    pub fn is_folder(&self) -> bool {
        matches!(self, Source::Folder { .. })
    }

    /// Whether the file at `path` belongs to this source, judged by its name only.
    pub fn covers(&self, path: &Path) -> bool {
        match self {
            Source::File(own) => own == path,
            Source::Folder { dir, pattern, recursive, .. } => {
                let Ok(relative) = path.strip_prefix(dir) else { return false };
                let name = relative.file_name().and_then(|name| name.to_str());
                (*recursive || relative.components().count() == 1)
                    && name.is_some_and(|name| pattern.matches(name))
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) => write!(f, "{}", path.display()),
            Source::Folder { dir, pattern, .. } => write!(f, "{}", dir.join(pattern.to_string()).display()),
        }
    }
}

/// One place that a database is backed up to.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    /// Where.
    pub url: StoreUrl,
    /// Who we are there.
    pub credentials: Credentials,
    /// A PEM file with the certificate authorities to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether puts may rely on the store's conditional writes.
    pub conditional_writes: ConditionalWrites,
    /// Overrides the database's `upload_interval`.
    pub upload_interval: Option<Duration>,
}

impl Destination {
    /// A destination with the credentials that its environment provides.
    pub fn new(url: StoreUrl) -> Self {
        Self {
            url,
            credentials: Credentials::Ambient,
            ca_file: None,
            conditional_writes: ConditionalWrites::Auto,
            upload_interval: None,
        }
    }

    /// The destination that a URL on the command line names. Credentials that the store's own variables do not give
    /// come from `LITESTREAM_ACCESS_KEY_ID`, `LITESTREAM_SECRET_ACCESS_KEY` and `LITESTREAM_AZURE_ACCOUNT_KEY`.
    ///
    /// # Errors
    /// As [`StoreUrl::parse`].
    pub fn parse(url: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let url = StoreUrl::parse(url)?;
        let credentials = Credentials::from_litestream_variables(&url, env);
        Ok(Self { credentials, ..Self::new(url) })
    }

    /// The destination of one database of a folder: the same store, `relative` below the path.
    ///
    /// # Errors
    /// When `relative` is not a plain relative path, or not UTF-8 while the store's names are.
    pub fn join(&self, relative: &Path) -> Result<Self, Error> {
        Ok(Self { url: self.url.join(relative)?, ..self.clone() })
    }

    /// 10 ms for folders; 1 s elsewhere, where each upload costs a request.
    pub fn default_upload_interval(&self) -> Duration {
        match self.url {
            StoreUrl::File { .. } => Duration::from_millis(10),
            _ => Duration::from_secs(1),
        }
    }
}

/// Who we are at a store. Passwords that belong to a URL ([`StoreUrl::Sftp`], [`StoreUrl::WebDav`]) stay there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// What the environment provides: variables, instance roles, workload identity, ssh-agent.
    Ambient,
    /// S3 and compatibles.
    S3 {
        /// The access key's id.
        access_key_id: Secret,
        /// The access key.
        secret_access_key: Secret,
        /// The token of temporary credentials.
        session_token: Option<Secret>,
    },
    /// An Azure storage account's key.
    AzureKey(Secret),
    /// An Azure shared access signature.
    AzureSas(Secret),
    /// A Google service account's key file.
    GoogleFile(PathBuf),
    /// SFTP by key.
    Ssh {
        /// The private key; `None`: ssh-agent and the default keys.
        key_file: Option<PathBuf>,
        /// The server's public key, as in `known_hosts` without the name; `None`: `known_hosts` decides.
        host_key: Option<String>,
    },
}

impl Credentials {
    /// Litestream's own variables, where the store's own are unset.
    pub(crate) fn from_litestream_variables(url: &StoreUrl, env: &dyn Fn(&str) -> Option<String>) -> Self {
        let secret = |name: &str| env(name).filter(|value| !value.is_empty()).map(Secret::new);
        match url {
            StoreUrl::S3(_) if secret("AWS_ACCESS_KEY_ID").is_none() => {
                match (secret("LITESTREAM_ACCESS_KEY_ID"), secret("LITESTREAM_SECRET_ACCESS_KEY")) {
                    (Some(access_key_id), Some(secret_access_key)) => {
                        Self::S3 { access_key_id, secret_access_key, session_token: None }
                    }
                    _ => Self::Ambient,
                }
            }
            StoreUrl::Azure(_) => {
                secret("LITESTREAM_AZURE_ACCOUNT_KEY").map_or(Self::Ambient, Self::AzureKey)
            }
            _ => Self::Ambient,
        }
    }
}

/// Whether puts may rely on the store's conditional writes (put-if-absent), which fence off a second writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionalWrites {
    /// Used when the store turns out to honour them.
    Auto,
    /// Never used: the backup is labelled `unfenced`.
    Off,
}

/// Sets of values for a kind of application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// For a small application: below $0.50 a month at the list prices of S3 Standard in us-east-1 ($0.005 per 1,000 PUTs,
    /// $0.0004 per 1,000 GETs, $0.023 per GB and month), even if it writes around the clock, where reading costs no transfer: in the
    /// region of the bucket. For a database of 100 MB that does not compress and changes by 10 MB a day:
    ///
    /// - `upload_interval = "60s"`: at most 43,200 PUTs a month, $0.22. After a pause the first commit still goes out at once.
    /// - single commits: a pack for ten uploads, 4,320 PUTs, $0.02.
    /// - compaction every five minutes: at most 8,640 PUTs and their reads, $0.06.
    /// - checksums of pages beside files of more than 256 KiB: 750 PUTs, below $0.01.
    /// - `keep = "14d"`, `snapshot_every = "24h"`: 15 snapshots, $0.04; outside the region each of them reads one back, $0.30.
    /// - `verify = { every = "7d" }`: four restores a month; outside the region $0.04.
    ///
    /// Together $0.35, outside the region $0.74. What it costs in safety: after the loss of the disk, up to the last 60 s of a busy database.
    Small,
}

/// Where Prometheus metrics are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// The address to listen on.
    pub addr: SocketAddr,
}

/// Where the status page is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dashboard {
    /// The address to listen on.
    pub addr: SocketAddr,
    /// What whoever looks must show; always there when others than this machine can reach the address.
    pub token: Option<Secret>,
    /// Whether the page may restart processes and reload the configuration; only with a token.
    pub actions: bool,
}

/// Where live copies stream the end of each database's log from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The address to listen on.
    pub addr: SocketAddr,
    /// What whoever follows must show.
    pub token: Secret,
    /// With TLS; always where others than this machine can reach the address, unless somebody has said that nobody listens there.
    pub tls: Option<TlsFiles>,
    /// A PEM file with the authorities to trust beside the system's, when this node streams from another one of its cluster.
    pub ca_file: Option<PathBuf>,
    /// Somebody has said that nobody can listen where there is no TLS.
    pub insecure: bool,
}

/// A certificate with its chain, and its key: PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those between it and its authority.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// One `[[feed]]`: the changed rows of a database, told to somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedConfig {
    /// Its name, under which its position is kept.
    pub name: String,
    /// The database.
    pub database: PathBuf,
    /// Where the events go.
    pub to: FeedUrl,
    /// A PEM file with the certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Only these tables; empty: all.
    pub tables: Vec<String>,
    /// Where it begins when it has no position yet.
    pub from: FeedFrom,
}

/// One `[[sync]]`: two databases, of which one is kept as the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncConfig {
    /// Its name, under which the side that is written to keeps how far it is.
    pub name: String,
    /// The database.
    pub database: PathBuf,
    /// The other side.
    pub other: OtherSide,
    /// Which of the two is written to.
    pub direction: Direction,
    /// Only these tables; empty: all.
    pub tables: Vec<String>,
    /// The schema of the tables there; `None`: that of the connection.
    pub schema: Option<String>,
    /// When it connects, brings the side that is written to up to date, and lets go; `None`: it stays.
    pub schedule: Option<Schedule>,
    /// Names of tables there.
    pub names: BTreeMap<String, String>,
    /// Of these tables only these columns.
    pub columns: BTreeMap<String, Vec<String>>,
    /// Of these tables only the rows that fulfil a condition.
    pub rows: BTreeMap<String, String>,
    /// Types there, by `table.column`.
    pub types: BTreeMap<String, String>,
    /// Only rows that are asked for are here, and for so long.
    pub cache: Option<CacheConfig>,
    /// Who wins where both sides have changed a row.
    pub conflict: ConflictPolicy,
    /// The same for some tables.
    pub conflicts: BTreeMap<String, ConflictPolicy>,
    /// Connections to the server at most, of all syncs with it together.
    pub max_connections: Option<u32>,
}

/// How long a cache keeps what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// For so long a row is given without asking the server.
    pub ttl: Duration,
    /// For so long after that it is given while the server is asked.
    pub stale: Duration,
    /// For so long it is remembered that there is no row.
    pub negative_ttl: Duration,
    /// Rows that are kept at most.
    pub max_rows: usize,
    /// Rows go when they change at the server, and those that fulfil a condition are kept in step.
    pub follows: bool,
}

/// Who wins where both sides have changed a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConflictPolicy {
    /// The server.
    #[default]
    Server,
    /// SQLite.
    Sqlite,
    /// The later change.
    Latest,
    /// Columns are decided about one by one: who has changed one alone; of what both have changed, the server.
    MergeServer,
    /// The same, else SQLite.
    MergeSqlite,
    /// The same, else the later change.
    MergeLatest,
}

/// The other side of a sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OtherSide {
    /// A URL of PostgreSQL, with its password.
    Postgres(Secret),
    /// A URL of MySQL or MariaDB, with its password.
    Mysql(Secret),
    /// A URL of MongoDB, with its password.
    Mongodb(Secret),
}

impl OtherSide {
    /// Which server a URL is of; `None`: of none that there is a sync with.
    pub fn of(url: &str) -> Option<OtherSide> {
        let secret = || Secret::new(url);
        match url.split_once("://")?.0 {
            "postgres" | "postgresql" => Some(OtherSide::Postgres(secret())),
            "mysql" | "mariadb" => Some(OtherSide::Mysql(secret())),
            "mongodb" | "mongodb+srv" => Some(OtherSide::Mongodb(secret())),
            _ => None,
        }
    }
}

/// Where the changes of a sync go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From SQLite to the other side.
    Push,
    /// From the other side to SQLite.
    Pull,
    /// Both ways.
    Both,
}

/// Where a feed begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FeedFrom {
    /// With the next transaction.
    #[default]
    Now,
    /// After the oldest state that the log still has.
    Beginning,
    /// After a transaction.
    Txid(u64),
}

impl FeedFrom {
    /// `now`, `beginning` or the 16 digits of a transaction.
    ///
    /// # Errors
    /// A phrase that says what it may be.
    pub fn parse(text: &str) -> Result<FeedFrom, String> {
        let is_txid = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match (text, u64::from_str_radix(text, 16)) {
            ("now", _) => Ok(FeedFrom::Now),
            ("beginning", _) => Ok(FeedFrom::Beginning),
            (_, Ok(txid)) if is_txid && txid > 0 => Ok(FeedFrom::Txid(txid)),
            _ => Err(format!("`{text}` is not \"now\", \"beginning\" or the 16 digits of a transaction")),
        }
    }
}

/// How to log (to standard error).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Log {
    /// The least important level that is shown.
    pub level: LogLevel,
    /// The form of each line.
    pub format: LogFormat,
}

/// Log levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// What a developer needs.
    Debug,
    /// What an operator may want to read.
    #[default]
    Info,
    /// What should be looked at.
    Warn,
    /// What has failed.
    Error,
}

impl LogLevel {
    /// The level's name: `trace`, `debug`, `info`, `warn` or `error`.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Trace => "trace",
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        }
    }
}

/// Forms of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}
