//! The command that runs beside the replication.
//!
//! Promises: it gets every signal that would end litekeep, once; its exit code is passed on, a signal as 128 and its
//! number, as a shell does. Should litekeep be killed, it goes on.

#![allow(unsafe_code)] // kill(2) and sigaction(2) have no safe form in std

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use anyhow::Result;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::report::{Failure, Kind, text};

/// The signals that end litekeep, or are a command's own business.
const FORWARDED: [i32; 6] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];

/// Signals that were sent to litekeep.
pub(crate) struct Signals {
    kinds: Vec<(i32, Signal)>,
}

impl Signals {
    /// From here on signals do not end the process.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn catch() -> Result<Signals> {
        Signals::catch_those(|_| true)
    }

    /// The same but for those that litekeep was started to ignore, as by `nohup`.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn catch_unignored() -> Result<Signals> {
        Signals::catch_those(|number| !is_ignored(number))
    }

    fn catch_those(is_wanted: impl Fn(i32) -> bool) -> Result<Signals> {
        let mut kinds = Vec::new();
        for number in FORWARDED.into_iter().filter(|number| is_wanted(*number)) {
            kinds.push((number, signal(SignalKind::from_raw(number))?));
        }
        Ok(Signals { kinds })
    }

    /// The next signal.
    pub(crate) async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            for (number, signal) in &mut self.kinds {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// Waits for a signal that ends litekeep.
    pub(crate) async fn end(&mut self) {
        while !matches!(self.next().await, libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT) {}
    }

    /// Work that a signal ends: what is under way is dropped then, with what it has made.
    ///
    /// # Errors
    /// The work's own, and `Unavailable` when a signal has ended it.
    pub(crate) async fn unless_ended<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            () = self.end() => Err(Failure::new(Kind::Unavailable, "it was interrupted").into()),
        }
    }
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: sigaction is plain data for which all-zero bytes are a valid value, and is only filled here.
    unsafe {
        let mut found: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut found) == 0 && found.sa_sigaction == libc::SIG_IGN
    }
}

/// A program with its arguments.
pub(crate) fn start(command: &[OsString]) -> Result<Child, Failure> {
    let (program, arguments) = command.split_first().expect("the command line requires one");
    Command::new(program).args(arguments).spawn().map_err(|error| {
        let program = program.to_string_lossy();
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "check its name; a name without `/` is looked for in PATH",
            _ => "check that it may be executed",
        };
        Failure::invalid(format!("start `{program}`: {}", text::io_error(&error))).hint(hint)
    })
}

/// Has a command killed when litekeep ends, however it does. For one that the main thread starts: it is that thread whose end counts.
pub(crate) fn ends_with_litekeep(command: &mut Command) {
    let parent = std::process::id();
    let ask = move || {
        // No safe form of prctl(2) is in std. SAFETY: with this option it takes a number; getppid takes nothing.
        let now = unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::getppid()
        };
        match now.cast_unsigned() == parent {
            true => Ok(()),
            false => Err(std::io::Error::other("litekeep has ended")),
        }
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(ask) };
}

/// Waits until the command ends, handing signals on to it.
///
/// # Errors
/// When the system does not tell its status.
pub(crate) async fn wait(child: &mut Child, signals: &mut Signals) -> Result<u8> {
    loop {
        tokio::select! {
            status = child.wait() => return Ok(code(status?)),
            number = signals.next() => {
                // The terminal sends Ctrl-C to the whole group, so the child has it already.
                let from_terminal = matches!(number, libc::SIGINT | libc::SIGQUIT) && std::io::stdin().is_terminal();
                if !from_terminal {
                    send(child, number);
                }
            }
        }
    }
}

/// Asks a process to end.
pub(crate) fn terminate(child: &Child) {
    send(child, libc::SIGTERM);
}

fn send(child: &Child, signal: i32) {
    if let Some(id) = child.id() {
        // SAFETY: kill takes numbers only; the child is not reaped yet, so the number is still its own.
        unsafe { libc::kill(id.cast_signed(), signal) };
    }
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}
