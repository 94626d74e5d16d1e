//! Nothing that a test program has started or made outlives it, however it ends: neither processes nor folders of servers. A handle's
//! drop is not enough: servers that several tests share are in statics, which are never dropped, and nothing is when the program is killed.

use std::io::{Error, Result, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex, PoisonError};

use tempfile::TempDir;

/// Starts a process that is killed when this program ends.
pub(crate) fn spawn(mut command: Command) -> Result<Child> {
    type Order = (Command, Sender<Result<Child>>);
    // The signal comes when the *thread* that has started the process ends, and a test's ends before the program does. This one
    // ends with the program.
    static STARTER: LazyLock<Mutex<Sender<Order>>> = LazyLock::new(|| {
        let (orders, taken) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in taken {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    killed_with_us(&mut command);
    let (answer, child) = channel();
    let orders = STARTER.lock().unwrap_or_else(PoisonError::into_inner).clone();
    orders.send((command, answer)).map_err(Error::other)?;
    child.recv().map_err(Error::other)?
}

#[allow(unsafe_code, reason = "std has no name for the signal at a parent's death")]
fn killed_with_us(command: &mut Command) {
    let us = std::process::id();
    let ask = move || {
        // SAFETY: both calls take and give numbers only, and may be made between fork and exec.
        let (asked, parent) =
            unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), libc::getppid()) };
        if asked != 0 {
            return Err(Error::last_os_error());
        }
        // Whoever ended before the request is not noticed by it.
        if parent.cast_unsigned() == us { Ok(()) } else { Err(Error::from_raw_os_error(libc::ESRCH)) }
    };
    // SAFETY: the closure allocates nothing and takes no lock. It runs after a change of the user, which would undo what it asks for.
    unsafe { command.pre_exec(ask) };
}

/// A folder that is removed when its handle is dropped, or when this program ends.
pub(crate) fn folder() -> Result<TempDir> {
    /// Reads names until we end, and removes them all. What was killed with us may write for a moment longer.
    const REMOVER: &str = "while IFS= read -r folder; do set -- \"$@\" \"$folder\"; done
        for _ in 1 2 3 4 5 6 7 8 9 10; do rm -rf -- \"$@\" && exit; sleep 0.2; done";
    static SHELL: LazyLock<Result<Mutex<Child>>> = LazyLock::new(|| {
        let mut shell = Command::new("sh");
        // In a group of its own, so that what a terminal sends to ours does not end it before its work.
        shell.args(["-c", REMOVER]).current_dir("/").process_group(0);
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        shell.spawn().map(Mutex::new)
    });
    let folder = tempfile::tempdir()?;
    let shell = SHELL.as_ref().map_err(|error| Error::other(format!("start a shell: {error}")))?;
    let mut shell = shell.lock().unwrap_or_else(PoisonError::into_inner);
    let names = shell.stdin.as_mut().ok_or_else(|| Error::other("the shell has no input"))?;
    writeln!(names, "{}", folder.path().display())?;
    Ok(folder)
}
