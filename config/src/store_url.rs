//! Where a backup is: `file:///var/backups/app`, `./backup`, `s3://bucket/path?endpoint=...`, `gs://`, `abs://`,
//! `sftp://`, `webdav://`.
//!
//! Invariants: paths inside a store have no empty, `.` or `..` segment and neither begin nor end with `/`; `Display`
//! gives a URL that parses back to the same place, without passwords.
//!
//! The forms of S3-compatible host names and the query parameters are those of Litestream's configuration reference,
//! so that its URLs work as they stand.

mod display;
mod parse;
mod providers;

pub(crate) use display::{path, query, user};
pub(crate) use parse::{
    Parts, decode, host_and_port, is_scheme, normal_endpoint, object_path, require_host, split, take,
};

use std::path::{Component, Path, PathBuf};

use serde::{Serialize, Serializer};

use crate::diagnostic::Error;
use crate::secret::Secret;

/// Where a backup is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// A folder. A path on the command line is relative to the current folder, in a file to the file's folder.
    File {
        /// The folder.
        path: PathBuf,
    },
    /// S3 or a compatible store.
    S3(S3Url),
    /// Google Cloud Storage.
    Gcs(GcsUrl),
    /// Azure Blob Storage.
    Azure(AzureUrl),
    /// A folder on a server, over SSH.
    Sftp(SftpUrl),
    /// A WebDAV server.
    WebDav(WebDavUrl),
}

/// A place in S3 or a compatible store.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct S3Url {
    /// The bucket's name.
    pub bucket: String,
    /// The path in the bucket; empty: its root.
    pub path: String,
    /// The service's URL; `None`: AWS.
    pub endpoint: Option<String>,
    /// The region; `None`: from the environment.
    pub region: Option<String>,
    /// As configured; [`S3Url::path_style`] says what holds.
    pub force_path_style: Option<bool>,
    /// Whether request bodies are signed; `None`: only without TLS.
    pub sign_payload: Option<bool>,
    /// Whether the server's certificate is accepted unseen.
    pub skip_verify: bool,
}

impl S3Url {
    /// Whether the bucket stands in the path (`https://host/bucket/key`) and not in the host name. As in Litestream a
    /// custom endpoint implies it unless configured otherwise.
    pub fn path_style(&self) -> bool {
        self.force_path_style.unwrap_or(self.endpoint.is_some())
    }
}

/// A place in Google Cloud Storage.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct GcsUrl {
    /// The bucket's name.
    pub bucket: String,
    /// The path in the bucket; empty: its root.
    pub path: String,
    /// The service's URL; `None`: Google's.
    pub endpoint: Option<String>,
}

/// A place in Azure Blob Storage.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AzureUrl {
    /// The container's name.
    pub container: String,
    /// The path in the container; empty: its root.
    pub path: String,
    /// The storage account; `None`: from the environment.
    pub account: Option<String>,
    /// The service's URL; `None`: `https://ACCOUNT.blob.core.windows.net`.
    pub endpoint: Option<String>,
}

/// A folder on a server, over SSH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SftpUrl {
    /// The server's name or address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The user; `None`: ssh's default.
    pub user: Option<String>,
    /// The password; `None`: keys.
    pub password: Option<Secret>,
    /// The path from the server's root, without its first `/`.
    pub path: String,
}

/// A folder on a WebDAV server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebDavUrl {
    /// Whether it is spoken to over TLS.
    pub tls: bool,
    /// Host name, with `:port` where it is not the scheme's own.
    pub host: String,
    /// The path on the server, without its first `/`.
    pub path: String,
    /// The user.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// Whether the server's certificate is accepted unseen.
    pub skip_verify: bool,
}

impl StoreUrl {
    /// Parses a URL or a plain path.
    ///
    /// `skip-verify=true` in the query is refused unless `allow-insecure=true` stands there too.
    ///
    /// # Errors
    /// What is wrong and what to write instead. A message never shows the URL's password.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (url, consent) = parse::parse(text).map_err(Error::message)?;
        if url.skip_verify() && !consent {
            return Err(Error::message(INSECURE_IN_QUERY));
        }
        Ok(url)
    }

    /// Like [`StoreUrl::parse`], for callers that ask for consent to `skip-verify` elsewhere: the second value says
    /// whether the query gave it.
    pub(crate) fn parse_with_consent(text: &str) -> Result<(Self, bool), String> {
        parse::parse(text)
    }

    /// The same place with `relative` appended: the place of one database of a folder.
    ///
    /// # Errors
    /// When `relative` is not a plain relative path, or not UTF-8 while the store's names are.
    pub fn join(&self, relative: &Path) -> Result<Self, Error> {
        let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || relative.as_os_str().is_empty() {
            return Err(Error::message(format!(
                "`{}` is not a plain relative path below the folder",
                relative.display()
            )));
        }
        let mut joined = self.clone();
        let path = match &mut joined {
            StoreUrl::File { path } => {
                path.push(relative);
                return Ok(joined);
            }
            StoreUrl::S3(url) => &mut url.path,
            StoreUrl::Gcs(url) => &mut url.path,
            StoreUrl::Azure(url) => &mut url.path,
            StoreUrl::Sftp(url) => &mut url.path,
            StoreUrl::WebDav(url) => &mut url.path,
        };
        for part in relative.components() {
            let Some(part) = part.as_os_str().to_str() else {
                return Err(Error::message(format!(
                    "`{}` is not UTF-8, which names in this store must be: rename the file or back up to a folder",
                    relative.display()
                )));
            };
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(part);
        }
        Ok(joined)
    }

    /// Whether the server's certificate is accepted unseen.
    pub fn skip_verify(&self) -> bool {
        match self {
            StoreUrl::S3(url) => url.skip_verify,
            StoreUrl::WebDav(url) => url.skip_verify,
            _ => false,
        }
    }

    /// What identifies the place: two URLs with the same identity write into the same objects, however they are
    /// spelled and whoever they log in as.
    pub(crate) fn identity(&self) -> String {
        match self {
            StoreUrl::File { path } => format!("file:{}", path.display()),
            StoreUrl::S3(url) => {
                let endpoint = url.endpoint.as_deref().unwrap_or("").trim_end_matches('/');
                format!("s3:{}:{}/{}", endpoint.to_ascii_lowercase(), url.bucket, url.path)
            }
            StoreUrl::Gcs(url) => format!("gs:{}/{}", url.bucket, url.path),
            StoreUrl::Azure(url) => {
                let account = url.account.as_deref().or(url.endpoint.as_deref()).unwrap_or("");
                format!("abs:{account}:{}/{}", url.container, url.path)
            }
            StoreUrl::Sftp(url) => format!("sftp:{}:{}/{}", url.host, url.port, url.path),
            StoreUrl::WebDav(url) => format!("webdav:{}/{}", url.host, url.path),
        }
    }
}

/// What stands in the way of `skip-verify` in a URL's query.
const INSECURE_IN_QUERY: &str = "`skip-verify` accepts any server as the store, also an attacker's: add its \
     certificate authority to the system, or append `&allow-insecure=true` if this is a test";

impl Serialize for StoreUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests;
