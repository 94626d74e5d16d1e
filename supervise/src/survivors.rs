//! Runs that outlive litekeep: what is written down about each, and which of them the next litekeep finds.
//!
//! In one folder each run has `INSTANCE.run` with what tells its leader from every other process, and two named pipes for its
//! output, `INSTANCE.out` and `INSTANCE.err`. The pipes are made before the start and the rest is written after it; a litekeep that
//! dies in between leaves pipes from whose name the run is found by its environment. All of them go with the run. Nothing
//! here means anything after a reboot.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use litekeep_env::file::replace_until_reboot;
use litekeep_env::lock;
use litekeep_env::process::{Handle, signal_number};

use crate::cgroup::Group;
use crate::error::{Error, Result};
use crate::front::PORT;
use crate::process::Spec;
use crate::spawn::Socket;
use crate::tree::{Member, Tree};

/// How long a start waits for its run to be written down.
const WRITE_PATIENCE: Duration = Duration::from_secs(1);

/// Under which names the places of a run's group are written down.
const GROUPS: [&str; 3] = ["cgroup_v2", "cgroup_memory", "cgroup_cpu"];

/// The folder of one litekeep, which no other one uses at the same time.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    boot: String,
    _lock: File,
}

impl Folder {
    /// Takes the folder and tells which runs of an earlier litekeep live; clears away what is left of the others.
    pub(crate) fn open(dir: &Path) -> Result<(Folder, Vec<Survivor>)> {
        let failed = |what: &str| Error::file(format!("{what} `{}`", dir.display()));
        fs::create_dir_all(dir).map_err(failed("make the folder"))?;
        let path = dir.join("lock");
        let file = File::options().write(true).create(true).truncate(false).open(path);
        let file = file.map_err(failed("open the lock of"))?;
        if !lock::claim(&file).map_err(failed("lock the folder"))? {
            let place = format!("folder `{}`", dir.display());
            return Err(Error::invalid(
                place,
                "another litekeep cares for its processes: stop that one first",
            ));
        }
        let folder = Folder { dir: dir.into(), boot: boot_id(), _lock: file };
        let survivors = survivors(dir, &folder.boot);
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let is_ours = [".run", ".run.partial", ".out", ".err"].iter().any(|end| name.ends_with(end));
            let lives = survivors.iter().any(|survivor| name.starts_with(&format!("{}.", survivor.instance)));
            if is_ours && !lives {
                _ = fs::remove_file(entry.path());
            }
        }
        Ok((folder, survivors))
    }

    /// The pipes of a run's output.
    pub(crate) fn pipes(&self, instance: &str) -> [PathBuf; 2] {
        ["out", "err"].map(|end| self.dir.join(format!("{instance}.{end}")))
    }
}

/// A run that outlived who started it.
#[derive(Clone, Debug)]
pub(crate) struct Survivor {
    pub(crate) instance: String,
    pub(crate) leader: Member,
    /// In milliseconds since the Unix epoch; none if it was not written down.
    pub(crate) begun_ms: Option<i64>,
    /// Of what it was started from.
    pub(crate) fingerprint: Option<u64>,
    pub(crate) is_ready: bool,
    pub(crate) stop_signal: i32,
    pub(crate) stop_timeout: Duration,
    groups: [Option<PathBuf>; 3],
    /// The port that it was given behind a front.
    port: Option<u16>,
    /// The names of the sockets that it was given, from descriptor 3 on.
    sockets: Vec<String>,
}

impl Survivor {
    /// The process or job that it is a run of.
    pub(crate) fn name(&self) -> &str {
        self.instance.split(':').next().unwrap_or_default()
    }

    /// The port that it was given behind a front: as written down, else by its environment.
    pub(crate) fn port(&self) -> Option<u16> {
        if self.port.is_some() {
            return self.port;
        }
        let environment = fs::read(format!("/proc/{}/environ", self.leader.pid)).ok()?;
        let mut variables = environment.split(|byte| *byte == 0);
        let port =
            variables.find_map(|variable| variable.strip_prefix(PORT.as_bytes())?.strip_prefix(b"="))?;
        std::str::from_utf8(port).ok()?.parse().ok()
    }

