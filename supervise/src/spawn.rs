//! What a child is made of: command, surroundings, and the sockets that the supervisor holds for it.
//!
//! The environment is litekeep's own, overridden by `env_file`, overridden by `env`. What the service manager told litekeep
//! (`LISTEN_*`, `NOTIFY_SOCKET`, `WATCHDOG_*`) is not passed on.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use litekeep_env::process::{self, Identity, Leader, Program, Resource};

use crate::error::{Error, Result};

/// The variable by which a run knows itself, and by which its orphans are recognised.
pub const INSTANCE: &str = "LITEKEEP_INSTANCE";

/// What is executed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// A program with its arguments.
    Program {
        /// A path, or a name that is looked for in `PATH`.
        name: OsString,
        /// The arguments after the name.
        args: Vec<OsString>,
    },
    /// A line for `sh -c`.
    Shell(OsString),
}

impl Command {
    /// A line for `sh -c`.
    pub fn shell(line: impl Into<OsString>) -> Command {
        Command::Shell(line.into())
    }

    fn parts(&self) -> (OsString, Vec<OsString>) {
        match self {
            Command::Program { name, args } => (name.clone(), args.clone()),
            Command::Shell(line) => ("sh".into(), vec!["-c".into(), line.clone()]),
        }
    }
}

/// A listening socket that stays open while its processes come and go.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Its name in `LISTEN_FDNAMES`.
    pub name: String,
    /// The socket.
    pub fd: Arc<OwnedFd>,
}

impl Socket {
    /// Listens on an address.
    pub fn tcp(name: &str, address: SocketAddr) -> Result<Socket> {
        let listener =
            std::net::TcpListener::bind(address).map_err(Error::file(format!("listen on {address}")))?;
        Ok(Socket { name: name.into(), fd: Arc::new(listener.into()) })
    }

    /// Listens on a path; a socket that a dead process left there goes first.
    pub fn unix(name: &str, path: &Path) -> Result<Socket> {
        use std::os::unix::fs::FileTypeExt as _;
        let is_socket =
            std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
        let refused = |e: std::io::Error| e.kind() == std::io::ErrorKind::ConnectionRefused;
        // Any other file refuses connections too, and is not ours to remove.
        if is_socket && std::os::unix::net::UnixStream::connect(path).is_err_and(refused) {
            _ = std::fs::remove_file(path);
        }
        let listener =
            UnixListener::bind(path).map_err(Error::file(format!("listen on `{}`", path.display())))?;
        Ok(Socket { name: name.into(), fd: Arc::new(listener.into()) })
    }

    /// Where it listens, if that is an address of TCP.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        std::net::TcpListener::from(self.fd.try_clone().ok()?).local_addr().ok()
    }
}

/// A command and its surroundings.
#[derive(Clone, Debug)]
pub struct Spawn {
    /// What is executed.
    pub command: Command,
    /// The working directory; litekeep's if none.
    pub cwd: Option<PathBuf>,
    /// Variables.
    pub env: Vec<(OsString, OsString)>,
    /// Variables about the moment of the start: a run that was told otherwise is the same run.
    pub told: Vec<(OsString, OsString)>,
    /// Lines `NAME=VALUE`, read at each start.
    pub env_file: Option<PathBuf>,
    /// A user's name or number.
    pub user: Option<String>,
    /// A group's name or number; the user's if none.
    pub group: Option<String>,
    /// The umask.
    pub umask: Option<u32>,
    /// Soft and hard limit of each resource.
    pub rlimits: Vec<(Resource, u64, u64)>,
    /// Sockets that are handed over.
    pub sockets: Vec<Socket>,
}

impl Spawn {
    /// A command in litekeep's own surroundings.
    pub fn new(command: Command) -> Spawn {
        Spawn {
            command,
            cwd: None,
            env: vec![],
            told: vec![],
            env_file: None,
            user: None,
            group: None,
            umask: None,
            rlimits: vec![],
            sockets: vec![],
        }
    }

    /// Another command in the same surroundings, without the sockets.
    pub fn beside(&self, command: Command) -> Spawn {
        Spawn { command, sockets: vec![], ..self.clone() }
    }

    /// A number that is another one when a run of it would be another one. It is the same in every litekeep that was built alike.
    pub fn fingerprint(&self) -> u64 {
        let Spawn { command, cwd, env, told: _, env_file, user, group, umask, rlimits, sockets } = self;
        let names: Vec<&str> = sockets.iter().map(|socket| socket.name.as_str()).collect();
        let mut hasher = std::hash::DefaultHasher::new();
        (command, cwd, env, env_file, user, group, umask, names).hash(&mut hasher);
        format!("{rlimits:?}").hash(&mut hasher);
        hasher.finish()
    }

