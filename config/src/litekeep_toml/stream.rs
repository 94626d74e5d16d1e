//! `[stream]`: where live copies stream from.

use std::net::SocketAddr;

use crate::node::{Entry, entry};
use crate::reader::Reader;
use crate::settings::{Stream, TlsFiles};

const KEYS: [&str; 6] = ["addr", "token", "tls_cert", "tls_key", "tls_ca", "insecure"];

impl Reader<'_> {
    /// `taken`: the addresses of the other tables.
    pub(crate) fn stream(
        &mut self,
        found: &Entry,
        taken: [(&str, Option<SocketAddr>); 2],
        is_node: bool,
    ) -> Option<Stream> {
        let entries = self.table(found)?;
        self.check_keys(entries, "[stream]", &KEYS, |_| None);
        if let Some(found) = entry(entries, "tls_ca").filter(|_| !is_node) {
            let message = "`tls_ca` is for nodes of a cluster, which stream from each other: add [cluster], or remove it; `litekeep follow` has --stream-ca";
            self.report.error(&found.key_span, message);
        }
        let ca_file = entry(entries, "tls_ca").and_then(|found| self.path(found));
        let tls = match (entry(entries, "tls_cert"), entry(entries, "tls_key")) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert: self.path(cert)?, key: self.path(key)? }),
            (None, None) => None,
            (Some(one), None) | (None, Some(one)) => {
                self.refuse(one, "TLS takes both, `tls_cert` and `tls_key`");
                return None;
            }
        };
        let allows = entry(entries, "insecure");
        let is_insecure = allows.and_then(|found| self.boolean(found)).unwrap_or(false);
        if let Some(found) = allows.filter(|_| is_insecure && tls.is_some()) {
            self.refuse(found, "with `tls_cert` it is not insecure: leave `insecure` out");
        }
        let Some(address) = entry(entries, "addr") else {
            self.refuse(found, "write where copies find it: addr = \"127.0.0.1:7433\"");
            return None;
        };
        let Some(token) = entry(entries, "token") else {
            self.refuse(
                found,
                "whoever has the log has the database: add token = \"${LITEKEEP_STREAM_TOKEN}\"",
            );
            return None;
        };
        let (token, addr) = (self.token(token)?, self.listen_address(address)?);
        for (table, _) in taken.iter().filter(|(_, own)| own.is_some_and(|own| own.port() == addr.port())) {
            if addr.port() != 0 {
                self.refuse(address, format!("{table} has this port already: give each its own"));
            }
        }
        if !addr.ip().is_loopback() && tls.is_none() && !is_insecure {
            let message = format!(
                "others than this machine can reach {addr}, and without TLS whoever listens gets the token and the data: add `tls_cert` and `tls_key`, or `insecure = true` where nobody can listen"
            );
            self.refuse(address, message);
        }
        Some(Stream { addr, token, tls, ca_file, insecure: is_insecure })
    }
}
