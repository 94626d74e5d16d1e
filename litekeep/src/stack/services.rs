//! From the configuration's processes to the supervisor's services.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::BoxFuture;
use litekeep_config::{
    Check, ClusterConfig, Command, Config, OnRoleChange, Probe, ProcessConfig, ProcessLog, RunConfig,
    Until as Wanted,
};
use litekeep_env::file::sibling;
use litekeep_env::process::{Resource, signal_number};
use litekeep_env::{Clock, SystemClock};
use litekeep_format::{WalHeader, frame_size};
use litekeep_sql::Observer;
use litekeep_supervise::health::{self, Http};
use litekeep_supervise::limits::Memory;
use litekeep_supervise::spawn::{self, Spawn};
use litekeep_supervise::{Service, Spec, Until, log, policy, survivors, watch};

use super::roles::{Place, ROLE};
use super::sockets::Sockets;
use super::{conditions, written};
use crate::args::ConfigArgs;
use crate::cluster::{Facing, Link};
use crate::control::Home;
use crate::replication::Current;
use crate::report::Failure;
use crate::settings::Settings;
use crate::waiting::Waiting;

/// Lines of each process's output that are kept in memory.
const TAIL: usize = 500;

/// Where a run behind the proxy listens.
const OWN_PORT: &str = "127.0.0.1:{port}";

/// All of them, in the order of the configuration.
pub(super) fn of(
    config: &Config,
    args: &ConfigArgs,
    home: &Home,
    sockets: &mut Sockets,
    replication: &Current,
    (place, node): (Option<Place>, Option<&Arc<Link>>),
) -> Result<Vec<Service>> {
    sockets.begin();
    let ours: Vec<&str> = config.processes.iter().filter(|p| is_ours(p)).map(|p| p.name.as_str()).collect();
    let never = written::never(config, home);
    let node = node.zip(config.cluster.as_ref());
    let context = Context { cwd: folder(args)?, home, replication, never, ours, place, node };
    let runs = |process: &&ProcessConfig| place.is_none_or(Place::has_primarys) || !process.if_primary;
    let own = config.processes.iter().filter(|process| !is_ours(process)).filter(runs);
    own.map(|process| context.service(process, sockets).with_context(|| format!("set up `{}`", process.name)))
        .collect()
}

/// The folder of the configuration, where commands run that do not say otherwise.
pub(super) fn folder(args: &ConfigArgs) -> Result<PathBuf> {
    let beside = args.config.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
    Ok(std::path::absolute(if beside.as_os_str().is_empty() { Path::new(".") } else { beside })?)
}

/// A `litestream replicate` is litekeep's own work, unless it runs a command itself.
fn is_ours(process: &ProcessConfig) -> bool {
    process.litestream.as_ref().is_some_and(|litestream| !litestream.foreign && litestream.exec.is_none())
}

struct Context<'a> {
    /// The folder of the configuration.
    cwd: PathBuf,
    home: &'a Home,
    replication: &'a Current,
    /// What litekeep and the databases write.
    never: watch::Never,
    /// In a cluster.
    place: Option<Place>,
    node: Option<(&'a Arc<Link>, &'a ClusterConfig)>,
    /// Names of processes whose work is litekeep's own: it is done already when the others start.
    ours: Vec<&'a str>,
}

