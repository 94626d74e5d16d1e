//! How far a restore, or something else in steps, is: a bar on a terminal, a line per phase elsewhere, nothing beside JSON.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::PoisonError;

use indicatif::{ProgressBar, ProgressStyle};
use litekeep_replicate::restore::{Phase, Progress};

use crate::report::{self, Format, text};

/// Shows progress on stderr.
pub(crate) enum Shown {
    /// With JSON.
    Nothing,
    /// Into a file or a log.
    Lines,
    /// On a terminal.
    Bar(Mutex<ProgressBar>),
}

impl Shown {
    pub(crate) fn new(format: Format) -> Shown {
        match format {
            Format::Json => Shown::Nothing,
            Format::Text if std::io::stderr().is_terminal() => Shown::Bar(Mutex::new(ProgressBar::hidden())),
            Format::Text => Shown::Lines,
        }
    }

    /// Takes the bar away, so that what follows stands on a line of its own.
    pub(crate) fn end(&self) {
        if let Shown::Bar(bar) = self {
            bar.lock().unwrap_or_else(PoisonError::into_inner).finish_and_clear();
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.end();
    }
}

/// The steps of something whose number is known.
pub(crate) enum Steps {
    /// With JSON.
    Nothing,
    /// Into a file or a log.
    Lines,
    /// On a terminal.
    Bar(ProgressBar),
}

impl Steps {
    pub(crate) fn new(format: Format, steps: u64) -> Steps {
        match format {
            Format::Json => Steps::Nothing,
            Format::Text if std::io::stderr().is_terminal() => {
                let bar = ProgressBar::new(steps);
                let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg} {elapsed}");
                bar.set_style(style.expect("the template is constant"));
                bar.enable_steady_tick(std::time::Duration::from_millis(100));
                Steps::Bar(bar)
            }
            Format::Text => Steps::Lines,
        }
    }

    /// Begins the next one.
    pub(crate) fn next(&self, name: &str) {
        match self {
            Steps::Nothing => {}
            Steps::Lines => report::line(&name),
            Steps::Bar(bar) => {
                bar.inc(1);
                bar.set_message(name.to_owned());
            }
        }
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        if let Steps::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// So many lines are enough for a log.
const ROWS_A_LINE: u64 = 1_000_000;

/// How many rows are done, of nobody knows how many.
pub(crate) struct Rows {
    shown: Steps,
    told: std::cell::Cell<u64>,
}

impl Rows {
    pub(crate) fn new(format: Format) -> Rows {
        let shown = match Steps::new(format, 0) {
            Steps::Bar(bar) => {
                let style = ProgressStyle::with_template("{spinner} {pos} rows {per_sec} {elapsed}");
                bar.set_style(style.expect("the template is constant"));
                Steps::Bar(bar)
            }
            other => other,
        };
        Rows { shown, told: 0.into() }
    }

    /// So many are done.
    pub(crate) fn at(&self, rows: u64) {
        match &self.shown {
            Steps::Nothing => {}
            Steps::Lines if rows >= self.told.get() + ROWS_A_LINE => {
                self.told.set(rows);
                report::line(&format_args!("{rows} rows"));
            }
            Steps::Lines => {}
            Steps::Bar(bar) => bar.set_position(rows),
        }
    }

    /// So many are done of so many.
    pub(crate) fn of(&self, rows: u64, of: u64) {
        if let Steps::Bar(bar) = &self.shown
            && bar.length() != Some(of)
        {
            bar.set_length(of);
            let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} rows {per_sec} {eta}");
            bar.set_style(style.expect("the template is constant"));
        }
        self.at(rows);
    }

    /// Takes it away.
    pub(crate) fn end(&self) {
        self.shown.end();
    }
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Fetch => "fetching",
        Phase::Check => "checking",
        Phase::Sync => "syncing",
    }
}

fn bar(phase: Phase, total_bytes: u64) -> ProgressBar {
    let (bar, template) = match total_bytes {
        0 => (ProgressBar::new_spinner(), "{msg} {spinner} {elapsed}"),
        total => (
            ProgressBar::new(total),
            "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
        ),
    };
    let style = ProgressStyle::with_template(template).expect("the template is constant");
    bar.set_style(style);
    bar.set_message(name(phase));
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    bar
}

impl Progress for Shown {
    fn begin(&self, phase: Phase, total_bytes: u64) {
        match self {
            Shown::Nothing => {}
            Shown::Lines if total_bytes > 0 => {
                report::line(&format_args!("{} {}", name(phase), text::size(total_bytes)));
            }
            Shown::Lines => report::line(&name(phase)),
            Shown::Bar(current) => {
                let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
                current.finish_and_clear();
                *current = bar(phase, total_bytes);
            }
        }
    }

    fn advance(&self, bytes: u64) {
        if let Shown::Bar(bar) = self {
            bar.lock().unwrap_or_else(PoisonError::into_inner).inc(bytes);
        }
    }
}
