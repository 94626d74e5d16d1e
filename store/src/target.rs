//! Where a log stands, and how to reach it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::list::PaginatedListStore;
use object_store::{
    BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig, StaticCredentialProvider,
};

use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::http::ExclusiveCompletion;
use crate::log::Layout;

/// A place for logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A folder of this machine.
    Folder(PathBuf),
    /// Amazon S3 or a compatible store.
    S3(S3),
    /// Google Cloud Storage.
    Gcs(Gcs),
    /// Azure Blob Storage.
    Azure(Azure),
    /// A folder of another machine, over SSH; for builds with the feature `sftp`.
    Sftp(Sftp),
    /// A folder of a WebDAV server; for builds with the feature `webdav`.
    WebDav(WebDav),
}

/// A value that messages and logs must not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(value: impl Into<String>) -> Secret {
        Secret(value.into())
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A bucket of S3 or of a compatible store. Without keys those of the environment (`AWS_*`), of a web identity, of the
/// container or of the instance are used, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3 {
    /// The bucket.
    pub bucket: String,
    /// Prefix of all keys, may be empty.
    pub path: String,
    /// `https://host[:port]`, also `http://`; `None` is Amazon.
    pub endpoint: Option<String>,
    /// `None`: the environment's, else `us-east-1`.
    pub region: Option<String>,
    /// The bucket stands in the path and not in the host name. `None`: with an endpoint yes, else no.
    pub path_style: Option<bool>,
    /// Access key id.
    pub access_key_id: Option<String>,
    /// Secret access key.
    pub secret_access_key: Option<Secret>,
    /// Session token of temporary keys.
    pub session_token: Option<Secret>,
    /// The signature covers the bodies too, which reads every byte once more. `None`: only without TLS, which with the
    /// file's own checksum guards the body otherwise.
    pub sign_payload: Option<bool>,
    /// Certificates (PEM) to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Accept any certificate.
    pub skip_verify: bool,
}

/// A bucket of Google Cloud Storage. Without a file the default credentials of the environment are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gcs {
    /// The bucket.
    pub bucket: String,
    /// Prefix of all keys, may be empty.
    pub path: String,
    /// Service account or application default credentials (JSON).
    pub credentials_file: Option<PathBuf>,
    /// Another address than Google's, for emulators; requests are then not signed unless a file is given.
    pub endpoint: Option<String>,
    /// Certificates (PEM) to trust besides the system's.
    pub ca_file: Option<PathBuf>,
}

/// A container of Azure Blob Storage. Without a key the environment's (`AZURE_*`) or the machine's identity is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Azure {
    /// The storage account.
    pub account: String,
    /// The container.
    pub container: String,
    /// Prefix of all keys, may be empty.
    pub path: String,
    /// The account's key.
    pub account_key: Option<Secret>,
    /// A shared access signature, as a query string.
    pub sas_token: Option<Secret>,
    /// Another address than Azure's.
    pub endpoint: Option<String>,
    /// Certificates (PEM) to trust besides the system's.
    pub ca_file: Option<PathBuf>,
}

/// A folder of another machine, over SSH. Without key file and password the keys of ssh-agent and those in `~/.ssh` are
/// tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sftp {
    /// Name or address.
    pub host: String,
    /// Mostly 22.
    pub port: u16,
    /// From the server's root.
    pub path: String,
    /// `None`: the user of this process.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Private key, without a passphrase.
    pub key_file: Option<PathBuf>,
    /// The server's public key, as in `known_hosts` without the name. `None`: `~/.ssh/known_hosts` decides.
    pub host_key: Option<String>,
}

impl Sftp {
    pub(crate) fn name(&self) -> String {
        format!("sftp://{}:{}", self.host, self.port)
    }
}

/// A folder of a WebDAV server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebDav {
    /// `https://host[:port]`, also `http://`.
    pub endpoint: String,
    /// From the server's root.
    pub path: String,
    /// User, for basic authentication.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Certificates (PEM) to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Accept any certificate.
    pub skip_verify: bool,
}

/// How the timestamp of a file of the log is kept on the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stamp {
    /// The file's modification time.
    Modified,
    /// The file's modification time as far as the server keeps it: rounded up, or not at all. Only the header counts.
    #[cfg_attr(not(any(feature = "sftp", feature = "webdav")), allow(dead_code))]
    Roughly,
    /// Metadata of this name, RFC 3339 with nanoseconds.
    Metadata(&'static str),
}

