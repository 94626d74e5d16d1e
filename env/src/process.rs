//! Children that lead a session of their own, and the system calls around them.
//!
//! - A [`Leader`] is held by a pidfd and stays a zombie until [`Leader::reap`], so that neither its id nor its group's can
//!   be another's while somebody still signals them.
//! - A program that cannot start is an error of [`spawn`] with the step that failed, never a child that exits 127.
//! - [`reap_adopted`] takes exit codes only of processes that this one did not start: those are neither a [`Leader`] nor in
//!   this process's own session, where the children of other code (std, tokio) are.

#![allow(unsafe_code)] // fork, exec, pidfd and waitid have no safe form in std for what happens between fork and exec

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

mod descriptors;
mod group;

pub use descriptors::has_socket_open;
pub use group::Group;

/// A process id.
pub type Pid = i32;

/// Process ids of all leaders that are not reaped yet.
static LEADERS: Mutex<BTreeSet<Pid>> = Mutex::new(BTreeSet::new());

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It was not our child, so nobody told us.
    Unknown,
}

impl Exit {
    /// Exit code 0.
    pub fn is_clean(self) -> bool {
        self == Exit::Code(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Unknown => {
                f.write_str("an end with an unknown exit code (it was started by an earlier litekeep)")
            }
            Exit::Signal(signal) => write!(f, "signal {signal} ({})", signal_name(*signal)),
        }
    }
}

const SIGNALS: &[(&str, i32)] = &[
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("CONT", libc::SIGCONT),
    ("WINCH", libc::SIGWINCH),
    ("SYS", libc::SIGSYS),
];

/// A signal by its name, with or without `SIG`.
pub fn signal_number(name: &str) -> Option<i32> {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

fn signal_name(number: i32) -> &'static str {
    SIGNALS.iter().find(|(_, known)| *known == number).map_or("unnamed", |(name, _)| name)
}

/// A limit of the kernel on one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Open descriptors.
    OpenFiles,
    /// Bytes of a core file.
    CoreSize,
    /// Processes of the user.
    Processes,
    /// Bytes of address space.
    AddressSpace,
    /// Bytes of the stack.
    Stack,
    /// Seconds of processor time.
    CpuSeconds,
    /// Bytes of a file that it writes.
    FileSize,
}

/// Who a child runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
    /// Home folder, when the user is known by name.
    pub home: Option<PathBuf>,
}

/// What to start.
#[derive(Debug)]
pub struct Program {
    /// A path, or a name that is looked for in `PATH` of `env`.
    pub name: OsString,
    /// The arguments after the name.
    pub args: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory; ours if none.
    pub cwd: Option<PathBuf>,
    /// Another user; ours if none.
    pub identity: Option<Identity>,
    /// The umask; ours if none.
    pub umask: Option<u32>,
    /// Soft and hard limit of each resource.
    pub rlimits: Vec<(Resource, u64, u64)>,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
    /// Handed over from descriptor 3 on, with names, as `sd_listen_fds(3)` reads them.
    pub sockets: Vec<(String, Arc<OwnedFd>)>,
    /// Files `cgroup.procs` of the groups that it joins.
    pub cgroups: Vec<File>,
}

/// Why a program did not start.
#[derive(Debug)]
pub struct SpawnError {
    /// What was tried, as a verb phrase.
    pub step: String,
    /// What the system said.
    pub cause: io::Error,
}

/// What the child does between fork and exec, in this order.
#[derive(Clone, Copy)]
enum Step {
    Session,
    Cgroup,
    Descriptors,
    Rlimit,
    User,
    Cwd,
    Exec,
}

const STEPS: [Step; 7] =
    [Step::Session, Step::Cgroup, Step::Descriptors, Step::Rlimit, Step::User, Step::Cwd, Step::Exec];

impl Step {
    fn phrase(self, program: &Program) -> String {
        match self {
            Step::Session => "begin a session".into(),
            Step::Cgroup => "join its cgroup".into(),
            Step::Rlimit => "set its limits".into(),
            Step::Descriptors => "hand over descriptors".into(),
            Step::User => "become its user (only root may)".into(),
            Step::Cwd => {
                format!("enter its folder `{}`", program.cwd.as_deref().unwrap_or(Path::new("")).display())
            }
            Step::Exec => format!("execute `{}`", program.name.to_string_lossy()),
        }
    }
}

