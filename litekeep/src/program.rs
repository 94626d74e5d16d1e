//! This program, started again beside itself.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use tokio::process::Command;

/// What runs here, also when another version has taken its place on the disk since: that one may not know what this one has written
/// and asks. It goes by the name by which this one was called.
pub(crate) fn again() -> Command {
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = std::env::args_os().next() {
        command.arg0(name);
    }
    command
}

/// The kernel names a process after the file that it was started from, here after that link; `top` and `pgrep` go by this name.
pub(crate) fn take_name(argv: &[OsString]) {
    const OWN: &str = "/proc/self/comm";
    let name = argv.first().and_then(|called| Path::new(called).file_name());
    if let Some(name) = name
        && std::fs::read(OWN).is_ok_and(|given| given == b"exe\n")
    {
        _ = std::fs::write(OWN, name.as_bytes());
    }
}