    pub(crate) fn group(&self) -> Group {
        Group::again(self.groups.clone())
    }

    fn unwritten(instance: &str) -> Option<Survivor> {
        let leader = Member::find(instance)?;
        Some(Survivor {
            instance: instance.into(),
            leader,
            begun_ms: None,
            fingerprint: None,
            is_ready: false,
            stop_signal: signal_number("TERM").expect("a known signal"),
            stop_timeout: Duration::from_secs(10),
            groups: [None, None, None],
            port: None,
            sockets: vec![],
        })
    }

    /// Reads back what [`Record`] wrote; none if it is of another boot or lives no more.
    fn parse(instance: &str, text: &str, boot: &str) -> Option<Survivor> {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let leader = Member { pid: value("pid")?.parse().ok()?, started: value("started")?.parse().ok()? };
        if value("boot") != Some(boot) || !leader.leads(instance) {
            return None;
        }
        Some(Survivor {
            instance: instance.into(),
            leader,
            begun_ms: Some(value("begun_ms")?.parse().ok()?),
            fingerprint: Some(value("fingerprint")?.parse().ok()?),
            is_ready: value("ready") == Some("true"),
            stop_signal: value("stop_signal")?.parse().ok()?,
            stop_timeout: Duration::from_millis(value("stop_timeout_ms")?.parse().ok()?),
            port: value("port").and_then(|port| port.parse().ok()),
            groups: GROUPS.map(|name| value(name).map(PathBuf::from)),
            sockets: value("sockets")?.split_whitespace().map(String::from).collect(),
        })
    }
}

/// A run that goes on in nobody's care, until the next litekeep takes it over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Of the process or job.
    pub name: String,
    /// The process id of its leader.
    pub pid: i32,
    /// When it began, in milliseconds since the Unix epoch; `None` when that was not written down.
    pub begun_ms: Option<i64>,
}

/// Runs that outlived the litekeep whose folder this is, by name. While that lives, these are those in its care.
pub fn left(dir: &Path) -> Vec<Left> {
    let all = survivors(dir, &boot_id()).into_iter();
    all.map(|run| Left { name: run.name().to_owned(), pid: run.leader.pid, begun_ms: run.begun_ms }).collect()
}

fn survivors(dir: &Path, boot: &str) -> Vec<Survivor> {
    let names = fs::read_dir(dir).into_iter().flatten().flatten();
    let names: Vec<String> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    // What is written down tells more than a pipe, which is told of by the same name.
    let written = names.iter().filter_map(|name| {
        let instance = name.strip_suffix(".run")?;
        let text = fs::read_to_string(dir.join(name)).ok()?;
        Survivor::parse(instance, &text, boot)
    });
    let mut found: BTreeMap<String, Survivor> =
        written.map(|survivor| (survivor.instance.clone(), survivor)).collect();
    for instance in names.iter().filter_map(|name| name.strip_suffix(".out")) {
        let is_written = names.iter().any(|name| name.strip_suffix(".run") == Some(instance));
        if !is_written && let Some(survivor) = Survivor::unwritten(instance) {
            found.insert(instance.into(), survivor);
        }
    }
    found.into_values().collect()
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().into()
}

/// The one of several runs that counts: the newest that was ready, for it took the place of the others; else the oldest, for
/// those after it were to prove themselves first. The others are left.
pub(crate) fn take(survivors: &mut Vec<Survivor>, name: &str) -> Option<Survivor> {
    let of_name = survivors.iter().enumerate().filter(|(_, survivor)| survivor.name() == name);
    let best = of_name.max_by_key(|(_, survivor)| {
        let started = survivor.leader.started as i64;
        (survivor.is_ready, if survivor.is_ready { started } else { -started })
    });
    best.map(|(at, _)| at).map(|at| survivors.remove(at))
}

