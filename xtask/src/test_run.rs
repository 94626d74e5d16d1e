//! `cargo xtask test`: one build, all tests, one line at the end.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{BIN_DIR, cargo, program_dir};

/// The features that a default build leaves out. One build has them all, for a second one would compile most of the
/// workspace again.
const FEATURES: [&str; 2] = ["--features", "litekeep/all"];

/// Runs all tests of the workspace; whether all passed.
///
/// # Errors
/// When the build fails.
pub(crate) fn run(release: bool, args: &[String]) -> Result<bool> {
    // With the programs: by themselves they would want fewer features of their dependencies, and most of these a second time.
    let bin_dir = built(&["test", "--workspace", "--no-run"], release)?;
    let mut command = cargo();
    command
        .args(["test", "--workspace", "--no-fail-fast"])
        .args(FEATURES)
        .args(release.then_some("--release"));
    command.arg("--").args(args).env(BIN_DIR, bin_dir);
    let (counts, ok) = count(command)?;
    // A test program that dies in the middle has no result line: its failure is in the exit status alone.
    let failed = if ok { counts.failed } else { counts.failed.max(1) };
    println!("{} passed, {failed} failed", counts.passed);
    Ok(ok && failed == 0)
}

/// Builds the programs alone, and returns their folder.
pub(crate) fn build(release: bool) -> Result<PathBuf> {
    built(&["build", "--workspace", "--bins"], release)
}

fn built(command: &[&str], release: bool) -> Result<PathBuf> {
    let status = cargo()
        .args(command)
        .args(FEATURES)
        .args(release.then_some("--release"))
        .status()
        .context("run cargo")?;
    if !status.success() {
        bail!("build the programs: `cargo {}` failed ({status})", command.join(" "));
    }
    program_dir(release)
}

/// What the result lines of the test programs add up to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    passed: u64,
    failed: u64,
}

impl Counts {
    /// Tests that ran to an end.
    pub(crate) fn ran(&self) -> u64 {
        self.passed + self.failed
    }

    /// Adds a line like `test result: ok. 7 passed; 0 failed; 0 ignored; ...`; others change nothing.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        for part in result.split(['.', ';']) {
            let mut words = part.split_whitespace();
            match (words.next().and_then(|number| number.parse::<u64>().ok()), words.next()) {
                (Some(number), Some("passed")) => self.passed += number,
                (Some(number), Some("failed")) => self.failed += number,
                _ => {}
            }
        }
    }
}

/// Runs a cargo command that runs tests, passing its output on.
pub(crate) fn count(mut command: Command) -> Result<(Counts, bool)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("run cargo")?;
    let output = child.stdout.take().context("read cargo's output")?;
    let mut counts = Counts::default();
    let mut stdout = std::io::stdout().lock();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("read cargo's output")?;
        counts.add(&String::from_utf8_lossy(&line));
        stdout.write_all(&line)?;
        stdout.write_all(b"\n")?;
    }
    let status = child.wait().context("wait for cargo")?;
    Ok((counts, status.success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_add_up() {
        let mut counts = Counts::default();
        for line in [
            "running 7 tests",
            "test a::b ... ok",
            "test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.25s",
            "test result: FAILED. 17 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 147.28s",
            "a test printed: test result: ok. 100 passed; 100 failed;",
        ] {
            counts.add(line);
        }
        assert_eq!(counts, Counts { passed: 24, failed: 2 });
    }
}
