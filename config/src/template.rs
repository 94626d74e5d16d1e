//! The `litekeep.toml` that `litekeep init` writes.
//!
//! Invariant, held by tests: the template parses to the database and destination that it was made for with every
//! setting at its default, and so does the template with all its commented settings switched on.

use std::fmt::Write as _;
use std::path::Path;

use crate::settings::{DatabaseConfig, Source};
use crate::store_url::StoreUrl;
use crate::units::{format_duration, format_size};

/// A commented configuration for one database. Each of `notes` becomes a comment at its top (what `init` found out
/// about the file). A path that is not UTF-8 cannot stand in TOML; its odd bytes become `U+FFFD`.
pub fn template(db_path: &Path, backup: &StoreUrl, notes: &[String]) -> String {
    let defaults = DatabaseConfig::new(Source::File(db_path.to_owned()));
    let mut out =
        String::from("# What litekeep backs up, and where to. Settings behind a `#` show their defaults.\n");
    for line in notes.iter().flat_map(|note| note.lines()) {
        let _ = writeln!(out, "# {}", line.trim_end());
    }
    let _ = write!(
        out,
        r#"
[[database]]
path = {path}
backup = {backup}

# A second destination:
#   backup = ["file:///var/backups/app", "s3://my-bucket/app?region=eu-central-1"]
# Keys of a store come from the environment (AWS_ACCESS_KEY_ID ...), or stand in a table:
#   backup = {{ url = "s3://my-bucket/app", access_key_id = "${{KEY_ID}}", secret_access_key = "${{file:/run/secrets/key}}" }}

# Any second within this window can be restored; after it, snapshots and compactions.
#any_second = "{any_second}"

# Any single commit of the application within this window; "0s" for none, which saves about one request a minute.
#any_transaction = "{any_transaction}"

# How long snapshots and compactions are kept, or "forever".
#keep = "{keep}"
#snapshot_every = "{snapshot_every}"

# At most one upload per interval; after a pause a commit goes out at once. A longer interval costs fewer
# requests and loses more with the disk. Default: 10ms for folders, 1s for remote stores.
#upload_interval = "{upload_interval}"

# The WAL is reset at about this size.
#wal_limit = "{wal_limit}"

# How much is kept locally while the destination cannot be reached.
#spool_limit = "{spool_limit}"

# How long a shutdown waits until the destination confirms the last commits.
#shutdown_timeout = "{shutdown_timeout}"

# Prove regularly that the backup restores; each time it is downloaded. `false`: only by `litekeep verify`.
#verify = false

# Restore the file from the backup when it does not exist at start.
#restore_if_missing = false

# The application itself, beside its backup, for `litekeep up`:
#   [process.app]
#   command = "node server.js"
#   env = {{ PORT = "3000" }}
#   health = {{ url = "http://127.0.0.1:3000/health" }}

#[metrics]
#addr = "127.0.0.1:9090"

# The status page.
#[dashboard]
#addr = "127.0.0.1:9091"

# Live copies on other machines get transactions from here at once, for `litekeep follow --stream`:
#   [stream]
#   addr = "0.0.0.0:7433"
#   token = "at least 16 characters"
#   tls_cert = "/etc/litekeep/cert.pem"
#   tls_key = "/etc/litekeep/key.pem"

#[log]
#level = "info"
#format = "text"
"#,
        path = quoted(&db_path.to_string_lossy()),
        backup = quoted(&backup.to_string()),
        any_second = format_duration(defaults.any_second),
        any_transaction = format_duration(defaults.any_transaction),
        keep = defaults.keep.map_or("forever".into(), format_duration),
        snapshot_every = format_duration(defaults.snapshot_every),
        upload_interval = format_duration(crate::Destination::new(backup.clone()).default_upload_interval()),
        wal_limit = format_size(defaults.wal_limit),
        spool_limit = format_size(defaults.spool_limit),
        shutdown_timeout = format_duration(defaults.shutdown_timeout),
    );
    out
}

/// A TOML basic string in which `${` stands for itself.
fn quoted(text: &str) -> String {
    toml_text(&text.replace("${", "$${"))
}

/// A TOML basic string.
pub(crate) fn toml_text(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