impl Stamp {
    pub(crate) const LITESTREAM: Stamp = Stamp::Metadata("litestream-timestamp");
    /// Azure's metadata names are C# identifiers, without hyphens.
    const LITESTREAM_AZURE: Stamp = Stamp::Metadata("litestreamtimestamp");
}

/// An opened place.
pub(crate) struct Opened {
    pub(crate) objects: Arc<dyn ObjectStore>,
    /// For stores whose levels have no folder of their own; the same as `objects`.
    pub(crate) pages: Option<Arc<dyn PaginatedListStore>>,
    pub(crate) folder: Option<Folder>,
    pub(crate) layout: Layout,
    pub(crate) stamp: Stamp,
    /// How messages name the place, without its path.
    pub(crate) name: String,
    pub(crate) path: String,
    /// Where the store is, as far as its name does not say it.
    pub(crate) endpoint: Option<String>,
    pub(crate) bulk_delete: bool,
}

impl Target {
    pub(crate) fn open(&self) -> Result<Opened> {
        match self {
            Target::Folder(path) => {
                let folder = Folder::new(path);
                Ok(Opened {
                    objects: Arc::new(folder.clone()),
                    pages: None,
                    folder: Some(folder),
                    layout: Layout::Ltx,
                    stamp: Stamp::Modified,
                    name: path.display().to_string(),
                    path: String::new(),
                    endpoint: None,
                    bulk_delete: false,
                })
            }
            Target::S3(s3) => s3.open(),
            Target::Gcs(gcs) => gcs.open(),
            Target::Azure(azure) => azure.open(),
            #[cfg(feature = "sftp")]
            Target::Sftp(sftp) => Ok(remote(crate::remote::sftp::Server::new(sftp), sftp.name(), &sftp.path)),
            #[cfg(feature = "webdav")]
            Target::WebDav(webdav) => {
                let server = crate::remote::webdav::Server::new(webdav)?;
                Ok(remote(server, webdav.endpoint.clone(), &webdav.path))
            }
            #[cfg(not(feature = "sftp"))]
            Target::Sftp(sftp) => Err(not_built(&sftp.name(), "sftp")),
            #[cfg(not(feature = "webdav"))]
            Target::WebDav(webdav) => Err(not_built(&webdav.endpoint, "webdav")),
        }
    }
}

/// Where Amazon's own tools look for the region, in this order.
const REGION_VARIABLES: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];

impl S3 {
    fn open(&self) -> Result<Opened> {
        let action = || format!("open bucket `{}`", self.bucket);
        let path_style = self.path_style.unwrap_or(self.endpoint.is_some());
        let without_tls = || self.endpoint.as_ref().is_some_and(|e| !e.starts_with("https://"));
        let sign_payload = self.sign_payload.unwrap_or_else(without_tls);
        let options =
            client_options(self.ca_file.as_ref())?.with_allow_invalid_certificates(self.skip_verify);
        // Keys of our own must not meet a session token of the environment's.
        let builder =
            if self.access_key_id.is_some() { AmazonS3Builder::new() } else { AmazonS3Builder::from_env() };
        let mut builder = builder
            .with_bucket_name(&self.bucket)
            .with_virtual_hosted_style_request(!path_style)
            .with_client_options(options)
            .with_retry(retries())
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_http_connector(ExclusiveCompletion::default())
            .with_unsigned_payload(!sign_payload);
        if let Some(endpoint) = &self.endpoint {
            let endpoint = endpoint.trim_end_matches('/');
            // The crate wants the bucket in the host name of a virtual-hosted endpoint to be there already.
            let endpoint =
                if path_style { endpoint.to_owned() } else { with_bucket_host(endpoint, &self.bucket) };
            builder = builder.with_allow_http(endpoint.starts_with("http://")).with_endpoint(endpoint);
        }
        let from_env = || REGION_VARIABLES.iter().find_map(|name| std::env::var(name).ok());
        if let Some(region) = self.region.clone().or_else(from_env) {
            builder = builder.with_region(region);
        }
        if let Some(id) = &self.access_key_id {
            builder = builder.with_access_key_id(id);
        }
        if let Some(secret) = &self.secret_access_key {
            builder = builder.with_secret_access_key(secret.expose());
        }
        if let Some(token) = &self.session_token {
            builder = builder.with_token(token.expose());
        }
        let objects = Arc::new(builder.build().map_err(|e| Error::from_store(action(), e))?);
        Ok(Opened {
            pages: Some(objects.clone()),
            objects,
            folder: None,
            layout: Layout::Flat,
            stamp: Stamp::LITESTREAM,
            name: format!("s3://{}", self.bucket),
            path: self.path.clone(),
            endpoint: self.endpoint.clone(),
            bulk_delete: true,
        })
    }
}

