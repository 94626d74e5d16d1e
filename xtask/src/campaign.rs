//! Campaigns: random tests that find more the longer they run. Each is an ordinary test with a few rounds in
//! `cargo test`, so it cannot rot; here it runs with as many as asked, in the release build.
//!
//! The test takes its rounds from `litekeep_testkit::campaign`, which reads the two variables below; a round that fails
//! names its seed.

use anyhow::{Context, Result};

use crate::{cargo, test_run};

struct Campaign {
    name: &'static str,
    about: &'static str,
    package: &'static str,
    /// Its test, by its whole path in the package's integration tests.
    test: &'static str,
}

const CAMPAIGNS: &[Campaign] = &[
    Campaign {
        name: "bank",
        about: "the bank workload itself: killed at random, what it acknowledged is there and every row is right",
        package: "litekeep-testkit",
        test: "bank::what_was_acknowledged_is_there_after_a_kill",
    },
    Campaign {
        name: "power-cut-bank",
        about: "the bank under power cuts: SQLite keeps the promises of each `synchronous`",
        package: "litekeep-testkit",
        test: "power_cut::sqlite_keeps_its_promises",
    },
    Campaign {
        name: "kills",
        about: "kill -9 of litekeep, the bank or both: nothing confirmed is lost, in the end nothing at all",
        package: "litekeep",
        test: "kills::kill_nine_loses_nothing_that_was_confirmed",
    },
    Campaign {
        name: "power-cuts",
        about: "power cuts under bank and litekeep: what the store confirmed restores, and replication goes on",
        package: "litekeep",
        test: "power_cuts::the_backup_outlives_power_cuts",
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
    let bin_dir = test_run::build(true)?;
    let mut command = cargo();
    command
        .args(["test", "--release", "--package", campaign.package, "--test", "it", "--"])
        .args(["--exact", campaign.test, "--nocapture"])
        .env("LITEKEEP_BIN_DIR", bin_dir)
        .env("LITEKEEP_CAMPAIGN_N", n.to_string())
        .env("LITEKEEP_CAMPAIGN_SEED", seed.to_string());
    let (counts, ok) = test_run::count(command)?;
    anyhow::ensure!(!ok || counts.ran() == 1, "{} has no test {}", campaign.package, campaign.test);
    println!("campaign {name}: {n} rounds from seed {seed}: {}", if ok { "passed" } else { "FAILED" });
    Ok(ok)
}
