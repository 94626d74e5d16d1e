//! `litekeep.toml`, and the `litestream.yml` of Litestream 0.3 and 0.5.
//!
//! Promises:
//! - This crate parses and opens nothing: text, environment and secret files come from the caller ([`Input`]).
//! - Every setting in a file is either applied, warned about or refused; none is dropped in silence.
//! - All mistakes of a file are reported at once, each with its place, the line and what to write instead.
//! - No error, warning, `Debug` or `Display` of this crate shows a [`Secret`].

mod conflicts;
mod diagnostic;
mod expand;
mod litekeep_toml;
mod litestream_yaml;
mod names;
mod node;
mod pattern;
mod reader;
mod secret;
mod settings;
mod store_url;
mod template;
mod units;

pub use diagnostic::{Diagnostic, Error, ErrorKind, Warning};
pub use pattern::Pattern;
pub use secret::Secret;
pub use settings::{
    ConditionalWrites, Config, Credentials, DatabaseConfig, Destination, Input, Log, LogFormat, LogLevel,
    Metrics, Preset, Source,
};
pub use store_url::{AzureUrl, GcsUrl, S3Url, SftpUrl, StoreUrl, WebDavUrl};
pub use template::template;
pub use units::{format_duration, format_size, parse_duration, parse_size};
