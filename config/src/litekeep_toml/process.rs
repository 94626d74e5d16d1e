//! `[process.NAME]`.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use super::run::{RUN_KEYS, Run, WAIT, beside, each};
use super::{CENTURY, DAY};
use crate::litestream_command;
use crate::node::{Entry, Value, entry};
use crate::process::{
    Command, Hook, Listen, Litestream, ProcessConfig, Restart, RunConfig, Until, WatchConfig,
};
use crate::processes::{Dependency, PlacedProcess};
use crate::reader::Reader;

const PROCESS_KEYS: [&str; 16] = [
    "instances",
    "restart",
    "restart_limit",
    "backoff",
    "start_delay",
    "depends_on",
    "health",
    "liveness",
    "ready_timeout",
    "listen",
    "proxy",
    "watch",
    "hooks",
    "native",
    "if_primary",
    "on_role_change",
];
const HOOKS: [(&str, Hook); 4] = [
    ("healthy", Hook::Healthy),
    ("crashed", Hook::Crashed),
    ("failed", Hook::Failed),
    ("stopped", Hook::Stopped),
];
const CONDITIONS: [(&str, Until); 6] = [
    ("started", Until::Started),
    ("healthy", Until::Healthy),
    ("completed_successfully", Until::CompletedSuccessfully),
    ("db_restored", Until::DbRestored),
    ("migrated", Until::Migrated),
    ("replicating", Until::Replicating),
];
const RESTARTS: [(&str, Restart); 3] =
    [("on-failure", Restart::OnFailure), ("always", Restart::Always), ("never", Restart::Never)];
const BACKOFF: (Duration, Duration) = (Duration::from_millis(1), DAY);
const WATCH_DELAY: Duration = Duration::from_millis(200);
pub(super) const MOST_INSTANCES: u32 = 1000;