impl Context<'_> {
    fn service(&self, process: &ProcessConfig, sockets: &mut Sockets) -> Result<Service> {
        let mut spec = Spec::new(spawn_of(process, &self.cwd)?);
        if let Some(place) = self.place {
            let role = (ROLE.into(), place.name().into());
            match process.on_role_change {
                OnRoleChange::Restart => spec.spawn.env.push(role),
                OnRoleChange::Signal(_) | OnRoleChange::Nothing => spec.spawn.told.push(role),
            }
        }
        for (name, listen) in &process.listen {
            let left = || survivors::socket(&self.home.runs(), &process.name, name);
            spec.spawn.sockets.push(sockets.get(name, listen, left)?);
        }
        spec.policy = policy::Settings {
            restart: process.restart,
            shortest: process.backoff.0,
            longest: process.backoff.1,
            limit: process.restart_limit,
            ..policy::Settings::default()
        };
        spec.start_delay = process.start_delay;
        spec.stop_signal = signal(&process.stop_signal)?;
        spec.stop_timeout = process.stop_timeout;
        spec.readiness = process.health.as_ref().map(|health| self.check(health)).transpose()?;
        spec.liveness = process.liveness.as_ref().map(|health| self.check(health)).transpose()?;
        if let Some(address) = process.proxy {
            let facing = || {
                // The others do not reach it where there is no address.
                let node = self.node.filter(|(_, cluster)| cluster.address.is_some());
                node.map(|(link, cluster)| Facing::new(link, address.port(), &cluster.proxy))
            };
            let waiting = || Waiting {
                replication: self.replication.clone(),
                link: self.node.map(|(link, _)| link.clone()),
            };
            spec.front = Some(sockets.front(address, facing, waiting)?);
            let accepts = || Check {
                interval: Duration::from_secs(1),
                ..Check::new(health::Probe::Tcp(OWN_PORT.into()))
            };
            spec.readiness.get_or_insert_with(accepts);
        }
        // Who has neither binds its own port, or counts on being alone.
        spec.overlaps = process.proxy.is_some() || !process.listen.is_empty();
        spec.ready_timeout = process.ready_timeout;
        spec.memory = process.limits.memory.map(Memory::new);
        spec.cpu = process.limits.cpu;
        let mut service = Service::new(&process.name, spec);
        service.instances = process.instances;
        for (name, until) in process.depends_on.iter().filter(|(name, _)| !self.ours.contains(&name.as_str()))
        {
            match until {
                Wanted::Started => service.after.push((name.clone(), Until::Started)),
                Wanted::Healthy => service.after.push((name.clone(), Until::Healthy)),
                Wanted::CompletedSuccessfully => service.after.push((name.clone(), Until::Completed)),
                // No process starts before every database is fit and migrated.
                Wanted::DbRestored | Wanted::Migrated => {}
                // A copy is whole before anything starts.
                Wanted::Replicating if self.place.is_some_and(|place| place != Place::Primary) => {}
                Wanted::Replicating => {
                    // The configuration has resolved it already.
                    let database = std::path::absolute(name)?;
                    service.conditions.push(conditions::replicating(&database, self.replication));
                }
            }
        }
        service.watch = process.watch.as_ref().map(|files| watch::Settings {
            paths: files.paths.clone(),
            ignore: files.ignore.clone(),
            delay: files.delay,
            never: self.never.clone(),
        });
        service.log = log_of(&process.log, &process.name, self.home);
        Ok(service)
    }

    fn check(&self, health: &Check<Probe>) -> Result<health::Check> {
        let probe = match &health.probe {
            Probe::Http { url, names_instance } => {
                let mut http = Http::parse(url)?;
                http.names_instance = *names_instance;
                health::Probe::Http(http)
            }
            Probe::Tcp(address) => health::Probe::Tcp(address.clone()),
            Probe::Notify => health::Probe::Notify,
            Probe::Exec(line) => health::Probe::Exec(command(line)),
            Probe::Sqlite { path, max_wal, max_lag } => health::Probe::Closure(database_probe(
                path.clone(),
                *max_wal,
                *max_lag,
                self.replication.clone(),
            )),
        };
        Ok(health.asking(probe))
    }
}

/// A process's command in its surroundings.
fn spawn_of(process: &ProcessConfig, cwd: &Path) -> Result<Spawn> {
    let mut spawn = surroundings(&process.run, cwd)?;
    let own = process.litestream.as_ref().filter(|litestream| !litestream.foreign);
    if let Some(exec) = own.and_then(|litestream| litestream.exec.as_ref()) {
        spawn.command = spawn::Command::shell(exec);
    }
    Ok(spawn)
}

/// A command in its surroundings; `cwd` where it does not name a folder.
pub(super) fn surroundings(run: &RunConfig, cwd: &Path) -> Result<Spawn> {
    let mut spawn = Spawn::new(command(&run.command));
    spawn.cwd = Some(run.cwd.clone().unwrap_or_else(|| cwd.to_owned()));
    let variable = |(name, value): &(String, litekeep_config::Secret)| (name.into(), value.expose().into());
    spawn.env = run.env.iter().map(variable).collect();
    spawn.env_file.clone_from(&run.env_file);
    (spawn.user, spawn.group) = (run.user.clone(), run.group.clone());
    spawn.umask = run.umask;
    spawn.rlimits = rlimits(run)?;
    Ok(spawn)
}