/// Everything that the child reads; made before the fork, since a child of a process with threads must not allocate.
struct Prepared {
    candidates: Vec<CString>,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    /// The digits of `LISTEN_PID` among the environment.
    listen_pid: *mut u8,
    cwd: Option<CString>,
    stdin: OwnedFd,
    /// Where descriptors wait before they take their final numbers.
    parked: Vec<RawFd>,
    // What the pointers point into.
    _strings: Vec<CString>,
    _listen: Vec<u8>,
}

const LISTEN_PID: &[u8] = b"LISTEN_PID=";
const PID_DIGITS: usize = 10;

fn c_string(value: &OsStr) -> io::Result<CString> {
    CString::new(value.as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a NUL byte in a name or an argument"))
}

fn candidates(program: &Program) -> io::Result<Vec<CString>> {
    if program.name.as_bytes().contains(&b'/') {
        return Ok(vec![c_string(&program.name)?]);
    }
    let path = program.env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
    let path = path.unwrap_or(OsStr::new("/usr/local/bin:/usr/bin:/bin"));
    std::env::split_paths(path).map(|dir| c_string(dir.join(&program.name).as_os_str())).collect()
}

impl Prepared {
    fn new(program: &Program) -> io::Result<Prepared> {
        let mut strings = vec![c_string(&program.name)?];
        for argument in &program.args {
            strings.push(c_string(argument)?);
        }
        let arguments = strings.len();
        for (name, value) in &program.env {
            strings.push(c_string(&[name.as_os_str(), value.as_os_str()].join(OsStr::new("=")))?);
        }
        let mut listen = [LISTEN_PID, &[b'0'; PID_DIGITS], &[0]].concat();
        if !program.sockets.is_empty() {
            strings.push(c_string(OsStr::new(&format!("LISTEN_FDS={}", program.sockets.len())))?);
            let names: Vec<_> = program.sockets.iter().map(|(name, _)| name.as_str()).collect();
            strings.push(c_string(OsStr::new(&format!("LISTEN_FDNAMES={}", names.join(":"))))?);
        }
        let null = std::ptr::null();
        let argv = strings[..arguments].iter().map(|s| s.as_ptr()).chain([null]).collect();
        let mut envp: Vec<_> = strings[arguments..].iter().map(|s| s.as_ptr()).collect();
        if !program.sockets.is_empty() {
            envp.push(listen.as_ptr().cast());
        }
        envp.push(null);
        Ok(Prepared {
            candidates: candidates(program)?,
            argv,
            envp,
            // SAFETY: the digits lie within `listen`, whose buffer does not move with the vector.
            listen_pid: unsafe { listen.as_mut_ptr().add(LISTEN_PID.len()) },
            cwd: program.cwd.as_deref().map(|dir| c_string(dir.as_os_str())).transpose()?,
            stdin: File::open("/dev/null")?.into(),
            parked: vec![-1; 3 + program.sockets.len()],
            _strings: strings,
            _listen: listen,
        })
    }
}

/// Starts a program as the leader of a new session. Waits until it is executed, so it belongs off the async threads.
pub fn spawn(program: &Program) -> Result<Leader, SpawnError> {
    let at = |step: &str| {
        let step = step.to_owned();
        move |cause| SpawnError { step, cause }
    };
    let mut prepared = Prepared::new(program).map_err(at("prepare the program"))?;
    let (mut report, failed) = std::io::pipe().map_err(at("open a pipe"))?;
    let (leader, pidfd_error) = {
        let mut leaders = LEADERS.lock().expect("no panic while held");
        // Handlers of this process must not run in the child: signals wait until they have their defaults there.
        // SAFETY: both sets are plain data that the calls fill; the child runs only async-signal-safe calls.
        let pid = unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
            let pid = libc::fork();
            if pid == 0 {
                child(program, &mut prepared, failed.as_raw_fd());
            }
            let error = io::Error::last_os_error();
            libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
            if pid < 0 { Err(error) } else { Ok(pid) }
        };
        let pid = pid.map_err(at("fork"))?;
        leaders.insert(pid);
        // The child is not reaped before `Leader` is dropped, so the id is its own.
        match pidfd_open(pid) {
            Ok(fd) => (Some(Leader { pid, fd, is_child: true }), None),
            Err(error) => {
                // SAFETY: the child is ours and not reaped.
                unsafe {
                    libc::kill(pid, libc::SIGKILL);
                    libc::waitpid(pid, std::ptr::null_mut(), 0);
                }
                leaders.remove(&pid);
                (None, Some(error))
            }
        }
    };
    let Some(leader) = leader else {
        return Err(at("open a pidfd")(pidfd_error.expect("one of both")));
    };
    drop(failed);
    let mut failure = Vec::new();
    report.read_to_end(&mut failure).map_err(at("wait for the program"))?;
    let Ok(failure) = <[u8; 8]>::try_from(failure) else { return Ok(leader) };
    let [step, errno] = [0, 4].map(|i| i32::from_ne_bytes(failure[i..i + 4].try_into().expect("4 bytes")));
    leader.reap();
    Err(SpawnError { step: STEPS[step as usize].phrase(program), cause: io::Error::from_raw_os_error(errno) })
}

