//! `oxfile.toml`.

use super::To::{Mebibytes, Millis, NoEffect, Percent, Same, Seconds, Together};
use super::app::{any, scalar, texts};
use super::{Keys, Table, To, Translation, escaped, new_entry};
use crate::node::{self, Entry, Value, entry};

const ROOT: Keys = &[
    ("version", Together),
    ("defaults", Together),
    ("apps", Together),
    ("processes", Together),
    ("deploy", NoEffect("litekeep deploys nothing: run these steps where the release is made")),
];

const GIT: &str = "litekeep pulls no source: do it where the release is made, and reload";
const LOG_FORMAT: &str = "lines are kept as they come; the file's times are those of its rotation";

/// What `[[apps]]`, `[defaults]` and `[processes.NAME]` have.
const APP: Keys = &[
    ("name", Together),
    ("command", Same("command")),
    ("cwd", Together),
    ("working_dir", Together),
    ("env", Together),
    ("env_file", Together),
    ("user", Same("user")),
    ("group", Same("group")),
    ("restart", Together),
    ("restart_policy", Together),
    ("restart_on_exit", Together),
    ("max_restarts", Together),
    ("crash_restart_limit", Together),
    ("restart_delay_secs", Together),
    ("restart_delay_ms", Together),
    ("restart_delay_max_ms", Together),
    ("start_delay_secs", Seconds("start_delay")),
    ("start_delay", Same("start_delay")),
    ("stop_signal", Same("stop_signal")),
    ("stop_timeout", Same("stop_timeout")),
    ("stop_timeout_secs", Seconds("stop_timeout")),
    ("stop_timeout_ms", Millis("stop_timeout")),
    ("instances", Same("instances")),
    ("depends_on", Together),
    ("health", Together),
    ("health_check", Together),
    ("health_cmd", Together),
    ("health_interval_secs", Together),
    ("health_timeout_secs", Together),
    ("health_max_failures", Together),
    ("wait_ready", Together),
    ("ready_timeout_secs", Seconds("ready_timeout")),
    ("ready_timeout", Same("ready_timeout")),
    ("watch", Together),
    ("ignore_watch", Together),
    ("watch_ignore", Together),
    ("watch_delay_secs", Together),
    ("max_memory_mb", Together),
    ("max_cpu_percent", Together),
    ("limits", Together),
    ("resource_limits", Together),
    ("log_file", Together),
    ("error_log_file", Together),
    ("logs", Together),
    ("disabled", Together),
    ("native", Same("native")),
    ("profiles", NoEffect("litekeep has no profiles: write one file for each place, or use ${VARIABLES}")),
    ("pre_reload_cmd", NoEffect("build before `litekeep reload`")),
    ("namespace", NoEffect("processes have names only")),
    ("start_order", NoEffect("what depends on nothing starts at once; `depends_on` says what waits")),
    (
        "cluster_mode",
        NoEffect("a process runs once: `instances` with `proxy` starts several, each at a PORT of its own"),
    ),
    (
        "cluster_instances",
        NoEffect("a process runs once: `instances` with `proxy` starts several, each at a PORT of its own"),
    ),
    ("instance_var", NoEffect("LITEKEEP_INSTANCE tells the runs apart")),
    ("cgroup_enforce", NoEffect("limits are the kernel's wherever its cgroups can be used")),
    ("deny_gpu", NoEffect("set CUDA_VISIBLE_DEVICES = \"\" in `env`")),
    ("reuse_port", NoEffect("with `listen` litekeep holds the socket, and no connection is refused")),
    ("git_repo", NoEffect(GIT)),
    ("git_ref", NoEffect(GIT)),
    ("pull_secret", NoEffect(GIT)),
    ("webhook", NoEffect(GIT)),
    ("log_date_format", NoEffect(LOG_FORMAT)),
    ("unified_logs", NoEffect("one file always has both outputs")),
    ("cron_restart", NoEffect("a [job.NAME] with command = \"litekeep restart NAME\" restarts by the clock")),
    ("watch_extensions", NoEffect("everything in the watched paths counts, but what `ignore` names")),
];

