//! The log on stderr. `RUST_LOG` wins over the configuration. Whoever reads it may go away: a line that cannot be written
//! is dropped, since the complaint about it, which has nowhere to go either, would end the task that logs.

use std::io::IsTerminal;

use litekeep_config::{Log, LogFormat, LogLevel};
use tracing_subscriber::EnvFilter;

use crate::report::Format;

fn filter(default: &str) -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default))
}

/// A client's own retries are no news: what comes of them is told once.
fn without_retries(level: LogLevel) -> String {
    match level {
        LogLevel::Info => format!("{},object_store=warn", level.as_str()),
        other => other.as_str().to_owned(),
    }
}

/// For commands that answer a question: only what the lower layers warn of; nothing beside JSON, where stderr has nothing
/// but objects.
pub(crate) fn start_quiet(format: Format) {
    if format == Format::Text {
        let stderr = std::io::stderr;
        let ansi = stderr().is_terminal();
        tracing_subscriber::fmt()
            .with_env_filter(filter("warn"))
            .with_ansi(ansi)
            .with_writer(stderr)
            .log_internal_errors(false)
            .init();
    }
}

/// For commands that go on: as the configuration says.
pub(crate) fn start(log: Log, format: Format) {
    let stderr = std::io::stderr;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(&without_retries(log.level)))
        .with_writer(stderr)
        .log_internal_errors(false);
    if log.format == LogFormat::Json || format == Format::Json {
        builder.json().init();
    } else {
        builder.with_ansi(stderr().is_terminal()).init();
    }
}
