//! What the demo has measured, in numbers and in words.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::bank::{Books, Progress};
use super::landings::Landing;
use crate::report::text;

/// A transfer whose commit SQLite had acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) writer: u32,
    pub(super) number: u64,
    /// On the monotonic clock.
    pub(super) at: Duration,
}

impl Ack {
    /// A line of a writer's list; `None` for one that is not whole.
    pub(super) fn parse(writer: u32, line: &str) -> Option<Ack> {
        let (number, at) = line.strip_suffix('\n')?.split_once(' ')?;
        Some(Ack { writer, number: number.parse().ok()?, at: Duration::from_micros(at.parse().ok()?) })
    }

    pub(super) fn is_missing_in(&self, progress: &Progress) -> bool {
        progress.get(&self.writer).is_none_or(|last| *last < self.number)
    }
}

/// How many of the commits in `expected` are not in `found`.
pub(super) fn missing(expected: &Progress, found: &Progress) -> u64 {
    let of = |(writer, last): (&u32, &u64)| last.saturating_sub(found.get(writer).copied().unwrap_or(0));
    expected.iter().map(of).sum()
}

/// One load, from the writers' start to the deletion.
pub(super) struct Load {
    pub(super) begin: Duration,
    pub(super) deleted_at: Duration,
    /// In order.
    pub(super) landings: Vec<Landing>,
}

impl Load {
    /// What the backup has.
    pub(super) fn confirmed(&self) -> Progress {
        let mut confirmed = Progress::new();
        for (writer, number) in self.landings.iter().flat_map(|landing| &landing.progress) {
            let last = confirmed.entry(*writer).or_default();
            *last = (*last).max(*number);
        }
        confirmed
    }

    pub(super) fn measure(&self, acks: &[Ack]) -> LoadMeasured {
        let commits = acks.iter().filter(|ack| ack.at <= self.deleted_at).count() as u64;
        let seconds = (self.deleted_at - self.begin).as_secs_f64();
        let mut lags: Vec<Duration> = acks.iter().filter_map(|ack| self.lag(ack)).collect();
        lags.sort_unstable();
        LoadMeasured {
            seconds,
            commits,
            commits_per_second: commits as f64 / seconds,
            uploads: self.landings.len() as u64,
            uploaded_bytes: 0,
            lag_p50_ms: percentile(&lags, 50),
            lag_p99_ms: percentile(&lags, 99),
        }
    }

    /// From the acknowledgement to the backup; `None` for a commit that did not get there.
    fn lag(&self, ack: &Ack) -> Option<Duration> {
        let first = self.landings.partition_point(|landing| ack.is_missing_in(&landing.progress));
        // A commit may be in the backup before its writer has got around to print it.
        Some(self.landings.get(first)?.at.saturating_sub(ack.at))
    }
}

/// Milliseconds; `None` of nothing.
fn percentile(sorted: &[Duration], percent: usize) -> Option<f64> {
    let nth = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(nth).map(|lag| lag.as_secs_f64() * 1000.0)
}

#[derive(Debug, Default, Serialize)]
pub(super) struct LoadMeasured {
    seconds: f64,
    commits: u64,
    commits_per_second: f64,
    uploads: u64,
    pub(super) uploaded_bytes: u64,
    lag_p50_ms: Option<f64>,
    lag_p99_ms: Option<f64>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct AfterLoss {
    pub(super) lost_commits: u64,
    /// How long before the deletion the first of them was acknowledged.
    pub(super) oldest_lost_ms: Option<f64>,
    pub(super) confirmed_but_missing: u64,
    pub(super) written_into_the_deleted_file: u64,
    pub(super) restore_seconds: f64,
    pub(super) database_bytes: u64,
    pub(super) rows_checked: u64,
    #[serde(skip)]
    pub(super) confirmed: Progress,
}

#[derive(Debug, Serialize)]
pub(super) struct BeforeDelete {
    pub(super) deleted_accounts: u64,
    pub(super) restored_to: String,
    pub(super) restore_seconds: f64,
    pub(super) rows_checked: u64,
    pub(super) missing_commits: u64,
}

/// Everything.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    pub(super) ok: bool,
    problems: Vec<String>,
    writers: u32,
    accounts: u64,
    pub(super) load: LoadMeasured,
    pub(super) after_loss: AfterLoss,
    /// `None` when the first part went wrong.
    pub(super) before_delete: Option<BeforeDelete>,
    pub(super) seconds: f64,
    /// The folder, when it was kept.
    pub(super) folder: Option<PathBuf>,
    /// On the monotonic clock.
    #[serde(skip)]
    pub(super) deleted_at: Duration,
}

impl Measured {
    pub(super) fn new(writers: u32, accounts: u64) -> Measured {
        Measured {
            ok: true,
            problems: Vec::new(),
            writers,
            accounts,
            load: LoadMeasured::default(),
            after_loss: AfterLoss::default(),
            before_delete: None,
            seconds: 0.0,
            folder: None,
            deleted_at: Duration::ZERO,
        }
    }

