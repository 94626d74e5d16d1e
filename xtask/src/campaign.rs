//! Campaigns: random tests that find more the longer they run. Each has a few rounds in `cargo test`, so it cannot rot;
//! here it runs with as many as asked, in the release build.
//!
//! Most are ordinary tests, which take their rounds from `litekeep_testkit::campaign` by the two variables below; a round
//! that fails names its seed. The others are fuzz targets, which libFuzzer runs.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::test_run::{self, Counts};
use crate::{BIN_DIR, cargo, root};

struct Campaign {
    name: &'static str,
    about: &'static str,
    how: How,
}

enum How {
    /// A test of a package, by its whole path in the package's integration tests.
    Test(&'static str, &'static str),
    /// The fuzz target of a crate's folder, with folders of files to begin with.
    Fuzz(&'static str, &'static [&'static str]),
}

/// Inputs that a fuzzer tries in one round.
const INPUTS: u64 = 10_000;

/// What libFuzzer needs to see which branches an input takes. Compilers of every channel know it, unlike sanitizers.
const COVERAGE: &str = "--cfg fuzzing -Cdebug-assertions -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

const GOLDEN: &[&str] = &["ltx/tests/golden/litestream-0.5.15", "ltx/tests/golden/litestream-0.5.17"];

const FORMAT_SEEDS: &[&str] = &[GOLDEN[0], GOLDEN[1], "format/fuzz/seeds"];

const CAMPAIGNS: &[Campaign] = &[
    Campaign {
        name: "bank",
        about: "the bank workload itself: killed at random, what it acknowledged is there and every row is right",
        how: How::Test("litekeep-testkit", "bank::what_was_acknowledged_is_there_after_a_kill"),
    },
    Campaign {
        name: "power-cut-bank",
        about: "the bank under power cuts: SQLite keeps the promises of each `synchronous`",
        how: How::Test("litekeep-testkit", "power_cut::sqlite_keeps_its_promises"),
    },
    Campaign {
        name: "churn",
        about: "random databases and changes of rows: SQLite's session extension and a reader of all rows agree",
        how: How::Test("litekeep-testkit", "churn::sessions_and_contents_agree"),
    },
    Campaign {
        name: "kills",
        about: "kill -9 of litekeep, the bank or both: nothing confirmed is lost, in the end nothing at all",
        how: How::Test("litekeep", "kills::kill_nine_loses_nothing_that_was_confirmed"),
    },
    Campaign {
        name: "power-cuts",
        about: "power cuts under bank and litekeep: what the store confirmed restores, and replication goes on",
        how: How::Test("litekeep", "power_cuts::the_backup_outlives_power_cuts"),
    },
    Campaign {
        name: "follow",
        about: "kill -9 of a follower, which in odd rounds streams from a primary that is killed, too, over a way that is cut, beside readers with the system's SQLite: they see states of the bank in their order, and in the end the copy is the backup's last state, byte for byte",
        how: How::Test("litekeep", "follow::interruptions::kills_of_a_follower_leave_states_of_the_backup"),
    },
    Campaign {
        name: "follow-power-cuts",
        about: "power cuts under a follower: whatever the disk kept becomes the backup's last state",
        how: How::Test("litekeep", "follow::interruptions::power_cuts_leave_what_the_log_mends"),
    },
    Campaign {
        name: "graduate",
        about: "an application on its way to PostgreSQL, whose command is killed at any moment: no operation is lost, and SQLite gets what is written there",
        how: How::Test("litekeep", "graduate::killed_in_the_middle_it_goes_on"),
    },
    Campaign {
        name: "graduate-mariadb",
        about: "the same to MariaDB",
        how: How::Test("litekeep", "graduate::killed_in_the_middle_of_the_way_to_mariadb_it_goes_on"),
    },
    Campaign {
        name: "failovers",
        about: "three nodes whose primary is killed, stopped or hands over: one leads at a time, and what was acknowledged is in the log or in a fork",
        how: How::Test("litekeep", "cluster::failovers::nothing_acknowledged_is_lost_in_failovers"),
    },
    Campaign {
        name: "partitions",
        about: "three nodes with networks, disks and clocks of their own, all of which fail, and clients that go to any of them: one primary acknowledges at a time, nothing acknowledged is lost beyond what `acknowledge` says, no client sees less than it has seen",
        how: How::Test(
            "litekeep",
            "cluster::partitions::faults_at_random_lose_nothing_that_was_acknowledged",
        ),
    },
    Campaign {
        name: "roles",
        about: "the roles of nodes in simulated time: late, lost and repeated requests, skewed clocks, nodes that stop",
        how: How::Test("litekeep-cluster", "simulated::one_leads_at_a_time_and_nothing_committed_is_lost"),
    },
    Campaign {
        name: "syncs",
        about: "kill -9 of litekeep, PostgreSQL or the connection beside a writer: in the end both sides have the same rows",
        how: How::Test("litekeep", "sync::kills_lose_no_row_and_repeat_none"),
    },
    Campaign {
        name: "pulls",
        about: "kill -9 of litekeep, PostgreSQL or the connection while both sides are written to: in the end SQLite has the server's rows",
        how: How::Test("litekeep", "sync::kills_lose_no_row_of_the_server"),
    },
    Campaign {
        name: "pulls-mysql",
        about: "the same with MariaDB",
        how: How::Test("litekeep", "sync_mysql::kills_lose_no_row_of_the_server"),
    },
    Campaign {
        name: "two-way",
        about: "three databases and PostgreSQL are written to while litekeeps, the server and connections are killed: all come to the same, and no edit is lost without a word",
        how: How::Test("litekeep", "two_way::four_come_to_the_same_and_no_edit_is_lost_without_a_word"),
    },
    Campaign {
        name: "two-way-mariadb",
        about: "the same with MariaDB",
        how: How::Test("litekeep", "two_way::four_come_to_the_same_with_mariadb"),
    },
    Campaign {
        name: "two-way-mysql",
        about: "the same with MySQL",
        how: How::Test("litekeep", "two_way::four_come_to_the_same_with_mysql"),
    },
    Campaign {
        name: "offline",
        about: "three databases behind connections that are cut, with clocks that differ, and PostgreSQL are written to: all come to the same, and no edit is lost without a word",
        how: How::Test("litekeep", "offline::machines_that_were_cut_off_come_to_the_same"),
    },
    Campaign {
        name: "two-way-mongodb",
        about: "the same with MongoDB",
        how: How::Test(
            "litekeep",
            "two_way::mongodb::four_come_to_the_same_and_no_edit_is_lost_without_a_word",
        ),
    },
    Campaign {
        name: "rows",
        about: "random schemas and transactions: the rows that a diff of pages reports are those that differ by SQL, and those that SQLite's sessions heard of",
        how: How::Test("litekeep-rows", "churn::rows_differ_as_sql_sees_it"),
    },
    Campaign {
        name: "identity",
        about: "random tables and columns whose places are given again: a diff takes none for another, and knows those that have other names",
        how: How::Test("litekeep-rows", "identity::tables_and_columns_are_taken_for_no_others"),
    },
    Campaign {
        name: "lease",
        about: "simulated nodes with clocks of their own, lost requests and pauses: two never hold a lease at the same time",
        how: How::Test("litekeep-lease", "simulated::two_never_hold_it_and_somebody_does_in_the_end"),
    },
    Campaign {
        name: "scripts",
        about: "random rows, indexes and triggers: the scripts of a diff lead from any state to any other and back",
        how: How::Test("litekeep-rows", "scripts::scripts_lead_from_any_state_to_any_other"),
    },
    Campaign {
        name: "undo",
        about: "random changes taken back in any later state, and rows brought back: nothing else changes, and what is not done is told",
        how: How::Test("litekeep-rows", "undo_at_random::an_undo_does_what_it_promises"),
    },
    Campaign {
        name: "fuzz-ltx",
        about: "libFuzzer on LTX files: all ways of reading agree, and what we write of it reads the same; 10,000 inputs a round",
        how: How::Fuzz("ltx/fuzz", GOLDEN),
    },
    Campaign {
        name: "fuzz-binlog",
        about: "the log of MySQL and MariaDB from damaged bytes: nothing panics, nothing takes forever",
        how: How::Fuzz("sync-mysql/fuzz", &["sync-mysql/fuzz/seeds"]),
    },
    Campaign {
        name: "fuzz-format",
        about: "libFuzzer on SQLite's files: headers and frames are read alike in every way, trees and diffs of rows end; 10,000 inputs a round",
        how: How::Fuzz("format/fuzz", FORMAT_SEEDS),
    },
];

/// Prints the table.
pub(crate) fn list() {
    for campaign in CAMPAIGNS {
        println!("{:16} {}", campaign.name, campaign.about);
    }
}

/// Runs one; whether all its rounds passed.
///
/// # Errors
/// When there is no such campaign, or its test is not there.
pub(crate) fn run(name: &str, n: u64, seed: u64) -> Result<bool> {
    let campaign = CAMPAIGNS
        .iter()
        .find(|campaign| campaign.name == name)
        .with_context(|| format!("no campaign `{name}`; `cargo xtask campaign` lists them"))?;
    let ok = match campaign.how {
        How::Test(package, test) => run_test(package, test, n, seed)?,
        How::Fuzz(folder, corpora) => fuzz(Path::new(folder), corpora, n * INPUTS, seed)?,
    };
    println!("campaign {name}: {n} rounds from seed {seed}: {}", if ok { "passed" } else { "FAILED" });
    Ok(ok)
}

fn run_test(package: &str, test: &str, n: u64, seed: u64) -> Result<bool> {
    let bin_dir = test_run::build(true)?;
    let mut command = cargo();
    command
        .args(["test", "--release", "--package", package, "--test", "it", "--"])
        .args(["--exact", test, "--nocapture"])
        .env(BIN_DIR, bin_dir)
        .env("LITEKEEP_CAMPAIGN_N", n.to_string())
        .env("LITEKEEP_CAMPAIGN_SEED", seed.to_string());
    let mut counts = Counts::default();
    let ok = test_run::count(command, &mut counts)?;
    anyhow::ensure!(!ok || counts.ran() == 1, "{package} has no test {test}");
    Ok(ok)
}

/// Finds are kept in the folder's `corpus`, where the next run goes on; an input that fails, in its `artifacts`.
fn fuzz(folder: &Path, corpora: &[&str], inputs: u64, seed: u64) -> Result<bool> {
    for kept in ["corpus", "artifacts"] {
        let path = root().join(folder).join(kept);
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    }
    let mut command = cargo();
    // With a target of its own: else build scripts would want libFuzzer too.
    command
        .args(["run", "--release", "--target", &host()?, "--manifest-path"])
        .arg(folder.join("Cargo.toml"));
    command.arg("--").arg(folder.join("corpus")).args(corpora);
    command.arg(format!("-artifact_prefix={}/", folder.join("artifacts").display()));
    command.args([format!("-runs={inputs}"), format!("-seed={seed}")]);
    command.args(["-print_final_stats=1", "-timeout=10", "-rss_limit_mb=2048"]).env("RUSTFLAGS", COVERAGE);
    Ok(command.status().context("run cargo")?.success())
}

/// The compiler's own target.
fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc names no host")
}