const HEALTH: Keys = &[
    ("type", Same("type")),
    ("url", Same("url")),
    ("endpoint", Same("url")),
    ("address", Same("address")),
    ("command", Same("command")),
    ("cmd", Same("command")),
    ("interval", Same("interval")),
    ("interval_secs", Seconds("interval")),
    ("timeout", Same("timeout")),
    ("timeout_secs", Seconds("timeout")),
    ("start_period", Same("start_period")),
    ("initial_delay", Same("start_period")),
    ("initial_delay_secs", Seconds("start_period")),
    ("successes", Same("successes")),
    ("healthy_threshold", Same("successes")),
    ("failures", Same("failures")),
    ("max_failures", Same("failures")),
    ("retries", Same("failures")),
    ("unhealthy_threshold", Same("failures")),
];

const LIMITS: Keys = &[
    ("memory", Same("memory")),
    ("memory_mb", Mebibytes("memory")),
    ("max_memory_mb", Mebibytes("memory")),
    ("cpu", Same("cpu")),
    ("cpu_percent", Percent("cpu")),
    ("max_cpu_percent", Percent("cpu")),
    ("open_files", Same("open_files")),
    ("cpu_window_secs", NoEffect("the limit always holds: nothing is measured over time")),
];

const LOGS: Keys = &[
    ("combined", Together),
    ("stdout", Together),
    ("stderr", Together),
    ("max_size_mb", Mebibytes("max_size")),
    ("max_size", Same("max_size")),
    ("max_files", Same("keep")),
    ("compress", Same("compress")),
];

