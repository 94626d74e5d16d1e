//! `health` and `liveness`: how a process is asked, and how often.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::run::WAIT;
use super::{DAY, SECOND};
use crate::names;
use crate::node::{Entry, entry};
use crate::process::{Check, Probe};
use crate::reader::Reader;

const TIME_KEYS: [&str; 5] = ["start_period", "interval", "timeout", "successes", "failures"];
/// A kind of probe, the key that tells it, and the others that it has.
type Kind = (&'static str, &'static str, &'static [&'static str]);

const KINDS: [Kind; 4] = [
    ("http", "url", &["names_instance"]),
    ("tcp", "address", &[]),
    ("exec", "command", &[]),
    ("sqlite", "path", &["max_wal", "max_lag"]),
];
/// The kind that asks nothing, so that it has no keys but the time it may take.
const NOTIFY: &str = "notify";
const LEAST: Duration = Duration::from_millis(10);

impl Reader<'_> {
    /// `has_proxy`: whether `{port}` stands for something.
    pub(super) fn health(&mut self, found: &Entry, has_proxy: bool) -> Option<Check<Probe>> {
        let entries = self.table(found)?;
        let of_kinds =
            KINDS.iter().flat_map(|(_, key, others)| [*key].into_iter().chain(others.iter().copied()));
        let known: Vec<&str> = ["type"].into_iter().chain(of_kinds).chain(TIME_KEYS).collect();
        self.check_keys(entries, &format!("`{}`", found.key), &known, |key| match key {
            "retries" => Some("here it is `failures`".into()),
            "cmd" | "test" => Some("here it is `command`".into()),
            _ => None,
        });
        let kind = match entry(entries, "type") {
            Some(named) => {
                let kinds = KINDS.into_iter().map(|kind| (kind.0, Some(kind))).chain([(NOTIFY, None)]);
                self.one_of(named, &kinds.collect::<Vec<_>>())?
            }
            None => Some(self.told_kind(found, entries)?),
        };
        let Some((kind, key, others)) = kind else { return self.notified(found, entries) };
        for (other, its_key, its_others) in KINDS.iter().filter(|(other, ..)| *other != kind) {
            for stray in entries.iter().filter(|e| e.key == *its_key || its_others.contains(&e.key.as_str()))
            {
                if stray.key != key && !others.contains(&stray.key.as_str()) {
                    let message =
                        format!("`{}` goes with type = \"{other}\", but this is `{kind}`", stray.key);
                    self.report.error(&stray.key_span, message);
                }
            }
        }
        let Some(target) = entry(entries, key) else {
            self.refuse(found, format!("a check of type `{kind}` needs its `{key}`"));
            return None;
        };
        let mut health = Check::new(self.probe(kind, target, entries, has_proxy)?);
        self.fill(entries, "start_period", &mut health.start_period, |r, f| r.duration(f, "30s", WAIT));
        self.fill(entries, "interval", &mut health.interval, |r, f| r.duration(f, "10s", (LEAST, DAY)));
        self.fill(entries, "timeout", &mut health.timeout, |r, f| {
            r.duration(f, "5s", (LEAST, 3600 * SECOND))
        });
        self.fill(entries, "successes", &mut health.successes, |r, f| r.count(f, 1..=1000));
        self.fill(entries, "failures", &mut health.failures, |r, f| r.count(f, 1..=1000));
        Some(health)
    }

    /// The process says itself when it is ready.
    fn notified(&mut self, found: &Entry, entries: &[Entry]) -> Option<Check<Probe>> {
        if found.key == "liveness" {
            self.refuse(found, "who says once that it is ready cannot be asked later: write another `type`");
        }
        for stray in entries.iter().filter(|entry| !["type", "start_period"].contains(&entry.key.as_str())) {
            let message = format!(
                "`{}` means nothing for type = \"{NOTIFY}\", which asks nothing: remove it",
                stray.key
            );
            self.report.error(&stray.key_span, message);
        }
        let mut health = Check::new(Probe::Notify);
        self.fill(entries, "start_period", &mut health.start_period, |r, f| r.duration(f, "30s", WAIT));
        Some(health)
    }

    /// The kind whose key is there.
    fn told_kind(&mut self, found: &Entry, entries: &[Entry]) -> Option<Kind> {
        let told = KINDS.into_iter().find(|(_, key, _)| entry(entries, key).is_some());
        if told.is_none() {
            let keys = names::list(KINDS.iter().map(|(_, key, _)| *key));
            self.refuse(found, format!("it says nothing to ask: give it one of {keys}"));
        }
        told
    }

    fn probe(&mut self, kind: &str, target: &Entry, entries: &[Entry], has_proxy: bool) -> Option<Probe> {
        match kind {
            "http" => {
                let text = self.non_empty(target)?;
                let url = self.accept(target, checked_url(&text, has_proxy).map(|()| text))?;
                let mut names_instance = false;
                self.fill(entries, "names_instance", &mut names_instance, Self::boolean);
                Some(Probe::Http { url, names_instance })
            }
            "tcp" => {
                let text = self.non_empty(target)?;
                self.accept(target, checked_address(&text, has_proxy).map(|()| text)).map(Probe::Tcp)
            }
            "exec" => self.command(target).map(Probe::Exec),
            _ => Some(Probe::Sqlite {
                path: self.path(target)?,
                max_wal: entry(entries, "max_wal").and_then(|found| self.short_size(found, "64MiB", 1)),
                max_lag: entry(entries, "max_lag")
                    .and_then(|found| self.duration(found, "10s", (LEAST, DAY))),
            }),
        }
    }
}

