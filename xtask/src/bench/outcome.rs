//! What a run found, and the table of a scenario's runs.

use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::system::System;
use crate::{Bench, Options, Scenario, Target};

/// Which of two values is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Better {
    Less,
    More,
    /// Neither: it only explains the others.
    Neither,
}

#[derive(Debug, Clone)]
struct Figure {
    name: &'static str,
    unit: &'static str,
    better: Better,
    value: f64,
}

/// What one run found.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    figures: Vec<Figure>,
    wrong: Vec<String>,
}

impl Outcome {
    /// A figure of which less is better.
    pub(crate) fn less(&mut self, name: &'static str, unit: &'static str, value: f64) {
        self.figures.push(Figure { name, unit, better: Better::Less, value });
    }

    /// A figure of which more is better.
    pub(crate) fn more(&mut self, name: &'static str, unit: &'static str, value: f64) {
        self.figures.push(Figure { name, unit, better: Better::More, value });
    }

    /// A figure without a ratio.
    pub(crate) fn note(&mut self, name: &'static str, unit: &'static str, value: f64) {
        self.figures.push(Figure { name, unit, better: Better::Neither, value });
    }

    /// Seconds.
    pub(crate) fn time(&mut self, name: &'static str, value: Duration) {
        self.less(name, "s", value.as_secs_f64());
    }

    /// Mebibytes.
    pub(crate) fn mib(&mut self, name: &'static str, bytes: u64) {
        self.less(name, "MiB", bytes as f64 / f64::from(1 << 20));
    }

    /// Median, 99th percentile and maximum of lags.
    pub(crate) fn lags(&mut self, mut lags: Vec<f64>) {
        lags.sort_by(f64::total_cmp);
        self.less("lag p50", "ms", quantile(&lags, 0.5));
        self.less("lag p99", "ms", quantile(&lags, 0.99));
        self.note("lag max", "ms", quantile(&lags, 1.0));
    }

    /// CPU time as a share of one core.
    pub(crate) fn cpu(&mut self, used: Duration, wall: Duration) {
        self.less("CPU", "% of a core", 100.0 * used.as_secs_f64() / wall.as_secs_f64());
    }

    /// A result that is wrong, not slow.
    pub(crate) fn wrong(&mut self, what: String) {
        self.wrong.push(what);
    }

    #[cfg(test)]
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }
}

/// The value below which this share of sorted values lies; NaN when there is none.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((share * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
}

/// One run, played or not.
pub(crate) struct Played {
    pub(crate) system: System,
    pub(crate) target: Target,
    pub(crate) outcome: Result<Outcome>,
    /// Cores that programs of others kept busy meanwhile.
    pub(crate) other_cores: f64,
    pub(crate) at_unix_s: i64,
}

impl Played {
    pub(crate) fn wrong(&self) -> &[String] {
        self.outcome.as_ref().map_or(&[], |outcome| &outcome.wrong)
    }

    fn figure(&self, name: &str) -> Option<&Figure> {
        self.outcome.as_ref().ok()?.figures.iter().find(|figure| figure.name == name)
    }

    /// All that is known about it.
    pub(crate) fn json(&self, scenario: &Scenario, bench: &Bench) -> Value {
        let figures: serde_json::Map<String, Value> = match &self.outcome {
            Ok(outcome) => outcome
                .figures
                .iter()
                .map(|figure| (format!("{} ({})", figure.name, figure.unit), figure.value.into()))
                .collect(),
            Err(_) => serde_json::Map::new(),
        };
        json!({
            "scenario": scenario.name,
            "system": self.system.name(),
            "target": format!("{:?}", self.target).to_lowercase(),
            "secs": bench.options.secs,
            "gib": bench.options.gib,
            "at": self.at_unix_s,
            "figures": figures,
            "wrong": self.wrong(),
            "error": self.outcome.as_ref().err().map(|error| format!("{error:#}")),
            "other_cores": self.other_cores,
        })
    }
}

/// One row a figure, one column a system and one for the ratio to each peer.
pub(crate) fn table(scenario: &Scenario, options: &Options, played: &[Played]) -> String {
    let systems: Vec<System> =
        System::ALL.into_iter().filter(|system| played.iter().any(|run| run.system == *system)).collect();
    let peers: Vec<System> = systems.iter().copied().filter(|system| system.is_peer()).collect();
    let mut rows = vec![header(&systems, &peers)];
    for figure in names(played) {
        let of = |system: System| median(played, system, figure.name);
        let unit = if figure.unit.is_empty() { String::new() } else { format!(", {}", figure.unit) };
        let mut row = vec![format!("{}{unit}", figure.name)];
        row.extend(systems.iter().map(|system| of(*system).map_or(String::new(), number)));
        row.extend(peers.iter().map(|peer| ratio(figure.better, of(System::Litekeep), of(*peer))));
        rows.push(row);
    }
    let target = match played.first() {
        Some(run) => format!("{:?}", run.target).to_lowercase(),
        None => String::new(),
    };
    let others = played.iter().map(|run| run.other_cores).fold(0.0, f64::max);
    let mut text =
        format!("\n### {} ({target}; {} s; runs: {})\n\n", scenario.name, options.secs, options.reps);
    for (n, row) in rows.iter().enumerate() {
        let _ = writeln!(text, "| {} |", row.join(" | "));
        if n == 0 {
            let _ = writeln!(text, "|{}", " --- |".repeat(row.len()));
        }
    }
    let _ = writeln!(text, "\nOther programs kept up to {others:.2} cores busy.");
    for run in played {
        let name = run.system.name();
        for wrong in run.wrong() {
            let _ = writeln!(text, "WRONG, {name}: {wrong}");
        }
        if let Err(error) = &run.outcome {
            let _ = writeln!(text, "NOT PLAYED, {name}: {error:#}");
        }
    }
    text
}

fn header(systems: &[System], peers: &[System]) -> Vec<String> {
    let mut header = vec![String::from("figure")];
    header.extend(systems.iter().map(|system| system.name().to_owned()));
    header.extend(peers.iter().map(|peer| match peers {
        [_] => "ratio".to_owned(),
        _ => format!("ratio to {}", peer.name()),
    }));
    header
}

/// Each figure once, in the order in which the systems report them.
fn names(played: &[Played]) -> Vec<&Figure> {
    let mut names: Vec<&Figure> = Vec::new();
    for figure in
        played.iter().filter_map(|run| run.outcome.as_ref().ok()).flat_map(|outcome| &outcome.figures)
    {
        if !names.iter().any(|known| known.name == figure.name) {
            names.push(figure);
        }
    }
    names
}

fn median(played: &[Played], system: System, name: &str) -> Option<f64> {
    let runs = played.iter().filter(|run| run.system == system);
    let mut values: Vec<f64> = runs.filter_map(|run| Some(run.figure(name)?.value)).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// How many times better ours is; nothing where one of them is zero.
fn ratio(better: Better, ours: Option<f64>, peer: Option<f64>) -> String {
    let (Some(ours), Some(peer)) = (ours, peer) else { return String::new() };
    let ratio = match better {
        Better::Less => peer / ours,
        Better::More => ours / peer,
        Better::Neither => return String::new(),
    };
    if ratio.is_finite() && ratio > 0.0 { number(ratio) } else { String::new() }
}

/// Two or three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
