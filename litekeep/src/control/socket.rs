//! The folder of a running stack, and the socket in it.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use litekeep_env::lock;
use tokio::net::{UnixListener, UnixStream};

use crate::report::{Failure, text};
use crate::settings::Settings;

const SOCKET: &str = "control.sock";
const LOCK: &str = "lock";
const RUNS: &str = "run";
const LOGS: &str = "log";
const JOBS: &str = "jobs";
const OWN_LOG: &str = "up.log";
const DEPLOYS: &str = "deploys.json";
const DEPLOYS_TMP: &str = "deploys.tmp";
const ACCEPTED: &str = "configuration";
const LEASE: &str = "lease.json";
/// What to do for those that may not.
pub(super) const WHO_MAY: &str =
    "only the user that runs `litekeep up`, and root, may ask it: run this command as that user";
/// How long one that has said its last word may take to be gone.
const LAST_MOMENT: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(5);

/// Where a stack keeps its socket, its logs and its state.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(crate) dir: PathBuf,
}

impl Home {
    /// The folder that a configuration means: its own `state_dir`, or `.litekeep` beside it.
    pub(crate) fn of(settings: &Settings) -> Home {
        match settings.config.state_dir.clone() {
            Some(dir) => Home { dir: std::path::absolute(&dir).unwrap_or(dir) },
            None => Home::beside(&settings.path),
        }
    }

    /// The folder of a configuration that names none.
    pub(crate) fn beside(config: &Path) -> Home {
        let dir = config.parent().unwrap_or(Path::new("")).join(".litekeep");
        Home { dir: std::path::absolute(&dir).unwrap_or(dir) }
    }

    /// What is written down about the runs of its processes.
    pub(crate) fn runs(&self) -> PathBuf {
        self.file(RUNS)
    }

    /// What processes and jobs print.
    pub(crate) fn logs(&self) -> PathBuf {
        self.file(LOGS)
    }

    /// What is written down about jobs.
    pub(crate) fn jobs(&self) -> PathBuf {
        self.file(JOBS)
    }

    /// What litekeep itself prints in the background.
    pub(crate) fn own_log(&self) -> PathBuf {
        self.file(OWN_LOG)
    }

    /// When processes got new runs.
    pub(crate) fn deploys(&self) -> PathBuf {
        self.file(DEPLOYS)
    }

    /// The configuration that runs, as it was taken.
    pub(crate) fn accepted(&self) -> PathBuf {
        self.file(ACCEPTED)
    }

    /// The lease that this node has held last.
    pub(crate) fn lease(&self) -> PathBuf {
        self.file(LEASE)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether a path is this folder or written in it by litekeep; the folder may be one of the user's.
    pub(crate) fn has(&self, path: &Path) -> bool {
        let Ok(below) = path.strip_prefix(&self.dir) else { return false };
        let Some(first) = below.iter().next() else { return true };
        let is_one_of = |names: &[&str]| names.iter().any(|name| first == *name);
        let is_own_log = first.to_string_lossy().starts_with(OWN_LOG);
        is_own_log || is_one_of(&[SOCKET, LOCK, RUNS, LOGS, JOBS, DEPLOYS, DEPLOYS_TMP, ACCEPTED, LEASE])
    }

    /// Makes the folder where needed and takes it for this process.
    ///
    /// # Errors
    /// Names the other process when it is taken.
    pub(crate) fn claim(&self) -> Result<Claim> {
        let doing = |what: &str, path: &Path| format!("{what} `{}`", path.display());
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.dir).map_err(|error| {
            Failure::io(doing("make the folder", &self.dir), &error).hint(
                "name a folder that litekeep may write to: `state_dir` below [supervisor] in litekeep.toml",
            )
        })?;
        let path = self.file(LOCK);
        let mut options = File::options();
        let opened = options.read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(|error| Failure::io(doing("open", &path), &error))?;
        let begin = Instant::now();
        let is_ours = loop {
            let is_ours = lock::claim(&file).map_err(|error| Failure::io(doing("lock", &path), &error))?;
            if is_ours || begin.elapsed() > LAST_MOMENT {
                break is_ours;
            }
            std::thread::sleep(PAUSE);
        };
        if !is_ours {
            let mut pid = String::new();
            _ = file.read_to_string(&mut pid);
            let failure = Failure::invalid(format!("this stack is up already (process {})", pid.trim()));
            return Err(failure
                .hint("`litekeep status` shows it, `litekeep reload` takes a changed configuration, `litekeep down` ends it")
                .into());
        }
        let mut note = || {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        note().map_err(|error| Failure::io(doing("write", &path), &error))?;
        Ok(Claim { _lock: file })
    }

    /// Listens for questions.
    pub(crate) fn listen(&self) -> Result<UnixListener> {
        let path = self.file(SOCKET);
        let failed = |error: std::io::Error| Failure::io(format!("listen on `{}`", path.display()), &error);
        // Nobody else listens there: the folder is claimed.
        _ = std::fs::remove_file(&path);
        let dir = File::open(&self.dir).map_err(failed)?;
        let listener = UnixListener::bind(short(&dir)).map_err(failed)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(listener)
    }

    /// Nobody listens any more.
    pub(crate) fn forget_socket(&self) {
        _ = std::fs::remove_file(self.file(SOCKET));
    }
}

/// Keeps a second `litekeep up` away while it lives.
#[derive(Debug)]
pub(crate) struct Claim {
    _lock: File,
}

/// The address of the socket in an open folder: paths of sockets have 107 bytes at most, and folders may be deep.
fn short(dir: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))
}

/// A connection to the stack of a folder; `None` when none is up.
///
/// # Errors
/// When one is up and does not let us in.
pub(crate) async fn socket(home: &Home) -> Result<Option<UnixStream>, Failure> {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    let failed = |error: &std::io::Error| {
        let path = home.file(SOCKET);
        let failure = Failure::invalid(format!("ask `{}`: {}", path.display(), text::io_error(error)));
        failure.hint(WHO_MAY)
    };
    let dir = match File::open(&home.dir) {
        Ok(dir) => dir,
        Err(error) if error.kind() == NotFound => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    match UnixStream::connect(short(&dir)).await {
        Ok(stream) => Ok(Some(stream)),
        // One that was killed leaves its socket behind, and nobody listens there.
        Err(error) if matches!(error.kind(), ConnectionRefused | NotFound) => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}