    pub(super) fn problem(&mut self, problem: String) {
        self.ok = false;
        self.problems.push(problem);
    }

    /// The books that a check has found; empty ones, and a problem, where it has found that something is wrong.
    pub(super) fn books(&mut self, checked: Result<Books>, of: &str) -> Books {
        checked.unwrap_or_else(|error| {
            self.problem(format!("{of}: {error:#}"));
            Books::default()
        })
    }

    pub(super) fn text(&self) -> String {
        let mut lines = vec![("load", self.load_text()), ("backup", self.backup_text())];
        lines.push(("deleted", self.lost_text()));
        let after = &self.after_loss;
        lines.push((
            "restored",
            format!(
                "{} in {:.2} s; {} rows checked: all {} accounts, their sum, and the ledger",
                text::size(after.database_bytes),
                after.restore_seconds,
                after.rows_checked,
                self.accounts
            ),
        ));
        if let Some(before) = &self.before_delete {
            lines.push((
                "undone",
                format!(
                    "a DELETE took {} accounts; the second before it, {}, was back in {:.2} s; {} rows checked, {} commits missing",
                    before.deleted_accounts,
                    before.restored_to,
                    before.restore_seconds,
                    before.rows_checked,
                    before.missing_commits
                ),
            ));
        }
        let mut out: String = lines.iter().map(|(name, line)| format!("{name:<9} {line}\n")).collect();
        for problem in &self.problems {
            out.push_str(&format!("WRONG     {problem}\n"));
        }
        out.push_str(&format!(
            "{} in {:.1} s\n\n",
            if self.ok { "everything is right," } else { "not everything is right:" },
            self.seconds
        ));
        out.push_str(&self.next_steps());
        out
    }

    fn load_text(&self) -> String {
        let load = &self.load;
        format!(
            "{} commits in {:.1} s by {} processes, {:.0} a second",
            load.commits, load.seconds, self.writers, load.commits_per_second
        )
    }

    fn backup_text(&self) -> String {
        let load = &self.load;
        let ms = |lag: Option<f64>| lag.map_or("unknown".to_owned(), |ms| format!("{ms:.1} ms"));
        format!(
            "from commit to backup: half of them within {}, 99 % within {}; {} uploads, {}",
            ms(load.lag_p50_ms),
            ms(load.lag_p99_ms),
            load.uploads,
            text::size(load.uploaded_bytes)
        )
    }

    fn lost_text(&self) -> String {
        let after = &self.after_loss;
        let lost = match after.oldest_lost_ms {
            Some(ms) => format!(
                "{} commits of the last {ms:.1} ms were not in the backup yet and are lost",
                after.lost_commits
            ),
            None => "no commit was lost".to_owned(),
        };
        format!("bank.db, bank.db-wal and bank.db-shm under load: {lost}")
    }

    fn next_steps(&self) -> String {
        let mut out = String::from("next:\n");
        if let Some(folder) = &self.folder {
            out.push_str(&format!("  litekeep history {}\n", folder.join("backup").display()));
        }
        out.push_str(
            "  litekeep run ./app.db -- CMD...    your application with its backup beside the database\n",
        );
        out.push_str(
            "  litekeep init ./app.db             a commented litekeep.toml, for buckets and all else\n",
        );
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn ack(writer: u32, number: u64, at: u64) -> Ack {
        Ack { writer, number, at: ms(at) }
    }

    #[test]
    fn a_line_that_was_cut_is_no_acknowledgement() {
        assert_eq!(Ack::parse(1, "7 2000\n"), Some(ack(1, 7, 2)));
        assert_eq!(Ack::parse(1, "7 200"), None);
    }

    #[test]
    fn lag_is_counted_to_the_first_file_that_has_the_commit() {
        let landing = |at, progress: &[(u32, u64)]| Landing {
            at: ms(at),
            progress: progress.iter().copied().collect(),
        };
        let load = Load {
            begin: ms(0),
            deleted_at: ms(100),
            landings: vec![landing(20, &[(0, 2)]), landing(50, &[(0, 3), (1, 1)])],
        };
        let acks = [ack(0, 1, 5), ack(0, 2, 10), ack(0, 3, 60), ack(1, 1, 30), ack(1, 2, 90), ack(0, 4, 120)];
        let measured = load.measure(&acks);
        assert_eq!(measured.commits, 5, "what came after the deletion does not count");
        assert_eq!((measured.lag_p50_ms, measured.lag_p99_ms), (Some(10.0), Some(20.0)));
        assert_eq!(load.confirmed(), [(0, 3), (1, 1)].into());
        assert_eq!(missing(&load.confirmed(), &[(0, 1)].into()), 3);
    }
}
