//! `[dashboard]`: the status page.

use crate::node::{Entry, entry};
use crate::reader::Reader;
use crate::secret::Secret;
use crate::settings::{Dashboard, Metrics};

/// A token that is shorter could be guessed.
const SHORTEST_TOKEN: usize = 16;

impl Reader<'_> {
    pub(crate) fn dashboard(&mut self, found: &Entry, metrics: Option<&Metrics>) -> Option<Dashboard> {
        let entries = self.table(found)?;
        self.check_keys(entries, "[dashboard]", &["addr", "token", "actions"], |_| None);
        let token = entry(entries, "token").and_then(|found| self.token(found));
        let allows = entry(entries, "actions");
        let actions = allows.and_then(|found| self.boolean(found)).unwrap_or(false);
        if let Some(found) = allows.filter(|_| actions && entry(entries, "token").is_none()) {
            self.refuse(found, "whoever may act must show a token: add `token = \"${DASHBOARD_TOKEN}\"`");
        }
        let Some(address) = entry(entries, "addr") else {
            self.refuse(found, "write where the page is served: addr = \"127.0.0.1:9091\"");
            return None;
        };
        let addr = self.listen_address(address)?;
        if metrics.is_some_and(|metrics| metrics.addr.port() == addr.port() && addr.port() != 0) {
            self.refuse(address, "[metrics] has this port already: give each its own");
        }
        if !addr.ip().is_loopback() && entry(entries, "token").is_none() {
            let message = format!(
                "others than this machine can reach {addr}: add `token = \"${{DASHBOARD_TOKEN}}\"`, or listen on 127.0.0.1"
            );
            self.refuse(address, message);
        }
        Some(Dashboard { addr, token, actions })
    }

    /// What somebody must show who comes over a network.
    pub(crate) fn token(&mut self, found: &Entry) -> Option<Secret> {
        let token = self.secret(found)?;
        if token.expose().len() < SHORTEST_TOKEN {
            let message =
                format!("a token has at least {SHORTEST_TOKEN} characters, so that nobody guesses it");
            self.refuse(found, message);
            return None;
        }
        Some(token)
    }
}
