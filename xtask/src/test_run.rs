//! `cargo xtask test`: one build, all tests, one line at the end.

use std::io::{BufRead, BufReader, Write};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};

use crate::{BIN_DIR, apart_from_us, cargo, program_dir, root, tools};

/// The features that a default build leaves out. One build has them all, for a second one would compile most of the
/// workspace again.
const FEATURES: [&str; 2] = ["--features", "litekeep/all"];

/// Gives property tests the same cases in each run, so that a change answers for its own failures; `cargo test` draws
/// new ones. A seed of one's own is left alone.
const PROPERTY_SEED: &str = "PROPTEST_RNG_SEED";

/// Test programs that run at a time: two would use idle cores, and let tests that hold a process to a time fail.
const AT_ONCE: usize = 1;

/// Tests of a program that run at a time. Most of them wait for others most of the time; some hold a process to a time, and are not to
/// be starved.
const THREADS: &str = "4";

/// Runs all tests of the workspace; whether all passed.
///
/// # Errors
/// When the build fails, or the installation of what the tests need.
pub(crate) fn run(release: bool, lints: bool, args: &[String]) -> Result<bool> {
    // It waits for the network while the build computes.
    let installation = tools::install()?;
    let programs = programs(release)?;
    installation.done()?;
    let lints = lints.then(begin_lints).transpose()?;
    let bin_dir = program_dir(release)?;
    let with_settings = |command: &mut Command| {
        command.args(args).env(BIN_DIR, &bin_dir);
        for (name, value) in [(PROPERTY_SEED, "1"), ("RUST_TEST_THREADS", THREADS)] {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
    };
    let results = Mutex::new((Counts::default(), true));
    let waiting = Mutex::new(programs.iter());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let run_some = || -> Result<()> {
        while let Some(program) = next() {
            let mut command = program.command();
            with_settings(&mut command);
            let ran = command.output().with_context(|| format!("run {:?}", program.path))?;
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.0.add_all(&ran.stdout);
            results.1 &= ran.status.success();
            let mut stdout = std::io::stdout().lock();
            writeln!(stdout, "\n     Running {} {}", program.package, program.source)?;
            stdout.write_all(&ran.stdout)?;
            if !ran.status.success() {
                writeln!(stdout, "{} ended with {}", program.path.display(), ran.status)?;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(run_some)).collect();
        let mut ended = threads.into_iter().map(|thread| thread.join());
        ended.try_for_each(|ended| ended.unwrap_or_else(|panic| resume_unwind(panic)))
    })?;
    let (mut counts, mut ok) = results.into_inner().unwrap_or_else(PoisonError::into_inner);

    // It has cargo's folder for itself.
    let tidy = lints.map_or(Ok(true), |lints| lints.join().unwrap_or_else(|panic| resume_unwind(panic)))?;
    let mut documentation = cargo();
    documentation.args(["test", "--workspace", "--doc", "--no-fail-fast"]).args(FEATURES);
    documentation.args(release.then_some("--release")).arg("--");
    with_settings(&mut documentation);
    ok &= count(documentation, &mut counts)?;
    for test in &counts.failures {
        println!("failed: {test}");
    }
    // A test program that dies in the middle has no result line: its failure is in the exit status alone.
    let failed = if ok { counts.failed } else { counts.failed.max(1) };
    println!("{} passed, {failed} failed", counts.passed);
    if !tidy {
        println!("clippy is not content: see above");
    }
    Ok(ok && failed == 0 && tidy)
}

/// Asks clippy, behind everybody else; whether it is content.
fn begin_lints() -> Result<JoinHandle<Result<bool>>> {
    let mut nice = Command::new("nice");
    let cargo = cargo();
    nice.arg(cargo.get_program()).current_dir(root());
    // With the features that the tests are built with, so that build scripts run, and SQLite is compiled, once.
    nice.args(["clippy", "--quiet", "--workspace", "--all-targets"])
        .args(FEATURES)
        .args(["--", "-D", "warnings"]);
    let nice = apart_from_us(nice).stdin(Stdio::null()).spawn().context("run `nice cargo clippy`");
    Ok(std::thread::spawn(|| Ok(nice?.wait()?.success())))
}

/// A program that runs tests.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    path: PathBuf,
    /// Of its package: cargo runs it there.
    folder: PathBuf,
    package: String,
    /// `tests/it/main.rs`.
    source: String,
}

