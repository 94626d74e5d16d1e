//! What a connection of the application has, held against what is recommended.

use super::check::{Area, Check, Hold, Verdict};
use super::driver::{Driver, Found};

/// 64 MiB, in the KiB of a negative `cache_size`.
const CACHE_KIB: i64 = 64_000;
/// How long a writer should wait for another.
const PATIENCE_MS: i64 = 5000;
/// The first SQLite without the WAL-reset bug, and the first with it.
const SOUND: (u32, u32, u32) = (3, 51, 3);
const FIRST_WAL: (u32, u32, u32) = (3, 7, 0);

/// Who was asked, and about what.
pub(super) struct Asked<'a> {
    /// `None`: the user's own command.
    pub(super) driver: Option<Driver>,
    pub(super) of: &'a str,
    pub(super) found: &'a Found,
    /// Facts that change what a value means.
    pub(super) page_size: u64,
    pub(super) database_bytes: u64,
    pub(super) foreign_keys: u64,
    pub(super) is_local: bool,
}

impl Asked<'_> {
    /// All checks of one connection.
    pub(super) fn checks(&self) -> Vec<Check> {
        vec![
            self.journal_mode(),
            self.synchronous(),
            self.foreign_keys(),
            self.busy_timeout(),
            self.cache_size(),
            self.mmap_size(),
            self.temp_store(),
            self.transactions(),
            self.version(),
        ]
    }

    fn check(&self, name: &'static str, verdict: Verdict, reason: String) -> Check {
        let hold = if name == "journal_mode" { Hold::Persisted } else { Hold::Checked };
        Check::new(Area::Settings, name, hold, verdict, reason).of(self.of)
    }

    fn unknown(&self, name: &'static str) -> Check {
        self.check(name, Verdict::NotChecked, "it was not told".to_owned())
    }

    /// A driver's own defaults may be changed by the application, so they are no proof that something is wrong.
    fn wrong(&self) -> Verdict {
        if self.driver.is_some_and(|driver| !driver.knows_the_application()) {
            Verdict::Warning
        } else {
            Verdict::Problem
        }
    }

    fn line(&self, pragma: &str, value: &str) -> String {
        match self.driver {
            Some(driver) => driver.line(pragma, value),
            None => format!("PRAGMA {pragma} = {value};  -- on each connection"),
        }
    }

    fn journal_mode(&self) -> Check {
        let name = "journal_mode";
        let Some(mode) = &self.found.journal_mode else { return self.unknown(name) };
        if mode.eq_ignore_ascii_case("wal") {
            return self.check(
                name,
                Verdict::Ok,
                "wal: readers and the writer do not wait for each other".into(),
            );
        }
        let reason = format!("{mode}: each write waits for all readers, and there is no WAL to back up");
        self.check(name, Verdict::Problem, reason)
            .fix("PRAGMA journal_mode = WAL;  -- once, it stays in the file")
    }

    fn synchronous(&self) -> Check {
        let name = "synchronous";
        let Some(level) = self.found.synchronous else { return self.unknown(name) };
        let is_wal = self.found.journal_mode.as_deref().is_some_and(|mode| mode.eq_ignore_ascii_case("wal"));
        let (verdict, reason) = match level {
            0 => (self.wrong(), "OFF: a power cut can damage the database"),
            1 if is_wal => (
                Verdict::Ok,
                "NORMAL: a crash of the application loses nothing; a power cut can take the last commits",
            ),
            1 => (Verdict::Warning, "NORMAL, which outside WAL mode is not safe in every power cut"),
            _ => (
                Verdict::Ok,
                "FULL: a power cut takes no commit, and each commit waits for the disk; under NORMAL it does not",
            ),
        };
        let check = self.check(name, verdict, reason.to_owned());
        match (level, is_wal) {
            (1, true) | (2.., false) => check,
            (_, true) => check.fix(self.line(name, "NORMAL")),
            (_, false) => check.fix(self.line(name, "FULL")),
        }
    }

    fn foreign_keys(&self) -> Check {
        let name = "foreign_keys";
        let Some(on) = self.found.foreign_keys else { return self.unknown(name) };
        if on != 0 {
            return self.check(name, Verdict::Ok, "ON: they are enforced".into());
        }
        let (verdict, declared) = match self.foreign_keys {
            0 => (Verdict::Ok, "there are none yet".to_owned()),
            n => (self.wrong(), format!("{n} declared, none enforced: rows can refer to nothing")),
        };
        self.check(name, verdict, format!("OFF: {declared}")).fix(self.line(name, "ON"))
    }

    fn busy_timeout(&self) -> Check {
        let name = "busy_timeout";
        let Some(ms) = self.found.busy_timeout else { return self.unknown(name) };
        let (verdict, reason) = match ms {
            PATIENCE_MS.. => (Verdict::Ok, format!("{ms} ms: a writer waits for another one")),
            1.. => {
                (Verdict::Warning, format!("{ms} ms: \"database is locked\" while another writes for longer"))
            }
            _ => {
                (self.wrong(), "0: \"database is locked\" at once while another connection writes".to_owned())
            }
        };
        let check = self.check(name, verdict, reason);
        if verdict == Verdict::Ok { check } else { check.fix(self.line(name, &PATIENCE_MS.to_string())) }
    }

    fn cache_size(&self) -> Check {
        let name = "cache_size";
        let Some(size) = self.found.cache_size else { return self.unknown(name) };
        let page_size = i64::try_from(self.page_size).unwrap_or(4096);
        // Negative in KiB, else pages.
        let kib = if size < 0 { size.saturating_neg() } else { size.saturating_mul(page_size) / 1024 };
        let fits = u64::try_from(kib).unwrap_or(0).saturating_mul(1024) >= self.database_bytes;
        if kib >= CACHE_KIB || fits {
            return self.check(name, Verdict::Ok, format!("{size}: {kib} KiB a connection"));
        }
        let reason =
            format!("{size}: {kib} KiB a connection, less than the database; more is read again and again");
        self.check(name, Verdict::Warning, reason).fix(self.line(name, &format!("-{CACHE_KIB}")))
    }

    fn mmap_size(&self) -> Check {
        let name = "mmap_size";
        let Some(bytes) = self.found.mmap_size else { return self.unknown(name) };
        if bytes > 0 && !self.is_local {
            let reason = format!("{bytes}: on this file system a map can end the process with SIGBUS");
            return self.check(name, self.wrong(), reason).fix(self.line(name, "0"));
        }
        let reason = match bytes {
            0 => {
                "0: pages are copied, which is always safe; a map is worth it for reads of a database beyond the cache"
            }
            _ => "pages are mapped; a file that another program shortens ends the process with SIGBUS",
        };
        let check = self.check(name, Verdict::Ok, reason.to_owned());
        if bytes == 0 && self.is_local { check.fix(self.line(name, "268435456")) } else { check }
    }

    fn temp_store(&self) -> Check {
        let name = "temp_store";
        let Some(place) = self.found.temp_store else { return self.unknown(name) };
        if place == 2 {
            return self.check(name, Verdict::Ok, "MEMORY: sorting makes no files".into());
        }
        self.check(name, Verdict::Warning, "sorting and temporary tables may go to files".into())
            .fix(self.line(name, "MEMORY"))
    }

    fn transactions(&self) -> Check {
        let name = "transactions";
        let advice = "one that reads and then writes can fail with \"database is locked\" at once, whatever the \
                      timeout, and repeating the statement never helps";
        let line = self.driver.map_or("BEGIN IMMEDIATE", Driver::immediate);
        match self.found.transactions.as_deref() {
            Some("deferred") => {
                self.check(name, Verdict::Warning, format!("they begin deferred: {advice}")).fix(line)
            }
            Some(mode) => self.check(name, Verdict::Ok, format!("they begin {mode}")),
            None => self
                .check(
                    name,
                    Verdict::Note,
                    format!("the application begins them itself; if deferred, {advice}"),
                )
                .fix(line),
        }
    }

    fn version(&self) -> Check {
        let name = "sqlite_version";
        let Some(version) = &self.found.sqlite_version else { return self.unknown(name) };
        match parse(version) {
            None => self.unknown(name),
            Some(number) if (FIRST_WAL..SOUND).contains(&number) => self
                .check(
                    name,
                    Verdict::Warning,
                    format!(
                        "{version} has the WAL-reset bug of 3.7.0 to 3.51.2, unless its distributor has mended it: two \
                         connections that checkpoint and write at once can damage the database"
                    ),
                )
                .fix("update the driver, or the SQLite it links, to 3.51.3 or later"),
            Some(_) => self.check(name, Verdict::Ok, version.clone()),
        }
    }
}

