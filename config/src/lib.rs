//! `litekeep.toml`, the `litestream.yml` of Litestream 0.3 and 0.5, and the files of other process managers.
//!
//! Promises:
//! - This crate parses and opens nothing but the time zones: text, environment and secret files come from the caller ([`Input`]).
//! - Every setting in a file is either applied, warned about or refused; none is dropped in silence.
//! - All mistakes of a file are reported at once, each with its place, the line and what to write instead.
//! - No error, warning, `Debug` or `Display` of this crate shows a [`Secret`].

mod command_line;
mod conflicts;
mod cron;
mod diagnostic;
mod expand;
mod feed_url;
mod foreign;
mod litekeep_toml;
mod litestream_command;
mod litestream_yaml;
mod names;
mod node;
mod pattern;
mod process;
mod processes;
mod reader;
mod secret;
mod settings;
mod store_url;
mod template;
mod units;

pub use cron::Cron;
pub use diagnostic::{Diagnostic, Error, ErrorKind, Warning};
pub use feed_url::{FeedServer, FeedUrl};
pub use foreign::{Foreign, Imported, import};
pub use pattern::Pattern;
pub use process::{
    Check, Command, Due, Hook, JobConfig, Limits, Listen, Litestream, OnRoleChange, Overlap, Probe,
    ProcessConfig, ProcessLog, Restart, RunConfig, Schedule, Until, WatchConfig, is_name,
};
pub use secret::Secret;
pub use settings::{
    Acknowledge, CacheConfig, ClusterConfig, ClusterLease, ClusterProxy, ConditionalWrites, Config,
    ConflictPolicy, Credentials, Dashboard, DatabaseConfig, Destination, Direction, FeedConfig, FeedFrom,
    Input, Log, LogFormat, LogLevel, Metrics, MigrationProgram, Migrations, OtherSide, Preset, Source,
    Stream, SyncConfig, TlsFiles,
};
pub use store_url::{AzureUrl, GcsUrl, S3Url, SftpUrl, StoreUrl, WebDavUrl};
pub use template::template;
pub use units::{format_duration, format_size, parse_duration, parse_size};