impl Program {
    /// Of a line of what cargo tells as JSON; `None` for what runs no tests. Without a reader of JSON, which every start of this program
    /// would wait for; paths that JSON escapes are not understood.
    fn of(message: &str) -> Option<Self> {
        let text = |key: &str| {
            let (_, rest) = message.split_once(&format!("\"{key}\":\""))?;
            rest.split_once('"').map(|(value, _)| value)
        };
        // What is built as a test says so of its profile; a target says whether it has tests.
        let (profile, _) = message.split_once("\"profile\":{")?.1.split_once('}')?;
        if text("reason") != Some("compiler-artifact") || !profile.contains("\"test\":true") {
            return None;
        }
        let (path, folder) =
            (PathBuf::from(text("executable")?), Path::new(text("manifest_path")?).parent()?);
        let source = Path::new(text("src_path")?);
        let source = source.strip_prefix(folder).unwrap_or(source).display().to_string();
        let package = folder.file_name()?.to_string_lossy().into_owned();
        Some(Self { path, folder: folder.to_owned(), package, source })
    }

    fn command(&self) -> Command {
        let mut command = apart_from_us(Command::new(&self.path));
        command.current_dir(&self.folder).stdin(Stdio::null()).stderr(Stdio::inherit());
        command
    }

    /// What takes longest begins first: the product's own, then other whole programs, then parts of a crate.
    fn turn(&self) -> (bool, bool) {
        let is_whole = self.source.starts_with("tests");
        (!(is_whole && self.package == "litekeep"), !is_whole)
    }
}

/// Builds all test programs, and the programs that they run: by themselves these would want fewer features of their dependencies, and
/// most of these a second time.
fn programs(release: bool) -> Result<Vec<Program>> {
    let mut cargo = cargo();
    cargo
        .args(["test", "--workspace", "--no-run", "--message-format", "json-render-diagnostics"])
        .args(FEATURES);
    cargo.args(release.then_some("--release")).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = cargo.spawn().context("run cargo")?;
    let output = child.stdout.take().context("read cargo's output")?;
    let mut programs = vec![];
    for line in BufReader::new(output).lines() {
        programs.extend(Program::of(&line.context("read cargo's output")?));
    }
    let status = child.wait().context("wait for cargo")?;
    if !status.success() {
        bail!("build the tests: cargo failed ({status})");
    }
    programs.sort_by_key(Program::turn);
    Ok(programs)
}

/// Builds the programs alone, and returns their folder.
pub(crate) fn build(release: bool) -> Result<PathBuf> {
    let command = ["build", "--workspace", "--bins"];
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

    fn add_all(&mut self, output: &[u8]) {
        String::from_utf8_lossy(output).lines().for_each(|line| self.add(line));
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

/// Runs a cargo command that runs tests, passing its output on; whether it succeeded.
pub(crate) fn count(mut command: Command, counts: &mut Counts) -> Result<bool> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("run cargo")?;
    let output = child.stdout.take().context("read cargo's output")?;
    let mut stdout = std::io::stdout().lock();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("read cargo's output")?;
        counts.add(&String::from_utf8_lossy(&line));
        stdout.write_all(&line)?;
        stdout.write_all(b"\n")?;
    }
    let status = child.wait().context("wait for cargo")?;
    Ok(status.success())
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
    fn programs_are_those_that_run_tests() {
        let message = |test: &str, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"path+file:///w/rows#litekeep-rows@0.1.0","manifest_path":"/w/rows/Cargo.toml","target":{{"kind":["test"],"crate_types":["bin"],"name":"it","src_path":"/w/rows/tests/it/main.rs","edition":"2024","doc":false,"doctest":false,"test":true}},"profile":{{"opt-level":"1","debuginfo":"line-tables-only","debug_assertions":true,"overflow_checks":true,"test":{test}}},"features":[],"filenames":["/w/target/debug/deps/it-1"],"executable":{executable},"fresh":true}}"#
            )
        };
        let program = Program {
            path: "/w/target/debug/deps/it-1".into(),
            folder: "/w/rows".into(),
            package: "rows".into(),
            source: "tests/it/main.rs".into(),
        };
        assert_eq!(Program::of(&message("true", "\"/w/target/debug/deps/it-1\"")), Some(program));
        assert_eq!(Program::of(&message("true", "null")), None);
        assert_eq!(Program::of(&message("false", "\"/w/target/debug/deps/it-1\"")), None);
        assert_eq!(Program::of(r#"{"reason":"build-finished","success":true}"#), None);
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
