//! What processes and jobs have in common: the command in its surroundings, how it is ended, its limits and its log.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::{DAY, SECOND};
use crate::names;
use crate::node::{Entry, Node, Value, entry};
use crate::process::{Command, Limits, ProcessLog, RunConfig};
use crate::reader::Reader;
use crate::secret::Secret;

pub(super) const RUN_KEYS: [&str; 12] = [
    "command",
    "cwd",
    "env",
    "env_file",
    "user",
    "group",
    "umask",
    "rlimits",
    "stop_signal",
    "stop_timeout",
    "limits",
    "log",
];

/// Signals that ask a program to end, and those that programs give such a meaning.
const SIGNALS: [&str; 9] = ["TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "ABRT", "WINCH", "KILL"];
/// Limits of the kernel on each process.
const RLIMITS: [&str; 7] = ["nofile", "core", "nproc", "as", "stack", "cpu", "fsize"];

pub(super) const WAIT: (Duration, Duration) = (Duration::ZERO, DAY);
const LEAST_MEMORY: u64 = 1 << 20;
const LEAST_LOG: u64 = 4 << 10;
const LOG_AGE: (Duration, Duration) = (SECOND, Duration::from_secs(10 * 366 * 86_400));

/// Everything that the keys of [`RUN_KEYS`] say.
pub(super) struct Run {
    pub(super) run: RunConfig,
    pub(super) stop_signal: Option<String>,
    pub(super) stop_timeout: Option<Duration>,
    pub(super) limits: Limits,
    pub(super) log: ProcessLog,
}

impl Reader<'_> {
    /// `what` is the table's name, for a command that is missing.
    pub(super) fn run(&mut self, entries: &[Entry], what: &str, name: &Entry) -> Run {
        let get = |key: &str| entry(entries, key);
        if get("command").is_none() && matches!(name.node.value, Value::Table(_)) {
            let message = format!("{what} has no `command`: add command = \"./server --port 3000\"");
            self.report.error(&name.key_span, message);
        }
        let command = get("command").and_then(|found| self.command(found));
        let mut run = RunConfig::new(command.unwrap_or(Command::Words(Vec::new())));
        run.cwd = get("cwd").and_then(|found| self.path(found));
        run.env = get("env").map(|found| self.variables(found)).unwrap_or_default();
        run.env_file = get("env_file").and_then(|found| self.path(found));
        run.user = get("user").and_then(|found| self.identity(found));
        run.group = get("group").and_then(|found| self.identity(found));
        run.umask = get("umask").and_then(|found| self.umask(found));
        run.rlimits = get("rlimits").map(|found| self.rlimits(found)).unwrap_or_default();
        let limits = get("limits").map(|found| self.limits(found, &mut run)).unwrap_or_default();
        Run {
            run,
            stop_signal: get("stop_signal").and_then(|found| self.signal(found)),
            stop_timeout: get("stop_timeout").and_then(|found| self.duration(found, "10s", WAIT)),
            limits,
            log: get("log").map(|found| self.process_log(found)).unwrap_or_default(),
        }
    }

    /// A line, or a list of words.
    pub(super) fn command(&mut self, found: &Entry) -> Option<Command> {
        let Value::Array(_) = found.node.value else {
            if let Value::String(text) = &found.node.value
                && let Some(message) = self.variable_of_its_own(text)
            {
                self.refuse(found, message);
                return None;
            }
            let line = self.text_as(found, "a line in quotes, or a list of words")?;
            return self.accept(found, Command::parse(&line));
        };
        let words: Option<Vec<String>> = each(found).iter().map(|word| self.text(word)).collect();
        let words = words?;
        if words.first().is_none_or(|program| program.is_empty()) {
            self.refuse(found, "it names no program: write [\"./server\", \"--port\", \"3000\"]");
            return None;
        }
        if words.iter().any(|word| word.contains('\0')) {
            self.refuse(found, "a word cannot have a NUL character");
            return None;
        }
        Some(Command::Words(words))
    }

    /// The reader's variables are litekeep's own when it starts; those of the process are the shell's to expand.
    fn variable_of_its_own(&self, text: &str) -> Option<String> {
        let message = crate::expand::expand(text, self.input).err()?;
        let advice = "; $NAME, without braces, or $${NAME} leaves a variable to the shell of the process";
        message.starts_with("environment variable").then(|| message + advice)
    }

    fn variables(&mut self, found: &Entry) -> Vec<(String, Secret)> {
        let Some(entries) = self.table(found) else { return Vec::new() };
        let mut variables = Vec::new();
        for variable in entries {
            let name = &variable.key;
            if name.is_empty() || name.contains(['=', '\0']) {
                let message = format!("`{name}` cannot be the name of a variable");
                self.report.error(&variable.key_span, message);
                continue;
            }
            let value = match &variable.node.value {
                Value::Integer(text) | Value::Float(text) => Some(text.clone()),
                Value::Bool(value) => Some(value.to_string()),
                _ => self.text(variable),
            };
            if value.as_ref().is_some_and(|value| value.contains('\0')) {
                self.refuse(variable, "a variable cannot have a NUL character");
            }
            variables.extend(value.map(|value| (name.clone(), Secret::new(value))));
        }
        variables
    }

    fn identity(&mut self, found: &Entry) -> Option<String> {
        match &found.node.value {
            Value::Integer(digits) if !digits.starts_with('-') => Some(digits.clone()),
            _ => self.non_empty(found),
        }
    }

    fn umask(&mut self, found: &Entry) -> Option<u32> {
        let text = self.text_as(found, "a text in quotes such as \"022\"")?;
        let mask = u32::from_str_radix(&text, 8).ok().filter(|mask| *mask <= 0o777 && !text.starts_with('+'));
        self.accept(found, mask.ok_or_else(|| format!("`{text}` is not a mask such as \"022\"")))
    }

    fn rlimits(&mut self, found: &Entry) -> Vec<(String, Option<u64>, Option<u64>)> {
        let Some(entries) = self.table(found) else { return Vec::new() };
        self.check_keys(entries, "`rlimits`", &RLIMITS, |key| {
            RLIMITS
                .iter()
                .find(|name| key.eq_ignore_ascii_case(&format!("rlimit_{name}")))
                .map(|name| format!("write `{name}`"))
        });
        let mut limits = Vec::new();
        for limit in entries.iter().filter(|limit| RLIMITS.contains(&limit.key.as_str())) {
            if let Some((soft, hard)) = self.rlimit(limit) {
                limits.push((limit.key.clone(), soft, hard));
            }
        }
        limits
    }

    fn rlimit(&mut self, found: &Entry) -> Option<(Option<u64>, Option<u64>)> {
        let Value::Table(entries) = &found.node.value else {
            let both = self.amount(found)?;
            return Some((both, both));
        };
        self.check_keys(entries, &format!("`{}`", found.key), &["soft", "hard"], |_| None);
        let (Some(soft), Some(hard)) = (entry(entries, "soft"), entry(entries, "hard")) else {
            self.refuse(found, "it needs both: write { soft = 1024, hard = 65536 }");
            return None;
        };
        let (soft, hard) = (self.amount(soft), self.amount(hard));
        let (soft, hard) = (soft?, hard?);
        if soft.unwrap_or(u64::MAX) > hard.unwrap_or(u64::MAX) {
            self.refuse(found, "its soft limit is above its hard limit");
            return None;
        }
        Some((soft, hard))
    }

    /// A number, a size, or `None` for "unlimited".
    fn amount(&mut self, found: &Entry) -> Option<Option<u64>> {
        if matches!(&found.node.value, Value::String(text) if text == "unlimited") {
            return Some(None);
        }
        self.short_size(found, "65536\" or \"unlimited", 0).map(Some)
    }

    /// A size, of which `512M` is 512 MiB, as the kernel and the managers of processes have it.
    pub(super) fn short_size(&mut self, found: &Entry, example: &str, least: u64) -> Option<u64> {
        let Value::String(text) = &found.node.value else { return self.size(found, example, least) };
        let Some(number) = text.strip_suffix(['K', 'M', 'G', 'T']) else {
            return self.size(found, example, least);
        };
        let whole =
            if number.ends_with(|c: char| c.is_ascii_digit()) { format!("{text}iB") } else { text.clone() };
        let node = Node { span: found.node.span.clone(), value: Value::String(whole) };
        self.size(&Entry { key: found.key.clone(), key_span: found.key_span.clone(), node }, example, least)
    }

    fn signal(&mut self, found: &Entry) -> Option<String> {
        let text = self.text(found)?;
        let name = text.to_ascii_uppercase();
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        let known = SIGNALS.contains(&name).then(|| name.to_owned());
        self.accept(
            found,
            known.ok_or_else(|| format!("`{text}` ends no process: there are {}", names::list(SIGNALS))),
        )
    }

    /// `open_files` is a limit on each process, so it goes to those of the kernel.
    fn limits(&mut self, found: &Entry, run: &mut RunConfig) -> Limits {
        let Some(entries) = self.table(found) else { return Limits::default() };
        self.check_keys(entries, "`limits`", &["memory", "cpu", "open_files"], |key| {
            RLIMITS
                .contains(&key)
                .then(|| format!("`{key}` is a limit on each process: write it in `rlimits`"))
        });
        if let Some(found) = entry(entries, "open_files")
            && let Some((soft, hard)) = self.rlimit(found)
        {
            if run.rlimits.iter().any(|(name, ..)| name == "nofile") {
                self.refuse(found, "`rlimits` has it too, as `nofile`: keep one of the two");
            }
            run.rlimits.push(("nofile".into(), soft, hard));
        }
        Limits {
            memory: entry(entries, "memory").and_then(|found| self.short_size(found, "512M", LEAST_MEMORY)),
            cpu: entry(entries, "cpu").and_then(|found| self.processors(found)),
        }
    }

    fn processors(&mut self, found: &Entry) -> Option<f64> {
        let text = match &found.node.value {
            Value::Integer(text) | Value::Float(text) => text.clone(),
            _ => self.text_as(found, "a number of processors such as 0.5")?,
        };
        let number = text.parse::<f64>().ok().filter(|number| (0.01..=1024.0).contains(number));
        self.accept(
            found,
            number
                .ok_or_else(|| format!("`{text}` is not a number of processors: write 0.5 for half of one")),
        )
    }

    fn process_log(&mut self, found: &Entry) -> ProcessLog {
        let mut log = ProcessLog::default();
        let Some(entries) = self.table(found) else { return log };
        self.check_keys(entries, "`log`", &["path", "max_size", "max_age", "keep", "compress"], |_| None);
        log.path = entry(entries, "path").and_then(|found| self.path(found));
        log.max_age = entry(entries, "max_age").and_then(|found| self.duration(found, "7d", LOG_AGE));
        self.fill(entries, "max_size", &mut log.max_size, |reader, found| {
            reader.short_size(found, "10MiB", LEAST_LOG)
        });
        self.fill(entries, "keep", &mut log.keep, |reader, found| reader.count(found, 0..=10_000));
        self.fill(entries, "compress", &mut log.compress, Self::boolean);
        log
    }

    /// What the key says, if it is there and right.
    pub(super) fn fill<T>(
        &mut self,
        entries: &[Entry],
        key: &str,
        to: &mut T,
        read: impl FnOnce(&mut Self, &Entry) -> Option<T>,
    ) {
        if let Some(value) = entry(entries, key).and_then(|found| read(self, found)) {
            *to = value;
        }
    }

    pub(super) fn count(&mut self, found: &Entry, range: RangeInclusive<u32>) -> Option<u32> {
        let text = match &found.node.value {
            Value::Integer(digits) => digits.clone(),
            _ => self.text_as(found, "a number")?,
        };
        let number = text.parse::<u32>().ok().filter(|number| range.contains(number));
        let (least, greatest) = (range.start(), range.end());
        self.accept(
            found,
            number.ok_or_else(|| format!("`{text}` is not a number from {least} to {greatest}")),
        )
    }
}

/// An entry for each value of a list, or the one for the value itself.
pub(super) fn each(found: &Entry) -> Vec<Entry> {
    let nodes = match &found.node.value {
        Value::Array(nodes) => nodes.as_slice(),
        _ => std::slice::from_ref(&found.node),
    };
    let one = |node: &Node| Entry { key: found.key.clone(), key_span: node.span.clone(), node: node.clone() };
    nodes.iter().map(one).collect()
}

/// The path that litestream takes relative to where it runs.
pub(super) fn beside(run: &RunConfig, base: &Path, path: &Path) -> std::path::PathBuf {
    run.cwd.as_deref().unwrap_or(base).join(path)
}