/// Becomes the program or reports why not.
///
/// # Safety
/// Only in the child of a fork: it allocates nothing, takes no lock and never returns.
unsafe fn child(program: &Program, prepared: &mut Prepared, failed: RawFd) -> ! {
    // SAFETY: the caller's promise; every pointer lives in `program` or `prepared`.
    unsafe {
        // Above every number that the program is promised.
        let first_free = 3 + program.sockets.len() as RawFd;
        let report = libc::fcntl(failed, libc::F_DUPFD_CLOEXEC, first_free);
        let result = become_program(program, prepared, first_free, report);
        let Err((step, errno)) = result;
        let message = [step as i32, errno];
        libc::write(report, message.as_ptr().cast(), 8);
        libc::_exit(127);
    }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// # Safety
/// As [`child`].
unsafe fn become_program(
    program: &Program,
    prepared: &mut Prepared,
    first_free: RawFd,
    report: RawFd,
) -> Result<std::convert::Infallible, (Step, i32)> {
    let check = |step: Step, result: libc::c_int| if result < 0 { Err((step, errno())) } else { Ok(result) };
    // SAFETY: the caller's promise.
    unsafe {
        check(Step::Descriptors, report)?;
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        check(Step::Session, libc::setsid())?;
        for file in &program.cgroups {
            check(Step::Cgroup, libc::write(file.as_raw_fd(), b"0".as_ptr().cast(), 1) as libc::c_int)?;
        }
        if let Some(umask) = program.umask {
            libc::umask(umask as libc::mode_t);
        }
        if !program.sockets.is_empty() {
            // Who starts after us may take the sockets over (`Handle::listener`), where the kernel lets only ancestors look into a
            // process (Yama); any other check stays. A kernel without Yama does not know the call, and needs it not.
            libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY, 0, 0, 0);
        }
        take_descriptors(program, prepared, first_free, report)
            .map_err(|errno| (Step::Descriptors, errno))?;
        // Behind the descriptors: what this process has open must not count against a limit on open files.
        for (resource, soft, hard) in &program.rlimits {
            let limit = libc::rlimit { rlim_cur: *soft, rlim_max: *hard };
            check(Step::Rlimit, libc::setrlimit(resource_number(*resource), &limit))?;
        }
        if let Some(identity) = &program.identity {
            check(Step::User, libc::setgroups(identity.groups.len(), identity.groups.as_ptr()))?;
            check(Step::User, libc::setgid(identity.gid))?;
            check(Step::User, libc::setuid(identity.uid))?;
        }
        if let Some(cwd) = &prepared.cwd {
            check(Step::Cwd, libc::chdir(cwd.as_ptr()))?;
        }
        let mut rest = libc::getpid();
        for i in (0..PID_DIGITS).rev() {
            *prepared.listen_pid.add(i) = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let mut worst = libc::ENOENT;
        for candidate in &prepared.candidates {
            libc::execve(candidate.as_ptr(), prepared.argv.as_ptr(), prepared.envp.as_ptr());
            // As a shell does: what stands in a later folder of PATH is still tried.
            if !matches!(errno(), libc::ENOENT | libc::ENOTDIR) {
                worst = errno();
            }
        }
        Err((Step::Exec, worst))
    }
}

/// Gives stdin, stdout, stderr and the sockets the numbers from 0 on, and closes everything else but `report`.
///
/// # Safety
/// As [`child`].
unsafe fn take_descriptors(
    program: &Program,
    prepared: &mut Prepared,
    first_free: RawFd,
    report: RawFd,
) -> Result<(), i32> {
    let Prepared { parked, stdin, .. } = prepared;
    let standard = [stdin.as_raw_fd(), program.stdout.as_raw_fd(), program.stderr.as_raw_fd()];
    let sockets = program.sockets.iter().map(|(_, fd)| fd.as_raw_fd());
    // SAFETY: the caller's promise.
    unsafe {
        // First all above the range, so that no one is overwritten before it is duplicated.
        for (slot, fd) in parked.iter_mut().zip(standard.into_iter().chain(sockets)) {
            *slot = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, first_free);
            if *slot < 0 {
                return Err(errno());
            }
        }
        for (number, fd) in parked.iter().enumerate() {
            if libc::dup2(*fd, number as RawFd) < 0 {
                return Err(errno());
            }
        }
        // At once and not by exec: pipes of others must not stay open while this one waits for a slow folder. A kernel before 5.9
        // does not know the call; then exec closes what was opened with O_CLOEXEC.
        for (first, last) in [(first_free, report - 1), (report + 1, RawFd::MAX)] {
            libc::syscall(libc::SYS_close_range, first as libc::c_uint, last as libc::c_uint, 0);
        }
    }
    Ok(())
}

