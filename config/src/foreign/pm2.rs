//! `ecosystem.config.json` of PM2.
//!
//! It is read as YAML, of which JSON is a part, for the places of its values; comments in it, which PM2 takes, become blanks
//! first.

use super::To::{Millis, NoEffect, Same, Together};
use super::app::{any, scalar};
use super::{Keys, Kind, Table, Translation, escaped, literal};
use crate::command_line::Line;
use crate::node::{self, Entry, Node, Value, entry};

const LOG_FORMAT: &str = "lines are kept as they come";
const OWN_AGENT: &str = "it is for PM2's own agent";

const APP: Keys = &[
    ("name", Together),
    ("script", Together),
    ("cmd", Together),
    ("args", Together),
    ("interpreter", Together),
    ("exec_interpreter", Together),
    ("interpreter_args", Together),
    ("node_args", Together),
    ("cwd", Together),
    ("env", Together),
    ("instances", Together),
    ("exec_mode", Together),
    ("autorestart", Together),
    ("stop_exit_codes", Together),
    ("cron_restart", Together),
    ("cron", Together),
    ("max_restarts", Together),
    ("restart_delay", Together),
    ("exp_backoff_restart_delay", Together),
    ("max_memory_restart", Together),
    ("watch", Together),
    ("ignore_watch", Together),
    ("watch_delay", Together),
    ("out_file", Together),
    ("output", Together),
    ("out", Together),
    ("error_file", Together),
    ("error", Together),
    ("err_file", Together),
    ("log_file", Together),
    ("log", Together),
    ("kill_timeout", Millis("stop_timeout")),
    ("listen_timeout", Millis("ready_timeout")),
    ("user", Same("user")),
    ("uid", Same("user")),
    ("gid", Same("group")),
    ("group", Same("group")),
    ("env_file", Same("env_file")),
    ("depends_on", Same("depends_on")),
    ("min_uptime", NoEffect("a run of 60s is stable, and forgives the crashes before it")),
    (
        "wait_ready",
        NoEffect(
            "`process.send('ready')` is not heard: give it a `health`; type = \"notify\" hears sd_notify(3)",
        ),
    ),
    ("shutdown_with_message", NoEffect("the end is asked for by `stop_signal`")),
    ("merge_logs", NoEffect("one file always has the output of all instances")),
    ("combine_logs", NoEffect("one file always has the output of all instances")),
    ("log_date_format", NoEffect(LOG_FORMAT)),
    ("log_type", NoEffect(LOG_FORMAT)),
    ("time", NoEffect(LOG_FORMAT)),
    ("disable_logs", NoEffect("the log is kept, in bounded space")),
    ("pid_file", NoEffect("`litekeep` knows its processes by themselves")),
    ("pid", NoEffect("`litekeep` knows its processes by themselves")),
    ("namespace", NoEffect("processes have names only")),
    ("autostart", NoEffect("what is in the file is started")),
    ("vizion", NoEffect(OWN_AGENT)),
    ("automation", NoEffect(OWN_AGENT)),
    ("pmx", NoEffect(OWN_AGENT)),
    ("trace", NoEffect(OWN_AGENT)),
    ("v8", NoEffect(OWN_AGENT)),
    ("treekill", NoEffect("the whole tree always ends with its process")),
    ("source_map_support", NoEffect("set NODE_OPTIONS = \"--enable-source-maps\" in `env`")),
    ("disable_source_map_support", NoEffect("source maps are as the program has them")),
    ("instance_var", NoEffect("LITEKEEP_INSTANCE tells the runs apart")),
    ("increment_var", NoEffect("each instance behind `proxy` gets a PORT of its own, nothing else differs")),
    ("filter_env", NoEffect("the environment is litekeep's own, with `env` over it")),
    ("watch_options", NoEffect("changes are told by the kernel")),
    ("force", NoEffect("each process has one name and runs once")),
    ("post_update", NoEffect("litekeep pulls no source")),
    ("kill_retry_time", NoEffect("what has not ended in `stop_timeout` is killed at once")),
    ("append_env_to_name", NoEffect("names stay as they are")),
    ("node_version", NoEffect("write the path of the program into `command`")),
    ("windowsHide", NoEffect("there are no windows")),
];

/// What PM2 does not watch where the file does not say.
const IGNORED: [&str; 2] = [".*", "node_modules"];

/// Who runs a script, by the ending of its name.
const INTERPRETERS: [(&str, &str); 9] = [
    ("js", "node"),
    ("cjs", "node"),
    ("mjs", "node"),
    ("ts", "bun"),
    ("py", "python3"),
    ("sh", "bash"),
    ("rb", "ruby"),
    ("php", "php"),
    ("pl", "perl"),
];