/// The log files of processes and jobs of these names, of all for none.
///
/// # Errors
/// When there is none of a name.
pub(crate) fn log_files(settings: &Settings, names: &[String]) -> Result<Vec<(String, PathBuf)>> {
    let (config, home) = (&settings.config, Home::of(settings));
    let mut all = Vec::new();
    for process in config.processes.iter().filter(|process| !is_ours(process)) {
        let path = log_of(&process.log, &process.name, &home).path.unwrap_or_default();
        match process.instances {
            1 => all.push((process.name.clone(), path)),
            n => all.extend((1..=n).map(|i| (format!("{}.{i}", process.name), log::of_instance(&path, i)))),
        }
    }
    for job in &config.jobs {
        all.push((job.name.clone(), log_of(&job.log, &job.name, &home).path.unwrap_or_default()));
    }
    for name in names {
        let is_of = |(own, _): &(String, PathBuf)| super::belongs(own, name);
        if !all.iter().any(is_of) {
            let known: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
            return Err(super::unknown(name, &known).into());
        }
    }
    all.retain(|(own, _)| names.is_empty() || names.iter().any(|name| super::belongs(own, name)));
    Ok(all)
}

/// Where output goes; below the stack's folder where the configuration does not say.
pub(super) fn log_of(config: &ProcessLog, name: &str, home: &Home) -> log::Settings {
    let in_home = || home.logs().join(format!("{name}.log"));
    log::Settings {
        path: Some(config.path.clone().unwrap_or_else(in_home)),
        max_bytes: config.max_size,
        max_age: config.max_age,
        keep: config.keep,
        gzip: config.compress,
        tail: TAIL,
    }
}

pub(super) fn command(command: &Command) -> spawn::Command {
    match command {
        Command::Shell(line) => spawn::Command::shell(line),
        Command::Words(words) => {
            let (name, args) = words.split_first().map_or(("", &[][..]), |(name, args)| (name, args));
            spawn::Command::Program { name: name.into(), args: args.iter().map(Into::into).collect() }
        }
    }
}

pub(super) fn signal(name: &str) -> Result<i32> {
    let unknown = || {
        Failure::invalid(format!("`{name}` is no signal")).hint("write for instance stop_signal = \"TERM\"")
    };
    Ok(signal_number(name).ok_or_else(unknown)?)
}

fn rlimits(run: &RunConfig) -> Result<Vec<(Resource, u64, u64)>> {
    let limit = |(name, soft, hard): &(String, Option<u64>, Option<u64>)| {
        let resource = match name.as_str() {
            "nofile" => Resource::OpenFiles,
            "core" => Resource::CoreSize,
            "nproc" => Resource::Processes,
            "as" => Resource::AddressSpace,
            "stack" => Resource::Stack,
            "cpu" => Resource::CpuSeconds,
            "fsize" => Resource::FileSize,
            _ => {
                let failure = Failure::invalid(format!("`{name}` is no limit that can be set"));
                return Err(failure.hint("there are nofile, core, nproc, as, stack, cpu and fsize").into());
            }
        };
        // RLIM_INFINITY.
        Ok((resource, soft.unwrap_or(u64::MAX), hard.unwrap_or(u64::MAX)))
    };
    run.rlimits.iter().map(limit).collect()
}

/// Bytes of the WAL that are in use: when it begins anew, its file keeps the size that it once had.
fn wal_bytes(observer: &Observer, path: &Path) -> Result<u64, String> {
    let Some(snapshot) = observer.begin_read().map_err(|error| error.to_string())? else { return Ok(0) };
    let mut head = [0; WalHeader::LEN];
    let read = File::open(sibling(path, "-wal")).and_then(|mut file| file.read_exact(&mut head));
    read.map_err(|error| format!("its WAL cannot be read: {error}"))?;
    let header = WalHeader::parse(&head).map_err(|error| format!("its WAL cannot be read: {error}"))?;
    Ok(u64::from(snapshot.max_frame) * frame_size(header.page_size))
}

/// Asks a database: a quick read, its WAL's size, how far its backup is behind.
fn database_probe(
    path: PathBuf,
    max_wal: Option<u64>,
    max_lag: Option<Duration>,
    replication: Current,
) -> health::Closure {
    Arc::new(move || -> BoxFuture<'static, Result<(), String>> {
        let (path, replication) = (path.clone(), replication.clone());
        Box::pin(async move {
            if let (Some(max), Some(status)) = (max_lag, conditions::of(&path, &replication))
                && let Some(since_ms) = status.behind_since_ms
            {
                let lag = Duration::from_millis((SystemClock.unix_ms() - since_ms).max(0).unsigned_abs());
                if lag > max {
                    return Err(format!("its backup is {:.1} s behind", lag.as_secs_f64()));
                }
            }
            let read = move || {
                let observer = Observer::open(&path).map_err(|error| error.to_string())?;
                observer.has_rows().map_err(|error| error.to_string())?;
                let Some(max) = max_wal else { return Ok(()) };
                match wal_bytes(&observer, &path)? {
                    bytes if bytes > max => Err(format!("its WAL has {bytes} bytes, more than {max}")),
                    _ => Ok(()),
                }
            };
            tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())?
        })
    })
}
