//! The two clocks that acknowledgements are stamped with, comparable between processes; and programs whose clock is wrong.
#![allow(unsafe_code, reason = "std's Instant does not give its number, which other processes must compare")]

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

/// CLOCK_MONOTONIC, nanoseconds.
#[must_use]
pub fn monotonic_ns() -> i64 {
    read(libc::CLOCK_MONOTONIC)
}

/// CLOCK_REALTIME, nanoseconds since 1970.
#[must_use]
pub fn unix_ns() -> i64 {
    read(libc::CLOCK_REALTIME)
}

fn read(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec to write to; both clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// Has a program see a wall clock that is so many seconds ahead; the other clocks go on as they are.
///
/// # Errors
/// When libfaketime is not there.
pub fn skew(command: &mut Command, seconds: i64) -> Result<()> {
    command.env("FAKETIME", format!("{seconds:+}"));
    fake(command)
}

/// The same with what a file says, whenever it says so: `+0` or other seconds ahead.
///
/// # Errors
/// When libfaketime is not there.
pub fn jumping(command: &mut Command, file: &Path) -> Result<()> {
    command.env("FAKETIME_TIMESTAMP_FILE", file);
    fake(command)
}

fn fake(command: &mut Command) -> Result<()> {
    let folders = std::fs::read_dir("/usr/lib").context("look for libfaketime")?;
    let libraries = folders.flatten().map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let library = libraries.into_iter().find(|path| path.exists());
    let library = library.context("there is no libfaketime: apt-get install -y faketime")?;
    command.env("LD_PRELOAD", library);
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("FAKETIME_NO_CACHE", "1");
    Ok(())
}