impl Translation<'_> {
    pub(super) fn pm2(&mut self) {
        let plain = without_comments(self.input.text);
        let Some(root) = node::parse_yaml(&plain, "JSON", &mut self.report) else { return };
        let root = typed(&root);
        match &root.value {
            Value::Table(entries) if entry(entries, "apps").is_some() => {
                for found in entries {
                    match (found.key.as_str(), &found.node.value) {
                        ("apps", Value::Array(nodes)) => nodes.iter().for_each(|node| self.pm2_node(node)),
                        ("apps", _) => self.report.error(&found.node.span, "`apps` is a list"),
                        ("deploy", _) => {
                            let message = "`deploy` has no effect: litekeep deploys nothing";
                            self.remark(None, &found.key_span, message.into());
                        }
                        (key, _) => {
                            let message = format!("`{key}` has no effect: an ecosystem file has `apps`");
                            self.remark(None, &found.key_span, message);
                        }
                    }
                }
            }
            Value::Array(nodes) => nodes.iter().for_each(|node| self.pm2_node(node)),
            _ => self.pm2_node(&root),
        }
    }

    fn pm2_node(&mut self, node: &Node) {
        match &node.value {
            Value::Table(entries) => self.pm2_app(entries, node),
            _ => self.report.error(&node.span, "an app is a table with `name` and `script`"),
        }
    }

    fn pm2_app(&mut self, entries: &[Entry], node: &Node) {
        let text = |names: &[&str]| any(entries, names).and_then(|found| scalar(&found.node.value));
        let Some(script) = text(&["script", "cmd"]) else {
            self.report.error(&(node.span.start..node.span.start + 1), "this app has no `script`");
            return;
        };
        let script_span = &any(entries, &["script", "cmd"]).expect("it was found").node.span;
        let name =
            entry(entries, "name").and_then(|found| Some((scalar(&found.node.value)?, &found.node.span)));
        let (name, span) = name.unwrap_or_else(|| (stem(&script).to_owned(), script_span));
        let mut table = self.name(&name, span);
        let (command, is_node) = command(entries, &script);
        table.set("command", script_span, command);
        let cwd = entry(entries, "cwd");
        let cwd = cwd.and_then(|found| Some((escaped(&scalar(&found.node.value)?), &found.node.span)));
        let base = self.working_directory(&mut table, cwd);
        self.pm2_environment(&mut table, entries, is_node);
        for found in entries {
            match APP.iter().find(|(known, _)| *known == found.key) {
                Some((_, to)) => _ = self.translate_key(&mut table, found, *to),
                None if found.key.starts_with("env_") => {
                    let message = format!("`{}` is not applied: add what holds here to `env`", found.key);
                    self.remark(Some(&mut table), &found.key_span, message);
                }
                None => {
                    let message = format!("{}; it has no effect", self.unknown(&found.key, APP, "an app"));
                    self.remark(Some(&mut table), &found.key_span, message);
                }
            }
        }
        self.pm2_restarts(&mut table, entries);
        if let Some(found) = entry(entries, "max_memory_restart") {
            let value = match scalar(&found.node.value).map(|text| text.trim().to_ascii_uppercase()) {
                Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                    Value::Integer(text)
                }
                Some(text) => Value::String(escaped(&text)),
                None => found.node.value.clone(),
            };
            table.set_in("limits", "memory", &found.node.span, value);
        }
        let delay = entry(entries, "watch_delay");
        let delay = delay.and_then(|found| Some((self.with_unit(found, Millis(""))?, &found.node.span)));
        self.watching(
            &mut table,
            base.as_deref(),
            entry(entries, "watch"),
            entry(entries, "ignore_watch"),
            &IGNORED,
            delay,
        );
        let files = ["log_file", "log", "out_file", "output", "out", "error_file", "error", "err_file"];
        self.log_path(&mut table, base.as_deref(), &files.map(|key| entry(entries, key)));
        self.push(table);
    }

    /// Variables and instances: in cluster mode all instances share a port, which is the proxy's here.
    fn pm2_environment(&mut self, table: &mut Table, entries: &[Entry], is_node: bool) {
        let mut variables = Vec::new();
        if let Some(found) = entry(entries, "env") {
            match &found.node.value {
                Value::Table(entries) => {
                    for variable in entries {
                        if scalar(&variable.node.value).is_some() {
                            variables.push(Entry { node: literal(&variable.node), ..variable.clone() });
                        } else {
                            let message =
                                format!("`{}` of `env` is left out: it is not a text", variable.key);
                            self.remark(Some(table), &variable.key_span, message);
                        }
                    }
                }
                _ => self.remark(Some(table), &found.key_span, "`env` is left out: it is not a table".into()),
            }
        }
        let mode = entry(entries, "exec_mode").and_then(|found| scalar(&found.node.value));
        if let Some(found) = entry(entries, "instances") {
            let number = scalar(&found.node.value)
                .and_then(|text| text.parse::<u32>().ok())
                .filter(|number| *number > 0);
            let is_cluster = mode.as_deref().map_or(is_node, |mode| mode.starts_with("cluster"));
            match number {
                None => {
                    let message =
                        "`instances` is one: it was as many as there are processors, which is a number here";
                    self.remark(Some(table), &found.node.span, message.into());
                }
                Some(number) => {
                    table.set("instances", &found.node.span, Value::Integer(number.to_string()));
                    if number > 1 && is_cluster {
                        self.share_port(table, found, &mut variables);
                    }
                }
            }
        }
        if let Some(span) =
            entry(entries, "env").map(|found| &found.node.span).filter(|_| !variables.is_empty())
        {
            table.set("env", span, Value::Table(variables));
        }
    }

    fn share_port(&mut self, table: &mut Table, instances: &Entry, variables: &mut Vec<Entry>) {
        let place = variables.iter().position(|variable| variable.key == "PORT");
        let message = match place.map(|place| variables.remove(place)) {
            Some(variable) => {
                let port = scalar(&variable.node.value).unwrap_or_default();
                table.set("proxy", &variable.node.span, Value::String(format!(":{port}")));
                format!("cluster mode is `proxy` here: it listens at port {port}, and each instance gets a PORT of its own")
            }
            None => "the instances of cluster mode share a port: give proxy = \":3000\", and let each listen at its own PORT".into(),
        };
        self.remark(Some(table), &instances.node.span, message);
    }

    fn pm2_restarts(&mut self, table: &mut Table, entries: &[Entry]) {
        let restarts =
            !matches!(entry(entries, "autorestart").map(|found| &found.node.value), Some(Value::Bool(false)));
        let cron = any(entries, &["cron_restart", "cron"])
            .and_then(|found| Some((scalar(&found.node.value)?, found)))
            .filter(|(text, _)| !matches!(text.as_str(), "" | "0" | "false"));
        match cron {
            // What PM2 starts by the clock and nothing else is a job.
            Some((text, found)) if !restarts => {
                table.kind = Kind::Job;
                table.set("cron", &found.node.span, Value::String(escaped(&text)));
                for key in ["instances", "proxy", "ready_timeout", "watch", "depends_on"] {
                    table.entries.retain(|entry| entry.key != key);
                }
                let message = "it is a job: `cron_restart` starts it, and `autorestart` is off".to_owned();
                self.remark(Some(table), &found.key_span, message);
                return;
            }
            Some((_, found)) => {
                let message = format!(
                    "`{}` has no effect: a [job.NAME] with command = \"litekeep restart NAME\" restarts by the clock",
                    found.key
                );
                self.remark(Some(table), &found.key_span, message);
            }
            None => {}
        }
        let codes = entry(entries, "stop_exit_codes");
        let stops: Vec<String> = match codes.map(|found| &found.node.value) {
            Some(Value::Array(nodes)) => nodes.iter().filter_map(|node| scalar(&node.value)).collect(),
            Some(value) => scalar(value).into_iter().collect(),
            None => Vec::new(),
        };
        if let Some(found) = codes.filter(|_| stops.iter().any(|code| code != "0")) {
            let message = "`stop_exit_codes` has no effect but for 0: restart = \"on-failure\" starts after every other".into();
            self.remark(Some(table), &found.key_span, message);
        }
        let policy = match restarts {
            false => "never",
            true if stops.iter().any(|code| code == "0") => "on-failure",
            true => "always",
        };
        let span = any(entries, &["autorestart", "stop_exit_codes"])
            .map_or(table.span.clone(), |found| found.node.span.clone());
        table.set("restart", &span, Value::String(policy.into()));
        if let Some(found) = entry(entries, "max_restarts") {
            match scalar(&found.node.value).as_deref() {
                Some("0") => {
                    let message =
                        "`max_restarts` has no effect as 0: what crashes on and on is shown as failed".into();
                    self.remark(Some(table), &found.key_span, message);
                }
                _ => table.set("restart_limit", &found.node.span, found.node.value.clone()),
            }
        }
        let delay = any(entries, &["exp_backoff_restart_delay", "restart_delay"]);
        let delay = delay.filter(|found| scalar(&found.node.value).is_none_or(|text| text != "0"));
        if let Some((found, value)) =
            delay.and_then(|found| Some((found, self.with_unit(found, Millis(""))?)))
        {
            table.set_in("backoff", "min", &found.node.span, value);
        }
    }
}