    /// Whether the sockets are the very same ones, not only called the same.
    pub(crate) fn has_same_sockets(&self, other: &Spawn) -> bool {
        let mut sockets = self.sockets.iter().zip(&other.sockets);
        self.sockets.len() == other.sockets.len() && sockets.all(|(a, b)| Arc::ptr_eq(&a.fd, &b.fd))
    }

    /// Starts it; `process` is whose start it is, `instance` the value of [`INSTANCE`]. Waits for files and the exec.
    pub fn start(&self, process: &str, instance: &str, output: Output, cgroups: Vec<File>) -> Result<Leader> {
        let identity = self.identity()?;
        let (name, args) = self.command.parts();
        let program = Program {
            name,
            args,
            env: self.environment(identity.as_ref(), instance)?,
            cwd: self.cwd.clone(),
            identity,
            umask: self.umask,
            rlimits: self.rlimits.clone(),
            stdout: output.stdout,
            stderr: output.stderr,
            sockets: self.sockets.iter().map(|socket| (socket.name.clone(), socket.fd.clone())).collect(),
            cgroups,
        };
        process::spawn(&program).map_err(|error| Error::Start {
            process: process.into(),
            step: error.step,
            cause: error.cause.to_string(),
        })
    }

    /// What can be known before a start: user, group, folder, `env_file` and program are there.
    pub(crate) fn check(&self) -> Result<()> {
        let identity = self.identity()?;
        let environment = self.environment(identity.as_ref(), "")?;
        if let Some(folder) = self.cwd.as_deref().filter(|dir| !dir.is_dir()) {
            return Err(Error::invalid(format!("folder `{}`", folder.display()), "there is none: make it"));
        }
        // Another user may see what this one does not, and the other way round.
        let (Command::Program { name, .. }, None) = (&self.command, &self.user) else { return Ok(()) };
        let cwd = self.cwd.as_deref().unwrap_or(Path::new(""));
        let is_there = match name.as_bytes().contains(&b'/') {
            true => cwd.join(name).exists(),
            false => {
                let path = environment.into_iter().find(|(name, _)| name == "PATH").map(|(_, path)| path);
                let path = path.unwrap_or_else(|| "/usr/bin:/bin".into());
                std::env::split_paths(&path).any(|dir| cwd.join(dir).join(name).exists())
            }
        };
        let absent =
            || Error::invalid(format!("execute `{}`", name.to_string_lossy()), "there is no such program");
        is_there.then_some(()).ok_or_else(absent)
    }

    fn identity(&self) -> Result<Option<Identity>> {
        let lookup = |what: &str, name: &str| Error::file(format!("look up the {what} `{name}`"));
        let mut identity = match &self.user {
            Some(user) => {
                let found = process::identity(user).map_err(lookup("user", user))?;
                Some(found.ok_or_else(|| Error::invalid(format!("user `{user}`"), "there is none"))?)
            }
            None => None,
        };
        if let Some(group) = &self.group {
            let found = process::group_id(group).map_err(lookup("group", group))?;
            let gid = found.ok_or_else(|| Error::invalid(format!("group `{group}`"), "there is none"))?;
            let own = || Identity { uid: process::own_identity().0, gid, groups: vec![gid], home: None };
            identity.get_or_insert_with(own).gid = gid;
        }
        Ok(identity)
    }

    fn environment(&self, identity: Option<&Identity>, instance: &str) -> Result<Vec<(OsString, OsString)>> {
        let managers = |name: &OsStr| {
            let name = name.as_bytes();
            name.starts_with(b"LISTEN_") || name.starts_with(b"WATCHDOG_") || name == b"NOTIFY_SOCKET"
        };
        let mut env: BTreeMap<OsString, OsString> =
            std::env::vars_os().filter(|(name, _)| !managers(name)).collect();
        if let (Some(Identity { home: Some(home), .. }), Some(user)) = (identity, &self.user) {
            env.insert("HOME".into(), home.into());
            env.insert("USER".into(), user.into());
            env.insert("LOGNAME".into(), user.into());
        }
        if let Some(path) = &self.env_file {
            let text = std::fs::read(path).map_err(Error::file(format!("read `{}`", path.display())))?;
            env.extend(env_file(&text).map_err(|line| {
                Error::invalid(format!("`{}`, line {line}", path.display()), "is not NAME=VALUE")
            })?);
        }
        env.extend(self.told.iter().chain(&self.env).cloned());
        env.insert(INSTANCE.into(), instance.into());
        Ok(env.into_iter().collect())
    }
}