impl Reader<'_> {
    /// Every `[process.NAME]` below `process`.
    pub(super) fn processes(&mut self, found: &Entry) -> Vec<PlacedProcess> {
        let Some(tables) = self.table(found) else { return Vec::new() };
        tables.iter().map(|named| self.process(named)).collect()
    }

    pub(super) fn check_name(&mut self, named: &Entry, kind: &str) {
        if !crate::is_name(&named.key) {
            let message = format!(
                "`{}` cannot name a {kind}: a name has up to 64 letters, digits, `-`, `_` and `.`, and begins with a letter, a digit or `_`",
                named.key
            );
            self.report.error(&named.key_span, message);
        }
    }

    fn process(&mut self, named: &Entry) -> PlacedProcess {
        self.check_name(named, "process");
        let entries = self.table(named).unwrap_or(&[]);
        let known: Vec<&str> = RUN_KEYS.into_iter().chain(PROCESS_KEYS).collect();
        self.check_keys(entries, "[process.NAME]", &known, known_elsewhere);
        let get = |key: &str| entry(entries, key);

        let Run { run, stop_signal, stop_timeout, limits, log } = self.run(entries, "this process", named);
        let mut config = ProcessConfig::new(&named.key, run.command.clone());
        config.litestream = self.recognised(entries, &run);
        config.run = run;
        config.limits = limits;
        config.log = log;
        config.stop_signal = stop_signal.unwrap_or(config.stop_signal);
        config.stop_timeout = stop_timeout.unwrap_or(config.stop_timeout);
        self.fill(entries, "instances", &mut config.instances, |r, f| r.count(f, 1..=MOST_INSTANCES));
        self.fill(entries, "restart", &mut config.restart, |r, f| r.one_of(f, &RESTARTS));
        self.fill(entries, "restart_limit", &mut config.restart_limit, |r, f| r.count(f, 1..=u32::MAX));
        self.fill(entries, "start_delay", &mut config.start_delay, |r, f| r.duration(f, "1s", WAIT));
        self.fill(entries, "ready_timeout", &mut config.ready_timeout, |r, f| r.duration(f, "60s", WAIT));
        if let Some(found) = get("backoff") {
            config.backoff = self.backoff(found, config.backoff);
        }
        let has_proxy = get("proxy").is_some();
        config.health = get("health").and_then(|found| self.health(found, has_proxy));
        config.liveness = get("liveness").and_then(|found| self.health(found, has_proxy));
        config.proxy = get("proxy").and_then(|found| self.listen_address(found));
        for (key, check) in [("health", &config.health), ("liveness", &config.liveness)] {
            if let (Some(found), Some(check), Some(proxy)) = (get(key), check, config.proxy) {
                self.check_own_proxy(found, check, proxy);
            }
        }
        self.fill(entries, "if_primary", &mut config.if_primary, Self::boolean);
        if let Some(found) = get("on_role_change") {
            config.on_role_change = self.on_role_change(found).unwrap_or_default();
            if config.if_primary {
                let message = "a process with `if_primary` ends when its node is not the primary any more: remove `on_role_change`";
                self.report.error(&found.key_span, message);
            }
        }
        config.watch = get("watch").and_then(|found| self.watch(found));
        config.hooks = get("hooks").map(|found| self.hooks(found)).unwrap_or_default();

        let (listen, listen_spans) = match get("listen") {
            Some(found) => self.listen(found, &named.key).into_iter().unzip(),
            None => (Vec::new(), Vec::new()),
        };
        config.listen = listen;
        if let (Some(_), Some(proxy)) = (get("listen"), get("proxy")) {
            let message = "a process has `listen` (it takes litekeep's socket) or `proxy` (it listens at $PORT), not both";
            self.report.error(&proxy.key_span, message);
        }
        let dependencies = get("depends_on").map(|found| self.dependencies(found)).unwrap_or_default();
        PlacedProcess {
            config,
            dependencies,
            listen_spans,
            proxy_span: get("proxy").map_or(0..0, |found| found.node.span.clone()),
        }
    }

    /// `litestream replicate`.
    fn recognised(&mut self, entries: &[Entry], run: &RunConfig) -> Option<Litestream> {
        let mut native = true;
        self.fill(entries, "native", &mut native, Self::boolean);
        let base = self.input.path.parent().unwrap_or("".as_ref());
        let found = litestream_command::recognise(&run.command, |path| beside(run, base, path));
        let command = entry(entries, "command")?;
        match found {
            Some(Ok(litestream)) if native => {
                let message = "`litestream replicate` is recognised: litekeep replicates these databases itself and does \
                               not start it; native = false runs the program";
                self.report.warn(&command.node.span, message);
                Some(litestream)
            }
            Some(Err(reason)) if native => {
                let message = format!(
                    "`litestream replicate` is run as it is, because {reason}: leave that out, and litekeep replicates itself; \
                     native = false runs the program without this warning"
                );
                self.report.warn(&command.node.span, message);
                None
            }
            Some(Ok(litestream)) => Some(Litestream { foreign: true, ..litestream }),
            Some(Err(_)) => None,
            None => {
                if let Some(found) = entry(entries, "native") {
                    let message =
                        "`native` is for `litestream replicate`, which this command is not: remove it";
                    self.report.error(&found.key_span, message);
                }
                None
            }
        }
    }

    fn backoff(&mut self, found: &Entry, default: (Duration, Duration)) -> (Duration, Duration) {
        let Some(entries) = self.table(found) else { return default };
        self.check_keys(entries, "`backoff`", &["min", "max"], |_| None);
        let min = entry(entries, "min").and_then(|found| self.duration(found, "100ms", BACKOFF));
        let max = entry(entries, "max").and_then(|found| self.duration(found, "30s", BACKOFF));
        match (min, max) {
            (Some(min), Some(max)) if min > max => {
                self.refuse(found, "its `min` is above its `max`");
                default
            }
            // One alone never contradicts the default of the other.
            (Some(min), None) => (min, default.1.max(min)),
            (None, Some(max)) => (default.0.min(max), max),
            (min, max) => (min.unwrap_or(default.0), max.unwrap_or(default.1)),
        }
    }

    /// An address, a list of them, or a table that gives each a name.
    fn listen(&mut self, found: &Entry, process: &str) -> Vec<((String, Listen), Range<usize>)> {
        let named: Vec<(String, Entry)> = match &found.node.value {
            Value::Table(entries) => entries.iter().map(|one| (one.key.clone(), one.clone())).collect(),
            _ => each(found).into_iter().map(|one| (process.to_owned(), one)).collect(),
        };
        if named.is_empty() {
            self.refuse(found, "it is empty: write listen = \"127.0.0.1:3000\", or remove it");
        }
        let mut sockets = Vec::new();
        for (name, one) in named {
            if name.is_empty()
                || name.len() > 255
                || name.contains(|c: char| c == ':' || c.is_ascii_control())
            {
                let message = format!("`{name}` cannot name a socket: a name in LISTEN_FDNAMES has no `:`");
                self.report.error(&one.key_span, message);
            }
            sockets.extend(self.socket(&one).map(|socket| ((name, socket), one.node.span.clone())));
        }
        sockets
    }

    fn socket(&mut self, one: &Entry) -> Option<Listen> {
        let text = self.non_empty(one)?;
        match text.strip_prefix("unix:") {
            Some("") => {
                self.refuse(one, "it has no path: write \"unix:/run/app.sock\"");
                None
            }
            Some(path) => self.resolve_or_refuse(one, path).map(Listen::Unix),
            None => self.listen_address(one).map(Listen::Tcp),
        }
    }

    fn watch(&mut self, found: &Entry) -> Option<WatchConfig> {
        let mut watch = WatchConfig { paths: Vec::new(), ignore: Vec::new(), delay: WATCH_DELAY };
        let Value::Table(entries) = &found.node.value else {
            watch.paths = self.paths(found)?;
            return Some(watch);
        };
        self.check_keys(entries, "`watch`", &["paths", "ignore", "delay"], |_| None);
        self.fill(entries, "delay", &mut watch.delay, |r, f| r.duration(f, "200ms", WAIT));
        if let Some(found) = entry(entries, "ignore") {
            for name in each(found) {
                let Some(text) = self.non_empty(&name) else { continue };
                if let Err(cause) = crate::Pattern::parse(&text) {
                    self.refuse(
                        &name,
                        format!("`{text}` is not a name such as \"node_modules\" or \"*.log\": {cause}"),
                    );
                }
                watch.ignore.push(text);
            }
        }
        let Some(paths) = entry(entries, "paths") else {
            self.refuse(found, "it needs `paths`: write watch = { paths = [\"src\"], ignore = [\"*.log\"] }");
            return None;
        };
        watch.paths = self.paths(paths)?;
        Some(watch)
    }

    fn paths(&mut self, found: &Entry) -> Option<Vec<PathBuf>> {
        if matches!(&found.node.value, Value::Array(nodes) if nodes.is_empty()) {
            self.refuse(found, "it is empty: name what is watched, or remove it");
        }
        each(found).iter().map(|one| self.path(one)).collect()
    }

    fn hooks(&mut self, found: &Entry) -> Vec<(Hook, Command)> {
        let Some(entries) = self.table(found) else { return Vec::new() };
        self.check_keys(entries, "`hooks`", &HOOKS.map(|(name, _)| name), |_| None);
        let known = |found: &Entry| HOOKS.iter().find(|(name, _)| *name == found.key).map(|(_, hook)| *hook);
        let hooks = entries.iter().filter_map(|found| Some((known(found)?, self.command(found)?)));
        hooks.collect()
    }

    /// A list of names that must have started, or a table with a condition for each name.
    fn dependencies(&mut self, found: &Entry) -> Vec<Dependency> {
        let mut dependencies = Vec::new();
        match &found.node.value {
            Value::Table(entries) => {
                for one in entries {
                    let condition = self.one_of(one, &CONDITIONS);
                    dependencies.extend(
                        condition.and_then(|until| self.dependency(&one.key, until, one, &one.key_span)),
                    );
                }
            }
            _ => {
                for one in each(found) {
                    let name = self.non_empty(&one);
                    let started =
                        name.and_then(|name| self.dependency(&name, Until::Started, &one, &one.node.span));
                    dependencies.extend(started);
                }
            }
        }
        dependencies
    }

    fn dependency(
        &mut self,
        name: &str,
        until: Until,
        at: &Entry,
        span: &Range<usize>,
    ) -> Option<Dependency> {
        let is_database = matches!(until, Until::DbRestored | Until::Migrated | Until::Replicating);
        let path = if is_database { Some(self.resolve_or_refuse(at, name)?) } else { None };
        Some(Dependency { name: name.to_owned(), path, until, span: span.clone() })
    }
}

