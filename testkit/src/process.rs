//! A process that a test started: it outlives neither its handle nor the program, and its output is there when something went wrong.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::leavings;
use crate::usage::Usage;

/// A running process; dropping it kills it with SIGKILL.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` without input; stdout and stderr are appended to the file `log`.
    ///
    /// # Errors
    /// When the program is not there or the log cannot be written.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open the log {log:?}"))?;
        let program = command.get_program().to_owned();
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = leavings::spawn(command).with_context(|| format!("start {program:?}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// The process's number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// What it uses and has used.
    ///
    /// # Errors
    /// When it has ended.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.child.id())
    }

    /// What it wrote.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Sends a signal (`libc::SIGSTOP`, ...). Returns from SIGSTOP when the process stands still.
    ///
    /// # Errors
    /// When the process is gone.
    #[allow(unsafe_code, reason = "kill(2) has no safe form in std")]
    pub fn signal(&mut self, signal: i32) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("send signal {signal}: the process ended before ({status}):\n{}", self.output());
        }
        // SAFETY: kill takes numbers only; the child is not reaped, so the number is still its own.
        if unsafe { libc::kill(self.child.id().cast_signed(), signal) } != 0 {
            return Err(std::io::Error::last_os_error()).context("send a signal");
        }
        if signal == libc::SIGSTOP {
            // Each thread stops when it leaves the system call that it is in; until then others may go on.
            return eventually("all threads have stopped", Duration::from_secs(60), || self.is_stopped());
        }
        Ok(())
    }

    fn is_stopped(&self) -> Result<bool> {
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let stat = std::fs::read_to_string(task?.path().join("stat")).unwrap_or_default();
            // The state stands behind the name, which may hold anything.
            if !stat.rsplit(") ").next().unwrap_or_default().starts_with('T') {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// SIGKILL, and wait.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(mut self) -> Result<ExitStatus> {
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    /// SIGTERM, and wait.
    ///
    /// # Errors
    /// When it has ended before or does not end within `timeout`.
    pub fn terminate(mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM)?;
        self.wait(timeout)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end within `timeout`; it is killed then.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                self.child.kill()?;
                self.child.wait()?;
                bail!("process {} did not end within {timeout:?}:\n{}", self.child.id(), self.output());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks `done` every two milliseconds until it says so.
///
/// # Errors
/// When that takes longer than `timeout` (naming `what`), or when `done` fails.
pub fn eventually(what: &str, timeout: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + timeout;
    while !done()? {
        if Instant::now() > deadline {
            bail!("{what}: not within {timeout:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// The numbers of a user and its group when we are root; else `None`, for we may not become it.
pub(crate) fn user(name: &str) -> Result<Option<(u32, u32)>> {
    let own = std::fs::metadata("/proc/self")?;
    if std::os::unix::fs::MetadataExt::uid(&own) != 0 {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find(|line| line.starts_with(&format!("{name}:")));
    let fields: Vec<&str> = line.with_context(|| format!("find the user {name}"))?.split(':').collect();
    Ok(Some((fields[2].parse()?, fields[3].parse()?)))
}
