//! A replica of `litestream.yml` as a [`Destination`].
//!
//! A setting that the replica lacks comes from the root of the file; credentials that the file lacks come from
//! `LITESTREAM_ACCESS_KEY_ID` and its kin, but only where the store's own variables are unset, as in Litestream.

use std::ops::Range;
use std::time::Duration;

use crate::node::{Entry, Node, Value, entry};
use crate::reader::Reader;
use crate::settings::{Credentials, Destination};
use crate::store_url::{
    AzureUrl, GcsUrl, S3Url, SftpUrl, StoreUrl, WebDavUrl, host_and_port, normal_endpoint, object_path,
};

use super::keys;

pub(super) struct Replica {
    pub(super) destination: Destination,
    pub(super) span: Range<usize>,
    pub(super) retention: Option<Duration>,
    pub(super) snapshot_interval: Option<Duration>,
    pub(super) verify_every: Option<Duration>,
}

/// The settings of one replica over those of the root.
struct Scope<'n> {
    own: &'n [Entry],
    root: &'n [Entry],
}

impl<'n> Scope<'n> {
    fn get(&self, key: &str) -> Option<&'n Entry> {
        let set = |entries: &'n [Entry]| {
            entry(entries, key).filter(|found| !matches!(found.node.value, Value::Null))
        };
        set(self.own).or_else(|| set(self.root))
    }
}