#[cfg(target_env = "gnu")]
type ResourceNumber = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type ResourceNumber = libc::c_int;

fn resource_number(resource: Resource) -> ResourceNumber {
    match resource {
        Resource::OpenFiles => libc::RLIMIT_NOFILE,
        Resource::CoreSize => libc::RLIMIT_CORE,
        Resource::Processes => libc::RLIMIT_NPROC,
        Resource::AddressSpace => libc::RLIMIT_AS,
        Resource::Stack => libc::RLIMIT_STACK,
        Resource::CpuSeconds => libc::RLIMIT_CPU,
        Resource::FileSize => libc::RLIMIT_FSIZE,
    }
}

fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; the result is checked before it is owned.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` is a fresh descriptor (close-on-exec by itself) that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Asks for a state change of a child; the exit if there is one.
fn waitid(kind: libc::idtype_t, id: libc::id_t, flags: libc::c_int) -> io::Result<Option<Exit>> {
    // SAFETY: `info` is plain data that the call fills; an exit leaves the fields that are read.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        if libc::waitid(kind, id, &mut info, libc::WEXITED | flags) < 0 {
            return Err(io::Error::last_os_error());
        }
        if info.si_pid() == 0 {
            return Ok(None);
        }
        let status = info.si_status();
        Ok(Some(if info.si_code == libc::CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) }))
    }
}

/// A process that leads a session and a process group; dropping it kills the group.
///
/// One that was adopted is not our child: its group's id may become another's when it has ended, so the group is never signalled
/// as one, and how it ended is unknown.
#[derive(Debug)]
pub struct Leader {
    pid: Pid,
    fd: OwnedFd,
    is_child: bool,
}

impl Leader {
    /// Takes over the leader that has this id, if `is_it` still says so once its id can be no other's; none if it is gone.
    pub fn adopt(pid: Pid, is_it: impl FnOnce() -> bool) -> io::Result<Option<Leader>> {
        let fd = match pidfd_open(pid) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            opened => opened?,
        };
        // From here on dropping it would kill.
        if !is_it() {
            return Ok(None);
        }
        let asked = waitid(libc::P_PIDFD, fd.as_raw_fd() as libc::id_t, libc::WNOWAIT | libc::WNOHANG);
        // This process may have been replaced in its place (exec) and still have its children.
        let is_child = asked.is_ok();
        if is_child {
            LEADERS.lock().expect("no panic while held").insert(pid);
        }
        Ok(Some(Leader { pid, fd, is_child }))
    }

    /// Whether it is our child, so that [`Leader::signal_group`] works and its exit code can be known.
    pub fn is_child(&self) -> bool {
        self.is_child
    }

    /// Its process id, which is its session's and its group's too.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// How it ended, if it did; it stays a zombie.
    pub fn exit(&self) -> io::Result<Option<Exit>> {
        if !self.is_child {
            return Ok(self.has_ended()?.then_some(Exit::Unknown));
        }
        waitid(libc::P_PIDFD, self.fd.as_raw_fd() as libc::id_t, libc::WNOWAIT | libc::WNOHANG)
    }

    fn has_ended(&self) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: `poll` is one valid pollfd.
        match unsafe { libc::poll(&mut poll, 1, 0) } {
            0.. => Ok(poll.revents != 0),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Sends a signal to its whole group, which may go on after its own end. Does nothing for one that is not our child.
    pub fn signal_group(&self, signal: i32) {
        if self.is_child {
            // SAFETY: a plain system call; the leader is not reaped, so the group is its own.
            unsafe { libc::kill(-self.pid, signal) };
        }
    }

    /// Kills what is left of the group and lets the id go.
    pub fn reap(self) {}
}

impl AsFd for Leader {
    /// Readable once it ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Leader {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if !self.is_child {
            _ = send_signal(&self.fd, libc::SIGKILL);
            return;
        }
        self.signal_group(libc::SIGKILL);
        let id = self.fd.as_raw_fd() as libc::id_t;
        let interrupted = |e: io::Error| e.kind() == io::ErrorKind::Interrupted;
        // It was just killed, so this does not wait for long; others may start and reap meanwhile.
        while waitid(libc::P_PIDFD, id, libc::WNOWAIT).is_err_and(interrupted) {}
        let mut leaders = LEADERS.lock().expect("no panic while held");
        _ = waitid(libc::P_PIDFD, id, libc::WNOHANG);
        leaders.remove(&self.pid);
    }
}

/// A process that is not our child, held so that its id cannot become another's.
#[derive(Debug)]
pub struct Handle(OwnedFd);

impl Handle {
    /// Holds the process that has this id now.
    pub fn open(pid: Pid) -> io::Result<Handle> {
        pidfd_open(pid).map(Handle)
    }

    /// Sends a signal to it.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        send_signal(&self.0, signal)
    }

    /// A socket that it listens on under this number, for us too; only for who may look into the process (ptrace(2)).
    pub fn listener(&self, number: RawFd) -> io::Result<Option<OwnedFd>> {
        // SAFETY: a plain system call; the result is checked before it is owned.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.0.as_raw_fd(), number, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is a fresh descriptor (close-on-exec by itself) that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        let (mut listens, mut len): (libc::c_int, _) = (0, size_of::<libc::c_int>() as libc::socklen_t);
        // SAFETY: the kernel writes at most `len` bytes to `listens`.
        let asked = unsafe {
            let value = (&raw mut listens).cast();
            libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ACCEPTCONN, value, &mut len)
        };
        Ok((asked == 0 && listens != 0).then_some(fd))
    }
}

fn send_signal(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    let (fd, null) = (pidfd.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
    // SAFETY: a plain system call on a descriptor that we own.
    match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, null, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Orphans below this process become its children from now on, as those of PID 1 are anyway.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: a plain system call.
    match unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Begins a session of its own, so that signals of the terminal do not reach this process any more. Nothing for one that
/// leads a session or a group already.
pub fn leave_session() {
    // SAFETY: a plain system call.
    unsafe { libc::setsid() };
}

/// What this process prints, by standard output and error, goes to this file from now on.
///
/// # Errors
/// As `dup2` says; then it may be one of the two.
pub fn print_to(file: &std::fs::File) -> io::Result<()> {
    for own in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: both descriptors are open, and nobody owns these two.
        if unsafe { libc::dup2(file.as_raw_fd(), own) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn session_of(pid: Pid) -> Pid {
    // SAFETY: a plain system call.
    unsafe { libc::getsid(pid) }
}

/// The children of this process that it did not start: orphans of a leader's tree, zombies among them.
pub fn adopted() -> Vec<Pid> {
    let leaders = LEADERS.lock().expect("no panic while held");
    let mut children = children();
    let ours = session_of(0);
    children.retain(|pid| {
        !leaders.contains(pid) && !matches!(session_of(*pid), session if session == ours || session < 0)
    });
    children
}

/// Takes the exit codes of adopted children that ended; how many.
pub fn reap_adopted() -> usize {
    // An adopted child stays our child until it is reaped here, so its id is its own.
    let ended = |pid: &Pid| matches!(waitid(libc::P_PID, *pid as libc::id_t, libc::WNOHANG), Ok(Some(_)));
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().expect("no panic while held");
    adopted().iter().filter(|pid| ended(pid)).count()
}

/// The children of all threads of this process.
fn children() -> Vec<Pid> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<Pid>>())
        .collect()
}

/// The user of this name or number, with all its groups.
pub fn identity(user: &str) -> io::Result<Option<Identity>> {
    let name = CString::new(user)?;
    let mut buffer = vec![0u8; 16 << 10];
    // SAFETY: passwd is plain data that the calls fill with pointers into `buffer`, which outlives their use.
    unsafe {
        let mut entry: libc::passwd = std::mem::zeroed();
        let mut found = std::ptr::null_mut();
        let (start, len) = (buffer.as_mut_ptr().cast(), buffer.len());
        let mut error = libc::getpwnam_r(name.as_ptr(), &mut entry, start, len, &mut found);
        let number = user.parse::<u32>().ok();
        if let (true, Some(uid)) = (found.is_null(), number) {
            error = libc::getpwuid_r(uid, &mut entry, start, len, &mut found);
        }
        if found.is_null() {
            let unnamed = number.map(|uid| Identity { uid, gid: uid, groups: vec![], home: None });
            // These mean "no such entry" in one libc or another (getpwnam(3)).
            let absent = [0, libc::ENOENT, libc::ESRCH, libc::EBADF, libc::EPERM].contains(&error);
            return if absent { Ok(unnamed) } else { Err(io::Error::from_raw_os_error(error)) };
        }
        let mut groups = vec![0; 256];
        let mut count = groups.len() as libc::c_int;
        if libc::getgrouplist(entry.pw_name, entry.pw_gid, groups.as_mut_ptr(), &mut count) < 0 {
            groups.resize(count as usize, 0);
            libc::getgrouplist(entry.pw_name, entry.pw_gid, groups.as_mut_ptr(), &mut count);
        }
        groups.truncate(count as usize);
        let home = OsStr::from_bytes(std::ffi::CStr::from_ptr(entry.pw_dir).to_bytes());
        Ok(Some(Identity { uid: entry.pw_uid, gid: entry.pw_gid, groups, home: Some(home.into()) }))
    }
}

/// The id of the group of this name or number.
pub fn group_id(group: &str) -> io::Result<Option<u32>> {
    let name = CString::new(group)?;
    let mut buffer = vec![0u8; 64 << 10];
    // SAFETY: as in `identity`.
    unsafe {
        let mut entry: libc::group = std::mem::zeroed();
        let mut found = std::ptr::null_mut();
        libc::getgrnam_r(name.as_ptr(), &mut entry, buffer.as_mut_ptr().cast(), buffer.len(), &mut found);
        Ok(if found.is_null() { group.parse().ok() } else { Some(entry.gr_gid) })
    }
}

/// The user and the group of this process.
pub fn own_identity() -> (u32, u32) {
    // SAFETY: plain system calls that cannot fail.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

/// Makes a pipe that has a name, for this user only.
pub fn make_fifo(path: &Path) -> io::Result<()> {
    let path = c_string(path.as_os_str())?;
    // SAFETY: `path` ends with NUL and outlives the call.
    match unsafe { libc::mkfifo(path.as_ptr(), 0o600) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens the reading end of a pipe that has a name; waits for no writer.
pub fn open_fifo(path: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt as _;
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map(OwnedFd::from)
}

/// Makes a pipe hold as many bytes as that, if the kernel lets us.
pub fn widen_pipe(pipe: impl AsFd, bytes: usize) {
    // SAFETY: a plain system call on an open descriptor.
    unsafe { libc::fcntl(pipe.as_fd().as_raw_fd(), libc::F_SETPIPE_SZ, bytes as libc::c_int) };
}

#[cfg(test)]
mod tests;
