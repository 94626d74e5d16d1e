//! Destinations of the configuration as stores.
//!
//! One client for each distinct bucket and identity, whatever number of databases goes there: connections are shared.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use litekeep_config::{
    AzureUrl, ConditionalWrites, Credentials, Destination, GcsUrl, S3Url, SftpUrl, StoreUrl,
};
use litekeep_store::{Azure, Counts, Gcs, S3, Secret, Sftp, Store, Target, WebDav};

use crate::report::Failure;
use crate::settings::env;

/// The stores that are open.
#[derive(Default)]
pub(crate) struct Stores {
    /// By target without its path.
    roots: Mutex<Vec<(Target, Store)>>,
}

impl Stores {
    /// The log at a destination. Asks the store nothing.
    ///
    /// # Errors
    /// For settings that cannot work.
    pub(crate) fn open(&self, destination: &Destination) -> Result<Store> {
        let action = || format!("open `{}`", destination.url);
        if let StoreUrl::File { path } = &destination.url
            && path.metadata().is_ok_and(|metadata| !metadata.is_dir())
        {
            let failure = Failure::invalid(format!("`{}` is not a folder", path.display()));
            return Err(failure.hint("a backup is a folder of its own: name another place").into());
        }
        let (root, path) = split(target(destination).with_context(action)?);
        let mut roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = roots.iter().find(|(target, _)| *target == root).map(|(_, store)| store.clone());
        let store = match opened {
            Some(store) => store,
            None => {
                let store = Store::open(&root).with_context(action)?;
                roots.push((root, store.clone()));
                store
            }
        };
        let store = store.join(&path).with_context(action)?;
        Ok(match destination.conditional_writes {
            ConditionalWrites::Auto => store,
            ConditionalWrites::Off => store.assume_unfenced(),
        })
    }

    /// What all of them were asked, by their names, which say how they are reached: each has its own, whatever number of
    /// clients goes there under different keys.
    pub(crate) fn counts(&self) -> Vec<(String, Counts)> {
        let roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sums: BTreeMap<String, Counts> = BTreeMap::new();
        for (_, store) in roots.iter() {
            let sum = sums.entry(store.identity()).or_default();
            *sum = sum.and(&store.counters().read());
        }
        sums.into_iter().collect()
    }
}

/// The target of the whole bucket, and the path in it. Folders share nothing, so they keep their path.
fn split(mut target: Target) -> (Target, String) {
    let path = match &mut target {
        Target::S3(s3) => std::mem::take(&mut s3.path),
        Target::Gcs(gcs) => std::mem::take(&mut gcs.path),
        Target::Azure(azure) => std::mem::take(&mut azure.path),
        Target::Sftp(sftp) => std::mem::take(&mut sftp.path),
        Target::WebDav(webdav) => std::mem::take(&mut webdav.path),
        Target::Folder(_) => String::new(),
    };
    (target, path)
}

/// A destination in the store's own terms.
///
/// # Errors
/// When the account of an Azure URL is nowhere given.
pub(crate) fn target(destination: &Destination) -> Result<Target, Failure> {
    let Destination { url, credentials, ca_file, .. } = destination;
    Ok(match url {
        StoreUrl::File { path } => Target::Folder(path.clone()),
        StoreUrl::S3(url) => Target::S3(s3(url, destination)),
        StoreUrl::Gcs(GcsUrl { bucket, path, endpoint }) => Target::Gcs(Gcs {
            bucket: bucket.clone(),
            path: path.clone(),
            credentials_file: match credentials {
                Credentials::GoogleFile(file) => Some(file.clone()),
                _ => None,
            },
            endpoint: endpoint.clone(),
            ca_file: ca_file.clone(),
        }),
        StoreUrl::Azure(url) => Target::Azure(azure(url, destination)?),
        StoreUrl::Sftp(url) => Target::Sftp(sftp(url, credentials)),
        StoreUrl::WebDav(url) => Target::WebDav(WebDav {
            endpoint: format!("{}://{}", if url.tls { "https" } else { "http" }, url.host),
            path: url.path.clone(),
            user: url.user.clone(),
            password: url.password.as_ref().map(secret),
            ca_file: ca_file.clone(),
            skip_verify: url.skip_verify,
        }),
    })
}

fn secret(secret: &litekeep_config::Secret) -> Secret {
    Secret::new(secret.expose())
}

fn s3(url: &S3Url, destination: &Destination) -> S3 {
    let mut s3 = S3 {
        bucket: url.bucket.clone(),
        path: url.path.clone(),
        endpoint: url.endpoint.clone(),
        region: url.region.clone(),
        path_style: Some(url.path_style()),
        sign_payload: url.sign_payload,
        ca_file: destination.ca_file.clone(),
        skip_verify: url.skip_verify,
        ..S3::default()
    };
    if let Credentials::S3 { access_key_id, secret_access_key, session_token } = &destination.credentials {
        s3.access_key_id = Some(access_key_id.expose().to_owned());
        s3.secret_access_key = Some(secret(secret_access_key));
        s3.session_token = session_token.as_ref().map(secret);
    }
    s3
}

