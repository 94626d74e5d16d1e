//! Typed access to the values of a file, with messages that say what to write instead.
//!
//! Each method returns `None` when the value is unusable, after an error has gone to the report; the caller goes on
//! with the rest of the file, so that all mistakes are seen at once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use crate::diagnostic::Report;
use crate::expand;
use crate::names;
use crate::node::{Entry, Value};
use crate::secret::Secret;
use crate::settings::Input;
use crate::units;

/// Whose rules hold for expansion, relative paths and unquoted values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Litekeep,
    Litestream,
}

pub(crate) struct Reader<'a> {
    pub(crate) input: &'a Input<'a>,
    pub(crate) report: Report<'a>,
    pub(crate) dialect: Dialect,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(input: &'a Input<'a>, dialect: Dialect) -> Self {
        Self { input, report: Report::new(input.path, input.text), dialect }
    }

    /// An error at the value of `entry`.
    pub(crate) fn refuse(&mut self, entry: &Entry, message: impl AsRef<str>) {
        self.report.error(&entry.node.span, format!("`{}`: {}", entry.key, message.as_ref()));
    }

    /// What was read, or its message at the entry.
    pub(crate) fn accept<T>(&mut self, entry: &Entry, read: Result<T, impl AsRef<str>>) -> Option<T> {
        read.map_err(|message| self.refuse(entry, message)).ok()
    }

    fn wrong_type(&mut self, entry: &Entry, wanted: &str) {
        let found = entry.node.describe();
        self.report.error(&entry.node.span, format!("`{}` must be {wanted}, found {found}", entry.key));
    }

    /// A text, expanded. An empty or missing YAML value is "not set", as in Litestream.
    pub(crate) fn text(&mut self, entry: &Entry) -> Option<String> {
        self.text_as(entry, "a text in quotes")
    }

    pub(crate) fn text_as(&mut self, entry: &Entry, wanted: &str) -> Option<String> {
        match (&entry.node.value, self.dialect) {
            (Value::String(text), Dialect::Litekeep) => self.accept(entry, expand::expand(text, self.input)),
            (Value::String(text) | Value::Plain(text), Dialect::Litestream) => {
                let mut remarks = Vec::new();
                let text = expand::expand_litestream(text, self.input, &mut |remark| remarks.push(remark));
                for remark in remarks {
                    self.report.warn(&entry.node.span, format!("`{}`: {remark}", entry.key));
                }
                (!text.is_empty()).then_some(text)
            }
            (Value::Null, Dialect::Litestream) => None,
            _ => {
                self.wrong_type(entry, wanted);
                None
            }
        }
    }

    pub(crate) fn non_empty(&mut self, entry: &Entry) -> Option<String> {
        let text = self.text(entry)?;
        if text.trim().is_empty() {
            self.refuse(entry, "it is empty");
            return None;
        }
        Some(text)
    }

    pub(crate) fn secret(&mut self, entry: &Entry) -> Option<Secret> {
        self.non_empty(entry).map(Secret::new)
    }

    pub(crate) fn boolean(&mut self, entry: &Entry) -> Option<bool> {
        if let Value::Bool(value) = entry.node.value {
            return Some(value);
        }
        // `${VAR}` can only stand in a text, so a text that says true or false is good enough.
        let text = self.text_as(entry, "true or false")?;
        let value = match text.as_str() {
            "true" => Some(true),
            "false" => Some(false),
            "yes" | "on" if self.dialect == Dialect::Litestream => Some(true),
            "no" | "off" if self.dialect == Dialect::Litestream => Some(false),
            _ => None,
        };
        if value.is_none() {
            self.refuse(entry, "it is neither true nor false");
        }
        value
    }

    /// A duration within `range`; `example` is shown when it is not one.
    pub(crate) fn duration(
        &mut self,
        entry: &Entry,
        example: &str,
        range: (Duration, Duration),
    ) -> Option<Duration> {
        let text = self.text_as(entry, &format!("a duration in quotes such as \"{example}\""))?;
        let duration = units::parse_duration(&text)
            .map_err(|cause| format!("`{text}` is not a duration such as \"{example}\": {cause}"));
        let duration = self.accept(entry, duration)?;
        if duration < range.0 || duration > range.1 {
            let (low, high) = (units::format_duration(range.0), units::format_duration(range.1));
            self.refuse(entry, format!("`{text}` is outside of what works, {low} to {high}"));
            return None;
        }
        Some(duration)
    }

    pub(crate) fn size(&mut self, entry: &Entry, example: &str, least: u64) -> Option<u64> {
        let text = match &entry.node.value {
            Value::Integer(digits) => digits.clone(),
            _ => self.text_as(entry, &format!("a size in quotes such as \"{example}\""))?,
        };
        match units::parse_size(&text) {
            Ok(bytes) if bytes >= least => Some(bytes),
            Ok(_) => {
                self.refuse(entry, format!("`{text}` is too small: at least {}", units::format_size(least)));
                None
            }
            Err(cause) => {
                self.refuse(entry, format!("`{text}` is not a size such as \"{example}\": {cause}"));
                None
            }
        }
    }

    pub(crate) fn one_of<T: Copy>(&mut self, entry: &Entry, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(entry)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let known = || choices.iter().map(|(name, _)| *name);
        let advice = match names::nearest(&text, known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are {}", names::list(known())),
        };
        self.refuse(entry, format!("unknown value `{text}`: {advice}"));
        None
    }

    /// A path; see [`Reader::resolve`].
    pub(crate) fn path(&mut self, entry: &Entry) -> Option<PathBuf> {
        let text = self.non_empty(entry)?;
        self.resolve_or_refuse(entry, &text)
    }

    pub(crate) fn resolve_or_refuse(&mut self, entry: &Entry, path: &str) -> Option<PathBuf> {
        self.accept(entry, self.resolve(Path::new(path)))
    }

    /// `~/x` from `HOME`. A relative path starts from the file's folder in `litekeep.toml`; in `litestream.yml` it
    /// stays relative to the current folder, as it is for Litestream.
    pub(crate) fn resolve(&self, path: &Path) -> Result<PathBuf, String> {
        if path.as_os_str().as_encoded_bytes().contains(&0) {
            return Err("a path cannot have a NUL character".into());
        }
        if let Ok(below_home) = path.strip_prefix("~") {
            let home = (self.input.env)("HOME").filter(|home| !home.is_empty());
            let home = home.ok_or("`~` stands for `HOME`, which is not set: write the whole path")?;
            return Ok(Path::new(&home).join(below_home));
        }
        let base = match self.dialect {
            Dialect::Litekeep => self.input.path.parent().unwrap_or(Path::new("")),
            Dialect::Litestream => Path::new(""),
        };
        // Collecting the components drops `./` in the middle; `..` stays, since its folder may be a link.
        let plain = path.components().filter(|part| *part != Component::CurDir);
        let resolved = base.join(plain.collect::<PathBuf>());
        Ok(if resolved.as_os_str().is_empty() { PathBuf::from(".") } else { resolved })
    }

    /// `host:port` to listen on; `:port` is every address, `localhost` is 127.0.0.1.
    pub(crate) fn listen_address(&mut self, entry: &Entry) -> Option<SocketAddr> {
        let text = self.text(entry)?;
        if let Ok(addr) = text.parse() {
            return Some(addr);
        }
        let host_and_port =
            text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        match host_and_port {
            Some(("localhost", port)) => Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
            Some(("", port)) => Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)),
            _ => {
                self.refuse(entry, format!("`{text}` is not an address such as \"127.0.0.1:9090\""));
                None
            }
        }
    }

    /// The entries of a table.
    pub(crate) fn table<'n>(&mut self, entry: &'n Entry) -> Option<&'n [Entry]> {
        match &entry.node.value {
            Value::Table(entries) => Some(entries),
            Value::Null if self.dialect == Dialect::Litestream => Some(&[]),
            _ => {
                self.wrong_type(entry, "a table");
                None
            }
        }
    }

    /// Errors for the keys of `entries` that `known` does not list. `elsewhere` gives advice about a key that has its
    /// place in another table or another name.
    pub(crate) fn check_keys(
        &mut self,
        entries: &[Entry],
        place: &str,
        known: &[&str],
        elsewhere: impl Fn(&str) -> Option<String>,
    ) {
        for entry in entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            let key = &entry.key;
            let advice = match elsewhere(key) {
                Some(advice) => advice,
                None => match names::nearest(key, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("{place} has {}", names::list(known.iter().copied())),
                },
            };
            self.report.error(&entry.key_span, format!("unknown key `{key}`: {advice}"));
        }
    }
}

/// The whole path with `.` and `..` resolved by name only, for comparing.
pub(crate) fn lexical(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(out.components().next_back(), Some(Component::Normal(_))) => {
                out.pop();
            }
            Component::ParentDir if out.has_root() => {}
            part => out.push(part),
        }
    }
    out
}