fn with_bucket_host(endpoint: &str, bucket: &str) -> String {
    match endpoint.split_once("://") {
        Some((scheme, host)) if !host.starts_with(&format!("{bucket}.")) => {
            format!("{scheme}://{bucket}.{host}")
        }
        _ => endpoint.to_owned(),
    }
}

impl Gcs {
    fn open(&self) -> Result<Opened> {
        let action = || format!("open Google bucket `{}`", self.bucket);
        let mut options = client_options(self.ca_file.as_ref())?;
        let mut builder =
            GoogleCloudStorageBuilder::from_env().with_bucket_name(&self.bucket).with_retry(retries());
        if let Some(file) = &self.credentials_file {
            builder = builder.with_application_credentials(file.display().to_string());
        }
        if let Some(endpoint) = &self.endpoint {
            options = options.with_allow_http(endpoint.starts_with("http://"));
            builder = builder.with_base_url(endpoint.trim_end_matches('/'));
            if self.credentials_file.is_none() {
                // Skipped signatures alone leave puts waiting for a token of the machine's.
                let nobody = GcpCredential { bearer: String::new() };
                builder = builder
                    .with_skip_signature(true)
                    .with_credentials(Arc::new(StaticCredentialProvider::new(nobody)));
            }
        }
        let objects =
            builder.with_client_options(options).build().map_err(|e| Error::from_store(action(), e))?;
        Ok(Opened {
            objects: Arc::new(objects),
            pages: None,
            folder: None,
            layout: Layout::Ltx,
            stamp: Stamp::LITESTREAM,
            name: format!("gs://{}", self.bucket),
            path: self.path.clone(),
            endpoint: self.endpoint.clone(),
            bulk_delete: false,
        })
    }
}

impl Azure {
    fn open(&self) -> Result<Opened> {
        let action = || format!("open Azure container `{}` of account `{}`", self.container, self.account);
        let own_keys = self.account_key.is_some() || self.sas_token.is_some();
        let builder = if own_keys { MicrosoftAzureBuilder::new() } else { MicrosoftAzureBuilder::from_env() };
        let mut builder = builder
            .with_account(&self.account)
            .with_container_name(&self.container)
            .with_client_options(client_options(self.ca_file.as_ref())?)
            .with_retry(retries());
        if let Some(key) = &self.account_key {
            builder = builder.with_access_key(key.expose());
        }
        if let Some(token) = &self.sas_token {
            let pairs = token.expose().trim_start_matches('?').split('&').filter_map(|p| p.split_once('='));
            let pairs: Vec<_> = pairs.map(|(k, v)| (k.to_owned(), percent_decoded(v))).collect();
            builder = builder.with_sas_authorization(pairs);
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder
                .with_allow_http(endpoint.starts_with("http://"))
                .with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        let objects = builder.build().map_err(|e| Error::from_store(action(), e))?;
        Ok(Opened {
            objects: Arc::new(objects),
            pages: None,
            folder: None,
            layout: Layout::Ltx,
            stamp: Stamp::LITESTREAM_AZURE,
            name: format!("abs://{}@{}", self.account, self.container),
            path: self.path.clone(),
            endpoint: self.endpoint.clone(),
            bulk_delete: true,
        })
    }
}

/// The values of a query string as they were before they were put into it; the client encodes them again.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let pair = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match pair.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(any(feature = "sftp", feature = "webdav"))]
fn remote(files: impl crate::remote::Files, name: String, path: &str) -> Opened {
    Opened {
        objects: Arc::new(crate::remote::Remote::new(files)),
        pages: None,
        folder: None,
        layout: Layout::Ltx,
        stamp: Stamp::Roughly,
        name,
        path: path.to_owned(),
        endpoint: None,
        bulk_delete: false,
    }
}

#[cfg(not(all(feature = "sftp", feature = "webdav")))]
fn not_built(place: &str, feature: &str) -> Error {
    Error::Invalid {
        action: format!("open `{place}`"),
        cause: format!(
            "this build of litekeep has no client for it: build one with `cargo build --release --features {feature}`"
        ),
    }
}

/// Few and short: what is worth retrying longer belongs to the caller, who knows what else there is to do.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: 2,
        retry_timeout: Duration::from_secs(20),
    }
}