/// The command of an app, and whether Node runs it.
fn command(entries: &[Entry], script: &str) -> (Value, bool) {
    let list = |names: &[&str]| any(entries, names).map(|found| arguments(&found.node)).unwrap_or_default();
    let arguments = list(&["args"]);
    let interpreter =
        any(entries, &["interpreter", "exec_interpreter"]).and_then(|found| scalar(&found.node.value));
    // A script with blanks is a line for a shell there.
    if script.trim().contains(char::is_whitespace) && interpreter.is_none() {
        let line = std::iter::once(script.trim().to_owned()).chain(arguments).collect::<Vec<_>>().join(" ");
        return (Value::String(escaped(&line)), false);
    }
    let by_ending = || {
        let ending =
            script.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map(|(_, ending)| ending);
        INTERPRETERS
            .iter()
            .find(|(known, _)| Some(*known) == ending)
            .map(|(_, program)| (*program).to_owned())
    };
    let interpreter = match interpreter {
        Some(none) if matches!(none.as_str(), "none" | "") => None,
        Some(program) => Some(program),
        None => by_ending(),
    };
    let is_node = interpreter.as_deref().is_some_and(|program| stem(program).starts_with("node"));
    let mut words = Vec::new();
    if let Some(program) = interpreter {
        words.push(program);
        words.extend(list(&["interpreter_args", "node_args"]));
    }
    words.push(script.to_owned());
    words.extend(arguments);
    let line = words.join(" ");
    let is_plain = Line::split(&line).is_ok_and(|split| !split.needs_shell && split.words == words);
    if is_plain {
        return (Value::String(line), is_node);
    }
    let nodes = words.into_iter().map(|word| Node { span: 0..0, value: Value::String(escaped(&word)) });
    (Value::Array(nodes.collect()), is_node)
}