/// Advice about a key that has another name or place here.
fn known_elsewhere(key: &str) -> Option<String> {
    let ours = match key {
        "script" | "cmd" | "exec" | "run" | "args" => "command",
        "working_dir" | "workdir" | "working_directory" | "dir" => "cwd",
        "environment" => "env",
        "environment_file" => "env_file",
        "autorestart" | "restart_policy" | "restart_on_exit" => "restart",
        "max_restarts" | "crash_restart_limit" | "retries" => "restart_limit",
        "restart_delay" | "restart_delay_ms" | "restart_delay_secs" => "backoff = { min = \"1s\" }",
        "kill_timeout" | "stop_timeout_ms" | "stop_timeout_secs" | "grace_period" => "stop_timeout",
        "kill_signal" => "stop_signal",
        "healthcheck" | "health_check" | "health_cmd" => "health = { command = \"...\" }",
        "readiness" => "health",
        "replicas" | "numprocs" => "instances",
        "memory" | "cpu" | "max_memory" | "max_memory_restart" | "max_memory_mb" => {
            "limits = { memory = \"512M\" }"
        }
        "port" => "listen = \"127.0.0.1:3000\", or `proxy`",
        "name" => return Some("the name stands in the table's title: [process.NAME]".into()),
        "cron" | "every" | "schedule" => {
            return Some("a process runs all the time: write [job.NAME] for what runs by the clock".into());
        }
        _ => return None,
    };
    Some(format!("here it is `{ours}`"))
}

/// How long the parts of a schedule may be.
pub(super) const ANY_TIME: (Duration, Duration) = (Duration::ZERO, CENTURY);