/// A listening socket that an instance of a service still has from an earlier litekeep, to be held again. Nothing if none of them
/// lives, they were given none of this name, or they are not to be looked into, which is warned of. Whether it is at the right
/// address is the caller's to see.
pub fn socket(dir: &Path, service: &str, name: &str) -> Option<Socket> {
    let is_instance = |survivor: &Survivor| {
        let number = survivor.name().strip_prefix(service).and_then(|rest| rest.strip_prefix('.'));
        survivor.name() == service || number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let of_process = survivors(dir, &boot_id()).into_iter().filter(is_instance);
    let mut fds = of_process.filter_map(|survivor| {
        let at = survivor.sockets.iter().position(|socket| socket == name)?;
        let handle = Handle::open(survivor.leader.pid).ok()?;
        let fd = handle.listener(3 + at as i32);
        if fd.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied) {
            let (process, pid) = (survivor.name(), survivor.leader.pid);
            tracing::warn!(
                "could not take the socket `{name}` from `{process}` (process {pid}): the kernel does not allow it (ptrace(2)); stop that process, so that its address is free"
            );
        }
        let fd = fd.ok()??;
        survivor.leader.leads(&survivor.instance).then_some(fd)
    });
    Some(Socket { name: name.into(), fd: Arc::new(fds.next()?) })
}

/// What is written down about a run while it lives.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    folder: Arc<Folder>,
    instance: String,
    text: String,
    /// Whether the run is over: then nothing is written any more.
    is_over: Arc<Mutex<bool>>,
}

impl Record {
    /// A record of a run that was started, or taken over.
    pub(crate) fn new(
        folder: Arc<Folder>,
        instance: &str,
        tree: &Tree,
        spec: &Spec,
        fingerprint: Option<u64>,
        begun_ms: i64,
        port: Option<u16>,
    ) -> Record {
        let sockets: Vec<&str> = spec.spawn.sockets.iter().map(|socket| socket.name.as_str()).collect();
        let mut text = format!(
            "boot {}\npid {}\nstarted {}\nbegun_ms {begun_ms}\nfingerprint {}\nstop_signal {}\nstop_timeout_ms {}\nsockets {}\n",
            folder.boot,
            tree.pid(),
            tree.leader().map_or(0, |leader| leader.started),
            fingerprint.unwrap_or_default(),
            spec.stop_signal,
            spec.stop_timeout.as_millis(),
            sockets.join(" "),
        );
        if let Some(port) = port {
            text += &format!("port {port}\n");
        }
        for (name, place) in GROUPS.iter().zip(tree.group().places()) {
            if let Some(place) = place.and_then(Path::to_str).filter(|place| !place.contains('\n')) {
                text += &format!("{name} {place}\n");
            }
        }
        Record { folder, instance: instance.into(), text, is_over: Arc::default() }
    }

    /// Writes it down; a disk that hangs delays nobody for long.
    pub(crate) async fn write(&self, is_ready: bool) {
        let record = self.clone();
        let write = move || {
            let is_over = record.is_over.lock().expect("no panic while held");
            let path = record.path();
            let text = format!("{}ready {is_ready}\n", record.text);
            if !*is_over && let Err(error) = replace_until_reboot(&path, text.as_bytes()) {
                tracing::warn!(
                    "could not write `{}`: {error}; if litekeep is killed, its next start finds the process by its environment only",
                    path.display()
                );
            }
        };
        _ = tokio::time::timeout(WRITE_PATIENCE, tokio::task::spawn_blocking(write)).await;
    }

    fn path(&self) -> PathBuf {
        self.folder.dir.join(format!("{}.run", self.instance))
    }

    /// The run is over.
    pub(crate) async fn remove(self) {
        let remove = move || {
            *self.is_over.lock().expect("no panic while held") = true;
            for path in self.folder.pipes(&self.instance).into_iter().chain([self.path()]) {
                _ = fs::remove_file(path);
            }
        };
        _ = tokio::time::timeout(WRITE_PATIENCE, tokio::task::spawn_blocking(remove)).await;
    }
}
