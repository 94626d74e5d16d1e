//! The database file: what persists in it, and what its schema lacks.

use std::time::Duration;

use anyhow::Result;
use litekeep_sql::{Examiner, Layout, Stale};

use super::check::{Area, Check, Hold, Verdict};
use crate::report::text;

/// How long questions may take that read whole tables.
const PATIENCE: Duration = Duration::from_secs(5);
/// A quarter of the file, and enough of it to matter.
const MANY_FREE: f64 = 0.25;
const MUCH_FREE: u64 = 16 << 20;
/// Lines that are shown of one kind.
const SHOWN: usize = 20;
/// What the planner has trouble with.
const TABLES_OF_A_VIEW: usize = 10;
const LARGE: u64 = 100 << 30;

/// All checks of the file.
pub(super) fn checks(examiner: &mut Examiner, layout: &Layout) -> Result<Vec<Check>> {
    let mut checks = vec![
        journal_mode(layout),
        page_size(layout),
        auto_vacuum(layout),
        numbers(layout),
        free_pages(layout),
        statistics(examiner)?,
        indexes(examiner)?,
        violations(examiner)?,
    ];
    checks.extend(primary_keys(examiner)?);
    checks.extend(views(examiner)?);
    checks.extend(size(layout));
    Ok(checks)
}

fn check(name: &'static str, hold: Hold, verdict: Verdict, reason: impl Into<String>) -> Check {
    Check::new(Area::File, name, hold, verdict, reason)
}

fn journal_mode(layout: &Layout) -> Check {
    let name = "wal";
    match layout.journal_mode.as_str() {
        "wal" => check(name, Hold::Persisted, Verdict::Ok, "the file is in WAL mode, for every connection"),
        other => check(
            name,
            Hold::Persisted,
            Verdict::Problem,
            format!("the file is in journal mode {other}; litekeep switches it when it starts"),
        )
        .fix("PRAGMA journal_mode = WAL;"),
    }
}

fn page_size(layout: &Layout) -> Check {
    let (name, size) = ("page_size", layout.page_size);
    match size {
        4096.. => check(name, Hold::Persisted, Verdict::Ok, format!("{size} bytes")),
        _ => check(
            name,
            Hold::Persisted,
            Verdict::Warning,
            format!(
                "{size} bytes, smaller than a page of the disk; it changes only by a VACUUM outside WAL mode"
            ),
        )
        .fix("PRAGMA journal_mode = DELETE; PRAGMA page_size = 4096; VACUUM; PRAGMA journal_mode = WAL;"),
    }
}

fn auto_vacuum(layout: &Layout) -> Check {
    let name = "auto_vacuum";
    let note = |reason: &str| check(name, Hold::Persisted, Verdict::Note, reason);
    match layout.auto_vacuum {
        0 => note("none: a file that has grown never shrinks by itself, and free pages are used again")
            .fix("PRAGMA auto_vacuum = INCREMENTAL; VACUUM;"),
        1 => note("full: each commit that frees pages moves others"),
        _ => check(
            name,
            Hold::Persisted,
            Verdict::Ok,
            "incremental: PRAGMA incremental_vacuum gives pages back",
        ),
    }
}

fn numbers(layout: &Layout) -> Check {
    let Layout { user_version, application_id, .. } = layout;
    let reason =
        format!("user_version {user_version}, application_id {application_id}: litekeep never writes them");
    check("header_numbers", Hold::Enforced, Verdict::Ok, reason)
}

fn free_pages(layout: &Layout) -> Check {
    let Layout { pages, free_pages, page_size, auto_vacuum, .. } = layout;
    let share = if *pages == 0 { 0.0 } else { *free_pages as f64 / *pages as f64 };
    let bytes = free_pages * page_size;
    let reason = format!("{:.0} % of {}", share * 100.0, text::size(pages * page_size));
    if share < MANY_FREE || bytes < MUCH_FREE {
        return check("free_pages", Hold::Checked, Verdict::Ok, reason);
    }
    let reason = format!("{reason} hold nothing; they are used again, or given back");
    let fix = match auto_vacuum {
        2 => "PRAGMA incremental_vacuum;",
        _ => "VACUUM;  -- while nobody writes; needs twice the space, and all of it goes to the backup",
    };
    check("free_pages", Hold::Checked, Verdict::Warning, reason).fix(fix)
}

