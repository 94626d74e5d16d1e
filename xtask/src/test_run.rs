//! `cargo xtask test`: one build, all tests, one line at the end.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{BIN_DIR, cargo, program_dir};

/// The features that a default build leaves out. One build has them all, for a second one would compile most of the
/// workspace again.
const FEATURES: [&str; 2] = ["--features", "litekeep/all"];

/// Gives property tests the same cases in each run, so that a change answers for its own failures; `cargo test` draws
/// new ones. A seed of one's own is left alone.
const PROPERTY_SEED: &str = "PROPTEST_RNG_SEED";

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
    if std::env::var_os(PROPERTY_SEED).is_none() {
        command.env(PROPERTY_SEED, "1");
    }
    let (counts, ok) = count(command)?;
    for test in &counts.failures {
        println!("failed: {test}");
    }
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
    /// Names of tests that failed, each with what its panic says.
    failures: Vec<String>,
    /// A panic's place was the line before: the next one is its message.
    panicked: Option<String>,
}

impl Counts {
    /// Tests that ran to an end.
    pub(crate) fn ran(&self) -> u64 {
        self.passed + self.failed
    }

    /// Adds a line like `test result: ok. 7 passed; 0 failed; 0 ignored; ...`, or of a test's failure; others change
    /// nothing.
    fn add(&mut self, line: &str) {
        if let Some(test) = line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" stdout ----")) {
            self.failures.push(test.to_owned());
        } else if let (true, Some(last)) = (line.starts_with("Error: "), self.failures.last_mut()) {
            last.push_str(&format!("\n    {line}"));
        } else if let Some(place) = self.panicked.take() {
            if let Some(last) = self.failures.last_mut() {
                last.push_str(&format!("\n    {place} {line}"));
            }
        } else if line.starts_with("thread '") && line.contains(" panicked at ") {
            self.panicked = line.split_once(" panicked at ").map(|(_, place)| place.to_owned());
        }
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
        assert_eq!(counts, Counts { passed: 24, failed: 2, ..Counts::default() });
    }

    #[test]
    fn failures_are_named_with_their_panics() {
        let mut counts = Counts::default();
        for line in [
            "thread 'passes' (7) panicked at a.rs:1:1:",
            "as it should",
            "---- a::b stdout ----",
            "",
            "thread 'a::b' (12) panicked at src/a.rs:7:9:",
            "nothing is there",
            "stack backtrace:",
            "---- c stdout ----",
            "Error: no such file",
        ] {
            counts.add(line);
        }
        assert_eq!(
            counts.failures,
            ["a::b\n    src/a.rs:7:9: nothing is there", "c\n    Error: no such file"]
        );
    }
}