/// Where a child writes.
#[derive(Debug)]
pub struct Output {
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

/// The variables of an `env_file`. Values may be quoted; `export` and comments are skipped.
///
/// # Errors
/// The number of a line that is none.
pub fn env_file(text: &[u8]) -> Result<Vec<(OsString, OsString)>, usize> {
    let mut variables = Vec::new();
    for (n, line) in text.split(|b| *b == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let line = line.strip_prefix(b"export ").unwrap_or(line).trim_ascii_start();
        let equals = line.iter().position(|b| *b == b'=').filter(|at| *at > 0).ok_or(n + 1)?;
        let name = line[..equals].trim_ascii_end();
        if name.iter().any(|b| b.is_ascii_whitespace()) {
            return Err(n + 1);
        }
        let value = unquoted(line[equals + 1..].trim_ascii()).ok_or(n + 1)?;
        variables.push((OsString::from_vec(name.to_vec()), OsString::from_vec(value)));
    }
    Ok(variables)
}

/// A value without its quotes; none if they do not close. Within double quotes a backslash escapes.
fn unquoted(value: &[u8]) -> Option<Vec<u8>> {
    match value {
        [b'\'', inner @ .., b'\''] => Some(inner.to_vec()),
        [b'"', inner @ .., b'"'] => {
            let mut out = Vec::new();
            let mut bytes = inner.iter();
            while let Some(byte) = bytes.next() {
                out.push(match byte {
                    b'\\' => match bytes.next()? {
                        b'n' => b'\n',
                        b't' => b'\t',
                        other => *other,
                    },
                    other => *other,
                });
            }
            Some(out)
        }
        [b'\'' | b'"', ..] => None,
        plain => Some(plain.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_files_are_read_as_shells_write_them() {
        let text =
            b"# comment\n\nA=1\nexport B = two words \nC='# \"x\"'\nD=\"a\\n\\\"b\\\"\"\nE=\n\xffF=\xfe\n";
        let variables = env_file(text).unwrap();
        let values: Vec<_> = variables.iter().map(|(_, value)| value.as_bytes()).collect();
        assert_eq!(values, [&b"1"[..], b"two words", b"# \"x\"", b"a\n\"b\"", b"", b"\xfe"]);
        assert_eq!(variables[1].0, "B");
        assert_eq!(env_file(b"A=1\nnonsense\n"), Err(2));
        assert_eq!(env_file(b"A=\"open\n"), Err(1));
        assert_eq!(env_file(b"=x\n"), Err(1));
    }

    #[test]
    fn env_comes_before_env_file_and_the_service_managers_words_stay_here() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.env");
        std::fs::write(&path, "A=file\nB=file\n").unwrap();
        let mut spawn = Spawn::new(Command::shell("true"));
        spawn.env = vec![("A".into(), "setting".into())];
        spawn.env_file = Some(path.clone());
        let env: BTreeMap<_, _> = spawn.environment(None, "web#1").unwrap().into_iter().collect();
        let value = |name: &str| env[OsStr::new(name)].to_str().unwrap();
        assert_eq!((value("A"), value("B"), value(INSTANCE)), ("setting", "file", "web#1"));
        std::fs::remove_file(path).unwrap();
        assert!(spawn.environment(None, "web#1").unwrap_err().to_string().contains("app.env"));
    }

    #[test]
    fn a_dead_socket_goes_and_any_other_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web.sock");
        drop(Socket::unix("web", &path).unwrap());
        let living = Socket::unix("web", &path).unwrap();
        assert!(Socket::unix("web", &path).unwrap_err().to_string().contains("in use"));
        drop(living);
        let file = dir.path().join("data");
        std::fs::write(&file, "precious").unwrap();
        assert!(Socket::unix("web", &file).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    }

    #[test]
    fn a_user_or_group_that_is_not_there_is_an_error_that_names_it() {
        let mut spawn = Spawn::new(Command::shell("true"));
        spawn.user = Some("no-such-user".into());
        assert_eq!(spawn.identity().unwrap_err().to_string(), "user `no-such-user`: there is none");
        spawn.user = None;
        spawn.group = Some("no-such-group".into());
        assert_eq!(spawn.identity().unwrap_err().to_string(), "group `no-such-group`: there is none");
    }
}