fn statistics(examiner: &mut Examiner) -> Result<Check> {
    let name = "statistics";
    let Some(stale) = examiner.stale_statistics(PATIENCE)? else { return Ok(given_up(name)) };
    if stale.is_empty() {
        return Ok(check(
            name,
            Hold::Persisted,
            Verdict::Ok,
            "the planner knows about how many rows there are",
        ));
    }
    let told = stale.iter().take(SHOWN).map(|stale| match stale.believed {
        Some(believed) => format!("{} has {} rows, believed {believed}", stale.table, stale.rows),
        None => format!("{} has {} rows and no statistics", stale.table, stale.rows),
    });
    let reason = told.collect::<Vec<_>>().join("; ");
    let mut check = check(name, Hold::Persisted, Verdict::Warning, reason);
    check.fix = stale.iter().take(SHOWN).map(Stale::analyze).collect();
    Ok(check.fix("PRAGMA optimize;  -- once a day in the application keeps them right"))
}

fn indexes(examiner: &Examiner) -> Result<Check> {
    let name = "foreign_key_indexes";
    let missing = examiner.unindexed_foreign_keys()?;
    if missing.is_empty() {
        return Ok(check(name, Hold::Persisted, Verdict::Ok, "each foreign key has an index"));
    }
    let told = missing
        .iter()
        .take(SHOWN)
        .map(|key| format!("{}({}) refers to {}", key.table, key.columns.join(", "), key.parent));
    let reason =
        format!("each delete in the parent reads the whole child: {}", told.collect::<Vec<_>>().join("; "));
    let mut check = check(name, Hold::Persisted, Verdict::Warning, reason);
    check.fix = missing.iter().take(SHOWN).map(|key| key.create_index()).collect();
    Ok(check)
}

fn violations(examiner: &mut Examiner) -> Result<Check> {
    let name = "foreign_key_violations";
    let Some(found) = examiner.foreign_key_violations(PATIENCE)? else { return Ok(given_up(name)) };
    if found.is_empty() {
        return Ok(check(name, Hold::Checked, Verdict::Ok, "no row refers to nothing"));
    }
    let told = found.iter().map(|(table, rows)| format!("{rows} in {table}"));
    let reason = format!("rows that refer to nothing: {}", told.collect::<Vec<_>>().join(", "));
    let mut check = check(name, Hold::Checked, Verdict::Problem, reason);
    let line =
        |(table, _): &(String, u64)| format!("PRAGMA foreign_key_check({table});  -- names their rowids");
    check.fix = found.iter().take(SHOWN).map(line).collect();
    Ok(check)
}

fn given_up(name: &'static str) -> Check {
    let reason = format!("it took longer than {} s", PATIENCE.as_secs());
    check(name, Hold::Checked, Verdict::NotChecked, reason)
}

fn primary_keys(examiner: &Examiner) -> Result<Option<Check>> {
    let tables = examiner.tables_without_primary_key()?;
    let reason = || format!("{}: rows can be told apart by rowid only", tables.join(", "));
    Ok((!tables.is_empty()).then(|| check("primary_keys", Hold::Persisted, Verdict::Note, reason())))
}

fn views(examiner: &Examiner) -> Result<Option<Check>> {
    let wide = examiner.wide_views(TABLES_OF_A_VIEW)?;
    let told = wide.iter().map(|(view, tables)| format!("{view} reads {tables} tables"));
    let reason = format!(
        "{}: the planner tries few orders of so many; look at EXPLAIN QUERY PLAN, or use a server for such joins",
        told.collect::<Vec<_>>().join(", ")
    );
    Ok((!wide.is_empty())
        .then(|| Check::new(Area::Limits, "many_joins", Hold::Checked, Verdict::Note, reason)))
}

fn size(layout: &Layout) -> Option<Check> {
    let bytes = layout.pages * layout.page_size;
    let reason = format!(
        "{}: schema changes, VACUUM, snapshots and restores take as long as the disk needs for all of it",
        text::size(bytes)
    );
    (bytes > LARGE).then(|| Check::new(Area::Limits, "size", Hold::Checked, Verdict::Note, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_file_is_judged() {
        let good = Layout {
            journal_mode: "wal".into(),
            page_size: 4096,
            pages: 100_000,
            free_pages: 10,
            auto_vacuum: 2,
            user_version: 3,
            application_id: 0,
        };
        let verdicts = |layout: &Layout| {
            [journal_mode(layout), page_size(layout), auto_vacuum(layout), free_pages(layout)]
                .map(|check| check.verdict)
        };
        assert_eq!(verdicts(&good), [Verdict::Ok; 4]);
        let bad = Layout {
            journal_mode: "delete".into(),
            page_size: 1024,
            free_pages: 50_000,
            auto_vacuum: 0,
            ..good.clone()
        };
        use Verdict::{Note, Problem, Warning};
        assert_eq!(verdicts(&bad), [Problem, Warning, Note, Warning]);
        assert!(size(&good).is_none());
        assert_eq!(size(&Layout { pages: 30 << 20, ..good }).unwrap().verdict, Note);
    }
}