/// Bounds one request. A part of 8 MiB gets through in this time at 50 KB/s; small puts have a shorter limit of their own.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(180);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Shorter than the 20 s after which common stores close an idle connection under a request.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(15);

fn client_options(ca_file: Option<&PathBuf>) -> Result<ClientOptions> {
    // One TLS implementation in the whole program. Whoever installed another one first keeps it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut options = ClientOptions::new()
        .with_timeout(REQUEST_TIMEOUT)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_pool_idle_timeout(POOL_IDLE_TIMEOUT);
    if let Some(file) = ca_file {
        for certificate in certificates(file, Certificate::from_pem_bundle)? {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

fn certificates<T, E: fmt::Display>(
    file: &Path,
    parse: impl FnOnce(&[u8]) -> std::result::Result<Vec<T>, E>,
) -> Result<Vec<T>> {
    let action = || format!("read the certificates of `{}`", file.display());
    let invalid = |cause: String| Error::Invalid { action: action(), cause };
    let pem = std::fs::read(file).map_err(|e| invalid(e.to_string()))?;
    let certificates = parse(&pem).map_err(|e| invalid(e.to_string()))?;
    if certificates.is_empty() {
        return Err(invalid("there is no PEM certificate in it".to_owned()));
    }
    Ok(certificates)
}

/// A client as `object_store`'s own are, for what it has none for. A request has no limit, as it may be a whole snapshot;
/// a server that is gone is noticed.
#[cfg(feature = "webdav")]
pub(crate) fn web_client(
    place: &str,
    ca_file: Option<&PathBuf>,
    skip_verify: bool,
) -> Result<reqwest::Client> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut client = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(skip_verify)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(CONNECT_TIMEOUT)
        .tcp_user_timeout(REQUEST_TIMEOUT)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT);
    if let Some(file) = ca_file {
        client = client.tls_certs_merge(certificates(file, reqwest::Certificate::from_pem_bundle)?);
    }
    client.build().map_err(|e| Error::Invalid { action: format!("open `{place}`"), cause: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show() {
        let s3 = S3 { secret_access_key: Some(Secret::new("hunter2")), ..S3::default() };
        assert!(!format!("{:?}", Target::S3(s3)).contains("hunter2"));
    }

    #[test]
    fn virtual_hosts_name_the_bucket_once() {
        assert_eq!(with_bucket_host("https://s3.example", "b"), "https://b.s3.example");
        assert_eq!(with_bucket_host("https://b.s3.example", "b"), "https://b.s3.example");
    }

    #[test]
    fn google_and_azure_are_reached_by_litestreams_keys() {
        let gcs = Gcs { bucket: "b".into(), endpoint: Some("http://127.0.0.1:1".into()), ..Gcs::default() };
        let gcs = Target::Gcs(gcs).open().unwrap();
        assert_eq!((gcs.layout, gcs.stamp), (Layout::Ltx, Stamp::Metadata("litestream-timestamp")));
        let azure = Azure {
            account: "a".into(),
            container: "c".into(),
            account_key: Some(Secret::new("a2V5")),
            ..Azure::default()
        };
        let azure = Target::Azure(azure).open().unwrap();
        assert_eq!((azure.layout, azure.stamp), (Layout::Ltx, Stamp::Metadata("litestreamtimestamp")));
    }

    #[test]
    fn a_ca_file_without_certificates_is_refused() {
        let s3 = S3 { bucket: "b".into(), ca_file: Some("/dev/null".into()), ..S3::default() };
        let error = Target::S3(s3).open().err().unwrap();
        assert!(error.to_string().contains("/dev/null"), "{error}");
    }

    #[cfg(not(feature = "sftp"))]
    #[test]
    fn a_build_without_sftp_says_how_to_get_it() {
        let sftp = Sftp { host: "h".into(), port: 22, ..Sftp::default() };
        let error = Target::Sftp(sftp).open().err().unwrap().to_string();
        assert!(error.contains("sftp://h:22") && error.contains("--features sftp"), "{error}");
    }

    #[cfg(not(feature = "webdav"))]
    #[test]
    fn a_build_without_webdav_says_how_to_get_it() {
        let webdav = WebDav { endpoint: "https://h".into(), ..WebDav::default() };
        let error = Target::WebDav(webdav).open().err().unwrap().to_string();
        assert!(error.contains("https://h") && error.contains("--features webdav"), "{error}");
    }

    #[test]
    fn signatures_are_decoded() {
        assert_eq!(percent_decoded("a%2Bb%3D%zz"), "a+b=%zz");
    }
}