impl Translation<'_> {
    pub(super) fn oxfile(&mut self) {
        let Some(root) = node::parse_toml(self.input.text, &mut self.report) else { return };
        for found in &root {
            match ROOT.iter().find(|(name, _)| *name == found.key) {
                Some((_, NoEffect(reason))) => {
                    self.remark(None, &found.key_span, format!("`{}` has no effect: {reason}", found.key));
                }
                Some(_) => {}
                None => {
                    let message = self.unknown(&found.key, ROOT, "an oxfile.toml");
                    self.report.error(&found.key_span, message);
                }
            }
        }
        if let Some(version) = entry(&root, "version")
            && !matches!(&version.node.value, Value::Integer(one) if one == "1")
        {
            self.report.error(&version.node.span, "`version`: only version 1 is known");
        }
        let defaults = entry(&root, "defaults").and_then(|found| self.table_of(found)).unwrap_or(&[]);
        for node in entry(&root, "apps").map(|found| self.list_of(found)).unwrap_or_default() {
            let Value::Table(entries) = &node.value else {
                self.report.error(&node.span, "an app is a table: write [[apps]] and its keys below it");
                continue;
            };
            match entry(entries, "name").map(|found| (scalar(&found.node.value), &found.node.span)) {
                Some((Some(name), span)) => self.app(&name, span, defaults, entries),
                _ => self.report.error(&node.span, "this app has no `name`: add name = \"api\""),
            }
        }
        let processes = entry(&root, "processes").and_then(|found| self.table_of(found)).unwrap_or(&[]);
        for found in processes {
            if let Some(entries) = self.table_of(found) {
                self.app(&found.key, &found.key_span, defaults, entries);
            }
        }
        if self.tables.is_empty() {
            self.remark(
                None,
                &(0..0),
                "there is no [[apps]] and no [processes.NAME], so there is nothing to run".into(),
            );
        }
    }

    fn table_of<'n>(&mut self, found: &'n Entry) -> Option<&'n [Entry]> {
        match &found.node.value {
            Value::Table(entries) => Some(entries),
            _ => {
                let message = format!("`{}` must be a table, found {}", found.key, found.node.describe());
                self.report.error(&found.node.span, message);
                None
            }
        }
    }

    fn list_of<'n>(&mut self, found: &'n Entry) -> &'n [node::Node] {
        match &found.node.value {
            Value::Array(nodes) => nodes,
            _ => {
                self.report.error(
                    &found.key_span,
                    "apps are a list: write [[apps]], with two brackets on each side",
                );
                &[]
            }
        }
    }

    /// One app: its own keys, and those of `[defaults]` that it does not have.
    fn app(&mut self, name: &str, span: &std::ops::Range<usize>, defaults: &[Entry], own: &[Entry]) {
        let has = |key: &str| {
            let same = |found: &&Entry| {
                found.key == key || target(key).is_some_and(|to| target(&found.key) == Some(to))
            };
            own.iter().any(|found| same(&found))
        };
        let inherited = defaults.iter().filter(|found| found.key != "env" && !has(&found.key));
        let entries: Vec<Entry> = own.iter().chain(inherited).cloned().collect();
        let entries = entries.as_slice();
        if matches!(entry(entries, "disabled").map(|found| &found.node.value), Some(Value::Bool(true))) {
            self.remark(None, span, format!("`{name}` is left out: it is disabled"));
            return;
        }
        let mut table = self.name(name, span);
        for found in entries {
            match APP.iter().find(|(known, _)| *known == found.key) {
                Some((_, to)) => _ = self.translate_key(&mut table, found, *to),
                None => {
                    let message = self.unknown(&found.key, APP, "an app");
                    self.report.error(&found.key_span, message);
                }
            }
        }
        let cwd = any(entries, &["cwd", "working_dir"]);
        let cwd = cwd.and_then(|found| Some((self.expanded(&scalar(&found.node.value)?), &found.node.span)));
        let base = self.working_directory(&mut table, cwd);
        let base = base.as_deref();
        self.variables(&mut table, entry(defaults, "env"), entry(own, "env"));
        if let Some(found) = entry(entries, "env_file") {
            let place = scalar(&found.node.value).map(|path| self.place(base, &self.expanded(&path)));
            table.set("env_file", &found.node.span, place.map_or(found.node.value.clone(), Value::String));
        }
        self.restarts(&mut table, entries);
        if let Some(found) = entry(entries, "depends_on") {
            let names = texts(&found.node).into_iter();
            let names =
                names.map(|(name, node)| super::app::text_node(node, escaped(&super::plain_name(name))));
            table.set("depends_on", &found.node.span, Value::Array(names.collect()));
        }
        self.checks(&mut table, entries);
        let delay = entry(entries, "watch_delay_secs");
        let delay = delay.and_then(|found| Some((self.with_unit(found, Seconds(""))?, &found.node.span)));
        self.watching(
            &mut table,
            base,
            entry(entries, "watch"),
            any(entries, &["ignore_watch", "watch_ignore"]),
            &[],
            delay,
        );
        self.bounds(&mut table, base, entries);
        self.push(table);
    }

    /// Those of the app over those of `[defaults]`.
    fn variables(&mut self, table: &mut Table, defaults: Option<&Entry>, own: Option<&Entry>) {
        let defaults = defaults.and_then(|found| self.table_of(found)).unwrap_or(&[]);
        let own_entries = own.and_then(|found| self.table_of(found)).unwrap_or(&[]);
        let inherited = defaults.iter().filter(|variable| entry(own_entries, &variable.key).is_none());
        let variables: Vec<Entry> = inherited
            .chain(own_entries)
            .map(|variable| match &variable.node.value {
                Value::String(text) => {
                    new_entry(&variable.key, &variable.node.span, Value::String(self.expanded(text)))
                }
                _ => variable.clone(),
            })
            .collect();
        if !variables.is_empty() {
            let span = own.map_or(table.span.clone(), |found| found.node.span.clone());
            table.set("env", &span, Value::Table(variables));
        }
    }

    fn restarts(&mut self, table: &mut Table, entries: &[Entry]) {
        let says = |value: &str| Value::String(value.into());
        let mut policy = None;
        if let Some(found) = any(entries, &["restart", "restart_policy"]) {
            let value = scalar(&found.node.value).map(|text| Value::String(escaped(&text.replace('_', "-"))));
            policy = Some((value.unwrap_or(found.node.value.clone()), &found.node.span));
        }
        if let Some(found) = entry(entries, "restart_on_exit") {
            match found.node.value {
                Value::Bool(restarts) => {
                    policy =
                        policy.or(Some((says(if restarts { "always" } else { "never" }), &found.node.span)));
                }
                _ => self.report.error(&found.node.span, "`restart_on_exit` is true or false"),
            }
        }
        // Two budgets there: the smaller one ends it first. 0 is none of the first, and no end of the second.
        let mut limit: Option<(u64, &std::ops::Range<usize>)> = None;
        for key in ["max_restarts", "crash_restart_limit"] {
            let Some(found) = entry(entries, key) else { continue };
            let Some(number) = scalar(&found.node.value).and_then(|text| text.parse::<u64>().ok()) else {
                self.report.error(
                    &found.node.span,
                    format!("`{key}` must be a number, found {}", found.node.describe()),
                );
                continue;
            };
            match (key, number) {
                ("max_restarts", 0) => policy = Some((says("never"), &found.node.span)),
                (_, 0) => {}
                _ if limit.is_some_and(|(first, _)| first <= number) => {}
                _ => limit = Some((number, &found.node.span)),
            }
        }
        if let Some((value, span)) = policy {
            table.set("restart", span, value);
        }
        if let Some((number, span)) = limit {
            table.set("restart_limit", span, Value::Integer(number.to_string()));
        }
        for (key, to, ours) in [
            ("restart_delay_secs", Seconds(""), "min"),
            ("restart_delay_ms", Millis(""), "min"),
            ("restart_delay_max_ms", Millis(""), "max"),
        ] {
            // No delay is what the first restart has here anyway.
            let found =
                entry(entries, key).filter(|found| scalar(&found.node.value).is_none_or(|text| text != "0"));
            if let Some((found, value)) = found.and_then(|found| Some((found, self.with_unit(found, to)?))) {
                table.set_in("backoff", ours, &found.node.span, value);
            }
        }
    }

    /// A check that fails ends the process there, so it is liveness; a reload waits for it here, so it is readiness too.
    fn checks(&mut self, table: &mut Table, entries: &[Entry]) {
        let mut check = Table::new(String::new(), table.span.clone());
        if let Some(found) = any(entries, &["health", "health_check"]) {
            let Some(inner) = self.table_of(found) else { return };
            check.span = found.key_span.clone();
            self.inner(table, &mut check, inner, HEALTH, "`health`");
        }
        for (key, to) in [
            ("health_cmd", Same("command")),
            ("health_interval_secs", Seconds("interval")),
            ("health_timeout_secs", Seconds("timeout")),
            ("health_max_failures", Same("failures")),
        ] {
            let is_alone = key != "health_cmd" && check.entries.is_empty();
            // Defaults for apps that have no check say nothing about one.
            if let Some(found) = entry(entries, key).filter(|_| !is_alone) {
                self.translate_key(&mut check, found, to);
            }
        }
        if !check.entries.is_empty() {
            table.set("health", &check.span, Value::Table(check.entries.clone()));
            table.set("liveness", &check.span, Value::Table(check.entries));
        }
    }

    fn bounds(&mut self, table: &mut Table, base: Option<&str>, entries: &[Entry]) {
        let mut limits = Table::new(String::new(), table.span.clone());
        for found in entries.iter().filter(|found| matches!(found.key.as_str(), "limits" | "resource_limits"))
        {
            let inner = self.table_of(found).unwrap_or(&[]);
            limits.span = found.key_span.clone();
            self.inner(table, &mut limits, inner, LIMITS, "`limits`");
        }
        for (key, to) in [("max_memory_mb", Mebibytes("memory")), ("max_cpu_percent", Percent("cpu"))] {
            if let Some(found) = entry(entries, key) {
                self.translate_key(&mut limits, found, to);
            }
        }
        if !limits.entries.is_empty() {
            table.set("limits", &limits.span, Value::Table(limits.entries));
        }
        let logs = entry(entries, "logs").and_then(|found| self.table_of(found)).unwrap_or(&[]);
        let file = |key: &str| entry(logs, key);
        let files = [
            file("combined"),
            file("stdout"),
            entry(entries, "log_file"),
            file("stderr"),
            entry(entries, "error_log_file"),
        ];
        self.log_path(table, base, &files);
        let mut log = Table::new(String::new(), table.span.clone());
        self.inner(table, &mut log, logs, LOGS, "`logs`");
        for found in log.entries {
            table.set_in("log", &found.key, &found.node.span, found.node.value);
        }
    }

    /// The keys of a table within `table`, whose remarks are that one's.
    fn inner(&mut self, table: &mut Table, to: &mut Table, entries: &[Entry], keys: Keys, place: &str) {
        for found in entries {
            match keys.iter().find(|(known, _)| *known == found.key) {
                Some((_, key @ To::NoEffect(_))) => _ = self.translate_key(table, found, *key),
                Some((_, key)) => _ = self.translate_key(to, found, *key),
                None => {
                    let message = self.unknown(&found.key, keys, place);
                    self.report.error(&found.key_span, message);
                }
            }
        }
    }
}

/// What a key is called here, if it needs no other key.
fn target(key: &str) -> Option<&'static str> {
    let (_, to) = APP.iter().find(|(known, _)| *known == key)?;
    match to {
        Same(name) | Seconds(name) | Millis(name) => Some(name),
        _ => None,
    }
}