fn parse(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.split('.').map(str::parse);
    let (major, minor) = (parts.next()?.ok()?, parts.next()?.ok()?);
    Some((major, minor, parts.next().and_then(Result::ok).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuned() -> Found {
        Found {
            sqlite_version: Some("3.51.3".into()),
            journal_mode: Some("wal".into()),
            synchronous: Some(1),
            foreign_keys: Some(1),
            busy_timeout: Some(5000),
            cache_size: Some(-64_000),
            mmap_size: Some(268_435_456),
            temp_store: Some(2),
            transactions: Some("immediate".into()),
            database: None,
            place: None,
        }
    }

    fn verdicts(found: &Found, driver: Option<Driver>, is_local: bool) -> Vec<(&'static str, Verdict)> {
        let asked = Asked {
            driver,
            of: "x",
            found,
            page_size: 4096,
            database_bytes: 1 << 30,
            foreign_keys: 2,
            is_local,
        };
        let others = asked.checks().into_iter().filter(|check| check.verdict != Verdict::Ok);
        others.map(|check| (check.name, check.verdict)).collect()
    }

    #[test]
    fn the_tuned_seven_are_all_right() {
        assert_eq!(verdicts(&tuned(), None, true), []);
    }

    #[test]
    fn each_value_that_hurts_is_named() {
        use Verdict::{Note, Problem, Warning};
        type Change = fn(&mut Found);
        let changes: [(Change, &str, Verdict); 10] = [
            (|f| (f.journal_mode, f.synchronous) = (Some("delete".into()), Some(2)), "journal_mode", Problem),
            (|f| f.synchronous = Some(0), "synchronous", Problem),
            (|f| f.foreign_keys = Some(0), "foreign_keys", Problem),
            (|f| f.busy_timeout = Some(0), "busy_timeout", Problem),
            (|f| f.busy_timeout = Some(1000), "busy_timeout", Warning),
            (|f| f.cache_size = Some(-2000), "cache_size", Warning),
            (|f| f.temp_store = Some(0), "temp_store", Warning),
            (|f| f.transactions = Some("deferred".into()), "transactions", Warning),
            (|f| f.transactions = None, "transactions", Note),
            (|f| f.sqlite_version = Some("3.51.2".into()), "sqlite_version", Warning),
        ];
        for (change, name, verdict) in changes {
            let mut found = tuned();
            change(&mut found);
            assert_eq!(verdicts(&found, None, true), [(name, verdict)]);
        }
        assert_eq!(verdicts(&tuned(), None, false), [("mmap_size", Problem)]);
        let rollback = Found { journal_mode: Some("delete".into()), ..tuned() };
        let both = [("journal_mode", Problem), ("synchronous", Warning)];
        assert_eq!(verdicts(&rollback, None, true), both, "NORMAL is for WAL mode");
    }

    #[test]
    fn defaults_of_a_driver_warn_only() {
        let found = Found { foreign_keys: Some(0), busy_timeout: Some(0), ..tuned() };
        let warned = [("foreign_keys", Verdict::Warning), ("busy_timeout", Verdict::Warning)];
        assert_eq!(verdicts(&found, Some(Driver::NodeSqlite), true), warned);
        let wrong = warned.map(|(name, _)| (name, Verdict::Problem));
        assert_eq!(
            verdicts(&found, Some(Driver::Django), true),
            wrong,
            "Django has the application's settings"
        );
    }

    #[test]
    fn what_is_not_told_is_not_checked() {
        let found = Found { sqlite_version: None, mmap_size: None, ..tuned() };
        let unknown = [("mmap_size", Verdict::NotChecked), ("sqlite_version", Verdict::NotChecked)];
        assert_eq!(verdicts(&found, None, true), unknown);
        assert_eq!(parse("3.6.23.1"), Some((3, 6, 23)));
    }
}