/// A list of words, or a line of them, which no shell sees.
fn arguments(node: &Node) -> Vec<String> {
    match &node.value {
        Value::Array(nodes) => nodes.iter().filter_map(|node| scalar(&node.value)).collect(),
        value => {
            let line = scalar(value).unwrap_or_default();
            let whole = Line::split(&line).ok().filter(|_| !line.contains('#')).map(|split| split.words);
            whole.unwrap_or_else(|| line.split_whitespace().map(str::to_owned).collect())
        }
    }
}

/// The file's name without folders and ending.
fn stem(path: &str) -> &str {
    let name = path.split_whitespace().next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// The tree with plain words typed as JSON has them, and without `null`.
fn typed(node: &Node) -> Node {
    let value = match &node.value {
        Value::Plain(text) if text == "true" || text == "false" => Value::Bool(text == "true"),
        Value::Plain(text) if text.parse::<i64>().is_ok() => Value::Integer(text.clone()),
        Value::Plain(text) if text.parse::<f64>().is_ok_and(f64::is_finite) => Value::Float(text.clone()),
        Value::Plain(text) => Value::String(text.clone()),
        Value::Array(nodes) => Value::Array(nodes.iter().map(typed).collect()),
        Value::Table(entries) => {
            let present = entries.iter().filter(|entry| !matches!(entry.node.value, Value::Null));
            Value::Table(present.map(|entry| Entry { node: typed(&entry.node), ..entry.clone() }).collect())
        }
        other => other.clone(),
    };
    Node { span: node.span.clone(), value }
}

/// The text with its comments (`// ...`, `/* ... */`) and tabs as blanks, byte for byte.
fn without_comments(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let (mut at, mut quote) = (0, None);
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(open), byte) if byte == open || byte == b'\n' => quote = None,
            (Some(_), _) => {}
            (None, byte @ (b'"' | b'\'')) => quote = Some(byte),
            (None, b'\t') => out[at] = b' ',
            (None, b'/') if matches!(bytes.get(at + 1), Some(b'/' | b'*')) && is_between(bytes, at) => {
                let rest = &bytes[at..];
                let ends = if rest[1] == b'/' {
                    rest.iter().position(|byte| *byte == b'\n')
                } else {
                    rest.windows(2).skip(2).position(|two| two == b"*/").map(|length| length + 4)
                };
                let end = at + ends.unwrap_or(rest.len());
                out[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    String::from_utf8(out).expect("whole characters were replaced by blanks")
}

/// Whether a comment may begin here: not within a word, such as the URL of a file in YAML.
fn is_between(bytes: &[u8], at: usize) -> bool {
    at == 0 || matches!(bytes[at - 1], b' ' | b'\t' | b'\n' | b'\r' | b',' | b'{' | b'[' | b'}' | b']' | b'"')
}
