//! `[job.NAME]`.

use super::SECOND;
use super::process::ANY_TIME;
use super::run::{RUN_KEYS, Run};
use crate::cron::Cron;
use crate::node::{Entry, entry};
use crate::process::{JobConfig, Overlap, Schedule};
use crate::reader::Reader;

const JOB_KEYS: [&str; 9] =
    ["cron", "time_zone", "every", "overlap", "timeout", "jitter", "catch_up", "history", "if_primary"];
const OVERLAPS: [(&str, Overlap); 3] =
    [("skip", Overlap::Skip), ("queue", Overlap::Queue), ("kill", Overlap::Kill)];
const DEFAULT_HISTORY: u32 = 20;

impl Reader<'_> {
    /// Every `[job.NAME]` below `job`.
    pub(super) fn jobs(&mut self, found: &Entry) -> Vec<JobConfig> {
        let Some(tables) = self.table(found) else { return Vec::new() };
        tables.iter().filter_map(|named| self.job(named)).collect()
    }

    fn job(&mut self, named: &Entry) -> Option<JobConfig> {
        self.check_name(named, "job");
        let entries = self.table(named)?;
        let known: Vec<&str> = RUN_KEYS.into_iter().chain(JOB_KEYS).collect();
        self.check_keys(entries, "[job.NAME]", &known, |key| match key {
            "schedule" | "at" => Some("here it is `cron`, or `every`".into()),
            "timezone" | "tz" => Some("here it is `time_zone`".into()),
            "interval" => Some("here it is `every`".into()),
            "restart" | "instances" | "health" | "depends_on" => {
                Some(format!("`{key}` belongs to a process: a job starts by the clock, runs once, and ends"))
            }
            _ => None,
        });
        let Run { run, stop_signal, stop_timeout, limits, log } = self.run(entries, "this job", named);
        let schedule = self.schedule(entries, "a job");
        if matches!(schedule, Some(None)) {
            let message = "this job is never due: add cron = \"0 3 * * *\", or every = \"10m\"";
            self.report.error(&named.key_span, message);
        }
        let mut job = JobConfig {
            name: named.key.clone(),
            run,
            schedule: schedule??,
            overlap: Overlap::default(),
            timeout: entry(entries, "timeout")
                .and_then(|found| self.duration(found, "1h", (SECOND, ANY_TIME.1))),
            jitter: std::time::Duration::ZERO,
            catch_up: false,
            history: DEFAULT_HISTORY,
            stop_signal: stop_signal.unwrap_or_else(|| "TERM".into()),
            stop_timeout: stop_timeout.unwrap_or(10 * SECOND),
            limits,
            log,
            if_primary: true,
        };
        self.fill(entries, "if_primary", &mut job.if_primary, Self::boolean);
        self.fill(entries, "overlap", &mut job.overlap, |r, f| r.one_of(f, &OVERLAPS));
        self.fill(entries, "jitter", &mut job.jitter, |r, f| r.duration(f, "30s", ANY_TIME));
        self.fill(entries, "catch_up", &mut job.catch_up, Self::boolean);
        self.fill(entries, "history", &mut job.history, |r, f| r.count(f, 0..=10_000));
        Some(job)
    }

    /// By `cron` and `time_zone`, or by `every`; `Some(None)`: there is none of them.
    pub(super) fn schedule(&mut self, entries: &[Entry], of: &str) -> Option<Option<Schedule>> {
        let time_zone = entry(entries, "time_zone").and_then(|found| self.time_zone(found));
        match (entry(entries, "cron"), entry(entries, "every")) {
            (Some(cron), None) => Some(Some(Schedule::Cron { cron: self.cron(cron)?, time_zone })),
            (None, Some(every)) => {
                if let Some(found) = entry(entries, "time_zone") {
                    let message = "`time_zone` goes with `cron`: `every` is the same everywhere";
                    self.report.error(&found.key_span, message);
                }
                self.duration(every, "10m", (SECOND, ANY_TIME.1)).map(|every| Some(Schedule::Every(every)))
            }
            (Some(_), Some(every)) => {
                self.report.error(&every.key_span, format!("{of} has `cron` or `every`, not both"));
                None
            }
            (None, None) => match entry(entries, "time_zone") {
                Some(found) => {
                    self.report.error(&found.key_span, "`time_zone` goes with `cron`, which is not there");
                    None
                }
                None => Some(None),
            },
        }
    }

    fn cron(&mut self, found: &Entry) -> Option<String> {
        let text = self.non_empty(found)?;
        let cron = Cron::parse(&text)
            .map_err(|cause| format!("`{text}` is not a time such as \"30 2 * * mon-fri\": {cause}"));
        if self.accept(found, cron)?.is_never() {
            self.refuse(found, format!("`{text}` is a day that no year has"));
        }
        Some(text)
    }

    fn time_zone(&mut self, found: &Entry) -> Option<String> {
        let text = self.non_empty(found)?;
        let known = jiff::tz::TimeZone::get(&text).map(|_| text.clone());
        self.accept(
            found,
            known.map_err(|_| format!("`{text}` is not a time zone such as \"Europe/Berlin\" or \"UTC\"")),
        )
    }
}