impl Reader<'_> {
    /// `replica`, or each of `replicas`.
    pub(super) fn replicas(&mut self, entries: &[Entry], database: &Node, root: &[Entry]) -> Vec<Replica> {
        let nodes: Vec<&Node> = match (entry(entries, "replica"), entry(entries, "replicas")) {
            (Some(_), Some(many)) => {
                self.report.error(&many.key_span, "a database has `replica` or `replicas`, not both");
                return Vec::new();
            }
            (Some(one), None) => vec![&one.node],
            (None, Some(many)) => match &many.node.value {
                Value::Array(nodes) if !nodes.is_empty() => nodes.iter().collect(),
                _ => {
                    self.refuse(many, "it is a list: write `- url: s3://bucket/path`");
                    return Vec::new();
                }
            },
            (None, None) => {
                self.report
                    .error(&database.span, "this database has no `replica`: add `replica:` with its `url:`");
                return Vec::new();
            }
        };
        nodes.into_iter().filter_map(|node| self.replica(node, root)).collect()
    }

    fn replica(&mut self, node: &Node, root: &[Entry]) -> Option<Replica> {
        let Value::Table(entries) = &node.value else {
            self.report.error(&node.span, "a replica is a table: write `url: s3://bucket/path`");
            return None;
        };
        self.check_litestream_keys(entries, "a replica", &[keys::REPLICA, keys::REPLICA_SETTINGS]);
        let scope = Scope { own: entries, root };
        let upload_interval = scope.get("sync-interval").and_then(|found| self.sync_interval(found));
        let retention = self.positive(entries, "retention");
        let snapshot_interval = self.positive(entries, "snapshot-interval");
        let verify_every = match scope.get("validation-interval") {
            Some(found) => self.duration(found, "24h", super::ANY).filter(|interval| !interval.is_zero()),
            None => None,
        };
        let url = self.replica_url(&scope, node)?;
        let mut destination = Destination::new(url);
        destination.credentials = self.replica_credentials(&scope, &destination.url);
        destination.upload_interval = upload_interval;
        if destination.url.skip_verify() {
            let at = scope
                .get("skip-verify")
                .or(entry(entries, "url"))
                .map_or(&node.span, |found| &found.key_span);
            self.report.warn(at, "`skip-verify` accepts any server as the store, also an attacker's");
        }
        let named =
            ["url", "path", "bucket", "webdav-url", "type"].iter().find_map(|key| entry(entries, key));
        let span = named.map_or(node.span.clone(), |found| found.node.span.clone());
        Some(Replica { destination, span, retention, snapshot_interval, verify_every })
    }

    /// Zero means the default in Litestream.
    fn sync_interval(&mut self, found: &Entry) -> Option<Duration> {
        let (least, most) = crate::litekeep_toml::UPLOAD;
        let interval = self.duration(found, "1s", (Duration::ZERO, most))?;
        (!interval.is_zero()).then(|| interval.max(least))
    }

    fn replica_url(&mut self, scope: &Scope<'_>, node: &Node) -> Option<StoreUrl> {
        if let Some(found) = entry(scope.own, "url")
            && let Some(text) = self.text(found)
        {
            return self.url_form(scope, found, &text);
        }
        let kind = match entry(scope.own, "type") {
            Some(found) => Some((self.text(found)?, found)),
            None => None,
        };
        match kind.as_ref().map(|(kind, _)| kind.as_str()) {
            None | Some("file") => self.file_form(scope, node),
            Some("s3") => {
                let bucket = self.required(scope, "bucket", node)?;
                let mut url = S3Url { bucket, path: self.object_path_of(scope)?, ..S3Url::default() };
                self.s3_settings(scope, &mut url);
                Some(StoreUrl::S3(url))
            }
            Some("gs") => {
                let bucket = self.required(scope, "bucket", node)?;
                let path = self.object_path_of(scope)?;
                Some(StoreUrl::Gcs(GcsUrl { bucket, path, endpoint: None }))
            }
            Some("abs") => {
                let container = self.required(scope, "bucket", node)?;
                let mut url =
                    AzureUrl { container, path: self.object_path_of(scope)?, ..AzureUrl::default() };
                self.azure_settings(scope, &mut url);
                Some(StoreUrl::Azure(url))
            }
            Some("sftp") => self.sftp_form(scope, node),
            Some("webdav") => self.webdav_form(scope, node),
            Some(other) => {
                let message = match other {
                    "oss" => "OSS speaks S3: write `type: s3` with `endpoint: https://oss-REGION.aliyuncs.com` and `force-path-style: false`".into(),
                    "nats" => "litekeep does not write to NATS: choose s3, gs, abs, sftp, webdav or file".into(),
                    _ => format!("unknown type `{other}`: there are s3, gs, abs, sftp, webdav and file"),
                };
                if let Some((_, found)) = kind {
                    self.refuse(found, message);
                }
                None
            }
        }
    }

    fn url_form(&mut self, scope: &Scope<'_>, found: &Entry, text: &str) -> Option<StoreUrl> {
        for key in ["path", "bucket"] {
            if let Some(extra) = entry(scope.own, key) {
                self.report.error(
                    &extra.key_span,
                    format!("`{key}` is part of the `url` already: keep one of the two"),
                );
                return None;
            }
        }
        let (mut url, _) = self.accept(found, StoreUrl::parse_with_consent(text))?;
        match &mut url {
            StoreUrl::S3(url) => self.s3_settings(scope, url),
            StoreUrl::Azure(url) => self.azure_settings(scope, url),
            StoreUrl::Sftp(url) => {
                url.user = url.user.take().or_else(|| scope.get("user").and_then(|found| self.text(found)));
                let password = || scope.get("password").and_then(|found| self.secret(found));
                url.password = url.password.take().or_else(password);
            }
            StoreUrl::WebDav(url) => self.webdav_login(scope, url),
            StoreUrl::File { .. } | StoreUrl::Gcs(_) => {}
        }
        Some(url)
    }

    fn required(&mut self, scope: &Scope<'_>, key: &str, node: &Node) -> Option<String> {
        match scope.get(key) {
            Some(found) => {
                let text = self.text(found);
                if text.is_none() {
                    self.refuse(found, "it is empty");
                }
                text
            }
            None => {
                self.report.error(&node.span, format!("this replica has no `{key}`"));
                None
            }
        }
    }

    /// The replica's own `path`, as a path in a store.
    fn object_path_of(&mut self, scope: &Scope<'_>) -> Option<String> {
        let Some(found) = entry(scope.own, "path") else { return Some(String::new()) };
        let text = self.text(found).unwrap_or_default();
        self.accept(found, object_path(&text))
    }

    fn file_form(&mut self, scope: &Scope<'_>, node: &Node) -> Option<StoreUrl> {
        let Some(found) = entry(scope.own, "path") else {
            let message = "this replica has neither `url` nor `path`: add `url: s3://bucket/path`, or `path:` for a folder";
            self.report.error(&node.span, message);
            return None;
        };
        match self.path(found) {
            Some(path) => Some(StoreUrl::File { path }),
            None => {
                self.refuse(found, "it names no folder");
                None
            }
        }
    }

    fn s3_settings(&mut self, scope: &Scope<'_>, url: &mut S3Url) {
        if let Some(endpoint) = scope.get("endpoint").and_then(|found| self.litestream_endpoint(found)) {
            url.endpoint = Some(endpoint);
        }
        if let Some(region) = scope.get("region").and_then(|found| self.text(found)) {
            url.region = Some(region);
        }
        let mut flag = |key: &str| scope.get(key).and_then(|found| self.boolean(found));
        url.force_path_style = flag("force-path-style").or(url.force_path_style);
        url.sign_payload = flag("sign-payload").or(url.sign_payload);
        url.skip_verify = flag("skip-verify").unwrap_or(url.skip_verify);
    }

    fn litestream_endpoint(&mut self, found: &Entry) -> Option<String> {
        let text = self.text(found)?;
        self.accept(found, normal_endpoint(&text))
    }

    fn azure_settings(&mut self, scope: &Scope<'_>, url: &mut AzureUrl) {
        if let Some(account) = scope.get("account-name").and_then(|found| self.text(found)) {
            url.account = Some(account);
        }
        if let Some(endpoint) = scope.get("endpoint").and_then(|found| self.litestream_endpoint(found)) {
            url.endpoint = Some(endpoint);
        }
    }

    fn sftp_form(&mut self, scope: &Scope<'_>, node: &Node) -> Option<StoreUrl> {
        let text = self.required(scope, "host", node)?;
        let (host, port) = match host_and_port(&text) {
            Ok(parts) => parts,
            Err(message) => {
                if let Some(found) = scope.get("host") {
                    self.refuse(found, message);
                }
                return None;
            }
        };
        Some(StoreUrl::Sftp(SftpUrl {
            host,
            port: port.unwrap_or(22),
            user: scope.get("user").and_then(|found| self.text(found)),
            password: scope.get("password").and_then(|found| self.secret(found)),
            path: self.object_path_of(scope)?,
        }))
    }

    /// `webdav-url` gives the server and perhaps a folder, `path` a folder below that.
    fn webdav_form(&mut self, scope: &Scope<'_>, node: &Node) -> Option<StoreUrl> {
        let text = self.required(scope, "webdav-url", node)?;
        let found = scope.get("webdav-url")?;
        let (tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => {
                self.refuse(found, "it begins with https:// or http://");
                return None;
            }
        };
        let scheme = if tls { "webdavs" } else { "webdav" };
        let parsed = StoreUrl::parse_with_consent(&format!("{scheme}://{rest}"));
        let (StoreUrl::WebDav(mut url), _) = self.accept(found, parsed)? else { return None };
        let below = self.object_path_of(scope)?;
        let parts = [url.path.as_str(), below.as_str()];
        url.path = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        self.webdav_login(scope, &mut url);
        Some(StoreUrl::WebDav(url))
    }

    fn webdav_login(&mut self, scope: &Scope<'_>, url: &mut WebDavUrl) {
        if url.user.is_none() {
            url.user = scope.get("webdav-username").and_then(|found| self.text(found));
        }
        if url.password.is_none() {
            url.password = scope.get("webdav-password").and_then(|found| self.secret(found));
        }
    }

    fn replica_credentials(&mut self, scope: &Scope<'_>, url: &StoreUrl) -> Credentials {
        let in_file = match url {
            StoreUrl::S3(_) => {
                self.s3_credentials([scope.get("access-key-id"), scope.get("secret-access-key"), None])
            }
            StoreUrl::Azure(_) => self.azure_credentials(scope.get("account-key"), scope.get("sas-token")),
            StoreUrl::Sftp(_) => self.ssh_credentials(scope.get("key-path"), scope.get("host-key")),
            StoreUrl::File { .. } | StoreUrl::Gcs(_) | StoreUrl::WebDav(_) => Credentials::Ambient,
        };
        match in_file {
            Credentials::Ambient => Credentials::from_litestream_variables(url, self.input.env),
            given => given,
        }
    }
}
