//! `backup`: a URL, a table, or a list of either.

use std::ops::Range;

use crate::node::{Entry, Value, entry};
use crate::reader::{Dialect, Reader};
use crate::secret::Secret;
use crate::settings::{ConditionalWrites, Credentials, Destination};
use crate::store_url::{StoreUrl, normal_endpoint};

use super::UPLOAD;

/// The keys of the table form.
pub(super) const KEYS: [&str; 20] = [
    "url",
    "endpoint",
    "region",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "force_path_style",
    "sign_payload",
    "ca_file",
    "skip_verify",
    "allow_insecure",
    "conditional_writes",
    "account_name",
    "account_key",
    "sas_token",
    "credentials_file",
    "user",
    "password",
    "key_file",
    "host_key",
];
const UPLOAD_INTERVAL: &str = "upload_interval";

/// What a kind of store is called in messages, and which keys it has besides the common ones.
fn kind(url: &StoreUrl) -> (&'static str, &'static [&'static str]) {
    match url {
        StoreUrl::File { .. } => ("a folder", &[]),
        StoreUrl::S3(_) => (
            "S3",
            &[
                "endpoint",
                "region",
                "access_key_id",
                "secret_access_key",
                "session_token",
                "force_path_style",
                "sign_payload",
                "ca_file",
                "skip_verify",
                "allow_insecure",
                "conditional_writes",
            ],
        ),
        StoreUrl::Gcs(_) => {
            ("Google Cloud Storage", &["endpoint", "credentials_file", "ca_file", "conditional_writes"])
        }
        StoreUrl::Azure(_) => (
            "Azure",
            &["endpoint", "account_name", "account_key", "sas_token", "ca_file", "conditional_writes"],
        ),
        StoreUrl::Sftp(_) => ("SFTP", &["user", "password", "key_file", "host_key", "conditional_writes"]),
        StoreUrl::WebDav(_) => (
            "WebDAV",
            &["user", "password", "ca_file", "skip_verify", "allow_insecure", "conditional_writes"],
        ),
    }
}

impl Reader<'_> {
    pub(super) fn destinations(
        &mut self,
        found: &Entry,
        conditional_writes: Option<ConditionalWrites>,
    ) -> Vec<(Destination, Range<usize>)> {
        let nodes = match &found.node.value {
            Value::Array(nodes) if nodes.is_empty() => {
                self.refuse(found, "the list is empty: name at least one destination");
                return Vec::new();
            }
            Value::Array(nodes) => nodes.as_slice(),
            _ => std::slice::from_ref(&found.node),
        };
        let mut destinations = Vec::new();
        for node in nodes {
            let span = node.span.clone();
            let one = Entry { key: found.key.clone(), key_span: span.clone(), node: node.clone() };
            let destination = match &node.value {
                Value::String(_) => {
                    self.destination_url(&one, false).map(|url| (Destination::new(url), span))
                }
                Value::Table(entries) => self.destination_table(&one, entries),
                _ => {
                    let message = format!(
                        "`backup` must be a URL in quotes, a table, or a list of them, found {}",
                        node.describe()
                    );
                    self.report.error(&span, message);
                    None
                }
            };
            destinations.extend(destination.map(|(mut destination, span)| {
                if node_lacks(&node.value, "conditional_writes")
                    && let Some(inherited) = conditional_writes
                {
                    destination.conditional_writes = inherited;
                }
                (destination, span)
            }));
        }
        destinations
    }

    pub(super) fn destination_url(&mut self, found: &Entry, insecure_allowed: bool) -> Option<StoreUrl> {
        let text = self.non_empty(found)?;
        let (url, consent) = self.accept(found, StoreUrl::parse_with_consent(&text))?;
        if url.skip_verify() && !consent && !insecure_allowed {
            self.refuse(found, INSECURE);
            return None;
        }
        match url {
            StoreUrl::File { path } => {
                self.accept(found, self.resolve(&path)).map(|path| StoreUrl::File { path })
            }
            url => Some(url),
        }
    }

    fn destination_table(&mut self, found: &Entry, entries: &[Entry]) -> Option<(Destination, Range<usize>)> {
        let known: Vec<&str> = KEYS.iter().copied().chain([UPLOAD_INTERVAL]).collect();
        self.check_keys(entries, "a destination", &known, |key| match key {
            "bucket" | "type" | "host" | "container" => {
                Some("it is part of `url`, such as s3://bucket/path".into())
            }
            "path" | "dir" => Some("write the folder as url = \"file:///var/backups/app\"".into()),
            "keep" | "snapshot_every" | "any_second" | "any_transaction" => {
                Some("it holds for all destinations of a database: write it below [[database]]".into())
            }
            "key_path" | "key-path" => Some("did you mean `key_file`?".into()),
            _ => None,
        });
        let Some(url_entry) = entry(entries, "url") else {
            self.report
                .error(&found.node.span, "this destination has no `url`: add url = \"s3://bucket/path\"");
            return None;
        };
        let insecure_allowed =
            entry(entries, "allow_insecure").and_then(|found| self.boolean(found)).unwrap_or(false);
        let mut url = self.destination_url(url_entry, insecure_allowed)?;
        let (kind, own) = kind(&url);
        for entry in entries.iter().filter(|entry| KEYS[1..].contains(&entry.key.as_str())) {
            if !own.contains(&entry.key.as_str()) {
                self.report
                    .error(&entry.key_span, format!("`{}` means nothing for {kind}: remove it", entry.key));
            }
        }
        self.overlay(&mut url, entries, insecure_allowed);
        let mut destination = Destination::new(url);
        destination.credentials = self.credentials(&destination.url, entries);
        destination.ca_file = entry(entries, "ca_file").and_then(|found| self.path(found));
        if let Some(found) = entry(entries, "conditional_writes") {
            destination.conditional_writes =
                self.conditional_writes(found).unwrap_or(ConditionalWrites::Auto);
        }
        destination.upload_interval =
            entry(entries, UPLOAD_INTERVAL).and_then(|found| self.duration(found, "1s", UPLOAD));
        Some((destination, url_entry.node.span.clone()))
    }

    pub(super) fn conditional_writes(&mut self, found: &Entry) -> Option<ConditionalWrites> {
        self.one_of(found, &[("auto", ConditionalWrites::Auto), ("off", ConditionalWrites::Off)])
    }

    /// The keys of the table that are parts of the URL. A part that the URL itself has too is an error: one of the
    /// two would lose.
    fn overlay(&mut self, url: &mut StoreUrl, entries: &[Entry], insecure_allowed: bool) {
        let get = |key: &str| entry(entries, key);
        let endpoint = get("endpoint").and_then(|found| self.endpoint(found));
        match url {
            StoreUrl::File { .. } => {}
            StoreUrl::S3(s3) => {
                self.set(&mut s3.endpoint, endpoint, get("endpoint"));
                let region = get("region").and_then(|found| self.non_empty(found));
                self.set(&mut s3.region, region, get("region"));
                let path_style = get("force_path_style").and_then(|found| self.boolean(found));
                self.set(&mut s3.force_path_style, path_style, get("force_path_style"));
                let sign = get("sign_payload").and_then(|found| self.boolean(found));
                self.set(&mut s3.sign_payload, sign, get("sign_payload"));
                s3.skip_verify |= self.skip_verify(get("skip_verify"), insecure_allowed);
            }
            StoreUrl::Gcs(gcs) => self.set(&mut gcs.endpoint, endpoint, get("endpoint")),
            StoreUrl::Azure(azure) => {
                self.set(&mut azure.endpoint, endpoint, get("endpoint"));
                let account = get("account_name").and_then(|found| self.non_empty(found));
                self.set(&mut azure.account, account, get("account_name"));
            }
            StoreUrl::Sftp(sftp) => self.login(&mut sftp.user, &mut sftp.password, entries),
            StoreUrl::WebDav(webdav) => {
                self.login(&mut webdav.user, &mut webdav.password, entries);
                webdav.skip_verify |= self.skip_verify(get("skip_verify"), insecure_allowed);
            }
        }
    }

    fn set<T: PartialEq>(&mut self, part: &mut Option<T>, value: Option<T>, found: Option<&Entry>) {
        let (Some(value), Some(found)) = (value, found) else { return };
        if part.as_ref().is_some_and(|present| *present != value) {
            self.refuse(found, "the URL says something else: keep one of the two");
        }
        *part = Some(value);
    }

    fn login(&mut self, user: &mut Option<String>, password: &mut Option<Secret>, entries: &[Entry]) {
        let found = entry(entries, "user");
        let value = found.and_then(|found| self.non_empty(found));
        self.set(user, value, found);
        let found = entry(entries, "password");
        let value = found.and_then(|found| self.secret(found));
        self.set(password, value, found);
    }

    fn skip_verify(&mut self, found: Option<&Entry>, insecure_allowed: bool) -> bool {
        let Some(found) = found else { return false };
        let skip = self.boolean(found).unwrap_or(false);
        if skip && !insecure_allowed {
            self.refuse(found, INSECURE);
        }
        skip
    }

    pub(crate) fn endpoint(&mut self, found: &Entry) -> Option<String> {
        let text = self.non_empty(found)?;
        self.accept(found, normal_endpoint(&text))
    }

    fn credentials(&mut self, url: &StoreUrl, entries: &[Entry]) -> Credentials {
        let get = |key: &str| entry(entries, key);
        match url {
            StoreUrl::S3(_) => {
                self.s3_credentials([get("access_key_id"), get("secret_access_key"), get("session_token")])
            }
            StoreUrl::Azure(_) => self.azure_credentials(get("account_key"), get("sas_token")),
            StoreUrl::Gcs(_) => match get("credentials_file").and_then(|found| self.path(found)) {
                Some(file) => Credentials::GoogleFile(file),
                None => Credentials::Ambient,
            },
            StoreUrl::Sftp(_) => self.ssh_credentials(get("key_file"), get("host_key")),
            StoreUrl::File { .. } | StoreUrl::WebDav(_) => Credentials::Ambient,
        }
    }

    /// Both parts of the key or none; a token only with them. `[id, secret, token]`.
    pub(crate) fn s3_credentials(&mut self, [id, key, token]: [Option<&Entry>; 3]) -> Credentials {
        let access_key_id = id.and_then(|found| self.secret(found));
        let secret_access_key = key.and_then(|found| self.secret(found));
        let session_token = token.and_then(|found| self.secret(found));
        match (access_key_id, secret_access_key) {
            (Some(access_key_id), Some(secret_access_key)) => {
                Credentials::S3 { access_key_id, secret_access_key, session_token }
            }
            (given_id, given_key) => {
                // In litekeep.toml an empty value has had its own error; in litestream.yml it means "not set".
                let other_is_unset =
                    |other: Option<&Entry>| other.is_none() || self.dialect == Dialect::Litestream;
                let lonely = match (given_id.is_some(), given_key.is_some(), session_token.is_some()) {
                    (true, false, _) if other_is_unset(key) => id.zip(Some("the secret access key")),
                    (false, true, _) if other_is_unset(id) => key.zip(Some("the access key id")),
                    (false, false, true) => token.zip(Some("the access key id and the secret access key")),
                    _ => None,
                };
                if let Some((found, missing)) = lonely {
                    self.report.error(&found.key_span, format!("`{}` is given without {missing}", found.key));
                }
                Credentials::Ambient
            }
        }
    }

    pub(crate) fn azure_credentials(&mut self, key: Option<&Entry>, sas: Option<&Entry>) -> Credentials {
        let account_key = key.and_then(|found| self.secret(found));
        let sas_token = sas.and_then(|found| self.secret(found));
        match (account_key, sas_token, sas) {
            (Some(_), Some(_), Some(sas)) => {
                self.refuse(sas, "there is an account key too: keep one of the two");
                Credentials::Ambient
            }
            (Some(key), _, _) => Credentials::AzureKey(key),
            (None, Some(sas), _) => Credentials::AzureSas(sas),
            _ => Credentials::Ambient,
        }
    }

    pub(crate) fn ssh_credentials(&mut self, key: Option<&Entry>, host: Option<&Entry>) -> Credentials {
        let key_file = key.and_then(|found| self.path(found));
        let host_key = host.and_then(|found| self.non_empty(found));
        match (&key_file, &host_key) {
            (None, None) => Credentials::Ambient,
            _ => Credentials::Ssh { key_file, host_key },
        }
    }
}

const INSECURE: &str = "this accepts any server as the store, also an attacker's: name its certificate authority in \
     `ca_file`, or add allow_insecure = true if this is a test";

fn node_lacks(value: &Value, key: &str) -> bool {
    match value {
        Value::Table(entries) => entry(entries, key).is_none(),
        _ => true,
    }
}