impl Reader<'_> {
    /// Refuses a check of a process at its own proxy, which answers only when a run is ready.
    pub(super) fn check_own_proxy(&mut self, found: &Entry, check: &Check<Probe>, proxy: SocketAddr) {
        let (key, asked) = match &check.probe {
            Probe::Http { url, .. } => ("url", authority(url)),
            Probe::Tcp(address) => ("address", host_and_port(address)),
            _ => return,
        };
        let is_own = |(host, port): (&str, u16)| {
            let ip = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
            let is_here = host == "localhost" || ip.is_some_and(|ip| ip.is_loopback() || ip.is_unspecified());
            port == proxy.port() && (ip == Some(proxy.ip()) || is_here)
        };
        if !asked.is_some_and(is_own) {
            return;
        }
        let span = self.table(found).and_then(|entries| entry(entries, key)).map(|at| at.node.span.clone());
        let example = match key {
            "url" => "http://127.0.0.1:{port}/health",
            _ => "127.0.0.1:{port}",
        };
        let message = format!(
            "this is the address of the process's own `proxy`, which passes nothing on before a run is ready: write `{{port}}`, the \
             port of the run itself, as in \"{example}\""
        );
        self.report.error(&span.unwrap_or_else(|| found.key_span.clone()), message);
    }
}

/// The text with a number for `{port}`.
fn with_port(text: &str, has_proxy: bool) -> Result<String, String> {
    if text.contains("{port}") && !has_proxy {
        return Err(
            "`{port}` is the port behind `proxy`, which this process does not have: write the port itself"
                .into(),
        );
    }
    Ok(text.replace("{port}", "1"))
}

/// `HOST:PORT`.
fn checked_address(text: &str, has_proxy: bool) -> Result<(), String> {
    let plain = with_port(text, has_proxy)?;
    let is_address = host_and_port(&plain).is_some_and(|(host, _)| !host.contains([' ', '/']));
    is_address.then_some(()).ok_or_else(|| format!("`{text}` is not an address such as \"127.0.0.1:3000\""))
}

fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    Some((host, port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
}

/// Host and port of a URL.
fn authority(url: &str) -> Option<(&str, u16)> {
    let authority = url.strip_prefix("http://")?.split('/').next().unwrap_or_default();
    match authority.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => host_and_port(authority),
        _ => Some((authority, 80)).filter(|(host, _)| !host.is_empty()),
    }
}

/// `http://HOST[:PORT][/PATH]`.
fn checked_url(url: &str, has_proxy: bool) -> Result<(), String> {
    if url.starts_with("https://") {
        return Err("a check speaks plain HTTP: ask the process itself with http://, or use command = \"curl -fsS ...\"".into());
    }
    let plain = with_port(url, has_proxy)?;
    let has_space = plain.contains(|c: char| c.is_whitespace() || c.is_control());
    let is_url = authority(&plain).is_some_and(|(host, _)| !host.contains('@') && !has_space);
    is_url
        .then_some(())
        .ok_or_else(|| format!("`{url}` is not a URL such as \"http://127.0.0.1:3000/health\""))
}