fn azure(url: &AzureUrl, destination: &Destination) -> Result<Azure, Failure> {
    let from_environment = || env("AZURE_STORAGE_ACCOUNT_NAME").or_else(|| env("AZURE_STORAGE_ACCOUNT"));
    let Some(account) = url.account.clone().or_else(from_environment) else {
        return Err(Failure::invalid("the URL names no storage account")
            .hint(format!("write abs://ACCOUNT@{}/…, or set AZURE_STORAGE_ACCOUNT_NAME", url.container)));
    };
    let (account_key, sas_token) = match &destination.credentials {
        Credentials::AzureKey(key) => (Some(secret(key)), None),
        Credentials::AzureSas(token) => (None, Some(secret(token))),
        _ => (None, None),
    };
    Ok(Azure {
        account,
        container: url.container.clone(),
        path: url.path.clone(),
        account_key,
        sas_token,
        endpoint: url.endpoint.clone(),
        ca_file: destination.ca_file.clone(),
    })
}

fn sftp(url: &SftpUrl, credentials: &Credentials) -> Sftp {
    let (key_file, host_key) = match credentials {
        Credentials::Ssh { key_file, host_key } => (key_file.clone(), host_key.clone()),
        _ => (None, None),
    };
    Sftp {
        host: url.host.clone(),
        port: url.port,
        path: url.path.clone(),
        user: url.user.clone(),
        password: url.password.as_ref().map(secret),
        key_file,
        host_key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn of(url: &str) -> Target {
        target(&Destination::parse(url, &|_| None).unwrap()).unwrap()
    }

    #[test]
    fn every_part_of_an_s3_url_arrives() {
        let Target::S3(s3) = of("s3://b/p/q?endpoint=http://h:9000&region=eu&force-path-style=false") else {
            panic!("not S3")
        };
        assert_eq!((s3.bucket.as_str(), s3.path.as_str()), ("b", "p/q"));
        assert_eq!((s3.endpoint.as_deref(), s3.region.as_deref()), (Some("http://h:9000"), Some("eu")));
        assert_eq!(s3.path_style, Some(false));
    }

    #[test]
    fn keys_and_certificates_arrive() {
        let key = || litekeep_config::Secret::new("k");
        let mut destination = Destination::parse("s3://b", &|_| None).unwrap();
        destination.credentials =
            Credentials::S3 { access_key_id: key(), secret_access_key: key(), session_token: Some(key()) };
        destination.ca_file = Some(PathBuf::from("/ca.pem"));
        let Target::S3(s3) = target(&destination).unwrap() else { panic!("not S3") };
        assert_eq!(s3.access_key_id.as_deref(), Some("k"));
        assert!(s3.secret_access_key.is_some() && s3.session_token.is_some() && s3.ca_file.is_some());

        let mut destination = Destination::parse("abs://me@c/p", &|_| None).unwrap();
        destination.credentials = Credentials::AzureSas(key());
        let Target::Azure(azure) = target(&destination).unwrap() else { panic!("not Azure") };
        assert_eq!((azure.account.as_str(), azure.container.as_str()), ("me", "c"));
        assert!(azure.sas_token.is_some() && azure.account_key.is_none());
    }

    #[test]
    fn servers_of_files_get_path_and_login() {
        let mut destination = Destination::parse("sftp://me:pw@h:2222/srv/b", &|_| None).unwrap();
        destination.credentials =
            Credentials::Ssh { key_file: Some(PathBuf::from("/k")), host_key: Some("ssh-ed25519 A".into()) };
        let Target::Sftp(sftp) = target(&destination).unwrap() else { panic!("not SFTP") };
        assert_eq!((sftp.host.as_str(), sftp.port, sftp.path.as_str()), ("h", 2222, "srv/b"));
        assert_eq!((sftp.user.as_deref(), sftp.password), (Some("me"), Some(Secret::new("pw"))));
        assert!(sftp.key_file.is_some() && sftp.host_key.is_some());

        let Target::WebDav(webdav) = of("webdavs://me:pw@h:8443/srv/b") else { panic!("not WebDAV") };
        assert_eq!((webdav.endpoint.as_str(), webdav.path.as_str()), ("https://h:8443", "srv/b"));
        assert_eq!((webdav.user.as_deref(), webdav.password), (Some("me"), Some(Secret::new("pw"))));
    }

    #[test]
    fn databases_in_one_bucket_share_a_client() {
        let stores = Stores::default();
        let open = |url: &str| stores.open(&Destination::parse(url, &|_| None).unwrap()).unwrap();
        let (a, b) = (open("s3://bucket/a?region=eu"), open("s3://bucket/b?region=eu"));
        assert_eq!((a.place().as_str(), b.place().as_str()), ("s3://bucket/a", "s3://bucket/b"));
        assert_eq!(stores.roots.lock().unwrap().len(), 1);
        open("s3://other/a?region=eu");
        assert_eq!(stores.roots.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn conditional_writes_can_be_switched_off() {
        let mut destination = Destination::parse("s3://bucket/a?region=eu", &|_| None).unwrap();
        destination.conditional_writes = ConditionalWrites::Off;
        let store = Stores::default().open(&destination).unwrap();
        assert_eq!(store.probe().await.unwrap(), litekeep_store::Conditional::Ignored, "without asking");
    }
}
